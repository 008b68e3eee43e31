"""Nonlinear least squares: damped Gauss-Newton steps, and amplitudes eliminated at fixed rates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from recollect._core._references import references

# From the smallest damping up to steps so short that none of them gains anything.
_N_TRIALS = 20


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a descent stands.

    Attributes:
        vector: the parameters, kept within what is allowed.
        cost: the sum of squares there.
        solution: what else is known there, such as the amplitudes.
    """

    vector: np.ndarray
    cost: float
    solution: Any


def descend(
    start: Point,
    evaluate: Callable[[np.ndarray], Point],
    linearise: Callable[[Point], tuple[np.ndarray, np.ndarray]],
    *,
    longest_step: float,
    n_steps: int,
    rtol: float,
    floor: float = 0.0,
    patience: int = 1,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Point, int]:
    """Returns the local least-squares minimum reached from a point, and the steps it took.

    Levenberg-Marquardt: what is damped is relative to the size of each column, by singular values,
    because rates that can hardly be told apart make the Jacobian nearly singular.

    Args:
        start: the start, evaluated.
        evaluate: the point at a vector, moved to the nearest that is allowed.
        linearise: (R, Jᵀr) at a point, with RᵀR = JᵀJ for the Jacobian J of the residual r.
        longest_step: no parameter moves further at once.
        n_steps: at most this many steps.
        rtol: a step is small if it gains no more than this share of the cost.
        floor: a cost at which only rounding is left.
        patience: small steps in a row that end the descent: one may be the damping's doing.
        bounds: lowest and highest vector; what is pushed against them stays.
    """
    here, damping, n_taken, n_small = start, 1e-3, 0, 0
    while n_taken < n_steps and here.cost > floor:
        root, slope = linearise(here)
        free = np.ones(len(slope), bool)
        if bounds is not None:
            free &= ~((here.vector <= bounds[0]) & (slope > 0))
            free &= ~((here.vector >= bounds[1]) & (slope < 0))
        scale = np.sqrt(np.einsum("ij,ij->j", root[:, free], root[:, free])) + 1e-300
        _, singular, vt = np.linalg.svd(root[:, free] / scale, full_matrices=False)
        along = vt @ (slope[free] / scale)
        for _ in range(_N_TRIALS):
            step = -(vt.T @ (along / (singular**2 + damping + 1e-300))) / scale
            step *= min(1.0, longest_step / max(float(np.abs(step).max(initial=0.0)), 1e-300))
            vector = here.vector.copy()
            vector[free] += step
            trial = evaluate(vector if bounds is None else np.clip(vector, *bounds))
            if math.isfinite(trial.cost) and trial.cost < here.cost:
                break
            damping = max(damping * 6, 1e-13)
        else:
            break
        damping *= 0.15
        n_small = n_small + 1 if here.cost - trial.cost <= rtol * here.cost else 0
        here, n_taken = trial, n_taken + 1
        if n_small >= patience:
            break
    return here, n_taken


def normal_root(jacobian: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (R, Jᵀr) of a Jacobian and its residual, as `descend` wants them."""
    root: Any = scipy.linalg.qr(jacobian, mode="r", check_finite=False)[0]
    return root[: jacobian.shape[1]], jacobian.T @ residual


@dataclasses.dataclass(frozen=True)
class Projection:
    """The best amplitudes of given columns.

    Attributes:
        residual: target less what the columns hold of it, shape (row, channel).
        amplitudes: shape (column, channel).
        q: an orthonormal basis of the columns, shape (row, column).
    """

    residual: np.ndarray
    amplitudes: np.ndarray
    q: np.ndarray


def project(columns: np.ndarray, target: np.ndarray) -> Projection:
    """Returns the least-squares amplitudes of a target (row, channel) in columns (row, column)."""
    size = np.sqrt(np.einsum("ij,ij->j", columns, columns))
    size[size == 0] = 1.0
    q, r = np.linalg.qr(columns / size)
    inside = q.T @ target
    residual = target - q @ inside
    # A second pass: one leaves a residual that is not orthogonal to its last digits.
    residual = residual - q @ (q.T @ residual)
    amplitudes = np.linalg.lstsq(r, inside, rcond=1e-14)[0] / size[:, None]
    return Projection(residual, amplitudes, q)


@references("golub1973differentiation")
def projected_jacobian(slopes: np.ndarray, at: Projection, n_single: int) -> np.ndarray:
    """Returns Kaufman's Jacobian of the residual in the rates, shape (row * channel, parameter).

    Args:
        slopes: how the columns move, shape (row, n_single + 4 n_pairs): a single rate's column with
            its parameter, then for every pair the moves of its two columns with its first
            parameter and with its second.
        at: the amplitudes there; columns beyond those of the rates do not move.
        n_single: rates with one column.
    """
    moves = moved_columns(slopes, at.amplitudes, n_single)
    flat = moves.reshape(len(moves), -1)
    return -(flat - at.q @ (at.q.T @ flat)).reshape(-1, moves.shape[2])


def moved_columns(slopes: np.ndarray, amplitudes: np.ndarray, n_single: int) -> np.ndarray:
    """Returns how the sum moves with each parameter, shape (row, channel, parameter)."""
    n, n_pairs = len(slopes), (slopes.shape[1] - n_single) // 4
    moves = np.empty((n, amplitudes.shape[1], n_single + 2 * n_pairs))
    moves[:, :, :n_single] = slopes[:, None, :n_single] * amplitudes[:n_single].T
    if n_pairs:
        paired = slopes[:, n_single:].reshape(n, n_pairs, 2, 2)
        c = amplitudes[n_single : n_single + 2 * n_pairs].reshape(n_pairs, 2, -1)
        bent = np.einsum("npvc,pch->nhpv", paired, c)
        moves[:, :, n_single:] = bent.reshape(n, amplitudes.shape[1], -1)
    return moves
