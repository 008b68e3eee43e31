"""Gated networks: GRU, LSTM, and the diagonal recurrence that selects by its input."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from recollect._core._check import invalid, require_finite, require_signal, wrong_type
from recollect._core._discretise import ZeroOrderHold
from recollect._core._functional import AbstractRecurrent, AbstractReparam
from recollect._core._types import Array, Output, Signal, State
from recollect.models._activation import activate, softplus
from recollect.models._namespace import as_weight, namespace
from recollect.models._recurrence import evaluate, linear_diagonal_states, recur
from recollect.models._reparam import Exponential
from recollect.models._weights import extent, require_step, require_weight, require_width


class GRU(AbstractRecurrent):
    """A gated recurrent unit with the weights and the equations of torch.nn.GRU.

    `r, z = sigmoid(…)`, `n = tanh(W_n x + b_n + r (U_n h + d_n))`, `h' = (1-z) n + z h`; rows are
    stacked in the order r, z, n. One update per sample.

    Args:
        input_weights: shape (3 width, in).
        state_weights: shape (3 width, width).
        input_bias: shape (3 width,); zero if omitted.
        state_bias: shape (3 width,); zero if omitted.
        C: output matrix, shape (out, width); the state itself is the output if omitted.

    Raises:
        ValueError: if shapes do not fit, the width is zero, or a weight is not finite.
    """

    input_weights: Array
    state_weights: Array
    input_bias: Array
    state_bias: Array
    C: Array | None

    def __init__(
        self,
        input_weights: Any,
        state_weights: Any,
        input_bias: Any = None,
        state_bias: Any = None,
        C: Any = None,
    ):
        self.input_weights = as_weight(input_weights)
        self.state_weights = as_weight(state_weights)
        self.input_bias = _bias(input_bias, self.state_weights)
        self.state_bias = _bias(state_bias, self.state_weights)
        self.C = None if C is None else as_weight(C)

    def __check_init__(self):
        _check_gates(self, 3)

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return extent(self.state_weights, -1)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.input_weights, -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return self.width if self.C is None else extent(self.C, -2)

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the output signal, shape (time, out)."""
        states = self.states(signal, dt=dt)
        return states if self.C is None else states @ self.C.T

    def initial_state(self) -> State:
        """Returns the zero state, shape (width,)."""
        return namespace(self.state_weights).zeros(self.width, dtype=self.state_weights.dtype)

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after one sample."""
        return self._update(state, self.input_weights @ value + self.input_bias)

    def readout(self, state: State) -> Array:
        """Returns the output of one state, shape (out,)."""
        return state if self.C is None else self.C @ state

    def states(self, signal: Signal, *, dt: float) -> State:
        """Returns the states after every sample, shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        require_step(dt)
        return evaluate(_gru_states, self, signal)

    def _update(self, state: Any, drive: Any) -> Any:
        m = self.width
        inner = self.state_weights @ state + self.state_bias
        gates = activate("sigmoid", drive[: 2 * m] + inner[: 2 * m])
        reset, keep = gates[:m], gates[m:]
        candidate = activate("tanh", drive[2 * m :] + reset * inner[2 * m :])
        return (1 - keep) * candidate + keep * state


def _gru_states(model: GRU, signal: Any) -> Any:
    drive = signal @ model.input_weights.T + model.input_bias
    return recur(model._update, jnp.zeros(model.width, drive.dtype), drive)


