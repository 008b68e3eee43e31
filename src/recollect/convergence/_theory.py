"""What is guaranteed before anything is trained: bounds on the risk, and the budget they ask for."""

from __future__ import annotations

import bisect
import dataclasses
import math
from typing import Any

import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_nonnegative,
    require_positive,
    require_probability,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect.convergence._activation import (
    SmoothActivation,
    require_bounded,
    require_smooth,
)
from recollect.convergence._network import require_even
from recollect.convergence._train import resolve_step_size

GUARANTEES = ("projected", "average", "sgd", "plain")
_SHARE = 0.25
_ROUNDING = 1e-9
_LARGEST_LOG2_WIDTH = 900
_ENDLESS = 10**200


@dataclasses.dataclass(frozen=True)
class RiskBound:
    """What is guaranteed for gradient descent, and what that is worth.

    Attributes:
        risk: the smaller of the bound and the risk at the start, if that is known.
        bound: what the theorem gives.
        initial_risk: R(0), the risk of the answer zero; NaN if it was not given.
        paper_rate: the bound with the step size treated as in paper C, for its `1/√τ`.
        optimisation: the part that falls with the number of steps.
        linearisation: the part that falls with the width.
        step_size: η.
        radius_w: ρ_w the bound is for.
        radius_u: ρ_u the bound is for.
        status: `vacuous` if the bound is not below R(0).
        confined_steps: the first steps, during which the weights stay within the radii; with data
            the best bound may come from fewer steps than are run. Zero if it was not looked at.
    """

    risk: float
    bound: float
    initial_risk: float
    paper_rate: float
    optimisation: float
    linearisation: float
    step_size: float
    radius_w: float
    radius_u: float
    status: Status = Status()
    confined_steps: int = 0

    @property
    def is_vacuous(self) -> bool:
        """True when answering zero is as good as what is guaranteed."""
        return not self.bound < self.initial_risk * (1 - _ROUNDING)


@dataclasses.dataclass(frozen=True)
class Budget:
    """The width and the steps that guarantee a risk.

    Attributes:
        width: m, even; None if it is beyond 2^900.
        n_steps: τ.
        step_size: η.
        radius_w: ρ_w of the projection (`plain`: of the drift that is allowed for).
        radius_u: ρ_u.
        bound: the bound at this width and number of steps, at most the risk asked for.
        status: `infinite` if no width is enough.
    """

    width: int | None
    n_steps: int
    step_size: float
    radius_w: float
    radius_u: float
    bound: float
    status: Status = Status()


@dataclasses.dataclass(frozen=True)
class Recursions:
    """Bounds that hold for every unit within the ball, step by step in time.

    Attributes:
        gain: `a = α_m σ_1`, the quantity whose passing 1 is the cutoff.
        gradient: L_t, bound on `‖DH_t‖`, shape (time,).
        curvature: S_t, bound on `‖D²H_t‖`, shape (time,).
    """

    gain: float
    gradient: np.ndarray
    curvature: np.ndarray


@references("cayci2024convergence")
def predict_recursions(
    *,
    horizon: int,
    alpha: float,
    radius_w: float = 0.0,
    width: float = math.inf,
    activation: str | SmoothActivation = "tanh",
    input_norm: float = 1.0,
) -> Recursions:
    """Returns the bounds on gradient and curvature of a unit's state, t = 1 … T.

    With `a = (α + ρ_w/√m) σ_1`, `B² = σ_0² + ‖X‖²`, `p_t = Σ_{k<t} a^k`:

        L_t = σ_1 B p_t,   S_t = σ_2 B² p_t² + 2σ_1² B p_{t-1} + a S_{t-1},   S_0 = 0.

    Both are O(1) in T for a < 1 and exponential for a > 1: the cutoff.

    Args:
        horizon: T.
        alpha: α.
        radius_w: ρ_w.
        width: m.
        activation: σ.
        input_norm: bound on `‖X_t‖`.

    Raises:
        ValueError: if a number is out of range or the activation has no bounded derivatives.

    Source: Cayci and Eryilmaz 2024, section 5; constants derived again.
    """
    drift = require_nonnegative("radius_w", radius_w) / math.sqrt(width)
    gain, gradient, curvature = _recursions(
        np.array([drift]), horizon, alpha, activation, input_norm
    )
    return Recursions(float(gain[0]), gradient[:, 0], curvature[:, 0])


