"""What is proved about moving weights: criteria of parameterisations, bounds, Theorem 3.9's rate."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from recollect._core._check import invalid, require_choice, require_nonnegative, wrong_type
from recollect._core._functional import AbstractRecurrent, AbstractReparam
from recollect._core._references import references
from recollect.memory import MemoryLaw, predict_exponential_order
from recollect.models import (
    GRU,
    DiagonalRNN,
    Direct,
    DiscreteDirect,
    DiscreteInverseSquare,
    Exponential,
    InverseSquare,
    LinearRNN,
    Relu,
    ResidualRNN,
    Softplus,
)

MOVING = ("all", "rates", "fixed_readin")
_KNOWN = (
    Direct,
    DiscreteDirect,
    DiscreteInverseSquare,
    Exponential,
    InverseSquare,
    Relu,
    Softplus,
)


@references("wang2024stablessm", "wang2024inverse")
def predict_criterion(reparam: AbstractReparam, radius: float) -> float:
    """Returns g(β): how far, relatively, a rate moves at most when its weight moves by β.

    `g(β) = sup_v sup_{|ṽ-v| ≤ β} |f(v)/f(ṽ) - 1|`, the stable-reparameterisation criterion for real
    rates. Exponential and softplus: `e^β - 1`. Inverse square `1/(av²+b)`:
    `a(β² + β√(β²+4b/a))/(2b)`. Direct and relu: infinite. For maps onto the multiplier α of one step
    the same of `1 - α`, which is what `Σ_k |α̃^k - α^k|` asks for: discrete inverse square as above,
    discrete direct infinite.

    Args:
        reparam: a parameterisation of `recollect.models`.
        radius: β ≥ 0.

    Raises:
        TypeError: if no closed form is known: use `measure_criterion`.
    """
    radius = require_nonnegative("radius", radius)
    if not isinstance(reparam, _KNOWN):
        raise wrong_type(
            "reparam",
            "a map with a known criterion",
            type(reparam).__name__,
            "use measure_criterion",
        )
    if radius == 0:
        return 0.0
    if isinstance(reparam, (Exponential, Softplus)):
        return math.expm1(radius)
    if isinstance(reparam, (InverseSquare, DiscreteInverseSquare)):
        a, b = reparam.scale, reparam.offset
        return a * (radius**2 + radius * math.sqrt(radius**2 + 4 * b / a)) / (2 * b)
    return math.inf


@references("wang2024stablessm")
def predict_gradient_scale(reparam: AbstractReparam, weight: Any) -> np.ndarray:
    """Returns `|f'(v)|/f(v)²`: how steep the memory of a unit, `∫ e^{-wt} dt`, is in its weight.

    Direct `1/v²`, exponential `e^{-v}`, softplus `σ(v)/f(v)²`, inverse square `2a|v|`. For maps onto
    the multiplier α of one step `|α'|/(1-α)²`, the same of `Σ_k α^k`: discrete direct `1/(1-v)²`,
    discrete inverse square `2a|v|`. In the time scale τ = 1/w of the unit: `τ²` direct, about `τ`
    for the exponential, `√τ` for the inverse square.

    Args:
        reparam: a parameterisation of `recollect.models`.
        weight: v, any shape.

    Returns:
        Shape of `weight`; infinite where a rate is zero.

    Raises:
        TypeError: if no closed form is known: use `measure_gradient_scale`.
    """
    v = np.asarray(weight, float)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if isinstance(reparam, (Direct, DiscreteDirect)):
            return 1 / (v if isinstance(reparam, Direct) else 1 - v) ** 2
        if isinstance(reparam, Relu):
            return np.where(v > 0, 1 / v**2, np.inf)
        if isinstance(reparam, Exponential):
            return np.exp(-v)
        if isinstance(reparam, Softplus):
            # Below -30 the rate is e^v to the last digit, and the quotient would be 0/0.
            rate = np.maximum(v, 0) + np.log1p(np.exp(-np.abs(v)))
            return np.where(v < -30, np.exp(-v), np.exp(-np.logaddexp(0, -v)) / rate**2)
        if isinstance(reparam, (InverseSquare, DiscreteInverseSquare)):
            return 2 * reparam.scale * np.abs(v)
    raise wrong_type(
        "reparam",
        "a map with a known gradient scale",
        type(reparam).__name__,
        "use measure_gradient_scale",
    )


@references("wang2024inverse")
def bound_perturbation_error(model: DiagonalRNN, radius: float, *, of: str = "all") -> float:
    """Returns an L1 distance of kernels that no perturbation of size β exceeds.

    `Σ|c_iu_i| D_i + β(‖uR‖₂ + ‖cR‖₂) + β² max R` for the kernel `Σ c_i u_i e^{-f(v_i)t}`, where
    `R_i = sup 1/f(ṽ_i)` and `D_i = sup |1/f(ṽ_i) - 1/f(v_i)|` over `|ṽ_i - v_i| ≤ β`; the first
    term alone if only the rates move, the first two without the read-in's part if it is fixed. Holds
    for the Euclidean ball and for the paper's. A network with the normalised read-in gets the same
    with `D_i = sup ∫|w̃e^{-w̃t} - we^{-wt}| ≤ 2` and `R_i = 1`.

    Args:
        model: a diagonal network of real rates, continuous, one input and output.
        radius: β.
        of: `all` weights (v, B, C), `rates` only, or `fixed_readin`: all but B.

    Returns:
        The bound; infinite if a rate may reach zero.

    Raises:
        TypeError: if the model is no diagonal network.
        ValueError: if it is not as above, the radius is negative or `of` is unknown.

    Source: ours, for Definition 3.4 of Wang et al. 2024.
    """
    require_choice("of", of, MOVING)
    radius = require_nonnegative("radius", radius)
    v, u, c = real_weights(model)
    slowest, change = _reach(model.reparam, v, radius)
    if model.readin == "normalised" and np.isfinite(slowest).all():
        change = _density_change(model.reparam, v, radius)
        slowest = np.ones_like(slowest)
    with np.errstate(invalid="ignore"):
        moved = float(np.sum(np.where(c * u == 0, 0.0, np.abs(c * u) * change)))
    if of == "rates" or not np.isfinite(slowest).all():
        return moved if np.isfinite(slowest).all() else math.inf
    # Slow rates overflow when squared.
    largest = float(slowest.max())
    spread = largest * float(np.linalg.norm(u * (slowest / largest)))
    if of == "fixed_readin":
        return moved + radius * spread
    spread += largest * float(np.linalg.norm(c * (slowest / largest)))
    return float(moved + radius * spread + radius**2 * largest)


@references("wang2024inverse")
def bound_normalised_error(model: DiagonalRNN, radius: float) -> float:
    """Returns the same bound for the normalised read-in `Σ c_i u_i f(v_i) e^{-f(v_i)t}`, all weights.

    `2 min(g(β), 1) Σ|c_iu_i| + β(‖c‖₂ + ‖u‖₂) + β²`: it knows no rate, so it is the same for a network
    of any width and any slowness whose amplitudes are bounded. With the plain read-in the slowest unit
    multiplies the perturbation of its amplitude by `1/w_min`, whatever the parameterisation.

    Args:
        model: a diagonal network of real rates; if its read-in is plain, its B is divided by its
            rates here.
        radius: β.

    Returns:
        The bound; infinite where the parameterisation has no g(β).

    Raises:
        TypeError: if the model is no diagonal network, or maps onto multipliers.
        ValueError: if it is not real, continuous and of one channel, or the radius is negative.

    Source: ours.
    """
    radius = require_nonnegative("radius", radius)
    v, u, c = real_weights(model)
    if model.readin == "plain":
        u = u / np.asarray(model.reparam.forward(v))
    if isinstance(model.reparam, DiscreteInverseSquare):
        raise wrong_type(
            "model",
            "a map onto continuous rates",
            "DiscreteInverseSquare",
            "its criterion is that of the multiplier: use bound_perturbation_error",
        )
    g = predict_criterion(model.reparam, radius)
    if not math.isfinite(g):
        return math.inf
    size = float(np.sum(np.abs(c * u)))
    return float(
        2 * min(g, 1.0) * size + radius * (np.linalg.norm(c) + np.linalg.norm(u)) + radius**2
    )


@references("wang2024inverse")
def predict_direct_error(
    amplitudes: Any, rates: Any, radius: float, *, ball: str = "euclidean"
) -> float:
    """Returns E_m(β) of a directly parameterised sum with positive amplitudes, in closed form.

    Kernel `Σ c_i e^{-w_i t}`, L1 norm, weights (c, w), read-in fixed. One unit, Euclidean ball:
    `(cw + β√(c²+w²-β²))/(w²-β²) - c/w`. Any width in the paper's ball, where c and w move
    independently: `Σ c_i (1/(w_i-β) - 1/w_i) + β ‖1/(w-β)‖₂`. Infinite from `β = w_min` on.

    Args:
        amplitudes: c > 0, shape (width,).
        rates: w > 0, shape (width,).
        radius: β.
        ball: `euclidean` (one unit only) or `paper`.

    Raises:
        ValueError: if the ball is unknown, the radius negative, an amplitude or rate not positive,
            or a Euclidean ball is asked for around several units.

    Source: ours, for Definition 3.4 of Wang et al. 2024.
    """
    require_choice("ball", ball, ("euclidean", "paper"))
    radius = require_nonnegative("radius", radius)
    c, w = (np.atleast_1d(np.asarray(x, float)) for x in (amplitudes, rates))
    if not (c > 0).all() or not (w > 0).all():
        raise invalid("amplitudes", "positive amplitudes and rates", "others", "use a bound")
    if radius >= w.min():
        return math.inf
    if ball == "paper":
        slow = 1 / (w - radius)
        return float(np.sum(c * (slow - 1 / w)) + radius * np.linalg.norm(slow))
    if len(c) != 1:
        raise invalid("amplitudes", "one unit in the Euclidean ball", f"{len(c)}", "search it")
    c1, w1 = float(c[0]), float(w[0])
    root = math.sqrt(c1 * c1 + w1 * w1 - radius**2)
    return (c1 * w1 + radius * root) / (w1 * w1 - radius**2) - c1 / w1


@references("wang2024inverse")
def bound_stable_radius(law: MemoryLaw) -> float:
    """Returns the radius beyond which no directly parameterised network holds, at any width.

    Theorem 3.9: a β₀-stable approximation forces `e^{βt}M(t) → 0` for every β < β₀, so β₀ is at most
    the exponential order of the memory: zero for power laws and stretched exponentials.

    Args:
        law: of the memory, measured or estimated.

    Returns:
        A rate in 1/unit; NaN where the law is undecided or its parameters are not known.

    Assumptions: those of Theorem 3.9 (tanh or hardtanh, or activations like them near 0; W¹ norm;
    decaying memory, bounded weights, uniformly decaying perturbed memories), and that the law named
    is the true one.
    """
    if law.law == "undecided":
        return math.nan
    if law.law == "none":
        return math.inf
    if law.law == "power":
        return 0.0
    values = {name: float(value.value) for name, value in law.parameters.items()}
    if law.law in ("exponential", "delayed"):
        # Several exponentials, an oscillation and a gamma law end like their slowest rate; a bump
        # alone ends faster than every exponential.
        return values.get("rate", math.inf if "spread" in values else math.nan)
    try:
        return predict_exponential_order(law.law, **values)
    except ValueError:
        return math.nan


@references("wang2024inverse")
def measure_eigenvalue_bound(model: Any) -> float:
    """Returns `-max Re λ` of the linearised dynamics at rest: the mechanism behind Theorem 3.9.

    A network that is β₀-stable has `max Re λ ≤ -β₀`, for the matrix of its continuous right-hand side
    at rest under zero input. Linear: A. Residual `dh/dt = σ(Wh + Ux + b)`: W (σ vanishes only at 0,
    with slope one, so the rest is where its argument is zero). GRU, read as
    `dh/dt = (1-z)(n - h)`: at h = 0 without bias in the candidate, the matrix of Appendix J,
    `Diag(σ(b_z))(U_h Diag(σ(b_r)) - I)` with the paper's z in place of 1-z; else at the rest that the
    network settles at. Other networks have no continuous form: the rate `-log max|λ|` of one step.

    Args:
        model: a recurrent model that rests under zero input.

    Returns:
        The rate of the slowest mode, in 1/time; per step for GRU and other networks of steps. Positive
        if the rest is stable. For linear and residual networks no radius beyond it is stable:
        `W + βI` lies in the ball.

    Raises:
        ValueError: if the activation is not one of the theorem's, or the network does not come to rest.
        TypeError: if it is not recurrent.

    Source: Wang, Li, Li 2024, Theorem 3.9 and Appendix J.
    """
    if not isinstance(model, AbstractRecurrent):
        raise wrong_type("model", "a recurrent model", type(model).__name__)
    if isinstance(model, DiagonalRNN):
        return float(np.min(np.real(np.asarray(model.rates))))
    if isinstance(model, LinearRNN):
        eigenvalues = np.linalg.eigvals(np.asarray(model.A, float))
        if model.dt is None:
            return float(-eigenvalues.real.max())
        return _rate_per_step(eigenvalues) / model.dt
    if isinstance(model, ResidualRNN):
        if model.activation not in ("linear", "tanh", "hardtanh"):
            raise invalid(
                "model",
                "an activation of slope one at zero: linear, tanh or hardtanh",
                model.activation,
                "Theorem 3.9 does not speak of it",
            )
        return float(-np.linalg.eigvals(np.asarray(model.W, float)).real.max())
    matrix = _matrix_at_rest(model)
    if isinstance(model, GRU):
        return float(-np.linalg.eigvals(matrix - np.eye(len(matrix))).real.max())
    return _rate_per_step(np.linalg.eigvals(matrix))


def _rate_per_step(multipliers: np.ndarray) -> float:
    return float(-math.log(max(float(np.abs(multipliers).max()), np.finfo(float).tiny)))


def _matrix_at_rest(model: Any) -> np.ndarray:
    """Returns the Jacobian of one step where the state no longer changes under zero input."""
    from recollect._core._precision import in_float64

    state, matrix, gap = in_float64(_settle_compiled())(model)
    if not np.isfinite(matrix).all() or np.abs(gap).max() > 1e-9 * (1 + np.abs(state).max()):
        raise invalid("model", "a network that comes to rest under zero input", "another")
    return np.asarray(matrix)


@functools.cache
def _settle_compiled() -> Callable[[Any], Any]:
    """Returns the search for the rest, compiled once for all networks of a kind and size."""
    import equinox as eqx
    import jax
    import jax.flatten_util
    import jax.numpy as jnp

    @eqx.filter_jit
    def settle(model):
        start, restore = jax.flatten_util.ravel_pytree(
            jax.tree.map(lambda leaf: jnp.asarray(leaf, float), model.initial_state())
        )

        def advance(x):
            state = model.step(restore(x), jnp.zeros(model.n_inputs), dt=1.0)
            return jax.flatten_util.ravel_pytree(state)[0]

        def newton(_, x):
            slope = jax.jacobian(advance)(x) - jnp.eye(len(x))
            return x - jnp.linalg.lstsq(slope, advance(x) - x)[0]

        def run(x):
            x = jax.lax.fori_loop(0, 500, lambda _, x: advance(x), x)
            # Newton on `advance(x) = x`: a slow mode is not waited for.
            return jax.lax.fori_loop(0, 8, newton, x)

        moves = jnp.abs(advance(start) - start).max() > 0
        x = jax.lax.cond(moves, run, lambda x: x, start)
        return x, jax.jacobian(advance)(x), advance(x) - x

    return settle


def real_weights(model: DiagonalRNN) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns v, u and c of a real, continuous, scalar diagonal network."""
    if not isinstance(model, DiagonalRNN):
        raise wrong_type("model", "a DiagonalRNN", type(model).__name__, "use models.to_diagonal")
    if model.frequencies is not None or np.iscomplexobj(model.B) or np.iscomplexobj(model.C):
        raise invalid("model", "real rates and amplitudes", "complex ones")
    if model.dt is not None or (model.n_inputs, model.n_outputs) != (1, 1):
        raise invalid("model", "a continuous network, one input and output", "another")
    return (
        np.asarray(model.weights, float),
        np.asarray(model.B, float)[:, 0],
        np.asarray(model.C, float)[0],
    )


