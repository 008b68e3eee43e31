"""What is proved about moving weights: criteria of parameterisations, bounds, Theorem 3.9's rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect._core._check import invalid, require_choice, require_nonnegative, wrong_type
from recollect._core._functional import AbstractReparam
from recollect._core._references import references
from recollect.memory import MemoryLaw, predict_exponential_order
from recollect.models import (
    DiagonalRNN,
    Direct,
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
    `a(β² + β√(β²+4b/a))/(2b)`; its discrete form has the same g for b ≥ 1. Direct and relu: infinite.

    Args:
        reparam: a parameterisation of `recollect.models`.
        radius: β ≥ 0.

    Raises:
        TypeError: if no closed form is known: use `measure_criterion`.
    """
    radius = require_nonnegative("radius", radius)
    if radius == 0:
        return 0.0
    if isinstance(reparam, (Direct, Relu)):
        return math.inf
    if isinstance(reparam, (Exponential, Softplus)):
        return math.expm1(radius)
    if isinstance(reparam, (InverseSquare, DiscreteInverseSquare)):
        a, b = reparam.scale, reparam.offset
        return a * (radius**2 + radius * math.sqrt(radius**2 + 4 * b / a)) / (2 * b)
    raise wrong_type(
        "reparam", "a map with a known criterion", type(reparam).__name__, "use measure_criterion"
    )


@references("wang2024stablessm")
def predict_gradient_scale(reparam: AbstractReparam, weight: Any) -> np.ndarray:
    """Returns `|f'(v)|/f(v)²`: how much larger the gradient is than that of a unit of rate one.

    The derivative of `∫ e^{-wt}` with respect to the weight; for the inverse square `2a|v|`.

    Args:
        reparam: a parameterisation of `recollect.models`.
        weight: v, any shape.
    """
    import jax

    from recollect._core._precision import in_float64

    weight = np.asarray(weight, float)

    @in_float64
    def slopes(v):
        return jax.vmap(jax.grad(lambda x: reparam.forward(x)))(v)

    rate = np.asarray(reparam.forward(weight.ravel()))
    with np.errstate(divide="ignore", over="ignore"):
        scale = np.abs(slopes(weight.ravel())) / rate**2
    return scale.reshape(weight.shape)


@references("wang2024inverse")
def bound_perturbation_error(model: DiagonalRNN, radius: float, *, of: str = "all") -> float:
    """Returns an L1 distance of kernels that no perturbation of size β exceeds.

    `Σ|c_iu_i| D_i + β(‖uR‖₂ + ‖cR‖₂) + β² max R` for the kernel `Σ c_i u_i e^{-f(v_i)t}`, where
    `R_i = sup 1/f(ṽ_i)` and `D_i = sup |1/f(ṽ_i) - 1/f(v_i)|` over `|ṽ_i - v_i| ≤ β`; the first
    term alone if only the rates move. Holds for the Euclidean ball and for the paper's.

    Args:
        model: a diagonal network of real rates, continuous, one input and output.
        radius: β.
        of: `all` weights (v, B, C) or `rates` only.

    Returns:
        The bound; infinite if a rate may reach zero.
    """
    require_choice("of", of, ("all", "rates"))
    radius = require_nonnegative("radius", radius)
    v, u, c = real_weights(model)
    slowest, change = _reach(model.reparam, v, radius)
    moved = float(np.sum(np.abs(c * u) * change))
    if of == "rates" or not math.isfinite(moved):
        return moved
    spread = np.linalg.norm(u * slowest) + np.linalg.norm(c * slowest)
    return float(moved + radius * spread + radius**2 * slowest.max())


@references("wang2024inverse")
def bound_normalised_error(model: DiagonalRNN, radius: float) -> float:
    """Returns the same bound for the normalised read-in `Σ c_i u_i f(v_i) e^{-f(v_i)t}`, all weights.

    `2g(β) Σ|c_iu_i| + β(‖c‖₂ + ‖u‖₂) + β²`: it knows no rate, so it is the same for a network of any
    width and any slowness whose amplitudes are bounded. With the plain read-in the slowest unit
    multiplies the perturbation of its amplitude by `1/w_min`, whatever the parameterisation.

    Args:
        model: a diagonal network of real rates, whose B is divided by its rates here.
        radius: β.

    Source: ours.
    """
    radius = require_nonnegative("radius", radius)
    v, u, c = real_weights(model)
    u = u / np.asarray(model.reparam.forward(v))
    g = predict_criterion(model.reparam, radius)
    size = float(np.sum(np.abs(c * u)))
    moved = 2 * g * size if size else 0.0
    return float(moved + radius * (np.linalg.norm(c) + np.linalg.norm(u)) + radius**2)


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
        A rate in 1/unit; NaN where the law is undecided.

    Assumptions: those of Theorem 3.9 (bounded weights, W¹ norm, uniformly decaying perturbed
    memories), and that the law named is the true one.
    """
    if law.law == "undecided":
        return math.nan
    if law.law == "none":
        return math.inf
    names = {"exponential": "rate", "delayed": "rate"}
    if law.law in names:
        parameter = law.parameters.get("rate")
        if parameter is None:
            return math.nan
        options = {"rate": float(parameter.value)}
        if law.law == "delayed":
            options["delay"] = float(law.parameters["delay"].value)
        return predict_exponential_order(law.law, **options)
    return 0.0


@references("wang2024inverse")
def measure_eigenvalue_bound(model: Any) -> float:
    """Returns `-max Re λ` of the linearisation at rest: the mechanism behind Theorem 3.9.

    A network that is β₀-stable has `max Re λ(W) ≤ -β₀`. For a GRU at h = 0 with zero state bias it is
    the matrix `Diag(σ(b_z))(U_h Diag(σ(b_r)) - I)` of Appendix J, found here for any recurrent model
    as the Jacobian of its step, in 1/step for discrete ones.

    Args:
        model: a recurrent model that rests at its initial state under zero input.

    Returns:
        The rate of the slowest mode: positive if the rest is stable.
    """
    import jax
    import jax.numpy as jnp

    from recollect._core._precision import in_float64

    if isinstance(model, DiagonalRNN):
        return float(np.min(np.real(np.asarray(model.rates))))

    @in_float64
    def jacobian(state):
        flat, restore = jax.flatten_util.ravel_pytree(state)
        zero = jnp.zeros(model.n_inputs)

        def advance(x):
            return jax.flatten_util.ravel_pytree(model.step(restore(x), zero, dt=1.0))[0]

        return jax.jacobian(advance)(flat)

    import jax.flatten_util

    multipliers = np.abs(np.linalg.eigvals(jacobian(model.initial_state())))
    return float(-np.log(max(multipliers.max(), np.finfo(float).tiny)))


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
    ends = [np.asarray(reparam.forward(v + sign * radius), float) for sign in (-1, 1)]
    here = np.asarray(reparam.forward(v), float)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = [np.where(end > 0, 1 / end, np.inf) for end in ends]
    # 1/f is monotone or convex for every parameterisation here: its extremes are at the ends.
    slowest = np.maximum(*inverse)
    lowest = np.minimum(*inverse)
    if isinstance(reparam, (InverseSquare, DiscreteInverseSquare)):
        crosses = np.abs(v) < radius
        lowest = np.where(crosses, 1 / np.asarray(reparam.forward(np.zeros_like(v))), lowest)
    return slowest, np.maximum(slowest - 1 / here, 1 / here - lowest)
