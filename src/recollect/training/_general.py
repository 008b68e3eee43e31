"""Training outside the theorem's assumptions: full W, tanh, sample paths, any optimiser."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_nonnegative,
    require_positive,
    wrong_type,
)
from recollect._core._functional import AbstractFunctional
from recollect._core._precision import in_float64
from recollect._core._references import references
from recollect._core._status import Status
from recollect.models import initialise_residual, nonlinear_dense_states
from recollect.targets import AbstractKernel

_ACTIVATIONS = ("linear", "tanh")
_OPTIMISERS = ("gradient_descent", "momentum", "adam")


@dataclasses.dataclass(frozen=True)
class PlateauLength:
    """The longest stretch on which a loss curve stood still.

    Attributes:
        length: steps from its first to its last point; 0 if the loss never stood still.
        start: step at which it began.
        level: loss at its end.
        is_over: True if the loss later fell by the stated drop; False if the record ended first,
            and the length is then a lower bound.
        status: `undecided` if it had not ended when the record did.
    """

    length: float
    start: float
    level: float
    is_over: bool
    status: Status = Status()


def measure_plateau_length(
    losses: Any,
    steps: Any = None,
    *,
    floor: float = 0.0,
    flatness: float = 0.1,
    drop: float = 0.5,
) -> PlateauLength:
    """Returns the length of the longest plateau of a loss curve, by one definition.

    A plateau is a stretch of steps over which the running minimum of the loss falls by less
    than the fraction `flatness` and stays above `floor`, and after which it falls by at least
    the fraction `drop`. A longer stretch at the end of the record is returned as one that is not
    over: nobody knows from the curve alone whether it ever will be.

    Args:
        losses: shape (record,), not negative.
        steps: when they were recorded, increasing, shape (record,); 0, 1, … if omitted.
        floor: a loss at which all is learned that can be: standing still there is no plateau.
        flatness: relative fall that still counts as standing still.
        drop: relative fall that ends a plateau.

    Returns:
        Length, start and level, and whether it is known to have ended.

    Raises:
        ValueError: for an empty curve, negative losses, or steps that do not increase.
    """
    owner = "measure_plateau_length"
    curve = host_float64("losses", losses, owner=owner)
    if curve.ndim != 1 or not len(curve):
        raise invalid("losses", "shape (record,), at least one", f"shape {curve.shape}")
    if (curve < 0).any():
        raise invalid("losses", "losses not below zero", f"{curve.min():g}")
    at = np.arange(len(curve)) if steps is None else host_float64("steps", steps, owner=owner)
    if at.shape != curve.shape or (np.diff(at) <= 0).any():
        raise invalid("steps", "increasing steps, one per loss", f"shape {at.shape}")
    if not 0 < require_positive("flatness", flatness) < require_positive("drop", drop) < 1:
        raise invalid("flatness", "0 < flatness < drop < 1", (flatness, drop))
    lowest = np.minimum.accumulate(curve)
    # Where each stretch that begins at i ends: the last point above (1 - flatness) of its loss.
    ends = np.searchsorted(-lowest, -(1 - flatness) * lowest, side="left") - 1
    ends = np.maximum(ends, np.arange(len(curve)))
    lengths = at[ends] - at
    lengths = np.where(lowest[ends] > require_nonnegative("floor", floor), lengths, 0)
    is_over = lowest[-1] <= (1 - drop) * lowest[ends]
    # A stretch that neither dropped nor reached the end is a slow descent, not a plateau.
    counts = is_over | (ends == len(curve) - 1)
    best = int(np.argmax(np.where(counts, lengths, 0)))
    if not counts[best] or lengths[best] == 0:
        return PlateauLength(0.0, float(at[0]), float(lowest[0]), True)
    status = Status()
    if not is_over[best]:
        status = Status("undecided", "the loss stood still until the end of the record")
    return PlateauLength(
        float(lengths[best]), float(at[best]), float(lowest[ends[best]]), status.is_ok, status
    )


@dataclasses.dataclass(frozen=True)
class TrainingEnsemble:
    """Loss curves of networks trained from different starts on the same paths.

    Attributes:
        losses: mean square error before each step, shape (start, step).
        power: mean square of the target's output: the loss of the answer zero.
        W: trained state matrices, shape (start, width, width).
        U: trained input matrices, shape (start, width, in).
        C: trained output matrices, shape (start, out, width).
        status: `diverged` if a curve left the numbers, with how many.
        stats: samples per path, paths.
    """

    losses: np.ndarray
    power: float
    W: np.ndarray
    U: np.ndarray
    C: np.ndarray
    status: Status
    stats: dict[str, float]

    def plateaus(
        self, *, floor: float = 0.0, flatness: float = 0.1, drop: float = 0.5
    ) -> tuple[PlateauLength, ...]:
        """Returns the plateau of every curve (its finite part), by `measure_plateau_length`."""
        found = []
        for curve in self.losses:
            finite = np.isfinite(curve)
            stop = len(curve) if finite.all() else max(1, int(np.argmin(finite)))
            found.append(
                measure_plateau_length(curve[:stop], floor=floor, flatness=flatness, drop=drop)
            )
        return tuple(found)


@references("li2021curse")
def train_ensemble(
    target: AbstractFunctional,
    *,
    width: int,
    step_size: float,
    n_steps: int,
    dt: float,
    horizon: float,
    activation: str = "linear",
    optimiser: str = "gradient_descent",
    momentum: float = 0.9,
    n_paths: int = 64,
    seeds: Sequence[int] = (0,),
    timescale: float = 1.0,
    output_scale: float = 1.0,
    input_std: float | None = None,
    outputs: Sequence[int] | None = None,
    key: int = 0,
) -> TrainingEnsemble:
    """Returns loss curves of residual networks `h_{k+1} = h_k + dt σ(W h_k + U x_k)`, `y = C h`.

    Nothing of the theory's setting is kept: W is full and unrestricted, σ may be tanh, inputs
    are sample paths of white noise of finite length, and the loss is the mean square error over
    all samples of all paths,

        L = (1/NT) Σ_n Σ_k |C h_k^{(n)} - y_k^{(n)}|².

    One start after the other runs in one compiled program (`lax.map`), so a curve does not depend
    on which starts it is grouped with. Linear networks with one input are trained on the same
    loss through the paths' Gram matrix, a quadratic form in their kernel.

    Args:
        target: any functional; its outputs are computed once.
        width: hidden units.
        step_size: of the optimiser.
        n_steps: optimiser steps.
        dt: step of time.
        horizon: length of a path, in the unit of dt.
        activation: `"linear"` or `"tanh"`.
        optimiser: `"gradient_descent"`, `"momentum"` or `"adam"`, on all paths at once.
        momentum: ρ of heavy ball.
        n_paths: number of sample paths.
        seeds: of the starts (`models.initialise_residual`).
        timescale: memory of a network at its start.
        output_scale: factor on C at the start.
        input_std: standard deviation of a sample; `1/√dt` (white noise) if omitted.
        outputs: which outputs of the target to learn; all if omitted.
        key: seed of the paths.

    Returns:
        The curves, the trained weights and a status.

    Raises:
        ValueError: if a number is out of range or the target's output is not finite.

    Source: Li et al. 2021, section C.3, Figures 1 and 4.
    """
    if not isinstance(target, AbstractFunctional):
        raise wrong_type("target", "a functional", type(target).__name__)
    width = require_count("width", width)
    n_steps = require_count("n_steps", n_steps)
    step_size = require_positive("step_size", step_size)
    dt = require_positive("dt", dt)
    n_time = round(require_positive("horizon", horizon) / dt)
    if n_time < 2:
        raise invalid("horizon", f"at least two steps of dt = {dt:g}", horizon)
    require_choice("activation", activation, _ACTIVATIONS)
    require_choice("optimiser", optimiser, _OPTIMISERS)
    if not 0 <= require_nonnegative("momentum", momentum) < 1:
        raise invalid("momentum", "a number in [0, 1)", momentum)
    n_paths = require_count("n_paths", n_paths)
    require_positive("output_scale", output_scale)
    std = 1 / math.sqrt(dt) if input_std is None else require_positive("input_std", input_std)
    starts = [require_count(f"seeds[{i}]", seed, minimum=0) for i, seed in enumerate(seeds)]
    if not starts:
        raise invalid("seeds", "at least one seed", list(seeds))
    n_inputs = getattr(target, "n_inputs", 1)
    paths = std * np.random.default_rng(key).standard_normal((n_paths, n_time, n_inputs))
    answers = _answer(target, paths, dt)
    if outputs is not None:
        answers = answers[..., list(outputs)]
    networks = [
        initialise_residual(
            width, timescale=timescale, n_inputs=n_inputs, n_outputs=answers.shape[-1], key=seed
        )
        for seed in starts
    ]
    weights = tuple(
        np.stack([np.asarray(getattr(n, name)) for n in networks]) for name in ("W", "U", "C")
    )
    weights = (weights[0], weights[1], output_scale * weights[2])
    program = _program(optimiser, step_size, momentum, n_steps, activation, dt, n_inputs)
    if activation == "linear" and n_inputs == 1:
        data = _quadratic_form(paths[..., 0], answers)
    else:
        # Time leads: the recurrence carries the paths as a batch.
        data = (np.swapaxes(paths, 0, 1), np.swapaxes(answers, 0, 1))
    losses, (W, U, C) = program(weights, data)
    bad = int((~np.isfinite(losses)).any(axis=1).sum())
    status = Status()
    if bad:
        status = Status("diverged", f"{bad} of {len(starts)} curves at step size {step_size:g}")
    return TrainingEnsemble(
        losses,
        float(np.mean(np.sum(answers**2, axis=-1))),
        W,
        U,
        C,
        status,
        {"n_time": n_time, "n_paths": n_paths},
    )


def _answer(target: AbstractFunctional, paths: np.ndarray, dt: float) -> np.ndarray:
    if isinstance(target, AbstractKernel):
        answers = np.stack([np.asarray(target(path, dt=dt)) for path in paths])
    else:
        mapped = in_float64(jax.jit(lambda x: jax.lax.map(lambda path: target(path, dt=dt), x)))
        answers = mapped(paths)
    if not np.isfinite(answers).all():
        raise invalid("target", "finite outputs on these paths", "NaN or infinity")
    return np.asarray(answers, np.float64)


def _quadratic_form(paths: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns Gram matrix, cross terms and power: the loss as a quadratic form in the kernel."""
    n_paths, n_time = paths.shape
    gram = np.zeros((n_time, n_time))
    cross = np.zeros((n_time, answers.shape[-1]))
    for path, answer in zip(paths, answers, strict=True):
        lagged = np.zeros((n_time, n_time))
        for lag in range(n_time):
            lagged[lag:, lag] = path[: n_time - lag]
        gram += lagged.T @ lagged
        cross += lagged.T @ answer
    count = n_paths * n_time
    return gram / count, cross / count, np.asarray(np.sum(answers**2) / count)


