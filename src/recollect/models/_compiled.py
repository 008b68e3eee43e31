"""The diagonal recurrences as machine code: one pass forward, one pass back.

XLA's loop reads and writes its state from memory once per sample and its derivative makes separate
passes over the sequence. Here numba compiles the loop, XLA calls it in place of its own, and the
adjoint finds the cotangents of the drive and of the multipliers in the same pass, in the buffer the
cotangent came in.

The call is a JAX primitive with rules of its own, so `grad`, `jvp`, `vmap` and `hessian` work as on
the other forms. On any platform but a CPU the primitive is a `lax.scan`.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching

from recollect._core._types import Array
from recollect.models._activation import slope_of_output
from recollect.models._primitive import (
    bind,
    define_primitive,
    differentiate_through,
    map_through,
)

# Activations whose slope is a parabola in their value.
CURVED = {"tanh": (1.0, 0.0), "sigmoid": (0.0, 1.0)}
REAL_DTYPES = ("float32", "float64")
DTYPES = (*REAL_DTYPES, "complex64", "complex128")
_KEPT: list[Any] = []


@functools.cache
def is_available() -> bool:
    """Says whether the compiled form works here: numba installed, and a first call that is right."""
    if (
        importlib.util.find_spec("numba") is None
        or sys.byteorder != "little"
        or sys.maxsize < 2**32
    ):
        return False
    try:
        with (
            jax.ensure_compile_time_eval(),
            jax.default_device(jax.local_devices(backend="cpu")[0]),
        ):
            a = np.array([[0.5, -0.25, 0.0]], np.float32)
            g = np.arange(12, dtype=np.float32).reshape(4, 1, 3)
            h = np.asarray(bind(_solve_p, jnp.asarray(a), jnp.asarray(g), is_reverse=False))
            v, d = (np.asarray(x) for x in bind(_adjoint_p, *(jnp.asarray(x) for x in (a, h, g))))
    except Exception:
        # Whatever a foreign compiler or a changed interface throws means the same: not here.
        return False
    right = all(np.array_equal(h[t], a * h[t - 1] + g[t]) for t in range(1, 4))
    right &= all(np.array_equal(v[t], a * v[t + 1] + g[t]) for t in range(3))
    return bool(right and np.allclose(d[0], (v[1:] * h[:-1]).sum(axis=(0, 1)), rtol=1e-6))


def count_threads() -> int:
    """Returns how many threads share a long call of the compiled form: those of XLA's pool."""
    with (
        jax.ensure_compile_time_eval(),
        jax.default_device(jax.local_devices(backend="cpu")[0]),
    ):
        result = jax.ShapeDtypeStruct((2,), np.int32)
        found = jax.jit(lambda: jax.ffi.ffi_call(_target("n_threads", "int32"), result)())()
    return int(np.asarray(found)[0])


def solve_diagonal(multipliers: Array, drive: Array) -> Array:
    """Returns `h_{k+1} = α ⊙ h_k + u_k` from `h_0 = 0`.

    Args:
        multipliers: α, shape (width,), or (time, ..., width) with axes that end those of the drive.
        drive: u, shape (time, ..., width), of the same type, one of `DTYPES`.

    Returns:
        States, shape of `drive`.
    """
    n_time, *rest = drive.shape
    if not drive.size:
        return drive
    if multipliers.ndim == 1:
        # One row of all lanes: the innermost loop is long whatever the width.
        factors = jnp.broadcast_to(multipliers, rest).reshape(1, -1)
        return _solve(factors, drive.reshape(n_time, 1, -1)).reshape(drive.shape)
    ends = rest[len(rest) - multipliers.ndim + 1 :]
    factors = jnp.broadcast_to(multipliers, (n_time, *ends)).reshape(n_time, -1)
    rows = drive.reshape(n_time, -1, math.prod(ends))
    return _solve(factors, rows).reshape(drive.shape)


def tangent_of_diagonal(
    activation: str,
    primals: tuple[Array, Array, Array],
    tangents: tuple[Array, Array, Array],
) -> Array:
    """Returns the tangent of the states of `h_{k+1} = σ(w ⊙ h_k + u_k)`.

    Args:
        activation: name of σ, one of `CURVED`.
        primals: w (width,), states (time, ..., width) and h_0.
        tangents: of w, u and h_0.

    Returns:
        Shape of the states.
    """
    (weights, states, initial), (d_weights, d_drive, d_initial) = primals, tangents
    if not states.size:
        return states
    rest = states.shape[1:]
    w, h0, dw, dh0 = (
        jnp.broadcast_to(x, rest).reshape(1, -1) for x in (weights, initial, d_weights, d_initial)
    )
    h, du = (x.reshape(len(states), -1) for x in (states, d_drive))
    moved = bind(_tangent_through_p, w, h, h0, dw, du, dh0, activation=activation)
    return moved.reshape(states.shape)


