"""The only loops over time.

Each recurrence has several forms with one result; `choose_form` picks by platform and length, and
every caller can override it.

| form | what it does | for |
|---|---|---|
| `scan` | `lax.scan`, differentiated by JAX | reference |
| `sequential` | `lax.scan` with a hand-written tangent and transpose | CPU, gradients |
| `compiled` | machine code, one pass back (diagonal, Elman; needs numba) | CPU, long |
| `associative` | parallel prefix (linear recurrences) | GPU |
| `newton` | Newton's method on the whole sequence (nonlinear diagonal) | GPU, long sequences |

The hand-written derivative states the recurrence as a linear system `M δh = b` and gives JAX the
forward and the backward substitution (`lax.custom_linear_solve`): reverse mode keeps the states
only, and forward mode, `vmap` and Hessians keep working.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad

from recollect._core._check import invalid, is_tracer, require_choice, require_count
from recollect._core._precision import in_float64, is_top_level
from recollect._core._types import Array
from recollect.models._activation import OUTPUT_SLOPES, activate, slope, slope_of_output
from recollect.models._compiled import (
    CURVED,
    DTYPES,
    REAL_DTYPES,
    is_available,
    solve_diagonal,
    tangent_of_dense,
    tangent_of_diagonal,
)
from recollect.models._namespace import namespace
from recollect.models._primitive import bind, define_primitive, map_through, vary_together

_FORMS = {
    "linear": ("scan", "sequential", "associative", "compiled"),
    "dense": ("scan", "sequential"),
    "elman": ("scan", "sequential", "compiled"),
    "diagonal": ("scan", "sequential", "newton", "compiled"),
}
# A slope of zero would divide by zero in the second derivative; 1e-15 is below float64 rounding.
_SMALLEST_SLOPE = 1e-15
_PARALLEL_FROM = 2048
# Below, compiling the loop (a second, once per installation) and loading it cost more than they save.
_COMPILED_FROM = 512
# Of dense networks: with fewer states side by side XLA's loop is as fast, and above that width the
# blocked matrix products of XLA gain more than one pass saves.
_COMPILED_FROM_LANES, _COMPILED_TO_WIDTH = 1024, 256


def choose_form(
    kind: str,
    n_time: int,
    *,
    width: int | None = None,
    n_rows: int | None = None,
    platform: str | None = None,
) -> str:
    """Returns the form a recurrence runs in when none is asked for.

    Args:
        kind: `"linear"` (diagonal, constant or selective), `"dense"` (linear or nonlinear),
            `"elman"` (dense, tanh or sigmoid, without leak and gain) or `"diagonal"` (nonlinear
            diagonal).
        n_time: number of samples.
        width: number of states; only for `"elman"`, where omitted sizes count as suitable.
        n_rows: number of signals side by side, as far as the shape of the drive shows them (under
            `vmap` it does not).
        platform: `"cpu"`, `"gpu"` or `"tpu"`; that of JAX's default device if omitted.

    Returns:
        The name of the form. On a CPU the sequential one, or for a long diagonal recurrence, and a
        dense one of middling width with a batch in double precision, the compiled one (if its
        numbers and its activation are known to it) where numba is installed (`pip install recollect[fast]`); on an accelerator
        the parallel ones where a sequence is long enough to fill it.

    Raises:
        ValueError: if the kind has another name or there is no sample.
    """
    require_choice("kind", kind, _FORMS)
    require_count("n_time", n_time)
    platform = jax.default_backend() if platform is None else platform
    if platform == "cpu":
        pays = kind != "dense" and n_time >= _COMPILED_FROM
        if kind == "elman" and width is not None:
            pays &= width <= _COMPILED_TO_WIDTH
            pays &= n_rows is None or n_rows * width >= _COMPILED_FROM_LANES
        return "compiled" if pays and is_available() else "sequential"
    if kind == "linear":
        return "associative"
    return "newton" if kind == "diagonal" and n_time >= _PARALLEL_FROM else "sequential"


def linear_diagonal_states(
    multipliers: Array, drive: Array, initial: Array | None = None, *, form: str | None = None
) -> Array:
    """Returns `h_{k+1} = α ⊙ h_k + u_k` for every k.

    Args:
        multipliers: α, shape (width,) for a constant one or (time, width) for one per step.
        drive: u, shape (time, ..., width); axes between are a batch.
        initial: h_0, shape (..., width); zero if omitted.
        form: `"scan"`, `"sequential"`, `"associative"` or `"compiled"`; `choose_form` decides if
            omitted.

    Returns:
        States after every sample, shape of `drive`; float64 on the host for host arrays.

    Raises:
        ValueError: if there is no sample, the form has another name, or it is the compiled one
            where it cannot run (no numba, not a CPU, or numbers of 16 bits).
    """
    form = _compiled_form("linear", form, DTYPES, drive, multipliers, *_given(initial))
    return _dispatch(_linear_diagonal, form, multipliers, drive, *_given(initial))


def linear_dense_states(
    transition: Array, drive: Array, initial: Array | None = None, *, form: str | None = None
) -> Array:
    """Returns `h_{k+1} = A h_k + u_k` for every k.

    Args:
        transition: A, shape (width, width).
        drive: u, shape (time, ..., width); axes between are a batch.
        initial: h_0, shape (..., width); zero if omitted.
        form: `"scan"` or `"sequential"`; `choose_form` decides if omitted.

    Returns:
        States after every sample, shape of `drive`; float64 on the host for host arrays.
    """
    form = _form("dense", form, drive)
    return _dispatch(_linear_dense, form, transition, drive, *_given(initial))


def nonlinear_diagonal_states(
    weights: Array,
    drive: Array,
    initial: Array | None = None,
    *,
    activation: str = "tanh",
    form: str | None = None,
) -> Array:
    """Returns `h_{k+1} = σ(w ⊙ h_k + u_k)` for every k.

    Args:
        weights: w, shape (width,).
        drive: u, shape (time, ..., width); axes between are a batch.
        initial: h_0, shape (..., width); zero if omitted.
        activation: name of σ.
        form: `"scan"`, `"sequential"`, `"newton"` or `"compiled"`; `choose_form` decides if
            omitted.

    Returns:
        States after every sample, shape of `drive`; float64 on the host for host arrays.

    Raises:
        ValueError: if there is no sample, the form has another name, or it is the compiled one
            where it cannot run (no numba, not a CPU, an activation other than tanh and sigmoid,
            numbers that are complex or of 16 bits).
    """
    if form == "compiled" and activation not in CURVED:
        known = f"it knows {' and '.join(CURVED)}"
        raise invalid("form", f"another than 'compiled' for {activation}", "'compiled'", known)
    form = _compiled_form("diagonal", form, REAL_DTYPES, drive, weights, *_given(initial))
    if form == "compiled" and activation not in CURVED:
        form = "sequential"
    return _dispatch(
        _nonlinear_diagonal, (activation, form), weights, drive, _start(initial, drive)
    )


def nonlinear_dense_states(
    weights: Array,
    drive: Array,
    initial: Array | None = None,
    *,
    activation: str = "tanh",
    leak: float = 0.0,
    gain: float = 1.0,
    form: str | None = None,
) -> Array:
    """Returns `h_{k+1} = leak h_k + gain σ(W h_k + u_k)` for every k.

    Args:
        weights: W, shape (width, width).
        drive: u, shape (time, ..., width); axes between are a batch.
        initial: h_0, shape (..., width); zero if omitted.
        activation: name of σ.
        leak: 0 for an Elman network, 1 for a residual one.
        gain: 1 for an Elman network, dt for a residual one.
        form: `"scan"`, `"sequential"` or `"compiled"`; `choose_form` decides if omitted.

    Returns:
        States after every sample, shape of `drive`; float64 on the host for host arrays.

    Raises:
        ValueError: if there is no sample, the form has another name, or it is the compiled one
            where it cannot run (no numba, not a CPU, an activation other than tanh and sigmoid, a
            leak or a gain, numbers that are complex or of 16 bits).
    """
    is_elman = not (is_tracer(leak) or is_tracer(gain)) and (leak, gain) == (0.0, 1.0)
    if is_elman and activation in CURVED:
        # In single precision XLA's loop is as fast, and needs one thread for it.
        dtypes = REAL_DTYPES if form == "compiled" else ("float64",)
        form = _compiled_form("elman", form, dtypes, drive, weights, *_given(initial))
    else:
        form = _form("dense", form, drive)
    if is_tracer(leak) or is_tracer(gain):
        return _plain_dense(
            activation, leak, gain, *_same_type(weights, drive, _start(initial, drive))
        )
    options = (activation, float(leak), float(gain), form)
    return _dispatch(_nonlinear_dense, options, weights, drive, _start(initial, drive))


def recur(step: Callable[[Any, Any], Any], initial: Any, inputs: Any) -> Any:
    """Returns the states of any recurrence `h_{k+1} = step(h_k, x_k)`, by plain `lax.scan`."""

    def body(state: Any, value: Any) -> tuple[Any, Any]:
        state = step(state, value)
        return state, state

    return jax.lax.scan(body, initial, inputs)[1]


def recur_checkpointed(
    step: Callable[[Any, Any], Any],
    readout: Callable[[Any], Any],
    initial: Any,
    inputs: Array,
    *,
    n_segments: int | None = None,
) -> Array:
    """Returns the outputs of a recurrence while keeping O(√T) states for the backward pass.

    Args:
        step: `h_{k+1} = step(h_k, x_k)`.
        readout: output of one state.
        initial: h_0.
        inputs: shape (time, ...).
        n_segments: number of stretches whose states are recomputed; √T if omitted.

    Returns:
        Outputs, shape (time, ...).

    Raises:
        ValueError: if the number of stretches is not positive.
    """
    n_time = len(inputs)
    n_segments = (
        max(1, math.isqrt(n_time))
        if n_segments is None
        else require_count("n_segments", n_segments)
    )
    length = -(-n_time // n_segments)
    n_segments = -(-n_time // length)
    padding = n_segments * length - n_time
    # Padding after the end cannot reach an output before it.
    inputs = jnp.pad(inputs, ((0, padding),) + ((0, 0),) * (inputs.ndim - 1))
    segments = inputs.reshape(n_segments, length, *inputs.shape[1:])

    def body(state: Any, value: Any) -> tuple[Any, Any]:
        state = step(state, value)
        return state, readout(state)

    @jax.checkpoint
    def segment(state: Any, values: Any) -> tuple[Any, Any]:
        return jax.lax.scan(body, state, values)

    outputs = jax.lax.scan(segment, initial, segments)[1]
    return outputs.reshape(n_segments * length, *outputs.shape[2:])[:n_time]


def evaluate(method: Callable[..., Any], model: Any, signal: Any, **options: Any) -> Any:
    """Returns `method(model, signal, **options)`: compiled in float64 when all of it is on the host."""
    if namespace(model, signal, options) is np and is_top_level():
        return in_float64(_compiled)(method, model, np.asarray(signal), options)
    return method(model, jnp.asarray(signal), **options)


@eqx.filter_jit
def _compiled(method: Callable[..., Any], model: Any, signal: Any, options: Any) -> Any:
    return method(model, signal, **options)


def _form(kind: str, form: str | None, drive: Any) -> str:
    shape = np.shape(drive)
    if len(shape) < 2 or shape[0] == 0:
        raise invalid("drive", "at least one sample, shape (time, ..., width)", f"shape {shape}")
    if form is None:
        return choose_form(kind, shape[0], width=shape[-1], n_rows=math.prod(shape[1:-1]))
    return require_choice("form", form, _FORMS[kind])


def _compiled_form(
    kind: str, form: str | None, dtypes: tuple[str, ...], drive: Any, *others: Any
) -> str:
    chosen = _form(kind, form, drive)
    if chosen != "compiled":
        return chosen
    arrays = [a if hasattr(a, "dtype") else np.asarray(a) for a in (drive, *others)]
    dtype = np.dtype(jnp.result_type(*arrays))
    # Host arrays run in float64, whatever their width.
    is_host = namespace(*arrays) is np and is_top_level()
    is_known = dtype.name in dtypes or (
        is_host and dtype.kind in {np.dtype(name).kind for name in dtypes}
    )
    if form is None:
        return chosen if is_known else "sequential"
    if not is_known:
        knows = "it knows " + ", ".join(dtypes)
        raise invalid("form", f"another than 'compiled' for {dtype.name}", "'compiled'", knows)
    if jax.default_backend() != "cpu":
        raise invalid("form", "'compiled' on a CPU only", jax.default_backend())
    if not is_available():
        raise invalid(
            "form",
            "'compiled' where numba works",
            "none that does",
            "pip install 'recollect[fast]'",
        )
    return chosen


def _dispatch(function: Any, option: Any, *arrays: Any) -> Any:
    if namespace(*arrays) is np and is_top_level():
        return _on_host(function, option)(*arrays)
    return function(option, *_same_type(*arrays))


@functools.cache
def _on_host(function: Any, option: Any) -> Any:
    return in_float64(jax.jit(lambda *arrays: function(option, *_same_type(*arrays))))


def _same_type(*arrays: Any) -> tuple[Any, ...]:
    arrays = tuple(jnp.asarray(a) for a in arrays)
    dtype = jnp.result_type(*arrays)
    return vary_together(*(a.astype(dtype) for a in arrays))


def _given(initial: Any) -> tuple[Any, ...]:
    return () if initial is None else (initial,)


def _start(initial: Any, drive: Any) -> Any:
    xp = namespace(drive)
    if initial is None:
        return xp.zeros(drive.shape[1:], drive.dtype)
    return namespace(initial, drive).broadcast_to(initial, drive.shape[1:])


def _earlier(states: Any, initial: Any) -> Any:
    # h_{k} beside h_{k+1}: the states moved one step later, the initial one first.
    return jnp.concatenate([jnp.broadcast_to(initial, states.shape[1:])[None], states[:-1]])


def _shifted(states: Any) -> Any:
    return jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])


def _matmul(matrix: Any, states: Any) -> Any:
    return states @ matrix.T


# A matrix on the states before each sample. Its gradient is a product with all of time as the inner
# axis, which XLA copies twice before it multiplies: on a CPU, pieces that stay in the cache instead.
_ROWS_AT_ONCE = 128


def _map_earlier(matrix: Any, states: Any, initial: Any) -> Any:
    return bind(_map_earlier_p, matrix, states, jnp.broadcast_to(initial, states.shape[1:]))


def _map_earlier_plainly(matrix: Any, states: Any, initial: Any) -> Any:
    return _matmul(matrix, _earlier(states, initial))


def _gather_earlier(cotangents: Any, states: Any, initial: Any) -> Any:
    return jax.lax.platform_dependent(
        cotangents, states, initial, cpu=_gather_in_pieces, default=_gather_plainly
    )


def _gather_plainly(cotangents: Any, states: Any, initial: Any) -> Any:
    return jnp.einsum("...i,...j->ij", cotangents, _earlier(states, initial))


def _gather_in_pieces(cotangents: Any, states: Any, initial: Any) -> Any:
    def gathered(g: Any, h: Any) -> Any:
        rows = g.reshape(-1, g.shape[-1]), h.reshape(-1, h.shape[-1])
        return jax.lax.dot_general(*rows, (((0,), (0,)), ((), ())))

    length = max(1, _ROWS_AT_ONCE // max(1, math.prod(initial.shape[:-1])))
    n_pieces = (len(states) - 1) // length
    rest = n_pieces * length

    def add(k: Any, total: Any) -> Any:
        g = jax.lax.dynamic_slice_in_dim(cotangents, k * length + 1, length)
        h = jax.lax.dynamic_slice_in_dim(states, k * length, length)
        return total + gathered(g, h)

    first = gathered(cotangents[0], initial) + gathered(cotangents[rest + 1 :], states[rest:-1])
    return jax.lax.fori_loop(0, n_pieces, add, first) if n_pieces else first


def _map_earlier_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    matrix, states, initial = primals
    d_matrix, d_states, d_initial = tangents
    change = 0.0
    if not isinstance(d_matrix, ad.Zero):
        change = change + _map_earlier(d_matrix, states, initial)
    if not (isinstance(d_states, ad.Zero) and isinstance(d_initial, ad.Zero)):
        moved = (ad.instantiate_zeros(d) for d in (d_states, d_initial))
        change = change + _map_earlier_plainly(matrix, *moved)
    return _map_earlier(*primals), change


def _map_earlier_transpose(cotangent: Any, matrix: Any, states: Any, initial: Any) -> Any:
    if isinstance(cotangent, ad.Zero):
        return None, None, None
    if ad.is_undefined_primal(matrix):
        return _gather_earlier(cotangent, states, initial), None, None
    back = cotangent @ matrix
    d_states = jnp.concatenate([back[1:], jnp.zeros_like(back[:1])])
    return (
        None,
        d_states if ad.is_undefined_primal(states) else None,
        back[0] if ad.is_undefined_primal(initial) else None,
    )


_map_earlier_p = define_primitive(
    "map_earlier",
    _map_earlier_plainly,
    lambda matrix, states, initial: states,
)
ad.primitive_jvps[_map_earlier_p] = _map_earlier_jvp
ad.primitive_transposes[_map_earlier_p] = _map_earlier_transpose
map_through(_map_earlier_p, _map_earlier_plainly)


# Linear, diagonal.


def _linear_diagonal(form: str, multipliers: Any, drive: Any, initial: Any = None) -> Any:
    per_step = _per_step(multipliers, drive)
    if form == "scan":
        return _scan_linear(multipliers, drive, _start(initial, drive))
    factors = multipliers if per_step is None else per_step
    if initial is not None:
        # As a part of the first drive it keeps the system lower triangular, but costs a copy.
        first = factors if per_step is None else factors[0]
        drive = drive.at[0].add(first * initial)
    if form == "associative":
        return _associative(factors, drive)
    if form == "compiled":
        return solve_diagonal(multipliers, drive)
    return _solve_linear(factors, drive, per_step is not None)


def _per_step(multipliers: Any, drive: Any) -> Any:
    if multipliers.ndim == 1:
        return None
    extra = drive.ndim - multipliers.ndim
    return multipliers.reshape(len(multipliers), *(1,) * extra, *multipliers.shape[1:])


def _scan_linear(multipliers: Any, drive: Any, initial: Any) -> Any:
    multipliers, drive, initial = vary_together(multipliers, drive, initial)
    if multipliers.ndim == 1:
        return recur(lambda h, u: multipliers * h + u, initial, drive)
    return recur(lambda h, x: x[0] * h + x[1], initial, (_per_step(multipliers, drive), drive))


def _solve_linear(multipliers: Any, drive: Any, is_selective: bool) -> Any:
    def forward(_: Any, b: Any) -> Any:
        zero = jnp.zeros_like(b[0])
        if is_selective:
            return recur(lambda h, x: x[0] * h + x[1], zero, (multipliers, b))
        return recur(lambda h, u: multipliers * h + u, zero, b)

    def backward(_: Any, g: Any) -> Any:
        zero = jnp.zeros_like(g[0])
        if not is_selective:

            def constant(carry: Any, g_k: Any) -> tuple[Any, Any]:
                total = g_k + carry
                return multipliers * total, total

            return jax.lax.scan(constant, zero, g, reverse=True)[1]

        def selective(carry: Any, x: Any) -> tuple[Any, Any]:
            total = x[1] + carry
            return x[0] * total, total

        return jax.lax.scan(selective, zero, (multipliers, g), reverse=True)[1]

    return jax.lax.custom_linear_solve(
        lambda h: h - multipliers * _shifted(h), drive, forward, backward
    )


def _associative(multipliers: Any, drive: Any) -> Any:
    def combine(first: Any, second: Any) -> Any:
        return second[0] * first[0], second[0] * first[1] + second[1]

    factors = jnp.broadcast_to(multipliers, drive.shape)
    return jax.lax.associative_scan(combine, (factors, drive))[1]


# Linear, dense.


def _linear_dense(form: str, transition: Any, drive: Any, initial: Any = None) -> Any:
    if form == "scan":
        transition, drive, start = vary_together(transition, drive, _start(initial, drive))
        return recur(lambda h, u: _matmul(transition, h) + u, start, drive)
    if initial is not None:
        drive = drive.at[0].add(_matmul(transition, initial))

    def forward(_: Any, b: Any) -> Any:
        return recur(lambda h, u: _matmul(transition, h) + u, jnp.zeros_like(b[0]), b)

    def backward(_: Any, g: Any) -> Any:
        def body(carry: Any, g_k: Any) -> tuple[Any, Any]:
            total = g_k + carry
            return total @ transition, total

        return jax.lax.scan(body, jnp.zeros_like(g[0]), g, reverse=True)[1]

    return jax.lax.custom_linear_solve(
        lambda h: h - _map_earlier(transition, h, jnp.zeros_like(h[0])), drive, forward, backward
    )


# Nonlinear, diagonal.


def _nonlinear_diagonal(option: tuple[str, str], weights: Any, drive: Any, initial: Any) -> Any:
    activation, form = option
    if form == "scan":
        return _plain_diagonal(activation, weights, drive, initial)
    return _tangent_diagonal(activation, form, weights, drive, initial)


def _plain_diagonal(activation: str, weights: Any, drive: Any, initial: Any) -> Any:
    initial = jnp.broadcast_to(initial, drive.shape[1:])
    return recur(lambda h, u: activate(activation, weights * h + u), initial, drive)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _tangent_diagonal(activation: str, form: str, weights: Any, drive: Any, initial: Any) -> Any:
    if form == "newton":
        return _newton_diagonal(activation, weights, drive, initial)
    return _plain_diagonal(activation, weights, drive, initial)


@_tangent_diagonal.defjvp
def _tangent_diagonal_jvp(activation: str, form: str, primals: Any, tangents: Any) -> Any:
    weights, drive, initial = primals
    states = _tangent_diagonal(activation, form, weights, drive, initial)
    if form == "compiled":
        return states, tangent_of_diagonal(activation, (weights, states, initial), tangents)
    earlier = _earlier(states, initial)
    d_weights, d_drive, d_initial = tangents
    b = d_weights * earlier + d_drive
    b = b.at[0].add(weights * d_initial)
    kept, slope_at = _slopes(activation, states, lambda: weights * earlier + drive)
    if form == "newton":
        slopes = slope_at(kept)
        return states, _associative(slopes * weights, slopes * b)

    def forward(_: Any, b: Any) -> Any:
        def step(x: Any, value: Any) -> Any:
            return slope_at(value[0]) * (weights * x + value[1])

        return recur(step, jnp.zeros_like(b[0]), (kept, b))

    def backward(_: Any, g: Any) -> Any:
        def body(carry: Any, value: Any) -> tuple[Any, Any]:
            total = slope_at(value[0]) * (value[1] + carry)
            return weights * total, total

        return jax.lax.scan(body, jnp.zeros_like(g[0]), (kept, g), reverse=True)[1]

    def matvec(x: Any) -> Any:
        return x / slope_at(kept) - weights * _shifted(x)

    return states, jax.lax.custom_linear_solve(matvec, b, forward, backward)


def _slopes(activation: str, states: Any, preactivation: Any) -> tuple[Any, Any]:
    # Keep the states themselves where they tell the slope; otherwise keep the slopes.
    if activation in OUTPUT_SLOPES:
        return states, lambda h: jnp.maximum(slope_of_output(activation, h), _SMALLEST_SLOPE)
    slopes = slope(activation, preactivation())
    return slopes, lambda d: jnp.where(abs(d) < _SMALLEST_SLOPE, _SMALLEST_SLOPE, d)


def _newton_diagonal(activation: str, weights: Any, drive: Any, initial: Any) -> Any:
    limit = 30
    tolerance = 50 * float(jnp.finfo(drive.dtype).eps)

    def update(states: Any) -> Any:
        earlier = _earlier(states, initial)
        z = weights * earlier + drive
        factors = weights * slope(activation, z)
        rest = activate(activation, z) - factors * earlier
        return _associative(factors, rest.at[0].add(factors[0] * initial))

    def wants_more(carry: Any) -> Any:
        _, change, count = carry
        return (change > tolerance) & (count < limit)

    def body(carry: Any) -> Any:
        states, _, count = carry
        new = update(states)
        change = jnp.max(abs(new - states))
        # A diverging sweep is not an answer: NaN counts as an endless change.
        return new, jnp.where(jnp.isfinite(change), change, jnp.inf), count + 1

    start, endless = vary_together(activate(activation, drive), jnp.full((), jnp.inf, drive.dtype))
    states, change, _ = jax.lax.while_loop(wants_more, body, (start, endless, 0))
    return jax.lax.cond(
        change > tolerance,
        lambda: _plain_diagonal(activation, weights, drive, initial),
        lambda: states,
    )


# Nonlinear, dense.


def _nonlinear_dense(option: Any, weights: Any, drive: Any, initial: Any) -> Any:
    activation, leak, gain, form = option
    if form == "scan":
        return _plain_dense(activation, leak, gain, weights, drive, initial)
    return _tangent_dense(activation, leak, gain, form, weights, drive, initial)


def _plain_dense(
    activation: str, leak: Any, gain: Any, weights: Any, drive: Any, initial: Any
) -> Any:
    def step(h: Any, u: Any) -> Any:
        new = gain * activate(activation, _matmul(weights, h) + u)
        return new if isinstance(leak, float) and leak == 0.0 else leak * h + new

    return recur(step, jnp.broadcast_to(initial, drive.shape[1:]), drive)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _tangent_dense(
    activation: str, leak: float, gain: float, form: str, weights: Any, drive: Any, initial: Any
) -> Any:
    return _plain_dense(activation, leak, gain, weights, drive, initial)


@_tangent_dense.defjvp
def _tangent_dense_jvp(
    activation: str, leak: float, gain: float, form: str, primals: Any, tangents: Any
) -> Any:
    weights, drive, initial = primals
    states = _tangent_dense(activation, leak, gain, form, weights, drive, initial)
    if form == "compiled":
        return states, tangent_of_dense(activation, (weights, states, initial), tangents)
    earlier = _earlier(states, initial)
    d_weights, d_drive, d_initial = tangents
    b = _map_earlier(d_weights, states, initial) + d_drive
    b = b.at[0].add(_matmul(weights, d_initial))
    if leak == 0.0 and gain == 1.0 and activation in OUTPUT_SLOPES:
        kept, slope_at = _slopes(activation, states, None)
    else:
        # From a residual state the slope would be a difference of neighbours: compute it afresh.
        kept = gain * slope(activation, _matmul(weights, earlier) + drive)
        kept = jnp.where(abs(kept) < _SMALLEST_SLOPE, _SMALLEST_SLOPE, kept)

        def slope_at(d: Any) -> Any:
            return d

    if leak != 0.0:
        b = b.at[0].add(leak * d_initial / slope_at(kept[0]))

    def forward(_: Any, b: Any) -> Any:
        def step(x: Any, value: Any) -> Any:
            new = slope_at(value[0]) * (_matmul(weights, x) + value[1])
            return leak * x + new if leak else new

        return recur(step, jnp.zeros_like(b[0]), (kept, b))

    def backward(_: Any, g: Any) -> Any:
        def body(carry: Any, value: Any) -> tuple[Any, Any]:
            reached = value[1] + carry
            total = slope_at(value[0]) * reached
            before = total @ weights
            return (leak * reached + before if leak else before), total

        return jax.lax.scan(body, jnp.zeros_like(g[0]), (kept, g), reverse=True)[1]

    def matvec(x: Any) -> Any:
        earlier_x = _shifted(x)
        change = x - leak * earlier_x if leak else x
        return change / slope_at(kept) - _matmul(weights, earlier_x)

    return states, jax.lax.custom_linear_solve(matvec, b, forward, backward)
