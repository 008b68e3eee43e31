"""Paper B, Figure 2: tanh networks hold exponential memory stably, polynomial memory less with every unit."""

from __future__ import annotations

from typing import Any

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
    largest_sampled,
    mark_widths,
    perturb_network,
    typical,
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
            **effort(quick=quick, n_steps=6, n_paths=32),
        ),
        dimensions=DIMENSIONS,
        units=UNITS,
        figure="2",
        paper="B",
        claims=(
            Claim(
                "Exponential memory: the curves settle (radius of the widest network over that of the "
                "narrowest).",
                lambda r: growth(r, "radius", memory="exponential"),
                expected=1.0,
                tolerance=0.1,
                reason="the search finds lower estimates of the error, less so with more weights",
                relation="at_least",
            ),
            Claim(
                "Polynomial memory: the curves move left (radius of the widest network over that of the "
                "narrowest).",
                lambda r: growth(r, "radius", memory="polynomial"),
                expected=SETTLED,
                tolerance=0.0,
                reason="to move at all it must fall by more than the search's own scatter, a quarter",
                relation="at_most",
            ),
            Claim(
                "The wider network approximates the polynomial memory better (its misfit over that of the "
                "narrowest).",
                lambda r: growth(r, "misfit", memory="polynomial"),
                expected=0.5,
                tolerance=0.0,
                reason="without this it would not be an approximation that converges",
                relation="at_most",
            ),
            Claim(
                "Its rest moves towards the boundary: max Re λ(W) of the widest over that of the narrowest, "
                "the mechanism of Theorem 3.9.",
                lambda r: growth(r, "rate", memory="polynomial"),
                expected=0.5,
                tolerance=0.0,
                reason="the time scales needed grow with the accuracy; half is far above what descent adds",
                relation="at_most",
            ),
            Claim(
                "Random perturbations, the paper's way, never exceed the search (largest ratio).",
                largest_sampled,
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
        for name, style in (("radius", "o-"), ("rate", "s:")):
            values = typical(results, name, memory=memory)
            label = f"{memory}: {'slowest rate' if name == 'rate' else name}"
            panels[2].loglog(results.width, values, style, markersize=3, label=label)
    panels[0].set_ylabel("E(β) / power; dotted: sampled")
    panels[0].legend(frameon=False, fontsize="x-small")
    panels[2].set(xlabel="width", ylabel="β at which the error is 0.1")
    mark_widths(panels[2], results.width.values)
    panels[2].legend(frameon=False, fontsize="x-small", loc="upper right", bbox_to_anchor=(1, 0.94))
