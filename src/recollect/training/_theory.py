"""What is proved about the stall: a lower bound on its length, and the linear theory of its start."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.optimize

from recollect._core._check import invalid, require_choice, require_positive
from recollect._core._references import references
from recollect._core._status import Status
from recollect.targets import kernel_quadrature
from recollect.training._loss import ExactLoss


@references("li2021curse")
def bound_hitting_time(
    loss: ExactLoss, amplitudes: Any, rates: Any, *, delta: float, of: str = "parameters"
) -> float:
    """Returns a flow time before which the start has provably not left its plateau.

    While `|θ - θ_0| ≤ r` the loss falls by at most `J̄_0 + 2 r S(r)`, where ρ̄ are the exponentials
    of the target, R is its rest, `J̄_0 = ‖ρ̂_0 - ρ̄‖²` (zero on a plateau) and
    `S(r)² = Σ_k [L⁺(w_k-r)² + (|a_k|+r)² |L⁺'(w_k-r)|²]`, `L⁺` the Laplace transform of |R|.
    Since `(∫|∇J|)² ≤ τ ∫|∇J|²` along the flow, moving by δ takes
    `τ_0 ≥ max_{r ≤ δ} r²/(J̄_0 + 2 r S(r))`. With a delay 1/ω the best r is of order ω and the bound
    of order `ω² e^{w_min/ω}`: Theorem 5.1 with its constant, and with c = w_min.

    Args:
        loss: from `exact_loss`, white noise.
        amplitudes: start a, shape (width,).
        rates: start w > 0, shape (width,).
        delta: δ.
        of: `parameters` (τ_0), or `loss` (τ): the loss cannot have fallen by δ before the weights
            have moved so far that `J̄_0 + 2 r S(r) = δ`.

    Returns:
        The bound; infinite if nothing is left of the target beyond its exponentials and the start
        fits them.

    Raises:
        ValueError: if δ is not positive, `of` is unknown, or the loss is one for a coloured input.

    Source: Li et al. 2021, Theorem 5.1 and C.1; the constant and this proof are ours.
    """
    require_choice("of", of, ("parameters", "loss"))
    delta = require_positive("delta", delta)
    a, w = (np.asarray(v, float) for v in (amplitudes, rates))
    if loss.spectrum is not None:
        raise invalid("loss", "white-noise input", "a coloured one", "the bound is for white noise")
    excess = max(0.0, float(loss.misfit(a, w)))
    # On a plateau the misfit is a rounding error of the terms that cancel.
    excess = 0.0 if excess < 1e-14 * max(1.0, float(np.sum(np.abs(a)) ** 2)) else excess
    if loss.rest is None:
        return math.inf if excess == 0 else delta**2 / excess
    rule = kernel_quadrature(loss.rest, rtol=1e-10)
    t, size = np.asarray(rule.nodes), np.abs(np.asarray(loss.rest.kernel(rule.nodes))[:, 0, 0])
    mass = size * np.asarray(rule.weights)

    def fall(r: float) -> float:
        decay = np.exp(-np.outer(w - r, t))
        first, second = decay @ mass, (np.abs(a) + r) * (decay @ (t * mass))
        return excess + 2 * r * float(np.sqrt(np.sum(first**2 + second**2)))

    largest = min(delta, 0.999 * float(w.min())) if of == "parameters" else 0.999 * float(w.min())
    radii = largest * np.geomspace(1e-6, 1.0, 200)
    falls = np.array([fall(r) for r in radii])
    if of == "loss":
        # The loss can only have fallen by δ outside of every ball in which it cannot.
        safe = radii[falls < delta]
        if not len(safe):
            return 0.0
        radii, falls = safe, falls[: len(safe)]
    return float(np.max(radii**2 / falls))


@dataclasses.dataclass(frozen=True)
class LinearEscape:
    """The linearised flow's forecast, with the check whether it may be believed.

    Attributes:
        value: τ_0 of `θ(τ) - θ_0 = -∫_0^τ e^{-Hs} ds ∇J(θ_0)`.
        is_valid: whether the true gradient at the place forecast is what the linear model says it
            is, within a half.
        discrepancy: that difference, relative.
        status: `ok`, or `precision_limit` outside of its region.
    """

    value: float
    is_valid: bool
    discrepancy: float
    status: Status


@references("li2021curse")
def predict_linear_escape(
    loss: ExactLoss, amplitudes: Any, rates: Any, *, delta: float
) -> LinearEscape:
    """Returns when the linearised gradient flow has moved the weights by δ.

    Valid while δ is small against `e^{-w_min/(2ω)}`; beyond that the flow is of second order and
    this forecast is wrong by factors of `e^{w_min/ω}`: `is_valid` then says so.

    Args:
        loss: from `exact_loss`.
        amplitudes: start a, shape (width,).
        rates: start w > 0, shape (width,).
        delta: δ, the distance moved.

    Raises:
        ValueError: if δ is not positive.

    Source: Li et al. 2021, Appendix C.
    """
    delta = require_positive("delta", delta)
    a, w = (np.asarray(v, float) for v in (amplitudes, rates))
    m = len(a)
    g, H = loss.gradient_and_hessian(a, w)
    values, vectors = np.linalg.eigh(H)
    force = -vectors.T @ g

    def moved(log_time: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.linalg.norm(force * _growth(values, math.exp(log_time)))) - delta

    low, high = -30.0, 60.0
    if not np.linalg.norm(g) > 0 or moved(high) < 0:
        return LinearEscape(math.inf, False, math.inf, Status("infinite", "the linear flow stays"))
    while not math.isfinite(moved(high)) and high > low:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if moved(middle) < 0 else (low, middle)
        if high - low < 1e-9:
            break
    time = math.exp(scipy.optimize.brentq(moved, low, high, xtol=1e-12))  # type: ignore[arg-type]
    shift = vectors @ (force * _growth(values, time))
    there = np.concatenate([a, w]) + shift
    if (there[m:] <= 0).any():
        discrepancy = math.inf
    else:
        model = g + H @ shift
        true = loss.gradient(there[:m], there[m:])
        discrepancy = float(np.linalg.norm(true - model) / max(np.linalg.norm(model), 1e-300))
    valid = discrepancy <= 0.5
    status = (
        Status()
        if valid
        else Status(
            "precision_limit", f"outside its region: the gradient there is off by {discrepancy:.1e}"
        )
    )
    return LinearEscape(time, valid, discrepancy, status)


def predict_escape_exponent(*, delta: float, delay: float, slowest_rate: float) -> float:
    """Returns c in `log τ_0 ~ c/ω`: between one and two slowest rates, by the size of δ.

    On an exact plateau the gradient is orthogonal to the null space of the unperturbed Hessian, so
    the escape is of second order: `c = 2 w_min` for a fixed δ, crossing over to `c = w_min` while
    `δ ≪ e^{-w_min/(2ω)}`. The crossover is placed at `δ = e^{-w_min/(2ω)}`. Local slopes differ from
    c by multiples of ω.

    Args:
        delta: δ, the distance moved.
        delay: 1/ω.
        slowest_rate: w_min of the start.

    Raises:
        ValueError: if a number is not positive.

    Source: ours, measured; half derived. See the page on training dynamics.
    """
    delta, delay = require_positive("delta", delta), require_positive("delay", delay)
    slowest_rate = require_positive("slowest_rate", slowest_rate)
    return slowest_rate if delta < math.exp(-0.5 * slowest_rate * delay) else 2 * slowest_rate


def _growth(values: np.ndarray, time: float) -> np.ndarray:
    """Returns `∫_0^τ e^{-λs} ds`, also where λ is zero."""
    x = values * time
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return np.where(np.abs(x) < 1e-8, time, -np.expm1(-x) / np.where(values == 0, 1, values))
