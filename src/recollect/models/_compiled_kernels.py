"""The loops that numba turns into machine code, and how XLA calls them. Needs numba."""

from __future__ import annotations

import sys
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

# The layout of XLA's call frame that is read here: version 0.3 of `xla/ffi/api/c_api.h`.
_API_MAJOR, _API_MINOR = 0, 3
_FRAME_BYTES, _METADATA_EXTENSION, _EXECUTE = 168, 1, 3
# Sums over time restart this often, so that rounding grows with the root of their length.
_STRETCH = 128
# Lanes handled together: long rows for the prefetcher, and their sums stay in the cache.
_LANES = 2048
_LARGE_PAGE = 1 << 21
_CAN_ADVISE = sys.platform == "linux"
_SIGNATURE = numba.int64(numba.int64)


def _build_pointer(typing: Any, address: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(numba.types.voidptr))

    return numba.types.voidptr(numba.int64), build


_pointer: Any = intrinsic(_build_pointer)


def _build_madvise(typing: Any, address: Any, n_bytes: Any, advice: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [i64, i64, ir.IntType(32)])
        function = builder.module.globals.get("madvise")
        if function is None:
            function = ir.Function(builder.module, kind, "madvise")
        return builder.call(function, args)

    return numba.int32(numba.int64, numba.int64, numba.int32), build


_madvise: Any = intrinsic(_build_madvise)


@numba.njit
def _word(address: Any) -> Any:
    return numba.carray(_pointer(address), 1, np.int64)[0]


@numba.njit
def _half_word(address: Any) -> Any:
    return numba.carray(_pointer(address), 1, np.int32)[0]


@numba.njit
def _executes(frame: Any) -> Any:
    extension = _word(frame + 8)
    if extension != 0:
        # At registration XLA asks which version of the call frame this was written for.
        if _half_word(extension + 8) == _METADATA_EXTENSION:
            version = numba.carray(_pointer(_word(extension + 24) + 24), 2, np.int32)
            version[0] = _API_MAJOR if _word(frame) == _FRAME_BYTES else -1
            version[1] = _API_MINOR
        return False
    return _half_word(frame + 32) == _EXECUTE


@numba.njit
def _argument(frame: Any, i: Any) -> Any:
    return _word(_word(frame + 72) + 8 * i)


@numba.njit
def _result(frame: Any, i: Any) -> Any:
    return _word(_word(frame + 112) + 8 * i)


@numba.njit
def _data(buffer: Any) -> Any:
    return _word(buffer + 24)


@numba.njit
def _extent(buffer: Any, axis: Any) -> Any:
    return _word(_word(buffer + 40) + 8 * axis)


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
def _forward(a: Any, u: Any, h: Any) -> None:
    n_time, n_rows, width = u.shape
    is_constant = len(a) == 1
    for lo in range(0, width, _LANES):
        hi = min(lo + _LANES, width)
        for r in range(n_rows):
            for i in range(lo, hi):
                h[0, r, i] = a[0, i] * u.dtype.type(0) + u[0, r, i]
        for t in range(1, n_time):
            at = a[0 if is_constant else t, lo:hi]
            for r in range(n_rows):
                old, new, x = h[t - 1, r, lo:hi], h[t, r, lo:hi], u[t, r, lo:hi]
                for i in range(hi - lo):
                    new[i] = at[i] * old[i] + x[i]


@numba.njit(error_model="numpy")
def _backward(a: Any, v: Any) -> None:
    n_time, n_rows, width = v.shape
    is_constant = len(a) == 1
    for lo in range(0, width, _LANES):
        hi = min(lo + _LANES, width)
        for t in range(n_time - 1, 0, -1):
            at = a[0 if is_constant else t, lo:hi]
            for r in range(n_rows):
                old, new = v[t, r, lo:hi], v[t - 1, r, lo:hi]
                for i in range(hi - lo):
                    new[i] += at[i] * old[i]