def _reach(reparam: AbstractReparam, v: np.ndarray, radius: float):
    """Returns sup 1/f and sup |1/f - 1/f(v)| within β of each weight."""
    ends = _extremes(reparam, v, radius)
    here = np.asarray(reparam.forward(v), float)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = [np.where(end > 0, 1 / end, np.inf) for end in ends]
    slowest, fastest = np.maximum.reduce(inverse), np.minimum.reduce(inverse)
    return slowest, np.maximum(slowest - 1 / here, 1 / here - fastest)


def _density_change(reparam: AbstractReparam, v: np.ndarray, radius: float) -> np.ndarray:
    """Returns sup ∫|w̃e^{-w̃t} - we^{-wt}| within β of each weight: it grows with |log w̃/w|."""
    here = np.asarray(reparam.forward(v), float)
    with np.errstate(divide="ignore"):
        far = np.max([abs(np.log(end / here)) for end in _extremes(reparam, v, radius)], axis=0)
    # The two densities cross once, at t = log r/(w̃-w): twice the difference of their tails there.
    safe = np.where(far > 0, far, 1.0)
    lag = safe / np.expm1(safe)
    tails = np.exp(-lag) * -np.expm1(-safe)
    return np.where(far > 0, 2 * tails, 0.0)


def _extremes(reparam: AbstractReparam, v: np.ndarray, radius: float) -> list[np.ndarray]:
    if not isinstance(reparam, _KNOWN):
        raise wrong_type("reparam", "a map of recollect.models", type(reparam).__name__)
    # Every map here is monotone, or monotone in |v|: rates are extreme at the ends or at v = 0.
    ends = [np.asarray(reparam.forward(v + sign * radius), float) for sign in (-1, 1)]
    return [*ends, np.asarray(reparam.forward(np.where(np.abs(v) < radius, 0.0, v)), float)]
