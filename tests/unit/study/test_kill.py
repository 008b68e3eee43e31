"""Drivers and workers killed with -9 at random points: nothing lost, nothing half, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from recollect.study import Ledger, load_study, run

if not hasattr(signal, "SIGKILL"):
    pytest.skip("needs kill -9", allow_module_level=True)

BODY = """
    import time
    import numpy as np

    def work(i, *, seed):
        time.sleep(0.002)
        # Every eleventh trial has an array large enough for a file of its own.
        values = np.random.default_rng([i, seed]).normal(size=9000 if i % 11 == 0 else 5)
        return {"total": float(values.sum()), "values": values}

    study = Study("s", work, product(i=range(N)), seeds=2)
"""
DRIVER = """
import sys
from recollect.study import load_study, run
say = lambda done, total, failed: print(done, flush=True)
run(load_study(sys.argv[1]), sys.argv[2], n_workers=int(sys.argv[3]), report=say)
"""


def require_whole(path, n_expected=None):
    """Every row holds exactly what its parameters and seed say, and every id is there once."""
    if not path.exists() or not path.stat().st_size:
        return 0
    with Ledger(path) as book:
        found = list(book.rows())
    assert len({row.id for row in found}) == len(found)
    for row in found:
        assert row.status.is_ok, row.status
        i = row.parameters["i"]
        values = np.random.default_rng([i, row.seed]).normal(size=9000 if i % 11 == 0 else 5)
        np.testing.assert_array_equal(row.arrays["values"], values)
        assert row.metrics["total"] == values.sum()
    if n_expected is not None:
        assert len(found) == n_expected
    return len(found)


def kill_drivers(path, file, n_kills, n_workers, chance):
    n_done = 0
    for _ in range(n_kills):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            DRIVER,
            str(file),
            str(path),
            str(n_workers),
        ]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE)
        # One kill in four may come while the driver starts, the others come while it works.
        if chance.random() < 0.75:
            for _ in range(chance.randint(1, 3)):
                driver.stdout.readline()  # type: ignore[union-attr]
        time.sleep(chance.uniform(0, 0.25))
        assert driver.poll() is None, "the study is too short for this test"
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        now = require_whole(path)
        assert now >= n_done
        n_done = now
    return n_done


def finish(path, study):
    n_before = require_whole(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        completion = run(study, path, n_workers=2)
    assert completion.n_run == study.n_trials - n_before
    assert completion.n_failed == 0
    require_whole(path, study.n_trials)


@pytest.mark.parametrize(
    ("n_kills", "n_workers"), [pytest.param(10, 0, marks=pytest.mark.slow), (3, 2)]
)
def test_drivers_killed(write_study, tmp_path, n_kills, n_workers):
    file = write_study(BODY.replace("N", "1800"))
    path = tmp_path / "s.sqlite"
    assert kill_drivers(path, file, n_kills, n_workers, random.Random(n_workers)) > 0
    finish(path, load_study(file))


class Killer(threading.Thread):
    """Kills one of our worker processes now and then."""

    def __init__(self, n_kills, seed, pause=(0.05, 0.4)):
        super().__init__(daemon=True)
        self.left, self.chance, self.pause = n_kills, random.Random(seed), pause
        self.is_over = threading.Event()

    def run(self):
        while self.left and not self.is_over.wait(self.chance.uniform(*self.pause)):
            workers = worker_processes()
            if workers:
                os.kill(self.chance.choice(workers), signal.SIGKILL)
                self.left -= 1


def worker_processes():
    import psutil

    children = psutil.Process().children()
    return [c.pid for c in children if is_worker(c)]


def is_worker(process):
    import psutil

    try:
        return "recollect.study._worker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def run_with_killer(study, path, n_kills, seed):
    killer = Killer(n_kills, seed)
    killer.start()
    completion = run(study, path, n_workers=2)
    killer.is_over.set()
    killer.join()
    return completion, n_kills - killer.left


def test_workers_killed(make_study, tmp_path):
    study = make_study(BODY.replace("N", "450"))
    completion, n_killed = run_with_killer(study, tmp_path / "s.sqlite", 6, 1)
    assert n_killed >= 3
    assert completion.n_run == study.n_trials
    assert completion.n_failed == 0
    require_whole(tmp_path / "s.sqlite", study.n_trials)


def test_workers_end_with_their_driver(write_study, tmp_path):
    import psutil

    file = write_study(
        """
        import time
        def sleepy(i): time.sleep(60)
        study = Study("s", sleepy, product(i=range(4)))
        """
    )
    command = [sys.executable, "-c", DRIVER, str(file), str(tmp_path / "s.sqlite"), "2"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    workers = []
    deadline = time.monotonic() + 20
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        workers = [c for c in psutil.Process(driver.pid).children() if is_worker(c)]
    assert len(workers) == 2
    time.sleep(0.3)
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


@pytest.mark.slow
def test_a_hundred_kills(write_study, tmp_path):
    file = write_study(BODY.replace("N", "9000"))
    path = tmp_path / "s.sqlite"
    kill_drivers(path, file, 35, 0, random.Random(5))
    kill_drivers(path, file, 15, 2, random.Random(6))
    study = load_study(file)
    n_before = require_whole(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        completion, n_killed = run_with_killer(study, path, 50, 7)
    assert n_killed >= 30
    assert (completion.n_run, completion.n_failed) == (study.n_trials - n_before, 0)
    require_whole(path, study.n_trials)


@pytest.mark.slow
def test_a_soak_of_a_thousand_real_trials(make_study, tmp_path):
    study = make_study(
        """
        import numpy as np
        from recollect import targets
        def fit(width, exponent, *, seed):
            from recollect import approximation
            found = approximation.fit_exponential_sum(
                targets.PowerLaw(exponent=exponent, scale=1.0 + 0.01 * seed), width=width, norm="l2")
            return {"error": found.errors["l2"], "rates": np.sort_complex(found.rates), "status": found.status}
        study = Study("s", fit, product(width=[1, 2, 3, 4, 5], exponent=[1.5, 2.0, 2.5, 3.0]), seeds=50)
        """
    )
    completion, n_killed = run_with_killer(study, tmp_path / "s.sqlite", 40, 2)
    assert n_killed >= 10
    assert (completion.n_run, completion.n_failed) == (1000, 0)
    assert sum(completion.counts.get(k, 0) for k in ("planned",)) == 1000
    with Ledger(tmp_path / "s.sqlite") as book:
        assert len({row.id for row in book.rows()}) == 1000
