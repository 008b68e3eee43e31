"""How much the answer of a network changes when its weights move: a supremum, searched."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_finite,
    require_nonnegative,
    require_positive,
    wrong_type,
)
from recollect._core._functional import AbstractFunctional, AbstractLinearFunctional
from recollect._core._precision import in_float64
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.models import DiagonalRNN, LinearRNN
from recollect.stability._theory import MOVING, bound_perturbation_error
from recollect.stability._weights import Weights, moving_weights
from recollect.targets import SumKernel, measure_norm

BALLS = ("paper", "euclidean")
NORMS = ("l1", "mse", "w1")
_BATCH = 256
_STARTS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class StabilityCurve:
    """E_m(β): the largest error that moving the weights by β can cause, per network and radius.

    Attributes:
        errors: shape (network, radius), non-decreasing in the radius; infinite where a perturbed
            network diverges. Searched, hence lower estimates.
        radii: β, increasing.
        widths: of the networks.
        sampled: the same from random directions only (the paper's way), never above `errors`.
        bounds: proved upper bounds where there are any (L1 norm, real diagonal networks), else
            infinite.
        norm: `l1`, `mse` or `w1`.
        ball: `paper` or `euclidean`.
        of: `all` weights, `rates` or `fixed_readin`.
        status: `infinite` if a network diverges within the radii.
        stats: `n_evaluations` of the search's objective.
        sizes: ‖H‖ in the same norm, per network: what an error is to be compared with.
        agreement: shape (network, radius): share of the starts carried to the end that come within
            5 % of the best; near zero says that another seed may find more.
    """

    errors: np.ndarray
    radii: np.ndarray
    widths: np.ndarray
    sampled: np.ndarray
    bounds: np.ndarray
    norm: str
    ball: str
    of: str
    status: Status
    stats: dict[str, int]
    sizes: np.ndarray | None = None
    agreement: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Where to search, how to judge, and what is known."""

    search: Callable[[Any], Any]
    judge: Callable[[np.ndarray], float]
    size: float
    bounds: np.ndarray | None
    escapes: Callable[[float], bool]


@references("wang2024inverse")
@on_one_thread
def measure_perturbation_error(
    networks: Any,
    radii: Any,
    *,
    target: AbstractFunctional | None = None,
    norm: str | None = None,
    ball: str = "paper",
    of: str = "all",
    paths: Any = None,
    dt: float = 1.0,
    n_starts: int = 30,
    n_steps: int = 30,
    n_search_paths: int = 128,
    key: int = 0,
) -> StabilityCurve:
    """Returns `E_m(β) = sup_{|θ̃-θ| ≤ β} ‖H - Ĥ(θ̃)‖` for networks of several widths.

    Conditional-gradient ascent from random directions and from the worst weights of the radius
    before: each step goes towards the point of the ball that the gradient points at, by a length that
    grows after a gain and shrinks after a loss. All starts take a quarter of the steps, the best
    quarter of them the rest. Every value reported is evaluated anew, in the exact norm or on all
    paths; a smaller ball lies in a larger one, so values never fall. A perturbed network that
    diverges makes the error infinite: it is never dropped. Random directions alone (`sampled`) are
    the paper's experiment.

    Args:
        networks: a model of `recollect.models`, or several.
        radii: β ≥ 0, increasing.
        target: H; each network itself by default, so that E(0) = 0.
        norm: `l1`, the operator norm (linear networks, exact; the default for them without paths);
            `mse`, the mean square over paths; or `w1` of Definition 3.7,
            `max_t (max |Δy_t|/|x|_∞ + max |Δy_t'|/|x|_∞)` over paths. Paths are finite: `mse` and `w1`
            are lower estimates of what longer ones would show, `w1` infinite for an unstable linear
            network.
        ball: `paper`, every weight array by β in its spectral norm (a diagonal of rates: every rate
            by β), or `euclidean`, all together.
        of: `all` weights; `rates` of a diagonal network; or `fixed_readin`, all but the input matrix.
        paths: inputs, shape (path, time, in); needed for `mse` and `w1`.
        dt: step of the paths.
        n_starts: random directions per radius.
        n_steps: steps of ascent.
        n_search_paths: paths the search looks at.
        key: seed of the directions.

    Returns:
        The curve: `sampled ≤ errors ≤ bounds`, the true supremum between the last two.

    Raises:
        ValueError: if a weight is not finite, or the norm does not fit the networks.
        TypeError: if a network has no weights to move (a black box).

    Source: Wang, Li, Li 2024, Definitions 3.4, 3.5 and 3.7.
    """
    models = list(networks) if isinstance(networks, (list, tuple)) else [networks]
    radii = np.atleast_1d(np.asarray(radii, float))
    if radii.ndim != 1 or not len(radii) or not np.isfinite(radii).all():
        raise invalid("radii", "finite radii, shape (radius,)", f"shape {radii.shape}")
    if (np.diff(radii) < 0).any():
        raise invalid("radii", "increasing radii", "others")
    require_nonnegative("radii", float(radii[0]))
    require_choice("ball", ball, BALLS)
    require_choice("of", of, MOVING)
    require_count("n_starts", n_starts)
    require_count("n_steps", n_steps)
    require_count("n_search_paths", n_search_paths)
    dt = require_positive("dt", dt)
    if not models:
        raise invalid("networks", "at least one network", "none")
    for model in models:
        if not isinstance(model, AbstractFunctional):
            raise wrong_type("networks", "models of recollect.models", type(model).__name__)
    are_linear = all(isinstance(model, (DiagonalRNN, LinearRNN)) for model in models)
    if norm is None:
        norm = "l1" if are_linear and paths is None else "mse"
    require_choice("norm", norm, NORMS)
    if norm == "l1" and not are_linear:
        raise invalid("norm", "'mse' or 'w1' for nonlinear networks", "'l1'", "give paths")
    if norm == "l1" and not isinstance(target, (AbstractLinearFunctional, type(None))):
        raise invalid("norm", "'mse' or 'w1' for a nonlinear target", "'l1'", "give paths")
    if norm != "l1":
        if paths is None:
            raise invalid("paths", "inputs of shape (path, time, in)", "none", "or use norm='l1'")
        paths = np.asarray(paths, float)
        require_finite("paths", paths)
    rows = [
        _curve(m, radii, target, norm, ball, of, paths, dt, n_starts, n_steps, n_search_paths, key)
        for m in models
    ]
    errors = np.array([row[0] for row in rows])
    infinite = ~np.isfinite(errors)
    status = Status()
    if infinite.any():
        first = radii[np.argmax(infinite.any(axis=0))]
        status = Status("infinite", f"a network diverges from β = {first:.3g} on")
    return StabilityCurve(
        errors=errors,
        radii=radii,
        widths=np.array([getattr(m, "width", 0) for m in models]),
        sampled=np.array([row[1] for row in rows]),
        bounds=np.array(
            [
                np.full(len(radii), np.inf) if row[2].bounds is None else row[2].bounds
                for row in rows
            ]
        ),
        norm=norm,
        ball=ball,
        of=of,
        status=status,
        stats={"n_evaluations": sum(row[3] for row in rows)},
        sizes=np.array([row[2].size for row in rows]),
        agreement=np.array([row[4] for row in rows]),
    )


def _curve(model, radii, target, norm, ball, of, paths, dt, n_starts, n_steps, n_search, key):
    weights = moving_weights(model, of)
    if norm == "l1":
        problem = _l1_problem(model, target, weights, radii, of)
    else:
        problem = _path_problem(model, target, weights, norm, paths, dt, n_search)
    ascent = _Ascent(weights, problem.search, ball)
    directions = np.random.default_rng(key).standard_normal((n_starts, len(weights.flat)))
    n_first = max(1, n_steps // 4)
    n_carried = max(2, n_starts // 4)
    errors, sampled, agreement = [], [], []
    worst: np.ndarray | None = None
    previous = 1.0
    so_far, drawn = -math.inf, -math.inf
    for radius in radii:
        if radius == 0:
            so_far = drawn = problem.judge(weights.flat)
            errors.append(so_far)
            sampled.append(so_far)
            agreement.append(1.0)
            continue
        if drawn < math.inf:
            starts = ascent.surface(directions, radius)
            states = ascent.begin(starts)
            drawn = max(drawn, problem.judge(weights.flat + starts[_largest(states[1])]))
        sampled.append(drawn)
        is_lost = so_far == math.inf or problem.escapes(float(radius))
        so_far = max(so_far, drawn, math.inf if is_lost else -math.inf)
        if so_far == math.inf:
            # Larger balls hold the same weights: there is nothing left to search for.
            errors.append(math.inf)
            agreement.append(1.0)
            continue
        states = ascent.climb(states, radius, n_first)
        order = np.argsort(-states[1], kind="stable")[: n_carried - (worst is not None)]
        states = [part[order] for part in states]
        if worst is not None:
            again = ascent.begin((worst * radius / previous)[None])
            states = [np.concatenate(pair) for pair in zip(again, states, strict=True)]
        states = ascent.climb(states, radius, n_steps - n_first)
        top = states[0][_largest(states[1])]
        so_far = max(so_far, problem.judge(weights.flat + top))
        errors.append(so_far)
        agreement.append(float(np.mean(states[1] >= 0.95 * states[1].max())))
        worst, previous = top, float(radius)
    return errors, sampled, problem, ascent.n_evaluations, agreement


class _Ascent:
    """Conditional-gradient ascent of many starts, a batch at a time through one compiled function."""

    def __init__(self, weights: Weights, search: Callable[[Any], Any], ball: str):
        self.weights, self.ball, self.n_evaluations = weights, ball, 0

        def step(state, radius):
            # The best point so far, its value and slope, and how far to go towards the surface.
            shift, value, slope, share = state
            aim = weights.furthest(slope, radius, ball)
            tried = jnp.where(value == -jnp.inf, shift, shift + share * (aim - shift))
            new_value, new_slope = jax.value_and_grad(search)(weights.flat + tried)
            # What is not a number has diverged, which is worse than any number.
            new_value = jnp.where(jnp.isnan(new_value), jnp.inf, new_value)
            is_better = new_value > value
            shift = jnp.where(is_better, tried, shift)
            slope = jnp.where(is_better, jnp.where(jnp.isfinite(new_slope), new_slope, 0.0), slope)
            share = jnp.where(is_better, jnp.minimum(1.0, 2 * share), share / 3)
            return shift, jnp.maximum(value, new_value), slope, share

        def climb(states, radius, count):
            every = jax.vmap(lambda state: step(state, radius))
            return jax.lax.fori_loop(0, count, lambda _, states: every(states), states)

        surface = jax.vmap(lambda d, radius: weights.surface(d, radius, ball), in_axes=(0, None))
        self._climb = in_float64(jax.jit(climb))
        self._surface = in_float64(jax.jit(surface))

    def surface(self, directions: np.ndarray, radius: float) -> np.ndarray:
        """Returns the shifts of size β along directions."""
        return self._surface(directions, float(radius))

    def begin(self, shifts: np.ndarray) -> list[np.ndarray]:
        """Returns the states of an ascent from shifts, each evaluated once."""
        n = len(shifts)
        values = np.full(n, -np.inf)
        return self.climb([shifts, values, np.zeros_like(shifts), np.full(n, 1.0)], 0.0, 1)

    def climb(self, states: list[np.ndarray], radius: float, n_steps: int) -> list[np.ndarray]:
        """Returns the states after so many steps."""
        n = len(states[0])
        if n_steps == 0:
            return states
        self.n_evaluations += n * n_steps
        parts = []
        for first in range(0, n, _STARTS):
            rows = np.minimum(np.arange(first, first + _STARTS), n - 1)
            batch = tuple(part[rows] for part in states)
            parts.append(self._climb(batch, float(radius), n_steps))
        return [np.concatenate(part)[:n] for part in zip(*parts, strict=True)]


def _largest(values: np.ndarray) -> int:
    return int(np.argmax(values))


def _l1_problem(model: Any, target: Any, weights: Weights, radii: np.ndarray, of: str) -> _Problem:
    reference = model if target is None else target
    if is_unstable(model):
        bounds = np.full(len(radii), np.inf)
        size = math.inf if target is None else float(measure_norm(target, norm="l1"))
        return _Problem(
            search=lambda x: jnp.inf + 0 * jnp.sum(x),
            judge=lambda x: math.inf,
            size=size,
            bounds=bounds,
            escapes=lambda radius: True,
        )
    rule = _lags(model, weights, float(radii[-1]))
    wanted = np.asarray(reference.kernel(rule.lags), float)

    def search(x):
        moved = weights.restore(x)
        gap = jnp.abs(rule.kernel(moved) - wanted).sum(axis=2)
        value = jnp.max(rule.mass @ gap)
        if isinstance(moved, DiagonalRNN):
            decay = moved.reparam.forward(moved.weights)
            value = jnp.where(_are_decaying(model, decay), value, jnp.inf)
        return value

    def judge(x):
        moved = weights.restore(np.asarray(x, float))
        if not np.isfinite(x).all() or is_unstable(moved):
            return math.inf
        with np.errstate(over="ignore"):
            return _distance(reference, moved)

    own = np.array([_own_bound(model, b, of) for b in radii])
    apart = 0.0 if target is None else _distance(reference, model)
    size = float(measure_norm(reference, norm="l1"))
    return _Problem(search, judge, size, own + apart, lambda r: _escapes(model, r))


def _distance(first: Any, second: Any) -> float:
    first, second = _without_silent_units(first), _without_silent_units(second)
    return float(measure_norm(SumKernel((first, second), (1.0, -1.0)), norm="l1", rtol=1e-9))


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
        dt=model.dt,
    )


def _own_bound(model: Any, radius: float, of: str) -> float:
    try:
        return bound_perturbation_error(model, radius, of=of)
    except (TypeError, ValueError):
        return math.inf


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


def _are_decaying(model: Any, rates: Any) -> Any:
    # A unit at rest is silent with the normalised read-in, and integrates with the plain one.
    xp = jnp if isinstance(rates, jax.Array) else np
    return xp.all(rates > 0 if model.readin == "plain" else rates >= 0)


def is_unstable(model: Any) -> bool:
    """Says whether a linear network has a mode that does not decay."""
    if isinstance(model, DiagonalRNN):
        return not bool(_are_decaying(model, np.real(np.asarray(model.rates))))
    eigenvalues = np.linalg.eigvals(np.asarray(model.A, float))
    if model.dt is None:
        return bool(np.max(eigenvalues.real) >= 0)
    return bool(np.max(np.abs(eigenvalues)) >= 1)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Lags, their weights, and the kernel of a network there, inside JAX."""

    lags: np.ndarray
    mass: np.ndarray
    kernel: Callable[[Any], Any]


def _lags(model: Any, weights: Weights, radius: float) -> _Rule:
    """Returns a fixed rule for ∫|·|, good enough to rank by; what is reported is judged anew."""
    slowest, fastest = _extreme_rates(model, weights, radius)
    if model.dt is None:
        return (
            _dense_rule(model, slowest, fastest)
            if isinstance(model, LinearRNN)
            else (_diagonal_rule(slowest, fastest))
        )
    # Steps: the first 64 one by one, then eight to an octave.
    n_octaves = int(np.clip(math.log2(max(45 / (slowest * model.dt), 65) / 64), 1, 40)) + 1
    octaves = [2.0**k * (64 + 8 * np.arange(8)) for k in range(n_octaves)]
    counts = np.concatenate([np.arange(64.0), *octaves])
    mass = np.concatenate([np.ones(64), *[np.full(8, 8 * 2.0**k) for k in range(n_octaves)]])

    def diagonal(moved):
        decay = jnp.exp(-counts[:, None] * model.dt * moved.rates) / model.dt
        return _modes(decay, moved)

    def dense(moved):
        def power(state, _):
            return moved.A @ state, state

        _, start = jax.lax.scan(power, moved.B + 0 * moved.A[:, :1], None, length=64)
        leap = moved.A
        for _ in range(3):
            leap = leap @ leap
        big = leap
        for _ in range(3):
            big = big @ big
        parts = [start]
        for _ in range(n_octaves):
            hop, block = big @ moved.B, []
            for _ in range(8):
                block.append(hop)
                hop = leap @ hop
            parts.append(jnp.stack(block))
            leap, big = leap @ leap, big @ big
        return jnp.einsum("om,nmi->noi", moved.C, jnp.concatenate(parts)) / model.dt

    kernel = dense if isinstance(model, LinearRNN) else diagonal
    return _Rule(model.dt * (counts + 0.5), model.dt * mass, kernel)


def _diagonal_rule(slowest: float, fastest: float) -> _Rule:
    edges = np.concatenate([[0.0], np.geomspace(1e-3 / fastest, 45 / slowest, 61)])
    points, mass = np.polynomial.legendre.leggauss(8)
    half = 0.5 * np.diff(edges)
    lags = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * points).ravel()

    def kernel(moved):
        return _modes(jnp.exp(-lags[:, None] * moved.rates), moved)

    return _Rule(lags, (half[:, None] * mass).ravel(), kernel)


def _dense_rule(model: Any, slowest: float, fastest: float) -> _Rule:
    # Sixteen equal steps per octave: one squaring of e^{As} and sixteen products with B.
    size = max(fastest, float(np.linalg.norm(np.asarray(model.A, float), 2)))
    h = 0.5 / size
    n_octaves = int(np.clip(math.log2(45 / (slowest * h)), 1, 48)) + 1
    n = 16
    simpson = np.where(np.arange(n + 1) % 2 == 1, 4.0, 2.0) / 3
    simpson[[0, -1]] = 1 / 3
    scales = h * np.concatenate([[1.0], 2.0 ** np.arange(n_octaves)])
    starts = np.concatenate([[0.0], scales[1:]])
    lags = (starts[:, None] + scales[:, None] * np.arange(n + 1) / n).ravel()
    mass = (scales[:, None] * simpson / n).ravel()

    def kernel(moved):
        step, term = jnp.eye(model.width), jnp.eye(model.width)
        for k in range(1, 8):
            term = moved.A @ term * (h / n / k)
            step = step + term

        def octave(step, state):
            def advance(state, _):
                return step @ state, state

            last, states = jax.lax.scan(advance, state, None, length=n)
            return last, jnp.concatenate([states, last[None]])

        def grow(carry, _):
            step, state = carry
            last, states = octave(step, state)
            return (step @ step, last), states

        state, first = octave(step, moved.B + 0 * moved.A[:, :1])
        _, rest = jax.lax.scan(grow, (step, state), None, length=n_octaves)
        states = jnp.concatenate([first, rest.reshape(-1, *rest.shape[2:])])
        return jnp.einsum("om,nmi->noi", moved.C, states)

    return _Rule(lags, mass, kernel)


def _modes(decay: Any, moved: Any) -> Any:
    amplitudes = moved.amplitudes
    total = decay @ amplitudes.reshape(len(amplitudes), -1)
    return jnp.real(total).reshape(len(decay), *amplitudes.shape[1:])


def _extreme_rates(model: Any, weights: Weights, radius: float) -> tuple[float, float]:
    if isinstance(model, LinearRNN):
        eigenvalues = np.linalg.eigvals(np.asarray(model.A, float))
        if model.dt is None:
            rates = -eigenvalues.real
            return 0.03 * float(rates.min()), float(np.abs(eigenvalues).max())
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


def _path_problem(
    model: Any,
    target: Any,
    weights: Weights,
    norm: str,
    paths: np.ndarray,
    dt: float,
    n_search: int,
) -> _Problem:
    if paths.ndim != 3 or paths.shape[2] != model.n_inputs or not paths.size:
        raise invalid("paths", f"shape (path, time, {model.n_inputs})", f"shape {paths.shape}")
    size = np.abs(paths).max(axis=(1, 2), keepdims=True)
    if norm == "w1" and (size == 0).any():
        raise invalid("paths", "paths that are not zero", "a path of zeros")
    if target is None:
        all_at_once = in_float64(
            jax.jit(lambda xs: jax.lax.map(lambda x: model(x, dt=dt), xs, batch_size=_BATCH))
        )
        wanted = np.asarray(all_at_once(paths))
    else:
        wanted = np.stack([np.asarray(target(x, dt=dt), float) for x in paths])
    if not np.isfinite(wanted).all() and target is not None:
        raise invalid("target", "finite outputs on the paths", "others")

    def measure(gap, sizes):
        if norm == "mse":
            return jnp.mean(gap**2)
        gap = gap / sizes
        speed = jnp.diff(gap, axis=1, prepend=0.0) / dt
        return jnp.max(jnp.max(jnp.abs(gap), axis=(0, 2)) + jnp.max(jnp.abs(speed), axis=(0, 2)))

    def error(moved, xs, ys, sizes):
        out = jax.lax.map(lambda x: moved(x, dt=dt), xs, batch_size=_BATCH)
        return measure(out - ys, sizes)

    some = paths[:n_search], wanted[:n_search], size[:n_search]

    def search(x):
        moved = weights.restore(x)
        xs, ys, sizes = (jnp.asarray(part) for part in some)
        return measure(jax.vmap(lambda path: moved(path, dt=dt))(xs) - ys, sizes)

    whole = in_float64(jax.jit(lambda x, *parts: error(weights.restore(x), *parts)))
    is_linear = isinstance(model, (DiagonalRNN, LinearRNN))

    def judge(x):
        x = np.asarray(x, float)
        if norm == "w1" and is_linear and is_unstable(weights.restore(x)):
            return math.inf
        value = float(whole(x, paths, wanted, size))
        return value if math.isfinite(value) else math.inf

    with np.errstate(all="ignore"):
        total = float(in_float64(measure)(wanted, size))

    def escapes(radius):
        return norm == "w1" and is_linear and _escapes(model, radius)

    return _Problem(search, judge, total, None, escapes)
