"""Paper C: what the guarantee and the runs cost against the length, below and above the cutoff."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import sample_case, slope

_STEPS = 300


def lengthen(alpha: float, horizon: int, seed: int, width: int) -> dict[str, Any]:
    """Returns the guaranteed width and steps for a risk of 0.01 per sample, and a run's risk."""
    from recollect import convergence

    network, signals, values = sample_case(width, 8, horizon, alpha, 0.5, seed)
    budget = convergence.predict_budget(
        0.01 * horizon, n_samples=8, horizon=horizon, nu_w=0.5, nu_u=0.5, alpha=alpha
    )
    ntk = convergence.measure_ntk(network, signals)
    run = convergence.train_paired(
        network,
        signals,
        values,
        n_steps=_STEPS,
        step_size=8 / (4 * ntk.largest_eigenvalue),
        radius_w=0.5,
        radius_u=0.5,
        record_every=_STEPS // 10,
    )
    return {
        "log_width": math.nan if budget.width is None else math.log(budget.width),
        "log_steps": math.log(max(1, budget.n_steps)),
        "risk": run.best_risk / horizon,
        "learned": run.best_risk / run.risk[0],
        "sensitivity": ntk.largest_eigenvalue,
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has fewer lengths and seeds."""
    return Study(
        name="cutoff",
        function=lengthen,
        grid=product(
            horizon=[4, 8, 16, 32] if quick else [4, 8, 16, 24, 32, 48, 64],
            alpha=[0.3, 1.5] if quick else [0.3, 0.6, 0.9, 1.1, 1.5, 2.0],
            width=[32 if quick else 256],
        ),
        seeds=1 if quick else 10,
        units={
            "log_width": "1",
            "log_steps": "1",
            "risk": "1",
            "learned": "1",
            "alpha": "1",
            "horizon": "1",
            "width": "1",
            "sensitivity": "1",
        },
        figure="against the length",
        paper="C",
        claims=(
            Claim(
                "Below the cutoff (α = 0.3) the guaranteed width for a fixed risk per sample does "
                "not grow with the length (order).",
                lambda r: slope(r.horizon[-2:], np.exp(_of(r, "log_width", 0.3)[-2:])),
                expected=0.0,
                tolerance=0.2,
                reason="p_t is within 1 % of its limit from T = 4 on; a factor ln T remains",
                relation="at_most",
                refuted="at short lengths the first samples, whose gradients are smaller, still "
                "count: the order is read off lengths where p_t has not settled",
            ),
            Claim(
                "Above it (α = 1.5) the logarithm of the guaranteed width grows by 4 ln α per sample.",
                lambda r: _rate(r, "log_width", 1.5) / math.log(1.5),
                expected=4.0,
                tolerance=0.6,
                reason="m is a sum of S_t², and S_t grows as a^{2t}; the asymptote is reached slowly, "
                "and the risk asked for grows with T",
            ),
            Claim(
                "The steps grow by 2 ln α per sample.",
                lambda r: _rate(r, "log_steps", 1.5) / math.log(1.5),
                expected=2.0,
                tolerance=0.3,
                reason="τ is proportional to G², a sum of L_t², and L_t grows as a^t",
            ),
            Claim(
                "A run at random weights feels it too: above the cutoff (α = 1.5) the risk per sample "
                "of a run of fixed width and steps grows exponentially in the length (rate over ln α).",
                lambda r: _run_rate(r, 1.5) / math.log(1.5),
                expected=0.5,
                tolerance=0.0,
                reason="a lower limit: the theorem bounds it by 4, and says only at most",
                relation="at_least",
                refuted="the theorem's exponential is that of the worst unit: a tanh unit saturates, "
                "its slope falls below 1/α, and random networks are stable far beyond the cutoff",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: guaranteed width and steps, and the risk measured, against the length."""
    panels = figure.subplots(1, 3)
    for alpha in results.alpha.values:
        label = f"α = {alpha:g}"
        panels[0].plot(
            results.horizon, _of(results, "log_width", alpha) / math.log(10), "o-", label=label
        )
        panels[1].plot(
            results.horizon, _of(results, "log_steps", alpha) / math.log(10), "o-", label=label
        )
        panels[2].semilogy(results.horizon, np.exp(_log_risk(results, alpha)), "o-", label=label)
    panels[0].set(xlabel="length", ylabel="log10 guaranteed width")
    panels[1].set(xlabel="length", ylabel="log10 guaranteed steps")
    panels[2].set(xlabel="length", ylabel="risk per sample of a run")
    panels[0].legend(frameon=False, fontsize="x-small")


def _of(results: Any, name: str, alpha: float) -> np.ndarray:
    kept = results[name].sel(alpha=alpha)
    return kept.mean([dim for dim in kept.dims if dim != "horizon"]).values


def _rate(results: Any, name: str, alpha: float) -> float:
    # The longer half: where the asymptote holds.
    place = len(results.horizon) // 2
    return float(
        np.polyfit(results.horizon.values[place:], _of(results, name, alpha)[place:], 1)[0]
    )


def _log_risk(results: Any, alpha: float) -> np.ndarray:
    kept = np.log(results.risk.sel(alpha=alpha))
    return kept.mean([dim for dim in kept.dims if dim != "horizon"]).values


def _run_rate(results: Any, alpha: float) -> float:
    return float(np.polyfit(results.horizon.values, _log_risk(results, alpha), 1)[0])
