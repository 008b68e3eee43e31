"""Sums with positive amplitudes, refined in the norm that is asked for."""

from __future__ import annotations

import numpy as np
import scipy.optimize

from recollect._core._references import references
from recollect.approximation._problem import FitGrid

_MOST_NODES = 1500


@references("lawson1961contributions")
def refine_positive(
    rates: np.ndarray,
    amplitudes: np.ndarray,
    grid: FitGrid,
    *,
    norm: str,
    n_rounds: int = 40,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns real rates and positive amplitudes of a locally smallest error in `norm`.

    Reweighted least squares in (log rate, log amplitude), so that every iterate is positive:
    weights 1/|error| for L1, Lawson's for Linf.

    Args:
        rates: the start, shape (width,), positive.
        amplitudes: shape (width,), positive; what is zero is left out.
        grid: the kernel, one output and input.
        norm: `"l1"`, `"l2"` or `"linf"`.
        n_rounds: reweightings.
    """
    kept = amplitudes > 0
    theta = np.log(np.concatenate([rates[kept], amplitudes[kept]]))
    # The start belongs to the sup norm, and no Gauss node touches it.
    thinned = np.arange(0, len(grid.nodes), max(1, len(grid.nodes) // _MOST_NODES))
    nodes = np.append(0.0, grid.nodes)
    values = np.append(grid.kernel(np.zeros(1)).ravel(), grid.values.ravel())
    mass = np.append(0.0, grid.weights)
    if norm == "linf":
        at = np.append(0, thinned + 1)
        nodes, values, mass = nodes[at], values[at], np.ones(len(at))

    def basis(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w, a = np.exp(np.clip(theta, -700.0, 700.0)).reshape(2, -1)
        return a * np.exp(-np.multiply.outer(nodes, w)), w

    def measured(theta: np.ndarray) -> float:
        error = np.abs(basis(theta)[0].sum(axis=1) - values)
        return {
            "l1": float(mass @ error),
            "l2": float(np.sqrt(mass @ error**2)),
            "linf": float(error.max()),
        }[norm]

    best, best_error, power, stale = theta, measured(theta), 1.0, 0
    weight = mass.copy()
    for _ in range(n_rounds):
        error = np.abs(basis(theta)[0].sum(axis=1) - values)
        if norm == "l1":
            typical = float(mass @ error) / max(float(mass[error > 0].sum()), 1e-300)
            weight = mass / np.maximum(error, 1e-3 * typical + 1e-300)
        elif norm == "linf":
            weight = weight * np.maximum(error / error.max(), 1e-6) ** power
            weight = np.maximum(weight / weight.max(), 1e-12)
        rows = np.sqrt(weight)

        def residual(theta: np.ndarray, rows: np.ndarray = rows) -> np.ndarray:
            return rows * (basis(theta)[0].sum(axis=1) - values)

        def jacobian(theta: np.ndarray, rows: np.ndarray = rows) -> np.ndarray:
            columns, w = basis(theta)
            slopes = -columns * np.multiply.outer(nodes, w)
            return rows[:, None] * np.concatenate([slopes, columns], axis=1)

        n_steps = 100 if norm == "l2" else 6
        theta = scipy.optimize.least_squares(
            residual,
            theta,
            jac=jacobian,  # pyright: ignore[reportArgumentType]
            max_nfev=n_steps,
            x_scale="jac",
        ).x
        now = measured(theta)
        if now < best_error * (1 - 1e-4):
            best, best_error, stale = theta, now, 0
        else:
            stale, power = stale + 1, max(0.3, 0.8 * power)
        if stale >= 8 or norm == "l2":
            break
    w, a = np.exp(best).reshape(2, -1)
    return w, a
