"""Fits in the largest error for any kernel: least squares whose weights level the ripples."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.ndimage

from recollect._core._references import references
from recollect.approximation._l2 import (
    LeastSquares,
    Sections,
    project,
    refine_sections,
    sum_of_sections,
)
from recollect.approximation._problem import FitGrid


@references("lawson1961contributions", "golub1973differentiation")
def level_sections(
    sections: Sections, grid: FitGrid, *, n_rounds: int = 60, n_steps: int = 2
) -> LeastSquares:
    """Returns sections with a nearly smallest largest error; `cost` holds that error.

    Lawson's iteration, with the rates free: every node's weight is multiplied by a power of the
    error's envelope there, until all ripples that carry weight are equally high. A local
    optimum at best: there is no certificate for kernels that are not completely monotone.

    Args:
        sections: the start, best from L2.
        grid: the kernel; several channels are levelled together by the sum of their errors.
        n_rounds: reweightings.
        n_steps: Gauss-Newton steps between them.
    """
    n_channels = grid.n_outputs * grid.n_inputs
    # The start belongs to the sup norm, and no Gauss node touches it.
    nodes = np.concatenate([[0.0], grid.nodes])
    values = np.concatenate(
        [grid.kernel(np.zeros(1)).reshape(1, -1), grid.values.reshape(-1, n_channels)]
    )
    spacing = np.concatenate([grid.weights[:1], grid.weights])
    spacing = np.minimum(spacing, np.maximum(nodes, grid.nodes[0]))
    window = max(3, len(grid.nodes) // len(grid.panels.starts) // 2)
    mass = spacing / spacing.max()
    rows = np.sqrt(mass)
    at = project(sections, nodes, rows, values * rows[:, None], derivatives=False)
    trial = LeastSquares(sections, at.amplitudes, np.inf, 0, False)
    best, best_error, stale, power = trial, np.inf, 0, 1.0
    for _ in range(n_rounds):
        error = np.abs(values - sum_of_sections(trial.sections, trial.amplitudes, nodes)).sum(
            axis=1
        )
        largest = float(error.max())
        if largest < best_error * (1 - 1e-4):
            best, best_error, stale = dataclasses.replace(trial, cost=largest), largest, 0
        else:
            stale += 1
            power = max(0.3, 0.8 * power)
            if stale >= 12:
                break
        envelope = scipy.ndimage.maximum_filter1d(error, window)
        mass = mass * np.maximum(envelope / largest, 1e-12) ** power
        mass = np.maximum(mass / mass.max(), 1e-14 * spacing / spacing.max())
        rows = np.sqrt(mass)
        trial = refine_sections(
            trial.sections,
            nodes,
            rows,
            values * rows[:, None],
            n_iterations=n_steps,
            rtol=1e-6,
            step_cap=0.5,
        )
    return best
