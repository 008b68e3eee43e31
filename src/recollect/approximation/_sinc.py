"""Sinc quadrature: explicit exponential sums for power laws, with proved errors."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from recollect._core._check import invalid, require_positive
from recollect._core._references import references
from recollect.approximation._fixed_rates import (
    ConstructedSum,
    absolute_integral,
    deliver_sum,
)
from recollect.approximation._theory import _sinc_ends, bound_sinc_error


@references("braess2005approximation", "beylkin2010approximation")
def fit_sinc_quadrature(error: float, exponent: float) -> ConstructedSum:
    """Returns a network for `(1+t)^-(1+ω)` whose error is proved, rates `e^{k step}`.

    `(1+t)^-p = 1/Γ(p) ∫ e^{px - e^x(1+t)} dx` by the trapezoidal rule, with the step and the two
    ends that need the fewest nodes for `bound_sinc_error ≤ ε`.

    Args:
        error: ε, the L1 error allowed.
        exponent: ω > 0.

    Returns:
        The network, its measured error and its proved bound.

    Raises:
        ValueError: if ε is not below the kernel's norm 1/ω, or below what can be certified.
    """
    error, exponent = require_positive("error", error), require_positive("exponent", exponent)
    if error >= 1 / exponent:
        raise invalid("error", f"less than the norm of the kernel, {1 / exponent:.6g}", error)
    candidates = []
    for step in np.geomspace(0.3, 8.0, 120):
        count, lowest, highest = _sinc_ends(error, exponent, float(step))
        candidates.append((count, float(step), lowest, highest))
    count, step, lowest, highest = min(candidates)
    if not np.isfinite(count):
        raise invalid("error", "an error that double precision can certify", error)
    x = np.log(lowest) + step * np.arange(int(count))
    rates = np.exp(x)
    amplitudes = step * np.exp((exponent + 1) * x - rates - gammaln(exponent + 1))
    bound = bound_sinc_error(exponent, step=step, lowest=lowest, highest=highest)
    measured = measure_power_law_error(amplitudes, rates, exponent)
    return deliver_sum(amplitudes, rates, error=measured, bound=bound, stats={"step": step})


def measure_power_law_error(amplitudes, rates, exponent: float) -> float:
    """Returns the L1 distance of a sum of real exponentials to `(1+t)^-(1+ω)`.

    Panels uniform in `log(1+t)`, split where the error changes sign, out to where both are below
    1e-16 of the error; the rest in closed form.
    """
    amplitudes, rates = np.asarray(amplitudes), np.asarray(rates)
    last = 50.0 / rates.min()
    edges = np.linspace(0.0, np.log1p(last), int(40 * np.log1p(last)) + 400)

    def residual(z):
        t = np.expm1(z)
        value = np.exp(-(exponent + 1.0) * z)
        for a, w in zip(amplitudes, rates, strict=True):
            value = value - a * np.exp(-w * t)
        return value

    inside = float(absolute_integral(lambda z: (residual(z) * np.exp(z))[:, None], edges)[0])
    return inside + float((1.0 + last) ** -exponent) / exponent


def power_law_sum(
    exponent: float, *, scale: float = 1.0, rtol: float = 1e-13, step: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a long exponential sum equal to `(1 + t/scale)^-exponent`, t ≥ 0.

    The trapezoidal rule in x = log w for
    `(1+t)^-p = 1/Γ(p) ∫ e^{px - e^x (1+t)} dx`, whose error is `O(e^{-π²/step})`.

    Args:
        exponent: p > 0.
        scale: the lag on which the kernel starts to fall, in time.
        rtol: what is cut off at the slow end, relative to the L1 norm for p > 1 (to the largest
            value for p ≤ 1, where the kernel is not integrable).
        step: distance of log rates; the default is dense enough for `reduce_exponential_sum`.

    Returns:
        Amplitudes and rates (1/time), both ascending, shape (n,).
    """
    exponent = require_positive("exponent", exponent)
    scale = require_positive("scale", scale)
    rtol = require_positive("rtol", rtol)
    order = exponent - 1.0 if exponent > 1.0 else exponent
    # The share of the norm in rates below e^x is e^{order x}/Γ(order + 1).
    lowest = (np.log(rtol) + gammaln(order + 1.0)) / order
    if lowest < -650.0:
        raise invalid(
            "exponent",
            "a kernel whose slow rates float64 can hold",
            exponent,
            f"ask for rtol above {np.exp(-650.0 * order - gammaln(order + 1.0)):.1e}",
        )
    highest = 4.0
    if step is None:
        step = min(0.45, np.pi**2 / (4.0 - np.log(rtol)))
        if rtol < 1e-11:  # small singular values: their zeros are interpolated between nodes
            step = min(0.2, (highest - lowest) / 400.0)
    x = np.arange(np.floor(lowest / step), np.ceil(highest / step) + 1) * step
    rates = np.exp(x)
    amplitudes = step * np.exp(exponent * x - rates - gammaln(exponent))
    return amplitudes, rates / scale
