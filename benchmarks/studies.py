"""Speed and memory of studies: `python -m benchmarks.studies [commits|trials|start|estimate]`.

Prints one JSON object per measurement. `estimate` is the demonstration: 1e8 samples on a local
cluster of two processes, the memory of every process of the cluster and the driver summed.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from recollect import Status
from recollect.study import Ledger, Study, load_study, product, read_chunks, run
from recollect.study._trial import Outcome

_TRIVIAL = """
from recollect.study import Study, product
def f(i): return {"v": 2.0 * i}
study = Study("trivial", f, product(i=range(100_000)))
"""


def _trivial(i: int) -> float:
    return 2.0 * i


def commits(folder: Path, n: int = 20_000) -> dict:
    """Transactions per second, one trial each."""
    study = Study("commits", _trivial, product(i=range(n)))
    outcomes = [Outcome(trial, {"v": 1.5}, {}, Status(), 0.1) for trial in study.trials()]
    with Ledger(folder / "commits.sqlite") as book:
        book.acquire()
        book.describe({}, (outcome.trial.id for outcome in outcomes))
        started, worked = time.perf_counter(), time.process_time()
        for outcome in outcomes:
            book.commit([outcome], {}, function="trivial", revision=1)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    return {"commits_per_second": n / seconds, "commits_per_cpu_second": n / cpu_seconds}


def trials(folder: Path) -> list[dict]:
    """1e5 trivial trials: overhead per trial, and memory of the driver along the way."""
    (folder / "trivial.py").write_text(_TRIVIAL)
    study = load_study(folder / "trivial.py")
    found = []
    for n_workers in (0, 2):
        memory: list[float] = []

        def report(done, total, failed, memory=memory):
            if done >= 10_000 * (len(memory) + 1):
                memory.append(_resident(["self"]))

        done = run(study, folder / f"trials{n_workers}.sqlite", n_workers=n_workers, report=report)
        found.append(
            {
                "n_workers": n_workers,
                "microseconds_per_trial": 1e6 * done.seconds / done.n_run,
                "megabytes_at_1e4": memory[0],
                "megabytes_at_9e4": memory[-1],
            }
        )
    return found


def start(folder: Path) -> dict:
    """Seconds until the command line has answered."""
    command = [
        sys.executable,
        "-c",
        "from recollect.study._commands import study_app; study_app(['--help'])",
    ]
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    return {"help_seconds": time.perf_counter() - started}


def estimate(folder: Path, n: float = 1e8) -> dict:
    """A kernel from n samples that are never in memory together, on a two-process cluster."""
    import dask.array as da
    import numpy as np
    from distributed import Client, LocalCluster

    from recollect.memory import estimate_kernel

    n, chunk, lags = int(n), 1_000_000, 64
    kernel = np.exp(-np.arange(lags) / 8.0) / 8

    def make(block, seed=0):
        # Each block of (input, output) is made from its number and the block before it.
        number = int(block[0, 0])
        before, now = (
            np.random.default_rng([seed, k]).normal(size=chunk)
            for k in (number - 1 + n, number + n)
        )
        if number == 0:
            before[:] = 0
        x = np.concatenate([before[-lags:], now])
        noise = np.random.default_rng([seed, number, 1]).normal(size=chunk)
        return np.stack([now, np.convolve(x, kernel)[lags : lags + chunk] + 0.5 * noise], axis=1)

    numbers = da.arange(n // chunk, chunks=1)[:, None]
    data = numbers.map_blocks(make, chunks=(chunk, 2), dtype=float)
    peak, is_over = [0.0], threading.Event()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        pids = ["self", *(str(worker.pid) for worker in cluster.workers.values())]

        def watch():
            while not is_over.wait(0.2):
                peak[0] = max(peak[0], _resident(pids))

        thread = threading.Thread(target=watch)
        thread.start()
        started = time.perf_counter()
        found = estimate_kernel(
            read_chunks(data[:, :1], data[:, 1:]), None, dt=1.0, n_lags=lags, noise="white"
        )
        seconds = time.perf_counter() - started
        is_over.set()
        thread.join()
    widths = np.diff(found.edges)
    truth = np.add.reduceat(kernel, found.edges[:-1].astype(int)) / widths
    error = found.kernel[:, 0, 0] - truth
    return {
        "n_samples": n,
        "seconds": seconds,
        "peak_megabytes_all_processes": peak[0],
        "driver_peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "largest_error": float(abs(error).max()),
        "largest_error_in_stderr": float(abs(error / found.kernel_stderr[:, 0, 0]).max()),
    }


def _resident(pids: list[str]) -> float:
    total = 0.0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm") as file:
                total += int(file.read().split()[1]) * resource.getpagesize() / 1e6
        except OSError:
            continue
    return total


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["commits", "trials", "start"]
    for name in wanted:
        name, _, size = name.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            options = {"n": float(size)} if size else {}
            print(
                json.dumps({"benchmark": name, "result": globals()[name](Path(folder), **options)})
            )
