"""What every functional promises: causality, time shift, linearity, and one answer by every road.

Each functional is compiled once: a batch of probe signals goes through one jitted call that
returns outputs and gradients, and every test reads from it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recollect
from recollect import models, targets

N_TIME = 48
CHANGE = 30
SHIFT = 7


@dataclasses.dataclass(frozen=True)
class Case:
    make: Callable[[], Any]
    dt: float = 0.25
    is_linear: bool = True
    is_exact: bool = True  # the call is the convolution with the kernel integrals
    is_homogeneous: bool = True
    atol_float32: float = 1e-5


def _rng() -> np.random.Generator:
    return np.random.default_rng(20240917)


def _dense(**options: Any) -> models.LinearRNN:
    rng = _rng()
    A = rng.standard_normal((5, 5)) - 3 * np.eye(5)
    if options.get("dt"):
        A = 0.9 * A / np.abs(np.linalg.eigvals(A)).max()
    return models.LinearRNN(A, rng.standard_normal((5, 2)), rng.standard_normal((3, 5)), **options)


def _real(**options: Any) -> models.DiagonalRNN:
    rng = _rng()
    rates = np.array([0.01, 0.2, 0.5, 1.5])
    return models.DiagonalRNN(
        rates, rng.standard_normal((4, 2)), rng.standard_normal((1, 4)), **options
    )


def _complex(**options: Any) -> models.DiagonalRNN:
    rng = _rng()
    half = rng.standard_normal((2, 2)) + 1j * rng.standard_normal((2, 2))
    read = rng.standard_normal((2, 2)) + 1j * rng.standard_normal((2, 2))
    rates = np.array([0.3 + 2j, 1.0 + 0.5j])
    return models.DiagonalRNN(
        np.concatenate([rates, rates.conj()]),
        np.concatenate([half, half.conj()]),
        np.concatenate([read, read.conj()], axis=1),
        **options,
    )


def _affine() -> models.AffineRNN:
    network = _dense()
    return models.AffineRNN(network, [0.5, -1.0], [1.0, 2.0, 3.0], 0.1 * np.arange(1.0, 6.0))


def _state_network() -> models.StateNetwork:
    rng = _rng()
    network = models.LinearRNN(
        rng.standard_normal((4, 4)) - 3 * np.eye(4),
        rng.standard_normal((4, 5)),
        rng.standard_normal((2, 4)),
    )
    return models.StateNetwork(
        network,
        tuple(rng.standard_normal(shape) for shape in ((3, 4), (3, 2), (3,))),  # pyright: ignore
        input_units=tuple(rng.standard_normal(shape) for shape in ((2, 2), (2, 2), (2,))),  # pyright: ignore
        output_units=tuple(rng.standard_normal(shape) for shape in ((2, 1), (1, 4), (1,))),  # pyright: ignore
        input_offset=[0.5, -1.0],
        output_offset=[1.0, 2.0],
        start=[0.1, 0.2, 0.3, 0.4],
        lower=[1.5, 4.0],
        upper=[3.0, 7.0],
    )


def _weights(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = _rng()
    return [rng.standard_normal(shape) / np.sqrt(shape[-1]) for shape in shapes]


def _dense_nonlinear(kind: Any, activation: str) -> Any:
    W, U, C = _weights((6, 6), (6, 2), (3, 6))
    return kind(W - (kind is models.ResidualRNN) * np.eye(6), U, C, activation=activation)


def _gated(kind: Any, n_gates: int) -> Any:
    U, W, b, d, C = _weights(
        (5 * n_gates, 2), (5 * n_gates, 5), (5 * n_gates,), (5 * n_gates,), (3, 5)
    )
    return kind(U, W, b, d, C)


def _layer(**options: Any) -> models.StateSpaceLayer:
    mix, skip, bias = _weights((2, 2), (2, 2), (2,))
    return models.StateSpaceLayer(_complex(), mix, skip, 0 * bias + 1e-300, **options)


def _stack() -> models.Stack:
    U, W, C = _weights((15, 2), (15, 5), (1, 5))
    return models.Stack(
        [
            _layer(activation="gelu", is_residual=True),
            models.GRU(U, W),
            models.LinearRNN(-np.eye(5), np.eye(5), C),
        ]
    )


def _attention(window: int | None) -> models.CausalAttention:
    q, k, v, C = _weights((4, 2), (4, 2), (4, 2), (3, 4))
    return models.CausalAttention(q, k, v, C, np.array([0.1, 0.5]), window=window)


MODELS = {
    "ResidualRNN tanh": Case(lambda: _dense_nonlinear(models.ResidualRNN, "tanh"), is_linear=False),
    "ResidualRNN gelu": Case(lambda: _dense_nonlinear(models.ResidualRNN, "gelu"), is_linear=False),
    "ElmanRNN tanh": Case(lambda: _dense_nonlinear(models.ElmanRNN, "tanh"), is_linear=False),
    "ElmanRNN hardtanh": Case(
        lambda: _dense_nonlinear(models.ElmanRNN, "hardtanh"), is_linear=False
    ),
    "ElmanRNN relu": Case(lambda: _dense_nonlinear(models.ElmanRNN, "relu"), is_linear=False),
    "DiagonalNonlinearRNN": Case(
        lambda: models.DiagonalNonlinearRNN(*_weights((6,), (6, 2), (1, 6)), readout="trained"),
        is_linear=False,
    ),
    "GRU": Case(lambda: _gated(models.GRU, 3), is_linear=False, is_homogeneous=False),
    "LSTM": Case(lambda: _gated(models.LSTM, 4), is_linear=False, is_homogeneous=False),
    "SelectiveRNN": Case(
        lambda: models.SelectiveRNN([0.05, 0.3, 1.0, 2.0], *_weights((4, 2), (3, 4), (4, 2), (4,))),
        is_linear=False,
    ),
    "StateSpaceLayer": Case(_layer, is_linear=False),
    "Stack": Case(_stack, is_linear=False),
    "CausalAttention": Case(lambda: _attention(None), is_linear=False, is_homogeneous=False),
    "CausalAttention window": Case(lambda: _attention(9), is_linear=False),
    "AffineRNN": Case(_affine, is_linear=False, is_homogeneous=False),
    "StateNetwork": Case(_state_network, is_linear=False, is_homogeneous=False),
    "LinearRNN continuous": Case(_dense),
    "LinearRNN Euler": Case(lambda: _dense(discretisation=recollect.Euler()), is_exact=False),
    "LinearRNN discrete": Case(lambda: _dense(dt=0.25)),
    "DiagonalRNN real": Case(_real),
    "DiagonalRNN Euler": Case(lambda: _real(discretisation=recollect.Euler()), is_exact=False),
    "DiagonalRNN discrete": Case(lambda: _real(dt=0.25)),
    "DiagonalRNN normalised": Case(lambda: _real(readin="normalised")),
    "DiagonalRNN normalised complex discrete": Case(
        lambda: _complex(dt=0.25, readin="normalised", reparam=models.Exponential())
    ),
    "DiagonalRNN complex": Case(_complex),
    "DiagonalRNN complex discrete": Case(lambda: _complex(dt=0.25)),
    "DiagonalRNN relu": Case(lambda: _real(reparam=models.Relu())),
    "DiagonalRNN exponential": Case(lambda: _complex(reparam=models.Exponential())),
    "DiagonalRNN softplus": Case(lambda: _real(reparam=models.Softplus())),
    "DiagonalRNN inverse square": Case(lambda: _real(reparam=models.InverseSquare())),
    "DiagonalRNN discrete direct": Case(
        lambda: _real(dt=0.25, reparam=models.DiscreteDirect(0.25))
    ),
    "DiagonalRNN discrete inverse square": Case(
        lambda: _real(dt=0.25, reparam=models.DiscreteInverseSquare(0.25))
    ),
}


def _targets() -> dict[str, Case]:
    """Every public kernel of targets, with typical arguments; edges lie on multiples of dt."""
    rng = _rng()
    lags = np.linspace(0.0, 5.0, 21)
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "PowerLaw": ((), {"exponent": 1.5, "scale": 1.0}),
        "Airy": ((), {"scale": 1.0, "shift": 4.0}),
        "Bump": ((), {"delay": 4.0, "width": 1.0, "height": 1.0}),
        "Box": ((1.0, 3.0), {}),
        "StretchedExponential": ((), {"exponent": 0.5, "scale": 1.0}),
        "SampledKernel": ((lags, np.exp(-lags) * np.cos(lags)), {}),
        "exponential_sum": ((np.array([1.0, -0.5]), np.array([0.5, 2.0])), {}),
        "parse_kernel": (("exp(-t)+exp(-(t-4)**2/2)",), {}),
    }
    # A kernel with a kink or a cusp inside a step defeats the sixteen-node quadrature.
    smooth = {"StretchedExponential"}
    del rng
    return {
        name: Case(functools.partial(getattr(targets, name), *args, **kwargs), dt=0.25)
        for name, (args, kwargs) in arguments.items()
        if hasattr(targets, name) and name not in smooth
    }


CASES = {**MODELS, **{f"targets.{name}": case for name, case in _targets().items()}}


def _probes(n_inputs: int) -> np.ndarray:
    rng = _rng()
    first, second, future = rng.standard_normal((3, N_TIME, n_inputs))
    changed = np.where(np.arange(N_TIME)[:, None] < CHANGE, first, future)
    shifted = np.concatenate([np.zeros((SHIFT, n_inputs)), first[:-SHIFT]])
    return np.stack([first, changed, shifted, second, 2 * first - 3 * second, np.zeros_like(first)])


def _loss(model: Any, batch: Any, dt: float) -> tuple[Any, Any]:
    outputs = jax.vmap(lambda signal: model(signal, dt=dt))(batch)
    return jnp.mean(jnp.square(outputs)), outputs


@dataclasses.dataclass(frozen=True)
class Probed:
    functional: Any
    signals: np.ndarray
    outputs: np.ndarray
    gradients: Any


@functools.cache
def probed(name: str) -> Probed:
    case = CASES[name]
    functional = case.make()
    signals = _probes(functional.n_inputs)
    if name not in MODELS and not isinstance(functional, recollect.AbstractRecurrent):
        outputs = np.stack([functional(signal, dt=case.dt) for signal in signals])
        return Probed(functional, signals, outputs, None)
    with jax.enable_x64(True):
        model = jax.tree.map(jnp.asarray, functional)
        compiled = eqx.filter_jit(eqx.filter_value_and_grad(_loss, has_aux=True))
        (_, outputs), gradients = compiled(model, jnp.asarray(signals), case.dt)
        gradients = [np.asarray(leaf) for leaf in jax.tree.leaves(gradients)]
        return Probed(functional, signals, np.asarray(outputs), gradients)


def _size(values: Any) -> float:
    return max(1.0, float(np.abs(values).max()))


every = pytest.mark.parametrize("name", CASES)
every_model = pytest.mark.parametrize("name", MODELS)
# Without jit every operation of every shape is compiled alone. Their parts have cases of their own.
LONG_ALONE = ("Stack", "CausalAttention window")
every_model_alone = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG_ALONE else n for n in MODELS]
)
every_linear = pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.is_linear])


@every
def test_shape_and_finiteness(name: str):
    p = probed(name)
    assert p.outputs.shape == (len(p.signals), N_TIME, p.functional.n_outputs)
    assert np.isfinite(p.outputs).all()
    assert np.abs(p.outputs[0]).max() > 0


@every
def test_causality(name: str):
    p = probed(name)
    np.testing.assert_allclose(
        p.outputs[1, :CHANGE], p.outputs[0, :CHANGE], rtol=0, atol=1e-12 * _size(p.outputs)
    )
    kernel_sees_now = np.abs(p.outputs[1, CHANGE:] - p.outputs[0, CHANGE:]).max()
    assert kernel_sees_now > 1e-6 * _size(p.outputs)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.is_homogeneous])
def test_time_shift(name: str):
    p = probed(name)
    np.testing.assert_allclose(
        p.outputs[2, SHIFT:], p.outputs[0, :-SHIFT], rtol=0, atol=1e-10 * _size(p.outputs)
    )
    np.testing.assert_allclose(p.outputs[2, :SHIFT], p.outputs[5, :SHIFT], rtol=0, atol=1e-12)


@every
def test_linearity_where_claimed(name: str):
    p = probed(name)
    combined = 2 * p.outputs[0] - 3 * p.outputs[3]
    difference = np.abs(p.outputs[4] - combined).max() / _size(p.outputs)
    if CASES[name].is_linear:
        assert isinstance(p.functional, recollect.AbstractLinearFunctional)
        assert difference < 1e-10
        np.testing.assert_allclose(p.outputs[5], 0.0, atol=1e-12)
    else:
        assert not isinstance(p.functional, recollect.AbstractLinearFunctional)
        assert difference > 1e-6


@every_linear
def test_call_is_convolution_with_kernel_integrals(name: str):
    p, case = probed(name), CASES[name]
    functional = p.functional
    if not case.is_exact:
        functional = models.rediscretise(functional, case.dt)
    edges = np.arange(N_TIME + 1) * case.dt
    integrals = np.diff(np.asarray(functional.step_response(edges)), axis=0)
    expected = np.zeros((N_TIME, functional.n_outputs))
    for k in range(N_TIME):
        for j in range(k + 1):
            expected[k] += integrals[j] @ p.signals[0, k - j]
    np.testing.assert_allclose(p.outputs[0], expected, rtol=0, atol=1e-10 * _size(expected))


@every_linear
def test_step_response_is_integral_of_kernel(name: str):
    functional, dt = probed(name).functional, CASES[name].dt
    nodes, weights = np.polynomial.legendre.leggauss(16)
    left = np.arange(N_TIME) * dt
    lags = left[:, None] + 0.5 * dt * (nodes + 1)
    values = np.asarray(functional.kernel(lags.ravel()))
    values = values.reshape(N_TIME, len(nodes), *values.shape[1:])
    integrals = 0.5 * dt * np.einsum("q,jqoi->joi", weights, values)
    steps = np.asarray(functional.step_response(np.arange(N_TIME + 1) * dt))
    np.testing.assert_allclose(steps[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(np.diff(steps, axis=0), integrals, rtol=0, atol=1e-10 * _size(steps))


@every_linear
def test_laplace_transform_of_kernel(name: str):
    functional, dt = probed(name).functional, CASES[name].dt
    nodes, weights = np.polynomial.legendre.leggauss(16)
    lags = (np.arange(N_TIME)[:, None] * dt + 0.5 * dt * (nodes + 1)).ravel()
    values = np.asarray(functional.kernel(lags))
    s = np.array([3.5, 5.0])
    for derivative in range(3):
        weight = np.tile(0.5 * dt * weights, N_TIME) * (-lags) ** derivative
        expected = np.einsum("st,toi->soi", np.exp(-s[:, None] * lags) * weight, values)
        transform = np.asarray(functional.laplace(s, derivative=derivative))
        np.testing.assert_allclose(transform, expected, rtol=0, atol=1e-10 * _size(expected))


@every_linear
def test_nothing_before_time_zero(name: str):
    functional = probed(name).functional
    before = np.array([-1.0, -0.25, -1e-3])
    for ask in (functional.kernel, functional.step_response):
        np.testing.assert_array_equal(np.asarray(ask(before)), 0.0)


@every
def test_single_precision_agrees(name: str):
    p, dt = probed(name), CASES[name].dt
    single = np.asarray(p.signals[0], np.float32)
    if name in MODELS:
        model = jax.tree.map(jnp.asarray, p.functional)
        narrow = np.asarray(jax.jit(lambda x: model(x, dt=dt))(single))
        assert narrow.dtype == np.float32
    else:
        narrow = p.functional(single, dt=dt)
    tolerance = CASES[name].atol_float32 * _size(p.outputs)
    np.testing.assert_allclose(narrow, p.outputs[0], rtol=0, atol=tolerance)


@every_model
def test_jit_equals_host(name: str):
    p, dt = probed(name), CASES[name].dt
    host = p.functional(p.signals[0], dt=dt)
    np.testing.assert_allclose(host, p.outputs[0], rtol=0, atol=1e-10 * _size(p.outputs))
    assert isinstance(host, np.ndarray)
    assert host.dtype == np.float64


@every_model_alone
def test_jit_equals_eager(name: str):
    p, dt = probed(name), CASES[name].dt
    # Without jit a scan is a Python loop: a few samples suffice, and nothing is compiled.
    with jax.enable_x64(True), jax.disable_jit():
        model = jax.tree.map(jnp.asarray, p.functional)
        eager = np.asarray(model(jnp.asarray(p.signals[0, :6]), dt=dt))
    np.testing.assert_allclose(eager, p.outputs[0, :6], rtol=0, atol=1e-10 * _size(p.outputs))


@every_model
def test_gradients_are_finite_and_reach_every_weight(name: str):
    p = probed(name)
    leaves = [leaf for leaf in jax.tree.leaves(p.functional) if np.asarray(leaf).dtype.kind in "fc"]
    assert len(p.gradients) == len(leaves)
    for gradient in p.gradients:
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@every_model
def test_streaming_equals_call(name: str):
    p, dt = probed(name), CASES[name].dt
    if not isinstance(p.functional, recollect.AbstractRecurrent):
        pytest.skip("has no state to carry")
    state = p.functional.initial_state()
    for k in range(12):
        state = p.functional.step(state, p.signals[0, k], dt=dt)
        output = p.functional.readout(state)
        assert isinstance(output, np.ndarray)
        np.testing.assert_allclose(output, p.outputs[0, k], rtol=0, atol=1e-10 * _size(p.outputs))


@every_model
def test_record_round_trip(name: str, tmp_path: Any):
    p, dt = probed(name), CASES[name].dt
    models.save(p.functional, tmp_path / "model")
    loaded = models.load(tmp_path / "model")
    assert jax.tree.structure(loaded) == jax.tree.structure(p.functional)
    for ours, theirs in zip(jax.tree.leaves(p.functional), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(loaded(p.signals[0], dt=dt), p.functional(p.signals[0], dt=dt))


@every
def test_wrong_signals_are_refused_in_words(name: str):
    p, dt = probed(name), CASES[name].dt
    n_inputs = p.functional.n_inputs
    for bad in (np.zeros(5), np.zeros((0, n_inputs)), np.zeros((5, n_inputs + 1))):
        with pytest.raises(ValueError, match="signal: expected"):
            p.functional(bad, dt=dt)
    for bad_dt in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="dt"):
            p.functional(p.signals[0], dt=bad_dt)
