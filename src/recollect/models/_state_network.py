"""A linear network with bounded nonlinear units around it: before, inside and after."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np

from recollect._core._check import invalid, is_tracer, require_choice, require_signal, wrong_type
from recollect._core._functional import AbstractRecurrent
from recollect._core._references import references
from recollect._core._types import Array, Output, Signal, State
from recollect.models._activation import activate
from recollect.models._linear import LinearRNN, dense_step
from recollect.models._namespace import as_weight, namespace
from recollect.models._recurrence import evaluate, recur
from recollect.models._weights import extent, require_step, require_weight

_BOUNDED = ("tanh", "hardtanh", "sigmoid")


@references("paduart2010identification", "schoukens2017identification")
class StateNetwork(AbstractRecurrent):
    """A measured nonlinear system: a linear network corrected by bounded nonlinear units.

        v      = d + I σ(J d + j),                d = x - x_0
        dh/dt  = A h + B v + E σ(F h + G d + b)
        y      = clip(y_0 + C h + W σ(V h + w), lower, upper)

    Over a step, `v` and the units `σ(F h + G d + b)` are held (exponential Euler), so without
    units the network is exactly its linear part. The units are bounded: if A is stable, no
    weights and no bounded input can make the state grow without bound.

    Args:
        network: linear part with the inputs `(v, σ)`: matrices A (width, width),
            [B E] (width, in + unit) and C (out, width).
        state_units: (F, G, b) of shapes (unit, width), (unit, in), (unit,).
        input_units: (I, J, j) of shapes (in, q), (q, in), (q,); none if omitted.
        output_units: (W, V, w) of shapes (out, p), (p, width), (p,); none if omitted.
        input_offset: x_0, shape (in,); zero if omitted.
        output_offset: y_0, shape (out,); zero if omitted.
        start: state before the first sample, shape (width,); zero if omitted.
        lower: least value each output can show, shape (out,); may be -inf.
        upper: greatest value each output can show, shape (out,); may be inf.
        activation: σ, bounded: `"tanh"`, `"hardtanh"` or `"sigmoid"`.

    Raises:
        ValueError: if shapes do not fit or a weight is not finite.
    """

    network: LinearRNN
    state_units: tuple[Array, Array, Array]
    input_units: tuple[Array, Array, Array]
    output_units: tuple[Array, Array, Array]
    input_offset: Array
    output_offset: Array
    start: Array
    lower: Array
    upper: Array
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        network: LinearRNN,
        state_units: tuple[Any, Any, Any],
        *,
        input_units: tuple[Any, Any, Any] | None = None,
        output_units: tuple[Any, Any, Any] | None = None,
        input_offset: Any = None,
        output_offset: Any = None,
        start: Any = None,
        lower: Any = None,
        upper: Any = None,
        activation: str = "tanh",
    ):
        if not isinstance(network, LinearRNN):
            raise wrong_type("network", "a LinearRNN", type(network).__name__)
        xp, dtype = namespace(network.A), network.A.dtype
        n_outputs, width = network.n_outputs, network.width
        self.network = network
        self.state_units = _triple("state_units", state_units)
        n_inputs = extent(self.state_units[1], -1)

        def none(rows: int, columns: int) -> tuple[Any, Any, Any]:
            return xp.zeros((rows, 0), dtype), xp.zeros((0, columns), dtype), xp.zeros(0, dtype)

        self.input_units = (
            none(n_inputs, n_inputs) if input_units is None else _triple("input_units", input_units)
        )
        self.output_units = (
            none(n_outputs, width)
            if output_units is None
            else _triple("output_units", output_units)
        )

        def filled(value: Any, size: int, otherwise: float) -> Any:
            return xp.full(size, otherwise, dtype) if value is None else as_weight(value)

        self.input_offset = filled(input_offset, n_inputs, 0.0)
        self.output_offset = filled(output_offset, n_outputs, 0.0)
        self.start = filled(start, width, 0.0)
        self.lower = filled(lower, n_outputs, -np.inf)
        self.upper = filled(upper, n_outputs, np.inf)
        self.activation = activation

    def __check_init__(self):
        width, n_outputs, n_inputs = self.network.width, self.n_outputs, self.n_inputs
        (n_units,) = require_weight("state_units[2]", self.state_units[2], (None,))
        require_weight("state_units[0]", self.state_units[0], (n_units, width))
        require_weight("state_units[1]", self.state_units[1], (n_units, None))
        if self.network.n_inputs != n_inputs + n_units:
            raise invalid(
                "network",
                f"{n_inputs} input(s) and {n_units} unit(s), so B of {n_inputs + n_units} columns",
                f"{self.network.n_inputs} columns",
            )
        (n_before,) = require_weight("input_units[2]", self.input_units[2], (None,))
        require_weight("input_units[0]", self.input_units[0], (n_inputs, n_before))
        require_weight("input_units[1]", self.input_units[1], (n_before, n_inputs))
        (n_after,) = require_weight("output_units[2]", self.output_units[2], (None,))
        require_weight("output_units[0]", self.output_units[0], (n_outputs, n_after))
        require_weight("output_units[1]", self.output_units[1], (n_after, width))
        require_weight("input_offset", self.input_offset, (n_inputs,))
        require_weight("output_offset", self.output_offset, (n_outputs,))
        require_weight("start", self.start, (width,))
        for name in ("lower", "upper"):
            if np.shape(getattr(self, name)) != (n_outputs,):
                shape = np.shape(getattr(self, name))
                raise invalid(name, f"shape ({n_outputs},)", f"shape {shape}")
        is_known = not (is_tracer(self.lower) or is_tracer(self.upper))
        if is_known and not np.all(np.asarray(self.lower) < np.asarray(self.upper)):
            raise invalid("lower", "less than upper", f"{self.lower} and {self.upper}")
        require_choice("activation", self.activation, _BOUNDED)

    @property
    def width(self) -> int:
        """Number of states."""
        return self.network.width

    @property
    def n_units(self) -> int:
        """Number of nonlinear units, before, inside and after."""
        triples = (self.input_units, self.state_units, self.output_units)
        return sum(extent(bias, -1) for *_, bias in triples)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.state_units[1], -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return self.network.n_outputs

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the output signal, shape (time, out)."""
        return self._read(self.states(signal, dt=dt))

    def initial_state(self) -> State:
        """Returns the state before the first sample, shape (width,)."""
        return self.start

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after holding the input at `value` for one step."""
        transition, gain = dense_step(self.network, dt)
        linear, before = _drives(self, value)
        return _advance(self, transition, gain, state, linear, before)

    def readout(self, state: State) -> Array:
        """Returns the output of one state, shape (out,)."""
        return self._read(state)

    def states(self, signal: Signal, *, dt: float) -> State:
        """Returns the states after every sample, shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        return evaluate(_states, self, signal, dt=require_step(dt))

    def _read(self, states: Any) -> Any:
        xp = namespace(self, states)
        W, V, w = self.output_units
        correction = activate(self.activation, states @ V.T + w) @ W.T
        output = self.output_offset + states @ self.network.C.T + correction
        return xp.minimum(xp.maximum(output, self.lower), self.upper)


