"""Which parameters a study tries: products, zips, lists and random draws, never held in memory."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recollect._core._check import invalid, require_count, wrong_type

Parameters = dict[str, Any]
Distribution = Callable[[np.random.Generator], Any]

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A finite list of parameter sets, produced one at a time.

    `grid_a * grid_b` combines every point of one with every point of the other;
    `grid_a + grid_b` lists one after the other.

    Args:
        size: number of points.
        point: returns the parameters at a position in `range(size)`.
        axes: values of each parameter if the grid is a full product, in order, else None.
    """

    size: int
    point: Callable[[int], Parameters]
    axes: Mapping[str, tuple[Any, ...]] | None = None

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Parameters]:
        return (self.point(position) for position in range(self.size))

    def __mul__(self, other: Grid) -> Grid:
        if self.size and other.size:
            for name in self.point(0).keys() & other.point(0).keys():
                raise invalid("grid", "different parameters in the factors", f"{name!r} in both")
        axes = None
        if self.axes is not None and other.axes is not None:
            axes = {**self.axes, **other.axes}

        def point(position: int) -> Parameters:
            first, second = divmod(position, other.size)
            return {**self.point(first), **other.point(second)}

        return Grid(self.size * other.size, point, axes)

    def __add__(self, other: Grid) -> Grid:
        def point(position: int) -> Parameters:
            if position < self.size:
                return self.point(position)
            return other.point(position - self.size)

        return Grid(self.size + other.size, point)


def product(**axes: Sequence[Any]) -> Grid:
    """Returns every combination of the values; the last parameter varies fastest.

    Put the parameters that change array shapes first: neighbours share compiled code.

    Args:
        axes: the values of each parameter.

    Raises:
        ValueError: naming the entry that is NaN, repeated or cannot be stored.
    """
    values = {name: _axis(name, entries) for name, entries in axes.items()}
    for name, entries in values.items():
        _refuse_repeats(name, entries)
    size = math.prod(len(entries) for entries in values.values())

    def point(position: int) -> Parameters:
        chosen = {}
        for name, entries in reversed(values.items()):
            position, place = divmod(position, len(entries))
            chosen[name] = entries[place]
        return {name: chosen[name] for name in values}

    return Grid(size if values else 1, point, values)


def zipped(**axes: Sequence[Any]) -> Grid:
    """Returns the first values together, then the second values together, and so on.

    Args:
        axes: the values of each parameter, all of one length.

    Raises:
        ValueError: if the lengths differ, or naming the value that is NaN or cannot be stored.
    """
    values = {name: _axis(name, entries) for name, entries in axes.items()}
    lengths = {name: len(entries) for name, entries in values.items()}
    if len(set(lengths.values())) > 1:
        raise invalid("zipped", "parameters of one length", lengths, "use product to combine them")
    return Grid(
        next(iter(lengths.values()), 0),
        lambda position: {name: entries[position] for name, entries in values.items()},
    )


def points(entries: Sequence[Mapping[str, Any]]) -> Grid:
    """Returns the parameter sets that are listed, in order.

    Args:
        entries: one mapping from parameter to value for each point.

    Raises:
        TypeError: if an entry is no mapping.
        ValueError: naming the value that is NaN or cannot be stored.
    """
    listed = []
    for place, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise wrong_type(f"points[{place}]", "a mapping name -> value", repr(entry))
        listed.append(
            {str(k): canonical_value(f"points[{place}][{k!r}]", v) for k, v in entry.items()}
        )
    return Grid(len(listed), lambda position: dict(listed[position]))


