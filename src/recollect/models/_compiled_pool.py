"""One compiled call shared with the threads of XLA's pool. Needs numba.

Nobody may count on the pool: its threads can be busy, or wait for this very call. So the parts of a
call are taken from a counter by whoever is there, the caller first of all, and the caller waits only
for parts that somebody has begun. A helper that comes when the call has long returned finds a
counter without parts, in memory that the last to leave gives back.

Which parts there are does not depend on who takes them, and no two write to the same place.
"""

from __future__ import annotations

import os
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

# The layout read here: version 0.3 of `xla/ffi/api/c_api.h`.
API_MAJOR, API_MINOR = 0, 3
_FRAME_API, _FRAME_CONTEXT = 16, 24
_API_VERSION, _API_DESTROY, _API_SCHEDULE, _API_N_THREADS, _API_BYTES = (
    32,
    64,
    136,
    144,
    152,
)
# The description of a shared call: words at these places, and room for one request to XLA.
_PRESENT, _NEXT, _ENDED, _N_PARTS, _FRAME, _REQUEST, _BYTES = 0, 8, 16, 24, 32, 40, 88
_IS_POSIX = os.name == "posix"
# Waiting for the last part: first in a loop, then giving way to whoever works on it.
_N_SPINS = 2000
_WORD = ir.IntType(64)
# Machine code that is kept must know of a change here; numba looks at the file of the caller only.
STAMP = os.stat(__file__).st_mtime_ns


def _build_pointer(typing: Any, address: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(numba.types.voidptr))

    return numba.types.voidptr(numba.int64), build


pointer: Any = intrinsic(_build_pointer)


@numba.njit
def word(address: Any) -> Any:
    return numba.carray(pointer(address), 1, np.int64)[0]


@numba.njit
def half_word(address: Any) -> Any:
    return numba.carray(pointer(address), 1, np.int32)[0]


@numba.njit
def _set_word(address: Any, value: Any) -> None:
    numba.carray(pointer(address), 1, np.int64)[0] = value


