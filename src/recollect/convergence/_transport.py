"""Targets that the theory covers: transport maps of bounded size, drawn or found in data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

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
from recollect.convergence._ntk import draw_gaussian, unit_derivatives


@references("cayci2024convergence")
@dataclasses.dataclass(frozen=True)
class TransportTarget:
    """A system of the class: `F*_t(X) = E⟨DH_t(X; θ_0), v(θ_0)⟩`, `|v_w| ≤ ν_w`, `‖v_u‖ ≤ ν_u`.

    Attributes:
        transport: v, a function of `(weights (m,), U (m, in))` that returns `(v_w (m,), v_u (m, in))`.
        nu_w: ν_w.
        nu_u: ν_u.
        n_inputs: d.
        alpha: α.
        activation: σ.
    """

    transport: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    nu_w: float
    nu_u: float
    n_inputs: int
    alpha: float
    activation: SmoothActivation

    def __call__(
        self, signals: Any, *, n_points: int = 4096, n_replicates: int = 8, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the outputs and their standard errors, shapes (n, time).

        The expectation is a quasi-Monte Carlo mean over `n_replicates` scramblings of `n_points`.
        """
        signals = require_sequences("signals", signals, self.n_inputs)
        means = []
        for replicate in range(require_count("n_replicates", n_replicates, minimum=2)):
            u = draw_gaussian(n_points, self.n_inputs, seed=[seed, replicate])
            total = np.zeros(signals.shape[:2])
            for w in (-self.alpha, self.alpha):
                weights = np.full(len(u), w)
                v_w, v_u = self.transport(weights, u)
                for part in np.array_split(
                    np.arange(len(u)), max(1, signals.size * len(u) // 2**24)
                ):
                    d_w, d_u, _ = unit_derivatives(self.activation, weights[part], u[part], signals)
                    total += d_w @ v_w[part] + np.einsum("jtmd,md->jt", d_u, v_u[part])
            means.append(total / (2 * len(u)))
        stacked = np.stack(means)
        return stacked.mean(0), stacked.std(0, ddof=1) / math.sqrt(n_replicates)

    def comparator(self, network: PairedNetwork) -> tuple[np.ndarray, np.ndarray]:
        """Returns the displacements `√m (θ̄_i - θ_i(0)) = c_i v(θ_i(0))`, shapes (m,), (m, in)."""
        v_w, v_u = self.transport(network.weights, network.U)
        return network.signs * v_w, network.signs[:, None] * v_u


@references("cayci2024convergence")
def draw_transport_target(
    n_inputs: int,
    *,
    nu_w: float,
    nu_u: float,
    alpha: float,
    seed: int,
    activation: str | SmoothActivation = "tanh",
) -> TransportTarget:
    """Returns a random system of the class with the given ν.

    `v_w = ν_w cos(⟨a, u⟩ + s w/α + φ)`, `v_u = ν_u cos(⟨b, u⟩ + φ')` times a unit vector: bounds
    are attained, and nearby units are moved alike.

    Args:
        n_inputs: d.
        nu_w: ν_w.
        nu_u: ν_u.
        alpha: α.
        seed: of the draw.
        activation: σ.

    Raises:
        ValueError: if a number is out of range or the activation has no bounded derivatives.

    Source: Cayci and Eryilmaz 2024, the class of transport maps of section 3.
    """
    count = require_count("n_inputs", n_inputs)
    nu_w, nu_u = require_nonnegative("nu_w", nu_w), require_nonnegative("nu_u", nu_u)
    alpha = require_nonnegative("alpha", alpha)
    rng = np.random.default_rng([require_count("seed", seed, minimum=0), 29])
    a, b, e = rng.standard_normal((3, count)) / math.sqrt(count)
    shift, phase_w, phase_u = rng.uniform(0, 2 * math.pi, 3)
    e = e / np.linalg.norm(e)

    def transport(weights: np.ndarray, U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v_w = nu_w * np.cos(U @ a + shift * np.sign(weights) + phase_w)
        return v_w, nu_u * np.cos(U @ b + phase_u)[:, None] * e

    return TransportTarget(transport, nu_w, nu_u, count, alpha, require_smooth(activation))


@dataclasses.dataclass(frozen=True)
class EstimatedNu:
    """The least size of a transport map that explains data.

    Attributes:
        nu: ν_u of the smallest map found; `ν_w = ratio · ν_u`.
        nu_stderr: from independent sets of features.
        nu_bound: no map of the class with smaller ν reaches the tolerance, up to the sampling error
            of a mean over features that the programme has not seen.
        ratio: ν_w / ν_u.
        residual: root of the mean square left over, at most the tolerance.
        weights_w: `√m` displacements in w of the sampled units of the first set.
        weights_u: the same in u.
        status: `not_converged` if the duality gap stayed open.
    """

    nu: float
    nu_stderr: float
    nu_bound: float
    ratio: float
    residual: float
    weights_w: np.ndarray
    weights_u: np.ndarray
    status: Status = Status()


@on_one_thread
@references("cayci2024convergence")
def estimate_nu(
    signals: Any,
    targets: Any,
    *,
    alpha: float,
    tolerance: float = 1e-3,
    ratio: float = 1.0,
    activation: str | SmoothActivation = "tanh",
    n_features: int = 1024,
    n_replicates: int = 4,
    seed: int = 0,
) -> EstimatedNu:
    """Returns the least ν with which a transport map explains the data, by a convex programme.

    On N sampled units: minimise ν over v with `|v_w,k| ≤ r ν`, `‖v_u,k‖ ≤ ν` and
    `‖(1/N)Σ⟨DH(θ_k), v_k⟩ - Y‖ ≤ ε√(nT)`. Its dual, maximise over λ

        (⟨λ, Y⟩ - ε√(nT) ‖λ‖) / (1/N)Σ_k [r |D_wH(θ_k)ᵀλ| + ‖D_uH(θ_k)ᵀλ‖],

    is solved by reweighted least squares; any λ proves a lower bound, on the sampled units exactly
    and on fresh units up to the error of a mean.

    Args:
        signals: sequences, shape (n, time, in).
        targets: shape (n, time); all zero has ν = 0.
        alpha: α.
        tolerance: ε, root mean square that may be left (noise), relative to that of the targets.
        ratio: ν_w / ν_u.
        activation: σ.
        n_features: N, sampled units per set.
        n_replicates: independent sets.
        seed: of the units.

    Raises:
        ValueError: if the tolerance is not in (0, 1).

    Source: Cayci and Eryilmaz 2024, section 3; the programme is ours.
    """
    signals = require_sequences("signals", signals)
    targets = require_targets("targets", targets, signals)
    alpha = require_nonnegative("alpha", alpha)
    ratio = require_positive("ratio", ratio)
    tolerance = require_positive("tolerance", tolerance)
    if tolerance >= 1:
        raise invalid("tolerance", "a number below 1", tolerance, "1 is explained by zero")
    smooth = require_smooth(activation)
    count = require_count("n_features", n_features, minimum=2)
    y = targets.ravel()
    if not y.any():
        nothing = np.zeros(count)
        return EstimatedNu(0.0, 0.0, 0.0, ratio, 0.0, nothing, np.zeros((count, signals.shape[2])))
    slack = tolerance * float(np.linalg.norm(y))

    def features(*path: int) -> tuple[np.ndarray, np.ndarray]:
        u = draw_gaussian(count // 2, signals.shape[2], seed=[seed, *path])
        w = np.repeat([-alpha, alpha], len(u))
        d_w, d_u, _ = unit_derivatives(smooth, w, np.tile(u, (2, 1)), signals)
        size = len(y)
        return ratio * d_w.reshape(size, -1), d_u.reshape(size, len(w), -1)

    found, below, residuals = [], [], []
    first: tuple[np.ndarray, np.ndarray] | None = None
    is_open = False
    for replicate in range(require_count("n_replicates", n_replicates, minimum=2)):
        a_w, a_u = features(replicate)
        nu, v_w, v_u, dual, left, gap = _least_map(a_w, a_u, y, slack)
        is_open |= gap > 5e-2
        found.append(nu)
        residuals.append(left)
        first = first or (ratio * v_w, v_u)
        fresh_w, fresh_u = features(replicate, 1)
        norm = (
            abs(dual @ fresh_w).sum() + np.linalg.norm(np.tensordot(dual, fresh_u, 1), axis=1).sum()
        ) / fresh_w.shape[1]
        below.append((dual @ y - slack * np.linalg.norm(dual)) / norm)
    assert first is not None
    status = Status()
    if is_open:
        status = Status("not_converged", "the duality gap is above 5 %: more features may help")
    stderr = float(np.std(found, ddof=1) / math.sqrt(len(found)))
    return EstimatedNu(
        float(np.mean(found)),
        stderr,
        float(np.mean(below)),
        ratio,
        float(np.mean(residuals)) / math.sqrt(len(y)),
        *first,
        status,
    )


def _least_map(
    a_w: np.ndarray,
    a_u: np.ndarray,
    y: np.ndarray,
    slack: float,
    *,
    n_rounds: int = 1000,
    gap: float = 3e-3,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Returns ν, the map, the dual vector, the residual's norm and the relative duality gap."""
    n_units = a_w.shape[1]
    flat = a_u.reshape(len(y), -1)
    size_w, size_u = np.ones(n_units), np.ones(n_units)
    dual, best = y.copy(), (-math.inf, y.copy())
    tiny = 1e-9
    for _ in range(n_rounds):
        weigh_w, weigh_u = size_w, size_u
        gram = (a_w / (n_units * size_w)) @ a_w.T
        gram += (flat / np.repeat(n_units * size_u, a_u.shape[2])) @ flat.T
        gram[np.diag_indices(len(y))] += slack / np.linalg.norm(dual) + tiny * np.trace(gram) / len(
            y
        )
        step = np.linalg.solve(gram, y)
        dual = step / (step @ y)
        pull_w = dual @ a_w
        pull_u = np.tensordot(dual, a_u, 1)
        norms = np.linalg.norm(pull_u, axis=1)
        floor = 1e-7 * max(abs(pull_w).max(), norms.max())
        size_w, size_u = np.maximum(abs(pull_w), floor), np.maximum(norms, floor)
        total = (abs(pull_w).sum() + norms.sum()) / n_units
        value = (1 - slack * float(np.linalg.norm(dual))) / total
        best = max(best, (value, dual), key=lambda pair: pair[0])
        # The map that the same weights make explains the data; its size closes the gap.
        v_w, v_u = (step @ a_w) / weigh_w, np.tensordot(step, a_u, 1) / weigh_u[:, None]
        nu = float(max(abs(v_w).max(), np.linalg.norm(v_u, axis=1).max()))
        if nu - best[0] < gap * nu:
            break
    lower, dual = best
    left = float(np.linalg.norm((a_w @ v_w + flat @ v_u.ravel()) / n_units - y))
    return nu, v_w, v_u, dual, left, (nu - lower) / nu
