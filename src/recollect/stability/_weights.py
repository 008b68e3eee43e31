"""The weights of a network as one vector, and the balls in which they move."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import invalid, require_finite, wrong_type

# Diagonals of a state matrix: its spectral norm is the largest entry.
_DIAGONALS = ("weights", "frequencies")
_READ_IN = ("B", "U", "input_weights")
_TINY = 1e-300


@dataclasses.dataclass(frozen=True)
class Segment:
    """One weight array in the vector; a complex one takes two numbers for each."""

    start: int
    stop: int
    shape: tuple[int, ...]
    is_complex: bool
    is_diagonal: bool

    def read(self, vector: Any) -> Any:
        part = vector[self.start : self.stop]
        if self.is_complex:
            half = (self.stop - self.start) // 2
            part = part[:half] + 1j * part[half:]
        return part.reshape(self.shape)

    def flatten(self, array: Any) -> Any:
        array = array.ravel()
        return jnp.concatenate([array.real, array.imag]) if self.is_complex else array

    def norm(self, part: Any) -> Any:
        if self.is_diagonal:
            return jnp.max(jnp.abs(part))
        if part.ndim == 2 and min(part.shape) > 1:
            return jnp.linalg.norm(part, ord=2)
        return jnp.linalg.norm(part.ravel())

    def furthest(self, slope: Any) -> Any:
        """Returns the array of norm one whose product with the slope is largest."""
        if self.is_diagonal:
            return slope / jnp.maximum(jnp.abs(slope), _TINY)
        if slope.ndim == 2 and min(slope.shape) > 1:
            left, _, right = jnp.linalg.svd(slope, full_matrices=False)
            return left @ right
        return slope / jnp.maximum(jnp.linalg.norm(slope.ravel()), _TINY)


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """The weights that move: their values, how to put them back, and where each array lies."""

    flat: np.ndarray
    restore: Callable[[Any], Any]
    segments: tuple[Segment, ...]

    def surface(self, direction: Any, radius: Any, ball: str) -> Any:
        """Returns the shift of size β along a direction, every array of the paper's ball by β."""
        if ball == "euclidean":
            return radius * direction / jnp.maximum(jnp.linalg.norm(direction), _TINY)
        parts = [(s, s.read(direction)) for s in self.segments]
        return radius * jnp.concatenate(
            [s.flatten(part / jnp.maximum(s.norm(part), _TINY)) for s, part in parts]
        )

    def furthest(self, slope: Any, radius: Any, ball: str) -> Any:
        """Returns the point of the ball that lies furthest along a slope."""
        # Slopes of huge errors overflow when squared; only their direction matters.
        slope = slope / jnp.maximum(jnp.max(jnp.abs(slope)), _TINY)
        if ball == "euclidean":
            return radius * slope / jnp.maximum(jnp.linalg.norm(slope), _TINY)
        return radius * jnp.concatenate(
            [s.flatten(s.furthest(s.read(slope))) for s in self.segments]
        )


def moving_weights(model: Any, of: str) -> Weights:
    """Returns the weights of a network that move, all of them or its rates."""
    paths, tree = jax.tree_util.tree_flatten_with_path(model)
    leaves = [leaf for _, leaf in paths]
    chosen: list[tuple[int, Segment]] = []
    start = 0
    for index, (path, leaf) in enumerate(paths):
        name = getattr(path[-1], "name", "") if path else ""
        if not eqx.is_inexact_array(leaf) or not np.size(leaf) or name.endswith(_UNITS):
            continue
        is_diagonal = name in _DIAGONALS and np.ndim(leaf) == 1
        if of == "rates" and not (is_diagonal and name == "weights"):
            continue
        if of == "fixed_readin" and name in _READ_IN and len(path) == 1:
            continue
        require_finite(name or "weights", np.asarray(leaf))
        is_complex = bool(np.iscomplexobj(leaf))
        stop = start + np.size(leaf) * (2 if is_complex else 1)
        segment = Segment(start, stop, np.shape(leaf), is_complex, is_diagonal)
        chosen.append((index, segment))
        start = stop
    if not chosen:
        if of == "rates":
            raise invalid("of", "'all' for networks without rates", "'rates'", "use a DiagonalRNN")
        raise wrong_type("networks", "networks with weights", type(model).__name__)

    def restore(vector):
        new = list(leaves)
        for index, segment in chosen:
            new[index] = segment.read(vector)
        return jax.tree_util.tree_unflatten(tree, new)

    parts = []
    for index, segment in chosen:
        array = np.asarray(leaves[index]).ravel()
        parts += [array.real, array.imag] if segment.is_complex else [array]
    flat = np.concatenate(parts).astype(np.float64)
    return Weights(flat, restore, tuple(segment for _, segment in chosen))


# The units of the data are no weights.
_UNITS = ("_scale", "_offset")
