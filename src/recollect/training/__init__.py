"""How long does learning stall, and how is that avoided?"""

from __future__ import annotations

from recollect.training._general import (
    PlateauLength,
    TrainingEnsemble,
    measure_plateau_length,
    train_ensemble,
)
from recollect.training._landscape import (
    CriticalCounts,
    CriticalPoint,
    CriticalSpace,
    Minimiser,
    TwoUnitLine,
    classify_point,
    count_critical_spaces,
    find_minimiser,
    list_critical_spaces,
    measure_bend,
    measure_plane,
    measure_residuals,
    predict_inertia,
    predict_two_unit_line,
)
from recollect.training._loss import ExactLoss, exact_loss, ou_spectrum
from recollect.training._momentum import (
    MomentumPath,
    QuadraticEscape,
    predict_momentum_gain,
    predict_quadratic_escape,
    solve_momentum_flow,
)
from recollect.training._plateau_starts import (
    PlateauStart,
    count_plateau_families,
    draw_plateau_starts,
    list_plateau_partitions,
)

__all__ = [
    "ExactLoss",
    "CriticalCounts",
    "CriticalPoint",
    "CriticalSpace",
    "Minimiser",
    "MomentumPath",
    "PlateauLength",
    "PlateauStart",
    "QuadraticEscape",
    "TrainingEnsemble",
    "TwoUnitLine",
    "classify_point",
    "count_critical_spaces",
    "count_plateau_families",
    "draw_plateau_starts",
    "find_minimiser",
    "list_critical_spaces",
    "list_plateau_partitions",
    "measure_bend",
    "measure_plane",
    "exact_loss",
    "measure_plateau_length",
    "ou_spectrum",
    "measure_residuals",
    "predict_inertia",
    "predict_momentum_gain",
    "predict_quadratic_escape",
    "predict_two_unit_line",
    "solve_momentum_flow",
    "train_ensemble",
]