def tangent_of_dense(
    activation: str, primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> Array:
    """Returns the tangent of the states of `h_{k+1} = σ(W h_k + u_k)`.

    Args:
        activation: name of σ, one of `CURVED`.
        primals: W (width, width), states (time, ..., width) and h_0.
        tangents: of W, u and h_0.

    Returns:
        Shape of the states.
    """
    (weights, states, initial), (d_weights, d_drive, d_initial) = primals, tangents
    if not states.size:
        return states
    rest, width = states.shape[1:], states.shape[-1]
    h0, dh0 = (jnp.broadcast_to(x, rest).reshape(-1, width) for x in (initial, d_initial))
    h, du = (x.reshape(len(states), -1, width) for x in (states, d_drive))
    arrays = weights, h, h0, d_weights, du, dh0
    return bind(_tangent_dense_p, *arrays, activation=activation).reshape(states.shape)


# The primitives. Multipliers a have shape (1 or time, width), everything else (time, rows, width).


def _solve(a: Any, u: Any, *, is_reverse: bool = False) -> Any:
    return bind(_solve_p, a, u, is_reverse=is_reverse)


def _earlier(h: Any) -> Any:
    return jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])


def _later(h: Any) -> Any:
    return jnp.concatenate([h[1:], jnp.zeros_like(h[:1])])


def _tangent(a: Any, h: Any, da: Any, du: Any) -> Any:
    return _solve(a, da[:, None] * _earlier(h) + du)


def _adjoint(a: Any, h: Any, g: Any) -> tuple[Any, Any]:
    v = _solve(a, g, is_reverse=True)
    products = (v * _earlier(h)).sum(axis=1)
    return v, products.sum(axis=0, keepdims=True) if len(a) == 1 else products


def _loop(a: Any, u: Any, *, is_reverse: bool) -> Any:
    if len(a) > 1 and is_reverse:
        a = _later(a)
    factors = jnp.broadcast_to(a, (len(u), a.shape[1]))

    def body(h: Any, x: Any) -> tuple[Any, Any]:
        h = x[0] * h + x[1]
        return h, h

    return jax.lax.scan(body, jnp.zeros_like(u[0]), (factors, u), reverse=is_reverse)[1]


def _call_solve(a: Any, u: Any, *, is_reverse: bool) -> Any:
    name = _target("solve_reverse" if is_reverse else "solve", u.dtype.name)
    # Cotangents are temporary: their buffer takes the answer.
    aliases = {1: 0} if is_reverse else None
    return jax.ffi.ffi_call(name, _like(u), input_output_aliases=aliases)(a, u)


def _call_adjoint(a: Any, h: Any, g: Any) -> tuple[Any, Any]:
    name = _target("adjoint", g.dtype.name)
    sums = jax.ShapeDtypeStruct((2 if len(a) == 1 else len(a), a.shape[1]), a.dtype)
    v, d = jax.ffi.ffi_call(name, [_like(g), sums], input_output_aliases={2: 0})(a, h, g)
    return v, d[: len(a)]


