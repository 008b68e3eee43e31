"""How long does learning stall, and how is that avoided?"""

from __future__ import annotations

from recollect.training._momentum import (
    MomentumPath,
    QuadraticEscape,
    predict_momentum_gain,
    predict_quadratic_escape,
    solve_momentum_flow,
)

__all__ = [
    "MomentumPath",
    "QuadraticEscape",
    "predict_momentum_gain",
    "predict_quadratic_escape",
    "solve_momentum_flow",
]
