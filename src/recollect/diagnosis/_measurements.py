"""Measured input-output data on one regular grid, as every estimator wants it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recollect._core._check import host_float64, invalid, require_choice, require_positive
from recollect.diagnosis import _table

_FEWEST_SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Input and output signals sampled at one step.

    Args:
        inputs: shape (time, in) or (time,), each row held for one step. A row with NaN splits the
            record there.
        outputs: shape (time, out) or (time,), on the grid of the inputs, each row at the end of
            its step: a row's input has acted on its output. NaN where not observed: outputs
            sampled irregularly keep most rows empty.
        dt: time step, in `unit`.
        unit: name of the time unit.
        test_inputs: inputs of a separate test record, shape (time, in).
        test_outputs: outputs of a separate test record, shape (time, out).
        test_fraction: share of the record held out at its end when there is no test record.
        test_start: state at the start of the test record, `same` as at the start of the record,
            or `rest`: settled under the first input of the test record.
        input_names, output_names: one name per channel.
        origin: what the first row's time is, such as a date; empty if unknown.
        source: name of the file the data came from.
        notes: what was done to the data on the way here, one sentence each.

    Raises:
        ValueError: shapes that do not belong together, too few samples, constant channels.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    dt: float
    unit: str = "step"
    test_inputs: np.ndarray | None = None
    test_outputs: np.ndarray | None = None
    test_fraction: float = 0.25
    test_start: str = "same"
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    origin: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        put = object.__setattr__
        put(self, "dt", require_positive("dt", self.dt))
        put(self, "inputs", _channels("inputs", self.inputs))
        put(self, "outputs", _channels("outputs", self.outputs))
        put(self, "input_names", _names("input_names", self.input_names, self.inputs, "input"))
        put(self, "output_names", _names("output_names", self.output_names, self.outputs, "output"))
        if len(self.inputs) != len(self.outputs):
            raise invalid(
                "outputs", f"{len(self.inputs)} rows as in inputs", f"{len(self.outputs)} rows"
            )
        for name, column in zip(self.output_names, self.outputs.T, strict=True):
            observed = int(np.isfinite(column).sum())
            if observed < _FEWEST_SAMPLES:
                raise invalid(
                    f"output {name!r}",
                    f"at least {_FEWEST_SAMPLES} observed samples",
                    str(observed),
                    "record longer",
                )
        _refuse_constant(self.inputs, self.input_names, "input")
        _refuse_constant(self.outputs, self.output_names, "output")
        if (self.test_inputs is None) != (self.test_outputs is None):
            raise invalid("test_inputs, test_outputs", "both or neither", "one of them")
        if self.test_inputs is not None and self.test_outputs is not None:
            put(self, "test_inputs", _channels("test_inputs", self.test_inputs))
            put(self, "test_outputs", _channels("test_outputs", self.test_outputs))
            for name, test, of in (
                ("test_inputs", self.test_inputs, self.inputs),
                ("test_outputs", self.test_outputs, self.outputs),
            ):
                if test.shape[1] != of.shape[1]:
                    raise invalid(name, f"{of.shape[1]} channels", f"{test.shape[1]}")
            if len(self.test_inputs) != len(self.test_outputs):
                raise invalid(
                    "test_outputs",
                    f"{len(self.test_inputs)} rows as in test_inputs",
                    f"{len(self.test_outputs)} rows",
                )
            if np.isnan(self.test_inputs).any():
                raise invalid("test_inputs", "no gaps: the test is one simulation", "NaN")
            if not np.isfinite(self.test_outputs).any(axis=0).all():
                raise invalid("test_outputs", "observed samples of every output", "none of one")
        if not 0 <= self.test_fraction <= 0.5:
            raise invalid("test_fraction", "a share between 0 and 0.5", self.test_fraction)
        require_choice("test_start", self.test_start, ("same", "rest"))

    @property
    def n_observed(self) -> int:
        """Rows in which an output was observed."""
        return int(np.isfinite(self.outputs).any(axis=1).sum())

    def is_test_settled(self, stretch: Stretch) -> bool:
        """Returns whether the test record starts settled: as said, or for want of a known state.

        Args:
            stretch: what the network was fitted to; its state is that of the record's start if
                nothing precedes it.
        """
        return self.test_start == "rest" or stretch.start > 0

    def unbroken(self) -> Stretch:
        """Returns the longest stretch without a gap in the inputs: what one simulation needs."""
        whole = np.isfinite(self.inputs).all(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], whole, [False]]).astype(int)))
        longest = int(np.argmax(edges[1::2] - edges[::2]))
        start, stop = int(edges[::2][longest]), int(edges[1::2][longest])
        outputs = self.outputs[start:stop]
        observed = np.flatnonzero(np.isfinite(outputs).any(axis=1))
        n_test = round(self.test_fraction * len(observed))
        split = None
        if n_test >= 2 and len(observed) - n_test >= _FEWEST_SAMPLES:
            split = int(observed[-n_test])
        words = f"the last {100 * self.test_fraction:.0f} % of the samples, fitted on the rest"
        return Stretch(self.inputs[start:stop], outputs, start, split, words)


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Rows of a record whose inputs have no gap, and where its held-out end begins.

    Attributes:
        inputs: shape (time, in).
        outputs: shape (time, out), NaN where not observed.
        start: row of the record the stretch begins at.
        split: first held-out row of the stretch; None where it is too short to hold any out.
        words: what is held out, for a reader.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    start: int
    split: int | None
    words: str


def read_measurements(
    path: str | Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    test_inputs: Sequence[str] = (),
    test_outputs: Sequence[str] = (),
    time: str | None = None,
    dt: str | None = None,
    gaps: str = "refuse",
    output_at: str = "end",
    test_fraction: float = 0.25,
    test_start: str = "same",
) -> Measurements:
    """Returns the measurements in a CSV, NPZ or Parquet file.

    Args:
        path: the file; its first row names the columns.
        inputs: column names, or `FILE:COLUMN` for a column of another file.
        outputs: likewise.
        test_inputs: columns of a separate test record.
        test_outputs: likewise.
        time: column of time stamps, numbers or dates, looked up in every file used. Outputs may be
            sampled irregularly and the inputs on another grid.
        dt: step of regular rows, such as `4s`; with `time`, the step to hold irregular inputs at.
        gaps: `refuse` empty cells, or `interpolate` or `split` at those of an input; those of an
            output are then taken as not measured, as they always are with `time`.
        output_at: `end` if a row's output follows its input, `start` if both are read at the same
            instant, before the input has acted.
        test_fraction: see `Measurements`.
        test_start: see `Measurements`.

    Raises:
        ValueError: whatever is wrong with the file, naming column and row.
    """
    if not inputs or not outputs:
        known = ", ".join([name for name in _table.Table(Path(path)).names if name][:12])
        missing = "--output" if inputs else "--input"
        raise invalid(missing, f"a column of {Path(path).name} ({known})", "none")
    if len(test_inputs) not in (0, len(inputs)) or len(test_outputs) not in (0, len(outputs)):
        raise invalid(
            "--test-input, --test-output",
            f"{len(inputs)} and {len(outputs)} columns, as for training",
            f"{len(test_inputs)} and {len(test_outputs)}",
        )
    repeated = set(inputs) & set(outputs)
    if repeated:
        raise invalid("--output", "a column that is not an input", repr(sorted(repeated)[0]))
    require_choice("output_at", output_at, ("end", "start"))
    step = None if dt is None else _table.parse_step(dt)
    table = _table.Table(Path(path))
    others: dict[Path, _table.Table] = {}

    def find(specs: Sequence[str]) -> list[tuple[_table.Column, _table.Table]]:
        return [_table.find_column(spec, table, others) for spec in specs]

    # One pass over the main file for all columns that are in it.
    wanted = [*inputs, *outputs, *test_inputs, *test_outputs, *([time] if time else [])]
    table.read([name for name in wanted if name in table.names])
    found = {"inputs": find(inputs), "outputs": find(outputs)}
    test = {"inputs": find(test_inputs), "outputs": find(test_outputs)}
    names: dict[str, Any] = {
        f"{kind[:-1]}_names": tuple(c.name for c, _ in pairs) for kind, pairs in found.items()
    }
    notes: list[str] = []
    if time is None:
        data: dict[str, Any] = {
            "inputs": _rows_of(found["inputs"], gaps, "inputs", notes),
            "outputs": _rows_of(found["outputs"], _of_outputs(gaps), "outputs", notes),
        }
        unit, value, origin = (step.unit, step.value, "") if step else ("step", 1.0, "")
        if step is None:
            notes.append("no time step was given: lags count samples (state --dt or --time)")
    else:
        data, value, unit, origin = _on_one_grid(found, time, step, gaps, notes)
    tests: dict[str, Any] = {
        f"test_{kind}": _rows_of(pairs, "refuse", f"test_{kind}", notes) if pairs else None
        for kind, pairs in test.items()
    }
    if output_at == "start":
        data |= _one_step_later(data, "inputs", "outputs")
        tests |= _one_step_later(tests, "test_inputs", "test_outputs")
        notes.append("outputs are taken as read before the input of their row acts")
    return Measurements(
        **data,
        dt=value,
        unit=unit,
        **tests,
        test_fraction=test_fraction,
        test_start=test_start,
        **names,
        origin=origin,
        source=Path(path).name,
        notes=tuple(notes),
    )


def _one_step_later(data: dict[str, Any], inputs: str, outputs: str) -> dict[str, Any]:
    # An output at the start of a step is one at the end of the step before.
    if data[inputs] is None or data[outputs] is None:
        return {}
    return {inputs: data[inputs][:-1], outputs: data[outputs][1:]}


def _of_outputs(gaps: str) -> str:
    # An output that was not measured is no data: the estimators leave it out.
    return "refuse" if gaps == "refuse" else "split"


def _numbers(column: _table.Column, gaps: str, notes: list[str]) -> np.ndarray:
    values = _table.numbers(column, gaps=gaps)
    n_empty = int(np.isnan(column.values[: len(values)]).sum())
    if n_empty and gaps == "interpolate":
        cells = "cell of" if n_empty == 1 else "cells of"
        notes.append(f"{n_empty} empty {cells} {column.name} interpolated")
    return values


def _rows_of(
    pairs: list[tuple[_table.Column, _table.Table]], gaps: str, kind: str, notes: list[str]
) -> np.ndarray:
    columns = [_numbers(column, gaps, notes) for column, _ in pairs]
    lengths = [len(c) for c in columns]
    if len(set(lengths)) > 1:
        shown = ", ".join(f"{c.name}: {n}" for (c, _), n in zip(pairs, lengths, strict=True))
        raise invalid(kind, "columns of equal length", shown, "state --time to align them")
    return np.stack(columns, axis=1)


def _on_one_grid(found, time, step, gaps, notes):
    # Stamps of every file, in the unit of the inputs.
    stamps: dict[Path, np.ndarray] = {}
    unit, origin = "", ""
    for _, table in (*found["inputs"], *found["outputs"]):
        if table.path not in stamps:
            stamps[table.path], this, start = _table.times(
                table.column(time), unit=step.unit if step else ""
            )
            unit, origin = unit or this, origin or start
            stamps[table.path] = _table.convert_unit(stamps[table.path], this, unit)
    grid, dt, held = _input_grid(found["inputs"], stamps, step, unit, gaps, notes)
    outputs = np.full((len(grid), len(found["outputs"])), np.nan)
    for channel, (column, table) in enumerate(found["outputs"]):
        values = _table.numbers(column, gaps="split")
        at = _stamps_of(column, values, stamps[table.path])
        place = np.rint((at - grid[0]) / dt).astype(np.int64)
        seen = np.isfinite(values)
        inside = (place >= 0) & (place < len(grid)) & seen
        n_outside = int(seen.sum() - inside.sum())
        if n_outside:
            notes.append(f"{n_outside} samples of {column.name} lie outside the inputs' times")
        off = np.abs(at[inside] - grid[place[inside]]).max(initial=0.0)
        if off > 0.01 * dt:
            notes.append(f"{column.name} is moved to the nearest step, by at most {off:.3g} {unit}")
        _, first = np.unique(place[inside], return_index=True)
        if len(first) < inside.sum():
            raise invalid(
                f"column {column.name!r}",
                f"at most one sample per step of {dt:g} {unit}",
                f"{int(inside.sum()) - len(first)} more",
                "choose a smaller --dt",
            )
        outputs[place[inside], channel] = values[inside]
    # Rows before the first and after the last output still matter before (they are remembered).
    observed = np.flatnonzero(np.isfinite(outputs).any(axis=1))
    if observed.size == 0:
        raise invalid("--output", "samples within the inputs' times", "none")
    end = observed[-1] + 1
    return {"inputs": held[:end], "outputs": outputs[:end]}, dt, unit, origin


def _input_grid(pairs, stamps, step, unit, gaps, notes):
    signals = [_numbers(column, gaps, notes) for column, _ in pairs]
    spans = [
        _stamps_of(column, values, stamps[table.path])
        for (column, table), values in zip(pairs, signals, strict=True)
    ]
    start, stop = max(s[0] for s in spans), min(s[-1] for s in spans)
    if start >= stop:
        raise invalid("--input", "columns whose times overlap", "none that do")
    if step is not None:
        dt = (
            step.value
            if step.unit == "step"
            else float(_table.convert_unit(np.array(step.value), step.unit, unit))
        )
    else:
        dt = float(max(np.median(np.diff(s)) for s in spans))
    grid = start + dt * np.arange(int(np.floor((stop - start) / dt + 1e-6)) + 1)
    held = np.empty((len(grid), len(pairs)))
    for channel, ((column, _), values, at) in enumerate(zip(pairs, signals, spans, strict=True)):
        missing = _missing_rows(at, dt) if step is None else None
        if missing is not None:
            held[:, channel] = _across(column, at, values, grid, missing, gaps, notes)
            continue
        regular = np.abs(np.diff(at) - dt).max(initial=0.0) <= 0.01 * dt
        if not regular:
            notes.append(f"{column.name} is held from its stamps on a grid of {dt:g} {unit}")
        place = np.searchsorted(at, grid + 1e-6 * dt, side="right") - 1
        held[:, channel] = values[place]
        longest = np.diff(at).max(initial=0.0)
        if longest > 10 * dt:
            notes.append(f"{column.name} is held over a gap of {longest:.3g} {unit}")
    return grid, dt, held


def _stamps_of(column, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    if len(at) < len(values):
        raise invalid(
            f"times of {column.name!r} in {column.origin}",
            f"one for each of its {len(values)} rows",
            len(at),
            "fill the time column or end the others with it",
        )
    return at[: len(values)]


def _missing_rows(at: np.ndarray, dt: float) -> np.ndarray | None:
    # A regular record from which rows are missing, not an irregular one: how many after each row.
    steps = np.diff(at) / dt
    if not len(steps):
        return None
    whole = np.rint(steps)
    if np.abs(steps - whole).max(initial=0.0) > 0.01 or np.mean(whole == 1) < 0.75:
        return None
    return (whole - 1).astype(np.int64) if whole.max(initial=1) > 1 else None


def _across(column, at, values, grid, missing, gaps, notes) -> np.ndarray:
    n_missing, places = int(missing.sum()), np.flatnonzero(missing)
    if gaps == "refuse":
        raise invalid(
            f"times of {column.name!r} in {column.origin}",
            "a row at every step",
            f"{n_missing} missing (after {_table.row_names(places, column.first_row)})",
            "choose --gaps interpolate or --gaps split, or state --dt to hold the last value",
        )
    place = np.searchsorted(grid, at - 0.5 * (grid[1] - grid[0]))
    inside = place < len(grid)
    on_grid = np.full(len(grid), np.nan)
    on_grid[place[inside]] = values[inside]
    if gaps == "interpolate":
        empty = np.isnan(on_grid)
        on_grid[empty] = np.interp(grid[empty], grid[~empty], on_grid[~empty])
        notes.append(f"{column.name} is interpolated over {n_missing} missing rows")
    else:
        notes.append(f"the record is cut where {n_missing} rows of {column.name} are missing")
    return on_grid


def _channels(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64) if np.ndim(values) else None
    if array is None or array.ndim not in (1, 2) or array.size == 0:
        raise invalid(
            name, "shape (time, channel) with at least one sample", f"shape {np.shape(values)}"
        )
    if np.isinf(array).any():
        host_float64(name, array[np.isinf(array)], owner="Measurements")
    return array[:, None] if array.ndim == 1 else array


def _names(label: str, names: Sequence[str], values: np.ndarray, word: str) -> tuple[str, ...]:
    if not names:
        count = values.shape[1]
        return (word,) if count == 1 else tuple(f"{word}_{i + 1}" for i in range(count))
    if len(names) != values.shape[1]:
        raise invalid(label, f"{values.shape[1]} names", str(len(names)))
    return tuple(names)


def _refuse_constant(values: np.ndarray, names: Sequence[str], word: str) -> None:
    for name, column in zip(names, values.T, strict=True):
        seen = column[np.isfinite(column)]
        if not seen.size:
            raise invalid(f"{word} {name!r}", "observed samples", "none")
        if np.ptp(seen) <= 1e-12 * np.abs(seen).max(initial=0.0):
            remedy = "vary it during the experiment" if word == "input" else "check the sensor"
            raise invalid(
                f"{word} {name!r}", "a signal that varies", f"the constant {seen[0]:g}", remedy
            )
