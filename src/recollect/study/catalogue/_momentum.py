"""Paper A, appendix E: what momentum gains on a plateau, on quadratics and on the loss itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import points
from recollect.study._study import Study

TARGET = "exp(-t)+exp(-(t-{delay})**2/2)"
_METHODS = ("gradient flow", "tuned friction", "friction 1")


def escape(problem: str, method: str, size: float, target: str = TARGET) -> dict[str, Any]:
    """Returns the escape time from a quadratic (size ε) or from a plateau (size 1/ω)."""
    from recollect import training

    if problem == "quadratic":
        friction = {"gradient flow": None, "tuned friction": math.sqrt(size), "friction 1": 1.0}
        found = training.predict_quadratic_escape(
            [1.0, -size],
            [0.0, 1e-3],
            gap=0.5,
            friction=friction[method],
            quantity="distance",
        )
        return {"time": found.time, "status": found.status}
    from recollect import targets

    loss = training.exact_loss(targets.parse_kernel(target.replace("{delay}", f"{size:g}")))
    start = ([0.3, 0.7], [1.0, 1.0])
    path = training.solve_momentum_flow(
        loss, *start, friction=None, flow_time=1e12, gap=0.5, rtol=1e-6
    )
    if method != "gradient flow":
        # Escape at rate √ε needs friction of that size: 1/ε is about the gradient flow's time.
        friction_of = {"tuned friction": 1 / math.sqrt(path.escape_time), "friction 1": 1.0}
        path = training.solve_momentum_flow(
            loss, *start, friction=friction_of[method], flow_time=1e12, gap=0.5, rtol=1e-6
        )
    return {"time": path.escape_time, "status": path.status}


def build_study(*, quick: bool, target: str = TARGET) -> Study:
    """Returns the study; `quick` has shorter delays. In `target`, {delay} is 1/ω."""
    curvatures = [float(f"1e-{k}") for k in range(2, 9)]
    delays = [6.0, 8.0, 10.0, 12.0] if quick else [6.0, 8.0, 10.0, 11.0, 12.0, 13.0, 14.0]
    grid = [
        {"problem": problem, "method": method, "size": size, "target": target}
        for problem, sizes in (("quadratic", curvatures), ("plateau", delays))
        for method in _METHODS
        for size in sizes
    ]
    return Study(
        name="momentum",
        function=escape,
        grid=points(grid),
        units={"time": "1", "size": "1"},
        figure="appendix E",
        paper="A",
        claims=(
            Claim(
                "On a quadratic gradient flow escapes a curvature -ε in O(1/ε) (order).",
                lambda r: -_slope(r, "quadratic", "gradient flow"),
                expected=1.0,
                tolerance=1e-6,
                reason="exact times; the logarithm of gap over start is the same at every ε",
            ),
            Claim(
                "Heavy ball with friction √ε escapes in O(1/√ε) (order).",
                lambda r: -_slope(r, "quadratic", "tuned friction"),
                expected=0.5,
                tolerance=1e-6,
                reason="exact times",
            ),
            Claim(
                "At a fixed friction the gain vanishes: O(1/ε) again (order).",
                lambda r: -_slope(r, "quadratic", "friction 1"),
                expected=1.0,
                tolerance=0.01,
                reason="the rate is ε/γ up to a relative ε/γ², 1e-2 at the largest ε",
            ),
            Claim(
                "On the plateau of a delayed memory tuned friction halves the exponent of the "
                "gradient flow (slope of its log time over the flow's).",
                lambda r: (
                    _slope(r, "plateau", "tuned friction") / _slope(r, "plateau", _METHODS[0])
                ),
                expected=0.5,
                tolerance=0.1,
                reason="times of order 10 at the shortest delay carry a transient of order 1",
            ),
            Claim(
                "There too a fixed friction gains nothing (time over the flow's, longest delay).",
                lambda r: float(
                    _times(r, "plateau", "friction 1")[1][-1]
                    / _times(r, "plateau", _METHODS[0])[1][-1]
                ),
                expected=1.0,
                tolerance=0.02,
                reason="the inertia delays the start by 1/γ = 1 and little more",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: escape time against ε on quadratics, against 1/ω on the plateau."""
    left, right = figure.subplots(1, 2)
    for method, style in zip(_METHODS, ("-", "-", ":"), strict=True):
        sizes, times = _times(results, "quadratic", method)
        left.loglog(1 / sizes, times, style, marker="o", markersize=3, label=method)
        sizes, times = _times(results, "plateau", method)
        right.semilogy(sizes, times, style, marker="o", markersize=3, label=method)
    left.set(xlabel="1/ε, inverse of the negative curvature", ylabel="escape time")
    right.set(xlabel="1/ω", ylabel="escape time from the plateau")
    left.legend(frameon=False, fontsize="small")


def _times(results: Any, problem: str, method: str) -> tuple[np.ndarray, np.ndarray]:
    chosen = (results.problem.values == problem) & (results.method.values == method)
    sizes, times = results["size"].values[chosen], results.time.values[chosen]
    order = np.argsort(sizes)
    return sizes[order], times[order]


def _slope(results: Any, problem: str, method: str) -> float:
    sizes, times = _times(results, problem, method)
    x = np.log(sizes) if problem == "quadratic" else sizes
    return float(np.polyfit(x, np.log(times), 1)[0])
