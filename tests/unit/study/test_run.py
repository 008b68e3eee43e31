from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import recollect
from recollect.study import Ledger, Study, points, product, run, sampled, to_xarray, uniform

CALLS: list[int] = []


def counted(i):
    CALLS.append(i)
    if i == 3:
        raise ZeroDivisionError("three\nand more")
    return {"v": float(i)}


def rows(path, **options):
    with Ledger(path, must_exist=True) as book:
        return list(book.rows(**options))


@pytest.fixture(autouse=True)
def forget_calls():
    CALLS.clear()


def test_a_second_run_runs_nothing(tmp_path):
    study = Study("s", counted, product(i=range(5)))
    first = run(study, tmp_path / "s.sqlite")
    assert (first.n_trials, first.n_run, first.n_failed) == (5, 5, 1)
    assert first.status.code == "failed"
    assert run(study, tmp_path / "s.sqlite").n_run == 0
    assert CALLS == [0, 1, 2, 3, 4]


def test_a_trial_that_raises_is_a_row_and_the_rest_goes_on(tmp_path):
    study = Study("s", counted, product(i=range(5)))
    run(study, tmp_path / "s.sqlite")
    statuses = [row.status for row in rows(tmp_path / "s.sqlite")]
    assert [s.code for s in statuses] == ["ok", "ok", "ok", "failed", "ok"]
    assert statuses[3].message == "ZeroDivisionError: three"
    again = run(study, tmp_path / "s.sqlite", retry_failed=True)
    assert (again.n_run, again.n_failed) == (1, 1)


def test_a_changed_grid_runs_exactly_what_is_missing(tmp_path):
    path = tmp_path / "s.sqlite"
    run(Study("s", counted, product(i=[0, 1, 2])), path)
    run(Study("s", counted, product(i=[2, 4, 0, 5])), path)
    assert CALLS == [0, 1, 2, 4, 5]
    assert [row.parameters["i"] for row in rows(path)] == [2, 4, 0, 5]
    kept = [row for row in rows(path, with_superseded=True) if not row.is_current]
    assert [row.parameters["i"] for row in kept] == [1]


def test_a_new_revision_keeps_the_old_rows_marked(tmp_path):
    path = tmp_path / "s.sqlite"
    run(Study("s", counted, product(i=[0, 1])), path)
    second = run(Study("s", counted, product(i=[0, 1]), revision=2), path)
    assert second.n_run == 2
    assert second.counts["superseded"] == 2
    everything = rows(path, with_superseded=True)
    assert [(row.revision, row.is_current) for row in everything] == [
        (2, True), (2, True), (1, False), (1, False),
    ]  # fmt: skip
    assert to_xarray(path).attrs["revision"] == 2
    # Going back finds the old rows again.
    assert run(Study("s", counted, product(i=[0, 1])), path).n_run == 0


def test_zero_trials(tmp_path):
    for grid in (product(i=[]), points([])):
        completion = run(Study("s", counted, grid), tmp_path / "s.sqlite", n_workers=2)
        assert (completion.n_trials, completion.n_run) == (0, 0)
        assert completion.status.is_ok
        assert to_xarray(tmp_path / "s.sqlite").status.size == 0


def test_duplicate_trials_are_named_before_anything_runs(tmp_path):
    study = Study("s", counted, points([{"i": 1}, {"i": 2}, {"i": 1}]))
    with pytest.raises(
        ValueError, match=r"trial 2: expected trials that differ, got .* as trial 0"
    ):
        run(study, tmp_path / "s.sqlite")
    assert CALLS == []
    # An earlier plan survives a refused one.
    run(Study("s", counted, product(i=[1])), tmp_path / "s.sqlite")
    with pytest.raises(ValueError, match="trials that differ"):
        run(study, tmp_path / "s.sqlite")
    assert len(rows(tmp_path / "s.sqlite")) == 1


@pytest.mark.parametrize(
    ("result", "code", "message"),
    [
        (1.5, "ok", ""),
        ({"a": np.float32(2), "b": np.arange(3)}, "ok", ""),
        ({"a": float("nan"), "b": 1}, "not_finite", "a is not finite"),
        ({"a": float("nan"), "b": np.array([1, np.inf])}, "not_finite", "a, b are not finite"),
        (
            {"a": float("inf"), "status": recollect.Status("infinite", "a pole")},
            "infinite",
            "a pole",
        ),
        ({"a": float("inf"), "b": None, "status": recollect.Status()}, "ok", ""),
        (
            {"a": float("nan"), "b": np.inf, "status": recollect.Status()},
            "not_finite",
            "a is NaN",
        ),
        (
            {"a": float("nan"), "status": recollect.Status("infinite", "a pole")},
            "infinite",
            "a pole",
        ),
        (
            {"status": recollect.Status("not_converged", "50 steps"), "a": 1.0},
            "not_converged",
            "50 steps",
        ),
        ({"a": object()}, "failed", "TypeError: result 'a': expected numbers or text, got object"),
        ({1: 2.0}, "failed", "TypeError: result: expected names as keys, got 1"),
        ({"a": [1, [2, 3]]}, "failed", "ValueError: "),
    ],
)
def test_what_a_trial_may_return(tmp_path, result, code, message):
    run(Study("s", lambda: result, product()), tmp_path / "s.sqlite")
    (row,) = rows(tmp_path / "s.sqlite")
    assert row.status.code == code
    assert row.status.message.startswith(message)


