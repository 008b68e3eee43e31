"""Memory kernels by name, each with what is known about it in closed form."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import numpy as np
import scipy.special

from recollect._core._check import (
    host_float64,
    invalid,
    require_count,
    require_nonnegative,
    require_positive,
    require_signal,
    wrong_type,
)
from recollect._core._functional import AbstractLinearFunctional
from recollect._core._references import references
from recollect._core._types import Array, KernelValues, Lags, Output, Signal
from recollect.targets._kernel import (
    AbstractKernel,
    as_scalar_kernel,
    laplace_by_quadrature,
    on_lags,
    require_number,
    require_points,
    step_by_quadrature,
)


def _not_finite_in(norm: str, why: str) -> ValueError:
    return invalid(
        "kernel",
        f"a kernel that is finite in the {norm} norm",
        why,
        "choose another norm or cut it at a horizon",
    )


@references("li2021curse")
class PowerLaw(AbstractKernel):
    """The heavy tail `ρ(t) = a (1 + t/scale)^-exponent`: completely monotone for a > 0.

    Args:
        exponent: power of the decay, above zero; integrable above 1.
        scale: lag at which the power law sets in, in the unit of time.
        amplitude: a.

    Raises:
        ValueError: if the exponent or scale is not a positive number.
    """

    exponent: float
    scale: float
    amplitude: float

    def __init__(self, *, exponent: float, scale: float = 1.0, amplitude: float = 1.0):
        self.exponent = require_positive("exponent", exponent)
        self.scale = require_positive("scale", scale)
        self.amplitude = require_number("amplitude", amplitude)

    n_inputs = 1
    n_outputs = 1

    @property
    def support(self) -> float:
        return math.inf

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return ()

    @property
    def timescale(self) -> float:
        return self.scale

    @property
    def is_completely_monotone(self) -> bool | None:
        return self.amplitude >= 0

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns `a (1 + t/scale)^-exponent` at `lags`, shape (lag, 1, 1)."""
        return on_lags(
            lags,
            "PowerLaw",
            lambda t: self.amplitude * np.exp(-self.exponent * np.log1p(t / self.scale)),
        )

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns `a scale [(1 + t/scale)^(1-p) - 1]/(1-p)`, shape (lag, 1, 1)."""
        return on_lags(lags, "PowerLaw", self._integral)

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the transform, `a scale e^x E_p(x)` with `x = s scale`, or a derivative in s.

        Computed as `∫ u^n (1+u)^-p e^{-xu} du` by the trapezoidal rule in log u, on a ray turned
        towards the real axis for complex s; relative accuracy about 1e-14.

        Raises:
            ValueError: where the integral does not exist: Re s < 0, or s = 0 for a heavy tail.
        """
        points = require_points(s, derivative, "PowerLaw")
        if (points.real < 0).any():
            raise invalid("s", "Re s ≥ 0 for a power law", f"{points[points.real < 0][0]}")
        k = derivative
        values = np.empty(points.shape, points.dtype)
        at_zero = points == 0
        if at_zero.any():
            if self.exponent <= k + 1:
                raise invalid(
                    "s", f"s ≠ 0: t^{k} (1 + t)^-{self.exponent:g} is not integrable", "0"
                )
            values[at_zero] = scipy.special.beta(k + 1, self.exponent - k - 1)
        if (~at_zero).any():
            values[~at_zero] = _power_moment(points[~at_zero] * self.scale, self.exponent, k)
        return as_scalar_kernel((-1) ** k * self.amplitude * self.scale ** (k + 1) * values)

    def exact_norm(self, norm: str) -> float | None:
        """Returns `|a| scale/(p-1)`, `|a| (scale/(2p-1))^½` or `|a|`."""
        size, p = abs(self.amplitude), self.exponent
        if norm == "linf":
            return size
        least = 1.0 if norm == "l1" else 0.5
        if p <= least:
            raise _not_finite_in(norm, f"one that falls like t^-{p:g}")
        if norm == "l1":
            return size * self.scale / (p - 1)
        return size * math.sqrt(self.scale / (2 * p - 1))

    def _integral(self, t: np.ndarray) -> np.ndarray:
        log = np.log1p(t / self.scale)
        power = 1 - self.exponent
        # (e^{qx}-1)/q, with its limit x at q = 0.
        grown = np.expm1(power * log) / power if abs(power) > 1e-300 else log
        return self.amplitude * self.scale * grown


