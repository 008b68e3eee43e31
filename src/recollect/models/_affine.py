"""A linear network around the operating point it was measured at."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect._core._check import invalid, require_finite, require_signal, wrong_type
from recollect._core._functional import AbstractRecurrent
from recollect._core._types import Array, Output, Signal, State
from recollect.models._linear import LinearRNN, dense_step
from recollect.models._namespace import as_weight, namespace
from recollect.models._recurrence import linear_dense_states


class AffineRNN(AbstractRecurrent):
    """A linear network around an operating point: `y = y_0 + H(x - x_0)`, from a given state.

    Measured systems rarely rest at zero, and rarely start at rest.

    Args:
        network: the linear part H.
        input_offset: x_0, shape (in,).
        output_offset: y_0, the output at rest under x_0, shape (out,).
        start: state before the first sample, shape (width,); zero (at rest under x_0) if omitted.

    Raises:
        ValueError: if shapes do not fit or a number is not finite.
    """

    network: LinearRNN
    input_offset: Array
    output_offset: Array
    start: Array

    def __init__(
        self, network: LinearRNN, input_offset: Any, output_offset: Any, start: Any = None
    ):
        if not isinstance(network, LinearRNN):
            raise wrong_type("network", "a LinearRNN", type(network).__name__)
        self.network = network
        self.input_offset = as_weight(input_offset)
        self.output_offset = as_weight(output_offset)
        self.start = network.initial_state() if start is None else as_weight(start)

    def __check_init__(self):
        for name, size in (
            ("input_offset", self.network.n_inputs),
            ("output_offset", self.network.n_outputs),
            ("start", self.network.width),
        ):
            value = getattr(self, name)
            if np.shape(value) != (size,):
                raise invalid(name, f"shape ({size},)", f"shape {np.shape(value)}")
            require_finite(name, value)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return self.network.n_inputs

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return self.network.n_outputs

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the output signal, shape (time, out)."""
        return self.output_offset + self.states(signal, dt=dt) @ self.network.C.T

    def initial_state(self) -> State:
        """Returns the state before the first sample, shape (width,)."""
        return self.start

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after holding the input at `value` for one step."""
        return self.network.step(state, value - self.input_offset, dt=dt)

    def readout(self, state: State) -> Array:
        """Returns the output of one state, shape (out,)."""
        return self.output_offset + self.network.readout(state)

    def states(self, signal: Signal, *, dt: float) -> State:
        """Returns the states after every sample, shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        transition, gain = dense_step(self.network, dt)
        xp = namespace(self, signal)
        driven = (xp.asarray(signal) - self.input_offset) @ gain.T
        return linear_dense_states(transition, driven, self.start)
