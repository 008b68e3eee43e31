"""Fits in the largest error: a certified exchange for completely monotone kernels, else descent."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.interpolate
import scipy.optimize

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    wrong_type,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect.approximation._hankel import hankel_spectrum
from recollect.approximation._l2 import (
    Sections,
    project,
    refine_sections,
    section_basis,
    section_modes,
    sections_of,
)
from recollect.approximation._problem import FitGrid, Poles

_EPS = float(np.finfo(np.float64).eps)
_POINTS_PER_DECADE = 60


@dataclasses.dataclass(frozen=True)
class MinimaxSum:
    """A positive exponential sum that levels its error, with a certificate of how good it is.

    `Σ_i start_amplitudes_i e^{-rates_i (t - start)}` on `[start, stop]`.

    Args:
        rates: w_i > 0, shape (width,), fastest first, in 1/time.
        start_amplitudes: amplitudes at lag `start`, shape (width,), all positive.
        error: the largest error (relative to the kernel if so asked) on the interval.
        bound: no sum of `width` exponentials with real rates has a smaller one
            (de la Vallée-Poussin: the error alternates 2 width + 1 times at least this far).
        alternation: the 2 width + 1 lags where the error alternates.
        start: first lag of the interval.
        stop: last lag of the interval, possibly infinite.
        status: `ok` if error and bound agree, else how far float64 came.
        stats: exchanges, widths passed through, relative gap between error and bound.
    """

    rates: np.ndarray
    start_amplitudes: np.ndarray
    error: float
    bound: float
    alternation: np.ndarray
    start: float
    stop: float
    status: Status
    stats: Mapping[str, Any]

    @property
    def amplitudes(self) -> np.ndarray:
        """Amplitudes at lag zero, shape (width,): infinite where e^(rate * start) overflows."""
        with np.errstate(over="ignore"):
            return self.start_amplitudes * np.exp(self.rates * self.start)

    def values(self, lags: Any) -> np.ndarray:
        """Returns the sum at `lags`, shape (lag,)."""
        lags = host_float64("lags", lags, owner="MinimaxSum.values")
        return np.exp(-np.multiply.outer(lags - self.start, self.rates)) @ self.start_amplitudes


@references("braess1986nonlinear", "braess2005approximation")
def fit_minimax_sum(
    kernel: Callable[[np.ndarray], Any] | Any,
    *,
    width: int,
    start: float = 0.0,
    stop: float = math.inf,
    weights: str = "absolute",
) -> MinimaxSum:
    """Returns the exponential sum with the smallest largest error on an interval, certified.

    For a completely monotone kernel the best sum of `width` exponentials is the one whose error
    takes its largest size at 2 width + 1 lags with alternating sign; it has positive amplitudes.
    It is found by least squares whose weights level the ripples, then by a Remez exchange with
    Newton's method in (log c, log w), in extended precision where the machine has it.

    Args:
        kernel: lags (n,) -> values (n,), or a linear functional with one input and output;
            completely monotone on the interval.
        width: number of exponentials.
        start: first lag of the interval.
        stop: last lag; infinite for the half line, where the kernel must decay to zero.
        weights: "absolute" for max |ρ - ρ̂|, "relative" for max |ρ - ρ̂| / ρ.

    Returns:
        Rates and amplitudes; `error` and `bound` enclose the optimum over all sums with real
        rates.

    Raises:
        ValueError: if the kernel is not positive and decreasing on the interval, or the interval
            is empty, or relative weights are asked for on the half line.
    """
    width = require_count("width", width)
    require_choice("weights", weights, ("absolute", "relative"))
    start, stop = float(start), float(stop)
    if not (math.isfinite(start) and start >= 0 and stop > start):
        raise invalid("start, stop", "0 <= start < stop", f"start={start}, stop={stop}")
    if weights == "relative" and math.isinf(stop):
        raise invalid(
            "stop",
            "a finite lag for relative weights",
            stop,
            "no exponential sum follows a heavy tail for ever: state where to stop",
        )
    values = _scalar_kernel(kernel)
    problem = _leveling_problem(values, start, stop, is_relative=weights == "relative")
    level, seen = _level_up(problem, width)
    gap = level.error / level.bound - 1 if level.bound > 0 else math.inf
    rank = len(level.log_rates)
    if rank < width:
        status = Status(
            "width_beyond_rank",
            f"{rank} exponentials reach {level.error:.3g}, the rounding of the kernel itself",
        )
    elif gap > 1e-4 and level.bound > 0:
        status = Status(
            "precision_limit",
            f"error and bound agree to {gap:.1g} only: rounding reaches the ripples",
        )
    else:
        status = Status()
    order = np.argsort(-level.log_rates)
    return MinimaxSum(
        rates=np.exp(level.log_rates[order]).astype(np.float64),
        start_amplitudes=np.exp(level.log_amplitudes[order]).astype(np.float64),
        error=float(level.error),
        bound=float(level.bound),
        alternation=np.asarray(level.points, dtype=np.float64) + start,
        start=start,
        stop=stop,
        status=status,
        stats={"exchanges": level.n_exchanges, "widths": tuple(seen), "gap": float(gap)},
    )


def _scalar_kernel(kernel: Any) -> Callable[[np.ndarray], np.ndarray]:
    function = getattr(kernel, "kernel", kernel)
    if not callable(function):
        raise wrong_type("kernel", "a callable or a linear functional", type(kernel).__name__)

    def values(lags: np.ndarray) -> np.ndarray:
        result = np.asarray(function(lags))
        if result.size != lags.size:
            raise invalid(
                "kernel",
                "one value per lag (one input, one output)",
                f"shape {result.shape} for {lags.size} lags",
            )
        return result.reshape(lags.shape)

    return values


# --- completely monotone kernels -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _LevelingProblem:
    # Lags are counted from the start of the interval, so that no amplitude overflows.
    kernel: Callable[[np.ndarray], np.ndarray]
    lags: np.ndarray
    values: np.ndarray
    gains: np.ndarray
    is_relative: bool
    dtype: Any

    def gain(self, values: np.ndarray) -> np.ndarray:
        return 1 / values if self.is_relative else np.ones_like(values)


@dataclasses.dataclass(frozen=True)
class _Level:
    log_amplitudes: np.ndarray
    log_rates: np.ndarray
    error: float
    bound: float
    points: np.ndarray
    n_exchanges: int


def _leveling_problem(
    kernel: Callable[[np.ndarray], np.ndarray], start: float, stop: float, *, is_relative: bool
) -> _LevelingProblem:
    def shifted(lags: np.ndarray) -> np.ndarray:
        return kernel(lags + start)

    probe = kernel(np.array([start]))
    first = float(probe[0])
    if not (math.isfinite(first) and first > 0):
        raise invalid("kernel", "a positive finite value at the first lag", first)
    dtype = np.float64
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trial = kernel(np.array([start + 0.1], dtype=np.longdouble))
            if trial.dtype == np.longdouble:
                dtype = np.longdouble
        except (TypeError, ValueError):
            pass
    length = stop - start
    top = 1e300 if math.isinf(length) else length
    with np.errstate(all="ignore"):
        ruler = np.geomspace(1e-300 if math.isinf(length) else top * 1e-60, top, 1501)
        sample = np.asarray(shifted(ruler), dtype=np.float64)
    _require_decreasing(sample, first)
    if math.isinf(length) and sample[-1] > 1e-3 * first:
        raise invalid("kernel", "a kernel that decays to zero", f"{sample[-1]:.3g} at {top:.1g}")
    moved = np.abs(sample - first) > 1e-14 * first
    low = ruler[np.argmax(moved)] / 10 if moved.any() else ruler[-1] * 1e-3
    if math.isinf(length):
        small = sample < 1e-17 * first
        high = ruler[np.argmax(small)] if small.any() else ruler[-1]
        n = int((math.log10(high) - math.log10(low)) * _POINTS_PER_DECADE)
        lags = np.concatenate([[0.0], np.geomspace(low, high, n)])
    else:
        low = min(low, 1e-3 * length)
        n = int(math.log10(length / low) * _POINTS_PER_DECADE) + 200
        left = np.geomspace(low, length, n)
        # The error of a best fit crowds its alternations at both ends.
        right = length - np.geomspace(1e-8 * length, length / 2, 8 * _POINTS_PER_DECADE)
        lags = np.unique(np.concatenate([[0.0], left[:-1], right, [length]]))
    values = shifted(lags.astype(dtype))
    plain = np.asarray(values, dtype=np.float64)
    _require_decreasing(plain, first)
    gains = 1 / values if is_relative else np.ones_like(values)
    return _LevelingProblem(shifted, lags, values, gains, is_relative, dtype)


def _require_decreasing(values: np.ndarray, first: float) -> None:
    if not np.all(np.isfinite(values)) or np.any(np.diff(values) > 1e-12 * first) or values[-1] < 0:
        raise invalid(
            "kernel",
            "a positive decreasing kernel on the interval",
            "one that is not",
            "use fit_exponential_sum(..., norm='linf') for other kernels",
        )


def _level_up(problem: _LevelingProblem, width: int) -> tuple[_Level, list[int]]:
    levels = _level_widths(problem, [width])
    return levels[max(levels)], sorted(levels)


def _level_widths(problem: _LevelingProblem, widths: Sequence[int]) -> dict[int, _Level]:
    """Raises the width step by step: each best sum is the start of the next.

    Holds every width of `widths` that float64 can tell from a smaller one, and those passed
    through on the way.
    """
    size = float(np.max(np.abs(problem.values * problem.gains)))
    plain = np.asarray(problem.values, dtype=np.float64)
    below = plain < 0.4 * plain[0]
    knee = problem.lags[np.argmax(below)] if below.any() else problem.lags[-1]
    rates = np.array([-math.log(knee)])
    levels: dict[int, _Level] = {}
    best: _Level | None = None
    guess, k, last = 0.1 * size, 1, max(widths)
    while True:
        log_rates, log_amplitudes = _ripple_fit(problem, rates, guess)
        level = None
        if log_amplitudes is not None:
            level = _exchange(problem, log_amplitudes, log_rates)
            if level is None:
                level = _exact(problem, log_amplitudes, log_rates, size)
        if level is not None and (best is None or level.error < 0.9 * best.error):
            ratio = 0.1
            if best is not None:
                ratio = (level.error / best.error) ** (1 / (k - len(best.log_rates)))
            best, guess = level, level.error * ratio
            levels[k] = level
            if k == last or level.bound == 0:
                return levels
            # Wide steps are safe once the shape of the rates is known.
            k = min([max(k + 1, int(1.25 * k)), *(w for w in widths if w > k)])
        elif best is None:
            raise invalid("kernel", "a completely monotone kernel", "one no exponential can follow")
        elif k > len(best.log_rates) + 1:
            k = len(best.log_rates) + 1
        else:
            return levels
        rates = _spread_rates(np.asarray(best.log_rates, dtype=np.float64), k)


def _exact(
    problem: _LevelingProblem, log_amplitudes: np.ndarray, log_rates: np.ndarray, size: float
) -> _Level | None:
    """A sum that is the kernel itself to rounding: its error has no ripples to level."""
    total = np.exp(log_amplitudes - np.multiply.outer(problem.lags, np.exp(log_rates))).sum(axis=1)
    error = float(np.max(np.abs((problem.values - total) * problem.gains)))
    if error > 1e-12 * size:
        return None
    return _Level(log_amplitudes, log_rates, error, 0.0, np.zeros(0), 0)


def _spread_rates(log_rates: np.ndarray, width: int) -> np.ndarray:
    """Returns `width` log rates with the profile of fewer: the same quantiles, longer ends."""
    n = len(log_rates)
    ordered = np.sort(log_rates)[::-1]
    if n == 1:
        return ordered[0] + np.linspace(1.0, -1.0, width)
    old, new = (np.arange(n) + 0.5) / n, (np.arange(width) + 0.5) / width
    grown = np.interp(new, old, ordered)
    head, tail = new < old[0], new > old[-1]
    slope = (ordered[0] - ordered[1]) / (old[1] - old[0])
    grown[head] = ordered[0] + 1.5 * slope * (old[0] - new[head])
    slope = (ordered[-2] - ordered[-1]) / (old[-1] - old[-2])
    grown[tail] = ordered[-1] - 1.5 * slope * (new[tail] - old[-1])
    return grown


def _ripple_fit(
    problem: _LevelingProblem, log_rates: np.ndarray, guess: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Least squares in log lag, reweighted twice so that every ripple carries the same weight."""
    n = 2 * len(log_rates) + 1
    lags = problem.lags
    values = np.asarray(problem.values, dtype=np.float64)
    gains = np.asarray(problem.gains, dtype=np.float64)
    density = np.ones(len(lags))
    density[0] = 9.0
    density[values * gains < 0.03 * guess] = 0.0
    amplitudes = None
    for turn in range(3):
        keep = density > 0
        if turn == 0 and keep.sum() > 40 * n:
            stride = int(keep.sum() // (40 * n)) + 1
            thin = np.zeros(len(lags), dtype=bool)
            thin[::stride] = True
            keep &= thin
            keep[0] = True
        rows = np.sqrt(density[keep]) * gains[keep]
        with np.errstate(all="ignore"):
            try:
                fit = refine_sections(
                    Sections(log_rates, np.zeros((0, 2))),
                    lags[keep],
                    rows,
                    (values[keep] * rows)[:, None],
                    n_iterations=60,
                    rtol=1e-6,
                    step_cap=1.0,
                )
            except (np.linalg.LinAlgError, ValueError):
                return log_rates, None
        log_rates, amplitudes = fit.sections.log_rates, fit.amplitudes[:, 0]
        if not np.all(np.isfinite(log_rates)) or np.any(amplitudes <= 0):
            return log_rates, None
        error = (values - np.exp(-np.multiply.outer(lags, np.exp(log_rates))) @ amplitudes) * gains
        peaks = _alternating_peaks(error, n)
        if len(peaks) < n:
            break
        sizes = np.abs(error[peaks])
        if sizes.max() < 3 * sizes.min():
            break
        density = _ripple_density(peaks, len(lags))
    return log_rates, None if amplitudes is None else np.log(amplitudes)


def _ripple_density(peaks: np.ndarray, n: int) -> np.ndarray:
    position = np.maximum.accumulate(peaks.astype(float) + 1e-9 * np.arange(len(peaks)))
    phase = scipy.interpolate.PchipInterpolator(position, np.arange(len(peaks)), extrapolate=False)
    density = np.nan_to_num(phase.derivative()(np.arange(n)))
    first, last = int(peaks[0]), int(peaks[-1])
    density[: first + 1] = density[min(first + 1, n - 1)]
    if last < n - 1:
        reach = max(peaks[-1] - peaks[-2], 1)
        density[last:] = max(density[last - 1], 1e-12) * np.exp(-3 * np.arange(n - last) / reach)
    if first == 0:
        density[0] += 0.3
    return np.maximum(density, 1e-6 * density.max())


def _alternating_peaks(error: np.ndarray, n: int) -> np.ndarray:
    """Returns the indices of the largest alternating extrema, at most `n` of them."""
    sign = np.where(error >= 0, 1, -1)
    cuts = np.flatnonzero(np.diff(sign) != 0) + 1
    edges = np.concatenate([[0], cuts, [len(error)]])
    size = np.abs(error)
    peaks = [int(a + np.argmax(size[a:b])) for a, b in itertools.pairwise(edges)]
    while len(peaks) > n:
        heights = size[peaks]
        if len(peaks) == n + 1:
            # One too many: only an end can go without breaking the alternation.
            peaks = peaks[1:] if heights[0] < heights[-1] else peaks[:-1]
            continue
        pair = np.maximum(heights[:-1], heights[1:])
        weakest = int(np.argmin(pair))
        if weakest == 0 and heights[0] <= heights[1]:
            peaks = peaks[1:]
        elif weakest == len(pair) - 1 and heights[-1] <= heights[-2]:
            peaks = peaks[:-1]
        else:
            del peaks[weakest : weakest + 2]
    return np.array(peaks)


def _error_at(
    problem: _LevelingProblem, lags: np.ndarray, log_amplitudes: np.ndarray, rates: np.ndarray
) -> np.ndarray:
    values = problem.kernel(lags.ravel()).reshape(lags.shape)
    return (values - np.exp(log_amplitudes - lags[..., None] * rates).sum(-1)) * problem.gain(
        values
    )


def _sharpen_peaks(
    problem: _LevelingProblem,
    peaks: np.ndarray,
    error: np.ndarray,
    log_amplitudes: np.ndarray,
    rates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    lags = problem.lags.astype(problem.dtype)
    best, height, sign = lags[peaks].copy(), error[peaks].copy(), np.sign(error[peaks])
    low, high = lags[np.maximum(peaks - 1, 0)], lags[np.minimum(peaks + 1, len(lags) - 1)]
    ruler, row = np.linspace(0, 1, 9), np.arange(len(peaks))
    for _ in range(2):
        points = low[:, None] + (high - low)[:, None] * ruler
        trial = _error_at(problem, points, log_amplitudes, rates) * sign[:, None]
        k = np.argmax(trial, axis=1)
        is_higher = trial[row, k] > height * sign
        best = np.where(is_higher, points[row, k], best)
        height = np.where(is_higher, trial[row, k] * sign, height)
        # The vertex of the parabola through the highest point and its neighbours.
        inner = np.clip(k, 1, 7)
        a, b, c = (trial[row, inner + j] for j in (-1, 0, 1))
        bend = a - 2 * b + c
        shift = np.where(bend < 0, np.clip(0.5 * (a - c) / np.where(bend < 0, bend, 1), -1, 1), 0)
        vertex = points[row, inner] + shift * (high - low) / 8
        at_vertex = _error_at(problem, vertex, log_amplitudes, rates)
        is_higher = at_vertex * sign > height * sign
        best, height = np.where(is_higher, vertex, best), np.where(is_higher, at_vertex, height)
        low, high = points[row, np.maximum(k - 1, 0)], points[row, np.minimum(k + 1, 8)]
    return best, height


def _exchange(
    problem: _LevelingProblem,
    log_amplitudes: np.ndarray,
    log_rates: np.ndarray,
    *,
    n_exchanges: int = 30,
    rtol: float = 1e-9,
) -> _Level | None:
    m = len(log_rates)
    n = 2 * m + 1
    lags = problem.lags.astype(problem.dtype)
    a, b = log_amplitudes.astype(problem.dtype), log_rates.astype(problem.dtype)
    alternate = np.where(np.arange(n) % 2, -1.0, 1.0)
    best: _Level | None = None
    best_at = 0
    with np.errstate(all="ignore"):
        for turn in range(n_exchanges):
            rates = np.exp(b)
            total = np.exp(a - lags[:, None] * rates).sum(axis=1)
            error = (problem.values - total) * problem.gains
            if not np.all(np.isfinite(error)):
                break
            peaks = _alternating_peaks(error, n)
            if len(peaks) < n:
                break
            points, heights = _sharpen_peaks(problem, peaks, error, a, rates)
            # Past the last lag both the kernel and the sum only fall.
            top = max(float(np.abs(error).max()), float(np.abs(heights).max()))
            bottom = float(np.abs(heights).min())
            if best is None or top / bottom < best.error / best.bound:
                best = _Level(a, b, top, bottom, points, turn)
                best_at = turn
            elif turn - best_at > 3:
                break
            if top / bottom - 1 < rtol:
                break
            a, b = _level_on(problem, points, alternate * np.sign(heights[0]), a, b, heights)
    return best


def _level_on(
    problem: _LevelingProblem,
    points: np.ndarray,
    sign: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    heights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Newton's method for equal ripples at fixed lags; damped by the next correction's size.

    Judging a step by its largest error would throttle it: the ripples are far smaller than the
    curvature of the sum, so a good step first makes them larger.
    """
    m = len(a)
    values = problem.kernel(points)
    gain = problem.gain(values)[:, None]
    ripple = np.abs(heights).mean()

    def linearise(a, b):
        terms = np.exp(a - points[:, None] * np.exp(b)) * gain
        residual = values * gain[:, 0] - terms.sum(axis=1)
        slopes = -terms * points[:, None] * np.exp(b)
        return np.concatenate([terms, slopes, sign[:, None]], axis=1), residual

    matrix, residual = linearise(a, b)
    for _ in range(30):
        scale = np.sqrt((matrix**2).sum(axis=0))
        factors = _factorise(matrix / scale)
        if factors is None:
            return a, b
        move = _solve(factors, residual - sign * ripple) / scale
        size = float(np.abs(move[: 2 * m]).max())
        if not math.isfinite(size):
            return a, b
        step = min(1.0, 1.0 / size)
        accepted = False
        for _ in range(12):
            trial_a, trial_b = a + step * move[:m], b + step * move[m : 2 * m]
            trial_ripple = ripple + step * move[-1]
            trial_matrix, trial_residual = linearise(trial_a, trial_b)
            if np.all(np.isfinite(trial_matrix)):
                after = _solve(factors, trial_residual - sign * trial_ripple) / scale
                if float(np.abs(after[: 2 * m]).max()) <= (1 - step / 2) * size or size < 1e-11:
                    accepted = True
                    break
            step /= 2
        if not accepted:
            return a, b
        a, b, ripple = trial_a, trial_b, trial_ripple
        matrix, residual = trial_matrix, trial_residual
        if size * step < 1e-11:
            return a, b
    return a, b


def _factorise(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """LU with partial pivoting in the dtype of `matrix`: LAPACK has no extended precision."""
    lu, order = matrix.copy(), np.arange(len(matrix))
    for k in range(len(lu)):
        pivot = k + int(np.argmax(np.abs(lu[k:, k])))
        if not np.isfinite(lu[pivot, k]) or lu[pivot, k] == 0:
            return None
        if pivot != k:
            lu[[k, pivot]] = lu[[pivot, k]]
            order[[k, pivot]] = order[[pivot, k]]
        lu[k + 1 :, k] /= lu[k, k]
        lu[k + 1 :, k + 1 :] -= np.multiply.outer(lu[k + 1 :, k], lu[k, k + 1 :])
    return lu, order


def _solve(factors: tuple[np.ndarray, np.ndarray], right: np.ndarray) -> np.ndarray:
    lu, order = factors
    x = right[order].copy()
    for k in range(1, len(x)):
        x[k] -= lu[k, :k] @ x[:k]
    for k in range(len(x) - 1, -1, -1):
        x[k] = (x[k] - lu[k, k + 1 :] @ x[k + 1 :]) / lu[k, k]
    return x


# --- the room's own calls ---------------------------------------------------------------------


def fit_linf(
    grid: FitGrid,
    width: int,
    *,
    real: bool = False,
    positive: bool = False,
    start: Poles | None = None,
) -> Poles:
    """Returns the sum of `width` exponentials with the smallest largest error.

    Completely monotone scalar kernels get the certified optimum over real rates; other kernels a
    local one, with no certificate (`stats["certificate"]` says so).

    Args:
        grid: the kernel.
        width: number of exponentials.
        real: real rates only.
        positive: positive amplitudes only; for kernels that are not completely monotone the
            front has other means.
        start: a fit in another norm to start from.
    """
    return fit_linf_widths(grid, [width], real=real, positive=positive, start=start)[width]


def fit_linf_widths(
    grid: FitGrid,
    widths: Sequence[int],
    *,
    real: bool = False,
    positive: bool = False,
    start: Poles | None = None,
) -> dict[int, Poles]:
    """Returns the fits of several widths, which share the path that leads to the widest."""
    is_scalar = grid.n_outputs == grid.n_inputs == 1
    if grid.is_completely_monotone and is_scalar:
        return _monotone_widths(grid, widths)
    if positive:
        raise invalid(
            "positive",
            "a completely monotone kernel in this norm",
            "another kernel",
            "use norm='l2', or fit its samples",
        )
    return {
        width: _descend(grid, width, real=real, start=start if len(widths) == 1 else None)
        for width in widths
    }


def _monotone_widths(grid: FitGrid, widths: Sequence[int]) -> dict[int, Poles]:
    problem = _leveling_problem(
        lambda lags: grid.kernel(np.asarray(lags, dtype=np.float64)).reshape(lags.shape),
        0.0,
        math.inf,
        is_relative=False,
    )
    levels = _level_widths(problem, widths)
    found = {}
    for width in widths:
        reached = max(k for k in levels if k <= width)
        level = levels[reached]
        gap = level.error / level.bound - 1 if level.bound > 0 else 0.0
        if reached < width:
            status = Status(
                "width_beyond_rank",
                f"{reached} exponentials reach {level.error:.3g}: what more would add is rounding",
            )
        elif gap > 1e-3:
            status = Status("precision_limit", f"error and bound agree to {gap:.1g} only")
        else:
            status = Status()
        found[width] = Poles(
            rates=np.exp(level.log_rates).astype(complex),
            amplitudes=np.exp(level.log_amplitudes).astype(complex)[:, None, None],
            error=float(level.error),
            bound=float(level.bound),
            status=status,
            stats={
                "exchanges": level.n_exchanges,
                "alternation": np.asarray(level.points, dtype=np.float64),
                "certificate": "alternation: no sum with real rates is better than the bound",
            },
        )
    return found


# --- other kernels ----------------------------------------------------------------------------


@references("madsen1975algorithm")
def _descend(grid: FitGrid, width: int, *, real: bool, start: Poles | None) -> Poles:
    """Lawson's reweighted least squares, then linear programs in a trust region."""
    lags = _error_lags(grid)
    n_channels = grid.n_outputs * grid.n_inputs
    values = grid.kernel(lags).reshape(len(lags), n_channels)
    starts = _descent_starts(grid, width, real=real, start=start)
    fits = [_lawson(sections, lags, values) for sections in starts]
    fits.sort(key=lambda item: item[2])
    finals = []
    for sections, amplitudes, error in fits[:2]:
        if error > 2 * fits[0][2]:
            break
        if n_channels == 1:
            finals.append(_programmed(grid, sections, amplitudes[:, 0], lags, values[:, 0]))
        else:
            finals.append((sections, amplitudes, error, 0))
    sections, amplitudes, error, n_programs = min(finals, key=lambda item: item[2])
    rates, modal = section_modes(sections, amplitudes.reshape(len(amplitudes), n_channels))
    return Poles(
        rates=rates,
        amplitudes=modal.reshape(-1, grid.n_outputs, grid.n_inputs),
        error=float(error),
        bound=None,
        status=Status(),
        stats={"programs": n_programs, "certificate": "none: a local optimum, found by descent"},
    )


def _error_lags(grid: FitGrid) -> np.ndarray:
    edges = np.array([b for b in grid.breakpoints if b > 0])
    sides = np.concatenate([edges * (1 - 1e-12), edges * (1 + 1e-12)])
    return np.unique(np.concatenate([[0.0], grid.nodes, sides]))


def _descent_starts(
    grid: FitGrid, width: int, *, real: bool, start: Poles | None
) -> list[Sections]:
    starts = []
    if start is not None and start.width == width:
        starts.append(sections_of(start.rates, real=real))
    rows = np.sqrt(grid.weights)
    target = grid.values.reshape(len(rows), -1) * rows[:, None]
    for power in (0.0, 0.5):
        rates: Any = hankel_spectrum(grid, power=power).rates(width)
        if len(rates) != width or not np.all(np.isfinite(rates)):
            continue
        slowest = 0.1 / float(grid.nodes[-1])
        rates = np.maximum(np.abs(rates.real), slowest) + 1j * rates.imag
        first = sections_of(rates, real=real)
        starts.append(first)
        starts.append(refine_sections(first, grid.nodes, rows, target, rtol=1e-6).sections)
    if not starts:
        spread = np.geomspace(0.2, 5.0 * width, width) / grid.timescale
        first = sections_of(spread.astype(complex), real=real)
        starts.append(refine_sections(first, grid.nodes, rows, target, rtol=1e-6).sections)
    return starts


def _lawson(
    sections: Sections, lags: np.ndarray, values: np.ndarray, *, n_rounds: int = 16
) -> tuple[Sections, np.ndarray, float]:
    """Least squares whose weights grow where the error is large."""
    weight = np.gradient(lags)
    weight = weight / weight.sum() + 1e-3 / len(lags)
    best: tuple[Sections, np.ndarray, float] | None = None
    for turn in range(n_rounds + 1):
        rows = np.sqrt(weight)
        if turn:
            try:
                sections = refine_sections(
                    sections, lags, rows, values * rows[:, None], n_iterations=4, rtol=1e-6
                ).sections
            except (np.linalg.LinAlgError, ValueError):
                break
        solved = project(sections, lags, rows, values * rows[:, None], derivatives=False)
        basis, _ = section_basis(sections, lags, np.ones(len(lags)), derivatives=False)
        size = np.abs(values - basis @ solved.amplitudes).sum(axis=1)
        error = float(size.max())
        if not math.isfinite(error):
            break
        if best is None or error < best[2]:
            best = (sections, solved.amplitudes, error)
        if error == 0:
            break
        weight = weight * np.maximum(size / error, 1e-3)
        weight = np.maximum(weight / weight.sum(), 1e-10 / len(lags))
    assert best is not None
    return best


def _programmed(
    grid: FitGrid,
    sections: Sections,
    amplitudes: np.ndarray,
    lags: np.ndarray,
    values: np.ndarray,
    *,
    n_programs: int = 40,
) -> tuple[Sections, np.ndarray, float, int]:
    """Madsen's linear programs, each followed by Newton's method on the ripples that are level.

    The linearised optimum alone would force tiny steps: the curvature of the sum is far larger
    than its ripples.
    """
    here = _Descent(grid, sections, amplitudes, lags, values)
    radius, count = 0.1, 0
    for _ in range(n_programs):
        count += 1
        points = here.critical_lags()
        proposal = here.program(points, radius)
        if proposal is None:
            break
        move, predicted, active = proposal
        trials = [here.moved(move)]
        level = trials[0].leveled(active)
        if level is not None:
            trials.append(level)
        trial = min(trials, key=lambda t: t.error)
        promised = here.error - predicted
        if trial.error < here.error:
            gain = here.error - trial.error
            here = trial
            radius = min(radius * (3 if gain > 0.5 * promised else 1), 1.0)
            if gain < 1e-7 * here.error:
                break
        else:
            radius /= 5
            if radius < 1e-9:
                break
        if promised < 1e-6 * here.error:
            break
    return here.sections, here.amplitudes, here.error, count


class _Descent:
    """One point of the descent in the largest error of a scalar kernel."""

    def __init__(self, grid: FitGrid, sections, amplitudes, lags, values):
        self.grid, self.sections, self.amplitudes = grid, sections, amplitudes
        self.lags, self.values = lags, values
        with np.errstate(all="ignore"):
            basis, _ = section_basis(sections, lags, np.ones(len(lags)), derivatives=False)
            self.residual = values - basis @ amplitudes
        self.peak_lags, peaks = self._peaks()
        size = np.concatenate([np.abs(self.residual), np.abs(peaks)])
        self.error = float(size.max()) if np.all(np.isfinite(size)) else math.inf

    def _peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """Local extrema of the error between the grid's lags."""
        e, t = self.residual, self.lags
        if not np.all(np.isfinite(e)):
            return np.zeros(0), np.zeros(0)
        size = np.abs(e)
        k = np.flatnonzero((size[1:-1] >= size[:-2]) & (size[1:-1] >= size[2:])) + 1
        k = k[size[k] > 0.1 * size.max()]
        left, right = t[k] - t[k - 1], t[k + 1] - t[k]
        # A breakpoint's two sides are no parabola.
        smooth = np.minimum(left, right) > 1e-9 * t[k]
        k, left, right = k[smooth], left[smooth], right[smooth]
        fall, rise = (e[k] - e[k - 1]) / left, (e[k + 1] - e[k]) / right
        bend = (rise - fall) / (left + right)
        bend = np.where(bend == 0, np.inf, bend)
        vertex = t[k] - (fall * right + rise * left) / (left + right) / (2 * bend)
        points = np.clip(vertex, t[k - 1], t[k + 1])
        values = self.grid.kernel(points).reshape(len(points))
        basis, _ = section_basis(self.sections, points, np.ones(len(points)), derivatives=False)
        return points, values - basis @ self.amplitudes

    def critical_lags(self) -> np.ndarray:
        near = np.flatnonzero(np.abs(self.residual) > 0.3 * self.error)
        near = near[:: max(1, len(near) // 200)]
        spread = np.arange(0, len(self.lags), max(1, len(self.lags) // 100))
        grid_lags = self.lags[np.unique(np.concatenate([near, spread, [0]]))]
        sides = [b * (1 + s) for b in self.grid.breakpoints if b > 0 for s in (-1e-12, 1e-12)]
        return np.unique(np.concatenate([self.peak_lags, grid_lags, sides]))

    def linearise(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The error at `points`, and minus its derivatives in the parameters and amplitudes."""
        basis, slopes = section_basis(self.sections, points, np.ones(len(points)))
        assert slopes is not None
        k, n_pairs = len(self.sections.log_rates), len(self.sections.log_pairs)
        c = self.amplitudes
        moves = slopes[:, :k] * c[:k]
        if n_pairs:
            pairs = slopes[:, k:].reshape(len(points), n_pairs, 2, 2)
            bent = np.einsum("npvc,pc->npv", pairs, c[k:].reshape(n_pairs, 2))
            moves = np.concatenate([moves, bent.reshape(len(points), -1)], axis=1)
        residual = self.grid.kernel(points).reshape(len(points)) - basis @ c
        return residual, moves, basis

    def program(self, points: np.ndarray, radius: float):
        residual, moves, basis = self.linearise(points)
        scale = self.error
        columns = np.concatenate([moves, basis], axis=1)
        norms = np.abs(columns).max(axis=0)
        norms[norms == 0] = 1.0
        n_moves = moves.shape[1]
        matrix = columns / norms / scale
        ones = np.ones((len(points), 1))
        upper = np.concatenate([-matrix, -ones], axis=1)
        lower = np.concatenate([matrix, -ones], axis=1)
        right = residual / scale
        limits = [(-radius * norms[j], radius * norms[j]) for j in range(n_moves)]
        limits += [(None, None)] * basis.shape[1] + [(0, None)]
        cost = np.zeros(matrix.shape[1] + 1)
        cost[-1] = 1.0
        result = scipy.optimize.linprog(
            cost,
            A_ub=np.concatenate([upper, lower]),
            b_ub=np.concatenate([-right, right]),
            bounds=limits,
            method="highs",
        )
        if result.x is None:
            return None
        move = result.x[:-1] / norms
        after = residual - columns @ (result.x[:-1] / norms)
        level = float(result.x[-1])
        active = np.abs(np.abs(after) / scale - level) < 1e-6 * level
        return move, level * scale, points[active]

    def moved(self, move: np.ndarray) -> _Descent:
        n = self.sections.vector.size
        return _Descent(
            self.grid,
            self.sections.moved(self.sections.vector + move[:n]),
            self.amplitudes + move[n:],
            self.lags,
            self.values,
        )

    def leveled(self, points: np.ndarray) -> _Descent | None:
        """Newton's method for equal ripples at the active lags."""
        here = self
        if len(points) < 2 or not math.isfinite(self.error):
            return None
        sign: np.ndarray | None = None
        before = math.inf
        for _ in range(8):
            residual, moves, basis = here.linearise(points)
            if not np.all(np.isfinite(moves)):
                return None
            if sign is None:
                sign = np.sign(residual)
            columns = np.concatenate([moves, basis, sign[:, None]], axis=1)
            norms = np.linalg.norm(columns, axis=0) + 1e-300
            move = np.linalg.lstsq(columns / norms, residual, rcond=1e-15)[0] / norms
            size = float(np.abs(move[: moves.shape[1]]).max())
            if not math.isfinite(size) or size > min(0.5, 2 * before):
                return None
            before = size
            here = here.moved(move[:-1])
            if size < 1e-12:
                break
        return here
