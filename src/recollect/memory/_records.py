"""Input-output records: checked, cut at gaps in the input, with outputs at any time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recollect._core._check import host_float64, invalid, is_tracer, wrong_type


@dataclasses.dataclass(frozen=True)
class Record:
    """One uninterrupted stretch of measurement.

    Attributes:
        inputs: shape (time, in), held constant on [k, k+1) steps, finite.
        times: of the output rows, in steps from the start of the record, increasing.
        outputs: shape (row, out); NaN where missing.
        is_regular: True if row k is at time k+1, the end of interval k.
        origin: index of the record the caller passed.
        first: index of the first input sample within that record.
    """

    inputs: np.ndarray
    times: np.ndarray
    outputs: np.ndarray
    is_regular: bool
    origin: int
    first: int


def read_records(
    inputs: Any, outputs: Any, output_times: Any, *, dt: float, owner: str
) -> list[Record]:
    """Returns the records behind arrays or lists of arrays, cut where the input is missing."""
    if isinstance(inputs, (list, tuple)) and any(np.ndim(value) > 0 for value in inputs):
        many = list(inputs)
        if not isinstance(outputs, (list, tuple)) or len(outputs) != len(many):
            raise invalid("outputs", f"a list of {len(many)} records, as inputs", _count(outputs))
        outs = list(outputs)
        times = [None] * len(many) if output_times is None else list(output_times)
        if len(times) != len(many):
            raise invalid("output_times", f"a list of {len(many)} arrays", f"{len(times)}")
    else:
        many, outs, times = [inputs], [outputs], [output_times]
    records: list[Record] = []
    n_inputs = n_outputs = None
    for origin, (x, y, t) in enumerate(zip(many, outs, times, strict=True)):
        name = "" if len(many) == 1 else f"[{origin}]"
        x = channels(f"inputs{name}", x, owner)
        y = channels(f"outputs{name}", y, owner)
        n_inputs, n_outputs = n_inputs or x.shape[1], n_outputs or y.shape[1]
        if x.shape[1] != n_inputs:
            raise invalid(f"inputs{name}", f"{n_inputs} channels, as the first", f"{x.shape[1]}")
        if y.shape[1] != n_outputs:
            raise invalid(f"outputs{name}", f"{n_outputs} channels, as the first", f"{y.shape[1]}")
        regular = t is None
        if regular:
            if len(x) != len(y):
                raise invalid(
                    f"outputs{name}",
                    f"as many rows as inputs, {len(x)}",
                    f"{len(y)}",
                    "pass output_times for outputs sampled at other times",
                )
            steps = np.arange(1, len(x) + 1, dtype=np.float64)
        else:
            steps = host_float64(f"output_times{name}", t, owner=owner).ravel() / dt
            if len(steps) != len(y):
                raise invalid(
                    f"output_times{name}", f"{len(y)} times, one per row", f"{len(steps)}"
                )
            if (np.diff(steps) <= 0).any():
                row = int(np.argmax(np.diff(steps) <= 0)) + 1
                raise invalid(
                    f"output_times{name}", "strictly increasing times", f"a step back at row {row}"
                )
            near = np.rint(steps)
            steps = np.where(np.abs(steps - near) < 1e-9 * np.maximum(1, near), near, steps)
        records += _cut(x, steps, y, regular, origin)
    if not records:
        raise invalid("inputs", "some stretch without missing values", "none")
    return records


def _cut(
    x: np.ndarray, steps: np.ndarray, y: np.ndarray, regular: bool, origin: int
) -> list[Record]:
    present = np.isfinite(x).all(axis=1)
    changes = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(int)))
    records = []
    for first, last in changes.reshape(-1, 2):
        inside = (steps > first) & (steps <= last)
        if inside.any():
            records.append(
                Record(x[first:last], steps[inside] - first, y[inside], regular, origin, int(first))
            )
    return records


def channels(argument: str, value: Any, owner: str) -> np.ndarray:
    if is_tracer(value):
        host_float64(argument, value, owner=owner)
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise wrong_type(argument, "an array of numbers", type(value).__name__) from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        raise invalid(argument, "shape (time,) or (time, channel)", f"shape {array.shape}")
    if np.isinf(array).any():
        row = int(np.argwhere(np.isinf(array))[0, 0])
        raise invalid(argument, "finite numbers, or NaN where missing", f"infinity in row {row}")
    return array


def _count(value: Any) -> str:
    return f"{len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__
