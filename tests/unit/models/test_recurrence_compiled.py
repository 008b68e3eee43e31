"""The compiled form against plain scan: values, every derivative, every transform, every type."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recollect import models
from recollect.models import _compiled

pytestmark = pytest.mark.peers
states = models.linear_diagonal_states
through = models.nonlinear_diagonal_states
dense = models.nonlinear_dense_states


@pytest.fixture(autouse=True)
def _numba():
    pytest.importorskip("numba")
    assert _compiled.is_available()


CASES = {
    # time, axes between, width, multipliers per step
    "constant": (300, (3,), 5, False),
    "one sample": (1, (3,), 5, False),
    "no batch": (7, (), 4, False),
    "wide": (6, (2, 40), 33, False),
    "selective": (300, (2,), 5, True),
    "selective sample": (1, (2,), 5, True),
}


def _case(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_time, axes, width, is_selective = CASES[name]
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if dtype[0] == "c" else x).astype(dtype)

    a = rng.uniform(0.2, 0.98, (n_time, width) if is_selective else width).astype(dtype)
    if dtype[0] == "c":
        a = a * np.exp(1j * rng.standard_normal(a.shape)).astype(dtype)
    return a, draw(n_time, *axes, width), draw(*axes, width)


def _everything(form: str, arrays: Any, states: Any) -> dict[str, Any]:
    def loss(a: Any, u: Any, h: Any) -> Any:
        return jnp.sum(jnp.sin(jnp.abs(states(a, u, h, form=form) - 0.3)))

    gradient = jax.grad(loss, argnums=(0, 1, 2))

    def run(a: Any, u: Any, h: Any) -> dict[str, Any]:
        line = jax.tree.map(
            lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape) + 0 * x, (a, u, h)
        )
        more_a, more_u = (jnp.stack([0.8 * x, x]) for x in (a, u))
        directional = lambda a, u: jax.jvp(loss, (a, u, h), line)[1]  # noqa: E731
        return {
            "states": states(a, u, h, form=form),
            "gradient": gradient(a, u, h),
            "tangent": directional(a, u),
            "curvature": jax.jvp(gradient, (a, u, h), line)[1],
            "gradient of tangent": jax.grad(directional, argnums=(0, 1))(a, u),
            "mapped over both": jax.vmap(gradient, in_axes=(0, 0, None))(more_a, more_u, h),
            "mapped over multipliers": jax.vmap(gradient, in_axes=(0, None, None))(more_a, u, h),
            "mapped over drives": jax.vmap(gradient, in_axes=(None, 0, None))(a, more_u, h),
            "mapped tangent": jax.vmap(directional)(more_a, more_u),
            "gradient of mapped": jax.grad(
                lambda a: jnp.sum(jax.vmap(loss, in_axes=(0, None, None))(a, u, h))
            )(more_a),
        }

    return jax.tree.map(np.asarray, jax.jit(run)(*arrays))


@pytest.mark.parametrize(
    ("name", "dtype", "activation"),
    [
        ("constant", "complex128", None),
        ("selective", "float64", None),
        ("constant", "float64", "tanh"),
        ("one sample", "float64", "sigmoid"),
    ],
)
def test_values_and_derivatives_under_every_transform(
    name: str, dtype: str, activation: str | None
):
    arrays = _case(name, dtype)
    run = states if activation is None else functools.partial(through, activation=activation)
    _compare_everything(arrays, run)


def _dense_case(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, drive, initial = _case(name, dtype)
    width = drive.shape[-1]
    weights = np.random.default_rng(4).standard_normal((width, width)) / np.sqrt(width)
    return weights.astype(dtype), drive, initial


@pytest.mark.parametrize(
    ("name", "activation"),
    [("constant", "tanh"), ("one sample", "sigmoid"), ("no batch", "tanh")],
)
def test_dense_values_and_derivatives_under_every_transform(name: str, activation: str):
    _compare_everything(
        _dense_case(name, "float64"), functools.partial(dense, activation=activation)
    )


def _compare_everything(arrays: Any, run: Any) -> None:
    with jax.enable_x64(True):
        ours, plain = (_everything(form, arrays, run) for form in ("compiled", "scan"))
    for key, expected in plain.items():
        for x, y in zip(jax.tree.leaves(ours[key]), jax.tree.leaves(expected), strict=True):
            assert x.dtype == y.dtype, key
            np.testing.assert_allclose(
                x, y, rtol=0, atol=1e-12 * max(1.0, abs(y).max()), err_msg=key
            )


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("constant", dtype) for dtype in _compiled.DTYPES]
    + [("selective", "complex64"), ("selective sample", "float32"), ("wide", "float32")],
)
def test_values_and_gradients_of_every_type(name: str, dtype: str):
    arrays = _case(name, dtype)
    rtol = 1e-12 if dtype in ("float64", "complex128") else 2e-5

    def found(form: str, run: Any) -> Any:
        def loss(*x: Any) -> Any:
            return jnp.sum(jnp.abs(run(*x, form=form)) ** 2)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arrays)

    runs = [states]
    if dtype[0] == "f" and arrays[0].ndim == 1:
        runs += [functools.partial(through, activation=name) for name in ("tanh", "sigmoid")]
    for run in runs:
        with jax.enable_x64(True):
            ours, plain = (jax.tree.leaves(found(form, run)) for form in ("compiled", "scan"))
        for x, y in zip(ours, plain, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=0, atol=rtol * max(1.0, np.abs(y).max()))


@pytest.mark.parametrize("dtype", _compiled.REAL_DTYPES)
@pytest.mark.parametrize("name", ["one sample", "no batch", "wide"])
def test_dense_values_and_gradients_of_every_type(name: str, dtype: str):
    arrays = _dense_case(name, dtype)
    rtol = 1e-12 if dtype == "float64" else 2e-5

    def found(form: str, activation: str) -> Any:
        def loss(*x: Any) -> Any:
            return jnp.sum(dense(*x, form=form, activation=activation) ** 2)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arrays)

    for activation in ("tanh", "sigmoid"):
        with jax.enable_x64(True):
            ours, plain = (
                jax.tree.leaves(found(form, activation)) for form in ("compiled", "scan")
            )
        for x, y in zip(ours, plain, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=0, atol=rtol * max(1.0, np.abs(y).max()))


def test_the_gradient_of_a_mapped_dense_network_is_one_compiled_call():
    weights, drive, _ = _dense_case("constant", "float32")

    def loss(w: Any) -> Any:
        one = lambda u: jnp.sum(dense(w, u, form="compiled") ** 2)  # noqa: E731
        return jnp.sum(jax.vmap(one, in_axes=1)(drive))

    program = str(jax.make_jaxpr(jax.grad(loss))(weights))
    assert program.count("recollect_adjoint_dense") == 1
    whole = jax.grad(lambda w: jnp.sum(dense(w, drive, form="scan") ** 2))(weights)
    np.testing.assert_allclose(jax.grad(loss)(weights), whole, rtol=2e-5)


def test_sums_over_long_sequences_lose_no_digits():
    rng = np.random.default_rng(0)
    a, u = rng.uniform(0.5, 0.99, 3), rng.standard_normal((50_000, 3))
    loss = lambda a, u: jnp.sum(states(a, u, form="compiled") ** 2)  # noqa: E731
    single = jax.grad(loss)(jnp.asarray(a, jnp.float32), jnp.asarray(u, jnp.float32))
    with jax.enable_x64(True):
        double = jax.grad(loss)(jnp.float32(a).astype(float), jnp.float32(u).astype(float))
    np.testing.assert_allclose(single, double, rtol=2e-6)


@pytest.mark.parametrize("run", [states, through, dense], ids=["linear", "tanh", "dense"])
@pytest.mark.parametrize("place", ["multipliers", "drive", "cotangent", "first cotangent"])
def test_no_invalid_number_is_lost(place: str, run: Any):
    value = np.nan
    a, u, _ = (_dense_case if run is dense else _case)("constant", "float32")
    g = np.ones_like(u)
    {
        "multipliers": lambda: a.__setitem__(2, value),
        "drive": lambda: u.__setitem__((150, 1, 2), value),
        "cotangent": lambda: g.__setitem__((150, 1, 2), value),
        "first cotangent": lambda: g.__setitem__((0, 1, 2), value),
    }[place]()

    def found(form: str) -> Any:
        h, pull = jax.vjp(lambda a, u: run(a, u, form=form), jnp.asarray(a), jnp.asarray(u))
        return h, *pull(jnp.asarray(g))

    for x, y in zip(found("compiled"), found("scan"), strict=True):
        np.testing.assert_array_equal(np.isfinite(x), np.isfinite(y))


def test_answers_do_not_depend_on_what_runs_beside():
    a, u, _ = _case("constant", "float32")
    u = np.tile(u, (4, 30, 1))
    run = jax.jit(
        jax.grad(lambda a, u: jnp.sum(states(a, u, form="compiled") ** 2), argnums=(0, 1))
    )
    alone = jax.tree.map(np.asarray, run(a, u))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda _: jax.tree.map(np.asarray, run(a, u)), range(32)))
    for found in together:
        for x, y in zip(found, alone, strict=True):
            np.testing.assert_array_equal(x, y)


def test_lanes_are_independent_of_their_neighbours():
    a, u, _ = _case("constant", "float64")
    whole = states(a, u, form="compiled")
    for i in range(len(a)):
        np.testing.assert_array_equal(
            states(a[i : i + 1], u[:, 1, i : i + 1], form="compiled")[:, 0], whole[:, 1, i]
        )


def test_inputs_are_left_as_they_were():
    a, u, _ = _case("constant", "float32")
    a, u = jnp.asarray(a), jnp.asarray(u)
    h, pull = jax.vjp(lambda a, u: states(a, u, form="compiled"), a, u)
    before = [np.array(x) for x in (a, u, h)]
    pull(h)
    first = pull(h)
    for x, y in zip((a, u, h), before, strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(pull(h), first, strict=True):
        np.testing.assert_array_equal(x, y)


def test_it_works_without_jit_inside_a_map_and_where_nothing_is_compiled():
    a, u, _ = _case("constant", "float32")
    expected = states(jnp.asarray(a), jnp.asarray(u), form="scan")
    with jax.disable_jit():
        eager = states(jnp.asarray(a), jnp.asarray(u), form="compiled")
    mapped = jax.lax.map(lambda a: states(a, u, form="compiled"), jnp.stack([a, a]))[1]
    for found in (eager, mapped):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from recollect import models

mesh = Mesh(np.array(jax.devices()), ("b",))
u = np.random.default_rng(0).standard_normal((40, 4, 3)).astype("float32")
a = np.float32([0.9, 0.5, 0.2])

def loss(form, map_shards, run=models.linear_diagonal_states):
    def states(a, u):
        return run(a, u, form=form)
    if map_shards:
        states = jax.shard_map(states, mesh=mesh, in_specs=(P(), P(None, "b")), out_specs=P(None, "b"))
    return lambda a, u: jnp.sum(states(a, u) ** 2)

W = np.float32([[0.9, 0.1, 0.0], [0.2, 0.5, -0.3], [-0.4, 0.1, 0.2]])
for run, a in (
    (models.linear_diagonal_states, a),
    (models.nonlinear_diagonal_states, a),
    (models.nonlinear_dense_states, W),
):
    plain = jax.grad(loss("scan", False, run), (0, 1))(a, u)
    for map_shards in (True, False):
        found = jax.jit(jax.grad(loss("compiled", map_shards, run), (0, 1)))
        for x, y in zip(found(a, jax.device_put(u, jax.NamedSharding(mesh, P(None, "b")))), plain):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
assert len(jax.devices()) == 2
"""


