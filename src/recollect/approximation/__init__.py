"""How wide must a network be?"""

from __future__ import annotations

from recollect.approximation._estimated import EstimatedWidths, fit_estimate
from recollect.approximation._export import (
    PronyTable,
    change_step,
    export_arrays,
    tabulate_prony,
)
from recollect.approximation._fit import (
    ExponentialSum,
    WidthCurve,
    fit_exponential_sum,
    fit_widths,
)
from recollect.approximation._fixed_rates import ConstructedSum, fit_erlang, fit_fixed_rates
from recollect.approximation._linf import MinimaxSum, fit_minimax_sum
from recollect.approximation._map import CurseMap, measure_curse_map
from recollect.approximation._measure import (
    Optimality,
    Smoothness,
    measure_complete_monotonicity,
    measure_optimality,
    measure_smoothness,
)
from recollect.approximation._sinc import fit_sinc_quadrature
from recollect.approximation._theory import (
    FixedRateWidth,
    PowerLawWidth,
    bound_constant,
    bound_erlang_error,
    bound_error_below,
    bound_fixed_rate_error,
    bound_fixed_rate_width,
    bound_polynomial_error,
    bound_power_law_width,
    bound_sinc_error,
    bound_sinc_width,
    bound_width,
    bound_width_error,
    predict_existence,
)

__all__ = [
    "ConstructedSum",
    "CurseMap",
    "EstimatedWidths",
    "ExponentialSum",
    "FixedRateWidth",
    "MinimaxSum",
    "Optimality",
    "PowerLawWidth",
    "PronyTable",
    "Smoothness",
    "WidthCurve",
    "bound_constant",
    "bound_erlang_error",
    "bound_error_below",
    "bound_fixed_rate_error",
    "bound_fixed_rate_width",
    "bound_polynomial_error",
    "bound_power_law_width",
    "bound_sinc_error",
    "bound_sinc_width",
    "bound_width",
    "bound_width_error",
    "change_step",
    "export_arrays",
    "fit_erlang",
    "fit_estimate",
    "fit_exponential_sum",
    "fit_fixed_rates",
    "fit_minimax_sum",
    "fit_sinc_quadrature",
    "fit_widths",
    "measure_complete_monotonicity",
    "measure_curse_map",
    "measure_optimality",
    "measure_smoothness",
    "predict_existence",
    "tabulate_prony",
]
