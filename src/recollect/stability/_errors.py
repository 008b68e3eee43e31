"""What an error is: the norms of Definition 3.4 and after, to search by and to judge by."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import invalid
from recollect._core._precision import in_float64
from recollect.models import DiagonalRNN, LinearRNN
from recollect.stability._theory import bound_perturbation_error
from recollect.stability._weights import Layout, Weights
from recollect.targets import SumKernel, measure_norm

_BATCH = 256
# Steps of a discrete network that are summed one by one, in chunks.
_CHUNK, _MOST_STEPS = 1 << 15, 1 << 21


@dataclasses.dataclass(frozen=True)
class Problem:
    """Where to search, how to judge, and what is known.

    Attributes:
        objective: from (network, data) to the error that the search ranks by.
        data: its arrays.
        judge: from weights to the error that is reported.
        size: ‖H‖.
        bound: from a radius to a proved upper bound.
        escapes: whether a radius certainly reaches instability.
    """

    objective: Callable[[Any, Any], Any]
    data: dict[str, np.ndarray]
    judge: Callable[[np.ndarray], float]
    size: float
    bound: Callable[[float], float]
    escapes: Callable[[float], bool]


def state_l1_problem(model: Any, target: Any, weights: Weights, radius: float, of: str) -> Problem:
    """Returns the problem in the operator norm of linear functionals."""
    reference = model if target is None else target
    if is_unstable(model):
        size = math.inf if target is None else _norm(target, model.dt)
        return Problem(
            objective=_nowhere,
            data={},
            judge=lambda x: math.inf,
            size=size,
            bound=lambda radius: math.inf,
            escapes=lambda radius: True,
        )
    objective, data = _lags(model, radius)
    lags = data["lags"] if model.dt is None else model.dt * (data["counts"] + 0.5)
    data["wanted"] = np.asarray(reference.kernel(lags), float)

    def judge(x):
        if not np.isfinite(x).all():
            return math.inf
        moved = weights.restore(x)
        if is_unstable(moved):
            return math.inf
        with np.errstate(over="ignore"):
            value = _distance(reference, moved)
            if target is not None:
                # ‖Ĥ(θ)-Ĥ(θ̃)‖ needs no quadrature of H's tail: where the two disagree it is right.
                own = _distance(model, moved)
                if not abs(value - own) <= apart * (1 + 1e-6) + 1e-9 * own:
                    value = max(own - apart, 0.0)
        return value

    apart = 0.0 if target is None else _distance(reference, model)

    def bound(radius):
        try:
            return apart + bound_perturbation_error(model, radius, of=of)
        except (TypeError, ValueError):
            return math.inf

    return Problem(
        objective=objective,
        data=data,
        judge=judge,
        size=_norm(reference, model.dt),
        bound=bound,
        escapes=lambda radius: _escapes(model, radius),
    )


def state_w1_problem(model: Any, target: Any, weights: Weights, radius: float) -> Problem:
    """Returns the problem in the W¹ norm of continuous linear networks, `‖ρ‖₁ + |ρ(0)| + ‖ρ'‖₁`."""
    plain = state_l1_problem(model, target, weights, radius, "all")
    if is_unstable(model):
        return plain
    reference = model if target is None else target
    data = dict(plain.data)
    data["wanted_slope"] = np.asarray(_slope(reference).kernel(data["lags"]), float)
    data["wanted_start"] = np.asarray(reference.kernel(np.zeros(1)), float)

    def whole(first, second=None):
        parts = (first,) if second is None else (first, second)
        slopes = [_slope(part) for part in parts]
        starts = [np.asarray(part.kernel(np.zeros(1)), float)[0] for part in parts]
        jump = starts[0] if second is None else starts[0] - starts[1]
        measure = _distance if second is not None else lambda part: _norm(part, None)
        jump = float(np.abs(jump).sum(axis=1).max())
        return measure(*parts) + jump + measure(*slopes)

    def judge(x):
        if not np.isfinite(x).all():
            return math.inf
        moved = weights.restore(x)
        with np.errstate(over="ignore"):
            return math.inf if is_unstable(moved) else whole(reference, moved)

    return dataclasses.replace(
        plain,
        objective=_W1(plain.objective),
        data=data,
        judge=judge,
        size=whole(reference),
        bound=lambda radius: math.inf,
    )


def _slope(model: Any) -> Any:
    """Returns the network whose kernel is ρ', away from zero."""
    if isinstance(model, LinearRNN):
        return LinearRNN(model.A, model.A @ model.B, model.C)
    model = _without_silent_units(model)
    return DiagonalRNN(model.rates, -model.rates[:, None] * model.input_matrix, model.C)


