"""Nonlinear models: against loops written out, streaming, and clear refusals."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from recollect import models

_rng = np.random.default_rng(11)
SIGNAL = _rng.standard_normal((25, 2))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def test_gru_against_its_equations():
    model = models.initialise_gru(5, n_inputs=2, key=0)
    U, W, b, d = model.input_weights, model.state_weights, model.input_bias, model.state_bias
    h = np.zeros(5)
    for k, x in enumerate(SIGNAL):
        i, s = U @ x + b, W @ h + d
        r, z = _sigmoid(i[:5] + s[:5]), _sigmoid(i[5:10] + s[5:10])
        h = (1 - z) * np.tanh(i[10:] + r * s[10:]) + z * h
        np.testing.assert_allclose(model(SIGNAL, dt=1.0)[k], h, atol=1e-14)


def test_lstm_against_its_equations():
    model = models.initialise_lstm(5, n_inputs=2, key=0)
    U, W, b, d = model.input_weights, model.state_weights, model.input_bias, model.state_bias
    output = model(SIGNAL, dt=1.0)
    h, c = np.zeros(5), np.zeros(5)
    for k, x in enumerate(SIGNAL):
        i, f, g, o = np.split(U @ x + b + W @ h + d, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(output[k], h, atol=1e-14)


def test_attention_against_its_definition():
    q, k, v = _rng.standard_normal((3, 4, 2))
    C, slopes = _rng.standard_normal((1, 4)), np.array([0.2, 0.0])
    for window in (None, 6):
        model = models.CausalAttention(q, k, v, C, slopes, window=window)
        padded = SIGNAL if window is None else np.concatenate([np.zeros((5, 2)), SIGNAL])
        output, shift = model(SIGNAL, dt=1.0), len(padded) - len(SIGNAL)
        for t in range(len(SIGNAL)):
            seen = padded[: t + 1] if window is None else padded[t : t + shift + 1]
            y = []
            for head in range(2):
                rows = slice(2 * head, 2 * head + 2)
                score = (seen @ k[rows].T) @ (q[rows] @ SIGNAL[t]) / np.sqrt(2)
                score -= slopes[head] * np.arange(len(seen))[::-1]
                weight = np.exp(score - score.max())
                y.append((weight / weight.sum()) @ (seen @ v[rows].T))
            np.testing.assert_allclose(output[t], C @ np.concatenate(y), atol=1e-13)


def test_a_selective_unit_forgets_at_the_pace_its_input_sets():
    model = models.SelectiveRNN([0.5], [[1.0, 0.0]], [[1.0]], [[0.0, 30.0]], [-30.0])
    signal = np.zeros((40, 2))
    signal[0, 0], signal[0, 1] = 1.0, 1.1
    signal[20, 1] = 2.0
    output = model(signal, dt=1.0)[:, 0]
    assert output[0] > 0.1
    np.testing.assert_allclose(output[19], output[0], rtol=1e-6)
    assert abs(output[20]) < 1e-3 * output[0]


@pytest.mark.parametrize(
    "model",
    [
        models.initialise_lru_ring(6, n_inputs=2, key=0),
        models.initialise_s4d_lin(6, timescale=9.0, n_inputs=2, key=0),
        models.initialise_elman(6, n_inputs=2, key=0),
        models.initialise_lstm(6, n_inputs=2, n_outputs=1, key=0),
        models.Stack(
            [
                models.initialise_gru(3, n_inputs=2, key=0),
                models.initialise_gru(4, n_inputs=3, key=1),
            ]
        ),
    ],
    ids=lambda m: type(m).__name__,
)
def test_stream_equals_call(model: models.ElmanRNN):
    push = models.stream(model, dt=1.0)
    streamed = np.stack([push(x) for x in SIGNAL])
    np.testing.assert_allclose(streamed, model(SIGNAL, dt=1.0), atol=1e-12)
    with pytest.raises(ValueError, match="value: expected shape"):
        push(np.zeros(3))


def test_fixed_readout_gets_no_gradient():
    model = jax.tree.map(
        jax.numpy.asarray, models.initialise_symmetric(8, alpha=0.3, n_inputs=2, key=0)
    )
    total = lambda m: jax.numpy.sum(m(jax.numpy.asarray(SIGNAL), dt=1.0))  # noqa: E731
    gradient = jax.jit(jax.grad(total))(model)
    assert np.abs(gradient.C).max() == 0
    assert np.abs(gradient.U).max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.ElmanRNN(np.eye(3), np.ones((2, 1)), np.ones((1, 3))), "U: expected shape"),
        (lambda: models.ElmanRNN(np.zeros((0, 0)), np.ones((0, 1)), np.ones((1, 0))), "width"),
        (lambda: models.ResidualRNN([[np.nan]], [[1.0]], [[1.0]]), "W: expected finite"),
        (
            lambda: models.ElmanRNN([[1.0]], [[1.0]], [[1.0]], activation="tahn"),
            "did you mean 'tanh'",
        ),
        (lambda: models.GRU(np.ones((6, 1)), np.ones((5, 2))), "state_weights"),
        (lambda: models.activate("tahn", SIGNAL), "did you mean 'tanh'"),
        (lambda: models.Stack([]), "at least one layer"),
        (
            lambda: models.Stack(
                [models.initialise_gru(3, key=0), models.initialise_gru(3, key=0)]
            ),
            "3 inputs of layer 1",
        ),
    ],
)
def test_impossible_models_are_refused(make: object, message: str):
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
