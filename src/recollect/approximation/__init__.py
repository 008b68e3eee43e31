"""How wide must a network be?"""

from __future__ import annotations

from recollect.approximation._estimated import EstimatedWidths, fit_estimate

__all__ = [
    "EstimatedWidths",
    "fit_estimate",
]
