"""Runs trials: the one piece of code that every executor shares."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from recollect._core._status import Status
from recollect.study._grid import Parameters
from recollect.study._study import Recipe, Study, Trial

Call = Callable[[Parameters, int], Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one trial.

    Args:
        trial: the trial.
        metrics: numbers, words and truth values by name.
        arrays: arrays by name.
        status: how it ended; `failed` if it raised.
        seconds: time it took.
    """

    trial: Trial
    metrics: dict[str, Any]
    arrays: dict[str, np.ndarray]
    status: Status
    seconds: float


def make_call(function: Callable[..., Any], how: Recipe | Study) -> Call:
    """Returns `(parameters, seed) -> result`: adds the randomness, compiles what is to be compiled."""
    randomness = how.randomness
    if how.compiled:
        return _make_compiled_call(function, how.compiled, randomness, how.float64)

    def call(parameters: Parameters, seed: int) -> Any:
        return function(**parameters, **_random_argument(randomness, seed))

    return call


def _make_compiled_call(
    function: Callable[..., Any], compiled: tuple[str, ...], randomness: str, float64: bool
) -> Call:
    import jax

    from recollect._core._precision import in_float64

    @functools.lru_cache(maxsize=64)
    def program(fixed: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
        jitted = jax.jit(lambda traced: function(**dict(fixed), **traced))
        return in_float64(jitted) if float64 else jitted

    def call(parameters: Parameters, seed: int) -> Any:
        fixed = tuple((k, v) for k, v in parameters.items() if k not in compiled)
        traced = {k: v for k, v in parameters.items() if k in compiled}
        return program(fixed)({**traced, **_random_argument(randomness, seed)})

    return call


def _random_argument(randomness: str, seed: int) -> dict[str, Any]:
    if not randomness:
        return {}
    if randomness == "seed":
        return {"seed": seed}
    import jax

    # The implementation is named: a process-wide default must not change results.
    return {"key": jax.random.key(seed, impl="threefry2x32")}


def run_trial(call: Call, trial: Trial) -> Outcome:
    """Returns the outcome of one trial; an exception becomes a status."""
    started = time.perf_counter()
    metrics: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    try:
        metrics, arrays, status = _sort_out(call(trial.parameters, trial.seed))
    except Exception as error:
        status = failure(f"{type(error).__name__}: {error}".splitlines()[0])
    return Outcome(trial, metrics, arrays, status, time.perf_counter() - started)


def failure(message: str) -> Status:
    """Returns the status of a trial that raised or was lost."""
    return Status("failed", message[:500])


def _sort_out(result: Any) -> tuple[dict[str, Any], dict[str, np.ndarray], Status]:
    if not isinstance(result, Mapping):
        result = {"value": result}
    metrics: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    stated: Status | None = None
    not_finite, not_a_number = [], []
    for name, value in result.items():
        if not isinstance(name, str):
            raise TypeError(f"result: expected names as keys, got {name!r}")
        if isinstance(value, Status):
            stated = value
            continue
        if value is None or isinstance(value, (str, bool)):
            metrics[name] = value
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise TypeError(
                f"result {name!r}: expected numbers or text, got {type(value).__name__}"
            )
        if not np.isfinite(array).all():
            not_finite.append(name)
        if np.isnan(array).any():
            not_a_number.append(name)
        if array.ndim or array.dtype.kind == "c":
            arrays[name] = array
        else:
            metrics[name] = array.item()
    if stated is None:
        message = ", ".join(not_finite) + (
            " is not finite" if len(not_finite) == 1 else " are not finite"
        )
        stated = Status("not_finite", message) if not_finite else Status()
    elif stated.is_ok and not_a_number:
        # Infinity may be what was measured; NaN never is.
        names = ", ".join(not_a_number)
        stated = Status("not_finite", f"{names} {'is' if len(not_a_number) == 1 else 'are'} NaN")
    return metrics, arrays, stated


@functools.lru_cache(maxsize=8)
def call_from(recipe: Recipe) -> Call:
    """Returns the callable of a recipe, made once per process."""
    return make_call(recipe.function(), recipe)


def run_batch(recipe: Recipe, trials: Iterable[Trial]) -> tuple[dict[str, Any], list[Outcome]]:
    """Returns (description of this machine, outcomes): what a worker sends back."""
    call = call_from(recipe)
    outcomes = [run_trial(call, trial) for trial in trials]
    return describe_machine(), outcomes


@functools.cache
def _describe(jax_loaded: bool) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in ("recollect", "jax", "jaxlib", "numpy", "scipy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "n_cores": n_cores,
    }
    if jax_loaded:
        jax = sys.modules["jax"]
        machine["jax_device"] = jax.devices()[0].device_kind
    return {"versions": versions, "machine": machine}


def describe_machine() -> dict[str, Any]:
    """Returns versions and hardware, without paths, user or host names."""
    return _describe(_has_jax_backend())


def _has_jax_backend() -> bool:
    # Asking jax for its devices would start it; only report what trials already started.
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bool(getattr(bridge, "_backends", None))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
