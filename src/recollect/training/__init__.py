"""How long does learning stall, and how is that avoided?"""

from __future__ import annotations

from recollect.training._general import (
    PlateauLength,
    TrainingEnsemble,
    measure_plateau_length,
    train_ensemble,
)
from recollect.training._momentum import (
    MomentumPath,
    QuadraticEscape,
    predict_momentum_gain,
    predict_quadratic_escape,
    solve_momentum_flow,
)

__all__ = [
    "MomentumPath",
    "PlateauLength",
    "QuadraticEscape",
    "TrainingEnsemble",
    "measure_plateau_length",
    "predict_momentum_gain",
    "predict_quadratic_escape",
    "solve_momentum_flow",
    "train_ensemble",
]
