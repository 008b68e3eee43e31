"""Maps from trained weights to decay rates; the stable ones cannot reach the boundary."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np

from recollect._core._check import invalid, is_tracer, require_positive
from recollect._core._functional import AbstractReparam
from recollect._core._references import references
from recollect._core._types import Array
from recollect.models._namespace import as_weight, namespace


class Direct(AbstractReparam):
    """The rate itself is trained, `w = v`: one step too far makes the model unstable."""

    @property
    def is_stable(self) -> bool:
        """True if every weight gives a positive rate."""
        return False

    def forward(self, weight: Array) -> Array:
        """Returns the rate `w = v`."""
        return as_weight(weight)

    def inverse(self, rate: Array) -> Array:
        """Returns the weight `v = w`."""
        return as_weight(rate)


class Relu(AbstractReparam):
    """`w = max(v, 0)`: never unstable, but a unit at zero is an integrator that cannot learn."""

    @property
    def is_stable(self) -> bool:
        """True if every weight gives a positive rate."""
        return False

    def forward(self, weight: Array) -> Array:
        """Returns the rate `w = max(v, 0)`."""
        weight = as_weight(weight)
        return namespace(weight).maximum(weight, 0.0)

    def inverse(self, rate: Array) -> Array:
        """Returns the weight `v = w`, for rates not below zero."""
        rate = as_weight(rate)
        _require_rates(rate, rate >= 0, "rates not below zero")
        return rate


@references("wang2024inverse", "wang2024stablessm")
class Exponential(AbstractReparam):
    """`w = e^v`: moving the weight by β moves the rate by at most the factor `e^β`."""

    @property
    def is_stable(self) -> bool:
        """True if every weight gives a positive rate."""
        return True

    def forward(self, weight: Array) -> Array:
        """Returns the rate `w = e^v`."""
        weight = as_weight(weight)
        xp = namespace(weight)
        return _positive(xp.exp(_clipped(weight, _log_largest(weight))))

    def inverse(self, rate: Array) -> Array:
        """Returns the weight `v = log w`, for positive rates."""
        rate = as_weight(rate)
        _require_rates(rate, rate > 0, "positive rates")
        return namespace(rate).log(rate)


@references("wang2024inverse", "wang2024stablessm")
class Softplus(AbstractReparam):
    """`w = log(1 + e^v)`: exponential near zero rate, linear for fast rates."""

    @property
    def is_stable(self) -> bool:
        """True if every weight gives a positive rate."""
        return True

    def forward(self, weight: Array) -> Array:
        """Returns the rate `w = log(1 + e^v)`."""
        weight = as_weight(weight)
        xp = namespace(weight)
        # log1p(e^v) overflows for large v and is exact for negative v, so each side has its form.
        return _positive(xp.maximum(weight, 0.0) + xp.log1p(xp.exp(-abs(weight))))

    def inverse(self, rate: Array) -> Array:
        """Returns the weight `v = log(e^w - 1)`, for positive rates."""
        rate = as_weight(rate)
        _require_rates(rate, rate > 0, "positive rates")
        xp = namespace(rate)
        return rate + xp.log(-xp.expm1(-rate))


@references("wang2024stablessm")
class InverseSquare(AbstractReparam):
    """`w = 1 / (a v² + b)`: rates in (0, 1/b]; the gradient does not blow up at slow rates.

    Args:
        scale: a > 0.
        offset: b > 0; no rate is faster than 1/b.
    """

    scale: float = eqx.field(static=True)
    offset: float = eqx.field(static=True)

    def __init__(self, scale: float = 1.0, offset: float = 0.5):
        self.scale = require_positive("scale", scale)
        self.offset = require_positive("offset", offset)

    @property
    def is_stable(self) -> bool:
        """True if every weight gives a positive rate."""
        return True

    def forward(self, weight: Array) -> Array:
        """Returns the rate `w = 1 / (a v² + b)`."""
        weight = _clipped(as_weight(weight), _square_root_largest(weight) / self.scale**0.5)
        return _positive(1.0 / (self.scale * weight * weight + self.offset))

    def inverse(self, rate: Array) -> Array:
        """Returns the weight `v = √((1/w - b)/a) ≥ 0`, for rates in (0, 1/b]."""
        rate = as_weight(rate)
        fastest = 1.0 / self.offset
        _require_rates(
            rate,
            (rate > 0) & (rate <= fastest * (1 + 1e-12)),
            f"rates in (0, {fastest:g}]",
            "lower the offset to reach faster rates",
        )
        xp = namespace(rate)
        return xp.sqrt(xp.maximum(1.0 / rate - self.offset, 0.0) / self.scale)


class DiscreteDirect(AbstractReparam):
    """The multiplier of one step is trained, `e^{-w dt} = v`: unstable for v > 1.

    Args:
        dt: step of the model it serves.
    """

    dt: float = eqx.field(static=True)

    def __init__(self, dt: float = 1.0):
        self.dt = require_positive("dt", dt)

    @property
    def is_stable(self) -> bool:
        """True if every weight gives a positive rate."""
        return False

    def forward(self, weight: Array) -> Array:
        """Returns the rate `w = -log(v) / dt`; a weight not above zero is infinitely fast."""
        weight = as_weight(weight)
        xp = namespace(weight)
        smallest = np.finfo(np.dtype(weight.dtype)).tiny
        return -xp.log(xp.maximum(weight, smallest)) / self.dt

    def inverse(self, rate: Array) -> Array:
        """Returns the weight `v = e^{-w dt}`."""
        rate = as_weight(rate)
        return namespace(rate).exp(-rate * self.dt)


@references("wang2024stablessm")
class DiscreteInverseSquare(AbstractReparam):
    """The multiplier of one step is `1 - 1/(a v² + b)`, between `1 - 1/b` and 1.

    The paper's b = 1/2 starts at the multiplier -1, which is not stable: b must exceed 1.

    Args:
        dt: step of the model it serves.
        scale: a > 0.
        offset: b > 1.
    """

    dt: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    offset: float = eqx.field(static=True)

    def __init__(self, dt: float = 1.0, scale: float = 1.0, offset: float = 1.0 + 2.0**-20):
        self.dt = require_positive("dt", dt)
        self.scale = require_positive("scale", scale)
        self.offset = require_positive("offset", offset)
        if self.offset <= 1:
            raise invalid(
                "offset", "a number above 1", offset, "at 1 or below the multiplier reaches -1 or 0"
            )

    @property
    def is_stable(self) -> bool:
        """True if every weight gives a positive rate."""
        return True

    def forward(self, weight: Array) -> Array:
        """Returns the rate `w = -log(1 - 1/(a v² + b)) / dt`."""
        weight = _clipped(as_weight(weight), _square_root_largest(weight) / self.scale**0.5)
        xp = namespace(weight)
        return _positive(-xp.log1p(-1.0 / (self.scale * weight * weight + self.offset)) / self.dt)

    def inverse(self, rate: Array) -> Array:
        """Returns the weight `v ≥ 0`, for rates in (0, -log(1 - 1/b)/dt]."""
        rate = as_weight(rate)
        fastest = -np.log1p(-1.0 / self.offset) / self.dt
        _require_rates(
            rate,
            (rate > 0) & (rate <= fastest * (1 + 1e-12)),
            f"rates in (0, {fastest:g}]",
            "lower the offset towards 1 to reach faster rates",
        )
        xp = namespace(rate)
        inverse = -1.0 / xp.expm1(-rate * self.dt)
        return xp.sqrt(xp.maximum(inverse - self.offset, 0.0) / self.scale)


def _require_rates(rate: Any, holds: Any, expected: str, remedy: str = "") -> None:
    if is_tracer(rate) or is_tracer(holds):
        return
    values = np.atleast_1d(np.asarray(rate))
    bad = values[~np.atleast_1d(np.asarray(holds))]
    if bad.size:
        raise invalid("rates", expected, f"{bad.size} outside, such as {bad.flat[0]:g}", remedy)


def _finfo(weight: Any) -> Any:
    return np.finfo(np.dtype(as_weight(weight).dtype))


def _positive(rate: Any) -> Any:
    # An underflow to zero would be an integrator: the smallest normal number keeps forgetting.
    return namespace(rate).maximum(rate, _finfo(rate).tiny)


def _clipped(weight: Any, bound: float) -> Any:
    return namespace(weight).clip(weight, -bound, bound)


def _log_largest(weight: Any) -> float:
    return float(np.log(_finfo(weight).max)) * 0.999


def _square_root_largest(weight: Any) -> float:
    return float(np.sqrt(_finfo(weight).max)) * 0.25
