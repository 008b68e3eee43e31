"""Guarantees for one start and one data set: the theorems with everything measured that can be."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_positive,
    require_probability,
)
from recollect._core._references import references
from recollect._core._threads import on_one_thread
from recollect.convergence._network import PairedNetwork, require_sequences, require_targets
from recollect.convergence._ntk import measure_ntk, unit_derivatives
from recollect.convergence._theory import (
    GUARANTEES,
    RiskBound,
    bound_draws,
    initial_risk_of,
    judge,
    solve_descent,
    solve_descent_bounded,
)
from recollect.convergence._train import resolve_step_size
from recollect.convergence._transport import TransportTarget

_SHARE = 0.25
_RIDGES = 10.0 ** np.arange(-6, 2)
_BLOCK_NUMBERS = 2**20
_N_ROUNDS = 40
_N_WIDENINGS = 30
_MARGIN = 1.03
_SLACK = 1.0 + 1e-9
_WIDEST = 1e4
_MOST_FOLLOWED = 20_000
_KEPT_NUMBERS = 2**24
_N_PLACES = 41


@dataclasses.dataclass(frozen=True)
class _Ball:
    """Where the weights of the first halves' units may be, and how they may differ from their twins'."""

    reach_w: np.ndarray
    reach_u: np.ndarray
    travelled: float
    strayed: float = math.inf


@dataclasses.dataclass(frozen=True)
class _Bent:
    """What curvature can do within a ball."""

    error: np.ndarray
    averaged: np.ndarray
    kernel: float
    sample_kernel: float
    output: np.ndarray
    slope_w: np.ndarray
    slope_u: np.ndarray
    change_w: np.ndarray
    change_u: np.ndarray
    is_free: bool


@on_one_thread
@references("cayci2024convergence")
def bound_risk_on_data(
    network: PairedNetwork,
    signals: Any,
    targets: Any,
    *,
    n_steps: int,
    method: str = "projected",
    radius_w: float | None = None,
    radius_u: float | None = None,
    step_size: float | str | None = None,
    comparator: TransportTarget | None = None,
    delta: float = 0.05,
    input_norm: float = 1.0,
) -> RiskBound:
    """Returns a bound on the risk that gradient descent reaches from this start on these data.

    What is bounded: the least `R(Θ(s))` of the steps s < τ, for `"average"` the risk of the network
    with averaged weights. The argument of `bound_risk`, with everything measured that is known before training:

    - the comparator is the best of a ladder of ridge solutions of the linearised network (clipped
      to the ball), or the given target's transport map; its residual is computed, so that nothing
      is assumed about the targets and, except for SGD's draws, nothing is left to chance;
    - `G²` is the largest eigenvalue of the tangent kernel over n, plus what the ball can add;
    - where no projection can act, the risk is also followed along the linearised network;
    - slopes and curvatures are the largest over the interval that each unit's argument can reach on
      each sample, averaged over units; each unit's reach is also limited by the gradients it sees;
    - twins start equal with opposite signs, so their second-order terms cancel up to how far they
      drift together; what remains is of third order, O(1/m) instead of O(1/√m).

    Args:
        network: the start, paired.
        signals: sequences, shape (n, time, in).
        targets: shape (n, time), noisy or not.
        n_steps: τ.
        method: `"projected"`, `"average"`, `"sgd"` or `"plain"`.
        radius_w: ρ_w of the projection; not for `plain`.
        radius_u: ρ_u of the projection.
        step_size: η; None for `1/(4G²)`, `"paper"` for `1/(T√τ)`.
        comparator: the target, if it is known.
        delta: probability of failure of SGD's draws; the other methods have none.
        input_norm: bound on `‖X_t‖`.

    Returns:
        The bound, with R(0) beside it.

    Raises:
        ValueError: if the network is not paired, or a radius is missing.

    Source: Cayci and Eryilmaz 2024; the certificate is ours.
    """
    signals = require_sequences("signals", signals, network.n_inputs, input_norm=input_norm)
    targets = require_targets("targets", targets, signals)
    n_steps = require_count("n_steps", n_steps)
    method = require_choice("method", method, GUARANTEES)
    delta = require_probability("delta", delta)
    if not network.is_paired:
        raise invalid(
            "network",
            "a paired start, whose output is exactly zero",
            "halves that differ",
            "make it with initialise_paired",
        )
    if method == "plain":
        if radius_w is not None or radius_u is not None:
            raise invalid("radius", "none for plain gradient descent", (radius_w, radius_u))
        radii = (math.inf, math.inf)
    else:
        radii = (_require_radius("radius_w", radius_w), _require_radius("radius_u", radius_u))
    case = _Case(network, signals, targets, radii, n_steps, method, delta, step_size)
    best: RiskBound | None = None
    # A ball that grows without end overflows, and is then refused as not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        displacements = list(case.comparators(comparator))
        middle = displacements[len(displacements) // 2]
        for prefix in _prefixes(n_steps, method):
            case.take(prefix)
            # Following the linearised network needs no comparator: one is enough. The others only
            # where they may win: what loses without any curvature loses with it.
            tried = [middle]
            if prefix == n_steps:
                others = (each for each in displacements if each is not middle)
                tried += sorted(others, key=case.least_bound)
            for displacement in tried:
                least = math.inf if best is None else best.bound
                if displacement is not middle and case.least_bound(displacement) >= least:
                    break
                found = case.close(displacement, least)
                if best is None or found.bound < best.bound:
                    best = dataclasses.replace(found, confined_steps=prefix)
    assert best is not None
    return best


def _prefixes(n_steps: int, method: str) -> list[int]:
    """Returns the numbers of steps tried: the best of the first steps is the best of them all.

    Few first: they are quickly judged, and what they prove spares work on many."""
    if method not in ("projected", "plain"):
        return [n_steps]
    ladder = [n_steps]
    while ladder[-1] >= 4:
        ladder.append(ladder[-1] // 3)
    return ladder[::-1]


def _require_radius(name: str, value: Any) -> float:
    if value is None:
        raise invalid(name, "a positive radius", None, "or use method='plain'")
    return require_positive(name, value)


class _Case:
    """One start, one data set, one method: the quantities that every comparator shares."""

    def __init__(
        self,
        network: PairedNetwork,
        signals: np.ndarray,
        targets: np.ndarray,
        radii: tuple[float, float],
        n_steps: int,
        method: str,
        delta: float,
        step_size: float | str | None,
    ):
        self.network, self.signals, self.targets = network, signals, targets
        self.radii, self.n_steps, self.method = radii, n_steps, method
        self.delta = delta
        self.root = math.sqrt(network.width)
        self.half = network.width // 2
        self.n_samples, self.horizon = targets.shape
        self.initial = initial_risk_of(targets)
        kernel = measure_ntk(network, signals).ntk
        size = self.horizon
        self.values, self.vectors = np.linalg.eigh(kernel)
        self.kept: dict[int, list[tuple[np.ndarray, ...]]] = {}
        self.linear: np.ndarray | None = None
        self.linear_reach: tuple[np.ndarray, np.ndarray] | None = None
        self.largest = float(self.values[-1])
        self.sample_largest = max(
            float(np.linalg.eigvalsh(kernel[k : k + size, k : k + size])[-1])
            for k in range(0, len(kernel), size)
        )
        squared = self.sample_largest if method == "sgd" else self.largest / self.n_samples
        self.eta = (
            _SHARE / squared
            if step_size is None
            else resolve_step_size(step_size, horizon=self.horizon, n_steps=n_steps)
        )

    def take(self, n_steps: int) -> None:
        """Looks at the first `n_steps` steps; the step size stays that of all of them."""
        self.n_steps = n_steps
        self.linear = self.linear_risk()
        self.linear_reach = None if self.linear is None else self.follow_units(self.linear)

    def linear_risk(self) -> np.ndarray | None:
        """Returns √R of the linearised network before each step, if it can be followed."""
        factor = 1 - 2 * self.eta * self.values / self.n_samples
        if self.method == "sgd" or self.n_steps > _MOST_FOLLOWED or abs(factor).max() > 1:
            return None
        power = (self.vectors.T @ self.targets.ravel()) ** 2 / self.n_samples
        with np.errstate(divide="ignore", under="ignore"):
            log = 2 * np.log(abs(factor))
            parts = np.array_split(np.arange(self.n_steps), 1 + self.n_steps * len(power) // 2**22)
            curve = [np.exp(np.minimum(0.0, np.outer(s, log))) @ power for s in parts]
        return np.sqrt(np.concatenate(curve))

    def follow_units(self, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns how far each unit of the linearised network ever is from its start.

        Looked at in places between which it moves by at most a fortieth of all it moves.
        """
        sums = self.eta * np.append(0.0, np.cumsum(linear))
        marks = np.unique(np.searchsorted(sums, np.linspace(0, sums[-1], _N_PLACES)))
        marks = np.unique(np.append(marks, [0, self.n_steps]).clip(0, self.n_steps))
        gaps = 2 / self.root * np.diff(sums[marks])
        factor = 1 - 2 * self.eta * self.values / self.n_samples
        seen = self.vectors.T @ self.targets.ravel()
        # η(2/n) Σ_{s'<s} f^{s'}, also where the eigenvalue is zero.
        powers = -np.expm1(np.outer(marks, np.log(np.maximum(abs(factor), 1e-300))))
        powers = np.where(factor < 0, 1 - factor ** marks[:, None], powers)
        still = abs(self.values) < 1e-12 * self.largest
        weights = np.where(
            still,
            2 * self.eta / self.n_samples * marks[:, None],
            powers / np.where(still, 1.0, self.values),
        )
        duals = (self.vectors @ (weights * seen).T).reshape(*self.targets.shape, len(marks))
        reach_w, reach_u = np.empty(self.half), np.empty(self.half)
        for part in self.blocks():
            d_w, d_u, _ = self.derivatives(part)
            for reach, slopes, at in (
                (reach_w, d_w, abs(np.tensordot(d_w, duals, ((0, 1), (0, 1))))),
                (
                    reach_u,
                    np.linalg.norm(d_u, axis=3),
                    np.linalg.norm(np.tensordot(d_u, duals, ((0, 1), (0, 1))), axis=1),
                ),
            ):
                between = _typical(slopes, "mean")[:, None] * gaps
                reach[part] = (at[:, :-1] / self.root + between).max(1, initial=0.0)
        return reach_w, reach_u

    def comparators(self, target: TransportTarget | None) -> Any:
        """Yields displacements of the first half's units: (w, U, linearised residual, ‖·‖²)."""
        if target is not None:
            v_w, v_u = target.comparator(self.network)
            yield self.displace(v_w[: self.half] / self.root, v_u[: self.half] / self.root)
            return
        y = self.targets.ravel()
        values, vectors = self.values, self.vectors
        seen = vectors.T @ y
        for ridge in _RIDGES * values[-1]:
            dual = vectors @ (seen / (np.maximum(values, 0.0) + ridge))
            yield self.displace(*self.pull_back(dual.reshape(self.targets.shape)))

    def pull_back(self, dual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns J_0ᵀ dual, for the first half."""
        w, u = np.empty(self.half), np.empty((self.half, self.network.n_inputs))
        for part in self.blocks():
            d_w, d_u, _ = self.derivatives(part)
            w[part] = np.einsum("jtm,jt->m", d_w, dual)
            u[part] = np.einsum("jtmd,jt->md", d_u, dual)
        signs = self.network.signs[: self.half] / self.root
        return signs * w, signs[:, None] * u

    def displace(self, w: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Clips to the ball; returns the displacement and `Y - F_lin` there."""
        w = np.clip(w, -self.radii[0] / self.root, self.radii[0] / self.root)
        norms = np.linalg.norm(u, axis=1, keepdims=True)
        u = u * np.minimum(1.0, self.radii[1] / self.root / np.maximum(norms, 1e-300))
        reached = np.zeros_like(self.targets)
        signs = self.network.signs[: self.half]
        for part in self.blocks():
            d_w, d_u, _ = self.derivatives(part)
            reached += d_w @ (signs[part] * w[part])
            reached += np.einsum("jtmd,md->jt", d_u, signs[part, None] * u[part])
        return w, u, self.targets - 2 * reached / self.root

    def least_bound(self, displacement: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
        """Returns what the comparator would give if nothing were curved."""
        w, u, residual = displacement
        per_sample = np.sum(residual**2, axis=1)
        error, squared = math.sqrt(float(per_sample.mean())), self.largest / self.n_samples
        if self.method == "sgd":
            error, squared = math.sqrt(float(per_sample.max())), self.sample_largest
        price = 2 * float(np.sum(w**2) + np.sum(u**2)) / (self.eta * self.n_steps)
        return min(
            solve_descent(error, price, self.eta * squared), solve_descent_bounded(error, price, 0)
        )

    def close(
        self, displacement: tuple[np.ndarray, np.ndarray, np.ndarray], known: float
    ) -> RiskBound:
        """Returns the bound: the least travelled length that the argument confirms.

        Gives up, with an infinite one, once it cannot be below what is `known`: balls only grow.
        """
        w, u, residual = displacement
        nu_squared = 2 * float(np.sum(w**2) + np.sum(u**2))
        moves = abs(w), np.linalg.norm(u, axis=1)
        travelled, strayed, best = 0.0, 0.0, None
        reach = None
        for _ in range(_N_ROUNDS):
            ball, bent = self.ball(travelled, moves, reach, strayed, known)
            if bent is None:
                break
            outcome = self.descend(residual, bent, nu_squared)
            if outcome is None:
                break
            if self.finish(min(outcome[2:4]), bent, outcome[-1]) >= known:
                return self.nothing()
            needed, apart = outcome[0], outcome[5]
            if needed <= travelled * _SLACK and apart <= strayed * _SLACK:
                best = ball, bent, outcome
                break
            # Overshooting keeps the argument valid and ends the iteration sooner.
            travelled, strayed = max(travelled, needed * 1.02), max(strayed, apart * 1.05)
            reach = ball.reach_w, ball.reach_u
            if travelled > _WIDEST and self.method != "plain":
                travelled = math.inf
        if best is None and self.method != "plain":
            ball, bent = self.ball(math.inf, moves, None)
            outcome = None if bent is None else self.descend(residual, bent, nu_squared)
            best = None if outcome is None else (ball, bent, outcome)
        if best is None:
            return self.nothing()
        ball, bent, outcome = best
        assert bent is not None
        (_, eta, x, paper, floor, _, largest) = outcome
        bound, paper, floor = (self.finish(value, bent, largest) for value in (x, paper, floor))
        bound = min(bound, paper)
        floor = min(floor, bound)
        radii = (
            float(ball.reach_w.max() * self.root),
            float(ball.reach_u.max() * self.root),
        )
        return judge(bound, self.initial, paper, bound - floor, floor, eta, radii)

    def descend(
        self, residual: np.ndarray, bent: _Bent, nu_squared: float
    ) -> tuple[float, float, float, float, float, float, float] | None:
        """Returns ηΣ√R, η, the bound on the mean risk, C's, the floor, how far √R strayed, and the
        largest risk that a step can see."""
        per_sample = np.sum((abs(residual) + bent.error) ** 2, axis=1)
        if self.method == "sgd":
            # A drawn sequence's own error counts: the largest over sequences.
            error = math.sqrt(float(per_sample.max()))
            squared = self.sample_largest + bent.sample_kernel
        else:
            error = math.sqrt(float(per_sample.mean()))
            squared = (self.largest + bent.kernel) / self.n_samples
        if not math.isfinite(error * squared):
            return None
        eta = self.eta
        price = nu_squared / (eta * self.n_steps)
        x = solve_descent(error, price, eta * squared)
        ball_risk = np.sum((abs(self.targets) + bent.output) ** 2, axis=1)
        largest = float(ball_risk.max() if self.method == "sgd" else ball_risk.mean())
        paper = solve_descent_bounded(error, price, 4 * eta * squared * largest)
        if self.method == "sgd" and eta * squared < 1:
            # The way to the comparator never exceeds this, and the outputs follow from it.
            far = nu_squared + eta * self.n_steps * error**2 / (1 - eta * squared)
            off = float(np.sum((abs(residual) + bent.averaged) ** 2, axis=1).max())
            largest = min(largest, (math.sqrt(self.sample_largest * far) + math.sqrt(off)) ** 2)
        floor = solve_descent(error, 0.0, min(eta * squared, 0.5))
        travelled = eta * self.n_steps * math.sqrt(min(x, paper))
        followed, strayed = self.follow(bent), math.inf
        if followed is not None and self.linear is not None:
            strayed = followed[0] - eta * float(self.linear.sum())
            travelled = min(travelled, followed[0])
            x = min(x, followed[1] if self.method == "average" else followed[2])
        return travelled, eta, x, paper, min(floor, x), strayed, largest

    def follow(self, bent: _Bent) -> tuple[float, float, float] | None:
        """Returns ηΣ√R, the mean and the least risk as the linearised network has them, plus what can add up.

        While no projection acts, `e_{s+1} = e_s - (2η/n) K̃ e_s` with `‖K̃ - K_0‖ ≤ κ`, hence
        `√R_s ≤ √R_lin,s + (2κ/n) ηΣ_{s'<s}√R_{s'}`.
        """
        if self.linear is None or not bent.is_free or self.is_lost(bent):
            return None
        growth = 2 * self.eta * bent.kernel / self.n_samples
        later = np.exp(math.log1p(growth) * np.arange(self.n_steps - 1, -1, -1))
        travelled = self.eta * float(later @ self.linear)
        steps = np.arange(self.n_steps)
        sums = np.cumsum(self.linear * np.exp(-math.log1p(growth) * (steps + 1)))
        added = growth * np.append(0.0, sums[:-1]) * np.exp(math.log1p(growth) * steps)
        risks = (self.linear + added) ** 2
        return travelled, float(risks.mean()), float(risks.min())

    def nothing(self) -> RiskBound:
        """Returns the bound of an argument that does not close."""
        inf = math.inf
        return judge(inf, self.initial, inf, inf, inf, self.eta, self.radii)

    def is_lost(self, bent: _Bent) -> bool:
        """Says whether the kernel may change too much for the linearised network to be followed."""
        return not 2 * self.eta * bent.kernel / self.n_samples * self.n_steps <= 50

    def finish(self, x: float, bent: _Bent, largest: float) -> float:
        """Returns the bound on what the method returns from that on the mean risk of its steps."""
        if self.method == "average":
            extra = math.sqrt(float(np.sum(bent.averaged**2)) / self.n_samples)
            return (math.sqrt(x) + extra) ** 2
        if self.method == "sgd":
            return bound_draws(x, largest, self.n_steps, self.delta)
        return x

    def ball(
        self,
        travelled: float,
        moves: tuple[np.ndarray, np.ndarray],
        reach: tuple[np.ndarray, np.ndarray] | None,
        strayed: float = math.inf,
        known: float = math.inf,
    ) -> tuple[_Ball, _Bent] | tuple[_Ball, None]:
        """Returns a ball that a path with ηΣ√R ≤ `travelled` cannot leave, and what bends in it.

        A unit moves by at most 2 m^{-1/2} ηΣ√R times the root mean square of its gradient; the
        supremum of that gradient is over the ball itself, so the ball is confirmed, not assumed.
        """
        limits = self.radii[0] / self.root, self.radii[1] / self.root
        step = 2 * travelled / self.root
        shape = (self.half,)
        if math.isfinite(step):
            reach_w, reach_u = reach or (np.zeros(shape), np.zeros(shape))
            for _ in range(_N_WIDENINGS):
                ball = _Ball(reach_w, reach_u, travelled, strayed)
                bent = self.bend(ball, moves)
                need_w, need_u = step * bent.slope_w, step * bent.slope_u
                if self.linear_reach is not None and math.isfinite(strayed):
                    # As far as the linearised unit, plus what its gradient and the risk differ by.
                    apart = 2 * strayed / self.root
                    far_w = apart * bent.slope_w + step * bent.change_w
                    far_u = apart * bent.slope_u + step * bent.change_u
                    need_w = np.minimum(need_w, self.linear_reach[0] + far_w)
                    need_u = np.minimum(need_u, self.linear_reach[1] + far_u)
                need_w, need_u = np.minimum(limits[0], need_w), np.minimum(limits[1], need_u)
                if (need_w <= reach_w).all() and (need_u <= reach_u).all():
                    return ball, bent
                lost = self.is_lost(bent) and np.mean(np.sum(bent.error**2, axis=1)) >= known
                if lost or not np.isfinite(need_w + need_u).all():
                    break
                # A little more than is needed now, because a larger ball needs more.
                reach_w = np.minimum(limits[0], np.maximum(reach_w, _MARGIN * need_w))
                reach_u = np.minimum(limits[1], np.maximum(reach_u, _MARGIN * need_u))
        if not all(math.isfinite(limit) for limit in limits):
            return _Ball(np.zeros(shape), np.zeros(shape), travelled), None
        ball = _Ball(np.full(shape, limits[0]), np.full(shape, limits[1]), travelled)
        return ball, self.bend(ball, moves)

    def blocks(self) -> Any:
        """Yields slices of the first half's units."""
        size = max(1, _BLOCK_NUMBERS // (self.targets.size * (self.network.n_inputs + 4)))
        return (slice(k, min(k + size, self.half)) for k in range(0, self.half, size))

    def derivatives(self, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return unit_derivatives(
            self.network.activation, self.network.weights[part], self.network.U[part], self.signals
        )

    def bend(self, ball: _Ball, moves: tuple[np.ndarray, np.ndarray]) -> _Bent:
        """Sums what curvature can do over the units, block by block."""
        error, averaged = np.zeros_like(self.targets), np.zeros_like(self.targets)
        jacobian, coupled = np.zeros_like(self.targets), np.zeros_like(self.targets)
        output = np.zeros_like(self.targets)
        slope_w, slope_u, change_w, change_u = np.empty((4, self.half))
        axis = {"sgd": "max"}.get(self.method, "mean")
        for part in self.blocks():
            suprema = self.suprema(part, ball.reach_w[part], ball.reach_u[part])
            p, q, a, x, c, s, third = suprema
            r_w, r_u = ball.reach_w[part], ball.reach_u[part]
            v_w, v_u = moves[0][part], moves[1][part]
            r, v = np.hypot(r_w, r_u), np.hypot(v_w, v_u)
            slope_w[part] = _typical(p, axis)
            slope_u[part] = _typical(q, axis)
            # How far twins can drift together.
            common = r
            if math.isfinite(ball.travelled):
                drifted = 2 * ball.travelled / self.root * r * _typical(s, axis)
                common = np.minimum(drifted, r)
            bent_square = a * r_w**2 + 2 * x * r_w * r_u + c * r_u**2
            plain = bent_square + 2 * (a * r_w * v_w + x * (r_w * v_u + r_u * v_w) + c * r_u * v_u)
            paired = 2 * third * (r**3 / 3 + r**2 * v / 2) + 2 * common * s * (r + v)
            error += np.minimum(plain, paired).sum(-1)
            averaged += np.minimum(
                bent_square, 2 / 3 * third * r**3 + 2 * s * common * (r + common)
            ).sum(-1)
            apart_w, apart_u = a * r_w + x * r_u, x * r_w + c * r_u
            change_w[part], change_u[part] = _typical(apart_w, axis), _typical(apart_u, axis)
            changed = np.hypot(apart_w, apart_u)
            jacobian += (changed**2).sum(-1)
            # Of first order only what the twins do alike remains in the kernel.
            coupled += (np.minimum(changed, s * common + third * r**2 / 2) ** 2).sum(-1)
            output += (p * r_w + q * r_u).sum(-1)
        jacobian *= 2 / self.network.width
        coupled *= 2 / self.network.width
        limits = self.radii[0] / self.root, self.radii[1] / self.root
        return _Bent(
            error / self.root,
            averaged / self.root,
            2 * math.sqrt(self.largest * float(coupled.sum())) + float(jacobian.sum()),
            2 * math.sqrt(self.sample_largest * float(coupled.sum(1).max()))
            + float(jacobian.sum(1).max()),
            2 * output / self.root,
            slope_w,
            slope_u,
            change_w,
            change_u,
            bool((ball.reach_w < limits[0]).all() and (ball.reach_u < limits[1]).all()),
        )

    def at_start(self, part: slice) -> list[tuple[np.ndarray, ...]]:
        """Returns `‖X‖`, z, `|H|`, `|∂_w z|` and `‖∂_u z‖` at the start, time by time."""
        if part.start in self.kept:
            return self.kept[part.start]
        activation, signals = self.network.activation, self.signals
        w0, U0 = self.network.weights[part], self.network.U[part]
        shape = (self.n_samples, len(w0))
        h, gw = np.zeros(shape), np.zeros(shape)
        gu = np.zeros((*shape, U0.shape[1]))
        found = []
        for t in range(self.horizon):
            signal = signals[:, t]
            z = w0 * h + signal @ U0.T
            z_w, z_u = h + w0 * gw, signal[:, None] + w0[:, None] * gu
            size = np.linalg.norm(signal, axis=1)[:, None]
            found.append((size, z, abs(h), abs(z_w), np.linalg.norm(z_u, axis=2)))
            slope = activation.slope(z)
            gw, gu, h = slope * z_w, slope[..., None] * z_u, activation.value(z)
        # Asked for once per ball that is tried.
        if 4 * self.targets.size * self.half <= _KEPT_NUMBERS:
            self.kept[part.start] = found
        return found

    def suprema(self, part: slice, reach_w: np.ndarray, reach_u: np.ndarray) -> list[np.ndarray]:
        """Returns, over the ball, the largest |∂_wH|, ‖∂_uH‖, second derivatives (ww, wu, uu),
        their norm and the norm of the third: each of shape (n, T, units)."""
        activation, w0 = self.network.activation, self.network.weights[part]
        widest = abs(w0) + reach_w
        shape = (self.n_samples, len(w0))
        moved, p, q, a, x, c, s, third = (np.zeros(shape) for _ in range(8))
        kept: list[list[np.ndarray]] = [[] for _ in range(7)]
        steep = activation.third_bound
        with np.errstate(invalid="ignore", over="ignore"):
            for size, z, at_rest, slope_w, slope_u in self.at_start(part):
                ww, wu, uu = 2 * p + widest * a, q + widest * x, widest * c
                dz_w = np.minimum(
                    at_rest + moved + widest * p, slope_w + ww * reach_w + wu * reach_u
                )
                dz_u = np.minimum(size + widest * q, slope_u + wu * reach_w + uu * reach_u)
                reach = np.minimum(
                    abs(w0) * moved + reach_w * (at_rest + moved) + reach_u * size,
                    dz_w * reach_w + dz_u * reach_u,
                )
                slope = activation.largest_slope(z, reach)
                curvature = activation.largest_curvature(z, reach)
                along = np.hypot(dz_w, dz_u)
                third = (
                    steep * along**3
                    + 3 * curvature * along * _norm(ww, wu, uu)
                    + slope * (3 * s + widest * third)
                )
                a = curvature * dz_w**2 + slope * ww
                x = curvature * dz_w * dz_u + slope * wu
                c = curvature * dz_u**2 + slope * uu
                s = _norm(a, x, c)
                p, q, moved = slope * dz_w, slope * dz_u, slope * reach
                for place, value in enumerate((p, q, a, x, c, s, third)):
                    kept[place].append(value)
        found = [np.stack(values, axis=1) for values in kept]
        # inf·0 where the third derivative has no bound: no help from pairing.
        found[6] = np.where(np.isnan(found[6]), math.inf, found[6])
        return found


def _norm(ww: np.ndarray, wu: np.ndarray, uu: np.ndarray) -> np.ndarray:
    return (ww + uu) / 2 + np.hypot((ww - uu) / 2, wu)


def _typical(values: np.ndarray, axis: str) -> np.ndarray:
    """Returns √(mean over samples of Σ_t values²) per unit, or the largest over samples."""
    sums = np.sum(values**2, axis=1)
    return np.sqrt(sums.max(0) if axis == "max" else sums.mean(0))
