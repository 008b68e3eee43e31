"""Where to start: from measured time scales, or as the literature does."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_count,
    require_nonnegative,
    require_positive,
)
from recollect._core._functional import AbstractReparam
from recollect._core._references import references
from recollect.models._gated import GRU, LSTM
from recollect.models._linear import DiagonalRNN
from recollect.models._nonlinear import DiagonalNonlinearRNN, ElmanRNN, ResidualRNN
from recollect.models._reparam import Exponential


def initialise_from_timescales(
    timescales: Any,
    *,
    width: int | None = None,
    n_inputs: int = 1,
    n_outputs: int = 1,
    key: Any,
    reparam: AbstractReparam | None = None,
) -> DiagonalRNN:
    """Returns a diagonal network whose units remember for given times.

    Each unit is scaled to unit variance under white noise (`B_i ~ √(2 w_i)`), so that slow and
    fast units start with the same weight in the output.

    Args:
        timescales: the units' memory times 1/w, shape (width,); or, with `width`, the pair
            (shortest, longest), between which the units are spread evenly in the logarithm.
        width: number of units between the two ends.
        n_inputs: number of input channels.
        n_outputs: number of output channels.
        key: JAX key or integer seed.
        reparam: parameterisation of the rates; exponential (stable) by default.

    Returns:
        A continuous `DiagonalRNN`, in the unit of time of `timescales`.

    Raises:
        ValueError: if a time is not positive, or `width` comes without exactly two ends.
    """
    times = np.atleast_1d(host_float64("timescales", timescales, owner="initialise"))
    if times.ndim != 1 or times.size == 0 or (times <= 0).any():
        raise invalid("timescales", "positive times, shape (width,)", f"{timescales!r:.60}")
    if width is not None:
        width = require_count("width", width)
        if times.size != 2 or times[0] > times[1]:
            raise invalid("timescales", "(shortest, longest) beside width", f"{timescales!r:.60}")
        times = np.geomspace(times[0], times[1], width) if width > 1 else times[1:]
    rng = _generator(key)
    width, n_inputs, n_outputs = (
        len(times),
        _count("n_inputs", n_inputs),
        _count("n_outputs", n_outputs),
    )
    B = rng.standard_normal((width, n_inputs)) * np.sqrt(2 / times / n_inputs)[:, None]
    C = rng.standard_normal((n_outputs, width)) / np.sqrt(width)
    return DiagonalRNN(1 / times, B, C, reparam=Exponential() if reparam is None else reparam)


@references("wang2024stablessm", "gu2022parameterization")
def initialise_s4d_lin(
    width: int,
    *,
    timescale: float,
    n_inputs: int = 1,
    n_outputs: int = 1,
    key: Any,
    reparam: AbstractReparam | None = None,
) -> DiagonalRNN:
    """Returns a diagonal network with the rates `(1/2 ± iπn) / timescale` of S4D-Lin.

    Args:
        width: number of units, even: conjugate pairs are listed in full.
        timescale: the window that the units' Fourier modes span.
        n_inputs: number of input channels.
        n_outputs: number of output channels.
        key: JAX key or integer seed.
        reparam: parameterisation of the rates; exponential (stable) by default.

    Raises:
        ValueError: if the width is odd or the time scale is not positive.
    """
    n_pairs = _pairs(width)
    timescale = require_positive("timescale", timescale)
    half = (0.5 + 1j * np.pi * np.arange(n_pairs)) / timescale
    rng = _generator(key)
    B = np.ones((n_pairs, _count("n_inputs", n_inputs))) / (timescale * np.sqrt(n_inputs))
    C = _complex_normal(rng, (_count("n_outputs", n_outputs), n_pairs)) / np.sqrt(width)
    return _conjugate_closed(half, B.astype(complex), C, None, reparam)


@references("orvieto2023resurrecting")
def initialise_lru_ring(
    width: int,
    *,
    dt: float = 1.0,
    smallest: float = 0.9,
    largest: float = 0.999,
    largest_phase: float = np.pi / 10,
    n_inputs: int = 1,
    n_outputs: int = 1,
    key: Any,
    reparam: AbstractReparam | None = None,
) -> DiagonalRNN:
    """Returns a discrete diagonal network with multipliers uniform on a ring in the unit disc.

    Args:
        width: number of units, even: conjugate pairs are listed in full.
        dt: step of the network.
        smallest: inner radius of the ring, above 0.
        largest: outer radius, below 1.
        largest_phase: largest angle of a multiplier, in (0, π).
        n_inputs: number of input channels.
        n_outputs: number of output channels.
        key: JAX key or integer seed.
        reparam: parameterisation of the rates; exponential (stable) by default.

    Raises:
        ValueError: if the width is odd, the step is not positive, or ring or angle are not as above.
    """
    n_pairs = _pairs(width)
    smallest, largest = require_positive("smallest", smallest), require_positive("largest", largest)
    if not smallest <= largest < 1:
        raise invalid("largest", f"a radius in [{smallest:g}, 1)", largest)
    if not 0 < require_positive("largest_phase", largest_phase) < np.pi:
        raise invalid("largest_phase", "an angle in (0, π)", largest_phase)
    dt = require_positive("dt", dt)
    rng = _generator(key)
    radius = np.sqrt(rng.uniform(smallest**2, largest**2, n_pairs))
    half = (-np.log(radius) + 1j * rng.uniform(0, largest_phase, n_pairs)) / dt
    B = _complex_normal(rng, (n_pairs, _count("n_inputs", n_inputs)))
    B = B * np.sqrt((1 - radius**2) / n_inputs)[:, None]
    C = _complex_normal(rng, (_count("n_outputs", n_outputs), n_pairs)) / np.sqrt(width)
    return _conjugate_closed(half, B, C, dt, reparam)


def initialise_elman(
    width: int,
    *,
    n_inputs: int = 1,
    n_outputs: int = 1,
    spectral_radius: float = 1.0,
    activation: str = "tanh",
    key: Any,
) -> ElmanRNN:
    """Returns an Elman network with an orthogonal state matrix times `spectral_radius`.

    Args:
        width: number of units.
        n_inputs: number of input channels.
        n_outputs: number of output channels.
        spectral_radius: size of every eigenvalue of W.
        activation: name of σ.
        key: JAX key or integer seed.

    Raises:
        ValueError: if a count is not positive, the spectral radius is negative, or the activation
            or key is unknown.
    """
    rng = _generator(key)
    width = _count("width", width)
    W = _orthogonal(rng, width) * require_nonnegative("spectral_radius", spectral_radius)
    U = rng.standard_normal((width, _count("n_inputs", n_inputs))) / np.sqrt(n_inputs)
    C = rng.standard_normal((_count("n_outputs", n_outputs), width)) / np.sqrt(width)
    return ElmanRNN(W, U, C, activation=activation)


def initialise_residual(
    width: int,
    *,
    timescale: float,
    n_inputs: int = 1,
    n_outputs: int = 1,
    activation: str = "tanh",
    key: Any,
) -> ResidualRNN:
    """Returns a continuous nonlinear network that forgets within about `timescale`.

    `W = (G/2 - I) / timescale` with G orthogonal: its eigenvalues have real parts in
    `[-3/2, -1/2] / timescale`.

    Args:
        width: number of units.
        timescale: time within which the linear part forgets.
        n_inputs: number of input channels.
        n_outputs: number of output channels.
        activation: name of σ.
        key: JAX key or integer seed.

    Raises:
        ValueError: if a count or the time scale is not positive, or the activation or key is
            unknown.
    """
    rng = _generator(key)
    width = _count("width", width)
    rate = 1 / require_positive("timescale", timescale)
    W = (0.5 * _orthogonal(rng, width) - np.eye(width)) * rate
    U = rng.standard_normal((width, _count("n_inputs", n_inputs))) * rate / np.sqrt(n_inputs)
    C = rng.standard_normal((_count("n_outputs", n_outputs), width)) / np.sqrt(width)
    return ResidualRNN(W, U, C, activation=activation)


@references("cayci2024convergence")
def initialise_symmetric(
    width: int, *, alpha: float, n_inputs: int = 1, activation: str = "tanh", key: Any
) -> DiagonalNonlinearRNN:
    """Returns the symmetric start of the kernel regime: its output is zero before training.

    `c_i ~ ±1`, `w_i ~ ±α`, `u_i ~ N(0, I)` for the first half of the units; the second half
    copies w and u with the opposite c.

    Args:
        width: number of units, even.
        alpha: α, the size of the recurrent weights.
        n_inputs: number of input channels.
        activation: name of σ.
        key: JAX key or integer seed.

    Raises:
        ValueError: if the width is odd, α is negative, or the activation or key is unknown.
    """
    half = _pairs(width)
    rng = _generator(key)
    signs = rng.choice([-1.0, 1.0], half)
    weights = require_nonnegative("alpha", alpha) * rng.choice([-1.0, 1.0], half)
    U = rng.standard_normal((half, _count("n_inputs", n_inputs)))
    return DiagonalNonlinearRNN(
        np.concatenate([weights, weights]),
        np.concatenate([U, U]),
        np.concatenate([signs, -signs])[None],
        activation=activation,
    )


def initialise_gru(width: int, *, n_inputs: int = 1, n_outputs: int | None = None, key: Any) -> GRU:
    """Returns a GRU with every weight uniform in ±1/√width, as torch starts it.

    Args:
        width: number of units.
        n_inputs: number of input channels.
        n_outputs: number of outputs; the states themselves if omitted.
        key: JAX key or integer seed.

    Raises:
        ValueError: if a count is not positive or the key is unknown.
    """
    return GRU(*_uniform_gates(3, width, n_inputs, n_outputs, key))


def initialise_lstm(
    width: int, *, n_inputs: int = 1, n_outputs: int | None = None, key: Any
) -> LSTM:
    """Returns an LSTM with every weight uniform in ±1/√width, as torch starts it.

    Args:
        width: number of units.
        n_inputs: number of input channels.
        n_outputs: number of outputs; the states themselves if omitted.
        key: JAX key or integer seed.

    Raises:
        ValueError: if a count is not positive or the key is unknown.
    """
    return LSTM(*_uniform_gates(4, width, n_inputs, n_outputs, key))


def _uniform_gates(
    n_gates: int, width: int, n_inputs: int, n_outputs: int | None, key: Any
) -> list[Any]:
    rng = _generator(key)
    width, n_inputs = _count("width", width), _count("n_inputs", n_inputs)
    rows = n_gates * width
    shapes: list[Any] = [(rows, n_inputs), (rows, width), (rows,), (rows,)]
    if n_outputs is not None:
        shapes.append((_count("n_outputs", n_outputs), width))
    bound = 1 / np.sqrt(width)
    return [rng.uniform(-bound, bound, shape) for shape in shapes]


def _generator(key: Any) -> np.random.Generator:
    # Weights are float64 on the host, which JAX gives only in 64-bit mode: NumPy draws them.
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return np.random.default_rng(require_count("key", key, minimum=0))
    try:
        data = jax.random.key_data(key)
    except (TypeError, ValueError, AttributeError):
        data = None
    if data is None or np.shape(data)[:1] == ():
        raise invalid("key", "a JAX random key or an integer seed", f"{key!r:.60}")
    return np.random.default_rng(np.asarray(data).ravel().tolist())


def _count(name: str, value: Any) -> int:
    return require_count(name, value)


def _pairs(width: Any) -> int:
    if require_count("width", width, minimum=2) % 2:
        raise invalid("width", "an even number of units", width)
    return width // 2


def _orthogonal(rng: np.random.Generator, width: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((width, width)))
    return q * np.sign(np.diagonal(r))


def _complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    real, imaginary = rng.standard_normal((2, *shape))
    return (real + 1j * imaginary) / np.sqrt(2)


def _conjugate_closed(
    half: np.ndarray, B: np.ndarray, C: np.ndarray, dt: float | None, reparam: Any
) -> DiagonalRNN:
    return DiagonalRNN(
        np.concatenate([half, half.conj()]),
        np.concatenate([B, B.conj()]),
        np.concatenate([C, C.conj()], axis=1),
        dt=dt,
        reparam=Exponential() if reparam is None else reparam,
    )