@dataclasses.dataclass(frozen=True)
class _W1:
    """The error of kernel, start and slope, from the rule for a kernel alone."""

    plain: Callable[[Any, Any], Any]

    def __call__(self, moved: Any, data: Any) -> Any:
        if isinstance(moved, LinearRNN):
            slope = eqx.tree_at(lambda m: m.B, moved, moved.A @ moved.B)
            start = moved.C @ moved.B
        else:
            # Rates in the output matrix: B may be normalised, C never is.
            slope = eqx.tree_at(lambda m: m.C, moved, -moved.C * moved.rates)
            start = jnp.real(moved.amplitudes.sum(axis=0))
        jump = jnp.max(jnp.abs(start - data["wanted_start"][0]).sum(axis=1))
        sloped = self.plain(slope, {**data, "wanted": data["wanted_slope"]})
        return self.plain(moved, data) + jump + sloped


def state_path_problem(
    model: Any,
    target: Any,
    weights: Weights,
    norm: str,
    paths: np.ndarray,
    dt: float,
    n_search: int,
) -> Problem:
    """Returns the problem on sample paths, in the mean square or the W¹ norm."""
    if paths.ndim != 3 or paths.shape[2] != model.n_inputs or not paths.size:
        raise invalid("paths", f"shape (path, time, {model.n_inputs})", f"shape {paths.shape}")
    sizes = np.abs(paths).max(axis=(1, 2), keepdims=True)
    if norm == "w1" and (sizes == 0).any():
        raise invalid("paths", "paths that are not zero", "a path of zeros")
    try:
        outputs, whole, measure = _compiled_on_paths(weights.layout, norm, dt)
    except TypeError:
        outputs, whole, measure = _compiled_on_paths.__wrapped__(weights.layout, norm, dt)
    if target is None:
        wanted = outputs(weights.flat, weights.arrays, paths)
    else:
        wanted = np.stack([np.asarray(target(x, dt=dt), float) for x in paths])
        if not np.isfinite(wanted).all():
            raise invalid("target", "finite outputs on the paths", "others")
    everything = {"paths": paths, "wanted": wanted, "sizes": sizes}
    is_linear = isinstance(model, (DiagonalRNN, LinearRNN))

    def judge(x):
        x = np.asarray(x, float)
        if norm == "w1" and is_linear and is_unstable(weights.restore(x)):
            return math.inf
        value = float(whole(x, weights.arrays, everything))
        return value if math.isfinite(value) else math.inf

    size = float(measure(wanted, sizes))
    return Problem(
        objective=_OnPaths(norm, dt),
        data={name: part[:n_search] for name, part in everything.items()},
        judge=judge,
        size=size if math.isfinite(size) else math.inf,
        bound=lambda radius: math.inf,
        escapes=lambda radius: norm == "w1" and is_linear and _escapes(model, radius),
    )


def is_unstable(model: Any) -> bool:
    """Says whether a linear network has a mode that does not decay."""
    if isinstance(model, DiagonalRNN):
        return not bool(_are_decaying(model, np.real(np.asarray(model.rates))))
    eigenvalues = np.linalg.eigvals(np.asarray(model.A, float))
    if model.dt is None:
        return bool(np.max(eigenvalues.real) >= 0)
    return bool(np.max(np.abs(eigenvalues)) >= 1)


def _are_decaying(model: Any, rates: Any) -> Any:
    # A unit at rest is silent with the normalised read-in, and integrates with the plain one.
    xp = np if isinstance(rates, np.ndarray) else jnp
    return xp.all(rates > 0 if model.readin == "plain" else rates >= 0)


def _escapes(model: Any, radius: float) -> bool:
    """Says whether moving one rate, or a dense matrix along its weakest pair, makes it unstable."""
    if isinstance(model, DiagonalRNN):
        v = np.asarray(model.weights, float)
        with np.errstate(all="ignore"):
            ends = [np.asarray(model.reparam.forward(v + s * radius), float) for s in (-1, 1)]
        return not bool(_are_decaying(model, np.array(ends)))
    A, eye = np.asarray(model.A, float), np.eye(model.width)
    edges = (0 * eye,) if model.dt is None else (eye, -eye)
    return any(np.linalg.svd(edge - A, compute_uv=False)[-1] <= radius for edge in edges)


