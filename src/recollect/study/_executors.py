"""Where trials run: in this process, in pinned processes, on a Dask cluster.

Each executor takes trials one at a time and yields batches of outcomes as they finish. All of
them run `_trial.run_trial` on one thread, so their results are the same to the last bit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pickle
import queue
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from recollect._core._check import invalid, require_count
from recollect.study._study import Recipe, Trial
from recollect.study._threads import ONE_THREAD, cores, one_blas_thread
from recollect.study._trial import (
    Call,
    Outcome,
    describe_machine,
    failure,
    run_batch,
    run_trial,
)

Batch = list[Trial]
Finished = tuple[dict[str, Any], list[Outcome]]

_BATCH_SECONDS = 0.05  # of work per message and per commit: what a crash may cost
_LARGEST_BATCH = 256
_LARGEST_LOSS = 3  # workers a trial may take down before it is given up
_LARGEST_FALSE_START = 5
_CONNECT_SECONDS = 20
_ADDRESS = r"(\w+://)?[^/\s]+:\d+/?|inproc://\S+"


def require_executor(n_workers: int, scheduler: Any) -> None:
    """Raises for workers and a scheduler that cannot be used, before anything is made."""
    require_count("n_workers", n_workers, minimum=0)
    if scheduler is None:
        return
    if n_workers:
        raise invalid("scheduler", "either n_workers or scheduler", "both")
    # A client that cannot read its address takes 40 s to give up, and says so at length.
    if isinstance(scheduler, str) and not re.fullmatch(_ADDRESS, scheduler):
        raise invalid("scheduler", "an address such as tcp://host:8786", repr(scheduler))
    if importlib.util.find_spec("distributed") is None:
        raise invalid(
            "scheduler",
            "dask.distributed to be installed",
            "no such package",
            "pip install 'recollect[cluster]'",
        )


def run_here(call: Call, trials: Iterator[Trial]) -> Iterator[Finished]:
    """Yields outcomes of trials run in this process, with BLAS on one thread."""
    with one_blas_thread():
        outcomes: list[Outcome] = []
        started = time.perf_counter()
        for trial in trials:
            outcomes.append(run_trial(call, trial))
            if time.perf_counter() - started > _BATCH_SECONDS or len(outcomes) >= _LARGEST_BATCH:
                yield describe_machine(), outcomes
                outcomes, started = [], time.perf_counter()
        if outcomes:
            yield describe_machine(), outcomes


def run_in_processes(
    recipe: Recipe, trials: Iterator[Trial], *, n_workers: int
) -> Iterator[Finished]:
    """Yields outcomes from spawned processes, each pinned to a core before it imports anything.

    A process that dies is replaced and its trials run again; a trial that takes down three
    processes is given up as failed.
    """
    available = cores()
    pool = [_Worker(available[i % len(available)]) for i in range(n_workers)]
    inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
    outbox: queue.SimpleQueue[tuple[Batch, Finished | Exception | None]] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=worker.attend, args=(recipe, inbox, outbox), daemon=True)
        for worker in pool
    ]
    batches = _Batches(trials)
    n_waiting = 0
    for thread in threads:
        thread.start()
    try:
        while True:
            while n_waiting < 2 * n_workers and (batch := batches.take()):
                inbox.put(batch)
                n_waiting += 1
            if not n_waiting:
                return
            batch, reply = outbox.get()
            n_waiting -= 1
            if isinstance(reply, Exception):
                raise reply
            if reply is None:
                reply = (describe_machine(), batches.lose(batch, "the process running it died"))
            else:
                batches.learn(reply[1])
            yield reply
    finally:
        for _ in threads:
            inbox.put(None)
        for worker in pool:
            worker.is_closing = True
        while any(thread.is_alive() for thread in threads):
            for worker in pool:
                worker.kill()
            for thread in threads:
                thread.join(0.05)
        for worker in pool:
            worker.kill()
            worker.end()


def run_on_dask(recipe: Recipe, trials: Iterator[Trial], *, address: Any) -> Iterator[Finished]:
    """Yields outcomes from a Dask cluster; workers may join and leave meanwhile.

    Args:
        recipe: how workers make the function.
        trials: what to run.
        address: of the scheduler (`tcp://host:8786`), or a `distributed.Client`.
    """
    from distributed import Client, as_completed
    from distributed.scheduler import KilledWorker

    own = not isinstance(address, Client)
    client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False) if own else address
    batches = _Batches(trials)
    waiting: dict[Any, Batch] = {}
    finished = as_completed(loop=client.loop)
    capacity, asked = 2, -1.0
    try:
        while True:
            if time.monotonic() - asked > 1:
                capacity, asked = max(2, 2 * sum(client.nthreads().values())), time.monotonic()
            while len(waiting) < capacity and (batch := batches.take()):
                future = client.submit(_run_single_threaded, recipe, batch, pure=False)
                waiting[future] = batch
                finished.add(future)
            if not waiting:
                return
            future = next(finished)
            batch = waiting.pop(future)
            try:
                reply: Finished = future.result()
            except KilledWorker:
                reply = (describe_machine(), batches.lose(batch, "the workers running it died"))
            else:
                batches.learn(reply[1])
            yield reply
    finally:
        with contextlib.suppress(Exception):
            client.cancel(list(waiting))
        if own:
            client.close()


def _run_single_threaded(recipe: Recipe, batch: Batch) -> Finished:
    for name, value in ONE_THREAD.items():
        os.environ.setdefault(name, value)
    with one_blas_thread():
        return run_batch(recipe, batch)


class _Batches:
    """Groups trials so that a batch is worth a message, and takes back those that got lost."""

    def __init__(self, trials: Iterator[Trial]):
        self._trials = trials
        self._again: deque[Trial] = deque()
        self._losses: dict[str, int] = {}
        self._size = 1

    def take(self) -> Batch:
        """Returns the next trials to run, none when all are taken."""
        if self._again:
            return [self._again.popleft()]
        return list(itertools.islice(self._trials, self._size))

    def learn(self, outcomes: list[Outcome]) -> None:
        """Sizes the next batches by how long these took."""
        seconds = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
        wanted = int(_BATCH_SECONDS / max(seconds, 1e-6))
        self._size = max(1, min(wanted, 2 * self._size, _LARGEST_BATCH))

    def lose(self, batch: Batch, reason: str) -> list[Outcome]:
        """Queues lost trials again, alone; returns outcomes for those lost too often."""
        given_up = []
        for trial in batch:
            losses = self._losses[trial.id] = self._losses.get(trial.id, 0) + 1
            # In a batch it is not known which trial did it: only losses alone condemn.
            if losses >= _LARGEST_LOSS and len(batch) == 1:
                status = failure(f"{reason}, {losses} times")
                given_up.append(Outcome(trial, {}, {}, status, 0.0))
            else:
                self._again.append(trial)
        return given_up


class _Worker:
    """A process that runs batches, restarted when it dies; one thread of ours attends to it."""

    def __init__(self, core: int):
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None
        self.is_closing = False

    def attend(self, recipe: Recipe, inbox: Any, outbox: Any) -> None:
        """Feeds batches to the process until None arrives."""
        while (batch := inbox.get()) is not None and not self.is_closing:
            try:
                outbox.put((batch, self._run(recipe, batch)))
            except Exception as error:
                outbox.put((batch, error))

    def kill(self) -> None:
        """Ends the process at once."""
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()

    def _run(self, recipe: Recipe, batch: Batch) -> Finished | None:
        if self._process is None:
            self._process = self._start(recipe)
        try:
            _send(self._process, batch)
            answer, content = _receive(self._process)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.end()
            return None
        if answer == "error":
            raise RuntimeError(f"a worker process could not run the study: {content}")
        return content

    def _start(self, recipe: Recipe) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **ONE_THREAD}
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        # Several processes on one accelerator would fight for its memory.
        environment.setdefault("JAX_PLATFORMS", "cpu")
        command = [sys.executable, "-c", "from recollect.study._worker import main; main()"]
        false_starts = 0.0
        while false_starts < _LARGEST_FALSE_START:
            self._process = subprocess.Popen(
                [*command, str(self._core)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            if self.is_closing:
                raise RuntimeError("the run is over")
            try:
                _send(self._process, recipe)
                answer, content = _receive(self._process)
            except (EOFError, OSError, pickle.UnpicklingError):
                code = self.end()
                # A process that something else killed says little about the next one.
                false_starts += 0.1 if code is not None and code < 0 else 1
                continue
            if answer == "error":
                raise RuntimeError(f"a worker process could not load the study: {content}")
            return self._process
        raise RuntimeError("worker processes die while starting; what they said is above")

    def end(self) -> int | None:
        """Returns the exit code of the process, killed if it has not ended by itself."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        return process.wait()


def _send(process: subprocess.Popen[bytes], message: Any) -> None:
    pickle.dump(message, process.stdin)  # type: ignore[arg-type]
    process.stdin.flush()  # type: ignore[union-attr]


def _receive(process: subprocess.Popen[bytes]) -> tuple[str, Any]:
    return pickle.load(process.stdout)  # type: ignore[arg-type]