@numba.njit(error_model="numpy")
def _backward_with_sums(a: Any, h: Any, v: Any, d: Any) -> None:
    n_time, n_rows, width = v.shape
    is_constant = len(a) == 1
    zero = v.dtype.type(0)
    for lo in range(0, width, _LANES):
        hi = min(lo + _LANES, width)
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
def _backward_through(w: Any, h: Any, start: Any, slope: Any, v: Any, d: Any) -> None:
    n_time, width = v.shape
    zero = v.dtype.type(0)
    # The slope of tanh and of the logistic function is a parabola in their value.
    p, q = slope[0], slope[1]
    for lo in range(0, width, _LANES):
        hi = min(lo + _LANES, width)
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


def compile_kernel(name: str, dtype: str) -> Any:
    """Returns the machine code of one loop for one type, an object with an `address`.

    Args:
        name: `"solve"` (a, u -> h), `"solve_reverse"` (a, g -> v), `"adjoint"`
            (a, h, g -> v, d) or `"adjoint_through"` (w, h, start, slope, g -> v, d); v is written
            where g was read.
        dtype: name of a real or complex floating type of NumPy.
    """
    kind = np.dtype(dtype).type
    kernels = {
        "solve": _solve,
        "solve_reverse": _solve_reverse,
        "adjoint": _adjoint,
        "adjoint_through": _adjoint_through,
    }
    return kernels[name](kind)


def _machine_code(function: Any) -> Any:
    try:
        return numba.cfunc(_SIGNATURE, cache=True)(function)
    except RuntimeError:
        # Nowhere to keep it: neither beside this file nor in the user's cache.
        return numba.cfunc(_SIGNATURE)(function)


def _solve(kind: Any) -> Any:
    def solve(frame: Any) -> Any:
        if _executes(frame):
            factors, drive, states = _argument(frame, 0), _argument(frame, 1), _result(frame, 0)
            a = numba.carray(_pointer(_data(factors)), _matrix_shape(factors), kind)
            u = numba.carray(_pointer(_data(drive)), _cube_shape(drive), kind)
            h = numba.carray(_pointer(_data(states)), _cube_shape(states), kind)
            _ask_for_large_pages(_data(states), h.size * h.itemsize)
            _forward(a, u, h)
        return 0

    return _machine_code(solve)


def _solve_reverse(kind: Any) -> Any:
    def solve_reverse(frame: Any) -> Any:
        if _executes(frame):
            factors, states = _argument(frame, 0), _result(frame, 0)
            a = numba.carray(_pointer(_data(factors)), _matrix_shape(factors), kind)
            v = numba.carray(_pointer(_data(states)), _cube_shape(states), kind)
            _backward(a, v)
        return 0

    return _machine_code(solve_reverse)


def _adjoint(kind: Any) -> Any:
    def adjoint(frame: Any) -> Any:
        if _executes(frame):
            factors, states = _argument(frame, 0), _argument(frame, 1)
            cotangents, sums = _result(frame, 0), _result(frame, 1)
            a = numba.carray(_pointer(_data(factors)), _matrix_shape(factors), kind)
            h = numba.carray(_pointer(_data(states)), _cube_shape(states), kind)
            v = numba.carray(_pointer(_data(cotangents)), _cube_shape(cotangents), kind)
            d = numba.carray(_pointer(_data(sums)), _matrix_shape(sums), kind)
            _backward_with_sums(a, h, v, d)
        return 0

    return _machine_code(adjoint)


def _adjoint_through(kind: Any) -> Any:
    def adjoint_through(frame: Any) -> Any:
        if _executes(frame):
            weights, states, start = _argument(frame, 0), _argument(frame, 1), _argument(frame, 2)
            cotangents, sums = _result(frame, 0), _result(frame, 1)
            w = numba.carray(_pointer(_data(weights)), _matrix_shape(weights), kind)
            h = numba.carray(_pointer(_data(states)), _matrix_shape(states), kind)
            h0 = numba.carray(_pointer(_data(start)), _matrix_shape(start), kind)
            slope = numba.carray(_pointer(_data(_argument(frame, 3))), 2, kind)
            v = numba.carray(_pointer(_data(cotangents)), _matrix_shape(cotangents), kind)
            d = numba.carray(_pointer(_data(sums)), _matrix_shape(sums), kind)
            _backward_through(w, h, h0, slope, v, d)
        return 0

    return _machine_code(adjoint_through)
