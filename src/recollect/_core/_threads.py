"""One BLAS thread for work made of many small factorisations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import threadpoolctl

P = ParamSpec("P")
R = TypeVar("R")


def on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Returns `function` run with one BLAS thread; the host program's setting comes back after.

    Threads gain nothing on matrices of a few hundred rows, and where other programs use the cores
    they wait for each other (measured: 97 s instead of 1 s for one kernel estimate).
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return wrapped
