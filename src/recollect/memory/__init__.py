"""How long does it remember?"""

from __future__ import annotations

from recollect.memory._estimate import (
    KernelEstimate,
    KernelStatistics,
    NoiseModel,
    estimate_kernel,
)
from recollect.memory._law import LagInterval, MemoryLaw, estimate_law
from recollect.memory._measure import MemoryProfile, measure_memory
from recollect.memory._theory import (
    predict_exponential_order,
    predict_memory,
    predict_quantile_lag,
)

__all__ = [
    "KernelEstimate",
    "KernelStatistics",
    "LagInterval",
    "MemoryLaw",
    "MemoryProfile",
    "NoiseModel",
    "estimate_kernel",
    "estimate_law",
    "measure_memory",
    "predict_exponential_order",
    "predict_memory",
    "predict_quantile_lag",
]
