"""The papers' figures, run through the ledger and judged."""

from __future__ import annotations

import dataclasses
import importlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recollect._core._check import did_you_mean, invalid
from recollect._core._files import write_whole
from recollect._core._json import as_json
from recollect._core._status import Status
from recollect.study._claims import Verdict, weigh
from recollect.study._executors import require_executor
from recollect.study._ledger import Ledger, LedgerError
from recollect.study._results import export, to_xarray
from recollect.study._run import judge, run
from recollect.study._study import Study
from recollect.study.catalogue import ENTRIES, QUICK_SECONDS

VERDICTS_SCHEMA = "recollect.verdicts"


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What became of one catalogue entry.

    Args:
        verdicts: on its claims.
        name: of the entry.
        folder: where its figure, data and ledger are.
        study: what was run.
        quick: whether that was the smaller grid.
        n_failed: trials that failed.
        seconds: computing time of its trials, in earlier runs too.
        status: `failed` if it could not be run, its figure not drawn or a claim not computed.
    """

    verdicts: tuple[Verdict, ...]
    name: str
    folder: Path
    study: Study
    quick: bool
    n_failed: int
    seconds: float
    status: Status = Status()

    @property
    def is_over_budget(self) -> bool:
        """Whether a quick run took more computing than the catalogue allows one figure."""
        return self.quick and self.seconds > QUICK_SECONDS

    def draw(self, figure: Any) -> None:
        """Fills a matplotlib figure from the entry's ledger."""
        catalogue_entry(self.name).draw(figure, to_xarray(self.folder / "ledger.sqlite"))


def catalogue_entry(name: str) -> Any:
    """Returns one entry of the catalogue: a module with `build_study(quick=…)` and `draw(figure, results)`.

    Args:
        name: as `recollect reproduce --list` prints it.

    Raises:
        ValueError: for a name the catalogue does not have.
    """
    if name not in ENTRIES:
        raise invalid(
            "name", "one of " + ", ".join(ENTRIES), repr(name), did_you_mean(name, ENTRIES)
        )
    return importlib.import_module(ENTRIES[name])


def reproduce(
    names: Sequence[str] = (),
    *,
    out: str | Path,
    quick: bool = False,
    n_workers: int = 0,
    scheduler: Any = None,
    begin: Callable[[str], None] | None = None,
) -> tuple[Reproduction, ...]:
    """Returns the verdicts on published claims, after running the studies behind them.

    Each entry gets a folder with `ledger.sqlite`, `data.nc`, `data.csv` and `figure.svg`;
    `verdicts.json` lists the verdicts on all entries the folder holds, those of earlier calls too.
    Run again with the same folder, only what is missing runs. An entry whose ledger is damaged, or
    in the hands of another driver, is undecided, and the others go on.

    Args:
        names: entries of the catalogue; none means all of them.
        out: folder, made if it is not there.
        quick: smaller grids that show the same claims.
        n_workers: as for `run`.
        scheduler: as for `run`.
        begin: called with each name before it starts.

    Raises:
        ValueError: for a name the catalogue does not have, or workers or a scheduler that cannot be
            used; before anything is made.
    """
    finished, _ = run_entries(
        names, out=out, quick=quick, n_workers=n_workers, scheduler=scheduler, begin=begin
    )
    return finished


def run_entries(
    names: Sequence[str],
    *,
    out: str | Path,
    quick: bool,
    n_workers: int,
    scheduler: Any,
    begin: Callable[[str], None] | None,
) -> tuple[tuple[Reproduction, ...], tuple[Reproduction, ...]]:
    """Returns what `reproduce` does, and every entry that the folder then holds."""
    for name in names:
        catalogue_entry(name)
    require_executor(n_workers, scheduler)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    finished = []
    for name in names or ENTRIES:
        if begin is not None:
            begin(name)
        finished.append(
            _reproduce_one(name, out / name, quick, n_workers=n_workers, scheduler=scheduler)
        )
    held = read_reproductions(out, fresh=finished)
    write_whole(out / "verdicts.json", (as_json(verdict_record(held)) + "\n").encode())
    return tuple(finished), held


