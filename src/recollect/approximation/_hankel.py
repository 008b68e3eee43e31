"""Balanced truncation by quadrature: starts for every width, and bounds no width can beat."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy.linalg

from recollect._core._quadrature import Panels
from recollect._core._references import references
from recollect.approximation._problem import FitGrid

_N_MAX = 640
_N_MAX_LOG = 900
_N_KEPT = 200


@dataclasses.dataclass(frozen=True)
class HankelSpectrum:
    """The Hankel operator of a kernel, decomposed once for every width.

    The operator is (Γf)(t) = ∫ v(t)^½ ρ(t+s) v(s)^½ f(s) ds with v = 1 (`power` 0) or
    v(t) = t^-½/√π (`power` ½).

    Args:
        singular_values: decreasing, shape (k,).
        generator: coordinates of the shift on the range, truncated for each width by its leading
            block, shape (k, k): of d/dt, or of a divided difference over `shift`.
        shift: the lag of that difference, or zero.
        power: the exponent of the weight.
        norm: the Hilbert-Schmidt norm of the operator.
        nodes: lags of the quadrature, (n,).
        fields: right singular vectors times root weights, (n * in, k).
        end: lag at which both variables are cut.
    """

    singular_values: np.ndarray
    generator: np.ndarray
    shift: float
    power: float
    norm: float
    nodes: np.ndarray
    fields: np.ndarray
    end: float

    def usable_width(self, *, rtol: float = 1e-13) -> int:
        """Returns the number of singular values that stand above rounding."""
        return int(np.sum(self.singular_values > rtol * self.singular_values[0]))

    @property
    def n_rates(self) -> int:
        """The most rates that a truncation has."""
        return self.usable_width(rtol=1e-15)

    def rates(self, width: int) -> np.ndarray:
        """Returns the rates of the balanced truncation (starts: Re may be negative)."""
        width = min(width, self.n_rates)
        eigenvalues = np.linalg.eigvals(self.generator[:width, :width])
        if not self.shift:
            return -eigenvalues
        rates = -np.log1p((eigenvalues * self.shift).astype(complex)) / self.shift
        # A negative multiplier is beyond what the step resolves; its conjugate is missing.
        return np.where(eigenvalues.imag == 0, rates.real, rates)

    def positive_rates(self, width: int) -> np.ndarray:
        """Returns the rates of the best Hankel-norm approximation of a completely monotone kernel.

        They are the zeros p > 0 of the Laplace transform of the eigenvector behind σ_{m+1}
        (Adamjan, Arov, Krein): found by changes of sign on a logarithmic scale, so that rates
        a hundred decades apart are no harder than rates one decade apart. Fewer than `width`
        come back where rounding hides some.
        """
        if width >= len(self.singular_values):
            return np.zeros(0)
        t = self.nodes
        points = np.geomspace(0.05 / t[-1], 50 / t[0], 40 * math.ceil(np.log10(t[-1] / t[0]) + 4))
        transform = np.exp(-np.multiply.outer(points, t)) @ self.fields[:, width]
        change = np.flatnonzero(np.sign(transform[1:]) * np.sign(transform[:-1]) < 0)
        share = transform[change] / (transform[change] - transform[change + 1])
        return points[change] * (points[change + 1] / points[change]) ** share

    def tail(self, width: int) -> float:
        """Returns (Σ_{k>width} σ_k²)^½."""
        rest = self.singular_values[width:]
        return float(np.sqrt(np.sum(rest[::-1] ** 2)))


@references("adamyan1971analytic")
def hankel_spectrum(
    grid: FitGrid, *, power: float = 0.0, reach: float | None = None
) -> HankelSpectrum:
    """Returns the spectrum of the (weighted) Hankel operator of the kernel on `grid`.

    Args:
        grid: the kernel.
        power: of the weight, 0 or ½.
        reach: cut both variables at the end of the panel that holds this lag; by default where
            the kernel ends.
    """
    nodes, weights, differentiate = _hankel_nodes(grid, power, reach)
    n = len(nodes)
    out, in_ = grid.n_outputs, grid.n_inputs
    values = _on_sums(grid, nodes, 0.0)
    root = np.sqrt(weights)
    # A step that every rate the spectrum can show resolves; algebraic kernels have no such step.
    shift = 0.0 if power or grid.panels.is_log.any() else grid.effective_support / 2000
    moved = (_on_sums(grid, nodes, shift) - values) / shift if shift else None

    def weighted(block: np.ndarray) -> np.ndarray:
        scaled = root[:, None, None, None] * block * root[None, :, None, None]
        return scaled.transpose(0, 2, 1, 3).reshape(n * out, n * in_)

    if out == in_ == 1:
        eigenvalues, vectors = scipy.linalg.eigh(
            weighted(values), overwrite_a=True, check_finite=False, driver="evd"
        )
        order = np.argsort(-np.abs(eigenvalues))[:_N_KEPT]
        singular, left = np.abs(eigenvalues[order]), vectors[:, order]
        right = left * np.sign(eigenvalues[order])
    else:
        left, singular, right = scipy.linalg.svd(
            weighted(values), full_matrices=False, check_finite=False
        )
        left, singular, right = left[:, :_N_KEPT], singular[:_N_KEPT], right[:_N_KEPT].T
    if moved is not None:
        scale = 1 / np.sqrt(np.maximum(singular, 1e-300))
        generator = scale[:, None] * (left.T @ weighted(moved) @ right) * scale
    else:
        fields = left.reshape(n, -1) / root[:, None]
        slopes = differentiate(fields).reshape(n * out, -1)
        generator = (left.reshape(n, -1) * root[:, None]).reshape(n * out, -1).T @ slopes
    fields = (right.reshape(n, -1) * root[:, None]).reshape(n * in_, -1)
    norm = float(np.sqrt(np.sum(singular**2)))
    end = float(_coarsened(grid, reach).stops[-1])
    return HankelSpectrum(singular, generator, shift, power, norm, nodes, fields, end)


def bound_largest_error(spectra: Sequence[HankelSpectrum], width: int) -> float:
    """Returns a lower bound on sup |ρ - ρ̂| for every network of this width.

    For a probability density p, sup|e|² ≥ ∫∫ p(t) p(s) e(t+s)² dt ds, a squared Hilbert-Schmidt
    norm, and a rank-m operator leaves at least Σ_{k>m} σ_k² of the kernel's. Here
    p(t) = (4Lt)^-½ on [0, L]; the best L is taken.

    Args:
        spectra: with `power` ½, cut at different L.
        width: m.
    """
    return max(
        math.sqrt(math.pi / (4 * s.end)) * max(s.tail(width) - 1e-14 * s.norm, 0.0) for s in spectra
    )


def _on_sums(grid: FitGrid, nodes: np.ndarray, shift: float) -> np.ndarray:
    """The kernel at t_i + t_j + shift, shape (n, n, out, in), each sum evaluated once."""
    n = len(nodes)
    upper = np.triu_indices(n)
    some = np.asarray(grid.kernel(nodes[upper[0]] + nodes[upper[1]] + shift), dtype=np.float64)
    values = np.empty((n, n, *some.shape[1:]))
    values[upper] = some
    values[upper[1], upper[0]] = some
    return values


def _hankel_nodes(grid: FitGrid, power: float, reach: float | None):
    """Nodes, weights (with the operator's weight) and a panel-wise differentiation."""
    panels = _coarsened(grid, reach)
    n_panels = len(panels.starts)
    n_max = _N_MAX if not panels.is_log.any() else _N_MAX_LOG
    order = int(np.clip(n_max // n_panels // max(1, max(grid.n_outputs, grid.n_inputs)), 4, 12))
    x, _ = np.polynomial.legendre.leggauss(order)
    nodes, weights = panels.rule(order)
    first_end = panels.stops[0]
    if power:
        weights = weights * nodes**-power / math.gamma(1 - power)
        # Next to zero the weight is part of the rule.
        x0, w0 = _jacobi(order, power)
        nodes[0] = first_end * x0
        weights[0] = first_end ** (1 - power) * w0 / math.gamma(1 - power)
    regular, first = _differentiation(x), _differentiation(2 * (nodes[0] / first_end) - 1)
    log = panels.is_log
    scale = np.where(log, 1.0, panels.stops - panels.starts)
    scale[log] = np.log(panels.stops[log] / panels.starts[log])
    slope_scale = 2 / scale[:, None] / np.where(log[:, None], nodes, 1.0)

    def differentiate(fields: np.ndarray) -> np.ndarray:
        flat = fields.reshape(n_panels, order, -1)
        slopes = np.einsum("ij,pjc->pic", regular, flat)
        slopes[0] = first @ flat[0]
        return (slopes * slope_scale[:, :, None]).reshape(fields.shape)

    return nodes.ravel(), weights.ravel(), differentiate


def _coarsened(grid: FitGrid, reach: float | None) -> Panels:
    """The fitting panels up to the kernel's end, neighbours merged where there are too many."""
    end = grid.effective_support
    if reach is not None and reach < end:
        end = min(end, float(grid.panels.stops[np.searchsorted(grid.panels.stops, reach)]))
    inside = grid.panels.select(grid.panels.starts < end * (1 - 1e-9))
    stops = inside.stops.copy()
    stops[-1] = end
    panels = Panels(inside.starts, stops, inside.is_log)
    limit = _N_MAX // 6
    while len(panels.starts) > limit:
        keep = np.ones(len(panels.starts), bool)
        keep[1::2] = False
        # Only panels of one kind merge.
        keep[1:] |= panels.is_log[1:] != panels.is_log[:-1]
        starts = panels.starts[keep]
        panels = Panels(starts, np.append(starts[1:], end), panels.is_log[keep])
    return panels


@functools.cache
def _jacobi(order: int, power: float) -> tuple[np.ndarray, np.ndarray]:
    import scipy.special

    x, w = scipy.special.roots_jacobi(order, 0, -power)
    return (x + 1) / 2, w / 2 ** (1 - power)


def _differentiation(x: np.ndarray) -> np.ndarray:
    """Differentiation matrix of the polynomial through nodes `x`."""
    difference = x[:, None] - x
    np.fill_diagonal(difference, 1)
    weights = 1 / difference.prod(axis=1)
    matrix = weights / weights[:, None] / difference
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return matrix
