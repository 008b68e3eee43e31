"""The memory function of anything callable, by asking it with steps, impulses and silence."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_nonnegative,
    require_positive,
)
from recollect._core._functional import AbstractFunctional, AbstractLinearFunctional
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.memory._probes import (
    PROBES,
    ask,
    is_traceable,
    probe_signal,
    require_functional,
    responses,
)
from recollect.memory._properties import require_sound
from recollect.memory._search import (
    Envelope,
    ascend,
    control_pairs,
    slope_at_rest,
    traced_sizes,
)

_OWNER = "measure_memory"
_FRACTIONS = (0.5, 0.9, 0.95)
_FORGOTTEN = 1e-3
_MOST_SLOPES = 2**25
_N_FEW_STEPS = 12
_LONG = 4096


@dataclasses.dataclass(frozen=True)
class MemoryProfile:
    """How strongly a functional remembers a change of input, against the lag.

    Attributes:
        memory: M(H) at each lag, per unit input and time, shape (lag, out). For the reversed
            probe per unit input: what is left after that lag.
        lags: unit of time, shape (lag,).
        is_lower_estimate: True if M is a largest value found by search, False if exact.
        directions: input direction that attains the value at each lag, shape (lag, out, in).
        magnitudes: its sup norm, shape (lag, out); NaN for linear functionals: any will do; 0
            where small inputs come closest and the derivative at zero gives the value.
        dt: step of the probes.
        normalisation: "gain" for |dH/dt|/|x|, "bounded" for |dH/dt|/(1+|x|).
        status: `ok`, or why the profile is incomplete.
        stats: number of probes, the rounding floor, and the share of the inputs' effect that the
            last restart added.
        probe: "step", "impulse" or "reversed".
        rest: response to zero input from the initial state, shape (lag, out): the effect of the
            initial state, subtracted from everything above; None for linear functionals.
        convergence: `∫M dt` summed over outputs after the grid and after each restart: how the
            lower estimate rose; None if exact.
        warnings: what deserves a word: a memory that grows or does not fade, an edge of the search.
    """

    memory: np.ndarray
    lags: np.ndarray
    is_lower_estimate: bool
    directions: np.ndarray
    magnitudes: np.ndarray
    dt: float
    normalisation: str
    status: Status
    stats: dict[str, Any]
    probe: str = "step"
    rest: np.ndarray | None = None
    convergence: np.ndarray | None = None
    warnings: tuple[Status, ...] = ()

    @property
    def t50(self) -> float:
        """Lag by which half of the memory in the window has been seen."""
        return self.quantile_lags()[0]

    @property
    def t90(self) -> float:
        """Lag by which nine tenths of the memory in the window have been seen."""
        return self.quantile_lags()[1]

    @property
    def t95(self) -> float:
        """Lag by which nineteen twentieths of the memory in the window have been seen."""
        return self.quantile_lags()[2]

    @property
    def horizon(self) -> float:
        """Lag from which on the memory stays below a thousandth of its largest; inf if it never does."""
        total = self.memory.sum(axis=1)
        if not np.isfinite(total).all():
            return math.inf
        loud = np.flatnonzero(total > _FORGOTTEN * total.max(initial=0.0))
        if not len(loud):
            return 0.0
        return math.inf if loud[-1] == len(total) - 1 else float(self.lags[loud[-1] + 1])

    def quantile_lags(self, fractions: tuple[float, ...] = _FRACTIONS) -> tuple[float, ...]:
        """Returns the lags by which fractions of `∫M`, summed over outputs, have been seen.

        Only the window counts: `estimate_law` adds the tail beyond it. NaN if M is not finite or
        zero.
        """
        total = self.memory.sum(axis=1)
        if not np.isfinite(total).all() or not total.any():
            return (math.nan,) * len(fractions)
        seen, lags = _seen(self.lags, total)
        return tuple(float(np.interp(f * seen[-1], seen, lags)) for f in fractions)


@dataclasses.dataclass(frozen=True)
class MemoryMap:
    """Memory as a function of when the input came and of the time since: M(t, s).

    Attributes:
        memory: M at each start and lag, shape (start, lag, out); lower estimates.
        starts: times s at which the step began, shape (start,).
        lags: t - s, shape (lag,).
        is_time_homogeneous: whether all starts have the same memory, to a hundredth.
        spread: largest difference between starts, relative to the largest memory.
        before: largest response before the step, relative to the largest memory: 0 if causal.
        dt: step of the probes.
        status: `ok`, or why the map is incomplete.
        stats: number of probes.
    """

    memory: np.ndarray
    starts: np.ndarray
    lags: np.ndarray
    is_time_homogeneous: bool
    spread: float
    before: float
    dt: float
    status: Status
    stats: dict[str, Any]


@on_one_thread
@references("wang2024inverse")
def measure_memory(
    functional: Any,
    *,
    dt: float,
    horizon: float,
    magnitudes: Any = None,
    directions: Any = None,
    normalisation: str = "gain",
    probe: str = "step",
    n_restarts: int = 2,
    settle: float = 0.0,
    key: int = 0,
) -> MemoryProfile:
    """Returns the memory function `M(H)(t) = sup_x |d/dt H_t(u^x)| / |x|_inf`, u^x a step to x.

    Linear functionals: `|ρ(t)|_1` from the kernel itself, at lags 0, dt, 2 dt, … Others: the
    difference of the step response over each step, at the middles of the steps, maximised over
    a grid of directions and magnitudes, then by ascent from the best of them and from random
    points (by gradients where JAX can trace the functional, blindly where not): a lower estimate,
    and reported as one, with how it rose. The response to zero input is subtracted first.

    Args:
        functional: any functional, or a callable (time, 1) -> (time, out); use `as_functional`
            for callables with several inputs, `from_torch` for torch modules.
        dt: step of the probes.
        horizon: longest lag.
        magnitudes: sup norms of the probes, positive (default: 13 from 1e-3 to 1e3); the ascent
            stays between the smallest and the largest.
        directions: shape (direction, in), scaled to unit sup norm here (default: all sign
            patterns up to four inputs, beyond that each input alone and 16 random signs; the
            inputs alone always).
        normalisation: "gain" divides by |x| (definition 3.1 of the source), "bounded" by 1 + |x|
            (its other version).
        probe: "step"; "impulse", held for one step and divided by it, `|H_t(i^x)|/(|x| dt)`; or
            "reversed", x for one horizon up to lag 0 and silence after, `|H_t|/|x|`.
        n_restarts: rounds of ascent after the grid, step probe only; 0 for the grid alone.
        settle: time of silence before the probe, for models that do not start at rest.
        key: of the random restarts.

    Returns:
        The profile; each output is one functional.

    Raises:
        TypeError: if `functional` cannot be called.
        ValueError: if dt, horizon, magnitudes or directions make no probe; if the functional is
            not causal (naming the lag at which it looked ahead), or answers the same input
            differently from call to call.
    """
    dt = require_positive("dt", dt)
    horizon = require_positive("horizon", horizon)
    require_choice("normalisation", normalisation, ("gain", "bounded"))
    require_choice("probe", probe, PROBES)
    n_restarts = require_count("n_restarts", n_restarts, minimum=0)
    n_settle = round(require_nonnegative("settle", settle) / dt)
    rng = np.random.default_rng(require_count("key", key, minimum=0))
    if horizon < dt:
        raise invalid("horizon", f"at least one step, dt = {dt}", horizon)
    n_lags = max(1, int(np.floor(horizon / dt * (1 + 1e-12))))
    if isinstance(functional, AbstractLinearFunctional):
        return _of_linear(functional, n_lags, dt, probe, normalisation, magnitudes)
    functional = require_functional(functional)
    sizes = _magnitudes(magnitudes)
    patterns = _directions(directions, functional.n_inputs)
    require_sound(functional, n_lags, dt=dt)
    with np.errstate(all="ignore"):
        return _of_probes(
            functional, n_lags, n_settle, dt, sizes, patterns, normalisation, probe, n_restarts, rng,
            has_own_sizes=magnitudes is not None,
        )  # fmt: skip


@on_one_thread
@references("wang2024inverse")
def measure_memory_map(
    functional: Any,
    *,
    dt: float,
    horizon: float,
    n_starts: int = 8,
    starts: Any = None,
    magnitudes: Any = None,
    directions: Any = None,
) -> MemoryMap:
    """Returns the memory `M(t, s) = sup_x |d/dt H_t(x 1_{·≥s})| / |x|_inf` of steps begun at time s.

    For functionals that are not time-homogeneous, such as attention over all that was seen: what
    came early then weighs differently from what comes late.

    Args:
        functional: any functional, or a callable (time, 1) -> (time, out).
        dt: step of the probes.
        horizon: longest lag, seen from every start.
        n_starts: number of starts, from 0 in even steps up to the horizon.
        starts: the starts themselves, in time, not negative; overrides `n_starts`.
        magnitudes: sup norms of the steps, positive (default: 7 from 1e-2 to 1e2).
        directions: as in `measure_memory`.

    Returns:
        The map, found on the grid of directions and magnitudes.

    Raises:
        TypeError, ValueError: as `measure_memory`.
    """
    dt = require_positive("dt", dt)
    n_lags = int(np.floor(require_positive("horizon", horizon) / dt * (1 + 1e-12)))
    if n_lags < 1:
        raise invalid("horizon", f"at least one step, dt = {dt}", horizon)
    if starts is None:
        require_count("n_starts", n_starts)
        places = np.unique(np.linspace(0, n_lags, n_starts).round().astype(int))
    else:
        values = host_float64("starts", starts, owner="measure_memory_map").ravel()
        if not len(values) or (values < 0).any():
            raise invalid("starts", "times not below zero", values)
        places = np.unique((values / dt).round().astype(int))
    functional = require_functional(functional)
    sizes = np.geomspace(1e-2, 1e2, 7) if magnitudes is None else _magnitudes(magnitudes)
    patterns = _directions(directions, functional.n_inputs)
    require_sound(functional, n_lags, dt=dt)
    n_time = int(places[-1]) + n_lags
    shape = (n_time, functional.n_inputs)
    probes = [
        (row, size, np.where(np.arange(n_time)[:, None] >= place, size * pattern, 0.0))
        for row, place in enumerate(places)
        for pattern, size in itertools.product(patterns, sizes)
    ]
    memory = np.zeros((len(places), n_lags, functional.n_outputs))
    before, n_unbounded = 0.0, 0
    with np.errstate(all="ignore"):
        rest = ask(functional, np.zeros((1, *shape)), dt=dt)[0]
        for chosen, outputs in _in_batches(functional, probes, dt):
            for (row, size, _), output in zip(chosen, outputs, strict=True):
                if not np.isfinite(output).all():
                    n_unbounded += 1
                    continue
                moved = np.abs(np.diff(output - rest, axis=0, prepend=0.0)) / (size * dt)
                place = int(places[row])
                before = max(before, float(moved[:place].max(initial=0.0)))
                memory[row] = np.maximum(memory[row], moved[place : place + n_lags])
    largest = float(memory.max()) or 1.0
    spread = float(np.ptp(memory, axis=0).max()) / largest
    status = Status()
    if n_unbounded:
        status = Status(
            "not_finite", f"{n_unbounded} of {len(probes)} steps gave outputs that are not finite"
        )
    return MemoryMap(
        memory=memory,
        starts=places * dt,
        lags=(np.arange(n_lags) + 0.5) * dt,
        is_time_homogeneous=spread < 0.01,
        spread=spread,
        before=before / largest,
        dt=dt,
        status=status,
        stats={"n_probes": len(probes) + 1},
    )


def _in_batches(functional: AbstractFunctional, probes: list[Any], dt: float) -> Any:
    n_each = 256
    for start in range(0, len(probes), n_each):
        batch = probes[start : start + n_each]
        for where, outputs in responses(functional, [signal for *_, signal in batch], dt=dt):
            yield batch[where], outputs


def _of_linear(
    functional: AbstractLinearFunctional,
    n_lags: int,
    dt: float,
    probe: str,
    normalisation: str,
    magnitudes: Any,
) -> MemoryProfile:
    edges = np.arange(n_lags + 1) * dt
    if probe == "step":
        lags, kernel = edges, np.asarray(functional.kernel(edges), dtype=np.float64)
    elif probe == "impulse":
        seen = np.asarray(functional.step_response(edges), dtype=np.float64)
        lags, kernel = edges[:-1] + 0.5 * dt, np.diff(seen, axis=0) / dt
    else:
        lags = edges[:-1]
        before = np.asarray(functional.step_response(lags + n_lags * dt), dtype=np.float64)
        kernel = before - np.asarray(functional.step_response(lags), dtype=np.float64)
    bad = ~np.isfinite(kernel).all(axis=(1, 2))
    status = (
        Status("not_finite", f"the kernel is not finite at lag {lags[bad][0]:g}")
        if bad.any()
        else Status()
    )
    memory = np.abs(kernel).sum(axis=2)
    found = np.full(kernel.shape[:2], np.nan)
    if normalisation == "bounded":
        # R/(1+R) of the gain: the supremum 1 over all magnitudes is approached, never attained.
        largest = math.inf if magnitudes is None else float(_magnitudes(magnitudes).max())
        memory = memory if math.isinf(largest) else memory * (largest / (1 + largest))
        found = np.full(kernel.shape[:2], largest)
    return MemoryProfile(
        memory=memory,
        lags=lags,
        is_lower_estimate=False,
        directions=np.where(kernel < 0, -1.0, 1.0),
        magnitudes=found,
        dt=dt,
        normalisation=normalisation,
        status=status,
        stats={"n_probes": 0},
        probe=probe,
        warnings=_fading(lags, memory) if status.is_ok else (),
    )


def _of_probes(
    functional: AbstractFunctional,
    n_lags: int,
    n_settle: int,
    dt: float,
    magnitudes: np.ndarray,
    directions: np.ndarray,
    normalisation: str,
    probe: str,
    n_restarts: int,
    rng: np.random.Generator,
    *,
    has_own_sizes: bool,
) -> MemoryProfile:
    n_outputs, n_inputs = functional.n_outputs, functional.n_inputs
    is_bounded = normalisation == "bounded"

    def answer(values: np.ndarray) -> np.ndarray:
        signals = np.array(
            [probe_signal(probe, n_lags, v, n_settle=n_settle, n_before=n_lags) for v in values]
        )
        return ask(functional, signals, dt=dt)

    skipped = n_settle + (n_lags - 1 if probe == "reversed" else 0)
    silence = answer(np.zeros((1, n_inputs)))[0]
    rest = silence[skipped:]
    eps = _resolution(silence, answer(np.ones((1, n_inputs)))[0])

    def moved_by(response: np.ndarray) -> np.ndarray:
        difference = response[skipped:] - rest
        if probe == "step":
            return np.diff(difference, axis=0, prepend=0.0) / dt
        return difference / dt if probe == "impulse" else difference

    envelope = Envelope(
        np.zeros((n_lags, n_outputs)),
        np.ones((n_lags, n_outputs, n_inputs)),
        np.full((n_lags, n_outputs), np.nan),
    )
    # The two gains at the largest magnitudes tell whether the search stopped at an edge.
    at_size = dict.fromkeys(magnitudes.tolist(), 0.0)
    n_unbounded, floor = 0, math.inf

    def weigh(value: np.ndarray, moved: np.ndarray, reach: float) -> np.ndarray:
        magnitude = float(np.abs(value).max())
        scale = 1.0 + magnitude if is_bounded else magnitude
        sizes = np.abs(moved) / scale
        # Differences below rounding say nothing, and small probes magnify them.
        rounding = 4 * eps * reach / (scale * (1.0 if probe == "reversed" else dt))
        nonlocal floor
        floor = min(floor, rounding)
        return np.where(sizes > rounding, sizes, 0.0)

    points = np.array([(size, *pattern) for pattern in directions for size in magnitudes])
    n_each = max(1, 2**22 // (n_lags + skipped))
    for start in range(0, len(points), n_each):
        chosen = points[start : start + n_each]
        values = chosen[:, :1] * chosen[:, 1:]
        for value, point, response in zip(values, chosen, answer(values), strict=True):
            if not np.isfinite(response).all():
                n_unbounded += 1
                continue
            reach = max(float(np.abs(response).max()), float(np.abs(silence).max()))
            sizes = weigh(value, moved_by(response), reach)
            at_size[float(point[0])] = max(at_size[float(point[0])], float(sizes.max()))
            envelope = envelope.raised(sizes, point[1:], point[0])
    n_probes = len(points)
    rounds = [_total(envelope, dt)]
    if n_restarts and probe == "step" and np.isfinite(silence).all() and envelope.memory.any():
        envelope, tried, later = _climb(
            functional, envelope, n_lags, n_settle, dt, magnitudes, is_bounded, n_restarts, rng,
            answer, moved_by, weigh, float(np.abs(silence).max()), eps,
        )  # fmt: skip
        n_probes += tried
        rounds += later
    memory = envelope.memory
    status = Status()
    if n_unbounded:
        status = Status(
            "not_finite",
            f"{n_unbounded} of {len(points)} {probe}s gave outputs that are not finite",
        )
    lags = (np.arange(n_lags) + (0.0 if probe == "reversed" else 0.5)) * dt
    last_gain = rounds[-1] / rounds[-2] - 1 if len(rounds) > 1 and rounds[-2] > 0 else 0.0
    warnings = [*_fading(lags, memory)]
    if not (has_own_sizes or is_bounded):
        warnings += _edges(at_size)
    if last_gain > 0.02:
        warnings.append(
            Status("not_converged", f"the last restart still raised the memory by {last_gain:.1%}")
        )
    return MemoryProfile(
        memory=memory,
        lags=lags,
        is_lower_estimate=True,
        directions=envelope.directions,
        magnitudes=envelope.magnitudes,
        dt=dt,
        normalisation=normalisation,
        status=status,
        stats={
            "n_probes": n_probes,
            "n_unbounded": n_unbounded,
            "rounding": floor,
            "last_gain": last_gain,
        },
        probe=probe,
        rest=rest,
        convergence=np.array(rounds),
        warnings=tuple(warnings),
    )


def _climb(
    functional, envelope, n_lags, n_settle, dt, magnitudes, is_bounded, n_restarts, rng,
    answer, moved_by, weigh, silence_size, eps,
) -> tuple[Envelope, int, list[float]]:  # fmt: skip
    """Returns the envelope after rounds of ascent, the number of probes, and `∫M` after each."""
    log_range = (float(np.log(magnitudes.min())), float(np.log(magnitudes.max())))
    traced = is_traceable(functional, dt=dt)
    found, n_probes = envelope, 0
    n_slopes = n_lags * functional.n_outputs * functional.n_inputs
    if traced and n_slopes <= _MOST_SLOPES and not is_bounded:
        slopes = slope_at_rest(functional, n_lags, n_settle, dt=dt)
        sizes = np.abs(slopes).sum(axis=2)
        running = np.abs(np.cumsum(slopes, axis=0)).sum(axis=2).max(initial=0.0)
        sizes = np.where(np.isfinite(sizes) & (sizes > 4 * eps * running), sizes, 0.0)
        found = found.raised(sizes, np.where(slopes < 0, -1.0, 1.0), 0.0)
        n_probes += functional.n_inputs
    gradients = (
        traced_sizes(functional, n_lags, n_settle, dt=dt, is_bounded=is_bounded) if traced else None
    )

    def keep(point: np.ndarray, moved: np.ndarray) -> None:
        nonlocal found
        if np.isfinite(moved).all():
            value = np.exp(point[0]) * point[1:]
            reach = max(silence_size, float(np.abs(np.cumsum(moved, axis=0)).max() * dt))
            found = found.raised(weigh(value, moved, reach), point[1:], np.exp(point[0]))

    def sizes_at(points: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        nonlocal n_probes
        n_probes += len(points)
        if gradients is not None:
            log_sizes, slopes, moved = gradients(points, pairs)
        else:
            values = np.exp(points[:, :1]) * points[:, 1:]
            moved = np.array([moved_by(response) for response in answer(values)])
            reached = moved[np.arange(len(points)), pairs[:, 0], pairs[:, 1]]
            scale = np.exp(points[:, 0]) + (1.0 if is_bounded else 0.0)
            log_sizes, slopes = np.log(np.abs(reached) / scale + 1e-300), None
        for point, row in zip(points, moved, strict=True):
            keep(point, row)
        return np.where(np.isfinite(log_sizes), log_sizes, -np.inf), slopes

    rounds = []
    for round_ in range(n_restarts):
        pairs = control_pairs(found, shift=0.5 * (round_ % 2))
        if not len(pairs):
            break
        lags, outputs = pairs.T
        start = np.clip(found.magnitudes[lags, outputs], np.exp(log_range[0]), None)
        points = np.concatenate([np.log(start)[:, None], found.directions[lags, outputs]], axis=1)
        if round_:
            points[:, 0] = rng.uniform(*log_range, len(points))
            points[:, 1:] = rng.uniform(-1, 1, points[:, 1:].shape)
            points[:, 1:] /= np.abs(points[:, 1:]).max(axis=1, keepdims=True)
        ascend(
            sizes_at, points, pairs, log_range=log_range, rng=rng,
            **({} if traced and n_lags <= _LONG else {"n_steps": _N_FEW_STEPS}),
        )  # fmt: skip
        rounds.append(_total(found, dt))
    return found, n_probes, rounds


def _total(envelope: Envelope, dt: float) -> float:
    return float(envelope.memory.sum() * dt)


def _resolution(*outputs: np.ndarray) -> float:
    """Returns the rounding unit of the outputs: that of 32 bits if all fit into them."""
    in_32_bits = all(
        np.array_equal(y, y.astype(np.float32).astype(np.float64), equal_nan=True) for y in outputs
    ) and any(np.unique(y).size > 2 for y in outputs)
    return float(np.finfo(np.float32 if in_32_bits else np.float64).eps)


def _seen(lags: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    steps = 0.5 * (total[1:] + total[:-1]) * np.diff(lags)
    start = lags[0] * total[0]
    seen = np.concatenate([[0.0, start], start + np.cumsum(steps)])
    return seen, np.concatenate([[0.0], lags])


def _fading(lags: np.ndarray, memory: np.ndarray) -> tuple[Status, ...]:
    total = memory.sum(axis=1)
    if len(total) < 8 or not total.any():
        return ()
    eighth = max(1, len(total) // 8)
    first, middle, last = (
        float(total[part].max())
        for part in (slice(0, -2 * eighth), slice(-2 * eighth, -eighth), slice(-eighth, None))
    )
    if last > 1.05 * middle and last > 1.05 * first:
        return (
            Status(
                "diverged", f"the memory grows with the lag: {last / first:.3g} times by its end"
            ),
        )
    if last > 0.5 * first:
        message = f"the memory does not fade by lag {lags[-1]:g}: {last / first:.2g} of its largest"
        return (Status("record_too_short", message),)
    return ()


def _edges(at_size: dict[float, float]) -> tuple[Status, ...]:
    sizes = sorted(at_size)
    largest, next_largest = at_size[sizes[-1]], at_size[sizes[-2]]
    if largest > 1.01 * next_largest and largest >= max(at_size.values()):
        message = f"the gain still grows at the largest magnitude tried, {sizes[-1]:g}"
        return (Status("not_converged", message),)
    return ()


def _magnitudes(magnitudes: Any) -> np.ndarray:
    if magnitudes is None:
        return np.geomspace(1e-3, 1e3, 13)
    values = host_float64("magnitudes", magnitudes, owner=_OWNER).ravel()
    if len(values) == 0 or (values <= 0).any():
        raise invalid("magnitudes", "positive numbers", values)
    return values


def _directions(directions: Any, n_inputs: int) -> np.ndarray:
    if directions is None:
        alone = np.concatenate([np.eye(n_inputs), -np.eye(n_inputs)])
        if n_inputs <= 4:
            signs = np.array(list(itertools.product([1.0, -1.0], repeat=n_inputs)))
        else:
            signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(16, n_inputs))
            signs = np.concatenate([np.ones((1, n_inputs)), signs, -signs])
        return np.unique(np.concatenate([alone, signs]), axis=0)
    values = np.atleast_2d(host_float64("directions", directions, owner=_OWNER))
    if values.shape[1] != n_inputs:
        raise invalid("directions", f"shape (direction, {n_inputs})", f"shape {values.shape}")
    norms = np.abs(values).max(axis=1, keepdims=True)
    if (norms == 0).any():
        raise invalid("directions", "directions other than zero", "a zero row")
    return values / norms
