"""Paper C, Proposition 3.3: the tangent kernel, and how tight the certificates are, against width."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import N_INPUTS, sample_case, slope, typical

_STEPS = 100


def compare(width: int, seed: int, n_samples: int, horizon: int) -> dict[str, Any]:
    """Returns the kernel's error, the linearised risk against the trained one, and a certificate."""
    from recollect import convergence

    # One target and one data set; the seed is that of the weights.
    _, signals, values = sample_case(2, n_samples, horizon, 0.3, 0.5, 0)
    network = convergence.initialise_paired(width, N_INPUTS, alpha=0.3, seed=seed)
    limit = convergence.estimate_ntk(signals, alpha=0.3, n_points=2048, n_replicates=4)
    ntk = convergence.measure_ntk(network, signals)
    bound = convergence.bound_risk_on_data(
        network, signals, values, n_steps=_STEPS, radius_w=0.5, radius_u=0.5
    )
    run = convergence.train_paired(
        network, signals, values, n_steps=_STEPS, step_size=bound.step_size, method="plain"
    )
    linear = convergence.predict_risk_curve(ntk, values, step_size=bound.step_size, steps=run.steps)
    return {
        "error": float(np.sqrt(np.mean((ntk.ntk - limit.ntk) ** 2))),
        "stderr": float(np.sqrt(np.mean(np.square(limit.ntk_stderr)))),
        "linear_gap": float(abs(run.risk - linear).max() / run.risk[0]),
        "bound": bound.bound / bound.initial_risk,
        "looseness": bound.bound / run.best_risk,
        "least_eigenvalue": ntk.least_eigenvalue,
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
        units={
            name: "1"
            for name in (
                "error",
                "stderr",
                "linear_gap",
                "bound",
                "looseness",
                "least_eigenvalue",
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
                "The linearised risk approaches the trained one at least as fast as m^{-1/2} (order).",
                lambda r: slope(r.width, typical(r.linear_gap, "width")),
                expected=-0.5,
                tolerance=0.1,
                reason="twins cancel the term of order m^{-1/2}; m^{-1} is what remains",
                relation="at_most",
            ),
            Claim(
                "The certificate of the data is not vacuous at 1024 units (bound over the risk of "
                "zero, typical).",
                lambda r: float(typical(r.bound, "width").sel(width=1024)),
                expected=1.0,
                tolerance=0.0,
                reason="an upper limit: 1 is what answering zero gives",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: kernel error, linearisation error, certificate against width."""
    panels = figure.subplots(1, 3)
    widths = results.width.values.astype(float)
    error = typical(results.error, "width")
    panels[0].loglog(widths, error, "o-", label="measured")
    panels[0].loglog(
        widths, float(error[0]) * (widths / widths[0]) ** -0.5, "k:", label="slope -1/2"
    )
    panels[0].axhline(float(results.stderr.mean()), color="gray", linewidth=0.8)
    panels[0].set(xlabel="width", ylabel="rms error of the tangent kernel")
    panels[1].loglog(widths, typical(results.linear_gap, "width"), "o-")
    panels[1].set(xlabel="width", ylabel="largest |R - R_lin| / R(0)")
    panels[2].loglog(widths, typical(results.bound, "width"), "o-", label="certificate / R(0)")
    panels[2].loglog(
        widths, typical(results.looseness, "width"), "s-", label="certificate / measured"
    )
    panels[2].axhline(1.0, color="gray", linewidth=0.8)
    panels[2].set(xlabel="width")
    for panel in (panels[0], panels[2]):
        panel.legend(frameon=False, fontsize="x-small")
