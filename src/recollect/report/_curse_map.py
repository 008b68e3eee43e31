"""The figure of the curse of memory in approximation: width on one side, slowest rate on the other."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from recollect.approximation import CurseMap
from recollect.report import _svg
from recollect.report._svg import FIRST, INK, MUTED, SECOND


def draw_curse_map(curse: CurseMap, *, error: float | None = None) -> Figure:
    """Draws, for one error, the widths and the slowest rates of a `CurseMap` against 1/ω.

    Left: the width that each count asks for. Right: how far the slowest rate is from the
    stability boundary. Proved numbers are lines, measured ones are dots.

    Args:
        curse: what `approximation.measure_curse_map` returned.
        error: the error to draw, the nearest of the map's; the smallest by default.
    """
    j = len(curse.errors) - 1
    if error is not None:
        j = int(np.argmin(np.abs(np.log(curse.errors / error))))
    x = 1.0 / curse.exponents
    found = curse.width[:, j] > 0
    with _svg.style():
        figure = _svg.figure(height=3.4)
        left, right = figure.subplots(1, 2)
        left.plot(x, 10 ** curse.log10_theorem_width[:, j], "--", color=MUTED, lw=1.2)
        left.plot(x, 10 ** curse.log10_fixed_width[:, j], color=SECOND)
        left.plot(x, np.maximum(curse.width_bound[:, j], 1), "--", color=FIRST, lw=1.0)
        left.plot(x, np.maximum(curse.width_bound_below[:, j], 1), ":", color=FIRST)
        left.plot(x[found], curse.width[found, j], "o", color=FIRST, ms=5)
        left.set_title(f"width for an L1 error of {curse.errors[j]:g}")
        for values, label, colour in (
            (10 ** curse.log10_theorem_width[:, j], "Theorem 4.2", MUTED),
            (10 ** curse.log10_fixed_width[:, j], "equispaced rates need", SECOND),
            (curse.width_bound[:, j], "free rates", FIRST),
        ):
            left.annotate(
                label, (x[-1], values[-1]), xytext=(-4, 6), textcoords="offset points",
                ha="right", color=colour, fontsize=9,
            )  # fmt: skip
        right.plot(x, curse.fixed_slowest_rate[:, j], color=SECOND)
        right.plot(x[found], curse.slowest_rate[found, j], "o", color=FIRST, ms=5)
        right.set_title("slowest rate, unit 1/time")
        right.annotate(
            "distance from the stability boundary", (0.03, 0.05), xycoords="axes fraction",
            color=INK, fontsize=9,
        )  # fmt: skip
        for axis in (left, right):
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xticks(x, [f"{v:g}" for v in x])
            axis.minorticks_off()
            axis.set_xlabel("1/ω for the memory (1+t)$^{-(1+ω)}$")
    return figure
