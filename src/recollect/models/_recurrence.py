"""The only loops over time: linear diagonal, linear dense, nonlinear diagonal, nonlinear dense."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._precision import in_float64, is_top_level
from recollect._core._types import Array
from recollect.models._namespace import namespace


def linear_diagonal_states(multipliers: Array, drive: Array, initial: Array) -> Array:
    """Returns `h_{k+1} = α ⊙ h_k + u_k` for every k.

    Args:
        multipliers: α, shape (width,) for a constant one or (time, width) for one per step.
        drive: u, shape (time, width).
        initial: h_0, shape (width,).

    Returns:
        States after every sample, shape (time, width); float64 on the host for host arrays.
    """
    return _dispatch(_linear_diagonal, multipliers, drive, initial)


def linear_dense_states(transition: Array, drive: Array, initial: Array) -> Array:
    """Returns `h_{k+1} = A h_k + u_k` for every k.

    Args:
        transition: A, shape (width, width).
        drive: u, shape (time, width).
        initial: h_0, shape (width,).

    Returns:
        States after every sample, shape (time, width); float64 on the host for host arrays.
    """
    return _dispatch(_linear_dense, transition, drive, initial)


def _dispatch(function: Any, *arrays: Any) -> Any:
    if namespace(*arrays) is np and is_top_level():
        return _on_host(function)(*arrays)
    return function(*_same_type(*arrays))


def _on_host(function: Any) -> Any:
    if function not in _HOST:
        _HOST[function] = in_float64(jax.jit(lambda *arrays: function(*_same_type(*arrays))))
    return _HOST[function]


_HOST: dict[Any, Any] = {}


def _same_type(*arrays: Any) -> tuple[Any, ...]:
    arrays = tuple(jnp.asarray(a) for a in arrays)
    dtype = jnp.result_type(*arrays)
    return tuple(a.astype(dtype) for a in arrays)


def _linear_diagonal(multipliers: Any, drive: Any, initial: Any) -> Any:
    if multipliers.ndim == 2:

        def selective(state: Any, step: Any) -> tuple[Any, Any]:
            state = step[0] * state + step[1]
            return state, state

        return jax.lax.scan(selective, initial, (multipliers, drive))[1]

    def constant(state: Any, u: Any) -> tuple[Any, Any]:
        state = multipliers * state + u
        return state, state

    return jax.lax.scan(constant, initial, drive)[1]


def _linear_dense(transition: Any, drive: Any, initial: Any) -> Any:
    def step(state: Any, u: Any) -> tuple[Any, Any]:
        state = transition @ state + u
        return state, state

    return jax.lax.scan(step, initial, drive)[1]
