"""What a linear model leaves over: noise, or something nonlinear?"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import scipy.linalg
import scipy.signal
import scipy.stats

from recollect._core._check import (
    host_float64,
    invalid,
    require_count,
    require_positive,
    require_signal,
    wrong_type,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.models import AffineRNN, rediscretise

_MOST_STATES = 3
_N_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Coherence:
    """Share of an output's power that is a linear function of the inputs, at every frequency.

    Attributes:
        frequencies: in cycles per unit of time, shape (point,).
        coherence: multiple magnitude-squared coherence, from 0 to 1, shape (point, out).
        lower: lower end of the 90 % interval, same shape.
        upper: upper end.
        threshold: what unrelated signals stay below with probability 0.95 at one frequency.
        n_averages: independent stretches averaged over.
        status: `record_too_short` where too few stretches tell the inputs apart.
    """

    frequencies: np.ndarray
    coherence: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    threshold: float
    n_averages: float
    status: Status = Status()


@references("carter1973estimation")
def estimate_coherence(
    inputs: Any, outputs: Any, *, dt: float, n_per_segment: int | None = None
) -> Coherence:
    """Returns the share of the output power that is linear in the inputs, over frequency.

    `γ² = S_yx S_xx⁻¹ S_xy / S_yy` from Welch's overlapped, Hann-windowed averages. It falls below
    one through noise and through nonlinearity alike; `estimate_remainder` tells them apart.

    Args:
        inputs: shape (time, in) or (time,).
        outputs: shape (time, out) or (time,).
        dt: step.
        n_per_segment: samples per stretch; an eighth of the record if omitted.

    Returns:
        Coherence with its interval (Fisher's z), one column per output.

    Raises:
        ValueError: if lengths differ, numbers are not finite or the record is too short.
    """
    dt = require_positive("dt", dt)
    x, y = _pair(inputs, outputs, "estimate_coherence")
    if np.isnan(y).any():
        raise invalid(
            "outputs", "an unbroken record", "NaN", "use the longest stretch without gaps"
        )
    length = (
        max(8, len(x) // 8)
        if n_per_segment is None
        else require_count("n_per_segment", n_per_segment, minimum=8)
    )
    if len(x) < 2 * length:
        raise invalid("inputs", f"at least {2 * length} samples", f"{len(x)}")
    n_inputs = x.shape[1]

    def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return scipy.signal.csd(a, b, fs=1 / dt, nperseg=length, window="hann", axis=0)[1]

    frequencies = np.fft.rfftfreq(length, dt)
    sxx = np.stack([np.stack([cross(a, b) for b in x.T], -1) for a in x.T], -2)
    trace = np.real(np.trace(sxx, axis1=1, axis2=2))
    sxx = sxx + (1e-12 * trace + 1e-300)[:, None, None] * np.eye(n_inputs)
    values = []
    for column in y.T:
        sxy = np.stack([cross(a, column) for a in x.T], -1)
        linear = np.einsum("fi,fi->f", sxy.conj(), np.linalg.solve(sxx, sxy[..., None])[..., 0])
        power = np.real(cross(column, column))
        values.append(np.divide(linear.real, power, out=np.zeros_like(power), where=power > 0))
    gamma = np.clip(np.stack(values, axis=1), 0.0, 1.0)
    n_segments = (len(x) - length) // (length - length // 2) + 1
    # Hann stretches that overlap by half share a sixth of their variance.
    n_averages = n_segments / (1 + 2 * (1 / 6) ** 2 * (n_segments - 1) / n_segments)
    enough = n_averages > n_inputs + 1
    threshold = scipy.stats.beta.ppf(0.95, n_inputs, n_averages - n_inputs) if enough else 1.0
    z = np.arctanh(np.sqrt(np.minimum(gamma, 1 - 1e-12)))
    spread = 1.645 / np.sqrt(2 * max(n_averages - n_inputs, 0.5))
    return Coherence(
        frequencies=frequencies,
        coherence=gamma,
        lower=np.tanh(np.maximum(z - spread, 0.0)) ** 2,
        upper=np.tanh(z + spread) ** 2,
        threshold=float(threshold),
        n_averages=float(n_averages),
        status=Status()
        if enough
        else Status("record_too_short", f"{n_averages:.1f} stretches for {n_inputs} input(s)"),
    )


@dataclasses.dataclass(frozen=True)
class Remainder:
    """What the linear model leaves over of one output, and why.

    Attributes:
        verdict: `"nonlinearity"` where past inputs predict held-out parts of the remainder through
            quadratic and cubic functionals, or the remainder repeats with a periodic input;
            `"noise"` where they do not.
        p_value: chance of predicting so well if the remainder were unrelated to the inputs.
        share: of the output variance that is left over.
        nonlinear_share: of the output variance that is predictably nonlinear: a lower estimate
            without repeats, unbiased with them.
        noise_share: the rest.
        is_from_repeats: True where the noise was measured across periods.
        status: `undecided` where nothing is left over to judge.
    """

    verdict: str
    p_value: float
    share: float
    nonlinear_share: float
    noise_share: float
    is_from_repeats: bool
    status: Status = Status()


@on_one_thread
def estimate_remainder(
    inputs: Any,
    outputs: Any,
    network: AffineRNN,
    *,
    dt: float,
    output: int = 0,
    period: int | None = None,
    level: float = 0.05,
    n_shifts: int = 199,
    seed: int = 0,
) -> Remainder:
    """Returns whether what a linear model leaves over is noise or nonlinearity.

    The remainder, less its linear part, is predicted on held-out blocks from quadratic and cubic
    functionals: products of the linear states and inputs, and the linear part driven by powers of
    its input and output. Shifting the remainder in time against the inputs gives the null
    distribution; this keeps the autocorrelation of both, so coloured noise is not mistaken for
    nonlinearity. With a periodic input, what does not repeat is noise, and no features are needed.

    Args:
        inputs: shape (time, in) or (time,).
        outputs: shape (time, out) or (time,), NaN where not observed.
        network: the linear model with its operating point.
        dt: step.
        output: which output.
        period: samples per period of a periodic input of at least two periods, if there is one.
        level: largest p-value that counts as nonlinearity: the rate of false alarms.
        n_shifts: size of the null sample.
        seed: of the shifts.

    Raises:
        ValueError: if lengths differ or the record has fewer than 64 samples.

    Assumptions: stationary noise unrelated to the inputs; a remainder nonlinear beyond degree 3,
    or with longer memory than the linear part, is seen only as far as these functionals see it.
    """
    dt = require_positive("dt", dt)
    if not isinstance(network, AffineRNN):
        raise wrong_type("network", "an AffineRNN", type(network).__name__)
    x, y = _pair(inputs, outputs, "estimate_remainder")
    if len(x) < 64:
        raise invalid("outputs", "at least 64 samples", f"{len(x)}")
    if not 0 <= output < y.shape[1]:
        raise invalid("output", f"an index below {y.shape[1]}", output)
    states = np.asarray(network.states(x, dt=dt))
    simulated = np.asarray(network(x, dt=dt))[:, output]
    seen = np.isfinite(y[:, output])
    error = np.where(seen, y[:, output] - simulated, 0.0)
    variance = float(np.var(y[seen, output]))
    share = float(np.mean(error[seen] ** 2)) / variance
    if share < 1e-20:
        nothing = Status("undecided", "the linear model leaves nothing over")
        return Remainder("noise", 1.0, share, 0.0, share, False, nothing)
    if period is not None:
        require_count("period", period, minimum=4)
        return _from_repeats(error, seen, period, variance, share, level)
    linear, curved = _features(network, x, states, simulated, dt)
    error = error - linear @ np.linalg.lstsq(linear, error, rcond=None)[0]
    curved = curved - linear @ np.linalg.lstsq(linear, curved, rcond=None)[0]
    basis = _basis(curved, len(x) // 20)
    rng = np.random.default_rng(seed)
    least = max(8, len(x) // 20)
    shifts = rng.integers(least, len(x) - least, n_shifts)
    trials = np.stack([error] + [np.roll(error, int(s)) for s in shifts], axis=1)
    gains = _predicted_share(basis, trials)
    p_value = float((1 + np.sum(gains[1:] >= gains[0])) / (1 + n_shifts))
    is_nonlinear = p_value <= level and gains[0] > 0
    nonlinear = float(max(gains[0], 0.0)) * float(np.mean(error[seen] ** 2)) / variance
    nonlinear = min(nonlinear, share) if is_nonlinear else 0.0
    verdict = "nonlinearity" if is_nonlinear else "noise"
    return Remainder(verdict, p_value, share, nonlinear, share - nonlinear, False)


def _from_repeats(error, seen, period, variance, share, level) -> Remainder:
    n_periods = len(error) // period
    if n_periods < 2:
        raise invalid("period", "at most half the record", period)
    # From the end: the transient is at the start.
    folded = np.where(seen, error, np.nan)[-n_periods * period :].reshape(n_periods, period)
    n_seen = np.isfinite(folded).sum(axis=0)
    folded = folded[:, n_seen >= 2]
    n_seen = n_seen[n_seen >= 2]
    if not len(n_seen):
        raise invalid("outputs", "two observed periods", "none")
    mean = np.nanmean(folded, axis=0)
    degrees = int(np.sum(n_seen - 1))
    noise = float(np.nansum((folded - mean) ** 2)) / degrees
    repeated = float(np.mean(n_seen * mean**2))
    p_value = float(scipy.stats.f.sf(repeated / max(noise, 1e-300), len(mean), degrees))
    nonlinear = max(float(np.mean(mean**2 - noise / n_seen)), 0.0) / variance
    is_nonlinear = p_value <= level
    verdict = "nonlinearity" if is_nonlinear else "noise"
    nonlinear = min(nonlinear, share) if is_nonlinear else 0.0
    return Remainder(verdict, p_value, share, nonlinear, noise / variance, True)


def _features(network: AffineRNN, x, states, simulated, dt) -> tuple[np.ndarray, np.ndarray]:
    stepped = rediscretise(network.network, dt)
    A, B = np.asarray(stepped.A), np.asarray(stepped.B)
    x = _unit(x)
    leading = _leading(states, _MOST_STATES)
    base = np.concatenate([leading, x], axis=1)
    powers = [
        np.prod(base[:, list(which)], axis=1)
        for degree in (2, 3)
        for which in itertools.combinations_with_replacement(range(base.shape[1]), degree)
    ]
    output = _unit(simulated[:, None])
    curves = [x**2, x**3, output**2, output**3, np.maximum(output, 0.7) - 0.7]
    filtered = [
        _filtered(A, np.linalg.norm(B, axis=1), column) for curve in curves for column in curve.T
    ]
    # Whatever the linear model missed linearly is not nonlinearity: the same filters see the inputs
    # and the output as they are, beside running means over log-spaced spans.
    missed = [
        _filtered(A, np.linalg.norm(B, axis=1), column)
        for signal in (x, output)
        for column in signal.T
    ]
    spans = [2**j for j in range(int(np.log2(max(len(x) / 10, 1))) + 1)]
    sums = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0)])
    means = [
        (sums[1:] - sums[np.maximum(np.arange(len(x)) + 1 - span, 0)]) / span for span in spans
    ]
    linear = np.concatenate([np.ones((len(x), 1)), leading, x, output, *missed, *means], axis=1)
    curved = np.concatenate([np.stack(powers, axis=1), *filtered, *curves], axis=1)
    return linear, _unit(curved)


def _filtered(A: np.ndarray, gain: np.ndarray, drive: np.ndarray) -> np.ndarray:
    # The powers, seen through the linear part's memory.
    state, states = np.zeros(len(A)), np.empty((len(drive), len(A)))
    for k, value in enumerate(drive - drive.mean()):
        state = A @ state + gain * value
        states[k] = state
    return _leading(states, _MOST_STATES)


def _leading(states: np.ndarray, n_most: int) -> np.ndarray:
    centred = states - states.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    kept = size > 1e-6 * max(float(size[0]), 1e-300)
    return np.sqrt(len(states)) * left[:, kept][:, :n_most]


def _unit(signal: np.ndarray) -> np.ndarray:
    spread = signal.std(axis=0)
    return np.clip((signal - signal.mean(axis=0)) / np.where(spread > 0, spread, 1.0), -5.0, 5.0)


def _basis(curved: np.ndarray, n_most: int) -> np.ndarray:
    left, size, _ = np.linalg.svd(curved, full_matrices=False)
    kept = size > 1e-3 * max(float(size[0]), 1e-300)
    return np.sqrt(len(curved)) * left[:, kept][:, : max(n_most, 1)]


def _predicted_share(basis: np.ndarray, trials: np.ndarray) -> np.ndarray:
    edges = np.linspace(0, len(basis), _N_FOLDS + 1).round().astype(int)
    left = np.zeros(trials.shape[1])
    for start, stop in itertools.pairwise(edges):
        held = np.zeros(len(basis), bool)
        held[start:stop] = True
        seen = basis[~held]
        gram = seen.T @ seen + 1e-2 * len(seen) * np.eye(basis.shape[1])
        weights = scipy.linalg.solve(gram, seen.T @ trials[~held], assume_a="pos")
        left += np.sum((trials[held] - basis[held] @ weights) ** 2, axis=0)
    return 1 - left / np.sum(trials**2, axis=0)


def _pair(inputs: Any, outputs: Any, owner: str) -> tuple[np.ndarray, np.ndarray]:
    x = host_float64("inputs", inputs, owner=owner)
    x = x[:, None] if x.ndim == 1 else x
    require_signal("inputs", x)
    y = np.asarray(outputs, dtype=float)
    y = y[:, None] if y.ndim == 1 else y
    require_signal("outputs", y)
    if len(x) != len(y):
        raise invalid("outputs", f"as many rows as inputs, {len(x)}", f"{len(y)}")
    if np.isinf(y).any():
        raise invalid("outputs", "finite numbers, or NaN where not observed", "infinity")
    if not np.isfinite(y).any(axis=0).all() or (np.nanstd(y, axis=0) == 0).any():
        raise invalid("outputs", "signals that vary", "a constant or unobserved column")
    return x, y
