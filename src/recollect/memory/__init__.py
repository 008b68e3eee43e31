"""How long does it remember?"""

from __future__ import annotations

from recollect.memory._estimate import (
    KernelEstimate,
    KernelStatistics,
    NoiseModel,
    estimate_kernel,
)

__all__ = ["KernelEstimate", "KernelStatistics", "NoiseModel", "estimate_kernel"]
