from __future__ import annotations

import contextlib
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from recollect import Status
from recollect.study import Ledger, Study, product, run, to_xarray
from recollect.study import _ledger as ledger_module
from recollect.study._trial import Outcome


def trivial(i):
    return {"v": 2.0 * i}


def large(i):
    return {"v": 2.0 * i, "field": np.full(20_000, float(i))}


def make(n, function=trivial, **options):
    return Study("s", function, product(i=range(n)), **options)


def rows(path, **options):
    with Ledger(path, must_exist=True) as book:
        return list(book.rows(**options))


def test_every_value_comes_back_exactly(tmp_path):
    values = {
        "tiny": 5e-324,
        "third": 1 / 3,
        "big": 2**80,
        "no": False,
        "word": 'a "quoted" ü',
        "nan": math.nan,
        "up": math.inf,
        "down": -math.inf,
    }
    arrays = {
        "small": np.array([1.5, math.nan]),
        "complex": np.array([1 + 2j]),
        "large": np.random.default_rng(0).normal(size=(100, 100)),
        "flags": np.array([[True], [False]]),
    }
    study = make(1)
    with Ledger(tmp_path / "s.sqlite") as book:
        book.acquire()
        book.describe({}, [study.trial(0).id])
        outcome = Outcome(study.trial(0), values, arrays, Status("diverged", "why"), 1.5)
        book.commit([outcome], {"versions": {}}, function="f", revision=1)
    (row,) = rows(tmp_path / "s.sqlite")
    assert math.isnan(row.metrics.pop("nan"))
    del values["nan"]
    assert row.metrics == values
    assert [type(v) for v in row.metrics.values()] == [type(v) for v in values.values()]
    assert row.status == Status("diverged", "why")
    assert row.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(row.arrays[name], array, strict=True)
    # What is stored is JSON that SQLite itself can query.
    db = sqlite3.connect(tmp_path / "s.sqlite")
    query = "SELECT json_extract(metrics, '$.third'), json_extract(metrics, '$.up') FROM trial"
    assert db.execute(query).fetchone() == (1 / 3, math.inf)
    db.close()


def test_machine_and_versions_without_paths_or_names(tmp_path):
    run(make(2), tmp_path / "s.sqlite")
    environment = rows(tmp_path / "s.sqlite")[0].environment
    assert {"python", "recollect", "numpy"} <= environment["versions"].keys()
    assert {"system", "processor", "n_cores"} <= environment["machine"].keys()
    assert os.sep not in str(environment["versions"])
    assert os.uname().nodename not in str(environment)


def test_a_result_is_never_replaced_but_a_failure_is(tmp_path):
    study = make(2)
    with Ledger(tmp_path / "s.sqlite") as book:
        book.acquire()
        book.describe({}, [t.id for t in study.trials()])

        def commit(status, *values):
            outcomes = [
                Outcome(t, {"v": v}, {}, status, 0.0)
                for t, v in zip(study.trials(), values, strict=False)
            ]
            book.commit(outcomes, {}, function="trivial", revision=1)

        commit(Status("failed", "lost"), 1.0)
        commit(Status(), 2.0)
        with pytest.raises(RuntimeError, match="came back once more"):
            commit(Status(), 3.0, 4.0)
    assert [row.metrics["v"] for row in rows(tmp_path / "s.sqlite")] == [2.0]


def test_a_finished_ledger_is_a_single_file(tmp_path):
    run(make(3), tmp_path / "s.sqlite")
    assert [p.name for p in tmp_path.iterdir()] == ["s.sqlite"]


def test_a_newer_schema_is_refused_untouched(tmp_path):
    path = tmp_path / "s.sqlite"
    run(make(3), path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    for suffix in ("-wal", "-shm"):
        assert not path.with_name(path.name + suffix).exists()
    before, modified = path.read_bytes(), path.stat().st_mtime_ns
    for use in (lambda: run(make(5), path), lambda: to_xarray(path)):
        with pytest.raises(ValueError, match=r"schema 99.*update recollect; the file is untouched"):
            use()
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == modified
    assert [p.name for p in tmp_path.iterdir()] == ["s.sqlite"]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"SQLite format 3\0", os.urandom(5000)])
