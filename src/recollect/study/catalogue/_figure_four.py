"""Paper A, Figure 4: the plateau outside the theorem: full W, tanh, momentum, Adam, sample paths."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._training_curves import (
    DIMENSIONS,
    UNITS,
    draw_curves,
    steps_to_learn,
    summarise,
    typical_plateau,
)

# name -> activation, optimiser, step size, steps (quick, full), dt.
SETTINGS: dict[str, tuple[str, str, float, int, int, float]] = {
    "linear, gradient descent": ("linear", "gradient_descent", 0.02, 12_000, 200_000, 0.1),
    "linear, momentum": ("linear", "momentum", 0.02, 3_000, 100_000, 0.1),
    "linear, Adam": ("linear", "adam", 0.002, 4_000, 50_000, 0.1),
    "tanh, Adam": ("tanh", "adam", 0.002, 1_500, 50_000, 0.2),
}
TARGET = "exp(-t)+0.5*exp(-(t-{delay})**2/2)"
_FLOOR = 0.2


def learn_delayed(
    setting: str, delay: float, is_quick: bool, n_starts: int = 3, target: str = TARGET
) -> dict[str, Any]:
    """Returns loss curves for `target` with its bump at `delay`, in one general setting."""
    from recollect import targets, training

    activation, optimiser, step_size, few, many, dt = SETTINGS[setting]
    found = training.train_ensemble(
        targets.parse_kernel(target.replace("{delay}", f"{delay:g}")),
        width=8,
        activation=activation,
        optimiser=optimiser,
        step_size=step_size,
        n_steps=few if is_quick else many,
        dt=dt,
        horizon=16.0,
        n_paths=64 if activation == "linear" else 32,
        seeds=range(n_starts),
        timescale=0.5,
        output_scale=0.1,
        # White noise of unit intensity would saturate tanh.
        input_std=None if activation == "linear" else 0.3,
    )
    return summarise(found, floor=_FLOOR)


def build_study(*, quick: bool, target: str = TARGET) -> Study:
    """Returns the study; `quick` has fewer steps and starts. In `target`, {delay} is 1/ω."""
    delays = [4.0, 6.0, 8.0] if quick else [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    return Study(
        name="figure-4",
        function=learn_delayed,
        grid=product(
            setting=list(SETTINGS),
            delay=delays,
            is_quick=[quick],
            n_starts=[2 if quick else 16],
            target=[target],
        ),
        dimensions=DIMENSIONS,
        units=UNITS | {"delay": "1"},
        figure="Figure 4",
        paper="A",
        claims=(
            Claim(
                "Plateaus grow with 1/ω in every general setting: from the shortest to the longest "
                "delay the steps to learn at least double (least ratio over the settings).",
                lambda r: float(np.min([_ratio(r, name) for name in SETTINGS])),
                expected=2.0,
                tolerance=0.0,
                reason="a lower limit; runs that never learn count with their whole length, and the "
                "few that diverge (heavy ball at the longest delays) are left out",
                relation="at_least",
            ),
            Claim(
                "With gradient descent on a full linear network the plateau at the longest delay "
                "is at least 10 times that at the shortest.",
                lambda r: _plateau_ratio(r, "linear, gradient descent"),
                expected=10.0,
                tolerance=0.0,
                reason="a lower limit; e^(2 w_min (8-4)) would be 3000 for diagonal networks on an "
                "exact plateau, these start outside it",
                relation="at_least",
            ),
            Claim(
                "Adam alleviates it: at the longest delay it takes fewer steps than gradient descent "
                "(ratio).",
                lambda r: float(
                    _steps(r, "linear, Adam")[-1] / _steps(r, "linear, gradient descent")[-1]
                ),
                expected=0.5,
                tolerance=0.0,
                reason="an upper limit, at a step size ten times smaller",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: a panel of loss curves per setting."""
    axes = figure.subplots(2, 2, sharey=True).ravel()
    for panel, name in zip(axes, SETTINGS, strict=True):
        for index, delay in enumerate(results.delay.values):
            draw_curves(panel, _of(results, name, delay), f"1/ω = {delay:g}", f"C{index}")
        panel.set_title(name, fontsize="small")
        panel.set(xlabel="steps", ylabel="loss / power")
    axes[0].legend(frameon=False, fontsize="x-small")


def _of(results: Any, name: str, delay: float) -> Any:
    return results.sel(setting=name, delay=delay).squeeze(("is_quick", "n_starts", "target"))


def _steps(results: Any, name: str) -> np.ndarray:
    trials = [_of(results, name, delay) for delay in results.delay.values]
    return np.array([steps_to_learn(trial, floor=_FLOOR) for trial in trials])


def _ratio(results: Any, name: str) -> float:
    steps = _steps(results, name)
    return float(steps[-1] / steps[0])


def _plateau_ratio(results: Any, name: str) -> float:
    lengths = [typical_plateau(_of(results, name, delay)) for delay in results.delay.values]
    return float(lengths[-1] / np.maximum(lengths[0], 1.0))
