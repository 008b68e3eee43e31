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
    chains: tuple[int, ...] = ()
    n_drains: int = 0
    n_spills: int = 0

    @property
    def is_series(self) -> bool:
        """True where the states are stores in series, False where they are free."""
        return bool(self.chains)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        m, i, o = self.width, self.n_inputs, self.n_outputs
        if self.is_series:
            return {
                "leak": (m,),
                "flow": (m,),
                "B": (o, i),
                "C": (o,),
                "offset": (o,),
                "start": (m,),
                "E": (m, self.n_drains),
                "F": (m, self.n_drains),
                "b": (m, self.n_drains),
                "E_spill": (m, self.n_spills),
                "W_spill": (m, self.n_spills),
                "F_spill": (m, self.n_spills),
                "G_spill": (m, self.n_spills, i),
                "b_spill": (m, self.n_spills),
            }
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
) -> np.ndarray:
    """Returns the parameters of a network equal to its linear part.

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
    return layout.join(parts)


def start_series(
    linear: LinearRNN,
    layout: Layout,
    rng: np.random.Generator,
    *,
    offset: np.ndarray,
) -> np.ndarray:
    """Returns the parameters of linear stores in series with the linear part's rates and gain.

    Each store drains into the next; units start with random thresholds and drain nothing.
    """
    A, B, C = (np.asarray(part, float) for part in (linear.A, linear.B, linear.C))
    leak, at = [], 0
    for width in layout.chains:
        block = A[at : at + width, at : at + width]
        leak.append(np.sort(np.maximum(np.abs(np.linalg.eigvals(block)), 1e-4))[::-1])
        at += width
    rates = np.concatenate(leak)
    first, _ = _ends(layout)
    m, k, z, i = layout.width, layout.n_drains, layout.n_spills, layout.n_inputs
    parts = {
        "leak": np.log(rates),
        "flow": np.log(rates),
        "B": rates[first][:, None] * (C @ np.linalg.solve(-A, B)),
        "C": np.ones(layout.n_outputs),
        "offset": offset,
        "start": np.zeros(m),
        "E": np.zeros((m, k)),
        "F": 0.3 * rng.standard_normal((m, k)),
        "b": 1.5 * rng.standard_normal((m, k)),
        "E_spill": np.zeros((m, z)),
        "W_spill": np.zeros((m, z)),
        "F_spill": 1.0 + 0.3 * rng.standard_normal((m, z)),
        "G_spill": 0.3 * rng.standard_normal((m, z, i)),
        "b_spill": -2.0 + 0.5 * rng.standard_normal((m, z)),
    }
    return layout.join(parts)


def penalties(layout: Layout, *, amplitude: float, direction: float, linear: float) -> np.ndarray:
    """Returns the prior precision of every parameter about its start."""
    of = dict.fromkeys(layout.shapes, linear)
    of |= dict.fromkeys(("E", "I", "W"), amplitude)
    of |= dict.fromkeys(("F", "G", "b", "J", "j", "V", "w"), direction)
    # A spill is steep and rare: it costs less.
    of |= dict.fromkeys(("E_spill", "W_spill"), 0.1 * amplitude)
    of |= dict.fromkeys(("F_spill", "G_spill", "b_spill"), direction)
    of["offset"] = 0.0
    if layout.is_series:
        of["C"] = 0.0
    return layout.join({name: np.full(shape, of[name]) for name, shape in layout.shapes.items()})


def matrices(layout: Layout, vector: Any, xp: Any) -> dict[str, Any]:
    """Returns the network of the parameters: `dh/dt = A h + B v + E tanh(F h + G x + b) + constant`."""
    part = layout.split(vector)
    if layout.is_series:
        return _series(layout, part, xp)
    m = layout.width
    upper, lower = np.triu_indices(m, 1), np.tril_indices(m)
    S = _scatter(xp, (m, m), upper, part["S"])
    R = _scatter(xp, (m, m), lower, part["R"])
    A = S - S.T - R @ R.T - _MARGIN * xp.eye(m)
    return part | {"A": A, "constant": xp.zeros(m)}


def _series(layout: Layout, part: dict[str, Any], xp: Any) -> dict[str, Any]:
    m, o, i = layout.width, layout.n_outputs, layout.n_inputs
    k, z = layout.n_drains, layout.n_spills
    first, last = _ends(layout)
    at = np.arange(m)
    giving = np.setdiff1d(at, last)
    leak, flow = xp.exp(part["leak"]), xp.exp(part["flow"])
    # flow[i + 1] is the rate at which what drains from store i fills store i + 1.
    moves = _scatter(xp, (m, m), (giving + 1, giving), flow[giving + 1])
    drains = moves - xp.diag(leak)
    A = drains
    B = _scatter(xp, (m, i), (first,), part["B"])
    C = _scatter(xp, (o, m), (np.arange(o), last), part["C"])
    E = (drains[:, :, None] * part["E"]).reshape(m, m * k)
    spills = moves[:, :, None] * part["W_spill"] - xp.diag(leak)[:, :, None] * part["E_spill"]
    spills = spills.reshape(m, m * z)
    steep = xp.exp(part["F"])
    F = _scatter(xp, (m, k, m), (at[:, None], np.arange(k), at[:, None]), steep)
    F_spill = _scatter(xp, (m, z, m), (at[:, None], np.arange(z), at[:, None]), part["F_spill"])
    return {
        "A": A,
        "B": B,
        "C": C,
        "offset": part["offset"],
        "start": part["start"],
        "E": xp.concatenate([E, spills], axis=1),
        "F": xp.concatenate([F.reshape(m * k, m), F_spill.reshape(m * z, m)]),
        "G": xp.concatenate([xp.zeros((m * k, i)), part["G_spill"].reshape(m * z, i)]),
        "b": xp.concatenate([part["b"].ravel(), part["b_spill"].ravel()]),
        # Drains count from the middle of the data, spills from none.
        "constant": spills.sum(axis=1) - E @ xp.tanh(part["b"].ravel()),
        "I": xp.zeros((i, 0)),
        "J": xp.zeros((0, i)),
        "j": xp.zeros(0),
        "W": xp.zeros((o, 0)),
        "V": xp.zeros((0, m)),
        "w": xp.zeros(0),
    }


def _ends(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    last = np.cumsum(layout.chains) - 1
    return last - np.array(layout.chains) + 1, last


def _scatter(xp: Any, shape: tuple[int, ...], at: Any, values: Any) -> Any:
    zero = xp.zeros(shape)
    if xp is np:
        zero[at] = values
        return zero
    return zero.at[at].set(values)


def _simulate(layout: Layout, vector: Any, inputs: Any, start: Any, limits: Any) -> Any:
    part = matrices(layout, vector, jnp)
    A = part["A"]
    transition = jax.scipy.linalg.expm(A)
    hold = jnp.linalg.solve(A, transition - jnp.eye(layout.width))
    before = inputs + jnp.tanh(inputs @ part["J"].T + part["j"]) @ part["I"].T
    drive = before @ (hold @ part["B"]).T + hold @ part["constant"]
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
    part = matrices(layout, vector, np)
    x_mean, x_std = input_scale
    y_mean, y_std = output_scale
    A = part["A"]
    # The network has no constant: its states count from where the constant holds them.
    shift = np.linalg.solve(-A, part["constant"])
    B = np.concatenate([part["B"] / x_std, part["E"]], axis=1)
    return StateNetwork(
        LinearRNN(A / dt, B / dt, y_std[:, None] * part["C"]),
        (part["F"], part["G"] / x_std, part["b"] + part["F"] @ shift),
        input_units=(x_std[:, None] * part["I"], part["J"] / x_std, part["j"]),
        output_units=(y_std[:, None] * part["W"], part["V"], part["w"] + part["V"] @ shift),
        input_offset=x_mean,
        output_offset=y_mean + y_std * (part["offset"] + part["C"] @ shift),
        start=part["start"] - shift,
        lower=limits[0],
        upper=limits[1],
    )
