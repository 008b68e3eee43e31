"""Studies on a Dask cluster of two local processes."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from recollect.study import Ledger, _executors, run

distributed = pytest.importorskip("distributed")

BODY = """
    import os, time
    import numpy as np

    def spectrum(width, rate, *, seed):
        time.sleep(0.01)
        matrix = np.random.default_rng(seed).normal(size=(width, width)) * rate
        return {"largest": float(np.linalg.svd(matrix)[1][0]), "pid": os.getpid(), "matrix": matrix}

    study = Study("s", spectrum, product(width=[5, 90], rate=[0.5, 1.0, 2.0]), seeds=20)
"""


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as local:
        yield local


def rows(path):
    with Ledger(path, must_exist=True) as book:
        return list(book.rows())


def bits(path):
    return {row.id: (row.metrics["largest"], row.arrays["matrix"].tobytes()) for row in rows(path)}


def test_the_same_bits_on_a_cluster_while_workers_leave_and_join(make_study, tmp_path, cluster):
    study = make_study(BODY)
    run(study, tmp_path / "here.sqlite")
    # On a busy machine one worker would do all before the other is there.
    cluster.wait_for_workers(2, timeout=60)

    def disturb(done, total, failed):
        if done > 10 and not threads:
            threads.append(threading.Thread(target=kill_one))
            threads[0].start()

    def kill_one():
        os.kill(
            next(iter(cluster.workers.values())).pid, signal.SIGKILL
        )  # its nanny starts another

    threads: list[threading.Thread] = []
    completion = run(
        study, tmp_path / "dask.sqlite", scheduler=cluster.scheduler_address, report=disturb
    )
    threads[0].join()
    assert (completion.n_run, completion.n_failed) == (study.n_trials, 0)
    assert bits(tmp_path / "dask.sqlite") == bits(tmp_path / "here.sqlite")
    pids = {row.metrics["pid"] for row in rows(tmp_path / "dask.sqlite")}
    assert len(pids) >= 2
    assert os.getpid() not in pids


def test_a_client_can_be_passed(make_study, tmp_path, cluster):
    study = make_study("def f(i): return i\nstudy = Study('s', f, product(i=range(30)))")
    with distributed.Client(cluster, set_as_default=False) as client:
        assert run(study, tmp_path / "s.sqlite", scheduler=client).n_failed == 0
        assert client.status == "running"


def test_no_scheduler_there(make_study, tmp_path, monkeypatch):
    study = make_study("def f(i): return i\nstudy = Study('s', f, product(i=range(3)))")
    monkeypatch.setattr(_executors, "_CONNECT_SECONDS", 1)
    with pytest.raises(OSError, match="127"):
        run(study, tmp_path / "s.sqlite", scheduler="tcp://127.0.0.1:9")


@pytest.mark.parametrize("address", ["nonsense", "", "tcp://head", "10.0.0.1"])
def test_what_is_no_address_is_refused_at_once(make_study, tmp_path, address):
    study = make_study("def f(i): return i\nstudy = Study('s', f, product(i=range(3)))")
    with pytest.raises(ValueError, match=r"scheduler: expected an address such as tcp://host:8786"):
        run(study, tmp_path / "s.sqlite", scheduler=address)
