"""The trainer: the same result after a kill, at any scale of the data, and a word when it breaks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from recollect import models, training

_RUN = """
import sys
import numpy as np
from recollect import models, training
rng = np.random.default_rng(0)
x = rng.standard_normal((4, 60, 1))
target = models.DiagonalRNN([0.5, 2.0], np.ones((2, 1)), np.ones((1, 2)))
y = np.stack([target(s, dt=0.1) for s in x])
start = models.initialise_s4d_lin(4, timescale=1.0, key=0)
directory, pause = sys.argv[1], float(sys.argv[2])
def callback(progress):
    import time
    print(progress.step, flush=True)
    time.sleep(pause)
found = training.train_model(
    start, x, y, key=3, dt=0.1, n_steps=70, n_batch=2, steps_per_call=10,
    checkpoint=directory, callback=callback,
)
np.savez(sys.argv[3], losses=found.losses, weights=found.model.weights, C=found.model.C,
         resumed_at=found.stats["resumed_at"])
"""


def records(n=4, n_samples=60):
    x = np.random.default_rng(0).standard_normal((n, n_samples, 1))
    target = models.DiagonalRNN([0.5, 2.0], np.ones((2, 1)), np.ones((1, 2)))
    return x, np.stack([np.asarray(target(s, dt=0.1)) for s in x])


def start():
    return models.initialise_s4d_lin(4, timescale=1.0, key=0)


def train(x, y, model=None, **changed):
    settings = {"key": 0, "dt": 0.1, "n_steps": 40, "steps_per_call": 10, **changed}
    return training.train_model(start() if model is None else model, x, y, **settings)


def test_a_killed_run_ends_in_the_same_bits(tmp_path):
    script = [sys.executable, "-c", _RUN]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    whole, cut = tmp_path / "whole.npz", tmp_path / "cut.npz"
    subprocess.run([*script, str(tmp_path / "a"), "0", str(whole)], check=True, env=environment)
    killed = subprocess.Popen(
        [*script, str(tmp_path / "b"), "0.05", str(cut)],
        env=environment,
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None
    killed.stdout.readline()
    time.sleep(random.uniform(0.0, 0.25))  # anywhere after the first call
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    subprocess.run([*script, str(tmp_path / "b"), "0", str(cut)], check=True, env=environment)
    a, b = np.load(whole), np.load(cut)
    assert b["resumed_at"] >= 10
    for name in ("losses", "weights", "C"):
        assert np.array_equal(a[name], b[name])


def test_the_scale_of_the_data_changes_nothing():
    x, y = records()
    one = train(x, y)
    other = train(1e4 * x, 3e-7 * y)
    assert other.losses == pytest.approx(one.losses, rel=1e-9)
    ratio = np.asarray(other.model(1e4 * x[0], dt=0.1)) / 3e-7
    assert ratio == pytest.approx(np.asarray(one.model(x[0], dt=0.1)), rel=1e-8, abs=1e-10)
    # The error is that of the model returned, in the units of the data.
    errors = [np.asarray(one.model(s, dt=0.1)) - t for s, t in zip(x, y, strict=True)]
    assert one.error == pytest.approx(np.mean(np.square(errors)) / np.mean(y**2), rel=1e-9)
    assert one.error < 0.5 * one.losses[0]
    # In the units of the data a model that fits already stays where it is.
    truth = models.DiagonalRNN([0.5, 2.0], np.ones((2, 1)), np.ones((1, 2)))
    kept = train(x, y, truth, n_steps=2, units="data", optimiser="gradient_descent")
    assert kept.error < 1e-20


def test_divergence_is_told_at_its_step():
    x, y = records()
    model = models.DiagonalRNN([1.0], [[1.0]], [[1.0]])
    steps = []
    found = train(
        x,
        y,
        model,
        optimiser="gradient_descent",
        learning_rate=50.0,
        callback=lambda p: steps.append(p.step),
    )
    assert found.status.code in ("diverged", "not_finite")
    # Every loss before it is finite, and the sentence names the step that follows the last one.
    assert np.isfinite(found.losses).all()
    assert f"step {len(found.losses)}," in found.status.message
    assert np.isfinite(np.asarray(found.model.weights)).all()
    # One step later plain gradient descent by hand has left the limit as well.
    alone = train(
        x,
        y,
        model,
        optimiser="gradient_descent",
        learning_rate=50.0,
        n_steps=len(found.losses),
    )
    assert alone.status.is_ok
    assert not alone.error < 1e6


def test_the_broken_layer_is_named():
    x, y = records()
    fine = models.DiagonalRNN([1.0], [[1.0]], [[1.0]])
    broken = models.DiagonalRNN([-400.0], [[1.0]], [[1.0]])
    found = train(x, y, models.Stack([fine, broken]))
    assert found.status.code == "not_finite"
    assert "step 0, in the output of layer 1 (DiagonalRNN) at sample" in found.status.message


def test_windows_batches_and_lengths():
    x, y = records()
    ragged = train(
        [x[0], x[1][:40]], [y[0], y[1][:40]], window=30, washout=5, n_batch=3, n_steps=20
    )
    assert ragged.error < ragged.losses[0]
    whole = train([x[0], x[1][:40]], [y[0], y[1][:40]], n_steps=1)
    model = start()
    normalised = [(x[0], y[0]), (x[1][:40], y[1][:40])]
    sx, sy = whole.stats["input_scale"], whole.stats["output_scale"]
    errors = np.concatenate([np.asarray(model(a / sx, dt=0.1)) - b / sy for a, b in normalised])
    assert whole.losses[0] == pytest.approx(np.mean(errors**2), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0][:1], y[0][:1]), "at least two samples"),
        (lambda x, y: (x, 0 * y), "zeros only"),
        (lambda x, y: (0 * x, y), "zeros only"),
        (lambda x, y: (x[0], y[0][:-1]), "as many samples as the inputs"),
        (lambda x, y: (x, y[:-1]), "records"),
        (lambda x, y: (x[0, :, 0], y[0]), "use signal"),
        (lambda x, y: (x, np.where(y == y[0, 3], np.nan, y)), "NaN"),
    ],
)
def test_bad_records_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        train(*change(*records()))


def test_another_run_is_not_resumed(tmp_path):
    x, y = records()
    train(x, y, n_steps=10, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="got another records"):
        train(x, 2 * y, checkpoint=tmp_path)
    (next(iter(tmp_path.glob("*.safetensors")))).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged"):
        train(x, y, checkpoint=tmp_path)


_DEVICES = """
import jax, numpy as np
from recollect import models, training
x = np.random.default_rng(0).standard_normal((6, 40, 1))
y = np.cumsum(x, axis=1) * 0.1
start = models.initialise_s4d_lin(4, timescale=1.0, key=0)
assert len(jax.devices()) == 4
run = lambda **k: training.train_model(start, x, y, key=0, dt=0.1, n_steps=20, **k).losses
one, four = run(), run(devices=4)
assert np.allclose(one, four, rtol=1e-9), (one, four)
one, four = run(n_batch=4), run(n_batch=4, devices=4)
assert np.allclose(one, four, rtol=1e-9), (one, four)
"""


def test_devices_share_the_records():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    subprocess.run([sys.executable, "-c", _DEVICES], check=True, env=environment)
