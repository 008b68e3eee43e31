"""What is computed from a kernel or a fit: smoothness, signs of derivatives, optimality."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from recollect._core._check import require_count, wrong_type
from recollect._core._functional import AbstractLinearFunctional
from recollect._core._quadrature import adaptive_quadrature
from recollect._core._references import references
from recollect._core._status import Status
from recollect.approximation._grid import build_grid
from recollect.approximation._theory import _require_linear
from recollect.models import DiagonalRNN, LinearRNN

Derivative = Callable[[np.ndarray, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Smoothness:
    """How smooth a memory is and how fast it fades, in the terms of the width theorem.

    Args:
        gamma: γ, without unit; infinite where the hypothesis fails.
        beta: β, in 1/time.
        order: α.
        status: `infinite` where the hypothesis fails, with the reason.
    """

    gamma: float
    beta: float
    order: int
    status: Status = dataclasses.field(default_factory=Status)


@references("li2021curse")
def measure_smoothness(
    functional: AbstractLinearFunctional, *, order: int, derivative: Derivative | None = None
) -> Smoothness:
    """Returns γ and β with `|ρ^(k)(t)| ≤ γ β^{k+1} e^{-βt}`, k = 0..α: the theorem's hypothesis.

    γ depends on β and the width bound on γ alone, so the β with the least γ is returned.
    Derivatives are exact for linear networks, else those of Chebyshev interpolants on panels that
    resolve the kernel (measured on a grid, not proved).

    Args:
        functional: anything with a kernel.
        order: α ≥ 1.
        derivative: `(lags, k) -> (lag, out, in)`, the k-th derivative, where it is known.

    Returns:
        γ, β and a status: `infinite` if the kernel decays slower than every exponential or has a
        jump in a derivative below α.

    Raises:
        TypeError: if the functional has no kernel.
        ValueError: if the order is not positive.
    """
    _require_linear("functional", functional)
    order = require_count("order", order)
    exact_rate: float | None = None
    if isinstance(functional, (LinearRNN, DiagonalRNN)) and functional.dt is None:
        matrix, columns, rows = _matrices(functional)
        exact_rate = float(-np.max(np.linalg.eigvals(matrix).real))
        if exact_rate <= 0:
            return Smoothness(math.inf, math.nan, order, Status("infinite", "it is not stable"))
        lags = np.concatenate([[0.0], np.geomspace(1e-4, 60.0, 4000) / exact_rate])
        fastest = float(np.max(np.abs(np.linalg.eigvals(matrix))))
        lags = np.unique(np.concatenate([lags, np.linspace(0, 40 / fastest, 2000)]))
        if derivative is None:
            values = []
            for _ in range(order + 1):
                values.append(np.asarray(LinearRNN(matrix, columns, rows).kernel(lags)))
                columns = matrix @ columns
        else:
            values = [np.asarray(derivative(lags, k)) for k in range(order + 1)]
    else:
        found = _sampled_derivatives(functional, order, derivative)
        if isinstance(found, Status):
            return Smoothness(math.inf, math.nan, order, found)
        lags, values = found
    sizes = np.array([np.abs(v).reshape(len(lags), -1).max(axis=1) for v in values])
    return _least_gamma(lags, sizes, order, exact_rate)


def _least_gamma(lags, sizes, order: int, exact_rate: float | None) -> Smoothness:
    with np.errstate(divide="ignore"):
        log_sizes = np.log(sizes)
    powers = np.arange(1, order + 2)[:, None]
    # Beyond this lag the kernel is rounding: a supremum found there means none was found.
    significant = np.any(sizes > 1e-13 * sizes.max(axis=1, keepdims=True), axis=0)
    last = lags[np.flatnonzero(significant)[-1]]
    inside = lags <= last
    lags, log_sizes = lags[inside], log_sizes[:, inside]
    high = exact_rate if exact_rate is not None else 400.0 / last
    betas = high * np.concatenate([np.geomspace(1e-3, 1.0, 400)])
    best = (math.inf, math.nan)
    for beta in betas:
        heights = log_sizes + beta * lags - powers * math.log(beta)
        where = np.argmax(heights, axis=1)
        if exact_rate is None and np.any(lags[where] > 0.9 * last):
            continue
        if exact_rate is not None and beta > 0.999 * exact_rate:
            # At the rate itself a repeated pole makes the product grow without end.
            late = heights[:, -1]
            if np.any((where == len(lags) - 1) & (late > heights[:, len(lags) // 2] + 1e-3)):
                continue
        log_gamma = float(np.max(heights))
        if log_gamma < best[0]:
            best = (log_gamma, float(beta))
    if not math.isfinite(best[0]):
        return Smoothness(
            math.inf, math.nan, order, Status("infinite", "no exponential rate bounds the kernel")
        )
    return Smoothness(math.exp(best[0]), best[1], order)


def _sampled_derivatives(functional, order: int, derivative: Derivative | None):
    support = float(getattr(functional, "support", math.inf))
    breakpoints = tuple(getattr(functional, "breakpoints", ()))
    quadrature = adaptive_quadrature(
        lambda t: np.asarray(functional.kernel(t), dtype=np.float64),
        norm="linf",
        rtol=1e-11,
        support=support,
        breakpoints=breakpoints,
        timescale=float(getattr(functional, "timescale", 1.0)),
        reach=1.0,
    )
    if quadrature.decay == "algebraic":
        return Status(
            "infinite",
            f"the kernel falls like t^-{quadrature.exponent:.3g}: no exponential bounds it",
        )
    if derivative is not None:
        lags = np.concatenate([[0.0], quadrature.nodes])
        return lags, [np.asarray(derivative(lags, k), dtype=np.float64) for k in range(order + 1)]
    edges = np.append(quadrature.panels.starts, quadrature.panels.stops[-1])
    edges = _merged_edges(functional, edges, breakpoints)
    starts, stops = edges[:-1], edges[1:]
    x, _ = np.polynomial.legendre.leggauss(_N_MERGED)
    half = (stops - starts) / 2
    nodes = (starts + half)[:, None] + half[:, None] * x
    values = np.asarray(functional.kernel(nodes.ravel()), dtype=np.float64)
    series = np.einsum("jn,pnc->pjc", _to_series(), values.reshape(*nodes.shape, -1))
    # Rounding in the last coefficients is what differentiation would amplify.
    size = np.abs(series).max(axis=1, keepdims=True)
    series = np.where(np.abs(series) < 1e-14 * size, 0.0, series)
    ends = np.array([-1.0, 1.0])
    points = np.concatenate([ends[:1], x, ends[1:]])
    lags = (starts + half)[:, None] + half[:, None] * points
    result, gaps = [], []
    for k in range(order + 1):
        current = np.polynomial.legendre.legder(series, m=k, axis=1) if k else series
        basis = np.polynomial.legendre.legvander(points, current.shape[1] - 1)
        at = np.einsum("nj,pjc->pnc", basis, current) / half[:, None, None] ** k
        result.append(at)
        gaps.append(np.abs(at[1:, 0] - at[:-1, -1]).max(axis=1))
    for k in range(order):
        scale = np.abs(result[k]).max()
        rounding = 1e-15 * size.max(axis=(1, 2)) * (_N_MERGED**2 / half) ** k
        gap = np.where(gaps[k] > 10 * (rounding[1:] + rounding[:-1]), gaps[k], 0.0)
        if len(gap) and gap.max() > 0.02 * scale:
            where = float(stops[int(np.argmax(gap))])
            return Status("infinite", f"derivative {k} jumps at lag {where:.4g}")
        if math.isfinite(support) and np.abs(result[k][-1, -1]).max() > 0.02 * scale:
            return Status("infinite", f"derivative {k} jumps at lag {support:.4g}")
    order_lags = np.argsort(lags.ravel(), kind="stable")
    flat = lags.ravel()[order_lags]
    return flat, [r.reshape(len(flat), -1)[order_lags] for r in result]


_N_MERGED = 24


@functools.cache
def _to_series() -> np.ndarray:
    x, _ = np.polynomial.legendre.leggauss(_N_MERGED)
    return np.linalg.inv(np.polynomial.legendre.legvander(x, _N_MERGED - 1))


def _merged_edges(functional, edges: np.ndarray, breakpoints) -> np.ndarray:
    """Returns edges of the longest panels that still resolve the kernel.

    A quadrature is graded for the sake of its norm; on its tiny panels a derivative is rounding.
    """
    x, _ = np.polynomial.legendre.leggauss(_N_MERGED)

    def is_resolved(start: float, stop: float) -> bool:
        nodes = (start + stop) / 2 + (stop - start) / 2 * x
        values = np.asarray(functional.kernel(nodes), dtype=np.float64).reshape(len(x), -1)
        series = np.abs(_to_series() @ values)
        return bool(np.all(series[-4:].max(axis=0) <= 1e-13 * series.max(axis=0) + 1e-300))

    forced = np.isin(edges, np.asarray(breakpoints, dtype=np.float64))
    merged = [float(edges[0])]
    for i in range(1, len(edges)):
        last = i == len(edges) - 1
        if last or forced[i] or not is_resolved(merged[-1], float(edges[i + 1])):
            merged.append(float(edges[i]))
    return np.array(merged)


def _matrices(model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if isinstance(model, LinearRNN):
        return tuple(np.asarray(a, dtype=np.float64) for a in (model.A, model.B, model.C))  # type: ignore[return-value]
    rates = np.asarray(model.rates)
    if np.iscomplexobj(rates) and np.any(rates.imag):
        real, imag = rates.real, rates.imag
        matrix = np.block([[np.diag(-real), np.diag(imag)], [np.diag(-imag), np.diag(-real)]])
        B, C = np.asarray(model.input_matrix), np.asarray(model.C)
        return matrix, np.concatenate([B.real, B.imag]), np.concatenate([C.real, -C.imag], axis=1)
    return np.diag(-rates.real), np.asarray(model.input_matrix).real, np.asarray(model.C).real


@dataclasses.dataclass(frozen=True)
class Optimality:
    """How far a network is from satisfying the conditions of a best L2 approximation.

    Args:
        cosines: shape (2, width): cosine of the angle between the error and `e^{-w_i t}` (row 0:
            `L̂(w_i) = L(w_i)`) and `t e^{-w_i t}` (row 1: `L̂'(w_i) = L'(w_i)`), without unit; zero at
            a stationary point.
        projection: the share of the error (its norm) that lies in the span of all of these: to
            first order the network can still lower its squared error by the square of this share.
        error: L2 norm of the error.
        status: `ok` below the tolerance, `not_converged` above, `precision_limit` where the
            error is rounding and has no direction.
    """

    cosines: np.ndarray
    projection: float
    error: float
    status: Status = dataclasses.field(default_factory=Status)


@references("kammler1979least", "li2021curse")
def measure_optimality(
    model: LinearRNN | DiagonalRNN,
    functional: AbstractLinearFunctional,
    *,
    rtol: float = 1e-3,
) -> Optimality:
    """Returns the Aigrain-Williams residuals of an L2 fit: a certificate of stationarity.

    A best L2 sum with simple poles has `L̂(w_i) = L(w_i)` and `L̂'(w_i) = L'(w_i)`: its error is
    orthogonal to every `e^{-w_i t}` and `t e^{-w_i t}`. The differences are computed as inner
    products with the error on a quadrature that resolves it, so they keep digits when the error is
    1e-10 of the kernel, where the transforms themselves agree to the last bit.

    Args:
        model: a continuous-time linear network with one input and one output.
        functional: the kernel it was fitted to.
        rtol: the projection below which the network counts as stationary.

    Returns:
        Cosines, the projection, the error, and a status.

    Raises:
        TypeError: if the model is no continuous linear network, or the functional has no kernel.

    Assumptions: simple poles. Stationary is not best: it is necessary, not sufficient.
    """
    if not isinstance(model, (LinearRNN, DiagonalRNN)) or model.dt is not None:
        raise wrong_type("model", "a continuous-time linear network", type(model).__name__)
    _require_linear("functional", functional)
    grid = build_grid(
        lambda t: np.asarray(functional.kernel(t), dtype=np.float64),
        norm="l2",
        support=float(getattr(functional, "support", math.inf)),
        breakpoints=tuple(getattr(functional, "breakpoints", ())),
        timescale=float(getattr(functional, "timescale", 1.0)),
    )
    nodes, weights = grid.check_nodes, grid.check_weights
    values = grid.check_values[:, 0, 0]
    fitted = np.asarray(model.kernel(nodes), dtype=np.float64)[:, 0, 0]
    error = fitted - values
    norm = math.sqrt(float(np.sum(weights * error**2)))
    size = math.sqrt(float(np.sum(weights * values**2)))
    matrix, _, _ = _matrices(model)
    rates = -np.linalg.eigvals(matrix)
    rates = rates[np.argsort(rates.real)]
    basis = np.exp(-np.multiply.outer(nodes, rates))
    slopes = nodes[:, None] * basis
    root = np.sqrt(weights)
    columns = []
    cosines = np.empty((2, len(rates)))
    for row, functions in enumerate((basis, slopes)):
        scaled = root[:, None] * functions
        lengths = np.linalg.norm(scaled, axis=0)
        lengths = np.where(lengths > 0, lengths, 1.0)
        cosines[row] = np.abs((root * error) @ scaled) / (lengths * max(norm, 1e-300))
        columns.append(scaled / lengths)
    tangent = np.concatenate([np.concatenate([c.real, c.imag], axis=1) for c in columns], axis=1)
    left, singular, _ = np.linalg.svd(tangent, full_matrices=False)
    span = left[:, singular > 1e-9 * singular[0]]
    projection = float(np.linalg.norm(span.T @ (root * error)) / max(norm, 1e-300))
    if norm < 1e-12 * size:
        status = Status("precision_limit", f"the error is {norm / size:.1e} of the kernel")
    elif projection > rtol:
        status = Status(
            "not_converged", f"{projection:.1e} of the error can still be removed to first order"
        )
    else:
        status = Status()
    return Optimality(cosines, min(projection, 1.0), norm, status)


def measure_complete_monotonicity(
    functional: AbstractLinearFunctional, *, order: int = 6, n_lags: int = 400
) -> Status:
    """Returns whether the finite differences of a kernel contradict complete monotonicity.

    A completely monotone kernel has `(-1)^n Δ_h^n ρ(t) ≥ 0` for every n, h and t. One wrong sign
    beyond rounding disproves it; none up to `order` proves nothing.

    Args:
        functional: anything with a kernel of one channel.
        order: highest difference looked at.
        n_lags: lags per step length.

    Returns:
        `no_minimiser` if disproved (best sums need not exist), else `undecided`.

    Raises:
        TypeError: if the functional has no kernel.
    """
    _require_linear("functional", functional)
    timescale = float(getattr(functional, "timescale", 1.0))
    for step in timescale * np.geomspace(1e-2, 1e3, 26):
        starts = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, n_lags) * timescale])
        lags = starts[:, None] + step * np.arange(order + 1)
        values = np.asarray(functional.kernel(lags.ravel()), dtype=np.float64).reshape(
            *lags.shape, -1
        )
        difference = values
        scale = np.abs(values).max(axis=1)
        for n in range(order + 1):
            if n:
                difference = -np.diff(difference, axis=1)
            worst = difference[:, 0] + 1e-13 * 2.0**n * scale
            if np.any(worst < 0):
                lag = float(starts[int(np.argmin(worst.min(axis=1)))])
                return Status(
                    "no_minimiser",
                    f"difference {n} with step {step:.3g} has the wrong sign at lag {lag:.3g}",
                )
    return Status("undecided", f"no contradiction up to difference {order}")
