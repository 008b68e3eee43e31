"""Reduce a long sum of exponentials to few, with relative accuracy.

For `ρ(t) = Σ c_j e^{-w_j t}`, c_j > 0, the Hankel operator is similar to the Cauchy matrix
`P_ij = √(c_i c_j)/(w_i + w_j)`. Its m-th eigenvector v (counted from zero) changes sign m times,
and so does `F(p) = Σ v_j √c_j/(p + w_j)` on p > 0: the m zeros of F are the rates of the best
Hankel-norm approximation of width m (Adamjan, Arov, Krein), all real and positive by construction.

A Cauchy matrix has a triangular factor known entry by entry to full relative accuracy, and the
one-sided Jacobi method keeps that accuracy, so rates that span a hundred decades are no harder
than rates that span one (Haut and Beylkin). The usual road, balanced truncation followed by an
eigenvalue problem for the rates, loses every rate below 1e-16 of the fastest one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize

from recollect._core._check import (
    host_float64,
    invalid,
    require_count,
)
from recollect._core._references import references
from recollect._core._status import Status

# Eigenvector entries below some share of the largest one carry no reliable sign. The number of
# sign changes is known, which tells the share.
_SIGN_FLOORS = (1e-17, 1e-15, 1e-13, 1e-11, 1e-9)


@dataclasses.dataclass(frozen=True)
class ReducedSum:
    """A sum of few exponentials that stands for a sum of many.

    Args:
        amplitudes: shape (width,).
        rates: shape (width,), ascending, positive, in 1/time.
        singular_values: the leading Hankel singular values of the long sum, at least `width + 1`
            of them where they exist.
        bound: `σ_{width+1}`: no sum of `width` exponentials is nearer than this in L1.
        status: `width_beyond_rank` if fewer exponentials than asked for can be told apart.
    """

    amplitudes: np.ndarray
    rates: np.ndarray
    singular_values: np.ndarray
    bound: float
    status: Status = dataclasses.field(default_factory=Status)

    @property
    def width(self) -> int:
        """Number of exponentials."""
        return len(self.rates)


@references("haut2012fast", "demmel2000accurate", "adamyan1971analytic")
def reduce_exponential_sum(amplitudes, rates, width: int) -> ReducedSum:
    """Returns the width-m exponential sum nearest to a long one in the Hankel norm.

    The rates are those of the Adamjan-Arov-Krein approximation; the amplitudes minimise
    `∫ t e(t)² dt`, the Hilbert-Schmidt norm of the Hankel operator of the error, which weighs
    every decade of lags alike.

    Args:
        amplitudes: positive amplitudes of the long sum, shape (n,).
        rates: its positive real rates, shape (n,), distinct, in 1/time.
        width: number of exponentials wanted.

    Returns:
        The reduced sum with its Hankel singular values.

    Raises:
        ValueError: if amplitudes or rates are not positive, or rates repeat.

    Assumptions: a completely monotone kernel (positive amplitudes, real rates).
    """
    return reduce_exponential_sums(amplitudes, rates, (width,))[0]


def reduce_exponential_sums(amplitudes, rates, widths) -> tuple[ReducedSum, ...]:
    """Returns `reduce_exponential_sum` for several widths from one decomposition.

    Args:
        amplitudes: positive amplitudes of the long sum, shape (n,).
        rates: its positive real rates, shape (n,), distinct, in 1/time.
        widths: the widths wanted.
    """
    amplitudes, rates = _check_sum(amplitudes, rates)
    widths = tuple(require_count("widths", width) for width in widths)
    values, vectors = hankel_decomposition(amplitudes, rates, n_values=max(widths) + 1)
    return tuple(
        reduce_from_decomposition(amplitudes, rates, values, vectors, width) for width in widths
    )


@references("demmel2000accurate", "haut2012fast")
def hankel_decomposition(amplitudes, rates, *, n_values: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns Hankel singular values of an exponential sum, each with relative accuracy.

    Args:
        amplitudes: positive amplitudes, shape (n,).
        rates: positive real rates, shape (n,), distinct, in 1/time.
        n_values: how many of the leading values must be accurate.

    Returns:
        Singular values, descending, shape (k,), k ≤ n_values, and the eigenvectors of
        `√(c_i c_j)/(w_i + w_j)` that belong to them, shape (n, k), rows in the order of `rates`.
    """
    amplitudes, rates = _check_sum(amplitudes, rates)
    n_values = min(require_count("n_values", n_values), len(rates))
    size = float(np.max(amplitudes / rates))
    # The factor is cut where what is left cannot move the last value wanted. A rough factor tells
    # how large that value is.
    cut = 0.0
    for drop in (1e-6, 1e-10, 1e-14):
        rough, _ = _pivoted_cholesky(amplitudes, rates, drop * size)
        if rough.shape[1] >= n_values:
            last = np.linalg.eigvalsh(rough.T @ rough)[-n_values]
            if last > 1e2 * len(rates) * drop * size:
                cut = 1e-13 * last / len(rates)
                break
    factor, _ = _pivoted_cholesky(amplitudes, rates, cut)
    singular, right = _jacobi_svd(factor)
    values = singular**2
    keep = min(n_values, int(np.count_nonzero(values > 0)))
    # From the right vectors, not the left ones: row j then keeps its own scale.
    vectors = (factor @ right[:, :keep]) / singular[:keep]
    return values[:keep], vectors


