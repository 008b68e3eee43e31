"""Tanks, Lorenz 96 and teachers against independent integrators and physics."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.integrate

import recollect.targets as rt


@pytest.fixture(scope="module")
def record():
    return rt.simulate_two_tanks()


def test_tanks_match_an_independent_integrator():
    tanks = rt.TwoTanks()
    voltage = np.concatenate([np.full(20, 3.0), np.full(30, 2.0)])[:, None]
    with jax.enable_x64(True):
        levels = np.asarray(tanks.levels(voltage, dt=4.0, initial_levels=(5.0, 2.0)))

    def field(_, h, u):
        drain = tanks.outlet_area * np.sqrt(2 * 981 * np.maximum(h, 0))
        return np.array([tanks.pump_gain * u - drain[0], drain[0] - drain[1]]) / tanks.tank_area

    state = np.array([5.0, 2.0])
    for k, u in enumerate(voltage[:, 0]):
        found = scipy.integrate.solve_ivp(field, (0, 4), state, args=(u,), rtol=1e-10, atol=1e-12)
        state = found.y[:, -1]
        np.testing.assert_allclose(levels[k], state, rtol=1e-7)


def test_tanks_settle_at_torricellis_level():
    tanks = rt.TwoTanks()
    output = np.asarray(tanks(np.full((500, 1), 3.0), dt=4.0))
    level = (tanks.pump_gain * 3.0 / tanks.outlet_area) ** 2 / (2 * 981)
    assert output[-1, 0] == pytest.approx(tanks.sensor_gain * level, rel=1e-4)


def test_tanks_are_causal_time_invariant_and_silent_without_input():
    tanks = rt.TwoTanks()
    rng = np.random.default_rng(0)
    signal = 4 + rng.standard_normal((60, 1))
    base = np.asarray(tanks(signal, dt=4.0))
    later = signal.copy()
    later[40:] = 0
    assert (np.asarray(tanks(later, dt=4.0))[:40] == base[:40]).all()
    delayed = np.asarray(tanks(np.concatenate([np.zeros((10, 1)), signal]), dt=4.0))
    np.testing.assert_allclose(delayed[10:], base, atol=1e-4)
    assert not np.asarray(tanks(np.zeros((20, 1)), dt=4.0)).any()


def test_full_tanks_spill():
    tanks = rt.TwoTanks()
    levels = np.asarray(tanks.levels(np.full((400, 1), 8.0), dt=4.0))
    assert levels.max() <= tanks.height * (1 + 1e-6)
    assert levels[-1, 0] == pytest.approx(tanks.height, rel=1e-3)
    kept = rt.TwoTanks(spill_share=0.0)
    lower = np.asarray(kept.levels(np.full((400, 1), 8.0), dt=4.0))[-1, 1]
    assert lower <= levels[-1, 1] + 1e-3


def test_embedded_example(record):
    assert record.estimation_input.shape == record.test_output.shape == (1024, 1)
    assert record.time[1] - record.time[0] == record.dt == 4.0
    assert not np.array_equal(record.estimation_input, record.test_input)
    for column in (record.estimation_input, record.estimation_output, record.test_output):
        assert column.dtype == np.float64
        assert np.isfinite(column).all()
    assert 0 <= record.estimation_input.min() <= record.estimation_input.max() <= 8
    again = rt.simulate_two_tanks()
    assert np.array_equal(again.estimation_output, record.estimation_output)
    assert not np.array_equal(
        rt.simulate_two_tanks(seed=1).estimation_output, record.estimation_output
    )


def test_example_overflows_sometimes_and_is_nearly_linear(record):
    tanks = rt.TwoTanks()
    levels = np.asarray(
        tanks.levels(record.estimation_input, dt=4.0, initial_levels=record.initial_levels)
    )
    share = (levels[:, 0] > 0.999 * tanks.height).mean()
    assert 0.03 < share < 0.2
    u, y, p = record.estimation_input[:, 0], record.estimation_output[:, 0], 100
    columns = [np.concatenate([np.zeros(j), u[: len(u) - j]]) for j in range(p)]
    design = np.column_stack([*columns, np.ones(len(u))])[p:]
    fitted, *_ = np.linalg.lstsq(design, y[p:], rcond=None)
    explained = 1 - np.var(y[p:] - design @ fitted) / np.var(y[p:])
    assert 0.9 < explained < 0.995


@pytest.mark.parametrize(
    "arguments",
    [{"dt": -1.0}, {"n_samples": 3}, {"noise_std": -0.1}, {"initial_levels": (99.0, 0.0)}],
)
def test_simulator_refusals(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        rt.simulate_two_tanks(**arguments)


def test_lorenz_matches_an_independent_integrator():
    system = rt.LorenzNinetySix(n_slow=5, n_fast=4, speed=4.0)
    signal = np.random.default_rng(0).normal(3, 2, (20, 1))
    with jax.enable_x64(True):
        output = np.asarray(system(signal, dt=0.05))
    K, J, p = 5, 4, 4.0

    def field(_, state, x):
        y, z = state[:K], state[K:].reshape(J, K)
        dy, dz = np.empty(K), np.empty((J, K))
        for k in range(K):
            dy[k] = -y[k - 1] * (y[k - 2] - y[(k + 1) % K]) - y[k] + x - z[:, k].mean()
            for j in range(J):
                swirl = -z[(j + 1) % J, k] * (z[(j + 2) % J, k] - z[j - 1, k])
                dz[j, k] = p * (swirl - z[j, k] + y[k])
        return np.concatenate([dy, dz.ravel()])

    state = np.zeros(K + J * K)
    state[:K] = 0.01 * np.cos(2 * np.pi * np.arange(K) / K)
    for k, x in enumerate(signal[:, 0]):
        found = scipy.integrate.solve_ivp(field, (0, 0.05), state, args=(x,), rtol=1e-9, atol=1e-11)
        state = found.y[:, -1]
        np.testing.assert_allclose(output[k], state[:K], rtol=1e-5, atol=1e-7)


def test_lorenz_forgets_without_forcing_and_takes_many_inputs():
    system = rt.LorenzNinetySix()
    quiet = np.asarray(system(np.zeros((200, 1)), dt=0.1))
    assert np.abs(quiet[-1]).max() < 1e-6
    many = rt.LorenzNinetySix(has_common_forcing=False)
    assert many.n_inputs == 8
    signal = np.random.default_rng(1).normal(size=(30, 8))
    assert np.isfinite(np.asarray(many(signal, dt=0.1))).all()
    batch = jax.vmap(lambda x: system(x, dt=0.1))(signal[:, :, None].transpose(1, 0, 2))
    assert batch.shape == (8, 30, 8)


def test_linear_teacher_has_the_memory_asked_for():
    key = jax.random.key(0)
    teacher = rt.random_linear_teacher(key=key, width=7, n_inputs=2, n_outputs=3, slowest_rate=0.1)
    eigenvalues = np.linalg.eigvals(np.asarray(teacher.A, np.float64))
    assert eigenvalues.real.max() == pytest.approx(-0.1, rel=1e-5)
    assert teacher.kernel(np.array([0.0, 1.0])).shape == (2, 3, 2)
    same = rt.random_linear_teacher(key=key, width=7, n_inputs=2, n_outputs=3, slowest_rate=0.1)
    np.testing.assert_array_equal(same.A, teacher.A)
    with pytest.raises(TypeError, match="random key"):
        rt.random_linear_teacher(key=3)


@pytest.mark.parametrize("curve", ["tanh", "sine", "cubic"])
def test_wiener_teacher_memory_is_its_step_response_speed(curve):
    teacher = rt.WienerTeacher(rt.Bump(delay=2.0, width=0.7), curve=curve)
    dt = 1e-3
    x = 0.6
    output = np.asarray(teacher(np.full((4000, 1), x), dt=dt))[:, 0]
    speed = np.abs(np.gradient(output, dt)) / x
    lags = dt * (np.arange(4000) + 1)
    exact = teacher.memory_at(lags, direction=[x])
    np.testing.assert_allclose(speed[1:-1], exact[1:-1], atol=1e-5)
