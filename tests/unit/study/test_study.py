from __future__ import annotations

import pytest

from recollect.study import Claim, Study, load_study, points, product


def error(width, rate=1.0, *, seed):
    return width * rate + seed


def plain(width):
    return width


def test_trials_are_named_by_what_they_are():
    study = Study("s", error, product(width=[1, 2]), seeds=2)
    trials = list(study.trials())
    assert [(t.parameters["width"], t.seed) for t in trials] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert trials[0].parameters == {"width": 1, "rate": 1.0}
    assert len({t.id for t in trials}) == 4
    # Neither the study's name, the grid's form nor the place matters; the default is filled in.
    other = Study("other", error, points([{"rate": 1.0, "width": 2}]), seeds=[1])
    assert other.trial(0).id == trials[3].id
    assert Study("s", error, product(width=[2]), seeds=[1], revision=2).trial(0).id != trials[3].id


def test_ids_are_stable():
    # A ledger of today must be continued by every later version.
    study = Study("s", error, product(width=[2]), seeds=[1])
    assert study.trial(0).id == "02fb04d4795fe1b52c16b58445d72bfd"


def test_whole_numbers_and_floats_are_different_parameters():
    study = Study("s", plain, points([{"width": 1}, {"width": 1.0}]))
    assert study.trial(0).id != study.trial(1).id


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Study("s", error, product(widht=[1])),
            r"grid: expected parameters of error .*'widht'; did you mean 'width'",
        ),
        (
            lambda: Study("s", error, product(rate=[1.0])),
            r"a value for 'width' at every point, got none at point 0",
        ),
        (
            lambda: Study("s", error, points([{"width": 1}, {"rate": 2.0}])),
            r"a value for 'width' at every point, got none at point 1",
        ),
        (
            lambda: Study("s", error, product(width=[1], seed=[1])),
            r"no parameter called key or seed",
        ),
        (lambda: Study("s", plain, product(width=[1]), seeds=3), r"takes neither key nor seed"),
        (lambda: Study("s", error, product(width=[1]), seeds=[1, 1]), r"seeds that differ"),
        (lambda: Study("s", error, product(width=[1]), seeds=[-1]), r"seeds\[0\]"),
        (lambda: Study("s", error, product(width=[1]), seeds=0), r"seeds: expected a whole number"),
        (lambda: Study("s", error, product(width=[1]), revision=0), r"revision"),
        (lambda: Study("s/t", error, product(width=[1])), r"name: expected letters"),
        (lambda: Study("s", 3, product(width=[1])), r"function: expected a function"),
        (lambda: Study("s", error, [{"width": 1}]), r"grid: expected a grid"),
        (
            lambda: Study("s", error, product(width=[1]), claims=["x"]),
            r"claims\[0\]: expected a Claim",
        ),
        (
            lambda: Study("s", error, product(width=[1]), compiled=("rat",)),
            r"compiled: .*'rat'; did you mean 'rate'",
        ),
        (
            lambda: Study("s", error, product(width=[1]), dimensions={"a": "lag"}),
            r"dimensions\['a'\]",
        ),
        (lambda: Claim("c", lambda r: 1, 1, -1, "because"), r"tolerance"),
        (
            lambda: Claim("c", lambda r: 1, 1, 1, "because", relation="below"),
            r"relation: expected one of",
        ),
    ],
)
def test_bad_studies_are_refused_before_anything_runs(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "one Study, got none"),
        ("def f(:", "SyntaxError in line 2"),
        ("y = 1\nz = y / 0", "ZeroDivisionError in line 3"),
        ("import nowhere_to_be_found", "ModuleNotFoundError in line 2"),
        (
            "def f(a): pass\none = Study('a', f, product(a=[1]))\ntwo = Study('b', f, product(a=[1]))",
            r"one Study, got \['one', 'two'\]",
        ),
    ],
)
def test_study_files_that_cannot_be_used(write_study, text, message):
    with pytest.raises(ValueError, match=message):
        load_study(write_study(text))


def test_a_missing_study_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="study file: expected a Python file"):
        load_study(tmp_path / "none.py")


def test_the_one_called_study_is_taken(write_study):
    path = write_study(
        """
        def f(a): return a
        quick = Study("quick", f, product(a=[1]))
        study = Study("full", f, product(a=[1, 2]))
        """
    )
    assert load_study(path).name == "full"
