"""What is proved about memories: closed forms of how far back a law reaches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.special

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_nonnegative,
    require_positive,
)
from recollect._core._references import references

_PARAMETERS = {
    "none": (),
    "exponential": ("rate",),
    "power": ("scale", "exponent"),
    "stretched": ("scale", "exponent"),
    "delayed": ("delay", "rate"),
}


@references("wang2024inverse")
def predict_memory(law: str, lags: Any, **parameters: float) -> np.ndarray:
    """Returns the memory function of a law, `M(t) = |ρ(t)|`, with `M = 1` at its largest.

    For a linear functional the memory function of Definition 3.1 is `|ρ(t)|_1` at every input
    amplitude; a memory decays when `M(t) → 0`.

    Args:
        law: `exponential` (`e^{-rate t}`), `power` (`(1 + t/scale)^-exponent`), `stretched`
            (`e^{-(t/scale)^exponent}`) or `delayed` (`e^{-rate (t - delay)}` from `delay` on,
            0 before).
        lags: lags ≥ 0, any shape.
        parameters: of the law, in one unit of time.

    Returns:
        Same shape as `lags`.

    Raises:
        ValueError: an unknown law, a parameter missing or not positive, a negative lag.
    """
    law, values = _read(law, parameters)
    lags = host_float64("lags", lags, owner="predict_memory")
    if np.any(lags < 0):
        raise invalid("lags", "numbers not below zero", float(lags.min()))
    if law == "none":
        return np.zeros_like(lags)
    if law == "exponential":
        return np.exp(-values["rate"] * lags)
    if law == "power":
        return np.exp(-values["exponent"] * np.log1p(lags / values["scale"]))
    if law == "stretched":
        return np.exp(-((lags / values["scale"]) ** values["exponent"]))
    late = lags - values["delay"]
    return np.where(late >= 0, np.exp(-values["rate"] * np.maximum(late, 0.0)), 0.0)


@references("wang2024inverse")
def predict_quantile_lag(law: str, fraction: Any, **parameters: float) -> np.ndarray:
    """Returns the lag by which a fraction q of `∫|ρ|` has been seen, in closed form.

    exponential: `-ln(1-q)/rate`; power: `scale ((1-q)^{-1/(exponent-1)} - 1)`, infinite for
    exponent ≤ 1 (then ρ is not integrable); stretched: `scale P⁻¹(1/exponent, q)^{1/exponent}`
    with P the regularised lower incomplete Gamma function; delayed: `delay - ln(1-q)/rate`;
    none: 0.

    Args:
        law: see `predict_memory`.
        fraction: q in [0, 1), any shape.
        parameters: of the law, in one unit of time.

    Returns:
        Same shape as `fraction`, in that unit of time.

    Raises:
        ValueError: an unknown law, a parameter missing or not positive, q outside [0, 1).
    """
    law, values = _read(law, parameters)
    fraction = host_float64("fraction", fraction, owner="predict_quantile_lag")
    if np.any((fraction < 0) | (fraction >= 1)):
        raise invalid("fraction", "numbers in [0, 1)", fraction)
    log_left = np.log1p(-fraction)
    if law == "none":
        return np.zeros_like(fraction)
    if law == "exponential":
        return -log_left / values["rate"]
    if law == "power":
        excess = values["exponent"] - 1.0
        if excess <= 0:
            return np.where(fraction > 0, math.inf, 0.0)
        with np.errstate(over="ignore"):
            return values["scale"] * np.expm1(-log_left / excess)
    if law == "stretched":
        shape = 1.0 / values["exponent"]
        # near 1 the complement keeps the digits
        growth = np.where(
            fraction < 0.5,
            scipy.special.gammaincinv(shape, fraction),
            scipy.special.gammainccinv(shape, 1.0 - fraction),
        )
        return values["scale"] * growth**shape
    return np.where(fraction > 0, values["delay"] - log_left / values["rate"], 0.0)


@references("li2021curse", "wang2024inverse")
def predict_exponential_order(law: str, **parameters: float) -> float:
    """Returns the supremum of the β for which `e^{βt} M(t) → 0`.

    No directly parameterised network approximates a memory stably with a radius beyond it
    (the inverse approximation theorem, Theorem 3.9); zero for power and stretched laws.

    Args:
        law: see `predict_memory`.
        parameters: of the law.

    Returns:
        A rate, possibly 0 or infinite.
    """
    law, values = _read(law, parameters)
    if law == "none":
        return math.inf
    if law in ("exponential", "delayed"):
        return values["rate"]
    if law == "stretched" and values["exponent"] >= 1:
        return 1.0 / values["scale"] if values["exponent"] == 1 else math.inf
    return 0.0


def _read(law: str, parameters: dict[str, float]) -> tuple[str, dict[str, float]]:
    require_choice("law", law, _PARAMETERS)
    names = _PARAMETERS[law]
    unknown = sorted(set(parameters) - set(names))
    if unknown or set(names) - set(parameters):
        expected = " and ".join(names) if names else "none"
        got = ", ".join(sorted(parameters)) or "none"
        raise invalid("parameters", f"{expected} for the law {law!r}", got)
    checks = {"delay": require_nonnegative}
    return law, {
        name: checks.get(name, require_positive)(name, value) for name, value in parameters.items()
    }
