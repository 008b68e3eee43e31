"""Every form of every recurrence: same values, same derivatives, under every transform."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recollect import models
from recollect.models import _recurrence

T, BATCH, M = 19, 3, 4
_rng = np.random.default_rng(5)
DRIVE = _rng.standard_normal((T, BATCH, M))
START = _rng.standard_normal((BATCH, M))
VECTOR = _rng.uniform(0.2, 0.95, M)
MATRIX = 0.4 * _rng.standard_normal((M, M))
PER_STEP = _rng.uniform(0.2, 0.95, (T, M))


def _diagonal(activation: str) -> Any:
    return functools.partial(models.nonlinear_diagonal_states, activation=activation)


def _dense(activation: str, **options: float) -> Any:
    return functools.partial(models.nonlinear_dense_states, activation=activation, **options)


RECURRENCES: dict[str, tuple[Any, np.ndarray, str]] = {
    "linear": (models.linear_diagonal_states, VECTOR, "sequential"),
    "linear associative": (models.linear_diagonal_states, VECTOR, "associative"),
    "selective": (models.linear_diagonal_states, PER_STEP, "sequential"),
    "selective associative": (models.linear_diagonal_states, PER_STEP, "associative"),
    "linear dense": (models.linear_dense_states, MATRIX, "sequential"),
    "diagonal tanh": (_diagonal("tanh"), VECTOR, "sequential"),
    "diagonal hardtanh": (_diagonal("hardtanh"), VECTOR, "sequential"),
    "diagonal gelu": (_diagonal("gelu"), VECTOR, "sequential"),
    "diagonal newton": (_diagonal("tanh"), VECTOR, "newton"),
    "Elman tanh": (_dense("tanh"), MATRIX, "sequential"),
    "Elman relu": (_dense("relu"), MATRIX, "sequential"),
    "Elman sigmoid": (_dense("sigmoid"), MATRIX, "sequential"),
    "residual tanh": (_dense("tanh", leak=1.0, gain=0.1), MATRIX, "sequential"),
    "residual gelu": (_dense("gelu", leak=1.0, gain=0.1), MATRIX, "sequential"),
}
every = pytest.mark.parametrize("name", RECURRENCES)

# The reference is run once: to optimise it costs far more than to run it. Ours is compiled as users do.
REFERENCE = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def _losses(name: str) -> tuple[Any, Any, np.ndarray]:
    states, weights, form = RECURRENCES[name]

    def loss(form: str) -> Any:
        return lambda w, u, h: jnp.sum(jnp.sin(states(w, u, h, form=form)))

    return loss(form), loss("scan"), weights


@functools.cache
def _probed(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything about one recurrence and about its plain scan, in one compilation each."""
    ours, plain, weights = _losses(name)
    n_short = T if weights.shape == PER_STEP.shape else 5
    direction = np.random.default_rng(1).standard_normal(weights.shape)

    def probe(loss: Any) -> Any:
        def short(w: Any) -> Any:
            return loss(w, DRIVE[:n_short], START)

        def run(w: Any, u: Any, h: Any) -> dict[str, Any]:
            answers = {"all": jax.value_and_grad(loss, argnums=(0, 1, 2))(w, u, h)}
            if loss is ours:
                line = lambda step: loss(w + step * direction, u, h)  # noqa: E731
                answers["difference"] = (line(1e-6) - line(-1e-6)) / 2e-6
                answers["tangent"] = jax.jvp(line, (0.0,), (1.0,))[1]
                answers["mapped"] = jax.vmap(jax.grad(loss), in_axes=(None, 1, 0))(w, u, h)
            answers["curvature"] = jax.jvp(
                lambda step: jnp.vdot(jax.grad(short)(w + step * direction), direction),
                (0.0,),
                (1.0,),
            )[1]
            return answers

        options = None if loss is ours else REFERENCE
        return jax.tree.map(
            np.asarray, jax.jit(run, compiler_options=options)(weights, DRIVE, START)
        )

    with jax.enable_x64(True):
        return probe(ours), probe(plain)