def completely_monotone_sum(
    lags, values, *, n_per_decade: int = 24
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns a long positive exponential sum fitted to a completely monotone kernel.

    Nonnegative least squares in relative error on log-spaced rates: a few dozen of them survive,
    enough to stand for the kernel to about 1e-8.

    Args:
        lags: positive lags, log-spaced over everything that matters, shape (n,).
        values: the positive kernel there, shape (n,).
        n_per_decade: density of the candidate rates.

    Returns:
        Amplitudes, rates, and the largest relative error at the lags.
    """
    lags = host_float64("lags", lags, owner="completely_monotone_sum")
    values = host_float64("values", values, owner="completely_monotone_sum")
    if np.any(lags <= 0) or np.any(values <= 0):
        raise invalid("values", "positive lags and values", "some at or below zero")
    n_decades = np.log10(lags.max() / lags.min()) + 3.0
    rates = np.geomspace(
        0.03 / lags.max(), 30.0 / lags.min(), int(np.ceil(n_decades * n_per_decade))
    )
    basis = np.exp(-np.multiply.outer(lags, rates)) / values[:, None]
    norms = np.linalg.norm(basis, axis=0)
    coefficients, _ = scipy.optimize.nnls(
        basis / norms, np.ones_like(lags), maxiter=30 * len(rates)
    )
    used = coefficients > 0
    amplitudes = coefficients[used] / norms[used]
    error = float(np.max(np.abs(basis[:, used] @ amplitudes - 1.0)))
    return amplitudes, rates[used], error


def _check_sum(amplitudes, rates) -> tuple[np.ndarray, np.ndarray]:
    owner = "reduce_exponential_sum"
    amplitudes = host_float64("amplitudes", amplitudes, owner=owner)
    rates = host_float64("rates", rates, owner=owner)
    if amplitudes.ndim != 1 or amplitudes.shape != rates.shape or len(rates) == 0:
        raise invalid(
            "amplitudes", "shape (n,), as the rates", f"{amplitudes.shape} and {rates.shape}"
        )
    if np.any(amplitudes <= 0) or np.any(rates <= 0):
        raise invalid(
            "amplitudes",
            "positive amplitudes and rates (a completely monotone kernel)",
            f"smallest amplitude {amplitudes.min():.3g}, smallest rate {rates.min():.3g}",
        )
    if len(np.unique(rates)) != len(rates):
        raise invalid("rates", "distinct rates", "repeated ones", "add their amplitudes")
    return amplitudes, rates


def _pivoted_cholesky(
    amplitudes: np.ndarray, rates: np.ndarray, tolerance: float
) -> tuple[np.ndarray, float]:
    """Returns L with `P ≈ L Lᵀ` and the trace of what is left.

    The Schur complement of a Cauchy matrix is one again, with generator
    `g_i ← g_i (w_i - w_k)/(w_i + w_k)`: differences and sums of the given rates only, so every
    entry of L keeps its relative accuracy.
    """
    n = len(rates)
    generator = np.sqrt(amplitudes)
    diagonal = amplitudes / (2.0 * rates)
    columns = []
    for _ in range(n):
        pivot = int(np.argmax(diagonal))
        if not diagonal[pivot] > tolerance:
            break
        total = rates + rates[pivot]
        columns.append(generator * (generator[pivot] / np.sqrt(diagonal[pivot])) / total)
        generator = generator * ((rates - rates[pivot]) / total)
        diagonal = generator**2 / (2.0 * rates)
    return np.array(columns).T, float(np.sum(diagonal))


def _jacobi_svd(factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns singular values (descending) and right singular vectors by one-sided Jacobi."""
    gejsv: Any = scipy.linalg.get_lapack_funcs("gejsv", (factor,))
    # joba=0: entries are accurate relative to their column; jobu=0, jobv=0: both sides.
    singular, _, right, work, _, info = gejsv(factor, joba=0, jobu=0, jobv=0)
    if info != 0:
        raise np.linalg.LinAlgError(f"one-sided Jacobi did not converge (info {info})")
    return singular * (work[0] / work[1]), right


def reduce_from_decomposition(amplitudes, rates, values, vectors, width: int) -> ReducedSum:
    """Returns the reduction to `width` exponentials from what `hankel_decomposition` returned."""
    order = np.argsort(rates)
    if width >= len(values):
        found = len(rates) if len(values) == len(rates) else len(values) - 1
        if found == len(rates) <= width:
            status = (
                Status()
                if width == found
                else Status("width_beyond_rank", f"the sum has only {found} exponentials")
            )
            return ReducedSum(amplitudes[order], rates[order], values, 0.0, status)
        width, status = found, Status("width_beyond_rank", f"{found} can be told apart")
    else:
        status = Status()
    reduced = _zeros(
        amplitudes[order], rates[order], values[width], vectors[order, width], values[0], width
    )
    if len(reduced) != width:
        status = Status(
            "width_beyond_rank",
            f"{len(reduced)} of {width} rates can be told apart in float64",
        )
    coefficients = _lag_weighted_amplitudes(amplitudes, rates, reduced)
    return ReducedSum(coefficients, reduced, values, float(values[width]), status)


def _zeros(amplitudes, rates, value: float, vector, largest: float, width: int) -> np.ndarray:
    """Returns the positive zeros of `F(p) = Σ v_j √c_j/(p + w_j)`, ascending."""
    for floor in _SIGN_FLOORS:
        strong = np.flatnonzero(np.abs(vector) > floor * np.max(np.abs(vector)))
        signs = np.sign(vector[strong])
        changes = np.flatnonzero(signs[1:] != signs[:-1])
        if len(changes) <= width:
            break
    log_rates = np.log(rates)
    residues = vector * np.sqrt(amplitudes)
    zeros = []
    for change in changes:
        left, right = strong[change], strong[change + 1]
        if value > 1e-9 * largest:

            def function(x):
                return float(np.sum(residues / (np.exp(x) + rates)))

        else:
            # F itself cancels to nothing here, but F(w_j) = λ v_j/√c_j is known: interpolate.
            first = max(0, min(left - 5, len(rates) - 12))
            window = slice(first, first + 12)
            points = log_rates[window] - log_rates[left]
            heights = vector[window] / np.sqrt(amplitudes[window])
            function = _interpolant(
                points, heights / np.max(np.abs(heights)), shift=log_rates[left]
            )
        low, high = log_rates[left], log_rates[right]
        if function(low) * function(high) < 0:
            zeros.append(scipy.optimize.brentq(function, low, high, xtol=1e-14))
        else:
            share = abs(vector[left]) / (abs(vector[left]) + abs(vector[right]))
            zeros.append(low + share * (high - low))
    return np.exp(np.array(zeros))


def _interpolant(points, heights, *, shift: float):
    differences = points[:, None] - points
    np.fill_diagonal(differences, 1.0)
    weights = 1.0 / np.prod(differences, axis=1)

    def function(x: float) -> float:
        distance = x - shift - points
        if np.any(distance == 0):
            return float(heights[np.argmin(np.abs(distance))])
        terms = weights / distance
        return float(np.sum(terms * heights) / np.sum(terms))

    return function


def _lag_weighted_amplitudes(amplitudes, rates, reduced) -> np.ndarray:
    """Returns the amplitudes at the `reduced` rates that minimise `∫ t e(t)² dt`.

    The Gram matrix `1/(w_i + w_j)²` scaled to a unit diagonal depends on ratios of rates only.
    """
    gram = 4.0 * np.outer(reduced, reduced) / np.add.outer(reduced, reduced) ** 2
    total = np.add.outer(reduced, rates)
    cross = (4.0 * (reduced[:, None] / total) * (rates / total)) @ (amplitudes / rates)
    values, vectors = np.linalg.eigh(gram)
    keep = values > 1e-15 * values[-1]
    scaled = vectors[:, keep] @ ((vectors[:, keep].T @ cross) / values[keep])
    return scaled * reduced
