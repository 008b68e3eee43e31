"""How wide must a network be?"""

from __future__ import annotations

from recollect.approximation._estimated import EstimatedWidths, fit_estimate
from recollect.approximation._fit import (
    ExponentialSum,
    WidthCurve,
    fit_exponential_sum,
    fit_widths,
)

__all__ = [
    "EstimatedWidths",
    "ExponentialSum",
    "WidthCurve",
    "fit_estimate",
    "fit_exponential_sum",
    "fit_widths",
]
