"""How long does it remember?"""

from __future__ import annotations

from recollect.memory._capacity import MemoryCapacity, measure_capacity, predict_capacity
from recollect.memory._estimate import (
    KernelEstimate,
    KernelStatistics,
    NoiseModel,
    estimate_kernel,
)
from recollect.memory._law import LagInterval, MemoryLaw, estimate_law
from recollect.memory._measure import (
    MemoryMap,
    MemoryProfile,
    measure_memory,
    measure_memory_map,
)
from recollect.memory._probes import from_torch
from recollect.memory._properties import FunctionalProperties, Property, measure_properties
from recollect.memory._theory import (
    predict_exponential_order,
    predict_memory,
    predict_quantile_lag,
)

__all__ = [
    "FunctionalProperties",
    "KernelEstimate",
    "KernelStatistics",
    "LagInterval",
    "MemoryCapacity",
    "MemoryLaw",
    "MemoryMap",
    "MemoryProfile",
    "NoiseModel",
    "Property",
    "estimate_kernel",
    "estimate_law",
    "from_torch",
    "measure_capacity",
    "measure_memory",
    "measure_memory_map",
    "measure_properties",
    "predict_capacity",
    "predict_exponential_order",
    "predict_memory",
    "predict_quantile_lag",
]
