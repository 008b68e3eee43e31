"""Results as JSON: the numbers of NumPy as Python's, and no number that JSON does not have."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np


def finite_or_null(value: Any) -> Any:
    """Returns JSON-ready data: NumPy scalars as numbers, non-finite numbers as null."""
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    if isinstance(value, np.ndarray):
        return finite_or_null(value.tolist())
    if isinstance(value, (np.bool_, np.integer)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def as_json(record: Any) -> str:
    """Returns data as indented JSON text, non-finite numbers as null."""
    return json.dumps(finite_or_null(record), indent=2, allow_nan=False, ensure_ascii=False)