class LSTM(AbstractRecurrent):
    """A long short-term memory with the weights and the equations of torch.nn.LSTM.

    `i, f, o = sigmoid(…)`, `g = tanh(…)`, `c' = f c + i g`, `h' = o tanh(c')`; rows are stacked in
    the order i, f, g, o. The state is the pair (h, c). One update per sample.

    Args:
        input_weights: shape (4 width, in).
        state_weights: shape (4 width, width).
        input_bias: shape (4 width,); zero if omitted.
        state_bias: shape (4 width,); zero if omitted.
        C: output matrix, shape (out, width); h itself is the output if omitted.

    Raises:
        ValueError: if shapes do not fit, the width is zero, or a weight is not finite.
    """

    input_weights: Array
    state_weights: Array
    input_bias: Array
    state_bias: Array
    C: Array | None

    def __init__(
        self,
        input_weights: Any,
        state_weights: Any,
        input_bias: Any = None,
        state_bias: Any = None,
        C: Any = None,
    ):
        self.input_weights = as_weight(input_weights)
        self.state_weights = as_weight(state_weights)
        self.input_bias = _bias(input_bias, self.state_weights)
        self.state_bias = _bias(state_bias, self.state_weights)
        self.C = None if C is None else as_weight(C)

    def __check_init__(self):
        _check_gates(self, 4)

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return extent(self.state_weights, -1)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.input_weights, -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return self.width if self.C is None else extent(self.C, -2)

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the output signal, shape (time, out)."""
        hidden = self.states(signal, dt=dt)[0]
        return hidden if self.C is None else hidden @ self.C.T

    def initial_state(self) -> State:
        """Returns the zero state, a pair of arrays of shape (width,)."""
        zero = namespace(self.state_weights).zeros(self.width, dtype=self.state_weights.dtype)
        return zero, zero

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after one sample."""
        return self._update(state, self.input_weights @ value + self.input_bias)

    def readout(self, state: State) -> Array:
        """Returns the output of one state, shape (out,)."""
        return state[0] if self.C is None else self.C @ state[0]

    def states(self, signal: Signal, *, dt: float) -> State:
        """Returns the states after every sample, a pair of arrays of shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        require_step(dt)
        return evaluate(_lstm_states, self, signal)

    def _update(self, state: Any, drive: Any) -> Any:
        m = self.width
        hidden, cell = state
        z = drive + self.state_weights @ hidden + self.state_bias
        take, keep = activate("sigmoid", z[:m]), activate("sigmoid", z[m : 2 * m])
        cell = keep * cell + take * activate("tanh", z[2 * m : 3 * m])
        return activate("sigmoid", z[3 * m :]) * activate("tanh", cell), cell


def _lstm_states(model: LSTM, signal: Any) -> Any:
    drive = signal @ model.input_weights.T + model.input_bias
    zero = jnp.zeros(model.width, drive.dtype)
    return recur(model._update, (zero, zero), drive)


class SelectiveRNN(AbstractRecurrent):
    """A diagonal recurrence that chooses by its input how long to remember.

    `dh_i/dt = δ_i(x) (-w_i h_i + (B x)_i)` with `δ(x) = softplus(S x + s)`, held over each step
    and integrated exactly; `y = C h`. Always stable: rates and δ are positive.

    Args:
        rates: w, shape (width,), positive, in 1/time.
        B: input matrix, shape (width, in).
        C: output matrix, shape (out, width).
        selection: S, shape (width, in).
        selection_bias: s, shape (width,); zero if omitted.
        reparam: map from the trained weight to the rate; exponential by default.

    Raises:
        ValueError: if shapes do not fit, the width is zero, or a weight is not finite.
    """

    weights: Array
    B: Array
    C: Array
    selection: Array
    selection_bias: Array
    reparam: AbstractReparam

    def __init__(
        self,
        rates: Any,
        B: Any,
        C: Any,
        selection: Any,
        selection_bias: Any = None,
        *,
        reparam: AbstractReparam | None = None,
    ):
        rates = as_weight(rates)
        require_finite("rates", rates)
        self.reparam = Exponential() if reparam is None else reparam
        self.weights = self.reparam.inverse(rates)
        self.B = as_weight(B)
        self.C = as_weight(C)
        self.selection = as_weight(selection)
        xp = namespace(self.weights)
        zero = xp.zeros(np.shape(self.weights), dtype=self.weights.dtype)
        self.selection_bias = zero if selection_bias is None else as_weight(selection_bias)

    def __check_init__(self):
        if not isinstance(self.reparam, AbstractReparam):
            raise wrong_type("reparam", "a reparameterisation", type(self.reparam).__name__)
        (width,) = require_weight("weights", self.weights, (None,))
        require_width(width)
        n_inputs = require_weight("B", self.B, (width, None))[1]
        require_weight("C", self.C, (None, width))
        require_weight("selection", self.selection, (width, n_inputs))
        require_weight("selection_bias", self.selection_bias, (width,))

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return extent(self.weights, -1)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.B, -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return extent(self.C, -2)

    @property
    def rates(self) -> Array:
        """Decay rates w at δ = 1, shape (width,), in 1/time."""
        return self.reparam.forward(self.weights)

    def __call__(self, signal: Signal, *, dt: float, form: str | None = None) -> Output:
        """Returns the output signal, shape (time, out)."""
        return self.states(signal, dt=dt, form=form) @ self.C.T

    def initial_state(self) -> State:
        """Returns the zero state, shape (width,)."""
        return namespace(self.weights).zeros(self.width, dtype=self.weights.dtype)

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after holding the input at `value` for one step."""
        multipliers, drive = _selected(self, value[None], dt)
        return multipliers[0] * state + drive[0]

    def readout(self, state: State) -> Array:
        """Returns `C h`, shape (out,)."""
        return self.C @ state

    def states(self, signal: Signal, *, dt: float, form: str | None = None) -> State:
        """Returns the states after every sample, shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        return evaluate(_selective_states, self, signal, dt=require_step(dt), form=form)


def _selected(model: SelectiveRNN, signal: Any, dt: Any) -> tuple[Any, Any]:
    # δ(-w h + B x) held for dt is the fixed recurrence run for the time δ dt.
    pace = dt * softplus(signal @ model.selection.T + model.selection_bias)
    multipliers, gain = ZeroOrderHold().diagonal(model.rates, dt=pace)
    return multipliers, gain * (signal @ model.B.T)


def _selective_states(model: SelectiveRNN, signal: Any, dt: Any, form: str | None) -> Any:
    multipliers, drive = _selected(model, signal, dt)
    return linear_diagonal_states(multipliers, drive, form=form)


def _bias(bias: Any, like: Any) -> Any:
    if bias is not None:
        return as_weight(bias)
    return namespace(like).zeros(np.shape(like)[:1], dtype=like.dtype)


def _check_gates(model: GRU | LSTM, n_gates: int) -> None:
    width = require_weight("state_weights", model.state_weights, (None, None))[1]
    require_width(width)
    rows = n_gates * width
    require_weight("state_weights", model.state_weights, (rows, width))
    n_inputs = require_weight("input_weights", model.input_weights, (rows, None))[1]
    if n_inputs == 0:
        raise invalid("input_weights", "at least one input", "shape " + str((rows, 0)))
    require_weight("input_bias", model.input_bias, (rows,))
    require_weight("state_bias", model.state_bias, (rows,))
    if model.C is not None:
        require_weight("C", model.C, (None, width))
