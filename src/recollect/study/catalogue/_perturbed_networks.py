"""What the entries on paper B share: networks made to remember, and how far their weights may move."""

from __future__ import annotations

import functools
import math
from typing import Any

import equinox as eqx
import numpy as np

from recollect._core._functional import AbstractRecurrent, AbstractReparam
from recollect._core._status import Status

KERNELS = {"exponential": "exp(-t)", "polynomial": "(1+t)**-1.5"}
# An error that counts: a tenth of the power of what the network should say.
LEVEL = 0.1
# Small enough that tanh and hardtanh stay where they have a slope.
READ_IN = 0.5
# To move at all a curve must move by more than the search's own scatter, a quarter.
SETTLED = 0.75
DIMENSIONS: dict[str, tuple[str, ...]] = dict.fromkeys(("errors", "sampled", "radii"), ("place",))
UNITS: dict[str, str] = {
    **dict.fromkeys((*DIMENSIONS, "misfit", "radius", "rate"), "1"),
    **dict.fromkeys(("width", "horizon", "n_training", "n_radii", "dt"), "1"),
    **dict.fromkeys(("n_starts", "n_steps", "n_paths"), "1"),
}


class DecayingRNN(AbstractRecurrent):
    """The nonlinear network with independent decay, `dh_i/dt = σ(-f(v_i) h_i + (U x)_i + b_i)`, `y = C h`.

    Stepped by Euler. The diagonal form of the paper's `W = -e^M`, `-log(1+e^M)`: a weight cannot make
    a rate negative where f is a stable parameterisation. With the normalised read-in U x + b is
    multiplied by the rates.
    """

    weights: Any
    U: Any
    C: Any
    bias: Any
    reparam: AbstractReparam
    activation: str = eqx.field(static=True)
    readin: str = eqx.field(static=True)

    def __init__(
        self,
        weights: Any,
        U: Any,
        C: Any,
        bias: Any,
        *,
        reparam: AbstractReparam,
        activation: str,
        readin: str,
    ):
        self.weights, self.U, self.C, self.bias = weights, U, C, bias
        self.reparam, self.activation, self.readin = reparam, activation, readin

    @property
    def width(self) -> int:
        """Number of units."""
        return self.weights.shape[-1]

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return self.U.shape[-1]

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return self.C.shape[-2]

    def __call__(self, signal: Any, *, dt: float) -> Any:
        """Returns the output signal, shape (time, ..., out); axes between are a batch."""
        return self.states(signal, dt=dt) @ self.C.T

    def initial_state(self) -> Any:
        """Returns the zero state."""
        return np.zeros(self.width)

    def step(self, state: Any, value: Any, *, dt: float) -> Any:
        """Returns the state after one Euler step."""
        from recollect.models import activate

        rate = self.reparam.forward(self.weights)
        drive = self.U @ value + self.bias
        drive = rate * drive if self.readin == "normalised" else drive
        return state + dt * activate(self.activation, drive - rate * state)

    def readout(self, state: Any) -> Any:
        """Returns `C h`."""
        return self.C @ state

    def states(self, signal: Any, *, dt: float) -> Any:
        """Returns the states after every sample, shape (time, ..., width)."""
        import jax
        import jax.numpy as jnp

        from recollect.models import activate

        rates = self.reparam.forward(jnp.asarray(self.weights))
        drive = jnp.asarray(signal) @ self.U.T + self.bias
        drive = rates * drive if self.readin == "normalised" else drive

        def advance(state: Any, value: Any) -> tuple[Any, Any]:
            state = state + dt * activate(self.activation, value - rates * state)
            return state, state

        return jax.lax.scan(advance, jnp.zeros_like(drive[0]), drive)[1]


