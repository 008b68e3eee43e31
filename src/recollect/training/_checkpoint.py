"""A training run on disk, such that killing it anywhere loses at most one interval."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from recollect._core._files import PARTIAL, write_whole

_SCHEMA = "recollect.checkpoint"
_VERSION = 1
_RECORD = "checkpoint.json"


def write_checkpoint(
    directory: pathlib.Path, step: int, tensors: dict[str, np.ndarray], fingerprint: dict[str, Any]
) -> None:
    """Writes the numbers under a new name, then points the JSON record at them in one move."""
    directory.mkdir(parents=True, exist_ok=True)
    # Not np.ascontiguousarray, which gives a scalar an axis.
    blob = safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in tensors.items()})
    name = f"step-{step:012d}.safetensors"
    write_whole(directory / name, blob)
    record = {
        "schema": _SCHEMA,
        "version": _VERSION,
        "step": step,
        "tensors": name,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "fingerprint": fingerprint,
    }
    write_whole(directory / _RECORD, (json.dumps(record, indent=1) + "\n").encode())
    for old in directory.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def read_checkpoint(
    directory: pathlib.Path, fingerprint: dict[str, Any]
) -> tuple[int, dict[str, np.ndarray]] | None:
    """Returns step and numbers of the run, or None if the directory holds none.

    Raises:
        ValueError: if a file is damaged, or belongs to another run.
    """
    path = directory / _RECORD
    for left in directory.glob(f".*{PARTIAL}"):  # by a process that was killed
        left.unlink(missing_ok=True)
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: cannot be resumed: it is not JSON ({error})") from None
    if not isinstance(record, dict) or record.get("schema") != _SCHEMA:
        raise ValueError(f"{path}: cannot be resumed: its schema is not {_SCHEMA!r}")
    if record.get("version") != _VERSION:
        raise ValueError(f"{path}: cannot be resumed: version {record.get('version')!r}")
    known = record.get("fingerprint", {})
    differing = sorted(k for k in fingerprint if known.get(k) != fingerprint[k])
    if differing:
        raise ValueError(
            f"checkpoint: expected the run that {directory} was written by, got another "
            f"{', '.join(differing)}; give another directory, or the same arguments"
        )
    name = pathlib.PurePath(str(record.get("tensors"))).name
    try:
        blob = (directory / name).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be resumed: {name} is missing ({error})") from None
    if hashlib.sha256(blob).hexdigest() != record.get("sha256"):
        raise ValueError(f"{directory / name}: cannot be resumed: it is damaged")
    return int(record["step"]), safetensors.numpy.load(blob)


def hash_arrays(*arrays: Any) -> str:
    """Returns a digest of shapes, types and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array, order="C")
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
