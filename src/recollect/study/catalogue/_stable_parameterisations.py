"""Papers B and its sequel: which maps from weights to rates are stable, and what each one costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect._core._status import Status
from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import slope

_RADII = np.geomspace(0.01, 2.0, 9)
_RATES = np.geomspace(1e-1, 1e-6, 6)
_RADIUS = 0.1
_STABLE = ("exponential", "softplus", "inverse square", "discrete inverse square")
_UNSTABLE = ("direct", "relu", "1 - 1/(v² + 1/2)")


def examine(map_name: str, n_weights: int) -> dict[str, Any]:
    """Returns criterion, gradient scale, and the error of moving the rates or all weights by 0.1."""
    from recollect import stability

    reparam, forward = _map(map_name)
    found = [
        stability.measure_criterion(forward or reparam, float(b), n_weights=n_weights)
        for b in _RADII
    ]
    measured = np.array([one.value for one in found])
    known = reparam is not None
    predicted = np.array(
        [stability.predict_criterion(reparam, b) if known else math.inf for b in _RADII]
    )
    names = ("scale", "rates_only", "plain", "plain_bound", "normalised", "normalised_bound")
    # What the other maps do not have is not returned: their places in the results are empty.
    rows = [_errors(reparam, float(w)) for w in _RATES] if map_name in _STABLE[:3] else []
    return {
        "measured": measured,
        "predicted": predicted,
        "counterexample": found[4].status.message,
        # Infinity is what is measured of the unstable maps.
        "status": Status(),
        "radii": _RADII,
        "rates": _RATES,
        **{
            name: np.array(column)
            for name, column in zip(names if rows else (), zip(*rows, strict=True), strict=True)
        },
    }


def _map(name: str) -> tuple[Any, Any]:
    from recollect import models

    maps = {
        "direct": models.Direct(),
        "relu": models.Relu(),
        "exponential": models.Exponential(),
        "softplus": models.Softplus(),
        "inverse square": models.InverseSquare(),
        "discrete inverse square": models.DiscreteInverseSquare(),
    }
    reparam: Any = maps.get(name)
    # Of a multiplier α the sum Σ|α|^k = 1/(1-|α|) is what an integral 1/w is to a rate.
    if name == "discrete inverse square":
        return reparam, lambda v: -np.expm1(-np.asarray(reparam.forward(np.asarray(v))))
    if reparam is None:
        return None, lambda v: 1 - np.abs(1 - 1 / (np.asarray(v) ** 2 + 0.5))
    return reparam, None


def _errors(reparam: Any, slowest: float) -> list[float]:
    """Returns what moving the weights by 0.1 does to a sum of four units of equal weight."""
    from recollect import models, stability, targets

    rates = np.geomspace(slowest, 1.0, 4)
    size = np.full(4, 0.5)
    plain = models.DiagonalRNN(
        rates, (size * rates)[:, None], size[None, :], reparam=reparam, readin="plain"
    )
    normalised = models.reparameterise(plain, readin="normalised")
    weights = np.asarray(plain.weights)
    scale = float(stability.predict_gradient_scale(reparam, weights[0]))

    def moved(model: Any, parts: tuple[str, ...]) -> float:
        import equinox as eqx

        worst = 0.0
        for sign in (-1.0, 1.0):
            other = model
            for part in parts:
                weight = np.array(getattr(model, part))
                step = np.zeros_like(weight)
                if part == "weights":
                    step += sign * _RADIUS
                else:
                    step.ravel()[0] = _RADIUS
                other = eqx.tree_at(lambda m, p=part: getattr(m, p), other, weight + step)
            gap = targets.SumKernel((model, other), (1.0, -1.0))
            worst = max(worst, float(targets.measure_norm(gap, norm="l1")))
        return worst

    every = ("weights", "B", "C")
    return [
        scale,
        moved(plain, ("weights",)),
        moved(plain, every),
        stability.bound_perturbation_error(plain, 2 * _RADIUS),
        moved(normalised, every),
        stability.bound_normalised_error(normalised, 2 * _RADIUS),
    ]


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` searches the criterion over fewer weights."""
    series = {
        name: ("rate",)
        for name in (
            "scale",
            "rates_only",
            "plain",
            "plain_bound",
            "normalised",
            "normalised_bound",
            "rates",
        )
    }
    return Study(
        name="stable-parameterisations",
        function=examine,
        grid=product(map_name=[*_STABLE, *_UNSTABLE], n_weights=[2001 if quick else 40001]),
        dimensions={
            "measured": ("radius",),
            "predicted": ("radius",),
            "radii": ("radius",),
            **series,
        },
        units={
            "measured": "1",
            "predicted": "1",
            "radii": "1",
            "n_weights": "1",
            **dict.fromkeys(series, "1"),
        },
        figure="the criterion",
        paper="B",
        claims=(
            Claim(
                "The criterion of the stable maps is its closed form (largest relative difference).",
                lambda r: float(
                    np.abs(_of(r, _STABLE).measured / _of(r, _STABLE).predicted - 1).max()
                ),
                expected=0.0,
                tolerance=0.02,
                reason="the search runs over a grid of weights; the supremum of softplus and of the "
                "inverse squares lies between two of them or at infinity",
                relation="at_most",
            ),
            Claim(
                "No search goes above it.",
                lambda r: float((_of(r, _STABLE).measured / _of(r, _STABLE).predicted).max()),
                expected=1.0,
                tolerance=1e-6,
                reason="a theorem; rounding of 1/f at large weights",
                relation="at_most",
            ),
            Claim(
                "Direct, relu and the multiplier 1 - 1/(v² + 1/2) have counterexamples at every β (share "
                "of infinite criteria).",
                lambda r: float(np.isinf(_of(r, _UNSTABLE).measured.values).mean()),
                expected=1.0,
                tolerance=0.0,
                reason="a count",
            ),
            Claim(
                "Moving the rates alone costs the same however slow the slowest unit is (exponential: "
                "largest over smallest error).",
                lambda r: _spread(r, "rates_only"),
                expected=1.0,
                tolerance=0.05,
                reason="each unit's change is the same share of its weight; only how the four overlap "
                "changes with their spacing",
                relation="at_most",
            ),
            Claim(
                "Moving all weights with the plain read-in costs β over the slowest rate: every "
                "parameterisation loses (order; exponential).",
                lambda r: _order(r, "plain"),
                expected=-1.0,
                tolerance=0.1,
                reason="the amplitude's share is β² + … over w; at w = 0.1 the rates' share, which does not "
                "grow, still counts",
            ),
            Claim(
                "With the normalised read-in it costs the same at every rate (order).",
                lambda r: _order(r, "normalised"),
                expected=0.0,
                tolerance=0.05,
                reason="the bound 2g(β)Σ|cu| + β(‖c‖+‖u‖) + β² knows no rate",
            ),
            Claim(
                "Both stay below their proved bounds (largest ratio, three maps).",
                lambda r: float(
                    np.max(
                        [
                            (r.plain / r.plain_bound).max(),
                            (r.normalised / r.normalised_bound).max(),
                        ]
                    )
                ),
                expected=1.0,
                tolerance=0.0,
                reason="theorems; all rates move by β and one entry of B and C: within twice β of any norm",
                relation="at_most",
            ),
            Claim(
                "The gradient scale of the inverse square grows like the root of the time scale, those of "
                "the others like the time scale (order of the inverse square).",
                lambda r: _order(r, "scale", "inverse square"),
                expected=-0.5,
                tolerance=0.05,
                reason="2a|v| with v = √((1/w - b)/a): the offset still counts at w = 0.1",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: criterion against β, errors against the slowest rate, gradient scales."""
    left, middle, right = figure.subplots(1, 3)
    for place, name in enumerate(_STABLE):
        of = results.sel(map_name=name).squeeze()
        left.loglog(of.radii, of.measured, "o", markersize=4 + place, fillstyle="none", label=name)
        left.loglog(of.radii, of.predicted, color="gray", linewidth=0.8)
        if name in _STABLE[:3]:
            right.loglog(1 / of.rates, of.scale, marker="o", markersize=3, label=name)
    of = results.sel(map_name="exponential").squeeze()
    for name, label in (
        ("plain", "all weights, plain read-in"),
        ("normalised", "all weights, normalised"),
        ("rates_only", "rates alone"),
    ):
        middle.loglog(1 / of.rates, of[name], marker="o", markersize=3, label=label)
    left.set(xlabel="β", ylabel="g(β); lines: closed forms")
    middle.set(xlabel="slowest time scale", ylabel="L1 error at β = 0.1, exponential")
    right.set(xlabel="slowest time scale", ylabel="gradient scale")
    for panel in (left, middle, right):
        panel.legend(frameon=False, fontsize="x-small")


def _of(results: Any, names: Any) -> Any:
    return results.sel(map_name=list(names))


def _spread(results: Any, name: str) -> float:
    values = results[name].sel(map_name="exponential").values.ravel()
    return float(values.max() / values.min())


def _order(results: Any, name: str, map_name: str = "exponential") -> float:
    return slope(_RATES, results[name].sel(map_name=map_name).values.ravel())
