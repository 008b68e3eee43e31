"""Paper A, section 4.3, the open question: what a slow decay costs when the rates are free."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

_ERROR = 0.1


def fit(omega: float, width: int) -> dict[str, Any]:
    """Returns the L1 fit of `(1+t)^-(1+ω)` at one width."""
    from recollect import approximation, targets

    kernel = targets.PowerLaw(exponent=1 + omega, scale=1.0)
    found = approximation.fit_exponential_sum(kernel, width=width, norm="l1")
    return {
        "error": found.errors["l1"],
        "bound": found.bound,
        "slowest_rate": found.slowest_rate,
        "status": found.status,
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has three exponents and fewer widths."""
    omegas = [1.0, 0.5, 0.25] if quick else [1.0, 0.7, 0.5, 0.35, 0.25]
    widths = [1, 2, 3, 4, 6, 8, 11, 16] if quick else list(range(1, 21))
    return Study(
        name="curse-map",
        function=fit,
        grid=product(omega=omegas, width=widths),
        units={"error": "1", "bound": "1", "width": "1", "slowest_rate": "1", "omega": "1"},
        figure="the curse map",
        paper="A",
        claims=(
            Claim(
                f"With free rates the width for an L1 error of {_ERROR} grows about linearly in 1/ω, "
                "not exponentially (order of growth).",
                lambda r: _growth(
                    r, lambda width, _, omega: (math.log(1 / omega), math.log(width))
                ),
                expected=1.0,
                tolerance=0.5,
                reason="the sinc bound has a factor log(1/(ωε)) beside 1/ω: half an order over this range",
                relation="at_most",
            ),
            Claim(
                "The curse moves to the stability boundary: at that width the slowest rate falls at "
                "least as fast as (ωε)^(1/ω), exponentially in 1/ω (order).",
                lambda r: _growth(
                    r,
                    lambda _, rate, omega: (math.log(omega * _ERROR) / omega, math.log(rate)),
                ),
                expected=1.0,
                tolerance=0.1,
                reason="forgetting everything beyond 1/rate costs rate^ω/ω, so rate = (Cωε)^(1/ω); C < 1 "
                "makes it steeper, the tolerance is for the interpolation between widths",
                relation="at_least",
            ),
            Claim(
                "No network beats the Hankel singular value (lower bound over error).",
                lambda r: float((r.bound / r.error).max()),
                expected=1.0,
                tolerance=1e-6,
                reason="a theorem; the tolerance is that of the error's quadrature",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: error against width, width against 1/ω with what is proved, slowest rate."""
    from recollect import approximation

    left, middle, right = figure.subplots(1, 3)
    needed, floor = [], []
    for omega in results.omega.values:
        of = results.sel(omega=omega)
        left.semilogy(of.width, of.error, marker="o", markersize=3, label=f"ω = {omega:g}")
        right.loglog(of.error, of.slowest_rate, marker="o", markersize=3)
        needed.append(_first(of.width.values, of.error.values <= _ERROR))
        floor.append(_first(of.width.values, of.bound.values <= _ERROR))
    left.axhline(_ERROR, color="gray", linewidth=0.8)
    right.axvline(_ERROR, color="gray", linewidth=0.8)
    omegas = [float(omega) for omega in results.omega.values]
    lines = {
        "Theorem 4.2 suffices": [
            10 ** min(approximation.bound_power_law_width(_ERROR, w).log10_width, 300.0)
            for w in omegas
        ],
        "equispaced rates need": [
            approximation.bound_fixed_rate_width(_ERROR, w).width for w in omegas
        ],
        "free rates suffice": [approximation.bound_sinc_width(_ERROR, w) for w in omegas],
        "free rates found": needed,
        "no network below": floor,
    }
    for label, widths in lines.items():
        middle.loglog(1 / np.array(omegas), widths, marker="o", markersize=3, label=label)
    left.set(xlabel="width", ylabel="L1 error")
    middle.set_xticks(1 / np.array(omegas), [f"{1 / omega:.2g}" for omega in omegas], minor=False)
    middle.set_xticks([], minor=True)
    middle.set(xlabel="1/ω", ylabel=f"width for an error of {_ERROR}")
    right.set(xlabel="L1 error", ylabel="slowest rate")
    left.legend(frameon=False, fontsize="x-small")
    middle.legend(frameon=False, fontsize="x-small")


def _first(widths: np.ndarray, reached: np.ndarray) -> float:
    return float(widths[np.argmax(reached)]) if reached.any() else math.nan


def _growth(results: Any, point: Any) -> float | None:
    """Returns the slope, over ω, of points made from (width, rate) at which the error is reached."""
    points = []
    for omega in results.omega.values:
        of = results.sel(omega=omega)
        reached = np.flatnonzero(of.error.values <= _ERROR)
        if not len(reached) or reached[0] == 0:
            return None
        # Between grid widths the logarithms are interpolated.
        place = slice(reached[0] - 1, reached[0] + 1)
        log_error = np.log(of.error.values[place])
        share = (math.log(_ERROR) - log_error[0]) / (log_error[1] - log_error[0])
        width, rate = (
            math.exp(np.interp(share, [0, 1], np.log(values)))
            for values in (of.width.values[place], of.slowest_rate.values[place])
        )
        points.append(point(width, rate, float(omega)))
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0])
