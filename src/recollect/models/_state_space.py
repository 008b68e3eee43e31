"""State-space layers and deep stacks: a linear recurrence, then a nonlinearity, and again."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from recollect._core._check import invalid, require_signal, wrong_type
from recollect._core._functional import AbstractRecurrent
from recollect._core._references import references
from recollect._core._types import Array, Output, Signal, State
from recollect.models._activation import activate, require_activation
from recollect.models._linear import DiagonalRNN
from recollect.models._namespace import as_weight, namespace
from recollect.models._recurrence import evaluate
from recollect.models._weights import extent, require_step, require_weight


@references("wang2024stablessm")
class StateSpaceLayer(AbstractRecurrent):
    """A linear recurrence followed by a nonlinearity: `y = M σ(Re C h + D x) + e (+ x)`.

    Args:
        recurrence: the linear part, with outputs `Re C h`.
        mix: M, shape (out, features) for a recurrence with that many outputs.
        skip: D, shape (features, in); zero if omitted.
        bias: e, shape (out,); zero if omitted.
        activation: `"linear"`, `"tanh"`, `"hardtanh"`, `"relu"`, `"sigmoid"` or `"gelu"`.
        is_residual: add the input to the output (in = out).

    Raises:
        ValueError: if shapes do not fit or a weight is not finite.
    """

    recurrence: DiagonalRNN
    mix: Array
    skip: Array
    bias: Array
    activation: str = eqx.field(static=True)
    is_residual: bool = eqx.field(static=True)

    def __init__(
        self,
        recurrence: DiagonalRNN,
        mix: Any,
        skip: Any = None,
        bias: Any = None,
        *,
        activation: str = "gelu",
        is_residual: bool = False,
    ):
        if not isinstance(recurrence, DiagonalRNN):
            raise wrong_type("recurrence", "a DiagonalRNN", type(recurrence).__name__)
        self.recurrence = recurrence
        self.mix = as_weight(mix)
        xp = namespace(self.mix)
        features = (recurrence.n_outputs, recurrence.n_inputs)
        self.skip = xp.zeros(features, self.mix.dtype) if skip is None else as_weight(skip)
        self.bias = (
            xp.zeros(np.shape(self.mix)[:1], self.mix.dtype) if bias is None else as_weight(bias)
        )
        self.activation = activation
        self.is_residual = bool(is_residual)

    def __check_init__(self):
        if not isinstance(self.recurrence, DiagonalRNN):
            raise wrong_type("recurrence", "a DiagonalRNN", type(self.recurrence).__name__)
        n_features, n_inputs = self.recurrence.n_outputs, self.recurrence.n_inputs
        n_outputs = require_weight("mix", self.mix, (None, n_features))[0]
        require_weight("skip", self.skip, (n_features, n_inputs))
        require_weight("bias", self.bias, (n_outputs,))
        require_activation(self.activation)
        if self.is_residual and n_outputs != n_inputs:
            raise invalid(
                "is_residual", f"as many outputs as inputs ({n_inputs})", f"{n_outputs} outputs"
            )

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return self.recurrence.n_inputs

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return extent(self.mix, -2)

    def __call__(self, signal: Signal, *, dt: float, form: str | None = None) -> Output:
        """Returns the output signal, shape (time, out)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        return evaluate(_layer_output, self, signal, dt=require_step(dt), form=form)

    def initial_state(self) -> State:
        """Returns the zero state: that of the recurrence, and the last input."""
        xp = namespace(self.mix)
        return self.recurrence.initial_state(), xp.zeros(self.n_inputs, dtype=self.mix.dtype)

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after holding the input at `value` for one step."""
        return self.recurrence.step(state[0], value, dt=dt), value

    def readout(self, state: State) -> Array:
        """Returns the output of one state, shape (out,)."""
        return self._respond(self.recurrence.readout(state[0]), state[1])

    def states(self, signal: Signal, *, dt: float, form: str | None = None) -> State:
        """Returns the states after every sample, and the inputs beside them."""
        return self.recurrence.states(signal, dt=dt, form=form), signal

    def _respond(self, feature: Any, value: Any) -> Any:
        output = activate(self.activation, feature + value @ self.skip.T) @ self.mix.T + self.bias
        return output + value if self.is_residual else output


def _layer_output(layer: StateSpaceLayer, signal: Any, dt: Any, form: str | None) -> Any:
    return layer._respond(layer.recurrence(signal, dt=dt, form=form), signal)


class Stack(AbstractRecurrent):
    """A deep network: each layer reads the output of the one before.

    Args:
        layers: recurrent functionals whose channels fit (state-space layers, GRUs, linear
            networks, …).

    Raises:
        ValueError: if there is no layer or the channels of two neighbours do not fit.
    """

    layers: tuple[AbstractRecurrent, ...]

    def __init__(self, layers: Any):
        self.layers = tuple(layers)

    def __check_init__(self):
        if not self.layers:
            raise invalid("layers", "at least one layer", "none")
        for layer in self.layers:
            if not isinstance(layer, AbstractRecurrent):
                raise wrong_type("layers", "recurrent functionals", type(layer).__name__)
        for k, (first, second) in enumerate(zip(self.layers[:-1], self.layers[1:], strict=True)):
            if first.n_outputs != second.n_inputs:
                raise invalid(
                    "layers",
                    f"{first.n_outputs} inputs of layer {k + 1}, the outputs of layer {k}",
                    second.n_inputs,
                )

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return self.layers[0].n_inputs if self.layers else 0

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return self.layers[-1].n_outputs if self.layers else 0

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the output signal, shape (time, out)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        return evaluate(_stack_output, self, signal, dt=require_step(dt))

    def initial_state(self) -> State:
        """Returns the initial states of all layers."""
        return tuple(layer.initial_state() for layer in self.layers)

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the states of all layers after one sample."""
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            after.append(layer.step(before, value, dt=dt))
            value = layer.readout(after[-1])
        return tuple(after)

    def readout(self, state: State) -> Array:
        """Returns the output of the last layer, shape (out,)."""
        return self.layers[-1].readout(state[-1])

    def states(self, signal: Signal, *, dt: float) -> State:
        """Returns the states of all layers after every sample."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        return evaluate(_stack_states, self, signal, dt=require_step(dt))


def _stack_output(stack: Stack, signal: Any, dt: Any) -> Any:
    for layer in stack.layers:
        signal = layer(signal, dt=dt)
    return signal


def _stack_states(stack: Stack, signal: Any, dt: Any) -> Any:
    states = []
    for layer in stack.layers:
        states.append(layer.states(signal, dt=dt))
        signal = jax.vmap(layer.readout)(states[-1])
    return tuple(states)
