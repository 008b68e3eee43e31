"""Forward plus backward time of the recurrences against what users would pick instead.

    python benchmarks/recurrences.py [--quick] [--platform cpu|gpu] [--cores 2] [--out FILE.json]

Peers (torch, numba) are measured where they are installed and named as absent where they are not.
Each row is the median over repetitions that interleave all competitors, in one process. Before each
timed call its competitor runs once untimed, as in a training loop, so that nobody pays for what the
one before has left behind: memory that is still being returned to the system, threads that still
spin. The time of that first call stands beside it ("after others"), and the least of all timed ones,
which other work on the machine disturbs less. The GPU part
(associative and Newton forms against sequential, T from 1k to 1M) runs with `--platform gpu`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH, WIDTH = 32, 64


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="T = 1k only, few repetitions")
    parser.add_argument("--platform", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--cores", type=int, default=2, help="cores this process may use")
    parser.add_argument(
        "--only", default="", help="comma-separated: linear,tanh,elman,small,memory"
    )
    parser.add_argument("--out", default=None, help="write the numbers as JSON")
    return parser.parse_args()


class Times(dict[str, float]):
    """Median milliseconds of each competitor after itself; the least; the median after others."""

    def __init__(self, times: dict[str, list[float]], after_others: dict[str, list[float]]) -> None:
        super().__init__({k: 1e3 * statistics.median(v) for k, v in times.items()})
        self.least = {k: 1e3 * min(v) for k, v in times.items()}
        self.after_others = {k: 1e3 * statistics.median(v) for k, v in after_others.items()}


def _measure(competitors: dict[str, Callable[[], Any]], n_repeats: int) -> Times:
    times: dict[str, list[float]] = {name: [] for name in competitors}
    after_others: dict[str, list[float]] = {name: [] for name in competitors}
    for run in competitors.values():
        run()
    order, shuffle = list(competitors.items()), random.Random(0).shuffle
    for _ in range(n_repeats):
        # Nobody always follows the same one.
        shuffle(order)
        for name, run in order:
            for kept in (after_others, times):
                start = time.perf_counter()
                run()
                kept[name].append(time.perf_counter() - start)
    return Times(times, after_others)


def _jax_gradient(states: Callable[..., Any], weights: Any, drive: Any) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    gradient = jax.jit(jax.grad(lambda w, u: jnp.sum(states(w, u) ** 2), argnums=(0, 1)))
    arrays = jnp.asarray(weights), jnp.asarray(drive)
    return lambda: jax.block_until_ready(gradient(*arrays))


def _torch_gradient(states: Callable[..., Any], weights: Any, drive: Any) -> Callable[[], Any]:
    import torch

    w = torch.tensor(weights, requires_grad=True)
    u = torch.tensor(drive, requires_grad=True)

    def run() -> None:
        w.grad = u.grad = None
        (states(w, u) ** 2).sum().backward()

    return run


def _torch_loop(update: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def states(w: Any, u: Any) -> Any:
        h, kept = torch.zeros_like(u[0]), []
        for value in u.unbind(0):
            h = update(w, h, value)
            kept.append(h)
        return torch.stack(kept)

    return states


def _torch_fft(w: Any, u: Any) -> Any:
    import torch

    n = len(u)
    kernel = w[None] ** torch.arange(n, dtype=u.dtype)[:, None]
    spectrum = torch.fft.rfft(kernel, 2 * n, dim=0)[:, None] * torch.fft.rfft(u, 2 * n, dim=0)
    return torch.fft.irfft(spectrum, 2 * n, dim=0)[:n]


def _numba_gradient(kind: str, weights: Any, drive: Any) -> Callable[[], Any]:
    import numba
    import numpy as np

    is_tanh = kind == "tanh"

    @numba.njit(parallel=True, fastmath=True)
    def forward(w, u, h):
        for b in numba.prange(u.shape[1]):
            state = np.zeros_like(w)
            for t in range(u.shape[0]):
                for i in range(w.shape[0]):
                    z = w[i] * state[i] + u[t, b, i]
                    state[i] = np.tanh(z) if is_tanh else z
                    h[t, b, i] = state[i]

    @numba.njit(parallel=True, fastmath=True)
    def backward(w, h, cotangent, du, dw):
        for b in numba.prange(h.shape[1]):
            adjoint = np.zeros_like(w)
            for t in range(h.shape[0] - 1, -1, -1):
                for i in range(w.shape[0]):
                    g = cotangent[t, b, i] + adjoint[i]
                    if is_tanh:
                        g *= 1 - h[t, b, i] * h[t, b, i]
                    du[t, b, i] = g
                    if t > 0:
                        dw[b, i] += g * h[t - 1, b, i]
                    adjoint[i] = w[i] * g

    def run() -> Any:
        # As in the other competitors, results are fresh arrays and the loss is somebody else's.
        h, du = np.empty_like(drive), np.empty_like(drive)
        dw = np.zeros(drive.shape[1:], drive.dtype)
        forward(weights, drive, h)
        backward(weights, h, 2 * h, du, dw)
        return dw.sum(axis=0), du

    return run


def _competitors(kind: str, n_time: int, dtype: str, absent: set[str]) -> dict[str, Any]:
    import numpy as np

    from recollect import models

    rng = np.random.default_rng(0)
    drive = rng.standard_normal((n_time, BATCH, WIDTH)).astype(dtype)
    shape = (WIDTH, WIDTH) if kind == "elman" else (WIDTH,)
    weights = rng.uniform(0.5, 0.999, shape) if kind != "elman" else rng.standard_normal(shape) / 8
    weights = weights.astype(dtype)
    run = {
        "linear": models.linear_diagonal_states,
        "tanh": models.nonlinear_diagonal_states,
        "elman": models.nonlinear_dense_states,
    }[kind]
    forms = {
        "linear": ("scan", "sequential", "associative", "compiled"),
        "tanh": ("scan", "sequential", "newton", "compiled"),
        "elman": ("scan", "sequential", "compiled"),
    }[kind]
    found: dict[str, Any] = {}
    for form in forms:
        if form in ("associative", "newton") and n_time > 4096:
            continue
        if form == "compiled" and importlib.util.find_spec("numba") is None:
            continue
        found[f"recollect {form}"] = _jax_gradient(
            lambda w, u, form=form: run(w, u, form=form), weights, drive
        )
    try:
        import torch

        updates = {
            "linear": lambda w, h, x: w * h + x,
            "tanh": lambda w, h, x: torch.tanh(w * h + x),
            "elman": lambda w, h, x: torch.tanh(h @ w.mT + x),
        }
        if n_time <= 16384:
            found["torch unbind"] = _torch_gradient(_torch_loop(updates[kind]), weights, drive)
        if kind == "linear" and n_time <= 4096:
            found["torch FFT"] = _torch_gradient(_torch_fft, weights, drive)
    except ModuleNotFoundError:
        absent.add("torch")
    if kind != "elman":
        try:
            found["numba"] = _numba_gradient(kind, weights, drive)
        except ModuleNotFoundError:
            absent.add("numba")
    return found


def _small_networks(n_repeats: int, absent: set[str]) -> dict[str, float]:
    """64 networks of 16 units, T = 100, batch 32: all one after another, forward plus backward."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from recollect import models

    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 0.9, (64, 16)).astype("float32")
    drive = rng.standard_normal((100, 32, 16)).astype("float32")

    def loss(w: Any, u: Any, form: str) -> Any:
        return jnp.sum(models.nonlinear_diagonal_states(w, u, form=form) ** 2)

    found: dict[str, Any] = {}
    w, u = jnp.asarray(weights), jnp.asarray(drive)
    for form in ("scan", "sequential"):
        mapped = jax.jit(
            lambda w, u, form=form: jax.lax.map(lambda one: jax.grad(loss)(one, u, form), w)
        )
        found[f"recollect lax.map {form}"] = lambda f=mapped: jax.block_until_ready(f(w, u))
    try:
        import torch

        single = [
            _torch_gradient(_torch_loop(lambda w, h, x: torch.tanh(w * h + x)), one, drive)
            for one in weights
        ]
        found["torch one after another"] = lambda: [run() for run in single]
    except ModuleNotFoundError:
        absent.add("torch")
    return _measure(found, n_repeats)


