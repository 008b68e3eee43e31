"""Fits to samples: noisy, uneven, on a finite window, with the width the noise allows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_nonnegative,
    require_positive,
)
from recollect._core._least_squares import Point, descend, normal_root, project, projected_jacobian
from recollect._core._references import references
from recollect._core._status import Status
from recollect.approximation._l2 import Sections, section_basis, section_modes, sections_of
from recollect.approximation._problem import NORMS, Poles

_N_DICTIONARY = 400
_MOST_HANKEL_COLUMNS = 300
_MOST_PENCIL_ROWS = 1500
_PATIENCE = 3
# Of the largest sample: where nothing asks for more, samples without noise are fitted this well.
_FINEST_ERROR = 1e-8
# Of a logarithm in one step.
_LONGEST_STEP = 1.5


@references("golub1973differentiation", "hua1990matrix", "varah1985fitting")
def fit_samples(
    lags: Any,
    values: Any,
    *,
    width: int | None = None,
    error: float | None = None,
    norm: str = "l2",
    real: bool = False,
    positive: bool = False,
    constant: bool = False,
    weights: str = "absolute",
    noise: Any = None,
    slow_rates: bool = False,
    max_width: int = 32,
) -> Poles:
    """Returns the exponential sum that samples of a kernel support.

    Maximum likelihood under white noise: variable projection on the rates, from the matrix
    pencil where the lags allow it, from the most correlated rate left in the residual, and from
    log-spaced rates. Without `width` or `error` the width is the one that the Bayesian information
    criterion picks; every rate pays besides for having been searched for, so that noise gives an
    exponential more in about one table in fifty. Samples without noise single out no width: theirs
    is the smallest whose error is below 1e-8 of the largest sample.

    Rates slower than one over the window are not in the data and are refused (a constant is the
    honest form of what lies beyond), as are rates that are over before the second sample.

    Args:
        lags: shape (n,), any spacing and order, not negative, in one unit of time.
        values: shape (n,), (n, channel) or (n, out, in): one state shared by all channels.
        width: number of exponentials (a conjugate pair counts as two).
        error: instead of `width`: the smallest width whose error in `norm` is at most this.
        norm: "l2" for the root mean square of the residual, "l1" for its mean size, "linf" for
            its largest.
        real: real rates only.
        positive: positive amplitudes only (then rates are real).
        constant: add a constant, not below zero with `positive`.
        weights: "absolute", or "relative" to divide every residual by the sample's size.
        noise: standard deviation of the samples, one number or one per sample; estimated from
            the residual if None.
        slow_rates: allow rates slower than one over the window.
        max_width: never consider more exponentials than this.

    Returns:
        Rates, amplitudes and constant. `stats` holds `rms` (weighted), `noise` (the standard
        deviation used or estimated), `window`, `supported_width` and the path of errors.

    Raises:
        ValueError: if the samples are too few, not finite, or hold zeros with relative weights.
    """
    t, y, shape, sigma = _checked(lags, values, noise)
    require_choice("norm", norm, NORMS)
    require_choice("weights", weights, ("absolute", "relative"))
    if width is not None and error is not None:
        raise invalid("width", "either width or error", "both")
    max_width = require_count("max_width", max_width)
    if width is not None:
        width = require_count("width", width)
    if error is not None:
        error = require_positive("error", error)
    rows = np.ones(len(t))
    if weights == "relative":
        size = np.abs(y).max(axis=1)
        if size.min() == 0:
            raise invalid(
                "values",
                "nonzero samples with relative weights",
                "a zero",
                "drop it or use absolute",
            )
        rows = 1 / size
    elif sigma is not None and np.ndim(sigma):
        rows = np.median(sigma) / sigma
    problem = _Problem(t, y, rows, constant, real or positive, positive, _Window.of(t, slow_rates))
    n_free = len(t) * y.shape[1] - (1 if constant else 0) * y.shape[1]
    most = max(1, min(max_width, n_free // (1 + y.shape[1]) - 1, len(t) // 2))
    known = None if sigma is None else float(np.sqrt(np.mean((sigma * rows) ** 2)))
    pencil = None if positive else _matrix_pencil(problem)
    path = _walk(
        problem,
        pencil,
        target=min(width, most) if width is not None else None,
        ceiling=most,
        error=error,
        norm=norm,
        sigma=known,
    )
    supported, estimated = _supported_width(problem, path, known)
    if width is not None:
        chosen = max(path)
    elif error is not None:
        reached = [k for k in path if path[k].error_in(problem, norm) <= error]
        chosen = min(reached) if reached else max(path)
    else:
        chosen = supported
    fit = path[chosen]
    if norm != "l2":
        fit = _reweighted(problem, fit, norm)
    rates, amplitudes = fit.modes()
    reached_error = fit.error_in(problem, norm)
    status = Status()
    if len(rates) == 0 or (width is not None and len(rates) < width):
        status = Status(
            "noise_limited",
            f"{len(rates)} of {width} exponentials carry weight in these {len(t)} samples",
        )
    elif error is not None and reached_error > error:
        status = Status(
            "noise_limited", f"the error wanted is {error:.3g}; {reached_error:.3g} was reached"
        )
    elif width is not None and chosen > supported:
        status = Status(
            "noise_limited",
            f"{chosen} exponentials were asked for; the samples support {supported}",
        )
    limit = fit.constant.reshape(shape) if constant else np.zeros(shape)
    return Poles(
        rates=rates,
        amplitudes=amplitudes.reshape(len(rates), *shape),
        constant=limit,
        error=reached_error,
        bound=None,
        status=status,
        stats={
            "rms": fit.error_in(problem, "l2"),
            "noise": estimated if known is None else known,
            "window": (float(problem.window.shortest), float(problem.window.longest)),
            "supported_width": supported,
            "path": {k: path[k].error_in(problem, norm) for k in sorted(path)},
        },
    )


def _checked(lags: Any, values: Any, noise: Any):
    t = host_float64("lags", lags, owner="fit_samples")
    y = host_float64("values", values, owner="fit_samples")
    if t.ndim != 1 or len(t) < 4:
        raise invalid("lags", "at least four lags, shape (n,)", f"shape {t.shape}")
    if y.ndim not in (1, 2, 3) or len(y) != len(t):
        raise invalid("values", f"one row per lag ({len(t)})", f"shape {y.shape}")
    if t.min() < 0:
        raise invalid("lags", "lags not below zero", f"{t.min():.3g}", "a kernel is causal")
    shape = {1: (1, 1), 2: (y.shape[-1], 1), 3: y.shape[1:]}[y.ndim]
    sigma = None
    if noise is not None:
        sigma = host_float64("noise", noise, owner="fit_samples")
        if sigma.ndim == 0:
            require_nonnegative("noise", sigma)
        elif sigma.shape != t.shape or sigma.min() <= 0:
            raise invalid("noise", "one positive number per lag", f"shape {sigma.shape}")
    order = np.argsort(t, kind="stable")
    if sigma is not None and sigma.ndim:
        sigma = sigma[order]
    t, y = t[order], y.reshape(len(t), -1)[order]
    if t[-1] == t[0]:
        raise invalid("lags", "different lags", "one lag repeated")
    return t, y, shape, sigma


@dataclasses.dataclass(frozen=True)
class _Window:
    """Which rates the lags can see."""

    shortest: float
    longest: float
    slowest: float
    fastest: float
    largest_frequency: float

    @staticmethod
    def of(t: np.ndarray, slow_rates: bool) -> _Window:
        gaps = np.diff(np.unique(t))
        gap = float(gaps.min())
        first = t[t > 0][0]
        shortest = float(min(first, gap) if t[0] == 0 else first)
        longest = float(t[-1])
        slowest = (1e-6 if slow_rates else 1.0) / longest
        # Aliases start at the Nyquist frequency of the densest stretch; at that frequency itself
        # the sine is zero at every sample, and of any size in between.
        return _Window(shortest, longest, slowest, 5 / shortest, 0.999 * math.pi / gap)


@dataclasses.dataclass(frozen=True)
class _Problem:
    t: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    constant: bool
    real: bool
    positive: bool
    window: _Window

    @property
    def target(self) -> np.ndarray:
        return self.y * self.rows[:, None]

    @property
    def n_residuals(self) -> int:
        return self.y.size


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Sections with the amplitudes of their basis, and a constant."""

    sections: Sections
    amplitudes: np.ndarray
    constant: np.ndarray
    cost: float

    @property
    def width(self) -> int:
        return self.sections.width

    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        rates: Any
        rates, amplitudes = section_modes(self.sections, self.amplitudes)
        order = np.argsort(-rates.real, kind="stable")
        return rates[order], amplitudes[order]

    def residual(self, problem: _Problem) -> np.ndarray:
        basis, _ = section_basis(
            self.sections, problem.t, np.ones(len(problem.t)), derivatives=False
        )
        return (problem.y - basis @ self.amplitudes - self.constant) * problem.rows[:, None]

    def error_in(self, problem: _Problem, norm: str) -> float:
        size = np.abs(self.residual(problem))
        if norm == "l1":
            return float(size.mean())
        return float(size.max()) if norm == "linf" else float(np.sqrt(np.mean(size**2)))


