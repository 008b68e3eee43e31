"""Paper A, appendix D: the loss on a plane through a line of critical points, with its flow."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

TARGET = "exp(-t)+exp(-3*t)"
_HALF_WIDTH = 1.5
_N_PIXELS = 81
_N_POINTS = 120


def cross(target: str, share: float) -> dict[str, Any]:
    """Returns the point at `share` of the critical line, and the flow from just beside it."""
    from recollect import targets, training

    kernel = targets.parse_kernel(target)
    loss = training.exact_loss(kernel)
    line = training.predict_two_unit_line(kernel)
    a = np.array([share, 1 - share]) * line.amplitude
    w = np.full(2, line.rate)
    point = training.classify_point(loss, a, w)
    # In the plane of the figure: apart along the line, and apart in rate.
    offset = 0.02 * line.rate
    path = training.solve_momentum_flow(
        loss, a, w + np.array([offset, -offset]), friction=None, flow_time=1e6
    )
    end = training.classify_point(loss, path.amplitudes[-1], path.rates[-1], gradient_rtol=1e-4)
    times = np.geomspace(1e-2, path.times[-1], _N_POINTS)
    along = np.interp(times, path.times, path.amplitudes[:, 0] / line.amplitude)
    apart = np.interp(times, path.times, (path.rates[:, 0] - path.rates[:, 1]) / (2 * line.rate))
    shares = 0.5 + _HALF_WIDTH * np.linspace(-1, 1, _N_PIXELS)
    gaps = np.linspace(-0.75, 0.75, _N_PIXELS)
    plane = training.measure_plane(
        loss,
        [0.0, line.amplitude],
        w,
        [[line.amplitude, -line.amplitude, 0, 0], [0, 0, line.rate, -line.rate]],
        shares,
        gaps,
    )
    return {
        "kind": point.kind,
        "end_kind": end.kind,
        "gradient_norm": point.gradient_norm,
        "lowest_curvature": float(point.curvature[0]),
        "rank": point.rank,
        "determinant": line.determinant(float(a[0])),
        "is_stable_outside": line.stable == "outside",
        "amplitude": line.amplitude,
        "rate": line.rate,
        "escape": float(path.losses[0] - path.losses[-1]) / line.minimiser.loss,
        "along": along,
        "apart": apart,
        "plane": plane / loss.norm_squared,
        "plane_share": shares,
        "plane_gap": gaps,
    }


def build_study(*, quick: bool, target: str = TARGET) -> Study:
    """Returns the study; `quick` has fewer points on the line. `target` may be your own."""
    shares = [-0.5, -0.25, 0.2, 0.5, 0.8, 1.25, 1.5]
    if not quick:
        shares = sorted({*shares, -0.75, -0.1, -0.05, 0.05, 0.1, 0.35, 0.65, 0.9, 0.95, 1.05, 1.75})
    return Study(
        name="landscape-plane",
        function=cross,
        grid=product(target=[target], share=shares),
        dimensions={
            "along": ("point",),
            "apart": ("point",),
            "plane": ("row", "column"),
            "plane_share": ("column",),
            "plane_gap": ("row",),
        },
        units={"share": "1", "gradient_norm": "1", "amplitude": "1", "rate": "1", "escape": "1"},
        figure="the landscape of two units",
        paper="A",
        claims=(
            Claim(
                "Every point of the line is critical (largest gradient over the size of its terms).",
                lambda r: float(r.gradient_norm.max()),
                expected=0.0,
                tolerance=1e-13,
                reason="rounding of sums of four terms",
            ),
            Claim(
                "Saddles and degenerate stable points change at the ends of the line's middle part, "
                "as the sign of B says (share of the points classified as predicted).",
                _predicted,
                expected=1.0,
                tolerance=0.0,
                reason="counted",
            ),
            Claim(
                "The Hessian has rank 3 = m + d off the ends.",
                lambda r: float(abs(r["rank"] - 3).max()),
                expected=0.0,
                tolerance=0.0,
                reason="counted",
            ),
            Claim(
                "Gradient flow leaves every saddle and no stable point (least drop from a saddle less "
                "the largest from a stable point, over the loss of one unit).",
                _separation,
                expected=0.5,
                tolerance=0.0,
                reason="saddles lead to the exact fit, a drop of 1; next to a stable point the flow "
                "only falls back onto the line",
                relation="at_least",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: loss on the plane with the flow drawn on it, and the curvature along the line."""
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    of = results.squeeze("target")
    first = of.isel(share=0)
    levels = np.geomspace(
        max(np.nanmin(first.plane.values), 1e-5), np.nanmax(first.plane.values), 24
    )
    left.contour(
        first.plane_share,
        first.plane_gap,
        first.plane,
        levels=levels,
        cmap="viridis",
        linewidths=0.6,
    )
    left.axhline(0.0, color="black", linewidth=0.8)
    for share in of.share.values:
        point = of.sel(share=share)
        is_saddle = str(point.kind.values) == "saddle"
        color = "C3" if is_saddle else "C0"
        left.plot(point.along, point.apart, color=color, linewidth=1.2)
        left.plot(share, 0.0, "o", color=color, markersize=4)
    left.plot([], [], "o", color="C3", label="saddle, and the flow from beside it")
    left.plot([], [], "o", color="C0", label="degenerate stable point")
    left.set(
        xlabel="a₁/ã on the line a₁ + a₂ = ã",
        ylabel="(w₁ - w₂)/2w̃",
        xlim=(0.5 - _HALF_WIDTH, 0.5 + _HALF_WIDTH),
        ylim=(-0.75, 0.75),
    )
    left.legend(
        frameon=False, fontsize="x-small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2
    )
    right.axhline(0.0, color="gray", linewidth=0.8)
    right.plot(of.share, of.lowest_curvature, marker="o", markersize=3, label="least eigenvalue")
    right.plot(of.share, of.determinant, marker="s", markersize=3, label="det M")
    right.set(xlabel="a₁/ã", ylabel="sign decides: below zero a saddle")
    right.legend(frameon=False, fontsize="small")


def _predicted(results: Any) -> float:
    of = results.squeeze("target")
    inside = (of.share.values > 0) & (of.share.values < 1)
    expected = np.where(inside == of.is_stable_outside.values.astype(bool), "saddle", "stable")
    return float(np.mean(of.kind.values.astype(str) == expected))


def _separation(results: Any) -> float:
    of = results.squeeze("target")
    is_saddle = of.kind.values.astype(str) == "saddle"
    return float(of.escape.values[is_saddle].min() - of.escape.values[~is_saddle].max())