def test_interrupting_keeps_what_is_done(tmp_path):
    def stop_at_three(i):
        CALLS.append(i)
        if i == 3 and len(CALLS) < 6:
            raise KeyboardInterrupt
        return i

    study = Study("s", stop_at_three, product(i=range(6)))
    reports = []
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "s.sqlite", report=lambda *numbers: reports.append(numbers))
    CALLS.extend([0] * 6)
    completion = run(study, tmp_path / "s.sqlite")
    assert completion.counts["ok"] == 6


def test_progress_reports(tmp_path):
    reports = []
    study = Study("s", counted, product(i=range(5)))
    run(study, tmp_path / "s.sqlite", report=lambda *numbers: reports.append(numbers))
    assert reports[0] == (0, 5, 0)
    assert reports[-1] == (5, 5, 1)


def test_bad_arguments(tmp_path):
    study = Study("s", counted, product(i=[1]))
    with pytest.raises(TypeError, match="study: expected a Study"):
        run("s", tmp_path / "s.sqlite")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_workers"):
        run(study, tmp_path / "s.sqlite", n_workers=-1)
    with pytest.raises(ValueError, match="either n_workers or scheduler"):
        run(study, tmp_path / "s.sqlite", n_workers=1, scheduler="tcp://x:1")
    with pytest.raises(ValueError, match="function defined at the top level of a file"):
        run(Study("s", lambda i: i, product(i=[1])), tmp_path / "s.sqlite", n_workers=1)
    assert not (tmp_path / "s.sqlite").exists()


# The same bits everywhere

HEAVY = """
    import numpy as np
    import scipy.linalg

    def spectrum(width, rate, *, seed):
        matrix = np.random.default_rng(seed).normal(size=(width, width)) * rate
        return {
            "largest": float(np.linalg.svd(matrix, compute_uv=False)[0]),
            "modes": scipy.linalg.eigvals(matrix),
            "long": float(matrix.ravel() @ matrix.T.ravel()),
        }

    study = Study("s", spectrum, product(width=[5, 90, 150], rate=[0.5, 1.0]), seeds=2,
                  dimensions={"modes": ("mode",)})
"""

COMPILED = """
    import jax, jax.numpy as jnp

    def walk(width, rate, *, key):
        noise = jax.random.normal(key, (width, 400))
        path = jax.lax.scan(lambda h, x: ((jnp.tanh(h * rate + x),) * 2), jnp.zeros(width), noise.T)[1]
        return {"energy": jnp.mean(path**2), "last": path[-1]}

    study = Study("s", walk, product(width=[3, 8], rate=[0.1, 0.5, 0.9, 0.95]), seeds=3,
                  compiled=("rate",), dimensions={"last": ("unit",)}{more})
"""


def bits(path):
    return {
        row.id: (pickle.dumps(row.metrics), [a.tobytes() for a in row.arrays.values()])
        for row in rows(path)
    }


@pytest.mark.parametrize("body", [HEAVY, COMPILED.replace("{more}", "")], ids=["blas", "compiled"])
def test_bits_do_not_depend_on_executor_grouping_or_restart(make_study, tmp_path, body):
    study = make_study(body)
    run(study, tmp_path / "here.sqlite")
    expected = bits(tmp_path / "here.sqlite")
    assert len(expected) == study.n_trials
    run(study, tmp_path / "pool.sqlite", n_workers=2)
    assert bits(tmp_path / "pool.sqlite") == expected
    # A restart in the middle, in another grouping and order.
    few = Study(
        "s", study.function, points(list(study.grid)[::-3]), seeds=[1], compiled=study.compiled
    )
    run(few, tmp_path / "restart.sqlite", n_workers=1)
    run(study, tmp_path / "restart.sqlite")
    assert bits(tmp_path / "restart.sqlite") == expected


