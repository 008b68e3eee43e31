"""The one door to float64 in JAX."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import get_opaque_trace_state


def is_top_level() -> bool:
    """Says whether the caller runs outside jit, vmap and grad."""
    return get_opaque_trace_state(convention="nnx") == _TOP_LEVEL


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` run with 64-bit JAX types, whatever the host program's setting.

    Arrays among the arguments enter as float64 (complex128), results leave as NumPy arrays of
    those types; the global flag is untouched.

    Args:
        function: JAX code, jitted or not.

    Returns:
        A function of the same arguments.

    Raises:
        RuntimeError: when that function is called under jit, vmap or grad: a local 64-bit context
            inside a trace fails or truncates silently.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not is_top_level():
            raise RuntimeError(
                f"{getattr(function, '__name__', 'function')} enters float64 and must be the outermost "
                "call: call it outside jit, vmap and grad"
            )
        with jax.enable_x64(True):
            args, kwargs = jax.tree.map(_widen, (args, kwargs))
            return jax.tree.map(_to_host, function(*args, **kwargs))

    return wrapped


def as_double(tree: Any) -> Any:
    """Returns a tree whose leaves, numbers and arrays, are host float64 or complex128 arrays."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf, np.complex128 if np.iscomplexobj(leaf) else np.float64), tree
    )


def _top_level_state() -> Any:
    # Asked in a thread of its own: the first import may happen inside somebody's jit.
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(get_opaque_trace_state(convention="nnx")))
    thread.start()
    thread.join()
    return found[0]


_TOP_LEVEL = _top_level_state()


def _widen(leaf: Any) -> Any:
    if isinstance(leaf, (np.ndarray, jax.Array)) and not jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    ):
        kind = np.dtype(leaf.dtype).kind
        if kind == "f":
            return np.asarray(leaf, np.float64)
        if kind == "c":
            return np.asarray(leaf, np.complex128)
    return leaf


def _to_host(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(leaf)
    return leaf
