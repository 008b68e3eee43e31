"""Array annotations in the notation of the documentation."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Complex, Float, Inexact

Array = jax.Array | np.ndarray

Signal = Float[Array, "time in"]
Output = Float[Array, "time out"]
Lags = Float[Array, " lag"]
KernelValues = Float[Array, "lag out in"]
Rates = Inexact[Array, " width"]

HostReal = Float[np.ndarray, "..."]
HostComplex = Complex[np.ndarray, "..."]
State = Any

__all__ = [
    "Array",
    "HostComplex",
    "HostReal",
    "KernelValues",
    "Lags",
    "Output",
    "Rates",
    "Signal",
    "State",
]
