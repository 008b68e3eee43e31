"""Reads records of any length, in memory or chunk by chunk, into running sums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from recollect._core._check import invalid
from recollect.memory._records import channels
from recollect.memory._sums import RunningSums, SummedRows

# Blocks of one size make the sums independent, to the last bit, of how the data were chunked.
_BLOCK = 1 << 17


class Stream:
    """Running sums of one or more records, standardised by their first block.

    Args:
        n_lags: longest lag kept.
        timescales: of the transient exponentials in steps.
        reference_inputs: samples whose mean and spread standardise the inputs, (time, in).
        reference_outputs: the same for the outputs, (time, out).
        at_rest: True if the input before each record is zero instead of unknown.
    """

    def __init__(
        self,
        n_lags: int,
        timescales: np.ndarray,
        reference_inputs: np.ndarray,
        reference_outputs: np.ndarray,
        *,
        at_rest: bool,
    ):
        self.n_lags, self.timescales = n_lags, timescales
        self.x_mean, self.x_std = _centre_and_spread(reference_inputs)
        self.y_mean, self.y_std = _centre_and_spread(reference_outputs)
        if at_rest:
            # The sums take the input before a record as zero: then zero must stay zero.
            self.x_mean = np.zeros_like(self.x_mean)
        self.n_inputs, self.n_outputs = len(self.x_mean), len(self.y_mean)
        self.sums: list[list[RunningSums]] = []
        self.is_open = False
        self.x_range = np.array([[np.inf], [-np.inf]]) * np.ones(self.n_inputs)
        self.y_range = np.array([[np.inf], [-np.inf]]) * np.ones(self.n_outputs)

    def add(self, inputs: np.ndarray, outputs: np.ndarray) -> None:
        """Takes a block of raw samples that follows the last one."""
        present = np.atleast_1d(np.isfinite(inputs).all(axis=1))
        marks = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(int)))
        if not present[0]:
            self.is_open = False
        for first, last in marks.reshape(-1, 2):
            if not self.is_open or first > 0:
                self.sums.append(
                    [
                        RunningSums(self.n_lags, self.timescales, self.n_inputs)
                        for _ in range(self.n_outputs)
                    ]
                )
            x = (inputs[first:last] - self.x_mean) / self.x_std
            y = (outputs[first:last] - self.y_mean) / self.y_std
            _widen(self.x_range, x)
            _widen(self.y_range, y)
            for o, sums in enumerate(self.sums[-1]):
                sums.add(x, y[:, o])
            self.is_open = bool(last == len(inputs))

    def close(self) -> None:
        """Ends the current record."""
        self.is_open = False

    def sources(self) -> list[SummedRows]:
        """Returns the regression of every output."""
        for name, span in (("inputs", self.x_range), ("outputs", self.y_range)):
            flat = np.flatnonzero(~(span[1] > span[0]))
            if len(flat):
                raise invalid(name, "a signal that varies", f"channel {flat[0]} constant")
        return [SummedRows([s[o] for s in self.sums]) for o in range(self.n_outputs)]

    @property
    def longest_record(self) -> int:
        """Number of samples of the longest uninterrupted record."""
        return max(s[0].n_time for s in self.sums)


def blocks_of(chunks: Iterable[Any], *, owner: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields blocks of one size from (inputs, outputs) chunks of any size."""
    held_x: list[np.ndarray] = []
    held_y: list[np.ndarray] = []
    n_held = 0
    for number, chunk in enumerate(chunks):
        try:
            x, y = chunk
        except (TypeError, ValueError):
            raise invalid(
                "inputs", "chunks that are pairs (inputs, outputs)", "something else"
            ) from None
        x = channels(f"inputs of chunk {number}", x, owner)
        y = channels(f"outputs of chunk {number}", y, owner)
        if len(x) != len(y):
            raise invalid(
                f"outputs of chunk {number}", f"as many rows as inputs, {len(x)}", f"{len(y)}"
            )
        if held_x and (x.shape[1], y.shape[1]) != (held_x[0].shape[1], held_y[0].shape[1]):
            raise invalid(f"chunk {number}", "as many channels as the first", f"{x.shape[1]}")
        held_x.append(x)
        held_y.append(y)
        n_held += len(x)
        if n_held >= _BLOCK:
            x, y = np.concatenate(held_x), np.concatenate(held_y)
            n_whole = n_held - n_held % _BLOCK
            for first in range(0, n_whole, _BLOCK):
                yield x[first : first + _BLOCK], y[first : first + _BLOCK]
            held_x, held_y, n_held = [x[n_whole:]], [y[n_whole:]], n_held - n_whole
    if n_held:
        yield np.concatenate(held_x), np.concatenate(held_y)


def _centre_and_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        mean = np.array(
            [np.mean(v[np.isfinite(v)]) if np.isfinite(v).any() else 0.0 for v in values.T]
        )
        std = np.array(
            [np.std(v[np.isfinite(v)]) if np.isfinite(v).any() else 0.0 for v in values.T]
        )
    return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)


def _widen(span: np.ndarray, values: np.ndarray) -> None:
    for channel, column in enumerate(values.T):
        seen = column[np.isfinite(column)]
        if len(seen):
            span[0, channel] = min(span[0, channel], seen.min())
            span[1, channel] = max(span[1, channel], seen.max())
