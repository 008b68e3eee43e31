"""What to remember: memory kernels, nonlinear systems, teachers."""

from __future__ import annotations

from recollect.targets._expression import (
    ExpressionKernel,
    expression_functions,
    parse_kernel,
)
from recollect.targets._kernel import AbstractKernel, kernel_quadrature, measure_norm
from recollect.targets._shapes import (
    Airy,
    Box,
    Bump,
    Delay,
    PowerLaw,
    SampledKernel,
    StretchedExponential,
    SumKernel,
    TemplateKernel,
    exponential_sum,
    read_kernel,
)

__all__ = [
    "AbstractKernel",
    "Airy",
    "Box",
    "Bump",
    "Delay",
    "ExpressionKernel",
    "PowerLaw",
    "SampledKernel",
    "StretchedExponential",
    "SumKernel",
    "TemplateKernel",
    "exponential_sum",
    "expression_functions",
    "kernel_quadrature",
    "measure_norm",
    "parse_kernel",
    "read_kernel",
]
