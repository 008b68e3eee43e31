"""Paper A, Figure 3: log of the hitting time against the delay, the theorem below it, the law beside."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

STARTS = {
    "split": ((0.3, 0.7), (1.0, 1.0)),
    "idle": ((1.0, 0.0), (1.0, 0.7)),
}


def escape(kernel: str, start: str, delta: float, delay: float) -> dict[str, Any]:
    """Returns when the weights have moved by δ, and the time before which they provably have not."""
    from recollect import targets, training

    a, w = STARTS[start]
    bump = targets.Bump(delay=delay, width=1.0, height=1.0)
    loss = training.exact_loss(targets.parse_kernel(kernel) + bump)  # type: ignore[operator]
    found = training.measure_hitting_time(loss, a, w, delta=delta, of="parameters")
    linear = training.predict_linear_escape(loss, a, w, delta=delta)
    return {
        "hitting_time": found.value,
        "relative_error": found.relative_error,
        "bound": training.bound_hitting_time(loss, a, w, delta=delta),
        "linear": linear.value if linear.is_valid else None,
        "status": found.status,
    }


def build_study(*, quick: bool, kernel: str = "exp(-t)") -> Study:
    """Returns the study; `kernel` may be another target that the starts give exactly."""
    delays = list(np.arange(4.0, 29.0, 3.0 if quick else 1.0))
    return Study(
        name="figure-3",
        function=escape,
        grid=product(kernel=[kernel], start=list(STARTS), delta=[1e-3, 0.5], delay=delays),
        units={"hitting_time": "1", "bound": "1", "linear": "1", "delay": "1", "delta": "1"},
        figure="Figure 3",
        paper="A",
        claims=(
            Claim(
                "No start leaves before the proved time of Theorem 5.1 (largest bound over measured).",
                lambda r: float((r.bound / r.hitting_time).max()),
                expected=1.0,
                tolerance=1e-6,
                reason="a proof; the tolerance is that of the flow",
                relation="at_most",
            ),
            Claim(
                "The theorem's rate c = w_min is not the law: a split unit stalls twice as long in "
                "the exponent (slope of log τ_0 in w_min/ω, last delays, δ = 0.5).",
                lambda r: _slope(r, "split", 0.5),
                expected=2.0,
                tolerance=0.25,
                reason="powers of the delay beside e^{2/ω} add up to 4ω to the local slope",
            ),
            Claim(
                "So does an idle unit, from below (slope of log τ_0 in w_min/ω, last delays, δ = 0.5).",
                lambda r: _slope(r, "idle", 0.5) / 0.7,
                expected=2.0,
                tolerance=0.25,
                reason="its power of the delay is negative, about -3: 3ω/w_min off at 1/ω = 26",
            ),
            Claim(
                "While the gap is small, δ ≪ e^{-w_min/2ω}, the law has the rate w_min itself (slope of "
                "log τ_0 at 1/ω ≤ 10, split, δ = 0.001).",
                lambda r: _slope(r, "split", 1e-3, first=True),
                expected=1.0,
                tolerance=0.2,
                reason="the gradient is of the order μ e^{-μ}: 1 - 1/μ locally",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: hitting time, bound and linear forecast against the delay, one panel per start."""
    panels = figure.subplots(1, len(STARTS), sharey=True)
    of = results.squeeze("kernel")
    for axes, start in zip(panels, STARTS, strict=True):
        for index, delta in enumerate(of.delta.values):
            curve = of.sel(start=start, delta=delta)
            colour = f"C{index}"
            axes.semilogy(
                curve.delay,
                curve.hitting_time,
                "o-",
                color=colour,
                markersize=3,
                label=f"measured, δ = {delta:g}",
            )
            axes.semilogy(curve.delay, curve.bound, ":", color=colour, label="proved to be longer")
            axes.semilogy(curve.delay, curve.linear, "x", color=colour, label="linear, where valid")
        axes.set(xlabel="1/ω", title=f"{start} unit")
    panels[0].set_ylabel("hitting time τ₀")
    panels[0].legend(frameon=False, fontsize="x-small")


def _slope(results: Any, start: str, delta: float, *, first: bool = False) -> float:
    of = results.squeeze("kernel").sel(start=start, delta=delta)
    sure = (of.relative_error.values < 1e-3) & np.isfinite(of.hitting_time.values)
    delays, times = of.delay.values[sure], np.log(of.hitting_time.values[sure])
    chosen = delays <= 10 if first else delays >= delays[-1] - 6
    return float(np.polyfit(delays[chosen], times[chosen], 1)[0])
