"""What the race past the plateau is made of: tasks, the error that counts, and the runners."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from typing import Any

import numpy as np
import scipy.linalg
import scipy.signal

from recollect._core._pole_fit import (
    DiscretePoles,
    fit_sequence,
    quadratic_form,
    realise_poles,
    refine_poles,
)
from recollect._core._threads import on_one_thread

N_PATHS = 32
# Share of a kernel's power beyond its memory, and how many memories a path lasts.
_BEYOND = 1e-3
N_MEMORIES = 4
# Correlation time of the coloured input.
CORRELATION_TIME = 1.0
STARTS = ("direct", "softplus", "lru", "s4d")
_STEPS_PER_CALL = 250


@dataclasses.dataclass(frozen=True)
class Race:
    """Paths of one target, and what is exact about it.

    Attributes:
        kernel: true integrals K_j over the steps of a path, shape (lag,).
        signals: inputs, shape (path, time).
        outputs: true outputs from rest, shape (path, time).
        root: `‖root e‖²` is the expected mean square error on a fresh path, for a kernel error e.
        dt: step.
        memory: lag by which 99.9 % of ∫ρ² is seen.
    """

    kernel: np.ndarray
    signals: np.ndarray
    outputs: np.ndarray
    root: np.ndarray
    dt: float
    memory: float

    @property
    def n_time(self) -> int:
        """Steps per path."""
        return len(self.kernel)

    def error(self, kernel: Any) -> float:
        """Returns the root mean square error expected on a fresh path, over the output's."""
        wrong = self.root @ (np.asarray(kernel) - self.kernel)
        return float(np.linalg.norm(wrong) / np.linalg.norm(self.root @ self.kernel))


def build_target(target: str) -> Any:
    """Returns the functional called `"bump 16"` or `"power 1.5"`."""
    from recollect import targets

    kind, value = target.split()
    if kind == "power":
        return targets.PowerLaw(exponent=float(value), scale=1.0)
    bump = targets.Bump(delay=float(value), width=1.0, height=1.0)
    return targets.exponential_sum([1.0], [1.0]) + bump


def build_race(
    target: str, inputs: str, *, n_memories: float = N_MEMORIES, n_paths: int = N_PATHS
) -> Race:
    """Returns paths of `n_memories` memories from rest, `inputs` "white" or "coloured"."""
    functional = build_target(target)
    dt = 1.0 if target == "power 1.1" else 0.25
    memory = _memory(functional, dt)
    n_time = math.ceil(n_memories * memory / dt)
    steps = functional.step_response(dt * np.arange(n_time + 1))[:, 0, 0]
    kernel = np.diff(steps)
    rng = np.random.default_rng(0)
    signals = rng.standard_normal((n_paths, n_time))
    autocorrelation = np.zeros(n_time)
    autocorrelation[0] = 1.0
    if inputs == "coloured":
        a = math.exp(-dt / CORRELATION_TIME)
        past = rng.standard_normal((n_paths, 1))
        signals, _ = scipy.signal.lfilter(
            [math.sqrt(1 - a * a)], [1, -a], signals, axis=1, zi=a * past
        )
        autocorrelation = a ** np.arange(n_time)
    outputs = scipy.signal.oaconvolve(signals, kernel[None], axes=1)[:, :n_time]
    # Lag j is seen by the n - j last samples of a path that begins at rest.
    seen = 1 - np.arange(n_time) / n_time
    if inputs == "white":
        root = np.diag(np.sqrt(seen))
    else:
        later = np.maximum.outer(np.arange(n_time), np.arange(n_time))
        root = scipy.linalg.cholesky(scipy.linalg.toeplitz(autocorrelation) * seen[later])
    return Race(kernel, signals, outputs, root, dt, memory)


def _memory(functional: Any, dt: float) -> float:
    lags = dt * np.arange(100_000)
    power = np.cumsum(functional.kernel(lags)[:, 0, 0] ** 2)
    return float(lags[np.searchsorted(power, (1 - _BEYOND) * power[-1])])


