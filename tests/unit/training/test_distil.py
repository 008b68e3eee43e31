"""Distilled layers: the errors stated are true, nothing around the linear part changes."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from recollect import models, training
from recollect._core._discretise import Euler

NORMS = ("l1", "l2", "linf")


def s4d(width, seed, **options):
    return models.initialise_s4d_lin(width, timescale=20.0, key=seed, **options)


def impulse_response(model, n_lags, dt):
    """K_j by running the recurrence, shape (lag, out, in): no formula of the library's kernels."""
    found = []
    for i in range(model.n_inputs):
        impulse = np.zeros((n_lags, model.n_inputs))
        impulse[0, i] = 1.0
        found.append(np.asarray(model(impulse, dt=dt)))
    return np.stack(found, axis=2)


def dense_norms(difference, dt):
    rows = np.abs(difference).sum(axis=2)
    return {
        "l1": rows.sum(axis=0).max(),
        "l2": np.sqrt(np.sum(difference**2) / dt),
        "linf": rows.max() / dt,
    }


def balanced_truncation(A, B, C, width):
    """Square-root balanced truncation of a discrete system by its two Gramians."""
    P = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
    Q = scipy.linalg.solve_discrete_lyapunov(A.T, C.T @ C)
    values, vectors = np.linalg.eigh(P)
    root_p = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    values, vectors = np.linalg.eigh(Q)
    root_q = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    left, values, right = np.linalg.svd(root_q @ root_p)
    scale = 1 / np.sqrt(values[:width])
    write = root_p @ right[:width].T * scale
    read = (scale[:, None] * left[:, :width].T) @ root_q
    return (read @ A @ write, read @ B, C @ write), values


@pytest.mark.parametrize("norm", NORMS)
def test_the_errors_of_a_discrete_layer_are_those_of_a_dense_convolution(norm):
    layer = models.rediscretise(s4d(12, 0, n_outputs=2), 0.5)
    found = training.distil(layer, width=6, norm=norm)
    n_lags = 4000
    apart = impulse_response(layer, n_lags, 0.5) - impulse_response(found.model, n_lags, 0.5)
    wanted = dense_norms(apart, 0.5)
    for name in NORMS:
        assert found.errors[name] == pytest.approx(wanted[name], rel=1e-9)
        assert 0 < found.bounds[name] <= found.errors[name]
    assert found.error == found.errors[norm]
    assert found.width == 6
    assert found.dt == 0.5


def test_the_errors_of_a_continuous_layer_are_those_of_its_kernel():
    layer = s4d(12, 1)
    found = training.distil(layer, width=6)
    lags = np.linspace(0, 1200, 600_001)
    apart = (np.asarray(layer.kernel(lags)) - np.asarray(found.model.kernel(lags)))[:, 0, 0]
    assert found.errors["l2"] == pytest.approx(np.sqrt(np.trapezoid(apart**2, lags)), rel=1e-6)
    assert found.errors["l1"] == pytest.approx(np.trapezoid(np.abs(apart), lags), rel=2e-3)
    assert found.errors["linf"] == pytest.approx(np.abs(apart).max(), rel=1e-2)
    # In continuous time the model serves at every step, and L1 bounds the operator there.
    for dt in (0.3, 2.0):
        steps = impulse_response(layer, 3000, dt) - impulse_response(found.model, 3000, dt)
        assert np.abs(steps).sum() <= found.errors["l1"] * (1 + 1e-3)


def test_the_hankel_bound_is_that_of_the_gramians():
    layer = models.rediscretise(s4d(12, 2), 1.0)
    found = training.distil(layer, width=6)
    dense = models.to_dense(layer)
    A, B, C = (np.asarray(x) for x in (dense.A, dense.B, dense.C))
    truncated, values = balanced_truncation(A, B, C, 6)
    assert found.bounds["l1"] == pytest.approx(values[6], rel=1e-6)
    # Balanced truncation is no better in L2, for it is one of the starts.
    plain = models.LinearRNN(*truncated, dt=1.0)
    apart = impulse_response(layer, 3000, 1.0) - impulse_response(plain, 3000, 1.0)
    assert found.errors["l2"] <= np.linalg.norm(apart) * (1 + 1e-9)


