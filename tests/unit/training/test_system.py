"""Identification by free simulation: known systems come back, real ones are simulated."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from recollect import models, training
from recollect.training import _system_simulation as simulation
from recollect.training._system import _cut, _dwelling_limits
from recollect.training._system_descent import descend, outputs_of

QUICK: dict[str, Any] = {
    "n_restarts": 1,
    "n_folds": 2,
    "n_steps": 25,
    "penalty": (1e-4,),
    "max_width": 2,
}
KEY = jax.random.key(0)


def smooth_input(n_time, seed, n_inputs=1):
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((n_time + 4, n_inputs))
    return (white[4:] + white[3:-1] + white[2:-2] + white[1:-3] + white[:-4]) / np.sqrt(5)


def linear_system():
    A = np.array([[-0.3, 0.2], [-0.2, -0.1]])
    return models.LinearRNN(A, [[1.0], [0.5]], [[0.3, 0.4]])


@pytest.fixture(scope="module")
def wiener():
    x = smooth_input(400, 1)
    y = np.asarray(linear_system()(x, dt=1.0))
    rng = np.random.default_rng(2)
    y = np.tanh(1.2 * y / y.std()) + 0.02 * rng.standard_normal(y.shape)
    return x, y, training.train_system(x, y, dt=1.0, key=KEY, structures=("static",), **QUICK)


def layouts():
    return (
        simulation.Layout(2, 2, 1, 3, 2, 2),
        simulation.Layout(3, 2, 2, 6, 0, 0, chains=(2, 1), n_drains=1, n_spills=1),
    )


@pytest.mark.parametrize("layout", layouts(), ids=["free", "series"])
def test_the_model_is_what_was_trained(layout):
    rng = np.random.default_rng(0)
    vector = 0.3 * rng.standard_normal(layout.size)
    x = rng.standard_normal((60, layout.n_inputs))
    n_outputs = layout.n_outputs
    limits = np.full(n_outputs, -np.inf), np.full(n_outputs, 0.4)
    windows = _cut(
        x,
        np.zeros((60, n_outputs)),
        np.ones((60, n_outputs), bool),
        np.zeros((60, layout.width)),
        20.0,
        limits,
    )
    trained = outputs_of(layout, vector, windows)[0]
    x_scale = np.full(layout.n_inputs, 0.5), np.full(layout.n_inputs, 2.0)
    y_scale = np.full(n_outputs, -1.0), np.full(n_outputs, 3.0)
    scaled = y_scale[0] + y_scale[1] * limits[0], y_scale[0] + y_scale[1] * limits[1]
    model = simulation.assemble(
        layout, vector, dt=0.1, input_scale=x_scale, output_scale=y_scale, limits=scaled
    )
    simulated = np.asarray(model(x_scale[0] + x_scale[1] * x, dt=0.1))
    np.testing.assert_allclose(simulated, y_scale[0] + y_scale[1] * trained, atol=1e-9)


def test_free_states_are_stable_whatever_the_parameters():
    layout = layouts()[0]
    rng = np.random.default_rng(3)
    for scale in (0.1, 1.0, 10.0, 100.0):
        vector = scale * rng.standard_normal(layout.size)
        A = simulation.matrices(layout, vector, np)["A"]
        assert np.linalg.eigvals(A).real.max() < 0


def test_without_units_the_network_is_exactly_its_linear_part():
    linear, x = linear_system(), smooth_input(80, 4)

    def departure(entry):
        read_in = np.concatenate([np.asarray(linear.B), entry], axis=1)
        n_units = entry.shape[1]
        network = models.StateNetwork(
            models.LinearRNN(linear.A, read_in, linear.C),
            (np.ones((n_units, 2)), np.ones((n_units, 1)), np.zeros(n_units)),
        )
        with jax.enable_x64(True):
            return np.abs(np.asarray(network(x, dt=0.5)) - np.asarray(linear(x, dt=0.5))).max()

    assert departure(np.zeros((2, 0))) < 1e-14
    assert departure(np.zeros((2, 1))) < 1e-14
    # Negative control: one unit that is read in.
    assert departure(np.full((2, 1), 0.1)) > 0.1


def test_training_starts_exactly_at_the_linear_network():
    network, layout = linear_system(), simulation.Layout(2, 1, 1, 5, 3, 3)
    x = smooth_input(80, 4)
    start = np.array([0.3, -0.2])
    affine = models.AffineRNN(network, [0.0], [0.7], start)
    states = np.asarray(affine.states(x, dt=1.0))
    vector = simulation.start_layout(
        network,
        states,
        layout,
        np.random.default_rng(0),
        gain=1.0,
        offset=np.array([0.7]),
        start=start,
    )
    model = simulation.assemble(
        layout,
        vector,
        dt=1.0,
        input_scale=(np.zeros(1), np.ones(1)),
        output_scale=(np.zeros(1), np.ones(1)),
        limits=(np.full(1, -np.inf), np.full(1, np.inf)),
    )
    # The stability margin and the floor of the Gramian are what separates the two.
    np.testing.assert_allclose(
        np.asarray(model(x, dt=1.0)), np.asarray(affine(x, dt=1.0)), atol=2e-4
    )


def test_overlapping_windows_simulate_what_one_does():
    rng = np.random.default_rng(5)
    n_time = 9000
    layout = simulation.Layout(2, 1, 1, 2, 0, 0)
    x = rng.standard_normal((n_time, 1))
    network = linear_system()
    states = np.asarray(network.states(x, dt=1.0))
    vector = simulation.start_layout(
        network,
        states,
        layout,
        rng,
        gain=1.0,
        offset=np.zeros(1),
        start=np.zeros(2),
    )
    limits = np.full(1, -np.inf), np.full(1, np.inf)
    y, seen = np.zeros((n_time, 1)), np.ones((n_time, 1), bool)
    windows = _cut(x, y, seen, states, 120.0, limits)
    assert len(windows.inputs) > 1
    whole = dataclasses.replace(
        windows, inputs=x[None], outputs=y[None], seen=seen[None] * 1.0, starts=np.zeros((1, 2))
    )
    truth = outputs_of(layout, vector, whole)[0]
    parts = outputs_of(layout, vector, windows)
    scored = windows.seen[:, :, 0] > 0
    np.testing.assert_allclose(parts[scored], truth[windows.rows[scored]], atol=1e-6)
    assert np.array_equal(np.sort(windows.rows[scored]), np.arange(n_time))


def test_descent_reaches_the_least_squares_solution():
    layout = simulation.Layout(1, 1, 1, 0, 0, 0)
    x = smooth_input(120, 6)
    truth = layout.join(
        {name: np.zeros(shape) for name, shape in layout.shapes.items()}
        | {"R": np.array([0.5]), "B": np.array([[0.7]]), "C": np.array([[1.5]])}
    )
    limits = np.full(1, -np.inf), np.full(1, np.inf)
    seen = np.ones((120, 1), bool)
    blank = _cut(x, np.zeros((120, 1)), seen, np.zeros((120, 1)), 10.0, limits)
    windows = dataclasses.replace(blank, outputs=outputs_of(layout, truth, blank))
    start = truth + 0.1
    end = descend(layout, start, windows, 0 * start, start, n_steps=60, rtol=1e-14)
    assert end.is_finite
    assert end.cost < 1e-18


def test_a_wiener_system_is_simulated_to_its_noise(wiener):
    x, y, found = wiener
    assert found.structure == "static"
    assert found.status.is_ok
    assert found.validation_error[0] < 0.04
    assert found.validation_error[0] < 0.5 * found.linear_error[0]
    assert found.candidates[0].error <= found.candidates[-1].error
    simulated = np.asarray(found.model(x, dt=1.0))
    error = np.sqrt(np.mean((simulated - y) ** 2))
    np.testing.assert_allclose(error, found.training_error[0], rtol=1e-6)
    np.testing.assert_array_equal(found.initial_state, found.model.start)


def coupled_system(n_time, seed):
    """Two stores fed by two inputs, read out through a saturation and a signed square."""
    rng = np.random.default_rng(seed)
    x, states, state = rng.standard_normal((n_time, 2)), [], np.zeros(2)
    for drive in x @ np.array([[0.4, 0.2], [0.1, 0.6]]):
        state = np.array([0.9, 0.7]) * state + drive
        states.append(state)
    h = np.array(states)
    return x, np.stack(
        [np.tanh(1.2 * h[:, 0]) + 0.3 * h[:, 1], h[:, 1] + 0.4 * h[:, 0] * np.abs(h[:, 0])], axis=1
    )


@pytest.mark.slow
def test_two_inputs_and_two_outputs_are_simulated_on_new_data():
    x, clean = coupled_system(1200, 0)
    y = clean + 0.01 * np.random.default_rng(3).standard_normal(clean.shape)
    options = QUICK | {"n_steps": 60, "n_restarts": 4}
    found = training.train_system(x, y, dt=1.0, key=KEY, structures=("static",), **options)
    assert found.structure == "static"
    assert (found.validation_error < 0.5 * found.linear_error).all()
    fresh, truth = coupled_system(2000, 1)
    simulated = np.asarray(found.model(fresh, dt=1.0))
    error = np.sqrt(np.mean((simulated - truth)[100:] ** 2, axis=0))
    assert (error < 0.5 * found.linear_error).all()


def test_a_linear_system_stays_linear():
    x = smooth_input(400, 7)
    y = np.asarray(linear_system()(x, dt=1.0))
    y = y + 0.1 * y.std() * np.random.default_rng(8).standard_normal(y.shape)
    found = training.train_system(x, y, dt=1.0, key=KEY, structures=("static",), **QUICK)
    assert found.structure == "linear"
    assert found.validation_error[0] < 0.12 * y.std()


@pytest.mark.slow
def test_scaling_the_data_scales_the_answer(wiener):
    x, y, found = wiener
    other = training.train_system(
        1 + 100 * x, 5 - 0.01 * y, dt=0.25, key=KEY, structures=("static",), **QUICK
    )
    np.testing.assert_allclose(other.validation_error, 0.01 * found.validation_error, rtol=0.05)


@pytest.mark.slow
def test_equal_keys_give_equal_networks(wiener):
    x, y, found = wiener
    again = training.train_system(x, y, dt=1.0, key=KEY, structures=("static",), **QUICK)
    for a, b in zip(jax.tree.leaves(found.model), jax.tree.leaves(again.model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_end_of_scale_is_recognised_and_noise_is_not():
    y = np.random.default_rng(0).standard_normal((300, 2))
    y[:, 0] = np.minimum(np.convolve(y[:, 0], np.ones(9), "same"), 2.0)
    lower, upper = _dwelling_limits(y)
    assert upper[0] == 2.0
    assert np.isneginf(lower).all()
    assert np.isposinf(upper[1])


@pytest.mark.slow
def test_the_network_survives_a_file(wiener, tmp_path):
    model = wiener[2].model
    models.save(model, tmp_path / "net")
    x = smooth_input(30, 9)
    loaded = models.load(tmp_path / "net")
    np.testing.assert_array_equal(loaded(x, dt=1.0), model(x, dt=1.0))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (np.ones((1, 1)), np.ones((1, 1)), "at least 64 observed samples"),
        (np.arange(100.0), np.zeros(100), "outputs: expected signals that vary"),
        (np.zeros(100), np.arange(100.0), "inputs: expected signals that vary"),
        (np.arange(100.0), np.arange(99.0), "as many rows as inputs, 100, got 99"),
        (np.arange(100.0), np.full(100, np.nan), "at least 64 observed samples"),
        (np.full(100, np.nan), np.arange(100.0), "inputs: expected finite numbers"),
        (np.arange(100.0), np.full(100, np.inf), "finite numbers, or NaN"),
        (np.zeros((0, 1)), np.zeros((0, 1)), "at least one sample"),
    ],
    ids=["one", "silent", "still input", "lengths", "unseen", "gaps", "infinite", "empty"],
)
def test_unusable_data_are_named(inputs, outputs, message):
    with pytest.raises(ValueError, match=message):
        training.train_system(inputs, outputs, dt=1.0, key=KEY)


def test_a_key_that_is_none_is_named():
    x = smooth_input(100, 1)
    with pytest.raises(TypeError, match="key: expected a JAX random key"):
        training.train_system(x, np.cumsum(x, axis=0), dt=1.0, key="zero")


def remainder_of(kind, seed, n_time=500):
    rng = np.random.default_rng([seed, 1])
    x, network = smooth_input(n_time, seed), linear_system()
    linear = np.asarray(network(x, dt=1.0))
    if kind == "noise":
        white, coloured = rng.standard_normal(n_time), np.zeros(n_time)
        for k in range(1, n_time):
            coloured[k] = 0.9 * coloured[k - 1] + white[k]
        y = linear + 0.2 * linear.std() * (coloured / coloured.std())[:, None]
    elif kind == "hammerstein":
        y = np.asarray(network(x + 0.15 * x**2, dt=1.0))
    else:
        y = np.tanh(0.8 * linear / linear.std())
    if kind != "noise":
        y = y + 0.05 * y.std() * rng.standard_normal(y.shape)
    design = np.concatenate([linear, np.ones_like(linear)], axis=1)
    gain, offset = np.linalg.lstsq(design, y, rcond=None)[0].ravel()
    scaled = models.LinearRNN(network.A, network.B, gain * np.asarray(network.C))
    affine = models.AffineRNN(scaled, [0.0], [offset])
    return training.estimate_remainder(x, y, affine, dt=1.0, n_shifts=99, seed=seed)


def test_coloured_noise_is_not_called_nonlinearity():
    # At level 0.05, 40 trials: 7 or more alarms have probability 0.003.
    alarms = sum(remainder_of("noise", seed).verdict == "nonlinearity" for seed in range(40))
    assert alarms <= 6


@pytest.mark.parametrize("kind", ["hammerstein", "wiener"])
def test_a_static_nonlinearity_is_found_and_measured(kind):
    for seed in range(3):
        found = remainder_of(kind, seed)
        assert found.verdict == "nonlinearity"
        assert found.p_value <= 0.01 + 1e-12
        # The noise has 0.25 % of the variance; all else is nonlinear.
        assert found.nonlinear_share > 0.6 * (found.share - 0.0025)
        assert found.nonlinear_share <= found.share


def test_repeats_measure_the_noise_directly():
    network, rng = linear_system(), np.random.default_rng(0)
    x = np.tile(smooth_input(200, 3), (6, 1))
    y = np.asarray(network(x, dt=1.0))
    noise = 0.1 * y.std() * rng.standard_normal(y.shape)
    affine = models.AffineRNN(network, [0.0], [0.0])
    quiet = training.estimate_remainder(x, y + noise, affine, dt=1.0, period=200)
    bent = training.estimate_remainder(x, y + 0.05 * y**2 + noise, affine, dt=1.0, period=200)
    assert quiet.is_from_repeats
    assert quiet.verdict == "noise"
    assert bent.verdict == "nonlinearity"
    np.testing.assert_allclose(quiet.noise_share, 0.01, rtol=0.15)


def test_coherence_is_the_linear_share_of_the_power():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8192, 2))
    signal = x @ [[1.0], [2.0]]
    y = signal + np.sqrt(5.0) * rng.standard_normal(signal.shape)
    found = training.estimate_coherence(x, y, dt=0.5, n_per_segment=256)
    assert abs(float(np.mean(found.coherence)) - 0.5) < 0.03
    inside = (found.lower < 0.5) & (found.upper > 0.5)
    assert inside.mean() > 0.8
    alone = training.estimate_coherence(x, rng.standard_normal(8192), dt=0.5, n_per_segment=256)
    assert (alone.coherence > alone.threshold).mean() < 0.12
    assert found.frequencies[-1] == 1.0


def test_coherence_of_unusable_data_is_refused():
    with pytest.raises(ValueError, match="as many rows as inputs"):
        training.estimate_coherence(np.arange(100.0), np.arange(50.0), dt=1.0)
    with pytest.raises(ValueError, match="signals that vary"):
        training.estimate_coherence(np.arange(100.0), np.zeros(100), dt=1.0)
    with pytest.raises(ValueError, match="at least 16 samples"):
        training.estimate_coherence(np.arange(10.0), np.arange(10.0), dt=1.0)


@pytest.mark.slow
def test_the_cascaded_tanks_are_simulated(measured_data):
    path = measured_data / "cascaded_tanks" / "dataBenchmark.csv"
    table = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(0, 1, 2, 3))
    inputs, test_inputs, outputs, test_outputs = table.T
    found = training.train_system(
        inputs, outputs, dt=4.0, key=jax.random.key(0), structures=("series",)
    )
    simulated = np.asarray(found.model(test_inputs[:, None], dt=4.0))[:, 0]
    rmse = np.sqrt(np.mean((simulated - test_outputs) ** 2))
    assert found.model.upper[0] == 10.0
    assert rmse < 0.396
