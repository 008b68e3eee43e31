"""From a relaxation master curve to a Prony table that a finite-element code can read.

    python examples/prony_series.py [curve.csv] [table.csv]

The curve has two columns, time and modulus; units are whatever they are. Without a file a
material with a broad spectrum, measured with 0.3 % scatter, takes its place.
"""

from __future__ import annotations

import sys

import numpy as np

from recollect import approximation


def read_curve(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns times and moduli of a table, whatever header rows it has."""
    table = np.genfromtxt(path, delimiter=",", usecols=(0, 1))
    table = table[np.all(np.isfinite(table), axis=1)]
    return table[:, 0], table[:, 1]


def broad_material(n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a fractional solid, E(t) = 50 + 2000 (1 + (t/1e-3))^-0.2, with scatter."""
    times = np.geomspace(1e-4, 1e9, n_samples)
    scatter = 1 + 3e-3 * np.random.default_rng(0).standard_normal(n_samples)
    return times, (50 + 2000 * (1 + times / 1e-3) ** -0.2) * scatter


def main(curve: str | None = None, table: str | None = None, *, quick: bool = False) -> float:
    """Fits, prints the terms, writes the table; returns the relative rms error."""
    times, moduli = read_curve(curve) if curve else broad_material(80 if quick else 300)
    fit = approximation.fit_exponential_sum(
        (times, moduli),
        width=8 if quick else 16,
        positive=True,
        constant=True,
        weights="relative",
    )
    prony = approximation.tabulate_prony(fit)
    model = prony.equilibrium_modulus + np.exp(-times[:, None] / prony.timescales) @ prony.moduli
    error = float(np.sqrt(np.mean((model / moduli - 1) ** 2)))
    print(
        f"{len(prony.moduli)} terms, relative rms error {100 * error:.3g} %, status: {fit.status}"
    )
    print(prony.text("abaqus"))
    if table is not None:
        prony.write(table)
        print(f"wrote {table}")
    return error


if __name__ == "__main__":
    main(*sys.argv[1:3])
