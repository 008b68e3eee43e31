"""What the entries on paper B share: networks made to remember, and how far their weights may move."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import numpy as np

from recollect._core._functional import AbstractRecurrent, AbstractReparam

KERNELS = {"exponential": "exp(-t)", "polynomial": "(1+t)**-1.5"}
DT = 0.1


class DecayingRNN(AbstractRecurrent):
    """The nonlinear network with independent decay, `dh_i/dt = σ(-f(v_i) h_i + (U x)_i + b_i)`, `y = C h`.

    Stepped by Euler. The diagonal form of the paper's `W = -e^M`, `-log(1+e^M)`: a weight cannot make
    a rate negative where f is a stable parameterisation.
    """

    weights: Any
    U: Any
    C: Any
    bias: Any
    reparam: AbstractReparam
    activation: str = eqx.field(static=True)

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
        """Returns the output signal, shape (time, out)."""
        import jax
        import jax.numpy as jnp

        def advance(state: Any, value: Any) -> tuple[Any, Any]:
            state = self.step(state, value, dt=dt)
            return state, self.C @ state

        return jax.lax.scan(advance, jnp.zeros(self.width), jnp.asarray(signal))[1]

    def initial_state(self) -> Any:
        """Returns the zero state."""
        return np.zeros(self.width)

    def step(self, state: Any, value: Any, *, dt: float) -> Any:
        """Returns the state after one Euler step."""
        from recollect.models._activation import activate

        rate = self.reparam.forward(self.weights)
        return state + dt * activate(self.activation, -rate * state + self.U @ value + self.bias)

    def readout(self, state: Any) -> Any:
        """Returns `C h`."""
        return self.C @ state


def start_network(
    kind: str, activation: str, width: int, slowest: float, *, seed: int
) -> AbstractRecurrent:
    """Returns a network whose rates are spread from `slowest` to 2, and whose readout is still zero.

    Args:
        kind: `dense` (every entry of W a weight) or a parameterisation of the decay.
        activation: of the units.
        width: units.
        slowest: smallest rate.
        seed: of the read-in and of the entries of W off its diagonal.
    """
    from recollect import models

    rng = np.random.default_rng(seed)
    rates = np.geomspace(slowest, 2.0, width)
    # Small enough that tanh and hardtanh do not saturate, with signs for relu to tell apart.
    U = 0.3 * rng.choice([-1.0, 1.0], size=(width, 1))
    C, bias = np.zeros((1, width)), np.zeros(width)
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
    return DecayingRNN(reparam.inverse(rates), U, C, bias, reparam, activation)


def draw_paths(
    kernel: str, n_paths: int, n_time: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns white inputs of unit size and what the kernel makes of them, both (path, time, 1)."""
    from recollect import targets

    weights = np.diff(
        np.asarray(targets.parse_kernel(kernel).step_response(DT * np.arange(n_time + 1)))[:, 0, 0]
    )
    inputs = np.random.default_rng(seed).standard_normal((n_paths, n_time, 1))
    size = 2 * n_time
    spectrum = np.fft.rfft(weights, size)[None, :] * np.fft.rfft(inputs[..., 0], size, axis=1)
    return inputs, np.fft.irfft(spectrum, size, axis=1)[:, :n_time, None]


def train_network(
    model: Any, inputs: np.ndarray, outputs: np.ndarray, *, n_steps: int, batch: int, seed: int
) -> Any:
    """Returns the network after least squares for the readout and Adam (5e-3, as in the paper)."""
    import jax
    import jax.numpy as jnp
    import optax

    def said(network: Any, xs: Any) -> Any:
        return jax.vmap(lambda x: network(x, dt=DT))(xs)

    eye = eqx.tree_at(lambda m: m.C, model, np.eye(model.width))
    features = np.asarray(jax.jit(said)(eye, jnp.asarray(inputs[:512], jnp.float32)), np.float64)
    flat = features.reshape(-1, model.width)
    # A ridge of a part in 1e4: rates this close to each other make the squares nearly singular.
    gram = flat.T @ flat
    gram += 1e-4 * np.trace(gram) / model.width * np.eye(model.width)
    readout = np.linalg.solve(gram, flat.T @ outputs[:512].reshape(-1, 1)).T
    model = eqx.tree_at(lambda m: m.C, model, readout)
    if n_steps == 0:
        return model
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), model)
    optimiser = optax.adam(optax.cosine_decay_schedule(5e-3, n_steps))
    order = np.random.default_rng(seed).integers(len(inputs), size=(n_steps, batch))
    data = jnp.asarray(inputs, jnp.float32), jnp.asarray(outputs, jnp.float32)

    def misfit(network: Any, chosen: Any) -> Any:
        return jnp.mean((said(network, data[0][chosen]) - data[1][chosen]) ** 2)

    def step(carry: Any, chosen: Any) -> Any:
        network, state = carry
        slope = jax.grad(misfit)(network, chosen)
        change, state = optimiser.update(slope, state, network)
        return (optax.apply_updates(network, change), state), None

    (model, _), _ = jax.jit(
        lambda m: jax.lax.scan(step, (m, optimiser.init(m)), jnp.asarray(order))
    )(model)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model)


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


def mark_widths(axis: Any, widths: Any) -> None:
    """Writes the widths themselves on a logarithmic axis."""
    axis.set_xticks(list(widths), [f"{int(width)}" for width in widths], minor=False)
    axis.set_xticks([], minor=True)
