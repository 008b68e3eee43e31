"""The criterion of stable reparameterisation, computed for any map, with the case that refutes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from recollect._core._check import require_positive, wrong_type
from recollect._core._functional import AbstractReparam
from recollect._core._references import references
from recollect._core._status import Status


@dataclasses.dataclass(frozen=True)
class Criterion:
    """How far rates move when weights do, over all weights tried.

    Attributes:
        value: the largest `|f(v)/f(ṽ) - 1|` found: a lower estimate of g(β).
        weight: v where it was found.
        moved: ṽ.
        is_stable: False if it is infinite or grows without limit over the range; None if it only
            still grows at the end of the range.
        status: `ok`, or `infinite` with the counterexample in words.
    """

    value: float
    weight: float
    moved: float
    is_stable: bool | None
    status: Status


@references("wang2024stablessm")
def measure_criterion(
    reparam: AbstractReparam | Callable[[Any], Any],
    radius: float,
    *,
    largest: float = 1e4,
    n_weights: int = 4001,
) -> Criterion:
    """Returns g(β) of any map from weights to rates, searched over weights, or its counterexample.

    `g(β) = sup_v sup_{|ṽ-v| ≤ β} |f(v)/f(ṽ) - 1|`. Weights are spaced finely around zero and
    logarithmically beyond, both signs; each is moved by up to β either way.

    Args:
        reparam: a parameterisation, or a function from arrays of weights to arrays of rates.
        radius: β > 0.
        largest: largest weight tried.
        n_weights: how many.

    Returns:
        The value is a lower estimate: a search proves instability, never stability.
    """
    radius = require_positive("radius", radius)
    forward = reparam.forward if isinstance(reparam, AbstractReparam) else reparam
    if not callable(forward):
        raise wrong_type("reparam", "a map from weights to rates", type(reparam).__name__)
    half = np.geomspace(1e-4 * radius, largest, n_weights // 2)
    near = np.linspace(-4 * radius, 4 * radius, 801)
    v = np.sort(np.concatenate([-half, near, half]))
    moves = radius * np.linspace(-1, 1, 41)
    with np.errstate(all="ignore"):
        here = np.asarray(forward(v), float)
        there = np.asarray(forward((v[:, None] + moves).ravel()), float).reshape(len(v), -1)
        ratio = np.abs(here[:, None] / there - 1)
    dead = (there <= 0) & (here[:, None] > 0)
    if dead.any():
        i, j = np.argwhere(dead)[0]
        words = f"f({v[i]:.4g}) = {here[i]:.3g} but f({v[i] + moves[j]:.4g}) = {there[i, j]:.3g}"
        return Criterion(
            math.inf, float(v[i]), float(v[i] + moves[j]), False, Status("infinite", words)
        )
    # Where both are below the smallest number the ratio says nothing.
    ratio[~np.isfinite(ratio)] = 0.0
    i, j = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    found = Criterion(float(ratio[i, j]), float(v[i]), float(v[i] + moves[j]), True, Status())
    inner = float(ratio[np.abs(v) <= math.sqrt(largest)].max())
    if found.value > 2 * inner:
        words = f"still growing at v = {v[i]:.3g}: {found.value:.3g} after {inner:.3g}"
        return dataclasses.replace(found, is_stable=None, status=Status("undecided", words))
    return found
