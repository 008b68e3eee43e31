"""Regression on running sums, against rows written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recollect.memory import _sums
from recollect.memory._rows import lag_bin_rows

N_TIME, N_LAGS = 400, 20
TIMESCALES = np.array([5.0, 30.0])
EDGES = np.array([0, 1, 3, 8, N_LAGS])
_rng = np.random.default_rng(0)
INPUTS, OUTPUT = _rng.standard_normal((N_TIME, 2)), _rng.standard_normal(N_TIME)


def summed(breaks, absent, n_skipped=0):
    output = OUTPUT.copy()
    output[absent] = np.nan
    sums = _sums.RunningSums(N_LAGS, TIMESCALES, 2)
    for first, last in itertools.pairwise([0, *breaks, N_TIME]):
        sums.add(INPUTS[first:last], output[first:last])
    sums.n_skipped = n_skipped
    return sums


def written_out(absent):
    times = np.arange(1.0, N_TIME + 1)
    output = OUTPUT.copy()
    output[absent] = 0.0
    bins = lag_bin_rows(INPUTS, times, EDGES, np.zeros(2))
    columns = (output[:, None], np.ones((N_TIME, 1)), np.exp(-times[:, None] / TIMESCALES))
    return np.concatenate([bins, *columns], axis=1)


# Blocks end at the breaks; the last output of one or the first of the next may be missing.
CASES = [
    ([], [], 0),
    ([200], [100, 101, 300], 0),
    ([100, 200, 300], [200], 0),
    ([100, 200, 300], [199], 0),
    ([100, 200, 300], [199, 200], 5),
    ([3, 5, 50], [55], 0),
    ([3, 5, 50], [], 10),
    ([200], [N_TIME - 1], 0),
    ([200], list(range(200, 260)), 0),
]


@pytest.mark.parametrize(("breaks", "absent", "n_skipped"), CASES)
def test_sums_over_pairs_are_exact_wherever_outputs_are_missing(
    breaks, absent, n_skipped, monkeypatch
):
    monkeypatch.setattr(_sums, "_N_SAMPLED", 0)
    rows = written_out(absent)
    used = np.ones(N_TIME, dtype=bool)
    used[absent] = False
    used[:n_skipped] = False
    late = np.flatnonzero(used[1:] & used[:-1]) + 1
    starts = np.flatnonzero(used & ~np.concatenate([[False], used[:-1]]))
    expected = (
        rows[late].T @ rows[late],
        rows[late - 1].T @ rows[late - 1],
        rows[late].T @ rows[late - 1],
        rows[starts].T @ rows[starts],
    )
    sums = summed(breaks, absent, n_skipped)
    for found, wanted in zip(sums.products(EDGES), expected, strict=False):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)
    missing = np.array(absent, dtype=int)
    direction = _rng.standard_normal(rows.shape[1])
    np.testing.assert_allclose(sums.rows(missing, EDGES), rows[missing], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        sums.combine(missing, EDGES, direction), rows[missing] @ direction, rtol=0, atol=1e-12
    )


def test_a_gap_keeps_the_inputs_of_the_longest_lag_and_no_more(monkeypatch):
    monkeypatch.setattr(_sums, "_N_SAMPLED", 0)
    sums = summed([200], [60, 130, 320])
    n_held = sum(len(window.inputs) for window in sums.windows)
    assert n_held <= 4 * (N_LAGS + 5)
