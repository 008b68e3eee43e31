"""How long a randomly started network would stall, and what a loss curve that stands still means."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._json import finite_or_null
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.models import LinearRNN
from recollect.training import (
    ExactLoss,
    FlowEvent,
    Minimiser,
    exact_loss,
    find_minimiser,
    judge_plateau,
    measure_plateau_length,
    solve_flow,
)

_LEARNED = 0.01
_GIVE_UP = 1e10
_FEWEST_LATE = 4


@dataclasses.dataclass(frozen=True)
class StartForecast:
    """What gradient flow does from one random start.

    Attributes:
        steps: until the loss is learned; infinite if it never is.
        stall: steps of the longest plateau on the way; infinite if it never ends.
        level: loss at the end of that plateau, over the power of the output.
        last: loss where the flow ended, over the power of the output.
        end: `learned`, `on the way` after 1e10 steps, or the kind of critical point at which it
            ended (`training.solve_flow`): `minimum`, `degenerate`, `saddle`.
    """

    steps: float
    stall: float
    level: float
    last: float
    end: str


@dataclasses.dataclass(frozen=True)
class TrainingForecast:
    """How long training from random weights would take for a fitted memory.

    Attributes:
        stall: median over the starts of the longest plateau, in optimiser steps; infinite if
            half of the starts never leave theirs.
        stall_range: its quartiles.
        steps: median of the steps until learned.
        steps_range: its quartiles.
        share_stuck: share of the starts that never learn it, or not within 1e10 steps.
        step_size: of gradient descent, for weights of standardised signals sampled at `dt`.
        width: units of the network.
        floor: best loss of this width with real rates, over the output's power; the fitted
            network itself is the warm start.
        levels: best losses of the widths 1 … width, likewise: where plateaus lie.
        starts: every start.
        status: `infinite` if most starts never learn it.
    """

    stall: float
    stall_range: tuple[float, float]
    steps: float
    steps_range: tuple[float, float]
    share_stuck: float
    step_size: float
    width: int
    floor: float
    levels: tuple[float, ...]
    starts: tuple[StartForecast, ...]
    status: Status = Status()

    def summary(self) -> list[str]:
        """Returns what to print, line by line."""
        who = f"a direct network of width {self.width} from random weights"
        how = f"of gradient descent at step size {self.step_size:.2g}"
        low, high = self.stall_range
        if math.isfinite(self.stall):
            lines = [
                f"{who} stalls for a median of {_count(self.stall)} steps (quartiles {_count(low)} to "
                f"{_count(high)}) {how}, and needs {_count(self.steps)} steps in all"
            ]
        else:
            lines = [f"{who} does not learn this memory in {_GIVE_UP:.0e} steps {how}"]
        if self.share_stuck > 0:
            ends = [s.end for s in self.starts if not math.isfinite(s.steps)]
            trapped = sum(end != "on the way" for end in ends)
            lines.append(
                f"{100 * self.share_stuck:.0f} % of the starts do not get there"
                + (
                    f": {trapped} of {len(ends)} end at a critical point, where units have run "
                    "together or apart"
                    if trapped
                    else f" within {_GIVE_UP:.0e} steps"
                )
            )
        lines.append(
            "the warm start (the fitted poles) stalls for 0 steps: it starts where those end"
        )
        if self.floor > 0.01:
            lines.append(
                f"real rates alone leave {100 * self.floor:.2g} % of the power: this memory oscillates, "
                "so keep the complex poles"
            )
        return lines

    def record(self) -> dict[str, Any]:
        """Returns the forecast as a JSON object (non-finite numbers are null)."""
        return finite_or_null(
            {
                "optimiser": "gradient_descent",
                "step_size": self.step_size,
                "width": self.width,
                "stall": {"median": self.stall, "quartiles": list(self.stall_range)},
                "steps": {"median": self.steps, "quartiles": list(self.steps_range)},
                "warm_start": {"stall": 0, "steps": 0},
                "share_stuck": self.share_stuck,
                "floor": self.floor,
                "levels": list(self.levels),
                "starts": [dataclasses.asdict(start) for start in self.starts],
                "status": self.status.record(),
            }
        )


@on_one_thread
@references("li2021curse")
def forecast_training(
    network: LinearRNN,
    *,
    dt: float,
    step_size: float | None = None,
    n_starts: int = 12,
    key: int = 0,
) -> TrainingForecast:
    """Returns how long a network of the same width would stall if trained from random weights.

    The network trained is the direct one, `Σ a_i e^{-w_i t}` with real rates and the weights
    themselves as parameters; its loss against the fitted kernel is exact (white input, signals
    standardised, time in samples), and its gradient flow is integrated: one step of gradient
    descent at step size η is η of flow time. Starts are what a user has who does not know the
    memory: `e^{-w_i}` uniform in (0, 1) per sample, amplitudes normal with the output's power
    shared among the units.

    Args:
        network: the fitted network, continuous; of several inputs or outputs the channel with
            the largest L2 norm is taken.
        dt: sampling step of the data, in the network's unit of time.
        step_size: η; if omitted, the largest at which gradient descent is stable at the solution,
            `1/λ_max` of the Hessian there.
        n_starts: random starts.
        key: seed of the starts.

    Returns:
        Median and quartiles of stall and total, and every start.

    Raises:
        ValueError: for a network that is not stable or numbers out of range.

    Assumptions: white input; small steps. The stall of momentum or Adam is shorter by a factor
    (`training.predict_momentum_gain`), not by an order in the memory at fixed friction.
    """
    if not isinstance(network, LinearRNN) or network.dt is not None:
        raise wrong_type("network", "a continuous LinearRNN", type(network).__name__)
    dt = require_positive("dt", dt)
    n_starts = require_count("n_starts", n_starts)
    kernel = standardise(network, dt)
    loss = exact_loss(kernel)
    width = network.width
    minimisers = [find_minimiser(loss, d, n_starts=4, key=key) for d in range(1, width + 1)]
    levels = np.minimum.accumulate([max(m.loss, 0.0) for m in minimisers]) / loss.norm_squared
    best = min(minimisers, key=lambda m: m.loss)
    # Where rates run together the best amplitudes are huge: nobody trains at such a point.
    sound = min((m for m in minimisers if m.status.is_ok), key=lambda m: m.loss, default=best)
    eta = (
        _stable_step(loss, sound) if step_size is None else require_positive("step_size", step_size)
    )
    rng = np.random.default_rng(require_count("key", key, minimum=0))
    starts = []
    for _ in range(n_starts):
        # Not closer to 1 than one unit's share of the unit interval: no start knows the memory.
        w = -np.log(rng.uniform(0.02, 0.98, width))
        a = rng.standard_normal(width) * np.sqrt(2 * w * loss.norm_squared / width)
        starts.append(_follow(loss, a, w, float(levels[-1]), eta))
    stalls = np.array([s.stall for s in starts])
    steps = np.array([s.steps for s in starts])
    return TrainingForecast(
        stall=_quantile(stalls, 0.5),
        stall_range=(_quantile(stalls, 0.25), _quantile(stalls, 0.75)),
        steps=_quantile(steps, 0.5),
        steps_range=(_quantile(steps, 0.25), _quantile(steps, 0.75)),
        share_stuck=float(np.mean(~np.isfinite(steps))),
        step_size=eta,
        width=width,
        floor=float(levels[-1]),
        levels=tuple(float(level) for level in levels),
        starts=tuple(starts),
        status=Status("infinite", "more than half of the starts do not learn it")
        if not math.isfinite(_quantile(steps, 0.5))
        else Status(),
    )


@dataclasses.dataclass(frozen=True)
class CurveVerdict:
    """What a loss curve that stands still means.

    Attributes:
        kind: `"learning"` (it does not stand still), `"plateau"` (it will end), `"floor"` (what
            this width can reach), `"stable"` (a degenerate stable point: it will not end) or
            `"undecided"`.
        steps_left: estimated steps until half of what lies above the floor is gone; infinite for
            floor and stable, NaN where there is no estimate.
        evidence: the reason in words.
        level: loss at the end of the curve.
        floor: best loss of this width, in the same unit.
        status: `undecided` with what would decide it.
    """

    kind: str
    steps_left: float
    evidence: str
    level: float
    floor: float
    status: Status = Status()

    def summary(self) -> list[str]:
        """Returns what to print, line by line."""
        words = {
            "learning": "the loss is still falling",
            "plateau": "a plateau that ends",
            "floor": "the approximation floor of this width",
            "stable": "a degenerate stable point: training will not leave it",
            "undecided": "the loss stands still, and the curve alone cannot say why",
        }[self.kind]
        left = (
            f"; about {_count(self.steps_left)} more steps until half of the excess is gone"
            if math.isfinite(self.steps_left)
            else ""
        )
        remedy = {
            "floor": "a wider network is needed",
            "stable": "restart from the fitted poles",
            "plateau": "restarting from the fitted poles skips it",
        }.get(self.kind)
        lines = [words + left, self.evidence]
        return [*lines, remedy] if remedy else lines

    def record(self) -> dict[str, Any]:
        """Returns the verdict as a JSON object (non-finite numbers are null)."""
        return finite_or_null(dataclasses.asdict(self) | {"status": self.status.record()})


@on_one_thread
@references("li2021curse")
def judge_loss_curve(
    losses: Any,
    *,
    floor: float,
    steps: Any = None,
    forecast: TrainingForecast | None = None,
    power: float | None = None,
    weights: tuple[ExactLoss, Any, Any] | None = None,
    step_size: float | None = None,
    flatness: float = 0.05,
) -> CurveVerdict:
    """Returns whether a standing loss is a plateau that ends, the floor of its width, or a trap.

    The last quarter of the curve decides whether it stands still. At the floor of its width it is
    judged to have arrived. Above it, the weights decide if they are given: the gradient flow is
    followed from them. Otherwise the curve itself, by `training.judge_plateau` (which needs
    nothing else, and serves a run in progress): an escape under way is extrapolated; failing
    that, plateaus of the forecast's flows at the same level.

    Args:
        losses: the curve, shape (record,).
        floor: the loss a network of this width can reach on these data, such as the mean square
            error of the fitted network.
        steps: when the losses were recorded, shape (record,); 0, 1, … if omitted.
        forecast: from `forecast_training`, to compare levels with.
        power: mean square of the outputs, which turns the forecast's levels into losses.
        weights: the exact loss and the present amplitudes and rates, where they are known.
        step_size: of the optimiser, with `weights`.
        flatness: relative fall over the last quarter that counts as standing still.

    Returns:
        The verdict with its evidence.

    Raises:
        ValueError: for a curve of fewer than 8 points or numbers out of range.
    """
    owner = "judge_loss_curve"
    curve = host_float64("losses", losses, owner=owner)
    if curve.ndim != 1 or len(curve) < 8:
        raise invalid("losses", "shape (record,), at least 8", f"shape {curve.shape}")
    if (curve < 0).any():
        raise invalid("losses", "losses not below zero", f"{curve.min():g}")
    at = np.arange(len(curve)) if steps is None else host_float64("steps", steps, owner=owner)
    if at.shape != curve.shape or (np.diff(at) <= 0).any():
        raise invalid("steps", "increasing steps, one per loss", f"shape {at.shape}")
    if not (math.isfinite(floor) and floor >= 0):
        raise invalid("floor", "a finite loss not below zero", floor)
    tail = at >= at[-1] - (at[-1] - at[0]) / 4
    span = "its last quarter"
    if tail.sum() < _FEWEST_LATE:  # recorded ever more rarely
        tail[-_FEWEST_LATE:] = True
        span = f"its last {_FEWEST_LATE} records"
    late = curve[tail]
    third = max(1, len(late) // 3)
    # Medians: a sampled loss jumps from batch to batch.
    before, after = float(np.median(late[:third])), float(np.median(late[-third:]))
    # Second differences, which a steady fall leaves out, on the scale of first ones.
    noise = float(np.median(np.abs(np.diff(late, 2)))) / math.sqrt(3 * third)
    if after <= floor * 1.1 + 3 * noise:
        evidence = f"the loss {after:.3g} is within a tenth of what this width reaches, {floor:.3g}"
        return CurveVerdict("floor", math.inf, evidence, after, floor)
    if before - after > flatness * before + 3 * noise:
        rate = math.log((before - floor) / (after - floor)) / (
            at[tail][-third:].mean() - at[tail][:third].mean()
        )
        evidence = f"it fell by {100 * (1 - after / before):.0f} % over {span}"
        return CurveVerdict("learning", math.log(2) / rate, evidence, after, floor)
    if weights is not None:
        return _judge_weights(weights, step_size, after, floor)
    return _judge_shape(at, curve, after, floor, forecast, power)


def _judge_weights(
    weights: tuple[ExactLoss, Any, Any], step_size: float | None, level: float, floor: float
) -> CurveVerdict:
    loss, a, w = weights
    eta = require_positive("step_size", step_size if step_size is not None else math.nan)
    gap = float(loss(a, w)) * (1 - floor / level) / 2
    path = solve_flow(loss, a, w, hit=FlowEvent("loss", gap), rtol=1e-6)
    if path.end == "hit":
        steps = path.flow_time / eta
        return CurveVerdict(
            "plateau", steps, "the gradient flow from these weights leaves", level, floor
        )
    if not path.status.is_ok or path.end == "time":
        evidence = "the flow from these weights could not be followed to its end"
        return CurveVerdict("undecided", math.nan, evidence, level, floor, path.status)
    evidence = "the gradient flow from these weights ends at a " + {
        "minimum": "local minimum above the floor",
        "degenerate": "degenerate stable point, where units have run together",
        "saddle": "saddle that equal units cannot leave",
    }.get(path.end, path.end)
    return CurveVerdict("stable", math.inf, evidence, level, floor)


def _judge_shape(
    at: np.ndarray,
    curve: np.ndarray,
    level: float,
    floor: float,
    forecast: TrainingForecast | None,
    power: float | None,
) -> CurveVerdict:
    even = np.linspace(at[0], at[-1], len(at))
    found = judge_plateau(
        np.interp(even, at, curve),
        steps_per_loss=float(even[1] - even[0]),
        drop=(level - floor) / 2 / level,
    )
    if found.kind == "plateau":
        evidence = (
            f"the fall grows e-fold every {_count(1 / found.rate)} steps, as from a saddle"
            if found.rate > 0
            else "the fall grows like 1/(t* - t), as from the plateau of a delayed memory"
        )
        return CurveVerdict("plateau", found.remaining_steps, evidence, level, floor)
    if forecast is not None and power is not None:
        relative = (level - floor) / require_positive("power", power)
        near = [s for s in forecast.starts if abs(s.level - relative) <= 0.15 * relative]
        ended = [s.stall for s in near if math.isfinite(s.stall)]
        if near and 2 * len(ended) >= len(near):
            left = max(float(np.median(ended)) - _time_at(at, curve, level), 0.0)
            evidence = f"{len(ended)} of {len(near)} forecast starts with a plateau here left it"
            return CurveVerdict("plateau", left, evidence, level, floor)
        if near:
            evidence = f"{len(near) - len(ended)} of {len(near)} forecast starts stop here for good"
            return CurveVerdict("stable", math.inf, evidence, level, floor)
    evidence = "no change above the noise of the curve"
    return CurveVerdict(
        "undecided",
        math.nan,
        evidence,
        level,
        floor,
        Status("undecided", "give the weights, and the flow from them decides"),
    )


def _time_at(at: np.ndarray, curve: np.ndarray, level: float) -> float:
    """Returns for how many steps the curve has stood within a tenth of its last level."""
    lowest = np.minimum.accumulate(curve)
    return float(at[-1] - at[int(np.argmax(lowest <= 1.1 * level))])


def _follow(
    loss: ExactLoss, a: np.ndarray, w: np.ndarray, best: float, eta: float
) -> StartForecast:
    learned = (best + _LEARNED) * loss.norm_squared
    here = float(loss(a, w))
    if here <= learned:
        return StartForecast(
            0.0, 0.0, here / loss.norm_squared, here / loss.norm_squared, "minimum"
        )
    path = solve_flow(
        loss, a, w, flow_time=_GIVE_UP * eta, hit=FlowEvent("loss", here - learned), rtol=1e-5
    )
    power = loss.norm_squared
    last = path.loss / power
    if path.end == "time" or not path.status.is_ok:
        # Not there within the steps anybody has: for good, as far as training goes.
        return StartForecast(math.inf, math.inf, last, last, "on the way")
    if path.end != "hit":
        return StartForecast(math.inf, math.inf, last, last, path.end)
    times = path.flow_times / eta
    # Plateaus are read off on a logarithmic grid that is finer than the solver's steps.
    grid = np.unique(np.concatenate([times, np.geomspace(times[1], times[-1], 1000)]))
    theta = path.at(np.clip(grid * eta, 0.0, path.flow_times[-1]))
    m = len(a)
    fine = np.minimum.accumulate(np.asarray(loss(theta[:, :m], theta[:, m:]))) / power
    plateau = measure_plateau_length(np.maximum(fine, 0), grid, floor=best + 2 * _LEARNED)
    return StartForecast(path.flow_time / eta, plateau.length, plateau.level, last, "learned")


def standardise(network: LinearRNN, dt: float) -> LinearRNN:
    """Returns one channel with time in samples and unit power."""
    A, B, C = (np.asarray(m, np.float64) for m in (network.A, network.B, network.C))
    if np.linalg.eigvals(A).real.max() >= 0:
        raise invalid("network", "a stable network", "one that does not forget")
    import scipy.linalg

    best, chosen = -1.0, (0, 0)
    for i in range(B.shape[1]):
        gram = scipy.linalg.solve_continuous_lyapunov(A, -np.outer(B[:, i], B[:, i]))
        for o in range(C.shape[0]):
            power = float(C[o] @ gram @ C[o])
            if power > best:
                best, chosen = power, (o, i)
    o, i = chosen
    if best <= 0:
        raise invalid("network", "a kernel other than zero", "zero")
    # Time t' = t/dt; the kernel per sample is dt ρ, its power over samples 1.
    size = math.sqrt(best / dt) * dt
    return LinearRNN(dt * A, dt * B[:, i : i + 1], C[o : o + 1] / size)


def _stable_step(loss: ExactLoss, best: Minimiser) -> float:
    largest = float(np.linalg.eigvalsh(loss.hessian(best.amplitudes, best.rates))[-1])
    return float(f"{1 / largest:.2g}")


def _quantile(values: np.ndarray, q: float) -> float:
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return math.nan
    # The order statistic itself: an average with infinity says nothing.
    return float(known[min(len(known) - 1, math.floor(q * len(known)))])


def _count(number: float) -> str:
    if math.isnan(number):
        return "an unknown number of"
    if math.isinf(number):
        return "endlessly many"
    return f"{number:,.0f}" if number < 1e6 else f"{number:.1e}"