def test_trials_of_one_shape_compile_once(make_study, tmp_path):
    study = make_study(
        """
        COMPILATIONS = []

        def scaled(width, rate):
            COMPILATIONS.append(width)  # runs when traced
            import jax.numpy as jnp
            return {"v": jnp.sum(jnp.arange(width) * rate)}

        study = Study("s", scaled, product(width=[2, 3], rate=[0.1, 0.2, 0.3]), compiled=("rate",))
        """
    )
    assert run(study, tmp_path / "s.sqlite").n_failed == 0
    assert study.function.__globals__["COMPILATIONS"] == [2, 3]
    np.testing.assert_allclose(
        to_xarray(tmp_path / "s.sqlite").v.sel(width=3), [0.3, 0.6, 0.9], rtol=1e-6
    )


def test_compiled_in_64_bits(make_study, tmp_path):
    study = make_study(COMPILED.replace("{more}", ", float64=True"))
    run(study, tmp_path / "s.sqlite")
    row = rows(tmp_path / "s.sqlite")[0]
    assert row.arrays["last"].dtype == np.float64
    assert row.metrics["energy"] != float(np.float32(row.metrics["energy"]))


def test_a_key_is_the_seed_s_key(make_study, tmp_path):
    import jax

    study = make_study(
        """
        def draw(*, key):
            import jax
            return float(jax.random.normal(key))
        study = Study("s", draw, product(), seeds=[4, 7])
        """
    )
    run(study, tmp_path / "s.sqlite")
    values = [row.metrics["value"] for row in rows(tmp_path / "s.sqlite")]
    assert values == [float(jax.random.normal(jax.random.key(seed))) for seed in (4, 7)]


# Other processes


def test_workers_are_pinned_single_threaded_and_quiet(make_study, tmp_path, capfd):
    study = make_study(
        """
        import os
        def look(i):
            print("hello from a trial")
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
            return {"cores": cores, "blas": os.environ["OPENBLAS_NUM_THREADS"], "pid": os.getpid()}
        study = Study("s", look, product(i=range(4)))
        """
    )
    run(study, tmp_path / "s.sqlite", n_workers=2)
    found = rows(tmp_path / "s.sqlite")
    assert {row.metrics["cores"] for row in found} == {1}
    assert {row.metrics["blas"] for row in found} == {"1"}
    assert os.getpid() not in {row.metrics["pid"] for row in found}
    for pid in {row.metrics["pid"] for row in found}:
        with pytest.raises(ChildProcessError):  # waited for: no zombie is left
            os.waitpid(pid, os.WNOHANG)
    assert capfd.readouterr().out == ""


def test_a_trial_that_takes_processes_down_is_given_up(make_study, tmp_path):
    study = make_study(
        """
        import os
        def crash(i):
            if i == 5:
                os._exit(11)
            return i
        study = Study("s", crash, product(i=range(12)))
        """
    )
    completion = run(study, tmp_path / "s.sqlite", n_workers=1)
    assert completion.n_failed == 1
    found = rows(tmp_path / "s.sqlite")
    assert [row.parameters["i"] for row in found if row.status.code == "failed"] == [5]
    assert found[5].status.message == "the process running it died, 3 times"


def test_the_file_as_it_was_loaded_is_what_runs(make_study, tmp_path):
    study = make_study("def f(i): return i\nstudy = Study('s', f, product(i=[1, 2]))")
    (tmp_path / "a_study.py").write_text("raise SystemExit('edited meanwhile')")
    assert run(study, tmp_path / "s.sqlite", n_workers=1).n_failed == 0


def test_a_worker_that_cannot_load_the_study_stops_the_run(write_study, tmp_path):
    from recollect.study import load_study

    study = load_study(
        write_study(
            """
            import os
            if os.environ.get("OPENBLAS_NUM_THREADS") == "1" and os.getppid() == PARENT:
                raise RuntimeError("not here")
            def f(i): return i
            study = Study("s", f, product(i=[1]))
            """.replace("PARENT", str(os.getpid()))
        )
    )
    with pytest.raises(RuntimeError, match=r"could not load the study.*not here"):
        run(study, tmp_path / "s.sqlite", n_workers=1)
    assert rows(tmp_path / "s.sqlite") == []


SCRIPT = """
    from recollect.study import Study, product, run
    def f(i): return i * 2.0
    {guard}
        print(run(Study("s", f, product(i=[1, 2])), "s.sqlite", n_workers=1).n_failed)
"""


def test_a_plain_script_with_a_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(guard="if __name__ == '__main__':")))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_a_plain_script_without_a_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(guard="if True:")))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "put it under `if __name__ == '__main__':`" in done.stderr


def test_random_grids_have_a_trial_dimension(tmp_path):
    study = Study("s", counted, sampled(4, seed=1, i=uniform(0, 1)))
    run(study, tmp_path / "s.sqlite")
    results = to_xarray(tmp_path / "s.sqlite")
    assert results.v.dims == ("trial",)
    np.testing.assert_array_equal(results.v, results.i)
