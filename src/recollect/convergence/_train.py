"""Gradient descent of the theory, projected or not, with hand-written gradients."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._precision import in_float64
from recollect._core._references import references
from recollect._core._status import Status
from recollect.convergence._activation import (
    SmoothActivation,
    slope_of_value,
    traced_value_and_slope,
)
from recollect.convergence._network import PairedNetwork, require_sequences, require_targets

METHODS = ("projected", "plain", "sgd")


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What gradient descent did.

    Attributes:
        risk: `R(Θ(s))` after s = 0, `record_every`, … steps, shape (records,).
        average_risk: risk of the network with the average of the weights so far, same places;
            the first entry is the risk at the start.
        sample_risk: risk of the sequence drawn at each step of SGD, shape (n_steps,); empty otherwise.
        drift: `max_i √m ‖θ_i - θ_i(0)‖` at the same places.
        steps: the places.
        network: the trained network.
        average_network: the network with averaged weights, over s = 0 … n_steps - 1.
        step_size: η.
        status: `diverged` if the risk left the floating-point range.
    """

    risk: np.ndarray
    average_risk: np.ndarray
    sample_risk: np.ndarray
    drift: np.ndarray
    steps: np.ndarray
    network: PairedNetwork
    average_network: PairedNetwork
    step_size: float
    status: Status = Status()

    @property
    def best_risk(self) -> float:
        """The least recorded risk."""
        return float(np.nanmin(self.risk))


