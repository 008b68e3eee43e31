"""Whether the data can support an estimate: excitation of the input, feedback from the output."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.signal
import scipy.stats

from recollect._core._status import Status

_N_LAGS = 64
_FEWEST_CHANGES = 10
_FEWEST_DIRECTIONS = 8
_SIGNIFICANCE = 1e-4


def check_excitation(inputs: np.ndarray) -> Status | None:
    """Returns a warning if an input cannot tell kernels apart, else None.

    Two signs: it hardly ever changes (a single step), or its autocorrelation matrix has only a
    few directions (a few sinusoids).

    Args:
        inputs: one record, shape (time, in).
    """
    for channel, x in enumerate(inputs.T):
        n_changes = int(np.count_nonzero(np.diff(x)))
        if n_changes < min(_FEWEST_CHANGES, len(x) // 4):
            return Status(
                "input_not_exciting",
                f"input {channel} has {n_changes} changes in {len(x)} samples",
            )
        centred = x - x.mean()
        n_lags = min(_N_LAGS, len(x) // 4)
        size = 2 * len(x)
        # A record's sharp ends must not look like excitation: taper them.
        window = np.hanning(len(x))
        spectrum = np.fft.rfft(centred * window, size)
        correlation = np.fft.irfft(spectrum * np.conj(spectrum), size)[:n_lags]
        values = np.linalg.eigvalsh(scipy.linalg.toeplitz(correlation))
        rank = int((values > 1e-5 * values[-1]).sum())
        if rank < min(_FEWEST_DIRECTIONS, n_lags):
            return Status(
                "input_not_exciting",
                f"input {channel} moves in {rank} of {n_lags} independent directions only",
            )
    return None


def check_feedback(inputs: np.ndarray, residual: np.ndarray, decay: float) -> Status | None:
    """Returns a warning if today's residual foretells tomorrow's input, else None.

    Both are whitened first (inputs by an autoregression, the residual by its own AR(1) model);
    the squared correlations at the next lags then add up to a chi-square variable.

    Args:
        inputs: shape (time, in).
        residual: of the output, shape (time,), NaN where missing.
        decay: autocorrelation of the residual between neighbouring samples.
    """
    seen = np.isfinite(residual)
    white = np.where(seen, residual, 0.0)
    white[1:] -= decay * np.where(seen[:-1] & seen[1:], residual[:-1], 0.0)
    n = len(white)
    n_lags = min(20, n // 10)
    if n_lags < 2:
        return None
    for channel, x in enumerate(inputs.T):
        innovation = _innovations(x - x.mean(), min(30, n // 10))
        if innovation is None:
            continue
        scale = np.sqrt((innovation**2).mean() * (white**2).mean())
        if scale == 0:
            continue
        future = np.array([innovation[d:] @ white[: n - d] for d in range(1, n_lags + 1)])
        statistic = float(((future / scale) ** 2).sum() / n)
        p_value = float(scipy.stats.chi2.sf(statistic, n_lags))
        if p_value < _SIGNIFICANCE / inputs.shape[1]:
            return Status(
                "feedback_suspected",
                f"the residual foretells input {channel} (p = {p_value:.1e}): the output seems to "
                "act back on the input",
            )
    return None


def _innovations(x: np.ndarray, order: int) -> np.ndarray | None:
    size = 2 * len(x)
    spectrum = np.fft.rfft(x, size)
    correlation = np.fft.irfft(spectrum * np.conj(spectrum), size)[: order + 1]
    correlation[0] *= 1 + 1e-9
    try:
        coefficients = scipy.linalg.solve_toeplitz(correlation[:-1], correlation[1:])
    except np.linalg.LinAlgError:
        return None
    result = np.asarray(scipy.signal.lfilter(np.concatenate([[1.0], -coefficients]), [1.0], x))
    # An input that its own past explains has no innovations to compare with.
    return result if result.var() > 1e-6 * x.var() else None
