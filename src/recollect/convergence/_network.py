"""The diagonal network of the theory: paired at the start, so that its output is exactly zero."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_count,
    require_nonnegative,
    require_positive,
)
from recollect._core._references import references
from recollect.convergence._activation import SmoothActivation, require_smooth
from recollect.models import DiagonalNonlinearRNN

_NORM_ROUNDING = 1e-6


@references("cayci2024convergence")
@dataclasses.dataclass(frozen=True)
class PairedNetwork:
    """A diagonal network `h_i ← σ(w_i h_i + u_iᵀ x)`, `F = m^{-1/2} Σ c_i h_i`, with c fixed.

    Attributes:
        weights: w, shape (width,).
        U: input matrix, shape (width, in).
        signs: c, shape (width,), each ±1.
        activation: σ with its bounds.
        alpha: α, the size of every recurrent weight at the start.
    """

    weights: np.ndarray
    U: np.ndarray
    signs: np.ndarray
    activation: SmoothActivation
    alpha: float

    @property
    def width(self) -> int:
        """Number of hidden units m, even."""
        return len(self.weights)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return self.U.shape[1]

    @property
    def is_paired(self) -> bool:
        """True when both halves agree and the signs cancel: the output is exactly zero."""
        half = self.width // 2
        return bool(
            np.array_equal(self.weights[:half], self.weights[half:])
            and np.array_equal(self.U[:half], self.U[half:])
            and np.array_equal(self.signs[:half], -self.signs[half:])
        )

    def __call__(self, signals: Any) -> np.ndarray:
        """Returns the outputs `F_1 … F_T` of sequences of shape (n, time, in), shape (n, time)."""
        signals = require_sequences("signals", signals, self.n_inputs)
        n_samples, horizon, _ = signals.shape
        half = self.width // 2
        h = np.zeros((n_samples, self.width))
        outputs = np.empty((n_samples, horizon))
        for t in range(horizon):
            h = self.activation.value(self.weights * h + signals[:, t] @ self.U.T)
            signed = h * self.signs
            # Pairs first: equal halves then cancel to an exact zero.
            outputs[:, t] = (signed[:, :half] + signed[:, half:]).sum(axis=1)
        return outputs / math.sqrt(self.width)

    def model(self) -> DiagonalNonlinearRNN:
        """Returns the same network as a recurrent model of `recollect.models`.

        Raises:
            ValueError: for an activation that `models` does not have.
        """
        return DiagonalNonlinearRNN(
            self.weights, self.U, self.signs[None], activation=self.activation.name
        )


@references("cayci2024convergence")
def initialise_paired(
    width: int,
    n_inputs: int,
    *,
    alpha: float,
    seed: int,
    activation: str | SmoothActivation = "tanh",
) -> PairedNetwork:
    """Returns a network whose output is exactly zero: every unit has a twin of opposite sign.

    For i ≤ m/2: `c_i = ±1`, `w_i = ±α`, `u_i ~ N(0, I)`; unit i + m/2 copies (w, u) with -c.
    A wider network of the same seed contains the narrower one's units.

    Args:
        width: m, even.
        n_inputs: number of input channels d.
        alpha: α, not below zero.
        seed: of the random numbers.
        activation: `"tanh"`, `"sigmoid"`, `"erf"`, `"softplus"`, `"smooth_hardtanh"` or a
            `smooth_activation`.

    Raises:
        ValueError: if the width is odd or the activation has no bounded derivatives.

    Source: Cayci and Eryilmaz 2024, Definition 2.1.
    """
    half = require_even("width", width) // 2
    require_count("n_inputs", n_inputs)
    alpha = require_nonnegative("alpha", alpha)
    signs, turns, places = (
        np.random.default_rng([require_count("seed", seed, minimum=0), stream])
        for stream in range(3)
    )
    c = signs.choice([-1.0, 1.0], half)
    w = alpha * turns.choice([-1.0, 1.0], half)
    u = places.standard_normal((half, n_inputs))
    return PairedNetwork(
        np.tile(w, 2),
        np.tile(u, (2, 1)),
        np.concatenate([c, -c]),
        require_smooth(activation),
        alpha,
    )


def require_even(argument: str, value: Any) -> int:
    """Returns `value` if it is an even whole number of at least 2."""
    width = require_count(argument, value, minimum=2)
    if width % 2:
        raise invalid(
            argument,
            "an even number",
            width,
            "units come in pairs so that the output starts at zero",
        )
    return width


def require_sequences(
    argument: str, signals: Any, n_inputs: int | None = None, *, input_norm: float | None = None
) -> np.ndarray:
    """Returns `signals` as float64 of shape (n, time, in), with `‖X_t‖ ≤ input_norm` if given."""
    array = host_float64(argument, signals, owner="recollect.convergence")
    if array.ndim != 3 or 0 in array.shape:
        raise invalid(argument, "shape (samples, time, in), none of them 0", f"shape {array.shape}")
    if n_inputs is not None and array.shape[2] != n_inputs:
        raise invalid(argument, f"{n_inputs} input channels", f"shape {array.shape}")
    if input_norm is not None:
        limit = require_positive("input_norm", input_norm)
        largest = float(np.linalg.norm(array, axis=2).max())
        if largest > limit * (1 + _NORM_ROUNDING):
            raise invalid(
                argument,
                f"inputs of Euclidean norm at most {limit:g}",
                f"{largest:.6g}",
                "divide them by that, or state a larger input_norm",
            )
    return array


def require_targets(argument: str, targets: Any, signals: np.ndarray) -> np.ndarray:
    """Returns `targets` as float64 of shape (n, time)."""
    array = host_float64(argument, targets, owner="recollect.convergence")
    if array.shape != signals.shape[:2]:
        raise invalid(argument, f"shape {signals.shape[:2]}", f"shape {array.shape}")
    return array


def draw_sequences(n_samples: int, horizon: int, n_inputs: int, *, seed: int) -> np.ndarray:
    """Returns random sequences on the unit sphere, `‖X_t‖ = 1`, shape (n, time, in).

    Args:
        n_samples: number of sequences.
        horizon: samples in each.
        n_inputs: input channels; with one channel the inputs are ±1.
        seed: of the random numbers.

    Raises:
        ValueError: if a count is not positive.
    """
    shape = (
        require_count("n_samples", n_samples),
        require_count("horizon", horizon),
        require_count("n_inputs", n_inputs),
    )
    values = np.random.default_rng([seed, 11]).standard_normal(shape)
    return values / np.linalg.norm(values, axis=2, keepdims=True)
