"""How long a start stays on its plateau: hitting times of the gradient flow, finite or not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from recollect._core._check import invalid, require_choice, require_count, require_positive
from recollect._core._references import references
from recollect._core._status import Status
from recollect.training._flow import FlowEvent, GradientFlow, solve_flows
from recollect.training._loss import ExactLoss

OPTIMISERS = ("gd", "momentum", "adam")


@dataclasses.dataclass(frozen=True, eq=False)
class HittingTime:
    """The flow time at which a start has left its plateau.

    Attributes:
        value: `inf{τ: |J(θ(τ)) - J(θ_0)| > δ}`, or of `|θ(τ) - θ_0|`; infinite with its reason.
        relative_error: what rounding of the gradient leaves uncertain, relative to the value.
        reason: why it is infinite, in words; empty if it is finite.
        flow: the gradient flow up to there.
        status: `ok`; `infinite`; `precision_limit` where float64 ends before the plateau does;
            `not_converged` if it lasts longer than the flow time allowed (the value is then a
            lower estimate).
    """

    value: float
    relative_error: float
    reason: str
    flow: GradientFlow
    status: Status


@references("li2021curse")
def measure_hitting_time(
    loss: ExactLoss,
    amplitudes: Any,
    rates: Any,
    *,
    delta: float,
    of: str = "loss",
    flow_time: float = 1e13,
    rtol: float = 1e-8,
) -> HittingTime:
    """Returns the flow time after which the loss has fallen, or the weights have moved, by δ.

    `τ(δ) = inf{τ: |J(θ(τ)) - J(θ_0)| > δ}` and `τ_0(δ) = inf{τ: |θ(τ) - θ_0| > δ}` along
    `dθ/dτ = -∇J(θ)`.

    Args:
        loss: from `exact_loss`.
        amplitudes: start a, shape (width,).
        rates: start w > 0, shape (width,).
        delta: δ.
        of: `loss` (τ) or `parameters` (τ_0).
        flow_time: longest flow time.
        rtol: tolerance of the flow, relative to the distance moved.

    Returns:
        The time; infinite if the flow ends before, with the reason.

    Raises:
        ValueError: rates that are not positive, δ that is not positive, an unknown `of`.

    Source: Li et al. 2021, section 5.2.
    """
    a, w = (np.atleast_1d(np.asarray(v, float)) for v in (amplitudes, rates))
    if a.ndim != 1:
        raise invalid(
            "amplitudes", "shape (width,)", f"shape {a.shape}", "use measure_hitting_times"
        )
    (found,) = measure_hitting_times(
        [loss], a[None], w[None], delta=delta, of=of, flow_time=flow_time, rtol=rtol
    )
    return found


@references("li2021curse")
def measure_hitting_times(
    losses: ExactLoss | Sequence[ExactLoss],
    amplitudes: Any,
    rates: Any,
    *,
    delta: float,
    of: str = "loss",
    flow_time: float = 1e13,
    rtol: float = 1e-8,
) -> tuple[HittingTime, ...]:
    """Returns the hitting times of many starts and targets, in one batch.

    Args:
        losses: one for all lanes, or one per lane.
        amplitudes: shape (lane, width).
        rates: shape (lane, width).
        delta, of, flow_time, rtol: as in `measure_hitting_time`.

    Raises:
        ValueError: if shapes differ, a rate or δ is not positive, or `of` is unknown.
    """
    require_choice("of", of, ("loss", "parameters"))
    delta = require_positive("delta", delta)
    flows = solve_flows(
        losses, amplitudes, rates, flow_time=flow_time, hit=FlowEvent(of, delta), rtol=rtol
    )
    lanes = [losses] * len(flows) if isinstance(losses, ExactLoss) else list(losses)
    lanes = lanes * len(flows) if len(lanes) == 1 else lanes
    return tuple(_judged(loss, flow) for loss, flow in zip(lanes, flows, strict=True))


def _judged(loss: ExactLoss, flow: GradientFlow) -> HittingTime:
    m = len(flow.rates)
    start = flow.weights[0]
    slopes = np.linalg.norm(loss.gradient(flow.weights[:, :m], flow.weights[:, m:]), axis=1)
    rounding = 0.1 * float(loss.rounding(start[:m], start[m:]))
    error = float(rounding / max(slopes[slopes > 0].min(initial=np.inf), 1e-300))
    if flow.end == "hit":
        status = Status()
        if error > 1e-6:
            status = Status(
                "precision_limit",
                f"the gradient on the plateau is {1 / error:.0f} times its rounding error",
            )
        return HittingTime(flow.flow_time, error, "", flow, status)
    if flow.end == "time":
        status = flow.status
        if status.is_ok:
            status = Status(
                "not_converged", f"still on the plateau at flow time {flow.flow_time:g}"
            )
        return HittingTime(flow.flow_time, error, "", flow, status)
    drop = float(loss.difference(start[:m], start[m:], flow.amplitudes, flow.rates))
    moved = float(np.linalg.norm(np.concatenate([flow.amplitudes, flow.rates]) - start))
    spectrum = ", ".join(f"{value:.2g}" for value in flow.eigenvalues[:4])
    kind = {
        "minimum": "a strict local minimum",
        "degenerate": "a degenerate stable point",
        "saddle": "a saddle",
        "unbounded": "no point: amplitudes grow without bound",
    }[flow.end]
    reason = (
        f"the flow ends at {kind} (Hessian spectrum {spectrum}, …) after a loss drop of {drop:.3g} "
        f"and a way of {moved:.3g}"
    )
    if flow.end == "saddle":
        reason += "; units that start equal stay equal, so it is never left"
    if flow.status.code in ("ok", "no_minimiser"):
        return HittingTime(math.inf, error, reason, flow, Status("infinite", reason))
    return HittingTime(math.inf, error, reason, flow, flow.status)


def predict_steps(
    hitting_time: float,
    *,
    learning_rate: float,
    optimiser: str = "gd",
    momentum: float = 0.9,
) -> float:
    """Returns how many optimiser steps a flow time takes.

    Gradient descent moves η of flow time per step; momentum ρ moves η/(1-ρ) once it is up to
    speed, which on a plateau it is. Adam divides by the gradient's size and follows no flow: use
    `measure_steps`.

    Args:
        hitting_time: τ.
        learning_rate: η, below `2/λ_max` of the Hessian.
        optimiser: `gd` or `momentum`.
        momentum: ρ.

    Raises:
        ValueError: if the optimiser is another, the learning rate is not positive, the time is
            negative or the momentum is not in [0, 1).
    """
    require_choice("optimiser", optimiser, ("gd", "momentum"))
    learning_rate = require_positive("learning_rate", learning_rate)
    if not hitting_time >= 0:
        raise invalid("hitting_time", "a time ≥ 0", hitting_time)
    if not 0 <= momentum < 1:
        raise invalid("momentum", "a number in [0, 1)", momentum)
    speed = learning_rate if optimiser == "gd" else learning_rate / (1 - momentum)
    return hitting_time / speed


def measure_steps(
    loss: ExactLoss,
    amplitudes: Any,
    rates: Any,
    *,
    delta: float,
    learning_rate: float,
    optimiser: str = "gd",
    of: str = "loss",
    momentum: float = 0.9,
    max_steps: int = 100_000,
) -> tuple[float, Status]:
    """Returns after how many optimiser steps the start has left its plateau, by running them.

    Args:
        loss: from `exact_loss`.
        amplitudes: start a, shape (width,).
        rates: start w > 0, shape (width,).
        delta: δ.
        learning_rate: η.
        optimiser: `gd`, `momentum` (heavy ball) or `adam` (β = 0.9, 0.999, ε = 1e-8).
        of: `loss` or `parameters`.
        momentum: ρ of heavy ball.
        max_steps: give up after so many.

    Returns:
        Steps and status: infinite with `not_converged` if none of `max_steps` got there, `diverged`
        if a rate ceased to be positive.

    Raises:
        ValueError: if δ, the learning rate or `max_steps` is not positive, or a name is unknown.
    """
    require_choice("optimiser", optimiser, OPTIMISERS)
    require_choice("of", of, ("loss", "parameters"))
    delta, rate = require_positive("delta", delta), require_positive("learning_rate", learning_rate)
    max_steps = require_count("max_steps", max_steps)
    a, w = (np.asarray(v, float) for v in (amplitudes, rates))
    m, start = len(a), np.concatenate([a, w])
    theta, velocity, square = start.copy(), np.zeros(2 * m), np.zeros(2 * m)
    for step in range(1, max_steps + 1):
        slope = loss.gradient(theta[:m], theta[m:])
        if optimiser == "adam":
            velocity = 0.9 * velocity + 0.1 * slope
            square = 0.999 * square + 0.001 * slope**2
            mean, size = velocity / (1 - 0.9**step), np.sqrt(square / (1 - 0.999**step))
            theta = theta - rate * mean / (size + 1e-8)
        else:
            velocity = (momentum if optimiser == "momentum" else 0.0) * velocity - rate * slope
            theta = theta + velocity
        if not (np.isfinite(theta).all() and (theta[m:] > 0).all()):
            return math.inf, Status("diverged", f"a rate ceased to be positive at step {step}")
        if of == "parameters":
            there = np.linalg.norm(theta - start) > delta
        else:
            there = abs(loss.difference(theta[:m], theta[m:], start[:m], start[m:])) > delta
        if there:
            return float(step), Status()
    return math.inf, Status("not_converged", f"still on the plateau after {max_steps} steps")
