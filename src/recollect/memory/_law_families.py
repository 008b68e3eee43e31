"""The shapes a memory can have, as step responses in units of the time step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import scipy.special

Step = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Family:
    """One parametric shape: linear in `n_linear` amplitudes, nonlinear in a box of parameters.

    `density(theta, times)` maps (draw, parameter) and (time,) to (draw, n_linear, time), and
    `step(theta, times)` is its integral from lag 0. Parameters are coordinates in which the
    prior is flat; `read(theta)` turns them into named numbers in units of the time step.
    """

    name: str
    law: str
    low: np.ndarray
    high: np.ndarray
    n_linear: int
    step: Step
    density: Step
    read: Callable[[np.ndarray], dict[str, np.ndarray]]
    delay: int | None = None

    @property
    def n_parameters(self) -> int:
        return len(self.low)

    def log_prior(self, theta: np.ndarray) -> np.ndarray:
        """Returns the log density of the flat prior, -inf outside the box."""
        inside = np.all((theta >= self.low) & (theta <= self.high), axis=-1)
        return np.where(inside, -np.sum(np.log(self.high - self.low)), -np.inf)


def families(n_lags: float, horizon: float) -> tuple[Family, ...]:
    """Returns the shapes to compare, for a lag window of `n_lags` steps.

    Args:
        n_lags: lags seen, in steps.
        horizon: the longest time scale worth a hypothesis, in steps (the record's length).
    """
    fastest, slowest = math.log(4.0), -math.log(horizon)
    rate = (slowest, fastest)
    ratio = (math.log(1.05), math.log(1e3))
    frequency = (math.log(0.5 * math.pi / n_lags), math.log(math.pi))
    # much below a step every shape is the same single coefficient
    scale = (math.log(0.25), math.log(horizon))
    delay = (0.0, math.log(max(n_lags - 1.0, 2.0)))
    spread = (math.log(0.2), math.log(n_lags / 2))
    order = (0.0, math.log(8.0))
    shapes = [
        _family("zero", "none", [], 0, _zero, _zero, _read_nothing),
        _family("instant", "none", [], 1, _instant, _instant_density, _read_nothing),
        _family(
            "exponential",
            "exponential",
            [rate],
            1,
            _exponential,
            _exponential_density,
            _read_exponential,
        ),
        _family("two exponentials", "exponential", [rate, ratio], 2, _two, _two_density, _read_two),
        _family(
            "damped oscillation",
            "exponential",
            [rate, frequency],
            2,
            _pair,
            _pair_density,
            _read_pair,
        ),
        _family(
            "three exponentials",
            "exponential",
            [rate, ratio, ratio],
            3,
            _three,
            _three_density,
            _read_three,
        ),
        # cascades: the law is that of the tail, and these rise first
        _family("gamma", "exponential", [rate, order], 1, _gamma, _gamma_density, _read_gamma),
        _family(
            "exponential after a dead time",
            "exponential",
            [delay, rate],
            1,
            _brief(_delayed(_exponential)),
            _brief(_delayed_density(_exponential_density)),
            _read_delayed(_read_exponential),
            delay=0,
        ),
        _family(
            "rise and decay after a dead time",
            "exponential",
            [delay, rate, ratio],
            1,
            _brief(_delayed(_rise)),
            _brief(_delayed_density(_rise_density)),
            _read_delayed(_read_two),
            delay=0,
        ),
        _family("power law", "power", [scale, (0.5, 5.0)], 1, _power, _power_density, _read_power),
        _family(
            "stretched",
            "stretched",
            [scale, (0.15, 0.9)],
            1,
            _stretched,
            _stretched_density,
            _read_stretched,
        ),
        _family(
            "delayed exponential",
            "delayed",
            [delay, rate],
            1,
            _late(_delayed(_exponential)),
            _late(_delayed_density(_exponential_density)),
            _read_delayed(_read_exponential),
            delay=0,
        ),
        _family(
            "delayed rise and decay",
            "delayed",
            [delay, rate, ratio],
            1,
            _late(_delayed(_rise)),
            _late(_delayed_density(_rise_density)),
            _read_delayed(_read_two),
            delay=0,
        ),
        _family(
            "delayed bump", "delayed", [delay, spread], 1, _bump, _bump_density, _read_bump, delay=0
        ),
        _family(
            "decay and delayed bump",
            "delayed",
            [delay, spread, rate],
            2,
            _decay_and_bump,
            _decay_and_bump_density,
            _read_decay_and_bump,
            delay=0,
        ),
    ]
    with_instant = [
        dataclasses.replace(
            shape,
            name=shape.name + " and instant",
            n_linear=shape.n_linear + 1,
            step=_with_instant(shape.step, _instant),
            density=_with_instant(shape.density, _instant_density),
        )
        for shape in shapes
        if shape.law in ("exponential", "power", "stretched")
        and shape.n_linear < 3
        and shape.delay is None
        and shape.name != "gamma"
    ]
    return tuple(shapes + with_instant)


def _family(name, law, box, n_linear, step, density, read, *, delay=None) -> Family:
    bounds = np.array(box, dtype=np.float64).reshape(-1, 2)
    return Family(name, law, bounds[:, 0], bounds[:, 1], n_linear, step, density, read, delay)


def _zero(theta, times):
    return np.zeros((len(theta), 0, len(times)))


def _instant(theta, times):
    return np.broadcast_to(np.minimum(times, 1.0), (len(theta), 1, len(times)))


def _instant_density(theta, times):
    return np.broadcast_to((times < 1.0).astype(np.float64), (len(theta), 1, len(times)))


def _with_instant(columns: Step, instant: Step) -> Step:
    def combined(theta, times):
        return np.concatenate([columns(theta, times), instant(theta, times)], axis=1)

    return combined


def _decay(log_rate, times):
    """Returns the integral of w e^{-wt}: normalised, so that every column has unit mass."""
    return -np.expm1(-np.exp(log_rate)[:, None] * times)


def _exponential(theta, times):
    return _decay(theta[:, 0], times)[:, None]


def _two(theta, times):
    return np.stack([_decay(theta[:, 0], times), _decay(theta[:, 0] + theta[:, 1], times)], axis=1)


def _three(theta, times):
    logs = np.cumsum(theta, axis=1)
    return np.stack([_decay(logs[:, i], times) for i in range(3)], axis=1)


def _rise(theta, times):
    slow, fast = np.exp(theta[:, 0])[:, None], np.exp(theta[:, 0] + theta[:, 1])[:, None]
    mass = (-np.expm1(-slow * times) * fast + np.expm1(-fast * times) * slow) / (fast - slow)
    return mass[:, None]


def _pair(theta, times):
    rate = np.exp(theta[:, 0]) + 1j * np.exp(theta[:, 1])
    # numpy's complex exp is exact enough here: the real part only decays
    mass = (1.0 - np.exp(-rate[:, None] * times)) * (np.abs(rate) / rate)[:, None]
    return np.stack([mass.real, mass.imag], axis=1)


def _power(theta, times):
    scale, excess = np.exp(theta[:, 0])[:, None], (theta[:, 1] - 1.0)[:, None]
    log_growth = np.log1p(times / scale)
    small = np.abs(excess) < 1e-9
    mass = np.where(
        small, log_growth, -np.expm1(-excess * log_growth) / np.where(small, 1.0, excess)
    )
    return mass[:, None]


def _stretched(theta, times):
    # the prior is on the lag that halves the memory: scales are tiny at small exponents
    half, exponent = theta[:, 0][:, None], theta[:, 1][:, None]
    middle = scipy.special.gammaincinv(1.0 / exponent, 0.5)
    with np.errstate(divide="ignore"):
        growth = np.exp(exponent * (np.log(times) - half))
    return scipy.special.gammainc(1.0 / exponent, middle * growth)[:, None]


def _delayed(step: Step) -> Step:
    def shifted(theta, times):
        return step(theta[:, 1:], np.maximum(times - np.exp(theta[:, :1]), 0.0))

    return shifted


def _late(columns: Step) -> Step:
    """Keeps the delays of one decay time or more: less is a dead time before a decay."""

    def kept(theta, times):
        is_late = theta[:, 0] + theta[:, 1] >= 0.0
        return np.where(is_late[:, None, None], columns(theta, times), np.nan)

    return kept


def _brief(columns: Step) -> Step:
    def kept(theta, times):
        is_brief = theta[:, 0] + theta[:, 1] < 0.0
        return np.where(is_brief[:, None, None], columns(theta, times), np.nan)

    return kept


def _gamma(theta, times):
    rate, order = np.exp(theta[:, 0])[:, None], np.exp(theta[:, 1])[:, None]
    return scipy.special.gammainc(order, rate * times)[:, None]


def _gamma_density(theta, times):
    rate, order = np.exp(theta[:, 0])[:, None], np.exp(theta[:, 1])[:, None]
    grown = scipy.special.xlogy(order - 1.0, rate * times) - scipy.special.gammaln(order)
    return (rate * np.exp(grown - rate * times))[:, None]


def _bump(theta, times):
    center, width = np.exp(theta[:, 0])[:, None], np.exp(theta[:, 1])[:, None]
    reach = scipy.special.ndtr((times - center) / width) - scipy.special.ndtr(-center / width)
    # a bump whose centre is within two widths of lag 0 is a decay, not a delay
    return np.where(center >= 2.0 * width, reach, np.nan)[:, None]


def _decay_and_bump(theta, times):
    return np.concatenate([_decay(theta[:, 2], times)[:, None], _bump(theta, times)], axis=1)


def _decay_density(log_rate, times):
    rate = np.exp(log_rate)[:, None]
    return rate * np.exp(-rate * times)


def _exponential_density(theta, times):
    return _decay_density(theta[:, 0], times)[:, None]


def _two_density(theta, times):
    logs = np.cumsum(theta, axis=1)
    return np.stack([_decay_density(logs[:, i], times) for i in range(2)], axis=1)


def _three_density(theta, times):
    logs = np.cumsum(theta, axis=1)
    return np.stack([_decay_density(logs[:, i], times) for i in range(3)], axis=1)


def _rise_density(theta, times):
    slow, fast = np.exp(theta[:, 0])[:, None], np.exp(theta[:, 0] + theta[:, 1])[:, None]
    # -expm1 keeps the digits of the difference near the onset
    rise = np.exp(-slow * times) * -np.expm1(-(fast - slow) * times)
    return (slow * fast / (fast - slow) * rise)[:, None]


def _pair_density(theta, times):
    rate = np.exp(theta[:, 0]) + 1j * np.exp(theta[:, 1])
    wave = np.abs(rate)[:, None] * np.exp(-rate[:, None] * times)
    return np.stack([wave.real, wave.imag], axis=1)


def _power_density(theta, times):
    scale, exponent = np.exp(theta[:, 0])[:, None], theta[:, 1][:, None]
    return (np.exp(-exponent * np.log1p(times / scale)) / scale)[:, None]


def _stretched_density(theta, times):
    half, exponent = theta[:, 0][:, None], theta[:, 1][:, None]
    middle = scipy.special.gammaincinv(1.0 / exponent, 0.5)
    with np.errstate(divide="ignore"):
        growth = middle * np.exp(exponent * (np.log(times) - half))
    log_size = (
        np.log(middle) / exponent - half + np.log(exponent) - scipy.special.gammaln(1.0 / exponent)
    )
    return np.exp(log_size - growth)[:, None]


def _delayed_density(density: Step) -> Step:
    def shifted(theta, times):
        late = times - np.exp(theta[:, :1])
        columns = density(theta[:, 1:], np.maximum(late, 0.0))
        return np.where(late[:, None] >= 0.0, columns, 0.0)

    return shifted


def _bump_density(theta, times):
    center, width = np.exp(theta[:, 0])[:, None], np.exp(theta[:, 1])[:, None]
    shape = np.exp(-0.5 * ((times - center) / width) ** 2) / (width * math.sqrt(2.0 * math.pi))
    return np.where(center >= 2.0 * width, shape, np.nan)[:, None]


def _decay_and_bump_density(theta, times):
    decay = _decay_density(theta[:, 2], times)[:, None]
    return np.concatenate([decay, _bump_density(theta, times)], axis=1)


def _read_nothing(theta):
    return {}


def _read_exponential(theta):
    return {"rate": np.exp(theta[..., 0])}


def _read_two(theta):
    slow = np.exp(theta[..., 0])
    return {"rate": slow, "second_rate": slow * np.exp(theta[..., 1])}


def _read_three(theta):
    rates = np.exp(np.cumsum(theta, axis=-1))
    return {"rate": rates[..., 0], "second_rate": rates[..., 1], "third_rate": rates[..., 2]}


def _read_pair(theta):
    return {"rate": np.exp(theta[..., 0]), "frequency": np.exp(theta[..., 1])}


def _read_power(theta):
    return {"scale": np.exp(theta[..., 0]), "exponent": theta[..., 1]}


def _read_stretched(theta):
    exponent = theta[..., 1]
    middle = scipy.special.gammaincinv(1.0 / exponent, 0.5)
    return {"scale": np.exp(theta[..., 0]) / middle ** (1.0 / exponent), "exponent": exponent}


def _read_delayed(read):
    def shifted(theta):
        return {"delay": np.exp(theta[..., 0]), **read(theta[..., 1:])}

    return shifted


def _read_gamma(theta):
    return {"rate": np.exp(theta[..., 0]), "order": np.exp(theta[..., 1])}


def _read_bump(theta):
    return {"delay": np.exp(theta[..., 0]), "spread": np.exp(theta[..., 1])}


def _read_decay_and_bump(theta):
    return {**_read_bump(theta), "rate": np.exp(theta[..., 2])}
