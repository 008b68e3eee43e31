"""The noun: whatever maps an input signal causally to an output signal."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np

from recollect._core._check import invalid, require_count, require_signal, wrong_type
from recollect._core._types import Array, KernelValues, Lags, Output, Signal, State


class AbstractFunctional(eqx.Module):
    """A causal map from an input signal to an output signal.

    A signal sampled at step `dt` is held constant on `[k dt, (k+1) dt)`; output `k` is the value
    at the end of that interval. One sequence per call: map over batches with `jax.vmap`.

    Attributes:
        n_inputs: number of input channels.
        n_outputs: number of output channels.
    """

    n_inputs: eqx.AbstractVar[int]
    n_outputs: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the output signal, shape (time, out)."""


class AbstractLinearFunctional(AbstractFunctional):
    """A linear time-homogeneous functional, `y(t) = ∫_0^∞ ρ(s) x(t-s) ds`."""

    @abc.abstractmethod
    def kernel(self, lags: Lags) -> KernelValues:
        """Returns the memory kernel ρ at `lags` (unit of time), shape (lag, out, in)."""

    @abc.abstractmethod
    def step_response(self, lags: Lags) -> KernelValues:
        """Returns the response to a unit step `∫_0^t ρ(s) ds` at `lags`, shape (lag, out, in)."""

    @abc.abstractmethod
    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the Laplace transform `∫_0^∞ e^{-st} ρ(t) dt` or a derivative of it in s.

        Args:
            s: points, shape (point,), real or complex, in the unit of 1/time.
            derivative: 0, 1 or 2.

        Returns:
            Shape (point, out, in); complex if `s` is complex.
        """


class AbstractRecurrent(AbstractFunctional):
    """A functional that works through a state, one sample after another."""

    @abc.abstractmethod
    def initial_state(self) -> State:
        """Returns the state before the first sample."""

    @abc.abstractmethod
    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after holding the input at `value`, shape (in,), for one step."""

    @abc.abstractmethod
    def readout(self, state: State) -> Array:
        """Returns the output, shape (out,), of one state."""

    @abc.abstractmethod
    def states(self, signal: Signal, *, dt: float) -> State:
        """Returns the states after every sample, with a leading time axis."""


class AbstractReparam(eqx.Module):
    """A map from a trained weight to a decay rate (Re rate > 0 means forgetting)."""

    @abc.abstractmethod
    def forward(self, weight: Array) -> Array:
        """Returns the rate `w = f(v)`."""

    @abc.abstractmethod
    def inverse(self, rate: Array) -> Array:
        """Returns a weight with `f(v) = rate`."""


class _BlackBox(AbstractFunctional):
    function: Callable[[np.ndarray], Any] = eqx.field(static=True)
    n_inputs: int = eqx.field(static=True)
    n_outputs: int = eqx.field(static=True)

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        require_signal("signal", signal, n_inputs=self.n_inputs)
        values = np.array(signal, dtype=np.float64)
        output = np.asarray(self.function(values), dtype=np.float64)
        if output.ndim == 1:
            output = output[:, None]
        if output.shape != (len(values), self.n_outputs):
            raise invalid(
                "function",
                f"an output of shape (time, out) = {(len(values), self.n_outputs)}",
                f"shape {output.shape}",
                "return one output row per input row, or state n_outputs",
            )
        return output


def as_functional(
    function: Callable[[np.ndarray], Any], *, n_inputs: int = 1, n_outputs: int = 1
) -> AbstractFunctional:
    """Returns any NumPy callable, such as a trained PyTorch or Keras model, as a functional.

    Args:
        function: maps an array (time, in) to an array (time, out) or (time,). It must start from
            the same state at every call; the step `dt` is whatever it was trained on.
        n_inputs: number of input channels.
        n_outputs: number of output channels.

    Returns:
        A functional evaluated on the host, in float64; it cannot be traced by JAX.

    Raises:
        TypeError: if `function` is not callable.
    """
    if not callable(function):
        raise wrong_type(
            "function", "a callable (time, in) -> (time, out)", type(function).__name__
        )
    if isinstance(function, AbstractFunctional):
        return function
    return _BlackBox(
        function=function,
        n_inputs=require_count("n_inputs", n_inputs),
        n_outputs=require_count("n_outputs", n_outputs),
    )
