"""Lag bins: one step wide near lag zero, in proportion to the lag beyond."""

from __future__ import annotations

import numpy as np

from recollect._core._check import require_count


def graded_edges(n_lags: int, *, n_fine: int = 32, n_per_octave: int = 24) -> np.ndarray:
    """Returns the edges of the lag bins in steps, shape (p + 1,), from 0 to `n_lags`.

    The first `n_fine` bins are one step wide, later ones grow by the factor
    `2**(1/n_per_octave)`, so that the number of bins grows with the logarithm of the memory.

    Args:
        n_lags: number of steps covered.
        n_fine: number of bins of one step at the start.
        n_per_octave: number of bins per doubling of the lag beyond them.

    Returns:
        Strictly increasing whole numbers.
    """
    n_lags = require_count("n_lags", n_lags)
    if n_lags <= n_fine:
        return np.arange(n_lags + 1)
    n_graded = int(np.ceil(n_per_octave * np.log2(n_lags / n_fine)))
    graded = n_fine * (n_lags / n_fine) ** (np.arange(1, n_graded + 1) / n_graded)
    edges = np.union1d(np.arange(n_fine + 1), np.rint(graded).astype(int))
    return edges[edges <= n_lags]
