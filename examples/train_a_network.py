"""Train a network across a plateau: what the trainer says while the loss stands still.

A network that knows the fast part of a memory, and nothing of a response that comes later, is
trained by gradient descent. The loss stands still for thousands of steps. The run is interrupted, goes on
where it stopped, and says how long it will take.

python examples/train_a_network.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from recollect import models, targets, training


def main(*, quick: bool = False) -> training.TrainedModel:
    """Returns the trained network; prints what was forecast beside what happened."""
    delay, n_records, n_steps = (9.0, 4, 5500) if quick else (10.0, 16, 12_000)
    dt = 0.2
    target = targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=delay)
    inputs = np.random.default_rng(0).standard_normal((n_records, 400, 1))
    outputs = np.stack([np.asarray(target(record, dt=dt)) for record in inputs])
    # One unit has the fast memory; the other is idle, and knows nothing of the delay.
    start = models.DiagonalRNN([1.0, 0.7], [[1.0], [1.0]], [[1.0, 0.01]])

    forecasts: list[tuple[int, training.PlateauVerdict]] = []

    def watch(progress: training.TrainingProgress) -> None:
        forecasts.append((progress.step, progress.plateau))

    options: dict[str, Any] = {
        "key": 0,
        "dt": dt,
        "optimiser": "gradient_descent",
        "learning_rate": 0.01,
        "units": "data",
        "callback": watch,
    }
    with tempfile.TemporaryDirectory() as directory:
        for until in (n_steps // 2, n_steps):  # the second call goes on where the first one ended
            found = training.train_model(
                start, inputs, outputs, n_steps=until, checkpoint=directory, **options
            )
            print(
                f"{found.stats['resumed_at']:6d} to {found.stats['n_steps']:6d} steps: {found.plateau}"
            )

    print(f"\nloss {found.losses[0]:.4f} at the start, {found.losses[-1]:.4f} at the end")
    print("  step    loss    verdict              says       range              truth")
    for step, verdict in forecasts[:: max(1, len(forecasts) // 24)]:
        now = found.losses[step - 1]
        later = np.flatnonzero(found.losses[step:] < 0.9 * now)
        if not len(later):
            break
        low, high = verdict.remaining_range
        words = f"{verdict.kind}: {verdict.verdict}"
        print(
            f"{step:6d}  {now:.4f}    {words:18} {verdict.remaining_steps:7.0f}"
            f"  {low:6.0f} to {high:6.0f}  {later[0]:8d} steps"
        )
    return found


if __name__ == "__main__":
    main()
