"""The construction of the width theorem: equispaced rates and a polynomial in e^{-spacing t}."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special

from recollect._core._check import invalid, require_count, require_positive
from recollect._core._functional import AbstractLinearFunctional
from recollect._core._references import references
from recollect._core._status import Status
from recollect.approximation._theory import (
    _require_linear,
    bound_erlang_error,
    bound_fixed_rate_error,
    canonical_lags,
)
from recollect.models import LinearRNN


@dataclasses.dataclass(frozen=True)
class ConstructedSum:
    """A network built by a proof, with the error it has and the errors that are proved.

    Args:
        model: the network.
        rates: its rates, shape (width,), in 1/time.
        error: L1 distance of the kernels, measured on an independent quadrature.
        bound: proved upper bound on that error (infinite where no hypothesis was given).
        bound_below: proved lower bound for any network with these rates (zero if none is known).
        status: how the construction ended.
        stats: what it counted.
    """

    model: LinearRNN
    rates: np.ndarray
    error: float
    bound: float
    bound_below: float = 0.0
    status: Status = dataclasses.field(default_factory=Status)
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return len(self.rates)


@references("li2021curse")
def fit_fixed_rates(
    functional: AbstractLinearFunctional, *, width: int, spacing: float, n_refinements: int = 40
) -> ConstructedSum:
    """Returns the network of Theorem 4.2: rates spacing, 2·spacing, …, m·spacing.

    With `s = e^{-spacing t}`, `q(s) = ρ(t)/s` and Q a polynomial of degree m - 1 near the L1-best
    one, `ρ̂(t) = s Q(s)` and `‖ρ - ρ̂‖_1 = ∫_0^1 |q - Q| ds / spacing`. Q interpolates at Markov's
    canonical points (best where the error changes sign there only) and is refined by reweighting
    otherwise. The theorem takes spacing = β/(α+1).

    Args:
        functional: anything with a kernel, one output or one input.
        width: m.
        spacing: distance of the rates, in 1/time.
        n_refinements: steps of reweighted least squares towards the L1-best polynomial.

    Returns:
        The network in input-normal form (the monomial coefficients would lose a digit for every
        unit and a half), its error, and the least error these rates allow.

    Raises:
        TypeError: if the functional has no kernel.
        ValueError: if it has several outputs and inputs, or the width or spacing is not positive.

    Assumptions: an integrable kernel. Source: Li et al. 2021, Appendix B.
    """
    _require_linear("functional", functional)
    width, spacing = require_count("width", width), require_positive("spacing", spacing)
    n_outputs, n_inputs = functional.n_outputs, functional.n_inputs
    if min(n_outputs, n_inputs) > 1:
        raise invalid(
            "functional",
            "one output or one input",
            f"{n_outputs} outputs and {n_inputs} inputs",
            "fit one output at a time",
        )
    lags, weights = _judging_grid(functional, width, spacing)
    s = np.exp(-spacing * lags)
    target = np.asarray(functional.kernel(lags), dtype=np.float64).reshape(len(lags), -1)
    jumps = canonical_lags(width, spacing)
    at_jumps = np.asarray(functional.kernel(jumps), dtype=np.float64).reshape(width, -1)
    nodes = np.exp(-spacing * jumps)
    coefficients = np.linalg.solve(_basis(nodes, width, spacing), at_jumps)
    basis = _basis(s, width, spacing)
    best = _distance(target, basis @ coefficients, weights)
    below = bound_fixed_rate_error(functional, width=width, spacing=spacing)
    if width <= 128 and best.sum() > 1.002 * below:  # interpolation is not already the best
        refined = _refine(target, basis, weights, coefficients, n_refinements)
        distance = _distance(target, basis @ refined, weights)
        coefficients = np.where(distance < best, refined, coefficients)
    rates = spacing * np.arange(1, width + 1)
    model = _deliver(rates, coefficients, n_inputs)

    def residual(t: np.ndarray) -> np.ndarray:
        values = np.asarray(functional.kernel(t), dtype=np.float64).reshape(len(t), -1)
        return values - _basis(np.exp(-spacing * t), width, spacing) @ coefficients

    edges = np.union1d(_judging_edges(functional, width, spacing), jumps)
    best = absolute_integral(residual, edges)
    tail = _tail_beyond(functional, edges[-1])
    error = float(np.max((best + tail).reshape(n_outputs, n_inputs).sum(axis=1)))
    return ConstructedSum(model, rates, error, math.inf, below)


def input_normal_matrices(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (A, b) of the network with orthonormal states for real rates.

    `A_kk = -w_k, A_kj = -2 √(w_k w_j) (j < k), b_k = √(2 w_k)`: Takenaka-Malmquist functions.
    """
    root = np.sqrt(rates)
    matrix = -2.0 * np.tril(np.outer(root, root), -1) - np.diag(rates)
    return matrix, np.sqrt(2.0 * rates)[:, None]


