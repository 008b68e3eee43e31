"""Start a small network that remembers 1e4 steps, save it, and run it one sample at a time.

python examples/remember_ten_thousand_steps.py
"""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np

from recollect import models


def main(*, quick: bool = False) -> dict[str, float]:
    """Returns what is left of an impulse after 1e4 steps, for two starts of 32 units."""
    last = 10_000
    lags = np.array([1.0, last])
    slow = models.initialise_from_timescales([1.0, last], width=32, n_outputs=64, key=0)
    ring = models.initialise_lru_ring(32, smallest=0.9, largest=0.99, n_outputs=64, key=0)
    left = {}
    for name, model in (("from time scales", slow), ("LRU ring", ring)):
        response = np.linalg.norm(model.kernel(lags)[:, :, 0], axis=1)
        left[name] = float(response[1] / response[0])
        margin = models.stability_margin(model, dt=1.0)
        print(f"{name:18s} left after {last} steps: {left[name]:.1e}, margin {margin.margin:.1e}")

    with tempfile.TemporaryDirectory() as directory:
        models.save(slow, pathlib.Path(directory) / "model", unit="steps")
        loaded = models.load(pathlib.Path(directory) / "model")
    n_samples = 100 if quick else 2000
    signal = np.random.default_rng(0).standard_normal((n_samples, 1))
    push = models.stream(loaded, dt=1.0)
    streamed = np.stack([push(value) for value in signal])
    left["streaming error"] = float(np.abs(streamed - slow(signal, dt=1.0)).max())
    print(f"streaming differs from the whole call by {left['streaming error']:.1e}")
    return left


if __name__ == "__main__":
    main()
