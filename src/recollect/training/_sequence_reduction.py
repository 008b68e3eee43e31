"""Modes of a sequence of kernel values: the Hankel matrix, applied by fast convolution."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg
import scipy.sparse.linalg

from recollect._core._references import references

_DENSE = 400


@dataclasses.dataclass(frozen=True)
class HankelPart:
    """The leading singular triplets of the Hankel matrix `K_{i+j}` of a sequence that ends.

    Attributes:
        values: descending, shape (triplet,).
        left: shape (lag * out, triplet).
    """

    values: np.ndarray
    left: np.ndarray


class _Hankel:
    """`√g_i K_{i+j} √g_j`, never formed: a product costs a few transforms of the sequence."""

    def __init__(self, sequence: np.ndarray, scale: np.ndarray | None = None):
        self.sequence = sequence
        self.n, self.n_outputs, self.n_inputs = sequence.shape
        self.scale = np.ones(self.n) if scale is None else scale
        self.length = scipy.fft.next_fast_len(2 * self.n, real=True)
        self.dtype = np.dtype(np.float64)
        self.spectrum = np.fft.rfft(sequence, self.length, axis=0)

    def _times(self, spectrum: np.ndarray, vector: np.ndarray, n_in: int) -> np.ndarray:
        # Σ_j K_{i+j} x_j: the convolution with the reversed x, from lag n-1 on.
        x = (vector.reshape(self.n, n_in) * self.scale[:, None])[::-1]
        product = np.einsum("foi,fi->fo", spectrum, np.fft.rfft(x, self.length, axis=0))
        full = np.fft.irfft(product, self.length, axis=0)
        return (full[self.n - 1 : 2 * self.n - 1] * self.scale[:, None]).ravel()

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._times(self.spectrum, vector, self.n_inputs)

    def rmatvec(self, vector: np.ndarray) -> np.ndarray:
        return self._times(self.spectrum.transpose(0, 2, 1), vector, self.n_outputs)

    @property
    def shape(self) -> tuple[int, int]:
        return self.n * self.n_outputs, self.n * self.n_inputs

    def dense(self) -> np.ndarray:
        padded = np.concatenate([self.sequence, np.zeros_like(self.sequence)])
        at = np.arange(self.n)[:, None] + np.arange(self.n)
        blocks = padded[at] * (self.scale[:, None] * self.scale)[:, :, None, None]
        return blocks.transpose(0, 2, 1, 3).reshape(self.shape)


def hankel_part(
    sequence: np.ndarray, n_triplets: int, *, scale: np.ndarray | None = None
) -> HankelPart:
    """Returns the leading singular triplets, in time linear in the lags up to a logarithm.

    Args:
        sequence: K_j, shape (lag, out, in), zero past its end.
        n_triplets: how many.
        scale: √g, shape (lag,), of a weighted matrix.
    """
    hankel = _Hankel(sequence, scale)
    smallest = min(hankel.shape)
    n_triplets = min(n_triplets, smallest)
    if smallest <= _DENSE or n_triplets > smallest // 3:
        left, values, _ = scipy.linalg.svd(hankel.dense(), full_matrices=False)
        return HankelPart(values[:n_triplets], left[:, :n_triplets])
    start = np.random.default_rng(0).standard_normal(smallest)
    operator: Any = scipy.sparse.linalg.aslinearoperator(hankel)
    solver: Any = scipy.sparse.linalg
    if hankel.n_outputs == hankel.n_inputs == 1:
        # Symmetric: the singular values are the sizes of the eigenvalues.
        found, vectors = solver.eigsh(operator, n_triplets, which="LM", v0=start, tol=1e-10)
        order = np.argsort(-np.abs(found), kind="stable")
        return HankelPart(np.abs(found[order]), vectors[:, order])
    left, values, _ = solver.svds(operator, n_triplets, v0=start, tol=1e-10)
    order = np.argsort(-values, kind="stable")
    return HankelPart(values[order], left[:, order])


@references("kung1978new")
def multipliers_of(part: HankelPart, n_outputs: int, order: int) -> np.ndarray:
    """Returns the multipliers of the balanced realisation of `order`, inside the unit disc.

    The states seen one step later are the left vectors moved up by one block row.
    """
    order = min(order, int(np.sum(part.values > 1e-13 * part.values[0])))
    u = part.left[:, :order]
    z = np.linalg.eigvals(np.linalg.lstsq(u[:-n_outputs], u[n_outputs:], rcond=None)[0])
    n = len(u) // n_outputs
    outside = np.abs(z) > 1
    z[outside] = 1 / z[outside].conj()
    top = 1 - 0.1 / n
    z = z * np.minimum(1.0, top / np.maximum(np.abs(z), 1e-300))
    # A multiplier of zero has no logarithm: a unit that forgets within a step is as good.
    return np.where(np.abs(z) < 1e-6, 1e-6, z)


def bound_sequence(
    sequence: np.ndarray, width: int, *, dt: float, part: HankelPart
) -> dict[str, float]:
    """Returns what no network of `width` units can be nearer than to a sequence, in each norm.

    The operators of `bound_reduction`; the tails come from the whole Hilbert-Schmidt norm less
    the leading values.
    """
    n, n_outputs, _ = sequence.shape
    root = math.sqrt(n_outputs)
    squares = np.sum(sequence**2, axis=(1, 2))
    if width >= min(n * n_outputs, n * sequence.shape[2]):
        return {"l1": 0.0, "l2": 0.0, "linf": 0.0}

    def tail(scale: np.ndarray, total: float) -> float:
        values = hankel_part(sequence, width, scale=scale).values
        left = total - float(values @ values)
        # Rounding in the difference must not raise a bound.
        return math.sqrt(max(left - 1e-9 * total, 0.0))

    operator = part.values[width] if width < len(part.values) else 0.0
    index = np.arange(n)
    steps = np.concatenate([[1.0], 1 - 0.5 / np.arange(1, n)])
    level = float(tail(np.sqrt(np.cumprod(steps)), float(squares.sum())) / math.sqrt(dt))
    length = 1 + float(index @ squares) / float(squares.sum())
    largest = 0.0
    for reach in (0.3, 1.0, 3.0):
        decay = 1 / (reach * length)
        weighted = float(((index + 1) * np.exp(-decay * index)) @ squares)
        left = tail(np.exp(-decay * index / 2), weighted)
        largest = max(largest, -math.expm1(-decay) * left)
    return {
        "l1": max(float(operator) - 1e-9 * float(part.values[0]), 0.0) / root,
        "l2": level,
        "linf": largest / root / dt,
    }
