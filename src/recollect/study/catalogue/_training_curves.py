"""One training run outside the theory's setting: what Figures 1 and 4 of paper A are made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect._core._status import Status

DIMENSIONS = {"loss": ("start", "record"), "step": ("record",), "plateau": ("start",)}
UNITS = {
    "loss": "1",
    "step": "1",
    "plateau": "1",
    "typical": "1",
    "reached": "1",
    "last": "1",
    "share_over": "1",
    "share_diverged": "1",
    "horizon": "1",
}
_N_RECORDS = 240
_LARGEST_LOSS = 0.25  # share of the starts that may diverge; beyond it there is no typical start


def learn(
    kernel: str,
    *,
    width: int = 16,
    activation: str = "linear",
    optimiser: str = "gradient_descent",
    step_size: float = 0.02,
    n_steps: int = 20_000,
    dt: float = 0.1,
    horizon: float = 6.4,
    n_paths: int = 64,
    n_starts: int = 4,
    timescale: float = 1.0,
    output_scale: float = 1.0,
    floor: float = 0.02,
) -> dict[str, Any]:
    """Returns loss curves over the target's power and the plateau lengths, for one kernel."""
    from recollect import targets, training

    return summarise(
        training.train_ensemble(
            targets.parse_kernel(kernel),
            width=width,
            activation=activation,
            optimiser=optimiser,
            step_size=step_size,
            n_steps=n_steps,
            dt=dt,
            horizon=horizon,
            n_paths=n_paths,
            seeds=range(n_starts),
            timescale=timescale,
            output_scale=output_scale,
        ),
        floor=floor,
    )


def summarise(found: Any, *, floor: float) -> dict[str, Any]:
    """Returns an ensemble's curves at log-spaced steps, and its plateaus above `floor`.

    Medians and shares are over the starts that did not diverge. If more than a quarter did, the
    trial is `not_finite` and nothing is claimed from it.
    """
    relative = found.losses / found.power
    plateaus = found.plateaus(floor=floor * found.power)
    n_starts, n_steps = relative.shape
    record = np.geomspace(1, n_steps, _N_RECORDS).round().astype(int) - 1
    lengths = np.array([p.length for p in plateaus])
    is_over = np.array([p.is_over for p in plateaus])
    below = relative <= floor
    reached = np.where(below.any(axis=1), below.argmax(axis=1), n_steps)
    is_sound = np.isfinite(relative).all(axis=1)
    share = 1 - float(is_sound.mean())
    status = found.status
    if share > _LARGEST_LOSS:
        message = f"{n_starts - is_sound.sum()} of {n_starts} curves diverged, more than a quarter"
        status = Status("not_finite", message)
    return {
        "loss": relative[:, record],
        "step": (record + 1).astype(float),
        "plateau": lengths,
        # A length the record cut off is counted as it stands: a lower bound.
        "typical": _median(lengths[is_sound]),
        "reached": _median(reached[is_sound]),
        "last": _median(relative[is_sound, -1]),
        "share_over": float(is_over[is_sound].mean()) if is_sound.any() else math.nan,
        "share_diverged": share,
        "status": status,
    }


def typical_plateau(trial: Any) -> float:
    """Returns the median plateau of one trial's starts that did not diverge; NaN if too few are left.

    Trials of an earlier version counted those that did.
    """
    return _median(trial.plateau.values[_sound(trial)])


def steps_to_learn(trial: Any, *, floor: float) -> float:
    """Returns the median steps to `floor` over the same starts: all of them where one never learns.

    Trials of an earlier version counted a curve that diverged as one that never learns. There it
    is read off the recorded losses, which can only be late.
    """
    is_sound = _sound(trial)
    counted_lost = not np.isfinite(trial.get("share_diverged", math.nan))
    if is_sound.all() or (is_sound.any() and not counted_lost):
        return float(trial.reached)
    steps = trial.step.values
    below = trial.loss.values[is_sound] <= floor
    first = np.where(below.any(axis=1), steps[below.argmax(axis=1)], steps[-1])
    return _median(first)


def _sound(trial: Any) -> np.ndarray:
    is_sound = np.isfinite(trial.loss.values).all(axis=1)
    too_few = 1 - is_sound.mean() > _LARGEST_LOSS
    return np.zeros_like(is_sound) if too_few else is_sound


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else math.nan


def draw_curves(axes: Any, results: Any, label: str, color: Any = None) -> None:
    """Draws every start of one trial in one colour, the first with the label."""
    steps = results.step.values
    for index, curve in enumerate(results.loss.values):
        axes.loglog(
            steps,
            curve,
            color=color,
            linewidth=1.0,
            alpha=0.8,
            label=label if index == 0 else None,
        )
