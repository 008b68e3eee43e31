"""Running a model one sample at a time, in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    is_tracer,
    require_positive,
    require_signal,
    wrong_type,
)
from recollect._core._functional import AbstractRecurrent
from recollect._core._precision import as_double
from recollect._core._types import Output, Signal
from recollect.models._linear import DiagonalRNN, LinearRNN, rediscretise
from recollect.models._recurrence import recur_checkpointed
from recollect.models._weights import require_step


def stream(model: AbstractRecurrent, *, dt: float) -> Callable[[Any], np.ndarray]:
    """Returns a function that takes one sample after another and answers with the output.

    Linear parts are discretised once; every later call is a few NumPy products in float64.

    Args:
        model: a recurrent model.
        dt: step between samples.

    Returns:
        A function from one input, shape (in,), to one output, shape (out,), that remembers.

    Raises:
        TypeError: if the model is not recurrent, or is being traced.
        ValueError: if the step is not positive; later, if a sample does not fit or is not finite.
    """
    if not isinstance(model, AbstractRecurrent):
        raise wrong_type("model", "a recurrent model", type(model).__name__)
    dt = require_positive("dt", dt)
    if any(is_tracer(leaf) for leaf in jax.tree.leaves(model)):
        raise wrong_type("model", "concrete weights", "a JAX tracer", "stream outside jit")
    model = as_double(model)
    is_linear = lambda node: isinstance(node, (LinearRNN, DiagonalRNN))  # noqa: E731
    model = jax.tree.map(
        lambda node: rediscretise(node, dt) if is_linear(node) else node, model, is_leaf=is_linear
    )
    state = model.initial_state()

    def push(value: Any) -> np.ndarray:
        nonlocal state
        value = np.atleast_1d(host_float64("value", value, owner="stream"))
        if value.shape != (model.n_inputs,):
            raise invalid("value", f"shape ({model.n_inputs},)", f"shape {value.shape}")
        state = model.step(state, value, dt=dt)
        return np.asarray(model.readout(state))

    return push


def evaluate_checkpointed(
    model: AbstractRecurrent, signal: Signal, *, dt: float, n_segments: int | None = None
) -> Output:
    """Returns the output of a recurrent model, keeping O(√T) states for the backward pass.

    The same values and gradients as `model(signal, dt=dt)`, for one more forward pass of time.

    Args:
        model: a recurrent model.
        signal: input, shape (time, in).
        dt: step.
        n_segments: number of stretches whose states are computed again; √T if omitted.

    Returns:
        Output, shape (time, out), in JAX.

    Raises:
        TypeError: if the model is not recurrent.
        ValueError: if the signal does not fit the model, or the step or number of stretches is
            not positive.
    """
    if not isinstance(model, AbstractRecurrent):
        raise wrong_type("model", "a recurrent model", type(model).__name__)
    require_signal("signal", signal, n_inputs=model.n_inputs)
    dt = require_step(dt)
    model = jax.tree.map(jax.numpy.asarray, model)
    is_linear = lambda node: isinstance(node, (LinearRNN, DiagonalRNN))  # noqa: E731
    # The step rule would be evaluated again at every sample: discretise before the loop.
    steps = jax.tree.map(
        lambda node: _discretised(node, dt) if is_linear(node) else node, model, is_leaf=is_linear
    )
    return recur_checkpointed(
        lambda state, value: steps.step(state, value, dt=dt),
        steps.readout,
        steps.initial_state(),
        jax.numpy.asarray(signal),
        n_segments=n_segments,
    )


def _discretised(node: Any, dt: Any) -> Any:
    return node if is_tracer(dt) or node.dt is not None else rediscretise(node, dt)