@every
def test_values_and_gradients_equal_plain_scan(name: str):
    got, want = _probed(name)
    for a, b in zip(jax.tree.leaves(got["all"]), jax.tree.leaves(want["all"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.slow
@every
def test_gradient_equals_finite_differences(name: str):
    got, _ = _probed(name)
    np.testing.assert_allclose(got["tangent"], got["difference"], rtol=1e-6, atol=1e-6)


@every
def test_jvp_vmap_and_second_derivatives_work(name: str):
    got, want = _probed(name)
    gradient = want["all"][1][0]
    direction = np.random.default_rng(1).standard_normal(gradient.shape)
    np.testing.assert_allclose(got["tangent"], np.vdot(gradient, direction), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(np.sum(got["mapped"], axis=0), gradient, rtol=0, atol=1e-10)
    np.testing.assert_allclose(got["curvature"], want["curvature"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", [pytest.param((), marks=pytest.mark.slow), (40,)])
def test_gradients_gathered_in_pieces_are_whole(batch: tuple[int, ...]):
    rng = np.random.default_rng(2)
    drive, start = rng.standard_normal((300, *batch, M)), rng.standard_normal((*batch, M))

    def found(form: str) -> Any:
        loss = lambda *x: jnp.sum(models.nonlinear_dense_states(*x, form=form) ** 2)  # noqa: E731
        gradient = jax.grad(loss, argnums=(0, 1, 2))

        def run(weights: Any, drive: Any, start: Any) -> Any:
            several = jnp.stack([weights, 0.5 * weights])
            mapped = jax.vmap(gradient, in_axes=(0, None, None))(several, drive, start)
            return gradient(weights, drive, start), mapped

        options = REFERENCE if form == "scan" else None
        return jax.jit(run, compiler_options=options)(MATRIX, drive, start)

    with jax.enable_x64(True):
        ours, plain = found("sequential"), found("scan")
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12 * np.abs(y).max())


def test_hessian_matrix_of_a_saturating_network():
    with jax.enable_x64(True):
        hessians = [
            jax.jit(jax.hessian(loss), compiler_options=options)(VECTOR, DRIVE[:4], START)
            for loss, options in zip(_losses("diagonal tanh"), (None, REFERENCE), strict=False)
        ]
    np.testing.assert_allclose(*hessians, rtol=0, atol=1e-10)


def test_saturated_units_have_finite_second_derivatives():
    with jax.enable_x64(True):
        loss = lambda w: jnp.sum(models.nonlinear_diagonal_states(w, 50.0 * DRIVE, START))  # noqa: E731
        assert np.isfinite(jax.jit(jax.hessian(loss))(VECTOR)).all()


def test_newton_falls_back_where_it_does_not_converge():
    weights = 40.0 * np.ones(M)
    drive = 3.0 * DRIVE
    sequential = models.nonlinear_diagonal_states(weights, drive, START, form="sequential")
    newton = models.nonlinear_diagonal_states(weights, drive, START, form="newton")
    np.testing.assert_allclose(newton, sequential, rtol=0, atol=1e-9)


def test_host_arrays_are_answered_in_float64():
    states = models.linear_diagonal_states(VECTOR, DRIVE, START)
    assert isinstance(states, np.ndarray)
    expected, h = [], START
    for u in DRIVE:
        h = VECTOR * h + u
        expected.append(h)
    np.testing.assert_allclose(states, expected, rtol=1e-14)


def test_checkpointing_keeps_values_and_gradients():
    with jax.enable_x64(True):
        model = jax.tree.map(jnp.asarray, models.initialise_gru(5, n_inputs=2, n_outputs=1, key=0))
        signal = jnp.asarray(_rng.standard_normal((23, 2)))
        plain, kept = (
            jax.jit(jax.value_and_grad(lambda m: jnp.sum(call(m) ** 2)))(model)  # noqa: B023
            for call in (
                lambda m: m(signal, dt=1.0),
                lambda m: models.evaluate_checkpointed(m, signal, dt=1.0),
            )
        )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def _temporary_bytes(loss: Any, *arguments: Any) -> int:
    return jax.jit(jax.grad(loss)).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_grows_linearly_and_checkpointed_like_its_root():
    model = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32),
        models.initialise_elman(64, n_inputs=1, n_outputs=1, key=0),
    )

    def plain(m: Any, x: Any) -> Any:
        return jnp.sum(m(x, dt=1.0) ** 2)

    def kept(m: Any, x: Any) -> Any:
        return jnp.sum(models.evaluate_checkpointed(m, x, dt=1.0) ** 2)

    lengths = 16384, 131072
    signals = [jax.ShapeDtypeStruct((n, 1), jnp.float32) for n in lengths]
    growth = {}
    for name, loss in (("plain", plain), ("kept", kept)):
        small, large = (_temporary_bytes(loss, model, x) for x in signals)
        growth[name] = np.log(large / small) / np.log(lengths[1] / lengths[0])
        if name == "kept":
            assert large < 0.2 * _temporary_bytes(plain, model, signals[1])
    assert growth["plain"] <= 1.05
    assert growth["kept"] <= 0.95


def test_forms_are_chosen_visibly_and_refused_by_name():
    assert models.choose_form("linear", 100, platform="cpu") == "sequential"
    assert models.choose_form("dense", 1000, platform="cpu") == "sequential"
    assert models.choose_form("linear", 1000, platform="gpu") == "associative"
    assert models.choose_form("diagonal", 100_000, platform="gpu") == "newton"
    assert models.choose_form("dense", 100_000, platform="gpu") == "sequential"
    with pytest.raises(ValueError, match="one of scan, sequential, compiled, got 'newton'"):
        models.nonlinear_dense_states(MATRIX, DRIVE, START, form="newton")
    with pytest.raises(ValueError, match="drive: expected at least one sample"):
        models.linear_diagonal_states(VECTOR, DRIVE[:0], START)


def test_without_numba_the_loop_stays_in_jax(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_recurrence, "is_available", lambda: False)
    assert models.choose_form("linear", 1000, platform="cpu") == "sequential"
    drive = np.ones((600, M))
    expected = models.linear_diagonal_states(VECTOR, drive, form="sequential")
    np.testing.assert_array_equal(models.linear_diagonal_states(VECTOR, drive), expected)
    with pytest.raises(ValueError, match=r"form: expected 'compiled' where numba works.*\[fast\]"):
        models.linear_diagonal_states(VECTOR, drive, form="compiled")