def read_reproductions(
    out: str | Path, *, fresh: Sequence[Reproduction] = ()
) -> tuple[Reproduction, ...]:
    """Returns what a folder of `reproduce` holds, judged anew, in the catalogue's order; runs nothing.

    An entry without a finished trial is left out, and so, with a warning, is one whose ledger is
    damaged or holds a grid that is no longer the catalogue's.

    Args:
        out: the folder `reproduce` was given.
        fresh: taken as they are, instead of being read.
    """
    known = {entry.name: entry for entry in fresh}
    found = (known.get(name) or _read_one(name, Path(out) / name) for name in ENTRIES)
    return tuple(entry for entry in found if entry is not None)


def verdict_record(reproductions: Sequence[Reproduction]) -> dict[str, Any]:
    """Returns the verdict list as a JSON object."""
    return {
        "schema": VERDICTS_SCHEMA,
        "version": 1,
        "unit": "s",
        "verdicts": [
            {"entry": entry.name, "quick": entry.quick, **verdict.record()}
            for entry in reproductions
            for verdict in entry.verdicts
        ],
    }


def _reproduce_one(
    name: str, folder: Path, quick: bool, *, n_workers: int, scheduler: Any
) -> Reproduction:
    folder.mkdir(exist_ok=True)
    ledger = folder / "ledger.sqlite"
    entry = catalogue_entry(name)
    study: Study = entry.build_study(quick=quick)
    try:
        run(study, ledger, n_workers=n_workers, scheduler=scheduler)
        for suffix in (".nc", ".csv"):
            export(ledger, folder / f"data{suffix}", overwrite=True)
    except (LedgerError, BlockingIOError) as error:  # the other entries have ledgers of their own
        return _not_run(name, folder, study, quick, str(error))
    try:
        write_whole(folder / "figure.svg", _svg(entry.draw, to_xarray(ledger), name))
    except Exception as error:  # the other entries and this one's verdicts are still worth having
        status = Status("failed", f"the figure was not drawn: {type(error).__name__}: {error}")
        return _judged(name, folder, study, quick, status)
    return _judged(name, folder, study, quick)


def _read_one(name: str, folder: Path) -> Reproduction | None:
    ledger = folder / "ledger.sqlite"
    if not ledger.exists():
        return None
    try:
        with Ledger(ledger, must_exist=True) as book:
            plan, counts = book.plan(), book.count()
        if counts["missing"] == counts["planned"]:
            return None
        for quick in (False, True):
            study: Study = catalogue_entry(name).build_study(quick=quick)
            if plan == [trial.id for trial in study.trials()]:
                return _judged(name, folder, study, quick)
        message = f"the grid in {str(ledger)!r} is no longer the catalogue's: run {name} again"
    except LedgerError as error:
        message = str(error).removeprefix("ledger: ")
    warnings.warn(f"ledger: {name} is left out: {message}", stacklevel=4)
    return None


def _judged(
    name: str, folder: Path, study: Study, quick: bool, status: Status = Status()
) -> Reproduction:
    ledger = folder / "ledger.sqlite"
    verdicts = judge(study, ledger)
    with Ledger(ledger, must_exist=True) as book:
        seconds, n_failed = book.seconds(), book.count().get("failed", 0)
    broken = [verdict.status for verdict in verdicts if not verdict.status.is_ok]
    if status.is_ok and broken:
        status = Status("failed", f"a claim cannot be computed: {broken[0].message}")
    return Reproduction(verdicts, name, folder, study, quick, n_failed, seconds, status)


def _not_run(name: str, folder: Path, study: Study, quick: bool, why: str) -> Reproduction:
    verdicts = tuple(
        weigh(claim, None, figure=study.figure, paper=study.paper, seconds=0.0, gaps=why)
        for claim in study.claims
    )
    return Reproduction(verdicts, name, folder, study, quick, 0, 0.0, Status("failed", why))


def _svg(draw: Callable[[Any, Any], None], results: Any, name: str) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text, and the same data give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        draw(figure, results)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
