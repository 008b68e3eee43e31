"""Paper C, Proposition 3.3: the tangent kernel, and how tight the certificates are, against width."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import N_INPUTS, sample_case, slope, typical

_STEPS = 100
METHODS = ("projected", "average", "sgd", "plain")


def compare(width: int, seed: int, n_samples: int, horizon: int) -> dict[str, Any]:
    """Returns the kernel's error, the linearised risk against the trained one, and certificates."""
    from recollect import convergence

    # One target and one data set; the seed is that of the weights.
    _, signals, values = sample_case(2, n_samples, horizon, 0.3, 0.5, 0)
    network = convergence.initialise_paired(width, N_INPUTS, alpha=0.3, seed=seed)
    limit = convergence.estimate_ntk(signals, alpha=0.3, n_points=2048, n_replicates=4)
    ntk = convergence.measure_ntk(network, signals)
    bounds, measured = [], []
    for method in METHODS:
        radii: dict[str, Any] = {} if method == "plain" else {"radius_w": 0.5, "radius_u": 0.5}
        bound = convergence.bound_risk_on_data(
            network, signals, values, n_steps=_STEPS, method=method, **radii
        )
        run = convergence.train_paired(
            network,
            signals,
            values,
            n_steps=_STEPS,
            step_size=bound.step_size,
            method="projected" if method == "average" else method,
            seed=seed,
            dtype="float64",
            **radii,
        )
        bounds.append(bound.bound)
        measured.append(run.average_risk[-1] if method == "average" else run.risk[:-1].min())
    # The last of them, plain descent, is what the linearised network predicts.
    linear = convergence.predict_risk_curve(ntk, values, step_size=run.step_size, steps=run.steps)
    initial = float(run.risk[0])
    return {
        "error": float(np.sqrt(np.mean((ntk.ntk - limit.ntk) ** 2))),
        "stderr": float(np.sqrt(np.mean(np.square(limit.ntk_stderr)))),
        "risk": run.risk / initial,
        "linear_risk": linear / initial,
        "linear_gap": float(abs(run.risk - linear).max() / initial),
        "bound": np.array(bounds) / initial,
        "looseness": np.array(bounds) / np.array(measured),
        "least_eigenvalue": ntk.least_eigenvalue,
        "least_eigenvalue_limit": limit.least_eigenvalue,
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has fewer widths and seeds."""
    return Study(
        name="tangent-kernel",
        function=compare,
        grid=product(
            width=[64, 256, 1024] if quick else [32, 64, 128, 256, 512, 1024, 2048, 4096],
            n_samples=[6],
            horizon=[5],
        ),
        seeds=4 if quick else 20,
        dimensions={
            "risk": ("step",),
            "linear_risk": ("step",),
            "bound": ("method",),
            "looseness": ("method",),
        },
        units={
            name: "1"
            for name in (
                "error",
                "stderr",
                "risk",
                "linear_risk",
                "linear_gap",
                "bound",
                "looseness",
                "least_eigenvalue",
                "least_eigenvalue_limit",
                "width",
            )
        },
        figure="kernel error against width",
        paper="C",
        claims=(
            Claim(
                "The kernel of width m is within O(m^{-1/2}) of its limit (order).",
                lambda r: slope(r.width, typical(r.error, "width")),
                expected=-0.5,
                tolerance=0.15,
                reason="each point is a mean over few seeds, within 20 %; over a factor 16 in width "
                "that is 0.1 in the order",
            ),
            Claim(
                "Its least eigenvalue approaches that of the limit, which is above zero (relative "
                "distance at the largest width, typical).",
                lambda r: float(
                    abs(r.least_eigenvalue / r.least_eigenvalue_limit - 1).isel(width=-1).mean()
                ),
                expected=0.0,
                tolerance=0.5,
                reason="Weyl: within the error of the kernel; 0.5 keeps it clear of zero",
                relation="at_most",
            ),
            Claim(
                "The linearised risk approaches the trained one at least as fast as m^{-1/2} (order).",
                lambda r: slope(r.width, typical(r.linear_gap, "width")),
                expected=-0.5,
                tolerance=0.1,
                reason="twins cancel the term of order m^{-1/2}; m^{-1} is what remains",
                relation="at_most",
            ),
            Claim(
                "No certificate is exceeded by its run (least of bound over measured, all four "
                "methods).",
                lambda r: float(r.looseness.min()),
                expected=1.0,
                tolerance=0.0,
                reason="a lower limit, which the proof gives: every single run",
                relation="at_least",
            ),
            *(
                Claim(
                    f"The certificate of {words} is not vacuous at 1024 units (bound over the risk "
                    "of zero, typical).",
                    lambda r, place=place: float(
                        typical(r.bound, "width", "method").sel(width=1024).isel(method=place)
                    ),
                    expected=1.0,
                    tolerance=0.0,
                    reason="an upper limit: 1 is what answering zero gives",
                    relation="at_most",
                    refuted=""
                    if words != "stochastic descent"
                    else "its draws cost ln(1/δ)/τ times "
                    "the largest risk in reach: 100 of them are too few at this width",
                )
                for place, words in enumerate(
                    ("projected descent", "its average", "stochastic descent", "plain descent")
                )
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: kernel error, predicted and trained risk, their gap, certificates."""
    figure.set_size_inches(9, 6)
    panels = figure.subplots(2, 3)
    widths = results.width.values.astype(float)
    error = typical(results.error, "width")
    panels[0, 0].loglog(widths, error, "o-", label="measured")
    panels[0, 0].loglog(
        widths, float(error[0]) * (widths / widths[0]) ** -0.5, "k:", label="slope -1/2"
    )
    panels[0, 0].axhline(
        float(results.stderr.mean()), color="gray", linewidth=0.8, label="error of the limit"
    )
    panels[0, 0].set_title("rms error of the tangent kernel", fontsize="small")
    least = typical(results.least_eigenvalue, "width")
    panels[0, 1].semilogx(widths, least, "o-", label="width m")
    panels[0, 1].axhline(
        float(results.least_eigenvalue_limit.mean()), color="gray", linewidth=0.8, label="limit"
    )
    panels[0, 1].set_ylim(0, None)
    panels[0, 1].set_title("least eigenvalue", fontsize="small")
    panels[1, 0].loglog(widths, typical(results.linear_gap, "width"), "o-")
    panels[1, 0].set_title("largest |R - R_lin| / R(0)", fontsize="small")
    for place in (0, -1):
        colour = f"C{-place}"
        label = f"m = {int(widths[place])}"
        panels[0, 2].semilogy(
            typical(results.risk, "width", "step").isel(width=place), colour, label=label
        )
        panels[0, 2].semilogy(
            typical(results.linear_risk, "width", "step").isel(width=place), "k:", label=None
        )
    panels[0, 2].set_title("R / R(0); dotted: linearised", fontsize="small")
    for panel, name, title in (
        (panels[1, 1], "bound", "certificate / R(0)"),
        (panels[1, 2], "looseness", "certificate / measured"),
    ):
        curves = typical(results[name], "width", "method")
        for place, (method, style) in enumerate(
            zip(METHODS, ("o-", "^-", "v-", "x--"), strict=True)
        ):
            panel.loglog(widths, curves.isel(method=place), style, markersize=4, label=method)
        panel.axhline(1.0, color="gray", linewidth=0.8)
        panel.set_title(title, fontsize="small")
    for panel in panels.flat:
        panel.set_xlabel("steps" if panel is panels[0, 2] else "width")
        if panel.get_legend_handles_labels()[1] and panel is not panels[1, 2]:
            panel.legend(frameon=False, fontsize="x-small")
