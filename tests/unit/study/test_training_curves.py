"""Medians over the starts of a trial, some of which diverged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray

from recollect import Status
from recollect.study.catalogue._training_curves import steps_to_learn, summarise, typical_plateau
from recollect.training import TrainingEnsemble

N_STEPS = 300


def ensemble(*learned_at):
    """Returns curves that fall from 1 to 1e-3 at a step each; None diverges at step 200."""
    losses = np.ones((len(learned_at), N_STEPS))
    for curve, step in zip(losses, learned_at, strict=True):
        if step is None:
            curve[200:] = np.nan
        else:
            curve[step:] = 1e-3
    none = np.zeros((0,))
    n_bad = learned_at.count(None)
    status = Status("diverged", f"{n_bad} of {len(learned_at)} curves") if n_bad else Status()
    return TrainingEnsemble(losses, 1.0, none, none, none, status, {})


def as_trial(found):
    """Returns a trial as its results are read from a ledger."""
    arrays = {"loss": ("start", "record"), "step": ("record",), "plateau": ("start",)}
    return xarray.Dataset(
        {
            name: (arrays.get(name, ()), value)
            for name, value in found.items()
            if not isinstance(value, Status)
        }
    )


def test_a_start_that_diverged_is_in_no_median():
    found = summarise(ensemble(40, 50, 60, None), floor=0.1)
    assert (found["reached"], found["typical"], found["last"]) == (50, 49, 1e-3)
    assert (found["share_over"], found["share_diverged"]) == (1.0, 0.25)
    assert found["status"].code == "diverged"
    trial = as_trial(found)
    assert steps_to_learn(trial, floor=0.1) == 50
    assert typical_plateau(trial) == 49


@pytest.mark.parametrize("learned_at", [(40, None), (None, None)])
def test_too_few_starts_left_are_no_result(learned_at):
    found = summarise(ensemble(*learned_at), floor=0.1)
    assert found["status"].code == "not_finite"
    assert "of 2 curves diverged" in found["status"].message
    trial = as_trial(found)
    assert math.isnan(steps_to_learn(trial, floor=0.1))
    assert math.isnan(typical_plateau(trial))


def test_an_earlier_ledger_is_read_without_what_diverged():
    found = summarise(ensemble(40, 50, 60, None), floor=0.1)
    # As it counted: the median of 40, 50, 60 and the 300 of the curve that diverged.
    trial = as_trial(found | {"reached": 55.0, "typical": 54.0}).drop_vars("share_diverged")
    assert typical_plateau(trial) == 49
    assert steps_to_learn(trial, floor=0.1) == pytest.approx(50, rel=0.03)


def test_whole_trials_keep_the_exact_median():
    trial = as_trial(summarise(ensemble(40, 53, 60), floor=0.1))
    assert steps_to_learn(trial, floor=0.1) == 53
    assert steps_to_learn(trial.drop_vars("share_diverged"), floor=0.1) == 53
