"""Against torch: its own GRU, LSTM and RNN, and our export of every model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recollect
from recollect import models

pytestmark = pytest.mark.peers
SIGNAL = np.random.default_rng(0).standard_normal((40, 3))


@pytest.mark.parametrize("name", ["GRU", "LSTM", "RNN"])
def test_torch_layers_are_ours(name: str):
    torch = pytest.importorskip("torch")
    layer = getattr(torch.nn, name)(3, 7, batch_first=True).double()
    U, W, b, d = (p.detach().numpy() for p in layer.parameters())
    ours = {
        "GRU": lambda: models.GRU(U, W, b, d),
        "LSTM": lambda: models.LSTM(U, W, b, d),
        "RNN": lambda: models.ElmanRNN(W, U, np.eye(7), b + d),
    }[name]()
    with torch.no_grad():
        theirs = layer(torch.from_numpy(SIGNAL)[None])[0][0].numpy()
    np.testing.assert_allclose(ours(SIGNAL, dt=1.0), theirs, rtol=0, atol=1e-13)


def _models() -> dict[str, recollect.AbstractFunctional]:
    rng = np.random.default_rng(1)
    diagonal = models.initialise_s4d_lin(6, timescale=9.0, n_inputs=3, n_outputs=3, key=0)
    gru = models.initialise_gru(4, n_inputs=3, key=0)
    layer = models.StateSpaceLayer(diagonal, rng.standard_normal((3, 3)), is_residual=True)
    A = rng.standard_normal((5, 5)) - 3 * np.eye(5)
    B, C = rng.standard_normal((5, 3)), rng.standard_normal((2, 5))
    dense = models.LinearRNN(A, B, C)
    q, k, v = rng.standard_normal((3, 4, 3))
    return {
        "dense": dense,
        "dense Euler": models.LinearRNN(A, B, C, discretisation=recollect.Euler()),
        "dense discrete": models.rediscretise(dense, 0.1),
        "affine": models.AffineRNN(dense, np.ones(3), np.ones(2), np.ones(5)),
        "diagonal": diagonal,
        "diagonal discrete": models.initialise_lru_ring(6, dt=0.1, n_inputs=3, key=0),
        "residual": models.initialise_residual(5, timescale=2.0, n_inputs=3, key=0),
        "Elman": models.initialise_elman(5, n_inputs=3, key=0, activation="gelu"),
        "symmetric": models.initialise_symmetric(6, alpha=0.5, n_inputs=3, key=0),
        "GRU": gru,
        "LSTM": models.initialise_lstm(4, n_inputs=3, n_outputs=2, key=0),
        "selective": models.SelectiveRNN(
            [0.1, 0.5, 1.0, 2.0], *(rng.standard_normal(s) for s in ((4, 3), (2, 4), (4, 3), (4,)))
        ),
        "stack": models.Stack([layer, gru]),
        "attention": models.CausalAttention(q, k, v, C[:, :4], [0.1, 0.3], window=7),
    }


@pytest.mark.parametrize("name", _models())
def test_export_has_the_same_outputs_and_gradients(name: str):
    torch = pytest.importorskip("torch")
    model = _models()[name]
    exported = models.to_torch(model, dt=0.1)
    output = exported(torch.from_numpy(SIGNAL))
    (output**2).sum().backward()
    np.testing.assert_allclose(model(SIGNAL, dt=0.1), output.detach().numpy(), rtol=0, atol=1e-11)
    with jax.enable_x64(True):
        traced = jax.tree.map(jnp.asarray, model)
        gradients = jax.grad(lambda m: jnp.sum(m(jnp.asarray(SIGNAL), dt=0.1) ** 2))(traced)
    ours = {
        ".".join(str(getattr(k, "name", getattr(k, "idx", k))) for k in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
    }
    theirs = {n: p.grad for n, p in exported.named_parameters()}
    assert set(ours) == set(theirs)
    for key, gradient in theirs.items():
        # torch's gradient of a complex weight is the conjugate of JAX's.
        value = np.zeros_like(ours[key]) if gradient is None else gradient.numpy().conj()
        size = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(ours[key], value, rtol=0, atol=1e-10 * size)
