"""Runs a study: plans what is missing, hands it to an executor, commits what comes back."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recollect._core._check import wrong_type
from recollect._core._status import Status
from recollect.study._claims import Verdict, weigh
from recollect.study._executors import (
    require_executor,
    run_here,
    run_in_processes,
    run_on_dask,
)
from recollect.study._ledger import Ledger
from recollect.study._results import to_xarray
from recollect.study._study import Study, Trial, is_loading, write_recipe
from recollect.study._trial import make_call


@dataclasses.dataclass(frozen=True)
class Completion:
    """How a run of a study ended.

    Args:
        n_trials: trials of the study.
        n_run: trials run this time; the others were in the ledger.
        n_failed: trials that raised or were lost, this time or earlier.
        seconds: wall time of this run.
        status: `failed` if any trial failed, otherwise ok.
        counts: numbers of trials per status.
    """

    n_trials: int
    n_run: int
    n_failed: int
    seconds: float
    status: Status
    counts: dict[str, int]


def run(
    study: Study,
    ledger: str | Path,
    *,
    n_workers: int = 0,
    scheduler: Any = None,
    retry_failed: bool = False,
    report: Callable[[int, int, int], None] | None = None,
) -> Completion:
    """Returns how the run ended, after running every trial that the ledger does not hold yet.

    Interrupted in any way (Ctrl-C, kill -9, a full disk), it loses at most the work of the last
    moments; call it again to go on. Results do not depend on where trials run.

    Args:
        study: what to run.
        ledger: the SQLite file, on a local disk; made if it is not there.
        n_workers: 0 runs trials in this process; otherwise the number of processes, each pinned
            to a core with one BLAS thread.
        scheduler: address of a Dask scheduler, or a `distributed.Client`, instead of `n_workers`.
        retry_failed: also run again the trials that raised or were lost.
        report: called with (done, total, failed) now and then; by default a progress line on
            standard error if that is a terminal.

    Raises:
        ValueError: for a study, grid or ledger that cannot be used, such as one that holds another
            study (by name); before any trial runs.
        BlockingIOError: if another driver runs this study.
        OSError: if the disk is full.

    Assumptions:
        Bit-identical results on equal hardware; in this process, JAX's own thread pool is as the
        program has set it up, and very long reductions (1e5 terms) may differ in the last bit.
    """
    if not isinstance(study, Study):
        raise wrong_type("study", "a Study", repr(study))
    require_executor(n_workers, scheduler)
    if is_loading():
        raise RuntimeError(
            "run: expected to be called by the driver only, got a call while a study file is loaded; "
            "put it under `if __name__ == '__main__':`"
        )
    started = time.perf_counter()
    execute = _choose_executor(study, n_workers, scheduler)
    with Ledger(ledger) as book:
        book.require_study(study.name)
        book.acquire()
        book.describe(describe(study), (trial.id for trial in study.trials()))
        missing = book.missing(retry_failed=retry_failed)
        counts = book.count()
        done, n_failed = (
            study.n_trials - len(missing),
            0 if retry_failed else counts.get("failed", 0),
        )
        with _progress(study.name, report) as show:
            show(done, study.n_trials, n_failed)
            batches = execute(study.trial(position) for position in missing)
            with contextlib.closing(batches):
                for environment, outcomes in batches:
                    book.commit(
                        outcomes,
                        environment,
                        function=study.function_name,
                        revision=study.revision,
                    )
                    done += len(outcomes)
                    n_failed += sum(outcome.status.code == "failed" for outcome in outcomes)
                    show(done, study.n_trials, n_failed)
        counts = book.count()
    if counts["missing"]:
        raise RuntimeError(f"run: {counts['missing']} trials came back from no worker; run again")
    status = Status()
    if n_failed:
        status = Status("failed", f"{n_failed} of {study.n_trials} trials")
    return Completion(
        n_trials=study.n_trials,
        n_run=len(missing),
        n_failed=n_failed,
        seconds=time.perf_counter() - started,
        status=status,
        counts=counts,
    )


def judge(study: Study, ledger: str | Path) -> tuple[Verdict, ...]:
    """Returns the verdict on each claim of a study.

    A claim is undecided while trials it may rest on are missing, failed or not finite.

    Args:
        study: whose claims.
        ledger: its SQLite file.

    Raises:
        ValueError: if the ledger holds another study.
    """
    if not study.claims:
        return ()
    with Ledger(ledger, must_exist=True) as book:
        book.require_study(study.name)
        counts, seconds = book.count(), book.seconds()
    held = book_gaps(counts)
    results = None if held else to_xarray(ledger)
    return tuple(
        weigh(claim, results, figure=study.figure, paper=study.paper, seconds=seconds, gaps=held)
        for claim in study.claims
    )


def book_gaps(counts: dict[str, int]) -> str:
    """Returns in words which trials are missing, failed or not finite; empty if none are."""
    gaps = {name: counts.get(name, 0) for name in ("missing", "failed", "not_finite")}
    words = [f"{number} {name.replace('_', ' ')}" for name, number in gaps.items() if number]
    return f"of {counts['planned']} trials {', '.join(words)}" if words else ""


def describe(study: Study) -> dict[str, Any]:
    """Returns what the ledger keeps about a study, so that it can be read without its file."""
    axes = study.grid.axes
    return {
        "name": study.name,
        "function": study.function_name,
        "revision": study.revision,
        "axes": None if axes is None else dict(axes),
        "seeds": list(study.seed_values),
        "takes_seed": bool(study.randomness),
        "dimensions": {name: list(dims) for name, dims in study.dimensions.items()},
        "units": dict(study.units),
        "figure": study.figure,
        "paper": study.paper,
    }


def _choose_executor(
    study: Study, n_workers: int, scheduler: Any
) -> Callable[[Iterator[Trial]], Any]:
    if scheduler is not None:
        recipe = write_recipe(study)
        return lambda trials: run_on_dask(recipe, trials, address=scheduler)
    if n_workers:
        recipe = write_recipe(study)
        return lambda trials: run_in_processes(recipe, trials, n_workers=n_workers)
    return lambda trials: run_here(make_call(study.function, study), trials)


@contextlib.contextmanager
def _progress(
    name: str, report: Callable[[int, int, int], None] | None
) -> Iterator[Callable[[int, int, int], None]]:
    if report is not None:
        yield report
        return
    if not sys.stderr.isatty():
        yield lambda done, total, failed: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None, failed=0)
        yield lambda done, total, failed: bar.update(
            task, completed=done, total=total, failed=failed
        )
