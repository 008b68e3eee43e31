"""Gradient flow of the exact loss over flow times 1e-2 to 1e12, many starts at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.training._loss import ExactLoss

_EPS = float(np.finfo(float).eps)
_MOST_NEWTON = 10
# How far below its bound the rounding of a gradient usually is.
_NOISE = 0.25
# Weights that have grown by this factor are on their way to infinity.
_UNBOUNDED = 50.0


@dataclasses.dataclass(frozen=True, eq=False)
class GradientFlow:
    """A solution of `dθ/dτ = -∇J(θ)`, θ = (a, w), until it ends.

    Attributes:
        amplitudes: at the end, shape (width,).
        rates: at the end, shape (width,).
        flow_time: when it ended; infinite if the end is a limit point.
        loss: J at the end.
        end: `minimum` (Hessian positive definite), `degenerate` (positive semidefinite to rounding),
            `saddle` (reached only by starts that symmetry holds there), `unbounded` (amplitudes grow
            while their rates run together: no minimiser), `hit` (the event) or `time`.
        eigenvalues: of the Hessian at the end, increasing.
        flow_times: of the steps taken, shape (step,).
        weights: θ at these times, shape (step, 2 width).
        losses: J at these times.
        status: `ok`; `precision_limit` where the gradient falls below its rounding error before the
            flow is over; `not_converged` if the steps allowed were used up.
        stats: `n_steps`, `n_rejected`, `n_evaluations`.
    """

    amplitudes: np.ndarray
    rates: np.ndarray
    flow_time: float
    loss: float
    end: str
    eigenvalues: np.ndarray
    flow_times: np.ndarray
    weights: np.ndarray
    losses: np.ndarray
    status: Status
    stats: dict[str, int]
    _polynomials: np.ndarray

    def at(self, flow_times: Any) -> np.ndarray:
        """Returns θ at any times up to the end, shape (time, 2 width).

        Args:
            flow_times: shape (time,), between 0 and the last step.
        """
        t = np.atleast_1d(host_float64("flow_times", flow_times, owner="GradientFlow"))
        if (t < 0).any() or (t > self.flow_times[-1]).any():
            raise invalid("flow_times", f"times in [0, {self.flow_times[-1]:g}]", "one outside")
        if len(self.flow_times) == 1:
            return np.repeat(self.weights[:1], len(t), axis=0)
        step = np.searchsorted(self.flow_times, t, side="left").clip(1) - 1
        length = np.diff(self.flow_times)[step]
        share = (t - self.flow_times[step]) / length
        powers = share[:, None] ** np.arange(1, _STAGES + 1)
        return self.weights[step] + np.einsum("tk,tkn->tn", powers, self._polynomials[step])


class FlowEvent(NamedTuple):
    """When a flow has got somewhere: `loss` has fallen, or `parameters` have moved, by `delta`."""

    of: str
    delta: float


@references("li2021curse")
def solve_flow(
    loss: ExactLoss,
    amplitudes: Any,
    rates: Any,
    *,
    flow_time: float = 1e12,
    hit: FlowEvent | None = None,
    rtol: float = 1e-8,
    max_steps: int = 2000,
) -> GradientFlow:
    """Returns the gradient flow `dθ/dτ = -∇J(θ)` from one start until it ends.

    Radau IIA of order 9 with the exact Hessian, and steps that follow the distance from the start:
    a plateau of 1e10 takes no more of them than one of 10. The flow ends by itself at a minimum
    (Newton's method from there converges close by), or where the gradient is below its rounding.
    Units that start equal stay equal: they are moved as one.

    Args:
        loss: from `exact_loss`.
        amplitudes: start a, shape (width,).
        rates: start w > 0, shape (width,).
        flow_time: longest flow time.
        hit: stop when the loss or the parameters have moved by so much.
        rtol: tolerance of a step, relative to the distance from the start.
        max_steps: steps allowed.

    Raises:
        ValueError: rates that are not positive, shapes that do not fit, a δ that is not positive.

    Source: Li et al. 2021, section 5.
    """
    a, w = (np.atleast_1d(np.asarray(v, float)) for v in (amplitudes, rates))
    if a.ndim != 1:
        raise invalid("amplitudes", "shape (width,)", f"shape {a.shape}", "use solve_flows")
    (flow,) = solve_flows(
        [loss],
        a[None],
        w[None],
        flow_time=flow_time,
        hit=hit,
        rtol=rtol,
        max_steps=max_steps,
    )
    return flow


@on_one_thread
@references("li2021curse")
def solve_flows(
    losses: ExactLoss | Sequence[ExactLoss],
    amplitudes: Any,
    rates: Any,
    *,
    flow_time: float = 1e12,
    hit: FlowEvent | None = None,
    rtol: float = 1e-8,
    max_steps: int = 2000,
) -> tuple[GradientFlow, ...]:
    """Returns the gradient flows of many starts and targets, in one batch.

    Every lane has its own step size; finished lanes are removed.

    Args:
        losses: one for all lanes, or one per lane.
        amplitudes: shape (lane, width).
        rates: shape (lane, width).
        flow_time, hit, rtol, max_steps: as in `solve_flow`.

    Raises:
        ValueError: if shapes differ, a rate or tolerance is not positive, or `hit` is no event.
    """
    a, w, lanes = _starts(losses, amplitudes, rates)
    flow_time = require_positive("flow_time", flow_time)
    rtol = require_positive("rtol", rtol)
    require_count("max_steps", max_steps)
    if hit is not None:
        hit = FlowEvent(*hit)
        if hit.of not in ("loss", "parameters"):
            raise invalid("hit", "a FlowEvent of 'loss' or 'parameters'", repr(hit.of))
        require_positive("delta", hit.delta)
    return _Batch(lanes, np.concatenate([a, w], axis=1), flow_time, hit, rtol, max_steps).run()


def _starts(losses: Any, amplitudes: Any, rates: Any):
    a = host_float64("amplitudes", amplitudes, owner="solve_flows")
    w = host_float64("rates", rates, owner="solve_flows")
    if a.ndim != 2 or a.shape != w.shape:
        raise invalid("rates", f"the shape of amplitudes, {a.shape}", f"shape {w.shape}")
    if not (np.isfinite(a).all() and np.isfinite(w).all()):
        raise invalid("amplitudes", "finite weights", "NaN or infinity")
    if not (w > 0).all():
        raise invalid("rates", "positive rates", f"a smallest rate of {w.min():g}")
    lanes = [losses] * len(a) if isinstance(losses, ExactLoss) else list(losses)
    if len(lanes) == 1:
        lanes = lanes * len(a)
    if len(lanes) != len(a):
        raise invalid("losses", f"one loss, or one for each of {len(a)} lanes", len(lanes))
    for loss in lanes:
        if not isinstance(loss, ExactLoss):
            raise wrong_type("losses", "losses from exact_loss", type(loss).__name__)
    return a, w, lanes


def _radau(n_stages: int):
    """Returns nodes, A⁻¹, its real eigenvalue and the error weights of the Radau IIA method."""
    legendre = np.polynomial.legendre.Legendre
    points = np.real((legendre.basis(n_stages) - legendre.basis(n_stages - 1)).roots())
    c = np.sort(np.append(0.5 * (1 + points[points < 1 - 1e-9]), 1.0))
    k = np.arange(1, n_stages + 1)
    powers = c[:, None] ** (k - 1)
    A = (c[:, None] ** k / k) @ np.linalg.inv(powers)
    inverse = np.linalg.inv(A)
    mu = np.linalg.eigvals(inverse)
    real = float(mu[np.argmin(np.abs(mu.imag))].real)
    # The embedded formula adds the derivative at the start, with the weight 1/μ of the real root.
    weight = 1 / real
    wanted = 1 / k - np.where(k == 1, weight, 0.0)
    embedded = np.linalg.solve(powers.T, wanted) - A[-1]
    return c, inverse, real, embedded @ inverse / weight


_STAGES = 5
_C, _INVERSE, _MU_REAL, _ERROR = _radau(_STAGES)
_EACH = np.arange(_STAGES)
_TO_POWERS = np.linalg.inv(_C[:, None] ** np.arange(1, _STAGES + 1))


class _Batch:
    """The lanes still under way."""

    def __init__(self, lanes, theta, flow_time, hit, rtol, max_steps):
        self.lanes, self.start, self.hit, self.rtol = lanes, theta, hit, rtol
        self.flow_time, self.max_steps = flow_time, max_steps
        groups: dict[int, list[int]] = {}
        for lane, loss in enumerate(lanes):
            groups.setdefault(id(loss), []).append(lane)
        self.group = np.empty(len(lanes), int)
        self.distinct = []
        for number, members in enumerate(groups.values()):
            self.group[members] = number
            self.distinct.append(lanes[members[0]])
        self.mirror = _mirrors(theta)
        self.n_evaluations = np.zeros(len(lanes), int)

    def stages(self, which: np.ndarray, theta: np.ndarray):
        """Returns -∇J and -∇²J at θ of shape (lane, stage, 2 width); NaN where a rate is not positive."""
        m = theta.shape[-1] // 2
        bad = np.logical_not(np.isfinite(theta).all(axis=-1) & (theta[..., m:] > 0).all(axis=-1))
        safe = np.where(bad[..., None], 1.0, theta)
        slope, H = self.slope_and_hessian(which, safe)
        slope[bad] = np.nan
        if self.mirror is not None:
            H = np.einsum("lij,lsjk->lsik", self.mirror[which], H)
        return slope, -H

    def slope_and_hessian(self, which: np.ndarray, theta: np.ndarray):
        m = theta.shape[-1] // 2
        g, H = np.empty_like(theta), np.empty((*theta.shape, 2 * m))
        for number in np.unique(self.group[which]):
            mine = np.asarray(self.group[which] == number)
            g[mine], H[mine] = self.distinct[number].gradient_and_hessian(
                theta[mine][..., :m], theta[mine][..., m:]
            )
        self.n_evaluations[which] += theta.size // (len(which) * 2 * m)
        if self.mirror is not None:
            g = np.einsum("lij,l...j->l...i", self.mirror[which], g)
        return -g, H

    def attempt(self, which, theta, f, H, h, guess):
        """Returns stage increments, error over tolerance and success of one step per lane."""
        n = theta.shape[1]
        scale = self._scale(which, theta, h)
        Z = guess.copy()
        done, failed = np.zeros(len(which), bool), np.zeros(len(which), bool)
        # The plateau bends: a Jacobian from the start of a long step would not do for its stages.
        for _ in range(_MOST_NEWTON):
            on = np.flatnonzero(~(done | failed))
            if not len(on):
                break
            F, J = self.stages(which[on], theta[on, None] + Z[on])
            linear = np.einsum("ij,ljn->lin", _INVERSE, Z[on]) / h[on, None, None]
            system = np.einsum("ij,l,nm->linjm", _INVERSE, 1 / h[on], np.eye(n))
            system[:, _EACH, :, _EACH] -= np.moveaxis(J, 1, 0)
            good = np.asarray(np.isfinite(F).all(axis=(1, 2)))
            residual = np.where(good[:, None, None], F - linear, 0.0)
            dZ = np.linalg.solve(
                system.reshape(len(on), _STAGES * n, -1), residual.reshape(len(on), -1, 1)
            ).reshape(Z[on].shape)
            Z[on] += dZ
            size = np.sqrt(np.mean(dZ**2, axis=(1, 2)))
            failed[on] = ~good | ~np.isfinite(size)
            # Newton's method squares its error: the next step would be far below the tolerance.
            enough = 1e-2 * scale[on] + h[on] * self.noise[which[on]]
            done[on] = (size < enough) & ~failed[on]
        failed |= ~done
        Z = np.where(failed[:, None, None], 0.0, Z)
        lead = f + np.einsum("i,lin->ln", _ERROR, Z) / h[:, None]
        J = H if self.mirror is None else np.einsum("lij,ljk->lik", self.mirror[which], H)
        filtered = _MU_REAL / h[:, None, None] * np.eye(n) + J
        error = np.linalg.solve(filtered, lead[..., None])[..., 0]
        return Z, np.sqrt(np.mean(error**2, axis=1)) / scale, ~failed

    def _scale(self, which, theta, h):
        moved = np.sqrt(np.mean((theta - self.start[which]) ** 2, axis=1))
        # No step can be better than the gradient's own rounding, times its length.
        return self.rtol * moved + 1e-14 + h * self.noise[which]

    def run(self) -> tuple[GradientFlow, ...]:
        n_lanes, n = self.start.shape
        everyone = np.arange(n_lanes)
        m = n // 2
        self.noise = np.array(
            [
                _NOISE * float(loss.rounding(start[:m], start[m:]))
                for loss, start in zip(self.lanes, self.start, strict=True)
            ]
        )
        theta, t = self.start.copy(), np.zeros(n_lanes)
        f, H = self.slope_and_hessian(everyone, theta)
        h = np.minimum(1e-2 / np.abs(H).sum(axis=2).max(axis=1), self.flow_time)
        paths = [[(0.0, theta[lane].copy(), None)] for lane in everyone]
        ends: dict[int, tuple[str, Status]] = {}
        rejected = np.zeros(n_lanes, int)
        previous = np.zeros((n_lanes, _STAGES, n))
        previous_h = np.ones(n_lanes)
        self._finish(everyone, theta, f, H, ends, t)
        active = np.array([lane for lane in everyone if lane not in ends], int)
        rounds = 0
        while len(active):
            rounds += 1
            h[active] = np.minimum(h[active], self.flow_time - t[active])
            guess = _extrapolated(previous[active], h[active] / previous_h[active])
            Z, error, solved = self.attempt(
                active, theta[active], f[active], H[active], h[active], guess
            )
            accepted = solved & (error <= 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = np.where(solved, 0.9 * error ** (-1 / (_STAGES + 1)), 0.25)
            factor = np.clip(np.nan_to_num(factor, nan=0.25, posinf=8.0), 0.1, 8.0)
            rejected[active] += ~accepted
            go = active[accepted]
            if len(go):
                step, old = h[go].copy(), theta[go].copy()
                before = t[go].copy()
                polynomial = np.einsum("ki,lin->lkn", _TO_POWERS, Z[accepted])
                theta[go] = old + Z[accepted][:, -1]
                t[go] = before + step
                hits = self._hits(go, theta[go])
                for place in np.flatnonzero(hits):
                    lane = go[place]
                    theta[lane], step[place], polynomial[place] = self._locate(
                        lane, old[place], f[lane], H[lane], step[place], polynomial[place]
                    )
                    t[lane] = before[place] + step[place]
                    ends[int(lane)] = ("hit", Status())
                for place, lane in enumerate(go):
                    paths[lane].append((t[lane], theta[lane].copy(), polynomial[place]))
                f[go], H[go] = self.slope_and_hessian(go, theta[go])
                previous[go], previous_h[go] = Z[accepted], step
                self._finish(go, theta, f, H, ends, t)
            h[active] = np.where(
                accepted, h[active] * np.maximum(factor, 0.5), h[active] * np.minimum(factor, 0.7)
            )
            stuck = active[h[active] < 1e-3 * _EPS * np.maximum(t[active], 1.0)]
            for lane in stuck:
                ends.setdefault(int(lane), ("time", Status("precision_limit", "the step vanished")))
            if rounds >= self.max_steps:
                for lane in active:
                    ends.setdefault(int(lane), ("time", Status("not_converged", "all steps used")))
            active = np.array([lane for lane in active if int(lane) not in ends], int)
        return tuple(
            self._result(
                lane, theta[lane], t[lane], H[lane], paths[lane], ends[lane], rejected[lane]
            )
            for lane in map(int, everyone)
        )

    def _hits(self, which, theta) -> np.ndarray:
        if self.hit is None:
            return np.zeros(len(which), bool)
        return self._distance(which, theta) > self.hit.delta

    def _distance(self, which, theta) -> np.ndarray:
        assert self.hit is not None
        start, m = self.start[which], theta.shape[1] // 2
        if self.hit.of == "parameters":
            return np.sqrt(np.sum((theta - start) ** 2, axis=1))
        drop = np.empty(len(which))
        for number in np.unique(self.group[which]):
            mine = np.asarray(self.group[which] == number)
            drop[mine] = self.distinct[number].difference(
                theta[mine, :m], theta[mine, m:], start[mine, :m], start[mine, m:]
            )
        return np.abs(drop)

    def _locate(self, lane, old, f, H, h, polynomial):
        """Returns θ, step length and polynomial at the instant of the event inside a step."""
        which = np.array([lane])
        low, high = 0.0, 1.0
        powers = np.arange(1, _STAGES + 1)
        for _ in range(60):
            middle = 0.5 * (low + high)
            inside = (old + middle**powers @ polynomial)[None]
            low, high = (low, middle) if self._hits(which, inside)[0] else (middle, high)
        step = high * h
        theta = old + high**powers @ polynomial
        # The interpolant is of lower order than the method: two true steps, with Newton between.
        for _ in range(2):
            nodes = (_C[:, None] * step / h) ** powers
            Z, _, solved = self.attempt(
                which, old[None], f[None], H[None], np.array([step]), (nodes @ polynomial)[None]
            )
            if not solved[0]:
                break
            theta = old + Z[0, -1]
            slope = self.stages(which, theta[None, None])[0][0, 0]
            if self.hit.of == "parameters":
                moved = theta - self.start[lane]
                speed = float(moved @ slope / np.linalg.norm(moved))
            else:
                speed = float(slope @ slope)
            gap = self.hit.delta - float(self._distance(which, theta[None])[0])
            shift = gap / speed if speed > 0 else 0.0
            if not abs(shift) < 0.1 * step:
                break
            step, theta = step + shift, theta + shift * slope
            polynomial = np.einsum("ki,in->kn", _TO_POWERS, Z[0])
        return theta, step, polynomial

    def _finish(self, which, theta, f, H, ends, t) -> None:
        """Notes the lanes whose flow is over."""
        n = theta.shape[1]
        m = n // 2
        for lane in map(
            int, which[self._may_be_over(which, theta[which], f[which], H[which], t[which])]
        ):
            if lane in ends:
                continue
            if t[lane] >= self.flow_time:
                ends[lane] = ("time", Status())
                continue
            if np.abs(theta[lane]).max() > _UNBOUNDED * (1 + np.abs(self.start[lane]).max()):
                words = "amplitudes of opposite sign grow while their rates run together"
                ends[lane] = ("unbounded", Status("no_minimiser", words))
                continue
            matrix = H[lane]
            if self.mirror is not None:
                S = self.mirror[lane]
                # Directions that break the symmetry are not taken: they count as stiff here.
                matrix = S @ matrix @ S + np.abs(matrix).max() * (np.eye(n) - S)
            values, vectors = np.linalg.eigh(matrix)
            coordinates = vectors.T @ f[lane]
            floor = 3 * float(self.lanes[lane].rounding(theta[lane, :m], theta[lane, m:]))
            tolerance = 1e3 * _EPS * values[-1]
            if values[0] > tolerance:
                newton = coordinates / values
                if np.linalg.norm(newton) < 1e-4 * np.linalg.norm(theta[lane]):
                    limit = self._polished(lane, theta[lane], values[0])
                    if limit is not None:
                        theta[lane], H[lane] = limit
                        kind = _kind_of(H[lane])
                        ends[lane] = (kind, Status())
                        t[lane] = np.inf
                        continue
            if np.linalg.norm(f[lane]) <= floor:
                kind = _kind_of(H[lane])
                # Along flat directions the gradient may be hidden, not absent.
                status = Status()
                certified = kind == "minimum" or (
                    kind == "degenerate" and _is_coincided(self.lanes[lane], theta[lane])
                )
                if not certified and not self._is_mirrored(lane):
                    status = Status(
                        "precision_limit",
                        f"the gradient is below its rounding error, {floor / 3:.1e}: float64 cannot "
                        "tell a critical point from a slower plateau",
                    )
                ends[lane] = (kind, status)
                t[lane] = np.inf

    def _may_be_over(self, which, theta, f, H, t) -> np.ndarray:
        """Returns the lanes worth a closer look, by tests that cost nothing for a batch."""
        size = np.linalg.norm(theta, axis=1)
        slope = np.linalg.norm(f, axis=1)
        stiff = np.abs(H).sum(axis=2).max(axis=1)
        # Newton's step is at least the slope over the largest curvature.
        near = slope < 1e-4 * size * stiff
        values = np.full(len(which), -1.0)
        values[near] = np.linalg.eigvalsh(H[near])[:, 0]
        minimum = near & (values > 1e3 * _EPS * stiff)
        floor = slope <= 20 * self.noise[which] / _NOISE
        large = np.abs(theta).max(axis=1) > _UNBOUNDED
        mirrored = np.zeros(len(which), bool)
        if self.mirror is not None:
            mirrored = near & np.array([self._is_mirrored(lane) for lane in which])
        return (t >= self.flow_time) | minimum | floor | large | mirrored

    def _is_mirrored(self, lane) -> bool:
        return self.mirror is not None and not np.array_equal(
            self.mirror[lane], np.eye(len(self.mirror[lane]))
        )

    def _polished(self, lane, theta, smallest):
        """Returns the minimum that Newton's method reaches nearby, None if it leaves."""
        which, at = np.array([lane]), theta.copy()
        n = len(theta)
        for _ in range(8):
            slope, H = self.slope_and_hessian(which, at[None])
            matrix = H[0]
            if self.mirror is not None:
                S = self.mirror[lane]
                matrix = S @ matrix @ S + np.abs(matrix).max() * (np.eye(n) - S)
            if np.linalg.eigvalsh(matrix)[0] < 0.5 * smallest:
                return None
            step = np.linalg.solve(matrix, slope[0])
            at = at + step
            if (
                not np.linalg.norm(at - theta) < 1e-3 * np.linalg.norm(theta)
                or (at[n // 2 :] <= 0).any()
            ):
                return None
            if np.linalg.norm(step) < 1e-12 * np.linalg.norm(at):
                break
        _, H = self.slope_and_hessian(which, at[None])
        return at, H[0]

    def _result(self, lane, theta, t, H, path, end, n_rejected) -> GradientFlow:
        m = len(theta) // 2
        times = np.array([entry[0] for entry in path])
        weights = np.array([entry[1] for entry in path])
        finite = np.isfinite(times)
        times, weights = times[finite], weights[finite]
        polynomials = np.array([entry[2] for entry in path[1:]]).reshape(-1, _STAGES, len(theta))
        loss = self.lanes[lane]
        return GradientFlow(
            amplitudes=theta[:m].copy(),
            rates=theta[m:].copy(),
            flow_time=float(t),
            loss=float(loss(theta[:m], theta[m:])),
            end=end[0],
            eigenvalues=np.linalg.eigvalsh(H),
            flow_times=times,
            weights=weights,
            losses=np.atleast_1d(loss(weights[:, :m], weights[:, m:])),
            status=end[1],
            stats={
                "n_steps": len(path) - 1,
                "n_rejected": int(n_rejected),
                "n_evaluations": int(self.n_evaluations[lane]),
            },
            _polynomials=polynomials,
        )


def _kind_of(H: np.ndarray) -> str:
    values = np.linalg.eigvalsh(H)
    tolerance = 1e-13 * values[-1]
    if values[0] < -tolerance:
        return "saddle"
    return "minimum" if values[0] > tolerance else "degenerate"


def _is_coincided(loss: ExactLoss, theta: np.ndarray) -> bool:
    """Whether units of equal rate, merged, make a nondegenerate critical point of a narrower network.

    Then the whole space of ways to share their amplitudes is critical, exactly.
    """
    m = len(theta) // 2
    order = np.argsort(theta[m:])
    w, a = theta[m:][order], theta[:m][order]
    first = np.concatenate([[True], np.diff(w) > 1e-9 * w[1:]])
    group = np.cumsum(first) - 1
    if first.all():
        return False
    merged = np.bincount(group, weights=a), w[first]
    slope, H = loss.gradient_and_hessian(*merged)
    values = np.linalg.eigvalsh(H)
    if np.abs(values).min() <= 1e-9 * np.abs(values).max():
        return False
    step = np.linalg.solve(H, slope)
    return bool(np.linalg.norm(step) < 1e-9 * np.linalg.norm(np.concatenate(merged)))


def _extrapolated(Z: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Returns the last step's polynomial, continued over the next one."""
    polynomial = np.einsum("ki,lin->lkn", _TO_POWERS, Z)
    nodes = 1 + np.minimum(ratio, 4.0)[:, None] * _C
    powers = nodes[:, :, None] ** np.arange(1, _STAGES + 1)
    guess = np.einsum("lik,lkn->lin", powers, polynomial) - Z[:, -1:]
    return np.where((ratio <= 4.0)[:, None, None], guess, 0.0)


def _mirrors(theta: np.ndarray) -> np.ndarray | None:
    """Returns the projections onto the weights that share their units' equalities, if any do."""
    n_lanes, n = theta.shape
    m = n // 2
    a, w = theta[:, :m], theta[:, m:]
    close = 1e-13
    equal = (np.abs(a[:, :, None] - a[:, None]) <= close * np.abs(a[:, :, None])) & (
        np.abs(w[:, :, None] - w[:, None]) <= close * np.abs(w[:, :, None])
    )
    if not (equal.sum(axis=(1, 2)) > m).any():
        return None
    average = equal / equal.sum(axis=2, keepdims=True)
    mirror = np.zeros((n_lanes, n, n))
    mirror[:, :m, :m] = average
    mirror[:, m:, m:] = average
    return mirror
