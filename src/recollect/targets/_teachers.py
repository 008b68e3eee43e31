"""Random causal systems to learn from, whose memory is known."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import (
    require_choice,
    require_count,
    require_nonnegative,
    require_positive,
    require_signal,
    wrong_type,
)
from recollect._core._functional import AbstractFunctional, AbstractLinearFunctional
from recollect._core._types import Array, Output, Signal

_CURVES = {
    "tanh": (np.tanh, lambda u: 1 / np.cosh(u) ** 2),
    "sine": (np.sin, np.cos),
    "cubic": (lambda u: u - u**3 / 3, lambda u: 1 - u**2),
}


class WienerTeacher(AbstractFunctional):
    """A linear functional followed by a curve, `H_t(x) = g(∫ρ(s) x_{t-s} ds)`, with g(0) = 0.

    The simplest nonlinear target whose memory function is known: see `memory_at`.

    Args:
        linear: the linear functional inside.
        curve: `"tanh"`, `"sine"` or `"cubic"` (u - u³/3).
    """

    linear: AbstractLinearFunctional
    curve: str = eqx.field(static=True)

    def __init__(self, linear: AbstractLinearFunctional, *, curve: str = "tanh"):
        if not isinstance(linear, AbstractLinearFunctional):
            raise wrong_type("linear", "a linear functional", type(linear).__name__)
        self.linear = linear
        self.curve = require_choice("curve", curve, _CURVES)

    @property
    def n_inputs(self) -> int:
        return self.linear.n_inputs

    @property
    def n_outputs(self) -> int:
        return self.linear.n_outputs

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the output signal, shape (time, out)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        inner = self.linear(signal, dt=dt)
        if isinstance(inner, np.ndarray):
            return _CURVES[self.curve][0](inner)
        traced = {"tanh": jnp.tanh, "sine": jnp.sin, "cubic": lambda u: u - u**3 / 3}
        return traced[self.curve](inner)

    def memory_at(self, lags: Any, *, direction: Any) -> Array:
        """Returns `|d/dt H_t(u^x)|_inf / |x|_inf` for the step in one direction x, shape (lag,).

        With s the step response, `|g'(s(t)x) ∘ (ρ(t)x)|_inf / |x|_inf`.
        """
        x = np.atleast_1d(np.asarray(direction, np.float64))
        response = np.asarray(self.linear.step_response(lags)) @ x
        speed = np.asarray(self.linear.kernel(lags)) @ x
        slope = _CURVES[self.curve][1](response)
        return np.abs(slope * speed).max(axis=1) / np.abs(x).max()


def random_linear_teacher(
    *,
    key: Any,
    width: int = 8,
    n_inputs: int = 1,
    n_outputs: int = 1,
    slowest_rate: float = 0.05,
    fastest_rate: float = 1.0,
    swing: float = 1.0,
) -> AbstractLinearFunctional:
    """Returns a random stable linear network, `models.LinearRNN`, with memory you choose.

    Eigenvalues `-w ± ib` in pairs: w log-uniform between the two rates (the slowest is exactly
    `slowest_rate`), b uniform up to `swing` w; mixed by a random rotation, so that the matrix is
    dense; B and C standard normal over √width.

    Args:
        key: JAX random key.
        width: hidden units.
        n_inputs: input channels.
        n_outputs: output channels.
        slowest_rate: smallest decay rate, 1/time.
        fastest_rate: largest decay rate, not below it.
        swing: largest ratio of frequency to rate; 0 for real eigenvalues.

    Returns:
        The network.

    Raises:
        ValueError: if a number is out of range.
    """
    from recollect.models import LinearRNN

    width = require_count("width", width)
    n_inputs, n_outputs = require_count("n_inputs", n_inputs), require_count("n_outputs", n_outputs)
    slowest = require_positive("slowest_rate", slowest_rate)
    fastest = max(slowest, require_positive("fastest_rate", fastest_rate))
    swing = require_nonnegative("swing", swing)
    rng = _generator(key)
    n_pairs = -(-width // 2)
    rates = slowest * (fastest / slowest) ** rng.random(n_pairs)
    rates[0] = slowest
    matrix = np.zeros((width, width))
    for i, rate in enumerate(rates):
        j = 2 * i
        matrix[j, j] = -rate
        if j + 1 < width:
            turn = swing * rate * rng.random()
            matrix[j + 1, j + 1] = -rate
            matrix[j, j + 1], matrix[j + 1, j] = turn, -turn
    rotation, _ = np.linalg.qr(rng.standard_normal((width, width)))
    scale = 1 / np.sqrt(width)
    return LinearRNN(
        rotation @ matrix @ rotation.T,
        scale * rng.standard_normal((width, n_inputs)),
        scale * rng.standard_normal((n_outputs, width)),
    )


def random_wiener_teacher(*, key: Any, curve: str = "tanh", **linear: Any) -> WienerTeacher:
    """Returns a random linear teacher followed by a curve: nonlinear, with known memory.

    Args:
        key: JAX random key.
        curve: `"tanh"`, `"sine"` or `"cubic"`.
        **linear: arguments of `random_linear_teacher`.
    """
    return WienerTeacher(random_linear_teacher(key=key, **linear), curve=curve)


def _generator(key: Any) -> np.random.Generator:
    try:
        words = np.asarray(jax.random.key_data(jax.random.fold_in(key, 0)))
    except (TypeError, ValueError):
        raise wrong_type("key", "a JAX random key, jax.random.key(seed)", repr(key)) from None
    return np.random.default_rng([int(word) for word in words.ravel()])
