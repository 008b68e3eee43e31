"""One thread per trial: BLAS results depend on the number of threads, in their last bits."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NPROC": "1",  # the size of XLA's thread pool
}


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Runs its body with every OpenBLAS that is loaded limited to one thread."""
    import scipy.linalg  # noqa: F401  (its own copy of OpenBLAS must be loaded to be limited)

    restore = []
    for library in _loaded_openblas():
        for prefix in ("scipy_", ""):
            for suffix in ("64_", ""):
                setter = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
                getter = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
                if setter is not None and getter is not None:
                    restore.append((setter, getter()))
                    setter(1)
    try:
        yield
    finally:
        for setter, n_threads in restore:
            setter(n_threads)


def pin_to_core(core: int) -> None:
    """Pins this process to one core, where the system can."""
    if core >= 0 and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {core})


def cores() -> list[int]:
    """Returns the cores this process may use; -1 stands for 'cannot be pinned'."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [-1] * (os.cpu_count() or 1)


def _loaded_openblas() -> list[ctypes.CDLL]:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if "openblas" in line}
    except OSError:
        return []
    libraries = []
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            libraries.append(ctypes.CDLL(path))
    return libraries
