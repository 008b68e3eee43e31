"""The weights of a network as one vector, and the balls in which they move."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import invalid, require_finite, wrong_type
from recollect.models import DiagonalRNN

# Diagonals of a state matrix: its spectral norm is the largest entry.
_DIAGONALS = ("weights", "frequencies")
_READ_IN = ("B", "U", "input_weights")
# The units of the data are no weights.
_UNITS = ("_scale", "_offset")
_TINY = 1e-300


@dataclasses.dataclass(frozen=True)
class Segment:
    """One weight array in the vector; a complex one takes two numbers for each."""

    index: int
    start: int
    stop: int
    shape: tuple[int, ...]
    is_complex: bool
    is_diagonal: bool

    def read(self, vector: Any) -> Any:
        """Returns the array."""
        part = vector[self.start : self.stop]
        if self.is_complex:
            half = (self.stop - self.start) // 2
            part = part[:half] + 1j * part[half:]
        return part.reshape(self.shape)

    def flatten(self, array: Any) -> Any:
        """Returns its part of the vector."""
        array = array.ravel()
        return jnp.concatenate([array.real, array.imag]) if self.is_complex else array

    def norm(self, part: Any) -> Any:
        """Returns the spectral norm."""
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


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which weights of a kind of network move, and how: what compiled code depends on."""

    tree: Any
    segments: tuple[Segment, ...]
    plain: tuple[tuple[int, Any], ...]
    n_leaves: int

    def restore(self, vector: Any, arrays: Any) -> Any:
        """Returns the network with these weights; `arrays` holds what does not move."""
        leaves = [None] * self.n_leaves
        for index, value in self.plain:
            leaves[index] = value
        for index, value in arrays.items():
            leaves[int(index)] = value
        for segment in self.segments:
            leaves[segment.index] = segment.read(vector)
        return jax.tree_util.tree_unflatten(self.tree, leaves)

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


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """The weights that move: their values, their layout, and the arrays that stay."""

    flat: np.ndarray
    layout: Layout
    arrays: dict[str, np.ndarray]

    def restore(self, vector: np.ndarray) -> Any:
        """Returns the network with these weights, on the host."""
        return self.layout.restore(np.asarray(vector, np.float64), self.arrays)

    def hints(self, model: Any) -> np.ndarray:
        """Returns directions worth a start of their own: longer memory alone, and louder besides."""
        longer, louder = np.zeros_like(self.flat), self.flat.copy()
        for segment in self.layout.segments:
            part = slice(segment.start, segment.stop)
            size = segment.shape[0] if segment.shape else 0
            if segment.is_diagonal and isinstance(model, DiagonalRNN):
                v, h = self.flat[part], 1e-6
                louder[part] = 0.0
                if len(v) == model.width and np.allclose(v, np.asarray(model.weights)):
                    ends = [np.asarray(model.reparam.forward(v + s * h)) for s in (-1, 1)]
                    longer[part] = np.sign(ends[0] - ends[1])
            elif segment.shape == (size, size) and size > 1 and not segment.is_complex:
                longer[part], louder[part] = np.eye(size).ravel(), 0.0
        hints = [longer, longer + louder, longer - louder]
        return np.array([hint for hint in hints if np.any(hint)]).reshape(-1, len(self.flat))


def moving_weights(model: Any, of: str) -> Weights:
    """Returns the weights of a network that move: all, its rates, or all but the input matrix."""
    paths, tree = jax.tree_util.tree_flatten_with_path(model)
    segments: list[Segment] = []
    plain: list[tuple[int, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    parts: list[np.ndarray] = []
    start = 0
    for index, (path, leaf) in enumerate(paths):
        if not eqx.is_array_like(leaf) or np.ndim(leaf) == 0:
            plain.append((index, leaf))
            continue
        name = getattr(path[-1], "name", "") if path else ""
        array = np.asarray(leaf)
        is_diagonal = name in _DIAGONALS and array.ndim == 1
        moves = array.dtype.kind in "fc" and array.size > 0 and not name.endswith(_UNITS)
        if of == "rates":
            moves = moves and is_diagonal and name == "weights"
        if of == "fixed_readin":
            moves = moves and not (name in _READ_IN and len(path) == 1)
        if array.dtype.kind in "fc":
            require_finite(name or "weights", array)
        if not moves:
            arrays[str(index)] = array
            continue
        is_complex = array.dtype.kind == "c"
        stop = start + array.size * (2 if is_complex else 1)
        segments.append(Segment(index, start, stop, array.shape, is_complex, is_diagonal))
        parts += [array.real.ravel(), array.imag.ravel()] if is_complex else [array.ravel()]
        start = stop
    if not segments:
        if of == "rates":
            raise invalid("of", "'all' for networks without rates", "'rates'", "use a DiagonalRNN")
        raise wrong_type("networks", "networks with weights", type(model).__name__)
    layout = Layout(tree, tuple(segments), tuple(plain), len(paths))
    return Weights(np.concatenate(parts).astype(np.float64), layout, arrays)