def as_records(race: Race) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the paths as lists of records."""
    return list(race.signals), list(race.outputs)


def training_root(race: Race) -> tuple[np.ndarray, np.ndarray]:
    """Returns (R, d) with `‖R K - d‖²` the mean square error on the paths, up to a constant."""
    return quadratic_form(*as_records(race), race.n_time)


# --- ours -------------------------------------------------------------------------------------


def run_ours(race: Race, width: int, *, is_noise_free: bool | None = None) -> dict[str, Any]:
    """Returns what `training.fit_records` reaches, and its cost."""
    from recollect import training

    began = time.perf_counter()
    found = training.fit_records(
        *as_records(race), dt=race.dt, width=width, is_noise_free=is_noise_free
    )
    seconds = time.perf_counter() - began
    kernel = found.model.kernel(race.dt * np.arange(race.n_time))[:, 0, 0] * race.dt
    return {
        "seconds": seconds,
        "stages": [found.stats[f"seconds_{stage}"] for stage in ("kernel", "compile", "refine")],
        "steps": found.n_steps,
        "error": race.error(kernel),
        "poles": DiscretePoles.of(np.linalg.eigvals(found.model.A)),
    }


@on_one_thread
def find_best(race: Race, width: int, *others: DiscretePoles) -> float:
    """Returns the least error found for a network of this width, fitted to the true kernel.

    Several starts, refined on the very error that counts.
    """
    wanted = race.root @ race.kernel
    starts = [*others, fit_sequence(race.kernel, width, race.root, wanted)[0]]
    ends = [
        refine_poles(start, race.root, wanted, n_iterations=150, rtol=1e-9)[0] for start in starts
    ]
    costs = [realise_poles(poles, race.root, wanted)[1] for poles in starts + ends]
    return math.sqrt(min(costs)) / float(np.linalg.norm(wanted))


# --- the others -------------------------------------------------------------------------------


def build_start(race: Race, width: int, start: str, *, seed: int = 0) -> Any:
    """Returns a random diagonal network in discrete time, as its literature starts it.

    `direct` and `softplus` share rates and frequencies that are log-uniform between one over the
    path and half of one over the step. S4D-Lin is given the memory as its window.
    """
    from recollect import models

    if start == "lru":
        return models.initialise_lru_ring(width, dt=race.dt, key=seed)
    if start == "s4d":
        network = models.initialise_s4d_lin(width, timescale=race.memory, key=seed)
        rates = np.asarray(network.rates)
        gain = -np.expm1(-rates * race.dt) / rates
        return models.DiagonalRNN(
            rates,
            np.asarray(network.B) * gain[:, None],
            network.C,
            dt=race.dt,
            reparam=models.Exponential(),
        )
    rng = np.random.default_rng(seed)
    low, high = -math.log(race.n_time * race.dt), -math.log(2 * race.dt)
    half = np.exp(rng.uniform(low, high, (2, width // 2)))
    rates = half[0] + 1j * half[1]
    draws = rng.standard_normal((4, width // 2)) / math.sqrt(2)
    B = (draws[0] + 1j * draws[1]) * np.sqrt(-np.expm1(-2 * half[0] * race.dt))
    C = (draws[2] + 1j * draws[3]) / math.sqrt(width)
    return models.DiagonalRNN(
        np.concatenate([rates, rates.conj()]),
        np.concatenate([B, B.conj()])[:, None],
        np.concatenate([C, C.conj()])[None],
        dt=race.dt,
        reparam=models.Direct() if start == "direct" else models.Softplus(),
    )


@dataclasses.dataclass
class _Runner:
    """One competitor at one learning rate: its parameters, its clock, its curve."""

    rate: float
    state: Any
    seconds: float = 0.0
    steps: int = 0
    curve: list[tuple[float, int, float]] = dataclasses.field(default_factory=list)

    @property
    def last(self) -> float:
        return self.curve[-1][2] if self.curve else math.inf

    @property
    def is_alive(self) -> bool:
        return not self.curve or math.isfinite(self.last)


def _halve(
    runners: list[_Runner],
    advance: Any,
    *,
    bar: float,
    tune: float,
    budget: float,
    max_steps: float = math.inf,
) -> _Runner:
    """Runs every rate for `tune` seconds and the best one on to `budget`; returns that one.

    A rate's clock is its own: the seconds spent on the others are not held against it.
    """

    def go(runner: _Runner, limit: float) -> None:
        while runner.is_alive and runner.last > bar and runner.seconds < limit:
            if runner.steps >= max_steps:
                break
            advance(runner)

    for runner in runners:
        go(runner, tune)
    best = min(
        runners, key=lambda r: (not r.is_alive, r.last > bar, r.seconds * (r.last <= bar), r.last)
    )
    go(best, budget)
    return best


def _outcome(best: _Runner, bar: float, compile_seconds: float) -> dict[str, Any]:
    errors = [error for _, _, error in best.curve if math.isfinite(error)]
    return {
        "is_reached": bool(best.last <= bar),
        "seconds": best.seconds,
        "steps": best.steps,
        "error": min(errors, default=math.inf),
        "rate": best.rate,
        "start_up": compile_seconds,
        "curve": best.curve,
    }


def run_descent(
    race: Race,
    width: int,
    start: str,
    *,
    optimiser: str = "adam",
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2),
    bar: float,
    tune: float,
    budget: float,
    max_steps: float = math.inf,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns what a random start reaches by descent on the paths, full batch.

    The mean square error on the paths is a quadratic form in the kernel, and that form is what
    descends here: the same steps as by simulating every path (a test compares them), at a small
    part of the cost. The competitors are given this.
    """
    import jax
    import jax.numpy as jnp
    import optax

    network = build_start(race, width, start, seed=seed)
    root, wanted = training_root(race)
    half = width // 2
    with jax.enable_x64(True):
        lags = jnp.arange(race.n_time) * race.dt
        scale = 1 / float(wanted @ wanted)
        R, d = jnp.asarray(root), jnp.asarray(wanted)
        B, C = np.asarray(network.B)[:half, 0], np.asarray(network.C)[0, :half]
        first = {
            "weights": np.asarray(network.weights)[:half],
            "frequencies": np.asarray(network.frequencies)[:half],
            "B": np.stack([B.real, B.imag]),
            "C": np.stack([C.real, C.imag]),
        }

        def kernel_of(p: Any) -> Any:
            decay = jnp.exp(-lags[:, None] * network.reparam.forward(p["weights"]))
            phase = lags[:, None] * p["frequencies"]
            real = p["B"][0] * p["C"][0] - p["B"][1] * p["C"][1]
            imaginary = p["B"][0] * p["C"][1] + p["B"][1] * p["C"][0]
            return 2 * ((decay * jnp.cos(phase)) @ real + (decay * jnp.sin(phase)) @ imaginary)

        def loss_of(p: Any) -> Any:
            return scale * jnp.sum((R @ kernel_of(p) - d) ** 2)

        method = optax.scale_by_adam() if optimiser == "adam" else optax.identity()

        @jax.jit
        def steps(p: Any, state: Any, rate: Any) -> Any:
            def one(carry: Any, _: Any) -> Any:
                p, state = carry
                loss, slope = jax.value_and_grad(loss_of)(p)
                update, state = method.update(slope, state, p)
                return (jax.tree.map(lambda a, b: a - rate * b, p, update), state), loss

            carry, _ = jax.lax.scan(one, (p, state), None, length=_STEPS_PER_CALL)
            return carry, kernel_of(carry[0])

        def advance(runner: _Runner) -> None:
            began = time.perf_counter()
            moved = steps(runner.state[0], runner.state[1], runner.rate)
            runner.state, kernel = jax.block_until_ready(moved)
            runner.seconds += time.perf_counter() - began
            runner.steps += _STEPS_PER_CALL
            runner.curve.append((runner.seconds, runner.steps, race.error(kernel)))

        params = jax.tree.map(jnp.asarray, first)
        runners = [_Runner(rate, (params, method.init(params))) for rate in rates]
        began = time.perf_counter()
        jax.block_until_ready(steps(params, runners[0].state[1], rates[0]))
        warmed = time.perf_counter()
        jax.block_until_ready(steps(params, runners[0].state[1], rates[0]))
        compile_seconds = max(0.0, 2 * warmed - began - time.perf_counter())
        best = _halve(runners, advance, bar=bar, tune=tune, budget=budget, max_steps=max_steps)
    return _outcome(best, bar, compile_seconds)


