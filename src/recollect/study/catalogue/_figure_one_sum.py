"""Paper A, Figure 1a: a memory of exponentials is learned without a stop."""

from __future__ import annotations

from typing import Any

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._training_curves import DIMENSIONS, UNITS, draw_curves, learn

KERNELS = (
    "exp(-t)",
    "exp(-t)+exp(-3*t)",
    "0.5*exp(-t)+exp(-1.5*t)+exp(-2.5*t)",
)


def build_study(*, quick: bool, kernels: tuple[str, ...] = KERNELS) -> Study:
    """Returns the study; `quick` has fewer steps and starts. `kernels` may be your own."""
    return Study(
        name="figure-1a",
        function=learn,
        grid=product(
            kernel=list(kernels),
            n_steps=[5_000 if quick else 50_000],
            n_starts=[4 if quick else 16],
        ),
        dimensions=DIMENSIONS,
        units=UNITS,
        figure="Figure 1a",
        paper="A",
        claims=(
            Claim(
                "A memory of exponentials is learned to 1 % of its power by gradient descent "
                "(worst kernel's median).",
                lambda r: float(r["last"].max()),
                expected=0.01,
                tolerance=0.0,
                reason="an upper limit: the error goes on falling",
                relation="at_most",
            ),
            Claim(
                "No plateau: the loss never stands still for 2 % of the run before it is learned "
                "(share of the steps).",
                lambda r: float((r.typical / r.n_steps).max()),
                expected=0.02,
                tolerance=0.0,
                reason="an upper limit; the Airy memories of Figure 1b stand still for most of the run",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: loss against steps, one panel."""
    axes = figure.subplots()
    of = results.squeeze(("n_steps", "n_starts"))
    for index, kernel in enumerate(results.kernel.values):
        draw_curves(axes, of.sel(kernel=kernel), str(kernel), f"C{index}")
    axes.set(xlabel="steps of gradient descent", ylabel="loss / power of the target")
    axes.legend(frameon=False, fontsize="small")
