"""Cost and memory against size: trials of a study, parameters of a model, samples of a record.

    python -m benchmarks.scaling [NAME ...] [--quick] [--check] [--out FILE.json]

Every point runs in a process of its own. Time is processor time of all its threads, because wall
time on a shared machine measures the others; memory is the peak resident size less what the process
held before it began. The slope is that of a line through the last three points in log-log axes.
The forecast for the large size is the larger of two: along that slope from the largest size that
was run, and along the straight line through the last two points (a fixed cost flattens the slope).
`--check` also runs a size far beyond each ladder (minutes, gigabytes) beside its forecast.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHUNK = 100_000


def _peak() -> float:
    # Not ru_maxrss: a child inherits that from whoever started it.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def _now() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _trivial(i: int) -> float:
    return 2.0 * i


def _study(n: int) -> Any:
    from recollect.study import Study, product

    return Study("trivial", _trivial, product(i=range(n)))


def trials(n: int) -> dict[str, float]:
    """Running n trials that do nothing: what a study costs beside its function."""
    from recollect.study import run

    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "trials.sqlite"
        run(_study(10), Path(folder) / "warm.sqlite")
        before, start = _now(), time.process_time()
        run(_study(n), ledger)
        used = time.process_time() - start
        return {"seconds": used, "bytes": _peak() - before, "disk": ledger.stat().st_size}


def resumed(n: int) -> dict[str, float]:
    """Running a finished study of n trials again: finding out that nothing is missing."""
    return _after(n, lambda ledger: _run_again(n, ledger))


def results(n: int) -> dict[str, float]:
    """Reading the results of n trials as an xarray data set."""
    from recollect.study import to_xarray

    return _after(n, to_xarray)


def _run_again(n: int, ledger: Path) -> None:
    from recollect.study import run

    if run(_study(n), ledger).n_run:
        raise RuntimeError("a finished study ran again")


def _after(n: int, action: Callable[[Path], Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "trials.sqlite"
        # Written elsewhere, so that its memory is not counted.
        code = (
            "from benchmarks.scaling import _study; from recollect.study import run; "
            f"run(_study({n}), {str(ledger)!r})"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        from recollect.study import run

        small = Path(folder) / "warm.sqlite"
        run(_study(10), small)
        if action.__name__ == "to_xarray":
            action(small)
        before, start = _now(), time.process_time()
        action(ledger)
        return {"seconds": time.process_time() - start, "bytes": _peak() - before}


def grid(n: int) -> dict[str, float]:
    """The memory function of a GRU of n weights by its grid: 3 sizes, 64 lags, no ascent."""
    return _gru(n, n_restarts=0)


def ascent(n: int) -> dict[str, float]:
    """The same with the two rounds of ascent that are the default, by gradients."""
    return _gru(n, n_restarts=2)


def _gru(n: int, *, n_restarts: int) -> dict[str, float]:
    from recollect import memory, models

    width = round(math.sqrt(n / 3))
    gru = models.initialise_gru(width, n_outputs=1, key=0)
    options: dict[str, Any] = {"horizon": 64.0, "magnitudes": [0.1, 1.0, 10.0]}
    before = _now()
    memory.measure_memory(gru, dt=1.0, n_restarts=n_restarts, **options)  # compiles
    start = time.process_time()
    memory.measure_memory(gru, dt=1.0, n_restarts=n_restarts, **options)
    return {"seconds": time.process_time() - start, "bytes": _peak() - before}


def callable_grid(n: int) -> dict[str, float]:
    """The same of a NumPy callable of n weights that nobody can see into, asked probe by probe."""
    return _callable(n, n_restarts=0)


def callable_ascent(n: int) -> dict[str, float]:
    """The same with two rounds of ascent, blindly."""
    return _callable(n, n_restarts=2)


def _callable(n: int, *, n_restarts: int) -> dict[str, float]:
    import numpy as np

    from recollect import memory

    width = round(math.sqrt(n))
    weights = np.random.default_rng(0).standard_normal((width, width)) * (0.9 / math.sqrt(width))
    asked = [0]

    def network(signal: np.ndarray) -> np.ndarray:
        asked[0] += len(signal)
        state, outputs = np.zeros(width), np.empty(len(signal))
        for k, value in enumerate(signal[:, 0]):
            state = np.tanh(weights @ state + value)
            outputs[k] = state[0]
        return outputs

    before, start = _now(), time.process_time()
    memory.measure_memory(
        network, dt=1.0, horizon=64.0, magnitudes=[0.1, 1.0, 10.0], n_restarts=n_restarts
    )
    used = time.process_time() - start
    return {"seconds": used, "bytes": _peak() - before, "samples_asked": asked[0]}


def spectrum(n: int) -> dict[str, float]:
    """Eigenvalues of one step of a GRU of n weights (`measure_spectrum`)."""
    from recollect import models
    from recollect.diagnosis import measure_spectrum

    gru = models.initialise_gru(round(math.sqrt(n / 3)), n_outputs=1, key=0)
    measure_spectrum(models.initialise_gru(8, n_outputs=1, key=0))
    before, start = _now(), time.process_time()
    measure_spectrum(gru)
    return {"seconds": time.process_time() - start, "bytes": _peak() - before}


def samples(n: int) -> dict[str, float]:
    """A kernel of 64 lags from n samples in chunks of 1e5, noise="white"."""
    return _streamed(n, n_lags=64, noise="white")


def samples_auto(n: int) -> dict[str, float]:
    """The same with every option at its default: up to 20 000 lags, coloured noise."""
    return _streamed(n)


def lags(n: int) -> dict[str, float]:
    """A kernel of n lags from 1e6 samples, noise="white"."""
    return _streamed(1_000_000, n_lags=n, noise="white")


def _streamed(n: int, **options: Any) -> dict[str, float]:
    import numpy as np
    from scipy.signal import lfilter

    from recollect.memory import estimate_kernel

    making = [0.0]

    def chunks():
        rng, state = np.random.default_rng(0), np.zeros(1)
        for _ in range(n // _CHUNK):
            start = time.process_time()
            x = rng.standard_normal(_CHUNK)
            y, state = lfilter([0.125], [1, -math.exp(-1 / 8)], x, zi=state)
            y += 0.5 * rng.standard_normal(_CHUNK)
            making[0] += time.process_time() - start
            yield x[:, None], y[:, None]

    for _ in chunks():
        break
    making[0] = 0.0
    before, start = _now(), time.process_time()
    estimate_kernel(chunks(), None, dt=1.0, **options)
    used = time.process_time() - start - making[0]
    return {"seconds": used, "bytes": _peak() - before}


_WEIGHTS = [3_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
_TRIALS = [1_000, 3_000, 10_000, 30_000, 100_000]
_SAMPLES = [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000]
# What is measured, over which sizes (quick: the first three), where to, and where that is checked.
_LADDERS: dict[str, tuple[Callable[[int], dict[str, float]], list[int], float, int | None]] = {
    "trials": (trials, _TRIALS, 1e6, 1_000_000),
    "resumed": (resumed, _TRIALS, 1e6, 1_000_000),
    "results": (results, _TRIALS, 1e6, 1_000_000),
    "grid": (grid, _WEIGHTS, 1e9, 100_000_000),
    "ascent": (ascent, _WEIGHTS, 1e9, None),
    "callable_grid": (callable_grid, _WEIGHTS, 1e9, 100_000_000),
    "callable_ascent": (callable_ascent, _WEIGHTS, 1e9, None),
    # Below 8e5 weights the margin is computed too, beyond it is not.
    "spectrum": (spectrum, [3_000_000, 10_000_000, 30_000_000], 1e9, None),
    "samples": (samples, _SAMPLES, 1e9, 1_000_000_000),
    "samples_auto": (samples_auto, _SAMPLES[:-1], 1e9, 100_000_000),
    "lags": (lags, [64, 256, 1024, 4096, 16384], 20_000, None),
}


def _point(name: str, size: int) -> dict[str, float]:
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--point", name, str(size)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    return json.loads(answer.stdout.splitlines()[-1])


def _slope(sizes: list[int], values: list[float]) -> float:
    x, y = [math.log(s) for s in sizes[-3:]], [math.log(max(v, 1e-12)) for v in values[-3:]]
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum(
        (a - middle) ** 2 for a in x
    )


def _forecast(sizes: list[int], values: list[float], size: float) -> float:
    along = values[-1] * (size / sizes[-1]) ** _slope(sizes, values)
    step = (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])
    return max(along, values[-1] + step * (size - sizes[-1]))


def _show(size: float, point: dict[str, float], said: str = "") -> None:
    rest = {k: v for k, v in point.items() if k not in ("seconds", "bytes")}
    said += "  ".join(f"{k} {v:.4g}" for k, v in rest.items())
    seconds, size_mb = point["seconds"], point["bytes"] / 1e6
    print(f"{size:10.0f}  {seconds:9.3g}  {size_mb:8.1f}  {said}".rstrip(), flush=True)


def _ladder(name: str, *, quick: bool, check: bool) -> dict[str, Any]:
    function, sizes, goal, far = _LADDERS[name]
    sizes = sizes[:3] if quick else sizes
    found = []
    assert function.__doc__ is not None
    print(f"\n{name}: {function.__doc__}")
    print(f"{'size':>10}  {'CPU s':>9}  {'MB':>8}")
    for size in sizes:
        found.append(_point(name, size))
        _show(size, found[-1])
    values = {unit: [point[unit] for point in found] for unit in ("seconds", "bytes")}
    slopes = {unit: _slope(sizes, of) for unit, of in values.items()}
    at_goal = {unit: _forecast(sizes, of, goal) for unit, of in values.items()}
    print(
        f"slopes {slopes['seconds']:.2f} and {slopes['bytes']:.2f}; at {goal:.0e}: "
        f"{at_goal['seconds']:.3g} s, {at_goal['bytes'] / 1e6:.3g} MB",
        flush=True,
    )
    table = {"name": name, "sizes": sizes, "points": found, "goal": goal}
    table |= {"slopes": slopes, "at_goal": at_goal}
    if check and far is not None:
        said = {unit: _forecast(sizes, of, far) for unit, of in values.items()}
        point = _point(name, far)
        _show(far, point, f"(forecast {said['seconds']:.3g} s, {said['bytes'] / 1e6:.3g} MB)  ")
        table |= {"check": far, "check_point": point, "check_forecast": said}
    return table


def _machine() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    versions = " ".join(f"{p} {importlib.metadata.version(p)}" for p in ("jax", "numpy", "scipy"))
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, one thread used; "
        f"Python {platform.python_version()}, {versions}; load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    """Measures the ladders asked for and prints them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *_LADDERS], help="which to run")
    parser.add_argument("--quick", action="store_true", help="the three smallest sizes of each")
    parser.add_argument("--check", action="store_true", help="try the forecasts further out")
    parser.add_argument("--out", help="write the numbers as JSON")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        name, size = arguments.point
        print(json.dumps(_LADDERS[name][0](int(size))))
        return
    print(_machine())
    tables = [
        _ladder(name, quick=arguments.quick, check=arguments.check)
        for name in arguments.names or _LADDERS
    ]
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(tables, indent=1), "utf-8")


if __name__ == "__main__":
    main()
