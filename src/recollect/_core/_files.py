"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL = ".partial"
MODEL_SUFFIXES = (".safetensors", ".json")
# What to do with weights whose network is known to the program that saved them alone.
WEIGHTS_ALONE = (
    "weights alone say no network: write a function that builds it, loads them and returns it, and "
    "measure that, as in recollect measure my_file.py:make"
)


def model_files(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Returns the pair of files of a saved model: its numbers, and the description beside them.

    Args:
        path: with the suffix of either, or without.
    """
    stem = Path(path)
    if stem.suffix in MODEL_SUFFIXES:
        stem = stem.with_suffix("")
    numbers, description = (stem.with_name(stem.name + suffix) for suffix in MODEL_SUFFIXES)
    return numbers, description


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, whatever happens meanwhile.

    A process that is killed leaves at most a file `.NAME.PROCESS.partial` beside it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
