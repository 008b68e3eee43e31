"""Kernels estimated from Dask collections."""

from __future__ import annotations

import numpy as np
import pytest

from recollect.memory import estimate_kernel
from recollect.study import read_chunks

array = pytest.importorskip("dask.array")
N = 140_000
OPTIONS = {"dt": 1.0, "n_lags": 24, "noise": "white", "initial_state": "rest"}


@pytest.fixture(scope="module")
def record():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(N, 1))
    kernel = np.exp(-np.arange(20) / 4.0) / 4
    y = np.convolve(x[:, 0], kernel)[:N, None] + 0.1 * generator.normal(size=(N, 1))
    return x, y


@pytest.fixture(scope="module")
def in_memory(record):
    return estimate_kernel(*record, **OPTIONS)


def require_same(estimate, expected):
    np.testing.assert_array_equal(estimate.kernel, expected.kernel)
    np.testing.assert_array_equal(estimate.kernel_stderr, expected.kernel_stderr)
    assert estimate.noise.std == expected.noise.std


def test_arrays_with_other_chunks_give_the_same_bits(record, in_memory):
    x, y = (
        array.from_array(values, chunks=(size, 1))
        for values, size in zip(record, (30_011, 47_777), strict=True)
    )
    require_same(estimate_kernel(read_chunks(x, y), None, **OPTIONS), in_memory)


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_parquet_on_a_cluster_gives_the_same_bits(record, in_memory, tmp_path):
    frames = pytest.importorskip("dask.dataframe")
    distributed = pytest.importorskip("distributed")
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    x, y = record
    table = pandas.DataFrame({"u": x[:, 0], "y": y[:, 0]})
    frames.from_pandas(table, npartitions=5).to_parquet(tmp_path / "data.parquet")
    with distributed.Client(
        n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False
    ):
        data = frames.read_parquet(tmp_path / "data.parquet")
        chunks = read_chunks(data[["u"]], data[["y"]])
        require_same(estimate_kernel(chunks, None, **OPTIONS), in_memory)


def test_what_cannot_be_read(record):
    x, y = (array.from_array(values, chunks=(50_000, 1)) for values in record)
    with pytest.raises(TypeError, match="inputs: expected a Dask array or data frame, got ndarray"):
        read_chunks(record[0], y)
    with pytest.raises(ValueError, match="as many rows as inputs, 140000"):
        read_chunks(x, y[:-1])
    with pytest.raises(ValueError, match="n_ahead"):
        read_chunks(x, y, n_ahead=0)
