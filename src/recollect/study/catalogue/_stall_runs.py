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

N_PATHS = 32
# Share of a kernel's power beyond its memory, and how many memories a path lasts.
_BEYOND = 1e-3
N_MEMORIES = 4
# Correlation time of the coloured input.
CORRELATION_TIME = 1.0
# Share of the output's power that least squares may leave where there is no noise.
_NO_NOISE = 1e-10
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


# --- the loss of the paths, as a quadratic form in the kernel ---------------------------------


def training_root(race: Race, n_lags: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns (R, d) with `‖R K - d‖²` the mean square error on the paths, up to a constant.

    From inputs and outputs only; K ends after `n_lags` (a whole path if omitted). An entry
    `Σ_k x_{k-j} x_{k-l}` follows from the one before it on its diagonal, so the paths are read once.
    """
    x, y = race.signals, race.outputs
    n_paths, n = int(x.shape[0]), int(x.shape[1])
    n_lags = n_lags or n
    backward = x[:, ::-1][:, :n_lags]
    ends = backward.T @ backward
    spectrum = np.fft.rfft(x, 2 * n)
    first = np.fft.irfft(np.sum(np.abs(spectrum) ** 2, axis=0))[:n_lags]
    gram = np.empty((n_lags, n_lags))
    gram[0] = first
    gram[:, 0] = first
    for j in range(1, n_lags):
        gram[j, 1:] = gram[j - 1, :-1] - ends[j - 1, :-1]
    cross = np.fft.irfft(np.sum(np.fft.rfft(y, 2 * n) * spectrum.conj(), axis=0))[:n_lags]
    root = scipy.linalg.cholesky(gram / (n_paths * n))
    seen = scipy.linalg.solve_triangular(root.T, cross / (n_paths * n), lower=True)
    return root, seen


# --- ours -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Poles:
    """Real multipliers tanh(x) and pairs sigmoid(r) e^{±iθ}, none outside the unit circle."""

    x: np.ndarray
    pairs: np.ndarray

    @staticmethod
    def of(multipliers: Any) -> Poles:
        """Returns the coordinates of multipliers that are closed under conjugation."""
        z = np.asarray(multipliers, complex)
        is_real = np.abs(z.imag) <= 1e-9
        upper = z[~is_real & (z.imag > 0)]
        radius = np.clip(np.abs(upper), 1e-9, 1 - 1e-12)
        x = np.arctanh(np.clip(z[is_real].real, -1 + 1e-12, 1 - 1e-12))
        pairs = np.stack([np.log(radius / (1 - radius)), np.angle(upper)], axis=1)
        return Poles(x, pairs)

    @property
    def vector(self) -> np.ndarray:
        """All coordinates, shape (width,)."""
        return np.concatenate([self.x, self.pairs.ravel()])

    def moved(self, vector: np.ndarray) -> Poles:
        """Returns the poles at other coordinates."""
        k = len(self.x)
        pairs = vector[k:].reshape(-1, 2).copy()
        pairs[:, 0] = np.clip(pairs[:, 0], -30, 28)
        pairs[:, 1] = np.clip(pairs[:, 1], 1e-9, math.pi - 1e-9)
        return Poles(np.clip(vector[:k], -14, 14), pairs)

    def basis(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the columns z^j, Re z^j, Im z^j, and how each moves with its coordinates.

        The slopes have shape (lag, coordinate, column of its own unit): a real unit has one of
        each, a pair two of each, listed as (r, θ) x (Re, Im).
        """
        j = np.arange(n)[:, None]
        z = np.tanh(self.x)
        single = z**j
        before = np.concatenate([np.zeros((1, len(z))), single[:-1]])
        radius, angle = 1 / (1 + np.exp(-self.pairs[:, 0])), self.pairs[:, 1]
        envelope = np.exp(j * np.log(radius))
        cos, sin = envelope * np.cos(j * angle), envelope * np.sin(j * angle)
        columns = np.concatenate([single, np.stack([cos, sin], 2).reshape(n, -1)], axis=1)
        by_radius = np.stack([cos, sin], axis=2) * (j * (1 - radius))[:, :, None]
        by_angle = np.stack([-j * sin, j * cos], axis=2)
        slopes = np.concatenate(
            [(j * before * (1 - z * z)), np.stack([by_radius, by_angle], 2).reshape(n, -1)], axis=1
        )
        return columns, slopes


def refine(
    poles: Poles,
    root: np.ndarray,
    wanted: np.ndarray,
    *,
    n_iterations: int = 60,
    rtol: float = 1e-6,
) -> tuple[Poles, int]:
    """Returns poles and iterations of variable projection on `‖root K - wanted‖²`.

    Gauss-Newton with Kaufman's Jacobian in the poles alone; the amplitudes are solved for.
    """
    n = root.shape[1]
    k = len(poles.x)

    def solve(at: Poles) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        columns, slopes = at.basis(n)
        seen = root @ columns
        norms = np.linalg.norm(seen, axis=0)
        norms[norms == 0] = 1.0
        q, r = np.linalg.qr(seen / norms)
        residual = wanted - q @ (q.T @ wanted)
        residual -= q @ (q.T @ residual)
        amplitudes = np.linalg.lstsq(r, q.T @ wanted, rcond=1e-15)[0] / norms
        return residual, amplitudes, q, slopes

    residual, c, q, slopes = solve(poles)
    cost, damping, n_taken = float(residual @ residual), 1e-3, 0
    floor = (1e-15 * np.linalg.norm(wanted)) ** 2
    while n_taken < n_iterations:
        if cost <= floor:
            break
        n_taken += 1
        paired = slopes[:, k:].reshape(n, -1, 2, 2)
        moves = np.concatenate(
            [
                slopes[:, :k] * c[:k],
                np.einsum("npvc,pc->npv", paired, c[k:].reshape(-1, 2)).reshape(n, -1),
            ],
            axis=1,
        )
        moves = root @ moves
        jacobian = -(moves - q @ (q.T @ moves))
        scale = np.linalg.norm(jacobian, axis=0) + 1e-300
        _, singular, vt = np.linalg.svd(np.linalg.qr(jacobian / scale, mode="r"))
        along = vt @ ((jacobian / scale).T @ residual)
        before, accepted = cost, False
        for _ in range(10):
            step = -(vt.T @ (along / (singular**2 + damping))) / scale
            step *= min(1.0, 0.7 / max(float(np.abs(step).max()), 1e-300))
            trial = poles.moved(poles.vector + step)
            found = solve(trial)
            new = float(found[0] @ found[0])
            if math.isfinite(new) and new < cost:
                accepted = True
                break
            damping = max(damping * 6, 1e-13)
        if not accepted:
            break
        damping *= 0.15
        poles, cost = trial, new
        residual, c, q, slopes = found
        if before - cost <= rtol * before:
            break
    return poles, n_taken


def realise(
    poles: Poles, root: np.ndarray, wanted: np.ndarray, n_time: int
) -> tuple[np.ndarray, float]:
    """Returns the kernel over `n_time` lags, and the cost, of the best network with these poles.

    On orthonormal states: the amplitudes of nearly equal poles cancel to many digits.
    """
    from recollect.approximation._discrete import orthonormal_realisation

    upper = np.exp(1j * poles.pairs[:, 1]) / (1 + np.exp(-poles.pairs[:, 0]))
    A, b = orthonormal_realisation(np.concatenate([np.tanh(poles.x), upper, upper.conj()]))
    states = np.empty((n_time, len(b)))
    for j in range(len(states)):
        states[j] = b
        b = A @ b
    seen = root @ states[: root.shape[1]]
    coordinates = np.linalg.lstsq(seen, wanted, rcond=1e-15)[0]
    coordinates += np.linalg.lstsq(seen, wanted - seen @ coordinates, rcond=1e-15)[0]
    rest = wanted - seen @ coordinates
    return states @ coordinates, float(rest @ rest)


def run_ours(race: Race, width: int, *, is_noise_free: bool = True) -> dict[str, Any]:
    """Returns what the network started from the data's own kernel reaches, and its cost.

    The kernel of the paths is compiled to poles, and these are refined on the paths. Where least
    squares leaves nothing over, the data are without noise and that is the kernel; otherwise (and
    with `is_noise_free=False` always) it is `memory.estimate_kernel`.
    """
    from recollect import memory
    from recollect.approximation._discrete import fit_discrete

    began = time.perf_counter()
    power = float(np.mean(race.outputs**2))
    n_lags, found = 32, None
    while found is None and n_lags < 2 * race.n_time:
        n_lags = min(2 * n_lags, race.n_time)
        root, wanted = training_root(race, n_lags)
        sequence = scipy.linalg.solve_triangular(root, wanted)
        size = np.abs(sequence)
        has_ended = size[-n_lags // 5 :].max() < 1e-13 * size.max() or n_lags == race.n_time
        if has_ended and power - float(wanted @ wanted) < _NO_NOISE * power:
            found = np.zeros(min(2 * n_lags, race.n_time))
            found[:n_lags] = sequence
            root, wanted = training_root(race, len(found))
        if n_lags == race.n_time:
            break
    if found is None or not is_noise_free:
        estimate = memory.estimate_kernel(
            list(race.signals[:, :, None]),
            list(race.outputs[:, :, None]),
            dt=race.dt,
            initial_state="rest",
        )
        n = min(round(estimate.edges[-1] / race.dt), race.n_time)
        bins = np.searchsorted(estimate.edges, race.dt * (np.arange(n) + 0.5)) - 1
        sequence = estimate.kernel[bins, 0, 0] * race.dt
        root, wanted = training_root(race)
    else:
        sequence = found
    estimated = time.perf_counter()
    start = Poles.of(fit_discrete(sequence, width=width, dt=race.dt, ends=False).rates)
    compiled = time.perf_counter()
    refined, n_steps = refine(start, root, wanted)
    # Where only rounding is left, refining may lose digits.
    ends = [(*realise(poles, root, wanted, race.n_time), poles) for poles in (start, refined)]
    kernel, _, poles = min(ends, key=lambda end: end[1])
    done = time.perf_counter()
    return {
        "seconds": done - began,
        "stages": [estimated - began, compiled - estimated, done - compiled],
        "steps": n_steps,
        "error": race.error(kernel),
        "poles": poles,
    }


def find_best(race: Race, width: int, *others: Poles) -> float:
    """Returns the least error found for a network of this width, fitted to the true kernel.

    Several starts, refined on the very error that counts.
    """
    from recollect.approximation._discrete import fit_discrete

    wanted = race.root @ race.kernel
    starts = list(others)
    for ends in (True, False):
        starts.append(Poles.of(fit_discrete(race.kernel, width=width, dt=race.dt, ends=ends).rates))
    ends = [refine(start, race.root, wanted, n_iterations=150, rtol=1e-9)[0] for start in starts]
    costs = [realise(poles, race.root, wanted, race.n_time)[1] for poles in starts + ends]
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
