"""Files: damaged and hostile ones are refused in one line, good ones need twenty lines of NumPy."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from recollect import models


def _saved(directory: pathlib.Path) -> tuple[models.LinearRNN, pathlib.Path, pathlib.Path]:
    model = models.LinearRNN([[-1.0, 0.5], [0.0, -2.0]], [[1.0], [1.0]], [[1.0, -1.0]])
    models.save(model, directory / "model", unit="s")
    return model, directory / "model.json", directory / "model.safetensors"


def test_twenty_lines_of_numpy_read_a_model(tmp_path: pathlib.Path):
    model, description, numbers = _saved(tmp_path)
    raw = numbers.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    kinds = {"F64": np.float64, "F32": np.float32}
    weights = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        values = np.frombuffer(data[first:last], kinds[entry["dtype"]])
        weights[name] = values.reshape(entry["shape"])
    record = json.loads(description.read_text())
    assert record["model"]["class"] == "LinearRNN"
    assert record["unit"] == {"time": "s"}
    for name in "ABC":
        np.testing.assert_array_equal(weights[name], getattr(model, name))


def _edit(path: pathlib.Path, change: Any) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


DAMAGE = {
    "truncated numbers": (lambda j, n: n.write_bytes(n.read_bytes()[:-9]), "not the file that"),
    "not JSON": (lambda j, n: j.write_text("{"), "not JSON"),
    "binary": (lambda j, n: j.write_bytes(b"\x80\x04\x95pickle"), "not JSON"),
    "empty": (lambda j, n: j.write_text(""), "not JSON"),
    "a list": (lambda j, n: j.write_text("[]"), "schema"),
    "deep": (lambda j, n: j.write_text("[" * 100_000), "not JSON"),
    "other schema": (lambda j, n: _edit(j, lambda r: r.update(schema="x")), "schema"),
    "newer": (lambda j, n: _edit(j, lambda r: r.update(version=99)), "upgrade recollect"),
    "no version": (lambda j, n: _edit(j, lambda r: r.pop("version")), "no version"),
    "unknown class": (
        lambda j, n: _edit(j, lambda r: r["model"].update({"class": "LinearRN"})),
        "did you mean 'LinearRNN'",
    ),
    "builtin": (lambda j, n: _edit(j, lambda r: r["model"].update({"class": "eval"})), "unknown"),
    "missing field": (
        lambda j, n: _edit(j, lambda r: r["model"]["fields"].pop("A")),
        "wrong fields",
    ),
    "missing tensor": (
        lambda j, n: _edit(j, lambda r: r["model"]["fields"].update(A={"tensor": "Z"})),
        "is missing",
    ),
    "swapped tensors": (
        lambda j, n: _edit(j, lambda r: r["model"]["fields"].update(B={"tensor": "C"})),
        "impossible",
    ),
    "bad step": (lambda j, n: _edit(j, lambda r: r["model"]["fields"].update(dt=-1)), "impossible"),
    "no model": (lambda j, n: _edit(j, lambda r: r.pop("model")), "no model"),
    "bad rule": (
        lambda j, n: _edit(j, lambda r: r["model"]["fields"].update(discretisation="zoh")),
        "impossible",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_refused(kind: str, tmp_path: pathlib.Path):
    _, description, numbers = _saved(tmp_path)
    damage, message = DAMAGE[kind]
    damage(description, numbers)
    with pytest.raises(ValueError, match=message) as refusal:
        models.load(tmp_path / "model")
    assert "\n" not in str(refusal.value)


def test_missing_half_is_named(tmp_path: pathlib.Path):
    _, _, numbers = _saved(tmp_path)
    numbers.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        models.load(tmp_path / "model")


def test_numbers_that_are_not_finite_are_refused(tmp_path: pathlib.Path):
    import hashlib

    _, description, numbers = _saved(tmp_path)
    raw = bytearray(numbers.read_bytes())
    raw[-8:] = np.float64(np.nan).tobytes()
    numbers.write_bytes(bytes(raw))
    digest = hashlib.sha256(bytes(raw)).hexdigest()
    _edit(description, lambda r: r.update(sha256=digest))
    with pytest.raises(ValueError, match="NaN"):
        models.load(tmp_path / "model")


@pytest.mark.parametrize("unit", ["s", None])
def test_the_unit_of_time_is_read_without_the_model(unit: str | None, tmp_path: pathlib.Path):
    models.save(models.LinearRNN([[-1.0]], [[1.0]], [[1.0]]), tmp_path / "model", unit=unit)
    assert models.read_unit(tmp_path / "model") == unit
    assert models.read_unit(tmp_path / "model.safetensors") == unit
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ValueError, match="schema"):
        models.read_unit(tmp_path / "model")


def test_only_models_are_saved(tmp_path: pathlib.Path):
    with pytest.raises(TypeError, match=r"a model of recollect\.models"):
        models.save(object(), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
