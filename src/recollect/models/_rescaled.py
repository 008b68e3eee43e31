"""A network that works on signals of unit size, in the units of the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect._core._check import (
    invalid,
    is_tracer,
    require_finite,
    require_signal,
    wrong_type,
)
from recollect._core._functional import AbstractRecurrent
from recollect._core._types import Array, Output, Signal, State
from recollect.models._linear import DiagonalRNN, LinearRNN
from recollect.models._namespace import as_weight


class Rescaled(AbstractRecurrent):
    """A network in the units of the data: `y = y_0 + y_s H((x - x_0) / x_s)`.

    The network H sees signals of zero mean and unit variance, whatever was measured, so that its
    weights do not depend on the units. Training wraps the network that it is given in one of these.

    Args:
        network: H, any recurrent model.
        input_offset: x_0, shape (in,); zero if omitted.
        input_scale: x_s > 0, shape (in,); one if omitted.
        output_offset: y_0, shape (out,); zero if omitted.
        output_scale: y_s > 0, shape (out,); one if omitted.

    Raises:
        ValueError: if shapes do not fit, a number is not finite or a scale is not positive.
    """

    network: AbstractRecurrent
    input_offset: Array
    input_scale: Array
    output_offset: Array
    output_scale: Array

    def __init__(
        self,
        network: AbstractRecurrent,
        input_offset: Any = None,
        input_scale: Any = None,
        output_offset: Any = None,
        output_scale: Any = None,
    ):
        if not isinstance(network, AbstractRecurrent):
            raise wrong_type("network", "a recurrent model", type(network).__name__)
        n_in, n_out = network.n_inputs, network.n_outputs
        self.network = network
        self.input_offset = as_weight(np.zeros(n_in) if input_offset is None else input_offset)
        self.input_scale = as_weight(np.ones(n_in) if input_scale is None else input_scale)
        self.output_offset = as_weight(np.zeros(n_out) if output_offset is None else output_offset)
        self.output_scale = as_weight(np.ones(n_out) if output_scale is None else output_scale)

    def __check_init__(self):
        for name, size in (
            ("input_offset", self.network.n_inputs),
            ("input_scale", self.network.n_inputs),
            ("output_offset", self.network.n_outputs),
            ("output_scale", self.network.n_outputs),
        ):
            value = getattr(self, name)
            if np.shape(value) != (size,):
                raise invalid(name, f"shape ({size},)", f"shape {np.shape(value)}")
            require_finite(name, value)
            if name.endswith("scale") and not is_tracer(value) and (np.asarray(value) <= 0).any():
                raise invalid(name, "positive numbers", f"{np.asarray(value).min():g}")

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
        require_signal("signal", signal, n_inputs=self.n_inputs)
        return self._outward(self.network(self._inward(signal), dt=dt))

    def initial_state(self) -> State:
        """Returns the network's initial state."""
        return self.network.initial_state()

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after holding the input at `value` for one step."""
        return self.network.step(state, self._inward(value), dt=dt)

    def readout(self, state: State) -> Array:
        """Returns the output of one state, shape (out,)."""
        return self._outward(self.network.readout(state))

    def states(self, signal: Signal, *, dt: float) -> State:
        """Returns the network's states after every sample."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        return self.network.states(self._inward(signal), dt=dt)

    def _inward(self, value: Any) -> Any:
        return (value - self.input_offset) / self.input_scale

    def _outward(self, value: Any) -> Any:
        return self.output_offset + self.output_scale * value


def fold_scales(model: Rescaled) -> LinearRNN | DiagonalRNN:
    """Returns the linear network of a rescaled one, its scales taken into B and C.

    The offsets are left out: the result maps deviations from `input_offset` to deviations from
    `output_offset`.

    Args:
        model: a `Rescaled` linear network.

    Raises:
        TypeError: if the network inside is not linear.
    """
    if not isinstance(model, Rescaled):
        raise wrong_type("model", "a Rescaled network", type(model).__name__)
    network = model.network
    if not isinstance(network, (LinearRNN, DiagonalRNN)):
        raise wrong_type(
            "model",
            "a Rescaled linear network",
            f"a Rescaled {type(network).__name__}",
            "only a linear network can take scales into its weights",
        )
    B = np.asarray(network.B) / np.asarray(model.input_scale)
    C = np.asarray(model.output_scale)[:, None] * np.asarray(network.C)
    if isinstance(network, LinearRNN):
        return LinearRNN(network.A, B, C, dt=network.dt, discretisation=network.discretisation)
    return DiagonalRNN(
        network.rates,
        B,
        C,
        dt=network.dt,
        reparam=network.reparam,
        discretisation=network.discretisation,
        readin=network.readin,
    )
