"""How far may the weights move, and which parameterisation holds?"""

from __future__ import annotations

from recollect.stability._criterion import Criterion, measure_criterion, measure_gradient_scale
from recollect.stability._perturbation import StabilityCurve, measure_perturbation_error
from recollect.stability._radius import StableRadius, estimate_stable_radius
from recollect.stability._theory import (
    bound_normalised_error,
    bound_perturbation_error,
    bound_stable_radius,
    measure_eigenvalue_bound,
    predict_criterion,
    predict_direct_error,
    predict_gradient_scale,
)
from recollect.stability._trade_off import TradeOff, measure_trade_off

__all__ = [
    "Criterion",
    "StabilityCurve",
    "StableRadius",
    "TradeOff",
    "bound_normalised_error",
    "bound_perturbation_error",
    "bound_stable_radius",
    "estimate_stable_radius",
    "measure_criterion",
    "measure_eigenvalue_bound",
    "measure_gradient_scale",
    "measure_perturbation_error",
    "measure_trade_off",
    "predict_criterion",
    "predict_direct_error",
    "predict_gradient_scale",
]