def _power_moment(x: np.ndarray, p: float, k: int) -> np.ndarray:
    # With u = e^{v - i turn} the integrand is analytic in a strip of half-width above 1.09 and
    # decays at both ends: the trapezoidal rule in v converges like e^{-2π 1.09/h}.
    h = 0.16
    values = np.empty(len(x), np.result_type(x, np.float64))
    for i, point in enumerate(x):
        size = abs(point)
        angle = np.angle(point) if np.iscomplexobj(x) else 0.0
        turn = 0.7 * angle
        low = -math.log1p(p + size) - 42 / (k + 1)
        high = math.log(60 / size) + 0.5
        if p > k + 1:
            high = min(high, 42 / (p - k - 1) + 1)
        v = np.arange(low, max(high, low + 1), h)
        u = np.exp(v) * (np.exp(-1j * turn) if turn else 1.0)
        exponent = (k + 1) * (v - 1j * turn if turn else v) - p * np.log1p(u) - point * u
        values[i] = h * np.exp(exponent).sum()
    return values


@references("li2021curse")
class Airy(AbstractKernel):
    """The memory target `ρ(t) = a Ai(scale (t - shift))`: oscillates before `shift`, ends after.

    Args:
        scale: 1/time; larger is narrower.
        shift: lag at which the oscillation turns into decay, any sign.
        amplitude: a.
    """

    scale: float
    shift: float
    amplitude: float

    def __init__(self, *, scale: float = 1.0, shift: float = 0.0, amplitude: float = 1.0):
        self.scale = require_positive("scale", scale)
        self.shift = require_number("shift", shift)
        self.amplitude = require_number("amplitude", amplitude)

    n_inputs = 1
    n_outputs = 1

    @property
    def support(self) -> float:
        return math.inf

    @property
    def breakpoints(self) -> tuple[float, ...]:
        last = self.shift + 2 / self.scale
        return tuple(b for b in (self.shift, last) if b > 0)

    @property
    def timescale(self) -> float:
        return 1 / self.scale

    @property
    def is_completely_monotone(self) -> bool | None:
        return self.amplitude == 0

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns `a Ai(scale (t - shift))` at `lags`, shape (lag, 1, 1)."""
        return on_lags(lags, "Airy", self._values)

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns `∫_0^t ρ` by adaptive quadrature, to 1e-13 of `∫|ρ|`, shape (lag, 1, 1)."""
        return step_by_quadrature(self, self._values, lags, name="Airy")

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the Laplace transform or a derivative, by adaptive quadrature to 1e-12."""
        return laplace_by_quadrature(self, self._values, s, derivative, name="Airy")

    def exact_norm(self, norm: str) -> float | None:
        """Returns `|a| ((Ai'(z)² - z Ai(z)²)/scale)^½` with `z = -scale shift`, or the maximum."""
        z = -self.scale * self.shift
        ai, derivative, _, _ = scipy.special.airy(z)
        size = abs(self.amplitude)
        # Both terms agree to leading order far to the right: leave that side to quadrature.
        if norm == "l2" and z < 2:
            return size * math.sqrt((derivative**2 - z * ai**2) / self.scale)
        if norm == "linf":
            first_top = -1.018792971647471
            return size * float(scipy.special.airy(first_top)[0] if z < first_top else ai)
        return None

    def _values(self, t: np.ndarray) -> np.ndarray:
        # SciPy gives NaN far out on the left; far on the right the value is zero.
        return self.amplitude * scipy.special.airy(self.scale * (t - self.shift))[0]


@references("li2021curse")
class Bump(AbstractKernel):
    """The delayed memory `ρ(t) = height e^{-(t-delay)²/(2 width²)}`.

    Args:
        delay: lag of the maximum (the papers' 1/ω), any sign.
        width: standard deviation σ, in the unit of time.
        height: value at the maximum.
    """

    delay: float
    width: float
    height: float

    def __init__(self, *, delay: float, width: float = 1.0, height: float = 1.0):
        self.delay = require_number("delay", delay)
        self.width = require_positive("width", width)
        self.height = require_number("height", height)

    n_inputs = 1
    n_outputs = 1

    @property
    def support(self) -> float:
        return math.inf

    @property
    def breakpoints(self) -> tuple[float, ...]:
        around = (self.delay + k * self.width for k in (-6.0, -2.0, 0.0, 2.0, 6.0))
        return tuple(b for b in around if b > 0)

    @property
    def timescale(self) -> float:
        return self.width

    @property
    def is_completely_monotone(self) -> bool | None:
        return self.height == 0

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns `height e^{-(t-delay)²/(2 width²)}` at `lags`, shape (lag, 1, 1)."""
        return on_lags(
            lags,
            "Bump",
            lambda t: self.height * np.exp(-0.5 * np.square((t - self.delay) / self.width)),
        )

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns `height σ √(π/2) [erf((t-μ)/σ√2) + erf(μ/σ√2)]`, shape (lag, 1, 1)."""
        return on_lags(lags, "Bump", self._integral)

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the Laplace transform or a derivative in s, in closed form.

        With `z = (sσ²-μ)/(σ√2)`: error functions and their upward recurrence for Re z ≤ ½;
        beyond that the recurrence cancels, and the repeated integrals of erfc are computed
        directly by the trapezoidal rule in the logarithm of the lag (relative accuracy 1e-13).
        """
        points = require_points(s, derivative, "Bump")
        sigma, mu = self.width, self.delay
        z = (points * sigma**2 - mu) / (sigma * math.sqrt(2))
        values = np.empty(points.shape, points.dtype)
        near = z.real <= 0.5
        edge = math.exp(-0.5 * (mu / sigma) ** 2)
        if near.any():
            p = points[near]
            slope = p * sigma**2 - mu
            # e^{-μ²/2σ²} e^{z²} in one exponential: neither factor overflows alone.
            power = np.exp(-p * mu + 0.5 * (p * sigma) ** 2)
            if np.iscomplexobj(z):
                # erfc overflows along the imaginary axis, where the exponential vanishes.
                left = z[near].real < 0
                side = edge * scipy.special.wofz(1j * np.where(left, -z[near], z[near]))
                grown = np.where(left, 2 * power - side, side)
            else:
                grown = power * scipy.special.erfc(z[near])
            moments = [sigma * math.sqrt(math.pi / 2) * grown]
            moments.append(sigma**2 * edge - slope * moments[0])
            moments.append(sigma**2 * moments[0] - slope * moments[1])
            values[near] = moments[derivative]
        if (~near).any():
            scale = edge * (sigma * math.sqrt(2)) ** (derivative + 1)
            values[~near] = scale * _gauss_moment(z[~near], derivative)
        return as_scalar_kernel((-1) ** derivative * self.height * values)

    def exact_norm(self, norm: str) -> float | None:
        """Returns the L1, L2 or maximum norm on t ≥ 0 in closed form."""
        size, ratio = abs(self.height), -self.delay / self.width
        if norm == "l1":
            return (
                size
                * self.width
                * math.sqrt(math.pi / 2)
                * float(scipy.special.erfc(ratio / math.sqrt(2)))
            )
        if norm == "l2":
            square = 0.5 * self.width * math.sqrt(math.pi) * float(scipy.special.erfc(ratio))
            return size * math.sqrt(square)
        return size * (math.exp(-0.5 * ratio**2) if ratio > 0 else 1.0)

    def _integral(self, t: np.ndarray) -> np.ndarray:
        root = self.width * math.sqrt(2)
        upper, lower = (t - self.delay) / root, -self.delay / root
        # On the far side of the maximum both error functions are near one: use their complements.
        if lower > 0:
            difference = scipy.special.erfc(lower) - scipy.special.erfc(upper)
        else:
            difference = scipy.special.erf(upper) - scipy.special.erf(lower)
        return self.height * self.width * math.sqrt(math.pi / 2) * difference


def _gauss_moment(z: np.ndarray, k: int) -> np.ndarray:
    """Returns `∫_0^∞ y^k e^{-y²-2zy} dy` for Re z > 0, by the trapezoidal rule in log y."""
    values = np.empty(len(z), np.result_type(z, np.float64))
    for i, point in enumerate(z):
        angle = float(np.angle(point)) if np.iscomplexobj(z) else 0.0
        turn = angle / 3
        # Half-width of the strip in which e^{-y²} still decays.
        strip = (math.pi / 2 - 2 * abs(turn)) / 2
        h = 2 * math.pi * strip / 39
        low = -math.log1p(abs(point)) - 42 / (k + 1)
        high = math.log(min(8.0 / math.sqrt(math.cos(2 * turn)), 60 / abs(point))) + 0.5
        v = np.arange(low, high, h)
        y = np.exp(v) * (np.exp(-1j * turn) if turn else 1.0)
        exponent = (k + 1) * (v - 1j * turn if turn else v) - y * y - 2 * point * y
        values[i] = h * np.exp(exponent).sum()
    return values


class Box(AbstractKernel):
    """The moving average `ρ(t) = height` on `start ≤ t < stop`, zero elsewhere.

    Args:
        start: first lag, not below zero.
        stop: end, above `start`.
        height: value inside.
    """

    start: float
    stop: float
    height: float

    def __init__(self, start: float, stop: float, *, height: float = 1.0):
        self.start = require_nonnegative("start", start)
        self.stop = require_positive("stop", stop)
        if self.stop <= self.start:
            raise invalid("stop", f"a lag above start = {self.start:g}", f"{self.stop:g}")
        self.height = require_number("height", height)

    n_inputs = 1
    n_outputs = 1

    @property
    def support(self) -> float:
        return self.stop

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return tuple(b for b in (self.start, self.stop) if b > 0)

    @property
    def timescale(self) -> float:
        return self.stop

    @property
    def is_completely_monotone(self) -> bool | None:
        return self.height == 0

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns `height` inside `[start, stop)` and zero outside, shape (lag, 1, 1)."""
        return on_lags(
            lags,
            "Box",
            lambda t: np.where((t >= self.start) & (t < self.stop), self.height, 0.0),
        )

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns `height (min(t, stop) - start)`, zero before `start`, shape (lag, 1, 1)."""
        return on_lags(
            lags,
            "Box",
            lambda t: self.height * (np.clip(t, self.start, self.stop) - self.start),
        )

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns `height (e^{-s start} - e^{-s stop})/s` or a derivative, also at s = 0."""
        points = require_points(s, derivative, "Box")
        moments = _interval_moments(points, self.stop - self.start)
        a = self.start
        shifted = {
            0: moments[0],
            1: a * moments[0] + moments[1],
            2: a * a * moments[0] + 2 * a * moments[1] + moments[2],
        }[derivative]
        values = (-1) ** derivative * self.height * np.exp(-points * a) * shifted
        return as_scalar_kernel(values)

    def exact_norm(self, norm: str) -> float | None:
        """Returns `|height|` times the length, its square root, or one."""
        length = self.stop - self.start
        return abs(self.height) * {"l1": length, "l2": math.sqrt(length), "linf": 1.0}[norm]


def _interval_moments(points: np.ndarray, length: Any, n_moments: int = 3) -> list[np.ndarray]:
    """Returns `∫_0^L u^k e^{-su} du`, k = 0..n-1, without cancellation for small s."""
    z = points * length
    small = np.abs(z) < 12
    safe = np.where(small, 1.0, points)
    end = np.exp(-np.where(small, 1.0, z))
    closed = [(1 - end) / safe]
    for k in range(1, n_moments):
        closed.append((k * closed[-1] - length**k * end) / safe)
    x, w = np.polynomial.legendre.leggauss(32)
    u = 0.5 * (x + 1)
    damped = np.exp(-np.where(small, z, 0.0)[..., None] * u) * (0.5 * w)
    return [
        np.where(small, length ** (k + 1) * (damped * u**k).sum(axis=-1), closed[k])
        for k in range(n_moments)
    ]


class StretchedExponential(AbstractKernel):
    """The relaxation `ρ(t) = a e^{-(t/timescale)^exponent}`; completely monotone up to exponent 1.

    Args:
        exponent: β above zero; below 1 slower, above 1 faster than exponential.
        timescale: lag at which it has fallen to 1/e.
        amplitude: a.
    """

    exponent: float
    timescale: float
    amplitude: float

    def __init__(self, *, exponent: float, timescale: float = 1.0, amplitude: float = 1.0):
        self.exponent = require_positive("exponent", exponent)
        self.timescale = require_positive("timescale", timescale)
        self.amplitude = require_number("amplitude", amplitude)

    n_inputs = 1
    n_outputs = 1

    @property
    def support(self) -> float:
        return math.inf

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return ()

    @property
    def is_completely_monotone(self) -> bool | None:
        return self.amplitude == 0 or (self.exponent <= 1 and self.amplitude > 0)

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns `a e^{-(t/timescale)^exponent}` at `lags`, shape (lag, 1, 1)."""
        return on_lags(lags, "StretchedExponential", self._values)

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns `a (timescale/β) γ(1/β, (t/timescale)^β)`, shape (lag, 1, 1)."""
        return on_lags(
            lags,
            "StretchedExponential",
            lambda t: (
                self._whole()
                * scipy.special.gammainc(1 / self.exponent, (t / self.timescale) ** self.exponent)
            ),
        )

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the Laplace transform or a derivative, by adaptive quadrature to 1e-12."""
        points = require_points(s, derivative, "StretchedExponential")
        values = laplace_by_quadrature(
            self, self._values, points, derivative, name="StretchedExponential"
        )
        order = (derivative + 1) / self.exponent
        values[points == 0] = (
            (-1) ** derivative
            * self.amplitude
            * self.timescale ** (derivative + 1)
            * scipy.special.gamma(order)
            / self.exponent
        )
        return values

    def exact_norm(self, norm: str) -> float | None:
        """Returns `|a| timescale Γ(1+1/β)`, its L2 analogue, or `|a|`."""
        if norm == "l1":
            return abs(self._whole())
        if norm == "l2":
            root = math.sqrt(abs(self._whole() / self.amplitude)) if self.amplitude else 0.0
            return abs(self.amplitude) * root * 2 ** (-0.5 / self.exponent)
        return abs(self.amplitude)

    def _values(self, t: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return self.amplitude * np.exp(-((t / self.timescale) ** self.exponent))

    def _whole(self) -> float:
        return self.amplitude * self.timescale * float(scipy.special.gamma(1 + 1 / self.exponent))


class Delay(AbstractLinearFunctional):
    """The pure delay `y_k = x_{k-n}`, in discrete time: no network narrower than n+1 can hold it.

    Args:
        n_steps: n, not below zero.
        dt: the step it is defined for.
    """

    n_steps: int
    dt: float

    def __init__(self, n_steps: int, *, dt: float = 1.0):
        self.n_steps = require_count("n_steps", n_steps, minimum=0)
        self.dt = require_positive("dt", dt)

    n_inputs = 1
    n_outputs = 1

    @property
    def support(self) -> float:
        return (self.n_steps + 1) * self.dt

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return tuple(b for b in (self.n_steps * self.dt, self.support) if b > 0)

    @property
    def timescale(self) -> float:
        return self.support

    @property
    def is_completely_monotone(self) -> bool | None:
        return False

    def __call__(self, signal: Signal, *, dt: float | None = None) -> Output:
        """Returns the input shifted by `n_steps` samples, zeros first, shape (time, 1)."""
        require_signal("signal", signal, n_inputs=1)
        if dt is not None and not math.isclose(require_positive("dt", dt), self.dt):
            raise invalid(
                "dt",
                f"the step {self.dt:g} this delay is defined for",
                f"{dt:g}",
                "a pure delay exists in discrete time only: use Bump or Box in continuous time",
            )
        values = host_float64("signal", signal, owner="Delay")
        output = np.zeros_like(values)
        if self.n_steps < len(values):
            output[self.n_steps :] = values[: len(values) - self.n_steps]
        return output

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns `K_j/dt` on `[j dt, (j+1) dt)`: 1/dt on step n, zero elsewhere."""
        # A lag given as j*dt belongs to step j, whatever the rounding of the product.
        return on_lags(
            lags,
            "Delay",
            lambda t: np.where(
                np.floor(t / self.dt * (1 + 1e-12)) == self.n_steps, 1 / self.dt, 0.0
            ),
        )

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns 0 up to `n dt`, rising to 1 at `(n+1) dt`."""
        return on_lags(lags, "Delay", lambda t: np.clip(t / self.dt - self.n_steps, 0.0, 1.0))

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the Laplace transform of the kernel held on its step, or a derivative."""
        return self._box().laplace(s, derivative=derivative)

    def exact_norm(self, norm: str) -> float | None:
        """Returns 1, `dt^-½` or `1/dt`."""
        return self._box().exact_norm(norm)

    def _box(self) -> Box:
        start = self.n_steps * self.dt
        return Box(start, start + self.dt, height=1 / self.dt)


class SampledKernel(AbstractKernel):
    """A kernel known at some lags: linear in between, zero beyond the last one.

    Before the first lag it has its first value (a table may start at one step, not at zero).

    Args:
        lags: increasing, not below zero, possibly uneven, shape (lag,).
        values: ρ there, shape (lag,) or (lag, out, in).

    Raises:
        ValueError: if the lags do not increase, shapes differ, or a value is not finite.
    """

    lags: np.ndarray
    values: np.ndarray
    first_lag: float

    def __init__(self, lags: Any, values: Any):
        lags = host_float64("lags", lags, owner="SampledKernel")
        values = host_float64("values", values, owner="SampledKernel")
        if lags.ndim != 1 or len(lags) < 2:
            raise invalid("lags", "shape (lag,) with at least two lags", f"shape {lags.shape}")
        if values.ndim not in (1, 3) or len(values) != len(lags):
            raise invalid(
                "values", f"shape ({len(lags)},) or ({len(lags)}, out, in)", f"shape {values.shape}"
            )
        if lags[0] < 0:
            raise invalid("lags", "lags not below zero", f"{lags[0]:g}")
        falling = np.flatnonzero(np.diff(lags) <= 0)
        if len(falling):
            at = int(falling[0])
            raise invalid(
                "lags",
                "increasing lags",
                f"{lags[at]:g} then {lags[at + 1]:g} at index {at + 1}",
                "sort them and remove duplicates",
            )
        self.first_lag = float(lags[0])
        if lags[0] > 0:
            lags = np.concatenate([[0.0], lags])
            values = np.concatenate([values[:1], values])
        self.lags = lags
        self.values = values if values.ndim == 3 else values[:, None, None]

    @property
    def n_inputs(self) -> int:
        return self.values.shape[2]

    @property
    def n_outputs(self) -> int:
        return self.values.shape[1]

    @property
    def support(self) -> float:
        return float(self.lags[-1])

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return tuple(float(t) for t in self.lags[1:]) if len(self.lags) <= 257 else ()

    @property
    def grid(self) -> np.ndarray | None:
        """The lags themselves when they are many: the quadrature then uses no others."""
        return self.lags if len(self.lags) > 257 else None

    @property
    def timescale(self) -> float:
        size = np.abs(self.values).sum(axis=(1, 2))
        seen = np.concatenate([[0.0], np.cumsum(np.diff(self.lags) * (size[1:] + size[:-1]) / 2)])
        return float(max(np.interp(0.5 * seen[-1], seen, self.lags), self.lags[1]))

    @property
    def is_completely_monotone(self) -> bool | None:
        return None

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns the linear interpolant, zero beyond the last sample, shape (lag, out, in)."""
        return on_lags(lags, "SampledKernel", self._interpolant)

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns the exact integral of the interpolant, shape (lag, out, in)."""
        return on_lags(lags, "SampledKernel", self._integral)

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the exact transform of the interpolant or a derivative, shape (point, out, in)."""
        points = require_points(s, derivative, "SampledKernel")
        starts, widths = self.lags[:-1], np.diff(self.lags)
        slopes = np.diff(self.values, axis=0) / widths[:, None, None]
        results = []
        for point in points:
            m = _interval_moments(np.full(len(widths), point), widths, derivative + 2)
            # (a+u)^k expanded, for the constant and the linear part of each piece.
            coefficients = {0: (1.0,), 1: (starts, 1.0), 2: (starts**2, 2 * starts, 1.0)}
            terms = coefficients[derivative]
            constant = sum(c * m[j] for j, c in enumerate(terms))
            linear = sum(c * m[j + 1] for j, c in enumerate(terms))
            damping = np.exp(-point * starts)
            results.append(
                np.tensordot(damping * constant, self.values[:-1], axes=(0, 0))
                + np.tensordot(damping * linear, slopes, axes=(0, 0))
            )
        return (-1) ** derivative * np.array(results)

    def exact_norm(self, norm: str) -> float | None:
        """Returns the norm of the piecewise linear interpolant."""
        low, high, widths = self.values[:-1], self.values[1:], np.diff(self.lags)
        if norm == "l2":
            square = (low**2 + low * high + high**2).sum(axis=(1, 2)) / 3
            return math.sqrt(float(widths @ square))
        if norm == "linf":
            return float(np.abs(self.values).sum(axis=2).max())
        both = np.abs(low) + np.abs(high)
        crosses = low * high < 0
        safe = np.where(both > 0, both, 1.0)
        area = np.where(crosses, (low**2 + high**2) / safe, both) / 2
        return float((widths[:, None] * area.sum(axis=2)).sum(axis=0).max())

    def _interpolant(self, t: np.ndarray) -> np.ndarray:
        index, share = self._place(t)
        low, high = self.values[index], self.values[index + 1]
        inside = (t <= self.lags[-1])[:, None, None]
        return np.where(inside, low + share[:, None, None] * (high - low), 0.0)

    def _integral(self, t: np.ndarray) -> np.ndarray:
        t = np.minimum(t, self.lags[-1])
        widths = np.diff(self.lags)[:, None, None]
        pieces = widths * (self.values[1:] + self.values[:-1]) / 2
        before = np.concatenate([np.zeros((1, *pieces.shape[1:])), np.cumsum(pieces, axis=0)])
        index, share = self._place(t)
        share = share[:, None, None]
        low, high = self.values[index], self.values[index + 1]
        return before[index] + widths[index] * share * (low + 0.5 * share * (high - low))

    def _place(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index = np.clip(np.searchsorted(self.lags, t, side="right") - 1, 0, len(self.lags) - 2)
        share = (t - self.lags[index]) / (self.lags[index + 1] - self.lags[index])
        return index, np.clip(share, 0.0, 1.0)


class TemplateKernel(AbstractKernel):
    """The memory target `ρ(t) = amplitude ρ_0((t - delay)/width)`: any template at any delay.

    Args:
        function: the template ρ_0, a NumPy function on the whole line: bounded, with a left tail
            that falls at least like a Gaussian (`|ρ_0(-u)| ≤ C e^{-cu²}`).
        delay: shift (the papers' 1/ω), not below zero.
        width: stretch, in the unit of time.
        amplitude: factor.

    Raises:
        ValueError: if the template is unbounded or its left tail is heavier than a Gaussian.
    """

    function: Any = eqx.field(static=True)
    delay: float
    width: float
    amplitude: float

    def __init__(self, function: Any, *, delay: float, width: float = 1.0, amplitude: float = 1.0):
        if not callable(function):
            raise wrong_type("function", "a callable", type(function).__name__)
        self.function = function
        self.delay = require_nonnegative("delay", delay)
        self.width = require_positive("width", width)
        self.amplitude = require_number("amplitude", amplitude)
        _require_sub_gaussian(function)

    n_inputs = 1
    n_outputs = 1

    @property
    def support(self) -> float:
        return math.inf

    @property
    def breakpoints(self) -> tuple[float, ...]:
        around = (self.delay + k * self.width for k in (-6.0, -2.0, 0.0, 2.0, 6.0))
        return tuple(b for b in around if b > 0)

    @property
    def timescale(self) -> float:
        return self.width

    @property
    def is_completely_monotone(self) -> bool | None:
        return None

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns the shifted template at `lags`, shape (lag, 1, 1)."""
        return on_lags(lags, "TemplateKernel", self._values)

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns `∫_0^t ρ` by adaptive quadrature, to 1e-13 of `∫|ρ|`, shape (lag, 1, 1)."""
        return step_by_quadrature(self, self._values, lags, name="TemplateKernel")

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the Laplace transform or a derivative, by adaptive quadrature to 1e-12."""
        return laplace_by_quadrature(self, self._values, s, derivative, name="TemplateKernel")

    def exact_norm(self, norm: str) -> float | None:
        """Returns None: nothing is known about the template in closed form."""
        return None

    def _values(self, t: np.ndarray) -> np.ndarray:
        values = np.asarray(self.function((t - self.delay) / self.width), np.float64)
        return self.amplitude * values


def _require_sub_gaussian(function: Any) -> None:
    u = np.geomspace(0.25, 512.0, 45)
    with np.errstate(all="ignore"):
        both = np.asarray(function(np.concatenate([-u[::-1], u])), np.float64)
    if both.shape != (90,):
        raise invalid("function", "one value per lag", f"shape {both.shape} for 90 lags")
    if not np.isfinite(both[:45]).all() or not np.isfinite(both[45:]).all():
        raise invalid("function", "a bounded template", "NaN or infinity")
    left = np.abs(both[:45])[::-1]
    peak = np.abs(both).max()
    # Envelope from outside in, so that zeros of an oscillation do not pass for decay.
    envelope = np.maximum.accumulate(left[::-1])[::-1]
    seen = envelope > 1e-280
    fall = np.log(peak / np.where(seen, envelope, peak)) if peak else np.zeros(45)
    outer = seen & (fall > 3)
    if seen[-1] and fall[-1] < 600:
        raise invalid("function", "a left tail below e^{-c u²}", f"{left[-1]:.3g} at u = -512")
    if outer.sum() >= 3:
        slope = np.polyfit(np.log(u[outer])[-3:], np.log(fall[outer])[-3:], 1)[0]
        if slope < 1.6:
            raise invalid(
                "function",
                "a left tail below e^{-c u²}",
                f"one that falls like e^(-u^{slope:.2g})",
                "the theory needs a sub-Gaussian template",
            )


def exponential_sum(amplitudes: Any, rates: Any, *, powers: Any = None) -> AbstractLinearFunctional:
    """Returns the network with kernel `Σ_i a_i t^{p_i} e^{-w_i t}`.

    A diagonal RNN if all powers are zero, a dense linear RNN (Jordan blocks) otherwise.

    Args:
        amplitudes: a_i, shape (width,), real, or complex where the rate is.
        rates: w_i with Re w_i > 0, shape (width,); complex ones with their conjugates.
        powers: p_i, whole numbers not below zero, shape (width,); default zeros. A repeated
            rate of multiplicity q has the powers 0 to q-1.

    Returns:
        `models.DiagonalRNN`, or `models.LinearRNN` for repeated rates.

    Raises:
        ValueError: if the shapes differ, a rate does not decay, or a conjugate is missing.
    """
    a: Any = np.atleast_1d(
        host_float64("amplitudes", amplitudes, owner="exponential_sum", allow_complex=True)
    )
    w: Any = np.atleast_1d(
        host_float64("rates", rates, owner="exponential_sum", allow_complex=True)
    )
    if a.ndim != 1 or a.shape != w.shape or not len(a):
        raise invalid(
            "amplitudes",
            f"one per rate, shape {w.shape}",
            f"shape {a.shape}",
            "give both as vectors",
        )
    if (w.real <= 0).any():
        worst = w[w.real.argmin()]
        raise invalid("rates", "Re rate > 0 (a decaying kernel)", f"{worst:g}")
    p = np.zeros(len(w), int)
    if powers is not None:
        p = np.atleast_1d(np.asarray(powers))
        if p.shape != w.shape or p.dtype.kind not in "iu" or (p < 0).any() or p.max() > 32:
            raise invalid("powers", f"{len(w)} whole numbers from 0 to 32", powers)
    pairs = _conjugate_pairs(a, w, p)
    if p.any():
        return _jordan_network(pairs)
    return _diagonal_network(a, w)


def _conjugate_pairs(a: Any, w: Any, p: np.ndarray) -> list[tuple[complex, complex, int]]:
    """Returns (amplitude, rate, power) with Im rate ≥ 0, one per real rate or pair."""
    left = [(complex(x), complex(y), int(z)) for x, y, z in zip(a, w, p, strict=True) if y.imag < 0]
    kept = []
    for x, y, z in zip(a.astype(complex), w.astype(complex), p, strict=True):
        if y.imag < 0:
            continue
        if y.imag == 0:
            if abs(x.imag) > 1e-12 * abs(x):
                raise invalid(
                    "amplitudes", "a real amplitude for a real rate", f"{x:g} at {y.real:g}"
                )
            kept.append((complex(x), complex(y), int(z)))
            continue
        match = [
            i
            for i, (b, v, q) in enumerate(left)
            if q == z
            and abs(v - y.conjugate()) <= 1e-9 * abs(y)
            and abs(b - x.conjugate()) <= 1e-9 * abs(x)
        ]
        if not match:
            raise invalid(
                "rates",
                "complex rates in conjugate pairs with conjugate amplitudes",
                f"{y:g} alone",
                f"add the rate {y.conjugate():g} with amplitude {x.conjugate():g}",
            )
        left.pop(match[0])
        kept.append((complex(x), complex(y), int(z)))
    if left:
        y = left[0][1]
        raise invalid(
            "rates",
            "complex rates in conjugate pairs with conjugate amplitudes",
            f"{y:g} alone",
            f"add the rate {y.conjugate():g}",
        )
    return kept


def _jordan_network(terms: list[tuple[complex, complex, int]]) -> AbstractLinearFunctional:
    from recollect.models import LinearRNN

    chains: dict[complex, dict[int, complex]] = {}
    for amplitude, rate, power in terms:
        chain = chains.setdefault(rate, {})
        chain[power] = chain.get(power, 0.0) + amplitude * math.factorial(power)
    blocks, reads, feeds = [], [], []
    for rate, chain in chains.items():
        n = max(chain) + 1
        real = rate.imag == 0
        d = 1 if real else 2
        cell = (
            np.array([[-rate.real]])
            if real
            else np.array([[-rate.real, rate.imag], [-rate.imag, -rate.real]])
        )
        block = np.kron(np.eye(n), cell) + np.kron(np.eye(n, k=-1), np.eye(d))
        feed = np.zeros(n * d)
        feed[0] = 1.0
        read = np.zeros(n * d)
        for power, c in chain.items():
            # State (cos, -sin) of e^{-wt}: 2 Re(c e^{-wt}) = 2 Re(c) cos part + 2 Im(c) sin part.
            read[power * d : power * d + d] = [c.real] if real else [2 * c.real, -2 * c.imag]
        blocks.append(block)
        reads.append(read)
        feeds.append(feed)
    import scipy.linalg

    A = scipy.linalg.block_diag(*blocks)
    return LinearRNN(A, np.concatenate(feeds)[:, None], np.concatenate(reads)[None, :])


def _diagonal_network(a: Any, w: Any) -> AbstractLinearFunctional:
    from recollect.models import DiagonalRNN

    order = np.lexsort((w.imag, w.real)) if np.iscomplexobj(w) else np.argsort(w)
    a, w = a[order], w[order]
    ones = np.ones((len(w), 1))
    if not np.iscomplexobj(w) or not w.imag.any():
        return DiagonalRNN(w.real.copy(), ones, a.real[None, :].copy())
    return DiagonalRNN(w, ones, a[None, :])


__all__ = [
    "Airy",
    "Box",
    "Bump",
    "Delay",
    "PowerLaw",
    "SampledKernel",
    "StretchedExponential",
    "TemplateKernel",
    "exponential_sum",
]