def start_network(
    kind: str,
    activation: str,
    width: int,
    slowest: float,
    *,
    dt: float,
    readin: str = "plain",
    seed: int,
) -> AbstractRecurrent:
    """Returns a network whose rates are spread from `slowest` to 2, and whose readout is still zero.

    Args:
        kind: `dense` (every entry of W a weight) or a parameterisation of the decay.
        activation: of the units.
        width: units.
        slowest: smallest rate.
        dt: step.
        readin: `plain`, or for independent units `normalised`.
        seed: of the read-in and of the entries of W off its diagonal.
    """
    from recollect import models

    rng = np.random.default_rng(seed)
    rates = np.geomspace(slowest, 2.0, width) if width > 1 else np.array([slowest])
    U = READ_IN * np.where(np.arange(width) % 2, -1.0, 1.0)[:, None]
    C, bias = np.zeros((1, width)), np.zeros(width)
    if activation == "relu":
        # dh/dt = relu(…) never falls, so it cannot forget. Discretely two units, relu(z) and relu(-z),
        # carry one linear mode exactly.
        rates = np.geomspace(slowest, 2.0, width // 2)
        pair = np.array([[1.0, -1.0], [-1.0, 1.0]])
        W = np.kron(np.diag(1 - dt * rates), pair)
        U = READ_IN * dt * np.kron(np.ones_like(rates), pair[0])[:, None]
        return models.ElmanRNN(W, U, C, bias, activation="relu")
    if kind == "dense":
        W = -np.diag(rates) + 0.1 * slowest * rng.standard_normal((width, width)) / math.sqrt(width)
        return models.ResidualRNN(W, U, C, bias, activation=activation)
    maps = {
        "direct": models.Direct(),
        "exponential": models.Exponential(),
        "softplus": models.Softplus(),
        "inverse square": models.InverseSquare(),
    }
    reparam = maps[kind]
    weights = np.asarray(reparam.inverse(rates))
    return DecayingRNN(weights, U, C, bias, reparam=reparam, activation=activation, readin=readin)


def draw_paths(
    kernel: str, n_paths: int, horizon: float, *, dt: float, seed: int
) -> tuple[Any, Any]:
    """Returns inputs of size up to 1 and what the kernel makes of them, both (path, time, 1).

    Each input is held for times that are log-uniform between a step and the horizon, so that what is
    remembered for long is asked for as often as what is not.
    """
    rng = np.random.default_rng(seed)
    n_time = round(horizon / dt)
    inputs = np.empty((n_paths, n_time, 1))
    for path in inputs:
        start = 0
        while start < n_time:
            stop = start + max(1, int(n_time ** rng.random()))
            path[start:stop] = rng.uniform(-1, 1)
            start = stop
    return inputs, respond(kernel, inputs, dt=dt)


def respond(kernel: str, inputs: np.ndarray, *, dt: float) -> np.ndarray:
    """Returns what a kernel makes of inputs, both (path, time, 1)."""
    from recollect import targets

    n_time = inputs.shape[1]
    response = np.asarray(targets.parse_kernel(kernel).step_response(dt * np.arange(n_time + 1)))
    weights, size = np.diff(response[:, 0, 0]), 2 * n_time
    spectrum = np.fft.rfft(weights, size) * np.fft.rfft(inputs[..., 0], size, axis=1)
    return np.fft.irfft(spectrum, size, axis=1)[:, :n_time, None]


def train_network(
    model: Any,
    inputs: np.ndarray,
    outputs: np.ndarray,
    *,
    dt: float,
    n_steps: int,
    batch: int,
    seed: int,
) -> Any:
    """Returns the network after least squares for the readout and Adam (5e-3, as in the paper)."""
    import jax
    import jax.numpy as jnp
    import optax
    import scipy.optimize

    some = slice(0, min(len(inputs), 256))

    def with_readout(network: Any) -> Any:
        eye = eqx.tree_at(lambda m: m.C, network, np.eye(network.width))
        drawn = jnp.asarray(inputs[some].swapaxes(0, 1), jnp.float32)
        features = np.asarray(jax.jit(lambda x: run_network(eye, x, dt=dt))(drawn)).swapaxes(0, 1)
        # The best sums for completely monotone kernels have positive amplitudes.
        sign = np.sign(np.asarray(network.U)[:, 0])
        flat = features.reshape(-1, network.width).astype(np.float64) * sign
        triangle = np.asarray(
            np.linalg.qr(np.column_stack([flat, outputs[some].ravel()]), mode="r")
        )
        readout = scipy.optimize.nnls(
            triangle[:, :-1], triangle[:, -1], maxiter=100 * network.width
        )[0]
        return eqx.tree_at(lambda m: m.C, network, (readout * sign)[None, :])

    # Read-in and readout of one size per unit are what keeps a network of any width stable.
    model = with_readout(model)
    before = np.asarray(model.U)
    share = np.abs(np.asarray(model.C)[0] * before[:, 0])
    if getattr(model, "activation", "") == "relu":
        share = np.repeat(share.reshape(-1, 2).mean(axis=1), 2)
    scale = np.sqrt(np.maximum(share / share.sum(), 1e-6))[:, None]
    model = eqx.tree_at(
        lambda m: (m.U, m.C), model, (before * scale, np.asarray(model.C) / scale.T)
    )
    if n_steps == 0:
        return model
    order = np.random.default_rng(seed).integers(len(inputs), size=(n_steps, batch))
    rate = optax.cosine_decay_schedule(5e-3, n_steps)
    return descend(model, inputs, outputs, dt=dt, order=order, rate=rate)


def run_network(network: Any, signals: Any, *, dt: float) -> Any:
    """Returns the outputs to signals with time first, shape (time, path, out), in JAX."""
    from recollect import models

    if isinstance(network, DecayingRNN):
        return network(signals, dt=dt)
    is_residual = isinstance(network, models.ResidualRNN)
    states = models.nonlinear_dense_states(
        network.W,
        signals @ network.U.T + network.bias,
        activation=network.activation,
        leak=1.0 if is_residual else 0.0,
        gain=dt if is_residual else 1.0,
    )
    return states @ network.C.T


def descend(
    model: Any, inputs: np.ndarray, outputs: np.ndarray, *, dt: float, order: np.ndarray, rate: Any
) -> Any:
    """Returns the network after Adam on the mean square, in 32 bits.

    Args:
        model: where to start.
        inputs: shape (path, time, in).
        outputs: shape (path, time, out).
        dt: step.
        order: the paths of every batch, shape (step, path).
        rate: learning rate, or its schedule.
    """
    import jax
    import jax.numpy as jnp

    xs, ys = jnp.asarray(inputs, jnp.float32), jnp.asarray(outputs, jnp.float32)
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), model)
    model = _descent(dt, rate)(model, xs, ys, jnp.asarray(order, jnp.int32))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model)