def _memory() -> dict[str, float]:
    """Bytes of temporary memory of one gradient, and its growth from T = 16k to 128k."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from recollect import models

    model = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), models.initialise_elman(64, key=0))
    calls = {
        "whole": lambda m, x: m(x, dt=1.0),
        "checkpointed": lambda m, x: models.evaluate_checkpointed(m, x, dt=1.0),
    }
    rows = {}
    for name, call in calls.items():
        sizes = []
        for n in (16384, 131072):
            signal = jax.ShapeDtypeStruct((n, 1), jnp.float32)
            gradient = jax.jit(jax.grad(lambda m, x, call=call: jnp.sum(call(m, x) ** 2)))
            analysis = gradient.lower(model, signal).compile().memory_analysis()
            sizes.append(analysis.temp_size_in_bytes)
        rows[f"{name} MB at 128k"] = sizes[1] / 2**20
        rows[f"{name} slope"] = float(np.log(sizes[1] / sizes[0]) / np.log(8))
    return rows


def _accelerator(n_repeats: int) -> dict[str, dict[str, float]]:
    """Parallel against sequential forms on the device, with the fraction of its bandwidth used."""
    import jax
    import numpy as np

    from recollect import models

    rows = {}
    for n_time in (1024, 4096, 16384, 65536, 262144, 1048576):
        batch = max(1, min(BATCH, 2**22 // n_time))
        rng = np.random.default_rng(0)
        drive = rng.standard_normal((n_time, batch, WIDTH)).astype("float32")
        weights = rng.uniform(0.5, 0.999, WIDTH).astype("float32")
        found = {}
        for name, run, forms in (
            ("linear", models.linear_diagonal_states, ("associative", "sequential")),
            ("tanh", models.nonlinear_diagonal_states, ("newton", "sequential")),
        ):
            for form in forms:
                if form == "sequential" and n_time > 65536:
                    continue
                found[f"{name} {form}"] = _jax_gradient(
                    lambda w, u, run=run, form=form: run(w, u, form=form),
                    weights,
                    drive,
                )
        row = _measure(found, n_repeats)
        # The least traffic of a gradient: read u, write and read h, write its adjoint.
        row["GB/s of linear associative"] = 4e-6 * drive.nbytes / row["linear associative"]
        row["chosen"] = models.choose_form("linear", n_time, platform=jax.default_backend())  # type: ignore[assignment]
        rows[f"T={n_time} batch={batch}"] = row
    return rows


def main() -> None:
    arguments = _arguments()
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[arguments.platform]
    if arguments.platform == "cpu":
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, available[: arguments.cores])
    os.environ.setdefault("OMP_NUM_THREADS", str(arguments.cores))
    os.environ.setdefault("NUMBA_NUM_THREADS", str(arguments.cores))
    import jax

    absent: set[str] = set()
    results: dict[str, Any] = {}
    wanted = set(arguments.only.split(",")) if arguments.only else None
    if arguments.platform == "gpu":
        results["accelerator"] = _accelerator(3 if arguments.quick else 10)
    else:
        sizes = [(1024, "float32")]
        if not arguments.quick:
            sizes += [(1024, "float64"), (4096, "float32"), (4096, "float64")]
            sizes += [(16384, "float32"), (131072, "float32")]
        for kind in ("linear", "tanh", "elman"):
            if wanted and kind not in wanted:
                continue
            for n_time, dtype in sizes:
                if kind != "linear" and n_time > 16384:
                    continue
                with jax.enable_x64(dtype == "float64"):
                    found = _competitors(kind, n_time, dtype, absent)
                    row = _measure(found, 3 if arguments.quick or n_time > 16384 else 9)
                results[f"{kind} T={n_time} {dtype}"] = row
                _print(f"{kind} T={n_time} {dtype}", row)
        if not wanted or "small" in wanted:
            results["64 small networks"] = _small_networks(3, absent)
            _print("64 small networks", results["64 small networks"])
        if not wanted or "memory" in wanted:
            results["memory"] = _memory()
            _print("memory", results["memory"], unit="")
    record = {
        "schema": "recollect.benchmark",
        "version": 1,
        "unit": "ms, medians of forward plus backward",
        "platform": jax.default_backend(),
        "cores": arguments.cores,
        "load": list(os.getloadavg()),
        "absent": sorted(absent),
        "results": results,
        "least": {name: row.least for name, row in results.items() if isinstance(row, Times)},
        "after others": {
            name: row.after_others for name, row in results.items() if isinstance(row, Times)
        },
    }
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(record, file, indent=1)
    if absent:
        print("not measured, because not installed: " + ", ".join(sorted(absent)), file=sys.stderr)
    if arguments.platform == "gpu":
        for name, row in results["accelerator"].items():
            _print(name, {k: v for k, v in row.items() if not isinstance(v, str)})


def _print(title: str, row: dict[str, float], unit: str = "ms") -> None:
    best = min(row.values())
    least = row.least if isinstance(row, Times) else {}
    print(title)
    for name, value in sorted(row.items(), key=lambda item: item[1]):
        line = f"  {name:32s} {value:10.2f} {unit}"
        if unit:
            line += f" {value / best:6.2f}x"
        if name in least:
            line += f"   least {least[name]:8.2f} ms {least[name] / min(least.values()):5.2f}x"
        if isinstance(row, Times):
            others = row.after_others
            line += f"   after others {others[name]:8.2f} ms {others[name] / min(others.values()):5.2f}x"
        print(line)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
