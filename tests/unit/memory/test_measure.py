"""The memory of a functional: the kernel where there is one, steps where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import as_functional, models, targets
from recollect.memory import measure_memory, predict_memory


def test_linear_memory_is_the_kernel():
    profile = measure_memory(targets.PowerLaw(exponent=1.5), dt=0.1, horizon=5.0)
    np.testing.assert_allclose(profile.memory[:, 0], (1 + profile.lags) ** -1.5, rtol=0, atol=1e-10)
    predicted = predict_memory("power", profile.lags, scale=1.0, exponent=1.5)
    np.testing.assert_allclose(profile.memory[:, 0], predicted, rtol=0, atol=1e-10)
    assert not profile.is_lower_estimate
    assert profile.lags[-1] == pytest.approx(5.0)


def test_linear_memory_adds_inputs_and_is_blind_to_sign():
    kernel = models.LinearRNN(np.array([[-0.5]]), np.array([[1.0, -2.0]]), np.array([[1.0]]))
    profile = measure_memory(kernel, dt=0.1, horizon=2.0)
    np.testing.assert_allclose(
        profile.memory[:, 0], 3 * np.exp(-0.5 * profile.lags), rtol=0, atol=1e-10
    )


def test_steps_find_a_linear_black_box_exactly():
    decay = np.exp(-0.1)

    def leaky(signal):
        state, rows = 0.0, []
        for value in signal @ np.array([1.0, -2.0]):
            state = decay * state + (1 - decay) * value
            rows.append(state)
        return np.array(rows)

    profile = measure_memory(as_functional(leaky, n_inputs=2), dt=0.1, horizon=2.0)
    expected = 3 * decay ** np.arange(20) * (1 - decay) / 0.1
    np.testing.assert_allclose(profile.memory[:, 0], expected, rtol=1e-9)
    assert profile.is_lower_estimate


def test_nonlinear_supremum_is_searched_over_magnitudes():
    # Response to a step x is x^3/(1+x^2)^1.5 at once: the gain is largest at x = sqrt(2).
    profile = measure_memory(
        lambda u: u**3 / (1 + u**2) ** 1.5 + 7.0,
        dt=1.0,
        horizon=3.0,
        magnitudes=np.geomspace(0.1, 10, 401),
    )
    assert profile.memory[0, 0] == pytest.approx(2 / 3**1.5, rel=1e-3)
    assert profile.magnitudes[0, 0] == pytest.approx(np.sqrt(2), rel=0.02)
    np.testing.assert_allclose(profile.memory[1:], 0.0, atol=1e-12)


def test_bounded_normalisation_never_exceeds_the_gain():
    box = lambda u: np.cumsum(np.tanh(u), axis=0)  # noqa: E731
    gain = measure_memory(box, dt=1.0, horizon=4.0)
    bounded = measure_memory(box, dt=1.0, horizon=4.0, normalisation="bounded")
    assert (bounded.memory < gain.memory).all()


def test_divergence_and_bad_arguments_are_named():
    def wild(u):
        return np.where(np.abs(u) > 1, np.inf, u)

    with np.errstate(invalid="ignore"):
        assert measure_memory(wild, dt=1.0, horizon=3.0).status.code == "not_finite"
    with pytest.raises(TypeError, match="functional"):
        measure_memory(3, dt=1.0, horizon=3.0)
    with pytest.raises(ValueError, match="horizon"):
        measure_memory(wild, dt=1.0, horizon=0.5)
    with pytest.raises(ValueError, match="magnitudes"):
        measure_memory(wild, dt=1.0, horizon=2.0, magnitudes=[0.0])
    with pytest.raises(ValueError, match="directions"):
        measure_memory(wild, dt=1.0, horizon=2.0, directions=[[1.0, 2.0]])
