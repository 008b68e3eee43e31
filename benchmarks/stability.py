"""One full perturbation curve, against a plain torch loop over the same evaluations.

21 radii, 30 starts each, width 16; the search on 128 paths, every reported value on all 12,800 paths
of 100 steps (tanh, mean square) or in the exact L1 norm (linear). The paper's way, 30 random draws per
radius on all paths, is timed on a few draws of the torch loop and scaled. CPU seconds stand beside wall
clock, because other work on the machine moves the latter and not the former.

python -m benchmarks.stability [--quick] [--paths 12800]
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from recollect import models, stability

N_STEPS, DT = 100, 0.1


class _Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self):
        self.start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]


def _residual(width: int, seed: int = 0) -> models.ResidualRNN:
    rng = np.random.default_rng(seed)
    W = -0.6 * np.eye(width) + 0.3 * rng.standard_normal((width, width)) / width**0.5
    return models.ResidualRNN(
        W, rng.standard_normal((width, 1)), rng.standard_normal((1, width)) / width
    )


def _torch_evaluations(network, paths, n_full: int, n_search: int):
    """Seconds of so many evaluations on all paths, and so many with gradients on 128 of them."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    torch.set_num_threads(1)
    x = torch.tensor(paths)
    weights = [
        torch.tensor(np.asarray(part), requires_grad=True)
        for part in (network.W, network.U, network.bias, network.C)
    ]

    def outputs(x):
        W, U, b, C = weights
        h, found = torch.zeros(len(x), len(W), dtype=x.dtype), []
        for t in range(x.shape[1]):
            h = h + DT * torch.tanh(h @ W.T + x[:, t] @ U.T + b)
            found.append(h @ C.T)
        return torch.stack(found, 1)

    with torch.no_grad():
        wanted = outputs(x) + 0.1
        clock = _Clock()
        for _ in range(n_full):
            value = ((outputs(x) - wanted) ** 2).mean()
        full = np.array(clock.read()) / n_full
    clock = _Clock()
    for _ in range(n_search):
        error = ((outputs(x[:128]) - wanted[:128]) ** 2).mean()
        torch.autograd.grad(error, weights)
    search = np.array(clock.read()) / n_search
    return full, search, float(value)


def _show(name: str, clock: _Clock) -> tuple[float, float]:
    wall, cpu = clock.read()
    print(f"{name:<58} {wall:8.1f} s {cpu:8.1f} s CPU", flush=True)
    return wall, cpu


def _linear() -> None:
    rng = np.random.default_rng(0)
    rates = np.geomspace(0.05, 2, 16)
    c = rng.standard_normal((1, 16))
    radii = 5e-4 * 2.0 ** np.arange(21) / 2**15
    direct = models.DiagonalRNN(rates, np.ones((16, 1)), c)
    networks = {
        "diagonal, direct": direct,
        "diagonal, exponential": models.reparameterise(direct, models.Exponential()),
        "dense": models.to_dense(direct),
    }
    for name, network in networks.items():
        clock = _Clock()
        curve = stability.measure_perturbation_error(network, radii)
        _show(f"linear {name}: 21 radii, 30 starts, exact L1", clock)
        assert (curve.sampled <= curve.errors).all()


def _nonlinear(n_paths: int) -> None:
    paths = np.random.default_rng(1).standard_normal((n_paths, N_STEPS, 1))
    network = _residual(16)
    radii = 1e-5 * 2.0 ** np.arange(21)
    clock = _Clock()
    curve = stability.measure_perturbation_error(network, radii, paths=paths, dt=DT)
    ours, _ = _show(f"tanh: 21 radii, 30 starts, {n_paths} paths of {N_STEPS} steps", clock)
    gain = np.median(curve.errors / curve.sampled)
    print(f"    the search finds {gain:.1f} times what 30 draws find (median over the radii)")
    found = _torch_evaluations(network, paths, n_full=5, n_search=20)
    if found is None:
        print("torch is not installed: no comparison")
        return
    full, search, value = found
    assert abs(value - 0.01) < 1e-12
    n_search, n_full = curve.stats["n_evaluations"], 2 * len(radii)
    same = full * n_full + search * n_search
    sampled = full * len(radii) * 30
    print(
        f"    torch, the same {n_full} full and {n_search} search evaluations: {same[0]:8.1f} s",
        end="",
    )
    print(f" {same[1]:8.1f} s CPU ({same[0] / ours:.1f} times ours)")
    print(
        f"    torch, the sampled curve alone (630 full evaluations):  {sampled[0]:8.1f} s", end=""
    )
    print(f" {sampled[1]:8.1f} s CPU ({sampled[0] / ours:.1f} times ours)")


def _quick() -> None:
    paths = np.random.default_rng(1).standard_normal((12800, N_STEPS, 1))
    clock = _Clock()
    stability.measure_perturbation_error(
        [_residual(4), _residual(16)], [1e-3, 1e-2, 3e-2, 0.1, 0.3], paths=paths, dt=DT, n_starts=4
    )
    _show("quick: tanh, widths 4 and 16, 5 radii, 4 starts", clock)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.stability", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="the quick curve only")
    parser.add_argument("--paths", type=int, default=12800)
    arguments = parser.parse_args()
    _quick()
    if not arguments.quick:
        _linear()
        _nonlinear(arguments.paths)


if __name__ == "__main__":
    main()
