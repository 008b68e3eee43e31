"""How often the law of a sampled memory is named rightly, and how well its reach is known.

The systems, drawn anew for every seed; t95 is log-uniform in 40 to 400 steps, so that the record
of 2000 steps is at least 5 t95:

* none: a present-only response.
* exponential: one rate; two rates 3 to 20 apart with 30 to 70 % of the mass each; a damped
  oscillation with 1 to 6 radians per decay time.
* power: `(1 + t/s)^-p`, p uniform in 1.5 to 3, s ≥ 1 step. Below 1.5 the record's length and
  s ≥ 1 step exclude each other (t95 = s (20^{1/(p-1)} - 1)).
* stretched: `exp(-(t/s)^b)`, b uniform in 0.3 to 0.7 (t95 ≥ 200 steps where b < 0.4).
* delayed: exponential after 2 to 8 decay times; a Gaussian bump 4 to 12 widths away; a decay
  followed by a bump of equal height 6 to 12 decay times away.

White input, noise of a tenth of the output's standard deviation. The kernel is estimated from the
samples with nothing known, then its law.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal
import scipy.special

from recollect import memory

_N_SAMPLES, _RATIO = 2000, 10.0
# The standard error of a coverage of 90 % is 3 points on 100 seeds. On seeds 100 to 199 the same
# intervals of t50, t90, t95 cover 92, 92, 91 (exponential), 90, 91, 91 (power), 93, 91, 90
# (stretched) and 89, 93, 92 (delayed).
_N_SEEDS = 100
_FRACTIONS = (0.5, 0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class System:
    """A memory by its step response, with its true quantile lags."""

    step: Callable[[np.ndarray], np.ndarray]
    reach: np.ndarray


def draw_system(law: str, rng: np.random.Generator) -> System:
    t95 = float(np.exp(rng.uniform(np.log(40.0), np.log(400.0))))
    kind = int(rng.integers(3))
    if law == "none":
        return System(lambda t: np.minimum(t, 1.0), np.array(_FRACTIONS))
    if law == "exponential":
        ratio, share = np.exp(rng.uniform(np.log(3.0), np.log(20.0))), rng.uniform(0.3, 0.7)
        wave = 1.0 + 1j * rng.uniform(1.0, 6.0)
        shapes = [
            lambda t: -np.expm1(-t),
            lambda t: -share * np.expm1(-t) - (1 - share) * np.expm1(-ratio * t),
            lambda t: (-np.expm1(-wave * t) / wave).real,
        ]
        step = shapes[kind]
    elif law == "power":
        exponent = rng.uniform(1.5, 3.0)
        shortest = max(40.0, 20.0 ** (1 / (exponent - 1)) - 1.0)
        t95 = float(np.exp(rng.uniform(np.log(shortest), np.log(400.0))))

        def step(t):
            return -np.expm1((1 - exponent) * np.log1p(t))

    elif law == "stretched":
        exponent = rng.uniform(0.3, 0.7)
        t95 = max(t95, 200.0) if exponent < 0.4 else t95

        def step(t):
            return scipy.special.gammainc(1 / exponent, t**exponent)

    else:
        delay = (rng.uniform(2.0, 8.0), rng.uniform(4.0, 12.0), rng.uniform(6.0, 12.0))[kind]
        shapes = [
            lambda t: -np.expm1(-np.maximum(t - delay, 0.0)),
            lambda t: scipy.special.ndtr(t - delay),
            lambda t: -np.expm1(-t) + np.sqrt(2 * np.pi) * scipy.special.ndtr(t - delay),
        ]
        step = shapes[kind]
    unit = measured_reach(step)
    scale = t95 / unit[2]
    return System(lambda t: step(np.asarray(t) / scale), unit * scale)


def measured_reach(step: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    lags = np.concatenate([np.arange(0, 50, 1e-3), np.geomspace(50, 1e10, 20_000)])
    seen = np.append(0.0, np.cumsum(np.abs(np.diff(step(lags)))))
    return np.interp(np.multiply(_FRACTIONS, seen[-1]), seen, lags)


def sample(system: System, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    n_before = 4000
    n_time = n_before + _N_SAMPLES
    integrals = np.diff(system.step(np.arange(n_time + 1.0)))
    inputs = rng.standard_normal(n_time)
    outputs = scipy.signal.oaconvolve(inputs, integrals)[n_before:n_time]
    noise = rng.standard_normal(_N_SAMPLES) * outputs.std() / _RATIO
    return inputs[n_before:], outputs + noise


@pytest.mark.slow
@pytest.mark.parametrize("law", ["none", "exponential", "power", "stretched", "delayed"])
def test_the_law_is_named_rightly_or_left_open(law):
    n_decided, n_wrong = 0, 0
    covered, widths = [], []
    for seed in range(_N_SEEDS):
        rng = np.random.default_rng([seed, len(law)])
        system = draw_system(law, rng)
        inputs, outputs = sample(system, rng)
        estimate = memory.estimate_kernel(inputs, outputs, dt=1.0)
        found = memory.estimate_law(estimate, record=float(_N_SAMPLES))
        n_decided += found.is_decided
        n_wrong += found.is_decided and found.law != law
        spans = (found.t50, found.t90, found.t95)
        covered.append([s.lower <= t <= s.upper for s, t in zip(spans, system.reach, strict=True)])
        widths.append([0.5 * (s.upper - s.lower) / max(s.value, 1.0) for s in spans])
    coverage = np.mean(covered, axis=0)
    median_width = np.median(widths, axis=0)
    print(
        f"{law}: decided {n_decided}, wrong {n_wrong}, of {_N_SEEDS}, coverage {coverage}, {median_width}"
    )
    assert n_wrong <= 0.05 * _N_SEEDS
    assert n_decided >= 0.7 * _N_SEEDS
    assert np.all(median_width <= 0.3)
    if law == "none":
        # one step holds the whole memory: the lag within it is a convention, not an estimate
        assert np.all(coverage >= 0.85)
    else:
        assert np.all((coverage >= 0.85) & (coverage <= 0.97))
