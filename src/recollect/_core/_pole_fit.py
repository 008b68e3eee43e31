"""The best exponential sum of a width under a quadratic form, in discrete time."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg

from recollect._core._least_squares import Point, descend, normal_root, project, projected_jacobian
from recollect._core._references import references

# A pole further out than this is not told apart from the unit circle.
_OUTERMOST = 1 - 1e-12
_RANK = 1e-13
_MOST_HANKEL = 1000


def quadratic_form(
    xs: list[np.ndarray], ys: list[np.ndarray], n_lags: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (R, d) with `‖R K - d‖²` the mean square error on the records, up to a constant.

    K ends after `n_lags`. An entry `Σ_k x_{k-j} x_{k-l}` follows from the one before it on its
    diagonal, so the records are read once.
    """
    n_samples = sum(len(x) for x in xs)
    backward = np.zeros((len(xs), n_lags))
    first, cross = np.zeros(n_lags), np.zeros(n_lags)
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        n = min(len(x), n_lags)
        backward[i, :n] = x[::-1][:n]
        size = scipy.fft.next_fast_len(2 * len(x), real=True)
        spectrum = np.fft.rfft(x, size)
        first[:n] += np.fft.irfft(np.abs(spectrum) ** 2, size)[:n]
        cross[:n] += np.fft.irfft(np.fft.rfft(y, size) * spectrum.conj(), size)[:n]
    ends = backward.T @ backward
    gram = np.empty((n_lags, n_lags))
    gram[0] = first
    gram[:, 0] = first
    for j in range(1, n_lags):
        gram[j, 1:] = gram[j - 1, :-1] - ends[j - 1, :-1]
    root = scipy.linalg.cholesky(gram / n_samples)
    return root, scipy.linalg.solve_triangular(root.T, cross / n_samples, lower=True)