def _drives(model: StateNetwork, signal: Any) -> tuple[Any, Any]:
    # What the linear part and the units see of the input.
    I, J, j = model.input_units
    _, G, b = model.state_units
    moved = signal - model.input_offset
    return moved + activate(model.activation, moved @ J.T + j) @ I.T, moved @ G.T + b


def _advance(
    model: StateNetwork, transition: Any, gain: Any, state: Any, linear: Any, before: Any
) -> Any:
    n_inputs = model.n_inputs
    units = activate(model.activation, model.state_units[0] @ state + before)
    return transition @ state + gain[:, :n_inputs] @ linear + gain[:, n_inputs:] @ units


def _states(model: StateNetwork, signal: Any, dt: Any) -> Any:
    transition, gain = dense_step(model.network, dt)

    def step(state: Any, drives: Any) -> Any:
        return _advance(model, transition, gain, state, *drives)

    drives = _drives(model, signal)
    return recur(step, model.start.astype(drives[0].dtype), drives)


def _triple(name: str, units: Any) -> tuple[Array, Array, Array]:
    if not isinstance(units, (tuple, list)) or len(units) != 3:
        raise wrong_type(name, "three arrays", type(units).__name__)
    return as_weight(units[0]), as_weight(units[1]), as_weight(units[2])