def _like(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


_solve_p = define_primitive("solve", _loop, lambda a, u, **_: u, on_cpu=_call_solve)
_tangent_p = define_primitive("tangent", _tangent, lambda a, h, da, du: h)
_adjoint_p = define_primitive(
    "adjoint",
    _adjoint,
    lambda a, h, g: (g, a),
    on_cpu=_call_adjoint,
    has_many_results=True,
)


def _solve_jvp(primals: Any, tangents: Any, *, is_reverse: bool) -> tuple[Any, Any]:
    (a, u), (da, du) = primals, tangents
    h = _solve(a, u, is_reverse=is_reverse)
    if isinstance(da, ad.Zero):
        return h, du if isinstance(du, ad.Zero) else _solve(a, du, is_reverse=is_reverse)
    du = ad.instantiate_zeros(du)
    if not is_reverse:
        return h, bind(_tangent_p, a, h, da, du)
    moved = (da if len(a) == 1 else _later(da))[:, None] * _later(h)
    return h, _solve(a, moved + du, is_reverse=True)


def _solve_transpose(cotangent: Any, a: Any, u: Any, *, is_reverse: bool) -> Any:
    if isinstance(cotangent, ad.Zero):
        return None, None
    return None, _solve(a, cotangent, is_reverse=not is_reverse)


def _tangent_transpose(cotangent: Any, a: Any, h: Any, da: Any, du: Any) -> Any:
    if isinstance(cotangent, ad.Zero):
        return None, None, None, None
    if not ad.is_undefined_primal(da):
        return None, None, None, _solve(a, cotangent, is_reverse=True)
    v, d = bind(_adjoint_p, a, h, cotangent)
    return None, None, d, v if ad.is_undefined_primal(du) else None


def _adjoint_transpose(cotangents: Any, a: Any, h: Any, g: Any) -> Any:
    du, da = (ad.instantiate_zeros(c) for c in cotangents)
    return None, None, bind(_tangent_p, a, h, da, du)


def _solve_batch(arrays: Any, axes: Any, *, is_reverse: bool) -> tuple[Any, int]:
    (a, u), (axis_a, axis_u) = arrays, axes
    n_mapped = u.shape[axis_u] if axis_u is not None else a.shape[axis_a]
    u = _mapped_inside(u, axis_u, n_mapped)
    if axis_a is None:
        rows = _solve(a, u.reshape(len(u), -1, u.shape[-1]), is_reverse=is_reverse)
    else:
        a = _mapped_inside(a, axis_a, n_mapped)
        rows = _solve(_joined(a), _joined(u), is_reverse=is_reverse)
    return rows.reshape(u.shape), 2


def _adjoint_batch(arrays: Any, axes: Any) -> tuple[Any, Any]:
    n_mapped = next(x.shape[k] for x, k in zip(arrays, axes, strict=True) if k is not None)
    a, h, g = (_mapped_inside(x, k, n_mapped) for x, k in zip(arrays, axes, strict=True))
    v, d = bind(_adjoint_p, _joined(a), _joined(h), _joined(g))
    return (v.reshape(g.shape), d.reshape(a.shape)), (2, 1)


def _mapped_inside(x: Any, axis: int | None, n_mapped: int) -> Any:
    # The mapped axis next to the last one, where it is one more factor of the width.
    if axis is None:
        return jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], n_mapped, x.shape[-1]))
    return jnp.moveaxis(x, axis, -2)


def _joined(x: Any) -> Any:
    return x.reshape(*x.shape[:-2], -1)


ad.primitive_jvps[_solve_p] = _solve_jvp
ad.primitive_transposes[_solve_p] = _solve_transpose
batching.primitive_batchers[_solve_p] = _solve_batch
differentiate_through(_tangent_p, _tangent)
ad.primitive_transposes[_tangent_p] = _tangent_transpose
map_through(_tangent_p, _tangent)
differentiate_through(_adjoint_p, lambda *arrays: list(_adjoint(*arrays)))
ad.primitive_transposes[_adjoint_p] = _adjoint_transpose
batching.primitive_batchers[_adjoint_p] = _adjoint_batch


# Through an activation. All arrays are (1 or time, lanes).


def _before(h: Any, h0: Any) -> Any:
    return jnp.concatenate([h0, h[:-1]])


def _tangent_through(
    w: Any, h: Any, h0: Any, dw: Any, du: Any, dh0: Any, *, activation: str
) -> Any:
    slopes = slope_of_output(activation, h)
    b = (dw * _before(h, h0) + du).at[0].add((w * dh0)[0])
    return _solve(slopes * w, (slopes * b)[:, None])[:, 0]


def _adjoint_through(w: Any, h: Any, h0: Any, g: Any, *, activation: str) -> tuple[Any, Any]:
    slopes = slope_of_output(activation, h)
    v = slopes * _solve(slopes * w, g[:, None], is_reverse=True)[:, 0]
    return v, (v * _before(h, h0)).sum(axis=0, keepdims=True)


def _call_adjoint_through(w: Any, h: Any, h0: Any, g: Any, *, activation: str) -> tuple[Any, Any]:
    name = _target("adjoint_through", g.dtype.name)
    sums = jax.ShapeDtypeStruct((2, w.shape[1]), w.dtype)
    parabola = jnp.asarray(CURVED[activation], w.dtype)
    call = jax.ffi.ffi_call(name, [_like(g), sums], input_output_aliases={4: 0})
    v, d = call(w, h, h0, parabola, g)
    return v, d[:1]


