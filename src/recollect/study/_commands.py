"""`recollect study …`: parses and calls."""

from __future__ import annotations

import contextlib
import os
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from recollect._core import _json

study_app = typer.Typer(
    name="study",
    help="Run sweeps: a file says what to try, a ledger keeps it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_Ledger = Annotated[
    Path | None, typer.Option("--ledger", help="SQLite file. Default: FILE with suffix .sqlite.")
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Processes, each on one core. 0: this process.")
]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", help="Dask scheduler, such as tcp://host:8786.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
_Source = Annotated[Path, typer.Argument(help="A study file (.py) or a ledger.")]


@study_app.command("run")
def run_command(
    file: Annotated[Path, typer.Argument(help="Python file that defines a Study.")],
    ledger: _Ledger = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed trials again.")] = False,
    as_json: _Json = False,
) -> None:
    """Run what the ledger lacks; safe to interrupt and to repeat."""
    take_the_process(workers, scheduler)
    from recollect.study import judge, load_study, run

    study = load_study(file)
    path = ledger or file.with_suffix(".sqlite")
    with words_on_stderr():
        completion = run(study, path, n_workers=workers, scheduler=scheduler, retry_failed=retry)
    verdicts = judge(study, path)
    if as_json:
        _print_json(
            "recollect.study_run",
            {
                "study": study.name,
                "trials": completion.n_trials,
                "run": completion.n_run,
                "counts": completion.counts,
                "seconds": completion.seconds,
                "status": completion.status.record(),
                "verdicts": [verdict.record() for verdict in verdicts],
            },
        )
    else:
        typer.echo(
            f"{study.name}: {completion.n_run} of {completion.n_trials} trials run in "
            f"{completion.seconds:.1f} s, {completion.n_failed} failed"
        )
        if completion.n_failed:
            _print_first_failure(path, file if ledger is None else ledger)
        print_verdicts(verdicts)
        typer.echo(f"ledger: {path}")
    if completion.n_failed or not all(verdict.status.is_ok for verdict in verdicts):
        raise typer.Exit(1)


@study_app.command("status")
def status_command(source: _Source, ledger: _Ledger = None, as_json: _Json = False) -> None:
    """Say how many trials are done, missing and failed."""
    from recollect.study import Ledger

    path = _ledger_of(source, ledger)
    with Ledger(path, must_exist=True) as book:
        name, counts, seconds = book.description().get("name", ""), book.count(), book.seconds()
        failed = list(_failed_trials(book)) if counts.get("failed") else []
    if as_json:
        record = {"study": name, "counts": counts, "seconds": seconds, "failed": failed}
        _print_json("recollect.study_status", record)
        return
    words = ", ".join(f"{number} {key.replace('_', ' ')}" for key, number in counts.items())
    typer.echo(f"{name}: {words} ({seconds:.1f} s of computing)")
    for entry in failed[:10]:
        typer.echo(_failure(entry))
    if len(failed) > 10:
        typer.echo(f"  and {len(failed) - 10} more (--json lists them)")


@study_app.command("results")
def results_command(source: _Source, ledger: _Ledger = None, as_json: _Json = False) -> None:
    """Print one line per trial; arrays are in `export`ed .nc files."""
    from recollect.study import Ledger

    path = _ledger_of(source, ledger)
    with Ledger(path, must_exist=True) as book:
        units = book.description().get("units", {})
        records = (
            {
                "parameters": row.parameters,
                "seed": row.seed,
                "metrics": row.metrics,
                "status": row.status.record(),
                "seconds": row.seconds,
            }
            for row in book.rows(with_arrays=False)
        )
        if as_json:
            _print_json("recollect.study_results", {"units": units, "trials": list(records)})
            return
        for record in records:
            values = {**record["parameters"], "seed": record["seed"], **record["metrics"]}
            line = "  ".join(f"{key}={_short(value)}" for key, value in values.items())
            status = record["status"]
            typer.echo(
                line
                if status["code"] == "ok"
                else f"{line}  [{status['code']}: {status['message']}]"
            )


@study_app.command("export")
def export_command(
    source: _Source,
    out: Annotated[
        Path, typer.Option("--out", help="results.nc (everything) or results.csv (no arrays).")
    ],
    ledger: _Ledger = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier file.")] = False,
) -> None:
    """Write the results as NetCDF or CSV."""
    from recollect.study import Ledger, export

    path = _ledger_of(source, ledger)
    typer.echo(str(export(path, out, overwrite=force)))
    if out.suffix == ".csv":
        with Ledger(path, must_exist=True) as book:
            names = book.array_names()
        if names:
            left_out = f"{', '.join(names)}: arrays are left out of a .csv; export to .nc for them"
            typer.echo(f"note: {left_out}", err=True)


def take_the_process(workers: int, scheduler: str | None) -> None:
    # Here the process is ours: one XLA thread, so that results are those of the workers.
    if not workers and scheduler is None:
        os.environ.setdefault("NPROC", "1")


def _ledger_of(source: Path, ledger: Path | None) -> Path:
    if source.suffix != ".py":
        return ledger or source
    from recollect.study import Ledger, load_study

    path = ledger or source.with_suffix(".sqlite")
    with Ledger(path, must_exist=True) as book:
        book.require_study(load_study(source).name)
    return path


def _failed_trials(book: Any) -> Iterator[dict[str, Any]]:
    return (
        {"parameters": row.parameters, "seed": row.seed, "message": row.status.message}
        for row in book.rows(with_arrays=False)
        if row.status.code == "failed"
    )


def _failure(entry: dict[str, Any]) -> str:
    return f"  failed: {entry['parameters']} seed {entry['seed']}: {entry['message']}"


def _print_first_failure(path: Path, source: Path) -> None:
    from recollect.study import Ledger

    with Ledger(path, must_exist=True) as book:
        typer.echo(_failure(next(iter(_failed_trials(book)))))
    command = f"recollect study status {shlex.quote(str(source))}"
    typer.echo(f"  see `{command}`; `run --retry` runs failed trials again")


def print_verdicts(verdicts: Any) -> None:
    for verdict in verdicts:
        typer.echo(
            f"  {verdict.verdict}: {verdict.claim} (expected {_expected(verdict)}, "
            f"measured {_short(verdict.measured)}; {verdict.reason})"
        )


def _expected(verdict: Any) -> str:
    relation = "" if verdict.relation == "equal" else f"{verdict.relation.replace('_', ' ')} "
    tolerance = f" ± {_short(verdict.tolerance)}" if verdict.tolerance else ""
    return f"{relation}{_short(verdict.expected)}{tolerance}"


def _print_json(schema: str, content: dict[str, Any]) -> None:
    record = {"schema": schema, "version": 1, "unit": "s", **content}
    typer.echo(_json.as_json(record))


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def words_on_stderr() -> Iterator[None]:
    plain = warnings.showwarning

    def show(message: Any, category: Any, *rest: Any, **more: Any) -> None:
        if str(message).startswith("ledger:"):
            typer.echo(f"note: {message}", err=True)
        else:
            plain(message, category, *rest, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
