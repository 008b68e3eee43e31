"""The loops that numba turns into machine code, and how XLA calls them. Needs numba."""

from __future__ import annotations

import sys
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from recollect.models._compiled_pool import (
    API_MAJOR,
    API_MINOR,
    STAMP,
    call_c,
    count_threads,
    half_word,
    pointer,
    share,
    word,
)

# The layout of XLA's call frame that is read here: version 0.3 of `xla/ffi/api/c_api.h`.
_FRAME_BYTES, _METADATA_EXTENSION, _EXECUTE = 168, 1, 3
# Sums over time restart this often, so that rounding grows with the root of their length.
_STRETCH = 128
# Lanes handled together: long rows for the prefetcher, and their sums stay in the cache.
_LANES = 2048
# Parts of a call that threads share: whole cache lines, rows as long as several parts allow, and none
# so small that waking somebody costs more than doing it.
_UNIT = 16
_PART_LANES = 512
_PART_BYTES = 1 << 20
_MOST_PARTS = 16
_LARGE_PAGE = 1 << 21
_CAN_ADVISE = sys.platform == "linux"
_SIGNATURE = numba.int64(numba.int64)


def _build_madvise(typing: Any, address: Any, n_bytes: Any, advice: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, i64 = ir.IntType(32), ir.IntType(64)
        return call_c(builder, "madvise", ir.FunctionType(i32, [i64, i64, i32]), args)

    return numba.int32(numba.int64, numba.int64, numba.int32), build


_madvise: Any = intrinsic(_build_madvise)


@numba.njit
def _executes(frame: Any, stamp: Any) -> Any:
    extension = word(frame + 8)
    if extension != 0:
        # At registration XLA asks which version of the call frame this was written for.
        if half_word(extension + 8) == _METADATA_EXTENSION:
            version = numba.carray(pointer(word(extension + 24) + 24), 2, np.int32)
            version[0] = API_MAJOR if word(frame) == _FRAME_BYTES else -1
            version[1] = API_MINOR
        return False
    # The stamp is there to make code of another version of the pool other code.
    return stamp != 0 and half_word(frame + 32) == _EXECUTE


@numba.njit
def _argument(frame: Any, i: Any) -> Any:
    return word(word(frame + 72) + 8 * i)


@numba.njit
def _result(frame: Any, i: Any) -> Any:
    return word(word(frame + 112) + 8 * i)


@numba.njit
def _data(buffer: Any) -> Any:
    return word(buffer + 24)


@numba.njit
def _extent(buffer: Any, axis: Any) -> Any:
    return word(word(buffer + 40) + 8 * axis)


@numba.njit
def _matrix_shape(buffer: Any) -> Any:
    return _extent(buffer, 0), _extent(buffer, 1)


@numba.njit
def _cube_shape(buffer: Any) -> Any:
    return _extent(buffer, 0), _extent(buffer, 1), _extent(buffer, 2)


@numba.njit
def _ask_for_large_pages(address: Any, n_bytes: Any) -> None:
    # As NumPy does: in fresh memory the page faults cost more than the recurrence.
    first = (address + _LARGE_PAGE - 1) // _LARGE_PAGE * _LARGE_PAGE
    last = (address + n_bytes) // _LARGE_PAGE * _LARGE_PAGE
    if _CAN_ADVISE and n_bytes >= 2 * _LARGE_PAGE and last > first:
        _madvise(first, last - first, np.int32(14))


# Multipliers a (1 or time, width); drives u, states h and cotangents v (time, rows, width).
# No fused multiply-add and no reordering: the answers are the same on every machine.


@numba.njit(error_model="numpy")
def _forward(a: Any, u: Any, h: Any, rows: Any, lanes: Any) -> None:
    n_time = len(u)
    is_constant = len(a) == 1
    for lo in range(lanes[0], lanes[1], _LANES):
        hi = min(lo + _LANES, lanes[1])
        for r in range(rows[0], rows[1]):
            for i in range(lo, hi):
                h[0, r, i] = a[0, i] * u.dtype.type(0) + u[0, r, i]
        for t in range(1, n_time):
            at = a[0 if is_constant else t, lo:hi]
            for r in range(rows[0], rows[1]):
                old, new, x = h[t - 1, r, lo:hi], h[t, r, lo:hi], u[t, r, lo:hi]
                for i in range(hi - lo):
                    new[i] = at[i] * old[i] + x[i]


@numba.njit(error_model="numpy")
def _backward(a: Any, v: Any, rows: Any, lanes: Any) -> None:
    n_time = len(v)
    is_constant = len(a) == 1
    for lo in range(lanes[0], lanes[1], _LANES):
        hi = min(lo + _LANES, lanes[1])
        for t in range(n_time - 1, 0, -1):
            at = a[0 if is_constant else t, lo:hi]
            for r in range(rows[0], rows[1]):
                old, new = v[t, r, lo:hi], v[t - 1, r, lo:hi]
                for i in range(hi - lo):
                    new[i] += at[i] * old[i]


@numba.njit(error_model="numpy")
def _backward_with_sums(a: Any, h: Any, v: Any, d: Any, lanes: Any) -> None:
    n_time, n_rows, _ = v.shape
    is_constant = len(a) == 1
    zero = v.dtype.type(0)
    for lo in range(lanes[0], lanes[1], _LANES):
        hi = min(lo + _LANES, lanes[1])
        for k in range(len(d)):
            for i in range(lo, hi):
                d[k, i] = zero
        total, stretch = d[0, lo:hi], d[1, lo:hi]
        for t in range(n_time - 1, 0, -1):
            at = a[0 if is_constant else t, lo:hi]
            dt = stretch if is_constant else d[t, lo:hi]
            for r in range(n_rows):
                old, new, ht = v[t, r, lo:hi], v[t - 1, r, lo:hi], h[t - 1, r, lo:hi]
                for i in range(hi - lo):
                    dt[i] += old[i] * ht[i]
                    new[i] += at[i] * old[i]
            if is_constant and t % _STRETCH == 0:
                for i in range(hi - lo):
                    total[i] += stretch[i]
                    stretch[i] = zero
        if is_constant:
            for i in range(hi - lo):
                total[i] += stretch[i]
        # The state before the first is zero; a cotangent of NaN or infinity shows all the same.
        for r in range(n_rows):
            for i in range(lo, hi):
                d[0, i] += v[0, r, i] * zero


@numba.njit(error_model="numpy")
def _backward_through(w: Any, h: Any, start: Any, slope: Any, v: Any, d: Any, lanes: Any) -> None:
    n_time = len(v)
    zero = v.dtype.type(0)
    # The slope of tanh and of the logistic function is a parabola in their value.
    p, q = slope[0], slope[1]
    for lo in range(lanes[0], lanes[1], _LANES):
        hi = min(lo + _LANES, lanes[1])
        weight, total, stretch = w[0, lo:hi], d[0, lo:hi], d[1, lo:hi]
        for i in range(hi - lo):
            total[i] = zero
            stretch[i] = zero
        for i in range(lo, hi):
            x = h[n_time - 1, i]
            v[n_time - 1, i] *= p + q * x - x * x
        for t in range(n_time - 1, 0, -1):
            old, new, ht = v[t, lo:hi], v[t - 1, lo:hi], h[t - 1, lo:hi]
            for i in range(hi - lo):
                x = ht[i]
                stretch[i] += old[i] * x
                new[i] = (p + q * x - x * x) * (new[i] + weight[i] * old[i])
            if t % _STRETCH == 0:
                for i in range(hi - lo):
                    total[i] += stretch[i]
                    stretch[i] = zero
        for i in range(hi - lo):
            total[i] += stretch[i] + v[0, lo + i] * start[0, lo + i]


# Dense: out = x W and d += x' y, eight rows of W or of x and y at a time.


@numba.njit(error_model="numpy")
def _multiply(x: Any, w: Any, out: Any) -> None:
    n_rows, n = x.shape
    for r in range(n_rows):
        to = out[r]
        to[:] = 0
        k = 0
        while k + 8 <= n:
            x0, x1, x2, x3 = x[r, k], x[r, k + 1], x[r, k + 2], x[r, k + 3]
            x4, x5, x6, x7 = x[r, k + 4], x[r, k + 5], x[r, k + 6], x[r, k + 7]
            w0, w1, w2, w3 = w[k], w[k + 1], w[k + 2], w[k + 3]
            w4, w5, w6, w7 = w[k + 4], w[k + 5], w[k + 6], w[k + 7]
            for j in range(w.shape[1]):
                low = (x0 * w0[j] + x1 * w1[j]) + (x2 * w2[j] + x3 * w3[j])
                high = (x4 * w4[j] + x5 * w5[j]) + (x6 * w6[j] + x7 * w7[j])
                to[j] += low + high
            k += 8
        while k < n:
            for j in range(w.shape[1]):
                to[j] += x[r, k] * w[k, j]
            k += 1


@numba.njit(error_model="numpy")
def _gather(x: Any, y: Any, d: Any) -> None:
    n_rows, n = x.shape
    for i in range(n):
        to = d[i]
        r = 0
        while r + 8 <= n_rows:
            x0, x1, x2, x3 = x[r, i], x[r + 1, i], x[r + 2, i], x[r + 3, i]
            x4, x5, x6, x7 = x[r + 4, i], x[r + 5, i], x[r + 6, i], x[r + 7, i]
            y0, y1, y2, y3 = y[r], y[r + 1], y[r + 2], y[r + 3]
            y4, y5, y6, y7 = y[r + 4], y[r + 5], y[r + 6], y[r + 7]
            for j in range(y.shape[1]):
                low = (x0 * y0[j] + x1 * y1[j]) + (x2 * y2[j] + x3 * y3[j])
                high = (x4 * y4[j] + x5 * y5[j]) + (x6 * y6[j] + x7 * y7[j])
                to[j] += low + high
            r += 8
        while r < n_rows:
            for j in range(y.shape[1]):
                to[j] += x[r, i] * y[r, j]
            r += 1


@numba.njit(error_model="numpy")
def _backward_dense(
    w: Any, h: Any, start: Any, slope: Any, v: Any, d: Any, carry: Any, rows: Any
) -> None:
    n_time, _, width = v.shape
    lo, hi = rows
    p, q = slope[0], slope[1]
    total, stretch = d[0], d[1]
    d[:] = 0
    carry[lo:hi] = 0
    for t in range(n_time - 1, -1, -1):
        for r in range(lo, hi):
            vt, ht, reached = v[t, r], h[t, r], carry[r]
            for i in range(width):
                x = ht[i]
                vt[i] = (p + q * x - x * x) * (vt[i] + reached[i])
        if t > 0:
            _multiply(v[t, lo:hi], w, carry[lo:hi])
            _gather(v[t, lo:hi], h[t - 1, lo:hi], stretch)
        else:
            _gather(v[t, lo:hi], start[lo:hi], stretch)
        if t % _STRETCH == 0:
            for i in range(width):
                for j in range(width):
                    total[i, j] += stretch[i, j]
                    stretch[i, j] = 0


@numba.njit
def _count_bytes(buffer: Any, n_axes: Any, kind: Any) -> Any:
    n_bytes = numba.carray(pointer(_data(buffer)), 1, kind).itemsize
    for axis in range(n_axes):
        n_bytes *= _extent(buffer, axis)
    return n_bytes


@numba.njit
def _count_parts(n_units: Any, n_lanes: Any, n_bytes: Any) -> Any:
    most = min(n_units, max(2, n_lanes // _PART_LANES), _MOST_PARTS)
    return max(1, min(most, n_bytes // _PART_BYTES))


# One part of a call: the arguments are read from XLA's frame, the lanes shared out by number.


@numba.njit
def _share(total: Any, part: Any, n_parts: Any, unit: Any) -> Any:
    n_units = total // unit
    hi = total if part == n_parts - 1 else n_units * (part + 1) // n_parts * unit
    return n_units * part // n_parts * unit, hi


@numba.njit
def _tile(n_rows: Any, width: Any, part: Any, n_parts: Any) -> Any:
    # Whole rows where there are several: their neighbours in memory stay together.
    if n_rows > 1:
        return _share(n_rows, part, n_parts, 1), (0, width)
    return (0, 1), _share(width, part, n_parts, _UNIT)


@numba.njit
def _count_tiles(states: Any, n_bytes: Any) -> Any:
    n_rows, width = _extent(states, 1), _extent(states, 2)
    n_units = n_rows if n_rows > 1 else width // _UNIT
    return _count_parts(n_units, n_rows * width, n_bytes)


@numba.njit(error_model="numpy")
def _solve_part(frame: Any, kind: Any, part: Any, n_parts: Any) -> None:
    factors, drive, states = _argument(frame, 0), _argument(frame, 1), _result(frame, 0)
    a = numba.carray(pointer(_data(factors)), _matrix_shape(factors), kind)
    u = numba.carray(pointer(_data(drive)), _cube_shape(drive), kind)
    h = numba.carray(pointer(_data(states)), _cube_shape(states), kind)
    rows, lanes = _tile(u.shape[1], u.shape[2], part, n_parts)
    _forward(a, u, h, rows, lanes)


@numba.njit(error_model="numpy")
def _solve_reverse_part(frame: Any, kind: Any, part: Any, n_parts: Any) -> None:
    factors, states = _argument(frame, 0), _result(frame, 0)
    a = numba.carray(pointer(_data(factors)), _matrix_shape(factors), kind)
    v = numba.carray(pointer(_data(states)), _cube_shape(states), kind)
    rows, lanes = _tile(v.shape[1], v.shape[2], part, n_parts)
    _backward(a, v, rows, lanes)


@numba.njit(error_model="numpy")
def _adjoint_part(frame: Any, kind: Any, part: Any, n_parts: Any) -> None:
    factors, states = _argument(frame, 0), _argument(frame, 1)
    cotangents, sums = _result(frame, 0), _result(frame, 1)
    a = numba.carray(pointer(_data(factors)), _matrix_shape(factors), kind)
    h = numba.carray(pointer(_data(states)), _cube_shape(states), kind)
    v = numba.carray(pointer(_data(cotangents)), _cube_shape(cotangents), kind)
    d = numba.carray(pointer(_data(sums)), _matrix_shape(sums), kind)
    _backward_with_sums(a, h, v, d, _share(v.shape[2], part, n_parts, _UNIT))


@numba.njit(error_model="numpy")
def _adjoint_through_part(frame: Any, kind: Any, part: Any, n_parts: Any) -> None:
    weights, states, start = (
        _argument(frame, 0),
        _argument(frame, 1),
        _argument(frame, 2),
    )
    cotangents, sums = _result(frame, 0), _result(frame, 1)
    w = numba.carray(pointer(_data(weights)), _matrix_shape(weights), kind)
    h = numba.carray(pointer(_data(states)), _matrix_shape(states), kind)
    h0 = numba.carray(pointer(_data(start)), _matrix_shape(start), kind)
    slope = numba.carray(pointer(_data(_argument(frame, 3))), 2, kind)
    v = numba.carray(pointer(_data(cotangents)), _matrix_shape(cotangents), kind)
    d = numba.carray(pointer(_data(sums)), _matrix_shape(sums), kind)
    _backward_through(w, h, h0, slope, v, d, _share(v.shape[1], part, n_parts, _UNIT))


@numba.njit(error_model="numpy")
def _adjoint_dense_part(frame: Any, kind: Any, part: Any, n_parts: Any) -> None:
    weights, states, start = _argument(frame, 0), _argument(frame, 1), _argument(frame, 2)
    cotangents, sums, room = _result(frame, 0), _result(frame, 1), _result(frame, 2)
    w = numba.carray(pointer(_data(weights)), _matrix_shape(weights), kind)
    h = numba.carray(pointer(_data(states)), _cube_shape(states), kind)
    h0 = numba.carray(pointer(_data(start)), _matrix_shape(start), kind)
    slope = numba.carray(pointer(_data(_argument(frame, 3))), 2, kind)
    v = numba.carray(pointer(_data(cotangents)), _cube_shape(cotangents), kind)
    width = _extent(weights, 0)
    d = numba.carray(pointer(_data(sums)), (n_parts, 2, width, width), kind)
    carry = numba.carray(pointer(_data(room)), _matrix_shape(room), kind)
    rows = _share(v.shape[1], part, n_parts, 1)
    _backward_dense(w, h, h0, slope, v, d[part], carry, rows)


def compile_kernel(name: str, dtype: str) -> Any:
    """Returns the machine code of one loop for one type, an object with an `address`.

    Args:
        name: `"solve"` (a, u -> h), `"solve_reverse"` (a, g -> v), `"adjoint"`
            (a, h, g -> v, d), `"adjoint_through"` and `"adjoint_dense"` (w, h, start, slope, g -> v, d) or
            `"n_threads"`; v is written where g was read.
        dtype: name of a real or complex floating type of NumPy; int32 for `n_threads`.
    """
    kind = np.dtype(dtype).type
    kernels = {
        "solve": _solve,
        "solve_reverse": _solve_reverse,
        "adjoint": _adjoint,
        "adjoint_through": _adjoint_through,
        "adjoint_dense": _adjoint_dense,
        "n_threads": _n_threads,
    }
    return kernels[name](kind, STAMP)


def _machine_code(function: Any) -> Any:
    try:
        return numba.cfunc(_SIGNATURE, cache=True)(function)
    except RuntimeError:
        # Nowhere to keep it: neither beside this file nor in the user's cache.
        return numba.cfunc(_SIGNATURE)(function)


_run_solve = share(_solve_part)
_run_solve_reverse = share(_solve_reverse_part)
_run_adjoint = share(_adjoint_part)
_run_adjoint_through = share(_adjoint_through_part)
_run_adjoint_dense = share(_adjoint_dense_part)


def _solve(kind: Any, stamp: Any) -> Any:
    def solve(frame: Any) -> Any:
        if _executes(frame, stamp):
            states = _result(frame, 0)
            n_bytes = _count_bytes(states, 3, kind)
            _ask_for_large_pages(_data(states), n_bytes)
            _run_solve(frame, kind, _count_tiles(states, n_bytes))
        return 0

    return _machine_code(solve)


def _solve_reverse(kind: Any, stamp: Any) -> Any:
    def solve_reverse(frame: Any) -> Any:
        if _executes(frame, stamp):
            states = _result(frame, 0)
            n_bytes = _count_bytes(states, 3, kind)
            _run_solve_reverse(frame, kind, _count_tiles(states, n_bytes))
        return 0

    return _machine_code(solve_reverse)


def _adjoint(kind: Any, stamp: Any) -> Any:
    def adjoint(frame: Any) -> Any:
        if _executes(frame, stamp):
            states = _result(frame, 0)
            n_rows, width = _extent(states, 1), _extent(states, 2)
            # With several rows a part would be a narrow strip of each, slower than all at once.
            n_units = 1 if n_rows > 1 else width // _UNIT
            n_bytes = _count_bytes(states, 3, kind)
            _run_adjoint(frame, kind, _count_parts(n_units, width, n_bytes))
        return 0

    return _machine_code(adjoint)


def _adjoint_through(kind: Any, stamp: Any) -> Any:
    def adjoint_through(frame: Any) -> Any:
        if _executes(frame, stamp):
            states = _result(frame, 0)
            n_lanes = _extent(states, 1)
            n_bytes = _count_bytes(states, 2, kind)
            _run_adjoint_through(frame, kind, _count_parts(n_lanes // _UNIT, n_lanes, n_bytes))
        return 0

    return _machine_code(adjoint_through)


def _adjoint_dense(kind: Any, stamp: Any) -> Any:
    def adjoint_dense(frame: Any) -> Any:
        if _executes(frame, stamp):
            # As many parts as the caller asked sums for.
            _run_adjoint_dense(frame, kind, _extent(_result(frame, 1), 0))
        return 0

    return _machine_code(adjoint_dense)


def _n_threads(kind: Any, stamp: Any) -> Any:
    def n_threads(frame: Any) -> Any:
        if _executes(frame, stamp):
            numba.carray(pointer(_data(_result(frame, 0))), 1, kind)[0] = count_threads(frame)
        return 0

    return _machine_code(n_threads)
