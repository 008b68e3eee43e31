"""Checks that every model shares: shapes, kinds and finiteness of its weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect._core._check import invalid, is_tracer, require_finite, require_positive, wrong_type


def require_weight(name: str, array: Any, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Returns the shape of a real weight that fits `shape` (None for any size) and is finite."""
    actual = np.shape(array)
    fits = len(actual) == len(shape) and all(
        n is None or n == a for n, a in zip(shape, actual, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise invalid(name, f"shape ({wanted})", f"shape {actual}")
    if np.dtype(array.dtype).kind != "f":
        raise wrong_type(name, "real floating-point numbers", f"dtype {array.dtype}")
    require_finite(name, array)
    return actual


def extent(array: Any, axis: int) -> int:
    """Returns the size of an axis, 0 where there is none: shapes are judged after construction."""
    shape = np.shape(array)
    return shape[axis] if len(shape) >= abs(axis) else 0


def require_width(width: int) -> None:
    """Raises unless there is at least one hidden unit."""
    if width == 0:
        raise invalid("width", "at least one hidden unit", 0)


def require_step(dt: Any) -> Any:
    """Returns a step, traced or a positive number."""
    return dt if is_tracer(dt) else require_positive("dt", dt)


def equal_steps(a: float, b: float) -> bool:
    """Says whether two steps are the same up to rounding."""
    return math.isclose(a, b, rel_tol=1e-9)
