"""Memory of torch models, and reservoirpy's memory capacity."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import models
from recollect.diagnosis import measure_model
from recollect.memory import (
    from_torch,
    measure_capacity,
    measure_memory,
    measure_memory_map,
    measure_properties,
)

pytestmark = pytest.mark.peers


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def ours_of(layer, kind):
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return kind(*(getattr(layer, name).detach().double().numpy() for name in names))


@pytest.mark.parametrize(("kind", "name"), [(models.GRU, "GRU"), (models.LSTM, "LSTM")])
@pytest.mark.parametrize("batch_first", [True, False])
def test_torch_layers_have_the_memory_of_ours(torch, kind, name, batch_first):
    torch.manual_seed(0)
    layer = getattr(torch.nn, name)(2, 4, batch_first=batch_first)
    theirs = from_torch(layer, n_inputs=2)
    assert theirs.n_outputs == 4
    for probe in ("step", "impulse", "reversed"):
        found = [
            measure_memory(f, dt=1.0, horizon=40.0, n_restarts=0, probe=probe, settle=20.0)
            for f in (ours_of(layer, kind), theirs)
        ]
        np.testing.assert_allclose(found[0].memory, found[1].memory, atol=1e-10)
    assert next(layer.parameters()).dtype == torch.float32


def test_the_search_without_gradients_comes_close(torch):
    torch.manual_seed(1)
    layer = torch.nn.GRU(1, 4, batch_first=True)
    with_gradients = measure_memory(ours_of(layer, models.GRU), dt=1.0, horizon=30.0)
    without = measure_memory(from_torch(layer, n_inputs=1), dt=1.0, horizon=30.0)
    assert without.memory.sum() == pytest.approx(with_gradients.memory.sum(), rel=0.02)


def test_float32_is_seen_and_does_not_invent_memory(torch):
    torch.manual_seed(2)
    layer = torch.nn.GRU(1, 4, batch_first=True)
    exact = measure_memory(from_torch(layer, n_inputs=1), dt=1.0, horizon=100.0, n_restarts=0)
    coarse = measure_memory(
        from_torch(layer, n_inputs=1, precision="float32"), dt=1.0, horizon=100.0, n_restarts=0
    )
    np.testing.assert_allclose(coarse.memory, exact.memory, atol=2e-3 * exact.memory.max())


def test_a_transformer_layer_needs_its_mask(torch):
    torch.manual_seed(3)
    layer = torch.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    with pytest.raises(ValueError, match="causal"):
        measure_memory(from_torch(layer, n_inputs=4), dt=1.0, horizon=16.0)
    layer = layer.double().eval()

    def masked(values):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(values.shape[1])
        return layer(values, src_mask=mask.double())

    causal = from_torch(masked, n_inputs=4)
    found = measure_memory_map(causal, dt=1.0, horizon=24.0, n_starts=3, magnitudes=[1.0])
    assert not found.is_time_homogeneous
    assert found.before == 0


def test_a_bidirectional_layer_is_refused_with_its_look_ahead(torch):
    torch.manual_seed(6)
    layer = torch.nn.LSTM(1, 3, batch_first=True, bidirectional=True)
    both = from_torch(layer, n_inputs=1)
    with pytest.raises(ValueError, match=r"changes \d+ step"):
        measure_memory(both, dt=1.0, horizon=32.0)
    found = measure_properties(both, dt=1.0, horizon=16.0)
    assert found.causal.holds is False
    assert found.look_ahead > 4


def test_dropout_left_on_is_found(torch):
    torch.manual_seed(4)
    layer = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Dropout(0.5)).double().train()
    with pytest.raises(ValueError, match="randomness"):
        measure_memory(from_torch(lambda v: layer(v), n_inputs=1), dt=1.0, horizon=16.0)
    measure_memory(from_torch(layer, n_inputs=1), dt=1.0, horizon=16.0)


def test_a_module_can_be_reported_on(torch):
    torch.manual_seed(5)
    layer = torch.nn.GRU(3, 4, batch_first=True)
    report = measure_model(layer, horizon=32.0, n_restarts=0, largest_input=1.0)
    assert (report.whole.n_inputs, report.whole.n_outputs) == (3, 4)
    assert report.status.is_ok


def test_capacity_has_the_definition_of_reservoirpy():
    pytest.importorskip("reservoirpy")
    from reservoirpy.nodes import Reservoir, Ridge
    from reservoirpy.observables import memory_capacity

    rng = np.random.default_rng(0)
    width, n_delays, n_time = 20, 30, 2000
    W = rng.standard_normal((width, width))
    W *= 0.9 / np.abs(np.linalg.eigvals(W)).max()
    inputs = rng.uniform(-1, 1, (width, 1))
    series = rng.uniform(-0.8, 0.8, (n_time, 1))
    node = Reservoir(W=W, Win=inputs, bias=np.zeros(width), lr=1.0)
    theirs = memory_capacity(
        node >> Ridge(ridge=1e-8), k_max=n_delays, as_list=True, series=series, test_size=0.2
    )
    ours = models.ElmanRNN(W, inputs, np.ones((1, width)), activation="tanh")
    found = measure_capacity(
        ours,
        n_delays=n_delays + 1,
        n_washout=2 * n_delays,
        ridge=1e-8,
        score="test",
        series=series[:, 0],
    )
    np.testing.assert_allclose(found.per_delay[1:], theirs, atol=1e-5)
    assert found.per_delay[1:].sum() == pytest.approx(np.sum(theirs), rel=1e-5)
