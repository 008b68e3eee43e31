"""The main job: data in, verdict and model out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recollect.diagnosis._baselines import Score
    from recollect.diagnosis._layers import (
        LayerReport,
        ModelReport,
        Spectrum,
        measure_model,
        measure_spectrum,
    )
    from recollect.diagnosis._measurements import Measurements, read_measurements
    from recollect.diagnosis._nonlinear import NonlinearSection, RemainderSection
    from recollect.diagnosis._pipeline import demonstrate, diagnose
    from recollect.diagnosis._result import Diagnosis, HeldOut
    from recollect.diagnosis._stability import (
        ParameterisationAdvice,
        ParameterisationMargin,
        recommend_parameterisation,
    )
    from recollect.diagnosis._training import (
        CurveVerdict,
        TrainingForecast,
        forecast_training,
        judge_loss_curve,
    )

# On first use, so that the command line refuses bad input before it imports jax.
_HOME = {
    "CurveVerdict": "_training",
    "Diagnosis": "_result",
    "HeldOut": "_result",
    "LayerReport": "_layers",
    "Measurements": "_measurements",
    "ModelReport": "_layers",
    "NonlinearSection": "_nonlinear",
    "ParameterisationAdvice": "_stability",
    "ParameterisationMargin": "_stability",
    "RemainderSection": "_nonlinear",
    "Score": "_baselines",
    "Spectrum": "_layers",
    "TrainingForecast": "_training",
    "demonstrate": "_pipeline",
    "diagnose": "_pipeline",
    "forecast_training": "_training",
    "judge_loss_curve": "_training",
    "measure_model": "_layers",
    "measure_spectrum": "_layers",
    "read_measurements": "_measurements",
    "recommend_parameterisation": "_stability",
}

__all__ = [
    "CurveVerdict",
    "Diagnosis",
    "HeldOut",
    "LayerReport",
    "Measurements",
    "ModelReport",
    "NonlinearSection",
    "ParameterisationAdvice",
    "ParameterisationMargin",
    "RemainderSection",
    "Score",
    "Spectrum",
    "TrainingForecast",
    "demonstrate",
    "diagnose",
    "forecast_training",
    "judge_loss_curve",
    "measure_model",
    "measure_spectrum",
    "read_measurements",
    "recommend_parameterisation",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"recollect.diagnosis.{_HOME[name]}"), name)
    raise AttributeError(f"module 'recollect.diagnosis' has no attribute {name!r}")
