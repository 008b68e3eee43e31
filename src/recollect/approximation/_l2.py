"""Least squares over rates and amplitudes: variable projection on second-order sections."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.linalg

from recollect._core._least_squares import moved_columns
from recollect._core._references import references


@dataclasses.dataclass(frozen=True)
class Sections:
    """Rates as real poles and second-order sections s² + a s + b, both in logarithms.

    A section is stable exactly when a, b > 0, and a real pair turns into a complex pair
    smoothly, so an optimiser needs no constraint and no decision.

    Args:
        log_rates: logarithms of the single real rates, shape (n_single,).
        log_pairs: (log a, log b) of every section, shape (n_pairs, 2).
    """

    log_rates: np.ndarray
    log_pairs: np.ndarray

    @property
    def width(self) -> int:
        """Number of exponentials."""
        return len(self.log_rates) + 2 * len(self.log_pairs)

    @property
    def vector(self) -> np.ndarray:
        """All parameters in one vector."""
        return np.concatenate([self.log_rates, self.log_pairs.ravel()])

    def moved(self, vector: np.ndarray) -> Sections:
        """Returns sections of the same structure at other parameters."""
        k = len(self.log_rates)
        return Sections(vector[:k], vector[k:].reshape(-1, 2))

    def rates(self) -> np.ndarray:
        """Returns the rates, complex, conjugate pairs next to each other."""
        a, b = np.exp(self.log_pairs).T if len(self.log_pairs) else (np.zeros(0), np.zeros(0))
        gap = a * a / 4 - b
        root = np.sqrt(gap.astype(complex))
        # The smaller rate of a real pair from the product of both: the difference cancels.
        large = a / 2 + root
        small = np.where(gap > 0, b / np.where(gap > 0, large, 1), np.conj(large))
        pairs = np.stack([large, small], axis=1).ravel()
        return np.concatenate([np.exp(self.log_rates).astype(complex), pairs])


def sections_of(rates: np.ndarray, *, real: bool) -> Sections:
    """Returns the sections that hold `rates` (conjugate-closed, Re > 0).

    Real rates are paired (nearest in logarithm) unless `real` is asked for, so that they may
    become complex; of an odd number the fastest stays single.
    """
    rates = np.asarray(rates, dtype=complex)
    is_real = np.abs(rates.imag) <= 1e-12 * np.abs(rates)
    singles = np.sort(rates[is_real].real)
    upper = rates[~is_real & (rates.imag > 0)]
    if real:
        magnitudes = np.concatenate([singles, np.repeat(np.abs(upper), 2)])
        return Sections(np.log(_spread(np.sort(magnitudes))), np.zeros((0, 2)))
    n_pairs = len(singles) // 2
    left, right = singles[: 2 * n_pairs : 2], singles[1 : 2 * n_pairs : 2]
    a = np.concatenate([2 * upper.real, left + right])
    b = np.concatenate([np.abs(upper) ** 2, left * right])
    return Sections(np.log(singles[2 * n_pairs :]), np.log(np.stack([a, b], axis=1)))


def _spread(sorted_rates: np.ndarray) -> np.ndarray:
    rates = sorted_rates.copy()
    for k in range(1, len(rates)):
        rates[k] = max(rates[k], rates[k - 1] * 1.05)
    return rates


def section_basis(
    sections: Sections, nodes: np.ndarray, rows: np.ndarray, *, derivatives: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the basis of the sections at `nodes`, times `rows`, and its derivatives.

    A real rate gives e^{-wt}; a section gives √b e^{-at/2} sinh(dt)/d and e^{-at/2} cosh(dt),
    d² = a²/4 - b, so that a repeated rate is no special case.

    Returns:
        The basis, shape (n, width), and an array (n, n_single + 4 n_pairs): for every real rate
        its column's derivative in log w; for every section those of (sinh, cosh) in log a, then
        of (sinh, cosh) in log b.
    """
    t, rows = nodes[:, None], rows[:, None]
    w = np.exp(sections.log_rates)
    single = rows * np.exp(-t * w)
    if not len(sections.log_pairs):
        return single, -(t * w) * single if derivatives else None
    a, b = np.exp(sections.log_pairs).T
    gap = a * a / 4 - b
    root = np.maximum(np.sqrt(np.abs(gap)), 1e-150)
    is_real = gap > 0
    decay = np.where(is_real, b / (a / 2 + np.where(is_real, root, 0)), a / 2)
    envelope = rows * np.exp(-t * decay)
    phase = t * root
    even, odd = np.empty_like(phase), np.empty_like(phase)
    if is_real.any():
        shrink = np.expm1(-2 * phase[:, is_real])
        even[:, is_real] = 1 + shrink / 2
        odd[:, is_real] = -shrink / 2
    if not is_real.all():
        even[:, ~is_real] = np.cos(phase[:, ~is_real])
        odd[:, ~is_real] = np.sin(phase[:, ~is_real])
    cosh, sinh = envelope * even, envelope * (odd / root)
    scale = np.sqrt(b)
    pairs = np.stack([sinh * scale, cosh], axis=2).reshape(len(nodes), 2 * sinh.shape[1])
    matrix = np.concatenate([single, pairs], axis=1)
    if not derivatives:
        return matrix, None
    z = gap * t * t
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sinh_gap = (t * cosh - sinh) / (2 * gap)
    near = np.abs(z) < 0.5
    if near.any():
        z_near, t_near = z[near], np.broadcast_to(t, z.shape)[near]
        series = np.full_like(z_near, _SERIES[-1])
        for coefficient in _SERIES[-2::-1]:
            series = series * z_near + coefficient
        damping = np.exp(-np.broadcast_to(a / 2, z.shape)[near] * t_near)
        sinh_gap[near] = np.broadcast_to(rows, z.shape)[near] * damping * t_near**3 * series
    half = t / 2
    # ∂d²/∂a = a/2 and ∂d²/∂b = -1; `sinh_gap` is the derivative of sinh(dt)/d in d².
    in_log = np.stack(
        [
            scale * a * ((a / 2) * sinh_gap - half * sinh),
            a * ((a / 2) * half * sinh - half * cosh),
            scale * (sinh / 2 - b * sinh_gap),
            -b * half * sinh,
        ],
        axis=2,
    ).reshape(len(nodes), -1)
    return matrix, np.concatenate([-(t * w) * single, in_log], axis=1)


