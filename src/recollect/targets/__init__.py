"""What to remember: memory kernels, nonlinear systems, teachers."""

from __future__ import annotations

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
    "PowerLaw",
    "SampledKernel",
    "StretchedExponential",
    "SumKernel",
    "TemplateKernel",
    "exponential_sum",
    "kernel_quadrature",
    "measure_norm",
    "read_kernel",
]
