"""Delivery as a network whose states are orthonormal: no amplitude is large, nothing cancels."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from recollect._core._references import references


@references("ninness1997unifying")
def takenaka_malmquist(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (A, b), real, with e^{At} b orthonormal on [0, ∞) and eigenvalues -rates of A.

    A chain of all-pass sections: a real rate w has A_kk = -w, b_k = √(2w); a pair with
    s² + as + b has the block [[-a, -√b], [√b, 0]], b = (√(2a), 0); below the blocks
    A_kj = -b_k b_jᵀ. So A + Aᵀ + b bᵀ = 0, whatever the rates, repeated ones included.

    Args:
        rates: shape (width,), Re > 0, closed under conjugation.

    Returns:
        A (width, width) and b (width,).
    """
    rates = np.asarray(rates, dtype=complex)
    is_real = rates.imag == 0
    upper = rates[~is_real & (rates.imag > 0)]
    singles = rates[is_real].real
    if len(singles) + 2 * len(upper) != len(rates):
        raise ValueError("rates: expected a set closed under conjugation")
    keys = [(abs(w), 0, float(w)) for w in singles] + [(abs(w), 1, w) for w in upper]
    keys.sort(key=lambda item: item[0], reverse=True)
    width = len(rates)
    b = np.zeros(width)
    diagonal = np.zeros((width, width))
    owner = np.zeros(width, dtype=int)
    k = 0
    for index, (_, is_pair, w) in enumerate(keys):
        if is_pair:
            a, root = 2 * w.real, abs(w)
            diagonal[k, k] = -a
            diagonal[k, k + 1], diagonal[k + 1, k] = -root, root
            b[k] = np.sqrt(2 * a)
            owner[k : k + 2] = index
            k += 2
        else:
            diagonal[k, k] = -w
            b[k] = np.sqrt(2 * w)
            owner[k] = index
            k += 1
    below = owner[:, None] > owner
    return diagonal - np.where(below, np.outer(b, b), 0.0), b


def propagate(A: np.ndarray, b: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Returns e^{At} b at `lags`, shape (lag, width), without eigenvectors.

    A lag is a multiple of a small step, reached through its binary digits, plus a remainder
    summed by Taylor: nothing cancels, whether or not A is diagonalisable.
    """
    lags = np.asarray(lags, dtype=np.float64)
    size = max(float(np.abs(A).sum(axis=0).max()), 1e-300)
    step = 2.0 ** np.floor(np.log2(0.5 / size))
    counts = np.floor(lags / step)
    remainder = lags - counts * step
    term = np.broadcast_to(b[:, None], (len(b), len(lags))).copy()
    columns = term.copy()
    for k in range(1, 15):
        term = (A @ term) * (remainder / k)
        columns += term
    largest = counts.max(initial=0.0)
    n_digits = int(np.log2(largest)) + 1 if largest >= 1 else 0
    for k in range(n_digits):
        is_set = np.floor(counts / 2.0**k) % 2 == 1
        if is_set.any():
            power = scipy.linalg.expm(A * (step * 2.0**k))
            columns[:, is_set] = power @ columns[:, is_set]
    return columns.T


def project_on_states(
    A: np.ndarray, b: np.ndarray, nodes: np.ndarray, rows: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Returns the best coordinates on the orthonormal states, shape (width, channel).

    Args:
        A, b: an input-normal pair.
        nodes, rows: lags and root quadrature weights, shape (n,).
        target: values times `rows`, shape (n, channel).
    """
    states = propagate(A, b, nodes) * rows[:, None]
    coordinates = states.T @ target
    return coordinates + states.T @ (target - states @ coordinates)


def coordinates_from_modes(
    A: np.ndarray, b: np.ndarray, rates: np.ndarray, amplitudes: np.ndarray
) -> tuple[np.ndarray, float]:
    """Returns the coordinates of Σ a_i e^{-w_i t} on the basis e^{At} b, and what cancels in them.

    ∫ φ(t) e^{-wt} dt = (w - A)^{-1} b, solved by substitution.

    Args:
        A, b: an input-normal pair.
        rates: shape (mode,).
        amplitudes: shape (mode, channel).

    Returns:
        Coordinates (width, channel), real, and the largest sum of absolute terms in them.
    """
    eye = np.eye(len(b))
    transforms = np.linalg.solve(
        rates[:, None, None] * eye - A, np.broadcast_to(b[:, None], (len(rates), len(b), 1))
    )[:, :, 0]
    terms = transforms[:, :, None] * amplitudes[:, None, :]
    return terms.sum(axis=0).real, float(np.abs(terms).sum(axis=0).max(initial=0.0))


def assemble(
    A: np.ndarray, b: np.ndarray, coordinates: np.ndarray, n_outputs: int, n_inputs: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (A, B, C) of a network with kernel Σ_k φ_k(t) c_k, c_k of shape (out, in).

    Several outputs of one input read one state; several inputs of one output drive the
    transposed state. With several of both, one copy of the state serves each of the fewer.

    Args:
        A, b: an input-normal pair of order m.
        coordinates: shape (m, out * in).
        n_outputs, n_inputs: channels.
    """
    m = len(b)
    c = coordinates.reshape(m, n_outputs, n_inputs)
    if n_inputs <= n_outputs:
        eye = np.eye(n_inputs)
        C = np.transpose(c, (1, 0, 2)).reshape(n_outputs, m * n_inputs)
        return np.kron(A, eye), np.kron(b[:, None], eye), C
    eye = np.eye(n_outputs)
    B = c.reshape(m * n_outputs, n_inputs)
    return np.kron(A.T, eye), B, np.kron(b[None, :], eye)