def sampled(n_points: int, *, seed: int = 0, **distributions: Distribution) -> Grid:
    """Returns `n_points` random parameter sets; point i never depends on `n_points`.

    Args:
        n_points: number of points. Raising it later keeps the points already run.
        seed: of the draws.
        distributions: for each parameter `uniform`, `log_uniform`, `integers`, `choice`, or any
            function of a `numpy.random.Generator`.

    Raises:
        ValueError: if `n_points` is negative, or a draw is NaN or cannot be stored.
        TypeError: if a distribution cannot be called.
    """
    size = require_count("n_points", n_points, minimum=0)
    for name, draw in distributions.items():
        if not callable(draw):
            raise wrong_type(name, "a distribution such as uniform(0, 1)", repr(draw))

    def point(position: int) -> Parameters:
        generator = np.random.default_rng([seed, position])
        return {
            name: canonical_value(f"{name} of point {position}", draw(generator))
            for name, draw in distributions.items()
        }

    return Grid(size, point)


def uniform(low: float, high: float) -> Distribution:
    """Returns draws spread evenly over [low, high).

    Args:
        low: the smallest.
        high: their upper end.

    Raises:
        ValueError: unless low < high, both finite.
    """
    if not -math.inf < low < high < math.inf:
        raise invalid("uniform", "finite numbers, low < high", (low, high))
    return lambda generator: float(generator.uniform(low, high))


def log_uniform(low: float, high: float) -> Distribution:
    """Returns draws whose logarithm is spread evenly over [log low, log high).

    Args:
        low: the smallest, above zero.
        high: their upper end.

    Raises:
        ValueError: unless 0 < low < high, both finite.
    """
    if not 0 < low < high < math.inf:
        raise invalid("log_uniform", "0 < low < high", (low, high))
    return lambda generator: float(math.exp(generator.uniform(math.log(low), math.log(high))))


def integers(low: int, high: int) -> Distribution:
    """Returns draws of whole numbers from `low` to `high`, both included.

    Args:
        low: the smallest.
        high: the largest.

    Raises:
        ValueError: if `low` is above `high`, or one is no whole number.
    """
    if not (float(low).is_integer() and float(high).is_integer() and low <= high):
        raise invalid("integers", "whole numbers, low <= high", (low, high))
    return lambda generator: int(generator.integers(low, high, endpoint=True))


def choice(values: Sequence[Any]) -> Distribution:
    """Returns draws out of `values`, each as likely as the others.

    Args:
        values: at least one.

    Raises:
        ValueError: if there are none.
    """
    if not len(values):
        raise invalid("values", "at least one value", "none")
    return lambda generator: values[int(generator.integers(len(values)))]


def canonical_value(argument: str, value: Any) -> Any:
    """Returns a parameter as the plain Python value that the ledger stores and the trial receives.

    Raises:
        TypeError: for a value that has no canonical form (an array, a dict, a function).
        ValueError: for NaN and infinity.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise invalid(argument, "a finite number", value, "use None or a word for 'no limit'")
        return value
    if isinstance(value, (list, tuple)):
        return tuple(canonical_value(f"{argument}[{i}]", item) for i, item in enumerate(value))
    raise wrong_type(
        argument,
        "a number, text, True, False, None or a tuple of these",
        f"{type(value).__name__}",
        "build larger things inside the trial function",
    )


def canonical_text(value: Any) -> str:
    """Returns the JSON text by which equal parameters are recognised."""
    return _CANONICAL.encode(value)


def _axis(name: str, entries: Any) -> tuple[Any, ...]:
    if isinstance(entries, (str, bytes)) or not hasattr(entries, "__iter__"):
        raise wrong_type(name, "a sequence of values", repr(entries), f"use {name}=[{entries!r}]")
    return tuple(canonical_value(f"{name}[{i}]", entry) for i, entry in enumerate(entries))


def _refuse_repeats(name: str, entries: tuple[Any, ...]) -> None:
    seen: dict[str, int] = {}
    for place, entry in enumerate(entries):
        first = seen.setdefault(canonical_text(entry), place)
        if first != place:
            raise invalid(
                f"{name}[{place}]", "values that differ", f"{entry!r} again (as [{first}])"
            )
