"""The best network of a width for records from rest: least squares, compiled and refined."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
import scipy.linalg

from recollect._core._check import host_float64, invalid, require_count, require_positive
from recollect._core._convolution import causal_convolution
from recollect._core._pole_fit import (
    fit_sequence,
    quadratic_form,
    realise_poles,
    refine_poles,
    run_states,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.memory import estimate_kernel
from recollect.models import LinearRNN

# Share of the output's power that least squares may leave where there is no noise.
_NO_NOISE = 1e-10
_FEWEST_LAGS = 64


@dataclasses.dataclass(frozen=True)
class RecordFit:
    """A linear network fitted to records from rest, and what it took.

    Attributes:
        model: the network, in discrete time with the records' step and orthonormal states.
        error: root mean square of what its simulation leaves of the records.
        relative_error: the same over the root mean square of the outputs.
        is_noise_free: whether least squares left nothing of the outputs, so that the kernel was
            read off instead of estimated.
        n_steps: Gauss-Newton steps of the refinement.
        status: `not_converged` if these ran out.
        stats: seconds of each stage, lags, samples.
    """

    model: LinearRNN
    error: float
    relative_error: float
    is_noise_free: bool
    n_steps: int
    status: Status
    stats: dict[str, Any]


@on_one_thread
@references("golub1973differentiation")
def fit_records(
    inputs: Any,
    outputs: Any,
    *,
    dt: float,
    width: int,
    n_steps: int = 100,
    is_noise_free: bool | None = None,
) -> RecordFit:
    """Returns the linear network of a width whose simulation from rest is nearest to the records.

    The mean square error of a simulation from rest is a quadratic form in the kernel,
    `‖R K - d‖²`, made of the records once. Its minimum over all kernels, or (with noise) the
    kernel that `memory.estimate_kernel` believes, is compiled to poles; these are refined by
    variable projection on that form. Nothing is guessed and nothing is simulated again.

    Args:
        inputs: shape (time, 1) or (record, time, 1), or a list of records of any lengths.
        outputs: the same; row k at the end of step k. Inputs before a record are zero.
        dt: step of the records.
        width: units of the network.
        n_steps: most steps of the refinement.
        is_noise_free: False to estimate the kernel whatever least squares leaves, True to read it
            off; by default decided from the records.

    Returns:
        The network, its error on the records, and how it was found.

    Raises:
        ValueError: if records do not match, have gaps or several channels, or a signal is zero.
    """
    began = time.perf_counter()
    dt = require_positive("dt", dt)
    width = require_count("width", width)
    n_steps = require_count("n_steps", n_steps, minimum=0)
    xs, ys = _read("inputs", inputs), _read("outputs", outputs)
    if [len(x) for x in xs] != [len(y) for y in ys]:
        raise invalid("outputs", "records as long as the inputs", f"{[len(y) for y in ys]}"[:60])
    longest = max(len(x) for x in xs)
    if longest < 2:
        raise invalid("inputs", "a record", "one sample", "one sample shows no memory")
    power = sum(float(y @ y) for y in ys) / sum(len(y) for y in ys)
    if power == 0 or not any(x.any() for x in xs):
        name = "outputs" if power == 0 else "inputs"
        raise invalid(name, "a signal", "zeros only", "there is nothing to learn")
    found, has_no_noise, n_lags = None, False, 0
    if is_noise_free is not False:
        found, n_lags = _least_squares(xs, ys, power, must=bool(is_noise_free))
        has_no_noise = found is not None
    if found is None:
        estimate = estimate_kernel(
            [x[:, None] for x in xs], [y[:, None] for y in ys], dt=dt, initial_state="rest"
        )
        n = max(1, min(round(estimate.edges[-1] / dt), longest))
        bins = np.searchsorted(estimate.edges, dt * (np.arange(n) + 0.5)) - 1
        found, n_lags = estimate.kernel[bins, 0, 0] * dt, longest
    root, wanted = quadratic_form(xs, ys, n_lags)
    known = time.perf_counter()
    start, rank = fit_sequence(found, width, root, wanted)
    compiled = time.perf_counter()
    refined, n_taken = refine_poles(start, root, wanted, n_iterations=n_steps, rtol=1e-8)
    # Where only rounding is left, refining may lose digits.
    ends = [realise_poles(each, root, wanted) for each in (start, refined)]
    A, b, c = min(ends, key=lambda end: end[1])[0]
    # Simulated: the form has no digits below the square root of the rounding.
    kernel = (run_states(A, b, longest) @ c)[:, None, None]
    wrong = [causal_convolution(kernel, x[:, None])[:, 0] - y for x, y in zip(xs, ys, strict=True)]
    error = math.sqrt(sum(float(e @ e) for e in wrong) / sum(len(e) for e in wrong))
    status = Status()
    if n_taken == n_steps:
        status = Status("not_converged", f"after {n_steps} steps of the refinement")
    if len(b) < width:
        status = Status("width_beyond_rank", f"{rank} units are all that float64 tells apart")
    return RecordFit(
        model=LinearRNN(A, b[:, None], c[None], dt=dt),
        error=error,
        relative_error=error / math.sqrt(power),
        is_noise_free=has_no_noise,
        n_steps=n_taken,
        status=status,
        stats={
            "seconds_kernel": known - began,
            "seconds_compile": compiled - known,
            "seconds_refine": time.perf_counter() - compiled,
            "n_lags": n_lags,
            "n_samples": sum(len(x) for x in xs),
        },
    )


def _read(name: str, signals: Any) -> list[np.ndarray]:
    if not isinstance(signals, (list, tuple)):
        array = host_float64(name, signals, owner="fit_records")
        signals = [array] if array.ndim < 3 else list(array)
    records = [host_float64(name, each, owner="fit_records") for each in signals]
    for i, record in enumerate(records):
        if record.ndim > 2 or (record.ndim == 2 and record.shape[1] != 1) or not record.size:
            raise invalid(
                f"{name}[{i}]",
                "one channel, shape (time, 1)",
                f"shape {record.shape}",
                "training.warm_start takes several",
            )
    if not records:
        raise invalid(name, "at least one record", "none")
    return [record.reshape(-1) for record in records]


def _least_squares(
    xs: list[np.ndarray], ys: list[np.ndarray], power: float, *, must: bool
) -> tuple[np.ndarray | None, int]:
    """Returns the kernel that leaves nothing of the outputs, and the lags to fit on.

    As many lags as it takes for the kernel to have ended, and as many zeros after it; None where
    even a whole record leaves something.
    """
    longest = max(len(x) for x in xs)
    n_lags = _FEWEST_LAGS // 2
    while n_lags < longest:
        n_lags = min(2 * n_lags, longest)
        try:
            root, wanted = quadratic_form(xs, ys, n_lags)
        except np.linalg.LinAlgError:  # inputs that do not excite so many lags
            return None, longest
        kernel = scipy.linalg.solve_triangular(root, wanted)
        size = np.abs(kernel)
        has_ended = n_lags == longest or size[-n_lags // 5 :].max() < 1e-13 * size.max()
        is_exact = power - float(wanted @ wanted) < _NO_NOISE * power
        if has_ended and (is_exact or (must and n_lags == longest)):
            n_fit = min(2 * n_lags, longest)
            return np.concatenate([kernel, np.zeros(n_fit - n_lags)]), n_fit
    return None, longest
