"""How far the weights of one layer may move before its answer is another."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import scipy.linalg

from recollect._core._functional import AbstractFunctional, AbstractReparam
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.diagnosis._stability import READINS, largest_radius, stable_maps
from recollect.models import (
    AffineRNN,
    DiagonalRNN,
    Direct,
    LinearRNN,
    Rescaled,
    StateSpaceLayer,
    rediscretise,
    reparameterise,
    to_diagonal,
)
from recollect.stability import bound_perturbation_error, measure_perturbation_error

_WIDEST = 64
_MOST_WEIGHTS = 20_000
_N_PATHS, _LENGTH = 8, 64


@dataclasses.dataclass(frozen=True)
class PerturbationMargin:
    """How far the weights of a layer may move.

    Attributes:
        radius: change of the weights at which the layer's answer may change by its own size: the
            error of silence. Of linear layers a proved lower estimate in the L1 norm: nothing
            smaller does it. Of others found by search, in the mean square over white input of unit
            size: something of that size does it, and something smaller may.
        direct: the same with the rates or the matrix themselves as weights; NaN for others.
        reparameterised: the same with the best stable parameterisation of the rates; NaN where there
            is none.
        unstable_from: below it no change makes the layer unstable (infinite error), and at it a
            diagonal layer may be; infinite for stable parameterisations, NaN where it is not known.
        parameterisation: of the layer as it is: `inverse square, normalised` (rates, read-in),
            `dense` or `weights`.
        cure: of `reparameterised`; empty without one.
        is_bound: whether `radius` is proved.
        status: `ok`, or why there is no radius.
    """

    radius: float
    direct: float
    reparameterised: float
    unstable_from: float
    parameterisation: str
    cure: str
    is_bound: bool
    status: Status = Status()

    def words(self) -> str:
        """Returns the margin in one line."""
        if not self.status.is_ok:
            return self.status.message
        if math.isinf(self.unstable_from):
            end = "never unstable"
        elif math.isnan(self.unstable_from):
            end = ""
        else:
            end = f"unstable at {self.unstable_from:.2g} at the earliest"
        how = "; ".join(part for part in (self.parameterisation, end) if part)
        text = (
            f"may move by {self.radius:.2g} before the answer changes by its own size ({how})"
            if self.is_bound
            else f"a move of {self.radius:.2g} changes the answer by its own size (found by search)"
        )
        if self.parameterisation and math.isfinite(self.direct) and self.direct != self.radius:
            text += f"; by {self.direct:.2g} if trained directly"
        if self.cure:
            text += f"; by {self.reparameterised:.2g} as {self.cure}"
        return text

    def record(self) -> dict[str, Any]:
        """Returns the margin as a JSON object (non-finite numbers are left to the caller)."""
        return dataclasses.asdict(self) | {"status": self.status.record()}


@on_one_thread
def measure_margin(layer: AbstractFunctional, *, dt: float) -> PerturbationMargin:
    """Returns how far the weights of a layer may move before its answer changes by its own size.

    Diagonal layers: `stability.bound_perturbation_error`, inverted; in their own parameterisation and
    in the best stable one. Dense linear layers: with `M = ∫‖e^{At}‖ dt`, every change below 1/M leaves
    the layer stable and moves its kernel by at most
    `(‖C‖+β)(‖B‖+β) βM²/(1-βM) + βM(‖B‖+‖C‖+β)`. Others: `stability.measure_perturbation_error`
    over white input of unit size.

    Args:
        layer: a model of `recollect.models`; of a state-space layer its recurrence is meant.
        dt: step.
    """
    own: Any = layer.recurrence if isinstance(layer, StateSpaceLayer) else layer
    while isinstance(own, (AffineRNN, Rescaled)):
        own = own.network
    try:
        if isinstance(own, DiagonalRNN):
            return _of_diagonal(own)
        if isinstance(own, LinearRNN):
            return _of_dense(own)
        return _of_others(own, dt)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        return _unknown(str(error))


def _of_diagonal(model: DiagonalRNN) -> PerturbationMargin:
    name = f"{_name(model.reparam)}, {model.readin}"
    if np.real(np.asarray(model.rates)).min() <= 0:
        return PerturbationMargin(0.0, 0.0, math.nan, 0.0, name, "", True)
    # A discrete layer is the hold of a continuous one.
    model = model if model.dt is None else rediscretise(model, None)  # pyright: ignore[reportAssignmentType]
    size = _size(model)
    moduli = _moduli(model)
    stable = getattr(model.reparam, "is_stable", False)
    radius = _radius(moduli, size)
    cure, best = _cure(moduli, size)
    rates = np.asarray(moduli.rates, float)
    if isinstance(model.reparam, Direct):
        end = float(rates.min())
    else:
        end = math.inf if stable else math.nan
    if stable and best < 1.5 * radius:
        cure, best = "", math.nan
    direct = _radius(reparameterise(moduli, Direct()), size)
    return PerturbationMargin(radius, direct, best, end, name, cure, True)


def _of_dense(model: LinearRNN) -> PerturbationMargin:
    A, B, C = (np.asarray(weight, np.float64) for weight in (model.A, model.B, model.C))
    if len(A) > _WIDEST:
        return _unknown(f"not computed for a dense layer wider than {_WIDEST}")
    eigenvalues = np.linalg.eigvals(A)
    edge = eigenvalues.real.max() if model.dt is None else np.abs(eigenvalues).max() - 1
    if edge >= 0:
        return PerturbationMargin(0.0, 0.0, math.nan, 0.0, "dense", "", True)
    mass = _mass(A, model.dt)
    read_in, read_out = float(np.linalg.norm(B, 2)), float(np.linalg.norm(C, 2))

    def error(beta: float) -> float:
        if beta * mass >= 1:
            return math.inf
        moved = (read_out + beta) * (read_in + beta) * beta * mass**2 / (1 - beta * mass)
        return moved + beta * mass * (read_in + read_out + beta)

    size = _size(model)
    cure, best = "", math.nan
    try:
        diagonal = to_diagonal(model)
        moduli = _moduli(diagonal if diagonal.dt is None else rediscretise(diagonal, None))
        cure, best = _cure(moduli, size)
    except ValueError:
        pass
    radius = largest_radius(error, size)
    return PerturbationMargin(radius, radius, best, 1 / mass, "dense", cure, True)


def _of_others(model: AbstractFunctional, dt: float) -> PerturbationMargin:
    arrays = [a for a in jax.tree.leaves(model) if isinstance(a, (np.ndarray, jax.Array))]
    n_weights = sum(int(np.size(a)) for a in arrays)
    if not arrays:
        is_module = hasattr(getattr(model, "function", None), "state_dict")
        read = "of torch, only a whole RNN, GRU or LSTM layer is read"
        return _unknown(f"not known here: {read if is_module else 'a function does not show them'}")
    if n_weights > _MOST_WEIGHTS:
        return _unknown(f"not searched over {n_weights} weights")
    paths = np.random.default_rng(0).standard_normal((_N_PATHS, _LENGTH, model.n_inputs))
    answers = np.stack([np.asarray(model(path, dt=dt)) for path in paths])
    # The answer to silence is no answer: what counts is what the input does.
    rest = np.asarray(model(np.zeros_like(paths[0]), dt=dt))
    power = float(np.mean((answers - rest) ** 2))
    if not (math.isfinite(power) and power > 0):
        return _unknown("its answer does not depend on the input, or is not finite")
    radii = np.geomspace(1e-4, 10, 11)
    curve = measure_perturbation_error(
        model, radii, norm="mse", paths=paths, dt=dt, n_starts=2, n_steps=8, n_search_paths=_N_PATHS
    )
    share = curve.errors[0] / power
    over = np.flatnonzero(share >= 1)
    if not len(over):
        return _unknown(
            f"no move up to {radii[-1]:g} was found that changes the answer by its size"
        )
    k = int(over[0])
    radius = float(radii[k])
    if k > 0 and math.isfinite(share[k]) and share[k - 1] > 0:
        place = -math.log(share[k - 1]) / math.log(share[k] / share[k - 1])
        radius = float(radii[k - 1] * (radii[k] / radii[k - 1]) ** place)
    return PerturbationMargin(radius, math.nan, math.nan, math.nan, "weights", "", False)


def _cure(moduli: DiagonalRNN, size: float) -> tuple[str, float]:
    maps = stable_maps(float(np.max(np.asarray(moduli.rates)))).values()
    found = [
        (_radius(reparameterise(moduli, reparam, readin=readin), size), readin, reparam)
        for readin in READINS
        for reparam in maps
    ]
    best, readin, reparam = max(found, key=lambda one: one[0])
    return f"{_name(reparam)}, {readin}", best


def _radius(moduli: DiagonalRNN, size: float) -> float:
    return largest_radius(lambda beta: bound_perturbation_error(moduli, beta), size)


def _moduli(model: DiagonalRNN) -> DiagonalRNN:
    """Returns one channel of real units whose bound holds for all: norms of rows and columns.

    Balanced, as B and C would be for training; a network keeps its parameterisation and read-in.
    """
    rates = np.real(np.asarray(model.rates))
    read_in = np.linalg.norm(np.atleast_2d(np.asarray(model.B)), axis=1)
    read_out = np.linalg.norm(np.asarray(model.C), axis=0)
    return DiagonalRNN(
        rates, read_in[:, None], read_out[None, :], reparam=model.reparam, readin=model.readin
    )


def _size(model: LinearRNN | DiagonalRNN) -> float:
    """Returns `∫ ‖ρ(t)‖ dt`, spectral norm."""
    rates = (
        np.real(np.asarray(model.rates))
        if isinstance(model, DiagonalRNN)
        else -np.linalg.eigvals(np.asarray(model.A)).real
        if model.dt is None
        else -np.log(np.abs(np.linalg.eigvals(np.asarray(model.A))).clip(1e-12)) / model.dt
    )
    if model.dt is not None:
        lags = model.dt * np.arange(min(int(30 / (rates.min() * model.dt)) + 1, 20_000))
        kernel = np.asarray(model.kernel(lags))
        return float(model.dt * np.linalg.norm(kernel, 2, axis=(1, 2)).sum())
    nodes, mass = _panels(np.abs(rates))
    kernel = np.asarray(model.kernel(nodes))
    return float(mass @ np.linalg.norm(kernel, 2, axis=(1, 2)))


def _mass(A: np.ndarray, dt: float | None) -> float:
    if dt is not None:
        total, power = 0.0, np.eye(len(A))
        for _ in range(20_000):
            term = float(np.linalg.norm(power, 2))
            total += term
            if term < 1e-9:
                return total
            power = power @ A
        return total / (1 - term) if term < 1 else math.inf
    nodes, mass = _panels(np.abs(np.linalg.eigvals(A).real))
    return float(mass @ [np.linalg.norm(scipy.linalg.expm(A * t), 2) for t in nodes])


def _panels(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    edges = np.concatenate([[0.0], np.geomspace(1e-2 / rates.max(), 35 / rates.min(), 40)])
    points, weights = np.polynomial.legendre.leggauss(6)
    half = 0.5 * np.diff(edges)
    nodes = 0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * points
    return nodes.ravel(), (half[:, None] * weights).ravel()


def _name(reparam: AbstractReparam) -> str:
    letters = type(reparam).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in letters).strip()


def _unknown(message: str) -> PerturbationMargin:
    status = Status("undecided", message)
    nan = math.nan
    return PerturbationMargin(nan, nan, nan, nan, "", "", False, status)
