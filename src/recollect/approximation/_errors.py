"""Errors of a fit in every norm, on a grid that the fit never saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from recollect.approximation._problem import FitGrid

_CHECK_ORDER = 10


@dataclasses.dataclass(frozen=True)
class Deviation:
    """The difference ρ - ρ̂ seen on a grid.

    Args:
        l1: max over outputs of ∫ Σ_in |e|.
        l2: (∫ Σ e²)^½.
        linf: max over lags and outputs of Σ_in |e|.
        crossings: lags where the difference changes sign (one output and input only).
    """

    l1: float
    l2: float
    linf: float
    crossings: np.ndarray


def measure_deviation(
    grid: FitGrid,
    fitted: Callable[[np.ndarray], np.ndarray],
    *,
    rates: np.ndarray,
    amplitudes: np.ndarray,
) -> Deviation:
    """Returns the error of `fitted` (lags -> (lag, out, in)) on the check grid.

    L1 integrals are split where the difference changes sign; beyond the last node the kernel's
    own tail and the sum's closed form are added, so every value is an upper estimate there.

    Args:
        grid: the kernel; only its check nodes are used.
        fitted: the exponential sum.
        rates, amplitudes: its modes, for the tail, shapes (mode,) and (mode, out, in).
    """
    t, w = grid.check_nodes, grid.check_weights
    error = grid.check_values - fitted(t)
    size = np.abs(error)
    l2 = float(w @ (error * error).sum(axis=(1, 2)))
    crossings = np.zeros(0)
    if error.shape[1:] == (1, 1):
        crossings, total = _split_integral(grid, fitted, error[:, 0, 0])
        l1 = np.array([total])
    else:
        l1 = (w[:, None] * size.sum(axis=2)).sum(axis=0)
    linf = _supremum(grid, fitted, error)
    tail = _sum_tail(rates, amplitudes, float(t[-1]))
    return Deviation(
        l1=float(l1.max() + grid.tails["l1"] + tail[0]),
        l2=float(np.sqrt(l2 + (grid.tails["l2"] + tail[1]) ** 2)),
        linf=float(max(linf, grid.tails["linf"] + tail[2])),
        crossings=crossings,
    )


def _sum_tail(rates: np.ndarray, amplitudes: np.ndarray, last: float) -> tuple[float, float, float]:
    """Norms of the sum beyond `last` in closed form (L1 and Linf: at most these)."""
    alive = rates.real * last < 700
    if not alive.any():
        return 0.0, 0.0, 0.0
    rates, amplitudes = rates[alive], amplitudes[alive]
    a = (amplitudes * np.exp(-rates * last)[:, None, None]).reshape(len(rates), -1)
    size = np.abs(a).sum(axis=1)
    gram = 1 / (rates[:, None] + rates.conj())
    square = float(np.einsum("ic,ij,jc->", a, gram, a.conj()).real)
    return (
        float((size / rates.real).sum()),
        float(np.sqrt(max(square, 0.0))),
        float(size.sum()),
    )


def locate_crossings(
    grid: FitGrid, fitted: Callable[[np.ndarray], np.ndarray], error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns lags where the scalar error on the check nodes changes sign, and the node before."""
    t = grid.check_nodes
    negative = error < 0
    index = np.flatnonzero(negative[1:] != negative[:-1])
    if not len(index):
        return np.zeros(0), index
    return (
        locate_sign_changes(
            lambda lags: (grid.kernel(lags) - fitted(lags))[:, 0, 0],
            (t[index], t[index + 1]),
            (error[index], error[index + 1]),
            rtol=4e-15,
        ),
        index,
    )


def locate_sign_changes(
    error: Callable[[np.ndarray], np.ndarray],
    ends: tuple[np.ndarray, np.ndarray],
    errors: tuple[np.ndarray, np.ndarray],
    *,
    rtol: float,
) -> np.ndarray:
    """Returns where `error` changes sign between `ends`, by secants and bisection, all at once."""
    low, high = (end.copy() for end in ends)
    f_low, f_high = (end.copy() for end in errors)
    for step in range(60):
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = (low * f_high - high * f_low) / (f_high - f_low)
        inside = (middle > low) & (middle < high)
        middle = np.where(inside & (step % 3 != 2), middle, (low + high) / 2)
        value = error(middle)
        same = (value < 0) == (f_low < 0)
        exact = value == 0
        low, f_low = np.where(same, middle, low), np.where(same, value, f_low)
        high, f_high = np.where(same, high, middle), np.where(same, f_high, value)
        low, high = np.where(exact, middle, low), np.where(exact, middle, high)
        if np.all(high - low <= rtol * high):
            break
    return (low + high) / 2


def _split_integral(
    grid: FitGrid, fitted: Callable[[np.ndarray], np.ndarray], error: np.ndarray
) -> tuple[np.ndarray, float]:
    """∫ |e| for one channel, panels with a change of sign cut there."""
    crossings, _ = locate_crossings(grid, fitted, error)
    parts = np.abs(error) * grid.check_weights
    if not len(crossings):
        return crossings, float(parts.sum())
    starts, stops = grid.check_edges
    panel = np.searchsorted(starts, crossings, side="right") - 1
    x, weights = np.polynomial.legendre.leggauss(_CHECK_ORDER)
    lefts, rights = [], []
    for p in np.unique(panel):
        cuts = crossings[panel == p]
        edges = np.concatenate([[starts[p]], cuts, [stops[p]]])
        lefts.append(edges[:-1])
        rights.append(edges[1:])
        parts[p * _CHECK_ORDER : (p + 1) * _CHECK_ORDER] = 0.0
    left, right = np.concatenate(lefts), np.concatenate(rights)
    nodes = left[:, None] + (right - left)[:, None] * (x + 1) / 2
    values = (grid.kernel(nodes.ravel()) - fitted(nodes.ravel()))[:, 0, 0].reshape(nodes.shape)
    pieces = np.abs(values * weights).sum(axis=1) * (right - left) / 2
    return crossings, float(parts.sum() + pieces.sum())


def _supremum(
    grid: FitGrid, fitted: Callable[[np.ndarray], np.ndarray], error: np.ndarray
) -> float:
    edges = np.unique(np.concatenate(grid.check_edges))
    # Just inside both ends of every panel: a jump of the kernel shows its two sides.
    ends = np.concatenate([edges, edges[1:] * (1 - 1e-15)])
    t = np.concatenate([grid.check_nodes, ends])
    at_ends = np.abs(grid.kernel(ends) - fitted(ends)).sum(axis=2).max(axis=1)
    height = np.concatenate([np.abs(error).sum(axis=2).max(axis=1), at_ends])
    order = np.argsort(t, kind="stable")
    t, height = t[order], height[order]
    best = float(height.max())
    is_peak = (height[1:-1] >= height[:-2]) & (height[1:-1] >= height[2:])
    peak = np.flatnonzero(is_peak & (height[1:-1] > 0.8 * best))
    if len(peak):
        left, right = t[peak], t[peak + 2]
        for _ in range(2):
            fine = np.linspace(left, right, 21)
            values = np.abs(grid.kernel(fine.ravel()) - fitted(fine.ravel()))
            values = values.sum(axis=2).max(axis=1).reshape(fine.shape)
            best = max(best, float(values.max()))
            top = np.clip(values.argmax(axis=0), 1, 19)
            left = fine[top - 1, np.arange(len(peak))]
            right = fine[top + 1, np.arange(len(peak))]
    return best
