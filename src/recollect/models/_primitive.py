"""Operations with a derivative of their own, under every transform of JAX.

`jax.custom_vjp` refuses forward mode and with it Hessians. A primitive does not: its tangent is one
operation and the transpose of that another, and each may run in a form that JAX would not find.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def define_primitive(
    name: str,
    run: Callable[..., Any],
    shapes: Callable[..., Any],
    *,
    on_cpu: Callable[..., Any] | None = None,
    has_many_results: bool = False,
) -> Primitive:
    """Returns a primitive without derivatives, to be called with `bind`.

    Args:
        name: what it is called in a jaxpr.
        run: what it does, in JAX; options are keywords.
        shapes: from the abstract arrays (and options) to those the results are like, a tuple if
            there are several.
        on_cpu: what it does on a CPU, if not `run`.
        has_many_results: whether results are a tuple.
    """
    primitive = Primitive(f"recollect_{name}")
    primitive.multiple_results = has_many_results

    def abstract(*arrays: Any, **options: Any) -> Any:
        found = shapes(*arrays, **options)
        if has_many_results:
            return tuple(x.update(weak_type=False) for x in found)
        return found.update(weak_type=False)

    @functools.cache
    def compiled(options: tuple[tuple[str, Any], ...]) -> Any:
        return jax.jit(lambda *arrays: bind(primitive, *arrays, **dict(options)))

    def evaluate(*arrays: Any, **options: Any) -> Any:
        with jax.disable_jit(False):
            return compiled(tuple(sorted(options.items())))(*arrays)

    def lower(function: Any) -> Any:
        def traced(*arrays: Any, **options: Any) -> Any:
            found = function(*arrays, **options)
            return found if primitive.multiple_results else (found,)

        return mlir.lower_fun(traced, multiple_results=True)

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(evaluate)
    mlir.register_lowering(primitive, lower(run))
    if on_cpu is not None:
        mlir.register_lowering(primitive, lower(on_cpu), platform="cpu")
    return primitive


def bind(primitive: Primitive, *arrays: Any, **options: Any) -> Any:
    """Returns the results of a primitive."""
    return primitive.bind(*vary_together(*arrays), **options)


def vary_together(*arrays: Any) -> tuple[Any, ...]:
    """Returns arrays as they are, but within `shard_map` with one kind of shards.

    There an array says along which axes of the mesh its shards differ. Arguments of one operation
    must agree, or a gradient lacks its sum over the shards.
    """
    differs = [_varying_axes(x) for x in arrays]
    everywhere = frozenset().union(*differs)
    return tuple(
        jax.lax.pcast(x, tuple(sorted(everywhere - axes)), to="varying") if everywhere - axes else x
        for x, axes in zip(arrays, differs, strict=True)
    )


def _varying_axes(array: Any) -> frozenset[str]:
    kind = jax.typeof(array)
    return getattr(getattr(kind, "mat", kind), "varying", frozenset())


def differentiate_through(primitive: Primitive, function: Callable[..., Any]) -> None:
    """Gives a primitive the tangent of a function with the same value."""

    def rule(primals: Any, tangents: Any, **options: Any) -> Any:
        whole = tuple(ad.instantiate_zeros(t) for t in tangents)
        return jax.jvp(functools.partial(function, **options), primals, whole)

    ad.primitive_jvps[primitive] = rule


def map_through(primitive: Primitive, function: Callable[..., Any]) -> None:
    """Gives a primitive the `vmap` of a function with the same value."""

    def rule(arrays: Any, axes: Any, **options: Any) -> Any:
        found = jax.vmap(functools.partial(function, **options), in_axes=tuple(axes))(*arrays)
        return found, (0,) * len(found) if primitive.multiple_results else 0

    batching.primitive_batchers[primitive] = rule