def deliver_sum(amplitudes, rates, *, error, bound, stats) -> ConstructedSum:
    """Returns a sum of real exponentials with well-separated rates as a network."""
    model = LinearRNN(np.diag(-rates), np.sqrt(amplitudes)[:, None], np.sqrt(amplitudes)[None, :])
    return ConstructedSum(model, rates, error, bound, 0.0, Status(), stats)


def _basis(s: np.ndarray, width: int, spacing: float) -> np.ndarray:
    """Returns the Takenaka-Malmquist functions of equispaced rates at `s = e^{-spacing t}`.

    They are `s P_k(2s - 1)`, P_k the Jacobi polynomials with weight s, normalised: a three-term
    recurrence instead of residues that overflow.
    """
    x = 2.0 * s - 1.0
    values = np.empty((len(s), width))
    previous, current = np.zeros_like(s), np.ones_like(s)
    for k in range(width):
        values[:, k] = math.sqrt(2.0 * spacing * (k + 1)) * s * current
        n = k + 1
        # Jacobi (0, 1), scaled to 1 at x = 1.
        a = 2.0 * n * (n + 1.0) * (2.0 * n - 1.0)
        b = 2.0 * n * ((2.0 * n + 1.0) * (2.0 * n - 1.0) * x - 1.0)
        c = 2.0 * (n - 1.0) * n * (2.0 * n + 1.0)
        previous, current = current, (b * current - c * previous) / a
    return values


def _refine(target, basis, weights, coefficients, n_refinements: int) -> np.ndarray:
    best, best_distance = (
        coefficients.copy(),
        _distance(target, basis @ coefficients, weights),
    )
    for channel in range(target.shape[1]):
        current = coefficients[:, channel]
        for step in range(n_refinements):
            residual = np.abs(target[:, channel] - basis @ current)
            floor = 10.0 ** (-1 - 0.15 * step) * np.sum(weights * residual) / np.sum(weights)
            root = np.sqrt(weights / np.maximum(residual, max(floor, 1e-300)))
            q, r = np.linalg.qr(root[:, None] * basis)
            if np.abs(np.diag(r)).min() < 1e-13 * np.abs(np.diag(r)).max():
                break
            current = scipy.linalg.solve_triangular(r, q.T @ (root * target[:, channel]))
            distance = np.sum(weights * np.abs(target[:, channel] - basis @ current))
            if distance < best_distance[channel]:
                best_distance[channel], best[:, channel] = distance, current
    return best


def _distance(target, values, weights) -> np.ndarray:
    return np.sum(weights[:, None] * np.abs(target - values), axis=0)


def absolute_integral(
    residual: Callable[[np.ndarray], np.ndarray], edges: np.ndarray
) -> np.ndarray:
    """Returns `∫ |residual|` for each channel, panels split where a channel changes sign.

    Args:
        residual: maps lags (n,) to (n, channel).
        edges: panels on which it is smooth and changes sign at most a few times.
    """
    x, w = np.polynomial.legendre.leggauss(8)
    half = np.diff(edges) / 2
    nodes = (edges[:-1] + half)[:, None] + half[:, None] * x
    values = residual(nodes.ravel())
    values = values.reshape(*nodes.shape, -1)
    n_channels = values.shape[2]
    result = np.einsum("pn,pnc->c", half[:, None] * w, np.abs(values))
    # Panels in which a channel changes sign are done again, split at the roots.
    flat = values.reshape(-1, n_channels)
    lags = nodes.ravel()
    for channel in range(n_channels):
        i = np.flatnonzero(flat[1:, channel] * flat[:-1, channel] < 0)
        if not len(i):
            continue
        low, high, sign = lags[i], lags[i + 1], np.sign(flat[i, channel])
        for _ in range(48):
            middle = (low + high) / 2
            same = np.sign(residual(middle)[:, channel]) == sign
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        roots = (low + high) / 2
        panels = np.unique(
            np.clip(np.searchsorted(edges, roots, side="right") - 1, 0, len(half) - 1)
        )
        pieces = np.sort(np.concatenate([edges[panels], edges[panels + 1], roots]))
        starts, stops = pieces[:-1], pieces[1:]
        inside = np.isin(np.searchsorted(edges, (starts + stops) / 2, side="right") - 1, panels)
        starts, stops = starts[inside], stops[inside]
        h = (stops - starts) / 2
        fine = (starts + h)[:, None] + h[:, None] * x
        again = np.abs(residual(fine.ravel())[:, channel]).reshape(fine.shape)
        old = np.sum(half[panels, None] * w * np.abs(values[panels, :, channel]))
        result[channel] += np.sum(h[:, None] * w * again) - old
    return result


