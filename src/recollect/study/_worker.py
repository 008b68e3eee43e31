"""The body of a worker process: pinned first, then fed trials through its standard input."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from typing import Any


def main() -> None:
    """Runs batches until the driver closes the pipe; dies with the driver."""
    from recollect.study._threads import pin_to_core

    pin_to_core(int(sys.argv[1]))
    # The driver decides what Ctrl-C means. What trials print must not mix with our messages.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()

    from recollect.study._trial import call_from, run_batch

    def answer(kind: str, content: Any) -> None:
        pickle.dump((kind, content), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()

    try:
        recipe = inbox.get()
        call_from(recipe)
        answer("ready", None)
        while True:
            answer("done", run_batch(recipe, inbox.get()))
    except BrokenPipeError:
        os._exit(0)
    except Exception as error:
        answer("error", f"{type(error).__name__}: {error}")


def _read(inbox: queue.SimpleQueue[Any]) -> None:
    # On a thread of its own, so that a driver's death ends even a trial that runs for hours.
    try:
        while True:
            inbox.put(pickle.load(sys.stdin.buffer))
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(0)
