"""How much the answer of a network changes when its weights move: a supremum, searched."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

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
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.models import DiagonalRNN, LinearRNN
from recollect.stability._ascent import Ascent
from recollect.stability._errors import state_l1_problem, state_path_problem, state_w1_problem
from recollect.stability._theory import MOVING
from recollect.stability._weights import moving_weights

BALLS = ("paper", "euclidean")
NORMS = ("l1", "mse", "w1")


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

    Conditional-gradient ascent from random directions, from those that make the memory longer and
    the network louder, and from the worst weights of the radius before: each step goes towards the point of the ball that the gradient points at, by a length that
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
            `max_t (max |Δy_t|/|x|_∞ + max |Δy_t'|/|x|_∞)` over paths, or exactly `‖Δρ‖₁ + |Δρ(0)| + ‖Δρ'‖₁`
            for continuous linear networks without paths. Paths are finite: `mse` and `w1` over them
            are lower estimates of what longer ones would show, `w1` infinite for an unstable linear
            network.
        ball: `paper`, every weight array by β in its spectral norm (a diagonal of rates: every rate
            by β), or `euclidean`, all together.
        of: `all` weights; `rates` of a diagonal network; or `fixed_readin`, all but the input matrix.
        paths: inputs, shape (path, time, in); needed for `mse`, and for `w1` of other networks.
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
    parts = [*models, *([] if target is None else [target])]
    is_exact = norm == "l1" or (norm == "w1" and paths is None and _are_continuous(parts))
    if not is_exact:
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
        bounds=np.array([row[2] for row in rows]),
        norm=norm,
        ball=ball,
        of=of,
        status=status,
        stats={"n_evaluations": sum(row[3] for row in rows)},
        sizes=np.array([row[5] for row in rows]),
        agreement=np.array([row[4] for row in rows]),
    )


def _are_continuous(parts: list[Any]) -> bool:
    kinds = (DiagonalRNN, LinearRNN)
    return all(isinstance(part, kinds) and part.dt is None for part in parts)


def _curve(model, radii, target, norm, ball, of, paths, dt, n_starts, n_steps, n_search, key):
    weights = moving_weights(model, of)
    if norm == "l1":
        problem = state_l1_problem(model, target, weights, float(radii[-1]), of)
    elif paths is None:
        problem = state_w1_problem(model, target, weights, float(radii[-1]))
    else:
        problem = state_path_problem(model, target, weights, norm, paths, dt, n_search)
    ascent = Ascent(weights, problem.objective, problem.data, ball)
    directions = np.random.default_rng(key).standard_normal((n_starts, len(weights.flat)))
    hints = weights.hints(model)
    n_first = max(1, n_steps // 4)
    n_carried = max(2, n_starts // 4)
    errors, sampled, agreement = [], [], []
    worst: np.ndarray | None = None
    previous = 1.0
    so_far, drawn = -math.inf, -math.inf
    for radius in radii:
        states = None
        if radius == 0:
            so_far = drawn = problem.judge(weights.flat)
        elif drawn < math.inf:
            states = ascent.begin(ascent.surface(directions, radius))
            drawn = max(drawn, problem.judge(weights.flat + states[0][np.argmax(states[1])]))
        if drawn == math.inf or (radius > 0 and problem.escapes(float(radius))):
            # Larger balls hold the same weights: there is nothing left to search for.
            so_far = math.inf
        sampled.append(drawn)
        so_far = max(so_far, drawn)
        agreement.append(1.0)
        if states is None or so_far == math.inf:
            errors.append(so_far)
            continue
        if len(hints):
            known = ascent.begin(ascent.surface(hints, radius))
            states = tuple(np.concatenate(pair) for pair in zip(states, known, strict=True))
        states = ascent.climb(states, radius, n_first)
        order = np.argsort(-states[1], kind="stable")[: n_carried - (worst is not None)]
        states = tuple(part[order] for part in states)
        if worst is not None:
            again = ascent.begin((worst * radius / previous)[None])
            states = tuple(np.concatenate(pair) for pair in zip(again, states, strict=True))
        states = ascent.climb(states, radius, n_steps - n_first)
        top = states[0][np.argmax(states[1])]
        so_far = max(so_far, problem.judge(weights.flat + top))
        errors.append(so_far)
        agreement[-1] = float(np.mean(states[1] >= 0.95 * states[1].max()))
        worst, previous = top, float(radius)
    bounds = np.array([problem.bound(float(radius)) for radius in radii])
    return errors, sampled, bounds, ascent.n_evaluations, agreement, problem.size
