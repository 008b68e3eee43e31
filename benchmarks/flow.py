"""Gradient flows through plateaus: ours against SciPy's LSODA on the same starts, in one run.

    python -m benchmarks.flow [--quick]

Starts are split units on the plateau of `e^-t`, bumps at 1/ω = 4 … 15; the time is that at which the
weights have moved by 0.5. LSODA gets the same closed-form gradient and Hessian, and is stopped at the
event. Errors are against our own flow at a tolerance of 1e-11. Nothing is compiled: there is no
compile time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.integrate

from recollect import targets, training

DELTA = 0.5


def problems(n_starts: int, delays: np.ndarray):
    """Returns losses, amplitudes and rates, one row per lane."""
    share = np.random.default_rng(0).uniform(0.05, 0.45, n_starts)
    losses, amplitudes = [], []
    for delay in delays:
        bump = targets.Bump(delay=float(delay), width=1.0, height=1.0)
        loss = training.exact_loss(targets.exponential_sum([1.0], [1.0]) + bump)
        losses += [loss] * n_starts
        amplitudes += [[s, 1 - s] for s in share]
    return losses, np.array(amplitudes), np.ones((len(losses), 2))


def lsoda(loss, a, w, flow_time: float, rtol: float) -> float:
    """Returns LSODA's hitting time."""
    start = np.concatenate([a, w])
    m = len(a)

    def moved(_, theta):
        return np.linalg.norm(theta - start) - DELTA

    moved.terminal = True
    found = scipy.integrate.solve_ivp(
        lambda _, theta: -loss.gradient(theta[:m], theta[m:]),
        (0, flow_time),
        start,
        method="LSODA",
        jac=lambda _, theta: -loss.hessian(theta[:m], theta[m:]),
        events=moved,
        rtol=rtol,
        atol=1e-3 * rtol,
    )
    return float(found.t_events[0][0]) if len(found.t_events[0]) else np.inf


def ours(losses, a, w, rtol: float) -> np.ndarray:
    """Returns our hitting times."""
    found = training.measure_hitting_times(losses, a, w, delta=DELTA, of="parameters", rtol=rtol)
    return np.array([hit.value for hit in found])


def main(*, quick: bool = False) -> None:
    """Prints times, errors, their ratio, and cost against delay and width."""
    delays = np.arange(4, 16, 3 if quick else 1)
    losses, a, w = problems(2 if quick else 10, delays)
    truth = ours(losses, a, w, 1e-11)
    print(f"{len(losses)} flows; median and largest relative error of the hitting time")
    began = time.perf_counter()
    mine = ours(losses, a, w, 1e-8)
    seconds = time.perf_counter() - began
    error = np.abs(mine / truth - 1)
    print(f"ours, rtol 1e-8    {seconds:8.2f} s  {np.median(error):.1e} {error.max():.1e}")
    for rtol in (1e-8, 1e-10):
        began = time.perf_counter()
        theirs = np.array([lsoda(*lane, 1e12, rtol) for lane in zip(losses, a, w, strict=True)])
        other = time.perf_counter() - began
        error = np.abs(theirs / truth - 1)
        print(
            f"LSODA, rtol {rtol:.0e} {other:8.2f} s  {np.median(error):.1e} {error.max():.1e}  "
            f"ours is {other / seconds:.0f} x faster"
        )
    if quick:
        return
    losses, a, w = problems(100, delays)
    began = time.perf_counter()
    ours(losses, a, w, 1e-8)
    print(f"ours, {len(losses)} flows {time.perf_counter() - began:.1f} s")
    stuck = np.array([1.3, -0.3]), np.array([1.0, 1.0])
    for name, solve in (
        ("ours", lambda: training.solve_flow(losses[-1], *stuck)),
        ("LSODA", lambda: lsoda(losses[-1], *stuck, 1e12, 1e-10)),
    ):
        began = time.perf_counter()
        solve()
        print(f"a start that never leaves, {name}: {time.perf_counter() - began:.2f} s")
    cost = []
    for width in (2, 4, 8, 16):
        amplitudes = np.random.default_rng(0).dirichlet(np.ones(width), 10)
        began = time.perf_counter()
        ours(losses[:10], amplitudes, np.ones((10, width)), 1e-8)
        cost.append(time.perf_counter() - began)
    slope = np.polyfit(np.log([2, 4, 8, 16]), np.log(cost), 1)[0]
    print("seconds at widths 2, 4, 8, 16:", *(f"{c:.2f}" for c in cost), f"(order {slope:.2f})")
    cost = []
    for delay in (6, 9, 12, 15):
        few = problems(10, np.array([delay]))
        began = time.perf_counter()
        ours(*few, 1e-8)
        cost.append(time.perf_counter() - began)
    print("seconds at delays 6, 9, 12, 15:", *(f"{c:.2f}" for c in cost))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    main(quick=parser.parse_args().quick)
