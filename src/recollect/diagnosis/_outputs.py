"""Directories that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recollect._core._check import invalid


def plan_directory(directory: Path, *, force: bool) -> Path:
    """Returns `directory` if it can be written later; raises before any work otherwise."""
    if directory.exists() and not directory.is_dir():
        raise invalid("--out", "a directory", f"the file {str(directory)!r}", "choose another name")
    if directory.exists() and any(directory.iterdir()) and not force:
        raise invalid(
            "--out",
            "a new or empty directory",
            f"{str(directory)!r}, which exists",
            "choose another with --out, or replace it with --force",
        )
    if directory.exists() and not _is_ours(directory):
        raise invalid(
            "--out",
            "a directory that an earlier run wrote",
            f"{str(directory)!r}, which holds other files",
            "choose another with --out",
        )
    parent = directory.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not _is_writable(parent):
        raise invalid("--out", "a place that can be written", f"{str(directory)!r}")
    return directory


def plan_file(path: Path, *, option: str = "--page", force: bool = False) -> Path:
    """Returns `path` if a file can be written there later; raises before any work otherwise.

    An existing one is refused, or, with `force`, to be replaced.
    """
    if path.exists() and not (force and path.is_file()):
        remedy = "choose another name"
        if path.is_file():
            remedy += ", or replace it with --force"
        raise invalid(option, "a new file", f"{str(path)!r}, which exists", remedy)
    parent = path.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise invalid(option, "a place that can be written", f"{str(path)!r}")
    return path


@contextlib.contextmanager
def whole_directory(directory: Path, *, force: bool) -> Iterator[Path]:
    """Yields an empty directory that replaces `directory` only when the block succeeds."""
    plan_directory(directory, force=force)
    directory = directory.absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        yield fresh
        fresh.chmod(0o755)
        if directory.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{directory.name}-old-", dir=directory.parent))
            earlier = retired / directory.name
            try:
                os.replace(directory, earlier)
                os.replace(fresh, directory)
            except OSError:
                if earlier.exists():
                    os.replace(earlier, directory)
                retired.rmdir()
                raise
            shutil.rmtree(retired)
        else:
            os.replace(fresh, directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _is_writable(folder: Path) -> bool:
    # Tried, not asked: the owner of the machine may write everywhere but where nobody can.
    try:
        Path(tempfile.mkdtemp(prefix=".recollect-", dir=folder)).rmdir()
    except OSError:
        return False
    return True


def _is_ours(directory: Path) -> bool:
    return not any(directory.iterdir()) or (directory / "diagnosis.json").exists()
