"""Sweeps that survive anything: grid, ledger, executors, catalogue."""

from recollect.study._chunks import read_chunks
from recollect.study._claims import Claim, Verdict
from recollect.study._grid import (
    Grid,
    choice,
    integers,
    log_uniform,
    points,
    product,
    sampled,
    uniform,
    zipped,
)
from recollect.study._ledger import Ledger, Row
from recollect.study._reproduce import (
    Reproduction,
    catalogue_entry,
    read_reproductions,
    reproduce,
)
from recollect.study._results import export, to_xarray
from recollect.study._run import Completion, judge, run
from recollect.study._study import Study, Trial, load_study

__all__ = [
    "Claim",
    "Completion",
    "Grid",
    "Ledger",
    "Reproduction",
    "Row",
    "Study",
    "Trial",
    "Verdict",
    "catalogue_entry",
    "choice",
    "export",
    "integers",
    "judge",
    "load_study",
    "log_uniform",
    "points",
    "product",
    "read_chunks",
    "read_reproductions",
    "reproduce",
    "run",
    "sampled",
    "to_xarray",
    "uniform",
    "zipped",
]
