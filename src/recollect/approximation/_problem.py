"""What every fitting method receives and returns.

The front builds a `FitGrid` and calls

    hankel_spectrum(grid, power=, reach=) -> HankelSpectrum     starts and lower bounds
    refine_sections(sections, nodes, rows, target) -> LeastSquares            L2
    reweighted_sections(sections, grid), refine_modes(modes, grid)            L1
    level_sections(sections, grid), fit_linf(grid, width, start=) -> Poles    Linf
    fit_samples(lags, values, ...) -> Poles, fit_discrete(values, dt=, width=, ...) -> Poles
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recollect._core._quadrature import Panels
from recollect._core._status import Status

NORMS = ("l1", "l2", "linf")


@dataclasses.dataclass(frozen=True)
class FitGrid:
    """A kernel on two independent quadratures: one to fit on, one to judge on.

    Args:
        kernel: lags (n,) -> values (n, out, in), exact.
        nodes, weights, values: the fitting quadrature, shapes (n,), (n,), (n, out, in). It
            resolves the kernel and its exponential sums, and reaches well past the support.
        check_nodes, check_weights, check_values: a denser one with different panels, ten nodes
            each.
        check_edges: left and right ends of its panels.
        support: lag beyond which the kernel is zero (may be infinite).
        effective_support: lag beyond which the kernel adds nothing to any norm in float64.
        panels: the fitting panels.
        breakpoints: lags where the kernel is not smooth.
        timescale: the median lag of |ρ|, or where an algebraic kernel has halved.
        is_completely_monotone: True, False, or None if it is not known.
        norms: the kernel's own l1, l2 and linf norms (infinite where it is not in the space).
        tails: for each norm, a bound on the kernel's norm beyond the last node.
    """

    kernel: Callable[[np.ndarray], np.ndarray]
    nodes: np.ndarray
    weights: np.ndarray
    values: np.ndarray
    check_nodes: np.ndarray
    check_weights: np.ndarray
    check_values: np.ndarray
    check_edges: tuple[np.ndarray, np.ndarray]
    support: float
    effective_support: float
    panels: Panels
    breakpoints: tuple[float, ...]
    timescale: float
    is_completely_monotone: bool | None
    norms: Mapping[str, float]
    tails: Mapping[str, float]

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return self.values.shape[1]

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return self.values.shape[2]


@dataclasses.dataclass(frozen=True)
class Poles:
    """An exponential sum as a method returns it, before it is delivered as a network.

    Args:
        rates: shape (width,), complex, closed under conjugation, Re > 0; in discrete time the
            multipliers z with |z| < 1.
        amplitudes: shape (width, out, in), complex, conjugate where the rates are.
        constant: shape (out, in), the value at infinity (zero unless a constant was asked for).
        error: the error in the norm that was minimised, as the method sees it on its own grid.
        bound: a proved lower bound on that error for this width, or None.
        status: how the method ended.
        stats: what the method counted (iterations, starts, seconds, ...).
        state_space: (A, b, C) where the sum has no diagonal form or a better one is known.
    """

    rates: np.ndarray
    amplitudes: np.ndarray
    constant: np.ndarray | None = None
    error: float = float("nan")
    bound: float | None = None
    status: Status = dataclasses.field(default_factory=Status)
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    state_space: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def width(self) -> int:
        """Number of exponentials."""
        return len(self.rates)


def evaluate_sum(rates: np.ndarray, amplitudes: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Returns the real values of an exponential sum at `lags`, shape (lag, out, in)."""
    lags = np.asarray(lags, dtype=np.float64)
    if np.isrealobj(rates) or not np.any(np.imag(rates)):
        basis = np.exp(-np.multiply.outer(lags, np.real(rates)))
        return np.tensordot(basis, np.real(amplitudes), axes=1)
    # One of each conjugate pair is enough: the other doubles the real part.
    upper = np.imag(rates) >= 0
    factor = np.where(np.imag(rates[upper]) > 0, 2.0, 1.0)
    basis = np.exp(-np.multiply.outer(lags, rates[upper]))
    return np.tensordot(basis, amplitudes[upper] * factor[:, None, None], axes=1).real
