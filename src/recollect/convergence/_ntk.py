"""The tangent kernel of the diagonal network: finite width, infinite width, exact where it can be."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special
import scipy.stats

from recollect._core._check import (
    invalid,
    require_count,
    require_nonnegative,
    require_positive,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.convergence._activation import SmoothActivation, require_smooth
from recollect.convergence._network import PairedNetwork, require_sequences, require_targets

_BLOCK_NUMBERS = 2**23


@dataclasses.dataclass(frozen=True)
class TangentKernel:
    """The tangent kernel on a set of sequences.

    Attributes:
        ntk: κ, shape (n·time, n·time); entry `(j·T + t, k·T + s)`.
        ntk_stderr: standard error of each entry, zero where κ is exact for what it describes.
        n_samples: n.
        horizon: T.
        status: how the computation ended.
    """

    ntk: np.ndarray
    ntk_stderr: np.ndarray | float
    n_samples: int
    horizon: int
    status: Status = Status()

    @functools.cached_property
    def eigenvalues(self) -> np.ndarray:
        """Eigenvalues, ascending."""
        return np.linalg.eigvalsh(self.ntk)

    @property
    def least_eigenvalue(self) -> float:
        """The least eigenvalue; at or below rounding the data are not separated."""
        return float(scipy.linalg.eigvalsh(self.ntk, subset_by_index=[0, 0])[0])

    @property
    def largest_eigenvalue(self) -> float:
        """The largest eigenvalue; steps `η < n/λ_max` contract the linearised risk."""
        last = len(self.ntk) - 1
        return float(scipy.linalg.eigvalsh(self.ntk, subset_by_index=[last, last])[0])


@on_one_thread
@references("cayci2024convergence")
def measure_ntk(network: PairedNetwork, signals: Any) -> TangentKernel:
    """Returns the tangent kernel of a network, `κ = (1/m) Σ_i ⟨DH_t^i(X), DH_t'^i(X')⟩`.

    The weights are the same at every time: all pairs of times couple. Units are taken in blocks,
    so that memory is the answer (8 (nT)² bytes) and 2²³ numbers.

    Args:
        network: at any weights.
        signals: sequences, shape (n, time, in).

    Raises:
        ValueError: if the signals do not fit the network or are not finite.

    Source: Cayci and Eryilmaz 2024, Proposition 3.3.
    """
    signals = require_sequences("signals", signals, network.n_inputs)
    n_samples, horizon, _ = signals.shape
    half = network.width // 2
    # Twins contribute the same.
    units = slice(0, half) if network.is_paired else slice(None)
    weights, U = network.weights[units], network.U[units]
    gram = _gram(network.activation, weights, U, signals)
    return TangentKernel(gram / len(weights), 0.0, n_samples, horizon)


@on_one_thread
@references("cayci2024convergence")
def estimate_ntk(
    signals: Any,
    *,
    alpha: float,
    activation: str | SmoothActivation = "tanh",
    n_points: int = 4096,
    n_replicates: int = 8,
    seed: int = 0,
) -> TangentKernel:
    """Returns the tangent kernel of infinite width, by randomised quasi-Monte Carlo.

    `κ = E⟨DH_t(X; θ_0), DH_t'(X'; θ_0)⟩`, w = ±α averaged exactly, u ~ N(0, I) from scrambled
    Sobol points; the standard error is that of independent scramblings.

    Args:
        signals: sequences, shape (n, time, in).
        alpha: α.
        activation: σ.
        n_points: points per scrambling, a power of two.
        n_replicates: scramblings.
        seed: of the scramblings.

    Raises:
        ValueError: if the signals are no finite sequences, α is negative, the points are no power of
            two, there are fewer than two replicates, or the activation has no bounded derivatives.

    Source: Cayci and Eryilmaz 2024, Proposition 3.3.
    """
    signals = require_sequences("signals", signals)
    alpha = require_nonnegative("alpha", alpha)
    smooth = require_smooth(activation)
    count = require_count("n_replicates", n_replicates, minimum=2)
    n_samples, horizon, n_inputs = signals.shape
    mean = np.zeros((n_samples * horizon,) * 2)
    squares = np.zeros_like(mean)
    for replicate in range(count):
        u = draw_gaussian(n_points, n_inputs, seed=[seed, replicate])
        one = sum(_gram(smooth, np.full(len(u), w), u, signals) for w in ({alpha, -alpha})) / (
            len(u) * len({alpha, -alpha})
        )
        change = one - mean
        mean += change / (replicate + 1)
        squares += change * (one - mean)
    stderr = np.sqrt(squares / (count * (count - 1)))
    return TangentKernel(mean, stderr, n_samples, horizon)


@references("cayci2024convergence", "williams1997computing")
def predict_ntk(signals: Any, *, alpha: float, activation: str = "erf") -> TangentKernel:
    """Returns the tangent kernel of infinite width in closed form, where there is one.

    `"linear"`, any α: the states are polynomials in w. `"erf"`, α = 0: the slopes reweight the
    Gaussian and Williams' arcsine remains; for α > 0 the first time step only (horizon 1).

    Args:
        signals: sequences, shape (n, time, in).
        alpha: α.
        activation: `"linear"` or `"erf"`.

    Raises:
        ValueError: where no closed form is known; `estimate_ntk` covers those.

    Source: Cayci and Eryilmaz 2024, Proposition 3.3; Williams 1997, equation (11).
    """
    signals = require_sequences("signals", signals)
    alpha = require_nonnegative("alpha", alpha)
    n_samples, horizon, _ = signals.shape
    if activation == "linear":
        ntk = _linear_ntk(signals, alpha)
    elif activation == "erf" and (alpha == 0 or horizon == 1):
        ntk = _erf_ntk(signals)
    else:
        raise invalid(
            "activation",
            "linear, or erf with alpha=0 or one time step",
            f"{activation!r} with alpha={alpha:g} and {horizon} steps",
            "use estimate_ntk, which has an error bar",
        )
    return TangentKernel(ntk, 0.0, n_samples, horizon)


@references("cayci2024convergence")
def predict_risk_curve(
    ntk: TangentKernel, targets: Any, *, step_size: float, steps: Any
) -> np.ndarray:
    """Returns the risk of the linearised network under gradient descent, after each of `steps`.

    `R(s) = (1/n) Σ_k (1 - 2ηλ_k/n)^{2s} ⟨e_k, Y⟩²`, from the zero start.

    Args:
        ntk: tangent kernel on the training sequences.
        targets: shape (n, time).
        step_size: η.
        steps: whole numbers not below zero.

    Raises:
        ValueError: if targets do not fit or the step size is not positive.

    Source: the linearisation of Cayci and Eryilmaz 2024, section 4.
    """
    y = require_targets("targets", targets, np.empty((ntk.n_samples, ntk.horizon, 1))).ravel()
    eta = require_positive("step_size", step_size)
    values, vectors = np.linalg.eigh(ntk.ntk)
    power = (vectors.T @ y) ** 2 / ntk.n_samples
    factor = (1 - 2 * eta * values / ntk.n_samples) ** 2
    return np.array([float(power @ factor ** int(s)) for s in np.atleast_1d(steps)])


def unit_derivatives(
    activation: SmoothActivation, weights: np.ndarray, U: np.ndarray, signals: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns `∂_wH`, `∂_uH` and H of every unit: shapes (n, T, m), (n, T, m, in), (n, T, m)."""
    n_samples, horizon, n_inputs = signals.shape
    m = len(weights)
    d_w = np.empty((n_samples, horizon, m))
    d_u = np.empty((n_samples, horizon, m, n_inputs))
    states = np.empty((n_samples, horizon, m))
    h = np.zeros((n_samples, m))
    gw, gu = np.zeros_like(h), np.zeros((n_samples, m, n_inputs))
    for t in range(horizon):
        x = signals[:, t]
        z = weights * h + x @ U.T
        slope = activation.slope(z)
        gw = slope * (h + weights * gw)
        gu = slope[..., None] * (x[:, None] + weights[:, None] * gu)
        h = activation.value(z)
        d_w[:, t], d_u[:, t], states[:, t] = gw, gu, h
    return d_w, d_u, states


