"""Paper B, Figures 7 and 8: polynomial memory is no more stable with other activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._perturbed_networks import (
    DIMENSIONS,
    SETTLED,
    UNITS,
    draw_curves,
    effort,
    growth,
    perturb_network,
)

_QUICK = ("linear", "hardtanh", "relu")


def perturb(
    activation: str,
    width: int,
    n_radii: int,
    n_starts: int,
    n_steps: int,
    n_paths: int,
    horizon: float,
    dt: float,
    seed: int,
) -> dict[str, Any]:
    """Returns E_m(β) of a network that holds `(1+t)^-1.5`."""
    # A relu network is discrete: its matrix moves by β per step, not per unit of time.
    scale = dt if activation == "relu" else 1.0
    return perturb_network(
        kind="dense",
        activation=activation,
        memory="polynomial",
        width=width,
        horizon=horizon,
        dt=dt,
        n_training=0,
        n_radii=n_radii,
        n_starts=n_starts,
        n_steps=n_steps,
        n_paths=n_paths,
        smallest=1e-3 * scale,
        largest=0.5 * scale,
        seed=seed,
    )


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` leaves tanh to the entry on Figure 2."""
    activations = _QUICK if quick else ("linear", "hardtanh", "tanh", "relu")
    return Study(
        name="perturbed-activations",
        function=perturb,
        grid=product(
            activation=list(activations),
            width=[4, 16] if quick else [4, 8, 16, 64],
            **effort(quick=quick),
        ),
        dimensions=DIMENSIONS,
        units=UNITS,
        figure="7 and 8",
        paper="B",
        claims=(
            *(
                Claim(
                    f"{name}: the curves of polynomial memory move left (radius of the widest network "
                    "over that of the narrowest).",
                    lambda r, name=name: growth(r, "radius", activation=name),
                    expected=SETTLED,
                    tolerance=0.0,
                    reason="as in Figure 2: to move at all it must fall by more than the search's "
                    "scatter, a quarter",
                    relation="at_most",
                )
                for name in activations
            ),
            Claim(
                "Every one approximates better when wider (largest ratio of misfits).",
                lambda r: float(
                    np.max([growth(r, "misfit", activation=name) for name in r.activation.values])
                ),
                expected=0.5,
                tolerance=0.0,
                reason="without this it would not be an approximation that converges",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: one panel of curves per activation."""
    names = [str(name) for name in results.activation.values]
    panels = figure.subplots(1, len(names), sharey=True)
    for panel, name in zip(panels, names, strict=True):
        draw_curves(panel, results.sel(activation=name), name)
    panels[0].set_ylabel("E(β) / power; dotted: sampled")
    panels[0].legend(frameon=False, fontsize="x-small")
