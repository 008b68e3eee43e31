"""What is proved about the width of a network: upper bounds, lower bounds, hypotheses.

Notation: `ρ` kernel, m `width`, α `order`, β `beta`, γ `gamma`. Errors are L1 distances of kernels,
which are operator norms of functionals.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.optimize
from scipy.special import exp1, gammaincc, gammaln

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_nonnegative,
    require_positive,
    wrong_type,
)
from recollect._core._functional import AbstractLinearFunctional
from recollect._core._quadrature import adaptive_panels, finite_panels, panel_primitive
from recollect._core._references import references
from recollect._core._status import Status


@references("jackson1930theory", "cheney1982introduction")
def bound_polynomial_error(degree: int, *, order: int, derivative: float = 1.0) -> float:
    """Returns Jackson's bound on the distance of a smooth function to polynomials on [0, 1].

    `E_n(f) ≤ (π/4)^α ‖f^(α)‖_∞ / ((n+1) n … (n-α+2))`, n ≥ α - 1.

    Args:
        degree: n, the degree of the polynomials.
        order: α ≥ 1, how often f is differentiated.
        derivative: `‖f^(α)‖_∞` on [0, 1].

    Raises:
        ValueError: if the order is not positive, the degree below order - 1 or the derivative
            negative.

    Source: Jackson's fifth theorem on [-1, 1] has π/2; the half-length of [0, 1] halves it.
    """
    order = require_count("order", order)
    degree = require_count("degree", degree, minimum=0)
    derivative = require_nonnegative("derivative", derivative)
    if degree < order - 1:
        raise invalid("degree", f"at least order - 1 = {order - 1}", degree)
    return derivative * math.exp(
        order * math.log(math.pi / 4) - _log_falling(float(degree + 1), order)
    )


@references("li2021curse")
def bound_constant(order: int) -> float:
    """Returns C(α) of the width bound, `(α+1) (π/4)^α (2α+1)!/(α+1)!`: 4.71, 37.0, 407, 5753, …

    Args:
        order: α ≥ 1.

    Raises:
        ValueError: if the order is not positive.

    Source: our explicit form of the constant of Li et al. 2021, Theorem 4.2, which leaves it open.
    """
    order = require_count("order", order)
    return math.exp(
        math.log(order + 1)
        + order * math.log(math.pi / 4)
        + math.lgamma(2 * order + 2)
        - math.lgamma(order + 2)
    )


@references("li2021curse")
def bound_width_error(
    width: int,
    *,
    gamma: float,
    beta: float,
    order: int,
    n_inputs: int = 1,
    form: str = "consistent",
) -> float:
    """Returns the error that some network of this width is proved not to exceed.

    If `|ρ_i^(k)(t)| ≤ γ β^{k+1} e^{-βt}` for k = 0..α and every input i, a network of width
    m ≥ α has `‖ρ - ρ̂‖_1 ≤ C(α) γ d / (m (m-1) … (m-α+1))`. The printed theorem divides by a
    further β; changing the unit of time then changes the bound but not the error, so that form
    cannot hold for all β. It is returned on request, for comparison.

    Args:
        width: m.
        gamma: γ, without unit (measured by `measure_smoothness`).
        beta: β, in 1/time.
        order: α ≥ 1.
        n_inputs: d.
        form: `"consistent"`, or `"printed"` for the form with the further 1/β.

    Raises:
        ValueError: if width < order.

    Source: Li et al. 2021, Theorem 4.2 and Appendix B.
    """
    width, order = require_count("width", width), require_count("order", order)
    n_inputs = require_count("n_inputs", n_inputs)
    gamma, beta = require_nonnegative("gamma", gamma), require_positive("beta", beta)
    require_choice("form", form, ("consistent", "printed"))
    if width < order:
        raise invalid("width", f"at least order = {order}", width)
    bound = bound_constant(order) * gamma * n_inputs * math.exp(-_log_falling(float(width), order))
    return bound / beta if form == "printed" else bound


@references("li2021curse")
def bound_width(error: float, *, gamma: float, order: int, n_inputs: int = 1) -> float:
    """Returns a width that is proved to suffice for this error.

    The least m ≥ α with `C(α) γ d / (m (m-1) … (m-α+1)) ≤ ε`, a whole number held as a float
    since it can exceed every integer type (1e78 is a typical answer).

    Args:
        error: ε, the L1 error allowed.
        gamma: γ of the kernel for this order.
        order: α.
        n_inputs: d.

    Raises:
        ValueError: if the error, order or number of inputs is not positive, or γ is negative.

    Source: Li et al. 2021, Theorem 4.2.
    """
    error, gamma = require_positive("error", error), require_nonnegative("gamma", gamma)
    order, n_inputs = require_count("order", order), require_count("n_inputs", n_inputs)
    if gamma == 0:
        return float(order)
    target = math.log(bound_constant(order)) + math.log(gamma * n_inputs) - math.log(error)
    return _least_width(target, order)


@dataclasses.dataclass(frozen=True)
class PowerLawWidth:
    """A width proved to suffice for a power law, and how it was reached.

    Args:
        width: the width, a whole number held as a float; infinite beyond 1e308.
        log10_width: its decimal logarithm, finite whatever its size.
        order: the α that gave the least width.
        damping: δ of the damped kernel `ρ(t) e^{-δt}` that the theorem is applied to, in 1/time.
        tail: what damping costs in L1.
        status: `vacuous` beyond a million units.
    """

    width: float
    log10_width: float
    order: int
    damping: float
    tail: float
    status: Status = dataclasses.field(default_factory=Status)


@references("li2021curse")
def bound_power_law_width(
    error: float, exponent: float, *, order: int | None = None
) -> PowerLawWidth:
    """Returns the width that Theorem 4.2 proves to suffice for `(1+t)^-(1+ω)`.

    No power law satisfies the theorem's hypothesis, so it is applied to `ρ(t) e^{-δt}`, for which
    `γ = Σ_j binom(α,j) (1+ω)_j δ^{-j-1}` (β = δ) is exact; damping costs
    `(1/ω) δ^ω e^δ Γ(1-ω, δ)` in L1. The sum of both is balanced over δ and, unless given, over α.
    Li et al. cut at T instead; their width grows like `ε^{-1/α} (ωε)^{-(1+1/α)/ω}`: exponential in
    1/ω, like this one.

    Args:
        error: ε, the L1 error allowed (the kernel is 1 at zero and has norm 1/ω).
        exponent: ω in (0, 1].
        order: α; the best of 1..40 by default.

    Raises:
        ValueError: if the error or order is not positive, or the exponent not in (0, 1].

    Source: Li et al. 2021, equations 15-16; damping instead of a cut is ours.
    """
    error, exponent = require_positive("error", error), require_positive("exponent", exponent)
    if exponent > 1:
        raise invalid("exponent", "a number in (0, 1]", exponent)
    orders = range(1, 41) if order is None else (require_count("order", order),)
    if error >= 1 / exponent:
        return PowerLawWidth(0.0, -math.inf, min(orders), math.inf, 1 / exponent)
    best: tuple[float, int, float] | None = None
    for candidate in orders:
        log_width, log_damping = _damped_width(error, exponent, candidate)
        if best is None or log_width < best[0]:
            best = (log_width, candidate, log_damping)
    assert best is not None
    log_width, chosen, log_damping = best
    width = math.ceil(math.exp(log_width)) if log_width < 34 else _exp(log_width)
    status = (
        Status("vacuous", f"a width of 10^{log_width / math.log(10):.0f} cannot be built")
        if log_width > math.log(1e6)
        else Status()
    )
    tail = math.exp(_log_damping_cost(log_damping, exponent))
    return PowerLawWidth(
        float(width), log_width / math.log(10), chosen, math.exp(log_damping), tail, status
    )


def _damped_width(error: float, exponent: float, order: int) -> tuple[float, float]:
    """Returns the log of the least width over δ, and log δ."""
    steps = np.arange(order + 1)
    log_terms = (
        gammaln(order + 1)
        - gammaln(steps + 1)
        - gammaln(order - steps + 1)
        + gammaln(1 + exponent + steps)
        - gammaln(1 + exponent)
    )
    log_constant = math.log(bound_constant(order))

    def log_product(log_damping: float) -> float:
        rest = error - math.exp(_log_damping_cost(log_damping, exponent))
        if rest <= 0:
            return math.inf
        log_gamma = float(np.logaddexp.reduce(log_terms - (steps + 1) * log_damping))
        return log_constant + log_gamma - math.log(rest)

    # The damping that costs the whole error is the largest allowed.
    limit: Any = scipy.optimize.brentq(
        lambda x: _log_damping_cost(x, exponent) - math.log(error), -4000.0, 12.0
    )
    span = np.linspace(1e-6, 12.0 / exponent * (1 + 1.0 / order), 200)
    values = np.array([log_product(limit - x) for x in span])
    centre = span[int(np.argmin(values))]
    found: Any = scipy.optimize.minimize_scalar(
        lambda x: log_product(limit - x),
        bounds=(max(1e-9, centre - span[1]), centre + span[1]),
        method="bounded",
    )
    # The least width grows with the product: one root at the end is enough.
    best = min((float(found.fun), float(found.x)), (float(values.min()), float(centre)))
    return _log_least_width(best[0], order), float(limit - best[1])


def _log_damping_cost(log_damping: float, exponent: float) -> float:
    """Returns log of `∫ (1 - e^{-δt}) (1+t)^-(1+ω) dt`."""
    damping = math.exp(log_damping)
    if damping > 200:
        return -math.log(exponent) - exponent / damping * 0.5
    if exponent == 1:
        return log_damping + damping + math.log(exp1(max(damping, 1e-300)))
    upper = gammaincc(1 - exponent, damping)
    return (
        exponent * log_damping
        + damping
        + math.lgamma(1 - exponent)
        + math.log(upper)
        - math.log(exponent)
    )


def _log_falling(width: float, order: int) -> float:
    return math.fsum(math.log(width - i) for i in range(order))


def _log_least_width(log_product: float, order: int) -> float:
    """Returns log m for the real m ≥ α with `m (m-1) … (m-α+1) = e^log_product`."""
    if log_product <= math.lgamma(order + 1):
        return math.log(order)
    guess = log_product / order
    if guess > 30:  # the falling factorial is a power to machine precision
        return guess
    high = math.exp(guess) + order
    root: Any = scipy.optimize.brentq(
        lambda m: _log_falling(m, order) - log_product, float(order), high, xtol=1e-10
    )
    return math.log(root)


def _least_width(log_product: float, order: int) -> float:
    log_width = _log_least_width(log_product, order)
    if log_width > 30:
        return _exp(log_width)
    width = max(order, math.ceil(math.exp(log_width) - 1e-6))
    while _log_falling(float(width), order) < log_product:
        width += 1
    return float(width)


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


@references("adamyan1971analytic")
def bound_error_below(singular_values, width: int) -> float:
    """Returns the L1 error that no network of this width can go below.

    `‖ρ - ρ̂‖_1 ≥ ‖Γ_ρ - Γ_ρ̂‖ ≥ σ_{m+1}(Γ_ρ)`: the first since a convolution is bounded by the L1
    norm of its kernel, the second since the Hankel operator of a width-m network has rank m.

    Args:
        singular_values: Hankel singular values of the kernel, descending.
        width: m.

    Returns:
        σ_{m+1}, or zero if fewer singular values are known.

    Raises:
        ValueError: if a singular value is not finite or the width is negative.

    Source: Adamjan, Arov, Krein 1971.
    """
    values = host_float64("singular_values", singular_values, owner="bound_error_below")
    width = require_count("width", width, minimum=0)
    return float(values[width]) if width < len(values) else 0.0


@references("li2021curse")
def bound_fixed_rate_error(
    functional: AbstractLinearFunctional, *, width: int, spacing: float
) -> float:
    """Returns the L1 error that no sum with the rates spacing, 2·spacing, … can go below.

    With `s = e^{-spacing t}` the function `ψ_n = sgn U_n(2s-1)`, n ≥ m, is orthogonal to
    `e^{-j spacing t}`, j = 1..m, hence `‖ρ - ρ̂‖_1 ≥ |∫ ψ_n ρ|`; the larger of n = m, m+1 is returned
    (their parities differ, so that slow and fast parts cannot cancel in both). ψ_n jumps at
    `t_j = -log(cos²(jπ/(2n+2)))/spacing` and the integral is a sum of step responses.

    Args:
        functional: anything with a kernel; inputs are summed as in the operator norm.
        width: m.
        spacing: distance of the rates, β/(α+1) in the theorem, in 1/time.

    Raises:
        TypeError: if the functional has no kernel.
        ValueError: if the width or spacing is not positive.

    Assumptions: none beyond integrability: this is L1 duality with Markov's canonical points.
    """
    _require_linear("functional", functional)
    width, spacing = require_count("width", width), require_positive("spacing", spacing)
    total = np.asarray(functional.laplace(np.zeros(1)))[0].real
    best = 0.0
    for n in (width, width + 1):
        jumps = canonical_lags(n, spacing)
        steps = np.asarray(functional.step_response(jumps), dtype=np.float64)
        edges = np.concatenate([np.zeros((1, *total.shape)), steps, total[None]])
        signs = (-1.0) ** np.arange(n + 1)
        value = np.tensordot(signs, np.diff(edges, axis=0), axes=1)
        best = max(best, float(np.max(np.sum(np.abs(value), axis=1))))
    return best


def canonical_lags(width: int, spacing: float) -> np.ndarray:
    """Returns the lags where L1-best sums with equispaced rates meet the kernel, ascending."""
    angle = np.arange(1, width + 1) * np.pi / (2 * (width + 1))
    return -np.log1p(-(np.sin(angle) ** 2)) / spacing


@dataclasses.dataclass(frozen=True)
class FixedRateWidth:
    """A width that equispaced rates cannot do without.

    Args:
        width: no smaller width reaches the error, whatever the spacing (a whole number held as a
            float).
        log10_width: its decimal logarithm.
        spacing: the spacing that comes nearest, in 1/time: also the slowest rate.
    """

    width: float
    log10_width: float
    spacing: float


@references("li2021curse")
def bound_fixed_rate_width(error: float, exponent: float) -> FixedRateWidth:
    """Returns the width below which no equispaced rates reach this error on `(1+t)^-(1+ω)`.

    The L1 duality of `bound_fixed_rate_error`, minimised over the spacing r: the best spacing is
    of the order of 1/m² and leaves an error of the order of `m^{-2ω}/ω`, so that
    `m ≈ (ωε)^{-1/(2ω)}`: with the theorem's rates the curse is real, not an artefact of its proof.
    For wide networks the alternating sum is taken at both ends only, where it lives; its middle
    cancels.

    Args:
        error: ε, the L1 error allowed.
        exponent: ω in (0, 1].

    Raises:
        ValueError: if the error is not positive or the exponent not in (0, 1].

    Assumptions: proved for each spacing; the minimum over spacings is computed, not proved.
    """
    error, exponent = require_positive("error", error), require_positive("exponent", exponent)
    if exponent > 1:
        raise invalid("exponent", "a number in (0, 1]", exponent)
    if error >= 1 / exponent:
        return FixedRateWidth(0.0, -math.inf, math.inf)

    def least_error(log_width: float) -> tuple[float, float]:
        centre = math.log(20.0) - 2.0 * log_width
        span = centre + np.linspace(-5.0, 5.0, 15)
        values = [_power_law_duality(log_width, float(x), exponent) for x in span]
        i = int(np.argmin(values))
        found: Any = scipy.optimize.minimize_scalar(
            lambda x: _power_law_duality(log_width, x, exponent),
            bounds=(span[max(i - 1, 0)], span[min(i + 1, 14)]),
            method="bounded",
        )
        return min((float(found.fun), float(found.x)), (float(values[i]), float(span[i])))

    low, high = 0.0, math.log(2.0)
    if least_error(low)[0] <= error:
        return FixedRateWidth(1.0, 0.0, math.exp(least_error(low)[1]))
    while least_error(high)[0] > error:
        low, high = high, 2.0 * high
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if least_error(middle)[0] > error else (low, middle)
    if high < math.log(3000.0):  # the least whole number, exactly
        while least_error(math.log(width := math.floor(math.exp(high) + 0.5)))[0] > error:
            high = math.log(width + 1)
        high = math.log(width)
    width = math.ceil(math.exp(high) * (1 - 1e-12)) if high < 34 else _exp(high)
    return FixedRateWidth(float(width), high / math.log(10), math.exp(least_error(high)[1]))


def _power_law_duality(log_width: float, log_spacing: float, exponent: float) -> float:
    """Returns |left end| + |right end| of the alternating sum: the better parity of n."""
    if log_width < math.log(3000.0):
        return max(
            _alternating_sum(n, log_spacing, exponent)
            for n in (round(math.exp(log_width)), round(math.exp(log_width)) + 1)
        )
    index = np.arange(1501)
    angle = index * (math.pi / 2 * math.exp(-np.logaddexp(log_width, 0.0)))
    log_left = np.log(np.maximum(-np.log1p(-(np.sin(angle) ** 2)), 1e-300)) - log_spacing
    log_right = np.log(-2.0 * np.log(np.sin(angle[1:]))) - log_spacing
    left = np.exp(-exponent * np.logaddexp(0.0, log_left)) / exponent
    right = np.exp(-exponent * np.logaddexp(0.0, log_right)) / exponent
    weights = _taper(1500) * (-1.0) ** index[:-1]
    first = abs(float(np.sum(weights * np.diff(left))))
    return first + abs(float(np.sum(weights * np.diff(right, prepend=0.0))))


def _alternating_sum(n: int, log_spacing: float, exponent: float) -> float:
    tails = (1.0 + canonical_lags(n, math.exp(log_spacing))) ** -exponent / exponent
    pieces = np.diff(np.concatenate([[1.0 / exponent], tails, [0.0]]))
    return abs(float(np.sum(pieces * (-1.0) ** np.arange(n + 1))))


def _taper(n_terms: int) -> np.ndarray:
    """Returns a smooth window, one at the first term and zero at the last."""
    x = np.clip((np.arange(n_terms) / n_terms - 0.125) / 0.875, 1e-9, 1 - 1e-9)
    return 1.0 / (1.0 + np.exp(np.clip(1.0 / (1.0 - x) - 1.0 / x, -700, 700)))


@references("altomare1994korovkin", "li2021curse")
def bound_erlang_error(
    functional: AbstractLinearFunctional, *, width: int, horizon: float, rtol: float = 1e-8
) -> float:
    """Returns the L1 error that the Erlang construction of this width does not exceed.

    With λ = m/T, `‖ρ - ρ̂‖_1 ≤ ∫_0^∞ √(t/λ + 1/(4λ²)) |dρ(t)| + ∫_T^∞ |ρ|` for every kernel of
    bounded variation: a chain of m equal units approximates every such memory, at the rate m^-½.
    (`ρ̂(t) = E ρ-average of the N-th bin`, N Poisson with mean λt, is an average of ρ around t; the
    sum of the crossing probabilities is `E|S - t|` for Erlang sums S of mean t.)

    Args:
        functional: anything with a kernel; its `breakpoints`, where it has any, may be jumps.
        width: m.
        horizon: T, in time.
        rtol: tolerance of the integrals.

    Raises:
        TypeError: if the functional has no kernel.
        ValueError: if the width or horizon is not positive.

    Assumptions: finite `∫ √t |dρ|`. Source: ours; the operator is that of Szász, Mirakjan and
    Kantorovich. It makes Theorem 4.1 of Li et al. 2021 constructive.
    """
    _require_linear("functional", functional)
    width, horizon = require_count("width", width), require_positive("horizon", horizon)
    rate = width / horizon
    breakpoints = tuple(getattr(functional, "breakpoints", ()))
    timescale = float(getattr(functional, "timescale", horizon))
    support = float(getattr(functional, "support", math.inf))

    def weight(t: np.ndarray) -> np.ndarray:
        return np.sqrt(t / rate + 0.25 / rate**2)

    end = min(support, 1e6 * max(horizon, timescale))
    # The variation over a cell is taken between lags, so jumps count and derivatives are not needed.
    graded = np.concatenate(
        [
            [0.0],
            np.geomspace(1e-9 * timescale, end, 60_000),
            np.linspace(0, min(end, 4 * horizon), 60_000)[1:],
            *([b * (1 - 1e-12), b * (1 + 1e-12)] for b in breakpoints),
        ]
    )
    lags = np.unique(graded[graded <= end * (1 + 1e-12)])
    values = np.asarray(functional.kernel(lags), dtype=np.float64)
    jumps = np.abs(np.diff(values, axis=0))
    spread = np.sum(jumps * weight(lags[1:])[:, None, None], axis=0)
    if math.isfinite(support):
        last = np.abs(np.asarray(functional.kernel(np.array([np.nextafter(end, 0)]))))[0]
        spread = spread + last * weight(np.array([end]))[0]
    beyond = _mass_beyond(functional, horizon, support, breakpoints, timescale, rtol)
    return float(np.max(np.sum(spread + beyond, axis=1)))


def _mass_beyond(functional, horizon, support, breakpoints, timescale, rtol) -> np.ndarray:
    if horizon >= support:
        return np.zeros((functional.n_outputs, functional.n_inputs))
    if getattr(functional, "is_completely_monotone", None):
        total = np.asarray(functional.laplace(np.zeros(1)))[0].real
        return np.abs(total - np.asarray(functional.step_response(np.array([horizon])))[0])
    end = min(support, 1e4 * horizon)
    panels = finite_panels(
        end, start=horizon, breakpoints=breakpoints, timescale=min(timescale, horizon)
    )
    panels, values = adaptive_panels(
        lambda t: np.abs(np.asarray(functional.kernel(t), dtype=np.float64)),
        panels,
        rtol=max(rtol, 1e-4),
    )
    return panel_primitive(panels, values, np.array([end]))[0]


@references("braess2005approximation", "beylkin2010approximation")
def bound_sinc_error(exponent: float, *, step: float, lowest: float, highest: float) -> float:
    """Returns the L1 error that the sinc quadrature of `(1+t)^-(1+ω)` does not exceed.

    The rates `e^{k step}` between `lowest` and `highest`. The trapezoidal error is at most
    `2 cos(y)^-p / (e^{2πy/step} - 1)` of the kernel at every lag, for every y in (0, π/2); what is
    cut off at either end is a sum of `c_k/w_k`.

    Args:
        exponent: ω > 0 (p = 1 + ω).
        step: distance of log rates.
        lowest: slowest rate kept, in 1/time.
        highest: fastest rate kept.

    Raises:
        ValueError: if a number is not positive.

    Source: trapezoidal rule for functions analytic in a strip; the constants are ours.
    """
    exponent, step = require_positive("exponent", exponent), require_positive("step", step)
    p = exponent + 1.0
    y = np.linspace(1e-3, math.pi / 2 - 1e-3, 2000)
    log_factor = -p * np.log(np.cos(y)) - np.log(np.expm1(np.minimum(2 * math.pi * y / step, 700)))
    trapezoid = 2.0 * math.exp(float(np.min(log_factor))) / exponent
    # e^{ωx - e^x} rises up to x = log ω: below it the sum is geometric.
    low = math.log(require_positive("lowest", lowest)) - step
    slow = step * math.exp(exponent * low - gammaln(p)) / -math.expm1(-exponent * step)
    k = np.arange(1, 400)
    x = math.log(require_positive("highest", highest)) + k * step
    fast = step * float(np.sum(np.exp(exponent * x - np.exp(np.minimum(x, 50.0)) - gammaln(p))))
    return trapezoid + slow + fast


@references("braess2005approximation", "beylkin2010approximation")
def bound_sinc_width(error: float, exponent: float) -> int:
    """Returns a width that is proved to suffice for `(1+t)^-(1+ω)` when the rates are free.

    The least number of nodes for which `bound_sinc_error` is below ε, over step and both ends:
    `O(log(1/ε) log(1/(ωε))/ω)`, linear in 1/ω up to a logarithm, where the bound for fixed rates
    is exponential. The slowest rate is `(ωε)^{1/ω}` up to constants: the curse moves there.

    Args:
        error: ε, the L1 error allowed.
        exponent: ω > 0.

    Raises:
        ValueError: if a number is not positive, or the error below what can be certified.
    """
    error, exponent = require_positive("error", error), require_positive("exponent", exponent)
    if error >= 1 / exponent:
        return 0
    best = math.inf
    for step in np.geomspace(0.3, 8.0, 120):
        count = _sinc_ends(error, exponent, float(step))[0]
        best = min(best, count)
    if not math.isfinite(best):
        raise invalid("error", "an error that double precision can certify", error)
    return int(best)


def _sinc_ends(error: float, exponent: float, step: float) -> tuple[float, float, float]:
    """Returns the count, lowest and highest rate for one step (infinite count if impossible)."""
    wide = bound_sinc_error(exponent, step=step, lowest=1e-300, highest=1e3)
    rest = error - wide
    if rest <= 0:
        return math.inf, 0.0, 0.0
    best = (math.inf, 0.0, 0.0)
    for index in range(-30, 31):
        highest = math.exp(index * step)
        if not 1e-8 < highest < 1e3:
            continue
        spent = bound_sinc_error(exponent, step=step, lowest=1e-300, highest=highest)
        left = error - spent
        if left <= 0:
            continue
        log_low = (
            math.log(left) + gammaln(exponent + 1) - math.log(step)
            + math.log(-math.expm1(-exponent * step))
        ) / exponent  # fmt: skip
        lowest_index = math.floor(log_low / step) + 1
        count = index - lowest_index + 1
        if 0 < count < best[0]:
            best = (count, math.exp(max(-700.0, lowest_index * step)), highest)
    return best


@references("kammler1979least", "braess1986nonlinear")
def predict_existence(
    functional: AbstractLinearFunctional, *, is_completely_monotone: bool | None = None
) -> Status:
    """Returns whether a best L2 approximation by m distinct real exponentials must exist.

    A completely monotone kernel has one, with m distinct rates and positive amplitudes
    (Kammler). Otherwise the infimum may be approached only by coalescing rates with unbounded
    amplitudes, as for `t e^{-t}`.

    Args:
        functional: the kernel; its own `is_completely_monotone` is used where it states it.
        is_completely_monotone: overrides that.

    Returns:
        `ok` (proved), `no_minimiser` (not completely monotone) or `undecided` (not known).

    Raises:
        TypeError: if the functional has no kernel.
    """
    _require_linear("functional", functional)
    known = is_completely_monotone
    if known is None:
        known = getattr(functional, "is_completely_monotone", None)
    if known:
        return Status()
    if known is None:
        return Status("undecided", "it is not known whether the kernel is completely monotone")
    return Status(
        "no_minimiser", "the kernel is not completely monotone: distinct rates may coalesce"
    )


def _require_linear(argument: str, functional: object) -> None:
    if not isinstance(functional, AbstractLinearFunctional):
        raise wrong_type(
            argument, "a linear functional (it has a memory kernel)", type(functional).__name__
        )
