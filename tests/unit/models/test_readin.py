"""The normalised read-in: another coordinate of the same networks, in every place that reads B."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from recollect import models

LAGS = np.linspace(0, 12, 49)


def network(**options):
    rates = np.array([0.05, 0.4, 1.5])
    if options.pop("is_complex", False):
        rates = rates + 1j * np.array([0.3, 0.0, -2.0])
    B = np.array([[1.0, 0.2], [-0.5, 1.0], [0.3, -0.7]])
    C = np.array([[0.4, 1.0, -0.6]])
    return models.DiagonalRNN(rates, B, C, **options)


@pytest.mark.parametrize("dt", [None, 0.5])
@pytest.mark.parametrize("is_complex", [False, True])
def test_a_change_of_read_in_keeps_the_function(dt, is_complex):
    plain = network(dt=dt, is_complex=is_complex, reparam=models.Softplus())
    normalised = models.reparameterise(plain, readin="normalised")
    assert normalised.readin == "normalised"
    assert isinstance(normalised.reparam, models.Softplus)
    assert np.abs(normalised.B - plain.B).max() > 0.1
    again = models.reparameterise(normalised, models.Exponential(), readin="plain")
    assert isinstance(again.reparam, models.Exponential)
    for other in (normalised, models.reparameterise(normalised, models.Exponential()), again):
        assert other.kernel(LAGS) == pytest.approx(plain.kernel(LAGS), rel=1e-12, abs=1e-14)
        assert other.laplace([0.3]) == pytest.approx(plain.laplace([0.3]), rel=1e-12)
        x = np.random.default_rng(0).standard_normal((20, 2))
        assert other(x, dt=0.5) == pytest.approx(plain(x, dt=0.5), rel=1e-10, abs=1e-12)
    assert pytest.approx(plain.B, rel=1e-12) == again.B


def test_every_unit_answers_a_step_with_its_weight():
    for dt in (None, 0.5):
        unit = models.DiagonalRNN([0.02], [[1.0]], [[1.0]], dt=dt, readin="normalised")
        assert unit.step_response(np.array([2000.0]))[0, 0, 0] == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("is_complex", [False, True])
def test_conversions_keep_the_function(is_complex):
    model = network(is_complex=is_complex, readin="normalised", reparam=models.Exponential())
    for other in (models.rediscretise(model, 0.25), models.to_dense(model)):
        inputs = np.random.default_rng(1).standard_normal((30, 2))
        assert other(inputs, dt=0.25) == pytest.approx(model(inputs, dt=0.25), rel=1e-9, abs=1e-11)
    there = models.rediscretise(models.rediscretise(model, 0.25), None)
    assert there.readin == "normalised"
    assert pytest.approx(model.B, rel=1e-10) == there.B
    folded = models.fold_scales(models.Rescaled(model, input_scale=[2.0, 3.0], output_scale=[5.0]))
    expected = 5 * model.kernel(LAGS) / np.array([2.0, 3.0])
    assert folded.kernel(LAGS) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_files_keep_the_read_in_and_older_ones_are_plain(tmp_path):
    model = network(readin="normalised")
    models.save(model, tmp_path / "model")
    assert models.load(tmp_path / "model").readin == "normalised"
    assert models.load(tmp_path / "model").kernel(LAGS) == pytest.approx(model.kernel(LAGS))
    models.save(network(), tmp_path / "older")
    path = tmp_path / "older.json"
    record = json.loads(path.read_text())
    del record["model"]["fields"]["readin"]
    path.write_text(json.dumps(record))
    assert models.load(tmp_path / "older").readin == "plain"


def test_the_gradient_of_the_rate_passes_through_the_read_in():
    model = network(readin="normalised", reparam=models.Exponential())
    with jax.enable_x64(True):
        slope = jax.grad(lambda v: jax.numpy.sum(_moved(model, v).kernel(jax.numpy.array([0.7]))))
        found = np.asarray(jax.jit(slope)(jax.numpy.asarray(model.weights)))
    h = 1e-6
    for i in range(3):
        step = h * np.eye(3)[i]
        two = [
            _moved(model, model.weights + s * step).kernel(np.array([0.7])).sum() for s in (1, -1)
        ]
        assert found[i] == pytest.approx((two[0] - two[1]) / (2 * h), rel=1e-6, abs=1e-9)


def _moved(model, weights):
    import equinox as eqx

    return eqx.tree_at(lambda m: m.weights, model, weights)


def test_read_ins_are_named():
    with pytest.raises(ValueError, match="normalised"):
        network(readin="normalized")
    with pytest.raises(ValueError, match="positive rates"):
        models.reparameterise(
            models.DiagonalRNN([-0.1, 1.0], [[1.0], [1.0]], [[1.0, 1.0]]), readin="normalised"
        )


@pytest.mark.peers
@pytest.mark.parametrize("dt", [None, 0.25])
@pytest.mark.parametrize("is_complex", [False, True])
def test_the_torch_module_sees_the_same_inputs(dt, is_complex):
    torch = pytest.importorskip("torch")
    model = network(dt=dt, is_complex=is_complex, readin="normalised", reparam=models.Softplus())
    signal = np.random.default_rng(2).standard_normal((20, 2))
    found = models.to_torch(model, dt=0.25)(torch.tensor(signal)).detach().numpy()
    assert found == pytest.approx(model(signal, dt=0.25), abs=1e-13)
