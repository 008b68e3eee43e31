"""Which array library a computation runs in: NumPy for host arrays, JAX for anything JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import is_tracer


def namespace(*arrays: Any) -> Any:
    """Returns `jax.numpy` if any leaf of `arrays` is a JAX array or tracer, else `numpy`."""
    leaves = jax.tree.leaves(arrays)
    return jnp if any(is_tracer(a) or isinstance(a, jax.Array) for a in leaves) else np


def as_weight(value: Any) -> Any:
    """Returns a weight as it is if JAX owns it, else as a host float64 or complex128 array."""
    if is_tracer(value) or isinstance(value, jax.Array):
        return value if jnp.issubdtype(value.dtype, jnp.inexact) else value.astype(float)
    array = np.asarray(value)
    if array.dtype.kind in "biufc":
        return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    return array
