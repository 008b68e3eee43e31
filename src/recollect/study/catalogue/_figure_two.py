"""Paper A, Figure 2: the loss against flow time for growing delays: a plateau, longer each time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

N_TIMES = 240


def flow(base: str, delay: float, share: float) -> dict[str, Any]:
    """Returns the loss along the gradient flow of two units that start as one, split."""
    from recollect import targets, training

    kernel = targets.parse_kernel(base)
    bump = targets.Bump(delay=delay, width=1.0, height=1.0)
    loss = training.exact_loss(kernel + bump)  # type: ignore[operator]
    rate = float(kernel.rates[0].real)  # type: ignore[attr-defined]
    size = float(kernel.amplitudes[0, 0, 0].real)  # type: ignore[attr-defined]
    path = training.solve_flow(
        loss, [share * size, (1 - share) * size], [rate, rate], flow_time=1e9
    )
    times = np.geomspace(1e-2, 1e9, N_TIMES)
    theta = path.at(np.minimum(times, path.flow_times[-1]))
    losses = loss(theta[:, :2], theta[:, 2:])
    half = 0.5 * (losses[0] + losses[-1])
    return {
        "flow_time": times,
        "loss": losses,
        "plateau": float(times[np.argmax(losses < half)]) if losses[-1] < half else math.inf,
        "height": float(losses[0]),
        "status": path.status,
    }


def build_study(
    *, quick: bool, base: str = "exp(-t)", delays: tuple[float, ...] | None = None
) -> Study:
    """Returns the study; `base` is your own exponential, `quick` has fewer delays."""
    if delays is None:
        delays = (5.0, 8.0, 11.0, 14.0) if quick else tuple(np.arange(4.0, 16.0))
    return Study(
        name="figure-2",
        function=flow,
        grid=product(base=[base], delay=list(delays), share=[0.3]),
        dimensions={"loss": ("time",), "flow_time": ("time",)},
        units={"loss": "1", "plateau": "1", "height": "1", "delay": "1", "flow_time": "1"},
        figure="Figure 2",
        paper="A",
        claims=(
            Claim(
                "The plateau lasts exponentially longer as the delay grows (rate of its logarithm, "
                "over the longer delays).",
                lambda r: _rate(r),
                expected=1.0,
                tolerance=0.0,
                reason="Theorem 5.1 is a lower bound: at least the slowest rate, which is 1 here",
                relation="at_least",
            ),
            Claim(
                "The loss on the plateau is bounded below: it tends to the power of the bump, √π "
                "(Proposition C.1).",
                lambda r: float(r.height.isel(delay=-1).squeeze()),
                expected=math.sqrt(math.pi),
                tolerance=1e-3,
                reason="the bump is cut off at lag zero by less than this at the longest delay",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: loss against flow time, one curve per delay."""
    from matplotlib import colormaps

    axes = figure.subplots()
    of = results.squeeze(("base", "share"))
    delays = of.delay.values
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(delays)))
    for delay, shade in zip(delays, shades, strict=True):
        curve = of.sel(delay=delay)
        axes.semilogx(curve.flow_time, curve.loss, color=shade, label=f"1/ω = {delay:g}")
    axes.set(xlabel="flow time", ylabel="loss")
    axes.legend(frameon=False, fontsize="small")


def _rate(results: Any) -> float | None:
    of = results.squeeze(("base", "share"))
    delays, lengths = of.delay.values, of.plateau.values
    late = delays >= np.median(delays)
    if not np.isfinite(lengths[late]).all():
        return None
    return float(np.polyfit(delays[late], np.log(lengths[late]), 1)[0])
