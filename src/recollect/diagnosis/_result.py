"""What a diagnosis holds, and its record as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from recollect._core._json import finite_or_null
from recollect._core._status import Status
from recollect.approximation import EstimatedWidths
from recollect.diagnosis._baselines import Score
from recollect.diagnosis._measurements import Measurements
from recollect.diagnosis._nonlinear import NonlinearSection, RemainderSection
from recollect.diagnosis._stability import ParameterisationAdvice
from recollect.diagnosis._training import TrainingForecast
from recollect.memory import KernelEstimate, MemoryLaw
from recollect.models import AffineRNN

SCHEMA = "recollect.diagnosis"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Free simulation of data the network was not fitted to.

    Attributes:
        score: of the network.
        baselines: scores of the mean and of the best ARX of equal size, by name.
        measured: shape (time, out).
        simulated: shape (time, out).
        record: what was held out, in words.
    """

    score: Score
    baselines: dict[str, Score]
    measured: np.ndarray
    simulated: np.ndarray
    record: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Everything the main job found out about a system.

    Attributes:
        measurements: the data.
        kernel: estimated memory kernel with its uncertainty.
        laws: law of the memory with t50, t90, t95 and intervals, one per output.
        widths: networks and errors against width, one family per output.
        network: the linear network, with offset and the state at the start of the record; at rest
            where a gap in the inputs hides that.
        training: score of the network on the longest stretch of the record without a gap in the
            inputs, where its offset and initial state were fitted.
        test: held-out score, None where nothing was held out.
        remainder: whether what is left over is noise or nonlinearity.
        stability: which parameterisation the memory asks for, and how far its weights may move; of
            the output that remembers longest.
        forecast: how long a randomly started network of this width would stall; None for widths
            above six per output.
        nonlinear: the nonlinear network and its score, None unless asked for.
        status: the worst of what there is to say.
        warnings: everything there is to say.
        seconds: time taken.
    """

    measurements: Measurements
    kernel: KernelEstimate
    laws: tuple[MemoryLaw, ...]
    widths: tuple[EstimatedWidths, ...]
    network: AffineRNN
    training: Score
    test: HeldOut | None
    remainder: RemainderSection
    stability: ParameterisationAdvice
    forecast: TrainingForecast | None
    nonlinear: NonlinearSection | None
    status: Status
    warnings: tuple[Status, ...]
    seconds: float

    @property
    def width(self) -> int:
        """Width of the network built."""
        return self.network.network.width

    @property
    def recommended_width(self) -> int:
        """Width the data pay for: that of the network, unless another was asked for."""
        return sum(curve.recommended for curve in self.widths)

    @property
    def rates(self) -> np.ndarray:
        """Decay rates of the network, in 1/unit, complex where it oscillates."""
        return -np.linalg.eigvals(np.asarray(self.network.network.A))

    @property
    def slowest_law(self) -> int:
        """Index of the output that remembers longest."""
        return int(np.argmax([np.nan_to_num(law.t95.value) for law in self.laws]))

    def record(self) -> dict[str, Any]:
        """Returns the diagnosis as a JSON object (non-finite numbers are null)."""
        data, laws = self.measurements, self.laws
        slowest = float(self.rates.real.min())
        record = {
            "schema": SCHEMA,
            "version": VERSION,
            "unit": data.unit,
            "data": {
                "source": data.source,
                "dt": data.dt,
                "n_samples": len(data.inputs),
                "n_observed": data.n_observed,
                "inputs": list(data.input_names),
                "outputs": list(data.output_names),
                "origin": data.origin,
                "notes": list(data.notes),
            },
            "memory": _law_record(laws[self.slowest_law])
            | {"output": data.output_names[self.slowest_law]}
            | {
                "outputs": [
                    {"output": name} | _law_record(law)
                    for name, law in zip(data.output_names, laws, strict=True)
                ]
            },
            "linear": {
                "explained_variance": float(np.mean(self.kernel.explained_variance)),
                "outputs": self.kernel.explained_variance,
            },
            "width": _curve_record(self.widths[self.slowest_law])
            | {
                "recommended": self.recommended_width,
                "outputs": [
                    {"output": name} | _curve_record(curve)
                    for name, curve in zip(data.output_names, self.widths, strict=True)
                ],
            },
            "model": {
                "file": "model.safetensors",
                "width": self.width,
                "slowest_rate": slowest,
                "timescale": 1 / slowest if slowest > 0 else math.inf,
                "margin": slowest,
                "input_offset": self.network.input_offset.tolist(),
                "output_offset": self.network.output_offset.tolist(),
                "initial_state": self.network.start.tolist(),
                "training": self.training.record(),
            },
            "test": None
            if self.test is None
            else {
                "record": self.test.record,
                "rmse": self.test.score.rmse,
                "nrmse": self.test.score.nrmse,
                "explained_variance": self.test.score.explained_variance,
                "baselines": {name: s.record() for name, s in self.test.baselines.items()},
            },
            "remainder": self.remainder.record(),
            "stability": self.stability.record() | {"output": data.output_names[self.slowest_law]},
            "training": None if self.forecast is None else self.forecast.record(),
            "nonlinear": None
            if self.nonlinear is None
            else {"file": "nonlinear.safetensors"} | self.nonlinear.record(),
            "status": self.status.record(),
            "warnings": [w.record() for w in self.warnings],
            "seconds": round(self.seconds, 3),
        }
        return finite_or_null(record)


def _curve_record(curve: EstimatedWidths) -> dict[str, Any]:
    points = zip(curve.widths, curve.errors, curve.bounds, strict=True)
    return {
        "recommended": curve.recommended,
        "reason": curve.reason,
        "norm": "l1",
        "noise": curve.noise,
        "curve": [{"width": int(m), "error": float(e), "bound": float(b)} for m, e, b in points],
    }


def _law_record(law: MemoryLaw) -> dict[str, Any]:
    lags = {"t50": law.t50, "t90": law.t90, "t95": law.t95}
    return {
        "law": law.law,
        **{name: lag.value for name, lag in lags.items()},
        "intervals": {name: [lag.lower, lag.upper] for name, lag in lags.items()},
        "interval_level": law.t95.level,
        "verdict": law.verdict.record(),
        "family": law.family,
        "parameters": {name: number.value for name, number in law.parameters.items()},
        "probabilities": dict(law.probabilities),
        "status": law.status.record(),
    }
