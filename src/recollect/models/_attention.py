"""Causal attention: remembers without a state, and need not forget."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import invalid, require_count, require_signal
from recollect._core._functional import AbstractFunctional
from recollect._core._types import Array, Output, Signal
from recollect.models._namespace import as_weight
from recollect.models._recurrence import evaluate
from recollect.models._weights import extent, require_step, require_weight, require_width


class CausalAttention(AbstractFunctional):
    """Softmax attention of each sample over the samples up to it.

    Per head, `score_kj = q_k·κ_j / √d - slope (k - j)` over lags of at most `window` samples, and
    `y_k = C Σ_j softmax(score)_kj v_j`. With a window, the time before the first sample counts as
    zero input, so the functional is time-homogeneous; without one, the softmax runs over the samples
    seen so far, and it is not.

    Args:
        query: shape (width, in); heads are consecutive blocks of rows.
        key: shape (width, in).
        value: shape (width, in).
        C: output matrix, shape (out, width).
        slopes: penalty per sample of lag, shape (head,).
        window: number of samples looked at, the present one included; all if omitted.

    Raises:
        ValueError: if shapes do not fit, heads do not divide the width, or a weight is not finite.
    """

    query: Array
    key: Array
    value: Array
    C: Array
    slopes: Array
    window: int | None = eqx.field(static=True)

    def __init__(
        self, query: Any, key: Any, value: Any, C: Any, slopes: Any, *, window: int | None = None
    ):
        self.query = as_weight(query)
        self.key = as_weight(key)
        self.value = as_weight(value)
        self.C = as_weight(C)
        self.slopes = as_weight(slopes)
        self.window = window

    def __check_init__(self):
        shape = require_weight("query", self.query, (None, None))
        require_width(shape[0])
        require_weight("key", self.key, shape)
        require_weight("value", self.value, shape)
        require_weight("C", self.C, (None, shape[0]))
        (n_heads,) = require_weight("slopes", self.slopes, (None,))
        if n_heads == 0 or shape[0] % n_heads:
            raise invalid("slopes", f"a number of heads that divides the width {shape[0]}", n_heads)
        if self.window is not None:
            require_count("window", self.window)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.query, -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return extent(self.C, -2)

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the output signal, shape (time, out)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        require_step(dt)
        return evaluate(_attend, self, signal)


def _attend(model: CausalAttention, signal: Any) -> Any:
    n_time, n_heads = len(signal), np.shape(model.slopes)[-1]
    before = 0 if model.window is None else model.window - 1
    # Blocks of queries keep the score matrix at block x (block + window) instead of time².
    block = n_time if model.window is None else min(n_time, max(64, model.window))
    n_blocks = -(-n_time // block)
    padded = jnp.pad(signal, ((before, n_blocks * block - n_time), (0, 0)))

    def heads(weights: Any, rows: Any) -> Any:
        return (rows @ weights.T).reshape(len(rows), n_heads, -1)

    def one(start: Any) -> Any:
        rows = jax.lax.dynamic_slice_in_dim(padded, start, block + before)
        query = heads(model.query, rows[before:])
        key, value = heads(model.key, rows), heads(model.value, rows)
        lag = (jnp.arange(block)[:, None] + before) - jnp.arange(block + before)[None, :]
        scores = jnp.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
        scores = scores - jnp.asarray(model.slopes)[:, None, None] * lag
        seen = (lag >= 0) if model.window is None else (lag >= 0) & (lag <= before)
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        return jnp.einsum("hqk,khd->qhd", weights, value).reshape(block, -1) @ model.C.T

    outputs = jax.lax.map(one, jnp.arange(n_blocks) * block)
    return outputs.reshape(n_blocks * block, -1)[:n_time]
