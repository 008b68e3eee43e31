"""The law of a memory: from normal equations, from noise-free profiles, and its refusals."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.signal
import scipy.special

from recollect import memory, targets

_N_LAGS, _N_SAMPLES = 120, 1500


def _steps(law: str):
    return {
        "none": lambda t: np.minimum(t, 1.0),
        "exponential": lambda t: -np.expm1(-t / 12),
        "power": lambda t: -np.expm1(-1.2 * np.log1p(t / 3)) / 1.2,
        "stretched": lambda t: scipy.special.gammainc(2.0, np.sqrt(t / 4)),
        "delayed": lambda t: -np.expm1(-np.maximum(t - 30, 0.0) / 6),
    }[law]


def _estimate(steps, *, seed: int = 0, ratio: float = 10.0, n_inputs: int = 1):
    """Ordinary normal equations of the impulse response, on every single lag."""
    rng = np.random.default_rng(seed)
    n_time = _N_SAMPLES + 3000
    inputs = rng.standard_normal((n_time, n_inputs))
    lags = np.arange(n_time + 1.0)
    outputs = sum(
        scipy.signal.oaconvolve(inputs[:, i], np.diff(steps[i](lags)))[:n_time]
        for i in range(n_inputs)
    )
    noise = outputs[-_N_SAMPLES:].std() / ratio
    outputs = outputs + noise * rng.standard_normal(n_time)
    rows = np.arange(n_time - _N_SAMPLES, n_time)
    design = inputs[rows[:, None] - np.arange(_N_LAGS)[None, :]].reshape(_N_SAMPLES, -1)
    gram = design.T @ design / noise**2
    cross = design.T @ outputs[rows] / noise**2
    covariance = np.linalg.inv(gram + np.eye(len(gram)))
    mean = covariance @ cross
    statistics = SimpleNamespace(
        gram=gram[None],
        cross=cross[None],
        power=np.array([outputs[rows] @ outputs[rows] / noise**2]),
        n_samples=np.array([_N_SAMPLES]),
        edges=np.arange(_N_LAGS + 1.0),
        n_inputs=n_inputs,
    )
    return SimpleNamespace(
        kernel=mean.reshape(_N_LAGS, 1, n_inputs),
        covariance=covariance[None],
        dt=1.0,
        statistics=statistics,
    )


@pytest.mark.parametrize("law", ["none", "exponential", "power", "stretched", "delayed"])
def test_each_law_is_named(law):
    found = memory.estimate_law(_estimate([_steps(law)]))
    assert found.law == law
    assert found.status.is_ok
    assert found.probabilities[law] >= 0.9
    assert sum(found.probabilities.values()) == pytest.approx(1.0)
    assert found.misfit > 1e-3


def test_quantile_lags_and_parameters_hold_the_truth_within_three_half_widths():
    found = memory.estimate_law(_estimate([_steps("power")]), level=0.9)
    truth = memory.predict_quantile_lag("power", [0.5, 0.9, 0.95], scale=3.0, exponent=2.2)
    for span, lag in zip((found.t50, found.t90, found.t95), truth, strict=True):
        assert span.lower <= span.value <= span.upper
        assert abs(span.value - lag) < 1.5 * (span.upper - span.lower)
    exponent = found.parameters["exponent"]
    assert abs(exponent.value - 2.2) < 1.5 * (exponent.upper - exponent.lower)


def test_a_wider_level_gives_wider_intervals_and_the_same_seed_the_same_answer():
    estimate = _estimate([_steps("exponential")])
    narrow = memory.estimate_law(estimate, level=0.5)
    wide = memory.estimate_law(estimate, level=0.99)
    assert wide.t95.lower < narrow.t95.lower < narrow.t95.upper < wide.t95.upper
    assert memory.estimate_law(estimate, level=0.5) == narrow


def test_time_and_amplitude_units_change_nothing_but_the_unit():
    estimate = _estimate([_steps("stretched")])
    found = memory.estimate_law(estimate)
    s = estimate.statistics
    scaled = SimpleNamespace(
        kernel=50.0 * estimate.kernel,
        covariance=2500.0 * estimate.covariance,
        dt=0.25,
        statistics=SimpleNamespace(
            **{
                **vars(s),
                "gram": s.gram / 2500.0,
                "cross": s.cross / 50.0,
                "edges": 0.25 * s.edges,
            }
        ),
    )
    again = memory.estimate_law(scaled)
    assert again.law == found.law
    assert again.t95.value == pytest.approx(0.25 * found.t95.value, rel=1e-6)
    assert again.parameters["scale"].value == pytest.approx(
        0.25 * found.parameters["scale"].value, rel=1e-6
    )


def test_a_memory_as_long_as_the_record_is_called_so():
    estimate = _estimate([_steps("exponential")])
    short = memory.estimate_law(estimate, record=60.0)
    assert short.verdict.code == "record_too_short"
    assert memory.estimate_law(estimate, record=1500.0).verdict.is_ok


def test_noise_alone_leaves_the_law_open_or_none():
    found = memory.estimate_law(_estimate([_steps("power")], ratio=0.02))
    assert found.law in ("none", "undecided")
    if found.law == "undecided":
        assert found.status.code == "undecided"
        assert "%" in found.status.message


def test_a_kernel_of_no_known_shape_is_undecided_and_its_reach_is_still_found():
    def comb(t):
        return sum(np.clip(t - start, 0, 4) for start in (0, 12, 24, 36, 48))

    found = memory.estimate_law(_estimate([comb]))
    assert found.law == "undecided"
    assert found.misfit < 1e-3
    assert "no shape fits" in found.status.message
    assert found.t50.value == pytest.approx(26.0, abs=1.0)
    assert found.t95.value == pytest.approx(51.0, abs=1.0)


def test_several_inputs_are_told_apart_and_added_up():
    estimate = _estimate([_steps("exponential"), _steps("delayed")], n_inputs=2)
    first = memory.estimate_law(estimate, input=0)
    second = memory.estimate_law(estimate, input=1)
    assert (first.law, second.law) == ("exponential", "delayed")
    whole = memory.estimate_law(estimate)
    assert [part.law for part in whole.channels] == ["exponential", "delayed"]
    assert whole.law == "delayed"
    lags = np.arange(0, 400, 0.01)
    seen = sum(step(lags) for step in (_steps("exponential"), _steps("delayed")))
    t95 = np.interp(0.95 * 2.0, seen, lags)
    assert whole.t95.value == pytest.approx(t95, rel=0.03)


def test_wrong_arguments_are_named():
    estimate = _estimate([_steps("none")])
    with pytest.raises(TypeError, match="KernelEstimate or a MemoryProfile"):
        memory.estimate_law(np.ones(3))
    with pytest.raises(ValueError, match="input: expected one of 0 to 0"):
        memory.estimate_law(estimate, input=1)
    with pytest.raises(ValueError, match="level"):
        memory.estimate_law(estimate, level=1.5)
    with pytest.raises(ValueError, match="record"):
        memory.estimate_law(estimate, record=-1.0)


# --- noise-free memories ---------------------------------------------------------------------


def _profile(kernel, lags):
    values = kernel(lags) if not hasattr(kernel, "kernel") else kernel.kernel(lags)[:, 0, 0]
    return SimpleNamespace(lags=lags, memory=np.abs(values))


_LAGS = np.arange(0, 400, 0.5)


@pytest.mark.parametrize(
    ("kernel", "law"),
    [
        (targets.exponential_sum([1.0], [0.05]), "exponential"),
        (targets.exponential_sum([1.0, -0.8], [0.05, 0.125]), "exponential"),
        (lambda t: np.exp(-t / 20) * np.cos(t / 3), "exponential"),
        (targets.PowerLaw(exponent=1.5, scale=1.0), "power"),
        (targets.PowerLaw(exponent=3.0, scale=20.0), "power"),
        (targets.StretchedExponential(timescale=5.0, exponent=0.5), "stretched"),
        (targets.Bump(delay=50.0, width=5.0), "delayed"),
        (lambda t: np.exp(-t / 3) + np.exp(-((t - 60) ** 2) / 50), "delayed"),
        (targets.Box(90.0, 110.0), "delayed"),
        (lambda t: (t == 40) * 1.0, "delayed"),
        (lambda t: (t == 0) * 1.0, "none"),
        (lambda t: 0.0 * t, "none"),
        # neither law: a memory that does not fall, one that is cut, one seen only at its start
        (np.ones_like, "undecided"),
        (targets.Box(0.0, 20.0), "undecided"),
        (targets.exponential_sum([1.0], [1 / 4000]), "undecided"),
    ],
)
def test_the_law_of_a_noise_free_memory(kernel, law):
    found = memory.estimate_law(_profile(kernel, _LAGS))
    assert found.law == law
    assert found.is_decided == (law != "undecided")
    assert found.status.code == ("ok" if law != "undecided" else "undecided")


def test_a_noise_free_exponential_gives_its_rate_and_reach():
    found = memory.estimate_law(_profile(targets.exponential_sum([1.0], [0.05]), _LAGS))
    assert found.parameters["rate"].value == pytest.approx(0.05, rel=1e-3)
    assert found.t95.value == pytest.approx(20 * math.log(20), rel=1e-3)
    assert found.verdict.is_ok


def test_a_power_that_is_not_integrable_has_no_quantile():
    found = memory.estimate_law(_profile(lambda t: (1 + t) ** -0.8, _LAGS))
    assert found.law == "power"
    assert math.isinf(found.t95.value)
    assert found.verdict.code == "record_too_short"
    assert [status.code for status in found.warnings] == ["not_integrable"]
    assert found.t95.record()["value"] is None


def test_a_random_stable_network_decays_exponentially_at_its_slowest_rate():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((50, 50)) / np.sqrt(50) - 1.3 * np.eye(50)
    rates, vectors = np.linalg.eig(A)
    weights = (rng.standard_normal(50) @ vectors) * np.linalg.solve(
        vectors, rng.standard_normal(50)
    )
    lags = np.arange(0, 60, 0.1)
    values = np.abs((weights * np.exp(np.multiply.outer(lags, rates))).sum(axis=1).real)
    found = memory.estimate_law(SimpleNamespace(lags=lags, memory=values))
    assert found.law == "exponential"
    assert found.parameters["rate"].value == pytest.approx(-rates.real.max(), rel=0.02)


def test_many_exponentials_laid_out_like_a_power_law_are_one_over_their_window():
    rates = np.geomspace(1e-3, 3, 15)
    lags = _LAGS
    values = (rates**1.5 * np.exp(-np.multiply.outer(lags, rates))).sum(axis=1)
    found = memory.estimate_law(SimpleNamespace(lags=lags, memory=values))
    assert found.law == "power"
    assert found.parameters["exponent"].value == pytest.approx(1.5, abs=0.1)


def test_profiles_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match="at least 4 lags"):
        memory.estimate_law(SimpleNamespace(lags=[0.0, 1.0], memory=[1.0, 0.5]))
    with pytest.raises(ValueError, match="not below zero"):
        memory.estimate_law(SimpleNamespace(lags=np.arange(5.0), memory=-np.ones(5)))
    with pytest.raises(ValueError, match="lags"):
        memory.estimate_law(SimpleNamespace(lags=np.zeros(5), memory=np.ones(5)))


def test_a_law_is_a_frozen_result():
    found = memory.estimate_law(_profile(targets.exponential_sum([1.0], [0.05]), _LAGS))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.law = "power"
