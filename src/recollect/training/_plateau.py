"""Is it worth waiting? What a loss curve says about the steps to come."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_nonnegative,
    require_positive,
)
from recollect._core._status import Status

_N_BLOCKS = 8
_FEWEST = 4 * _N_BLOCKS
_SIGNIFICANT = 3.0


@dataclasses.dataclass(frozen=True)
class PlateauVerdict:
    """What the recent losses say about going on.

    Attributes:
        verdict: `"wait"` or `"stop"`.
        kind: `"progress"` (the loss falls), `"plateau"` (it stands, and its fall accelerates: an
            escape is under way), `"slow_decay"` (its fall slows down, with something left to
            gain), `"floor"` (nothing worth waiting for is left), `"flat"` (it does not move
            beyond its own noise) or `"early"` (too few losses to say).
        remaining_steps: until the plateau is left, or until the slow decay has nothing left to
            gain; 0 with `"progress"`, infinite where no end is in sight.
        gain: share of the present loss that extrapolation still promises.
        status: `undecided` with `"flat"` and `"early"`: a long plateau and a floor look alike.
    """

    verdict: str
    kind: str
    remaining_steps: float
    gain: float
    status: Status = Status()

    def __str__(self) -> str:
        words = self.kind.replace("_", " ")
        if self.kind in ("progress", "early"):
            return words
        if math.isfinite(self.remaining_steps) and self.remaining_steps > 0:
            words += f", about {self.remaining_steps:.2g} steps to go"
        return f"{words}: {self.verdict}"


def judge_plateau(
    losses: Any,
    *,
    steps_per_loss: float = 1.0,
    n_remaining: float = math.inf,
    drop: float = 0.1,
    rtol: float = 1e-2,
    floor: float = 0.0,
) -> PlateauVerdict:
    """Returns whether to wait or to stop, from the later half of a loss curve.

    The half is cut into eight blocks. A loss that fell by `drop` makes progress. Below that, the
    falls `d_j` from block to block tell: near a saddle the loss leaves as `L - c e^{2λt}`, so the
    falls grow; towards a minimum they shrink, and their geometric (or, if they shrink like a
    power of the time, algebraic) continuation is what is left to gain.

    Args:
        losses: one per step or regularly thinned, shape (point,).
        steps_per_loss: steps from one loss to the next.
        n_remaining: steps one is willing to wait.
        drop: relative fall over the half that counts as progress.
        rtol: relative gain that is not worth waiting for.
        floor: loss below which there is nothing to gain.

    Raises:
        ValueError: if a loss is negative or not finite.
    """
    losses = host_float64("losses", losses, owner="judge_plateau")
    if losses.ndim != 1:
        raise invalid("losses", "shape (point,)", f"shape {losses.shape}")
    if losses.size and losses.min() < 0:
        raise invalid("losses", "numbers not below zero", float(losses.min()))
    scale = require_positive("steps_per_loss", steps_per_loss)
    n_remaining = float(n_remaining)
    drop, rtol = require_positive("drop", drop), require_positive("rtol", rtol)
    floor = require_nonnegative("floor", floor)
    if losses.size < _FEWEST:
        early = Status("undecided", f"{losses.size} losses are too few")
        return PlateauVerdict("wait", "early", math.nan, math.nan, early)
    size = losses.size // 2 // _N_BLOCKS
    blocks = losses[-size * _N_BLOCKS :].reshape(_N_BLOCKS, size)
    levels, last = blocks.mean(1), float(np.median(blocks[-1]))
    if last <= floor:
        return PlateauVerdict("stop", "floor", 0.0, 0.0)
    if levels[-1] < (1 - drop) * levels[0]:
        return PlateauVerdict("wait", "progress", 0.0, 1.0)
    noise = _block_noise(blocks)
    span = scale * size
    # Early falls are as many as late ones: halves of three blocks, their middles five blocks apart.
    early, late = (levels[0] - levels[3]) / 3, (levels[4] - levels[7]) / 3
    spread = noise * math.sqrt(2) / 3
    total = levels[0] - levels[-1]
    tiny = 1e-12 * levels[0]
    if total < _SIGNIFICANT * noise * math.sqrt(2) + tiny:
        # The most the noise could hide, were the loss to go on at that pace as long again.
        hidden = (total + _SIGNIFICANT * noise * math.sqrt(2) + tiny) / last
        flat = Status(
            "undecided", "the loss does not move beyond its noise: a long plateau or the floor"
        )
        return PlateauVerdict("stop", "flat", math.inf, max(hidden, 0.0), flat)
    if late - early > _SIGNIFICANT * spread * math.sqrt(2) and late > tiny:
        growth = math.log(late / max(early, spread, tiny, 1e-6 * late)) / 4
        growth = max(growth, 1e-6)
        # Σ_k late e^{gk} = drop · last.
        blocks_left = math.log1p(drop * last * math.expm1(growth) / late) / growth
        remaining = blocks_left * span
        if remaining > n_remaining:
            message = f"leaving the plateau takes about {remaining:.3g} more steps"
            return PlateauVerdict(
                "stop", "plateau", remaining, drop, Status("not_converged", message)
            )
        return PlateauVerdict("wait", "plateau", remaining, drop)
    left, blocks_left = _remaining_fall(early, late, spread, losses.size / size)
    gain = min(left / last, 1.0)
    if gain < rtol:
        return PlateauVerdict("stop", "floor", 0.0, gain)
    remaining = blocks_left * span
    # What the affordable steps bring, if the fall goes on at its last pace at best.
    affordable = gain if remaining <= n_remaining else late * n_remaining / span / last
    worth = affordable >= rtol
    status = Status() if worth else Status("not_converged", "the loss falls too slowly to wait")
    return PlateauVerdict("wait" if worth else "stop", "slow_decay", remaining, gain, status)


def _block_noise(blocks: np.ndarray) -> float:
    """Returns the standard error of a block's mean, from the scatter about a line in each."""
    size = blocks.shape[1]
    if size < 3:
        return 0.0
    time = np.linspace(-1, 1, size)
    centred = blocks - blocks.mean(1, keepdims=True)
    slope = centred @ time / (time @ time)
    rest = centred - slope[:, None] * time
    variance = float(np.mean(rest**2)) * size / (size - 2)
    # Neighbouring losses share their cause: the lag-one correlation widens the error.
    with np.errstate(all="ignore"):
        lag = float(np.sum(rest[:, 1:] * rest[:, :-1]) / max(np.sum(rest**2), 1e-300))
    lag = min(max(lag, 0.0), 0.95)
    if lag > 0.5:  # a curve, not noise
        steps = np.diff(blocks, n=2, axis=1) if size > 3 else rest
        variance, lag = float(np.mean(steps**2)) / 6, 0.0
    return math.sqrt(variance * (1 + lag) / (1 - lag) / size)


def _remaining_fall(early: float, late: float, spread: float, age: float) -> tuple[float, float]:
    """Returns the fall still to come and the blocks until all but a tenth of it has come."""
    late = max(late, spread, 1e-300)
    early = max(early, late)
    ratio = math.log(early / late) / 4
    # Between the middles of the two halves the time since the start grows from a to b.
    a, b = age - _N_BLOCKS + 2.0, age - 2.0
    power = math.log(early / late) / math.log(b / a)
    if ratio <= 1e-3:
        return math.inf, math.inf
    geometric = late / math.expm1(ratio)
    if power <= 2.5:
        # d ~ t^-power: what is left falls like t^(1-power), for ever if power <= 1.
        if power <= 1.05:
            return math.inf, math.inf
        return late * b / (power - 1), b * (10 ** min(1 / (power - 1), 300.0) - 1)
    return geometric, math.log(10) / ratio
