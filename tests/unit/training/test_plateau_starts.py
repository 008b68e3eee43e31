"""Plateau starts against brute force over all labellings, and against the kernel they must give."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from recollect import targets, training


@pytest.mark.parametrize(
    ("width", "modes", "idle"), [(1, 1, 0), (3, 2, 0), (4, 2, 1), (5, 2, 2), (5, 3, 1)]
)
def test_families_are_counted_by_listing_them(width, modes, idle):
    listed = list(training.list_plateau_partitions(width, modes, n_idle=idle))
    assert len(listed) == training.count_plateau_families(width, modes, n_idle=idle)
    assert len(set(listed)) == len(listed)
    # Brute force: labelled surjections, idle labels being interchangeable.
    onto = sum(
        len(set(labels)) == modes + idle
        for labels in itertools.product(range(modes + idle), repeat=width)
    )
    assert onto == len(listed) * math.factorial(idle)


def test_counts_stay_exact_where_floats_do_not():
    # m*! S(m, m*) for m = 30, m* = 2 is the number of labellings onto two modes.
    assert training.count_plateau_families(30, 2) == 2**30 - 2
    assert training.count_plateau_families(60, 2) == 2**60 - 2
    assert training.count_plateau_families(2, 3) == 0


@pytest.mark.parametrize("idle", [0, 1, 2])
@pytest.mark.parametrize("positive", [False, True])
def test_every_start_gives_the_kernel(idle, positive):
    a, w = [2.0, -0.5], [1.0, 3.0]
    starts = training.draw_plateau_starts(
        a, w, width=6, n_starts=20, n_idle=idle, positive=positive, key=3
    )
    lags = np.linspace(0, 5, 40)
    wanted = np.exp(-np.multiply.outer(lags, w)) @ a
    for start in starts:
        given = np.exp(-np.multiply.outer(lags, start.rates)) @ start.amplitudes
        assert given == pytest.approx(wanted, abs=1e-13)
        assert len(set(start.labels)) == 2 + idle
        assert start.dimension == 4
        if positive:
            assert (start.amplitudes[start.labels == 0] > 0).all()
            assert (start.amplitudes[start.labels == 1] < 0).all()


def test_partitions_are_drawn_uniformly():
    drawn = training.draw_plateau_starts([1.0, 1.0], [1.0, 2.0], width=3, n_starts=3000, key=1)
    counts: dict[tuple[int, ...], int] = {}
    for start in drawn:
        label = tuple(int(v) for v in start.labels)
        counts[label] = counts.get(label, 0) + 1
    assert len(counts) == 6
    # Five standard deviations of a binomial count of 3000 with probability 1/6.
    assert max(abs(c - 500) for c in counts.values()) < 5 * math.sqrt(3000 * 5 / 36)


def test_the_gradient_on_a_start_is_that_of_the_rest_alone():
    rest = targets.Bump(delay=9.0)
    loss = training.exact_loss(targets.exponential_sum([1.0, 2.0], [1.0, 2.5]) + rest)
    (start,) = training.draw_plateau_starts([1.0, 2.0], [1.0, 2.5], width=4, n_starts=1, key=2)
    pull = rest.laplace(start.rates)[:, 0, 0].real
    slope = rest.laplace(start.rates, derivative=1)[:, 0, 0].real
    exact = -2 * np.concatenate([pull, start.amplitudes * slope])
    found = loss.gradient(start.amplitudes, start.rates)
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (dict(amplitudes=[1.0, 0.0], rates=[1.0, 2.0], width=3), "amplitudes"),
        (dict(amplitudes=[1.0, 1.0], rates=[1.0, 1.0], width=3), "rates"),
        (dict(amplitudes=[1.0, 1.0], rates=[1.0, -1.0], width=3), "rates"),
        (dict(amplitudes=[1.0, 1.0], rates=[1.0, 2.0], width=1), "width"),
    ],
)
def test_bad_input_is_named(arguments, names):
    with pytest.raises(ValueError, match=names):
        training.draw_plateau_starts(**arguments, n_starts=1)