def section_averages(
    sections: Sections, edges: np.ndarray, shift: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means of the sections' basis times e^{-shift t} over bins, and their derivatives.

    A section's pair of functions (u, v) obeys (u, v)' = M (u, v), so that its integral is
    M⁻¹ times its change: M = [[-h, √b], [(a²/4 - b)/√b, -h]] with h = shift + a/2.

    Returns:
        The means, shape (bin, width), and their derivatives as `section_basis` lists them.
    """
    path, path_slopes = section_basis(sections, edges, np.exp(-shift * edges))
    assert path_slopes is not None
    k, n_pairs = len(sections.log_rates), len(sections.log_pairs)
    bins = np.diff(edges)[:, None]
    change, moved = np.diff(path, axis=0), np.diff(path_slopes, axis=0)
    w = np.exp(sections.log_rates)
    single = -change[:, :k] / (w + shift)
    by_rate = -(moved[:, :k] + single * w) / (w + shift)
    if not n_pairs:
        return single / bins, by_rate / bins
    a, b = np.exp(sections.log_pairs).T
    half, root = shift + a / 2, np.sqrt(b)
    determinant = shift * (shift + a) + b
    # -M⁻¹ times the determinant, and how it and the determinant move with log a and log b.
    adjoint = np.array([[half, root], [(a * a / 4 - b) / root, half]])
    nothing = np.zeros(n_pairs)
    in_a = np.array([[a / 2, nothing], [a * a / 2 / root, a / 2]])
    in_b = np.array([[nothing, root / 2], [-(a * a / 4 + b) / (2 * root), nothing]])
    pairs = change[:, k:].reshape(-1, n_pairs, 2)
    means = -np.einsum("ijp,npj->npi", adjoint, pairs) / determinant[:, None]
    slopes = -np.einsum("ijp,npvj->npvi", adjoint, moved[:, k:].reshape(-1, n_pairs, 2, 2))
    slopes -= np.einsum("vijp,npj->npvi", np.array([in_a, in_b]), pairs)
    slopes -= means[:, :, None] * np.stack([shift * a, b], axis=1)[:, :, None]
    slopes /= determinant[:, None, None]
    return (
        np.concatenate([single, means.reshape(len(bins), -1)], axis=1) / bins,
        np.concatenate([by_rate, slopes.reshape(len(bins), -1)], axis=1) / bins,
    )


# d/dz of sinh(√z)/√z = Σ_k k z^(k-1)/(2k+1)!
_SERIES = [k / math.factorial(2 * k + 1) for k in range(1, 10)]


@dataclasses.dataclass(frozen=True)
class Projection:
    """A least-squares solution at fixed rates, with what a Gauss-Newton step needs."""

    cost: float
    amplitudes: np.ndarray
    residual: np.ndarray
    basis: np.ndarray
    derivatives: np.ndarray | None
    q: np.ndarray
    r: np.ndarray


def project(
    sections: Sections,
    nodes: np.ndarray,
    rows: np.ndarray,
    target: np.ndarray,
    *,
    derivatives: bool = True,
) -> Projection:
    """Returns the best amplitudes at fixed rates; `target` (n, channel) already carries `rows`."""
    basis, slopes = section_basis(sections, nodes, rows, derivatives=derivatives)
    norms = np.sqrt(np.einsum("ij,ij->j", basis, basis))
    norms[norms == 0] = 1.0
    q, r = np.linalg.qr(basis / norms)
    coordinates = q.T @ target
    residual = target - q @ coordinates
    # A second pass: one projection leaves a residual that is not orthogonal to its last digits.
    again = q.T @ residual
    residual = residual - q @ again
    diagonal = np.abs(np.diag(r))
    if diagonal.min() <= 1e-14 * diagonal.max():
        amplitudes = np.linalg.lstsq(r, coordinates + again, rcond=1e-15)[0]
    else:
        amplitudes = scipy.linalg.solve_triangular(r, coordinates + again, check_finite=False)
    return Projection(
        float(np.sum(residual * residual)),
        amplitudes / norms[:, None],
        residual,
        basis,
        slopes,
        q,
        r * norms,
    )


def _jacobian(sections: Sections, at: Projection) -> np.ndarray:
    """Returns the Golub-Pereyra Jacobian of the residual, in coordinates that keep J'J and J'r.

    Rows: the component orthogonal to the basis (n * channel), then the one inside it
    (width * channel).
    """
    assert at.derivatives is not None
    k, n_pairs = len(sections.log_rates), len(sections.log_pairs)
    n, n_channels = at.residual.shape
    slopes = at.derivatives
    flat = moved_columns(slopes, at.amplitudes, k).reshape(n, -1)
    outside = flat - at.q @ (at.q.T @ flat)
    # Derivative columns against the residual: only a section's own columns move with it.
    inner = np.einsum("nj,nh->jh", slopes, at.residual)
    load = np.zeros((sections.width, n_channels, k + 2 * n_pairs))
    load[np.arange(k), :, np.arange(k)] = inner[:k]
    pair_inner = inner[k:].reshape(n_pairs, 2, 2, n_channels)
    for p in range(n_pairs):
        for v in range(2):
            load[k + 2 * p : k + 2 * p + 2, :, k + 2 * p + v] = pair_inner[p, v]
    diagonal = np.abs(np.diag(at.r))
    if diagonal.min() > 1e-14 * diagonal.max():
        inside = scipy.linalg.solve_triangular(
            at.r, load.reshape(sections.width, -1), trans=1, check_finite=False
        )
    else:
        inside = np.zeros((sections.width, n_channels * (k + 2 * n_pairs)))
    return -np.concatenate(
        [
            outside.reshape(n * n_channels, -1),
            inside.reshape(sections.width * n_channels, -1),
        ]
    )


@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """Sections at a local least-squares minimum.

    Args:
        sections: the rates.
        amplitudes: of the sections' basis functions, shape (width, channel).
        cost: the weighted sum of squares.
        n_iterations: Jacobians evaluated.
        is_converged: True if the last step promised less than the tolerance.
    """

    sections: Sections
    amplitudes: np.ndarray
    cost: float
    n_iterations: int
    is_converged: bool


@references("golub1973differentiation")
def refine_sections(
    sections: Sections,
    nodes: np.ndarray,
    rows: np.ndarray,
    target: np.ndarray,
    *,
    n_iterations: int = 100,
    rtol: float = 1e-9,
    floor: float = 0.0,
    step_cap: float = 1.5,
    log_bounds: tuple[float, float] | None = None,
) -> LeastSquares:
    """Returns the local minimum of variable projection reached from `sections`.

    Args:
        sections: the start.
        nodes: lags (n,).
        rows: square roots of the row weights, (n,).
        target: values times `rows`, (n, channel).
        n_iterations: at most this many Jacobians.
        rtol: stop when a step promises less than this fraction of the cost.
        floor: a cost below which rounding rules; stop there.
        step_cap: largest change of a logarithm in one step.
        log_bounds: smallest and largest log w (a single rate, or √b of a section).
    """
    here = project(sections, nodes, rows, target)
    damping, is_converged, count, stalls = 1e-3, False, 0, 0
    low, high = log_bounds if log_bounds is not None else (-np.inf, np.inf)
    k = len(sections.log_rates)
    lows = np.concatenate([np.full(k, low), np.tile([low - 3, 2 * low], len(sections.log_pairs))])
    highs = np.concatenate(
        [np.full(k, high), np.tile([high + 1, 2 * high], len(sections.log_pairs))]
    )
    while count < n_iterations and here.cost > floor:
        jacobian = _jacobian(sections, here)
        count += 1
        n_rows = here.residual.size
        slope = jacobian[:n_rows].T @ here.residual.ravel()
        triangle = np.linalg.qr(jacobian, mode="r")
        _, singular, vt = np.linalg.svd(triangle)
        if singular[0] == 0 or not np.isfinite(singular[0]):
            break
        along = vt @ slope
        accepted, promised = False, 0.0
        for _ in range(12):
            step = -vt.T @ (along / (singular**2 + damping * singular[0] ** 2))
            largest = np.abs(step).max()
            if largest > step_cap:
                step *= step_cap / largest
            vector = np.clip(sections.vector + step, lows, highs)
            step = vector - sections.vector
            moved = triangle @ step
            promised = -(2 * slope @ step + moved @ moved)
            trial_sections = sections.moved(vector)
            trial = project(trial_sections, nodes, rows, target, derivatives=False)
            gain = here.cost - trial.cost
            if np.isfinite(trial.cost) and gain > 0 and gain > 1e-3 * promised:
                accepted = True
                break
            if abs(promised) <= rtol * here.cost:
                break
            damping = max(damping * 6, 1e-14)
        if not accepted:
            is_converged = abs(promised) <= max(rtol, 1e-6) * here.cost
            break
        good = gain > 0.6 * promised
        damping = max(damping * (0.1 if good else 1.0 if gain > 0.2 * promised else 4.0), 1e-16)
        slow = gain <= rtol * here.cost
        sections = trial_sections
        if slow:
            stalls += 1
        else:
            stalls = 0
        # The trial is already factorised; only its derivatives are new.
        here = dataclasses.replace(trial, derivatives=section_basis(sections, nodes, rows)[1])
        if stalls >= 2 or promised <= rtol * here.cost:
            is_converged = True
            break
    return LeastSquares(sections, here.amplitudes, here.cost, count, is_converged)


def section_modes(sections: Sections, amplitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns rates and modal amplitudes (width, channel) of a sum over the sections' basis.

    A section whose rates nearly coincide gets amplitudes that nearly cancel; exactly repeated
    rates get infinite ones.
    """
    k = len(sections.log_rates)
    rates = sections.rates()
    modal = np.empty((sections.width, amplitudes.shape[1]), dtype=complex)
    modal[:k] = amplitudes[:k]
    if len(sections.log_pairs):
        b = np.exp(sections.log_pairs[:, 1])
        sinh, cosh = amplitudes[k::2], amplitudes[k + 1 :: 2]
        half_gap = (rates[k::2] - rates[k + 1 :: 2]) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            odd = sinh * (np.sqrt(b) / half_gap)[:, None]
        # sinh(dt)/d = (e^{dt} - e^{-dt})/2d, and the first rate of a pair is a/2 + d.
        modal[k::2], modal[k + 1 :: 2] = (cosh - odd) / 2, (cosh + odd) / 2
    return rates, modal


def sum_of_sections(sections: Sections, amplitudes: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Returns the values of the sum at `lags`, shape (lag, channel)."""
    basis, _ = section_basis(sections, lags, np.ones_like(lags), derivatives=False)
    return basis @ amplitudes
