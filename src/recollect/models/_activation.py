"""Activations by name, in either array library, with slopes that hand-written tangents need."""

from __future__ import annotations

from typing import Any

import jax

from recollect._core._check import require_choice
from recollect.models._namespace import namespace

ACTIVATIONS = ("linear", "tanh", "hardtanh", "relu", "sigmoid", "gelu")
# With these the slope is a function of the output, so that the states are all one has to keep.
OUTPUT_SLOPES = ("linear", "tanh", "hardtanh", "relu", "sigmoid")


def require_activation(name: Any) -> str:
    """Returns `name` if it is a known activation."""
    return require_choice("activation", name, ACTIVATIONS)


def activate(name: str, z: Any) -> Any:
    """Returns σ(z), elementwise, in the array library of z.

    Args:
        name: `linear`, `tanh`, `hardtanh`, `relu`, `sigmoid` or `gelu` (in its tanh form).
        z: any shape.

    Raises:
        ValueError: if the name is another.
    """
    xp = namespace(z)
    if name == "linear":
        return z
    if name == "tanh":
        return xp.tanh(z)
    if name == "hardtanh":
        return xp.clip(z, -1.0, 1.0)
    if name == "relu":
        return xp.maximum(z, 0.0)
    if name == "sigmoid":
        # 1/(1+e^{-z}) overflows for z ≪ 0; the hyperbolic tangent does not.
        return 0.5 * (xp.tanh(0.5 * z) + 1.0)
    require_activation(name)
    # The tanh form, as jax.nn.gelu and torch's approximate="tanh".
    return 0.5 * z * (1.0 + xp.tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)))


def softplus(z: Any) -> Any:
    """Returns log(1 + e^z) without overflow."""
    xp = namespace(z)
    return xp.maximum(z, 0.0) + xp.log1p(xp.exp(-abs(z)))


def slope_of_output(name: str, value: Any) -> Any:
    """Returns σ'(z) from σ(z), in JAX."""
    if name == "linear":
        return jax.numpy.ones_like(value)
    if name == "tanh":
        return 1.0 - value * value
    if name == "hardtanh":
        return (abs(value) < 1.0).astype(value.dtype)
    if name == "relu":
        return (value > 0.0).astype(value.dtype)
    return value * (1.0 - value)


def slope(name: str, z: Any) -> Any:
    """Returns σ'(z), in JAX."""
    return jax.jvp(lambda v: activate(name, v), (z,), (jax.numpy.ones_like(z),))[1]