_tangent_through_p = define_primitive("tangent_through", _tangent_through, lambda w, h, *_, **__: h)
_adjoint_through_p = define_primitive(
    "adjoint_through",
    _adjoint_through,
    lambda w, h, h0, g, **_: (g, w),
    on_cpu=_call_adjoint_through,
    has_many_results=True,
)


def _tangent_through_transpose(
    cotangent: Any, w: Any, h: Any, h0: Any, *undefined: Any, activation: str
) -> Any:
    if isinstance(cotangent, ad.Zero):
        return (None,) * 6
    v, d = bind(_adjoint_through_p, w, h, h0, cotangent, activation=activation)
    return _asked_of(undefined, d, v, w * v[:1])


def _asked_of(undefined: tuple[Any, ...], *found: Any) -> tuple[Any, ...]:
    """Returns the cotangents of dW, du and dh_0 that are asked for; none of W, h and h_0."""
    asked = (ad.is_undefined_primal(x) for x in undefined)
    return (None, None, None, *(f if a else None for f, a in zip(found, asked, strict=True)))


def _adjoint_through_transpose(
    cotangents: Any, w: Any, h: Any, h0: Any, g: Any, *, activation: str
) -> Any:
    du, dw = (ad.instantiate_zeros(c) for c in cotangents)
    moved = bind(_tangent_through_p, w, h, h0, dw, du, 0 * dw, activation=activation)
    return None, None, None, moved


def _adjoint_through_batch(arrays: Any, axes: Any, *, activation: str) -> tuple[Any, Any]:
    n_mapped = next(x.shape[k] for x, k in zip(arrays, axes, strict=True) if k is not None)
    inside = [_mapped_inside(x, k, n_mapped) for x, k in zip(arrays, axes, strict=True)]
    v, d = bind(_adjoint_through_p, *(_joined(x) for x in inside), activation=activation)
    return (v.reshape(inside[3].shape), d.reshape(inside[0].shape)), (1, 1)


differentiate_through(_tangent_through_p, _tangent_through)
ad.primitive_transposes[_tangent_through_p] = _tangent_through_transpose
map_through(_tangent_through_p, _tangent_through)
differentiate_through(
    _adjoint_through_p,
    lambda *arrays, **options: list(_adjoint_through(*arrays, **options)),
)
ad.primitive_transposes[_adjoint_through_p] = _adjoint_through_transpose
batching.primitive_batchers[_adjoint_through_p] = _adjoint_through_batch


# Dense, through an activation. States (time, rows, width), h_0 (rows, width), W (width, width).


def _tangent_dense(w: Any, h: Any, h0: Any, dw: Any, du: Any, dh0: Any, *, activation: str) -> Any:
    slopes = slope_of_output(activation, h)
    b = (_before(h, h0[None]) @ dw.T + du).at[0].add(dh0 @ w.T)

    def forward(_: Any, c: Any) -> Any:
        def step(x: Any, value: Any) -> tuple[Any, Any]:
            x = value[0] * (x @ w.T) + value[1]
            return x, x

        return jax.lax.scan(step, jnp.zeros_like(c[0]), (slopes, c))[1]

    def backward(_: Any, g: Any) -> Any:
        def step(reached: Any, value: Any) -> tuple[Any, Any]:
            total = value[1] + reached
            return (value[0] * total) @ w, total

        return jax.lax.scan(step, jnp.zeros_like(g[0]), (slopes, g), reverse=True)[1]

    def system(x: Any) -> Any:
        return x - slopes * (_earlier(x) @ w.T)

    return jax.lax.custom_linear_solve(system, slopes * b, forward, backward)


def _adjoint_dense(w: Any, h: Any, h0: Any, g: Any, *, activation: str) -> tuple[Any, Any]:
    def step(reached: Any, value: Any) -> tuple[Any, Any]:
        v = slope_of_output(activation, value[0]) * (value[1] + reached)
        return v @ w, v

    v = jax.lax.scan(step, jnp.zeros_like(g[0]), (h, g), reverse=True)[1]
    return v, jnp.einsum("tri,trj->ij", v, _before(h, h0[None]))


