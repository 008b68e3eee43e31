"""The search for the worst weights in a ball: conditional-gradient ascent of many starts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._precision import in_float64
from recollect.stability._weights import Layout, Weights

_STARTS = 8

States = tuple[np.ndarray, ...]


class Ascent:
    """Many starts, a batch at a time through one compiled function.

    Args:
        weights: where to start.
        objective: from (network, data) to the error, by name and options: `objectives.py`.
        data: arrays that the objective reads.
        ball: `paper` or `euclidean`.
    """

    def __init__(self, weights: Weights, objective: Any, data: Any, ball: str):
        self.n_evaluations = 0
        self._held = (weights.flat, weights.arrays, data)
        try:
            self._climb, self._surface = _compiled(weights.layout, objective, ball)
        except TypeError:
            # A network with unhashable parts is compiled for itself alone.
            self._climb, self._surface = _compiled.__wrapped__(weights.layout, objective, ball)

    def surface(self, directions: np.ndarray, radius: float) -> np.ndarray:
        """Returns the shifts of size β along directions."""
        return self._surface(directions, float(radius))

    def begin(self, shifts: np.ndarray) -> States:
        """Returns the states of an ascent from shifts, each evaluated once."""
        n = len(shifts)
        start = (shifts, np.full(n, -np.inf), np.zeros_like(shifts), np.full(n, 1.0))
        return self.climb(start, 0.0, 1)

    def climb(self, states: States, radius: float, n_steps: int) -> States:
        """Returns the states (shift, value, slope, share) after so many steps."""
        n = len(states[0])
        if n_steps == 0:
            return states
        self.n_evaluations += n * n_steps
        parts = []
        for first in range(0, n, _STARTS):
            rows = np.minimum(np.arange(first, first + _STARTS), n - 1)
            batch = tuple(part[rows] for part in states)
            parts.append(self._climb(batch, float(radius), n_steps, *self._held))
        return tuple(np.concatenate(part)[:n] for part in zip(*parts, strict=True))


@functools.lru_cache(maxsize=64)
def _compiled(layout: Layout, objective: Callable[[Any, Any], Any], ball: str) -> tuple[Any, Any]:
    def climb(states, radius, count, flat, arrays, data):
        def error(shift):
            return objective(layout.restore(flat + shift, arrays), data)

        def step(state):
            # The best point so far, its value and slope, and how far to go towards the surface.
            shift, value, slope, share = state
            aim = layout.furthest(slope, radius, ball)
            tried = jnp.where(value == -jnp.inf, shift, shift + share * (aim - shift))
            new_value, new_slope = jax.value_and_grad(error)(tried)
            # What is not a number has diverged, which is worse than any number.
            new_value = jnp.where(jnp.isnan(new_value), jnp.inf, new_value)
            is_better = new_value > value
            new_slope = jnp.where(jnp.isfinite(new_slope), new_slope, 0.0)
            return (
                jnp.where(is_better, tried, shift),
                jnp.maximum(value, new_value),
                jnp.where(is_better, new_slope, slope),
                jnp.where(is_better, jnp.minimum(1.0, 2 * share), share / 3),
            )

        return jax.lax.fori_loop(0, count, lambda _, states: jax.vmap(step)(states), states)

    surface = jax.vmap(lambda d, radius: layout.surface(d, radius, ball), in_axes=(0, None))
    return in_float64(jax.jit(climb)), in_float64(jax.jit(surface))
