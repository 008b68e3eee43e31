"""Paper C: the least width against the number of samples, guaranteed and measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import N_INPUTS, sample_case, slope

_SHARE = 0.02
_LARGEST_WIDTH = 2**11


def least_width(
    n_samples: int, seed: int, n_steps: int, n_tries: int, factor: int
) -> dict[str, Any]:
    """Returns the least width whose run leaves 2 % of the risk of zero, and the guaranteed one.

    Widths 2, 2·factor, … are tried; the share left is a power of the width between two of them.
    """
    from recollect import convergence

    _, signals, values = sample_case(2, n_samples, 8, 0.3, 0.7, seed)
    initial = float(np.sum(values**2)) / n_samples
    found, width, before = math.nan, 2, math.nan
    while math.isnan(found) and width <= _LARGEST_WIDTH:
        left = []
        for attempt in range(n_tries):
            run = convergence.train_paired(
                convergence.initialise_paired(
                    width, N_INPUTS, alpha=0.3, seed=1000 * seed + attempt
                ),
                signals,
                values,
                n_steps=n_steps,
                step_size=0.2,
                radius_w=2.0,
                radius_u=2.0,
                record_every=n_steps // 10,
            )
            left.append(run.best_risk / initial)
        share = float(np.exp(np.median(np.log(left))))
        if share <= _SHARE:
            part = 1.0 if width == 2 else math.log(before / _SHARE) / math.log(before / share)
            found = width * factor ** (part - 1)
        before, width = share, width * factor
    budget = convergence.predict_budget(
        _SHARE * initial, n_samples=n_samples, horizon=8, nu_w=0.7, nu_u=0.7, alpha=0.3
    )
    same = convergence.predict_budget(
        0.01, n_samples=n_samples, horizon=8, nu_w=0.7, nu_u=0.7, alpha=0.3
    )
    return {
        "width": found,
        "risk_of_zero": initial,
        "guaranteed": float(budget.width or math.nan),
        "guaranteed_at_fixed_risk": float(same.width or math.nan),
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has fewer samples and seeds."""
    counts = [4, 12, 36, 108] if quick else [4, 8, 16, 32, 64, 128, 256]
    last, one_before = math.log(counts[-1]), math.log(counts[-2])
    return Study(
        name="width-and-samples",
        function=least_width,
        grid=product(
            n_samples=counts,
            n_steps=[300 if quick else 1000],
            n_tries=[1 if quick else 5],
            factor=[4 if quick else 2],
        ),
        seeds=2 if quick else 10,
        units={
            "width": "1",
            "risk_of_zero": "1",
            "guaranteed": "1",
            "guaranteed_at_fixed_risk": "1",
            "n_samples": "1",
        },
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
                "The width that runs need grows more slowly than the number of values to fit "
                "(order of growth).",
                lambda r: slope(r.n_samples, _mean(r, "width")),
                expected=1.0,
                tolerance=0.0,
                reason="an upper limit: as many weights as values, m(d + 1) ≥ nT, grow with order 1, "
                "and earlier theory asks for more",
                relation="at_most",
            ),
            Claim(
                "A logarithm m = a + b ln n describes the width that runs need better than a power "
                "m = c n^p (ratio of the squared residuals of ln m).",
                lambda r: _misfit(r, power=False) / _misfit(r, power=True),
                expected=1.0,
                tolerance=0.0,
                reason="an upper limit: both laws have two parameters",
                relation="at_most",
            ),
            Claim(
                "Between the two largest numbers of samples the width that runs need grows no "
                "faster than their logarithm (order of growth).",
                lambda r: slope(r.n_samples[-2:], _mean(r, "width")[-2:]),
                expected=round(math.log(last / one_before) / (last - one_before), 4),
                tolerance=0.1,
                reason="the order of ln n between them; each width is known within 10 %",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: least width against samples, guaranteed and measured."""
    left, right = figure.subplots(1, 2)
    n, width = results.n_samples.values, _mean(results, "width")
    left.loglog(n, width, "o-", label="a run needs")
    left.loglog(n, _mean(results, "guaranteed"), "s-", label="guaranteed")
    left.set(xlabel="samples", ylabel=f"width for {_SHARE:.0%} of the risk of zero")
    right.plot(n, width, "o", label="a run needs")
    right.plot(n, _fitted(results, power=False), "-", label="a + b ln n")
    right.plot(n, _fitted(results, power=True), ":", label="c nᵖ")
    right.set_xscale("log")
    right.set(xlabel="samples", ylabel="width that a run needs", ylim=(0, None))
    for panel in (left, right):
        panel.set_xticks(n, [str(count) for count in n])
        panel.set_xticks([], minor=True)
        panel.legend(frameon=False, fontsize="small")


def _mean(results: Any, name: str) -> np.ndarray:
    kept = np.log(results[name])
    return np.exp(kept.mean([dim for dim in kept.dims if dim != "n_samples"]).values)


def _misfit(results: Any, *, power: bool) -> float:
    return float(
        np.sum((np.log(_mean(results, "width")) - np.log(_fitted(results, power=power))) ** 2)
    )


def _fitted(results: Any, *, power: bool) -> np.ndarray:
    n = np.log(results.n_samples.values)
    width = _mean(results, "width")
    columns = np.stack([np.ones_like(n), n], axis=1)
    if power:
        return np.exp(columns @ np.linalg.lstsq(columns, np.log(width))[0])
    # Relative errors, as in the logarithm of the width.
    line = columns @ np.linalg.lstsq(columns / width[:, None], np.ones_like(n))[0]
    return np.maximum(line, 1.0)
