"""The nonlinear recurrent networks of the papers: residual, Elman, diagonal."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import numpy as np

from recollect._core._check import require_choice, require_positive, require_signal
from recollect._core._functional import AbstractRecurrent
from recollect._core._references import references
from recollect._core._types import Array, Output, Signal, State
from recollect.models._activation import activate, require_activation
from recollect.models._namespace import as_weight, namespace
from recollect.models._recurrence import (
    evaluate,
    nonlinear_dense_states,
    nonlinear_diagonal_states,
)
from recollect.models._weights import extent, require_step, require_weight, require_width


@references("li2021curse", "wang2024inverse")
class ResidualRNN(AbstractRecurrent):
    """A continuous nonlinear network `dh/dt = σ(W h + U x + b)`, `y = C h`, stepped by Euler.

    `h_{k+1} = h_k + dt σ(W h_k + U x_k + b)`, as in the papers.

    Args:
        W: state matrix, shape (width, width), in 1/time.
        U: input matrix, shape (width, in).
        C: output matrix, shape (out, width).
        bias: b, shape (width,); zero if omitted.
        activation: `"linear"`, `"tanh"`, `"hardtanh"`, `"relu"`, `"sigmoid"` or `"gelu"`.

    Raises:
        ValueError: if shapes do not fit, the width is zero, or a weight is not finite.
    """

    W: Array
    U: Array
    C: Array
    bias: Array
    activation: str = eqx.field(static=True)

    def __init__(self, W: Any, U: Any, C: Any, bias: Any = None, *, activation: str = "tanh"):
        self.W = as_weight(W)
        self.U = as_weight(U)
        self.C = as_weight(C)
        self.bias = _bias(bias, self.W)
        self.activation = activation

    def __check_init__(self):
        _check_dense(self.W, self.U, self.C, self.bias)
        require_activation(self.activation)

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return extent(self.W, -1)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.U, -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return extent(self.C, -2)

    def __call__(self, signal: Signal, *, dt: float, form: str | None = None) -> Output:
        """Returns the output signal, shape (time, out)."""
        return self.states(signal, dt=dt, form=form) @ self.C.T

    def initial_state(self) -> State:
        """Returns the zero state, shape (width,)."""
        return namespace(self.W).zeros(self.width, dtype=self.W.dtype)

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns `h + dt σ(W h + U x + b)`."""
        return state + dt * activate(self.activation, self.W @ state + self.U @ value + self.bias)

    def readout(self, state: State) -> Array:
        """Returns `C h`, shape (out,)."""
        return self.C @ state

    def states(self, signal: Signal, *, dt: float, form: str | None = None) -> State:
        """Returns the states after every sample, shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        return evaluate(_residual_states, self, signal, dt=require_step(dt), form=form)


def _residual_states(model: ResidualRNN, signal: Any, dt: Any, form: str | None) -> Any:
    drive = signal @ model.U.T + model.bias
    return nonlinear_dense_states(
        model.W,
        drive,
        activation=model.activation,
        leak=1.0,
        gain=dt,
        form=form,
    )


class ElmanRNN(AbstractRecurrent):
    """A discrete nonlinear network `h_{k+1} = σ(W h_k + U x_k + b)`, `y_k = C h_{k+1}`.

    One update per sample, whatever the step.

    Args:
        W: state matrix, shape (width, width).
        U: input matrix, shape (width, in).
        C: output matrix, shape (out, width).
        bias: b, shape (width,); zero if omitted.
        activation: `"linear"`, `"tanh"`, `"hardtanh"`, `"relu"`, `"sigmoid"` or `"gelu"`.

    Raises:
        ValueError: if shapes do not fit, the width is zero, or a weight is not finite.
    """

    W: Array
    U: Array
    C: Array
    bias: Array
    activation: str = eqx.field(static=True)

    def __init__(self, W: Any, U: Any, C: Any, bias: Any = None, *, activation: str = "tanh"):
        self.W = as_weight(W)
        self.U = as_weight(U)
        self.C = as_weight(C)
        self.bias = _bias(bias, self.W)
        self.activation = activation

    def __check_init__(self):
        _check_dense(self.W, self.U, self.C, self.bias)
        require_activation(self.activation)

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return extent(self.W, -1)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.U, -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return extent(self.C, -2)

    def __call__(self, signal: Signal, *, dt: float, form: str | None = None) -> Output:
        """Returns the output signal, shape (time, out)."""
        return self.states(signal, dt=dt, form=form) @ self.C.T

    def initial_state(self) -> State:
        """Returns the zero state, shape (width,)."""
        return namespace(self.W).zeros(self.width, dtype=self.W.dtype)

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns `σ(W h + U x + b)`."""
        return activate(self.activation, self.W @ state + self.U @ value + self.bias)

    def readout(self, state: State) -> Array:
        """Returns `C h`, shape (out,)."""
        return self.C @ state

    def states(self, signal: Signal, *, dt: float, form: str | None = None) -> State:
        """Returns the states after every sample, shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        require_step(dt)
        return evaluate(_elman_states, self, signal, form=form)


def _elman_states(model: ElmanRNN, signal: Any, form: str | None) -> Any:
    return nonlinear_dense_states(
        model.W,
        signal @ model.U.T + model.bias,
        activation=model.activation,
        form=form,
    )


@references("cayci2024convergence")
class DiagonalNonlinearRNN(AbstractRecurrent):
    """The diagonal nonlinear network of the kernel-regime theory.

    `h_i ← σ(w_i h_i + u_iᵀ x)`, `y = scale · C h`, with `scale = 1/√width` by default and a
    readout that gradients do not reach unless `readout="trained"`. One update per sample.

    Args:
        weights: w, shape (width,).
        U: input matrix, shape (width, in).
        C: output matrix, shape (out, width), in the theory ±1.
        activation: `"linear"`, `"tanh"`, `"hardtanh"`, `"relu"`, `"sigmoid"` or `"gelu"`.
        readout: `"fixed"` or `"trained"`.
        scale: factor of the readout; `1/√width` if omitted.

    Raises:
        ValueError: if shapes do not fit, the width is zero, or a weight is not finite.
    """

    weights: Array
    U: Array
    C: Array
    activation: str = eqx.field(static=True)
    training: str = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        weights: Any,
        U: Any,
        C: Any,
        *,
        activation: str = "tanh",
        readout: str = "fixed",
        scale: float | None = None,
    ):
        self.weights = as_weight(weights)
        self.U = as_weight(U)
        self.C = as_weight(C)
        self.activation = activation
        self.training = require_choice("readout", readout, ("fixed", "trained"))
        width = max(1, np.size(self.weights))
        self.scale = 1 / math.sqrt(width) if scale is None else require_positive("scale", scale)

    def __check_init__(self):
        (width,) = require_weight("weights", self.weights, (None,))
        require_width(width)
        require_weight("U", self.U, (width, None))
        require_weight("C", self.C, (None, width))
        require_activation(self.activation)
        require_choice("readout", self.training, ("fixed", "trained"))
        require_positive("scale", self.scale)

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return extent(self.weights, -1)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.U, -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return extent(self.C, -2)

    def __call__(self, signal: Signal, *, dt: float, form: str | None = None) -> Output:
        """Returns the output signal, shape (time, out)."""
        return self.scale * (self.states(signal, dt=dt, form=form) @ self._readout_matrix().T)

    def initial_state(self) -> State:
        """Returns the zero state, shape (width,)."""
        return namespace(self.weights).zeros(self.width, dtype=self.weights.dtype)

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns `σ(w ⊙ h + U x)`."""
        return activate(self.activation, self.weights * state + self.U @ value)

    def readout(self, state: State) -> Array:
        """Returns `scale · C h`, shape (out,)."""
        return self.scale * (self._readout_matrix() @ state)

    def states(self, signal: Signal, *, dt: float, form: str | None = None) -> State:
        """Returns the states after every sample, shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        require_step(dt)
        return evaluate(_diagonal_states, self, signal, form=form)

    def _readout_matrix(self) -> Array:
        if self.training == "trained" or namespace(self.C) is np:
            return self.C
        return jax.lax.stop_gradient(self.C)


def _diagonal_states(model: DiagonalNonlinearRNN, signal: Any, form: str | None) -> Any:
    return nonlinear_diagonal_states(
        model.weights,
        signal @ model.U.T,
        activation=model.activation,
        form=form,
    )


def _bias(bias: Any, like: Any) -> Any:
    if bias is not None:
        return as_weight(bias)
    return namespace(like).zeros(np.shape(like)[-1:], dtype=like.dtype)


def _check_dense(W: Any, U: Any, C: Any, bias: Any) -> None:
    width = require_weight("W", W, (None, None))[0]
    require_width(width)
    require_weight("W", W, (width, width))
    require_weight("U", U, (width, None))
    require_weight("C", C, (None, width))
    require_weight("bias", bias, (width,))