@functools.lru_cache(maxsize=4)
def _descent(dt: float, rate: Any) -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    optimiser = optax.adam(rate)

    def descent(model: Any, xs: Any, ys: Any, order: Any) -> Any:
        def step(carry: Any, chosen: Any) -> Any:
            network, state = carry

            def misfit(network: Any) -> Any:
                # Time first: the recurrence then reads and writes whole blocks.
                said = run_network(network, xs[chosen].swapaxes(0, 1), dt=dt)
                return jnp.mean((said - ys[chosen].swapaxes(0, 1)) ** 2)

            change, state = optimiser.update(jax.grad(misfit)(network), state, network)
            return (optax.apply_updates(network, change), state), None

        return jax.lax.scan(step, (model, optimiser.init(model)), order)[0][0]

    return jax.jit(descent)


def perturb_network(
    *,
    kind: str,
    activation: str,
    memory: str,
    width: int,
    horizon: float,
    n_training: int,
    n_radii: int,
    n_starts: int,
    n_steps: int,
    n_paths: int,
    dt: float,
    readin: str = "plain",
    of: str = "all",
    smallest: float = 1e-3,
    largest: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns E_m(β) of a trained network over the power of what it should say, on paths of a horizon.

    The slowest rate is 0.9 for the exponential memory, and 2 over the width for the polynomial one: as
    far towards the boundary as a wider network may reach.
    """
    from recollect import stability, targets

    slowest = 0.9 if memory == "exponential" else 2.0 / width
    kernel = KERNELS[memory]
    model = start_network(kind, activation, width, slowest, dt=dt, readin=readin, seed=seed)
    inputs, outputs = draw_paths(kernel, min(n_paths, 12_800), horizon, dt=dt, seed=seed)
    model = train_network(model, inputs, outputs, dt=dt, n_steps=n_training, batch=32, seed=seed)
    judged, said = draw_paths(kernel, n_paths, horizon, dt=dt, seed=seed + 1000)
    radii = np.geomspace(smallest, largest, n_radii)
    curve = stability.measure_perturbation_error(
        model,
        np.concatenate([[0.0], radii]),
        target=targets.parse_kernel(kernel),
        norm="mse",
        of=of,
        paths=judged,
        dt=dt,
        n_starts=n_starts,
        n_steps=n_steps,
        n_search_paths=16,
        key=seed,
    )
    power = float(np.mean(said**2))
    errors, sampled = curve.errors[0] / power, curve.sampled[0] / power
    return {
        "errors": errors[1:],
        "sampled": sampled[1:],
        "radii": radii,
        "misfit": float(errors[0]),
        "radius": crossing(radii, errors[1:] - errors[0], LEVEL),
        "rate": rest_rate(model, dt),
        # Infinity is what is measured.
        "status": Status(),
    }


def rest_rate(model: Any, dt: float) -> float:
    """Returns `-max Re λ(W)` of the network's linear part."""
    if isinstance(model, DecayingRNN):
        return float(np.min(model.reparam.forward(np.asarray(model.weights))))
    W = np.asarray(model.W)
    if model.activation == "relu":
        # Where one unit of each pair is silent.
        return float((1 - np.abs(np.linalg.eigvals(W)).max() / 2) / dt)
    return float(-np.linalg.eigvals(W).real.max())


def crossing(radii: np.ndarray, errors: np.ndarray, level: float) -> float:
    """Returns the radius at which a curve reaches a level, interpolated in the logarithms.

    The last radius where it is never reached, so that a ratio of two is a bound.
    """
    over = np.flatnonzero(~(errors < level))
    if not len(over):
        return float(radii[-1])
    k = int(over[0])
    if k == 0 or not np.isfinite(errors[k]) or errors[k - 1] <= 0:
        return float(radii[k])
    share = math.log(level / errors[k - 1]) / math.log(errors[k] / errors[k - 1])
    return float(radii[k - 1] * (radii[k] / radii[k - 1]) ** share)


def effort(*, quick: bool, **quickly: Any) -> dict[str, list[Any]]:
    """Returns the axes that say how long and how hard is looked; `quickly` changes those of the quick form."""
    full = {"n_radii": 21, "n_starts": 10, "n_steps": 15, "n_paths": 1024, "horizon": 256.0}
    brief = {"n_radii": 5, "n_starts": 4, "n_steps": 5, "n_paths": 16, "horizon": 64.0} | quickly
    return {name: [value] for name, value in ((brief if quick else full) | {"dt": 0.2}).items()}


def typical(results: Any, name: str, **chosen: Any) -> np.ndarray:
    """Returns a number of the median seed against the width, where the other parameters are as chosen."""
    values = results.sel(**chosen)[name] if chosen else results[name]
    values = values.median("seed") if "seed" in values.dims else values
    return np.atleast_1d(values.squeeze().values)


def growth(results: Any, name: str, **chosen: Any) -> float:
    """Returns a number of the widest network over that of the narrowest."""
    values = typical(results, name, **chosen)
    return float(values[-1] / values[0])


def largest_sampled(results: Any) -> float:
    """Returns the largest ratio of a sampled error to the searched one."""
    finite = np.isfinite(results.errors.values)
    return float((results.sampled.values[finite] / results.errors.values[finite]).max())


def draw_curve(panel: Any, of: Any, label: str) -> Any:
    """Draws E_m(β) of one network, with what sampling finds; returns the line."""
    shown = np.where(np.isfinite(of.errors), of.errors, np.nan)
    (line,) = panel.loglog(of.radii, shown, marker="o", markersize=3, label=label)
    sampled = np.where(np.isfinite(of.sampled), of.sampled, np.nan)
    panel.loglog(of.radii, sampled, ":", color=line.get_color(), linewidth=0.9)
    return line


def draw_curves(panel: Any, results: Any, title: str) -> None:
    """Draws E_m(β) for every width, with what sampling finds."""
    for width in results.width.values:
        of = results.sel(width=width).squeeze()
        of = of.isel(seed=0) if "seed" in of.dims else of
        draw_curve(panel, of, f"m = {width}")
    panel.axhline(LEVEL, color="gray", linewidth=0.8)
    panel.set(xlabel="β", ylim=(1e-4, 1e3))
    panel.set_title(title, fontsize="small")


def mark_widths(axis: Any, widths: Any) -> None:
    """Writes the widths themselves on a logarithmic axis."""
    axis.set_xticks(list(widths), [f"{int(width)}" for width in widths], minor=False)
    axis.set_xticks([], minor=True)
