"""Levenberg-Marquardt on the simulation error of a nonlinear network."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg

from recollect._core._precision import in_float64
from recollect.training._system_simulation import (
    Layout,
    Windows,
    normal_equations,
    simulate_windows,
)

_normal_equations = in_float64(normal_equations)
_simulate = in_float64(simulate_windows)
_PATIENCE = 3


@dataclasses.dataclass(frozen=True)
class Descent:
    """Where an optimisation ended.

    Attributes:
        vector: the parameters.
        cost: squared simulation error plus penalty, in units of variance.
        n_steps: steps accepted.
        is_finite: False if no finite simulation was found at the start.
    """

    vector: np.ndarray
    cost: float
    n_steps: int
    is_finite: bool


def outputs_of(layout: Layout, vector: np.ndarray, windows: Windows) -> np.ndarray:
    """Returns the simulated outputs of every window, shape (window, time, out)."""
    return _simulate(layout, vector, windows.inputs, windows.starts, windows.limits)


def descend(
    layout: Layout,
    start: np.ndarray,
    windows: Windows,
    precision: np.ndarray,
    centre: np.ndarray,
    *,
    n_steps: int,
    rtol: float = 1e-5,
) -> Descent:
    """Returns the parameters that minimise simulation error plus `Σ precision (θ - centre)²`."""

    def squares(vector: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            error = windows.seen * (outputs_of(layout, vector, windows) - windows.outputs)
            total = float(np.sum(error**2) + precision @ (vector - centre) ** 2)
        return total if np.isfinite(total) else np.inf

    def equations(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gram, slope, _ = _normal_equations(
            layout,
            vector,
            windows.inputs,
            windows.starts,
            windows.limits,
            windows.outputs,
            windows.seen,
        )
        return gram + np.diag(precision), slope + precision * (vector - centre)

    vector, damping, calm = start, 1e-2, 0
    cost = squares(vector)
    if not np.isfinite(cost):
        return Descent(vector, np.inf, 0, False)
    for taken in range(n_steps):
        gram, slope = equations(vector)
        if not (np.isfinite(gram).all() and np.isfinite(slope).all()):
            return Descent(vector, cost, taken, True)
        scale = np.diag(gram) + 1e-8 * max(float(np.diag(gram).max()), 1e-300)
        found = False
        while damping < 1e8:
            try:
                move = scipy.linalg.solve(gram + damping * np.diag(scale), -slope, assume_a="pos")
            except np.linalg.LinAlgError:
                damping *= 4
                continue
            new = squares(vector + move)
            if new < cost:
                found = True
                break
            damping *= 4
        if not found:
            return Descent(vector, cost, taken, True)
        gained = (cost - new) / cost
        vector, cost, damping = vector + move, new, max(damping / 3, 1e-9)
        calm = calm + 1 if gained < rtol else 0
        if calm >= _PATIENCE:
            return Descent(vector, cost, taken + 1, True)
    return Descent(vector, cost, n_steps, True)
