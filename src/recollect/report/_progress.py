"""Progress on a terminal: one line per stage, on stderr, nothing elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TextIO


@contextlib.contextmanager
def progress_on(stream: TextIO | None) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows the current stage on `stream`; silent if it is None."""
    if stream is None:
        yield lambda stage: None
        return
    from rich.console import Console

    with Console(file=stream).status("starting") as status:
        yield lambda stage: status.update(stage)
