"""The main job: one walk through the rooms, data in, verdict and model out."""

from __future__ import annotations

import dataclasses
import io
import re
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg

from recollect._core._check import require_count, wrong_type
from recollect._core._status import Status
from recollect.approximation import EstimatedWidths, fit_estimate
from recollect.diagnosis._baselines import Score, fit_arx, score
from recollect.diagnosis._measurements import Measurements, Stretch
from recollect.diagnosis._network import fit_operating_point, settle
from recollect.diagnosis._nonlinear import fit_nonlinear, judge_remainder
from recollect.diagnosis._result import Diagnosis, HeldOut
from recollect.diagnosis._stability import recommend_parameterisation
from recollect.diagnosis._training import TrainingForecast, forecast_training
from recollect.memory import KernelEstimate, estimate_kernel, estimate_law
from recollect.models import AffineRNN, LinearRNN

# A wider network has a landscape of its own for every width below: minutes, not seconds.
_WIDEST_FORECAST = 6

_LATE = (
    "the output does not move in the step of its own row, and most in the next: if a row's input and "
    "output are read at the same instant, the memory is one step too long (say --output-at start)"
)

# Of the error's variance: noise that forgets within a tenth of the record stays below.
_MOSTLY = 0.8
_WORTH = 0.01  # of the output's variance

_GRAVEST_FIRST = (
    "not_finite",
    "diverged",
    "input_not_exciting",
    "feedback_suspected",
    "output_drifts",
    "record_too_short",
    "noise_limited",
)


