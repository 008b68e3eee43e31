"""The main job: one walk through the rooms, data in, verdict and model out."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg

from recollect._core._check import wrong_type
from recollect._core._status import Status
from recollect.approximation import EstimatedWidths, fit_estimate
from recollect.diagnosis._baselines import Score, fit_arx, score
from recollect.diagnosis._measurements import Measurements
from recollect.diagnosis._network import fit_operating_point
from recollect.diagnosis._nonlinear import fit_nonlinear, judge_remainder
from recollect.diagnosis._result import Diagnosis, HeldOut
from recollect.diagnosis._stability import recommend_parameterisation
from recollect.diagnosis._training import TrainingForecast, forecast_training
from recollect.memory import KernelEstimate, estimate_kernel, estimate_law
from recollect.models import AffineRNN, LinearRNN

# A wider network has a landscape of its own for every width below: minutes, not seconds.
_WIDEST_FORECAST = 6

_GRAVEST_FIRST = (
    "not_finite",
    "diverged",
    "input_not_exciting",
    "feedback_suspected",
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
        max_width: largest width considered per output.
        nonlinear: also fit a nonlinear state network, judged on the same held-out data.
        progress: called with the name of each stage.

    Returns:
        The diagnosis. Outputs are one functional each: their networks stand side by side.

    Raises:
        TypeError: if `measurements` is not a `Measurements`.
        ValueError: if the data cannot support any estimate.
    """
    if not isinstance(measurements, Measurements):
        raise wrong_type(
            "measurements",
            "recollect.diagnosis.Measurements",
            type(measurements).__name__,
            "wrap arrays as Measurements(inputs, outputs, dt=…)",
        )
    started = time.perf_counter()
    data = measurements
    progress("estimating the memory kernel")
    kernel = estimate_kernel(data.inputs, data.outputs, dt=data.dt)
    progress("weighing the laws of memory")
    laws = tuple(
        estimate_law(kernel, output=o, record=data.dt * len(data.inputs))
        for o in range(data.outputs.shape[1])
    )
    progress("fitting networks of every width")
    fits = _fit_outputs(kernel, width, max_width)
    network = _network(fits, width, data.inputs, data.outputs, kernel)
    training = score(data.outputs, np.asarray(network(_filled(data.inputs), dt=data.dt)))
    progress("simulating held-out data")
    test = _held_out(data, network, width, max_width)
    progress("telling noise from nonlinearity")
    remainder = judge_remainder(data, network)
    progress("weighing parameterisations")
    slowest = int(np.argmax([np.nan_to_num(law.t95.value) for law in laws]))
    stability = recommend_parameterisation(
        laws[slowest], _chosen(fits[slowest], width), dt=data.dt, unit=data.unit
    )
    progress("forecasting a random start")
    forecast = _forecast(fits[slowest], width, data.dt)
    section = None
    if nonlinear:
        progress("fitting the nonlinear network")
        linear, baselines = (None, {}) if test is None else (test.score, test.baselines)
        section = fit_nonlinear(data, linear, baselines, progress=progress)
    warnings = _warnings(kernel, laws, fits, data)
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
    widest = max_width if width is None else max(width, 1)
    n_outputs = kernel.kernel.shape[1]
    return [fit_estimate(kernel, output=o, max_width=widest) for o in range(n_outputs)]


def _forecast(fit: EstimatedWidths, width: int | None, dt: float) -> TrainingForecast | None:
    network = _chosen(fit, width)
    if network.width > _WIDEST_FORECAST:
        return None
    return forecast_training(network, dt=dt, n_starts=8)


def _chosen(fit: EstimatedWidths, width: int | None) -> LinearRNN:
    return fit.networks[(fit.recommended if width is None else min(width, len(fit.networks))) - 1]


def _network(fits, width, inputs, outputs, kernel: KernelEstimate) -> AffineRNN:
    chosen = [_chosen(fit, width) for fit in fits]
    side_by_side = LinearRNN(
        scipy.linalg.block_diag(*(n.A for n in chosen)),
        np.concatenate([n.B for n in chosen]),
        scipy.linalg.block_diag(*(n.C for n in chosen)),
    )
    start, stop = _longest_run(inputs)
    return fit_operating_point(
        side_by_side,
        inputs[start:stop],
        outputs[start:stop],
        dt=kernel.dt,
        noise_std=kernel.noise.std,
    )


def _held_out(data: Measurements, network: AffineRNN, width, max_width) -> HeldOut | None:
    if data.test_inputs is not None:
        simulated = _simulate(network, data.test_inputs, data)
        return _judge(
            "a separate record",
            network,
            (data.inputs, data.outputs),
            (data.test_inputs, data.test_outputs),
            simulated,
        )
    start, stop = _longest_run(data.inputs)
    inputs, outputs = data.inputs[start:stop], data.outputs[start:stop]
    observed = np.flatnonzero(np.isfinite(outputs).all(axis=1))
    n_test = round(data.test_fraction * len(observed))
    if n_test < 2 or len(observed) - n_test < 16:
        return None
    split = observed[-n_test]
    kernel = estimate_kernel(inputs[:split], outputs[:split], dt=data.dt)
    fits = _fit_outputs(kernel, width, max_width)
    head = _network(fits, width, inputs[:split], outputs[:split], kernel)
    simulated = np.asarray(head(inputs, dt=data.dt))[split:]
    share = f"the last {100 * data.test_fraction:.0f} % of the samples, fitted on the rest"
    return _judge(
        share,
        head,
        (inputs[:split], outputs[:split]),
        (inputs[split:], outputs[split:]),
        simulated,
    )


def _simulate(network: AffineRNN, inputs: np.ndarray, data: Measurements) -> np.ndarray:
    if data.test_start == "rest":
        network = AffineRNN(network.network, network.input_offset, network.output_offset)
    return np.asarray(network(inputs, dt=data.dt))


def _judge(record, network, training, test, simulated) -> HeldOut:
    measured = test[1]
    mean = np.nanmean(training[1], axis=0)
    baselines = {"mean": score(measured, np.broadcast_to(mean, measured.shape))}
    order = max(1, round(network.network.width / measured.shape[1]))
    arx = _simulate_arx(training, test, order)
    baselines[f"ARX({order})"] = (
        Score(np.nan, np.nan, np.nan, Status("failed", "not fitted: the outputs have gaps"))
        if arx is None
        else score(measured, arx)
    )
    return HeldOut(score(measured, simulated), baselines, measured, simulated, record)


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


def _warnings(kernel, laws, fits, data) -> tuple[Status, ...]:
    found = [kernel.status, *kernel.warnings]
    for name, law in zip(data.output_names, laws, strict=True):
        for status in (law.verdict, law.status, *law.warnings):
            several = len(laws) > 1 and not status.is_ok
            found.append(Status(status.code, f"{name}: {status.message}") if several else status)
    found += [fit.status for fit in fits]
    distinct = list(dict.fromkeys(s for s in found if not s.is_ok))
    order = {code: rank for rank, code in enumerate(_GRAVEST_FIRST)}
    return tuple(sorted(distinct, key=lambda s: order.get(s.code, len(order))))


def _longest_run(inputs: np.ndarray) -> tuple[int, int]:
    # One simulation needs an unbroken input: the longest stretch between gaps.
    whole = np.isfinite(inputs).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], whole, [False]]).astype(int)))
    starts, stops = edges[::2], edges[1::2]
    best = int(np.argmax(stops - starts))
    return int(starts[best]), int(stops[best])


def _filled(inputs: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(inputs), inputs, np.nanmean(inputs, axis=0))
