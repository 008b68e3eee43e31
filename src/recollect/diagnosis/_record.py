"""Results as JSON; the home of these functions is `_core._json`."""

from __future__ import annotations

from recollect._core._json import finite_or_null

__all__ = ["finite_or_null"]