def test_an_optimum_in_l2_interpolates_at_the_mirror_images():
    layer = s4d(12, 3)
    found = training.distil(layer, width=6).model
    points = np.conj(np.asarray(found.rates))
    for derivative in (0, 1):
        wanted = np.asarray(layer.laplace(points, derivative=derivative))
        own = np.asarray(found.laplace(points, derivative=derivative))
        assert np.abs(own - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_everything_around_the_linear_part_stays_as_it_is():
    rng = np.random.default_rng(0)
    layer = models.StateSpaceLayer(
        s4d(12, 4, n_inputs=3, n_outputs=3),
        rng.standard_normal((3, 3)),
        rng.standard_normal((3, 3)),
        rng.standard_normal(3),
        activation="gelu",
        is_residual=True,
    )
    found = training.distil(layer, width=6, dt=1.0)
    small = found.model
    assert isinstance(small, models.StateSpaceLayer)
    assert small.recurrence.width == 6
    for name in ("mix", "skip", "bias"):
        np.testing.assert_array_equal(getattr(small, name), getattr(layer, name))
    assert small.activation == "gelu"
    assert small.is_residual
    # With the kernels' difference put back, the outputs agree: nothing else was touched.
    signal = rng.standard_normal((400, 3))
    outputs = np.asarray(layer(signal, dt=1.0)) - np.asarray(small(signal, dt=1.0))
    assert 0 < np.abs(outputs).max() <= found.output_bound * np.abs(signal).max()


def test_the_output_bound_is_reached_by_some_input():
    layer = models.StateSpaceLayer(s4d(8, 5), np.eye(1), activation="linear")
    found = training.distil(layer, width=4, dt=1.0)
    n = 1500
    apart = impulse_response(layer, n, 1.0) - impulse_response(found.model, n, 1.0)
    worst = np.sign(apart[::-1, 0, 0])[:, None]
    reached = np.asarray(layer(worst, dt=1.0)) - np.asarray(found.model(worst, dt=1.0))
    assert np.abs(reached).max() == pytest.approx(found.output_bound, rel=1e-6)


def test_a_layer_with_fewer_modes_than_asked_is_kept():
    layer = models.DiagonalRNN([0.5, 2.0], [[1.0], [1.0]], [[1.0, -0.3]])
    found = training.distil(layer, width=4)
    assert found.error == pytest.approx(0.0, abs=1e-14)
    assert found.width == 2
    copied = models.DiagonalRNN(
        [0.5, 0.5, 2.0, 2.0], np.ones((4, 1)), [[0.4, 0.6, -0.1, -0.2]], reparam=models.Softplus()
    )
    merged = training.distil(copied, width=2)
    assert merged.error < 1e-14
    assert isinstance(merged.model.reparam, models.Softplus)


def test_an_error_is_met_by_the_fewest_states():
    layer = models.rediscretise(
        models.initialise_from_timescales((2.0, 200.0), width=16, key=0), 1.0
    )
    found = training.distil(layer, relative_error=1e-3)
    assert found.relative_error <= 1e-3
    assert found.status.is_ok
    narrower = training.distil(layer, width=found.width - 1)
    assert narrower.relative_error > 1e-3
    absolute = training.distil(layer, error=found.error * 1.0001)
    assert absolute.width == found.width


def test_channels_without_a_common_state_are_distilled_apart():
    first, second = s4d(8, 6), s4d(8, 7)
    zero = np.zeros((8, 1))
    layer = models.DiagonalRNN(
        np.concatenate([first.rates, second.rates]),
        np.block([[first.B, zero], [zero, second.B]]),
        np.block([[first.C, zero.T], [zero.T, second.C]]),
        reparam=models.Exponential(),
    )
    found = training.distil(layer, width=4)
    assert found.stats["n_separate"] == 2
    assert found.width == 8
    parts = [training.distil(each, width=4) for each in (first, second)]
    assert found.errors["l1"] == pytest.approx(max(p.errors["l1"] for p in parts), rel=1e-3)
    assert found.errors["l2"] == pytest.approx(np.hypot(*(p.error for p in parts)), rel=1e-6)
    assert np.abs(np.asarray(found.model.kernel(np.arange(5.0)))[:, 0, 1]).max() == 0


def test_several_inputs_and_outputs_share_their_state():
    layer = models.initialise_lru_ring(12, n_inputs=2, n_outputs=3, key=1)
    found = training.distil(layer, width=6)
    assert found.width == 6
    apart = impulse_response(layer, 8000, 1.0) - impulse_response(found.model, 8000, 1.0)
    assert found.errors["l2"] == pytest.approx(np.linalg.norm(apart), rel=1e-7)
    dense = models.to_dense(layer)
    truncated, _ = balanced_truncation(*(np.asarray(x) for x in (dense.A, dense.B, dense.C)), 6)
    plain = models.LinearRNN(*truncated, dt=1.0)
    missed = impulse_response(layer, 8000, 1.0) - impulse_response(plain, 8000, 1.0)
    assert found.errors["l2"] <= np.linalg.norm(missed) * (1 + 1e-9)
    assert found.bound <= found.error


@pytest.mark.parametrize("norm", NORMS)
def test_a_long_convolution_becomes_a_recurrence(norm):
    rng = np.random.default_rng(0)
    lag = np.arange(300)
    kernels = np.stack(
        [np.exp(-lag / 20) * np.cos(lag / 6), np.exp(-lag / 50) - 0.5 * np.exp(-lag / 4)]
    )
    kernels += 1e-3 * rng.standard_normal(kernels.shape) * np.exp(-lag / 60)
    found = training.distil(kernels, width=3, norm=norm)
    response = impulse_response(found.model, 20_000, 1.0)
    assert np.abs(response[:, 0, 1]).max() == 0
    padded = np.zeros((20_000, 2))
    padded[:300] = kernels.T
    apart = np.stack([padded[:, c] - response[:, c, c] for c in range(2)], axis=1)
    assert found.errors["l1"] == pytest.approx(np.abs(apart).sum(axis=0).max(), rel=1e-9)
    assert found.errors["l2"] == pytest.approx(np.linalg.norm(apart), rel=1e-9)
    assert found.errors["linf"] == pytest.approx(np.abs(apart).max(), rel=1e-9)
    assert 0 < found.bound <= found.error
    signal = rng.standard_normal((500, 2))
    exact = np.stack([np.convolve(signal[:, c], kernels[c])[:500] for c in range(2)], axis=1)
    reached = np.abs(np.asarray(found.model(signal, dt=1.0)) - exact).max()
    assert reached <= found.output_bound * np.abs(signal).max()


def test_the_bounds_of_a_sequence_are_those_of_its_dense_hankel_matrix():
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal(500) * np.exp(-np.arange(500) / 100)
    found = training.distil(kernel[None], width=5)
    padded = np.concatenate([kernel, np.zeros(500)])
    index = np.arange(500)[:, None] + np.arange(500)
    values = np.linalg.svd(padded[index], compute_uv=False)
    assert found.bounds["l1"] == pytest.approx(values[5], rel=1e-6)
    root = np.sqrt(np.cumprod(np.concatenate([[1.0], 1 - 0.5 / np.arange(1, 500)])))
    weighted = np.linalg.svd(padded[index] * root[:, None] * root, compute_uv=False)
    assert np.linalg.norm(weighted) == pytest.approx(np.linalg.norm(kernel), rel=1e-9)
    assert found.bounds["l2"] == pytest.approx(np.linalg.norm(weighted[5:]), rel=1e-4)


def test_a_full_matrix_of_kernels_and_a_callable():
    lag = np.arange(200)
    poles = np.array([0.95, 0.8, 0.6])
    rng = np.random.default_rng(2)
    b, c = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    kernels = np.einsum("mo,mi,ml->oil", c, b, poles[:, None] ** lag)
    found = training.distil(kernels, width=3)
    # What the window cuts off is 0.95^200 of the kernel.
    assert found.relative_error < 1e-4

    def convolve(signal):
        return np.stack(
            [
                sum(np.convolve(signal[:, i], kernels[o, i])[: len(signal)] for i in range(2))
                for o in range(2)
            ],
            axis=1,
        )

    asked = training.distil(convolve, width=3, n_inputs=2, n_lags=200)
    assert asked.errors["l2"] == pytest.approx(found.errors["l2"], abs=1e-9)


def test_a_stack_keeps_its_other_layers():
    rng = np.random.default_rng(3)
    gru = models.initialise_gru(3, n_inputs=1, n_outputs=1, key=0)
    stack = models.Stack(
        [
            models.StateSpaceLayer(s4d(8, 8), rng.standard_normal((1, 1)), activation="tanh"),
            gru,
            models.to_dense(s4d(8, 9)),
        ]
    )
    found = training.distil(stack, width=4, dt=1.0)
    assert [type(layer).__name__ for layer in found.model.layers] == [
        "StateSpaceLayer",
        "GRU",
        "LinearRNN",
    ]
    assert len(found.parts) == 2
    assert found.width == 8
    assert found.width_before == 16
    assert found.relative_error == max(part.relative_error for part in found.parts)
    assert np.isfinite(np.asarray(found.model(rng.standard_normal((20, 1)), dt=1.0))).all()


def test_the_model_streams_saves_and_returns(tmp_path):
    layer = models.StateSpaceLayer(s4d(8, 10), np.eye(1), activation="gelu")
    found = training.distil(layer, width=4, dt=1.0)
    signal = np.random.default_rng(4).standard_normal((50, 1))
    whole = np.asarray(found.model(signal, dt=1.0))
    models.save(found.model, tmp_path / "small")
    again = models.load(tmp_path / "small")
    np.testing.assert_allclose(np.asarray(again(signal, dt=1.0)), whole, atol=1e-12)
    step = models.stream(found.model, dt=1.0)
    np.testing.assert_allclose(np.stack([step(x) for x in signal]), whole, atol=1e-10)


def test_weights_of_float32_and_a_normalised_read_in_are_taken():
    layer = models.reparameterise(s4d(8, 11), models.Exponential(), readin="normalised")
    found = training.distil(layer, width=4)
    assert found.model.readin == "normalised"
    plain = training.distil(s4d(8, 11), width=4)
    assert found.error == pytest.approx(plain.error, rel=1e-6)
    single = models.DiagonalRNN(
        jnp.asarray([0.5, 1.0, 2.0]), jnp.ones((3, 1)), jnp.asarray([[1.0, 0.1, 0.2]])
    )
    assert training.distil(single, width=2).relative_error < 0.05


def test_a_network_without_modes_is_distilled_by_its_kernel():
    A = np.array([[0.9, 1.0, 0.0], [0.0, 0.9, 1.0], [0.0, 0.0, 0.9]])
    layer = models.LinearRNN(A, [[0.0], [0.0], [1.0]], [[1.0, 0.0, 0.0]], dt=1.0)
    found = training.distil(layer, width=2)
    assert isinstance(found.model, models.LinearRNN)
    apart = impulse_response(layer, 2000, 1.0) - impulse_response(found.model, 2000, 1.0)
    assert found.errors["l2"] == pytest.approx(np.linalg.norm(apart), rel=1e-6)
    assert found.bound <= found.error


def test_euler_needs_its_step_and_is_exact_there():
    layer = models.DiagonalRNN(
        [0.2, 0.5, 1.5], np.ones((3, 1)), [[1.0, -0.4, 0.3]], discretisation=Euler()
    )
    with pytest.raises(ValueError, match="dt: expected the step"):
        training.distil(layer, width=2)
    found = training.distil(layer, width=2, dt=0.5)
    apart = impulse_response(layer, 500, 0.5) - impulse_response(found.model, 500, 0.5)
    assert found.errors["l2"] == pytest.approx(np.linalg.norm(apart) / np.sqrt(0.5), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: training.distil(s4d(4, 0)), "one of width, error, relative_error"),
        (lambda: training.distil(s4d(4, 0), width=2, error=0.1), "one of width"),
        (lambda: training.distil(s4d(4, 0), width=2, norm="l3"), "one of l1, l2, linf"),
        (lambda: training.distil(np.zeros((2, 5)), width=1), "zeros only"),
        (lambda: training.distil(np.full((2, 5), np.nan), width=1), "finite"),
        (lambda: training.distil(np.ones((2, 2, 2, 2)), width=1), "shape"),
        (lambda: training.distil(lambda x: x, width=1), "n_lags"),
        (lambda: training.distil(np.tanh, width=1, n_lags=20), "linear in time"),
        (
            lambda: training.distil(models.DiagonalRNN([-0.1], [[1.0]], [[1.0]]), width=1),
            "recurrence that forgets",
        ),
        (
            lambda: training.distil(
                models.initialise_gru(2, n_inputs=1, n_outputs=1, key=0), width=1, n_lags=30
            ),
            "linear in time",
        ),
    ],
)
def test_errors_are_plain(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_thing_that_is_no_layer():
    with pytest.raises(TypeError, match="layer: expected"):
        training.distil(3.0, width=1)
    gru = models.Stack([models.initialise_gru(2, n_inputs=1, key=0)])
    with pytest.raises(TypeError, match="stack with a linear recurrence"):
        training.distil(gru, width=1)


def test_the_result_is_frozen():
    found = training.distil(s4d(4, 0), width=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.width = 3


@pytest.mark.peers
def test_a_distilled_layer_runs_in_torch():
    torch = pytest.importorskip("torch")
    layer = models.StateSpaceLayer(s4d(8, 12), np.eye(1), activation="gelu")
    found = training.distil(layer, width=4, dt=1.0)
    signal = np.random.default_rng(5).standard_normal((60, 1))
    output = models.to_torch(found.model, dt=1.0)(torch.tensor(signal)).detach().numpy()
    np.testing.assert_allclose(output, np.asarray(found.model(signal, dt=1.0)), atol=1e-6)