def _judging_grid(functional, width: int, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    edges = _judging_edges(functional, width, spacing)
    x, w = np.polynomial.legendre.leggauss(8)
    half = np.diff(edges) / 2
    nodes = ((edges[:-1] + half)[:, None] + half[:, None] * x).ravel()
    return nodes, (half[:, None] * w).ravel()


def _judging_edges(functional, width: int, spacing: float) -> np.ndarray:
    """Returns panels that resolve the polynomial, both ends and the kernel's own scale."""
    timescale = float(getattr(functional, "timescale", 1.0 / spacing))
    breakpoints = tuple(getattr(functional, "breakpoints", ()))
    support = float(getattr(functional, "support", math.inf))
    shortest = min(timescale, 1.0 / (spacing * (width + 1) ** 2))
    last = max(60.0 / spacing, 60.0 * timescale)
    edges = np.concatenate(
        [
            [0.0],
            np.geomspace(1e-4 * shortest, last, 160 + 2 * width),
            canonical_lags(max(48, 2 * width), spacing),
            np.linspace(0, min(last, 40 * timescale), 160),
            [b for b in (*breakpoints, support) if 0 < b < last],
        ]
    )
    return np.unique(edges[edges <= last])


def _tail_beyond(functional, lag: float) -> np.ndarray:
    support = float(getattr(functional, "support", math.inf))
    if lag >= support:
        return np.zeros(functional.n_outputs * functional.n_inputs)
    total = np.asarray(functional.laplace(np.zeros(1)))[0].real
    seen = np.asarray(functional.step_response(np.array([lag])), dtype=np.float64)[0]
    return np.abs(total - seen).ravel()


def _deliver(rates, coefficients, n_inputs: int) -> LinearRNN:
    matrix, column = input_normal_matrices(rates)
    if n_inputs == 1:
        return LinearRNN(matrix, column, coefficients.T)
    return LinearRNN(matrix.T, coefficients, column.T)


@references("altomare1994korovkin", "li2021curse")
def fit_erlang(
    functional: AbstractLinearFunctional, *, width: int, horizon: float
) -> ConstructedSum:
    """Returns a chain of m equal units for any integrable kernel: Theorem 4.1, constructed.

    With λ = m/horizon, `ρ̂(t) = Σ_k p_k λ (λt)^{k-1} e^{-λt}/(k-1)!`, `p_k = ∫ ρ` over the k-th of m
    equal bins. It converges in L1 for every integrable kernel as width and λ grow, keeps signs,
    needs no smoothness, and is slow (m^-½): the price of using nothing about ρ.

    Args:
        functional: anything with a step response, one input.
        width: m.
        horizon: lag that the chain covers, in time.

    Returns:
        The network `A = λ(shift - 1)`, its error and `bound_erlang_error`.

    Raises:
        TypeError: if the functional has no kernel.
        ValueError: if it has several inputs, or the width or horizon is not positive.
    """
    _require_linear("functional", functional)
    width, horizon = require_count("width", width), require_positive("horizon", horizon)
    if functional.n_inputs != 1:
        raise invalid("functional", "one input", functional.n_inputs, "fit one input at a time")
    rate = width / horizon
    edges = np.linspace(0.0, horizon, width + 1)
    masses = np.diff(np.asarray(functional.step_response(edges), dtype=np.float64)[:, :, 0], axis=0)
    matrix = rate * (np.eye(width, k=-1) - np.eye(width))
    column = np.zeros((width, 1))
    column[0] = rate
    model = LinearRNN(matrix, column, masses.T)
    lags, weights = _judging_grid(functional, 8, 1.0 / horizon)
    extra = np.linspace(0.0, 3.0 * horizon, 12 * width + 1)
    edges = np.unique(np.concatenate([extra, lags[lags > extra[-1]][::8], [lags[-1]]]))
    edges = np.union1d(
        edges, [b for b in getattr(functional, "breakpoints", ()) if 0 < b < edges[-1]]
    )
    x, w = np.polynomial.legendre.leggauss(4)
    half = np.diff(edges) / 2
    nodes = ((edges[:-1] + half)[:, None] + half[:, None] * x).ravel()
    weights = (half[:, None] * w).ravel()
    target = np.asarray(functional.kernel(nodes), dtype=np.float64)[:, :, 0]
    distance = np.zeros(functional.n_outputs)
    stages = np.arange(width)
    log_factorials = scipy.special.gammaln(stages + 1)
    for part in np.array_split(np.arange(len(nodes)), max(1, len(nodes) * width // 4_000_000)):
        scaled = rate * nodes[part][:, None]
        pmf = np.exp(stages * np.log(scaled) - scaled - log_factorials)
        values = rate * pmf @ masses
        distance += np.sum(weights[part][:, None] * np.abs(target[part] - values), axis=0)
    error = float(np.max(distance + _tail_beyond(functional, float(edges[-1]))))
    bound = bound_erlang_error(functional, width=width, horizon=horizon)
    return ConstructedSum(model, np.full(width, rate), error, bound)
