"""Fits in L1, the operator norm: Newton's method from the lags where the error changes sign."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.ndimage

from recollect._core._references import references
from recollect.approximation._errors import locate_sign_changes
from recollect.approximation._l2 import (
    LeastSquares,
    Sections,
    project,
    refine_sections,
    sum_of_sections,
)
from recollect.approximation._problem import FitGrid


@dataclasses.dataclass(frozen=True)
class Modes:
    """An exponential sum of one channel: real modes, and one of each conjugate pair.

    `Σ a e^{-wt} + 2 Re Σ c e^{-vt}`, rates in logarithms, complex ones with |Im log v| < π/2.

    Args:
        real_amplitudes, real_log_rates: shape (n_real,).
        amplitudes, log_rates: complex, shape (n_pairs,).
    """

    real_amplitudes: np.ndarray
    real_log_rates: np.ndarray
    amplitudes: np.ndarray
    log_rates: np.ndarray

    @property
    def width(self) -> int:
        """Number of exponentials."""
        return len(self.real_amplitudes) + 2 * len(self.amplitudes)

    def values(self, lags: np.ndarray) -> np.ndarray:
        """Returns the sum at `lags`, shape (lag,)."""
        t = lags[:, None]
        total = np.exp(-t * np.exp(self.real_log_rates)) @ self.real_amplitudes
        if len(self.amplitudes):
            total = total + 2 * (np.exp(-t * np.exp(self.log_rates)) @ self.amplitudes).real
        return total

    def rates(self) -> np.ndarray:
        """Returns all rates, complex, conjugates next to each other, shape (width,)."""
        pairs = np.exp(self.log_rates)
        both = np.stack([pairs, pairs.conj()], axis=1).ravel()
        return np.concatenate([np.exp(self.real_log_rates).astype(complex), both])

    def all_amplitudes(self) -> np.ndarray:
        """Returns the amplitudes in the order of `rates`, complex, shape (width,)."""
        both = np.stack([self.amplitudes, self.amplitudes.conj()], axis=1).ravel()
        return np.concatenate([self.real_amplitudes.astype(complex), both])

    def stepped(self, step: np.ndarray) -> Modes:
        """Returns the modes after a step in relative amplitudes and log rates."""
        n, k = len(self.real_amplitudes), len(self.amplitudes)
        scale = np.abs(self.amplitudes)
        x = step[2 * n :].reshape(4, k)
        return Modes(
            self.real_amplitudes + np.abs(self.real_amplitudes) * step[:n],
            self.real_log_rates + step[n : 2 * n],
            self.amplitudes + scale * (x[0] + 1j * x[1]),
            self.log_rates + x[2] + 1j * x[3],
        )

    def is_stable(self) -> bool:
        """True if every rate has a positive real part."""
        return bool(np.all(np.abs(self.log_rates.imag) < np.pi / 2 - 1e-6))


def modes_of(rates: np.ndarray, amplitudes: np.ndarray) -> Modes:
    """Returns the modes of conjugate-closed rates (width,) and amplitudes (width,)."""
    is_real = rates.imag == 0
    upper = rates.imag > 0
    return Modes(
        amplitudes[is_real].real.copy(),
        np.log(rates[is_real].real),
        amplitudes[upper].copy(),
        np.log(rates[upper]),
    )


class _SignedError:
    """The error of one sum: its integral, its changes of sign, a quadrature that respects them."""

    def __init__(self, grid: FitGrid, fitted: Callable[[np.ndarray], np.ndarray]):
        self._grid, self._fitted = grid, fitted
        t = grid.nodes
        order = len(t) // len(grid.panels.starts)
        error = grid.values[:, 0, 0] - fitted(t)
        negative = error < 0
        index = np.flatnonzero(negative[1:] != negative[:-1])
        self.crossings = self._located(index, error)
        self.first_sign = -1.0 if negative[0] else 1.0
        lags = self.crossings
        touched = np.unique(np.searchsorted(grid.panels.starts, lags, side="right") - 1)
        nodes, weights = t.reshape(-1, order), grid.weights.reshape(-1, order)
        error = error.reshape(-1, order)
        if len(touched):
            x, w = np.polynomial.legendre.leggauss(order)
            # Sorted, left and right ends pair up: start, cut, ..., stop of every touched panel.
            left = np.sort(np.concatenate([grid.panels.starts[touched], lags]))
            right = np.sort(np.concatenate([lags, grid.panels.stops[touched]]))
            pieces = left[:, None] + (right - left)[:, None] * (x + 1) / 2
            whole = np.ones(len(nodes), bool)
            whole[touched] = False
            nodes = np.concatenate([nodes[whole], pieces])
            weights = np.concatenate([weights[whole], (right - left)[:, None] * w / 2])
            error = np.concatenate([error[whole], self._error(pieces.ravel()).reshape(-1, order)])
        self.nodes, self.weights = nodes.ravel(), weights.ravel()
        self.signs = np.sign(error.ravel())
        self.total = float(np.abs(error.ravel()) @ self.weights)
        rank = np.argsort(nodes[:, 0])
        height = np.empty(len(rank))
        height[rank] = scipy.ndimage.maximum_filter1d(np.abs(error[rank]).max(axis=1), 3)
        self.envelope = np.repeat(np.maximum(height, 1e-290), order)

    def _error(self, lags: np.ndarray) -> np.ndarray:
        return self._grid.kernel(lags)[:, 0, 0] - self._fitted(lags)

    def _located(self, index: np.ndarray, error: np.ndarray) -> np.ndarray:
        t = self._grid.nodes
        if not len(index):
            return np.zeros(0)
        return locate_sign_changes(
            self._error, (t[index], t[index + 1]), (error[index], error[index + 1]), rtol=1e-13
        )

    def slopes(self) -> np.ndarray:
        """|e'| at the changes of sign, by central differences within the neighbouring gaps."""
        z = self.crossings
        gaps = np.diff(z, prepend=0.0, append=2 * z[-1])
        h = 2e-3 * np.minimum(gaps[1:], gaps[:-1])
        h = np.maximum(h, 1e-12 * z)
        near = self._error(np.concatenate([z + h, z - h, z + 2 * h, np.maximum(z - 2 * h, 0)]))
        plus, minus, plus2, minus2 = near.reshape(4, -1)
        return np.abs(8 * (plus - minus) - (plus2 - minus2)) / (12 * h)


