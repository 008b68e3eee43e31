"""Probe signals: what a functional is asked with."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect._core._check import require_count


def step_signal(n_samples: int, direction: Any = (1.0,)) -> np.ndarray:
    """Returns the step `x 1_{t≥0}`, shape (time, in)."""
    direction = np.atleast_1d(np.asarray(direction, dtype=np.float64))
    return np.tile(direction, (require_count("n_samples", n_samples), 1))


def impulse_signal(n_samples: int, direction: Any = (1.0,)) -> np.ndarray:
    """Returns an impulse held for the first step only, shape (time, in)."""
    signal = np.zeros_like(step_signal(n_samples, direction))
    signal[0] = direction
    return signal


def reversed_signal(n_samples: int, n_before: int, direction: Any = (1.0,)) -> np.ndarray:
    """Returns `x` before time zero and nothing after, shape (n_before + time, in)."""
    before = step_signal(n_before, direction)
    return np.concatenate(
        [before, np.zeros((require_count("n_samples", n_samples), before.shape[1]))]
    )
