"""How long does learning stall, and how is that avoided?"""

from __future__ import annotations

from recollect.training._distil import DistilledLayer, distil
from recollect.training._flow import FlowEvent, GradientFlow, solve_flow, solve_flows
from recollect.training._general import (
    PlateauLength,
    TrainingEnsemble,
    measure_plateau_length,
    train_ensemble,
)
from recollect.training._hitting import (
    HittingTime,
    measure_hitting_time,
    measure_hitting_times,
    measure_steps,
    predict_steps,
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
from recollect.training._plateau import PlateauVerdict, judge_plateau
from recollect.training._plateau_starts import (
    PlateauStart,
    count_plateau_families,
    draw_plateau_starts,
    list_plateau_partitions,
)
from recollect.training._record_fit import RecordFit, fit_records
from recollect.training._system import SystemCandidate, TrainedSystem, train_system
from recollect.training._system_coherence import (
    Coherence,
    Remainder,
    estimate_coherence,
    estimate_remainder,
)
from recollect.training._theory import (
    LinearEscape,
    bound_hitting_time,
    predict_escape_exponent,
    predict_linear_escape,
)
from recollect.training._train import TrainedModel, TrainingProgress, train_model
from recollect.training._warm_start import WarmStart, warm_start

__all__ = [
    "RecordFit",
    "fit_records",
    "WarmStart",
    "warm_start",
    "DistilledLayer",
    "distil",
    "PlateauVerdict",
    "TrainedModel",
    "TrainingProgress",
    "judge_plateau",
    "train_model",
    "Coherence",
    "Remainder",
    "estimate_coherence",
    "estimate_remainder",
    "SystemCandidate",
    "TrainedSystem",
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
    "FlowEvent",
    "GradientFlow",
    "HittingTime",
    "LinearEscape",
    "bound_hitting_time",
    "measure_hitting_time",
    "measure_hitting_times",
    "measure_steps",
    "predict_escape_exponent",
    "predict_linear_escape",
    "predict_steps",
    "solve_flow",
    "solve_flows",
    "train_system",
]
