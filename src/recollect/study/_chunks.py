"""Data larger than memory: a Dask collection, read chunk by chunk."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np

from recollect._core._check import invalid, require_count, wrong_type


def read_chunks(
    inputs: Any, outputs: Any, *, n_ahead: int = 4
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (inputs, outputs) chunks of two Dask collections, in order.

    `memory.estimate_kernel(read_chunks(x, y), None, dt=dt)` estimates the kernel of data of any
    length, with the same result as in memory to the last bit. The current `distributed.Client`
    computes the chunks, or threads of this process if there is none; a lost worker's chunk is
    computed again.

    Args:
        inputs: Dask array (time, in) or (time,), or Dask data frame with the input columns.
        outputs: the same for the outputs, with the same rows.
        n_ahead: chunks computed ahead of the one in use: what must fit in memory.

    Raises:
        TypeError: if these are no Dask collections.
        ValueError: if rows differ; chunks of arrays may, and are then brought together.
    """
    require_count("n_ahead", n_ahead)
    for argument, collection in (("inputs", inputs), ("outputs", outputs)):
        if not hasattr(collection, "__dask_graph__") or not hasattr(collection, "to_delayed"):
            raise wrong_type(
                argument, "a Dask array or data frame", type(collection).__name__,
                "arrays in memory go to estimate_kernel as they are",
            )  # fmt: skip
    if hasattr(inputs, "chunks") and hasattr(outputs, "chunks"):
        if len(inputs) != len(outputs):
            raise invalid("outputs", f"as many rows as inputs, {len(inputs)}", len(outputs))
        outputs = outputs.rechunk({0: inputs.chunks[0]})
    pairs = list(zip(_parts(inputs), _parts(outputs), strict=False))
    if len(pairs) != len(_parts(outputs)):
        raise invalid(
            "outputs", f"as many partitions as inputs, {len(pairs)}", len(_parts(outputs))
        )
    # Checked above, at the call; the generator below starts when it is first used.
    return _compute(pairs, n_ahead)


def _parts(collection: Any) -> list[Any]:
    if getattr(collection, "ndim", 1) == 2 and hasattr(collection, "rechunk"):
        collection = collection.rechunk({1: -1})
    return list(np.ravel(collection.to_delayed()))


def _compute(pairs: list[Any], n_ahead: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    client = _current_client()
    if client is None:
        import dask

        for pair in pairs:
            yield _plain(*dask.compute(*pair))  # type: ignore[attr-defined]
        return
    rest = iter(pairs)
    waiting: collections.deque[Any] = collections.deque()
    while True:
        while len(waiting) < n_ahead and (pair := next(rest, None)) is not None:
            waiting.append(client.compute(pair))
        if not waiting:
            return
        yield _plain(*(future.result() for future in waiting.popleft()))


def _plain(inputs: Any, outputs: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(inputs), np.asarray(outputs)


def _current_client() -> Any:
    try:
        from distributed import get_client

        return get_client()
    except (ImportError, ValueError):
        return None