# --- one width ------------------------------------------------------------------------------


def _confined(sections: Sections, window: _Window) -> Sections:
    low, high = math.log(window.slowest), math.log(window.fastest)
    singles = np.clip(sections.log_rates, low, high)
    if not len(sections.log_pairs):
        return Sections(singles, sections.log_pairs)
    log_a = np.clip(sections.log_pairs[:, 0], low + math.log(2) + 1e-9, high + math.log(2))
    a = np.exp(log_a)
    # Both roots of s² + as + b left of the slowest rate: b ≥ w (a - w), strictly stable.
    low_b = np.log(window.slowest * (a - window.slowest))
    high_b = np.log(a * a / 4 + max(window.largest_frequency, 1 / window.longest) ** 2)
    log_b = np.clip(sections.log_pairs[:, 1], low_b, high_b)
    return Sections(singles, np.stack([log_a, log_b], axis=1))


def _refined(
    problem: _Problem,
    sections: Sections,
    *,
    rows: np.ndarray | None = None,
    n_iterations: int = 80,
    rtol: float = 1e-8,
) -> _Fit:
    """Variable projection inside the window's bounds."""
    rows = problem.rows if rows is None else rows
    target = problem.y * rows[:, None]
    start = _confined(sections, problem.window)

    def evaluate(vector: np.ndarray) -> Point:
        at = _confined(start.moved(vector), problem.window)
        basis, _ = section_basis(at, problem.t, rows, derivatives=False)
        if problem.constant:
            basis = np.concatenate([basis, rows[:, None]], axis=1)
        found = project(basis, target)
        return Point(at.vector, float(np.sum(found.residual**2)), found)

    def linearise(at: Point) -> tuple[np.ndarray, np.ndarray]:
        _, slopes = section_basis(start.moved(at.vector), problem.t, rows)
        assert slopes is not None
        jacobian = projected_jacobian(slopes, at.solution, len(start.log_rates))
        return normal_root(jacobian, at.solution.residual.ravel())

    end, _ = descend(
        evaluate(start.vector),
        evaluate,
        linearise,
        longest_step=_LONGEST_STEP,
        n_steps=n_iterations,
        rtol=rtol,
        floor=(1e-16 * float(np.linalg.norm(target))) ** 2,
    )
    sections, c = start.moved(end.vector), end.solution.amplitudes
    constant = c[-1] if problem.constant else np.zeros(problem.y.shape[1])
    fit = _Fit(sections, c[: sections.width], constant, end.cost)
    # What the amplitudes leave: more than the projection does where columns nearly coincide.
    left = fit.residual(problem) / problem.rows[:, None] * rows[:, None]
    return dataclasses.replace(fit, cost=float(np.sum(left**2)))


