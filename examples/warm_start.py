"""Warm start: training begins with the memory in place, beside a random start."""

from __future__ import annotations

import time

import numpy as np

from recollect import models, training


def measure(n_time: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A slow decay and an oscillation, read through a bent sensor."""
    system = models.DiagonalRNN(
        np.array([0.02, 0.15 + 0.4j, 0.15 - 0.4j]),
        np.array([[1.0], [0.5 + 0.2j], [0.5 - 0.2j]]),
        np.array([[0.05, 0.2, 0.2]]),
    )
    inputs = rng.standard_normal((n_time, 1))
    linear = np.asarray(system(inputs, dt=1.0))
    clean = np.tanh(0.8 * linear / linear.std())
    return inputs, clean + 0.02 * rng.standard_normal(clean.shape), clean


def main(quick: bool = False) -> None:
    rng = np.random.default_rng(0)
    inputs, outputs, _ = measure(400 if quick else 2000, rng)
    new_inputs, _, wanted = measure(400 if quick else 2000, rng)
    began = time.perf_counter()
    start = training.warm_start(models.ElmanRNN, inputs, outputs, dt=1.0, n_units=8, tolerance=0.03)
    print("\n".join(start.summary()))
    print(f"found in {time.perf_counter() - began:.1f} s")

    def missed(model: models.Rescaled | models.ElmanRNN) -> float:
        return float(np.std(np.asarray(model(new_inputs, dt=1.0)) - wanted) / wanted.std())

    print(f"new inputs: the linear start misses {missed(start.rescaled):.1%}")
    random = models.initialise_elman(8, spectral_radius=0.99, key=0)
    n_steps = 50 if quick else 2000
    for name, model, units, rates in (
        ("from the records", start.rescaled, "data", (1e-4, 1e-3)),
        ("from random weights", random, "normalised", (1e-3, 1e-2)),
    ):
        for rate in rates:
            began = time.perf_counter()
            trained = training.train_model(
                model,
                inputs,
                outputs,
                dt=1.0,
                key=0,
                n_steps=n_steps,
                learning_rate=rate,
                units=units,
            )
            print(
                f"{name}, rate {rate:g}, {n_steps} steps: misses {missed(trained.model):.1%} "
                f"({time.perf_counter() - began:.0f} s)"
            )


if __name__ == "__main__":
    main()
