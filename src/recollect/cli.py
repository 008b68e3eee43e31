"""The command line: parses and calls, no logic.

Nothing heavy is imported before a command has its arguments: `--help` and bad input answer at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from recollect.study._commands import (
    Scheduler,
    Workers,
    print_verdicts,
    study_app,
    take_the_process,
    words_on_stderr,
)

app = typer.Typer(
    name="recollect",
    help="How long does a system remember, how wide must a recurrent network be, and where to start.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(study_app, name="study")


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        print(f"recollect {importlib.metadata.version('recollect')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace the output directory if it exists.")]


@app.command()
def diagnose(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="CSV, NPZ or Parquet file.")],
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            help="Input column, or FILE:COLUMN. Repeat for several.  [required]",
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", help="Output column. Repeat for several.  [required]"),
    ] = None,
    test_input: Annotated[
        list[str] | None, typer.Option(help="Input column of a separate test record.")
    ] = None,
    test_output: Annotated[
        list[str] | None, typer.Option(help="Output column of a separate test record.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Column of time stamps: numbers or dates, regular or not.")
    ] = None,
    dt: Annotated[
        str | None, typer.Option(help="Time step of regular rows, such as 4s or 15min.")
    ] = None,
    gaps: Annotated[
        str, typer.Option(help="Empty cells, missing rows: refuse, interpolate, or split there.")
    ] = "refuse",
    output_at: Annotated[
        str,
        typer.Option(
            help="An output stands at its row's end, or at its start: read together with the input."
        ),
    ] = "end",
    test_fraction: Annotated[
        float,
        typer.Option(
            help="Share of the record held out at its end when no test columns are given."
        ),
    ] = 0.25,
    test_start: Annotated[
        str, typer.Option(help="State at the start of the test columns: same as training, or rest.")
    ] = "same",
    width: Annotated[
        int | None, typer.Option(help="Width of the network; chosen from the data if not given.")
    ] = None,
    nonlinear: Annotated[
        bool, typer.Option("--nonlinear", help="Also fit a nonlinear network (minutes).")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory to write; recollect-NAME if not given.")
    ] = None,
    force: _Force = False,
    json: _Json = False,
) -> None:
    """From measured data to verdict to network.

    Answers how long the system remembers, how much of it a linear map explains and how wide a
    recurrent network must be; writes a page, a JSON record and the network.

    Example: recollect diagnose tanks.csv --input pump --output level --dt 4s
    """
    from recollect.diagnosis import _outputs, _table
    from recollect.diagnosis._measurements import read_measurements

    _table.require_file(data)
    directory = _outputs.plan_directory(out or Path(f"recollect-{data.stem}"), force=force)
    measurements = read_measurements(
        data,
        inputs=input or (),
        outputs=output or (),
        test_inputs=test_input or (),
        test_outputs=test_output or (),
        time=time,
        dt=dt,
        gaps=gaps,
        output_at=output_at,
        test_fraction=test_fraction,
        test_start=test_start,
    )
    from recollect.report import write_diagnosis

    with _progress(json) as progress:
        from recollect.diagnosis import diagnose as run

        diagnosis = run(measurements, width=width, nonlinear=nonlinear, progress=progress)
        progress("writing the report")
        write_diagnosis(diagnosis, directory, force=force)
    _show(diagnosis, directory, json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory to write.")] = Path("recollect-demo"),
    force: _Force = False,
    json: _Json = False,
) -> None:
    """Run the main job on an example: two simulated tanks."""
    from recollect.diagnosis import _outputs

    directory = _outputs.plan_directory(out, force=force)
    from recollect.diagnosis import demonstrate
    from recollect.report import write_diagnosis

    with _progress(json) as progress:
        diagnosis, table = demonstrate(progress=progress)
        progress("writing the report")
        write_diagnosis(diagnosis, directory, force=force, table=table)
    _show(diagnosis, directory, json)


@app.command()
def fit(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="KERNEL|FILE", help="Expression in t, or a CSV or NPZ of (t, kernel)."
        ),
    ],
    width: Annotated[int | None, typer.Option(help="Number of hidden units.")] = None,
    error: Annotated[
        float | None,
        typer.Option(
            help="Error to reach in the norm, an integral over all lags. From a file: mean (l1), "
            "root mean square (l2) or largest over the samples; relative with --weights relative."
        ),
    ] = None,
    norm: Annotated[
        str, typer.Option(help="l1 (operator norm), l2 (the default in Python) or linf.")
    ] = "l1",
    weights: Annotated[str, typer.Option(help="absolute or relative errors.")] = "absolute",
    positive: Annotated[bool, typer.Option("--positive", help="Positive amplitudes only.")] = False,
    real: Annotated[bool, typer.Option("--real", help="Real rates only.")] = False,
    constant: Annotated[
        bool, typer.Option("--constant", help="Add a constant: the value at infinity.")
    ] = False,
    lag: Annotated[
        str | None, typer.Option(help="Column of the lags in a file; the first if not given.")
    ] = None,
    value: Annotated[
        str | None, typer.Option(help="Column of the kernel in a file of more than two.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Write the network: MODEL.safetensors, MODEL.json."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Also write the sum as a Prony table (CSV).")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the network and the table if they exist.")
    ] = False,
    json: _Json = False,
) -> None:
    """Turn a memory kernel into the best network of a given width.

    An existing file wins over an expression. One that starts with a minus sign comes last, after
    `--`. From a file --width and --error may both be left out: the noise then sets the width, and
    without noise an error of 1e-8 of the largest sample does.

    Example: recollect fit "(1+t)**-1.5" --width 8 --norm l1
    """
    from recollect.diagnosis import _fit_command

    _fit_command.require_request(
        kernel, width=width, error=error, norm=norm, weights=weights, lag=lag, value=value
    )
    if out is not None:
        _fit_command.plan_model(out, force=force)
    if table is not None:
        from recollect.diagnosis import _outputs

        _outputs.plan_file(table, option="--table", force=force)
    with _progress(json) as progress:
        result = _fit_command.fit_text(
            kernel,
            width=width,
            error=error,
            norm=norm,
            weights=weights,
            positive=positive,
            real=real,
            constant=constant,
            lag=lag,
            value=value,
            progress=progress,
        )
    if json:
        print(_fit_command.as_json(result, saved=out))
    else:
        print(_fit_command.summary(result, constant=constant, saved=out))
    if out is not None:
        _fit_command.write_model(result, out)
    if table is not None:
        _fit_command.write_table(result, table)


@app.command()
def measure(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="module:attribute, file.py:attribute, or a saved model."
        ),
    ],
    dt: Annotated[
        str, typer.Option(help="Time step of the model's signals: a number, or such as 5min.")
    ] = "1",
    horizon: Annotated[
        float | None,
        typer.Option(help="Longest lag; if not given, one by which the memory is settled."),
    ] = None,
    inputs: Annotated[
        int | None, typer.Option(help="Input channels of a callable that does not say.")
    ] = None,
    trained_on: Annotated[
        float | None, typer.Option(help="Length of the training sequences, to compare with.")
    ] = None,
    normalisation: Annotated[
        str, typer.Option(help="gain (per unit input) or bounded (per 1 + input).")
    ] = "gain",
    largest_input: Annotated[
        float, typer.Option(help="Largest step tried in the search for the memory.")
    ] = 1e3,
    settle: Annotated[
        float | None,
        typer.Option(
            help="Silence before the probes; until at rest if not given, 0: from the start."
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="Name of the unit of time; that of --dt or the saved model, or steps."),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="HTML page to write as well.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the page if it exists.")] = False,
    json: _Json = False,
) -> None:
    """Measure a model: memory, time scales, distance to instability.

    An existing file wins over a module. Takes our models, any NumPy callable (time, in) to (time,
    out), and torch modules; a function without arguments is called to make the model: one that
    builds a network and loads its weights, say.

    Example: recollect measure my_package.models:gru --trained-on 500
    """
    from recollect.diagnosis import _measure_command

    if page is not None:
        from recollect.diagnosis import _outputs

        _outputs.plan_file(page, force=force)
    named = _measure_command.read_named(
        model,
        dt=dt,
        unit=unit,
        settle=settle,
        horizon=horizon,
        trained_on=trained_on,
        largest_input=largest_input,
    )
    with _progress(json) as progress:
        report = _measure_command.measure_named(
            named,
            horizon=horizon,
            n_inputs=inputs,
            trained_on=trained_on,
            normalisation=normalisation,
            largest_input=largest_input,
            settle=settle,
            progress=progress,
        )
    if page is not None:
        from recollect.report import write_model_page

        write_model_page(report, page, force=force)
    print(_measure_command.as_json(report) if json else "\n".join(report.summary()))


@app.command()
def budget(
    risk: Annotated[
        float, typer.Option(help="Risk to guarantee: mean over sequences, sum over time.")
    ],
    samples: Annotated[int, typer.Option(help="Number of training sequences.")],
    length: Annotated[int, typer.Option(help="Samples in each sequence.")],
    nu: Annotated[float, typer.Option(help="Size of the target's transport map.")],
    alpha: Annotated[float, typer.Option(help="Recurrent weights at the start, ±alpha.")] = 0.5,
    delta: Annotated[float, typer.Option(help="Probability of failure.")] = 0.05,
    method: Annotated[str, typer.Option(help="projected, average, sgd or plain.")] = "projected",
    json: _Json = False,
) -> None:
    """Say which width and how many steps guarantee a risk.

    Beside the guarantee stands what a run here measures. Diagonal tanh networks, fixed readout,
    paired start, inputs of norm at most 1.

    Example: recollect budget --risk 1e-4 --samples 8 --length 5 --nu 0.3
    """
    from recollect.diagnosis import _budget_command

    with _progress(json) as progress:
        report = _budget_command.plan_budget(
            risk=risk,
            n_samples=samples,
            horizon=length,
            nu=nu,
            alpha=alpha,
            delta=delta,
            method=method,
            progress=progress,
        )
    print(_budget_command.as_json(report) if json else "\n".join(report.summary()))


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Catalogue entries; none: all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller grids, same claims.")] = False,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the page, figures, data and verdicts.")
    ] = Path("recollect-reproduction"),
    workers: Workers = 0,
    scheduler: Scheduler = None,
    show_list: Annotated[bool, typer.Option("--list", help="Name the entries and stop.")] = False,
    json: _Json = False,
) -> None:
    """Reproduce the papers' figures, with a verdict on each claim.

    Runs their studies, draws them, judges each claim and writes one page. Safe to interrupt and to repeat: with the same folder only what is missing runs.

    Example: recollect reproduce curse-map --quick
    """
    from recollect.study.catalogue import ENTRIES

    if show_list:
        print("\n".join(ENTRIES))
        return
    take_the_process(workers, scheduler)
    from recollect.report import verdicts_json
    from recollect.report._reproduction_page import write_page
    from recollect.study._reproduce import run_entries

    def begin(name: str) -> None:
        if sys.stderr.isatty():
            print(name, file=sys.stderr)

    with words_on_stderr():
        done, held = run_entries(
            names or (), out=out, quick=quick, n_workers=workers, scheduler=scheduler, begin=begin
        )
    page = write_page(held, out)
    if json:
        print(verdicts_json(done))
    else:
        for entry in done:
            over = " (over its budget)" if entry.is_over_budget else ""
            print(f"{entry.name}: {entry.seconds:.0f} s of computing{over}, {entry.folder}")
            if not entry.status.is_ok:
                print(f"  {entry.status.code}: {entry.status.message}")
            print_verdicts(entry.verdicts)
        print(f"page: {page}")
    if any(entry.n_failed or not entry.status.is_ok for entry in done):
        raise typer.Exit(1)


def _show(diagnosis, directory: Path, json: bool) -> None:
    from recollect.report import diagnosis_json, diagnosis_summary

    if json:
        print(diagnosis_json(diagnosis))
    else:
        print(diagnosis_summary(diagnosis))
        print(f"report: {directory / 'report.html'}")


def _progress(quiet: bool):
    from recollect.report._progress import progress_on

    return progress_on(sys.stderr if sys.stderr.isatty() and not quiet else None)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        code = int(app(args=arguments, standalone_mode=False) or 0)
        return _say_interrupted() if code == 130 else code  # typer takes Ctrl-C for an exit
    except (KeyboardInterrupt, typer.Abort):
        return _say_interrupted()
    except BrokenPipeError:
        # The reader of our output has gone: point stdout elsewhere so that exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except typer.Exit as done:
        return done.exit_code
    except Exception as error:
        if os.environ.get("RECOLLECT_TRACEBACK"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            return 2
        is_usage_error = hasattr(error, "format_message")
        message = error.format_message() if is_usage_error else _words_of(error)  # type: ignore[attr-defined]
        given = sys.argv[1:] if arguments is None else arguments
        if is_usage_error and any(a.startswith("-") and "(" in a for a in given):
            message += "; an expression that starts with a minus sign comes last, after --"
        print(f"error: {' '.join(message.split()) or type(error).__name__}", file=sys.stderr)
        return 2 if is_usage_error or _is_refusal(error) else 1


def _say_interrupted() -> int:
    print("error: interrupted; results already written are kept", file=sys.stderr)
    return 130


def _is_refusal(error: Exception) -> bool:
    from numpy.linalg import LinAlgError  # a ValueError, but a computation that failed

    is_refusal = isinstance(error, (ValueError, TypeError, OSError))
    return is_refusal and not isinstance(error, LinAlgError)


def _words_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f" ({os.fspath(error.filename)!r})" if isinstance(error.filename, str) else ""
        return f"the system refused: {error.strerror}{where}"
    return str(error)


if __name__ == "__main__":
    main()
