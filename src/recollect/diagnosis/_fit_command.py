"""`recollect fit`: a kernel as text or file in, a network as JSON or a few lines out.

Imports nothing heavy at the top: a misspelt norm must be answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect._core import _json
from recollect._core._check import invalid, require_choice, require_count, require_positive
from recollect._core._files import model_files
from recollect._core._table import missing_file
from recollect.diagnosis._outputs import plan_file

if TYPE_CHECKING:
    from recollect.approximation import ExponentialSum

SCHEMA = "recollect.fit"
VERSION = 1


def require_request(
    text: str,
    *,
    width: int | None,
    error: float | None,
    norm: str,
    weights: str,
    lag: str | None = None,
    value: str | None = None,
) -> None:
    """Raises for a request that cannot be met, before anything heavy is imported."""
    # Not by Path: an expression may be longer than any file name.
    path, is_there = Path(text), os.path.exists(text)
    if os.path.isdir(text):
        raise invalid("KERNEL", "an expression or a file", f"the directory {text!r}")
    if not is_there and path.suffix.lower() in (".csv", ".tsv", ".txt", ".dat"):
        raise missing_file("KERNEL", path)
    goals = [goal for goal in (width, error) if goal is not None]
    if len(goals) > 1 or (not goals and not is_there):
        raise invalid("--width, --error", "exactly one of them", "both" if goals else "neither")
    if width is not None:
        require_count("--width", width)
    if error is not None:
        require_positive("--error", error)
    if (lag or value) and not is_there:
        raise invalid("--lag, --value", "a file", f"the expression {text!r}")
    require_choice("--norm", norm, ("l1", "l2", "linf"))
    require_choice("--weights", weights, ("absolute", "relative"))


def plan_model(path: Path, *, force: bool) -> None:
    """Raises before any work if the pair of files of a model cannot be written later."""
    for file in model_files(path):
        plan_file(file, option="--out", force=force)


def fit_text(
    text: str,
    *,
    width: int | None,
    error: float | None,
    norm: str,
    weights: str,
    positive: bool,
    real: bool,
    constant: bool,
    lag: str | None,
    value: str | None,
    progress: Callable[[str], None],
) -> ExponentialSum:
    """Returns the fit of a kernel file (an existing path wins) or of an expression in t."""
    from recollect.approximation import fit_exponential_sum
    from recollect.targets import parse_kernel, read_kernel

    progress("reading the kernel")
    is_file = os.path.exists(text)
    kernel = read_kernel(Path(text), lag=lag, value=value) if is_file else parse_kernel(text)
    progress("fitting")
    return fit_exponential_sum(
        kernel,
        width=width,
        error=error,
        norm=norm,
        poles="real" if real or positive else "complex",
        positive=positive,
        constant=constant,
        weights=weights,
    )


def name_error(result: ExponentialSum) -> str:
    """Returns what the error of a fit in its norm is: a mean over samples, or an integral."""
    where = str(result.stats.get("errors_are", ""))
    if where:
        weights, _, place = where.partition(", ")
        of = {"l1": "mean", "l2": "root mean square", "linf": "largest"}[result.norm]
        return f"{'relative, ' if weights == 'relative' else ''}{of} {place}"
    if result.dt is not None:
        of = {"l1": "sum of its sizes", "l2": "root of the sum of its squares", "linf": "largest"}
        return f"{of[result.norm]} over all steps"
    of = {
        "l1": "integral of its size",
        "l2": "root of the integral of its square",
        "linf": "largest",
    }
    return f"{of[result.norm]} over all lags"


def fit_record(result: ExponentialSum, *, saved: Path | None = None) -> dict[str, Any]:
    """Returns the fit as a JSON object (non-finite numbers are null)."""
    amplitudes = np.asarray(result.amplitudes)
    is_modal = bool(np.isfinite(amplitudes).all())
    pairs = amplitudes.reshape(len(amplitudes), -1)[:, 0] if is_modal else []
    return _json.finite_or_null(
        {
            "schema": SCHEMA,
            "version": VERSION,
            "unit": "step" if result.dt else "the kernel's t",
            "width": result.width,
            "norm": result.norm,
            "error": result.error,
            "error_is": name_error(result),
            "errors": dict(result.errors),
            "bound": result.bound,
            "time": "continuous" if result.dt is None else "discrete",
            "dt": result.dt,
            "rates": [[w.real, w.imag] for w in np.asarray(result.rates, dtype=complex)]
            if is_modal
            else None,
            "amplitudes": [[a.real, a.imag] for a in np.asarray(pairs, dtype=complex)]
            if is_modal
            else None,
            "constant": float(np.sum(result.constant)),
            "state_space": {
                "A": np.asarray(result.model.A),
                "b": np.asarray(result.model.B)[:, 0],
                "c": np.asarray(result.model.C)[0],
            },
            "file": None if saved is None else str(model_files(saved)[0]),
            "status": result.status.record(),
            "warnings": [w.record() for w in result.warnings],
            "seconds": round(float(result.stats.get("seconds", 0.0)), 3),
        }
    )


def as_json(result: ExponentialSum, *, saved: Path | None = None) -> str:
    """Returns the fit as JSON text, with the file its network is `saved` to."""
    return _json.as_json(fit_record(result, saved=saved))


def summary(result: ExponentialSum, *, constant: bool = False, saved: Path | None = None) -> str:
    """Returns the fit in a few lines, with its `constant` and the file it is `saved` to."""
    bound = "none known" if result.bound is None else f"{result.bound:.4g}"
    lines = [
        f"width:   {result.width}",
        f"error:   {result.error:.4g} in {result.norm}, {name_error(result)}; "
        f"proved lower bound: {bound}",
        "errors:  " + ", ".join(f"{name} {value:.4g}" for name, value in result.errors.items()),
    ]
    slowest = result.slowest_rate
    lines.append(
        f"slowest: {slowest:.4g} from the stability boundary (time scale {1 / slowest:.4g})"
    )
    amplitudes = np.asarray(result.amplitudes)
    if np.isfinite(amplitudes).all():
        lines.append(f"{'rate':>24}  {'amplitude':>24}")
        pairs = zip(result.rates, amplitudes.reshape(len(amplitudes), -1)[:, 0], strict=True)
        lines += [f"{_complex(w):>24}  {_complex(a):>24}" for w, a in pairs]
    if constant:
        lines.append(f"{'constant':>24}  {float(np.sum(result.constant)):>24.8g}")
    if saved is not None:
        apart = ", without the constant" if np.any(result.constant) else ""
        lines.append(f"network: {model_files(saved)[0]}{apart}")
    lines.append(f"status:  {result.status}")
    return "\n".join(lines)


def write_model(result: ExponentialSum, path: Path) -> None:
    """Writes the network as `recollect.save` does."""
    from recollect.models import save

    save(result.model, path)


def write_table(result: ExponentialSum, path: Path) -> None:
    """Writes the sum as a Prony table (CSV) that a finite-element program reads."""
    from recollect.approximation import tabulate_prony

    try:
        series = tabulate_prony(result)
    except ValueError as error:
        said = str(error).partition(":")[2].replace("with positive=True", "with --positive")
        raise ValueError(f"--table:{said}") from None
    series.write(path)


def _complex(value: complex) -> str:
    value = complex(value)
    if value.imag == 0:
        return f"{value.real:.8g}"
    return f"{value.real:.8g}{value.imag:+.8g}i"
