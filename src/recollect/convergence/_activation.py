"""Activations with bounds on their value and derivatives, globally and around a point."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from recollect._core._check import did_you_mean, invalid, require_positive, wrong_type
from recollect._core._references import references

_STEEPNESS = 4.0
# Where a hand-given activation is tried; beyond it a bounded function has settled.
_TRIED = np.concatenate([-np.geomspace(1e3, 1e-3, 4000), [0.0], np.geomspace(1e-3, 1e3, 4000)])
_ROUNDING = 1e-6
_ROUGH = {
    "relu": "its second derivative is not bounded at 0",
    "hardtanh": "its second derivative is not bounded at ±1",
    "gelu": "its value is not bounded; give your own with `smooth_activation`",
    "linear": "its value is not bounded",
}


@dataclasses.dataclass(frozen=True)
class SmoothActivation:
    """An activation σ with `|σ| ≤ value_bound`, `|σ'| ≤ slope_bound`, `|σ''| ≤ curvature_bound`.

    Attributes:
        name: of the activation.
        value_bound: σ_0, infinite for softplus.
        slope_bound: σ_1.
        curvature_bound: σ_2.
        third_bound: σ_3, a bound of the third derivative; infinite if none is known.
        function: σ on JAX arrays.
        peak: where `|σ''|` is largest on z > 0, if σ' is even and falls away from 0, else None.
    """

    name: str
    value_bound: float
    slope_bound: float
    curvature_bound: float
    third_bound: float = math.inf
    function: Callable[[Any], Any] | None = None
    peak: float | None = None

    def value(self, z: np.ndarray) -> np.ndarray:
        """Returns σ(z)."""
        return _HOST[self.name][0](z) if self.name in _HOST else _of(self, z, 0)

    def slope(self, z: np.ndarray) -> np.ndarray:
        """Returns σ'(z)."""
        return _HOST[self.name][1](z) if self.name in _HOST else _of(self, z, 1)

    def curvature(self, z: np.ndarray) -> np.ndarray:
        """Returns σ''(z)."""
        return _HOST[self.name][2](z) if self.name in _HOST else _of(self, z, 2)

    def largest_slope(self, z: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Returns the largest |σ'| within `reach` of z."""
        if self.name == "softplus":
            return self.slope(z + reach)
        if self.peak is None:
            return np.minimum(self.slope_bound, abs(self.slope(z)) + self.curvature_bound * reach)
        return self.slope(np.maximum(abs(z) - reach, 0.0))

    def largest_curvature(self, z: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Returns the largest |σ''| within `reach` of z."""
        if self.name == "softplus":
            return self.curvature(np.maximum(abs(z) - reach, 0.0))
        if self.peak is None:
            near = abs(self.curvature(z)) + self.third_bound * reach
            return np.minimum(
                self.curvature_bound, np.where(reach == 0, abs(self.curvature(z)), near)
            )
        away = abs(z)
        ends = np.maximum(abs(self.curvature(away + reach)), abs(self.curvature(away - reach)))
        holds_peak = (abs(away - self.peak) <= reach) | (away + self.peak <= reach)
        return np.where(holds_peak, self.curvature_bound, ends)


@references("cayci2024convergence")
def smooth_activation(
    function: Callable[[Any], Any],
    *,
    value_bound: float,
    slope_bound: float,
    curvature_bound: float,
    third_bound: float = math.inf,
    name: str = "custom",
) -> SmoothActivation:
    """Returns an activation of your own with the bounds that the theorems need.

    The bounds are tried on 8001 points in [-1000, 1000], with derivatives by JAX.

    Args:
        function: σ, written with `jax.numpy`.
        value_bound: σ_0, may be infinite.
        slope_bound: σ_1.
        curvature_bound: σ_2.
        third_bound: σ_3, if one is known: certificates can then let twins cancel.
        name: a name for it.

    Raises:
        ValueError: if a bound is exceeded somewhere, naming where.

    Source: Cayci and Eryilmaz 2024, section 2.
    """
    if not callable(function):
        raise wrong_type("function", "a function of an array", repr(function))
    if name in _NAMED or name in _ROUGH:
        raise invalid("name", "a name that is not taken", repr(name))
    found = SmoothActivation(
        name,
        float(value_bound)
        if value_bound == math.inf
        else require_positive("value_bound", value_bound),
        require_positive("slope_bound", slope_bound),
        require_positive("curvature_bound", curvature_bound),
        math.inf if third_bound == math.inf else require_positive("third_bound", third_bound),
        function=function,
    )
    for label, bound, order in (
        ("value_bound", found.value_bound, 0),
        ("slope_bound", found.slope_bound, 1),
        ("curvature_bound", found.curvature_bound, 2),
        ("third_bound", found.third_bound, 3),
    ):
        if bound == math.inf:
            continue
        values = _of(found, _TRIED, order)
        size = np.where(np.isfinite(values), abs(values), math.inf)
        worst = int(np.argmax(size))
        if size[worst] > bound * (1 + _ROUNDING):
            raise invalid(
                label,
                f"at least {size[worst]:g}",
                bound,
                f"the function reaches it at z = {_TRIED[worst]:g}",
            )
    return found


def require_smooth(activation: str | SmoothActivation) -> SmoothActivation:
    """Returns the activation if its derivatives are bounded; says why not otherwise."""
    if isinstance(activation, SmoothActivation):
        return activation
    if activation in _NAMED:
        return _NAMED[activation]
    if activation in _ROUGH:
        raise invalid(
            "activation",
            "one with bounded derivatives (" + ", ".join(_NAMED) + ")",
            repr(activation),
            _ROUGH[activation],
        )
    raise invalid(
        "activation",
        "one of " + ", ".join(_NAMED) + " or a smooth_activation(...)",
        repr(activation),
        did_you_mean(activation, _NAMED),
    )


def require_bounded(activation: SmoothActivation) -> SmoothActivation:
    """Returns the activation if its value is bounded too, as the bounds without data need."""
    if not math.isfinite(activation.value_bound):
        raise invalid(
            "activation",
            "one of bounded value",
            repr(activation.name),
            "use bound_risk_on_data, which needs bounds near the start only",
        )
    return activation


def traced_value_and_slope(activation: SmoothActivation, z: Any) -> tuple[Any, Any]:
    """Returns σ(z) and σ'(z) in JAX, the slope from the value where that is cheaper."""
    import jax
    import jax.numpy as jnp

    if activation.name == "tanh":
        value = jnp.tanh(z)
        return value, slope_of_value(activation, value)
    if activation.name == "sigmoid":
        value = 0.5 * (jnp.tanh(0.5 * z) + 1)
        return value, slope_of_value(activation, value)
    if activation.name == "softplus":
        return jax.nn.softplus(z), jax.nn.sigmoid(z)
    if activation.name == "erf":
        return jax.lax.erf(z), (2 / math.sqrt(math.pi)) * jnp.exp(-z * z)
    if activation.name == "smooth_hardtanh":
        k = _STEEPNESS
        value = (jax.nn.softplus(k * (z + 1)) - jax.nn.softplus(k * (z - 1))) / k - 1
        return value, jax.nn.sigmoid(k * (z + 1)) - jax.nn.sigmoid(k * (z - 1))
    function = activation.function
    assert function is not None
    return jax.jvp(function, (z,), (jnp.ones_like(z),))


def slope_of_value(activation: SmoothActivation, value: Any) -> Any:
    """Returns σ' from σ where it is a polynomial in it, else None."""
    if activation.name == "tanh":
        return 1 - value * value
    if activation.name == "sigmoid":
        return value * (1 - value)
    return None


def _of(activation: SmoothActivation, z: np.ndarray, order: int) -> np.ndarray:
    import jax

    from recollect._core._precision import in_float64

    function = activation.function
    assert function is not None
    for _ in range(order):
        function = jax.grad(function)
    flat = in_float64(jax.vmap(function))(np.ravel(np.asarray(z, np.float64)))
    return np.reshape(flat, np.shape(z))


def _sigmoid_curvature(z: Any) -> Any:
    s = scipy.special.expit(z)
    return s * (1 - s) * (1 - 2 * s)


def _tanh_slope(z: Any) -> Any:
    return 1 - np.tanh(z) ** 2


def _tanh_curvature(z: Any) -> Any:
    value = np.tanh(z)
    return 2 * value * (value * value - 1)


def _bell(z: Any) -> Any:
    return scipy.special.expit(z) * scipy.special.expit(-z)


def _smooth_hardtanh(z: Any) -> Any:
    k = _STEEPNESS
    return (np.logaddexp(0, k * (z + 1)) - np.logaddexp(0, k * (z - 1))) / k - 1


def _smooth_hardtanh_slope(z: Any) -> Any:
    k = _STEEPNESS
    return scipy.special.expit(k * (z + 1)) - scipy.special.expit(k * (z - 1))


def _smooth_hardtanh_curvature(z: Any) -> Any:
    k = _STEEPNESS
    return k * (_bell(k * (z + 1)) - _bell(k * (z - 1)))


_HOST: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "tanh": (np.tanh, _tanh_slope, _tanh_curvature),
    "sigmoid": (scipy.special.expit, _bell, _sigmoid_curvature),
    "erf": (
        scipy.special.erf,
        lambda z: 2 / math.sqrt(math.pi) * np.exp(-np.square(z)),
        lambda z: -4 / math.sqrt(math.pi) * z * np.exp(-np.square(z)),
    ),
    "softplus": (lambda z: np.logaddexp(0, z), scipy.special.expit, _bell),
    "smooth_hardtanh": (_smooth_hardtanh, _smooth_hardtanh_slope, _smooth_hardtanh_curvature),
}


def _named() -> dict[str, SmoothActivation]:
    root3 = math.sqrt(3)
    grid = np.linspace(0.5, 1.5, 200001)
    place = int(np.argmax(-_smooth_hardtanh_curvature(grid)))
    corner = float(-_smooth_hardtanh_curvature(grid)[place])
    return {
        "tanh": SmoothActivation(
            "tanh", 1.0, 1.0, 4 / (3 * root3), 2.0, peak=math.atanh(1 / root3)
        ),
        "sigmoid": SmoothActivation(
            "sigmoid", 1.0, 0.25, 1 / (6 * root3), 0.125, peak=math.log(2 + root3)
        ),
        "erf": SmoothActivation(
            "erf",
            1.0,
            2 / math.sqrt(math.pi),
            4 / math.sqrt(2 * math.pi * math.e),
            4 / math.sqrt(math.pi),
            peak=1 / math.sqrt(2),
        ),
        "softplus": SmoothActivation("softplus", math.inf, 1.0, 0.25, 1 / (6 * root3)),
        # |σ'''| ≤ k² (1/(6√3))·2; the maximum of |σ''| is read off a grid of spacing 5e-6.
        "smooth_hardtanh": SmoothActivation(
            "smooth_hardtanh",
            1.0,
            math.tanh(_STEEPNESS / 2),
            corner * (1 + 1e-9),
            _STEEPNESS**2 / (3 * root3),
            peak=float(grid[place]),
        ),
    }


_NAMED = _named()
