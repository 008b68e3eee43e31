"""Identify two tanks that overflow: is the remainder noise, and does a nonlinear network take it up?

python examples/nonlinear_system.py [--quick] [--data dataBenchmark.csv]
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import numpy as np

from recollect import targets, training
from recollect.training import TrainedSystem


def main(quick: bool = False, data: str | None = None) -> TrainedSystem:
    """Prints the verdict on the remainder and the errors of free simulation, old data and new."""
    if data:
        table = np.genfromtxt(data, delimiter=",", skip_header=1, usecols=(0, 1, 2, 3))
        pump, test_pump, level, test_level = (column[:, None] for column in table.T)
        dt = 4.0
    else:
        record = targets.simulate_two_tanks(n_samples=512 if quick else 1024)
        pump, level, dt = record.estimation_input, record.estimation_output, record.dt
        test_pump, test_level = record.test_input, record.test_output

    options: dict[str, Any] = (
        {"n_restarts": 1, "n_folds": 2, "n_steps": 25, "penalty": (1e-4,)} if quick else {}
    )
    found = training.train_system(
        pump, level, dt=dt, key=jax.random.key(0), structures=("series",), **options
    )
    simulated = np.asarray(found.model(test_pump, dt=dt))
    rmse = float(np.sqrt(np.mean((simulated - test_level) ** 2)))
    print(f"chosen:             {found.structure}, {found.model.n_units} units")
    print(f"held-out blocks:    {found.validation_error[0]:.3f} V")
    print(f"a linear network:   {found.linear_error[0]:.3f} V")
    print(f"the other record:   {rmse:.3f} V in free simulation")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one start, a short record")
    parser.add_argument("--data", help="the cascaded tanks benchmark file (CSV)")
    arguments = parser.parse_args()
    main(arguments.quick, arguments.data)
