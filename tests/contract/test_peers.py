"""The same numbers as other libraries: torch for the models, SciPy's AAA for the fits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recollect as rc
from recollect import approximation, memory, models, targets

pytestmark = pytest.mark.peers


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def signal(n_inputs=2, n_samples=40, seed=0):
    return np.random.default_rng(seed).standard_normal((n_samples, n_inputs))


@pytest.mark.parametrize(("kind", "layer"), [(models.GRU, "GRU"), (models.LSTM, "LSTM")])
def test_gated_networks_equal_torch(torch, kind, layer):
    torch.manual_seed(0)
    peer = getattr(torch.nn, layer)(2, 5, batch_first=True, dtype=torch.float64)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    ours = kind(*(getattr(peer, name).detach().numpy() for name in names))
    expected = peer(torch.from_numpy(signal())[None])[0][0].detach().numpy()
    np.testing.assert_allclose(np.asarray(ours(signal(), dt=1.0)), expected, atol=1e-12)


def test_the_elman_network_equals_torch(torch):
    torch.manual_seed(1)
    peer = torch.nn.RNN(2, 6, batch_first=True, dtype=torch.float64)
    module = models.ElmanRNN(
        peer.weight_hh_l0.detach().numpy(),
        peer.weight_ih_l0.detach().numpy(),
        np.eye(6),
        bias=(peer.bias_ih_l0 + peer.bias_hh_l0).detach().numpy(),
        activation="tanh",
    )
    expected = peer(torch.from_numpy(signal())[None])[0][0].detach().numpy()
    np.testing.assert_allclose(np.asarray(module(signal(), dt=1.0)), expected, atol=1e-12)


def linear_networks():
    rng = np.random.default_rng(2)
    B, C = rng.standard_normal((4, 2)), rng.standard_normal((3, 4))
    A = -np.diag(rng.uniform(0.2, 2, 4)) + 0.1 * rng.standard_normal((4, 4))
    yield "dense", models.LinearRNN(A, B, C)
    yield "diagonal", models.DiagonalRNN(rng.uniform(0.2, 2, 4), B, C, reparam=models.Softplus())


@pytest.mark.parametrize("name", ["dense", "diagonal"])
def test_an_exported_module_has_the_outputs_and_gradients(torch, name):
    ours = dict(linear_networks())[name]
    module = models.to_torch(ours, dt=0.3)
    output = module(torch.from_numpy(signal()))
    np.testing.assert_allclose(
        output.detach().numpy(), np.asarray(ours(signal(), dt=0.3)), atol=1e-12
    )
    (output**2).sum().backward()
    with jax.enable_x64(True):
        traced = jax.tree.map(lambda w: jnp.asarray(w), ours)
        slopes = jax.grad(lambda m: jnp.sum(m(jnp.asarray(signal()), dt=0.3) ** 2))(traced)
        np.testing.assert_allclose(module.C.grad.numpy(), np.asarray(slopes.C), rtol=1e-9)
        np.testing.assert_allclose(module.B.grad.numpy(), np.asarray(slopes.B), rtol=1e-9)


def test_a_torch_model_is_measured_like_ours(torch):
    torch.manual_seed(3)
    peer = torch.nn.LSTM(1, 4, batch_first=True, dtype=torch.float64)

    def call(values):
        with torch.no_grad():
            return peer(torch.from_numpy(values)[None])[0][0].numpy()

    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    ours = models.LSTM(*(getattr(peer, name).detach().numpy() for name in names))
    theirs = rc.as_functional(call, n_inputs=1, n_outputs=4)
    batched = memory.from_torch(peer, n_inputs=1)
    functionals = (ours, theirs, batched)
    # The grid asks both alike; the ascent has gradients for ours only.
    profiles = [memory.measure_memory(f, dt=1.0, horizon=30.0, n_restarts=0) for f in functionals]
    for profile in profiles[1:]:
        np.testing.assert_allclose(profiles[0].memory, profile.memory, atol=1e-10)
    searched = [memory.measure_memory(f, dt=1.0, horizon=30.0) for f in (ours, batched)]
    np.testing.assert_allclose(searched[0].memory, searched[1].memory, rtol=0.02, atol=1e-12)


@pytest.mark.parametrize("width", [4, 8])
def test_fits_are_never_worse_than_aaa(width):
    """AAA interpolates the transform; its poles with refitted amplitudes are a public baseline."""
    from scipy.interpolate import AAA

    kernel = targets.PowerLaw(exponent=2.0)
    points = np.geomspace(1e-4, 1e4, 400)
    rational = AAA(points, kernel.laplace(points)[:, 0, 0], max_terms=width + 1)
    rates = -rational.poles()
    rates = rates[(rates.real > 0) & (np.abs(rates.imag) < 1e-12 * np.abs(rates))].real
    t = np.expm1(np.linspace(0, np.log(1e6), 20001))
    weights = np.gradient(t)
    basis = np.exp(-t[:, None] * rates)
    root = np.sqrt(weights)
    values = kernel.kernel(t)[:, 0, 0]
    amplitudes = np.linalg.lstsq(root[:, None] * basis, root * values, rcond=None)[0]
    peer = np.sqrt(np.sum(weights * (basis @ amplitudes - values) ** 2))
    ours = approximation.fit_exponential_sum(kernel, width=width, norm="l2")
    assert ours.error <= peer * (1 + 1e-6)