def time_simulation(race: Race, width: int, *, start: str = "lru", n_calls: int = 3) -> float:
    """Returns the seconds one step takes where the paths are simulated (`training.train_model`)."""
    from recollect import training

    moments: list[tuple[int, float]] = []
    training.train_model(
        build_start(race, width, start),
        race.signals[:, :, None],
        race.outputs[:, :, None],
        key=0,
        dt=race.dt,
        n_steps=5 * (n_calls + 1),
        steps_per_call=5,
        precision="float32",
        callback=lambda progress: moments.append((progress.step, progress.seconds)) and False,
    )
    return min((b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(moments))


def run_gru(
    race: Race,
    width: int,
    *,
    rates: tuple[float, ...] = (3e-3, 1e-2),
    bar: float,
    tune: float,
    budget: float,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Returns what a torch GRU with a linear readout reaches by Adam; None without torch.

    Its error is estimated on 64 fresh paths, since it has no kernel.
    """
    try:
        import torch
    except ImportError:
        return None
    rng = np.random.default_rng(1)
    fresh = rng.standard_normal((64, race.n_time))
    if race.root[0, 1:].any():
        a = math.exp(-race.dt / CORRELATION_TIME)
        past = rng.standard_normal((64, 1))
        fresh, _ = scipy.signal.lfilter([math.sqrt(1 - a * a)], [1, -a], fresh, axis=1, zi=a * past)
    truth = scipy.signal.oaconvolve(fresh, race.kernel[None], axes=1)[:, : race.n_time]
    size = math.sqrt(float(np.mean(race.outputs**2)))
    x, y, fresh_x = (
        torch.tensor(v, dtype=torch.float32)[:, :, None]
        for v in (race.signals, race.outputs / size, fresh)
    )

    def build(rate: float) -> _Runner:
        torch.manual_seed(seed)
        cell = torch.nn.GRU(1, width, batch_first=True)
        readout = torch.nn.Linear(width, 1)
        weights = [*cell.parameters(), *readout.parameters()]
        return _Runner(rate, (cell, readout, torch.optim.Adam(weights, lr=rate)))

    def advance(runner: _Runner) -> None:
        cell, readout, optimiser = runner.state
        began = time.perf_counter()
        for _ in range(10):
            optimiser.zero_grad()
            loss = torch.mean((readout(cell(x)[0]) - y) ** 2)
            loss.backward()
            optimiser.step()
        runner.seconds += time.perf_counter() - began
        runner.steps += 10
        with torch.no_grad():
            wrong = readout(cell(fresh_x)[0])[:, :, 0].numpy() * size - truth
        error = math.sqrt(float(np.mean(wrong**2) / np.mean(truth**2)))
        runner.curve.append((runner.seconds, runner.steps, error))

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = _halve([build(rate) for rate in rates], advance, bar=bar, tune=tune, budget=budget)
    finally:
        torch.set_num_threads(n_threads)
    return _outcome(best, bar, 0.0)