def _kernel_loss(weights: Any, data: Any, dt: float) -> Any:
    gram, cross, power = data
    W, U, C = weights
    identity = jnp.eye(len(W), dtype=W.dtype)
    # The powers of one step by doubling: log2(T) products instead of T.
    columns, power_of = dt * U, identity + dt * W
    while columns.shape[1] < len(gram):
        columns = jnp.concatenate([columns, power_of @ columns], axis=1)
        power_of = power_of @ power_of
    kernel = (C @ columns[:, : len(gram)]).T
    return jnp.sum(kernel * (gram @ kernel)) - 2 * jnp.sum(kernel * cross) + power


def _path_loss(weights: Any, data: Any, activation: str, dt: float) -> Any:
    W, U, C = weights
    paths, answers = data
    states = nonlinear_dense_states(W, paths @ U.T, activation=activation, leak=1.0, gain=dt)
    return jnp.mean(jnp.sum((states @ C.T - answers) ** 2, axis=-1))


@functools.lru_cache(maxsize=32)
def _program(
    optimiser: str,
    step_size: float,
    momentum: float,
    n_steps: int,
    activation: str,
    dt: float,
    n_inputs: int,
) -> Any:
    import optax  # on first use: half a second that a diagnosis does not need

    rule = {
        "gradient_descent": lambda: optax.sgd(step_size),
        "momentum": lambda: optax.sgd(step_size, momentum=momentum),
        "adam": lambda: optax.adam(step_size),
    }[optimiser]()

    def loss(weights: Any, data: Any) -> Any:
        if activation == "linear" and n_inputs == 1:
            return _kernel_loss(weights, data, dt)
        return _path_loss(weights, data, activation, dt)

    def run(weights: Any, data: Any) -> Any:
        def train(start: Any) -> Any:
            def step(carry: Any, _: Any) -> Any:
                here, state = carry
                value, slope = jax.value_and_grad(loss)(here, data)
                update, state = rule.update(slope, state, here)
                return (optax.apply_updates(here, update), state), value

            (end, _), losses = jax.lax.scan(step, (start, rule.init(start)), length=n_steps)
            return losses, end

        return jax.lax.map(train, weights)

    return in_float64(jax.jit(run))
