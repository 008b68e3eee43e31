from __future__ import annotations

import math

import numpy as np
import pytest

from recollect.study import choice, integers, log_uniform, points, product, sampled, uniform, zipped


def test_product_varies_the_last_parameter_fastest():
    grid = product(width=[1, 2], rate=[0.1, 0.2, 0.3])
    assert len(grid) == 6
    assert list(grid)[:4] == [
        {"width": 1, "rate": 0.1},
        {"width": 1, "rate": 0.2},
        {"width": 1, "rate": 0.3},
        {"width": 2, "rate": 0.1},
    ]
    assert list(grid.axes) == ["width", "rate"]


def test_zip_list_and_their_combinations():
    pairs = zipped(a=[1, 2], b=["x", "y"])
    assert list(pairs) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    both = pairs * product(c=[True, None]) + points([{"a": 3, "b": "z", "c": False}])
    assert len(both) == 5
    assert list(both)[1] == {"a": 1, "b": "x", "c": None}
    assert list(both)[-1] == {"a": 3, "b": "z", "c": False}
    assert both.axes is None


def test_product_of_products_keeps_its_axes():
    grid = product(a=[1, 2]) * product(b=[3])
    assert grid.axes == {"a": (1, 2), "b": (3,)}
    assert list(grid) == list(product(a=[1, 2], b=[3]))


def test_random_points_do_not_depend_on_how_many_there_are():
    axes = {
        "rate": log_uniform(1e-6, 1e2),
        "width": integers(1, 8),
        "kind": choice(["a", "b"]),
        "x": uniform(-1, 1),
    }
    few, many = list(sampled(5, seed=3, **axes)), list(sampled(200, seed=3, **axes))
    assert many[:5] == few
    assert few != list(sampled(5, seed=4, **axes))
    rates = np.log([p["rate"] for p in many])
    # Spread evenly in the logarithm: mean and deviation of a uniform law, within 4 standard errors.
    low, high = math.log(1e-6), math.log(1e2)
    assert abs(rates.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * 200)
    assert {p["width"] for p in many} == set(range(1, 9))
    assert {p["kind"] for p in many} == {"a", "b"}


def test_values_become_plain_and_lists_become_tuples():
    grid = product(n=[np.int32(3)], x=[np.float32(0.5)], layers=[[4, 4], [8]], on=[np.bool_(True)])
    point = grid.point(0)
    assert point == {"n": 3, "x": 0.5, "layers": (4, 4), "on": True}
    assert [type(v) for v in point.values()] == [int, float, tuple, bool]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: product(rate=[0.1, math.nan]), r"rate\[1\]: expected a finite number, got nan"),
        (lambda: product(rate=[math.inf]), r"rate\[0\]: expected a finite number, got inf"),
        (lambda: product(rate=[1, 2, 1]), r"rate\[2\]: expected values that differ, got 1 again"),
        (lambda: product(f=[{}]), r"f\[0\]: expected a number, text.*got dict"),
        (lambda: product(f=[np.zeros(3)]), r"f\[0\]: expected a number, text.*got ndarray"),
        (lambda: product(f=[[1, {2}]]), r"f\[0\]\[1\]: expected a number, text.*got set"),
        (lambda: product(width=4), r"width: expected a sequence of values, got 4; use width=\[4\]"),
        (lambda: product(kind="ab"), r"kind: expected a sequence"),
        (lambda: zipped(a=[1], b=[1, 2]), r"one length, got {'a': 1, 'b': 2}"),
        (lambda: points([{"a": 1}, 3]), r"points\[1\]: expected a mapping"),
        (lambda: points([{"a": math.nan}]), r"points\[0\]\['a'\]: expected a finite number"),
        (lambda: product(a=[1]) * product(a=[2]), r"'a' in both"),
        (lambda: sampled(3, rate=0.5), r"rate: expected a distribution"),
        (lambda: log_uniform(0, 1), r"0 < low < high"),
    ],
)
def test_the_offending_entry_is_named(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


@pytest.mark.parametrize(
    "make",
    [
        lambda: uniform(1, 0),
        lambda: uniform(0, np.inf),
        lambda: integers(2, 1),
        lambda: integers(0.5, 2),
        lambda: choice([]),
        lambda: log_uniform(0, 1),
    ],
)
def test_a_distribution_of_nothing_is_refused_when_it_is_made(make):
    with pytest.raises(ValueError, match="expected"):
        make()
