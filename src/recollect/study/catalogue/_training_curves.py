"""One training run outside the theory's setting: what Figures 1 and 4 of paper A are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

DIMENSIONS = {"loss": ("start", "record"), "step": ("record",), "plateau": ("start",)}
UNITS = {
    "loss": "1",
    "step": "1",
    "plateau": "1",
    "typical": "1",
    "reached": "1",
    "last": "1",
    "share_over": "1",
    "horizon": "1",
}
_N_RECORDS = 240


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
    """Returns an ensemble's curves at log-spaced steps, and its plateaus above `floor`."""
    relative = found.losses / found.power
    plateaus = found.plateaus(floor=floor * found.power)
    n_steps = relative.shape[1]
    record = np.geomspace(1, n_steps, _N_RECORDS).round().astype(int) - 1
    lengths = np.array([p.length for p in plateaus])
    below = relative <= floor
    reached = np.where(below.any(axis=1), below.argmax(axis=1), n_steps)
    return {
        "loss": relative[:, record],
        "step": (record + 1).astype(float),
        "plateau": lengths,
        # A length the record cut off is counted as it stands: a lower bound.
        "typical": float(np.median(lengths)),
        "reached": float(np.median(reached)),
        "last": float(np.median(relative[:, -1])),
        "share_over": float(np.mean([p.is_over for p in plateaus])),
        "status": found.status,
    }


def draw_curves(axes: Any, results: Any, label: str, color: Any = None) -> None:
    """Draws every start of one trial, and marks the longest plateau's typical length in the label."""
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
