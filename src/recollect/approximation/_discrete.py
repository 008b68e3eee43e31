"""Discrete time: sums of powers z^j, from the Hankel matrix of a sequence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse
import scipy.special

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_positive,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect.approximation._problem import NORMS, Poles
from recollect.approximation._state_space import assemble

_MOST_HANKEL = 600
_CLOSEST = 1e-9
_MOST_PROGRAMMED = 2000


@references("kung1978new", "golub1973differentiation", "adamyan1971analytic")
def fit_discrete(
    values: Any,
    *,
    dt: float = 1.0,
    width: int,
    norm: str = "l2",
    real: bool = False,
    ends: bool | None = None,
) -> Poles:
    """Returns the network of `width` units whose impulse response is closest to a sequence.

    `K_j ≈ C A^j B`, j = 0, 1, ...: the Hankel matrix K_{i+j} gives a start by its singular
    vectors and a bound by its singular values, then variable projection moves the multipliers
    (z = tanh x for real ones, sigmoid(r) e^{iθ} for pairs). A sequence that ends within `width`
    steps, such as a delay, gets its exact answer: a shift register, whose A is nilpotent and has
    no diagonal form.

    A sequence that has decayed is zero past its end, and the network's own tail counts as error;
    one that has not is a window, judged where it is known.

    Args:
        values: K_j, shape (n,), (n, channel) or (n, out, in), per step: `∫_{j dt}^{(j+1) dt} ρ`.
        dt: the step, in the unit of time; the answer's multipliers do not depend on it.
        width: number of hidden units.
        norm: "l1" Σ|e_j|, "l2" (Σ e_j²)^½ or "linf" max|e_j|, entries of e_j summed.
        real: real multipliers only.
        ends: True if the sequence is zero past its end, False if it is a window; by default it
            ends if its last twentieth is below 1e-10 of its largest value.

    Returns:
        `rates` are the multipliers z, |z| < 1, and `amplitudes` a_i with `K_j ≈ Σ a_i z_i^j`;
        `state_space` is (A, B, C) with orthonormal states, C of shape (out, width). `bound` is a
        proved lower bound in `norm`. Status `width_too_small` where zero is as good as anything
        in the operator norm (a delay), `width_beyond_rank` where fewer units are exact.

    Raises:
        ValueError: if the sequence is empty, zero, not finite or too short for the width.
    """
    sequence, dt, width = _checked(values, dt, width, norm)
    n, n_outputs, n_inputs = sequence.shape
    flat = sequence.reshape(n, -1)
    size = np.abs(flat).sum(axis=1)
    length = int(np.flatnonzero(size > 1e-15 * size.max())[-1]) + 1
    last = size[-max(1, n // 20) :].max()
    is_window = last > 1e-10 * size.max() if ends is None else not ends
    singular, vectors, n_shift = _hankel(sequence, is_window=is_window)
    n_copies = min(n_outputs, n_inputs)
    n_rates = max(1, width // n_copies)
    if length <= n_rates and not is_window:
        return _register(sequence[:length], width)
    bounds = _bounds(singular, width, n_outputs)
    rank = int(np.sum(singular > 1e-13 * singular[0]))
    if n_copies == 1 and rank < n_rates:
        n_rates = max(1, rank)
    if is_window:
        n_rates = min(n_rates, max(1, n // 2))
    # A pole must not hide past the end: what has ended is followed by as many zeros.
    wanted = flat if is_window else np.concatenate([flat, np.zeros_like(flat)])
    rows = np.ones(len(wanted))
    starts = _starts(vectors, n_shift, n_rates, flat, real=real)
    fits = [_refined(start, wanted, rows, n_iterations=40) for start in starts]
    fits.sort(key=lambda fit: fit.cost)
    candidates = [_refined(fit.poles, wanted, rows) for fit in fits[:2]]
    if norm != "l2":
        candidates += [_reweighted(fit, wanted, norm) for fit in candidates]
    realised = [_realise(fit.poles, flat, norm, is_window) for fit in candidates]
    realised += [_realise(start, flat, norm, is_window) for start in starts[:1]]
    A, b, coordinates, error = min(realised, key=lambda item: item[-1])
    trivial = _size(flat, norm)
    if error > trivial:
        coordinates, error = np.zeros_like(coordinates), trivial
    state_space = assemble(A, b, coordinates, n_outputs, n_inputs)
    z, amplitudes = _modes(A, b, coordinates)
    status = Status()
    if len(z) < max(1, width // n_copies):
        status = Status(
            "width_beyond_rank", f"{len(z)} units leave {error:.3g}: the sequence has no more in it"
        )
    elif n_copies == 1 and singular[min(width, len(singular) - 1)] > 0.99 * singular[0]:
        level = int(np.sum(singular > 0.99 * singular[0]))
        status = Status(
            "width_too_small",
            f"the first {level} Hankel singular values are equal: in the operator norm nothing "
            f"with fewer than {level} units beats zero, and {length} are exact",
        )
    return Poles(
        rates=z,
        amplitudes=amplitudes.reshape(len(z), n_outputs, n_inputs),
        error=error,
        bound=min(bounds[norm], error),
        status=status,
        stats={"singular_values": singular, "length": length, "dt": dt},
        state_space=state_space,
    )


def _checked(values: Any, dt: Any, width: Any, norm: str):
    sequence = host_float64("values", values, owner="fit_discrete")
    if sequence.ndim not in (1, 2, 3) or len(sequence) == 0:
        raise invalid(
            "values", "shape (n,), (n, channel) or (n, out, in)", f"shape {sequence.shape}"
        )
    if sequence.ndim == 1:
        sequence = sequence[:, None, None]
    elif sequence.ndim == 2:
        sequence = sequence[:, :, None]
    if not np.any(sequence):
        raise invalid("values", "a sequence with a memory", "zeros only")
    require_choice("norm", norm, NORMS)
    return sequence, require_positive("dt", dt), require_count("width", width)


def _size(flat: np.ndarray, norm: str) -> float:
    total = np.abs(flat).sum(axis=1)
    if norm == "l1":
        return float(total.sum())
    return float(total.max()) if norm == "linf" else float(np.sqrt(np.sum(flat**2)))


def _bounds(singular: np.ndarray, width: int, n_outputs: int) -> dict[str, float]:
    """What no network of the width beats: σ_{m+1} in L1, and what follows from it.

    The j-th error enters the Hankel matrix j+1 times, at most n times within it, so its
    Frobenius norm bounds the L2 error from below by the singular values left over n^½; an entry
    bounds every norm.
    """
    if width >= len(singular):
        return {"l1": 0.0, "l2": 0.0, "linf": 0.0}
    left = np.maximum(singular[width:] - 1e-14 * singular[0], 0.0)
    n = len(singular)
    frobenius = float(np.sqrt(np.sum(left**2)))
    entries = math.sqrt(n_outputs)
    return {
        "l1": float(left[0]) / entries,
        "l2": frobenius / math.sqrt(n),
        "linf": frobenius / n,
    }


def _register(sequence: np.ndarray, width: int) -> Poles:
    """The exact answer of a sequence that ends: a chain of unit delays, one chain per channel."""
    n, n_outputs, n_inputs = sequence.shape
    A = np.diag(np.ones(n - 1), -1)
    b = np.zeros(n)
    b[0] = 1.0
    state_space = assemble(A, b, sequence.reshape(n, -1), n_outputs, n_inputs)
    used = len(state_space[0])
    status = Status()
    if used < width:
        status = Status("width_beyond_rank", f"{used} of {width} units hold the {n} values exactly")
    # A nilpotent matrix has only the multiplier zero and no diagonal form.
    amplitudes = np.full((n, n_outputs, n_inputs), np.nan + 0j)
    if n == 1:
        amplitudes = sequence.astype(complex)
    return Poles(
        rates=np.zeros(n, dtype=complex),
        amplitudes=amplitudes,
        error=0.0,
        bound=0.0,
        status=status,
        stats={"length": n, "is_nilpotent": True},
        state_space=state_space,
    )


def _hankel(sequence: np.ndarray, *, is_window: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Singular values and left vectors of K_{i+j}: zero past an end, cut to what a window shows.

    A compression onto the first rows keeps the singular values lower bounds.
    """
    n, n_outputs, n_inputs = sequence.shape
    size = min(n, _MOST_HANKEL // max(1, max(n_outputs, n_inputs) // 2))
    if is_window:
        size = min(size, (n + 1) // 2)
    padded = np.concatenate([sequence, np.zeros_like(sequence)])
    index = np.arange(size)[:, None] + np.arange(size)
    blocks = padded[index]
    matrix = blocks.transpose(0, 2, 1, 3).reshape(size * n_outputs, size * n_inputs)
    if n_outputs == n_inputs == 1:
        # Symmetric: eigenvalues cost a fraction of singular values.
        values, vectors = scipy.linalg.eigh(matrix, check_finite=False)
        order = np.argsort(-np.abs(values), kind="stable")
        return np.abs(values[order]), vectors[:, order], 1
    if n_outputs >= n_inputs:
        vectors, singular, _ = np.linalg.svd(matrix, full_matrices=False)
        return singular, vectors, n_outputs
    _, singular, vt = np.linalg.svd(matrix, full_matrices=False)
    return singular, vt.T, n_inputs


# --- multipliers in coordinates without constraints -------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Multipliers:
    """Real multipliers tanh(x) and pairs sigmoid(r) e^{±iθ}: inside the unit circle, always."""

    x: np.ndarray
    pairs: np.ndarray

    @staticmethod
    def of(multipliers: np.ndarray, *, real: bool) -> _Multipliers:
        z: Any = np.asarray(multipliers, dtype=complex)
        is_real = np.abs(z.imag) <= 1e-9
        singles = z[is_real].real
        upper = z[~is_real & (z.imag > 0)]
        if real:
            spread = np.abs(upper)
            singles = np.concatenate([singles, spread, 0.9 * spread])
            upper = upper[:0]
        top = 1 - _CLOSEST
        singles = np.clip(singles, -top, top)
        singles = np.sort(singles)
        for k in range(1, len(singles)):
            # Two equal columns cannot be told apart.
            singles[k] = max(singles[k], singles[k - 1] + 1e-6)
        radius = np.clip(np.abs(upper), 1e-6, top)
        pairs = np.stack([scipy.special.logit(radius), np.angle(upper)], axis=1)
        return _Multipliers(np.arctanh(np.clip(singles, -top, top)), pairs)

    @property
    def width(self) -> int:
        return len(self.x) + 2 * len(self.pairs)

    @property
    def vector(self) -> np.ndarray:
        return np.concatenate([self.x, self.pairs.ravel()])

    def moved(self, vector: np.ndarray) -> _Multipliers:
        k = len(self.x)
        limit = math.atanh(1 - _CLOSEST)
        pairs = vector[k:].reshape(-1, 2).copy()
        pairs[:, 0] = np.clip(pairs[:, 0], -30, -math.log(_CLOSEST))
        pairs[:, 1] = np.clip(pairs[:, 1], 1e-9, math.pi - 1e-9)
        return _Multipliers(np.clip(vector[:k], -limit, limit), pairs)

    def multipliers(self) -> np.ndarray:
        upper = scipy.special.expit(self.pairs[:, 0]) * np.exp(1j * self.pairs[:, 1])
        both = np.stack([upper, upper.conj()], axis=1).ravel()
        return np.concatenate([np.tanh(self.x).astype(complex), both])


def _basis(poles: _Multipliers, n: int, *, derivatives: bool):
    """Columns z^j (real), Re z^j and Im z^j (pairs), scaled to unit length by hand later."""
    j = np.arange(n)[:, None]
    z = np.tanh(poles.x)
    with np.errstate(all="ignore"):
        single = np.where(j == 0, 1.0, z**j)
    radius, angle = scipy.special.expit(poles.pairs[:, 0]), poles.pairs[:, 1]
    with np.errstate(under="ignore"):
        envelope = np.where(j == 0, 1.0, radius**j)
    cos, sin = envelope * np.cos(j * angle), envelope * np.sin(j * angle)
    pairs = np.stack([cos, sin], axis=2).reshape(n, -1)
    matrix = np.concatenate([single, pairs], axis=1)
    if not derivatives:
        return matrix, None
    with np.errstate(all="ignore"):
        before = np.concatenate([np.zeros((1, len(z))), single[:-1]])
    in_x = j * before * (1 - z * z)
    in_r = np.stack([cos, sin], axis=2) * (j * (1 - radius))[:, :, None]
    in_angle = np.stack([-j * sin, j * cos], axis=2)
    slopes = np.stack([in_r, in_angle], axis=2)
    return matrix, (in_x, slopes)


@dataclasses.dataclass(frozen=True)
class _Fit:
    poles: _Multipliers
    amplitudes: np.ndarray
    cost: float


def _solved(poles: _Multipliers, target: np.ndarray, rows: np.ndarray, *, derivatives: bool):
    matrix, slopes = _basis(poles, len(target), derivatives=derivatives)
    matrix = matrix * rows[:, None]
    norms = np.linalg.norm(matrix, axis=0)
    norms[norms == 0] = 1.0
    q, r = np.linalg.qr(matrix / norms)
    wanted = target * rows[:, None]
    residual = wanted - q @ (q.T @ wanted)
    residual = residual - q @ (q.T @ residual)
    c = np.linalg.lstsq(r, q.T @ wanted, rcond=1e-14)[0] / norms[:, None]
    return residual, c, q, slopes


def _refined(
    poles: _Multipliers,
    target: np.ndarray,
    rows: np.ndarray,
    *,
    n_iterations: int = 150,
    rtol: float = 1e-9,
) -> _Fit:
    """Variable projection with Kaufman's Jacobian."""
    residual, c, q, slopes = _solved(poles, target, rows, derivatives=True)
    cost, damping = float(np.sum(residual**2)), 1e-3
    floor = (1e-16 * np.linalg.norm(target * rows[:, None])) ** 2
    k, n_pairs, (n, n_channels) = len(poles.x), len(poles.pairs), target.shape
    for _ in range(n_iterations):
        if cost <= floor or slopes is None:
            break
        in_x, in_pairs = slopes
        moves = np.empty((n, n_channels, k + 2 * n_pairs))
        moves[:, :, :k] = in_x[:, None, :] * c[:k].T
        if n_pairs:
            bent = np.einsum("npvc,pch->nhpv", in_pairs, c[k:].reshape(n_pairs, 2, -1))
            moves[:, :, k:] = bent.reshape(n, n_channels, -1)
        flat = moves.reshape(n, -1) * rows[:, None]
        jacobian = -(flat - q @ (q.T @ flat)).reshape(n * n_channels, -1)
        scale = np.sqrt(np.einsum("ij,ij->j", jacobian, jacobian)) + 1e-300
        triangle = scipy.linalg.qr(jacobian / scale, mode="r", check_finite=False)[0]
        _, singular, vt = np.linalg.svd(triangle[: len(scale)])
        along = vt @ ((jacobian / scale).T @ residual.ravel())
        before, accepted = cost, False
        for _ in range(10):
            step = -(vt.T @ (along / (singular**2 + damping))) / scale
            step *= min(1.0, 0.7 / max(float(np.abs(step).max()), 1e-300))
            trial = poles.moved(poles.vector + step)
            new_residual, *_ = _solved(trial, target, rows, derivatives=False)
            new_cost = float(np.sum(new_residual**2))
            if math.isfinite(new_cost) and new_cost < cost:
                accepted = True
                break
            damping = max(damping * 6, 1e-13)
        if not accepted:
            break
        damping *= 0.15
        poles = trial
        residual, c, q, slopes = _solved(poles, target, rows, derivatives=True)
        cost = float(np.sum(residual**2))
        if before - cost <= rtol * before:
            break
    return _Fit(poles, c, cost)


def _reweighted(fit: _Fit, target: np.ndarray, norm: str) -> _Fit:
    """Iteratively reweighted least squares towards the sum or the largest of the errors."""
    best, best_error = fit, math.inf
    current, power = fit, np.ones(len(target))
    for turn in range(20):
        matrix, _ = _basis(current.poles, len(target), derivatives=False)
        error = np.abs(target - matrix @ current.amplitudes).sum(axis=1)
        value = float(error.sum() if norm == "l1" else error.max())
        if value < best_error:
            best, best_error = current, value
        top = error.max()
        if top == 0:
            break
        if norm == "l1":
            power = 1 / np.maximum(error / top, 1e-2 * 0.5**turn)
        else:
            power = power * np.maximum(error / top, 1e-3)
            power = np.maximum(power / power.max(), 1e-10)
        current = _refined(current.poles, target, np.sqrt(power), n_iterations=8, rtol=1e-6)
    return best


def _starts(
    vectors: np.ndarray, n_shift: int, width: int, target: np.ndarray, *, real: bool
) -> list[_Multipliers]:
    u = vectors[:, :width]
    z = np.linalg.eigvals(np.linalg.lstsq(u[:-n_shift], u[n_shift:], rcond=None)[0])
    # Outside the circle there is the mirror image, on it a point a little inside.
    outside = np.abs(z) > 1
    z[outside] = 1 / z[outside].conj()
    top = 1 - 0.1 / len(target)
    z = z * np.minimum(1.0, top / np.maximum(np.abs(z), 1e-300))
    starts = [_Multipliers.of(z, real=real)]
    mass = np.cumsum(np.abs(target).sum(axis=1))
    length = max(2.0, float(np.searchsorted(mass, 0.95 * mass[-1]) + 1))
    if real:
        rates = np.geomspace(0.3, 3.0 * width, width) / length
        starts.append(_Multipliers.of(np.exp(-rates), real=True))
    else:
        decay = (1 + math.log(width + 1)) / length
        k = np.arange(width // 2)
        upper = np.exp(-decay + 1j * np.pi * np.minimum((2 * k + 1) / (1.2 * length), 0.98))
        z = np.concatenate([upper, upper.conj(), [math.exp(-decay)] * (width % 2)])
        starts.append(_Multipliers.of(z, real=False))
    return [start for start in starts if start.width == width]


# --- delivery ---------------------------------------------------------------------------------


def orthonormal_realisation(multipliers: Sequence[complex] | np.ndarray):
    """Returns (A, b), real, with A A' + b b' = I and eigenvalues `multipliers`.

    A chain of all-pass sections, each an orthogonal matrix [A b; c d]: the sequences (A^j b)_k
    are orthonormal, whatever the multipliers, repeated ones included.

    Args:
        multipliers: |z| < 1, closed under conjugation.

    Returns:
        A (width, width) and b (width,).
    """
    z: Any = np.asarray(multipliers, dtype=complex)
    is_real = np.abs(z.imag) <= 1e-14
    sections = [(abs(v), _allpass_single(v.real)) for v in z[is_real]]
    sections += [(abs(v), _allpass_pair(v)) for v in z[~is_real & (z.imag > 0)]]
    sections.sort(key=lambda item: item[0])
    m = len(z)
    A, b = np.zeros((m, m)), np.zeros(m)
    # What reaches the next section: the output of those before, c x + d u.
    output, through, k = np.zeros(m), 1.0, 0
    for _, (a_s, b_s, c_s, d_s) in sections:
        n = len(b_s)
        A[k : k + n, k : k + n] = a_s
        A[k : k + n] += np.outer(b_s, output)
        b[k : k + n] = b_s * through
        output = d_s * output
        output[k : k + n] = c_s
        through *= d_s
        k += n
    return A, b


def _allpass_single(z: float):
    s = math.sqrt((1 - z) * (1 + z))
    return np.array([[z]]), np.array([s]), np.array([s]), -z


def _allpass_pair(z: complex):
    # Solve P = A P A' + b b' for the companion form and take its root out: P becomes I.
    companion = np.array([[2 * z.real, -(abs(z) ** 2)], [1.0, 0.0]])
    drive = np.array([1.0, 0.0])
    root = np.linalg.cholesky(
        scipy.linalg.solve_discrete_lyapunov(companion, np.outer(drive, drive))
    )
    a = scipy.linalg.solve_triangular(root, companion @ root, lower=True)
    b = scipy.linalg.solve_triangular(root, drive, lower=True)
    # The row that completes [a b] to an orthogonal matrix.
    rows = np.concatenate([a, b[:, None]], axis=1)
    last = np.linalg.svd(rows)[2][2]
    return a, b, last[:2], float(last[2])


def _states(A: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    states = np.empty((n, len(b)))
    x = b
    for j in range(n):
        states[j] = x
        x = A @ x
    return states


def _realise(poles: _Multipliers, flat: np.ndarray, norm: str, is_window: bool):
    A, b = orthonormal_realisation(poles.multipliers())
    slowest = float(np.abs(poles.multipliers()).max())
    # The error past the end of the sequence is the network's own tail.
    more = 0
    if not is_window and slowest > 0:
        more = int(min(20 * len(flat), 40 / max(-math.log(slowest), 1e-9)))
    states = _states(A, b, len(flat) + more)
    wanted = np.concatenate([flat, np.zeros((more, flat.shape[1]))])
    if is_window:
        coordinates = np.linalg.lstsq(states, wanted, rcond=1e-15)[0]
    else:
        coordinates = states.T @ wanted
        coordinates += states.T @ (wanted - states @ coordinates)
    if norm != "l2" and flat.shape[1] == 1 and len(states) <= _MOST_PROGRAMMED:
        better = _programmed(states, wanted[:, 0], norm)
        if better is not None and _size(wanted - states @ better, norm) < _size(
            wanted - states @ coordinates, norm
        ):
            coordinates = better
    error = _size(wanted - states @ coordinates, norm)
    return A, b, coordinates, error


def _programmed(states: np.ndarray, wanted: np.ndarray, norm: str) -> np.ndarray | None:
    """The best coordinates in L1 or Linf for fixed multipliers, by a linear program."""
    n, m = states.shape
    slack = scipy.sparse.csr_array(np.ones((n, 1))) if norm == "linf" else scipy.sparse.eye_array(n)
    n_slack = 1 if norm == "linf" else n
    cost = np.concatenate([np.zeros(m), np.ones(n_slack)])
    result = scipy.optimize.linprog(
        cost,
        A_ub=scipy.sparse.block_array(
            [[scipy.sparse.csr_array(states), -slack], [scipy.sparse.csr_array(-states), -slack]],
            format="csr",
        ),
        b_ub=np.concatenate([wanted, -wanted]),
        bounds=[(None, None)] * m + [(0, None)] * n_slack,
        method="highs",
    )
    return None if result.x is None else result.x[:m, None]


def _modes(A: np.ndarray, b: np.ndarray, coordinates: np.ndarray):
    """Amplitudes of z^j from the coordinates: c' V diag(V^{-1} b), where it exists."""
    z, vectors = np.linalg.eig(A)
    order = np.argsort(-np.abs(z), kind="stable")
    z, vectors = z[order].astype(complex), vectors[:, order]
    if np.linalg.cond(vectors) > 1e14:
        return z, np.full((len(z), coordinates.shape[1]), np.nan + 0j)
    weights = np.linalg.solve(vectors, b.astype(complex))
    return z, (vectors * weights).T @ coordinates
