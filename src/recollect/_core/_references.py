"""Which publication a function implements."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Callable
from typing import Any, TypeVar

from recollect._core._check import wrong_type

T = TypeVar("T", bound=Callable[..., Any] | type)


def references(*keys: str) -> Callable[[T], T]:
    """Marks a function or class with the BibTeX keys of its sources."""

    def mark(target: T) -> T:
        target.__recollect_references__ = keys  # type: ignore[union-attr]
        return target

    return mark


def cite(function: Any) -> str:
    """Returns the BibTeX entries of the publications that `function` implements.

    Args:
        function: any public function or class of recollect.

    Returns:
        BibTeX text, empty if the function has no source of its own.

    Raises:
        TypeError: if it is neither.
    """
    if not callable(function):
        raise wrong_type("function", "a function or class of recollect", repr(function))
    entries = _entries()
    return "\n\n".join(entries[key] for key in getattr(function, "__recollect_references__", ()))


@functools.cache
def _entries() -> dict[str, str]:
    text = (
        importlib.resources.files("recollect._core").joinpath("references.bib").read_text("utf-8")
    )
    blocks = [block.strip() for block in re.split(r"\n(?=@)", "\n" + text) if block.strip()]
    return {re.match(r"@\w+\{([^,]+),", block).group(1): block for block in blocks}  # type: ignore[union-attr]