def _call_adjoint_dense(w: Any, h: Any, h0: Any, g: Any, *, activation: str) -> tuple[Any, Any]:
    name = _target("adjoint_dense", g.dtype.name)
    # Rows in blocks of about eight, the same on every machine, each with sums of its own.
    n_blocks = max(1, min(8, h.shape[1] // 8))
    sums = jax.ShapeDtypeStruct((n_blocks, 2, *w.shape), w.dtype)
    parabola = jnp.asarray(CURVED[activation], w.dtype)
    call = jax.ffi.ffi_call(name, [_like(g), sums, _like(h0)], input_output_aliases={4: 0})
    v, d, _ = call(w, h, h0, parabola, g)
    return v, d[:, 0].sum(axis=0)


_tangent_dense_p = define_primitive("tangent_dense", _tangent_dense, lambda w, h, *_, **__: h)
_adjoint_dense_p = define_primitive(
    "adjoint_dense",
    _adjoint_dense,
    lambda w, h, h0, g, **_: (g, w),
    on_cpu=_call_adjoint_dense,
    has_many_results=True,
)


def _tangent_dense_transpose(
    cotangent: Any, w: Any, h: Any, h0: Any, *undefined: Any, activation: str
) -> Any:
    if isinstance(cotangent, ad.Zero):
        return (None,) * 6
    v, d = bind(_adjoint_dense_p, w, h, h0, cotangent, activation=activation)
    return _asked_of(undefined, d, v, v[0] @ w)


def _adjoint_dense_transpose(
    cotangents: Any, w: Any, h: Any, h0: Any, g: Any, *, activation: str
) -> Any:
    du, dw = (ad.instantiate_zeros(c) for c in cotangents)
    moved = bind(_tangent_dense_p, w, h, h0, dw, du, jnp.zeros_like(h0), activation=activation)
    return None, None, None, moved


def _tangent_dense_batch(arrays: Any, axes: Any, *, activation: str) -> tuple[Any, int]:
    w, h, h0, dw, du, dh0 = arrays
    if axes[0] is not None or axes[3] is not None:
        mapped = jax.vmap(functools.partial(_tangent_dense, activation=activation), tuple(axes))
        return mapped(*arrays), 0
    # One network and many signals: the signals are rows.
    n_mapped = next(x.shape[k] for x, k in zip(arrays, axes, strict=True) if k is not None)
    h, du, h0, dh0 = (
        _mapped_at(x, k, n_mapped, at)
        for x, k, at in ((h, axes[1], 1), (du, axes[4], 1), (h0, axes[2], 0), (dh0, axes[5], 0))
    )
    rows = (x.reshape(*x.shape[:-3], -1, x.shape[-1]) for x in (h, h0, du, dh0))
    h_rows, h0_rows, du_rows, dh0_rows = rows
    moved = bind(_tangent_dense_p, w, h_rows, h0_rows, dw, du_rows, dh0_rows, activation=activation)
    return moved.reshape(h.shape), 1


def _mapped_at(x: Any, axis: int | None, n_mapped: int, at: int) -> Any:
    if axis is None:
        x = jnp.expand_dims(x, at)
        return jnp.broadcast_to(x, (*x.shape[:at], n_mapped, *x.shape[at + 1 :]))
    return jnp.moveaxis(x, axis, at)


differentiate_through(_tangent_dense_p, _tangent_dense)
ad.primitive_transposes[_tangent_dense_p] = _tangent_dense_transpose
batching.primitive_batchers[_tangent_dense_p] = _tangent_dense_batch
differentiate_through(
    _adjoint_dense_p, lambda *arrays, **options: list(_adjoint_dense(*arrays, **options))
)
ad.primitive_transposes[_adjoint_dense_p] = _adjoint_dense_transpose
map_through(_adjoint_dense_p, lambda *arrays, **options: list(_adjoint_dense(*arrays, **options)))


_LOCK = threading.Lock()


def _target(name: str, dtype: str) -> str:
    with _LOCK:
        return _registered(name, dtype)


@functools.cache
def _registered(name: str, dtype: str) -> str:
    """Compiles one loop for one type, registers it with XLA and returns its name there."""
    from recollect.models._compiled_kernels import compile_kernel

    target = f"recollect_{name}_{dtype}"
    kernel = compile_kernel(name, dtype)
    # XLA keeps the address for as long as the process lives; so must the code.
    _KEPT.append(kernel)
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(kernel.address), platform="cpu")
    return target
