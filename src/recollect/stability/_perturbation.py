"""How much the answer of a network changes when its weights move: a supremum, searched."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_nonnegative,
    wrong_type,
)
from recollect._core._functional import AbstractFunctional
from recollect._core._precision import in_float64
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.models import DiagonalRNN
from recollect.stability._theory import bound_perturbation_error, real_weights
from recollect.targets import SumKernel, measure_norm

BALLS = ("paper", "euclidean")
NORMS = ("l1", "mse", "w1")


@dataclasses.dataclass(frozen=True, eq=False)
class StabilityCurve:
    """E_m(β): the largest error that moving the weights by β can cause, per network and radius.

    Attributes:
        errors: shape (network, radius), non-decreasing in the radius; infinite where a perturbed
            network diverges. Lower estimates where they are searched.
        radii: β, increasing.
        widths: of the networks.
        sampled: the same from random directions only (the paper's way), never above `errors`.
        bounds: proved upper bounds where there are any (L1 norm), else infinite.
        norm: `l1`, `mse` or `w1`.
        ball: `paper` or `euclidean`.
        of: `all` weights or `rates`.
        status: `infinite` if a network diverges within the radii.
        stats: evaluations.
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

    Projected gradient ascent from many directions, and from the worst weights of the radius before;
    every value reported is evaluated anew, in the exact norm or on all paths. A perturbed network that
    diverges makes the error infinite: it is never dropped. Random directions alone (`sampled`) are the
    paper's experiment.

    Args:
        networks: a model of `recollect.models`, or several.
        radii: β ≥ 0, increasing.
        target: H; each network itself by default, so that E(0) = 0.
        norm: `l1`, the operator norm (real diagonal networks; the default for them), `mse` over
            paths, or `w1`: `sup_t (|Δy_t| + |Δy_t'|)/|x|_∞` over paths, as in Definition 3.7.
        ball: `paper`, every weight array by β in the spectral norm, or `euclidean`, all together.
        of: `all` weights, or `rates` of a diagonal network.
        paths: inputs, shape (path, time, in); needed for `mse` and `w1`.
        dt: step of the paths.
        n_starts: random directions per radius.
        n_steps: steps of ascent.
        n_search_paths: paths the search looks at.
        key: seed of the directions.

    Returns:
        The curve.

    Source: Wang, Li, Li 2024, Definitions 3.4, 3.5 and 3.7.
    """
    models = list(networks) if isinstance(networks, (list, tuple)) else [networks]
    radii = np.atleast_1d(np.asarray(radii, float))
    if radii.ndim != 1 or not len(radii) or (np.diff(radii) < 0).any():
        raise invalid("radii", "increasing radii, shape (radius,)", f"shape {radii.shape}")
    require_nonnegative("radii", float(radii[0]))
    require_choice("ball", ball, BALLS)
    require_choice("of", of, ("all", "rates"))
    require_count("n_starts", n_starts)
    for model in models:
        if not isinstance(model, AbstractFunctional):
            raise wrong_type("networks", "models of recollect.models", type(model).__name__)
    if norm is None:
        norm = "l1" if all(isinstance(m, DiagonalRNN) for m in models) and paths is None else "mse"
    require_choice("norm", norm, NORMS)
    if norm != "l1" and paths is None:
        raise invalid("paths", "inputs of shape (path, time, in)", "none", "or use norm='l1'")
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
        bounds=np.array([row[2] for row in rows]),
        norm=norm,
        ball=ball,
        of=of,
        status=status,
        stats={"n_evaluations": sum(row[3] for row in rows)},
    )


def _curve(model, radii, target, norm, ball, of, paths, dt, n_starts, n_steps, n_search, key):
    flat, restore, segments = _weights(model, of)
    if norm == "l1":
        search, judge = _l1_objectives(model, target, restore, radii, of)
        bounds = np.array([_bound(model, target, b, of) for b in radii])
    else:
        search, judge = _path_objectives(
            model, target, restore, norm, np.asarray(paths, float), dt, n_search
        )
        bounds = np.full(len(radii), np.inf)
    rng = np.random.default_rng(key)
    directions = rng.standard_normal((n_starts, len(flat)))

    def project(shift, radius):
        if ball == "euclidean":
            return shift * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(shift), 1e-300))
        parts = []
        for start, stop, shape in segments:
            part = shift[start:stop].reshape(shape)
            size = jnp.linalg.norm(part, ord=2) if len(shape) == 2 else jnp.linalg.norm(part)
            if of == "rates":
                size = jnp.max(jnp.abs(part))
            parts.append((part * jnp.minimum(1.0, radius / jnp.maximum(size, 1e-300))).ravel())
        return jnp.concatenate(parts)

    def spread(shift, radius):
        # Onto the surface of the ball: the error is convex-like, its maximum is there.
        if ball == "euclidean":
            return shift * radius / jnp.maximum(jnp.linalg.norm(shift), 1e-300)
        parts = []
        for start, stop, shape in segments:
            part = shift[start:stop].reshape(shape)
            if of == "rates":
                size = jnp.max(jnp.abs(part))
            else:
                size = jnp.linalg.norm(part, ord=2) if len(shape) == 2 else jnp.linalg.norm(part)
            parts.append((part * radius / jnp.maximum(size, 1e-300)).ravel())
        return jnp.concatenate(parts)

    def ascend(start, radius):
        def step(carry, k):
            shift, best, best_value = carry
            value, slope = jax.value_and_grad(search)(flat + shift)
            better = jnp.isfinite(value) & (value > best_value)
            best = jnp.where(better, shift, best)
            best_value = jnp.where(better, value, best_value)
            # What is not finite has diverged: stay there, it is reported.
            diverged = ~jnp.isfinite(value)
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
            length = radius * (0.6 * (1 - k / n_steps) + 0.05) * jnp.sqrt(1.0 * len(segments))
            moved = project(
                shift + length * slope / jnp.maximum(jnp.linalg.norm(slope), 1e-300), radius
            )
            return (jnp.where(diverged, shift, moved), best, best_value), diverged

        begin = (start, start, -jnp.inf)
        (last, best, _), diverged = jax.lax.scan(step, begin, jnp.arange(n_steps))
        return jnp.where(jnp.any(diverged), last, best)

    ascend_all = in_float64(
        jax.jit(
            lambda starts, radius: jax.lax.map(lambda s: ascend(s, radius), starts, batch_size=8)
        )
    )
    # Values on the search's own grid or paths only rank; what is reported is judged anew.
    rank = in_float64(
        jax.jit(lambda shifts: jax.lax.map(lambda s: search(flat + s), shifts, batch_size=8))
    )
    surface = in_float64(jax.jit(lambda ds, radius: jax.vmap(lambda d: spread(d, radius))(ds)))
    errors, sampled, n_evaluations = [], [], 0
    worst: np.ndarray | None = None
    previous = 1.0
    so_far = -math.inf
    for radius in radii:
        if so_far == math.inf:
            errors.append(math.inf)
            sampled.append(sampled[-1])
            continue
        if radius == 0:
            value = judge(flat)
            errors.append(value)
            sampled.append(value)
            so_far = value
            continue
        starts = np.asarray(surface(directions, float(radius)))
        draws = judge(flat + starts[_best(rank(starts))])
        begins = starts if worst is None else np.vstack([starts, worst * radius / previous])
        found = np.asarray(ascend_all(begins, float(radius)))
        top = found[_best(rank(found))]
        value = judge(flat + top)
        n_evaluations += len(begins) * (n_steps + 2)
        so_far = max(so_far, value, draws)
        errors.append(so_far)
        sampled.append(max(draws, sampled[-1] if sampled else -math.inf))
        if math.isfinite(value):
            worst, previous = top, float(radius)
    return errors, sampled, bounds, n_evaluations


def _best(values: Any) -> int:
    # What is not finite has diverged, which is worse than any number.
    values = np.asarray(values)
    return int(np.argmax(np.where(np.isfinite(values), values, np.inf)))


def _bound(model, target, radius, of) -> float:
    own = bound_perturbation_error(model, radius, of=of)
    if target is None:
        return own
    return own + float(measure_norm(SumKernel((target, model), (1.0, -1.0)), norm="l1"))


def _weights(model: Any, of: str):
    """Returns the weights that move as one vector, how to put them back, and where each array lies."""
    if of == "rates":
        if not isinstance(model, DiagonalRNN):
            raise invalid("of", "'all' for networks without rates", "'rates'", "use a DiagonalRNN")
        flat = np.asarray(model.weights, float)
        return (
            flat,
            lambda x: eqx.tree_at(lambda m: m.weights, model, x),
            [(0, len(flat), flat.shape)],
        )
    moving, fixed = eqx.partition(model, eqx.is_inexact_array_like)
    leaves, tree = jax.tree.flatten(moving)
    shapes = [np.shape(leaf) for leaf in leaves]
    stops = np.cumsum([math.prod(shape) for shape in shapes])
    segments = [
        (int(stop - math.prod(shape)), int(stop), shape)
        for stop, shape in zip(stops, shapes, strict=True)
        if math.prod(shape)
    ]
    flat = np.concatenate([np.asarray(leaf, float).ravel() for leaf in leaves])

    def restore(x):
        pieces = [
            x[int(stop) - math.prod(shape) : int(stop)].reshape(shape)
            for stop, shape in zip(stops, shapes, strict=True)
        ]
        return eqx.combine(jax.tree.unflatten(tree, pieces), fixed)

    return flat, restore, segments


def _l1_objectives(model, target, restore, radii, of):
    v, _, _ = real_weights(model)
    reference = model if target is None else target
    slowest = min(
        float(np.min(np.asarray(model.reparam.forward(v - b), float).clip(1e-300))) for b in radii
    )
    rates = np.asarray(model.rates, float)
    slowest = max(slowest, 1e-3 * rates.min())
    edges = np.concatenate([[0.0], np.geomspace(1e-3 / rates.max(), 45 / slowest, 61)])
    points, weights = np.polynomial.legendre.leggauss(8)
    half = 0.5 * np.diff(edges)
    t = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * points).ravel()
    mass = (half[:, None] * weights).ravel()
    wanted = np.asarray(reference.kernel(t))[:, 0, 0]

    def search(x):
        moved = restore(x)
        w = moved.reparam.forward(moved.weights)
        kernel = jnp.exp(-t[:, None] * w) @ (moved.C[0] * moved.B[:, 0])
        return jnp.where(jnp.all(w > 0), jnp.sum(mass * jnp.abs(kernel - wanted)), jnp.inf)

    def judge(x):
        moved = restore(np.asarray(x))
        rates = np.asarray(moved.reparam.forward(np.asarray(moved.weights)), float)
        if not (rates > 0).all() or not np.isfinite(x).all():
            return math.inf
        plain = DiagonalRNN(rates, np.asarray(moved.B), np.asarray(moved.C))
        return float(measure_norm(SumKernel((reference, plain), (1.0, -1.0)), norm="l1"))

    return search, judge


def _path_objectives(model, target, restore, norm, paths, dt, n_search):
    if paths.ndim != 3 or paths.shape[2] != model.n_inputs:
        raise invalid("paths", f"shape (path, time, {model.n_inputs})", f"shape {paths.shape}")
    if target is None:
        all_at_once = in_float64(
            jax.jit(lambda xs: jax.lax.map(lambda x: model(x, dt=dt), xs, batch_size=256))
        )
        wanted = np.asarray(all_at_once(paths))
    else:
        wanted = np.stack([np.asarray(target(x, dt=dt), float) for x in paths])
    size = np.abs(paths).max(axis=(1, 2), keepdims=True)

    def error(moved, xs, ys, sizes):
        out = jax.lax.map(lambda x: moved(x, dt=dt), xs, batch_size=256)
        gap = out - ys
        if norm == "mse":
            return jnp.mean(gap**2)
        speed = jnp.diff(gap, axis=1) / dt
        return jnp.max((jnp.abs(gap[:, 1:]) + jnp.abs(speed)) / sizes)

    some = paths[:n_search], wanted[:n_search], size[:n_search]

    def search(x):
        return error(restore(x), *(jnp.asarray(part) for part in some))

    whole = in_float64(jax.jit(lambda x, *parts: error(restore(x), *parts)))

    def judge(x):
        value = float(whole(np.asarray(x, float), paths, wanted, size))
        return value if math.isfinite(value) else math.inf

    return search, judge
