"""Paper C, section 4: risk against steps for the four methods, and how far the weights move."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import sample_case, slope, typical

METHODS = ("projected", "plain", "sgd")
_RADII = {"projected": 1.0, "sgd": 1.0, "tight": 0.1}
_STEP_SIZE = 0.1
# C's step size is 1/(T√τ): what τ steps of it reach, for these parts of all steps.
_PARTS = (16, 4, 1)


def descend(
    rule: str, width: int, seed: int, n_samples: int, horizon: int, n_steps: int
) -> dict[str, Any]:
    """Returns the risk over the steps of one run, relative to the risk of zero.

    `tight` is projected descent into a ball that is smaller than plain descent moves. With C's step
    size every number of steps τ is a run of its own.
    """
    from recollect import convergence

    network, signals, values = sample_case(width, n_samples, horizon, 0.3, 0.7, seed)
    options: dict[str, Any] = {
        "n_steps": n_steps,
        "method": "projected" if rule == "tight" else rule,
        "record_every": n_steps // 32,
        "seed": seed,
    }
    if rule != "plain":
        options |= {"radius_w": _RADII[rule], "radius_u": _RADII[rule]}
    run = convergence.train_paired(network, signals, values, step_size=_STEP_SIZE, **options)
    paper, average = np.empty((2, len(_PARTS)))
    for place, part in enumerate(_PARTS):
        taken = n_steps // part
        # The steps after τ are not looked at: one compiled loop serves all three.
        slow = convergence.train_paired(
            network, signals, values, step_size=1 / (horizon * math.sqrt(taken)), **options
        )
        paper[place] = slow.risk[: 32 // part + 1].min() / slow.risk[0]
        average[place] = slow.average_risk[32 // part] / slow.risk[0]
    return {
        "risk": run.risk / run.risk[0],
        "average_risk": run.average_risk / run.risk[0],
        "drift": float(run.drift.max()),
        "paper_risk": paper,
        "paper_average_risk": average,
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has narrower networks and fewer steps."""
    return Study(
        name="descent-methods",
        function=descend,
        grid=product(
            rule=[*METHODS, "tight"],
            width=[32, 64, 128] if quick else [32, 64, 128, 256, 512, 1024],
            n_samples=[8 if quick else 32],
            horizon=[4 if quick else 16],
            n_steps=[512 if quick else 2048],
        ),
        seeds=2 if quick else 10,
        dimensions={
            "risk": ("step",),
            "average_risk": ("step",),
            "paper_risk": ("part",),
            "paper_average_risk": ("part",),
        },
        units={
            name: "1"
            for name in (
                "risk",
                "average_risk",
                "drift",
                "paper_risk",
                "paper_average_risk",
                "width",
            )
        },
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
                "A ball of radius 1 hardly matters: plain descent ends where projected descent does "
                "(largest difference of ln share left).",
                lambda r: float(
                    abs(np.log(_last(r, "plain")) - np.log(_last(r, "projected"))).max()
                ),
                expected=0.0,
                tolerance=0.7,
                reason="within a factor 2; zero where no unit ever touches its ball",
            ),
            Claim(
                "A ball smaller than plain descent moves costs risk: share left in a ball of radius "
                "0.1 over the share left without one, least over widths.",
                lambda r: float((_last(r, "tight") / _last(r, "plain")).min()),
                expected=1.0,
                tolerance=0.0,
                reason="a lower limit: the theorem asks for ρ ≥ ν, and 0.1 is below ν = 0.7",
                relation="at_least",
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
            Claim(
                "With C's own step size 1/(T√τ) the least risk falls at least as 1/√τ (order in τ, "
                "slowest of projected, averaged, stochastic and plain, largest width).",
                lambda r: float(np.max([slope(_taken(r), curve) for curve in _paper(r).values()])),
                expected=-0.5,
                tolerance=0.1,
                reason="the order is an upper limit; a mean over few seeds is within 0.1",
                relation="at_most",
                refuted="at the few steps of a quick run the bound is still above R(0), and so small "
                "a step has not forgotten the risk of zero, least of all in the average; the whole "
                "study agrees"
                if quick
                else "",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: a panel of risks per method, the cost of a small ball, drift, C's step size."""
    figure.set_size_inches(9, 6)
    panels = figure.subplots(2, 3)
    curves = typical(results.risk, "rule", "width", "step")
    average = typical(results.average_risk, "rule", "width", "step")
    n_steps = float(results.n_steps.values[0])
    steps = np.linspace(0, n_steps, curves.sizes["step"])
    titles = {
        "projected": "projected; dotted: its average",
        "plain": "plain",
        "sgd": "stochastic",
        "tight": "projected, radius 0.1",
    }
    low = float(curves.min()) / 2
    for panel, (method, title) in zip(panels.flat, titles.items(), strict=False):
        for place, width in enumerate(results.width.values):
            panel.semilogy(
                steps, curves.sel(rule=method, width=width), f"C{place}", label=f"m = {width}"
            )
            if method == "projected":
                panel.semilogy(steps, average.sel(rule=method, width=width), f"C{place}:")
        panel.set(xlabel="steps", ylabel="risk / risk of zero", ylim=(low, 1.3))
        panel.set_title(title, fontsize="small")
    panels[0, 0].legend(frameon=False, fontsize="x-small", ncols=2)
    drift = typical(results.drift, "rule", "width")
    for method in METHODS:
        style = {"projected": "o-", "plain": "s--", "sgd": "^:"}[method]
        panels[1, 1].plot(results.width, drift.sel(rule=method), style, label=method)
    panels[1, 1].set_xscale("log", base=2)
    panels[1, 1].set(xlabel="width", ylabel="drift max √m‖θ - θ(0)‖", ylim=(0, None))
    for name, curve in _paper(results).items():
        panels[1, 2].loglog(_taken(results), curve, "o-", label=name, markersize=3)
    line = max(curve[0] for curve in _paper(results).values())
    panels[1, 2].loglog(
        _taken(results), line * (_taken(results) / _taken(results)[0]) ** -0.5, "k:", label="1/√τ"
    )
    panels[1, 2].set_title(f"C's step size, m = {int(results.width[-1])}", fontsize="small")
    panels[1, 2].set(xlabel="steps τ", ylabel="least risk / risk of zero")
    panels[1, 2].set_xticks(_taken(results), [f"{taken:g}" for taken in _taken(results)])
    panels[1, 2].set_xticks([], minor=True)
    for panel in panels[1, 1:]:
        panel.legend(frameon=False, fontsize="x-small")


def _last(results: Any, method: str) -> Any:
    return typical(results.risk, "rule", "width", "step").sel(rule=method).isel(step=-1)


def _taken(results: Any) -> np.ndarray:
    return float(results.n_steps.values[0]) / np.array(_PARTS)


def _paper(results: Any) -> dict[str, np.ndarray]:
    """Returns the least risk with C's step size against τ, for each of its four theorems."""
    kept = results.isel(width=-1)
    found = {rule: typical(kept.paper_risk, "rule", "part").sel(rule=rule) for rule in METHODS}
    found["average"] = typical(kept.paper_average_risk, "rule", "part").sel(rule="projected")
    return {name: curve.values for name, curve in found.items()}
