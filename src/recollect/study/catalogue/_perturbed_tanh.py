"""Paper B, Figure 2: tanh networks hold exponential memory stably, polynomial memory less with every unit."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._perturbed_networks import (
    DIMENSIONS,
    UNITS,
    draw_curves,
    mark_widths,
    perturb_network,
)


def perturb(
    memory: str,
    width: int,
    n_training: int,
    n_radii: int,
    n_starts: int,
    n_steps: int,
    n_paths: int,
    horizon: float,
    dt: float,
    seed: int,
) -> dict[str, Any]:
    """Returns E_m(β) of a tanh network that learnt `e^-t` or `(1+t)^-1.5`."""
    return perturb_network(
        kind="dense",
        activation="tanh",
        memory=memory,
        width=width,
        horizon=horizon,
        dt=dt,
        n_training=n_training,
        n_radii=n_radii,
        n_starts=n_starts,
        n_steps=n_steps,
        n_paths=n_paths,
        seed=seed,
    )


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has widths 4 and 16, 5 radii and 4 starts."""
    return Study(
        name="perturbed-tanh",
        function=perturb,
        grid=product(
            memory=["exponential", "polynomial"],
            width=[4, 16] if quick else [4, 8, 16, 64],
            n_training=[0],
            n_radii=[5 if quick else 11],
            n_starts=[4 if quick else 6],
            n_steps=[6 if quick else 15],
            n_paths=[32 if quick else 256],
            horizon=[64.0 if quick else 256.0],
            dt=[0.2],
        ),
        seeds=1 if quick else 2,
        dimensions=DIMENSIONS,
        units=UNITS,
        figure="2",
        paper="B",
        claims=(
            Claim(
                "Exponential memory: the curves settle (radius of the widest network over that of the "
                "narrowest).",
                lambda r: growth(r, "exponential"),
                expected=1.0,
                tolerance=0.1,
                reason="the search finds lower estimates of the error, less so with more weights",
                relation="at_least",
            ),
            Claim(
                "Polynomial memory: the curves move left (radius of the widest network over that of the "
                "narrowest).",
                lambda r: growth(r, "polynomial"),
                expected=0.75,
                tolerance=0.0,
                reason="to move at all it must fall by more than the search's own scatter, a quarter",
                relation="at_most",
            ),
            Claim(
                "The wider network approximates the polynomial memory better (its misfit over that of the "
                "narrowest).",
                lambda r: _misfit(r),
                expected=0.5,
                tolerance=0.0,
                reason="without this it would not be an approximation that converges",
                relation="at_most",
            ),
            Claim(
                "Its rest moves towards the boundary: max Re λ(W) of the widest over that of the narrowest, "
                "the mechanism of Theorem 3.9.",
                lambda r: _rate(r),
                expected=0.5,
                tolerance=0.0,
                reason="the time scales needed grow with the accuracy; half is far above what descent adds",
                relation="at_most",
            ),
            Claim(
                "Random perturbations, the paper's way, never exceed the search (largest ratio).",
                lambda r: _sampled(r),
                expected=1.0,
                tolerance=1e-12,
                reason="the search starts from them",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: E_m(β) of both memories, radius and rate against the width."""
    panels = figure.subplots(1, 3)
    for panel, memory in zip(panels, ("exponential", "polynomial"), strict=False):
        draw_curves(panel, results.sel(memory=memory), f"tanh, {memory} memory")
        of = typical(results.sel(memory=memory))
        panels[2].loglog(of.width, of.radius, marker="o", markersize=3, label=f"{memory}: radius")
        panels[2].loglog(
            of.width, of.rate, ":", marker="s", markersize=3, label=f"{memory}: slowest rate"
        )
    panels[0].set_ylabel("E(β) / power; dotted: sampled")
    panels[0].legend(frameon=False, fontsize="x-small")
    panels[2].set(xlabel="width", ylabel="β at which the error is 0.1")
    mark_widths(panels[2], results.width.values)
    panels[2].legend(frameon=False, fontsize="x-small")


def typical(results: Any) -> Any:
    """Returns the numbers of the median seed, against the width alone."""
    numbers = results[["radius", "misfit", "rate"]]
    numbers = numbers.median("seed") if "seed" in numbers.dims else numbers
    return numbers.squeeze()


def growth(results: Any, memory: str) -> float:
    """Returns the radius of the widest network over that of the narrowest."""
    radius = typical(results.sel(memory=memory)).radius.values
    return float(radius[-1] / radius[0])


def _misfit(results: Any) -> float:
    misfit = typical(results.sel(memory="polynomial")).misfit.values
    return float(misfit[-1] / misfit[0])


def _rate(results: Any) -> float:
    rate = typical(results.sel(memory="polynomial")).rate.values
    return float(rate[-1] / rate[0])


def _sampled(results: Any) -> float:
    finite = np.isfinite(results.errors.values)
    return float((results.sampled.values[finite] / results.errors.values[finite]).max())