def _nowhere(moved: Any, data: Any) -> Any:
    return jnp.asarray(jnp.inf)


# The operator norm: judged by quadrature to rounding, searched on fixed lags.


def _distance(first: Any, second: Any) -> float:
    if second.dt is not None:
        return _sum_of_steps(second.dt, first, second)
    first, second = _without_silent_units(first), _without_silent_units(second)
    if all(isinstance(m, DiagonalRNN) and _is_real(m) and m.dt is None for m in (first, second)):
        return _distance_of_sums(first, second)
    return float(measure_norm(SumKernel((first, second), (1.0, -1.0)), norm="l1", rtol=1e-9))


def _is_real(model: Any) -> bool:
    arrays = (model.B, model.C)
    return model.frequencies is None and not any(np.iscomplexobj(array) for array in arrays)


def _distance_of_sums(first: DiagonalRNN, second: DiagonalRNN) -> float:
    """Returns `max_o Σ_i ∫|ρ - ρ̃|` of two sums of real exponentials, from their sign changes."""
    rates = np.concatenate([first.rates, second.rates]).astype(float)
    amplitudes = np.concatenate([first.amplitudes, -second.amplitudes]).astype(float)
    amplitudes = amplitudes.reshape(len(rates), -1)
    lags = np.concatenate([[0.0], np.geomspace(1e-4 / rates.max(), 60 / rates.min(), 1500)])
    values = np.exp(-lags[:, None] * rates) @ amplitudes
    total = np.zeros(amplitudes.shape[1])
    for channel, a in enumerate(amplitudes.T):
        turns = np.flatnonzero(values[1:, channel] * values[:-1, channel] < 0)
        low, high = lags[turns], lags[turns + 1]
        is_up = values[turns, channel] > 0
        for _ in range(45):
            middle = 0.5 * (low + high)
            stays = (np.exp(-middle[:, None] * rates) @ a > 0) == is_up
            low, high = np.where(stays, middle, low), np.where(stays, high, middle)
        edges = np.concatenate([[0.0], 0.5 * (low + high)])
        primitive = np.append(np.exp(-edges[:, None] * rates) @ (a / rates), 0.0)
        total[channel] = np.abs(np.diff(primitive)).sum()
    return float(total.reshape(first.n_outputs, first.n_inputs).sum(axis=1).max())


def _norm(functional: Any, dt: float | None) -> float:
    if dt is not None:
        return _sum_of_steps(dt, functional)
    return float(measure_norm(_without_silent_units(functional), norm="l1"))


def _sum_of_steps(dt: float, *terms: Any) -> float:
    """Returns `max_o Σ_k Σ_i |K_k - K̃_k|` of the kernel integrals over steps."""
    total, first = 0.0, 0
    slowest = min((_slowest(term) for term in terms), default=1.0)
    n_steps = int(min(max(40 / (slowest * dt), 64) + 1, _MOST_STEPS))
    while first < n_steps:
        counts = np.arange(first, min(first + _CHUNK, n_steps))
        parts = [_integrals(term, counts, dt) for term in terms]
        gap = parts[0] if len(parts) == 1 else parts[0] - parts[1]
        total = total + np.abs(gap).sum(axis=(0, 2))
        first += _CHUNK
    return float(np.max(total))


def _integrals(term: Any, counts: np.ndarray, dt: float) -> np.ndarray:
    if getattr(term, "dt", None) is not None:
        return np.asarray(term.kernel(dt * (counts + 0.5)), float) * dt
    edges = dt * np.concatenate([counts, counts[-1:] + 1])
    return np.diff(np.asarray(term.step_response(edges), float), axis=0)


def _slowest(term: Any) -> float:
    if isinstance(term, DiagonalRNN):
        rates = np.real(np.asarray(term.rates))
        return float(rates[rates > 0].min(initial=math.inf))
    if isinstance(term, LinearRNN):
        eigenvalues = np.linalg.eigvals(np.asarray(term.A, float))
        if term.dt is None:
            return float(-eigenvalues.real.max())
        return -math.log(max(float(np.abs(eigenvalues).max()), 1e-300)) / term.dt
    return 1e-3 / max(float(getattr(term, "timescale", 1.0)), 1e-300)


