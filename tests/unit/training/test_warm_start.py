"""Warm starts: the memory is found, kept by every kind, and stated truly."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.optimize

from recollect import memory, models, training

DT = 0.5
NONLINEAR = (
    models.ElmanRNN,
    models.ResidualRNN,
    models.GRU,
    models.LSTM,
    models.StateSpaceLayer,
)


def system():
    """A decay of 50 and an oscillation, in the unit of time."""
    return models.DiagonalRNN(
        np.array([0.02, 0.3 + 0.8j, 0.3 - 0.8j]),
        np.array([[1.0], [0.5 + 0.2j], [0.5 - 0.2j]]),
        np.array([[0.05, 0.4, 0.4]]),
    )


@pytest.fixture(scope="module")
def record():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((800, 1)) + 2.0
    clean = 5.0 + np.asarray(system()(x - 2.0, dt=DT))
    noise = 0.05 * clean.std()
    return x, clean + noise * rng.standard_normal(clean.shape), clean, noise


@pytest.fixture(scope="module")
def kernel(record):
    return memory.estimate_kernel(record[0], record[1], dt=DT)


@pytest.fixture(scope="module")
def start(record, kernel):
    return training.warm_start(models.DiagonalRNN, record[0], record[1], dt=DT, kernel=kernel)


def test_the_linear_start_is_the_system(record, start):
    x, _, clean, noise = record
    assert start.status.code in ("ok", "record_too_short")
    assert start.error[0] == pytest.approx(noise, rel=0.05)
    simulated = np.asarray(start.rescaled(x, dt=DT))
    # The model starts at rest under the mean input, the system under 2: that has to fade.
    assert np.sqrt(np.mean((simulated - clean)[400:] ** 2)) < 0.3 * noise
    # The output at rest under the inputs' mean: 5 plus what the mean's remainder drives.
    gain = float(np.asarray(system().laplace(np.zeros(1))).real[0, 0, 0])
    rest = 5.0 + gain * (start.input_offset[0] - 2.0)
    assert start.output_offset[0] == pytest.approx(rest, abs=2 * noise)
    assert start.width == (3,)
    assert np.sort(start.linear.rates.real)[0] == pytest.approx(0.02, rel=0.1)
    assert 0 < start.kernel_bound[0] <= start.kernel_error[0]
    assert start.amplitude == np.inf
    assert start.deviation == 0.0


def test_the_summary_says_what_was_done(start):
    text = "\n".join(start.summary())
    for word in ("kernel:", "3 units", "simulation error", "at least"):
        assert word in text


def test_the_refinement_is_least_squares_over_everything(record, start):
    # The same minimum by an optimiser that knows nothing: plain simulation and finite differences.
    x, y = record[:2]
    centred = x - start.input_offset

    def residual(v):
        w, re, im = np.exp(v[0]), np.exp(v[1]), v[2]
        t = DT * (1 + np.arange(len(x)))
        columns = [np.ones(len(x))]
        for rate in (w + 0j, re + 1j * im):
            z = np.exp(-rate * DT)
            held = np.zeros(len(x), complex)
            state = 0.0
            for k in range(len(x)):
                state = z * state + (1 - z) / rate * centred[k, 0]
                held[k] = state
            free = np.exp(-rate * t)
            parts = [held.real, free.real] if rate.imag == 0 else []
            if rate.imag:
                parts = [held.real, held.imag, free.real, free.imag]
            columns += parts
        design = np.stack(columns, axis=1)
        return y[:, 0] - design @ np.linalg.lstsq(design, y[:, 0], rcond=None)[0]

    rates = np.asarray(start.linear.rates)
    pair = rates[rates.imag > 0][0]
    at = np.array([np.log(rates[rates.imag == 0][0].real), np.log(pair.real), pair.imag])
    here = np.sqrt(np.mean(residual(at) ** 2))
    assert start.error[0] == pytest.approx(here, rel=1e-6)
    best = scipy.optimize.least_squares(residual, at, xtol=1e-10).fun
    assert here <= np.sqrt(np.mean(best**2)) * (1 + 1e-4)


@pytest.mark.parametrize("kind", NONLINEAR, ids=lambda k: k.__name__)
def test_a_nonlinear_kind_starts_at_the_linear_part(kind, record, kernel):
    x = record[0]
    found = training.warm_start(
        kind, *record[:2], dt=DT, kernel=kernel, width=3, n_units=5, tolerance=0.01
    )
    assert isinstance(found.model, kind)
    centred = x - found.input_offset
    exact = np.asarray(found.linear(centred, dt=DT))
    own = np.asarray(found.model(centred, dt=DT))
    missed = np.linalg.norm(own - exact) / np.linalg.norm(exact)
    assert missed == pytest.approx(found.deviation, rel=1e-6)
    assert 0.003 < missed <= 0.01
    # What a tanh misses falls with the square of the input: a hundredth of it at a tenth.
    small = np.asarray(found.model(0.1 * centred, dt=DT)) / 0.1
    assert np.linalg.norm(small - exact) / np.linalg.norm(exact) < 0.02 * missed
    # Proved: the worst input of that amplitude, built from the linear response.
    assert 0 < found.amplitude < np.inf
    steps = np.diff(np.asarray(found.linear.step_response(DT * np.arange(601))), axis=0)[:, 0, 0]
    worst = found.amplitude * np.sign(steps[::-1])[:, None]
    apart = np.asarray(found.model(worst, dt=DT)) - np.asarray(found.linear(worst, dt=DT))
    gain = np.abs(steps).sum() * found.amplitude
    assert np.abs(apart).max() <= 0.01 * gain * (1 + 1e-6)


def test_units_not_yet_read_change_nothing_and_can_grow(record, kernel):
    bare = training.warm_start(
        models.ElmanRNN, *record[:2], dt=DT, kernel=kernel, width=3, n_units=3
    )
    wide = training.warm_start(
        models.ElmanRNN, *record[:2], dt=DT, kernel=kernel, width=3, n_units=8, key=1
    )
    centred = record[0] - wide.input_offset
    np.testing.assert_allclose(
        np.asarray(wide.model(centred, dt=DT)), np.asarray(bare.model(centred, dt=DT)), atol=1e-12
    )
    idle = np.asarray(wide.model.states(centred, dt=DT))[:, 3:]
    assert (idle.std(axis=0) > 0.05).all()

    def loss(model):
        return ((model(centred, dt=DT) - (record[1] - wide.output_offset)) ** 2).mean()

    gradient = jax.jit(jax.grad(loss))(jax.tree.map(jax.numpy.asarray, wide.model))
    assert (np.abs(np.asarray(gradient.C))[:, 3:] > 0).all()
    again = training.warm_start(
        models.ElmanRNN, *record[:2], dt=DT, kernel=kernel, width=3, n_units=8, key=1
    )
    np.testing.assert_array_equal(again.model.W, wide.model.W)


def test_a_state_network_is_linear_at_every_amplitude(record, kernel):
    found = training.warm_start(
        models.StateNetwork, *record[:2], dt=DT, kernel=kernel, width=3, n_units=6
    )
    assert found.amplitude == np.inf
    assert found.model.n_units == 6
    signal = 1e3 * (record[0] - found.input_offset)
    np.testing.assert_allclose(
        np.asarray(found.model(signal, dt=DT)),
        np.asarray(found.linear(signal, dt=DT)),
        rtol=1e-6,
        atol=1e-6,
    )


def test_hard_limits_are_exact_up_to_the_limit(record, kernel):
    found = training.warm_start(
        models.ElmanRNN,
        *record[:2],
        dt=DT,
        kernel=kernel,
        width=3,
        n_units=3,
        activation="hardtanh",
    )
    centred = record[0] - found.input_offset
    exact = np.asarray(found.linear(centred, dt=DT))
    np.testing.assert_allclose(np.asarray(found.model(centred, dt=DT)), exact, atol=1e-9)
    assert np.abs(np.asarray(found.model(3 * centred, dt=DT)) - 3 * exact).max() > 1e-3


@pytest.mark.slow
def test_a_model_gives_its_size_and_settings(record, kernel):
    like = models.initialise_from_timescales((1.0, 10.0), width=5, key=0, reparam=models.Softplus())
    found = training.warm_start(like, *record[:2], dt=DT, kernel=kernel)
    assert found.model.width == 5
    assert isinstance(found.model.reparam, models.Softplus)
    discrete = models.initialise_lru_ring(4, dt=DT, key=0)
    stepped = training.warm_start(discrete, *record[:2], dt=DT, kernel=kernel)
    assert stepped.model.dt == DT
    np.testing.assert_allclose(
        np.asarray(stepped.model(record[0], dt=DT)),
        np.asarray(stepped.linear(record[0], dt=DT)),
        atol=1e-8,
    )
    dense = training.warm_start(models.LinearRNN, *record[:2], dt=DT, kernel=kernel, width=3)
    np.testing.assert_allclose(
        np.asarray(dense.model.kernel(np.arange(5.0))),
        np.asarray(dense.linear.kernel(np.arange(5.0))),
        atol=1e-10,
    )


@pytest.mark.slow
def test_several_records_gaps_inputs_and_outputs():
    rng = np.random.default_rng(1)
    true = models.DiagonalRNN([0.1, 0.5], [[1.0, 0.0], [0.3, 1.0]], [[0.3, 0.5], [0.0, 1.0]])
    xs = [rng.standard_normal((n, 2)) for n in (100, 160)]
    ys = [np.asarray(true(x, dt=1.0)) for x in xs]
    clean = [y.copy() for y in ys]
    for y in ys:
        y += 0.01 * rng.standard_normal(y.shape)
    ys[0][50:55, 0] = np.nan
    found = training.warm_start(models.DiagonalRNN, xs, ys, dt=1.0, initial_state="rest")
    assert (found.error < 0.012).all()
    simulated = np.asarray(found.rescaled(xs[1], dt=1.0))
    assert np.abs(simulated - clean[1]).max() < 0.02
    assert len(found.width) == 2


def test_no_noise_is_refined_to_the_last_digits():
    rng = np.random.default_rng(2)
    true = models.DiagonalRNN([0.05, 0.4], [[1.0], [1.0]], [[0.1, -0.5]])
    x = rng.standard_normal((300, 1))
    y = np.asarray(true(x, dt=1.0))
    found = training.warm_start(models.DiagonalRNN, x, y, dt=1.0, width=2, initial_state="rest")
    assert found.relative_error[0] < 1e-6
    np.testing.assert_allclose(np.sort(found.linear.rates.real), [0.05, 0.4], rtol=1e-5)
    assert found.start_error[0] >= found.error[0]


@pytest.mark.slow
def test_training_goes_on_from_there(record, kernel):
    x, y, _, noise = record
    found = training.warm_start(models.GRU, x, y, dt=DT, width=3, n_units=4, kernel=kernel)
    # The start is in the units of the data already.
    after = training.train_model(
        found.rescaled, x, y, dt=DT, key=0, n_steps=30, learning_rate=1e-4, units="data"
    )
    size = np.sqrt(np.mean(y**2))
    before = np.sqrt(np.mean((np.asarray(found.rescaled(x, dt=DT)) - y) ** 2))
    assert before < 1.5 * noise
    assert after.losses[0] == pytest.approx((before / size) ** 2, rel=1e-6)
    assert after.error < after.losses[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dt": 0.0}, "dt: expected"),
        ({"outputs": np.zeros((100, 1))}, "zeros only"),
        ({"outputs": np.ones((99, 1))}, "as many rows as inputs"),
        ({"inputs": np.full((100, 1), np.nan)}, "finite"),
        ({"inputs": np.ones((100, 1))}, "an input that varies"),
        ({"inputs": np.ones((1, 1)), "outputs": np.ones((1, 1))}, "one shows no memory"),
        ({"kind": models.ElmanRNN, "activation": "gelu"}, "not linear around zero"),
        ({"kind": models.ElmanRNN, "width": 3, "n_units": 2}, "at least the 3 units"),
        ({"width": 0}, "width"),
        ({"initial_state": "moving"}, "initial_state"),
        ({"kind": models.initialise_lru_ring(2, dt=2.0, key=0)}, "with the step"),
        ({"kind": models.initialise_gru(2, n_inputs=2, n_outputs=1, key=0)}, "2 channel"),
    ],
)
def test_errors_are_plain(change, message):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((100, 1))
    y = np.asarray(system()(x, dt=1.0)) + 0.01 * rng.standard_normal((100, 1))
    given = {"kind": models.DiagonalRNN, "inputs": x, "outputs": y, "dt": 1.0} | change
    kind, inputs, outputs = (given.pop(name) for name in ("kind", "inputs", "outputs"))
    with pytest.raises(ValueError, match=message):
        training.warm_start(kind, inputs, outputs, **given)


def test_a_kind_that_cannot_be_started():
    with pytest.raises(TypeError, match="kind: expected one of LinearRNN"):
        training.warm_start(models.CausalAttention, np.ones((9, 1)), np.ones((9, 1)), dt=1.0)


def test_a_key_and_a_kernel_that_are_none(record, kernel):
    with pytest.raises(TypeError, match="key"):
        training.warm_start(models.DiagonalRNN, *record[:2], dt=DT, kernel=kernel, key="a")
    with pytest.raises(ValueError, match="kernel: expected an estimate"):
        training.warm_start(models.DiagonalRNN, *record[:2], dt=2 * DT, kernel=kernel)


def test_noise_alone_is_called_noise():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((120, 1)), rng.standard_normal((120, 1))
    found = training.warm_start(models.DiagonalRNN, x, y, dt=1.0)
    assert not found.status.is_ok
    assert found.relative_error[0] > 0.9
