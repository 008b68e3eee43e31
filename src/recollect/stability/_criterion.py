"""The criterion of stable reparameterisation for any map, with the case that refutes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from recollect._core._check import require_choice, require_count, require_positive, wrong_type
from recollect._core._functional import AbstractReparam
from recollect._core._references import references
from recollect._core._status import Status
from recollect.models import DiscreteDirect, DiscreteInverseSquare
from recollect.stability._theory import predict_criterion

# Between these a quotient of two rates has all its digits.
_SMALLEST, _LARGEST = 1e-290, 1e290


@dataclasses.dataclass(frozen=True)
class Criterion:
    """How far rates move when weights do, over all weights tried.

    Attributes:
        value: the largest `|f(v)/f(ṽ) - 1|` found: a lower estimate of g(β).
        weight: v where it was found.
        moved: ṽ.
        is_stable: True where a finite g(β) is proved for this map; False where a pair (v, ṽ) refutes
            it; None where a search found nothing against it, which is evidence and no proof.
        status: `ok`; `infinite` with the counterexample in words; `undecided` where the value still
            grows at the end of the range or does not vanish with the radius; `precision_limit` where
            float64 ended first.
        largest: the weights tried whose rates float64 holds lie within ± this.
        values: the same at β/4, β/16 and β/64, over the same weights: they must go to zero.
    """

    value: float
    weight: float
    moved: float
    is_stable: bool | None
    status: Status
    largest: float = math.inf
    values: tuple[float, ...] = ()


@references("wang2024stablessm")
def measure_criterion(
    reparam: AbstractReparam | Callable[[Any], Any],
    radius: float,
    *,
    largest: float = 1e4,
    n_weights: int = 4001,
    time: str | None = None,
) -> Criterion:
    """Returns g(β) of any map from weights to rates, searched over weights, or its counterexample.

    `g(β) = sup_v sup_{|ṽ-v| ≤ β} |f(v)/f(ṽ) - 1|`. Weights are spaced finely around zero and
    logarithmically beyond, both signs, and more finely around the worst; each is moved by up to β
    either way. A rate that is negative, not a number, or zero within β of one that is not, refutes
    the map. Where float64 alone turns a rate into 0 or infinity, nothing is concluded.

    Args:
        reparam: a parameterisation, or a function from arrays of weights to arrays of rates.
        radius: β > 0.
        largest: largest weight tried.
        n_weights: how many.
        time: `continuous`, or `discrete` for a map from weights to multipliers of one step, whose
            distance from one takes the place of the rate; found from the map if omitted.

    Returns:
        The value is a lower estimate: a search proves instability, never stability.

    Raises:
        ValueError: if the radius, `largest` or `n_weights` is not positive.
    """
    radius = require_positive("radius", radius)
    largest = require_positive("largest", largest)
    require_count("n_weights", n_weights)
    rate = _rate_of(reparam, time)
    half = np.geomspace(1e-4 * radius, largest, max(2, n_weights // 2))
    near = np.linspace(-4 * radius, 4 * radius, 801)
    v = np.unique(np.concatenate([-half, near, half]))
    found = _search(rate, v, radius)
    if isinstance(found, Criterion):
        return found
    value, weight, moved, values, reach = found
    for _ in range(4):
        # The worst weight, closed in on.
        span = 0.25 * max(radius, abs(weight) * 0.05)
        again = _search(rate, np.linspace(weight - span, weight + span, 201), radius)
        if isinstance(again, Criterion):
            return again
        if not again[0] > value:
            break
        value, weight, moved = again[:3]
    status = Status()
    smaller = tuple(_value(rate, v, radius / 4**k) for k in (1, 2, 3))
    inner = float(values[np.abs(v) <= math.sqrt(reach)].max(initial=0.0))
    if value > 2 * inner:
        words = f"still growing at v = {weight:.3g}: {value:.3g} after {inner:.3g}"
        status = Status("undecided", words)
    elif smaller[-1] > 0.25 * value:
        words = (
            f"{smaller[-1]:.3g} is left at a radius of {radius / 64:.3g}: f jumps or turns faster"
        )
        status = Status("undecided", words)
    elif reach < largest:
        words = f"beyond v = ±{reach:.3g} a rate leaves the range of float64"
        status = Status("precision_limit", words)
    is_stable = None
    if isinstance(reparam, AbstractReparam):
        try:
            proved = predict_criterion(reparam, radius)
        except TypeError:
            proved = math.nan
        if math.isfinite(proved):
            is_stable, status = True, Status()
    return Criterion(value, weight, moved, is_stable, status, reach, smaller)


@references("wang2024stablessm")
def measure_gradient_scale(
    reparam: AbstractReparam | Callable[[Any], Any], weight: Any, *, time: str | None = None
) -> np.ndarray:
    """Returns `|f'(v)|/f(v)²` of any map, by central differences of `1/f` (Richardson).

    Args:
        reparam: a parameterisation, or a function from arrays of weights to arrays of rates.
        weight: v, any shape.
        time: as in `measure_criterion`.

    Returns:
        Shape of `weight`, to about nine digits where f is smooth; NaN where a rate is not positive.
    """
    rate = _rate_of(reparam, time)
    v = np.asarray(weight, float)
    flat = v.ravel()
    size = np.maximum(1.0, np.abs(flat))

    def slope(h):
        with np.errstate(all="ignore"):
            here, there = rate(flat + h * size), rate(flat - h * size)
            # Of log f, whose scale is that of the weight even where the rate is tiny.
            difference = (np.log(here) - np.log(there)) / (2 * h * size)
        return difference

    coarse, middle, fine = (slope(h) for h in (4e-3, 2e-3, 1e-3))
    first = (4 * middle - coarse) / 3
    second = (4 * fine - middle) / 3
    with np.errstate(all="ignore"):
        scale = np.abs((16 * second - first) / 15) / rate(flat)
    return np.where(rate(flat) > 0, scale, np.nan).reshape(v.shape)


def _rate_of(reparam: Any, time: str | None) -> Callable[[np.ndarray], np.ndarray]:
    forward = reparam.forward if isinstance(reparam, AbstractReparam) else reparam
    if not callable(forward):
        raise wrong_type("reparam", "a map from weights to rates", type(reparam).__name__)
    is_step = isinstance(reparam, (DiscreteDirect, DiscreteInverseSquare))
    if time is not None:
        require_choice("time", time, ("continuous", "discrete"))

    def rate(v: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            if isinstance(reparam, DiscreteDirect):
                return 1 - v
            values = np.asarray(forward(v), float)
            if is_step and time != "continuous":
                return -np.expm1(-values * reparam.dt)
            return 1 - values if time == "discrete" and not is_step else values

    return rate


def _search(rate: Any, v: np.ndarray, radius: float) -> Criterion | tuple:
    """Returns the counterexample, or the largest ratio, where it is, all ratios and their reach."""
    moves = radius * np.linspace(-1, 1, 41)
    here = rate(v)
    there = rate((v[:, None] + moves).ravel()).reshape(len(v), -1)
    pairs = np.broadcast_to(here[:, None], there.shape)
    is_sound = (pairs > _SMALLEST) & (pairs < _LARGEST)
    bad = is_sound & ((there < 0) | np.isnan(there))
    if bad.any():
        return _refuted(v, moves, here, there, bad)
    # A zero or a pole: real if it is met within a hair of rates of ordinary size.
    lost = is_sound & ((there == 0) | np.isinf(there))
    for i, j in np.argwhere(lost)[:: max(1, int(lost.sum()) // 50)]:
        if _is_abrupt(rate, float(v[i]), float(v[i] + moves[j])):
            only = np.zeros_like(lost)
            only[i, j] = True
            return _refuted(v, moves, here, there, only)
    is_fair = is_sound & (there > _SMALLEST) & (there < _LARGEST)
    with np.errstate(all="ignore"):
        ratio = np.where(is_fair, np.abs(pairs / there - 1), 0.0)
    outside = np.abs(v[~is_fair.all(axis=1)])
    reach = float(outside.min()) if outside.size else float(np.abs(v).max())
    i, j = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return float(ratio[i, j]), float(v[i]), float(v[i] + moves[j]), ratio.max(axis=1), reach


def _value(rate: Any, v: np.ndarray, radius: float) -> float:
    found = _search(rate, v, radius)
    return math.inf if isinstance(found, Criterion) else found[0]


def _is_abrupt(rate: Any, start: float, end: float) -> bool:
    """Says whether f leaves the range of float64 between two weights at once, not by shrinking to it."""

    def edge(is_inside):
        inside, outside = start, end
        for _ in range(200):
            middle = 0.5 * (inside + outside)
            if middle in (inside, outside):
                break
            value = float(rate(np.array([middle]))[0])
            inside, outside = (middle, outside) if is_inside(value) else (inside, middle)
        return outside

    ordinary = edge(lambda value: 1e-150 < value < 1e150)
    sound = edge(lambda value: 0 < value < math.inf)
    return abs(ordinary - sound) <= 1e-6 * abs(end - start)


def _refuted(v: Any, moves: Any, here: Any, there: Any, bad: Any) -> Criterion:
    # The mildest case: the weight nearest to zero that shows it.
    cases = np.argwhere(bad)
    i, j = cases[np.argmin(np.abs(v[cases[:, 0]]))]
    words = f"f({v[i]:.4g}) = {here[i]:.3g} but f({v[i] + moves[j]:.4g}) = {there[i, j]:.3g}"
    status = Status("infinite", words)
    return Criterion(math.inf, float(v[i]), float(v[i] + moves[j]), False, status)