def call_c(builder: Any, name: str, kind: Any, args: Any) -> Any:
    """Builds a call of a function of the C library."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, args)


def _build_allocate(typing: Any, n_bytes: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call_c(builder, "malloc", ir.FunctionType(_WORD, [_WORD]), args)

    return numba.int64(numba.int64), build


def _build_free(typing: Any, address: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        call_c(builder, "free", ir.FunctionType(ir.VoidType(), [_WORD]), args)
        return context.get_dummy_value()

    return numba.void(numba.int64), build


def _build_give_way(typing: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call_c(builder, "sched_yield", ir.FunctionType(ir.IntType(32), []), args)

    return numba.int32(), build


def _build_add(typing: Any, address: Any, change: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", place, args[1], "seq_cst")

    return numba.int64(numba.int64, numba.int64), build


def _build_seen(typing: Any, address: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], _WORD.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return numba.int64(numba.int64), build


def _build_call(typing: Any, function: Any, argument: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_WORD, [_WORD])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])

    return numba.int64(numba.int64, numba.int64), build


_allocate: Any = intrinsic(_build_allocate)
_free: Any = intrinsic(_build_free)
_give_way: Any = intrinsic(_build_give_way) if _IS_POSIX else numba.njit(lambda: 0)
_add: Any = intrinsic(_build_add)
_seen: Any = intrinsic(_build_seen)
_call: Any = intrinsic(_build_call)


@numba.njit
def _leave(call: Any) -> None:
    if _add(call + _PRESENT, -1) == 1:
        _free(call)


@numba.njit
def _succeeds(api: Any, function: Any, request: Any) -> Any:
    error = _call(word(api + function), request)
    if error == 0:
        return True
    _set_word(request, 24)
    _set_word(request + 8, 0)
    _set_word(request + 16, error)
    _call(word(api + _API_DESTROY), request)
    return False


@numba.njit
def _has_pool(api: Any) -> Any:
    is_known = half_word(api + _API_VERSION) == API_MAJOR
    is_known &= half_word(api + _API_VERSION + 4) == API_MINOR
    return is_known and word(api) >= _API_BYTES


@numba.njit
def _ask_for_threads(frame: Any, request: Any) -> Any:
    _set_word(request, 32)
    _set_word(request + 8, 0)
    _set_word(request + 16, word(frame + _FRAME_CONTEXT))
    _set_word(request + 24, request + 32)
    _set_word(request + 32, 1)
    if not _succeeds(word(frame + _FRAME_API), _API_N_THREADS, request):
        return 1
    return word(request + 32)


@numba.njit
def _schedule(frame: Any, call: Any, task: Any) -> None:
    request = call + _REQUEST
    _set_word(request, 40)
    _set_word(request + 8, 0)
    _set_word(request + 16, word(frame + _FRAME_CONTEXT))
    _set_word(request + 24, task)
    _set_word(request + 32, call)
    if not _succeeds(word(frame + _FRAME_API), _API_SCHEDULE, request):
        _add(call + _PRESENT, -1)


@numba.njit
def count_threads(frame: Any) -> Any:
    """Returns how many threads the pool of a call has, 1 if it cannot be used."""
    if not (_IS_POSIX and _has_pool(word(frame + _FRAME_API))):
        return 1
    request = _allocate(_BYTES)
    n_threads = _ask_for_threads(frame, request)
    _free(request)
    return n_threads


def share(work: Any) -> Any:
    """Returns a compiled function that does all parts of a call, with the help of the pool.

    Args:
        work: compiled function of XLA's call frame, NumPy's type of the numbers, the number of the
            part and that of all parts. Parts write to different places.

    Returns:
        Compiled function of the frame, the type and the number of parts. With one part, nobody is
        asked.
    """

    @numba.njit(error_model="numpy")
    def take_parts(call: Any, kind: Any) -> None:
        n_parts = word(call + _N_PARTS)
        part = _add(call + _NEXT, 1)
        while part < n_parts:
            # Not before: the frame is there only while a part has not ended.
            work(word(call + _FRAME), kind, part, n_parts)
            _add(call + _ENDED, 1)
            part = _add(call + _NEXT, 1)

    task = _task_of(take_parts)

    @numba.njit(error_model="numpy")
    def run(frame: Any, kind: Any, n_parts: Any) -> None:
        call = _allocate(_BYTES)
        n_helpers = 0
        if _IS_POSIX and n_parts > 1 and _has_pool(word(frame + _FRAME_API)):
            n_helpers = min(_ask_for_threads(frame, call + _REQUEST), n_parts) - 1
        # Everybody who helps, the caller as one of them, and the caller who waits.
        _set_word(call + _PRESENT, n_helpers + 2)
        _set_word(call + _NEXT, 0)
        _set_word(call + _ENDED, 0)
        _set_word(call + _N_PARTS, n_parts)
        _set_word(call + _FRAME, frame)
        address = task(kind)
        for _ in range(n_helpers):
            _schedule(frame, call, address)
        _call(address, call)
        n_spins = 0
        while _seen(call + _ENDED) < n_parts:
            n_spins += 1
            if n_spins > _N_SPINS:
                _give_way()
        _leave(call)

    return run


def _task_of(take_parts: Any) -> Any:
    # The address of a C function that helps with the call whose description it is given.
    def build_task(typing: Any, kind: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            task = ir.Function(
                builder.module,
                ir.FunctionType(_WORD, [_WORD]),
                f"{builder.function.name}.task",
            )
            task.linkage = "internal"
            inside = ir.IRBuilder(task.append_basic_block())
            helper = _helper(take_parts, np.dtype(kind.instance_type.name).type)
            code = context.compile_subroutine(inside, helper, numba.void(numba.int64))
            context.call_internal_no_propagate(inside, code.fndesc, code.signature, task.args)
            inside.ret(_WORD(0))
            return builder.ptrtoint(task, _WORD)

        return numba.int64(kind), build

    return intrinsic(build_task)


def _helper(take_parts: Any, kind: Any) -> Any:
    def help_with(call: Any) -> None:
        take_parts(call, kind)
        _leave(call)

    return help_with
