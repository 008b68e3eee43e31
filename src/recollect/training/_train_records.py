"""Records to train on: read, checked, scaled and laid side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recollect._core._check import host_float64, invalid, require_count


@dataclasses.dataclass(frozen=True)
class Records:
    inputs: np.ndarray
    outputs: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    input_scale: np.ndarray
    output_scale: np.ndarray
    window: int | None
    washout: int
    weights: np.ndarray


def read_records(
    model: Any, inputs: Any, outputs: Any, window: int | None, washout: int, weights: Any
) -> Records:
    xs, ys = _as_list("inputs", inputs), _as_list("outputs", outputs)
    if len(xs) != len(ys):
        raise invalid("outputs", f"{len(xs)} records, as the inputs", f"{len(ys)} records")
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        where = f" in record {i}" if len(xs) > 1 else ""
        if x.shape[1] != model.n_inputs:
            raise invalid("inputs", f"{model.n_inputs} channel(s){where}", f"shape {x.shape}")
        if y.shape[1] != model.n_outputs:
            raise invalid("outputs", f"{model.n_outputs} channel(s){where}", f"shape {y.shape}")
        if len(x) != len(y):
            raise invalid(
                "outputs", f"as many samples as the inputs ({len(x)}){where}", f"{len(y)} samples"
            )
        if len(x) < 2:
            raise invalid(
                "inputs", f"at least two samples{where}", "1", "one sample shows no memory"
            )
    lengths = np.array([len(x) for x in xs])
    longest, shortest = int(lengths.max()), int(lengths.min())
    if window is not None:
        window = require_count("window", window, minimum=2)
        if window > shortest:
            raise invalid("window", f"at most the shortest record ({shortest})", window)
    span = window or longest
    washout = require_count("washout", washout, minimum=0)
    if washout >= (window or shortest):
        raise invalid("washout", f"fewer than {window or shortest} samples", washout)
    sample_weights = np.ones(span)
    if weights is not None:
        sample_weights = host_float64("weights", weights, owner="train_model")
        if sample_weights.shape != (span,):
            raise invalid("weights", f"shape ({span},)", f"shape {sample_weights.shape}")
        if sample_weights.min() < 0 or not sample_weights[washout:].any():
            raise invalid("weights", "numbers not below zero, one above", "none above zero")
    sample_weights = sample_weights * (np.arange(span) >= washout)
    input_scale = _rms(xs)
    if not input_scale.any():
        raise invalid("inputs", "a signal", "zeros only", "nothing can be learned from them")
    output_scale = _rms(ys)
    if not output_scale.any():
        raise invalid("outputs", "a signal", "zeros only", "there is nothing to learn")
    padded_x = np.zeros((len(xs), longest, xs[0].shape[1]))
    padded_y = np.zeros((len(ys), longest, ys[0].shape[1]))
    counts = np.zeros((len(xs), longest))
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        padded_x[i, : len(x)], padded_y[i, : len(y)], counts[i, : len(x)] = x, y, 1.0
    return Records(
        padded_x,
        padded_y,
        counts,
        lengths,
        np.where(input_scale > 0, input_scale, 1.0),
        np.where(output_scale > 0, output_scale, 1.0),
        window,
        washout,
        sample_weights,
    )


def _as_list(name: str, signals: Any) -> list[np.ndarray]:
    if isinstance(signals, (list, tuple)):
        records = [
            host_float64(f"{name}[{i}]", r, owner="train_model") for i, r in enumerate(signals)
        ]
    else:
        array = host_float64(name, signals, owner="train_model")
        if array.ndim not in (2, 3):
            raise invalid(
                name,
                "shape (time, channel) or (record, time, channel)",
                f"shape {array.shape}",
                "use signal[:, None] for one channel" if array.ndim == 1 else "",
            )
        records = [array] if array.ndim == 2 else list(array)
    if not records:
        raise invalid(name, "at least one record", "none")
    for i, record in enumerate(records):
        if record.ndim != 2 or record.shape[0] == 0:
            raise invalid(f"{name}[{i}]", "shape (time, channel)", f"shape {record.shape}")
    return records


def _rms(records: list[np.ndarray]) -> np.ndarray:
    # Relative to the peak, so that no square leaves the range of float64.
    peak = np.max([np.abs(r).max(0) for r in records], axis=0)
    safe = np.where(peak > 0, peak, 1.0)
    total = sum(((r / safe) ** 2).sum(0) for r in records)
    return peak * np.sqrt(total / sum(len(r) for r in records))
