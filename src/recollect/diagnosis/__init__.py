"""The main job: data in, verdict and model out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recollect.diagnosis._baselines import Score
    from recollect.diagnosis._layers import (
        LayerReport,
        ModelReport,
        Spectrum,
        measure_model,
        measure_spectrum,
    )
    from recollect.diagnosis._measurements import Measurements, read_measurements
    from recollect.diagnosis._pipeline import demonstrate, diagnose
    from recollect.diagnosis._result import Diagnosis, HeldOut

# On first use, so that the command line refuses bad input before it imports jax.
_HOME = {
    "Diagnosis": "_result",
    "HeldOut": "_result",
    "LayerReport": "_layers",
    "Measurements": "_measurements",
    "ModelReport": "_layers",
    "Score": "_baselines",
    "Spectrum": "_layers",
    "demonstrate": "_pipeline",
    "diagnose": "_pipeline",
    "measure_model": "_layers",
    "measure_spectrum": "_layers",
    "read_measurements": "_measurements",
}

__all__ = [
    "Diagnosis",
    "HeldOut",
    "LayerReport",
    "Measurements",
    "ModelReport",
    "Score",
    "Spectrum",
    "demonstrate",
    "diagnose",
    "measure_model",
    "measure_spectrum",
    "read_measurements",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"recollect.diagnosis.{_HOME[name]}"), name)
    raise AttributeError(f"module 'recollect.diagnosis' has no attribute {name!r}")
