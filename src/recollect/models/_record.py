"""Models on disk: numbers in safetensors, everything else in JSON, never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from recollect._core._check import did_you_mean, invalid, is_tracer, wrong_type
from recollect._core._discretise import Euler, ZeroOrderHold
from recollect._core._files import WEIGHTS_ALONE, model_files, write_whole
from recollect.models import (
    _affine,
    _attention,
    _gated,
    _linear,
    _nonlinear,
    _reparam,
    _rescaled,
    _state_network,
    _state_space,
)

# Fields younger than the format, with what older files mean.
_YOUNGER: dict[str, dict[str, Any]] = {"DiagonalRNN": {"readin": "plain"}}

_SCHEMA = "recollect.model"
_VERSION = 1
_LARGEST_JSON = 16 * 2**20
_DEEPEST = 32

_CLASSES: dict[str, type] = {
    c.__name__: c
    for c in (
        ZeroOrderHold,
        Euler,
        _linear.LinearRNN,
        _linear.DiagonalRNN,
        _affine.AffineRNN,
        _rescaled.Rescaled,
        _nonlinear.ResidualRNN,
        _nonlinear.ElmanRNN,
        _nonlinear.DiagonalNonlinearRNN,
        _gated.GRU,
        _gated.LSTM,
        _gated.SelectiveRNN,
        _state_network.StateNetwork,
        _state_space.StateSpaceLayer,
        _state_space.Stack,
        _attention.CausalAttention,
        _reparam.Direct,
        _reparam.Relu,
        _reparam.Exponential,
        _reparam.Softplus,
        _reparam.InverseSquare,
        _reparam.DiscreteDirect,
        _reparam.DiscreteInverseSquare,
    )
}


def save(model: Any, path: str | os.PathLike[str], *, unit: str | None = None) -> None:
    """Writes a model as the pair `path.safetensors` (numbers) and `path.json` (structure).

    Args:
        model: a model of `recollect.models`.
        path: where to write, without suffix (`.json` or `.safetensors` is dropped).
        unit: unit of time of its rates and step, for the reader.

    Raises:
        TypeError: if the model is not of `recollect.models`, or is being traced.
    """
    tensors: dict[str, np.ndarray] = {}
    complex_names: list[str] = []
    structure = _describe(model, "", tensors, complex_names)
    blob = safetensors.numpy.save(tensors)
    record = {
        "schema": _SCHEMA,
        "version": _VERSION,
        "unit": {"time": unit},
        "model": structure,
        "complex": complex_names,
        "sha256": hashlib.sha256(blob).hexdigest(),
    }
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    numbers, description = model_files(path)
    write_whole(numbers, blob)
    write_whole(description, text.encode())


def load(path: str | os.PathLike[str]) -> Any:
    """Returns the model written by `save`; its weights are host arrays.

    Args:
        path: as given to `save`.

    Raises:
        FileNotFoundError: if one file of the pair is missing.
        ValueError: if a file is damaged, of another kind, or describes an impossible model.
    """
    numbers, description = model_files(path)
    record = _read_json(description)
    try:
        blob = numbers.read_bytes()
    except OSError as error:
        raise _missing(numbers, error) from None
    if record.get("sha256") != hashlib.sha256(blob).hexdigest():
        raise _damaged(numbers, "it is not the file that the JSON beside it describes")
    try:
        tensors = safetensors.numpy.load(blob)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(numbers, f"it is not a safetensors file ({error})") from None
    complex_names = record.get("complex", [])
    if not isinstance(complex_names, list):
        raise _damaged(description, "'complex' is not a list")
    for name in complex_names:
        pair = tensors.get(name) if isinstance(name, str) else None
        if pair is None or pair.ndim == 0 or pair.shape[-1] != 2 or pair.dtype.kind != "f":
            raise _damaged(description, f"no (real, imaginary) tensor {name!r}")
        tensors[name] = pair[..., 0] + 1j * pair[..., 1]
    unused = set(tensors)
    model = _rebuild(record.get("model"), "", tensors, unused, description, 0)
    if unused:
        raise _damaged(numbers, f"tensor {min(unused)!r} belongs to no field")
    return model


def read_unit(path: str | os.PathLike[str]) -> str | None:
    """Returns the unit of time a model was saved with; None if it was saved without.

    Args:
        path: as given to `save`.

    Raises:
        FileNotFoundError: if the description is missing.
        ValueError: if it is damaged or of another kind.
    """
    said = _read_json(model_files(path)[1]).get("unit")
    unit = said.get("time") if isinstance(said, dict) else None
    return unit if isinstance(unit, str) and unit else None


def _describe(
    value: Any, name: str, tensors: dict[str, np.ndarray], complex_names: list[str]
) -> Any:
    if is_tracer(value):
        raise wrong_type("model", "concrete weights", "a JAX tracer", "save outside jit and grad")
    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.asarray(value)
        if array.dtype.kind == "c":
            array = np.stack([np.real(array), np.imag(array)], axis=-1)
            complex_names.append(name)
        elif array.dtype.kind not in "fiub":
            raise wrong_type(name, "an array of numbers", f"dtype {array.dtype}")
        tensors[name] = np.ascontiguousarray(array)
        return {"tensor": name}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise invalid(name, "a finite number", value)
        return value
    if isinstance(value, (list, tuple)):
        return [
            _describe(item, f"{name}.{i}", tensors, complex_names) for i, item in enumerate(value)
        ]
    if _CLASSES.get(type(value).__name__) is type(value):
        fields = {
            f.name: _describe(
                getattr(value, f.name), f"{name}.{f.name}".lstrip("."), tensors, complex_names
            )
            for f in _stored_fields(type(value))
        }
        return {"class": type(value).__name__, "fields": fields}
    raise wrong_type(
        name or "model", "a model of recollect.models", type(value).__name__, "write it yourself"
    )


def _rebuild(
    node: Any,
    name: str,
    tensors: dict[str, np.ndarray],
    unused: set[str],
    source: pathlib.Path,
    depth: int,
) -> Any:
    if depth > _DEEPEST:
        raise _damaged(source, "it is nested too deeply")
    if isinstance(node, list):
        return tuple(
            _rebuild(item, f"{name}.{i}", tensors, unused, source, depth + 1)
            for i, item in enumerate(node)
        )
    if not isinstance(node, dict):
        if name == "":
            raise _damaged(source, "it holds no model")
        return node
    if set(node) == {"tensor"}:
        key = node["tensor"]
        if not isinstance(key, str) or key not in tensors:
            raise _damaged(source, f"tensor {key!r} is missing")
        unused.discard(key)
        return tensors[key]
    if set(node) != {"class", "fields"} or not isinstance(node["fields"], dict):
        raise _damaged(source, f"{name or 'model'} is not a class with fields")
    kind = _CLASSES.get(node["class"]) if isinstance(node["class"], str) else None
    if kind is None:
        hint = did_you_mean(node["class"], _CLASSES)
        raise _damaged(source, f"unknown class {str(node['class'])[:60]!r} {hint}".rstrip())
    expected = {f.name for f in _stored_fields(kind)}
    fields = {**_YOUNGER.get(kind.__name__, {}), **node["fields"]}
    if set(fields) != expected:
        wrong = sorted(expected ^ set(fields))
        raise _damaged(source, f"{kind.__name__} has wrong fields: {', '.join(wrong)[:200]}")
    # The constructor may compute fields (a weight from a rate); a record holds the fields themselves.
    instance = object.__new__(kind)
    for field, child in fields.items():
        value = _rebuild(child, f"{name}.{field}".lstrip("."), tensors, unused, source, depth + 1)
        object.__setattr__(instance, field, value)
    try:
        for base in kind.__mro__:
            if "__check_init__" in base.__dict__:
                base.__check_init__(instance)  # type: ignore[attr-defined]
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(source, f"{kind.__name__} is impossible: {error}") from None
    return instance


def _stored_fields(kind: type) -> list[dataclasses.Field[Any]]:
    # An abstract field that a property fulfils is listed by dataclasses, but holds nothing.
    fields = dataclasses.fields(kind)
    return [f for f in fields if not isinstance(getattr(kind, f.name, None), property)]


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > _LARGEST_JSON:
            raise _damaged(path, f"{size} bytes are too many for a model description")
        text = path.read_bytes()
    except OSError as error:
        raise _missing(path, error) from None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON ({str(error)[:80]})") from None
    if not isinstance(record, dict) or record.get("schema") != _SCHEMA:
        raise _damaged(path, f"its schema is not {_SCHEMA!r}")
    version = record.get("version")
    if not isinstance(version, int) or version < 1:
        raise _damaged(path, "it has no version")
    if version > _VERSION:
        raise invalid(str(path), f"version {_VERSION} or older", version, "upgrade recollect")
    return record


def _damaged(path: pathlib.Path, reason: str) -> ValueError:
    return ValueError(f"{path}: cannot be loaded: {reason}")


def _missing(path: pathlib.Path, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    text = f"{path}: cannot be read ({reason}); a saved model is a pair of files"
    is_weights = path.suffix == ".json" and path.with_suffix(".safetensors").exists()
    return type(error)(f"{text}; {WEIGHTS_ALONE}" if is_weights else text)
