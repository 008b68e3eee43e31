"""Torch modules as users write them: asked without being told more than they say, or refused."""

from __future__ import annotations

import pytest

from recollect import memory
from recollect.diagnosis import measure_model

pytestmark = pytest.mark.peers


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def network(torch):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrence = torch.nn.LSTM(3, 8, num_layers=2, batch_first=True)
            self.head = torch.nn.Linear(8, 1)
            self.is_last_only = False

        def forward(self, signals):
            outputs = self.head(self.recurrence(signals)[0])
            return outputs[:, -1] if self.is_last_only else outputs

    torch.manual_seed(0)
    return Network()


def test_the_first_layer_says_how_many_inputs_there_are(torch, network):
    threads = torch.get_num_threads()
    report = measure_model(network, dt=1.0, horizon=30.0)
    assert report.summary()[0].startswith("model:        Network, 3 -> 1 channels")
    assert torch.get_num_threads() == threads


def test_a_network_with_biases_is_probed_at_rest(network):
    options = dict(dt=1.0, horizon=30.0, n_restarts=0, largest_input=1.0)
    assert measure_model(network, **options).map.is_time_homogeneous
    started = measure_model(network, settle=0.0, **options)
    assert "it starts out of rest: --settle" in "\n".join(started.summary())


def test_a_gated_layer_that_large_inputs_shut_is_not_given_an_end(torch):
    torch.manual_seed(0)
    report = measure_model(torch.nn.GRU(1, 16), n_restarts=0, horizon=64.0)
    assert report.status.code == "horizon_too_short"
    assert report.unit_inputs.is_settled
    assert report.unit_inputs.reach[2] < 10 < report.whole.reach[2]


def test_weights_alone_are_answered_with_what_to_do(torch):
    with pytest.raises(TypeError, match=r"my_file\.py:make"):
        measure_model(torch.nn.GRU(1, 4).state_dict())


def test_a_module_that_says_nothing_is_asked_for_its_inputs(torch):
    with pytest.raises(ValueError, match="--inputs"):
        measure_model(torch.nn.Tanh(), dt=1.0)


def test_the_last_output_alone_is_refused(network):
    network.is_last_only = True
    with pytest.raises(ValueError, match="at every step"):
        measure_model(network, dt=1.0)


def test_a_model_of_tokens_is_refused(torch):
    with pytest.raises(ValueError, match="embedding"):
        memory.from_torch(torch.nn.Embedding(10, 4), n_inputs=1)
