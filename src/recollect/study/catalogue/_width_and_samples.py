"""Paper C: the least width against the number of samples, guaranteed and measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import sample_case, slope

_SHARE = 0.02
_WIDTHS = tuple(2**k for k in range(2, 11))


def least_width(n_samples: int, seed: int, n_steps: int, n_tries: int) -> dict[str, Any]:
    """Returns the least width whose run leaves 2 % of the risk of zero, and the guaranteed one."""
    from recollect import convergence

    found = math.nan
    initial = math.nan
    for width in _WIDTHS:
        left = []
        for attempt in range(n_tries):
            network, signals, values = sample_case(width, n_samples, 8, 0.3, 0.7, seed)
            network = convergence.initialise_paired(
                width, network.n_inputs, alpha=0.3, seed=1000 * seed + attempt
            )
            run = convergence.train_paired(
                network,
                signals,
                values,
                n_steps=n_steps,
                step_size=0.2,
                radius_w=2.0,
                radius_u=2.0,
                record_every=n_steps // 10,
            )
            initial = float(run.risk[0])
            left.append(run.best_risk / initial)
        if np.median(left) <= _SHARE:
            found = float(width)
            break
    budget = convergence.predict_budget(
        _SHARE * initial, n_samples=n_samples, horizon=8, nu_w=0.7, nu_u=0.7, alpha=0.3
    )
    same = convergence.predict_budget(
        0.01, n_samples=n_samples, horizon=8, nu_w=0.7, nu_u=0.7, alpha=0.3
    )
    return {
        "width": found,
        "guaranteed": float(budget.width or math.nan),
        "guaranteed_at_fixed_risk": float(same.width or math.nan),
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has fewer samples and seeds."""
    return Study(
        name="width-and-samples",
        function=least_width,
        grid=product(
            n_samples=[4, 12, 36] if quick else [4, 8, 16, 32, 64, 128, 256],
            n_steps=[300 if quick else 1000],
            n_tries=[1 if quick else 5],
        ),
        seeds=1 if quick else 10,
        units={"width": "1", "guaranteed": "1", "guaranteed_at_fixed_risk": "1", "n_samples": "1"},
        figure="width against samples",
        paper="C",
        claims=(
            Claim(
                "The guaranteed width is at most logarithmic in the samples (order of growth of a "
                "power law).",
                lambda r: slope(r.n_samples, _mean(r, "guaranteed_at_fixed_risk")),
                expected=0.1,
                tolerance=0.05,
                reason="√m is affine in √ln(2nT/δ): over this range that reads as a power of 0.1 or less",
                relation="at_most",
            ),
            Claim(
                "The width that runs need does not grow as a power of the samples as earlier theory "
                "asked for (order of growth).",
                lambda r: slope(r.n_samples, _mean(r, "width")),
                expected=0.5,
                tolerance=0.0,
                reason="an upper limit: earlier bounds are powers of 2 and more",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: least width against samples, guaranteed and measured."""
    panel = figure.subplots(1, 1)
    panel.loglog(results.n_samples, _mean(results, "width"), "o-", label="a run needs")
    panel.loglog(results.n_samples, _mean(results, "guaranteed"), "s-", label="guaranteed")
    panel.set(xlabel="samples", ylabel=f"width for {_SHARE:.0%} of the risk of zero")
    panel.legend(frameon=False)


def _mean(results: Any, name: str) -> np.ndarray:
    kept = np.log(results[name])
    return np.exp(kept.mean([dim for dim in kept.dims if dim != "n_samples"]).values)
