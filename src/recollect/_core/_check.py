"""Words every argument error the same way: argument, expected, got, what to do."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np


def invalid(argument: str, expected: str, got: object, remedy: str = "") -> ValueError:
    """Returns the ValueError for an argument whose value cannot be used."""
    return ValueError(_sentence(argument, expected, got, remedy))


def wrong_type(argument: str, expected: str, got: object, remedy: str = "") -> TypeError:
    """Returns the TypeError for an argument of the wrong kind."""
    return TypeError(_sentence(argument, expected, got, remedy))


def _sentence(argument: str, expected: str, got: object, remedy: str) -> str:
    text = f"{argument}: expected {expected}, got {got}"
    return f"{text}; {remedy}" if remedy else text


def require_positive(argument: str, value: Any) -> float:
    """Returns `value` as a float if it is a finite number above zero."""
    number = _real(argument, value, "a positive number")
    if not (math.isfinite(number) and number > 0):
        raise invalid(argument, "a positive finite number", value)
    return number


def require_nonnegative(argument: str, value: Any) -> float:
    """Returns `value` as a float if it is a finite number not below zero."""
    number = _real(argument, value, "a number not below zero")
    if not (math.isfinite(number) and number >= 0):
        raise invalid(argument, "a finite number not below zero", value)
    return number


def require_probability(argument: str, value: Any) -> float:
    """Returns `value` as a float if it lies strictly between 0 and 1."""
    number = require_positive(argument, value)
    if number >= 1:
        raise invalid(argument, "a number between 0 and 1", value)
    return number


def require_count(argument: str, value: Any, *, minimum: int = 1) -> int:
    """Returns `value` as an int if it is a whole number of at least `minimum`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise wrong_type(argument, f"a whole number of at least {minimum}", repr(value))
    if value < minimum:
        raise invalid(argument, f"a whole number of at least {minimum}", value)
    return int(value)


def require_choice(argument: str, value: Any, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`; suggests the nearest otherwise."""
    names = list(choices)
    if value in names:
        return value
    raise invalid(argument, "one of " + ", ".join(names), repr(value), did_you_mean(value, names))


def did_you_mean(value: Any, names: Iterable[str]) -> str:
    """Returns 'did you mean X?' for the nearest name, or an empty string."""
    nearest = difflib.get_close_matches(str(value), list(names), n=1, cutoff=0.6)
    return f"did you mean {nearest[0]!r}?" if nearest else ""


def is_tracer(value: Any) -> bool:
    """Says whether `value` is a JAX tracer, without importing jax."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def host_float64(
    argument: str, value: Any, *, owner: str, allow_complex: bool = False
) -> np.ndarray:
    """Returns `value` as a host float64 (or complex128) array with finite entries.

    `owner` names the function in the error when a tracer arrives: ill-conditioned work runs
    on the host and refuses to be traced.
    """
    if is_tracer(value):
        raise wrong_type(
            argument,
            "a concrete array",
            "a JAX tracer",
            f"{owner} runs on the host in float64: call it outside jit, vmap and grad",
        )
    try:
        array = np.asarray(value)
        if array.dtype == object:
            raise ValueError
        wants_complex = allow_complex and np.iscomplexobj(array)
        if np.iscomplexobj(array) and not allow_complex:
            raise wrong_type(argument, "real numbers", f"complex dtype {array.dtype}")
        array = array.astype(np.complex128 if wants_complex else np.float64)
    except (ValueError, TypeError) as error:
        if isinstance(error, TypeError) and argument in str(error):
            raise
        raise wrong_type(argument, "an array of numbers", _kind(value)) from None
    require_finite(argument, array)
    return array


def require_finite(argument: str, array: Any) -> None:
    """Raises if a concrete array holds NaN or infinity; says where the first one is."""
    if is_tracer(array):
        return
    values = np.asarray(array)
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise invalid(
            argument,
            "finite numbers",
            f"{int(bad.sum())} NaN or infinite (the first at index {where if len(where) != 1 else where[0]})",
            "remove or fill them first",
        )


def require_signal(argument: str, signal: Any, *, n_inputs: int | None = None) -> None:
    """Raises unless `signal` has the shape (time, in), with at least one sample."""
    shape = np.shape(signal)
    if len(shape) != 2:
        remedy = (
            "use signal[:, None] for one channel"
            if len(shape) == 1
            else "map over sequences with jax.vmap"
        )
        raise invalid(argument, "shape (time, in)", f"shape {shape}", remedy)
    if shape[0] == 0:
        raise invalid(argument, "at least one sample", f"shape {shape}")
    if n_inputs is not None and shape[1] != n_inputs:
        raise invalid(
            argument, f"{n_inputs} input channel(s), shape (time, {n_inputs})", f"shape {shape}"
        )


def _real(argument: str, value: Any, expected: str) -> float:
    if isinstance(value, (bool, np.bool_)):
        raise wrong_type(argument, expected, repr(value))
    try:
        return float(value)
    except (TypeError, ValueError):
        raise wrong_type(argument, expected, _kind(value)) from None
    except OverflowError:
        raise invalid(argument, expected, "a whole number beyond float64") from None


def _kind(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else type(value).__name__
