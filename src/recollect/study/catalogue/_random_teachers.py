"""Paper B, Figure 3: of random systems, those that networks approximate stably forget exponentially."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect._core._status import Status
from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._perturbed_networks import mark_widths

_WIDTH = 256
_RADII = np.geomspace(1e-4, 0.3, 8)
_RISE = 0.1


def filter_teacher(n_widths: int, n_starts: int, seed: int) -> dict[str, Any]:
    """Returns the verdict on the students of one random system, and the law of its memory.

    The teacher has 256 units of random rates and positive random weights, its L1 norm is 1. Half of
    them, by a coin, have rates down to a random floor, the other half down to zero, with a random
    density there; nothing downstream is told which.
    """
    from recollect import memory, models, stability, targets

    rng = np.random.default_rng(seed)
    floor = rng.choice([0.0, rng.uniform(0.1, 0.4)])
    power = rng.uniform(1.0, 2.5)
    rates = floor + (1 - floor) * rng.random(_WIDTH) ** power
    weights = rng.exponential(size=_WIDTH)
    weights = weights / weights.sum()
    teacher = targets.exponential_sum(weights * rates, rates)
    widths = [4, 8, 16, 32, 64][:n_widths]
    students, misfits = [], []
    lags = np.geomspace(1e-2, 1e3, 400)
    wanted = np.asarray(teacher.kernel(lags))[:, 0, 0]
    for width in widths:
        # A wider student may reach further down, as far as the teacher goes.
        own = np.geomspace(max(rates.min(), rates.max() / width**1.5), rates.max(), width)
        amplitudes = _positive_fit(lags, own, wanted)
        size = np.sqrt(np.maximum(amplitudes, 0))
        students.append(models.DiagonalRNN(own, size[:, None], size[None, :]))
        gap = np.exp(-np.outer(lags, own)) @ amplitudes - wanted
        misfits.append(float(np.trapezoid(np.abs(gap) * lags, np.log(lags))))
    curve = stability.measure_perturbation_error(
        students, _RADII, norm="l1", n_starts=n_starts, n_steps=8, key=seed
    )
    found = stability.estimate_stable_radius(curve, rise=_RISE)
    profile = memory.measure_memory(teacher, dt=1.0, horizon=1000.0)
    law = memory.estimate_law(profile, n_draws=64)
    return {
        "verdict": found.verdict,
        "is_stable": float(found.verdict == "stable"),
        "is_unstable": float(found.verdict == "not stable"),
        "law": law.law,
        "forgets_exponentially": float(law.law == "exponential"),
        "radii": np.asarray(found.radii, float),
        "slope": float(found.slope),
        "misfits": np.array(misfits),
        "widths": np.array(widths, float),
        "memory": np.maximum(np.interp(_lags(), profile.lags, profile.memory[:, 0]), 1e-300),
        "lags": _lags(),
        # A student that never breaks has an infinite radius.
        "status": Status(),
    }


def _lags() -> np.ndarray:
    return np.geomspace(0.5, 900.0, 80)


def _positive_fit(lags: np.ndarray, rates: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    import scipy.optimize

    # Weighted by the lag: equal shares of the integral per octave.
    design = np.exp(-np.outer(lags, rates)) * lags[:, None]
    return scipy.optimize.nnls(design, wanted * lags, maxiter=100 * len(rates))[0]


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has six teachers."""
    return Study(
        name="random-teachers",
        function=filter_teacher,
        grid=product(n_widths=[5], n_starts=[2 if quick else 8]),
        seeds=6 if quick else 40,
        dimensions={
            "radii": ("student",),
            "misfits": ("student",),
            "widths": ("student",),
            "memory": ("lag",),
            "lags": ("lag",),
        },
        units={
            **dict.fromkeys(
                (
                    "is_stable",
                    "is_unstable",
                    "forgets_exponentially",
                    "radii",
                    "slope",
                    "misfits",
                    "widths",
                    "memory",
                    "lags",
                    "n_widths",
                    "n_starts",
                ),
                "1",
            )
        },
        figure="3",
        paper="B",
        claims=(
            Claim(
                "Every teacher that is approximated stably forgets exponentially (share).",
                lambda r: _share(r, "is_stable", exponential=True),
                expected=1.0,
                tolerance=0.0,
                reason="a count; both the verdict and the law are found without knowing the teacher",
            ),
            Claim(
                "No teacher without a stable approximation does (share).",
                lambda r: _share(r, "is_unstable", exponential=True),
                expected=0.0,
                tolerance=0.0,
                reason="a count; 256 units with rates down to zero follow their power law for longer than the "
                "thousand steps looked at",
            ),
            Claim(
                "The filter lets some teachers pass and stops some (the smaller number).",
                lambda r: float(min(r.is_stable.sum(), r.is_unstable.sum())),
                expected=1.0,
                tolerance=0.0,
                reason="else there was nothing to filter",
                relation="at_least",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: radii of the students against width, and the teachers' memories."""
    left, right = figure.subplots(1, 2)
    of = results.squeeze()
    colours = {"stable": "C0", "not stable": "C1", "undecided": "gray"}
    seen = set()
    for place in range(of.sizes["seed"]):
        one = of.isel(seed=place)
        verdict = str(one.verdict.values)
        label = None if verdict in seen else verdict
        seen.add(verdict)
        radii = np.where(np.isfinite(one.radii), one.radii, np.nan)
        left.loglog(one.widths, radii, "o-", color=colours[verdict], markersize=3, label=label)
        memory = one.memory.values / one.memory.values.max()
        right.loglog(one.lags, memory, color=colours[verdict], linewidth=1)
    mark_widths(left, of.widths.isel(seed=0).values)
    left.set(xlabel="width of the student", ylabel=f"β at which the kernel moved by {_RISE}")
    right.set(xlabel="lag (steps)", ylabel="memory of the teacher", ylim=(1e-12, 2))
    left.legend(frameon=False, fontsize="x-small")


def _share(results: Any, verdict: str, *, exponential: bool) -> float | None:
    chosen = results[verdict].values.ravel() > 0
    if not chosen.any():
        return None
    laws = results.forgets_exponentially.values.ravel()[chosen]
    return float(np.mean(laws if exponential else 1 - laws))