def _gradients(modes: Modes, lags: np.ndarray) -> np.ndarray:
    """Derivatives of the sum in relative amplitudes and log rates, (lag, parameter)."""
    t = lags[:, None]
    w, v = np.exp(modes.real_log_rates), np.exp(modes.log_rates)
    decay, pair_decay = np.exp(-t * w), np.exp(-t * v)
    size, c = np.abs(modes.real_amplitudes), modes.amplitudes
    in_c = 2 * np.abs(c) * pair_decay
    in_log = -2 * c * (v * t) * pair_decay
    return np.concatenate(
        [
            size * decay,
            -modes.real_amplitudes * (w * t) * decay,
            in_c.real,
            -in_c.imag,
            in_log.real,
            -in_log.imag,
        ],
        axis=1,
    )


def _curvature(modes: Modes, at: _SignedError) -> np.ndarray:
    """Returns ∫ sgn(e) ∂²ρ̂, (parameter, parameter): only a mode's own parameters mix."""
    n, k = len(modes.real_amplitudes), len(modes.amplitudes)
    t, load = at.nodes[:, None], at.signs * at.weights
    a, w = modes.real_amplitudes, np.exp(modes.real_log_rates)
    c, v = modes.amplitudes, np.exp(modes.log_rates)
    real_decay, decay = np.exp(-t * w), np.exp(-t * v)
    i1 = load @ (w * t * real_decay)
    i2 = load @ (_phase(w, t, real_decay) ** 2 * real_decay)
    phase = _phase(v, t, decay)
    j1, j2 = load @ (phase * decay), load @ (phase**2 * decay)
    curvature = np.zeros((2 * n + 4 * k,) * 2)
    r, s = np.arange(n), 2 * n + np.arange(k)
    curvature[r, n + r] = -np.abs(a) * i1
    curvature[n + r, n + r] = a * (i2 - i1)
    cross, twice = -2 * np.abs(c) * j1, 2 * c * (j2 - j1)
    re_c, im_c, re_l, im_l = s, s + k, s + 2 * k, s + 3 * k
    curvature[re_c, re_l], curvature[re_c, im_l] = cross.real, -cross.imag
    curvature[im_c, re_l], curvature[im_c, im_l] = -cross.imag, -cross.real
    curvature[re_l, re_l], curvature[im_l, im_l] = twice.real, -twice.real
    curvature[re_l, im_l] = -twice.imag
    upper = np.triu(curvature, 1)
    return upper + upper.T + np.diag(np.diag(curvature))


def _phase(rates: np.ndarray, lags: np.ndarray, decay: np.ndarray) -> np.ndarray:
    # Where e^{-wt} is zero its moments are too, even if (wt)² overflows.
    return np.where(decay == 0, 0.0, rates * lags)


