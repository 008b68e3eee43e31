"""When is gradient descent guaranteed, at what width and in how many steps?"""

from __future__ import annotations

from recollect.convergence._activation import SmoothActivation, smooth_activation
from recollect.convergence._certificate import bound_risk_on_data
from recollect.convergence._network import PairedNetwork, draw_sequences, initialise_paired
from recollect.convergence._ntk import (
    TangentKernel,
    estimate_ntk,
    measure_ntk,
    predict_ntk,
    predict_risk_curve,
)
from recollect.convergence._theory import (
    Budget,
    Recursions,
    RiskBound,
    bound_risk,
    predict_budget,
    predict_recursions,
)
from recollect.convergence._train import TrainedNetwork, measure_gradient, train_paired
from recollect.convergence._transport import (
    EstimatedNu,
    TransportTarget,
    draw_transport_target,
    estimate_nu,
)

__all__ = [
    "Budget",
    "EstimatedNu",
    "PairedNetwork",
    "Recursions",
    "RiskBound",
    "SmoothActivation",
    "TangentKernel",
    "TrainedNetwork",
    "TransportTarget",
    "bound_risk",
    "bound_risk_on_data",
    "draw_sequences",
    "draw_transport_target",
    "estimate_ntk",
    "estimate_nu",
    "initialise_paired",
    "measure_gradient",
    "measure_ntk",
    "predict_budget",
    "predict_ntk",
    "predict_recursions",
    "predict_risk_curve",
    "smooth_activation",
    "train_paired",
]
