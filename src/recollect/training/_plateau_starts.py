"""All weights of a wider network that give a sum of exponentials: the starts on a plateau."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_count,
    require_nonnegative,
    require_positive,
)
from recollect._core._references import references


@dataclasses.dataclass(frozen=True)
class PlateauStart:
    """Weights of width m whose kernel is exactly a given sum of fewer exponentials.

    Attributes:
        amplitudes: shape (width,).
        rates: shape (width,).
        labels: shape (width,): the mode each unit belongs to; labels from the number of modes on
            are idle groups, whose amplitudes sum to zero.
        dimension: of the affine family with this partition (its idle rates counted as free).
    """

    amplitudes: np.ndarray
    rates: np.ndarray
    labels: np.ndarray
    dimension: int


@references("li2021curse")
def count_plateau_families(width: int, n_modes: int, *, n_idle: int = 0) -> int:
    """Returns how many partitions of the units give the same kernel of `n_modes` exponentials.

    Units are shared out to the modes, each of which gets at least one, and to `n_idle` idle
    groups that cancel within themselves: `S(m, m*+i) (m*+i)!/i!` with Stirling's number of the
    second kind; `m*! S(m, m*)` without idle groups.

    Args:
        width: m.
        n_modes: m*.
        n_idle: i.

    Raises:
        ValueError: if the width is not positive or a number is negative.

    Source: Li et al. 2021, definition C.1, lemma C.3, remark C.2.
    """
    width, n_modes = require_count("width", width), require_count("n_modes", n_modes, minimum=0)
    n_idle = require_count("n_idle", n_idle, minimum=0)
    groups = n_modes + n_idle
    return stirling(width, groups) * math.factorial(groups) // math.factorial(n_idle)


@references("li2021curse")
def list_plateau_partitions(
    width: int, n_modes: int, *, n_idle: int = 0
) -> Iterator[tuple[int, ...]]:
    """Returns an iterator over the partitions that `count_plateau_families` counts.

    Each is a tuple of labels, one per unit: modes are 0..n_modes-1, idle groups follow in the order
    of their first unit.

    Args:
        width: m.
        n_modes: m*.
        n_idle: number of idle groups.

    Raises:
        ValueError: if the width is not positive or a number is negative.
    """
    width, n_modes = require_count("width", width), require_count("n_modes", n_modes, minimum=0)
    n_idle = require_count("n_idle", n_idle, minimum=0)
    groups = n_modes + n_idle
    for labels in itertools.product(range(groups), repeat=width):
        if len(set(labels)) < groups:
            continue
        idle = list(dict.fromkeys(label for label in labels if label >= n_modes))
        if idle == sorted(idle):
            yield labels


@references("li2021curse")
def draw_plateau_starts(
    amplitudes: Any,
    rates: Any,
    *,
    width: int,
    n_starts: int,
    n_idle: int = 0,
    spread: float = 0.5,
    positive: bool = False,
    key: int = 0,
) -> tuple[PlateauStart, ...]:
    """Returns random weights of a network of `width` units with kernel `Σ_j a*_j e^{-w*_j t}`.

    Lemma C.3: these are exactly the weights whose units fall into one group per mode, of equal
    rate w*_j and with amplitudes that sum to a*_j, and idle groups of any other common rate whose
    amplitudes sum to zero (a single idle unit has amplitude zero). On such a start the gradient
    is that of the rest of the target alone.

    Args:
        amplitudes: a*_j, not zero, shape (mode,).
        rates: w*_j, positive and distinct, shape (mode,).
        width: units, at least one per mode and idle group.
        n_starts: number of starts.
        n_idle: idle groups; their rates lie log-uniformly within a factor 10 of the modes'.
        spread: standard deviation of the amplitudes about an equal split, in units of |a*_j|.
        positive: split a mode into shares of one sign (uniform on the simplex) instead.
        key: seed.

    Returns:
        The starts, partitions drawn uniformly among all assignments.

    Raises:
        ValueError: if the width is too small, rates coincide or an amplitude is zero.
    """
    owner = "draw_plateau_starts"
    a = np.atleast_1d(host_float64("amplitudes", amplitudes, owner=owner))
    w = np.atleast_1d(host_float64("rates", rates, owner=owner))
    if a.ndim != 1 or a.shape != w.shape:
        raise invalid("rates", f"shape {a.shape}, as the amplitudes", f"shape {w.shape}")
    if (a == 0).any():
        raise invalid("amplitudes", "amplitudes other than zero", a.tolist())
    if (w <= 0).any() or len(np.unique(w)) < len(w):
        raise invalid("rates", "positive, distinct rates", w.tolist())
    width, n_starts = require_count("width", width), require_count("n_starts", n_starts)
    n_idle = require_count("n_idle", n_idle, minimum=0)
    require_nonnegative("spread", spread)
    groups = len(a) + n_idle
    if width < groups:
        raise invalid("width", f"at least {groups} units: one per mode and idle group", width)
    rng = np.random.default_rng(require_count("key", key, minimum=0))
    low, high = math.log(w.min() / 10), math.log(w.max() * 10)
    starts = []
    for _ in range(n_starts):
        labels = _assignment(rng, width, groups)
        level = np.concatenate([a, np.zeros(n_idle)])
        common = np.concatenate([w, np.exp(rng.uniform(low, high, n_idle))])
        split = np.empty(width)
        for group in range(groups):
            units = np.flatnonzero(labels == group)
            split[units] = _split(rng, level[group], len(units), spread, positive, np.abs(a).max())
        starts.append(PlateauStart(split, common[labels], labels, width - len(a)))
    return tuple(starts)


def _assignment(rng: np.random.Generator, width: int, groups: int) -> np.ndarray:
    """Returns labels onto `groups`, uniform among surjections: unit by unit with exact counts."""
    labels, used = np.empty(width, int), []
    for unit in range(width):
        rest = width - unit - 1
        old = len(used) * _onto(rest, groups, len(used)) if used else 0
        new = (groups - len(used)) * _onto(rest, groups, len(used) + 1)
        # Counts are exact integers of any size; their ratio is a float.
        if rng.random() < float(old / (old + new)):
            labels[unit] = used[rng.integers(len(used))]
        else:
            unused = [g for g in range(groups) if g not in used]
            labels[unit] = unused[rng.integers(len(unused))]
            used.append(int(labels[unit]))
    return labels


def _onto(n: int, groups: int, used: int) -> int:
    """Number of ways to label n units so that the groups not yet used all occur."""
    missing = groups - used
    if missing < 0:
        return 0
    return sum((-1) ** k * math.comb(missing, k) * (groups - k) ** n for k in range(missing + 1))


def _split(
    rng: np.random.Generator, total: float, n: int, spread: float, positive: bool, scale: float
) -> np.ndarray:
    if n == 1:
        return np.array([total])
    if positive and total != 0:
        return total * rng.dirichlet(np.ones(n))
    size = require_positive("spread", spread) * (abs(total) or scale)
    noise = size * rng.standard_normal(n)
    parts = total / n + noise - noise.mean()
    # The last share closes the sum to the last bit.
    parts[-1] = total - parts[:-1].sum()
    return parts


def stirling(n: int, k: int) -> int:
    """Returns the number of partitions of n labelled units into k groups (second kind)."""
    if k > n:
        return 0
    row = [1] + [0] * k
    for _ in range(n):
        row = [0] + [row[j - 1] + j * row[j] for j in range(1, k + 1)]
    return row[k]