class _NewtonModel:
    """∫|e| to second order in directions that are orthonormal in ∫ (·)²/|e|.

    In amplitudes and rates the Hessian of a good fit has a condition number beyond float64; in
    directions measured by their effect on the sum it is harmless, and a step of length √∫|e|
    changes the error by about its own size.
    """

    def __init__(self, modes: Modes, at: _SignedError):
        self._modes, self._at = modes, at
        # Roots first: at lags of 1e200 the quotient itself overflows.
        self._rows = np.sqrt(at.weights) / np.sqrt(np.maximum(at.envelope, 1e-300))
        directions = _gradients(modes, at.nodes) * self._rows[:, None]
        norms = np.maximum(np.sqrt(np.einsum("ij,ij->j", directions, directions)), 1e-300)
        self._q, r = np.linalg.qr(directions / norms)
        diagonal = np.diag(r).copy()
        diagonal[np.abs(diagonal) < 1e-14] = 1e-14
        np.fill_diagonal(r, diagonal)
        self._r, self._norms = r, norms
        self._base = modes.values(at.nodes)
        weighted = np.divide(
            at.weights, self._rows, out=np.zeros_like(self._rows), where=self._rows > 0
        )
        self.gradient = -(self._q.T @ (at.signs * weighted))
        rows = self._orthonormal(_gradients(modes, at.crossings))
        slopes = at.slopes()
        alive = slopes > 1e-280
        hessian = (rows[alive].T * (2 / slopes[alive])) @ rows[alive]
        curved = self._orthonormal(_curvature(modes, at))
        hessian = hessian - self._orthonormal(curved.T)
        self.hessian = (hessian + hessian.T) / 2

    def _orthonormal(self, rows: np.ndarray) -> np.ndarray:
        return scipy.linalg.solve_triangular(
            self._r, (rows / self._norms).T, trans=1, check_finite=False
        ).T

    def _parameters(self, move: np.ndarray) -> np.ndarray:
        return scipy.linalg.solve_triangular(self._r, move, check_finite=False) / self._norms

    def moved(self, move: np.ndarray) -> Modes | None:
        """Returns modes whose sum has changed by `move`, or None where the way is too curved.

        The change is prescribed, not the parameters: what the curvature of the sums adds is
        taken back by further solves with the same factors.
        """
        step = self._parameters(move)
        wanted = self._q @ move
        last = np.inf
        trial = None
        for _ in range(6):
            if np.abs(step).max() > 1.5:
                return None
            candidate = self._modes.stepped(step)
            if not candidate.is_stable():
                return None
            miss = (candidate.values(self._at.nodes) - self._base) * self._rows - wanted
            inside = self._q.T @ miss
            size = float(np.linalg.norm(inside))
            if not size < 0.7 * last:
                return trial if last < 0.5 * np.linalg.norm(move) else None
            trial, last = candidate, size
            if size < 1e-3 * np.linalg.norm(move):
                return trial
            step = step - self._parameters(inside)
        return trial


@dataclasses.dataclass(frozen=True)
class LeastDeviation:
    """Modes at a local L1 minimum.

    Args:
        modes: the sum.
        error: ∫|ρ - ρ̂| on the fitting grid.
        n_iterations: Newton steps taken.
        is_converged: True if the last step promised next to nothing.
        residual: what the last step promised, relative to the error.
    """

    modes: Modes
    error: float
    n_iterations: int
    is_converged: bool
    residual: float


def _settled(modes: Modes, here: _SignedError, grid: FitGrid, n_steps: int):
    """Amplitudes nearer to the best ones for the same rates, a convex problem."""
    n, k = len(modes.real_amplitudes), len(modes.amplitudes)
    linear = np.r_[0:n, 2 * n : 2 * n + 2 * k]
    for _ in range(n_steps):
        if not len(here.crossings):
            break
        root = np.sqrt(here.weights)
        columns = _gradients(modes, here.nodes)[:, linear] * root[:, None]
        norms = np.maximum(np.sqrt(np.einsum("ij,ij->j", columns, columns)), 1e-300)
        q, r = np.linalg.qr(columns / norms)
        if np.abs(np.diag(r)).min() < 1e-14:
            break
        gradient = -(q.T @ (here.signs * root))
        rows = scipy.linalg.solve_triangular(
            r,
            (_gradients(modes, here.crossings)[:, linear] / norms).T,
            trans=1,
            check_finite=False,
        )
        slopes = here.slopes()
        alive = slopes > 1e-280
        hessian = (rows[:, alive] * (2 / slopes[alive])) @ rows[:, alive].T
        if not np.all(np.isfinite(hessian)):
            break
        curvature, vectors = np.linalg.eigh(hessian)
        along = vectors.T @ gradient
        improved = False
        for damping in (1e-12, 1e-4, 1e-2):
            move = -vectors @ (along / (curvature + damping * curvature[-1]))
            if -float(gradient @ move) < 1e-9 * here.total:
                break
            step = np.zeros(2 * n + 4 * k)
            step[linear] = scipy.linalg.solve_triangular(r, move, check_finite=False) / norms
            trial = modes.stepped(step)
            there = _SignedError(grid, trial.values)
            if there.total < here.total:
                gain = here.total - there.total
                modes, here, improved = trial, there, gain > 1e-3 * here.total
                break
        if not improved:
            break
    return modes, here