def test_a_file_that_is_no_ledger_is_refused_untouched(tmp_path, content):
    path = tmp_path / "s.sqlite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a ledger written by recollect"):
        run(make(1), path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "s.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE trial (x)")
    db.close()
    with pytest.raises(ValueError, match="expected a ledger written by recollect"):
        run(make(1), path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_ledger_is_reported(tmp_path, share):
    path = tmp_path / "s.sqlite"
    run(make(500), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="expected an intact file, got a damaged one"):
        run(make(500), path)


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_damaged_arrays_are_reported(tmp_path, damage):
    path = tmp_path / "s.sqlite"
    run(make(2, large), path)
    sidecar = next((tmp_path / "s.sqlite.arrays").iterdir())
    if damage == "truncate":
        os.truncate(sidecar, sidecar.stat().st_size // 2)
    else:
        sidecar.unlink()
    with pytest.raises(ValueError, match="expected intact arrays"):
        to_xarray(path)


def test_an_empty_file_and_a_missing_folder(tmp_path):
    (tmp_path / "s.sqlite").touch()
    assert run(make(2), tmp_path / "s.sqlite").n_run == 2
    with pytest.raises(FileNotFoundError, match="existing folder"):
        run(make(2), tmp_path / "nowhere" / "s.sqlite")
    with pytest.raises(FileNotFoundError, match="existing file"):
        to_xarray(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


# One driver at a time


def test_two_drivers(tmp_path):
    path = tmp_path / "s.sqlite"
    run(make(1), path)
    with Ledger(path) as first:
        first.acquire()
        with pytest.raises(
            BlockingIOError, match=f"another driver is running.*process {os.getpid()}"
        ):
            run(make(2), path)
        assert len(rows(path)) == 1  # reading is never refused
    assert run(make(2), path).n_run == 1


def test_a_dead_driver_is_replaced_with_a_word(tmp_path):
    path = tmp_path / "s.sqlite"
    code = "import os, sys; from recollect.study import Ledger; b = Ledger(sys.argv[1]); b.acquire(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    with pytest.warns(UserWarning, match="took over from a driver that died"):
        assert run(make(2), path).n_run == 2


def test_a_silent_driver_is_replaced_after_a_minute_and_cannot_write_any_more(
    tmp_path, monkeypatch
):
    path = tmp_path / "s.sqlite"
    study = make(2)
    outcome = Outcome(study.trial(1), {"v": 1.0}, {}, Status(), 0.0)
    with Ledger(path) as first:
        first.acquire()
        first.describe({}, [t.id for t in study.trials()])
        for age, is_stale in ((55, False), (65, True)):
            first._db.execute("UPDATE lease SET heartbeat = ?", (time.time() - age,))
            if not is_stale:
                with Ledger(path) as second, pytest.raises(BlockingIOError, match="55 s ago"):
                    second.acquire()
            else:
                with pytest.warns(UserWarning, match="silent for 65 s"):
                    run(make(1), path)
        with pytest.raises(BlockingIOError, match="another driver took this study over"):
            first.commit([outcome], {}, function="trivial", revision=1)
    assert [row.metrics for row in rows(path)] == [{"v": 0.0}]


def test_the_heartbeat_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "_HEARTBEAT", 0.02)
    with Ledger(tmp_path / "s.sqlite") as book:
        book.acquire()
        read = lambda: book._db.execute("SELECT heartbeat FROM lease").fetchone()[0]  # noqa: E731
        first = read()
        deadline = time.monotonic() + 5
        while read() == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert read() > first


# A full disk


def test_a_full_database_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "s.sqlite"
    plain = Ledger._connect

    def cramped(self):
        db = plain(self)
        db.execute("PRAGMA max_page_count = 30")
        return db

    monkeypatch.setattr(Ledger, "_connect", cramped)
    with pytest.raises(OSError, match=r"disk is full.*committed so far is safe"):
        run(make(2000), path)
    monkeypatch.undo()
    kept = rows(path)
    assert all(row.metrics["v"] == 2.0 * row.parameters["i"] for row in kept)
    completion = run(make(2000), path)
    assert completion.n_run == 2000 - len(kept)
    assert completion.n_failed == 0
    assert len(rows(path)) == 2000


def test_a_full_disk_during_an_array_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "s.sqlite"
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    study = Study("s", slow_large, product(i=range(5)))
    with pytest.raises(OSError, match="No space left"):
        run(study, path)
    monkeypatch.undo()
    folder = tmp_path / "s.sqlite.arrays"
    assert not list(folder.glob("*.partial")) + list(folder.glob(".*"))
    assert run(study, path).n_run == 5 - 2
    assert [row.arrays["field"][0] for row in rows(path)] == [0, 1, 2, 3, 4]


def slow_large(i):
    time.sleep(0.06)  # longer than a batch: one commit per trial
    return large(i)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a disk needs root"
)
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        path = disk / "s.sqlite"
        study = make(5000)
        with pytest.raises(OSError, match="disk is full"):
            run(study, path)
        n_kept = len(rows(path))
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert run(study, path).n_run == 5000 - n_kept
        assert len(rows(path)) == 5000
        large_study = Study("s", large, product(i=range(200)))  # 160 kB each, in files
        with pytest.raises(OSError, match=r"full|space"):
            run(large_study, disk / "t.sqlite")
        for row in rows(disk / "t.sqlite"):
            assert (row.arrays["field"] == row.parameters["i"]).all()
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_files_without_a_row_are_swept(tmp_path):
    path = tmp_path / "s.sqlite"
    run(make(1, large), path)
    folder = tmp_path / "s.sqlite.arrays"
    for name in ("0" * 32 + ".npz", ".x.npz.1.partial", "notes.txt"):
        (folder / name).write_bytes(b"?")
    run(make(1, large), path)
    with contextlib.suppress(FileNotFoundError):
        assert sorted(p.suffix for p in folder.iterdir()) == [".npz", ".txt"]
    assert len(rows(path)) == 1
