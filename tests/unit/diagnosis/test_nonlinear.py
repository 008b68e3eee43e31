"""What the linear network leaves over, in words and numbers; the nonlinear network beside it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from recollect import models
from recollect._core._json import finite_or_null
from recollect.diagnosis._baselines import score
from recollect.diagnosis._measurements import Measurements
from recollect.diagnosis._nonlinear import fit_nonlinear, judge_remainder

QUICK: dict[str, Any] = {
    "structures": ("static",),
    "n_restarts": 1,
    "n_folds": 2,
    "n_steps": 20,
    "penalty": (1e-4,),
    "max_width": 1,
}


def record(n_time, *, is_bent, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_time, 1))
    network = models.LinearRNN([[-0.2]], [[0.5]], [[1.0]])
    y = np.asarray(network(x, dt=1.0))
    y = (np.tanh(1.5 * y / y.std()) if is_bent else y) + 0.02 * rng.standard_normal(y.shape)
    gain = float(np.sum(y * network(x, dt=1.0)) / np.sum(np.asarray(network(x, dt=1.0)) ** 2))
    linear = models.AffineRNN(models.LinearRNN([[-0.2]], [[0.5]], [[gain]]), [0.0], [0.0])
    return Measurements(x, y, dt=1.0), linear


@pytest.mark.parametrize(("is_bent", "word"), [(True, "nonlinearity"), (False, "noise")])
def test_the_remainder_is_named(is_bent, word):
    data, linear = record(300, is_bent=is_bent)
    section = judge_remainder(data, linear)
    assert section.status.is_ok
    (line,) = section.summary()
    assert word in line
    written = json.loads(json.dumps(finite_or_null(section.record()), allow_nan=False))
    assert written["outputs"][0]["verdict"] == word


def test_a_short_record_is_not_judged():
    data, linear = record(40, is_bent=False)
    section = judge_remainder(data, linear)
    assert section.status.code == "undecided"
    assert "not judged" in section.summary()[0]
    assert section.record()["outputs"] == [None]


def test_gaps_cost_the_coherence_only():
    data, linear = record(300, is_bent=True)
    outputs = data.outputs.copy()
    outputs[100:103] = np.nan
    section = judge_remainder(Measurements(data.inputs, outputs, dt=1.0), linear)
    assert section.coherence is None
    assert section.remainders[0] is not None


def test_the_network_is_reported_beside_the_linear_one():
    first, linear = record(320, is_bent=True)
    second, _ = record(160, is_bent=True, seed=1)
    data = Measurements(
        first.inputs,
        first.outputs,
        dt=1.0,
        test_inputs=second.inputs,
        test_outputs=second.outputs,
    )
    simulated = np.asarray(linear(second.inputs, dt=1.0))
    judged = score(second.outputs, simulated, record=first.outputs)
    section = fit_nonlinear(data, judged, {"mean": judged}, **QUICK)
    assert section.test is not None
    assert section.test.rmse < 0.5 * judged.rmse
    lines = section.summary()
    assert "static network" in lines[0]
    assert "a separate record" in lines[1]
    written = json.loads(json.dumps(finite_or_null(section.record()), allow_nan=False))
    assert written["test"]["rmse"] == pytest.approx(section.test.rmse)
    assert written["structure"] == "static"
