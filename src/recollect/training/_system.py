"""Nonlinear system identification: from a record to a network, without a guess from the user."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.linalg

from recollect._core._check import (
    host_float64,
    invalid,
    require_count,
    require_positive,
    require_signal,
    wrong_type,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.approximation import fit_estimate
from recollect.memory import estimate_kernel
from recollect.models import AffineRNN, LinearRNN, StateNetwork
from recollect.training._system_descent import descend, outputs_of
from recollect.training._system_simulation import (
    Layout,
    Windows,
    assemble,
    penalties,
    start_layout,
    start_series,
)

_OWNER = "train_system"
_FEWEST_SAMPLES = 64
_LONGEST_WINDOW = 4096
_STRUCTURES = ("linear", "static", "series", "state")
# A more complicated structure must predict held-out data better by this much.
_WORTH = 0.98
_FEWEST_AT_LIMIT = 4
# Scale of the random units' arguments over the states and inputs visited.
_GAIN = 1.0
# Units per store in series.
_DRAINS, _SPILLS = 2, 1
# What one unit costs in each structure, over the penalty: free states need far more restraint.
_RESTRAINT = {"linear": 1.0, "static": 100.0, "series": 1.0, "state": 3000.0}


@dataclasses.dataclass(frozen=True)
class SystemCandidate:
    """One way to model a system, judged on data that it was not fitted to.

    Attributes:
        structure: `"linear"`; `"static"`, units before and after a linear network; `"series"`,
            stores that drain into each other; `"state"`, units before and inside.
        width: states.
        n_units: nonlinear units.
        penalty: of the units' amplitudes, per sample and in units of the outputs' variance.
        restart: index of the random start.
        error: root mean square of the free simulation over all held-out blocks, in units of each
            output's standard deviation.
        errors: the same for each block.
        seconds: time taken.
    """

    structure: str
    width: int
    n_units: int
    penalty: float
    restart: int
    error: float
    errors: tuple[float, ...]
    seconds: float


@dataclasses.dataclass(frozen=True)
class TrainedSystem:
    """A network of a measured system, chosen on held-out blocks and refitted to everything.

    Attributes:
        model: the network; linear where nothing else predicted held-out data better.
        validation_error: root mean square of the free simulation on held-out blocks, in the unit of
            each output, shape (out,).
        linear_error: the same for the linear network.
        training_error: root mean square of the free simulation of the whole record, shape (out,).
        initial_state: estimated state before the first sample, shape (width,).
        structure: `"linear"`, `"static"`, `"series"` or `"state"`.
        candidates: everything tried, best first.
        status: `diverged` where no candidate could be simulated, `noise_limited` where the linear
            part found nothing above the noise.
        warnings: everything that deserves a word.
        stats: counts and times.
    """

    model: StateNetwork
    validation_error: np.ndarray
    linear_error: np.ndarray
    training_error: np.ndarray
    initial_state: np.ndarray
    structure: str
    candidates: tuple[SystemCandidate, ...]
    status: Status
    warnings: tuple[Status, ...]
    stats: dict[str, Any]


@on_one_thread
@references("paduart2010identification", "schoukens2017identification")
def train_system(
    inputs: Any,
    outputs: Any,
    *,
    dt: float,
    key: Any,
    max_width: int = 6,
    structures: Sequence[str] = _STRUCTURES,
    n_units: Sequence[int] = (16,),
    penalty: Sequence[float] = (3e-5, 1e-4),
    n_restarts: int = 8,
    n_folds: int = 4,
    n_steps: int = 80,
    progress: Callable[[str], None] = lambda stage: None,
) -> TrainedSystem:
    """Returns a nonlinear network that simulates a measured system, and how well it does so.

    The linear part comes from the estimated memory kernel. Bounded units before, inside and after
    it start at zero, so training starts exactly at the linear network; Levenberg-Marquardt then
    minimises the error of the free simulation (not of one step ahead) plus a penalty on the
    units, with the initial state among the unknowns. Structure, penalty and random start are
    chosen by the simulation error on held-out blocks of the record: in each fold the whole record
    is simulated, and one block of outputs is hidden. The winner is refitted to all of it.
    The states of a "series" are stores, each of which drains into the next through a nonlinear
    outflow and may spill; those of a "state" network are free.
    Outputs that dwell exactly at their least or greatest value are clipped there. Records
    beyond 4096 samples are cut into overlapping windows, scored after a washout.

    Args:
        inputs: shape (time, in) or (time,), without gaps.
        outputs: shape (time, out) or (time,), row k at the end of step k; NaN where not observed.
        dt: step.
        key: JAX random key of the restarts; equal keys give equal networks.
        max_width: most states per output.
        structures: which of `"linear"`, `"static"`, `"series"`, `"state"` to try; linear always is.
        n_units: sizes of the state correction to try.
        penalty: penalties of the units' amplitudes to try, per sample (free states are held 3000
            times as tight).
        n_restarts: random starts of a series; the other structures get a quarter of them.
        n_folds: held-out blocks.
        n_steps: most steps of each optimisation.
        progress: called with the name of each stage.

    Returns:
        The network with its errors, its initial state and every candidate.

    Raises:
        ValueError: if lengths differ, the record is shorter than 64 samples, a signal is constant,
            or the inputs have gaps.
    """
    started = time.perf_counter()
    dt = require_positive("dt", dt)
    inputs, outputs = _signals(inputs, outputs)
    _require_options(structures, n_units, penalty, n_restarts, n_folds, n_steps, max_width)
    seen = np.isfinite(outputs)
    x_scale = inputs.mean(axis=0), inputs.std(axis=0)
    y_scale = np.nanmean(outputs, axis=0), np.nanstd(outputs, axis=0)
    x, y = (inputs - x_scale[0]) / x_scale[1], (outputs - y_scale[0]) / y_scale[1]
    limits = _dwelling_limits(outputs)
    scaled_limits = tuple((limit - y_scale[0]) / y_scale[1] for limit in limits)

    progress("estimating the linear part")
    linear, chains, horizon, found = _linear_part(x, y, max_width)
    operating = _operating_point(linear, x, y)
    states = np.asarray(operating.states(x, dt=1.0))
    windows = _cut(x, y, seen, states, horizon, (scaled_limits[0], scaled_limits[1]))
    problem = _Problem(linear, chains, operating, states, x, y, seen, windows, n_steps)
    folds = _folds(len(x), n_folds)

    trials: list[_Trial] = []
    for structure, restart, units, weight in _plan(structures, n_restarts, n_units, penalty):
        progress(f"{structure} network, start {restart + 1} of {n_restarts}")
        trials.append(problem.judge(structure, units, weight, restart, folds, _rng(key, restart)))
    ranked = sorted(trials, key=lambda t: t.candidate.error)
    plain = next(t for t in trials if t.candidate.structure == "linear")
    best = ranked[0]
    if not best.candidate.error < _WORTH * plain.candidate.error:
        best = plain
    progress("refitting the chosen network to the whole record")
    vector, simulated = problem.refit(best)
    model = assemble(
        best.layout,
        vector,
        dt=dt,
        input_scale=x_scale,
        output_scale=y_scale,
        limits=limits,
    )
    status, warnings = _verdict(vector, simulated, found)
    error = y_scale[1] * np.sqrt(np.nanmean((simulated - y) ** 2, axis=0))
    return TrainedSystem(
        model=model,
        validation_error=y_scale[1] * best.by_output,
        linear_error=y_scale[1] * plain.by_output,
        training_error=error,
        initial_state=np.asarray(model.start),
        structure=best.candidate.structure,
        candidates=tuple(t.candidate for t in ranked),
        status=status,
        warnings=warnings,
        stats={
            "n_samples": len(x),
            "n_windows": len(windows.inputs),
            "n_parameters": best.layout.size,
            "seconds": time.perf_counter() - started,
        },
    )


@dataclasses.dataclass(frozen=True)
class _Trial:
    candidate: SystemCandidate
    layout: Layout
    start: np.ndarray
    precision: np.ndarray
    fitted: tuple[np.ndarray, ...]
    by_output: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Problem:
    linear: LinearRNN
    chains: tuple[int, ...]
    operating: AffineRNN
    states: np.ndarray
    x: np.ndarray
    y: np.ndarray
    seen: np.ndarray
    windows: Windows
    n_steps: int

    def judge(
        self,
        structure: str,
        units: int,
        weight: float,
        restart: int,
        folds: list[np.ndarray],
        rng: np.random.Generator,
    ) -> _Trial:
        """Returns a candidate fitted to all but each block in turn, and its error there."""
        started = time.perf_counter()
        layout = self.layout(structure, units)
        offset = np.asarray(self.operating.output_offset)
        if layout.is_series:
            start = start_series(self.linear, layout, rng, offset=offset)
        else:
            start = start_layout(
                self.linear,
                self.states,
                layout,
                rng,
                gain=_GAIN,
                offset=offset,
                start=np.asarray(self.operating.start),
            )
        n_seen = int(self.seen.sum())
        amplitude = _RESTRAINT[structure] * weight * n_seen
        direction = 1e-4 * n_seen if layout.is_series else 0.1 * amplitude
        precision = penalties(
            layout, amplitude=amplitude, direction=direction, linear=1e-6 * n_seen
        )
        fitted, squares, counts, errors = [], np.zeros(self.y.shape[1]), 0.0, []
        for block in folds:
            part = self.windows.masked(~block)
            end = descend(layout, start, part, precision, start, n_steps=self.n_steps)
            fitted.append(end.vector)
            simulated = self.simulate(layout, end.vector)
            held = self.seen & block[:, None]
            with np.errstate(all="ignore"):
                square = np.where(held, (simulated - self.y) ** 2, 0.0).sum(axis=0)
            square = np.where(np.isfinite(square), square, np.inf)
            squares, counts = squares + square, counts + held.sum(axis=0)
            errors.append(float(np.sqrt(square.sum() / max(held.sum(), 1))))
        by_output = np.sqrt(squares / np.maximum(counts, 1))
        candidate = SystemCandidate(
            structure=structure,
            width=layout.width,
            n_units=layout.n_state_units + layout.n_input_units + layout.n_output_units,
            penalty=weight,
            restart=restart,
            error=float(np.sqrt(np.mean(by_output**2))),
            errors=tuple(errors),
            seconds=time.perf_counter() - started,
        )
        return _Trial(candidate, layout, start, precision, tuple(fitted), by_output)

    def layout(self, structure: str, units: int) -> Layout:
        """Returns the sizes of a candidate."""
        sizes = {
            "width": len(self.linear.A),
            "n_inputs": self.x.shape[1],
            "n_outputs": self.y.shape[1],
        }
        if structure == "series":
            return Layout(
                **sizes,
                n_state_units=len(self.linear.A) * (_DRAINS + _SPILLS),
                n_input_units=0,
                n_output_units=0,
                chains=self.chains,
                n_drains=_DRAINS,
                n_spills=_SPILLS,
            )
        return Layout(
            **sizes,
            n_state_units=units if structure == "state" else 0,
            n_input_units=4 if structure != "linear" else 0,
            n_output_units=4 if structure == "static" else 0,
        )

    def refit(self, trial: _Trial) -> tuple[np.ndarray, np.ndarray]:
        """Returns the parameters of the candidate on the whole record, and its simulation."""
        ends = [
            descend(
                trial.layout,
                start,
                self.windows,
                trial.precision,
                trial.start,
                n_steps=self.n_steps,
            )
            for start in (trial.start, *trial.fitted)
        ]
        vector = min(ends, key=lambda end: end.cost).vector
        return vector, self.simulate(trial.layout, vector)

    def simulate(self, layout: Layout, vector: np.ndarray) -> np.ndarray:
        """Returns the free simulation of the whole record, shape (time, out)."""
        one = dataclasses.replace(
            self.windows,
            inputs=self.x[None],
            outputs=self.y[None],
            seen=self.seen[None].astype(float),
            starts=self.windows.starts[:1],
        )
        return outputs_of(layout, vector, one)[0]


def _signals(inputs: Any, outputs: Any) -> tuple[np.ndarray, np.ndarray]:
    inputs = host_float64("inputs", inputs, owner=_OWNER)
    inputs = inputs[:, None] if inputs.ndim == 1 else inputs
    require_signal("inputs", inputs)
    try:
        outputs = np.array(outputs, dtype=float)
    except (TypeError, ValueError):
        raise wrong_type("outputs", "an array of numbers", type(outputs).__name__) from None
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    require_signal("outputs", outputs)
    if np.isinf(outputs).any():
        raise invalid("outputs", "finite numbers, or NaN where not observed", "infinity")
    if len(inputs) != len(outputs):
        raise invalid(
            "outputs",
            f"as many rows as inputs, {len(inputs)}",
            f"{len(outputs)}",
            "give one row per step, with NaN where the output was not observed",
        )
    fewest = int(np.isfinite(outputs).sum(axis=0).min())
    if fewest < _FEWEST_SAMPLES:
        raise invalid(
            "outputs",
            f"at least {_FEWEST_SAMPLES} observed samples",
            f"{fewest}",
            "a nonlinear network needs a longer record",
        )
    for name, signal in (("inputs", inputs), ("outputs", outputs)):
        still = np.flatnonzero(
            np.nanstd(signal, axis=0) <= 1e-12 * np.nanmax(np.abs(signal), axis=0)
        )
        if len(still):
            value = float(signal[np.isfinite(signal[:, still[0]]), still[0]][0])
            raise invalid(
                name,
                "signals that vary",
                f"the constant {value:g} in column {still[0]}",
                "leave that column out",
            )
    return inputs, outputs


def _require_options(structures, n_units, penalty, n_restarts, n_folds, n_steps, max_width) -> None:
    for structure in structures:
        if structure not in _STRUCTURES:
            raise invalid("structures", "some of linear, static, series, state", repr(structure))
    for units in n_units:
        require_count("n_units", units)
    for weight in penalty:
        require_positive("penalty", weight)
    require_count("n_restarts", n_restarts)
    require_count("n_folds", n_folds, minimum=2)
    require_count("n_steps", n_steps)
    require_count("max_width", max_width)


def _dwelling_limits(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A sensor at its end of scale repeats one exact extreme value; noise does not.
    lower, upper = np.full(outputs.shape[1], -np.inf), np.full(outputs.shape[1], np.inf)
    for o, column in enumerate(outputs.T):
        observed = column[np.isfinite(column)]
        if len(np.unique(observed)) < 16:
            continue
        for limits, extreme in ((lower, observed.min()), (upper, observed.max())):
            at_limit = observed == extreme
            if np.max(np.convolve(at_limit, np.ones(_FEWEST_AT_LIMIT))) >= _FEWEST_AT_LIMIT:
                limits[o] = extreme
    return lower, upper


def _linear_part(
    x: np.ndarray, y: np.ndarray, max_width: int
) -> tuple[LinearRNN, tuple[int, ...], float, tuple[Status, ...]]:
    kernel = estimate_kernel(x, y, dt=1.0)
    fits = [fit_estimate(kernel, output=o, max_width=max_width) for o in range(y.shape[1])]
    chosen = [fit.networks[fit.recommended - 1] for fit in fits]
    network = LinearRNN(
        scipy.linalg.block_diag(*(n.A for n in chosen)),
        np.concatenate([n.B for n in chosen]),
        scipy.linalg.block_diag(*(n.C for n in chosen)),
    )
    notes = [kernel.status, *kernel.warnings, *(fit.status for fit in fits)]
    chains = tuple(n.width for n in chosen)
    return network, chains, kernel.horizon, tuple(dict.fromkeys(s for s in notes if not s.is_ok))


def _operating_point(network: LinearRNN, x: np.ndarray, y: np.ndarray) -> AffineRNN:
    # Offset and initial state by least squares; the latter with the prior of the states visited.
    width, n_outputs = network.width, network.n_outputs
    states = np.asarray(
        AffineRNN(network, np.zeros(x.shape[1]), np.zeros(n_outputs)).states(x, dt=1.0)
    )
    step = scipy.linalg.expm(np.asarray(network.A))
    powers, row = np.zeros((len(x), n_outputs, width)), np.asarray(network.C)
    for k in range(len(x)):
        row = row @ step
        if np.abs(row).max() < 1e-14:
            break
        powers[k] = row
    offsets = np.broadcast_to(np.eye(n_outputs), (len(x), n_outputs, n_outputs))
    seen = np.isfinite(y)
    design = np.concatenate([offsets, powers], axis=2)[seen]
    target = (y - states @ np.asarray(network.C).T)[seen]
    visited = states.T @ states / len(states)
    visited += 1e-9 * max(float(np.trace(visited)), 1e-12) * np.eye(width)
    whiten = np.linalg.inv(scipy.linalg.cholesky(visited, lower=True))
    penalty = np.concatenate([np.zeros((width, n_outputs)), whiten], axis=1)
    solution = np.linalg.lstsq(
        np.concatenate([design, penalty]), np.concatenate([target, np.zeros(width)]), rcond=None
    )[0]
    return AffineRNN(network, np.zeros(x.shape[1]), solution[:n_outputs], solution[n_outputs:])


def _cut(
    x: np.ndarray,
    y: np.ndarray,
    seen: np.ndarray,
    states: np.ndarray,
    horizon: float,
    limits: tuple[np.ndarray, np.ndarray],
) -> Windows:
    n_time = len(x)
    washout = int(min(np.ceil(horizon), _LONGEST_WINDOW // 2))
    is_long = n_time > _LONGEST_WINDOW
    length = max(1024, 2 * washout) if is_long else n_time
    advance = length - washout if is_long else n_time
    begins = np.arange(0, max(n_time - washout, 1), advance) if is_long else np.array([0])
    rows = begins[:, None] + np.arange(length)
    rows = np.where(rows < n_time, rows, -1)
    at = np.maximum(rows, 0)
    scored = (rows >= 0)[:, :, None] & seen[at]
    scored[1:, :washout] = False
    return Windows(
        inputs=np.where((rows >= 0)[:, :, None], x[at], 0.0),
        outputs=np.where(scored, np.nan_to_num(y[at]), 0.0),
        seen=scored.astype(float),
        starts=np.concatenate([np.zeros((1, states.shape[1])), states[begins[1:] - 1]]),
        limits=limits,
        rows=rows,
    )


def _folds(n_time: int, n_folds: int) -> list[np.ndarray]:
    # The first eighth is never hidden: it tells the initial state.
    edges = np.linspace(n_time / 8, n_time, n_folds + 1).round().astype(int)
    at = np.arange(n_time)
    return [(at >= a) & (at < b) for a, b in itertools.pairwise(edges)]


def _plan(structures, n_restarts, n_units, penalty):
    yield "linear", 0, 0, float(penalty[0])
    for restart in range(n_restarts):
        for weight in penalty:
            if "static" in structures and restart < max(1, n_restarts // 4):
                yield "static", restart, 0, float(weight)
            if "series" in structures:
                yield "series", restart, 0, float(weight)
            if "state" in structures and restart < max(1, n_restarts // 4):
                for units in n_units:
                    yield "state", restart, units, float(weight)


def _rng(key: Any, restart: int) -> np.random.Generator:
    try:
        words = jax.random.key_data(key)
    except TypeError:
        raise wrong_type("key", "a JAX random key", repr(key), "pass jax.random.key(0)") from None
    return np.random.default_rng([*np.ravel(np.asarray(words)).tolist(), restart])


def _verdict(vector, simulated, found) -> tuple[Status, tuple[Status, ...]]:
    if not (np.isfinite(vector).all() and np.isfinite(simulated).all()):
        status = Status("diverged", "no candidate could be simulated over the record")
        return status, (status, *found)
    gravest = next(
        (s for s in found if s.code in ("noise_limited", "input_not_exciting")), Status()
    )
    return gravest, found
