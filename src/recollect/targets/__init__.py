"""What to remember: memory kernels, nonlinear systems, teachers."""

from __future__ import annotations

from recollect.targets._expression import (
    ExpressionKernel,
    expression_functions,
    parse_kernel,
)
from recollect.targets._kernel import (
    AbstractKernel,
    KernelHints,
    SumKernel,
    kernel_hints,
    kernel_quadrature,
    measure_norm,
)
from recollect.targets._kernel_file import read_kernel
from recollect.targets._shapes import (
    Airy,
    Box,
    Bump,
    Delay,
    PowerLaw,
    SampledKernel,
    StretchedExponential,
    TemplateKernel,
    exponential_sum,
)
from recollect.targets._systems import LorenzNinetySix, TankRecord, TwoTanks, simulate_two_tanks
from recollect.targets._teachers import WienerTeacher, random_linear_teacher, random_wiener_teacher

__all__ = [
    "AbstractKernel",
    "Airy",
    "Box",
    "Bump",
    "Delay",
    "ExpressionKernel",
    "KernelHints",
    "LorenzNinetySix",
    "PowerLaw",
    "SampledKernel",
    "StretchedExponential",
    "SumKernel",
    "TankRecord",
    "TemplateKernel",
    "TwoTanks",
    "WienerTeacher",
    "exponential_sum",
    "expression_functions",
    "kernel_hints",
    "kernel_quadrature",
    "measure_norm",
    "parse_kernel",
    "random_linear_teacher",
    "random_wiener_teacher",
    "read_kernel",
    "simulate_two_tanks",
]