def _without_silent_units(model: Any) -> Any:
    if not isinstance(model, DiagonalRNN):
        return model
    rates = np.asarray(model.rates)
    moves = np.real(rates) > 0
    if not moves.any():
        moves[0], rates = True, np.where(np.arange(len(rates)) == 0, 1.0, rates)
    # Rates as numbers: maps may not reach where rounding puts them.
    return DiagonalRNN(
        rates[moves],
        np.asarray(model.input_matrix)[moves],
        np.asarray(model.C)[:, moves],
    )


def _lags(model: Any, radius: float) -> tuple[Callable[[Any, Any], Any], dict[str, np.ndarray]]:
    """Returns a fixed rule for ∫|·|, good enough to rank by, and the error on it."""
    slowest, fastest = _extreme_rates(model, radius)
    is_dense = isinstance(model, LinearRNN)
    if model.dt is not None:
        # Steps: the first 64 one by one, then eight to an octave.
        n_octaves = int(np.clip(math.log2(max(45 / (slowest * model.dt), 65) / 64), 1, 40)) + 1
        octaves = [2.0**k * (64 + 8 * np.arange(8)) for k in range(n_octaves)]
        counts = np.concatenate([np.arange(64.0), *octaves])
        mass = np.concatenate([np.ones(64), *[np.full(8, 8 * 2.0**k) for k in range(n_octaves)]])
        data = {"counts": counts, "mass": model.dt * mass}
        return (_dense_steps_error if is_dense else _diagonal_steps_error), data
    if not is_dense:
        edges = np.concatenate([[0.0], np.geomspace(1e-3 / fastest, 45 / slowest, 61)])
        points, mass = np.polynomial.legendre.leggauss(8)
        half = 0.5 * np.diff(edges)
        lags = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * points).ravel()
        return _diagonal_error, {"lags": lags, "mass": (half[:, None] * mass).ravel()}
    # Sixteen equal steps per octave: one squaring of e^{As} and sixteen products with B.
    size = max(fastest, float(np.linalg.norm(np.asarray(model.A, float), 2)))
    h = 0.5 / size
    n_octaves = 4 * math.ceil((np.clip(math.log2(45 / (slowest * h)), 1, 60) + 1) / 4)
    simpson = np.where(np.arange(_PER_OCTAVE + 1) % 2 == 1, 4.0, 2.0) / 3
    simpson[[0, -1]] = 1 / 3
    scales = h * np.concatenate([[1.0], 2.0 ** np.arange(n_octaves)])
    starts = np.concatenate([[0.0], scales[1:]])
    share = np.arange(_PER_OCTAVE + 1) / _PER_OCTAVE
    return _dense_error, {
        "lags": (starts[:, None] + scales[:, None] * share).ravel(),
        "mass": (scales[:, None] * simpson / _PER_OCTAVE).ravel(),
        "step": np.array(h / _PER_OCTAVE),
    }


_PER_OCTAVE = 16


def _gap(kernel: Any, data: Any) -> Any:
    return jnp.max(data["mass"] @ jnp.abs(kernel - data["wanted"]).sum(axis=2))


def _modes(decay: Any, moved: Any, data: Any) -> Any:
    amplitudes = moved.amplitudes
    total = decay @ amplitudes.reshape(len(amplitudes), -1)
    value = _gap(jnp.real(total).reshape(len(decay), *amplitudes.shape[1:]), data)
    is_sound = _are_decaying(moved, moved.reparam.forward(moved.weights))
    return jnp.where(is_sound, value, jnp.inf)


def _diagonal_error(moved: Any, data: Any) -> Any:
    return _modes(jnp.exp(-data["lags"][:, None] * moved.rates), moved, data)


def _diagonal_steps_error(moved: Any, data: Any) -> Any:
    decay = jnp.exp(-data["counts"][:, None] * moved.dt * moved.rates) / moved.dt
    return _modes(decay, moved, data)


def _powers(step: Any, state: Any, n: int) -> tuple[Any, Any]:
    def advance(state, _):
        return step @ state, state

    return jax.lax.scan(advance, state, None, length=n)


