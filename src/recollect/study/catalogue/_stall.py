"""The plateau and a way around it: time to the best error of a width, from data and from chance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

# Way -> start, optimiser and learning rate, tuned at delay 16 by `benchmarks/stall.py`.
WAYS: dict[str, tuple[str, str, float]] = {
    "from the data": ("", "", 0.0),
    "gradient descent": ("direct", "gradient_descent", 0.01),
    "Adam, LRU start": ("lru", "adam", 0.01),
}
_WIDTH = 16
_SLACK = 1.1
_N_RECORDS = 40


def race(way: str, delay: float, is_quick: bool, inputs: str = "white") -> dict[str, Any]:
    """Returns time, steps and error of one way on `e^-t` and a bump at `delay`, width 16."""
    from recollect.study.catalogue import _stall_runs as runs

    paths = runs.build_race(f"bump {delay:g}", inputs)
    start, optimiser, rate = WAYS[way]
    best = runs.find_best(paths, _WIDTH)
    bar = _SLACK * best
    if not start:
        runs.run_ours(paths, _WIDTH)
        tries = [runs.run_ours(paths, _WIDTH) for _ in range(3)]
        found = min(tries, key=lambda run: run["seconds"])
        curve = [(found["seconds"], found["steps"], found["error"])]
        is_reached = found["error"] <= bar
    else:
        found = runs.run_descent(
            paths,
            _WIDTH,
            start,
            optimiser=optimiser,
            rates=(rate,),
            bar=bar,
            tune=0.0,
            budget=math.inf,
            max_steps=3_000 if is_quick else 200_000,
        )
        curve, is_reached = found["curve"], found["is_reached"]
    place = np.geomspace(1, len(curve), _N_RECORDS).round().astype(int) - 1
    seconds, steps, error = (np.array(part, float)[place] for part in zip(*curve, strict=True))
    return {
        "clock": seconds,
        "step": steps,
        "course": error,
        "wall": float(found["seconds"]),
        "steps": float(found["steps"]),
        "excess": float(found["error"]) / best,
        "best": best,
        "is_reached": float(is_reached),
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has fewer delays and 3000 instead of 200 000 steps."""
    delays = [4.0, 8.0, 16.0] if quick else [2.0, 4.0, 8.0, 16.0, 32.0]
    claims = [
        Claim(
            "Started from the data's own kernel, a network of 16 units reaches 1.1 x the best error "
            "of that width at every delay (largest error over the best).",
            lambda r: float(_of(r, "from the data").excess.max()),
            expected=_SLACK,
            tolerance=0.0,
            reason="the bar itself; the error is exact",
            relation="at_most",
        ),
        Claim(
            "Its time grows at most linearly with the delay (log-log slope).",
            lambda r: _slope(r, "from the data"),
            expected=1.0,
            tolerance=0.5,
            reason="wall times of a fraction of a second on a machine that others may use, over a "
            "factor of four to sixteen in the delay",
            relation="at_most",
        ),
        Claim(
            "At delay 16 neither gradient descent nor Adam from a random start reaches that error in "
            "the steps run (least error over the bar).",
            lambda r: float(
                np.min([_of(r, name).sel(delay=16.0).excess for name in list(WAYS)[1:]]) / _SLACK
            ),
            expected=1.0,
            tolerance=0.0,
            reason="the bar itself",
            relation="at_least",
        ),
    ]
    if not quick:
        claims.append(
            Claim(
                "At delay 16 they have then had at least 100 times its time (least ratio).",
                lambda r: float(
                    np.min([_of(r, name).sel(delay=16.0).wall for name in list(WAYS)[1:]])
                    / _of(r, "from the data").sel(delay=16.0).wall
                ),
                expected=100.0,
                tolerance=0.0,
                reason="a lower limit: the steps are taken on the paths' quadratic form, tens of times "
                "faster than by simulation",
                relation="at_least",
            )
        )
    return Study(
        name="stall",
        function=race,
        grid=product(delay=delays, way=list(WAYS), is_quick=[quick], inputs=["white"]),
        dimensions={"clock": ("record",), "step": ("record",), "course": ("record",)},
        units={
            "clock": "s",
            "wall": "s",
            "step": "1",
            "steps": "1",
            "course": "1",
            "excess": "1",
            "best": "1",
            "delay": "1",
            "is_reached": "1",
        },
        figure="past the plateau",
        paper="A",
        claims=tuple(claims),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: time and error left against the delay, errors against time at delay 16."""
    left, middle, right = figure.subplots(1, 3)
    delays = [float(delay) for delay in results.delay.values]
    for index, name in enumerate(WAYS):
        of = _of(results, name)
        colour, reached = f"C{index}", of.is_reached.values > 0
        for axes, values in ((left, of.wall.values), (middle, of.excess.values)):
            axes.loglog(delays, values, "-", color=colour, linewidth=1.0, label=name)
            axes.loglog(of.delay[reached], values[reached], "o", color=colour, markersize=5)
            # An arrow: it was given this long, and is still on its way.
            axes.loglog(of.delay[~reached], values[~reached], "^", color=colour, mfc="none")
        at = of.sel(delay=16.0)
        marker = "o" if at.clock.values[0] == at.clock.values[-1] else ""
        right.loglog(at.clock, at.course, "-", marker=marker, color=colour, linewidth=1.0)
    for axes in (left, middle):
        axes.set_xticks(delays, [f"{delay:g}" for delay in delays])
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axes.set_xlabel("delay of the bump")
    left.plot([], [], "^", color="gray", mfc="none", label="not reached by then")
    left.set(ylabel="wall time, s", title="to 1.1 × the best error")
    low, high = left.get_ylim()
    left.set_ylim(low, high * (high / low) ** 0.4)
    left.legend(frameon=False, fontsize="x-small", loc="upper left")
    middle.axhline(_SLACK, color="gray", linewidth=0.8)
    middle.set(ylabel="error / best error", title="error then")
    best = float(_of(results, "from the data").sel(delay=16.0).best)
    right.axhline(_SLACK * best, color="gray", linewidth=0.8)
    right.set(xlabel="wall time, s", ylabel="error / output", title="delay 16")
    for axes in (left, middle, right):
        axes.tick_params(axis="y", which="minor", labelleft=False)
    right.tick_params(axis="x", which="minor", labelbottom=False)


def _of(results: Any, way: str) -> Any:
    return results.sel(way=way).squeeze(("is_quick", "inputs"))


def _slope(results: Any, way: str) -> float:
    of = _of(results, way)
    return float(np.polyfit(np.log(of.delay.values), np.log(of.wall.values), 1)[0])
