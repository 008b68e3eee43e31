"""What a parameterisation buys and costs: radius, steepness, and the speed of training."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._functional import AbstractReparam
from recollect._core._precision import in_float64
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.models import (
    DiagonalRNN,
    Direct,
    Exponential,
    InverseSquare,
    Softplus,
    reparameterise,
)
from recollect.stability._criterion import measure_gradient_scale
from recollect.stability._perturbation import measure_perturbation_error
from recollect.stability._radius import broken_at
from recollect.stability._theory import (
    bound_perturbation_error,
    predict_gradient_scale,
    real_weights,
)
from recollect.targets import measure_norm

OPTIMISERS = ("adam", "gradient_descent")


@dataclasses.dataclass(frozen=True, eq=False)
class TradeOff:
    """One network in several parameterisations: how far its weights may move, and how fast it learns.

    Attributes:
        names: of the parameterisations, with `normalised` where the read-in is.
        radius_of_rates: β at which moving the rates alone raises the error by `rise` (searched: the
            true one is no larger).
        radius_of_all: the same with all weights moving.
        proved_radius: β up to which the error is proved to stay below, all weights moving.
        gradient_scale: `|f'(v)|/f(v)²` of the steepest unit: the step size it asks for falls with it.
        n_steps: fewest steps to a hundredth of the initial loss over the learning rates tried;
            infinite where none got there.
        learning_rate: that needed them.
        largest_learning_rate: at which the loss stayed finite and below where it began.
        rise: the error that counts as broken.
        learning_rates: those tried.
        status: `undecided` where a radius lies outside those tried.
    """

    names: tuple[str, ...]
    radius_of_rates: np.ndarray
    radius_of_all: np.ndarray
    proved_radius: np.ndarray
    gradient_scale: np.ndarray
    n_steps: np.ndarray
    learning_rate: np.ndarray
    largest_learning_rate: np.ndarray
    rise: float
    learning_rates: np.ndarray
    status: Status

    def summary(self) -> list[str]:
        """Returns the table, one line for each parameterisation."""
        head = ("", "radius (rates)", "radius (all)", "proved", "gradient", "steps", "largest rate")
        columns = (
            self.radius_of_rates,
            self.radius_of_all,
            self.proved_radius,
            self.gradient_scale,
            self.n_steps,
            self.largest_learning_rate,
        )
        rows = [
            [name, *(f"{column[i]:.3g}" for column in columns)] for i, name in enumerate(self.names)
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        return [
            "  ".join(
                cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i])
                for i, cell in enumerate(row)
            ).rstrip()
            for row in [head, *rows]
        ]


@references("wang2024inverse", "wang2024stablessm")
@on_one_thread
def measure_trade_off(
    network: DiagonalRNN,
    parameterisations: Mapping[str, AbstractReparam] | None = None,
    *,
    rise: float | None = None,
    readins: tuple[str, ...] = ("plain", "normalised"),
    optimiser: str = "adam",
    learning_rates: Any = None,
    n_steps: int = 4000,
    n_starts: int = 8,
    key: int = 0,
) -> TradeOff:
    """Returns radius, gradient scale and training speed of one network in several parameterisations.

    Every variant has the kernel of `network`. It is trained back to it from the same start, rates
    doubled and amplitudes kept, on the exact loss `∫(ρ̂-ρ)²`, for every learning rate.

    Args:
        network: a diagonal network of real positive rates, continuous, one input and output.
        parameterisations: maps by name; direct, exponential, softplus and an inverse square that
            reaches its rates, if omitted.
        rise: error in the L1 norm that counts as broken; a tenth of ‖ρ‖ if omitted.
        readins: `plain`, `normalised` or both.
        optimiser: `adam` or `gradient_descent`.
        learning_rates: those tried; thirteen from 1e-5 to 10 if omitted.
        n_steps: of training.
        n_starts: of the search for each radius.
        key: its seed.

    Returns:
        The table; radii are searched from 1e-7 to 10, to about a tenth of their value.

    Raises:
        TypeError: if a parameterisation is none of `recollect.models`.
        ValueError: if the network is not as above, a name is unknown or a number is not positive.
    """
    v, _, _ = real_weights(network)
    rates = np.asarray(network.reparam.forward(v), float)
    if not (rates > 0).all():
        raise invalid("network", "positive rates", f"{rates.min():.3g}")
    require_choice("optimiser", optimiser, OPTIMISERS)
    require_count("n_steps", n_steps)
    if not readins:
        raise invalid("readins", "'plain', 'normalised' or both", "none")
    for readin in readins:
        require_choice("readins", readin, ("plain", "normalised"))
    if parameterisations is None:
        parameterisations = {
            "direct": Direct(),
            "exponential": Exponential(),
            "softplus": Softplus(),
            # Twice the fastest rate is where training starts.
            "inverse square": InverseSquare(1.0, 0.25 / float(rates.max())),
        }
    size = float(measure_norm(network, norm="l1"))
    rise = 0.1 * size if rise is None else require_positive("rise", rise)
    tried = np.geomspace(1e-5, 10, 13) if learning_rates is None else learning_rates
    tried = np.atleast_1d(np.asarray(tried, float))
    radii = np.concatenate([[0.0], np.geomspace(1e-7, 10, 13)])
    names: list[str] = []
    rows: list[list[float]] = []
    outside: list[str] = []
    for name, reparam in parameterisations.items():
        if not isinstance(reparam, AbstractReparam):
            raise wrong_type(
                "parameterisations", "maps of recollect.models", type(reparam).__name__
            )
        for readin in readins:
            variant = reparameterise(network, reparam, readin=readin)
            names.append(name if readin == "plain" else f"{name}, normalised")
            proved = _proved(variant, rise)
            found = []
            for of in ("rates", "all"):
                lost = _lost_at(variant, radii, rise, of, n_starts, key)
                # Interpolated, it may fall short of what is proved to hold.
                found.append(max(lost, proved))
                if not radii[1] < lost < math.inf:
                    outside.append(f"{names[-1]} ({of})")
            steps, best, largest = _train(variant, optimiser, tried, n_steps)
            rows.append([*found, proved, _steepest(variant), steps, best, largest])
    columns = np.array(rows).T
    status = Status()
    if outside:
        words = f"radius outside {radii[1]:.0e} to {radii[-1]:.0f}: {', '.join(outside)}"
        status = Status("undecided", words)
    return TradeOff(tuple(names), *columns, rise=rise, learning_rates=tried, status=status)


def _lost_at(
    variant: DiagonalRNN, radii: np.ndarray, rise: float, of: str, n_starts: int, key: int
) -> float:
    lost = math.inf
    for _ in range(2):
        curve = measure_perturbation_error(
            variant, radii, of=of, n_starts=n_starts, n_steps=16, key=key
        )
        lost, is_bound = broken_at(curve.radii, curve.errors[0], rise)
        over = np.flatnonzero(radii >= lost)
        if is_bound or not len(over):
            return lost
        # Once more between the two radii on either side.
        radii = np.concatenate([[0.0], np.geomspace(radii[over[0] - 1], radii[over[0]], 9)])
    return lost


def _proved(variant: DiagonalRNN, rise: float) -> float:
    low, high = 1e-16, 1e3
    try:
        if bound_perturbation_error(variant, low) > rise:
            return 0.0
        for _ in range(60):
            middle = math.sqrt(low * high)
            holds = bound_perturbation_error(variant, middle) <= rise
            low, high = (middle, high) if holds else (low, middle)
    except TypeError:
        # No bound is known for a map of one's own.
        return 0.0
    return low


def _steepest(variant: DiagonalRNN) -> float:
    weights = np.asarray(variant.weights, float)
    try:
        return float(np.max(predict_gradient_scale(variant.reparam, weights)))
    except TypeError:
        return float(np.max(measure_gradient_scale(variant.reparam, weights)))


def _train(
    variant: DiagonalRNN, optimiser: str, learning_rates: np.ndarray, n_steps: int
) -> tuple[float, float, float]:
    """Returns the fewest steps, the learning rate that needed them, and the largest that held."""
    rates = np.asarray(variant.rates, float)
    amplitudes = np.asarray(variant.amplitudes, float)[:, 0, 0]
    c = np.asarray(variant.C, float)[0]
    begun = DiagonalRNN(2 * rates, variant.B, variant.C, reparam=variant.reparam)
    # The same function for every variant at the start: what the units see of the input is kept.
    seen = np.asarray(variant.input_matrix, float)[:, 0]
    read = seen / (2 * rates) if variant.readin == "normalised" else seen
    start = np.asarray(begun.weights, float), read, c
    losses = _descend(variant.reparam, variant.readin, optimiser, n_steps)(
        start, learning_rates, (rates, amplitudes)
    )
    losses = np.where(np.isfinite(losses), losses, np.inf)
    reached = losses <= 0.01 * losses[:, :1]
    counts = np.where(reached.any(axis=1), reached.argmax(axis=1).astype(float), np.inf)
    holds = np.isfinite(losses).all(axis=1) & (losses[:, -1] <= losses[:, 0])
    largest = float(learning_rates[holds].max(initial=0.0))
    best = int(np.argmin(counts))
    rate = float(learning_rates[best]) if math.isfinite(counts[best]) else math.nan
    return float(counts[best]), rate, largest


@functools.lru_cache(maxsize=32)
def _descend(reparam: AbstractReparam, readin: str, optimiser: str, n_steps: int) -> Any:
    def loss(weights, target):
        v, u, c = weights
        w = reparam.forward(v)
        a = c * u * (w if readin == "normalised" else 1.0)
        both = jnp.concatenate([a, -target[1]])
        rates = jnp.concatenate([w, target[0]])
        value = jnp.einsum("i,ij,j->", both, 1 / (rates[:, None] + rates), both)
        return jnp.where(jnp.all(w > 0), value, jnp.inf)

    def run(start, learning_rate, target):
        def step(state, k):
            weights, first, second = state
            value, slope = jax.value_and_grad(loss)(weights, target)
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
            second = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, second, slope)
            if optimiser == "adam":
                move = jax.tree.map(
                    lambda m, s: (
                        (m / (1 - 0.9 ** (k + 1))) / (jnp.sqrt(s / (1 - 0.999 ** (k + 1))) + 1e-12)
                    ),
                    first,
                    second,
                )
            else:
                move = slope
            weights = jax.tree.map(lambda x, g: x - learning_rate * g, weights, move)
            return (weights, first, second), value

        zero = jax.tree.map(jnp.zeros_like, start)
        return jax.lax.scan(step, (start, zero, zero), jnp.arange(n_steps + 1))[1]

    return in_float64(jax.jit(jax.vmap(run, in_axes=(None, 0, None))))