def draw_gaussian(n_points: int, n_inputs: int, *, seed: int | Sequence[int]) -> np.ndarray:
    """Returns normal quasi-random points of a randomly scrambled Sobol sequence, shape (n, in)."""
    count = require_count("n_points", n_points, minimum=1)
    if count & (count - 1):
        raise invalid("n_points", "a power of two", count)
    sampler = scipy.stats.qmc.Sobol(n_inputs, scramble=True, rng=np.random.default_rng(seed))
    uniform = sampler.random(count)
    tiny = np.finfo(float).eps
    return scipy.special.ndtri(np.clip(uniform, tiny, 1 - tiny))


def _gram(
    activation: SmoothActivation, weights: np.ndarray, U: np.ndarray, signals: np.ndarray
) -> np.ndarray:
    n_samples, horizon, n_inputs = signals.shape
    size = n_samples * horizon
    gram = np.zeros((size, size), order="F")
    block = max(1, _BLOCK_NUMBERS // (size * (n_inputs + 2)))
    for start in range(0, len(weights), block):
        part = slice(start, start + block)
        d_w, d_u, _ = unit_derivatives(activation, weights[part], U[part], signals)
        for jacobian in (d_w.reshape(size, -1), d_u.reshape(size, -1)):
            # In place and one triangle only: no second array of the size of the answer.
            gram = scipy.linalg.blas.dsyrk(1.0, jacobian, 1.0, gram, overwrite_c=1)
    rows = 1024
    for start in range(0, size, rows):
        stop = min(start + rows, size)
        gram[stop:, start:stop] = gram[start:stop, stop:].T
        corner = gram[start:stop, start:stop]
        gram[start:stop, start:stop] = np.triu(corner) + np.triu(corner, 1).T
    return gram


def _linear_ntk(signals: np.ndarray, alpha: float) -> np.ndarray:
    n_samples, horizon, n_inputs = signals.shape
    total = np.zeros((n_samples * horizon,) * 2)
    for w in (alpha, -alpha):
        # H_t = Σ_k w^k ⟨u, X_{t-k}⟩, and E⟨u, f⟩⟨u, g⟩ = ⟨f, g⟩.
        powers = np.zeros_like(signals)
        slopes = np.zeros_like(signals)
        for t in range(horizon):
            if t:
                slopes[:, t] = powers[:, t - 1] + w * slopes[:, t - 1]
                powers[:, t] = w * powers[:, t - 1]
            powers[:, t] += signals[:, t]
        for part in (powers, slopes):
            flat = part.reshape(-1, n_inputs)
            total += flat @ flat.T / 2
    return total


def _erf_ntk(signals: np.ndarray) -> np.ndarray:
    flat = signals.reshape(-1, signals.shape[2])
    before = np.zeros_like(signals)
    before[:, 1:] = signals[:, :-1]
    past = before.reshape(flat.shape)
    k = flat @ flat.T
    norms = np.diag(k)
    # E σ'(a)σ'(b) with σ' = (2/√π) e^{-z²}: a Gaussian integral of the covariance of (a, b).
    determinant = np.outer(1 + 2 * norms, 1 + 2 * norms) - 4 * k**2
    weight = 4 / math.pi / np.sqrt(determinant)
    read_in = weight * k
    # e^{-a²-b²} makes u Gaussian of covariance (I + 2xxᵀ + 2x'x'ᵀ)^{-1}; then E erf(p) erf(q).
    mixed = 2 * (past @ flat.T)
    own = 2 * np.einsum("pd,pd->p", past, flat)
    kpp = past @ past.T
    inner = np.empty((3, *k.shape))
    one, two = 1 + 2 * norms[:, None], 1 + 2 * norms[None, :]
    off = 2 * k
    # With S = [x x']: covariance = I - S (½I + SᵀS)^{-1} Sᵀ, written out for two columns.
    p_first, p_second = own[:, None] / 2, mixed / 2
    q_first, q_second = mixed.T / 2, own[None, :] / 2
    for place, (left, right, plain) in enumerate(
        (
            ((p_first, p_second), (p_first, p_second), np.diag(kpp)[:, None]),
            ((q_first, q_second), (q_first, q_second), np.diag(kpp)[None, :]),
            ((p_first, p_second), (q_first, q_second), kpp),
        )
    ):
        # (½I + SᵀS)^{-1} = 2/det [[1+2|x'|², -2x·x'], [-2x·x', 1+2|x|²]].
        form = (
            left[0] * two * right[0]
            - off * (left[0] * right[1] + left[1] * right[0])
            + left[1] * one * right[1]
        )
        inner[place] = plain - 2 * form / determinant
    arcsine = 2 * inner[2] / np.sqrt((1 + 2 * inner[0]) * (1 + 2 * inner[1]))
    return read_in + weight * 2 / math.pi * np.arcsin(np.clip(arcsine, -1, 1))