@dataclasses.dataclass(frozen=True)
class DiscretePoles:
    """Real multipliers tanh(x) and pairs sigmoid(r) e^{±iθ}, none outside the unit circle."""

    x: np.ndarray
    pairs: np.ndarray

    @staticmethod
    def of(multipliers: Any) -> DiscretePoles:
        """Returns the coordinates of multipliers that are closed under conjugation."""
        z = np.asarray(multipliers, complex)
        is_real = np.abs(z.imag) <= 1e-9
        upper = z[~is_real & (z.imag > 0)]
        radius = np.clip(np.abs(upper), 1e-9, _OUTERMOST)
        x = np.arctanh(np.clip(z[is_real].real, -_OUTERMOST, _OUTERMOST))
        pairs = np.stack([np.log(radius / (1 - radius)), np.angle(upper)], axis=1)
        return DiscretePoles(x, pairs)

    @property
    def vector(self) -> np.ndarray:
        """All coordinates, shape (width,)."""
        return np.concatenate([self.x, self.pairs.ravel()])

    @property
    def slowest(self) -> float:
        """The largest modulus of a multiplier, zero where there is none."""
        radii = [np.abs(np.tanh(self.x)), 1 / (1 + np.exp(-self.pairs[:, 0]))]
        return float(np.concatenate(radii).max(initial=0.0))

    def moved(self, vector: np.ndarray) -> DiscretePoles:
        """Returns the poles at other coordinates."""
        k = len(self.x)
        pairs = vector[k:].reshape(-1, 2).copy()
        pairs[:, 0] = np.clip(pairs[:, 0], -30, 28)
        pairs[:, 1] = np.clip(pairs[:, 1], 1e-9, math.pi - 1e-9)
        return DiscretePoles(np.clip(vector[:k], -14, 14), pairs)

    def basis(self, n: int) -> np.ndarray:
        """Returns the columns z^j, then Re z^j and Im z^j of every pair, shape (lag, width)."""
        single, cos, sin = self._waves(n)
        return np.concatenate([single, np.stack([cos, sin], 2).reshape(n, -1)], axis=1)

    def slopes(self, n: int) -> np.ndarray:
        """Returns how the columns move: of a pair (Re, Im) with r, then with θ."""
        j = np.arange(n)[:, None]
        single, cos, sin = self._waves(n)
        before = np.concatenate([np.zeros((1, len(self.x))), single[:-1]])
        radius = 1 / (1 + np.exp(-self.pairs[:, 0]))
        by_radius = np.stack([cos, sin], axis=2) * (j * (1 - radius))[:, :, None]
        by_angle = np.stack([-j * sin, j * cos], axis=2)
        pairs = np.stack([by_radius, by_angle], 2).reshape(n, -1)
        return np.concatenate([j * before * (1 - np.tanh(self.x) ** 2), pairs], axis=1)

    def _waves(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        j = np.arange(n)[:, None]
        radius, angle = 1 / (1 + np.exp(-self.pairs[:, 0])), self.pairs[:, 1]
        envelope = np.exp(j * np.log(radius))
        return np.tanh(self.x) ** j, envelope * np.cos(j * angle), envelope * np.sin(j * angle)


def refine_poles(
    poles: DiscretePoles,
    root: np.ndarray,
    wanted: np.ndarray,
    *,
    n_iterations: int = 60,
    rtol: float = 1e-6,
    patience: int = 3,
) -> tuple[DiscretePoles, int]:
    """Returns poles and steps of variable projection on `‖root K - wanted‖²`.

    Gauss-Newton with Kaufman's Jacobian in the poles alone; the amplitudes are solved for.

    Args:
        poles: where to start.
        root: shape (row, lag), or the weights (lag,) of a diagonal one.
        wanted: shape (row,) or (row, channel).
        n_iterations: at most this many steps.
        rtol, patience: so many steps in a row that gain less than this share of the cost end it.
    """
    weights = root[:, None] if root.ndim == 1 else None
    target = wanted.reshape(len(wanted), -1)

    def seen(columns: np.ndarray) -> np.ndarray:
        return root @ columns if weights is None else weights * columns

    def evaluate(vector: np.ndarray) -> Point:
        at = poles.moved(vector)
        found = project(seen(at.basis(root.shape[-1])), target)
        return Point(at.vector, float(np.sum(found.residual**2)), found)

    def linearise(at: Point) -> tuple[np.ndarray, np.ndarray]:
        slopes = seen(poles.moved(at.vector).slopes(root.shape[-1]))
        jacobian = projected_jacobian(slopes, at.solution, len(poles.x))
        return normal_root(jacobian, at.solution.residual.ravel())

    end, n_taken = descend(
        evaluate(poles.vector),
        evaluate,
        linearise,
        longest_step=0.7,
        n_steps=n_iterations,
        rtol=rtol,
        floor=(1e-15 * float(np.linalg.norm(target))) ** 2,
        patience=patience,
    )
    return poles.moved(end.vector), n_taken


def realise_poles(
    poles: DiscretePoles, root: np.ndarray, wanted: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float]:
    """Returns (A, b, c) and the cost of the best network with these poles.

    On orthonormal states: the amplitudes of nearly equal poles cancel to many digits.
    """
    A, b = orthonormal_states(poles)
    seen = root @ run_states(A, b, root.shape[1])
    c = np.linalg.lstsq(seen, wanted, rcond=1e-15)[0]
    c += np.linalg.lstsq(seen, wanted - seen @ c, rcond=1e-15)[0]
    rest = wanted - seen @ c
    return (A, b, c), float(rest @ rest)


def orthonormal_states(poles: DiscretePoles) -> tuple[np.ndarray, np.ndarray]:
    """Returns (A, b) with these eigenvalues whose impulse responses are orthonormal.

    A cascade of all-pass lattice sections, each made of plane rotations by its reflection
    coefficients, slowest last.
    """
    sections = []
    for z in np.tanh(poles.x):
        s = math.sqrt((1 - z) * (1 + z))
        sections.append((abs(z), np.array([[z]]), np.array([s]), np.array([s]), -z))
    for r, angle in poles.pairs:
        radius = 1 / (1 + math.exp(-r))
        k, p = -2 * radius * math.cos(angle) / (1 + radius**2), radius**2
        # (1 + r²)² - (2 r cos θ)², without cancellation.
        s = math.sqrt((1 - p) ** 2 + (2 * radius * math.sin(angle)) ** 2) / (1 + p)
        t = math.sqrt((1 - p) * (1 + p))
        transition = np.array([[-k, -s * p], [s, -k * p]])
        sections.append((radius, transition, np.array([s * t, k * t]), np.array([0.0, t]), p))
    m = len(poles.x) + 2 * len(poles.pairs)
    A, b, output, through, first = np.zeros((m, m)), np.zeros(m), np.zeros(m), 1.0, 0
    for _, transition, gain, tap, direct in sorted(sections, key=lambda section: section[0]):
        own = slice(first, first + len(gain))
        A[own] = np.outer(gain, output)
        A[own, own] = transition
        b[own] = gain * through
        output = direct * output
        output[own] = tap
        through *= direct
        first += len(gain)
    return A, b


def run_states(A: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """Returns the states after an impulse, `A^j b`, shape (lag, width)."""
    states = np.empty((n, len(b)))
    for j in range(n):
        states[j] = b
        b = A @ b
    return states


@references("golub1973differentiation")
def fit_sequence(
    sequence: np.ndarray, width: int, root: np.ndarray, wanted: np.ndarray
) -> tuple[DiscretePoles, int]:
    """Returns the poles to start from for a sequence seen on a window, and its numerical rank.

    Of the balanced truncation of its Hankel matrix, and of evenly spread frequencies, the one that
    a few steps of refinement take further down.
    """
    n = min(len(sequence), _MOST_HANKEL)
    half = max(1, n // 2)
    hankel = scipy.linalg.hankel(sequence[:half], sequence[half - 1 : 2 * half - 1])
    values, vectors = scipy.linalg.eigh(hankel)
    order = np.argsort(-np.abs(values))
    rank = max(1, int(np.sum(np.abs(values) > _RANK * np.abs(values[order[0]]))))
    n_poles = min(width, rank, max(1, half - 1))
    starts = [] if half < 2 else [shifted_poles(vectors[:, order[:n_poles]], 1, len(sequence))]
    starts.append(spread_poles(np.abs(sequence), n_poles))
    tried = []
    for i, start in enumerate(DiscretePoles.of(z) for z in starts):
        poles, _ = refine_poles(start, root, wanted, n_iterations=25, rtol=1e-4)
        cost = min(realise_poles(each, root, wanted)[1] for each in (start, poles))
        tried.append((cost, i, start))
    return min(tried)[2], rank


def shifted_poles(vectors: np.ndarray, n_shift: int, n_lags: int) -> np.ndarray:
    """Returns the multipliers that shift Hankel vectors by a step, all inside the unit circle."""
    shift = np.linalg.lstsq(vectors[:-n_shift], vectors[n_shift:], rcond=None)[0]
    z = np.linalg.eigvals(shift).astype(complex)
    # Outside the circle there is the mirror image, on it a point a little inside.
    outside = np.abs(z) > 1
    z[outside] = 1 / z[outside].conj()
    return z * np.minimum(1.0, (1 - 0.1 / n_lags) / np.maximum(np.abs(z), 1e-300))


def spread_poles(size: np.ndarray, n_poles: int) -> np.ndarray:
    """Returns multipliers of one decay and evenly spread frequencies, for a sequence of this size."""
    length = measure_length(size)
    decay = (1 + math.log(n_poles + 1)) / length
    angles = np.minimum(np.pi * (2 * np.arange(n_poles // 2) + 1) / (1.2 * length), 0.98 * np.pi)
    upper = np.exp(-decay + 1j * angles)
    return np.concatenate([upper, upper.conj(), [math.exp(-decay)] * (n_poles % 2)])


def measure_length(size: np.ndarray) -> float:
    """Returns the steps within which 95 % of a sequence lies, at least two."""
    mass = np.cumsum(size)
    return max(2.0, float(np.searchsorted(mass, 0.95 * mass[-1]) + 1))
