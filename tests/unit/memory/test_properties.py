"""Causal, continuous, regular, time-homogeneous, bounded, linear: evidence and counterexamples."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import as_functional, models
from recollect.memory import measure_memory, measure_properties


def leaky(u, decay=0.8):
    state, rows = np.zeros(u.shape[1]), []
    for value in u:
        state = decay * state + (1 - decay) * value
        rows.append(state)
    return np.array(rows)


def verdicts(functional, horizon=40.0, **options):
    found = measure_properties(functional, dt=1.0, horizon=horizon, **options)
    names = (
        "repeatable",
        "causal",
        "time_homogeneous",
        "linear",
        "bounded",
        "regular",
        "continuous",
    )
    return {name: getattr(found, name).holds for name in names}, found


def test_a_leaky_integrator_has_every_property():
    holds, found = verdicts(leaky)
    assert all(holds.values()), found.summary()
    assert found.look_ahead == 0
    assert found.status.is_ok


def test_our_networks_have_what_the_theory_asks():
    holds, found = verdicts(models.initialise_gru(6, n_inputs=2, n_outputs=1, key=0), horizon=30.0)
    assert not holds.pop("linear")
    assert all(holds.values()), found.summary()
    continuous = models.LinearRNN(np.array([[-0.5]]), np.eye(1), np.eye(1))
    holds, found = verdicts(continuous, horizon=30.0)
    assert all(holds.values()), found.summary()


@pytest.mark.parametrize("ahead", [1, 7])
def test_looking_ahead_is_found_with_its_lag(ahead):
    def sees(u):
        return np.concatenate([u[ahead:], np.zeros((ahead, 1))])

    holds, found = verdicts(sees)
    assert holds["causal"] is False
    assert found.look_ahead == ahead
    example = found.causal.counterexample
    assert example is not None
    same = slice(0, example["changed_from"])
    np.testing.assert_array_equal(example["signal"][same], example["changed"][same])
    differs = np.abs(sees(example["signal"]) - sees(example["changed"]))
    assert differs[example["seen_at"]] > 0
    with pytest.raises(ValueError, match=rf"changes {ahead} steps? before its input"):
        measure_memory(sees, dt=1.0, horizon=40.0)


def test_own_randomness_is_found():
    rng = np.random.default_rng(0)
    noisy = lambda u: leaky(u) + 1e-3 * rng.standard_normal(u.shape)  # noqa: E731
    holds, found = verdicts(noisy)
    assert holds["repeatable"] is False
    assert "randomness" in found.repeatable.message
    assert holds["causal"] is None
    assert found.status.code == "failed"
    with pytest.raises(ValueError, match="randomness"):
        measure_memory(noisy, dt=1.0, horizon=40.0)


def test_a_state_left_over_is_told_from_randomness():
    class Careless:
        state = 0.0

        def __call__(self, u):
            rows = []
            for value in u[:, 0]:
                self.state = 0.8 * self.state + value
                rows.append(self.state)
            return np.array(rows)

    holds, found = verdicts(Careless())
    assert holds["repeatable"] is False
    assert "left over" in found.repeatable.message
    with pytest.raises(ValueError, match="left over"):
        measure_memory(Careless(), dt=1.0, horizon=40.0)


def test_nan_is_reported_with_the_input_that_gave_it():
    broken = lambda u: np.where(np.abs(u) > 0.9, np.nan, u)  # noqa: E731
    holds, found = verdicts(broken)
    assert found.status.code == "not_finite"
    assert holds["bounded"] is False
    assert np.isnan(broken(found.bounded.counterexample["signal"])).any()
    assert measure_memory(broken, dt=1.0, horizon=20.0).status.code == "not_finite"


def test_an_unstable_network_is_not_bounded():
    unstable = models.LinearRNN(np.array([[1.2]]), np.eye(1), np.eye(1), dt=1.0)
    holds, _ = verdicts(unstable, horizon=60.0)
    assert holds["bounded"] is False
    assert holds["regular"] is False
    assert holds["causal"] is True
    profile = measure_memory(unstable, dt=1.0, horizon=60.0)
    assert profile.warnings[0].code == "diverged"


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("time_homogeneous", lambda u: u * np.arange(len(u))[:, None] ** 0.5),
        ("time_homogeneous", lambda u: np.cumsum(u, axis=0) / np.arange(1, len(u) + 1)[:, None]),
        ("linear", lambda u: np.tanh(leaky(u))),
        ("bounded", lambda u: np.cumsum(u, axis=0)),
        ("bounded", lambda u: leaky(u) ** 3),
        ("bounded", lambda u: np.sign(leaky(u)) * np.sqrt(np.abs(leaky(u)))),
        ("regular", lambda u: np.cumsum(u, axis=0)),
        ("continuous", lambda u: leaky(u) + (leaky(u) > 0.1)),
    ],
)
def test_each_property_has_its_counterexample(name, function):
    holds, found = verdicts(function)
    assert holds[name] is False, found.summary()
    assert getattr(found, name).counterexample is not None
    assert holds["repeatable"]
    assert holds["causal"]


def test_a_jump_is_bracketed_by_its_counterexample():
    jumps = lambda u: leaky(u) + (leaky(u) > 0.1)  # noqa: E731
    example = measure_properties(jumps, dt=1.0, horizon=20.0).continuous.counterexample
    gap = np.abs(example["signal"] - example["other"]).max()
    assert gap < 1e-9
    assert np.abs(jumps(example["signal"]) - jumps(example["other"])).max() > 0.9


def test_acting_at_once_is_not_regular_in_continuous_time():
    recurrence = models.DiagonalRNN([1.0], np.ones((1, 1)), np.ones((1, 1)))
    layer = models.StateSpaceLayer(recurrence, [[1.0]], [[1.0]], activation="tanh")
    holds, found = verdicts(layer)
    assert holds["regular"] is False
    assert "at once" in found.regular.message
    through = models.StateSpaceLayer(recurrence, [[1.0]], activation="tanh")
    assert verdicts(through)[0]["regular"] is True


def test_a_start_away_from_rest_is_not_held_against_it():
    gru = models.initialise_gru(4, n_outputs=1, key=1)
    _, found = verdicts(gru)
    assert found.time_homogeneous.holds
    assert "transient" in found.time_homogeneous.message


def test_several_inputs_and_the_record():
    box = as_functional(lambda u: leaky(u @ np.ones((2, 1))), n_inputs=2)
    _, found = verdicts(box)
    record = found.record()
    assert record["causal"]["holds"] is True
    assert record["status"]["code"] == "ok"
    assert len(found.summary()) == 7


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="horizon"):
        measure_properties(leaky, dt=1.0, horizon=2.0)
    with pytest.raises(TypeError, match="functional"):
        measure_properties(4, dt=1.0, horizon=20.0)
