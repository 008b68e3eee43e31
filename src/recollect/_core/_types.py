"""Array annotations in the notation of the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
State: TypeAlias = Any

if TYPE_CHECKING:
    # Shapes are for readers and for the runtime checks of the tests; a type checker sees arrays.
    Signal: TypeAlias = Array
    Output: TypeAlias = Array
    Lags: TypeAlias = Array
    KernelValues: TypeAlias = Array
    Rates: TypeAlias = Any
    HostReal: TypeAlias = np.ndarray
    HostComplex: TypeAlias = np.ndarray
else:
    from jaxtyping import Complex, Float, Inexact

    Signal = Float[Array, "time in"]
    Output = Float[Array, "time out"]
    Lags = Float[Array, " lag"]
    KernelValues = Float[Array, "lag out in"]
    Rates = Inexact[Array, " width"]
    HostReal = Float[np.ndarray, "..."]
    HostComplex = Complex[np.ndarray, "..."]

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