def _dense_error(moved: Any, data: Any) -> Any:
    step, term = jnp.eye(moved.width), jnp.eye(moved.width)
    for k in range(1, 8):
        term = moved.A @ term * (data["step"] / k)
        step = step + term

    def grow(carry, _):
        step, state = carry
        last, states = _powers(step, state, _PER_OCTAVE)
        return (step @ step, last), jnp.concatenate([states, last[None]])

    last, first = _powers(step, moved.B + 0 * moved.A[:, :1], _PER_OCTAVE)
    n_octaves = len(data["mass"]) // (_PER_OCTAVE + 1) - 1
    _, rest = jax.lax.scan(grow, (step, last), None, length=n_octaves)
    states = jnp.concatenate([first, last[None], rest.reshape(-1, *rest.shape[2:])])
    return _gap(jnp.einsum("om,nmi->noi", moved.C, states), data)


def _dense_steps_error(moved: Any, data: Any) -> Any:
    _, first = _powers(moved.A, moved.B + 0 * moved.A[:, :1], 64)
    hop = moved.A
    for _ in range(3):
        hop = hop @ hop
    leap = hop
    for _ in range(3):
        leap = leap @ leap

    def grow(carry, _):
        hop, leap = carry
        _, states = _powers(hop, leap @ moved.B, 8)
        return (hop @ hop, leap @ leap), states

    n_octaves = (len(data["mass"]) - 64) // 8
    _, rest = jax.lax.scan(grow, (hop, leap), None, length=n_octaves)
    states = jnp.concatenate([first, rest.reshape(-1, *rest.shape[2:])])
    return _gap(jnp.einsum("om,nmi->noi", moved.C, states) / moved.dt, data)


def _extreme_rates(model: Any, radius: float) -> tuple[float, float]:
    if isinstance(model, LinearRNN):
        eigenvalues = np.linalg.eigvals(np.asarray(model.A, float))
        if model.dt is None:
            return 0.03 * float(-eigenvalues.real.max()), float(np.abs(eigenvalues).max())
        slowest = -math.log(max(float(np.abs(eigenvalues).max()), 1e-12)) / model.dt
        return 0.03 * slowest, 1 / model.dt
    v = np.asarray(model.weights, float)
    here = np.asarray(model.reparam.forward(v), float)
    with np.errstate(all="ignore"):
        ends = [np.asarray(model.reparam.forward(v + s * radius), float) for s in (-1, 1)]
    reached = np.concatenate([here, *ends])
    reached = reached[np.isfinite(reached) & (reached > 1e-3 * here.min())]
    fastest = min(float(reached.max()), 1e3 * float(here.max()))
    if model.frequencies is not None:
        fastest = max(fastest, float(np.abs(np.asarray(model.frequencies)).max()))
    return float(reached.min()), fastest


# Sample paths.


@dataclasses.dataclass(frozen=True)
class _OnPaths:
    """The error on the paths in the data."""

    norm: str
    dt: float

    def __call__(self, moved: Any, data: Any) -> Any:
        outputs = jax.vmap(lambda path: moved(path, dt=self.dt))(data["paths"])
        return self.measure(outputs - data["wanted"], data["sizes"])

    def measure(self, gap: Any, sizes: Any) -> Any:
        """Returns the norm of outputs, shape (path, time, out)."""
        if self.norm == "mse":
            return jnp.mean(gap**2)
        gap = gap / sizes
        speed = jnp.diff(gap, axis=1, prepend=0.0) / self.dt
        return jnp.max(jnp.max(jnp.abs(gap), axis=(0, 2)) + jnp.max(jnp.abs(speed), axis=(0, 2)))


@functools.lru_cache(maxsize=64)
def _compiled_on_paths(layout: Layout, norm: str, dt: float) -> tuple[Any, Any, Any]:
    error = _OnPaths(norm, dt)

    def outputs(flat, arrays, paths):
        moved = layout.restore(flat, arrays)
        return jax.lax.map(lambda path: moved(path, dt=dt), paths, batch_size=_BATCH)

    def whole(flat, arrays, data):
        gap = outputs(flat, arrays, data["paths"]) - data["wanted"]
        return error.measure(gap, data["sizes"])

    compile = lambda function: in_float64(jax.jit(function))  # noqa: E731
    return compile(outputs), compile(whole), compile(error.measure)
