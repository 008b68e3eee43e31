"""Discrete time: sums of powers z^j, from the Hankel matrix of a sequence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_positive,
)
from recollect._core._least_squares import project
from recollect._core._pole_fit import (
    DiscretePoles,
    measure_length,
    orthonormal_states,
    refine_poles,
    run_states,
    shifted_poles,
    spread_poles,
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
    fits = [refine_poles(start, rows, wanted, n_iterations=40, rtol=1e-9)[0] for start in starts]
    fits.sort(key=lambda poles: _left_by(poles, wanted))
    candidates = [
        refine_poles(fit, rows, wanted, n_iterations=150, rtol=1e-9)[0] for fit in fits[:2]
    ]
    if norm != "l2":
        candidates += [_reweighted(fit, wanted, norm) for fit in candidates]
    realised = [_realise(fit, flat, norm, is_window) for fit in candidates]
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


def _reweighted(poles: DiscretePoles, target: np.ndarray, norm: str) -> DiscretePoles:
    """Iteratively reweighted least squares towards the sum or the largest of the errors."""
    best, best_error = poles, math.inf
    current, power = poles, np.ones(len(target))
    for turn in range(20):
        rows = np.sqrt(power)[:, None]
        columns = current.basis(len(target))
        found = project(rows * columns, rows * target).amplitudes
        error = np.abs(target - columns @ found).sum(axis=1)
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
        rows = np.sqrt(power)
        current, _ = refine_poles(
            current, rows, rows[:, None] * target, n_iterations=8, rtol=1e-6, patience=1
        )
    return best


def _starts(
    vectors: np.ndarray, n_shift: int, width: int, target: np.ndarray, *, real: bool
) -> list[DiscretePoles]:
    starts = [shifted_poles(vectors[:, :width], n_shift, len(target))]
    size = np.abs(target).sum(axis=1)
    if real:
        rates = np.geomspace(0.3, 3.0 * width, width) / measure_length(size)
        starts.append(np.exp(-rates))
    else:
        starts.append(spread_poles(size, width))
    found = [DiscretePoles.of(_told_apart(z, real=real)) for z in starts]
    return [start for start in found if len(start.vector) == width]


def _left_by(poles: DiscretePoles, target: np.ndarray) -> float:
    return float(np.sum(project(poles.basis(len(target)), target).residual ** 2))


def _told_apart(multipliers: np.ndarray, *, real: bool) -> np.ndarray:
    """Returns the multipliers with real ones apart, because two equal columns are one; or all real."""
    z: Any = np.asarray(multipliers, dtype=complex)
    is_real = np.abs(z.imag) <= 1e-9
    singles, upper = z[is_real].real, z[~is_real & (z.imag > 0)]
    if real:
        singles = np.concatenate([singles, np.abs(upper), 0.9 * np.abs(upper)])
        upper = upper[:0]
    singles = np.sort(np.clip(singles, _CLOSEST - 1, 1 - _CLOSEST))
    for k in range(1, len(singles)):
        singles[k] = max(singles[k], singles[k - 1] + 1e-6)
    return np.concatenate([singles, upper, upper.conj()])


# --- delivery ---------------------------------------------------------------------------------


def _realise(poles: DiscretePoles, flat: np.ndarray, norm: str, is_window: bool):
    A, b = orthonormal_states(poles)
    slowest = poles.slowest
    # The error past the end of the sequence is the network's own tail.
    more = 0
    if not is_window and slowest > 0:
        more = int(min(20 * len(flat), 40 / max(-math.log(slowest), 1e-9)))
    states = run_states(A, b, len(flat) + more)
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