def diagnose(
    measurements: Measurements,
    *,
    width: int | None = None,
    max_width: int = 16,
    nonlinear: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Diagnosis:
    """Returns how long a measured system remembers, how wide a network must be, and the network.

    The memory kernel is estimated from the data with its uncertainty; its law and the lags that
    hold 50, 90 and 95 % of the memory follow; the width is where the kernel's Hankel spectrum
    meets the noise; the network of that width maximises the likelihood of the data. It is judged
    by free simulation on a separate record, or on the end of the record by a network that was
    fitted to the rest.

    Args:
        measurements: the data.
        width: hidden units per output; chosen from the data if not given.
        max_width: largest width considered per output, unless `width` is larger.
        nonlinear: also fit a nonlinear state network, judged on the same held-out data.
        progress: called with the name of each stage.

    Returns:
        The diagnosis. Outputs are one functional each: their networks stand side by side.

    Raises:
        TypeError: if `measurements` is not a `Measurements`.
        ValueError: if the data cannot support any estimate, or a width is not positive.
    """
    if not isinstance(measurements, Measurements):
        raise wrong_type(
            "measurements",
            "recollect.diagnosis.Measurements",
            type(measurements).__name__,
            "wrap arrays as Measurements(inputs, outputs, dt=…)",
        )
    if width is not None:
        require_count("width", width)
    require_count("max_width", max_width)
    started = time.perf_counter()
    data = measurements
    progress("estimating the memory kernel")
    kernel = estimate_kernel(data.inputs, data.outputs, dt=data.dt)
    if _seems_one_step_late(kernel):
        data = dataclasses.replace(data, notes=(*data.notes, _LATE))
    progress("weighing the laws of memory")
    laws = tuple(
        estimate_law(kernel, output=o, record=data.dt * len(data.inputs))
        for o in range(data.outputs.shape[1])
    )
    progress("fitting networks of every width")
    fits = _fit_outputs(kernel, width, max_width)
    stretch = data.unbroken()
    network = _fit_network(fits, width, stretch.inputs, stretch.outputs, kernel)
    simulated = np.asarray(network(stretch.inputs, dt=data.dt))
    training = score(stretch.outputs, simulated, record=stretch.outputs)
    progress("telling noise from nonlinearity")
    remainder = judge_remainder(data, network)
    if stretch.start > 0:  # its state is that of a later row: nothing is known of the first
        network = settle(network, network.input_offset)
    progress("simulating held-out data")
    test = _test(data, stretch, network, width, max_width)
    progress("weighing parameterisations")
    slowest = int(np.argmax([np.nan_to_num(law.t95.value) for law in laws]))
    of_slowest = _of_width(fits[slowest], width)
    stability = recommend_parameterisation(laws[slowest], of_slowest, dt=data.dt, unit=data.unit)
    progress("forecasting a random start")
    forecast = _forecast(of_slowest, data.dt)
    section = None
    if nonlinear:
        progress("fitting the nonlinear network")
        linear, baselines = (None, {}) if test is None else (test.score, test.baselines)
        section = fit_nonlinear(data, linear, baselines, progress=progress)
    warnings = _warnings(kernel, laws, fits, data, width)
    warnings = _sorted([*warnings, *_drifts(stretch.outputs, simulated, data.output_names)])
    return Diagnosis(
        measurements=data,
        kernel=kernel,
        laws=laws,
        widths=tuple(fits),
        network=network,
        training=training,
        test=test,
        remainder=remainder,
        stability=stability,
        forecast=forecast,
        nonlinear=section,
        status=warnings[0] if warnings else Status(),
        warnings=warnings,
        seconds=time.perf_counter() - started,
    )


def demonstrate(*, progress: Callable[[str], None] = lambda stage: None) -> tuple[Diagnosis, str]:
    """Returns the diagnosis of the embedded example, and its data as CSV text.

    The example is simulated: two cascaded tanks with overflow and noise (`targets.TwoTanks`).

    Args:
        progress: called with the name of each stage.
    """
    from recollect.targets import simulate_two_tanks

    progress("simulating two tanks")
    record = simulate_two_tanks()
    measurements = Measurements(
        record.estimation_input,
        record.estimation_output,
        dt=record.dt,
        unit="s",
        test_inputs=record.test_input,
        test_outputs=record.test_output,
        input_names=("pump",),
        output_names=("level",),
        source="two simulated tanks",
    )
    columns = np.column_stack(
        [record.estimation_input, record.estimation_output, record.test_input, record.test_output]
    )
    text = io.StringIO()
    np.savetxt(
        text,
        columns,
        fmt="%.6g",
        delimiter=",",
        comments="",
        header="pump,level,test_pump,test_level",
    )
    return diagnose(measurements, progress=progress), text.getvalue()


def _fit_outputs(
    kernel: KernelEstimate, width: int | None, max_width: int
) -> list[EstimatedWidths]:
    n_outputs = kernel.kernel.shape[1]
    least, most = (1, max_width) if width is None else (width, max(width, max_width))
    return [
        fit_estimate(kernel, output=o, min_width=least, max_width=most) for o in range(n_outputs)
    ]


def _of_width(fit: EstimatedWidths, width: int | None) -> LinearRNN:
    return fit.networks[(fit.recommended if width is None else min(width, len(fit.networks))) - 1]


def _forecast(network: LinearRNN, dt: float) -> TrainingForecast | None:
    if network.width > _WIDEST_FORECAST:
        return None
    return forecast_training(network, dt=dt, n_starts=8)


def _fit_network(fits, width, inputs, outputs, kernel: KernelEstimate) -> AffineRNN:
    chosen = [_of_width(fit, width) for fit in fits]
    side_by_side = LinearRNN(
        scipy.linalg.block_diag(*(n.A for n in chosen)),
        np.concatenate([n.B for n in chosen]),
        scipy.linalg.block_diag(*(n.C for n in chosen)),
    )
    return fit_operating_point(
        side_by_side, inputs, outputs, dt=kernel.dt, noise_std=kernel.noise.std
    )


def _test(
    data: Measurements, stretch: Stretch, network: AffineRNN, width: int | None, max_width: int
) -> HeldOut | None:
    if data.test_inputs is not None and data.test_outputs is not None:
        if data.is_test_settled(stretch):
            network = settle(network, data.test_inputs[0])
        simulated = np.asarray(network(data.test_inputs, dt=data.dt))
        test = (data.test_inputs, data.test_outputs)
        training = (stretch.inputs, stretch.outputs)
        return _score_beside_baselines("a separate record", network, training, test, simulated)
    split = stretch.split
    if split is None:
        return None
    training = (stretch.inputs[:split], stretch.outputs[:split])
    kernel = estimate_kernel(*training, dt=data.dt)
    head = _fit_network(_fit_outputs(kernel, width, max_width), width, *training, kernel)
    simulated = np.asarray(head(stretch.inputs, dt=data.dt))[split:]
    test = (stretch.inputs[split:], stretch.outputs[split:])
    return _score_beside_baselines(stretch.words, head, training, test, simulated)


def _score_beside_baselines(record, network, training, test, simulated) -> HeldOut:
    known, measured = training[1], test[1]
    mean = np.broadcast_to(np.nanmean(known, axis=0), measured.shape)
    baselines = {"mean": score(measured, mean, record=known)}
    order = max(1, round(network.network.width / measured.shape[1]))
    arx = _simulate_arx(training, test, order)
    baselines[f"ARX({order})"] = (
        Score(np.nan, np.nan, np.nan, Status("failed", "not fitted: the outputs have gaps"))
        if arx is None
        else score(measured, arx, record=known)
    )
    return HeldOut(score(measured, simulated, record=known), baselines, measured, simulated, record)


def _simulate_arx(training, test, order: int) -> np.ndarray | None:
    if not np.isfinite(test[1]).all():
        return None
    simulated = []
    for o in range(test[1].shape[1]):
        model = fit_arx(training[0], training[1][:, o], order)
        if model is None:
            return None
        with np.errstate(all="ignore"):
            simulated.append(model.simulate(test[0], test[1][:, o]))
    return np.stack(simulated, axis=1)


def _seems_one_step_late(kernel: KernelEstimate) -> bool:
    # Only a jump tells: a memory that rises slowly is small in its first step too.
    if len(kernel.edges) < 4 or not np.allclose(np.diff(kernel.edges[:4]), kernel.dt):
        return False
    first, second, third = np.abs(kernel.kernel[:3])
    silent, loud = first <= 2 * kernel.kernel_stderr[0], second >= 10 * kernel.kernel_stderr[1]
    return bool((silent & (loud & (second >= third))).any() and silent.all())


def _warnings(kernel, laws, fits, data, width) -> tuple[Status, ...]:
    found = [_by_name(status, data) for status in (kernel.status, *kernel.warnings)]
    for name, law in zip(data.output_names, laws, strict=True):
        for status in (law.verdict, law.status, *law.warnings):
            several = len(laws) > 1 and not status.is_ok
            found.append(Status(status.code, f"{name}: {status.message}") if several else status)
    found += [fit.status for fit in fits]
    if width is not None:
        for name, fit in zip(data.output_names, fits, strict=True):
            if len(fit.networks) < width:
                reached = f"{name}: {len(fit.networks)} of the {width} units asked for"
                found.append(Status("width_beyond_rank", reached))
    return tuple(dict.fromkeys(s for s in found if not s.is_ok))


def _by_name(status: Status, data: Measurements) -> Status:
    """Returns a status of the estimate, which counts channels, with their names."""
    message = status.message
    for word, names in (("input", data.input_names), ("output", data.output_names)):
        for channel, name in enumerate(names):
            message = re.sub(rf"\b{word} {channel}\b", lambda _, n=name: n, message)
    return Status(status.code, message)


def _sorted(found: list[Status]) -> tuple[Status, ...]:
    order = {code: rank for rank, code in enumerate(_GRAVEST_FIRST)}
    return tuple(sorted(found, key=lambda s: order.get(s.code, len(order))))


def _drifts(outputs: np.ndarray, simulated: np.ndarray, names: tuple[str, ...]) -> list[Status]:
    """Returns a warning for each output whose error is mostly a straight line in time."""
    found = []
    for name, measured, answer in zip(names, outputs.T, simulated.T, strict=True):
        seen = np.flatnonzero(np.isfinite(measured))
        error = measured[seen] - answer[seen]
        error, time = error - error.mean(), seen - seen.mean()
        trend = (time @ error) ** 2 / (time @ time)
        if trend > _MOSTLY * (error @ error) and trend > _WORTH * np.var(measured[seen]) * len(
            seen
        ):
            share = trend / (np.var(measured[seen]) * len(seen))
            found.append(
                Status(
                    "output_drifts",
                    f"{name} follows a straight line in time that the input does not explain "
                    f"({100 * min(share, 1.0):.2g} % of its variance)",
                )
            )
    return found
