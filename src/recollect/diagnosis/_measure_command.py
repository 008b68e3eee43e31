"""`recollect measure`: a model by name or file in, what it remembers as JSON or ten lines out."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect._core import _json
from recollect._core._check import (
    did_you_mean,
    invalid,
    require_nonnegative,
    require_positive,
)
from recollect._core._files import MODEL_SUFFIXES, WEIGHTS_ALONE, model_files
from recollect.diagnosis import _table

if TYPE_CHECKING:
    from recollect.diagnosis._layers import ModelReport


@dataclasses.dataclass(frozen=True)
class Named:
    """A model, its step and the unit of time.

    Args:
        model: a functional, a callable or a module.
        dt: step, in `unit`.
        unit: of time.
        notes: what was done to make it, where that may surprise.
    """

    model: Any
    dt: float
    unit: str
    notes: tuple[str, ...] = ()


def measure_named(
    named: Named,
    *,
    horizon: float | None,
    n_inputs: int | None,
    trained_on: float | None,
    normalisation: str,
    largest_input: float,
    settle: float | None,
    progress: Callable[[str], None],
) -> ModelReport:
    """Returns the report on a model read by `read_model`."""
    # What a user's model prints must not mix with the answer.
    with contextlib.redirect_stdout(sys.stderr):
        from recollect.diagnosis._layers import measure_model

        report = measure_model(
            named.model,
            dt=named.dt,
            horizon=horizon,
            n_inputs=n_inputs,
            trained_on=trained_on,
            normalisation=normalisation,
            largest_input=largest_input,
            settle=settle,
            unit=named.unit,
            progress=progress,
        )
        return dataclasses.replace(report, notes=(*named.notes, *report.notes))


def read_named(
    text: str, *, dt: str, unit: str | None, settle: float | None, **numbers: float | None
) -> Named:
    """Returns the model a text names, after refusing options that are no numbers of their kind.

    Nothing heavy is imported for an answer of no.

    Args:
        text: MODEL, see `read_model`.
        dt: step: a number, or one with a unit of time.
        unit: of a plain number, None if not stated.
        settle: not negative.
        numbers: further options, positive if given.
    """
    step = _table.parse_step(dt)
    for name, number in numbers.items():
        if number is not None:
            require_positive("--" + name.replace("_", "-"), number)
    if settle is not None:
        require_nonnegative("--settle", settle)
    if step.unit != "step" and unit not in (None, step.unit):
        raise invalid("--unit", f"{step.unit!r}, as in --dt {dt}", repr(unit), "state one of them")
    with contextlib.redirect_stdout(sys.stderr):
        model, note = _read(text)
        value, unit = _in_unit(step, unit, _saved_unit(text))
    return Named(model, value, unit, (note,) if note else ())


def _in_unit(step: _table.Step, unit: str | None, saved: str | None) -> tuple[float, str]:
    """Returns the step and the unit of time: that of a saved model, whose rates are in it."""
    if step.unit == "step":
        return step.value, unit or saved or "steps"
    if saved is None:
        return step.value, step.unit
    return float(_table.convert_unit(np.array(step.value), step.unit, saved)), saved


def read_model(text: str) -> Any:
    """Returns the model a text names: a file written by `recollect.save`, or `module:attribute`.

    A function or class without required arguments is called: it makes the model.
    """
    return _read(text)[0]


def _read(text: str) -> tuple[Any, str]:
    """Returns the model a text names, and what is to be said about how it was made."""
    path = Path(text)
    if os.path.isdir(path):
        raise invalid("MODEL", "a saved model or module:attribute", f"the directory {text!r}")
    if any(map(os.path.exists, (path, *model_files(text)))):
        if os.path.exists(path) and path.suffix not in MODEL_SUFFIXES:
            is_python = path.suffix == ".py"
            raise invalid(
                "MODEL",
                "a .safetensors or .json file",
                repr(text),
                f"say which of its models: {text}:name" if is_python else WEIGHTS_ALONE,
            )
        from recollect.models import load

        return load(path), ""
    module_name, colon, attribute = text.rpartition(":")
    if not colon or not module_name or not attribute:
        raise invalid(
            "MODEL",
            "an existing file or module:attribute",
            repr(text),
            "write package.module:name or file.py:name for a model in Python",
        )
    if module_name.endswith(".py") and Path(module_name).is_file():
        file = Path(module_name)
        sys.path.insert(0, str(file.parent.resolve()))
        module_name = file.stem
    module = _import(module_name)
    model: Any = module
    for name in attribute.split("."):
        if not hasattr(model, name):
            known = [n for n in dir(model) if not n.startswith("_")]
            raise invalid(
                "MODEL", f"an attribute of {module_name}", repr(name), did_you_mean(name, known)
            )
        model = getattr(model, name)
    if not _is_factory(model):
        return model, ""
    start = f"{text} is a class: made without arguments it has the weights of its start, untrained"
    return model(), start if inspect.isclass(model) else ""


def as_json(report: ModelReport) -> str:
    """Returns the report as JSON text."""
    return _json.as_json(report.record())


def _saved_unit(text: str) -> str | None:
    if not os.path.isfile(model_files(text)[1]):
        return None
    from recollect.models import read_unit

    return read_unit(text)


def _import(name: str) -> Any:
    # As `python -m` would: modules beside the user count.
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing == name or name.startswith(missing + "."):
            raise invalid("MODEL", "a module that can be imported", repr(name)) from None
        raise invalid("MODEL", f"a module {name} that imports", f"no module {missing!r}") from None
    except Exception as error:
        kind = type(error).__name__
        raise invalid("MODEL", f"a module {name} that imports", f"{kind}: {error}") from None


def _is_factory(model: Any) -> bool:
    if not (inspect.isfunction(model) or inspect.isclass(model)):
        return False
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):
        return False
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in variadic for p in parameters)
