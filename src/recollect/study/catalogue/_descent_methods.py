"""Paper C, section 4: risk against steps for the four methods, and how far the weights move."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import sample_case, slope, typical

_RADIUS = 1.0
METHODS = ("projected", "plain", "sgd")


def descend(
    rule: str, width: int, seed: int, n_samples: int, horizon: int, n_steps: int
) -> dict[str, Any]:
    """Returns the risk over the steps of one run, relative to the risk of zero, with C's step size."""
    from recollect import convergence

    network, signals, values = sample_case(width, n_samples, horizon, 0.3, 0.7, seed)
    radii: dict[str, Any] = {} if rule == "plain" else {"radius_w": _RADIUS, "radius_u": _RADIUS}
    run = convergence.train_paired(
        network,
        signals,
        values,
        n_steps=n_steps,
        step_size=0.1,
        method=rule,
        record_every=n_steps // 50,
        seed=seed,
        **radii,
    )
    return {
        "risk": run.risk / run.risk[0],
        "average_risk": run.average_risk / run.risk[0],
        "drift": float(run.drift.max()),
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has narrower networks and fewer steps."""
    return Study(
        name="descent-methods",
        function=descend,
        grid=product(
            rule=list(METHODS),
            width=[32, 64, 128] if quick else [32, 64, 128, 256, 512, 1024],
            n_samples=[8 if quick else 32],
            horizon=[8 if quick else 16],
            n_steps=[250 if quick else 2000],
        ),
        seeds=2 if quick else 20,
        dimensions={"risk": ("step",), "average_risk": ("step",)},
        units={"risk": "1", "average_risk": "1", "drift": "1", "width": "1"},
        figure="risk against steps",
        paper="C",
        claims=(
            Claim(
                "Projected gradient descent learns at every width: the least share of the risk of "
                "zero that is left, worst width.",
                lambda r: float(
                    typical(r.risk, "rule", "width", "step").sel(rule="projected").min("step").max()
                ),
                expected=0.1,
                tolerance=0.0,
                reason="an upper limit: nine tenths are learned",
                relation="at_most",
            ),
            Claim(
                "The drift max √m‖θ_i - θ_i(0)‖ of plain gradient descent does not grow with the "
                "width (order of growth).",
                lambda r: slope(r.width, typical(r.drift, "rule", "width").sel(rule="plain")),
                expected=0.0,
                tolerance=0.2,
                reason="a maximum over m/2 Gaussian units grows like √ln(m/2), of order "
                "1/(2 ln(m/2)): 0.18 at 32 units",
                relation="at_most",
            ),
            Claim(
                "Plain gradient descent stays close to projected: largest difference of the shares "
                "left at the last step.",
                lambda r: float(
                    abs(np.log(_last(r, "plain")) - np.log(_last(r, "projected"))).max()
                ),
                expected=0.0,
                tolerance=0.7,
                reason="within a factor 2 in logarithms; the ball is seldom left",
            ),
            Claim(
                "The average iterate lags behind the last iterate of projected descent (ratio of "
                "risks, least over widths).",
                lambda r: float(
                    (
                        typical(r.average_risk, "rule", "width", "step")
                        .sel(rule="projected")
                        .isel(step=-1)
                        / _last(r, "projected")
                    ).min()
                ),
                expected=1.0,
                tolerance=0.0,
                reason="a lower limit: averaging keeps the early steps; the theorem, not speed, is its use",
                relation="at_least",
            ),
            Claim(
                "One sequence per step learns as well: share left by stochastic descent, worst width.",
                lambda r: float(_last(r, "sgd").max()),
                expected=0.1,
                tolerance=0.0,
                reason="an upper limit, at the same step size",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: a panel of risks per method, and the drift against the width."""
    panels = figure.subplots(1, 4)
    curves = typical(results.risk, "rule", "width", "step")
    average = typical(results.average_risk, "rule", "width", "step")
    n_steps = float(results.n_steps.values[0])
    steps = np.linspace(0, n_steps, curves.sizes["step"])
    for panel, method in zip(panels, METHODS, strict=False):
        for place, width in enumerate(results.width.values):
            panel.semilogy(
                steps, curves.sel(rule=method, width=width), f"C{place}", label=f"m = {width}"
            )
            if method == "projected":
                panel.semilogy(steps, average.sel(rule=method, width=width), f"C{place}:")
        panel.set(xlabel="steps", ylabel="risk / risk of zero")
        panel.set_title(
            method + (", dotted: averaged" if method == "projected" else ""), fontsize="small"
        )
    drift = typical(results.drift, "rule", "width")
    for method in METHODS:
        panels[3].semilogx(results.width, drift.sel(rule=method), marker="o", label=method)
    panels[3].set(xlabel="width", ylabel="drift", ylim=(0, None))
    panels[0].legend(frameon=False, fontsize="x-small")
    panels[3].legend(frameon=False, fontsize="x-small")


def _last(results: Any, method: str) -> Any:
    return typical(results.risk, "rule", "width", "step").sel(rule=method).isel(step=-1)