def test_gradients_over_shards_are_summed():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SHARDED], env={**os.environ, **flags}, check=True)


def test_other_platforms_lower_to_a_loop():
    a, u, _ = _case("constant", "float32")
    run = jax.jit(jax.grad(lambda a, u: jnp.sum(states(a, u, form="compiled"))))
    text = run.trace(a, u).lower(lowering_platforms=("cuda",)).as_text()
    assert "while" in text
    assert "recollect_solve" not in text


def test_it_is_chosen_where_it_pays_and_refused_by_name():
    assert models.choose_form("linear", 1000, platform="cpu") == "compiled"
    assert models.choose_form("linear", 100, platform="cpu") == "sequential"
    half = jnp.ones((600, 3), jnp.bfloat16)
    assert states(half[0], half).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="form: expected another than 'compiled' for bfloat16"):
        states(half[0], half, form="compiled")
    assert models.choose_form("diagonal", 1000, platform="cpu") == "compiled"
    assert models.choose_form("dense", 1000, platform="cpu") == "sequential"
    elman = functools.partial(models.choose_form, "elman", platform="cpu")
    assert elman(1000) == elman(1000, width=64, n_rows=16) == "compiled"
    assert elman(100) == elman(1000, width=64, n_rows=1) == elman(1000, width=300) == "sequential"
    long = np.ones((600, 3))
    assert through(long[0], long, activation="relu").shape == long.shape
    with pytest.raises(ValueError, match="form: expected another than 'compiled' for relu"):
        through(long[0], long, activation="relu", form="compiled")
    with pytest.raises(ValueError, match="form: expected another than 'compiled' for complex64"):
        through(jnp.ones(3, "complex64"), jnp.ones((5, 3)), form="compiled")
    with pytest.raises(ValueError, match="form: expected one of scan, sequential, got 'compiled'"):
        models.linear_dense_states(np.ones((3, 3)), long, form="compiled")
    wide = np.ones((600, 20, 64))
    for dtype, is_compiled in (("float64", True), ("float32", False)):
        with jax.enable_x64(True):
            gradient = jax.grad(lambda w, u: jnp.sum(dense(w, u)))
            program = str(
                jax.make_jaxpr(gradient)(jnp.eye(64, dtype=dtype), jnp.asarray(wide, dtype))
            )
        assert ("recollect_adjoint_dense" in program) == is_compiled
    for options in ({"activation": "relu"}, {"leak": 1.0}, {"gain": 0.5}):
        with pytest.raises(ValueError, match="expected one of scan, sequential, got 'compiled'"):
            dense(np.eye(3), long, form="compiled", **options)
    with pytest.raises(ValueError, match="form: expected another than 'compiled' for complex64"):
        dense(jnp.eye(3, dtype="complex64"), long, form="compiled")
    with pytest.raises(ValueError, match="at least one sample"):
        states(np.ones(3), np.ones((0, 3)), form="compiled")
    with pytest.raises(ValueError, match="broadcast"):
        states(np.ones(4), np.ones((5, 3)), form="compiled")
    assert states(np.ones(3), np.ones((5, 0, 3)), form="compiled").shape == (5, 0, 3)


def test_models_run_in_it():
    signal = np.random.default_rng(2).standard_normal((700, 2))
    for model in (
        models.initialise_s4d_lin(6, timescale=9.0, n_inputs=2, n_outputs=3, key=0),
        models.initialise_lru_ring(6, dt=0.1, n_inputs=2, key=0),
    ):
        outputs = model(signal, dt=0.1)
        np.testing.assert_array_equal(outputs, model(signal, dt=0.1, form="compiled"))
        plain = model(signal, dt=0.1, form="scan")
        np.testing.assert_allclose(outputs, plain, rtol=0, atol=1e-12 * abs(plain).max())
