"""How far a layer's weights may move: no move within a proved radius does more than it says."""

from __future__ import annotations

import json
import math

import equinox as eqx
import numpy as np
import pytest

from recollect import models
from recollect._core._json import finite_or_null
from recollect.diagnosis import measure_model
from recollect.diagnosis._margins import measure_margin

LAGS = np.linspace(0, 600, 60_001)


def size(kernel):
    values = np.linalg.norm(kernel, 2, axis=(1, 2))
    return float((LAGS[1] - LAGS[0]) * (values.sum() - values[[0, -1]].mean()))


def move(model, names, radius, rng):
    for name in names:
        weight = getattr(model, name)
        step = rng.standard_normal(weight.shape)
        step *= radius / np.linalg.norm(step)
        model = eqx.tree_at(lambda m, n=name: getattr(m, n), model, weight + step)
    return model


RATES = np.array([0.05, 0.2, 1.0])


@pytest.mark.parametrize("readin", ["plain", "normalised"])
@pytest.mark.parametrize("reparam", [models.Direct(), models.Softplus()])
def test_a_diagonal_layer_keeps_its_answer_within_the_radius(reparam, readin):
    rng = np.random.default_rng(1)
    B, C = rng.standard_normal((3, 2)), rng.standard_normal((2, 3))
    layer = models.DiagonalRNN(RATES, B, C, reparam=reparam, readin=readin)
    margin = measure_margin(layer, dt=1.0)
    assert margin.is_bound
    assert margin.radius > 0
    assert margin.unstable_from == (0.05 if isinstance(reparam, models.Direct) else math.inf)
    if isinstance(reparam, models.Direct):
        assert margin.direct == margin.radius
    else:
        assert margin.direct < margin.radius
    own = layer.kernel(LAGS)
    for _ in range(10):
        moved = move(layer, ("weights", "B", "C"), margin.radius, rng)
        assert size(moved.kernel(LAGS) - own) <= size(own) * (1 + 1e-3)


def test_a_dense_layer_keeps_its_answer_within_the_radius():
    rng = np.random.default_rng(2)
    A = np.array([[-0.1, 0.3, 0.0], [-0.3, -0.1, 0.2], [0.0, 0.0, -0.5]])
    layer = models.LinearRNN(A, rng.standard_normal((3, 1)), rng.standard_normal((1, 3)))
    margin = measure_margin(layer, dt=1.0)
    # A normal matrix would turn unstable at 0.1; 1/∫‖e^{At}‖ lies below.
    assert 0 < margin.radius < margin.unstable_from <= 0.1 + 1e-6
    assert margin.cure
    own = layer.kernel(LAGS)
    for _ in range(5):
        moved = move(layer, ("A", "B", "C"), margin.radius, rng)
        assert size(moved.kernel(LAGS) - own) <= size(own)


def test_a_discrete_layer_turns_unstable_no_earlier_than_said():
    layer = models.LinearRNN([[0.5]], [[1.0]], [[1.0]], dt=1.0)
    margin = measure_margin(layer, dt=1.0)
    assert margin.unstable_from == pytest.approx(0.5, rel=1e-6)


def test_an_unstable_layer_has_no_room():
    assert measure_margin(models.LinearRNN([[0.1]], [[1.0]], [[1.0]]), dt=1.0).radius == 0
    diagonal = models.DiagonalRNN([-0.1], [[1.0]], [[1.0]])
    assert measure_margin(diagonal, dt=1.0).unstable_from == 0


def test_a_move_found_by_search_does_what_it_says():
    rng = np.random.default_rng(0)
    layer = models.ElmanRNN(0.4 * np.eye(3), np.ones((3, 1)), np.ones((1, 3)) / 3)
    margin = measure_margin(layer, dt=1.0)
    assert not margin.is_bound
    assert 0 < margin.radius < 1
    paths = rng.standard_normal((20, 64, 1))

    def answers(model):
        return np.stack([np.asarray(model(path, dt=1.0)) for path in paths])

    # The worst direction was searched: a random one of a tenth the size does far less.
    moved = move(layer, ("W", "U", "C"), 0.1 * margin.radius, rng)
    assert np.mean((answers(moved) - answers(layer)) ** 2) < 0.1 * np.mean(answers(layer) ** 2)


def test_what_is_unknown_says_why():
    def running_mean(u):
        return np.cumsum(u, axis=0) / np.arange(1, len(u) + 1)[:, None]

    report = measure_model(running_mean, horizon=32.0, n_restarts=0)
    assert report.whole.margin.words() == "not known here: a function does not show them"
    record = json.loads(json.dumps(finite_or_null(report.record()), allow_nan=False))
    assert record["model"]["margin"]["radius"] is None
    assert record["model"]["margin"]["status"]["code"] == "undecided"
    wide = models.LinearRNN(-np.eye(65), np.ones((65, 1)), np.ones((1, 65)))
    assert "wider than 64" in measure_margin(wide, dt=1.0).words()


def test_the_report_carries_one_margin_per_layer():
    recurrence = models.DiagonalRNN(RATES, np.ones((3, 1)), np.ones((1, 3)))
    layers = [models.StateSpaceLayer(recurrence, np.ones((1, 1)), activation="gelu")] * 2
    report = measure_model(models.Stack(layers), horizon=64.0, n_restarts=0)
    assert report.whole.margin is None
    assert all(layer.margin.radius > 0 for layer in report.layers)
    assert sum("before the answer changes" in line for line in report.summary()) == 2


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_torch_layers_are_the_same_network_in_our_classes(kind):
    torch = pytest.importorskip("torch", reason="peers: needs torch")
    from recollect.diagnosis._layers import _recurrent_of_torch

    module = getattr(torch.nn, kind)(2, 4, num_layers=2, batch_first=True).double()
    own = _recurrent_of_torch(module)
    signal = np.random.default_rng(0).standard_normal((30, 2))
    with torch.no_grad():
        theirs = module(torch.tensor(signal)[None])[0][0].numpy()
    np.testing.assert_allclose(np.asarray(own(signal, dt=1.0)), theirs, atol=1e-12)
    assert _recurrent_of_torch(torch.nn.GRU(2, 4, bidirectional=True)) is None
    assert _recurrent_of_torch(torch.nn.Linear(2, 2)) is None
