"""Nonlinear networks that start at a linear one: small states, and units not yet read."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from recollect import models
from recollect._core._check import invalid

NONLINEAR_KINDS = (
    models.ResidualRNN,
    models.ElmanRNN,
    models.GRU,
    models.LSTM,
    models.StateNetwork,
    models.StateSpaceLayer,
)
_MOST_LAGS = 20_000
_MOST_SAMPLES = 20_000
_FIRST_ARGUMENT = 0.1
_ROUNDS = 5
# A gate that is nearly open; the weights behind it make up for the rest.
_OPEN = 3.0


@dataclasses.dataclass(frozen=True)
class SmallSignal:
    """A nonlinear network near its linear part.

    Attributes:
        model: the network.
        deviation: root mean square of what it misses of the linear output, relative to that.
        amplitude: largest input for which it is proved to miss less than the tolerance.
    """

    model: Any
    deviation: float
    amplitude: float


@dataclasses.dataclass(frozen=True)
class _Stepped:
    """The linear part at its step, real, with states of unit size on the records."""

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    input_std: np.ndarray
    dt: float
    slowest: float

    @property
    def width(self) -> int:
        return len(self.A)


@dataclasses.dataclass(frozen=True)
class _Sites:
    """Where activations sit: they see `z = Z h + X x` and add `σ(z) - z` to the state by D.

    `through` takes what one site adds directly to what the sites see, `seen` to the output.
    """

    Z: np.ndarray
    X: np.ndarray
    D: np.ndarray
    through: np.ndarray
    seen: np.ndarray


def is_odd(activation: str) -> bool:
    """Says whether an activation is linear around zero, without a constant."""
    return activation in ("tanh", "hardtanh", "linear")


def build_nonlinear(
    kind: type,
    linear: models.DiagonalRNN,
    inputs: list[np.ndarray],
    *,
    dt: float,
    n_units: int,
    activation: str,
    reparam: Any,
    step: float | None,
    like: Any,
    tolerance: float,
    rng: np.random.Generator,
) -> SmallSignal:
    """Returns a network of a kind whose first units reproduce the linear one for small signals.

    Args:
        kind: the class.
        linear: continuous.
        inputs: records, around their mean.
        dt: their step.
        n_units: units in all.
        activation: its name, for kinds that have one.
        reparam: of a state-space layer.
        step: of a discrete state-space layer.
        like: a model whose settings are kept.
        tolerance: share of the linear output that may be missed on the records.
        rng: draws the units that nothing reads yet.
    """
    stepped = _stepped(linear, inputs, dt)
    if kind is models.StateNetwork:
        return SmallSignal(
            _state_network(linear, stepped, inputs, n_units, like, rng), 0.0, math.inf
        )
    n_extra = n_units - stepped.width
    if kind is models.StateSpaceLayer:
        build, sites = _layer(linear, activation, reparam, step, n_extra, rng)
    else:
        build, sites = {
            models.ElmanRNN: _elman,
            models.ResidualRNN: _residual,
            models.GRU: _gru,
            models.LSTM: _lstm,
        }[kind](stepped, activation, n_extra, rng)
        # What is random is drawn once: only the size of the states is searched for.
    name = (
        activation
        if kind in (models.ElmanRNN, models.ResidualRNN, models.StateSpaceLayer)
        else "tanh"
    )
    if name == "linear":
        return SmallSignal(build(1.0), 0.0, math.inf)
    shown = _shown(inputs)
    wanted = [np.asarray(linear(x, dt=dt)) for x in shown]
    size = math.sqrt(sum(float(np.sum(y**2)) for y in wanted))
    if not size > 0:
        raise invalid("inputs", "records that move the linear part", "a linear part of zero")
    largest = _largest_argument(stepped, sites, linear, inputs)
    scale = (1.0 if name == "hardtanh" else _FIRST_ARGUMENT) / largest

    def deviation(model: Any) -> float:
        apart = sum(
            float(np.sum((np.asarray(model(x, dt=dt)) - y) ** 2))
            for x, y in zip(shown, wanted, strict=True)
        )
        return math.sqrt(apart) / size

    model = build(scale)
    missed = deviation(model)
    if name == "tanh":
        for _ in range(_ROUNDS):
            if 0.7 * tolerance <= missed <= tolerance or not math.isfinite(missed) or missed == 0:
                break
            # What a cubic leaves grows with the square of the size.
            scale *= float(np.clip(math.sqrt(0.85 * tolerance / missed), 0.05, 5.0))
            model = build(scale)
            missed = deviation(model)
    return SmallSignal(model, missed, _proved(stepped, sites, scale, name, tolerance))


def _stepped(linear: models.DiagonalRNN, inputs: list[np.ndarray], dt: float) -> _Stepped:
    dense = models.rediscretise(models.to_dense(linear), dt)
    A, B, C = (np.asarray(part, dtype=np.float64) for part in (dense.A, dense.B, dense.C))
    squares, count = np.zeros(len(A)), 0
    for x in _shown(inputs):
        states = np.asarray(dense.states(x, dt=dt))
        squares, count = squares + np.sum(states**2, axis=0), count + len(x)
    size = np.sqrt(squares / count)
    # Both members of a pair keep one size, so that the block stays a rotation.
    for k in range(len(A) - 1):
        if A[k, k + 1] != 0:
            size[k : k + 2] = np.sqrt(np.mean(size[k : k + 2] ** 2))
    size = np.where(size > 0, size, 1.0)
    spread = np.concatenate(inputs).std(axis=0)
    return _Stepped(
        A * size / size[:, None],
        B / size[:, None],
        C * size,
        np.where(spread > 0, spread, 1.0),
        dt,
        float(np.min(np.asarray(linear.rates).real)),
    )


def _shown(inputs: list[np.ndarray]) -> list[np.ndarray]:
    kept, left = [], _MOST_SAMPLES
    for x in inputs:
        if left > 0:
            kept.append(x[:left])
            left -= len(x)
    return kept


# --- kinds --------------------------------------------------------------------------------------


def _extra(stepped: _Stepped, n: int, rng: np.random.Generator):
    """Returns random weights of units that see inputs and states of unit size: (W, from, U)."""
    if not n:
        return np.zeros((0, 0)), np.zeros((0, stepped.width)), np.zeros((0, stepped.B.shape[1]))
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    m, n_inputs = stepped.width, stepped.B.shape[1]
    return (
        0.5 * q * np.sign(np.diagonal(r)),
        rng.standard_normal((n, m)) / math.sqrt(m),
        rng.standard_normal((n, n_inputs)) / stepped.input_std / math.sqrt(n_inputs),
    )


def _joined(first: np.ndarray, across: np.ndarray, extra: np.ndarray) -> np.ndarray:
    corner = np.zeros((len(first), len(extra)))
    return np.block([[first, corner], [across, extra]])


def _read(C: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([C, np.zeros((len(C), n))], axis=1)


def _nothing(m: int, n_outputs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((m, m)), np.zeros((n_outputs, m))


def _elman(stepped: _Stepped, activation: str, n: int, rng: np.random.Generator):
    W, across, U = _extra(stepped, n, rng)
    m = stepped.width

    def build(scale: float) -> models.ElmanRNN:
        return models.ElmanRNN(
            _joined(stepped.A, across / scale, W),
            np.concatenate([scale * stepped.B, U]),
            _read(stepped.C / scale, n),
            activation=activation,
        )

    return build, _Sites(stepped.A, stepped.B, np.eye(m), *_nothing(m, len(stepped.C)))


def _residual(stepped: _Stepped, activation: str, n: int, rng: np.random.Generator):
    W, across, U = _extra(stepped, n, rng)
    m, dt = stepped.width, stepped.dt
    # Units that nothing reads forget on the time scales of the linear part.
    pace = np.geomspace(max(stepped.slowest, 1e-6 / dt), 0.5 / dt, n)[:, None]
    drift, read_in = (stepped.A - np.eye(m)) / dt, stepped.B / dt

    def build(scale: float) -> models.ResidualRNN:
        return models.ResidualRNN(
            _joined(drift, pace * across / scale, pace * (W - np.eye(n))),
            np.concatenate([scale * read_in, pace * U]),
            _read(stepped.C / scale, n),
            activation=activation,
        )

    return build, _Sites(drift, read_in, dt * np.eye(m), *_nothing(m, len(stepped.C)))


def _gates(stepped: _Stepped) -> np.ndarray:
    """Returns what each unit keeps of itself: as much as the linear part does, within reason."""
    return np.clip(np.diag(stepped.A), 0.1, 0.9)


def _logit(p: Any) -> Any:
    return np.log(p / (1 - np.asarray(p)))


def _gru(stepped: _Stepped, activation: str, n: int, rng: np.random.Generator):
    W, across, U = _extra(stepped, n, rng)
    m, n_inputs = stepped.width, stepped.B.shape[1]
    keep = _gates(stepped)
    opened = 1 / (1 + math.exp(-_OPEN))
    state = (stepped.A - np.diag(keep)) / (1 - keep)[:, None]
    read_in = stepped.B / (1 - keep)[:, None]
    total = m + n
    bias = np.concatenate(
        [np.full(total, _OPEN), _logit(keep), rng.uniform(-1, 2, n), np.zeros(total)]
    )

    def build(scale: float) -> models.GRU:
        candidate = _joined(state, across / scale, W) / opened
        drive = np.concatenate([scale * read_in, U])
        return models.GRU(
            np.concatenate([np.zeros((2 * total, n_inputs)), drive]),
            np.concatenate([np.zeros((2 * total, total)), candidate]),
            bias,
            np.zeros(3 * total),
            _read(stepped.C / scale, n),
        )

    return build, _Sites(state, read_in, np.diag(1 - keep), *_nothing(m, len(stepped.C)))


def _lstm(stepped: _Stepped, activation: str, n: int, rng: np.random.Generator):
    W, across, U = _extra(stepped, n, rng)
    m, n_inputs = stepped.width, stepped.B.shape[1]
    keep = _gates(stepped)
    opened = 1 / (1 + math.exp(-_OPEN))
    state = (stepped.A - np.diag(keep)) / opened
    read_in = stepped.B / opened
    total = m + n
    bias = np.concatenate(
        [
            np.full(total, _OPEN),
            _logit(keep),
            rng.uniform(-1, 2, n),
            np.zeros(total),
            np.full(total, _OPEN),
        ]
    )

    def build(scale: float) -> models.LSTM:
        candidate = _joined(state, across / scale, W) / opened
        drive = np.concatenate([scale * read_in, U])
        none, still = np.zeros((total, n_inputs)), np.zeros((total, total))
        return models.LSTM(
            np.concatenate([none, none, drive, none]),
            np.concatenate([still, still, candidate, still]),
            bias,
            np.zeros(4 * total),
            _read(stepped.C / (scale * opened), n),
        )

    eye, zero = np.eye(m), np.zeros((m, m))
    # Two activations: that of what enters the cell, and that of the cell as it is read.
    return build, _Sites(
        np.concatenate([state, eye]),
        np.concatenate([read_in, np.zeros((m, n_inputs))]),
        np.concatenate([opened * eye, opened * state], axis=1),
        np.block([[zero, state], [zero, zero]]),
        np.concatenate([np.zeros_like(stepped.C), stepped.C], axis=1),
    )


def _layer(
    linear: models.DiagonalRNN,
    activation: str,
    reparam: Any,
    step: float | None,
    n: int,
    rng: np.random.Generator,
):
    rates = np.asarray(linear.rates)
    B, C = np.asarray(linear.B), np.asarray(linear.C)
    if n:
        spread = np.geomspace(0.5 * rates.real.min(), 2 * np.abs(rates).max(), n + 2)[1:-1]
        rates = np.concatenate([rates, spread])
        drawn = np.abs(B).mean() * rng.standard_normal((n, B.shape[1]))
        B, C = np.concatenate([B, drawn]), _read(C, n)

    def build(scale: float) -> models.StateSpaceLayer:
        network: Any = models.DiagonalRNN(rates, B, scale * C, reparam=reparam)
        network = network if step is None else models.rediscretise(network, step)
        return models.StateSpaceLayer(network, np.eye(len(C)) / scale, activation=activation)

    return build, None


def _state_network(
    linear: models.DiagonalRNN,
    stepped: _Stepped,
    inputs: list[np.ndarray],
    n_units: int,
    like: Any,
    rng: np.random.Generator,
) -> models.StateNetwork:
    dense: Any = models.to_dense(linear)
    states = np.concatenate([np.asarray(dense.states(x, dt=stepped.dt)) for x in _shown(inputs)])
    spread = np.sqrt(np.mean(states**2, axis=0))
    m, n_inputs = dense.width, dense.n_inputs
    reach = rng.standard_normal((n_units, m)) / np.where(spread > 0, spread, 1.0) / math.sqrt(m)
    seen = rng.standard_normal((n_units, n_inputs)) / stepped.input_std / math.sqrt(n_inputs)
    return models.StateNetwork(
        models.LinearRNN(
            dense.A, np.concatenate([dense.B, np.zeros((m, n_units))], axis=1), dense.C
        ),
        (reach, seen, rng.standard_normal(n_units)),
        activation="tanh" if like is None else like.activation,
    )


# --- how far it is linear -----------------------------------------------------------------------


def _largest_argument(
    stepped: _Stepped, sites: _Sites | None, linear: Any, inputs: list[np.ndarray]
) -> float:
    largest = 0.0
    for x in _shown(inputs):
        if sites is None:
            largest = max(largest, float(np.abs(np.asarray(linear(x, dt=stepped.dt))).max()))
            continue
        own = models.LinearRNN(stepped.A, stepped.B, stepped.C, dt=stepped.dt)
        states = np.asarray(own.states(x, dt=stepped.dt))
        before = np.concatenate([np.zeros_like(states[:1]), states[:-1]])
        largest = max(largest, float(np.abs(before @ sites.Z.T + x @ sites.X.T).max()))
    return largest if largest > 0 else 1.0


def _proved(
    stepped: _Stepped, sites: _Sites | None, scale: float, name: str, tolerance: float
) -> float:
    """Returns the largest input for which what the activations add is proved to stay small.

    With `|σ(z) - z| ≤ |z|³/3` (tanh), what the sites see stays below the least solution of
    `r = G_zx X + G_zd r³/3`, with the absolute sums of the responses from inputs and from sites;
    the output then misses at most `G_yd r³/3`, to be below `tolerance · G_yx X`.
    """
    A, B, C = stepped.A, stepped.B, stepped.C
    to_output = _absolute_sum(C, A, B).sum(axis=1)
    if sites is None:
        # A static activation of the linear output f: (1/s) tanh(s f) misses s² |f|³ / 3.
        gain = float(to_output.max())
        if name == "hardtanh":
            return 1 / (scale * gain)
        return math.sqrt(3 * tolerance) / (scale * gain)
    from_inputs = scale * (np.abs(sites.X) + _absolute_sum(sites.Z, A, B)).sum(axis=1)
    if name == "hardtanh":
        return 1 / float(from_inputs.max())
    back = np.abs(sites.through) + _absolute_sum(sites.Z, A, sites.D)
    out = (np.abs(sites.seen) + _absolute_sum(C, A, sites.D)) / scale

    def holds(amplitude: float) -> bool:
        r = from_inputs * amplitude
        for _ in range(200):
            after = from_inputs * amplitude + back @ (r**3 / 3)
            if not after.max() < 1e3:
                return False
            if np.all(after <= r * (1 + 1e-9)):
                break
            r = after
        else:
            return False
        return bool(np.all(out @ (r**3 / 3) <= tolerance * to_output.max() * amplitude))

    low, high = 0.0, 1 / max(float(from_inputs.max()), 1e-300)
    if holds(high):
        return high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _absolute_sum(C: np.ndarray, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Returns an upper bound of `Σ_j |C A^j B|`, entry by entry; tight for what is summed."""
    total = np.zeros((len(C), B.shape[1]))
    state = B
    size = float(np.abs(np.linalg.eigvals(A)).max())
    n_lags = _MOST_LAGS
    if size < 1:
        n_lags = min(n_lags, math.ceil(36 / max(-math.log(max(size, 1e-300)), 1e-9)) + len(A))
    for _ in range(n_lags):
        total += np.abs(C @ state)
        state = A @ state
    # The rest by its modes, entry by entry an upper bound.
    values, vectors = np.linalg.eig(A)
    left = np.abs(C @ vectors) / (1 - np.abs(values))
    return total + left @ np.abs(np.linalg.solve(vectors, state.astype(complex)))
