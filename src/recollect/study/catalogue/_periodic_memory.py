"""Paper B, figure 11: a two-unit tanh network whose memory fades, repeats or lasts, by the step's size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

_W = np.array([[1.0, 1.0], [-4.0, -3.0]])
_DT = 0.01
_SMALL, _LARGE = 0.5, 5.0


def respond(case: str, horizon: float) -> dict[str, Any]:
    """Returns `|dy/dt| / |x|` after a step to x, for a small, a large or the separating x."""
    from recollect import memory

    size = {"small": _SMALL, "large": _LARGE}.get(case) or _separating(horizon)
    profile = memory.measure_memory(
        _network(), dt=_DT, horizon=horizon, magnitudes=[size], n_restarts=0
    )
    held = memory.measure_memory(
        _network(), dt=_DT, horizon=horizon, magnitudes=[size], n_restarts=0, probe="impulse"
    )
    every = max(1, len(profile.lags) // 2000)
    periods = _periods(size, horizon) if case == "periodic" else np.zeros(0)
    median = float(np.median(periods)) if len(periods) else 0.0
    third = len(profile.lags) // 3
    return {
        "size": size,
        "lag": profile.lags[::every],
        "memory": profile.memory[::every, 0],
        "impulse": held.memory[::every, 0],
        "kept": float(profile.memory[-third:, 0].max() / profile.memory[:third, 0].max()),
        "period": median,
        "period_spread": float(np.ptp(periods)) / median if len(periods) else 0.0,
        "n_periods": len(periods),
    }


def _network() -> Any:
    """Returns `dh/dt = tanh(W h + U x)` with U = -W e: a step to x moves the rest to x e."""
    from recollect import models

    return models.ResidualRNN(_W, -_W[:, :1], np.array([[1.0, 0.0]]))


def _states(size: float, horizon: float) -> np.ndarray:
    n_time = round(horizon / _DT)
    model = _network()
    return np.asarray(model.states(np.full((n_time, 1), size), dt=_DT)) - size * np.array(
        [1.0, 0.0]
    )


def _separating(horizon: float) -> float:
    """Returns the size between fading and lasting responses, bisected to rounding."""
    low, high = _SMALL, _LARGE
    for _ in range(60):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if np.abs(_states(middle, 4 * horizon)[-1]).max() > 1.0:
            high = middle
        else:
            low = middle
    return low


def _periods(size: float, horizon: float) -> np.ndarray:
    """Returns the times between upward passages of the first unit through its rest."""
    first = _states(size, horizon)[:, 0]
    up = np.flatnonzero((first[:-1] < 0) & (first[1:] >= 0))
    crossed = (up + first[up] / (first[up] - first[up + 1])) * _DT
    return np.diff(crossed)


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` watches for 100 units of time instead of 240."""
    return Study(
        name="periodic-memory",
        function=respond,
        grid=product(case=["small", "periodic", "large"], horizon=[100.0 if quick else 240.0]),
        dimensions={"lag": ("place",), "memory": ("place",), "impulse": ("place",)},
        units={
            "size": "1",
            "lag": "1",
            "memory": "1",
            "impulse": "1",
            "kept": "1",
            "period": "1",
            "period_spread": "1",
            "n_periods": "1",
            "horizon": "1",
        },
        figure="11",
        paper="B",
        claims=(
            Claim(
                "Small steps are forgotten (log10 of the last third's memory over the first's).",
                lambda r: math.log10(max(_of(r, "small", "kept"), 1e-300)),
                expected=-10.0,
                tolerance=0.0,
                reason="the derivative at rest has the double eigenvalue -1: exponential decay, which "
                "passes this mark long before the window ends",
                relation="at_most",
            ),
            Claim(
                "Large steps are not: dh/dt settles at a corner of the square, and memory at a constant "
                "(last third over first).",
                lambda r: _of(r, "large", "kept"),
                expected=1.0,
                tolerance=0.1,
                reason="tanh saturates to 1 within rounding; the first third holds the passage",
            ),
            Claim(
                "Between them lies a periodic orbit: memory neither fades nor grows (last third over "
                "first).",
                lambda r: _of(r, "periodic", "kept"),
                expected=1.0,
                tolerance=0.1,
                reason="the orbit is unstable: bisection to rounding stays on it for as long as its "
                "multiplier takes from 1e-16 to a tenth",
            ),
            Claim(
                "It repeats: the spread of its periods over their median.",
                lambda r: _of(r, "periodic", "period_spread"),
                expected=0.0,
                tolerance=1e-3,
                reason="periods are read off crossings interpolated within a step of 0.01; what is left "
                "is the way off the orbit at the end of the window",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: memory against lag for the three sizes, on logarithmic and linear axes."""
    left, right = figure.subplots(1, 2)
    for place, case in enumerate(results.case.values):
        of = results.sel(case=case).squeeze()
        label = f"{case}: |x| = {float(of['size']):.4g}"
        seen = of.memory > 0
        left.semilogy(of.lag[seen], of.memory[seen], linewidth=1, label=label, color=f"C{place}")
        if case != "small":
            right.plot(of.lag, of.memory, linewidth=1, label=label, color=f"C{place}")
    left.set(xlabel="lag", ylabel="memory |dy/dt| / |x|", ylim=(1e-18, 10))
    right.set(xlabel="lag", ylabel="memory |dy/dt| / |x|")
    left.legend(frameon=False, fontsize="x-small")


def _of(results: Any, case: str, name: str) -> float:
    return float(results.sel(case=case)[name].values.squeeze())
