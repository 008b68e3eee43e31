"""Warm start: from records to a network that starts where training would have to arrive."""

from __future__ import annotations

import dataclasses
import inspect
import math
import time
from typing import Any

import jax
import numpy as np

from recollect import models
from recollect._core._check import (
    host_float64,
    invalid,
    is_tracer,
    require_choice,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._functional import AbstractReparam
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.approximation import EstimatedWidths, fit_estimate
from recollect.memory import KernelEstimate, estimate_kernel
from recollect.training._record_fit import fit_records
from recollect.training._record_refinement import Refined, refine_on_records
from recollect.training._small_signal import (
    NONLINEAR_KINDS,
    SmallSignal,
    build_nonlinear,
    is_odd,
)

_OWNER = "warm_start"
_LINEAR_KINDS = (models.LinearRNN, models.DiagonalRNN)


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """A network that starts at the best linear one, and what led there.

    Attributes:
        model: of the kind asked for. It maps deviations of the inputs from `input_offset` to
            deviations of the outputs from `output_offset`.
        rescaled: the same as a `models.Rescaled` with those offsets, for signals as they were
            measured.
        linear: the linear network that the model is, or that it reproduces for small signals.
        error: root mean square error of the free simulation of the records by the linear network,
            initial states fitted, in the unit of each output, shape (out,).
        start_error: the same before the refinement, of the network of the estimated kernel.
        relative_error: `error` over the standard deviation of each output.
        input_offset: mean of the inputs, zero for records that start at rest, shape (in,).
        output_offset: output at rest under it, shape (out,).
        kernel: the estimated memory.
        width: units that carry the linear part, for each output.
        reason: why so many, for each output.
        kernel_error: L1 distance of the estimated kernel from the best network of that width found.
        kernel_bound: no network of that width is nearer to it (Hankel singular values).
        deviation: share of the linear network's output that the model misses on the records
            (root mean square): the price of starting a nonlinear network at a linear one.
        amplitude: largest deviation of an input for which the model is proved to stay within
            `tolerance` of the linear network's largest output; infinite where it is linear.
        status: the gravest of `warnings`.
        warnings: what the estimate and the fits had to say.
        stats: seconds, steps, counts.
    """

    model: Any
    rescaled: models.Rescaled
    linear: models.DiagonalRNN
    error: np.ndarray
    start_error: np.ndarray
    relative_error: np.ndarray
    input_offset: np.ndarray
    output_offset: np.ndarray
    kernel: KernelEstimate
    width: tuple[int, ...]
    reason: tuple[str, ...]
    kernel_error: np.ndarray
    kernel_bound: np.ndarray
    deviation: float
    amplitude: float
    status: Status
    warnings: tuple[Status, ...]
    stats: dict[str, Any]

    def summary(self) -> list[str]:
        """Returns what was done, one line per step."""
        share = self.kernel.explained_variance
        lines = [
            f"kernel: {len(self.kernel.lags)} lags up to {self.kernel.horizon:.4g}, "
            f"explains {100 * float(np.min(share)):.1f} % of the output's variance",
        ]
        for o, (width, reason) in enumerate(zip(self.width, self.reason, strict=True)):
            lines.append(
                f"output {o}: {width} units ({reason}); L1 distance from the kernel "
                f"{self.kernel_error[o]:.3g}, at least {self.kernel_bound[o]:.3g} at that width"
            )
            lines.append(
                f"output {o}: simulation error {self.start_error[o]:.4g} at the kernel's network, "
                f"{self.error[o]:.4g} after refinement ({100 * self.relative_error[o]:.2g} % of "
                "the output's standard deviation)"
            )
        if math.isfinite(self.amplitude):
            lines.append(
                f"{type(self.model).__name__}: {100 * self.deviation:.2g} % from its linear part "
                f"on the records; proved for inputs up to {self.amplitude:.3g}"
            )
        return lines


@on_one_thread
@references("li2021curse", "golub1973differentiation")
def warm_start(
    kind: Any,
    inputs: Any,
    outputs: Any,
    *,
    dt: float,
    width: int | None = None,
    n_units: int | None = None,
    reparam: AbstractReparam | None = None,
    activation: str = "tanh",
    tolerance: float = 0.01,
    max_width: int = 16,
    initial_state: str = "unknown",
    n_steps: int = 40,
    kernel: KernelEstimate | None = None,
    key: Any = 0,
) -> WarmStart:
    """Returns a network started from records, with the memory in place before training begins.

    The memory kernel is estimated, compiled to exponentials (as many as the data pay for, the rule
    of `diagnose`), and these are refined on the records: variable projection on the error of the
    free simulation. A linear kind is that network. A nonlinear kind starts from it: its first
    units reproduce it, with states so small that the activation is nearly linear on the records,
    and its other units are random and not yet read, so that training can grow into them.

    Args:
        kind: a class of `recollect.models` (`LinearRNN`, `DiagonalRNN`, `ResidualRNN`, `ElmanRNN`,
            `GRU`, `LSTM`, `StateNetwork`, `StateSpaceLayer`), or a model of one of these, which
            then gives its number of units, its activation, parameterisation and step.
        inputs: shape (time, in) or (time,), or a list of such records; without gaps.
        outputs: shape (time, out) or (time,), row k at the end of step k, NaN where not observed;
            a list for several records.
        dt: step of the records.
        width: units of the linear part, shared evenly between the outputs. By default as many as
            the data pay for.
        n_units: units of the network; for a nonlinear kind twice those of the linear part by
            default, for a linear one the same.
        reparam: of a `DiagonalRNN` or `StateSpaceLayer`; exponential (stable) by default.
        activation: of a nonlinear kind: `"tanh"`, `"hardtanh"` or `"linear"`.
        tolerance: of a nonlinear kind: the share of the linear network's output on the records
            that it may miss at the start. Smaller is nearer to linear and slower to bend.
        max_width: most units per output when `width` is left out.
        initial_state: `"unknown"`, or `"rest"` if every record starts at rest.
        n_steps: most steps of the refinement.
        kernel: of `memory.estimate_kernel` on these records, if it has been made already.
        key: JAX key or integer seed of the units not yet read.

    Returns:
        The network, its linear part, errors before and after refinement, and the reasons.

    Raises:
        ValueError: if records do not match or are too short, a signal is constant, or the kind
            cannot hold the linear part.
        TypeError: if `kind` is no model that can be started this way.
    """
    began = time.perf_counter()
    dt = require_positive("dt", dt)
    require_choice("initial_state", initial_state, ("unknown", "rest"))
    tolerance = require_positive("tolerance", tolerance)
    n_steps = require_count("n_steps", n_steps)
    max_width = require_count("max_width", max_width)
    if width is not None:
        width = require_count("width", width)
    plan = _plan(kind, n_units, reparam, activation, dt)
    xs, ys = _records(inputs, outputs)
    if plan.like is not None:
        _require_channels(plan.like, xs[0].shape[1], ys[0].shape[1])
    is_one = len(xs) == 1
    if kernel is None:
        kernel = estimate_kernel(
            xs[0] if is_one else xs,
            ys[0] if is_one else ys,
            dt=dt,
            initial_state=initial_state,
        )
    _require_kernel(kernel, xs[0].shape[1], ys[0].shape[1], dt)
    # At rest before the record means an input of zero there, not of its mean.
    is_at_rest = initial_state == "rest"
    centre = np.zeros(xs[0].shape[1]) if is_at_rest else np.concatenate(xs).mean(axis=0)
    centred = [x - centre for x in xs]
    n_outputs = ys[0].shape[1]
    if plan.is_linear and width is None and plan.n_units is not None:
        width = plan.n_units
    shares = _shares(width, n_outputs)
    fits, found = [], []
    for o in range(n_outputs):
        share = shares[o]
        fit = fit_estimate(kernel, output=o, max_width=share or max_width)
        chosen = fit.recommended if share is None else min(share, len(fit.networks))
        start = -np.linalg.eigvals(np.asarray(fit.networks[chosen - 1].A)).astype(complex)
        fits.append((fit, chosen))
        starts = [start]
        if is_at_rest and share is not None:
            starts.extend(_rates_of_records(centred, [y[:, [o]] for y in ys], dt, share))
        refined = [
            refine_on_records(
                each,
                centred,
                [y[:, o] for y in ys],
                dt=dt,
                is_at_rest=is_at_rest,
                has_offset=True,
                n_steps=n_steps,
            )
            for each in starts
        ]
        best = min(refined, key=lambda r: r.error)
        found.append(dataclasses.replace(best, start_error=refined[0].start_error))
    linear = _assembled(found)
    return _delivered(
        plan, linear, kernel, fits, found, centre, centred, ys, tolerance, dt, key, shares, began
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    kind: type
    like: Any
    n_units: int | None
    reparam: AbstractReparam
    activation: str
    step: float | None

    @property
    def is_linear(self) -> bool:
        return self.kind in _LINEAR_KINDS


def _plan(kind: Any, n_units: Any, reparam: Any, activation: str, dt: float) -> _Plan:
    known = (*_LINEAR_KINDS, *NONLINEAR_KINDS)
    like = None if inspect.isclass(kind) else kind
    own = kind if like is None else type(kind)
    if own not in known:
        names = ", ".join(k.__name__ for k in known)
        raise wrong_type("kind", f"one of {names}", own.__name__)
    step = None
    if n_units is not None:
        n_units = require_count("n_units", n_units)
    if like is not None:
        recurrence = like.recurrence if isinstance(like, models.StateSpaceLayer) else like
        if n_units is None:
            n_units = like.n_units if isinstance(like, models.StateNetwork) else recurrence.width
        reparam = getattr(recurrence, "reparam", None) if reparam is None else reparam
        activation = getattr(like, "activation", activation)
        step = getattr(recurrence, "dt", None)
        if step is not None and not math.isclose(step, dt, rel_tol=1e-9):
            raise invalid("kind", f"a model with the step {dt:g} of the records", f"{step:g}")
    has_choice = own in (models.ResidualRNN, models.ElmanRNN, models.StateSpaceLayer)
    if has_choice and not is_odd(activation):
        raise invalid(
            "activation",
            "tanh, hardtanh or linear",
            repr(activation),
            "the others are not linear around zero without a constant",
        )
    chosen = models.Exponential() if reparam is None else reparam
    return _Plan(own, like, n_units, chosen, activation, step)


def _rates_of_records(
    xs: list[np.ndarray], ys: list[np.ndarray], dt: float, width: int
) -> list[np.ndarray]:
    """Returns the rates that `fit_records` finds, where it can and where they exist."""
    if xs[0].shape[1] > 1 or any(np.isnan(y).any() for y in ys):
        return []
    try:
        found = fit_records(xs, ys, dt=dt, width=width)
    except ValueError:  # the output of records that do not start from zero, say
        return []
    poles = np.linalg.eigvals(np.asarray(found.model.A)).astype(complex)
    # A pole on the negative axis is that of no sampled exponential.
    if np.any((np.abs(poles.imag) <= 1e-12) & (poles.real <= 0)) or len(poles) < width:
        return []
    return [-np.log(poles) / dt]


def _records(inputs: Any, outputs: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    many = isinstance(inputs, (list, tuple)) and any(np.ndim(value) > 0 for value in inputs)
    xs, ys = (list(inputs), outputs) if many else ([inputs], [outputs])
    if many and not (isinstance(ys, (list, tuple)) and len(ys) == len(xs)):
        got = len(ys) if isinstance(ys, (list, tuple)) else type(ys).__name__
        raise invalid("outputs", f"a list of {len(xs)} records, as the inputs", got)
    found_x, found_y = [], []
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        name = f"[{i}]" if many else ""
        x = _signal(f"inputs{name}", host_float64(f"inputs{name}", x, owner=_OWNER))
        if is_tracer(y):
            host_float64("outputs", y, owner=_OWNER)
        try:
            y = np.asarray(y, dtype=np.float64)
        except (TypeError, ValueError):
            raise wrong_type(f"outputs{name}", "an array of numbers", type(y).__name__) from None
        y = _signal(f"outputs{name}", y)
        if np.isinf(y).any():
            raise invalid(f"outputs{name}", "finite numbers, or NaN where missing", "infinity")
        if len(x) != len(y):
            raise invalid(
                f"outputs{name}",
                f"as many rows as inputs, {len(x)}",
                len(y),
                "give one row per step, NaN where the output was not observed",
            )
        if len(x) < 2:
            raise invalid(f"inputs{name}", "a record", f"{len(x)} sample", "one shows no memory")
        found_x.append(x)
        found_y.append(y)
    for name, signals in (("inputs", found_x), ("outputs", found_y)):
        for i, signal in enumerate(signals):
            if signal.shape[1] != signals[0].shape[1]:
                raise invalid(
                    f"{name}[{i}]", f"{signals[0].shape[1]} channels, as the first", signal.shape[1]
                )
    everything = np.concatenate(found_y)
    if not np.nan_to_num(everything).any():
        raise invalid("outputs", "a signal", "zeros only", "there is nothing to learn")
    return found_x, found_y


def _signal(name: str, values: np.ndarray) -> np.ndarray:
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size:
        raise invalid(name, "shape (time,) or (time, channel)", f"shape {values.shape}")
    return values


def _require_channels(like: Any, n_inputs: int, n_outputs: int) -> None:
    if like.n_inputs != n_inputs:
        raise invalid("inputs", f"{like.n_inputs} channel(s), those of the model", n_inputs)
    if like.n_outputs != n_outputs:
        raise invalid("outputs", f"{like.n_outputs} channel(s), those of the model", n_outputs)


def _require_kernel(kernel: Any, n_inputs: int, n_outputs: int, dt: float) -> None:
    if not isinstance(kernel, KernelEstimate):
        raise wrong_type("kernel", "a KernelEstimate", type(kernel).__name__)
    if kernel.kernel.shape[1:] != (n_outputs, n_inputs) or not math.isclose(kernel.dt, dt):
        raise invalid(
            "kernel",
            f"an estimate of {n_outputs} output(s) and {n_inputs} input(s) at step {dt:g}",
            f"one of shape {kernel.kernel.shape[1:]} at step {kernel.dt:g}",
        )


def _shares(width: int | None, n_outputs: int) -> list[int | None]:
    if width is None:
        return [None] * n_outputs
    if width < n_outputs:
        raise invalid("width", f"at least one unit for each of the {n_outputs} outputs", width)
    return [width // n_outputs + (1 if o < width % n_outputs else 0) for o in range(n_outputs)]


def _assembled(found: list[Refined]) -> models.DiagonalRNN:
    """Returns one network with a chain of its own for every output, factors of one size."""
    rates = np.concatenate([fit.rates for fit in found])
    n_inputs = found[0].amplitudes.shape[1]
    B = np.zeros((len(rates), n_inputs), complex)
    C = np.zeros((len(found), len(rates)), complex)
    k = 0
    for o, fit in enumerate(found):
        rows = np.arange(k, k + len(fit.rates))
        size = np.sqrt(np.linalg.norm(fit.amplitudes, axis=1))
        size = np.where(size > 0, size, 1.0)
        B[rows], C[o, rows] = fit.amplitudes / size[:, None], size
        k += len(rows)
    if not (rates.imag.any() or B.imag.any()):
        rates, B, C = rates.real, B.real, C.real
    return models.DiagonalRNN(rates, B, C)


def _delivered(
    plan: _Plan,
    linear: models.DiagonalRNN,
    kernel: KernelEstimate,
    fits: list[tuple[EstimatedWidths, int]],
    found: list[Refined],
    centre: np.ndarray,
    centred: list[np.ndarray],
    ys: list[np.ndarray],
    tolerance: float,
    dt: float,
    key: Any,
    shares: list[int | None],
    began: float,
) -> WarmStart:
    rng = _generator(key)
    total = linear.width
    n_units = plan.n_units
    if n_units is None:
        n_units = total if plan.is_linear else 2 * total
    if n_units < total and plan.kind is not models.StateNetwork:
        raise invalid(
            "n_units",
            f"at least the {total} units of the linear part",
            n_units,
            "give width= for a smaller linear part",
        )
    small = SmallSignal(None, 0.0, math.inf)
    if plan.is_linear:
        grown = _with_idle(linear, n_units - total, rng)
        model: Any = models.reparameterise(grown, plan.reparam)
        if plan.kind is models.LinearRNN:
            model = models.to_dense(grown)
        if plan.step is not None:
            model = models.rediscretise(model, plan.step)
    else:
        small = build_nonlinear(
            plan.kind,
            linear,
            centred,
            dt=dt,
            n_units=n_units,
            activation=plan.activation,
            reparam=plan.reparam,
            step=plan.step,
            like=plan.like,
            tolerance=tolerance,
            rng=rng,
        )
        model = small.model
    offset = np.array([fit.offset for fit in found])
    spread = np.nanstd(np.concatenate(ys), axis=0)
    error = np.array([fit.error for fit in found])
    notes = [kernel.status, *kernel.warnings, *(fit.status for fit, _ in fits)]
    for o, (_, chosen) in enumerate(fits):
        wanted = shares[o]
        if wanted is not None and chosen < wanted:
            told = f"output {o}: the estimate holds {chosen} of {wanted} units; the rest is idle"
            notes.append(Status("width_beyond_rank", told))
    warnings = tuple(dict.fromkeys(s for s in notes if not s.is_ok))
    return WarmStart(
        model=model,
        rescaled=models.Rescaled(model, centre, None, offset, None),
        linear=linear,
        error=error,
        start_error=np.array([fit.start_error for fit in found]),
        relative_error=error / np.where(spread > 0, spread, 1.0),
        input_offset=centre,
        output_offset=offset,
        kernel=kernel,
        width=tuple(chosen for _, chosen in fits),
        reason=tuple(
            fit.reason if share is None else "as asked"
            for (fit, _), share in zip(fits, shares, strict=True)
        ),
        kernel_error=np.array([fit.errors[chosen - 1] for fit, chosen in fits]),
        kernel_bound=np.array([fit.bounds[chosen - 1] for fit, chosen in fits]),
        deviation=small.deviation,
        amplitude=small.amplitude,
        status=warnings[0] if warnings else Status(),
        warnings=warnings,
        stats={
            "seconds": time.perf_counter() - began,
            "n_steps": sum(fit.n_steps for fit in found),
            "n_records": len(ys),
            "n_samples": int(sum(np.isfinite(y).all(axis=1).sum() for y in ys)),
        },
    )


def _with_idle(
    linear: models.DiagonalRNN, n_idle: int, rng: np.random.Generator
) -> models.DiagonalRNN:
    """Returns the network with further units that nothing reads yet, spread over its time scales."""
    if not n_idle:
        return linear
    rates = np.asarray(linear.rates)
    low, high = float(np.min(rates.real)), float(np.max(np.abs(rates)))
    added = np.geomspace(0.5 * low, 2 * high, n_idle + 2)[1:-1]
    size = float(np.abs(np.asarray(linear.B)).mean())
    B = size * rng.standard_normal((n_idle, linear.n_inputs))
    return models.DiagonalRNN(
        np.concatenate([rates, added]),
        np.concatenate([np.asarray(linear.B), B]),
        np.concatenate([np.asarray(linear.C), np.zeros((linear.n_outputs, n_idle))], axis=1),
    )


def _generator(key: Any) -> np.random.Generator:
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return np.random.default_rng(require_count("key", key, minimum=0))
    try:
        words = jax.random.key_data(key)
    except (TypeError, ValueError, AttributeError):
        raise wrong_type("key", "a JAX random key or an integer seed", f"{key!r:.60}") from None
    return np.random.default_rng(np.ravel(np.asarray(words)).tolist())
