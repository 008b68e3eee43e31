"""The trainer: the same result after a kill, at any scale of the data, and a word when it breaks."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recollect import models, targets, training

# One process imports, its forks train: the parent never starts a JAX backend.
_FORKS = """
import os, pickle, random, signal, sys, time
import numpy as np
from recollect import models, training

directory, n_kills = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
x = rng.standard_normal((4, 60, 1))
y = 0.1 * np.cumsum(x, axis=1)
start = models.initialise_elman(3, key=0)


def train(**changed):
    settings = dict(key=3, dt=0.1, n_steps=1000, n_batch=2, steps_per_call=5) | changed
    return training.train_model(start, x, y, **settings)


def resumable(name, store):
    def run():
        found = train(checkpoint=os.path.join(directory, store), callback=lambda p: time.sleep(0.01))
        weights = {k: getattr(found.model, k) for k in ("W", "U", "C", "bias")}
        return found.losses, weights, found.stats["resumed_at"]
    return fork(name, run)


def fork(name, run):
    child = os.fork()
    if child == 0:
        with open(os.path.join(directory, name), "wb") as file:
            pickle.dump(run(), file)
        os._exit(0)
    return child


def wait(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def devices():
    import jax
    assert len(jax.devices()) == 4
    options = {"whole": dict(n_batch=None)}
    if n_kills > 5:
        options |= {"batch": dict(n_batch=4), "window": dict(n_batch=8, window=20)}
    found = {}
    for name, option in options.items():
        part = slice(0, 3) if name == "whole" else slice(None)  # three records on four devices
        runs = [
            training.train_model(
                start, x[part], y[part], key=3, dt=0.1, n_steps=10, steps_per_call=5, devices=d, **option
            )
            for d in (None, 4)
        ]
        found[name] = [(r.losses, r.error, r.model.C) for r in runs]
    try:
        training.train_model(start, x, y, key=0, dt=0.1, n_batch=3, devices=4)
    except ValueError as error:
        found["message"] = str(error)
    return found


wait(resumable("whole", "a"))
record = os.path.join(directory, "b", "checkpoint.json")
for i in range(n_kills):
    child = resumable("killed", "b")
    while not os.path.exists(record):
        time.sleep(0.01)
    # After the first time anywhere: while it imports, compiles, steps or writes.
    time.sleep(random.uniform(0.0, 1.0 if i == 0 else 3.0))
    os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
wait(resumable("cut", "b"))
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
wait(fork("devices", devices))
"""


def run_forks(directory, n_kills):
    import pickle

    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKS, str(directory), str(n_kills)],
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "-9" in done.stdout.split()
    found = {}
    for name in ("whole", "cut", "devices"):
        found[name] = pickle.loads((directory / name).read_bytes())
    return found


def assert_same_bits(found):
    (losses, weights, _), (cut_losses, cut_weights, resumed_at) = found["whole"], found["cut"]
    assert resumed_at > 0
    assert len(losses) == 1000
    assert np.array_equal(losses, cut_losses)
    for name, weight in weights.items():
        assert np.array_equal(weight, cut_weights[name]), name


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    return run_forks(tmp_path_factory.mktemp("forks"), 1)


def test_a_killed_run_ends_in_the_same_bits(forks):
    assert_same_bits(forks)


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_in_the_same_bits(tmp_path):
    found = run_forks(tmp_path, 10)
    assert_same_bits(found)
    assert_shared(found["devices"], ("window", "whole", "batch"))


def test_devices_share_the_records(forks):
    assert_shared(forks["devices"], ("whole",))


def assert_shared(found, names):
    for name in names:
        one, four = found[name]
        assert four[0] == pytest.approx(one[0], rel=1e-10), name
        assert four[1] == pytest.approx(one[1], rel=1e-10), name
        assert np.allclose(four[2], one[2], rtol=1e-9), name
    assert "a multiple of the 4 devices" in found["message"]


def records(n=4, n_samples=60):
    x = np.random.default_rng(0).standard_normal((n, n_samples, 1))
    target = models.DiagonalRNN([0.5, 2.0], np.ones((2, 1)), np.ones((1, 2)))
    return x, np.stack([np.asarray(target(s, dt=0.1)) for s in x])


def start():
    return models.initialise_elman(3, key=0)


def complex_start():
    return models.initialise_s4d_lin(4, timescale=1.0, key=0)


def train(x, y, model=None, **changed):
    settings = {"key": 0, "dt": 0.1, "n_steps": 40, "steps_per_call": 10, **changed}
    return training.train_model(start() if model is None else model, x, y, **settings)


def simulate(model, x):
    return np.stack([np.asarray(model(s, dt=0.1)) for s in x])


def test_the_scale_of_the_data_changes_nothing():
    x, y = records()
    one = train(x, y)
    for factor in (1e-3, 7.0, 1e6):
        other = train(factor * x, y / factor)
        assert other.losses == pytest.approx(one.losses, rel=1e-9)
        ratio = simulate(other.model, factor * x) * factor
        assert ratio == pytest.approx(simulate(one.model, x), rel=1e-8, abs=1e-10)
        assert other.error == pytest.approx(one.error, rel=1e-9)
    # The error is that of the model returned, in the units of the data.
    assert one.error == pytest.approx(
        np.mean((simulate(one.model, x) - y) ** 2) / np.mean(y**2), rel=1e-9
    )
    assert one.error < 0.5 * one.losses[0]
    # In the units of the data a model that fits already stays where it is.
    truth = models.DiagonalRNN([0.5, 2.0], np.ones((2, 1)), np.ones((1, 2)))
    kept = train(x, y, truth, n_steps=2, units="data", optimiser="gradient_descent")
    assert kept.error < 1e-20
    # Training on from what was trained.
    again = train(x, y, one.model, n_steps=1, units="data")
    assert again.losses[0] == pytest.approx(one.error, rel=1e-9)


@pytest.mark.slow
def test_the_scale_of_no_channel_matters():
    x, y = (np.concatenate([s, 0.5 * s[::-1]], axis=2) for s in records())
    model = models.initialise_gru(4, n_inputs=2, n_outputs=2, key=0)
    one = train(x, y, model, n_steps=20)
    other = train(x * [1e-3, 1e6], y * [1e4, 1e-5], model, n_steps=20)
    assert other.losses == pytest.approx(one.losses, rel=1e-9)
    ratio = simulate(other.model, x * [1e-3, 1e6]) / [1e4, 1e-5]
    assert ratio == pytest.approx(simulate(one.model, x), rel=1e-8, abs=1e-10)


def test_the_gradient_is_that_of_the_loss():
    # One step of gradient descent shows it; against central differences of the simulated error.
    x, y = records(n=2, n_samples=25)
    x, y = x / np.sqrt(np.mean(x**2)), y / np.sqrt(np.mean(y**2))
    rng = np.random.default_rng(1)
    model = models.LinearRNN(
        -np.eye(3) + 0.3 * rng.standard_normal((3, 3)),
        rng.standard_normal((3, 1)),
        rng.standard_normal((1, 3)),
    )
    weights = np.linspace(0.5, 2.0, 25)
    moved = train(
        x, y, model, n_steps=1, optimiser="gradient_descent", learning_rate=1.0, weights=weights
    )

    def error(A, B, C):
        squares = (simulate(models.LinearRNN(A, B, C), x) - y)[..., 0] ** 2
        return np.sum(weights * squares) / (2 * np.sum(weights))

    at = [np.asarray(getattr(model, name)) for name in "ABC"]
    assert moved.losses[0] == pytest.approx(error(*at), rel=1e-12)
    for k, name in enumerate("ABC"):
        step = 1e-6
        slope = np.zeros_like(at[k])
        for i in np.ndindex(slope.shape):
            sides = []
            for sign in (1, -1):
                there = [a.copy() for a in at]
                there[k][i] += sign * step
                sides.append(error(*there))
            slope[i] = (sides[0] - sides[1]) / (2 * step)
        found = at[k] - np.asarray(getattr(moved.model, name))
        assert found == pytest.approx(slope, rel=1e-7, abs=1e-9), name


def test_names_and_transformations_of_optimisers_agree():
    x, y = records()
    mine = train(x, y, complex_start(), n_steps=20, learning_rate=0.02)
    theirs = train(x, y, complex_start(), n_steps=20, optimiser=optax.adam(0.02))
    assert theirs.losses == pytest.approx(mine.losses, rel=1e-12)


@pytest.mark.slow
def test_a_schedule_is_followed():
    x, y = records()
    halves = optax.piecewise_constant_schedule(0.02, {10: 0.5})
    mine = train(x, y, n_steps=20, learning_rate=halves)
    theirs = train(x, y, n_steps=20, optimiser=optax.adam(halves))
    assert theirs.losses == pytest.approx(mine.losses, rel=1e-12)


@pytest.mark.slow
def test_adam_is_that_of_a_loop_by_hand():
    x, y = records()
    mine = train(x, y, complex_start(), n_steps=20, learning_rate=0.02)
    sx, sy = mine.stats["input_scale"], mine.stats["output_scale"]
    with jax.enable_x64(True):
        model = jax.tree.map(jnp.asarray, complex_start())
        weights = {"v": model.weights, "f": model.frequencies, "B": model.B, "C": model.C}
        real = {k: jnp.stack([v.real, v.imag]) for k, v in weights.items()}
        optimiser = optax.adam(0.02)

        @jax.jit
        def step(real, state):
            def loss(real):
                import equinox as eqx

                parts = {
                    k: r[0] + 1j * r[1] if jnp.iscomplexobj(weights[k]) else r[0]
                    for k, r in real.items()
                }
                where = lambda m: (m.weights, m.frequencies, m.B, m.C)  # noqa: E731
                network = eqx.tree_at(where, model, tuple(parts[k] for k in "vfBC"))
                got = jax.vmap(lambda s: network(s, dt=0.1))(jnp.asarray(x / sx))
                return jnp.mean((got - y / sy) ** 2)

            value, slope = jax.value_and_grad(loss)(real)
            update, state = optimiser.update(slope, state)
            return optax.apply_updates(real, update), state, value

        state, losses = optimiser.init(real), []
        for _ in range(20):
            real, state, value = step(real, state)
            losses.append(float(value))
    assert losses == pytest.approx(mine.losses, rel=1e-9)


def test_optimisers_see_weights_by_name():
    x, y = records()
    frozen = optax.multi_transform(
        {"train": optax.adam(0.02), "keep": optax.set_to_zero()},
        lambda params: {name: "train" if name == "C" else "keep" for name in params},
    )
    found = train(x, y, optimiser=frozen, units="data")
    assert np.asarray(found.model.W) == pytest.approx(np.asarray(start().W), rel=1e-14)
    assert not np.allclose(np.asarray(found.model.C), np.asarray(start().C))


@pytest.mark.slow
def test_line_searches_work_too():
    x, y = records()
    found = train(x, y, optimiser=optax.lbfgs(), n_steps=40)
    assert found.error < 0.5 * train(x, y).error


def test_divergence_is_told_at_its_step():
    x, y = records()
    model = models.LinearRNN([[0.5]], [[1.0]], [[1.0]], dt=0.1)
    # The same by hand, from the simulated error and its derivatives.
    sx, sy = np.sqrt(np.mean(x**2)), np.sqrt(np.mean(y**2))
    with jax.enable_x64(True):

        @jax.jit
        def slope(theta):
            def loss(theta):
                def one(s):
                    def step(h, v):
                        h = theta[0] * h + theta[1] * v
                        return h, theta[2] * h

                    return jax.lax.scan(step, 0.0, s)[1]

                return jnp.mean((jax.vmap(one)(x[..., 0] / sx) - y[..., 0] / sy) ** 2)

            return jax.value_and_grad(loss)(theta)

        theta, losses = jnp.array([0.5, 1.0, 1.0]), []
        while len(losses) < 100:
            loss, g = slope(theta)
            losses.append(float(loss))
            if not (loss <= 1e6 * max(losses[0], 1.0)):
                break
            theta = theta - 0.5 * g
    assert 2 < len(losses) < 90
    found = train(x, y, model, n_steps=100, optimiser="gradient_descent", learning_rate=0.5)
    assert found.status.code in ("diverged", "not_finite")
    assert f"step {len(losses) - 1}," in found.status.message
    assert found.losses == pytest.approx(losses[:-1], rel=1e-6)
    assert np.isfinite(np.asarray(found.model.A)).all()


def test_a_broken_update_is_not_taken():
    x, y = records()

    def breaks_at_seven(count):
        return jnp.where(count == 7, jnp.nan, -0.01)

    found = train(x, y, optimiser=optax.scale_by_schedule(breaks_at_seven))
    assert (found.status.code, len(found.losses)) == ("not_finite", 7)
    assert "at step 7, in the update of" in found.status.message
    assert np.isfinite(found.error)
    assert np.isfinite(np.asarray(found.model.C)).all()


def test_the_broken_layer_is_named():
    x, y = records()
    fine = models.DiagonalRNN([1.0], [[1.0]], [[1.0]])
    broken = models.DiagonalRNN([-400.0], [[1.0]], [[1.0]])
    found = train(x, y, models.Stack([fine, broken]))
    assert found.status.code == "not_finite"
    assert "step 0, in the output of layer 1 (DiagonalRNN) at sample" in found.status.message


def test_windows_batches_and_lengths():
    x, y = records()
    lists = [x[0], x[1][:40]], [y[0], y[1][:40]]
    ragged = train(*lists, window=30, washout=5, n_batch=3, n_steps=20)
    assert ragged.error < ragged.losses[0]
    whole = train(*lists, n_steps=1)
    model = start()
    sx, sy = whole.stats["input_scale"], whole.stats["output_scale"]
    errors = np.concatenate(
        [np.asarray(model(a / sx, dt=0.1)) - b / sy for a, b in zip(*lists, strict=True)]
    )
    assert whole.losses[0] == pytest.approx(np.mean(errors**2), rel=1e-9)
    # Samples of weight zero, washed out, do not count.
    some = train(x, y, n_steps=1, weights=np.arange(60) >= 20)
    washed = train(x, y, n_steps=1, washout=20)
    assert some.losses[0] == washed.losses[0]
    assert some.losses[0] != pytest.approx(train(x, y, n_steps=1).losses[0], rel=1e-3)


@pytest.mark.slow
def test_a_batch_is_a_matter_of_key_and_step():
    x, y = records()
    runs = [
        train(x, y, n_batch=2, n_steps=20, key=key, steps_per_call=size)
        for key, size in ((1, 10), (jax.random.key(1), 20), (2, 20))
    ]
    assert runs[0].losses == pytest.approx(runs[1].losses, rel=1e-12)
    assert not np.allclose(runs[1].losses, runs[2].losses)


@pytest.mark.slow
def test_single_precision():
    x, y = records()
    found = train(x, y, precision="float32")
    assert found.losses == pytest.approx(train(x, y).losses, rel=1e-4)
    assert np.asarray(found.model.W).dtype == np.float32


def test_a_run_goes_on_and_stops_where_it_would(tmp_path):
    x, y = records()
    whole = train(x, y, n_steps=60)
    for n_steps in (20, 35, 60):  # more steps than before are no other run
        found = train(x, y, n_steps=n_steps, checkpoint=tmp_path / "a")
    assert found.stats["resumed_at"] == 35
    assert np.array_equal(found.losses, whole.losses)
    assert np.array_equal(np.asarray(found.model.C), np.asarray(whole.model.C))
    # Stopped, and called again: it stays where it is.
    target = float(whole.losses[29])
    for _ in range(2):
        stopped = train(x, y, n_steps=60, target_error=target, checkpoint=tmp_path / "b")
        assert stopped.stats["n_steps"] == 30
    steps = []
    for _ in range(2):
        stopped = train(
            x,
            y,
            n_steps=60,
            callback=lambda p: steps.append(p.step) or p.step >= 20,
            checkpoint=tmp_path / "c",
        )
    assert steps == [10, 20, 20]
    with pytest.raises(ValueError, match="got another optimiser"):
        train(x, y, learning_rate=0.02, checkpoint=tmp_path / "a")
    with pytest.raises(ValueError, match="got another key"):
        train(x, y, key=1, checkpoint=tmp_path / "a")


def test_an_impatient_run_stops_at_the_floor():
    x, y = records()
    noisy = y + 0.5 * np.random.default_rng(1).standard_normal(y.shape)
    truth = models.DiagonalRNN([0.5, 2.0], np.ones((2, 1)), np.ones((1, 2)))
    options = {"optimiser": "gradient_descent", "learning_rate": 0.05, "n_steps": 5000}
    found = train(x, noisy, truth, units="data", is_patient=False, **options)
    assert found.stats["n_steps"] < 2000
    assert (found.plateau.verdict, found.plateau.kind) == ("stop", "floor")
    assert found.status.is_ok


@pytest.mark.slow
def test_a_plateau_is_waited_for_or_not():
    # A unit that knows nothing of a response at lag 10; the loss falls at step 8400.
    target = targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=10.0)
    x = np.random.default_rng(0).standard_normal((16, 400, 1))
    y = np.stack([np.asarray(target(s, dt=0.2)) for s in x])
    model = models.DiagonalRNN([1.0, 0.7], np.ones((2, 1)), [[1.0, 0.01]])
    told = {}

    def run(n_steps):
        return training.train_model(
            model,
            x,
            y,
            key=0,
            dt=0.2,
            n_steps=n_steps,
            units="data",
            optimiser="gradient_descent",
            learning_rate=0.01,
            callback=lambda p: told.update({p.step: p.plateau}),
        )

    losses = run(9000).losses
    for step in range(5000, 8001, 500):
        left = int(np.argmax(losses[step:] < 0.9 * losses[step - 1]))
        assert (told[step].kind, told[step].verdict) == ("plateau", "wait")
        assert 0.7 < told[step].remaining_steps / left < 1.4
        low, high = told[step].remaining_range
        assert 0.8 * low < left < high
    # Who has only 500 steps left at step 5500 is told not to wait; at the end it is about as
    # many steps again.
    assert run(6000).plateau.verdict == "wait"
    assert (told[5500].verdict, told[5500].status.code) == ("stop", "stalled")
    assert "more steps" in told[5500].status.message


def test_progress_is_told(capsys):
    x, y = records()
    seen = []
    was_wide = jax.config.jax_enable_x64
    wide = []
    found = train(
        x,
        y,
        n_steps=20,
        callback=lambda p: seen.append(p) or wide.append(jax.config.jax_enable_x64),
        is_verbose=True,
    )
    assert [p.step for p in seen] == [10, 20]
    assert wide == [was_wide] * 2
    assert seen[-1].loss == found.losses[-1]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "20/20 steps  loss" in captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0][:1], y[0][:1]), "at least two samples"),
        (lambda x, y: (x, 0 * y), "zeros only"),
        (lambda x, y: (0 * x, y), "zeros only"),
        (lambda x, y: (x[0], y[0][:-1]), "as many samples as the inputs"),
        (lambda x, y: (x, y[:-1]), "records"),
        (lambda x, y: (x[0, :, 0], y[0]), "use signal"),
        (lambda x, y: (np.concatenate([x, x], 2), y), "1 channel"),
        (lambda x, y: ([], []), "at least one record"),
        (lambda x, y: (x, np.where(y == y[0, 3], np.nan, y)), "NaN"),
    ],
)
def test_bad_records_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        train(*change(*records()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_batch": 5}, "n_batch"),
        ({"n_steps": 0}, "n_steps"),
        ({"window": 61}, "window"),
        ({"washout": 60}, "washout"),
        ({"weights": np.ones(59)}, "weights"),
        ({"weights": -np.ones(60)}, "weights"),
        ({"weights": np.zeros(60)}, "weights"),
        ({"units": "metres"}, "units"),
        ({"precision": "float16"}, "precision"),
        ({"optimiser": "newton"}, "optimiser"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"devices": 99}, "devices"),
        ({"key": "seed"}, "key"),
        ({"dt": 0.0}, "dt"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train(*records(), **options)


def test_what_cannot_be_trained_is_refused():
    x, y = records()
    with pytest.raises(TypeError, match="model"):
        train(x, y, lambda signal, dt: signal)
    with pytest.raises(RuntimeError, match="outermost"):
        jax.jit(lambda v: train(x, y).error + v)(1.0)


def _random(*shape):
    return 0.4 * np.random.default_rng(len(shape)).standard_normal(shape)


_LINEAR = models.LinearRNN(-np.diag([1.0, 2.0, 3.0]), _random(3, 1), _random(1, 3))
_LAYER = models.initialise_s4d_lin(4, timescale=1.0, n_outputs=2, key=0)
KINDS = {
    "LinearRNN": lambda: _LINEAR,
    "LinearRNN discrete": lambda: models.LinearRNN(
        np.diag([0.5, 0.9]), _random(2, 1), _random(1, 2), dt=0.1
    ),
    "DiagonalRNN": lambda: models.initialise_from_timescales([0.3, 1.0, 2.0], key=0),
    "DiagonalRNN discrete": lambda: models.initialise_lru_ring(4, dt=0.1, key=0),
    "ResidualRNN": lambda: models.initialise_residual(3, timescale=1.0, key=0),
    "ElmanRNN": lambda: models.initialise_elman(3, key=0),
    "DiagonalNonlinearRNN": lambda: models.initialise_symmetric(4, alpha=0.5, key=0),
    "GRU": lambda: models.initialise_gru(3, n_outputs=1, key=0),
    "GRU bare": lambda: models.GRU(_random(3, 1), _random(3, 1)),
    "LSTM": lambda: models.initialise_lstm(3, n_outputs=1, key=0),
    "SelectiveRNN": lambda: models.SelectiveRNN(
        [1.0, 2.0, 3.0], _random(3, 1), _random(1, 3), _random(3, 1)
    ),
    "CausalAttention": lambda: models.CausalAttention(
        _random(4, 1), _random(4, 1), _random(4, 1), _random(1, 4), [0.1, 0.2], window=8
    ),
    "AffineRNN": lambda: models.AffineRNN(_LINEAR, [0.1], [0.2]),
    "StateNetwork": lambda: models.StateNetwork(
        models.LinearRNN(_LINEAR.A, _random(3, 3), _random(1, 3)),
        (_random(2, 3), _random(2, 1), _random(2)),
    ),
    "StateSpaceLayer": lambda: models.StateSpaceLayer(_LAYER, _random(1, 2)),
    "StateSpaceLayer residual": lambda: models.StateSpaceLayer(
        _LAYER, _random(1, 2), is_residual=True
    ),
    "Stack": lambda: models.Stack(
        [
            models.initialise_elman(3, n_outputs=2, key=1),
            models.StateSpaceLayer(
                models.initialise_s4d_lin(2, timescale=1.0, n_inputs=2, key=0), _random(1, 1)
            ),
        ]
    ),
    "Rescaled": lambda: models.Rescaled(_LINEAR, [0.1], [2.0], [0.3], [4.0]),
}
_FAST = ("DiagonalRNN", "Rescaled")


def test_every_kind_of_model_is_here():
    trainable = {
        name
        for name in models.__all__
        if isinstance(getattr(models, name), type) and "__call__" in vars(getattr(models, name))
    }
    assert trainable == {kind.split()[0] for kind in KINDS}


@pytest.mark.parametrize(
    "kind", [k if k in _FAST else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
)
def test_every_kind_of_model_trains(kind):
    x, y = records(n=2, n_samples=30)
    x, y = 1e3 * x, 1e-4 * y
    times = []
    found = train(x, y, KINDS[kind](), n_steps=10, callback=lambda p: times.append(p.timescales))
    if isinstance(found.model, models.DiagonalRNN):
        rates = np.real(np.asarray(found.model.rates))
        assert times[-1] == pytest.approx(np.sort(1 / rates)[::-1])
    assert found.status.is_ok
    assert found.error < found.losses[0]
    # What comes back works in the units of the data, and is what the error is of.
    got = np.mean((simulate(found.model, x) - y) ** 2) / np.mean(y**2)
    assert got == pytest.approx(found.error, rel=1e-9)
    assert found.model.n_inputs == found.model.n_outputs == 1
