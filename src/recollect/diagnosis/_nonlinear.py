"""What the linear network leaves over, and the nonlinear network that takes it up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from recollect._core._status import Status
from recollect.diagnosis._baselines import Score, score
from recollect.diagnosis._measurements import Measurements
from recollect.models import AffineRNN, StateNetwork
from recollect.training import (
    Coherence,
    Remainder,
    TrainedSystem,
    estimate_coherence,
    estimate_remainder,
    train_system,
)

_FEWEST_TO_JUDGE = 64
# More rows cost seconds and gigabytes, to find what is below 1e-4 of the variance.
_MOST_TO_JUDGE = 100_000


@dataclasses.dataclass(frozen=True)
class RemainderSection:
    """Whether what the linear network leaves over is noise or nonlinearity.

    Attributes:
        remainders: one per output, None where the record is too short to judge.
        coherence: linear share of the power over frequency, None where the record has gaps.
        output_names: one per output.
        status: `undecided` where nothing could be judged.
    """

    remainders: tuple[Remainder | None, ...]
    coherence: Coherence | None
    output_names: tuple[str, ...]
    status: Status = Status()

    def summary(self) -> list[str]:
        """Returns one line per output."""
        lines = []
        for name, found in zip(self.output_names, self.remainders, strict=True):
            of = f" of {name}" if len(self.output_names) > 1 else ""
            if found is None:
                lines.append(f"remainder{of}: not judged ({self.status.message})")
                continue
            left = f"the network leaves {100 * found.share:.3g} % of the variance{of}"
            if found.verdict == "nonlinearity":
                lines.append(
                    f"remainder: {left}; at least {100 * found.nonlinear_share:.3g} % is "
                    f"nonlinearity (p = {found.p_value:.2g}): try --nonlinear"
                )
            else:
                lines.append(
                    f"remainder: {left}; noise, as far as quadratic and cubic memory sees "
                    f"(p = {found.p_value:.2g})"
                )
        return lines

    def record(self) -> dict[str, Any]:
        """Returns the section as a JSON object (non-finite numbers are left to the caller)."""
        return {
            "outputs": [
                None
                if found is None
                else {
                    "output": name,
                    "verdict": found.verdict,
                    "p_value": found.p_value,
                    "share": found.share,
                    "nonlinear_share": found.nonlinear_share,
                    "noise_share": found.noise_share,
                    "is_from_repeats": found.is_from_repeats,
                }
                for name, found in zip(self.output_names, self.remainders, strict=True)
            ],
            "coherence": None
            if self.coherence is None
            else {
                "frequencies": self.coherence.frequencies.tolist(),
                "coherence": self.coherence.coherence.T.tolist(),
                "threshold": self.coherence.threshold,
            },
            "status": self.status.record(),
        }


@dataclasses.dataclass(frozen=True)
class NonlinearSection:
    """The nonlinear network beside the linear one, by free simulation of the same held-out data.

    Attributes:
        model: the network, fitted to the whole record.
        system: how it was found.
        test: score on the held-out data; where they are the end of the record, of a network
            fitted to the rest. None where nothing was held out.
        linear: score of the linear network on the same data.
        baselines: scores of the mean and of ARX, by name.
        simulated: of the held-out record, shape (time, out).
        record_held_out: what was held out, in words.
        status: of the fit.
    """

    model: StateNetwork
    system: TrainedSystem
    test: Score | None
    linear: Score | None
    baselines: dict[str, Score]
    simulated: np.ndarray | None
    record_held_out: str
    status: Status

    def summary(self) -> list[str]:
        """Returns a few lines: what was chosen, and its error beside the others'."""
        chosen, units = self.system.structure, self.model.n_units
        lines = [f"nonlinear: {chosen} network, {self.model.width} states, {units} units"]
        if chosen == "linear":
            lines = ["nonlinear: no nonlinear network predicts held-out data better"]
        if self.test is not None and self.linear is not None:
            beside = ", ".join(f"{name} {s.rmse:.4g}" for name, s in self.baselines.items())
            lines.append(
                f"           free simulation of {self.record_held_out}: RMSE {self.test.rmse:.4g} "
                f"(linear {self.linear.rmse:.4g}, {beside})"
            )
        if not self.status.is_ok:
            lines.append(f"           {self.status}")
        return lines

    def record(self) -> dict[str, Any]:
        """Returns the section as a JSON object (non-finite numbers are left to the caller)."""
        return {
            "structure": self.system.structure,
            "width": self.model.width,
            "n_units": self.model.n_units,
            "validation_error": self.system.validation_error.tolist(),
            "linear_validation_error": self.system.linear_error.tolist(),
            "training_error": self.system.training_error.tolist(),
            "initial_state": self.system.initial_state.tolist(),
            "n_candidates": len(self.system.candidates),
            "test": None
            if self.test is None or self.linear is None
            else {
                "record": self.record_held_out,
                "rmse": self.test.rmse,
                "nrmse": self.test.nrmse,
                "explained_variance": self.test.explained_variance,
                "linear": self.linear.record(),
                "baselines": {name: s.record() for name, s in self.baselines.items()},
            },
            "status": self.status.record(),
            "warnings": [w.record() for w in self.system.warnings],
            "seconds": round(float(self.system.stats["seconds"]), 3),
        }