@references("cayci2024convergence")
def train_paired(
    network: PairedNetwork,
    signals: Any,
    targets: Any,
    *,
    n_steps: int,
    step_size: float | str = "paper",
    method: str = "projected",
    radius_w: float | None = None,
    radius_u: float | None = None,
    record_every: int = 1,
    seed: int = 0,
    dtype: str = "float32",
    input_norm: float = 1.0,
) -> TrainedNetwork:
    """Returns the network trained by gradient descent on `R = (1/n) Σ_j Σ_t (F_t(X_j) - Y_jt)²`.

    Gradients are written by hand (Proposition 3.1, run backwards in time):

        λ_t = (2/n) m^{-1/2} c r_t + w σ'(z_{t+1}) λ_{t+1},
        ∂R/∂w = Σ λ_t σ'(z_t) H_{t-1},   ∂R/∂u = Σ λ_t σ'(z_t) X_{t-1}.

    After every step of `"projected"` and `"sgd"` each unit is moved back into
    `|w_i - w_i(0)| ≤ ρ_w/√m`, `‖u_i - u_i(0)‖ ≤ ρ_u/√m`; `"plain"` lets it drift and watches.

    Args:
        network: the start.
        signals: sequences, shape (n, time, in).
        targets: shape (n, time).
        n_steps: number of steps τ.
        step_size: η, or `"paper"` for C's `1/(T√τ)`.
        method: `"projected"`, `"plain"`, or `"sgd"` (one sequence per step, with replacement).
        radius_w: ρ_w of the projection.
        radius_u: ρ_u of the projection.
        record_every: steps between records; divides `n_steps`.
        seed: of the sequences drawn by SGD.
        dtype: `"float32"` or `"float64"`.
        input_norm: the bound on `‖X_t‖` that is assumed.

    Raises:
        ValueError: if a radius is missing or not positive, or inputs exceed `input_norm`.

    Source: Cayci and Eryilmaz 2024, Proposition 3.1 and section 4.
    """
    signals = require_sequences("signals", signals, network.n_inputs, input_norm=input_norm)
    targets = require_targets("targets", targets, signals)
    method = require_choice("method", method, METHODS)
    n_steps = require_count("n_steps", n_steps)
    record_every = require_count("record_every", record_every)
    if n_steps % record_every:
        raise invalid("record_every", f"a divisor of n_steps = {n_steps}", record_every)
    require_choice("dtype", dtype, ("float32", "float64"))
    eta = resolve_step_size(step_size, horizon=signals.shape[1], n_steps=n_steps)
    if method == "plain":
        if radius_w is not None or radius_u is not None:
            raise invalid("radius", "none for plain gradient descent", (radius_w, radius_u))
        radii = (math.inf, math.inf)
    else:
        radii = _require_radii(radius_w, radius_u)
    root = math.sqrt(network.width)
    arrays = (
        network.weights,
        network.U.T,
        network.signs,
        np.moveaxis(signals, 1, 0),
        targets.T,
        np.asarray([eta, radii[0] / root, radii[1] / root]),
    )
    static = (network.activation, method, n_steps // record_every, record_every)
    if dtype == "float64":
        found = in_float64(lambda key, *a: _descend(*static, key, *a))(seed, *arrays)
    else:
        narrow = (np.asarray(a, np.float32) for a in arrays)
        found = jax.tree.map(np.asarray, _descend(*static, seed, *narrow))
    weights, U, mean_w, mean_u, risk, average, sample, drift = (
        np.asarray(a, np.float64) for a in found
    )
    status = Status()
    if not (np.isfinite(risk).all() and np.isfinite(drift).all()):
        first = int(np.argmin(np.isfinite(risk))) * record_every
        status = Status("diverged", f"the risk is not finite from step {first} on")
    return TrainedNetwork(
        risk,
        average,
        sample,
        drift,
        np.arange(len(risk)) * record_every,
        dataclasses.replace(network, weights=weights, U=U.T),
        dataclasses.replace(network, weights=mean_w, U=mean_u.T),
        eta,
        status,
    )


def measure_gradient(
    network: PairedNetwork, signals: Any, targets: Any
) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns the risk and its gradient, `(R, ∂R/∂w, ∂R/∂U)`, in float64.

    Args:
        network: where.
        signals: sequences, shape (n, time, in).
        targets: shape (n, time).

    Raises:
        ValueError: if signals or targets do not fit or are not finite.
    """
    signals = require_sequences("signals", signals, network.n_inputs)
    targets = require_targets("targets", targets, signals)
    arrays = (network.weights, network.U.T, network.signs, np.moveaxis(signals, 1, 0), targets.T)
    risk, gw, gu = in_float64(_compiled_risk_and_gradient)(network.activation, *arrays)
    return float(risk), gw, gu.T


def resolve_step_size(step_size: float | str, *, horizon: int, n_steps: int) -> float:
    """Returns η; `"paper"` is `1/(T√τ)`."""
    if isinstance(step_size, str):
        if step_size != "paper":
            raise wrong_type("step_size", "a number or 'paper'", repr(step_size))
        return 1 / (horizon * math.sqrt(n_steps))
    return require_positive("step_size", step_size)


def _require_radii(radius_w: Any, radius_u: Any) -> tuple[float, float]:
    for name, radius in (("radius_w", radius_w), ("radius_u", radius_u)):
        if radius is None:
            raise invalid(name, "a positive radius", None, "or use method='plain'")
    return require_positive("radius_w", radius_w), require_positive("radius_u", radius_u)


# Inside the compiled loop U is held as (in, width), so that no product transposes its larger side,
# and only the states are kept: slopes come from them where they can.


def _outputs_and_states(activation: Any, w: Any, U: Any, signs: Any, x: Any) -> Any:
    n_time, n_samples, n_inputs = x.shape
    drive = (x.reshape(-1, n_inputs) @ U).reshape(n_time, n_samples, len(w))

    def step(h: Any, driven: Any) -> Any:
        value, slope = traced_value_and_slope(activation, w * h + driven)
        return value, (value, None if slope_of_value(activation, value) is not None else slope)

    _, (states, slopes) = jax.lax.scan(step, jnp.zeros_like(drive[0]), drive)
    half = len(w) // 2
    signed = states * signs
    outputs = (signed[..., :half] + signed[..., half:]).sum(-1) / math.sqrt(len(w))
    return outputs, states, slopes


def _risk_and_gradient(
    activation: SmoothActivation, w: Any, U: Any, signs: Any, x: Any, y: Any
) -> Any:
    n_samples, n_inputs = x.shape[1:]
    outputs, states, slopes = _outputs_and_states(activation, w, U, signs, x)
    residual = outputs - y
    pull = (2 / (n_samples * math.sqrt(len(w)))) * residual

    def step(later: Any, now: Any) -> Any:
        pulled, state, slope = now
        if slope is None:
            slope = slope_of_value(activation, state)
        g = (pulled[:, None] * signs + later) * slope
        return w * g, g

    _, g = jax.lax.scan(step, jnp.zeros_like(states[0]), (pull, states, slopes), reverse=True)
    gw = (g[1:] * states[:-1]).sum((0, 1))
    gu = x.reshape(-1, n_inputs).T @ g.reshape(-1, len(w))
    return jnp.sum(residual**2) / n_samples, gw, gu


# Left to itself a scan with a new closure is compiled anew at every call.
_compiled_risk_and_gradient = jax.jit(_risk_and_gradient, static_argnums=0)


def _risk(activation: SmoothActivation, w: Any, U: Any, signs: Any, x: Any, y: Any) -> Any:
    outputs, _, _ = _outputs_and_states(activation, w, U, signs, x)
    return jnp.sum((outputs - y) ** 2) / x.shape[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _descend(
    activation: SmoothActivation,
    method: str,
    n_records: int,
    every: int,
    seed: Any,
    w0: Any,
    U0: Any,
    signs: Any,
    x: Any,
    y: Any,
    sizes: Any,
) -> Any:
    eta, reach_w, reach_u = sizes[0], sizes[1], sizes[2]
    root = math.sqrt(len(w0))
    n_samples = x.shape[1]

    def project(w: Any, U: Any) -> Any:
        if method == "plain":
            return w, U
        w = w0 + jnp.clip(w - w0, -reach_w, reach_w)
        moved = U - U0
        size = jnp.sqrt(jnp.sum(moved**2, axis=0))
        return w, U0 + moved * (reach_u / jnp.maximum(size, reach_u))

    def step(state: Any, key: Any) -> Any:
        w, U, sum_w, sum_u = state
        if method == "sgd":
            place = jax.random.randint(key, (), 0, n_samples)
            seen, wanted = x[:, place][:, None], y[:, place][:, None]
        else:
            seen, wanted = x, y
        risk, gw, gu = _risk_and_gradient(activation, w, U, signs, seen, wanted)
        state = (*project(w - eta * gw, U - eta * gu), sum_w + (w - w0), sum_u + (U - U0))
        return state, risk

    def record(state: Any, keys: Any) -> Any:
        before = state
        state, seen = jax.lax.scan(step, state, keys)
        first = _risk(activation, before[0], before[1], signs, x, y) if method == "sgd" else seen[0]
        return state, (first, seen, _drift(state), (state[2], state[3]))

    def _drift(state: Any) -> Any:
        moved = (state[0] - w0) ** 2 + jnp.sum((state[1] - U0) ** 2, axis=0)
        return root * jnp.sqrt(jnp.max(moved))

    def average_risk(sums: Any, count: Any) -> Any:
        return _risk(activation, w0 + sums[0] / count, U0 + sums[1] / count, signs, x, y)

    def recorded(state: Any, keys: Any) -> Any:
        (inner, count) = state
        inner, (first, seen, drift, sums) = record(inner, keys)
        count = count + every
        average = average_risk(sums, count)
        return (inner, count), (first, seen, drift, average)

    keys = jax.random.split(jax.random.key(seed), n_records * every).reshape(n_records, every)
    start = (w0, U0, jnp.zeros_like(w0), jnp.zeros_like(U0))
    (state, count), (risk, seen, drift, average) = jax.lax.scan(
        recorded, (start, jnp.zeros((), w0.dtype)), keys
    )
    w, U, sum_w, sum_u = state
    last = _risk(activation, w, U, signs, x, y)
    zero = jnp.zeros((1,), w0.dtype)
    return (
        w,
        U,
        w0 + sum_w / count,
        U0 + sum_u / count,
        jnp.append(risk, last),
        jnp.concatenate([risk[:1], average]),
        seen.ravel() if method == "sgd" else zero[:0],
        jnp.concatenate([zero, drift]),
    )
