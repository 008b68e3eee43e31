"""Paper A, Figure 1c: a nonlinear system with memory, a tanh network, Adam, and still a plateau."""

from __future__ import annotations

from typing import Any

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._training_curves import (
    DIMENSIONS,
    UNITS,
    draw_curves,
    learn,
    summarise,
)

_SETTING: dict[str, Any] = {
    "width": 16,
    "activation": "tanh",
    "optimiser": "adam",
    "step_size": 0.001,
    "dt": 0.1,
    "horizon": 12.8,
    "n_paths": 16,
    "timescale": 0.25,
    "output_scale": 0.1,
}


def learn_system(system: str, n_steps: int = 3000, n_starts: int = 2) -> dict[str, Any]:
    """Returns loss curves of a tanh network on one system: `lorenz p` or a kernel's expression."""
    from recollect import targets, training

    if not system.startswith("lorenz "):
        return learn(system, n_steps=n_steps, n_starts=n_starts, **_SETTING)
    found = training.train_ensemble(
        targets.LorenzNinetySix(speed=float(system.split()[1])),
        n_steps=n_steps,
        seeds=range(n_starts),
        outputs=[0],
        **_SETTING,
    )
    return summarise(found, floor=0.02)


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has fewer steps and starts."""
    return Study(
        name="figure-1c",
        function=learn_system,
        grid=product(
            system=["lorenz 10", "lorenz 1", "lorenz 0.2", "exp(-t)"],
            n_steps=[3000 if quick else 20_000],
            n_starts=[2 if quick else 16],
        ),
        dimensions=DIMENSIONS,
        units=UNITS,
        figure="Figure 1c",
        paper="A",
        claims=(
            Claim(
                "With slow unresolved variables (p = 1) the loss stands still for at least 3 times "
                "as long as on an exponential memory, with the same network and optimiser.",
                lambda r: float(_typical(r, "lorenz 1") / _typical(r, "exp(-t)")),
                expected=3.0,
                tolerance=0.0,
                reason="a lower limit; the control is learned without a stop",
                relation="at_least",
            ),
            Claim(
                "The system is learned in the end (median loss over power at p = 1).",
                lambda r: float(r["last"].sel(system="lorenz 1").squeeze()),
                expected=0.05,
                tolerance=0.0,
                reason="an upper limit",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: loss against steps for each system."""
    axes = figure.subplots()
    of = results.squeeze(("n_steps", "n_starts"))
    for index, system in enumerate(results.system.values):
        draw_curves(axes, of.sel(system=system), str(system), f"C{index}")
    axes.set(xlabel="steps of Adam", ylabel="loss / power of the output")
    axes.legend(frameon=False, fontsize="small", title="lorenz p: Lorenz 96")


def _typical(results: Any, system: str) -> float:
    return max(float(results.typical.sel(system=system).squeeze()), 1.0)