def judge_remainder(measurements: Measurements, network: AffineRNN) -> RemainderSection:
    """Returns whether what the linear network leaves over is noise or nonlinearity.

    The first 100 000 measured rows are judged, where there are more.

    Args:
        measurements: the data.
        network: the linear network of the diagnosis.
    """
    stretch = measurements.unbroken()
    observed = np.flatnonzero(np.isfinite(stretch.outputs).any(axis=1))
    stop = observed[_MOST_TO_JUDGE - 1] + 1 if len(observed) > _MOST_TO_JUDGE else None
    inputs, outputs = stretch.inputs[:stop], stretch.outputs[:stop]
    n_seen = np.isfinite(outputs).sum(axis=0)
    names = measurements.output_names
    if len(inputs) < _FEWEST_TO_JUDGE or n_seen.min() < _FEWEST_TO_JUDGE:
        why = Status(
            "undecided", f"fewer than {_FEWEST_TO_JUDGE} samples without a gap in the input"
        )
        return RemainderSection((None,) * len(names), None, names, why)
    remainders = tuple(
        estimate_remainder(inputs, outputs, network, dt=measurements.dt, output=o)
        for o in range(outputs.shape[1])
    )
    whole = np.isfinite(outputs).all()
    coherence = estimate_coherence(inputs, outputs, dt=measurements.dt) if whole else None
    return RemainderSection(remainders, coherence, names)


def fit_nonlinear(
    measurements: Measurements,
    linear: Score | None,
    baselines: dict[str, Score],
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
    **options: Any,
) -> NonlinearSection:
    """Returns the nonlinear network and its free simulation of the held-out data.

    Args:
        measurements: the data.
        linear: held-out score of the linear network, from the diagnosis.
        baselines: held-out scores of the baselines, from the diagnosis.
        seed: of the random starts.
        progress: called with the name of each stage.
        options: passed on to `training.train_system`.
    """
    data = measurements
    stretch = data.unbroken()
    inputs, outputs, split = stretch.inputs, stretch.outputs, stretch.split
    key = jax.random.key(seed)
    system = train_system(inputs, outputs, dt=data.dt, key=key, progress=progress, **options)
    test, simulated, held_out, status = None, None, "", system.status
    if data.test_inputs is not None and data.test_outputs is not None:
        held_out = "a separate record"
        model = system.model
        if data.is_test_settled(stretch):
            model = _at_rest(model, data)
        simulated = np.asarray(model(data.test_inputs, dt=data.dt))
        test = score(data.test_outputs, simulated, record=outputs)
    elif split is not None:
        progress("fitting the nonlinear network to all but the held-out end")
        held_out = stretch.words
        try:
            head = train_system(
                inputs[:split], outputs[:split], dt=data.dt, key=key, progress=progress, **options
            )
        except ValueError as error:
            status = Status("record_too_short", f"no network for the held-out end: {error}")
        else:
            simulated = np.asarray(head.model(inputs, dt=data.dt))[split:]
            test = score(outputs[split:], simulated, record=outputs)
    return NonlinearSection(
        model=system.model,
        system=system,
        test=test,
        linear=linear,
        baselines=dict(baselines),
        simulated=simulated,
        record_held_out=held_out,
        status=status,
    )


def _at_rest(model: StateNetwork, data: Measurements) -> StateNetwork:
    # Settle under the first input of the test record: what "at rest" means for a measured system.
    assert data.test_inputs is not None
    step = max(
        np.abs(np.linalg.eigvals(-np.linalg.inv(np.asarray(model.network.A)))).max(), data.dt
    )
    n_steps = int(min(np.ceil(20 * step / data.dt), 100_000))
    held = np.broadcast_to(data.test_inputs[0], (n_steps, model.n_inputs))
    settled = np.asarray(model.states(np.array(held), dt=data.dt))[-1]
    return StateNetwork(
        model.network,
        model.state_units,
        input_units=model.input_units,
        output_units=model.output_units,
        input_offset=model.input_offset,
        output_offset=model.output_offset,
        start=settled,
        lower=model.lower,
        upper=model.upper,
        activation=model.activation,
    )