def _recursions(
    drift: np.ndarray,
    horizon: int,
    alpha: float,
    activation: str | SmoothActivation,
    input_norm: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a, L_t and S_t for several ρ_w/√m at once, shapes (k,), (T, k), (T, k)."""
    horizon = require_count("horizon", horizon)
    smooth = require_bounded(require_smooth(activation))
    alpha = require_nonnegative("alpha", alpha)
    s0, s1, s2 = smooth.value_bound, smooth.slope_bound, smooth.curvature_bound
    b = math.hypot(s0, require_positive("input_norm", input_norm))
    gain = (alpha + drift) * s1
    p = np.zeros_like(gain)
    bent = np.zeros_like(gain)
    gradient, curvature = np.empty((2, horizon, len(gain)))
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(horizon):
            earlier, p = p, 1 + gain * p
            bent = s2 * b**2 * p**2 + 2 * s1**2 * b * earlier + gain * bent
            gradient[t], curvature[t] = s1 * b * p, bent
    for values in (gradient, curvature):
        values[np.isnan(values)] = math.inf
    return gain, gradient, curvature


@references("cayci2024convergence")
def bound_risk(
    *,
    width: int,
    n_samples: int,
    horizon: int,
    n_steps: int,
    nu_w: float,
    nu_u: float,
    alpha: float,
    method: str = "projected",
    radius_w: float | None = None,
    radius_u: float | None = None,
    delta: float = 0.05,
    activation: str | SmoothActivation = "tanh",
    step_size: float | str | None = None,
    initial_risk: float | None = None,
    input_norm: float = 1.0,
) -> RiskBound:
    """Returns a bound on the risk that gradient descent reaches, known before it runs.

    Target `F*_t = E⟨DH_t, v⟩` with `|v_w| ≤ ν_w`, `‖v_u‖ ≤ ν_u`, no noise, paired start. With
    probability at least 1-δ over the start, writing `q = 1 - ηG²`, `G² = Σ L_t²`, `ν² = ν_w²+ν_u²`,
    `E_t = [S_t(ρν + ρ²/2) + 2σ_1B p_t ν √ln(2nT/δ)]/√m`, `E² = ΣE_t²`::

        projected   (1/τ)Σ_s R(Θ(s)) ≤ x,   √x = [E + √(E² + qν²/(ητ))]/(2q),
        average     R(mean of Θ(s)) ≤ (√x + ½ρ²√(ΣS_t²)/√m)²,
        sgd         (1/τ)Σ_s R(Θ(s)) ≤ min_c [c x + r_max ln(1/δ')/τ]/(1-e^{-c}),
                    √r_max = G √(ν² + ητE²/q) + E (G with the gain ασ_1 of the start), as no
                    step is farther from the comparator; never more than the ball allows,
        plain       as projected, if 2Gη Σ√x stays below ρ, so that the ball is never left.

    The bound on the average over the steps bounds the best step too. Where `ηG² ≥ 1` (C's step
    size `1/(T√τ)` with few steps) the squared gradient is bounded by the largest risk in the ball
    instead, which is C's argument: `√x = [E + √(E² + ν²/(ητ) + 4ηG²R_max)]/2`.

    Args:
        width: m, even.
        n_samples: n.
        horizon: T.
        n_steps: τ.
        nu_w: ν_w of the target.
        nu_u: ν_u of the target.
        alpha: α.
        method: `"projected"`, `"average"`, `"sgd"` or `"plain"`.
        radius_w: ρ_w, at least ν_w; ν_w if omitted (`plain`: the least that closes the argument).
        radius_u: ρ_u, at least ν_u.
        delta: δ, probability of failure; SGD spends half of it on its draws.
        activation: σ.
        step_size: η; None for `1/(4G²)`, `"paper"` for `1/(T√τ)`.
        initial_risk: R(0) = (1/n)Σ Y², to compare with.
        input_norm: bound on `‖X_t‖`.

    Raises:
        ValueError: if the width is odd, a radius is not positive or below ν, or δ is not in (0, 1).

    Source: Cayci and Eryilmaz 2024, Theorems on projected gradient descent, its average iterate,
    stochastic and plain gradient descent; constants ours.
    """
    width = require_even("width", width)
    n_samples = require_count("n_samples", n_samples)
    n_steps = require_count("n_steps", n_steps)
    nu = require_nonnegative("nu_w", nu_w), require_positive("nu_u", nu_u)
    delta = require_probability("delta", delta)
    choose = require_choice("method", method, GUARANTEES)
    initial = (
        math.nan if initial_risk is None else require_nonnegative("initial_risk", initial_risk)
    )
    options = {
        "horizon": horizon,
        "alpha": alpha,
        "activation": activation,
        "input_norm": input_norm,
    }
    if choose == "plain":
        if radius_w is not None or radius_u is not None:
            raise invalid("radius", "none for plain gradient descent", (radius_w, radius_u))
        found = _plain(width, n_samples, n_steps, nu, delta, step_size, initial, options)
    else:
        radii = require_radii(radius_w, radius_u, nu)
        found = _projected(
            choose, width, n_samples, n_steps, nu, radii, delta, step_size, initial, options
        )
    return found


@references("cayci2024convergence")
def predict_budget(
    risk: float,
    *,
    n_samples: int,
    horizon: int,
    nu_w: float,
    nu_u: float,
    alpha: float,
    method: str = "projected",
    delta: float = 0.05,
    activation: str | SmoothActivation = "tanh",
    input_norm: float = 1.0,
) -> Budget:
    """Returns the least width, and the steps at that width, for which `bound_risk` is at most `risk`.

    Half of the risk's square root is given to the linearisation (`E ≤ q√R/2`), which sets the
    width, `m = O(ln(n/δ)/R)`; the rest sets the steps, `τ = ν²/(2ηqR)`. The radii are the least
    allowed, ρ = ν. Below the cutoff both numbers are O(1) in T per unit of risk per step.

    Args:
        risk: R to guarantee.
        n_samples: n.
        horizon: T.
        nu_w: ν_w.
        nu_u: ν_u.
        alpha: α.
        method: as in `bound_risk`.
        delta: δ.
        activation: σ.
        input_norm: bound on `‖X_t‖`.

    Returns:
        Width, steps, step size and the bound there.

    Raises:
        ValueError: if the risk is not positive, the method is unknown, or as `bound_risk`.

    Source: Cayci and Eryilmaz 2024, inverted; constants ours.
    """
    risk = require_positive("risk", risk)
    fixed: dict[str, Any] = {
        "n_samples": n_samples,
        "horizon": horizon,
        "nu_w": nu_w,
        "nu_u": nu_u,
        "alpha": alpha,
        "method": method,
        "delta": delta,
        "activation": activation,
        "input_norm": input_norm,
    }
    require_choice("method", method, GUARANTEES)

    def is_enough(width: int) -> bool:
        if method == "plain":
            return _plain_closes(width, risk, **{k: v for k, v in fixed.items() if k != "method"})
        return bound_risk(width=width, n_steps=_ENDLESS, **fixed).bound < risk

    if not is_enough(2**_LARGEST_LOG2_WIDTH):
        return Budget(
            None,
            0,
            math.nan,
            math.nan,
            math.nan,
            math.inf,
            Status("infinite", f"no width below 2^{_LARGEST_LOG2_WIDTH} is enough"),
        )
    powers = range(1, _LARGEST_LOG2_WIDTH + 1)
    log2_width = powers[bisect.bisect_left(powers, True, key=lambda k: is_enough(2**k))]
    low, high = 2 ** (log2_width - 1), 2**log2_width
    while high - low > max(2, high // 1000):
        middle = (low + high) // 4 * 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    width = 4 * high
    n_steps, bound = _least_steps(risk, lambda n: bound_risk(width=width, n_steps=n, **fixed))
    return Budget(width, n_steps, bound.step_size, bound.radius_w, bound.radius_u, bound.bound)


def _least_steps(risk: float, bound_at: Any) -> tuple[int, RiskBound]:
    low, high = 0, 1
    while bound_at(high).bound > risk:
        low, high = high, 2 * high
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if bound_at(middle).bound <= risk else (middle, high)
    return high, bound_at(high)


def _plain_closes(
    width: int,
    risk: float,
    *,
    n_samples: int,
    nu_w: float,
    nu_u: float,
    delta: float,
    **options: Any,
) -> bool:
    """Says whether some drift ρ allows the steps that the risk needs: 2Gν²√R/D ≤ ρ."""
    nu_all = math.hypot(nu_w, nu_u)
    rho, error, squared = _on_drifts(width, nu_all, n_samples, delta, options)
    with np.errstate(over="ignore", invalid="ignore"):
        price = 4 * (1 - _SHARE) * risk - 4 * error * math.sqrt(risk)
        drift = 2 * np.sqrt(squared * risk) * nu_all**2 / price
        return bool(np.any((price > 0) & (drift <= rho)))


def _on_drifts(
    width: int, nu_all: float, n_samples: int, delta: float, options: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns drifts ρ, and at each what linearising and sampling cost and G², the gradient's bound."""
    root = math.sqrt(width)
    rho = nu_all * np.geomspace(1e-3, 1e6, 361)
    _, gradient, curvature = _recursions(rho / root, **options)
    start = predict_recursions(**options)
    with np.errstate(over="ignore", invalid="ignore"):
        sampled = _sampling(start, nu_all, n_samples, delta)
        bent = curvature * (rho * nu_all + rho**2 / 2)
        error = np.linalg.norm((bent + sampled[:, None]) / root, axis=0)
        return rho, error, np.sum(gradient**2, axis=0)


def require_radii(radius_w: Any, radius_u: Any, nu: tuple[float, float]) -> tuple[float, float]:
    """Returns the radii of the projection, ν where omitted; refuses radii below ν."""
    chosen = []
    for name, radius, least in (("radius_w", radius_w, nu[0]), ("radius_u", radius_u, nu[1])):
        value = least if radius is None else require_positive(name, radius)
        if value < least * (1 - 1e-12):
            raise invalid(
                name,
                f"at least ν = {least:g}",
                value,
                "a target outside the ball is not covered by the theorem",
            )
        chosen.append(value)
    return chosen[0], chosen[1]


def solve_descent(error: float, price: float, curvature_share: float) -> float:
    """Returns the x with `4q x - 4E√x = D`: what `Σ_s (4q R - 4E√R) ≤ τD` leaves for the mean of R."""
    q = 1 - curvature_share
    if q <= 0:
        return math.inf
    return ((error + math.sqrt(error**2 + q * price)) / (2 * q)) ** 2


def solve_descent_bounded(error: float, price: float, gradient: float) -> float:
    """Returns the same when η²‖∇R‖² is bounded by `gradient·η`: C's argument, any η."""
    return ((error + math.sqrt(error**2 + price + gradient)) / 2) ** 2


def bound_draws(online: float, largest: float, n_steps: int, delta: float) -> float:
    """Returns a bound on the mean of R from the mean of the drawn risks, with probability 1-δ.

    `E[e^{-λr}] ≤ exp(-R(1-e^{-λM})/M)` for 0 ≤ r ≤ M of mean R makes
    `exp(Σ[R(1-e^{-c})/M - cr/M])` a supermartingale; c is chosen before the draws.
    """
    if not (math.isfinite(online) and math.isfinite(largest)):
        return math.inf
    tail = largest * math.log(1 / delta) / n_steps
    choices = np.geomspace(1e-4, 20, 400)
    return float(np.min((choices * online + tail) / -np.expm1(-choices)))


def _terms(
    width: int,
    n_samples: int,
    nu: tuple[float, float],
    radii: tuple[float, float],
    delta: float,
    options: dict[str, Any],
) -> tuple[Recursions, float, float, float, float, float]:
    """Returns the recursions and G², E, ½ρ²√ΣS²/√m, ν, ρ."""
    rho, nu_all = math.hypot(*radii), math.hypot(*nu)
    found = predict_recursions(radius_w=radii[0], width=width, **options)
    # The comparator's linearised output is taken at the start, where the gain is ασ_1.
    start = predict_recursions(**options)
    root = math.sqrt(width)
    with np.errstate(over="ignore"):
        bent = found.curvature * (rho * nu_all + rho**2 / 2)
        sampled = _sampling(start, nu_all, n_samples, delta)
        error = float(np.linalg.norm((bent + sampled) / root))
        averaged = float(rho**2 / 2 * np.linalg.norm(found.curvature) / root)
        squared = float(np.sum(found.gradient**2))
    return found, squared, error, averaged, nu_all, rho


def _sampling(start: Recursions, nu: float, n_samples: int, delta: float) -> np.ndarray:
    """Returns Hoeffding's √m-fold deviation of m/2 independent pairs, over all nT outputs."""
    log = math.log(2 * n_samples * len(start.gradient) / delta)
    return 2 * start.gradient * nu * math.sqrt(log)


def _projected(
    choose: str,
    width: int,
    n_samples: int,
    n_steps: int,
    nu: tuple[float, float],
    radii: tuple[float, float],
    delta: float,
    step_size: float | str | None,
    initial: float,
    options: dict[str, Any],
) -> RiskBound:
    spent = delta / 2 if choose == "sgd" else delta
    found, squared, error, averaged, nu_all, rho = _terms(
        width, n_samples, nu, radii, spent, options
    )
    if not math.isfinite(squared * error):
        return judge(math.inf, initial, math.inf, math.inf, math.inf, 0.0, radii)
    eta = (
        _SHARE / squared
        if step_size is None
        else resolve_step_size(step_size, horizon=options["horizon"], n_steps=n_steps)
    )
    start = predict_recursions(**options)
    largest = float(np.sum((found.gradient * rho + start.gradient * nu_all) ** 2))

    def outcome(x: float) -> float:
        if choose == "average":
            return (math.sqrt(x) + averaged) ** 2
        return bound_draws(x, seen, n_steps, delta / 2) if choose == "sgd" else x

    price = nu_all**2 / (eta * n_steps)
    seen = largest
    if eta * squared < 1:
        # No step is farther from the comparator than this.
        far = nu_all**2 + eta * n_steps * error**2 / (1 - eta * squared)
        steep = float(np.linalg.norm(start.gradient))
        seen = min(largest, (steep * math.sqrt(far) + error) ** 2)
    paper = outcome(solve_descent_bounded(error, price, 4 * eta * squared * largest))
    bound = min(outcome(solve_descent(error, price, eta * squared)), paper)
    floor = outcome(solve_descent(error, 0.0, min(eta * squared, 0.5)))
    return judge(bound, initial, paper, bound - min(floor, bound), min(floor, bound), eta, radii)


def _plain(
    width: int,
    n_samples: int,
    n_steps: int,
    nu: tuple[float, float],
    delta: float,
    step_size: float | str | None,
    initial: float,
    options: dict[str, Any],
) -> RiskBound:
    """Finds the least drift ρ that closes the argument: inside the ball x(ρ) holds and keeps it so."""
    nu_all = math.hypot(*nu)
    rho, error, squared = _on_drifts(width, nu_all, n_samples, delta, options)
    for place in np.flatnonzero(np.isfinite(error * squared)):
        eta = (
            _SHARE / squared[place]
            if step_size is None
            else resolve_step_size(step_size, horizon=options["horizon"], n_steps=n_steps)
        )
        x = solve_descent(error[place], nu_all**2 / (eta * n_steps), eta * squared[place])
        if 2 * eta * math.sqrt(squared[place]) * n_steps * math.sqrt(x) <= rho[place]:
            floor = min(x, solve_descent(error[place], 0.0, eta * squared[place]))
            radius = float(rho[place])
            return judge(x, initial, x, x - floor, floor, float(eta), (radius, radius))
    return judge(math.inf, initial, math.inf, math.inf, math.inf, math.nan, (math.inf, math.inf))


def judge(
    bound: float,
    initial: float,
    paper: float,
    optimisation: float,
    linearisation: float,
    eta: float,
    radii: tuple[float, float],
) -> RiskBound:
    """Returns the bound with its verdict: vacuous where it is not below the risk of zero."""
    status = Status()
    if not math.isfinite(bound):
        status = Status("vacuous", "the argument does not close at this width and number of steps")
    elif bound >= initial * (1 - _ROUNDING):
        status = Status(
            "vacuous", f"the bound {bound:.3g} is not below R(0) = {initial:.3g}, the risk of zero"
        )
    risk = bound if math.isnan(initial) else min(bound, initial)
    return RiskBound(
        risk, bound, initial, paper, optimisation, linearisation, eta, radii[0], radii[1], status
    )


def initial_risk_of(targets: Any) -> float:
    """Returns R(0) = (1/n) Σ_j Σ_t Y_jt², the risk of the answer zero."""
    values = host_float64("targets", targets, owner="recollect.convergence")
    return float(np.sum(values**2) / len(values))