def refine_modes(
    modes: Modes, grid: FitGrid, *, n_iterations: int = 60, rtol: float = 1e-7
) -> LeastDeviation:
    """Returns the local minimum of ∫|ρ - ρ̂| reached from `modes` by regularised Newton steps."""
    here = _SignedError(grid, modes.values)
    count, quiet, is_converged, residual = 0, 0, False, np.inf
    radius = np.sqrt(here.total)
    while count < n_iterations and len(here.crossings):
        model = _NewtonModel(modes, here)
        if not (np.all(np.isfinite(model.gradient)) and np.all(np.isfinite(model.hessian))):
            break
        curvature, vectors = np.linalg.eigh(model.hessian)
        along = vectors.T @ model.gradient
        size = np.maximum(np.abs(curvature), 1e-12 * np.abs(curvature).max())
        count += 1
        accepted, promised = False, 0.0
        trial, there, move = modes, here, along
        for _ in range(10):
            move = -vectors @ _bounded_step(along, size, radius)
            promised = -float(model.gradient @ move + 0.5 * move @ (model.hessian @ move))
            promised = max(promised, -0.5 * float(model.gradient @ move))
            found = model.moved(move)
            if found is not None:
                trial, there = found, _SignedError(grid, found.values)
                if there.total < 3 * here.total:
                    trial, there = _settled(trial, there, grid, 3)
                if there.total < here.total:
                    accepted = True
                    break
            if promised < rtol * here.total:
                break
            radius = 0.3 * min(radius, float(np.linalg.norm(move)))
        residual = promised / max(here.total, 1e-300)
        if not accepted:
            is_converged = promised < 1e-4 * here.total
            break
        gain = here.total - there.total
        length = float(np.linalg.norm(move))
        if gain > 0.7 * promised:
            radius = max(radius, 2 * length)
        elif gain < 0.2 * promised:
            radius = 0.5 * length
        modes, here = trial, there
        quiet = quiet + 1 if gain < rtol * here.total else 0
        if quiet >= 2:
            is_converged = True
            break
    return LeastDeviation(modes, here.total, count, is_converged, residual)


def _bounded_step(along: np.ndarray, size: np.ndarray, radius: float) -> np.ndarray:
    """Returns along/(size + μ) with the least μ ≥ 0 that keeps its length within `radius`."""
    step = along / size
    # The largest entry first: the square of a step along a flat direction may overflow.
    if np.max(np.abs(step), initial=0.0) <= radius and np.linalg.norm(step) <= radius:
        return step
    low, high = 0.0, float(np.linalg.norm(along)) / radius
    for _ in range(60):
        middle = (low + high) / 2
        if np.linalg.norm(along / (size + middle)) > radius:
            low = middle
        else:
            high = middle
    return along / (size + high)


@references("golub1973differentiation")
def reweighted_sections(
    sections: Sections, grid: FitGrid, *, n_rounds: int = 18, n_steps: int = 2
) -> LeastSquares:
    """Returns sections near the L1 minimum: least squares reweighted by 1/|error|.

    Entries of a matrix kernel are weighted together, by the sum of their absolute errors.
    """
    n_channels = grid.n_outputs * grid.n_inputs
    values = grid.values.reshape(-1, n_channels)
    base = np.sqrt(grid.weights)
    fitted = project(sections, grid.nodes, base, values * base[:, None], derivatives=False)
    best: LeastSquares | None = None
    best_error = np.inf
    window = 2 * (len(grid.nodes) // len(grid.panels.starts))
    scale = np.abs(values).sum(axis=1)
    scale = np.maximum(scale, 1e-30 * scale.max())
    amplitudes = fitted.amplitudes
    trial = LeastSquares(sections, amplitudes, np.inf, 0, False)
    for k in range(n_rounds + 1):
        error = np.abs(values - sum_of_sections(sections, amplitudes, grid.nodes)).sum(axis=1)
        total = float(grid.weights @ error)
        if total < best_error:
            best, best_error = dataclasses.replace(trial, cost=total), total
        elif total > 1.2 * best_error or k == n_rounds:
            break
        # Weights follow the local envelope of the error first and its zeros later.
        envelope = scipy.ndimage.maximum_filter1d(error, window)
        floor = np.maximum(0.75**k * envelope, 1e-14 * scale)
        rows = base / np.sqrt(np.maximum(error, floor))
        trial = refine_sections(
            sections, grid.nodes, rows, values * rows[:, None], n_iterations=n_steps, rtol=1e-4
        )
        sections, amplitudes = trial.sections, trial.amplitudes
    assert best is not None
    return best
