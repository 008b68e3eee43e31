"""The memory kernel of measured data, with its uncertainty."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_positive,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.memory._records import Record, read_records
from recollect.memory._rows import ExplicitRows
from recollect.memory._selection import Choice, RegressionData, choose, posterior_of
from recollect.memory._soundness import check_excitation, check_feedback
from recollect.memory._stream import Stream, blocks_of

_OWNER = "estimate_kernel"
_MAX_LAGS = 20_000
# Up to here every row is kept: any sampling, any gaps. Beyond, running sums take over.
_EXPLICIT_ROWS = 20_000
_FEWEST_ROWS = 8
_GRAVITY = ("input_not_exciting", "feedback_suspected", "record_too_short")


@dataclasses.dataclass(frozen=True)
class KernelStatistics:
    """Everything the data say about a kernel that is constant on each lag bin.

    With whitened noise of unit variance, and offset and initial transient projected out, the log
    likelihood of kernel values r (lag-major: index = lag * n_inputs + input) of output o is
    `-(power[o] - 2 cross[o]·r + r·gram[o]·r)/2` up to a constant.

    Attributes:
        gram: shape (out, p*in, p*in).
        cross: shape (out, p*in).
        power: shape (out,); equals n_samples where the estimate fits perfectly to the noise.
        n_samples: rows less projected directions, shape (out,).
        edges: of the lag bins, unit of time, shape (p + 1,).
        n_inputs: number of inputs.
    """

    gram: np.ndarray
    cross: np.ndarray
    power: np.ndarray
    n_samples: np.ndarray
    edges: np.ndarray
    n_inputs: int


@dataclasses.dataclass(frozen=True)
class NoiseModel:
    """Stationary output noise: white, or Ornstein-Uhlenbeck (AR(1) on a regular grid).

    Attributes:
        std: standard deviation, unit of the output, shape (out,).
        correlation_time: e-folding time of its autocorrelation (0 for white), shape (out,).
        autocorrelation: between neighbouring samples dt apart, shape (out,).
        log_evidence_gain: log evidence over that of white noise, shape (out,).
    """

    std: np.ndarray
    correlation_time: np.ndarray
    autocorrelation: np.ndarray
    log_evidence_gain: np.ndarray


@dataclasses.dataclass(frozen=True)
class KernelEstimate:
    """A memory kernel estimated from data: posterior mean, standard deviation, what they rest on.

    The kernel is constant on lag bins that are one step wide at the start and grow in proportion
    to the lag. `kernel[i]` is the average of ρ over bin i, unit output/(input·time).

    Attributes:
        kernel: posterior mean, shape (p, out, in).
        kernel_stderr: posterior standard deviation, same shape.
        covariance: posterior covariance per output, lag-major, shape (out, p*in, p*in).
        lags: left ends of the bins, unit of time, shape (p,).
        edges: bin edges, unit of time, shape (p + 1,).
        offset: output at zero input, shape (out,).
        offset_stderr: its standard deviation.
        noise: what is left of the output.
        horizon: lag beyond which the data support nothing more.
        dt: step of the inputs.
        explained_variance: share of the output variance that kernel, offset and initial transient
            account for, shape (out,).
        log_evidence: log marginal likelihood, shape (out,).
        statistics: sufficient statistics for other models of the same data.
        transient_timescales: of the exponentials that carry the unknown past, shape (q,).
        transient_amplitudes: shape (record, q, out).
        status: `ok`, or the gravest warning.
        warnings: everything that deserves a word.
        stats: counts and times.
    """

    kernel: np.ndarray
    kernel_stderr: np.ndarray
    covariance: np.ndarray
    lags: np.ndarray
    edges: np.ndarray
    offset: np.ndarray
    offset_stderr: np.ndarray
    noise: NoiseModel
    horizon: float
    dt: float
    explained_variance: np.ndarray
    log_evidence: np.ndarray
    statistics: KernelStatistics
    transient_timescales: np.ndarray
    transient_amplitudes: np.ndarray
    status: Status
    warnings: tuple[Status, ...]
    stats: dict[str, Any]


@on_one_thread
@references("chen2012estimation")
def estimate_kernel(
    inputs: Any,
    outputs: Any,
    *,
    dt: float,
    output_times: Any = None,
    horizon: float | None = None,
    n_lags: int | None = None,
    noise: str = "auto",
    initial_state: str = "unknown",
) -> KernelEstimate:
    """Returns the memory kernel of measured data, with a posterior standard deviation.

    Model: `y(t) = offset + ∫_0^∞ ρ(s) x(t-s) ds + transient(t) + noise(t)`, x held constant on
    each step. ρ has a Gaussian-process prior whose covariance is a mixture of stable-spline
    kernels over log-spaced decay rates and of windowed processes around log-spaced lags (so
    neither one rate nor the absence of a delay is presupposed); all weights, the noise level and
    the noise correlation maximise the marginal likelihood.

    Args:
        inputs: shape (time, in) or (time,), or a list of such records. A row with NaN cuts the
            record in two.
        outputs: shape (time, out) or (time,), row k at the end of step k; NaN where missing. With
            `output_times`, shape (row, out). A list for several records.
        dt: step of the inputs, in your unit of time.
        output_times: times of the output rows, from the start of the first input step, if the
            outputs are not on the input grid. A list for several records.
        horizon: longest lag to consider, unit of time. Chosen by evidence if left out.
        n_lags: the same in steps.
        noise: "white", "correlated" (AR(1) on a grid, Ornstein-Uhlenbeck between irregular
            samples), or "auto": by evidence.
        initial_state: "unknown" (inputs before the record and the state are free) or "rest" (zero
            input before the record).

    Returns:
        The estimate; outputs are treated as one functional each, on common lag bins.

    Raises:
        ValueError: constant input or output, too few samples, shapes that do not match.

    Assumptions: linear and time-homogeneous; inputs measured without error and not fed back from
    the outputs (tested, see `warnings`).
    """
    dt = require_positive("dt", dt)
    require_choice("noise", noise, ("auto", "white", "correlated"))
    require_choice("initial_state", initial_state, ("unknown", "rest"))
    limit = _lag_limit(horizon, n_lags, dt)
    table = _read(inputs, outputs, output_times, dt, limit, initial_state)
    longest = min(limit or _MAX_LAGS, max(table.longest_record // 2, 2))
    if limit is not None:
        longest = min(limit, table.longest_record)
    choices = []
    for data in table.sources:
        choice = choose(data, longest, is_fixed=limit is not None, noise=noise)
        if initial_state == "unknown":
            choice = _after_unknown_past(data, choice, table.longest_record, longest, limit, noise)
        choices.append(choice)
    edges = functools.reduce(np.union1d, [choice.edges for choice in choices])
    return _assemble(table, choices, edges, dt)


def _after_unknown_past(
    data: RegressionData,
    choice: Choice,
    longest_record: int,
    longest: int,
    limit: int | None,
    noise: str,
) -> Choice:
    """Returns the choice on the rows that the unknown past no longer reaches.

    Correlated noise can swallow a past the model cannot express, and the memory with it: it is
    believed only if it is still preferred on the rows a white-noise fit finds untouched.
    """

    def again(kind: str, first: Choice | None) -> Choice:
        return choose(data, longest, is_fixed=limit is not None, noise=kind, first=first)

    n_skipped = _burn_in(data, choice, longest_record)
    if n_skipped:
        data.skip(n_skipped)
        return again(noise, choice)
    if noise == "auto" and choice.correlation > 0:
        white = again("white", None)
        n_skipped = _burn_in(data, white, longest_record)
        if n_skipped:
            data.skip(n_skipped)
            later = again(noise, white)
            if later.correlation < 0.1 * choice.correlation:
                return later
            data.skip(0)
    return choice


@dataclasses.dataclass(frozen=True)
class _Table:
    """Records brought to zero mean and unit variance, so that units do not matter."""

    sources: Sequence[RegressionData]
    n_records: int
    longest_record: int
    timescales: np.ndarray
    x_mean: np.ndarray
    x_std: np.ndarray
    y_mean: np.ndarray
    y_std: np.ndarray


def _read(
    inputs: Any,
    outputs: Any,
    output_times: Any,
    dt: float,
    limit: int | None,
    initial_state: str,
) -> _Table:
    if outputs is None:
        if not hasattr(inputs, "__iter__") or hasattr(inputs, "shape"):
            raise invalid(
                "outputs", "an array, or an iterator of (inputs, outputs) chunks as inputs", "None"
            )
        return _read_chunks([inputs], limit, initial_state)
    records = read_records(inputs, outputs, output_times, dt=dt, owner=_OWNER)
    n_rows = sum(len(record.times) for record in records)
    if n_rows > _EXPLICIT_ROWS and all(record.is_regular for record in records):
        return _read_chunks(
            [[(record.inputs, record.outputs)] for record in records], limit, initial_state
        )
    return _read_rows(records, initial_state)


def _read_chunks(streams: list[Any], limit: int | None, initial_state: str) -> _Table:
    stream, waiting = None, []
    for chunks in streams:
        for x, y in blocks_of(chunks, owner=_OWNER):
            if stream is None:
                n_lags = limit or _MAX_LAGS
                timescales = _transient_timescales(n_lags // 2, initial_state)
                stream = Stream(n_lags, timescales, x, y, at_rest=initial_state == "rest")
                waiting = [(x, y)] if len(streams) == 1 and len(x) <= _EXPLICIT_ROWS else []
            stream.add(x, y)
        if stream is not None:
            stream.close()
    if stream is None:
        raise invalid("inputs", "at least one chunk", "an empty iterator")
    if waiting:
        # A short stream is an array in pieces.
        records = read_records(*waiting[0], None, dt=1.0, owner=_OWNER)
        return _read_rows(records, initial_state)
    return _Table(
        sources=list(stream.sources()),
        n_records=len(stream.sums),
        longest_record=stream.longest_record,
        timescales=stream.timescales,
        x_mean=stream.x_mean,
        x_std=stream.x_std,
        y_mean=stream.y_mean,
        y_std=stream.y_std,
    )


def _read_rows(records: list[Record], initial_state: str) -> _Table:
    x = np.concatenate([record.inputs for record in records])
    y = np.concatenate([record.outputs for record in records])
    x_mean, x_std = x.mean(axis=0), x.std(axis=0)
    for i in range(x.shape[1]):
        if x_std[i] <= 1e-12 * max(abs(x_mean[i]), 1e-300):
            raise invalid("inputs", "an input that varies", f"channel {i} constant")
    y_mean, y_std = np.empty(y.shape[1]), np.empty(y.shape[1])
    for o in range(y.shape[1]):
        seen = y[np.isfinite(y[:, o]), o]
        if len(seen) < _FEWEST_ROWS:
            raise invalid(
                "outputs", f"at least {_FEWEST_ROWS} samples", f"{len(seen)} in channel {o}"
            )
        y_mean[o], y_std[o] = seen.mean(), seen.std()
        if y_std[o] <= 1e-12 * max(abs(y_mean[o]), 1e-300):
            raise invalid("outputs", "an output that varies", f"channel {o} constant")
    past = np.zeros(x.shape[1]) if initial_state == "unknown" else -x_mean / x_std
    standardised = [
        dataclasses.replace(
            record,
            inputs=(record.inputs - x_mean) / x_std,
            outputs=(record.outputs - y_mean) / y_std,
        )
        for record in records
    ]
    longest = max(len(record.inputs) for record in records)
    timescales = _transient_timescales(longest // 4, initial_state)
    return _Table(
        sources=[ExplicitRows(standardised, o, past, timescales) for o in range(y.shape[1])],
        n_records=len(records),
        longest_record=longest,
        timescales=timescales,
        x_mean=x_mean,
        x_std=x_std,
        y_mean=y_mean,
        y_std=y_std,
    )


def _lag_limit(horizon: float | None, n_lags: int | None, dt: float) -> int | None:
    if horizon is not None and n_lags is not None:
        raise invalid("n_lags", "horizon or n_lags, not both", "both")
    if n_lags is not None:
        return require_count("n_lags", n_lags)
    if horizon is not None:
        return max(1, round(require_positive("horizon", horizon) / dt))
    return None


def _transient_timescales(longest: int, initial_state: str) -> np.ndarray:
    if initial_state == "rest":
        return np.zeros(0)
    longest = max(longest, 2)
    return np.geomspace(1.0, longest, max(2, int(np.ceil(np.log(longest) / np.log(3)))))


def _burn_in(data: RegressionData, choice: Choice, longest: int) -> int:
    """Returns the leading steps whose residual is far above the noise of the rest.

    Inputs before the record reach the output unsmoothed through a delay: no smooth transient
    describes that, so such rows are left out.
    """
    posterior = posterior_of(data, choice.edges, choice.correlation, max_iterations=25)
    typical = data.nuisance_fit(choice.edges, posterior.mean, choice.correlation).residual_variance
    heads = data.head_residuals(choice.edges, posterior.mean, choice.correlation)
    n_skipped, n_block = 0, 8
    while 2 * n_block <= min(longest // 3, 2 * int(choice.edges[-1])):
        block = np.concatenate([r[(t > n_block // 2) & (t <= n_block)] for t, r in heads])
        # Correlated residuals say less than their number: count one per two correlation times.
        n_free = len(block)
        if choice.correlation > 0:
            n_free = min(n_free, len(heads) * (1 + n_block / (4 * choice.correlation)))
        limit = (1 + 6 * np.sqrt(2 / max(n_free, 1))) * typical
        if len(block) > 3 and np.mean(block**2) > limit:
            n_skipped = n_block
        n_block = int(np.ceil(1.3 * n_block))
    if choice.correlation > _FAINT_CORRELATION:
        return n_skipped
    late = _late_reach(choice.edges, posterior.mean.reshape(len(choice.edges) - 1, -1))
    return max(n_skipped, late) if late <= longest // 3 else n_skipped


# Steps of noise correlation that unresolved lags or a slipped-in past may feign.
_FAINT_CORRELATION = 3.0


def _late_reach(edges: np.ndarray, kernel: np.ndarray) -> int:
    """Returns the lag where a late peak has faded, 0 without one.

    Decays carry the unknown past exactly; a peak behind a dip brings the past inputs themselves,
    and rows it reaches tell nothing.
    """
    reach = 0
    for size in np.abs(kernel).T:
        later = np.maximum.accumulate(size[::-1])[::-1]
        before = np.minimum.accumulate(size)
        rises = (edges[:-1] > 8) & (later > 0.3 * size.max()) & (before < 0.3 * later)
        if rises.any():
            reach = max(reach, int(edges[np.flatnonzero(later > 0.06 * size.max())[-1] + 1]))
    return reach


def _warnings(
    output: int,
    choice: Choice,
    inputs: np.ndarray,
    residual: np.ndarray | None,
    edges: np.ndarray,
    dt: float,
) -> list[Status]:
    found = [check_excitation(inputs)]
    if residual is not None:
        decay = float(np.exp(-1 / choice.correlation)) if choice.correlation else 0.0
        found.append(check_feedback(inputs, residual, decay))
    if not choice.is_saturated:
        found.append(
            Status(
                "record_too_short",
                f"output {output}: the evidence still grows at the longest lag allowed, "
                f"{edges[-1] * dt:g}",
            )
        )
    return [status for status in found if status is not None]


def _assemble(table: _Table, choices: list[Choice], edges: np.ndarray, dt: float) -> KernelEstimate:
    p, n_in, n_out = len(edges) - 1, len(table.x_mean), len(table.y_mean)
    q = p * n_in
    kernel, stderr = np.empty((p, n_out, n_in)), np.empty((p, n_out, n_in))
    covariance, gram = np.empty((n_out, q, q)), np.empty((n_out, q, q))
    cross, power, count = np.empty((n_out, q)), np.empty(n_out), np.empty(n_out, dtype=np.int64)
    offset, offset_stderr, explained = np.empty(n_out), np.empty(n_out), np.empty(n_out)
    noise_std, evidence = np.empty(n_out), np.empty(n_out)
    transients = np.zeros((table.n_records, len(table.timescales), n_out))
    # A constant shift of the input moves the offset by the shift times the step response.
    static = np.tile(table.x_mean / table.x_std, p) * np.repeat(np.diff(edges), n_in)
    found: list[Status] = []
    for o, (data, choice) in enumerate(zip(table.sources, choices, strict=True)):
        equations = data.equations(edges, choice.correlation)
        posterior = posterior_of(data, edges, choice.correlation, max_iterations=150)
        variance, y_std = posterior.noise_variance, table.y_std[o]
        # From standardised step coefficients to ρ: unit output / (input time).
        to_kernel = y_std / (np.tile(table.x_std, p) * dt)
        covariance[o] = posterior.covariance * np.outer(to_kernel, to_kernel)
        kernel[:, o, :] = (posterior.mean * to_kernel).reshape(p, n_in)
        stderr[:, o, :] = np.sqrt(np.maximum(np.diag(covariance[o]), 0)).reshape(p, n_in)
        gram[o] = equations.gram / np.outer(to_kernel, to_kernel) / variance
        cross[o] = equations.cross / to_kernel / variance
        power[o], count[o] = equations.power / variance, equations.n_samples
        rest = data.nuisance_fit(edges, posterior.mean, choice.correlation)
        seen_inputs, residual = data.sample(edges, posterior.mean, choice.correlation)
        found += _warnings(o, choice, seen_inputs, residual, edges, dt)
        offset[o] = table.y_mean[o] + y_std * (rest.offset - static @ posterior.mean)
        slope = rest.offset_slope - static
        offset_stderr[o] = y_std * np.sqrt(
            rest.offset_variance * variance + slope @ posterior.covariance @ slope
        )
        transients[:, :, o] = y_std * rest.transients
        explained[o] = 1 - rest.residual_variance / rest.output_variance
        noise_std[o] = y_std * np.sqrt(variance)
        evidence[o] = posterior.log_evidence - data.n_rows * np.log(y_std)
    correlation = np.array([choice.correlation for choice in choices]) * dt
    with np.errstate(divide="ignore"):
        autocorrelation = np.exp(-dt / correlation)
    warnings = tuple(dict.fromkeys(sorted(found, key=lambda s: _GRAVITY.index(s.code))))
    return KernelEstimate(
        kernel=kernel,
        kernel_stderr=stderr,
        covariance=covariance,
        lags=edges[:-1] * dt,
        edges=edges * dt,
        offset=offset,
        offset_stderr=offset_stderr,
        noise=NoiseModel(
            noise_std, correlation, autocorrelation, np.array([c.evidence_gain for c in choices])
        ),
        horizon=float(edges[-1] * dt),
        dt=dt,
        explained_variance=explained,
        log_evidence=evidence,
        statistics=KernelStatistics(gram, cross, power, count, edges * dt, n_in),
        transient_timescales=table.timescales * dt,
        transient_amplitudes=transients,
        status=warnings[0] if warnings else Status(),
        warnings=warnings,
        stats={
            "n_samples": int(count.sum()),
            "n_evaluations": sum(c.n_evaluations for c in choices),
        },
    )
