"""Does momentum shorten a plateau? Exact on quadratics, integrated on the loss itself."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.integrate
import scipy.optimize

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_nonnegative,
    require_positive,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread

_QUANTITIES = ("loss", "distance")
# exp overflows at 709; nothing within a gap of interest is that far out.
_LARGEST_EXPONENT = 600.0


@dataclasses.dataclass(frozen=True)
class QuadraticEscape:
    """When a method leaves the neighbourhood of its start on a quadratic loss.

    Attributes:
        time: of the method's own ordinary differential equation; infinite if it never leaves.
        rate: exponential growth rate of the fastest direction, zero or below if none grows.
        status: `infinite` with the reason if it never leaves.
    """

    time: float
    rate: float
    status: Status = Status()


@references("li2021curse")
def predict_quadratic_escape(
    eigenvalues: Any,
    start: Any,
    *,
    gap: float,
    friction: float | None = None,
    quantity: str = "loss",
) -> QuadraticEscape:
    """Returns when gradient flow or heavy ball leaves its start on `½ Σ λ_i θ_i²`, exactly.

    Gradient flow: `θ_i(t) = θ_i(0) e^{-λ_i t}`. Heavy ball from rest, `θ'' + γ θ' + λ θ = 0`:

        θ_i(t) = θ_i(0) e^{-γt/2} [cosh(dt) + (γ/2d) sinh(dt)],   d² = γ²/4 - λ_i.

    The time is the first at which the loss, or the parameters, have moved by `gap`. With
    λ = -ε the growth rates are ε and `(√(γ²+4ε) - γ)/2`: of order √ε for friction γ = O(√ε),
    and ε/γ for a fixed friction, which is gradient flow at another speed.

    Args:
        eigenvalues: λ_i of the Hessian, shape (n,).
        start: θ_i(0) in the eigenvectors' coordinates, shape (n,).
        gap: change of the loss (`quantity="loss"`) or Euclidean distance that counts as leaving.
        friction: γ of heavy ball, in 1/time; None for gradient flow.
        quantity: `"loss"` or `"distance"`.

    Returns:
        The time, the growth rate and a status.

    Raises:
        ValueError: if shapes differ or a number is out of range.

    Source: Li et al. 2021, appendix E, equations (152)-(154).
    """
    owner = "predict_quadratic_escape"
    values = np.atleast_1d(host_float64("eigenvalues", eigenvalues, owner=owner))
    theta = np.atleast_1d(host_float64("start", start, owner=owner))
    if values.ndim != 1 or values.shape != theta.shape:
        raise invalid("start", f"shape {values.shape}", f"shape {theta.shape}")
    gap = require_positive("gap", gap)
    require_choice("quantity", quantity, _QUANTITIES)
    if friction is not None:
        friction = require_nonnegative("friction", friction)
    rates = np.array([growth_rate(value, friction=friction) for value in values])
    moving = rates[theta != 0]
    fastest = float(moving.max(initial=-math.inf))

    def moved(t: float) -> float:
        path = theta * _propagator(values, t, friction)
        if quantity == "distance":
            return float(np.linalg.norm(path - theta))
        return float(abs(0.5 * np.sum(values * (path**2 - theta**2))))

    time = _first_crossing(moved, gap, values, rates, friction)
    if time is not None:
        return QuadraticEscape(time, fastest)
    reason = (
        "no direction of negative curvature is excited"
        if fastest <= 0
        else "the gap lies beyond what float64 can follow"
    )
    return QuadraticEscape(math.inf, fastest, Status("infinite", reason))


def growth_rate(eigenvalue: float, *, friction: float | None = None) -> float:
    """Returns the growth rate of a direction of curvature `eigenvalue`, negative if it decays."""
    if friction is None:
        return -float(eigenvalue)
    square = friction**2 / 4 - eigenvalue
    if square <= 0:
        return -friction / 2
    # The difference cancels for a small curvature: the product of both roots is the eigenvalue.
    return float(-eigenvalue / (friction / 2 + math.sqrt(square)))


@references("li2021curse")
def predict_momentum_gain(
    curvature: float, *, step_size: float, momentum: float
) -> tuple[float, float]:
    """Returns how many times faster heavy ball leaves than gradient descent, and the best it could.

    The update `θ_{k+1} = θ_k - η ∇J + ρ(θ_k - θ_{k-1})` grows by the larger root of
    `z² - (1 + ρ + ηε) z + ρ = 0` per step, gradient descent by `1 + ηε`. The ratio of the
    logarithms is the gain in steps: `1/(1-ρ)` while `ηε ≪ (1-ρ)²`, at most about `1/√(ηε)`.

    Args:
        curvature: ε, the size of the negative eigenvalue.
        step_size: η.
        momentum: ρ in [0, 1].

    Returns:
        The gain at this momentum and the gain at ρ = 1.

    Raises:
        ValueError: if the curvature or step size is not positive, or the momentum not in [0, 1].

    Source: Li et al. 2021, appendix E, equation (153).
    """
    small = require_positive("curvature", curvature) * require_positive("step_size", step_size)
    momentum = require_nonnegative("momentum", momentum)
    if momentum > 1:
        raise invalid("momentum", "a number from 0 to 1", momentum)

    def log_growth(rho: float) -> float:
        # z - 1 = u solves u² + (1 - ρ - ηε) u - ηε = 0, without cancellation.
        b = 1 - rho - small
        root = math.sqrt(b * b + 4 * small)
        return math.log1p(2 * small / (b + root) if b > 0 else (root - b) / 2)

    plain = math.log1p(small)
    return log_growth(momentum) / plain, log_growth(1.0) / plain


@dataclasses.dataclass(frozen=True)
class MomentumPath:
    """A heavy-ball trajectory on the exact loss, ended by its escape or the end of time.

    Attributes:
        escape_time: first time at which it had moved by the gap; infinite if it did not.
        times: shape (point,).
        amplitudes: shape (point, width).
        rates: shape (point, width).
        losses: shape (point,).
        status: `infinite` if the end of time came first, `failed` if the solver gave up.
        stats: solver steps and evaluations.
    """

    escape_time: float
    times: np.ndarray
    amplitudes: np.ndarray
    rates: np.ndarray
    losses: np.ndarray
    status: Status
    stats: dict[str, float]


@on_one_thread
@references("li2021curse")
def solve_momentum_flow(
    loss: Any,
    amplitudes: Any,
    rates: Any,
    *,
    friction: float | None,
    flow_time: float,
    gap: float = math.inf,
    quantity: str = "distance",
    rtol: float = 1e-7,
) -> MomentumPath:
    """Returns the path of `θ'' + γ θ' = -∇J(θ)` from rest, until it has moved by `gap`.

    `friction=None` is the gradient flow `θ' = -∇J(θ)` by the same solver, for comparison.
    Implicit Runge-Kutta (Radau) with the exact Hessian. With momentum ρ and step size η of the
    discrete method, γ = (1-ρ)/√η and one step is √η of this time (η of gradient flow's).

    Args:
        loss: from `training.exact_loss`.
        amplitudes: start, shape (width,).
        rates: start, positive, shape (width,).
        friction: γ ≥ 0, in 1/time; None for gradient flow.
        flow_time: when to give up.
        gap: distance of the weights from the start, or change of the loss, that counts as escape.
        quantity: `"distance"` or `"loss"`.
        rtol: relative tolerance of the solver.

    Returns:
        The path with its escape time.

    Raises:
        ValueError: for rates that are not positive or numbers out of range.
    """
    owner = "solve_momentum_flow"
    a = np.atleast_1d(host_float64("amplitudes", amplitudes, owner=owner))
    w = np.atleast_1d(host_float64("rates", rates, owner=owner))
    if a.ndim != 1 or a.shape != w.shape:
        raise invalid("rates", f"shape {a.shape}, as the amplitudes", f"shape {w.shape}")
    if (w <= 0).any():
        raise invalid("rates", "positive rates", f"{w.min():g}")
    flow_time = require_positive("flow_time", flow_time)
    if not (gap > 0):
        raise invalid("gap", "a positive number", gap)
    require_choice("quantity", quantity, _QUANTITIES)
    if friction is not None:
        friction = require_nonnegative("friction", friction)
    m = len(a)
    n = 2 * m
    theta = np.concatenate([a, w])
    start_loss = float(loss(a, w))

    def gradient(theta: np.ndarray) -> np.ndarray:
        return np.asarray(loss.gradient(theta[:m], np.maximum(theta[m:n], 1e-12)))

    def field(_: float, y: np.ndarray) -> np.ndarray:
        slope = gradient(y)
        return -slope if friction is None else np.concatenate([y[n:], -friction * y[n:] - slope])

    def jacobian(_: float, y: np.ndarray) -> np.ndarray:
        hessian = np.asarray(loss.hessian(y[:m], np.maximum(y[m:n], 1e-12)))
        if friction is None:
            return -hessian
        eye = np.eye(n)
        return np.block([[np.zeros((n, n)), eye], [-hessian, -friction * eye]])

    def escaped(_: float, y: np.ndarray) -> float:
        if quantity == "distance":
            return float(np.linalg.norm(y[:n] - theta)) - gap
        return abs(float(loss(y[:m], np.maximum(y[m:n], 1e-12))) - start_loss) - gap

    escaped.terminal = True  # pyright: ignore[reportFunctionMemberAccess]
    begin = theta if friction is None else np.concatenate([theta, np.zeros(n)])
    found = scipy.integrate.solve_ivp(
        field,
        (0.0, flow_time),
        begin,
        method="Radau",
        jac=jacobian,
        rtol=rtol,
        # On a plateau the motion itself is as small as the gradient: it must be resolved.
        atol=rtol * min(1.0, max(float(np.abs(gradient(theta)).max()), 1e-12)),
        events=escaped if math.isfinite(gap) else None,
    )
    path_a, path_w = found.y[:m].T, found.y[m:n].T
    losses = np.asarray(loss(path_a, np.maximum(path_w, 1e-12)))
    stats = {"n_evaluations": float(found.nfev), "n_hessians": float(found.njev)}
    escape, status = math.inf, Status("infinite", f"no escape within {flow_time:g}")
    if found.status == 1:
        escape, status = float(found.t_events[0][0]), Status()
    elif found.status < 0:
        status = Status("failed", f"the solver stopped at {found.t[-1]:g}: {found.message}")
    elif not math.isfinite(gap):
        status = Status()
    return MomentumPath(escape, found.t, path_a, path_w, losses, status, stats)


def _propagator(values: np.ndarray, t: float, friction: float | None) -> np.ndarray:
    if friction is None:
        return np.exp(np.minimum(-values * t, _LARGEST_EXPONENT))
    square = friction**2 / 4 - values
    d = np.sqrt(np.abs(square))
    decay = np.array([growth_rate(value, friction=friction) for value in values])
    grown = np.exp(np.minimum(decay * t, _LARGEST_EXPONENT))
    shrink = np.expm1(-2 * d * t)
    with np.errstate(divide="ignore", invalid="ignore"):
        odd = np.where(d * t > 1e-8, -shrink / (2 * d), t)
        real = grown * (1 + shrink / 2 + friction / 2 * odd)
        wave = np.where(d * t > 1e-8, np.sin(d * t) / d, t)
    swing = math.exp(-friction * t / 2) * (np.cos(d * t) + friction / 2 * wave)
    return np.where(square > 0, real, swing)


def _first_crossing(
    moved: Any, gap: float, values: np.ndarray, rates: np.ndarray, friction: float | None
) -> float | None:
    """Returns the first time `moved` reaches `gap`; the path is followed at its fastest scale."""
    swing = np.abs(values) if friction is None else np.sqrt(np.abs(values)) + friction
    fastest = float(swing.max(initial=0.0))
    if fastest == 0:
        return None
    growing = rates[rates > 0]
    longest = _LARGEST_EXPONENT / float(growing.min()) if len(growing) else 60 / fastest
    if not len(growing):
        decaying = -rates[rates < 0]
        longest = 60 / float(decaying.min()) if len(decaying) else 60 / fastest
    # Decaying modes pass within a few of their own times: fine steps first, then geometric ones.
    early = np.linspace(0, min(60 / fastest, longest), 600)[1:]
    late = np.geomspace(early[-1], longest, 2000)[1:]
    before = 0.0
    for t in np.concatenate([early, late]):
        if moved(t) >= gap:
            root: Any = scipy.optimize.brentq(
                lambda s: moved(s) - gap, before, t, xtol=1e-300, rtol=np.float64(1e-14)
            )
            return float(root)
        before = float(t)
    return None
