"""What a GRU remembers: the supremum over steps, the assumptions of the theory, its capacity."""

from __future__ import annotations

from recollect import memory, models
from recollect.diagnosis import measure_model


def main(*, quick: bool = False) -> memory.MemoryProfile:
    """Measures a random GRU and prints what was found."""
    width, horizon = (6, 60.0) if quick else (32, 400.0)
    gru = models.initialise_gru(width, n_outputs=1, key=0)

    # A GRU with biases does not start at rest: let it settle, so that only the input's effect counts.
    profile = memory.measure_memory(gru, dt=1.0, horizon=horizon, settle=horizon)
    print(f"t50 {profile.t50:.3g}, t95 {profile.t95:.3g}, forgotten by {profile.horizon:.3g} steps")
    print("the estimate over the restarts:", ", ".join(f"{v:.5g}" for v in profile.convergence))
    small = memory.measure_memory(
        gru, dt=1.0, horizon=horizon, settle=horizon, magnitudes=[0.01, 0.1, 1.0]
    )
    print(f"steps up to 1 are forgotten sooner: t95 {small.t95:.3g}")

    found = memory.measure_properties(gru, dt=1.0, horizon=min(horizon, 100.0))
    print("\n".join(found.summary()))

    capacity = memory.measure_capacity(gru, n_samples=1000 if quick else 5000)
    print(f"capacity {capacity.total:.2f} ± {capacity.total_stderr:.2f} of {capacity.n_features}")

    report = measure_model(gru, horizon=horizon, trained_on=50.0, largest_input=3.0)
    print("\n".join(report.summary()))
    return profile


if __name__ == "__main__":
    main()
