"""Probe signals: what a functional is asked with."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect._core._check import invalid, require_count, require_nonnegative, require_positive


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


def white_noise(n_samples: int, n_inputs: int = 1, *, seed: int = 0) -> np.ndarray:
    """Returns independent standard normal samples, shape (time, in)."""
    shape = (require_count("n_samples", n_samples), require_count("n_inputs", n_inputs))
    return np.random.default_rng(seed).standard_normal(shape)


def coloured_noise(
    n_samples: int, n_inputs: int = 1, *, correlation_time: float, dt: float, seed: int = 0
) -> np.ndarray:
    """Returns a stationary Ornstein-Uhlenbeck path of unit variance, shape (time, in)."""
    correlation_time = require_nonnegative("correlation_time", correlation_time)
    white = white_noise(n_samples, n_inputs, seed=seed)
    if correlation_time == 0:
        return white
    import scipy.signal

    decay = float(np.exp(-require_positive("dt", dt) / correlation_time))
    white[1:] *= np.sqrt(1 - decay**2)
    return np.asarray(scipy.signal.lfilter([1.0], [1.0, -decay], white, axis=0))


def staircase(
    n_samples: int, *, hold: int, low: float = -1.0, high: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Returns uniformly random levels, each held for `hold` samples, shape (time, 1)."""
    if not low < high:
        raise invalid("low", f"a number below high = {high}", low)
    n_levels = -(-require_count("n_samples", n_samples) // require_count("hold", hold))
    levels = np.random.default_rng(seed).uniform(low, high, n_levels)
    return np.repeat(levels, hold)[:n_samples, None]