def _refined_positive(
    problem: _Problem,
    log_rates: np.ndarray,
    *,
    log_amplitudes: np.ndarray | None = None,
    log_constant: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    n_iterations: int = 150,
    rtol: float = 1e-7,
) -> _Fit:
    """Least squares in the logarithms of rates, amplitudes and constant."""
    rows = problem.rows if rows is None else rows
    t, target, m = problem.t, problem.y * rows[:, None], len(log_rates)
    n, n_channels = target.shape
    top = math.log(float(np.abs(problem.y).max()))
    window = problem.window
    log_rates = np.clip(log_rates, math.log(window.slowest), math.log(window.fastest))
    if log_amplitudes is None:
        log_amplitudes, log_constant = _nonnegative_start(problem, log_rates, rows)
    if log_constant is None:
        log_constant = np.full(n_channels, top - 40)
    n_limits = n_channels if problem.constant else 0
    assert log_amplitudes is not None
    assert log_constant is not None
    vector = np.concatenate([log_rates, log_amplitudes.ravel(), log_constant[:n_limits]])
    low = np.concatenate([np.full(m, math.log(window.slowest)), np.full(vector.size - m, top - 60)])
    high = np.concatenate(
        [np.full(m, math.log(window.fastest)), np.full(vector.size - m, top + 40)]
    )

    def parts(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        c = np.exp(vector[m : m + m * n_channels]).reshape(m, n_channels)
        limit = np.exp(vector[m + m * n_channels :]) if n_limits else np.zeros(n_channels)
        return np.exp(vector[:m]), c, limit

    def evaluate(vector: np.ndarray) -> Point:
        w, c, limit = parts(vector)
        decay = np.exp(-t[:, None] * w) * rows[:, None]
        residual = (decay @ c + rows[:, None] * limit - target).ravel()
        return Point(vector, float(residual @ residual), (residual, decay))

    def linearise(at: Point) -> tuple[np.ndarray, np.ndarray]:
        w, c, limit = parts(at.vector)
        residual, decay = at.solution
        jacobian = np.zeros((n, n_channels, at.vector.size))
        jacobian[:, :, :m] = (-(t[:, None] * w) * decay)[:, None, :] * c.T
        for h in range(n_channels):
            jacobian[:, h, m + h : m + m * n_channels : n_channels] = decay * c[:, h]
            if n_limits:
                jacobian[:, h, m + m * n_channels + h] = rows * limit[h]
        return normal_root(jacobian.reshape(n * n_channels, -1), residual)

    end, _ = descend(
        evaluate(np.clip(vector, low, high)),
        evaluate,
        linearise,
        longest_step=_LONGEST_STEP,
        n_steps=n_iterations,
        rtol=rtol,
        bounds=(low, high),
    )
    _, c, limit = parts(end.vector)
    return _Fit(Sections(end.vector[:m], np.zeros((0, 2))), c, limit, end.cost)


def _nonnegative_start(problem: _Problem, log_rates: np.ndarray, rows: np.ndarray):
    basis = np.exp(-problem.t[:, None] * np.exp(log_rates)) * rows[:, None]
    if problem.constant:
        basis = np.concatenate([basis, rows[:, None]], axis=1)
    norms = np.linalg.norm(basis, axis=0) + 1e-300
    found = np.empty((basis.shape[1], problem.y.shape[1]))
    for h in range(problem.y.shape[1]):
        wanted = problem.y[:, h] * rows
        found[:, h] = scipy.optimize.nnls(basis / norms, wanted)[0] / norms
    # Zero has no logarithm: what the first solve discards starts small instead.
    small = 1e-4 * np.abs(problem.y).max(axis=0)
    found = np.log(np.maximum(found, small))
    m = len(log_rates)
    return found[:m], found[m] if problem.constant else None


# --- the path over widths -------------------------------------------------------------------


def _walk(
    problem: _Problem,
    pencil: _Pencil | None,
    *,
    target: int | None,
    ceiling: int,
    error: float | None,
    norm: str,
    sigma: float | None,
) -> dict[int, _Fit]:
    path: dict[int, _Fit] = {}
    best_score, waited = math.inf, 0
    finest = _FINEST_ERROR * float(np.abs(problem.target).max())
    last = target if target is not None else ceiling
    for width in range(1, last + 1):
        fit = _best_at(problem, pencil, path, width)
        before = path.get(width - 1)
        if before is not None and fit.cost >= before.cost * (1 - 1e-12):
            # A wider fit that repeats the narrower one keeps its width.
            path[width] = before
            waited += 1
            if waited > _PATIENCE:
                break
            continue
        waited = 0 if target is not None else waited
        path[width] = fit
        if error is not None and fit.error_in(problem, norm) <= error:
            break
        if target is None and error is None:
            score = _information(problem, fit, sigma)
            if score < best_score - 1e-9:
                best_score, waited = score, 0
            else:
                waited += 1
                if waited > _PATIENCE:
                    break
            if fit.error_in(problem, "l2") <= finest:
                break
        if fit.cost <= (3e-16) ** 2 * float(np.sum(problem.target**2)) * len(problem.t):
            break
    if target is not None and target not in path:
        path[target] = path[max(path)]
    return path


def _best_at(problem: _Problem, pencil: _Pencil | None, path: dict[int, _Fit], width: int) -> _Fit:
    before = path.get(width - 1)
    before = before if before is not None and before.width == width - 1 else None
    if problem.positive:
        return _best_positive(problem, before, width)
    trials: list[Sections] = []
    if pencil is not None:
        for rates in pencil.rates(width):
            trials.append(sections_of(rates, real=problem.real))
    if before is not None:
        rates = before.sections.rates()
        trials += [
            sections_of(np.append(rates, w), real=problem.real)
            for w in _missing_rates(problem, before, 2)
        ]
    two_before = path.get(width - 2)
    if not problem.real and width >= 2:
        base = two_before if two_before is not None and two_before.width == width - 2 else None
        if base is not None or width == 2:
            rates = base.sections.rates() if base is not None else np.zeros(0)
            for w in _missing_pairs(problem, base, 2):
                trials.append(sections_of(np.concatenate([rates, [w, np.conj(w)]]), real=False))
    window = problem.window
    spread = np.geomspace(1.5 * window.slowest, 0.3 * window.fastest, width)
    trials.append(sections_of(spread.astype(complex), real=problem.real))
    fits = [_refined(problem, s, n_iterations=30, rtol=1e-4) for s in trials if s.width == width]
    fits.sort(key=lambda fit: fit.cost)
    finals = [_refined(problem, fit.sections, n_iterations=120) for fit in fits[:2]]
    return min(finals, key=lambda fit: fit.cost)


def _best_positive(problem: _Problem, before: _Fit | None, width: int) -> _Fit:
    window, trials = problem.window, []
    low, high = math.log(window.slowest), math.log(window.fastest)
    if before is not None:
        logs = before.sections.log_rates
        order = np.argsort(logs)
        for w, size in _missing_atoms(problem, before, 4):
            trials.append(
                _refined_positive(
                    problem,
                    np.append(logs, math.log(w)),
                    log_amplitudes=np.concatenate(
                        [np.log(before.amplitudes), np.log(size)[None, :]]
                    ),
                    log_constant=np.log(before.constant) if problem.constant else None,
                    n_iterations=40,
                    rtol=1e-5,
                )
            )
        old, new = (np.arange(width - 1) + 0.5) / (width - 1), (np.arange(width) + 0.5) / width
        stretched = np.interp(new, old, logs[order])
        stretched[0], stretched[-1] = (low + stretched[0]) / 2, (high + stretched[-1]) / 2
        trials.append(_refined_positive(problem, stretched, n_iterations=40, rtol=1e-5))
    even = low + (high - low) * (np.arange(width) + 0.5) / width
    trials.append(_refined_positive(problem, even, n_iterations=40, rtol=1e-5))
    trials.sort(key=lambda fit: fit.cost)
    finals = [
        _refined_positive(
            problem,
            fit.sections.log_rates,
            log_amplitudes=np.log(fit.amplitudes),
            log_constant=np.log(fit.constant) if problem.constant else None,
        )
        for fit in trials[:2]
    ]
    return min(finals, key=lambda fit: fit.cost)


def _missing_atoms(problem: _Problem, fit: _Fit, n: int) -> list[tuple[float, np.ndarray]]:
    """Rates whose positive amount would lower the cost fastest, with a first amount."""
    window = problem.window
    rates = np.geomspace(window.slowest, window.fastest, _N_DICTIONARY)
    columns = np.exp(-problem.t[:, None] * rates) * problem.rows[:, None]
    norms = np.linalg.norm(columns, axis=0) + 1e-300
    gains = (columns / norms).T @ fit.residual(problem)
    total = np.maximum(gains, 0).sum(axis=1)
    peaks = _peaks(total, n)
    small = 1e-6 * np.abs(problem.y).max(axis=0)
    return [(float(rates[i]), np.maximum(gains[i] / norms[i], small)) for i in peaks]


def _missing_rates(problem: _Problem, fit: _Fit, n: int) -> list[float]:
    window = problem.window
    rates = np.geomspace(window.slowest, window.fastest, _N_DICTIONARY // 4)
    columns = np.exp(-problem.t[:, None] * rates)[:, :, None] * problem.rows[:, None, None]
    gains = _gains(problem, fit, columns)
    return [float(rates[i]) for i in _peaks(gains, n)]


def _missing_pairs(problem: _Problem, fit: _Fit | None, n: int) -> list[complex]:
    window = problem.window
    top = min(window.largest_frequency, 60 * math.pi / window.longest)
    decays = np.geomspace(window.slowest, min(window.fastest, 30 * window.slowest), 5)
    frequencies = np.linspace(0.5 * math.pi / window.longest, top, 40)
    grid = (decays[:, None] + 1j * frequencies).ravel()
    waves: Any = np.exp(-problem.t[:, None] * grid) * problem.rows[:, None]
    gains = _gains(problem, fit, np.stack([waves.real, waves.imag], axis=2))
    return [complex(grid[i]) for i in np.argsort(-gains)[:n]]


def _gains(problem: _Problem, fit: _Fit | None, columns: np.ndarray) -> np.ndarray:
    """How much of the residual each candidate (n, candidate, part) takes, beside the present fit."""
    rows = problem.rows
    basis = np.zeros((len(rows), 0))
    if fit is not None:
        basis, _ = section_basis(fit.sections, problem.t, rows, derivatives=False)
    if problem.constant:
        basis = np.concatenate([basis, rows[:, None]], axis=1)
    target = problem.target
    if basis.shape[1]:
        q = scipy.linalg.orth(basis / (np.linalg.norm(basis, axis=0) + 1e-300))
        flat = columns.reshape(len(rows), -1)
        columns = (flat - q @ (q.T @ flat)).reshape(columns.shape)
        target = target - q @ (q.T @ target)
    gains = np.zeros(columns.shape[1])
    for j in range(columns.shape[1]):
        part = columns[:, j]
        size = np.linalg.norm(part, axis=0)
        if size.min() <= 1e-9:
            continue
        q, _ = np.linalg.qr(part / size)
        gains[j] = float(np.sum((q.T @ target) ** 2))
    return gains


def _peaks(values: np.ndarray, n: int) -> list[int]:
    padded = np.concatenate([[-np.inf], values, [-np.inf]])
    is_peak = (padded[1:-1] >= padded[:-2]) & (padded[1:-1] >= padded[2:]) & (values > 0)
    found = np.flatnonzero(is_peak)
    return [int(i) for i in found[np.argsort(-values[found])][:n]]


def _reweighted(problem: _Problem, fit: _Fit, norm: str) -> _Fit:
    """Iteratively reweighted least squares towards the mean or the largest error."""
    best, best_error = fit, fit.error_in(problem, norm)
    current, power = fit, np.ones(len(problem.t))
    for turn in range(12):
        size = np.abs(current.residual(problem)).max(axis=1)
        scale = size.max()
        if scale == 0:
            break
        if norm == "l1":
            power = 1 / np.maximum(size / scale, 1e-4 * 0.5**turn)
        else:
            power = power * np.maximum(size / scale, 1e-3)
            power = np.maximum(power / power.max(), 1e-8)
        rows = problem.rows * np.sqrt(power)
        if problem.positive:
            current = _refined_positive(
                problem,
                current.sections.log_rates,
                log_amplitudes=np.log(current.amplitudes),
                log_constant=np.log(current.constant) if problem.constant else None,
                rows=rows,
                n_iterations=30,
                rtol=1e-5,
            )
        else:
            current = _refined(problem, current.sections, rows=rows, n_iterations=20, rtol=1e-5)
        error = current.error_in(problem, norm)
        if error < best_error:
            best, best_error = current, error
    return best


# --- how many exponentials the noise allows --------------------------------------------------


def _information(problem: _Problem, fit: _Fit, sigma: float | None) -> float:
    n, n_channels = problem.n_residuals, problem.y.shape[1]
    n_parameters = fit.width * (1 + n_channels) + (n_channels if problem.constant else 0)
    penalty = n_parameters * math.log(n) + _search_penalty(problem, fit)
    if sigma:
        return fit.cost / sigma**2 + penalty
    rounding = (1e-16 * float(np.abs(problem.target).max())) ** 2
    freedom = max(n - n_parameters, 1)
    # The finite-sample form: with few samples the plain criterion interpolates.
    extra = 2 * n_parameters * (n_parameters + 1) / max(freedom - 1, 0.5)
    return n * math.log(max(fit.cost / n, rounding)) + penalty + extra


def _search_penalty(problem: _Problem, fit: _Fit) -> float:
    """What it costs that each rate is the best of all that the lags can tell apart.

    Noise has that many chances to look like a rate: one for every e-fold between the slowest and
    the fastest, and for a pair one for every frequency besides.
    """
    window = problem.window
    n_decays = max(math.log(window.fastest / window.slowest), 1.0)
    n_frequencies = max(window.largest_frequency * window.longest / math.pi, 1.0)
    n_pairs = int(np.sum(fit.sections.rates().imag > 0))
    n_searched = (fit.width - n_pairs) * math.log(n_decays) + n_pairs * math.log(n_frequencies)
    return 2 * n_searched


def _supported_width(
    problem: _Problem, path: dict[int, _Fit], sigma: float | None
) -> tuple[int, float]:
    scores = {k: _information(problem, fit, sigma) for k, fit in path.items() if fit.width == k}
    best = min(scores, key=lambda k: scores[k])
    freedom = max(problem.n_residuals - path[best].width * (1 + problem.y.shape[1]), 1)
    return best, math.sqrt(path[best].cost / freedom)


@dataclasses.dataclass(frozen=True)
class _Pencil:
    """The Hankel matrix of samples on a uniform grid, decomposed once for all widths."""

    u: np.ndarray
    n_shift: int
    step: float
    window: _Window

    def rates(self, width: int) -> list[np.ndarray]:
        if width > min(self.u.shape[1], self.u.shape[0] - self.n_shift):
            return []
        u = self.u[:, :width]
        z = np.linalg.eigvals(np.linalg.lstsq(u[: -self.n_shift], u[self.n_shift :], rcond=None)[0])
        z = z[np.abs(z) > 1e-12]
        w: Any = -np.log(z.astype(complex)) / self.step
        # A negative multiplier has no continuous form; its nearest is a pair at half the rate.
        is_real = np.abs(z.imag) <= 1e-10 * np.abs(z)
        w = np.where(is_real, np.abs(w.real) + 0j, np.abs(w.real) + 1j * w.imag)
        w = np.maximum(w.real, self.window.slowest) + 1j * w.imag
        upper = w[~is_real & (w.imag > 0)]
        rates = np.concatenate([w[is_real], upper, upper.conj()])
        short = width - len(rates)
        if short > 0:
            rates = np.append(rates, np.geomspace(0.1, 0.5, short) * self.window.fastest)
        return [rates] if len(rates) == width else []


def _matrix_pencil(problem: _Problem) -> _Pencil | None:
    """The pencil on the samples themselves if they are even, else on a thinned interpolation."""
    t = np.unique(problem.t)
    gaps = np.diff(t)
    is_even = np.ptp(gaps) <= 1e-6 * gaps.mean() and len(t) == len(problem.t)
    if is_even:
        grid, values = problem.t, problem.y
    else:
        if gaps.max() > 50 * np.median(gaps):
            return None
        grid = np.linspace(t[0], t[-1], min(len(t), 2 * _MOST_HANKEL_COLUMNS))
        values = np.stack([np.interp(grid, problem.t, c) for c in problem.y.T], axis=1)
    if problem.constant:
        values = np.diff(values, axis=0)
    n = len(values)
    if n < 4:
        return None
    n_rows = min(n // 2, _MOST_PENCIL_ROWS)
    stride = max(1, (n - n_rows) // _MOST_HANKEL_COLUMNS)
    # Columns can be thinned; rows cannot, the shift by one sample lives in them.
    hankel = np.concatenate(
        [scipy.linalg.hankel(c[:n_rows], c[n_rows - 1 :])[:, ::stride] for c in values.T], axis=1
    )
    u = np.linalg.svd(hankel, full_matrices=False)[0]
    keep = min(64, u.shape[1])
    step = float(np.mean(np.diff(grid)))
    return _Pencil(u[:, :keep], 1, step, problem.window)
