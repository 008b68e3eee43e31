"""Random teachers: stable, repeatable, and with the memory that they say they have."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from recollect import targets


@pytest.mark.parametrize("width", [1, 4, 5])
def test_the_slowest_rate_of_a_linear_teacher_is_the_one_asked_for(width):
    key = jax.random.key(3)
    teacher = targets.random_linear_teacher(
        key=key, width=width, n_inputs=2, n_outputs=3, slowest_rate=0.02, fastest_rate=0.5
    )
    rates = -np.linalg.eigvals(teacher.A).real
    assert rates.min() == pytest.approx(0.02, rel=1e-10)
    assert rates.max() <= 0.5 * (1 + 1e-10)
    assert (teacher.n_inputs, teacher.n_outputs) == (2, 3)
    again = targets.random_linear_teacher(
        key=key, width=width, n_inputs=2, n_outputs=3, slowest_rate=0.02, fastest_rate=0.5
    )
    np.testing.assert_array_equal(teacher.A, again.A)


def test_a_teacher_asks_for_a_key():
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        targets.random_linear_teacher(key=0.5)


@pytest.mark.parametrize("curve", ["tanh", "sine", "cubic"])
def test_the_memory_of_a_wiener_teacher_is_the_slope_of_its_step_response(curve):
    teacher = targets.random_wiener_teacher(key=jax.random.key(1), curve=curve, width=4)
    dt, x = 1e-3, 0.7
    lags = dt * np.arange(1, 4001)
    response = teacher(np.full((len(lags), 1), x), dt=dt)[:, 0]
    slope = np.abs(np.gradient(response, dt)) / x
    expected = teacher.memory_at(lags, direction=[x])
    np.testing.assert_allclose(slope[1:-1], expected[1:-1], atol=1e-5 * expected.max())
