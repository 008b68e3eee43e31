"""The simulation that a nonlinear network is fitted by, and its normal equations."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
import scipy.linalg

from recollect.models import LinearRNN, StateNetwork

_MARGIN = 1e-5


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of a network, and where its parameters lie in one vector (step 1, unit variances)."""

    width: int
    n_inputs: int
    n_outputs: int
    n_state_units: int
    n_input_units: int
    n_output_units: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        m, i, o = self.width, self.n_inputs, self.n_outputs
        n, q, p = self.n_state_units, self.n_input_units, self.n_output_units
        return {
            # A = S - Sᵀ - R Rᵀ: every stable matrix is of this form in some coordinates.
            "S": (m * (m - 1) // 2,),
            "R": (m * (m + 1) // 2,),
            "B": (m, i),
            "C": (o, m),
            "offset": (o,),
            "start": (m,),
            "E": (m, n),
            "F": (n, m),
            "G": (n, i),
            "b": (n,),
            "I": (i, q),
            "J": (q, i),
            "j": (q,),
            "W": (o, p),
            "V": (p, m),
            "w": (p,),
        }

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def split(self, vector: Any) -> dict[str, Any]:
        parts, at = {}, 0
        for name, shape in self.shapes.items():
            length = int(np.prod(shape))
            parts[name] = vector[at : at + length].reshape(shape)
            at += length
        return parts

    def join(self, parts: dict[str, Any]) -> np.ndarray:
        return np.concatenate([np.ravel(parts[name]) for name in self.shapes]).astype(float)


@dataclasses.dataclass(frozen=True)
class Windows:
    """A record as stretches that are simulated side by side.

    One stretch from the estimated initial state, or, for a long record, overlapping ones that
    start from the linear part's states and are scored only after a washout.

    Attributes:
        inputs: shape (window, time, in).
        outputs: shape (window, time, out), zero where not observed.
        seen: weights, zero where not observed or not scored, same shape.
        starts: states before each window, shape (window, width); the first is estimated.
        limits: (lower, upper), each of shape (out,).
        rows: index into the record of each row, shape (window, time), -1 after its end.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    seen: np.ndarray
    starts: np.ndarray
    limits: tuple[np.ndarray, np.ndarray]
    rows: np.ndarray

    def masked(self, keep: np.ndarray) -> Windows:
        """Returns the windows with only those rows of the record scored that `keep` marks."""
        kept = np.where(self.rows >= 0, keep[np.maximum(self.rows, 0)], False)
        return dataclasses.replace(self, seen=self.seen * kept[:, :, None])


def start_layout(
    linear: LinearRNN,
    states: np.ndarray,
    layout: Layout,
    rng: np.random.Generator,
    *,
    gain: float,
    offset: np.ndarray,
    start: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the parameters of a network equal to its linear part, and the map of its states.

    Units start with random weights, scaled to the states visited, and add nothing.
    """
    A, B, C = (np.asarray(part, float) for part in (linear.A, linear.B, linear.C))
    width = len(A)
    gramian = scipy.linalg.solve_continuous_lyapunov(A, -B @ B.T - 1e-9 * np.eye(width))
    root = scipy.linalg.cholesky((gramian + gramian.T) / 2, lower=True)
    moved = scipy.linalg.solve_triangular(root, states.T, lower=True)
    root = root * max(float(np.sqrt(np.mean(moved**2))), 1e-12)
    inverse = np.linalg.inv(root)
    A, B, C = inverse @ A @ root, inverse @ B, C @ root
    moved = inverse @ states.T
    covariance = moved @ moved.T / moved.shape[1] + 1e-6 * np.eye(width)
    whiten = np.linalg.inv(scipy.linalg.cholesky(covariance, lower=True))
    damping, vectors = np.linalg.eigh(-(A + A.T) / 2)
    damping = np.maximum(damping - _MARGIN, 1e-9)
    factor = scipy.linalg.cholesky((vectors * damping) @ vectors.T, lower=True)
    n, q, p = layout.n_state_units, layout.n_input_units, layout.n_output_units
    draw = lambda *shape: gain * rng.standard_normal(shape)  # noqa: E731
    parts = {
        "S": ((A - A.T) / 2)[np.triu_indices(width, 1)],
        "R": factor[np.tril_indices(width)],
        "B": B,
        "C": C,
        "offset": offset,
        "start": inverse @ start,
        "E": np.zeros((width, n)),
        "F": draw(n, width) @ whiten,
        "G": draw(n, layout.n_inputs),
        "b": draw(n),
        "I": np.zeros((layout.n_inputs, q)),
        "J": draw(q, layout.n_inputs),
        "j": draw(q),
        "W": np.zeros((layout.n_outputs, p)),
        "V": draw(p, width) @ whiten,
        "w": draw(p),
    }
    return layout.join(parts), inverse


def penalties(layout: Layout, *, amplitude: float, direction: float, linear: float) -> np.ndarray:
    """Returns the prior precision of every parameter about its start."""
    of = dict.fromkeys(layout.shapes, linear)
    of |= dict.fromkeys(("E", "I", "W"), amplitude)
    of |= dict.fromkeys(("F", "G", "b", "J", "j", "V", "w"), direction)
    of["offset"] = 0.0
    return layout.join({name: np.full(shape, of[name]) for name, shape in layout.shapes.items()})


def generator(parts: dict[str, Any], width: int, xp: Any) -> Any:
    """Returns A, stable whatever the parameters."""
    S = xp.zeros((width, width))
    R = xp.zeros((width, width))
    upper, lower = np.triu_indices(width, 1), np.tril_indices(width)
    if xp is np:
        S[upper], R[lower] = parts["S"], parts["R"]
    else:
        S, R = S.at[upper].set(parts["S"]), R.at[lower].set(parts["R"])
    return S - S.T - R @ R.T - _MARGIN * xp.eye(width)


def _simulate(layout: Layout, vector: Any, inputs: Any, start: Any, limits: Any) -> Any:
    part = layout.split(vector)
    A = generator(part, layout.width, jnp)
    transition = jax.scipy.linalg.expm(A)
    hold = jnp.linalg.solve(A, transition - jnp.eye(layout.width))
    before = inputs + jnp.tanh(inputs @ part["J"].T + part["j"]) @ part["I"].T
    drive = before @ (hold @ part["B"]).T
    reach = inputs @ part["G"].T + part["b"]
    lift = hold @ part["E"]

    def step(state: Any, driven: Any) -> tuple[Any, Any]:
        forced, shifted = driven
        state = transition @ state + forced + lift @ jnp.tanh(part["F"] @ state + shifted)
        return state, state

    states = jax.lax.scan(step, start, (drive, reach))[1]
    after = jnp.tanh(states @ part["V"].T + part["w"]) @ part["W"].T
    outputs = part["offset"] + states @ part["C"].T + after
    return jnp.clip(outputs, limits[0], limits[1])


def _window_outputs(layout: Layout, vector: Any, inputs: Any, starts: Any, limits: Any) -> Any:
    first = layout.split(vector)["start"]
    starts = jnp.concatenate([first[None], starts[1:]])
    return jax.vmap(lambda u, h: _simulate(layout, vector, u, h, limits))(inputs, starts)


@functools.partial(jax.jit, static_argnums=0)
def simulate_windows(layout: Layout, vector: Any, inputs: Any, starts: Any, limits: Any) -> Any:
    """Returns the outputs of every window, shape (window, time, out)."""
    return _window_outputs(layout, vector, inputs, starts, limits)


@functools.partial(jax.jit, static_argnums=0)
def normal_equations(
    layout: Layout, vector: Any, inputs: Any, starts: Any, limits: Any, outputs: Any, seen: Any
) -> Any:
    """Returns (Jᵀ J, Jᵀ r, rᵀ r) of the simulation error, window by window in little memory."""

    def one(args: Any) -> Any:
        index, u, h, y, s = args

        def residual(v: Any) -> Any:
            first = jnp.where(index == 0, layout.split(v)["start"], h)
            return (s * (_simulate(layout, v, u, first, limits) - y)).ravel()

        J = jax.jacfwd(residual)(vector)
        r = residual(vector)
        return J.T @ J, J.T @ r, r @ r

    results = jax.lax.map(one, (jnp.arange(len(inputs)), inputs, starts, outputs, seen))
    return jax.tree.map(lambda a: a.sum(axis=0), results)


def assemble(
    layout: Layout,
    vector: np.ndarray,
    *,
    dt: float,
    input_scale: tuple[np.ndarray, np.ndarray],
    output_scale: tuple[np.ndarray, np.ndarray],
    limits: tuple[np.ndarray, np.ndarray],
) -> StateNetwork:
    """Returns the network in the units of the data, from parameters of unit step and variances."""
    part = layout.split(vector)
    x_mean, x_std = input_scale
    y_mean, y_std = output_scale
    A = generator(part, layout.width, np)
    B = np.concatenate([part["B"] / x_std, part["E"]], axis=1)
    return StateNetwork(
        LinearRNN(A / dt, B / dt, y_std[:, None] * part["C"]),
        (part["F"], part["G"] / x_std, part["b"]),
        input_units=(x_std[:, None] * part["I"], part["J"] / x_std, part["j"]),
        output_units=(y_std[:, None] * part["W"], part["V"], part["w"]),
        input_offset=x_mean,
        output_offset=y_mean + y_std * part["offset"],
        start=part["start"],
        lower=limits[0],
        upper=limits[1],
    )
