"""An experiment on paper C: seeds x widths x steps, against a plain torch loop, and cost slopes.

Times are wall clock; CPU seconds stand beside them, because other work on the machine moves the
former and not the latter.

python -m benchmarks.convergence [--quick] [--seeds 20] [--steps 2000] [--ntk]
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from recollect import convergence

WIDTHS = (32, 64, 128, 256, 512, 1024)
ETA = 0.05


class _Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self):
        self.start = time.perf_counter(), time.process_time()

    def read(self) -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()]) - self.start


def _run(
    width: int, seed: int, n_steps: int, n: int = 32, horizon: int = 16, d: int = 4
) -> np.ndarray:
    network = convergence.initialise_paired(width, d, alpha=0.3, seed=seed)
    signals = convergence.draw_sequences(n, horizon, d, seed=seed)
    targets = 0.3 * np.random.default_rng(seed).standard_normal((n, horizon))
    clock = _Clock()
    convergence.train_paired(
        network,
        signals,
        targets,
        n_steps=n_steps,
        step_size=ETA,
        radius_w=1.0,
        radius_u=1.0,
        record_every=max(1, n_steps // 20),
    )
    return clock.read()


def _torch(width: int, n_steps: int) -> np.ndarray | None:
    try:
        import torch
    except ModuleNotFoundError:
        return None
    network = convergence.initialise_paired(width, 4, alpha=0.3, seed=0)
    x = torch.tensor(convergence.draw_sequences(32, 16, 4, seed=0), dtype=torch.float32)
    y = 0.3 * torch.randn(32, 16)
    w = torch.tensor(network.weights, dtype=torch.float32, requires_grad=True)
    u = torch.tensor(network.U, dtype=torch.float32, requires_grad=True)
    c = torch.tensor(network.signs / width**0.5, dtype=torch.float32)
    w0, u0 = w.detach().clone(), u.detach().clone()
    clock = _Clock()
    for _ in range(n_steps):
        h, outputs = torch.zeros(32, width), []
        for t in range(16):
            h = torch.tanh(w * h + x[:, t] @ u.T)
            outputs.append(h @ c)
        risk = ((torch.stack(outputs, 1) - y) ** 2).sum() / 32
        gradient_w, gradient_u = torch.autograd.grad(risk, (w, u))
        with torch.no_grad():
            w -= ETA * gradient_w
            u -= ETA * gradient_u
            w.copy_(w0 + (w - w0).clamp(-1 / width**0.5, 1 / width**0.5))
            move = u - u0
            size = move.norm(dim=1, keepdim=True).clamp_min(1 / width**0.5)
            u.copy_(u0 + move / size / width**0.5)
    return clock.read()


def _slope(sizes: list[int], make) -> float:
    times = []
    for size in sizes:
        make(size)
        times.append(min(make(size)[1] for _ in range(3)))
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def _ntk() -> None:
    import resource

    signals = convergence.draw_sequences(625, 16, 4, seed=0)
    network = convergence.initialise_paired(1024, 4, alpha=0.5, seed=0)
    clock = _Clock()
    convergence.measure_ntk(network, signals)
    wall, cpu = clock.read()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"tangent kernel, n·T = 10000, m = 1024: {wall:.1f} s ({cpu:.1f} s CPU), {peak:.1f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 seed, 200 steps")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--ntk", action="store_true", help="also the largest tangent kernel")
    arguments = parser.parse_args()
    seeds, steps = (1, 200) if arguments.quick else (arguments.seeds, arguments.steps)
    clock = _Clock()
    spent = {m: sum((_run(m, seed, steps) for seed in range(seeds)), np.zeros(2)) for m in WIDTHS}
    wall, cpu = clock.read()
    print(f"{seeds} seeds x {len(WIDTHS)} widths x {steps} steps: {wall:.1f} s ({cpu:.1f} s CPU)")
    few = min(steps, 200)
    for m in WIDTHS:
        ours = 1e3 * spent[m] / seeds / steps
        peer = _torch(m, few)
        other = "torch absent"
        if peer is not None:
            peer = 1e3 * peer / few
            other = f"torch {peer[0]:.2f} ms ({peer[1]:.2f} ms CPU)"
        print(f"  m = {m:4d}: {ours[0]:.3f} ms a step ({ours[1]:.3f} ms CPU), {other}")
    print("order of the CPU time in")
    print(f"  m  {_slope([256, 512, 1024], lambda m: _run(m, 0, 100)):.2f}")
    print(f"  T  {_slope([16, 32, 64], lambda t: _run(256, 0, 100, horizon=t)):.2f}")
    print(f"  n  {_slope([32, 64, 128], lambda n: _run(256, 0, 100, n=n)):.2f}")
    if arguments.ntk:
        _ntk()
    print(f"load {os.getloadavg()}", file=sys.stderr)


if __name__ == "__main__":
    main()
