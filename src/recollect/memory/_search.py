"""The supremum in the memory function: ascent in direction and magnitude at chosen lags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._functional import AbstractFunctional
from recollect._core._precision import in_float64
from recollect.memory._probes import chunk_size, run, stepped

_N_STEPS = 24
_MOST_STARTS = 24
_FEWEST_LAGS = 6
_LONG = 4096
_MOST_FORWARD = 32
_SMALLEST = 1e-300


@dataclasses.dataclass(frozen=True)
class Envelope:
    """The largest memory found so far at each lag, and the step that gave it.

    Args:
        memory: shape (lag, out).
        directions: shape (lag, out, in).
        magnitudes: shape (lag, out); 0 where the derivative at zero input gives the value.
    """

    memory: np.ndarray
    directions: np.ndarray
    magnitudes: np.ndarray

    def raised(self, sizes: np.ndarray, directions: np.ndarray, magnitude: Any) -> Envelope:
        """Returns the envelope with one more probe: its memory, shape (lag, out)."""
        larger = sizes > self.memory
        if not larger.any():
            return self
        return Envelope(
            np.where(larger, sizes, self.memory),
            np.where(larger[:, :, None], directions, self.directions),
            np.where(larger, magnitude, self.magnitudes),
        )


def control_pairs(envelope: Envelope, *, shift: float = 0.0) -> np.ndarray:
    """Returns (lag, output) pairs at which the ascent aims, shape (pair, 2).

    Lags grow in proportion; `shift`, a fraction of their distance, moves those between the ends.
    """
    n_lags, n_outputs = envelope.memory.shape
    n_wanted = _FEWEST_LAGS if n_lags > _LONG else max(_FEWEST_LAGS, _MOST_STARTS // n_outputs)
    places = np.clip(np.arange(n_wanted) + shift, 0, n_wanted - 1) / (n_wanted - 1)
    lags = np.unique(((n_lags + 1.0) ** places).round().astype(int) - 1)
    lags = np.unique(np.minimum(lags, n_lags - 1))
    n_each = max(1, (_FEWEST_LAGS if n_lags > _LONG else _MOST_STARTS) // len(lags))
    pairs = []
    for place, lag in enumerate(lags):
        loudest = np.argsort(-envelope.memory[lag])[:n_each]
        if n_outputs > n_each and n_each == 1:
            loudest = [(loudest[0] + place) % n_outputs]
        pairs += [(lag, output) for output in loudest if envelope.memory[lag, output] > 0]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def ascend(
    sizes_at: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]],
    points: np.ndarray,
    pairs: np.ndarray,
    *,
    log_range: tuple[float, float],
    rng: np.random.Generator,
    n_steps: int = _N_STEPS,
) -> int:
    """Climbs from many points at once; what is found on the way is kept by `sizes_at`.

    Args:
        sizes_at: takes points (start, 1 + in), a logarithm of the magnitude and a direction in the
            unit cube, and pairs; returns the logarithms of the memory there, shape (start,), and
            the gradients, shape of points, or None where there are none to be had.
        points: where to start.
        pairs: (lag, output) aimed at, shape (start, 2).
        log_range: smallest and largest logarithm of the magnitude.
        rng: draws the moves where there are no gradients.
        n_steps: number of moves.

    Returns:
        Number of points tried.
    """
    if not len(points):
        return 0
    current, slopes = sizes_at(points, pairs)
    length = np.full(len(points), 0.3)
    for _ in range(n_steps):
        if slopes is None:
            move = rng.standard_normal(points.shape)
        else:
            move = _uphill(points, slopes, log_range)
        trial = _inside(points + length[:, None] * move, log_range)
        found, trial_slopes = sizes_at(trial, pairs)
        better = found > current
        points = np.where(better[:, None], trial, points)
        current = np.where(better, found, current)
        if slopes is not None and trial_slopes is not None:
            slopes = np.where(better[:, None], trial_slopes, slopes)
        length = np.clip(np.where(better, 1.7 * length, 0.45 * length), 1e-6, 3.0)
        if (length <= 1e-4).all():
            break
    return n_steps * len(points)


def traced_sizes(
    functional: AbstractFunctional, n_lags: int, n_settle: int, *, dt: float, is_bounded: bool
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns a function from points and pairs to (log sizes, gradients, responses).

    Responses are the differences of the step response per unit of time, zero input subtracted,
    shape (start, lag, out).
    """
    forward = functional.n_inputs < _MOST_FORWARD
    functional = stepped(functional, n_lags + n_settle, dt=dt)
    most = chunk_size(functional, n_lags + n_settle)
    most = max(1, most // (functional.n_inputs + 2))

    def sizes_at(points: np.ndarray, pairs: np.ndarray) -> Any:
        found = [
            in_float64(_climb)(
                functional,
                points[i : i + most],
                pairs[i : i + most],
                n_lags,
                n_settle,
                dt,
                is_bounded,
                forward,
            )
            for i in range(0, len(points), most)
        ]
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    return sizes_at


def slope_at_rest(
    functional: AbstractFunctional, n_lags: int, n_settle: int, *, dt: float
) -> np.ndarray:
    """Returns the derivative of the memory's response in the input, at zero, (lag, out, in)."""
    functional = stepped(functional, n_lags + n_settle, dt=dt)
    return np.asarray(in_float64(_slope)(functional, n_lags, n_settle, dt))


@eqx.filter_jit
def _slope(functional: Any, n_lags: int, n_settle: int, dt: float) -> Any:
    zero = jnp.zeros(functional.n_inputs, dtype=jnp.float64)
    return jax.jacfwd(lambda x: _moved(functional, x, n_lags, n_settle, dt))(zero)


@eqx.filter_jit
def _climb(
    functional: Any, points: Any, pairs: Any, n_lags: int, n_settle: int, dt: float,
    is_bounded: bool, forward: bool,
) -> Any:  # fmt: skip
    rest = _moved(functional, jnp.zeros(functional.n_inputs, points.dtype), n_lags, n_settle, dt)

    def one(point: Any, pair: Any) -> Any:
        def size(point: Any) -> Any:
            magnitude = jnp.exp(point[0])
            moved = _moved(functional, magnitude * point[1:], n_lags, n_settle, dt) - rest
            scale = 1.0 + magnitude if is_bounded else magnitude
            log_size = jnp.log(jnp.abs(moved[pair[0], pair[1]]) / scale + _SMALLEST)
            return log_size, (log_size, moved)

        slope = jax.jacfwd(size, has_aux=True) if forward else jax.grad(size, has_aux=True)
        gradient, (log_size, moved) = slope(point)
        return log_size, gradient, moved

    return jax.vmap(one)(points, pairs)


def _moved(functional: Any, value: Any, n_lags: int, n_settle: int, dt: float) -> Any:
    signal = jnp.concatenate(
        [jnp.zeros((n_settle, value.shape[0]), value.dtype), jnp.tile(value, (n_lags, 1))]
    )
    response = run(functional, signal, dt=dt)
    before = response[n_settle - 1 : n_settle] if n_settle else jnp.zeros_like(response[:1])
    return jnp.diff(response[n_settle:], axis=0, prepend=before) / dt


def _uphill(points: np.ndarray, slopes: np.ndarray, log_range: tuple[float, float]) -> np.ndarray:
    slopes = np.where(np.isfinite(slopes), slopes, 0.0)
    # At a wall only the part along it counts.
    low = np.concatenate([[log_range[0]], -np.ones(points.shape[1] - 1)])
    high = np.concatenate([[log_range[1]], np.ones(points.shape[1] - 1)])
    stuck = ((points <= low) & (slopes < 0)) | ((points >= high) & (slopes > 0))
    slopes = np.where(stuck, 0.0, slopes)
    largest = np.abs(slopes).max(axis=1, keepdims=True)
    return np.divide(slopes, largest, out=np.zeros_like(slopes), where=largest > 0)


def _inside(points: np.ndarray, log_range: tuple[float, float]) -> np.ndarray:
    head = np.clip(points[:, :1], *log_range)
    cube = np.clip(points[:, 1:], -1.0, 1.0)
    norms = np.abs(cube).max(axis=1, keepdims=True)
    # Dividing by the norm only helps: the same direction at its full magnitude.
    cube = np.where(norms > 1e-6, cube / np.maximum(norms, 1e-6), 1.0)
    return np.concatenate([head, cube], axis=1)
