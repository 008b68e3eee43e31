"""The one discretisation convention: every step rule lives here.

`y_k` is the output at the end of the interval [k dt, (k+1) dt) on which the input is held, so
`h_{k+1} = Ā h_k + B̄ x_k` and `y_k = C h_{k+1}`.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
import scipy.linalg

from recollect._core._check import is_tracer
from recollect._core._types import Array


class AbstractDiscretisation(eqx.Module):
    """A rule that turns `dh/dt = A h + B x` into `h_{k+1} = Ā h_k + B̄ x_k`."""

    @abc.abstractmethod
    def dense(self, A: Array, B: Array, *, dt: Any) -> tuple[Array, Array]:
        """Returns (Ā, B̄) of a dense system."""

    @abc.abstractmethod
    def diagonal(self, rates: Array, *, dt: Any) -> tuple[Array, Array]:
        """Returns the multiplier and the input gain of `dh/dt = -w h + x`, per rate."""


class ZeroOrderHold(AbstractDiscretisation):
    """The exact rule for an input held constant on each step: `ᾱ = e^{-w dt}`, `b̄ = (1-ᾱ)/w`."""

    def dense(self, A: Array, B: Array, *, dt: Any) -> tuple[Array, Array]:
        n, n_inputs = np.shape(B)
        xp, expm = _namespace(A, B, dt)
        block = xp.concatenate(
            [xp.concatenate([A, B], axis=1), xp.zeros((n_inputs, n + n_inputs))], axis=0
        )
        power = expm(block * dt)
        return power[:n, :n], power[:n, n:]

    def diagonal(self, rates: Array, *, dt: Any) -> tuple[Array, Array]:
        xp, _ = _namespace(rates, dt)
        z = rates * dt
        # (1-e^{-z})/z loses its digits near zero and is 0/0 at zero: three terms of the series there.
        small = xp.abs(z) < 1e-5
        safe = xp.where(small, 1.0, z)
        gain = xp.where(small, 1 - z / 2 + z * z / 6, -xp.expm1(-safe) / safe)
        return xp.exp(-z), dt * gain


class Euler(AbstractDiscretisation):
    """The papers' rule `h_{k+1} = h_k + dt (A h_k + B x_k)`; unstable where |1 - w dt| > 1."""

    def dense(self, A: Array, B: Array, *, dt: Any) -> tuple[Array, Array]:
        xp, _ = _namespace(A, B, dt)
        return xp.eye(len(A)) + dt * A, dt * B

    def diagonal(self, rates: Array, *, dt: Any) -> tuple[Array, Array]:
        xp, _ = _namespace(rates, dt)
        return 1 - rates * dt, dt * xp.ones_like(rates)


def _namespace(*arrays: Any) -> tuple[Any, Any]:
    # Host arrays stay float64 on the host; anything JAX (or traced) stays in JAX.
    if any(is_tracer(a) or not isinstance(a, (np.ndarray, np.generic, float, int)) for a in arrays):
        return jnp, jax.scipy.linalg.expm
    return np, scipy.linalg.expm
