"""The memory function of anything callable, by asking it with steps."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_positive,
    wrong_type,
)
from recollect._core._functional import (
    AbstractFunctional,
    AbstractLinearFunctional,
    as_functional,
)
from recollect._core._references import references
from recollect._core._signals import step_signal
from recollect._core._status import Status

_OWNER = "measure_memory"


@dataclasses.dataclass(frozen=True)
class MemoryProfile:
    """How strongly a functional remembers a change of input, against the lag.

    Attributes:
        memory: M(H) at each lag, per unit input and time, shape (lag, out).
        lags: unit of time, shape (lag,).
        is_lower_estimate: True if M is a largest value found by search, False if exact.
        directions: input direction that attains the value at each lag, shape (lag, out, in).
        magnitudes: its sup norm, shape (lag, out); NaN for linear functionals: any will do.
        dt: step of the probes.
        normalisation: "gain" for |dH/dt|/|x|, "bounded" for |dH/dt|/(1+|x|).
        status: `ok`, or why the profile is incomplete.
        stats: number of probes.
    """

    memory: np.ndarray
    lags: np.ndarray
    is_lower_estimate: bool
    directions: np.ndarray
    magnitudes: np.ndarray
    dt: float
    normalisation: str
    status: Status
    stats: dict[str, Any]


@references("wang2024inverse")
def measure_memory(
    functional: Any,
    *,
    dt: float,
    horizon: float,
    magnitudes: Any = None,
    directions: Any = None,
    normalisation: str = "gain",
) -> MemoryProfile:
    """Returns the memory function `M(H)(t) = sup_x |d/dt H_t(u^x)| / |x|_inf`, u^x a step to x.

    Linear functionals: `|ρ(t)|_1` from the kernel itself, at lags 0, dt, 2 dt, … Others: the
    difference of the step response over each step, at the middles of the steps, maximised over
    a grid of directions and magnitudes: a lower estimate, and reported as one. The response to
    zero input is subtracted first.

    Args:
        functional: any functional, or a callable (time, 1) -> (time, out); use `as_functional`
            for callables with several inputs.
        dt: step of the probes.
        horizon: longest lag.
        magnitudes: sup norms of the steps, positive (default: 13 from 1e-3 to 1e3).
        directions: shape (direction, in), scaled to unit sup norm here (default: all sign
            patterns up to four inputs, beyond that each input alone and 16 random signs; the
            inputs alone always).
        normalisation: "gain" divides by |x| (definition 3.1 of the source), "bounded" by 1 + |x|
            (its other version).

    Returns:
        The profile; each output is one functional.

    Raises:
        TypeError: if `functional` cannot be called.
        ValueError: if dt, horizon, magnitudes or directions make no probe.
    """
    dt = require_positive("dt", dt)
    horizon = require_positive("horizon", horizon)
    require_choice("normalisation", normalisation, ("gain", "bounded"))
    if horizon < dt:
        raise invalid("horizon", f"at least one step, dt = {dt}", horizon)
    n_lags = max(1, int(np.floor(horizon / dt * (1 + 1e-12))))
    if isinstance(functional, AbstractLinearFunctional) and normalisation == "gain":
        return _of_kernel(functional, n_lags, dt)
    if not isinstance(functional, AbstractFunctional):
        if not callable(functional):
            raise wrong_type("functional", "a functional or a callable", type(functional).__name__)
        probe: Any = functional
        n_outputs = np.shape(probe(np.zeros((2, 1))))
        functional = as_functional(functional, n_outputs=n_outputs[1] if len(n_outputs) == 2 else 1)
    return _of_steps(
        functional,
        n_lags,
        dt,
        _magnitudes(magnitudes),
        _directions(directions, functional.n_inputs),
        normalisation,
    )


def _of_kernel(functional: AbstractLinearFunctional, n_lags: int, dt: float) -> MemoryProfile:
    lags = np.arange(n_lags + 1) * dt
    kernel = np.asarray(functional.kernel(lags), dtype=np.float64)
    bad = ~np.isfinite(kernel).all(axis=(1, 2))
    status = (
        Status("not_finite", f"the kernel is not finite at lag {lags[bad][0]:g}")
        if bad.any()
        else Status()
    )
    return MemoryProfile(
        memory=np.abs(kernel).sum(axis=2),
        lags=lags,
        is_lower_estimate=False,
        directions=np.where(kernel < 0, -1.0, 1.0),
        magnitudes=np.full(kernel.shape[:2], np.nan),
        dt=dt,
        normalisation="gain",
        status=status,
        stats={"n_probes": 0},
    )


def _of_steps(
    functional: AbstractFunctional,
    n_lags: int,
    dt: float,
    magnitudes: np.ndarray,
    directions: np.ndarray,
    normalisation: str,
) -> MemoryProfile:
    n_outputs, n_inputs = functional.n_outputs, functional.n_inputs
    rest = _response(functional, np.zeros(n_inputs), n_lags, dt)
    memory = np.zeros((n_lags, n_outputs))
    best_direction = np.ones((n_lags, n_outputs, n_inputs))
    best_magnitude = np.full((n_lags, n_outputs), np.nan)
    n_unbounded = 0
    for direction, magnitude in itertools.product(directions, magnitudes):
        response = _response(functional, magnitude * direction, n_lags, dt)
        if not np.isfinite(response).all():
            n_unbounded += 1
            continue
        moved = np.diff(response - rest, axis=0, prepend=0.0) / dt
        scale = magnitude if normalisation == "gain" else 1.0 + magnitude
        size = np.abs(moved) / scale
        larger = size > memory
        memory = np.where(larger, size, memory)
        best_direction = np.where(larger[:, :, None], direction, best_direction)
        best_magnitude = np.where(larger, magnitude, best_magnitude)
    n_probes = len(directions) * len(magnitudes)
    status = Status()
    if n_unbounded:
        status = Status(
            "not_finite", f"{n_unbounded} of {n_probes} steps gave outputs that are not finite"
        )
    return MemoryProfile(
        memory=memory,
        lags=(np.arange(n_lags) + 0.5) * dt,
        is_lower_estimate=True,
        directions=best_direction,
        magnitudes=best_magnitude,
        dt=dt,
        normalisation=normalisation,
        status=status,
        stats={"n_probes": n_probes, "n_unbounded": n_unbounded},
    )


def _response(
    functional: AbstractFunctional, direction: np.ndarray, n_lags: int, dt: float
) -> np.ndarray:
    return np.asarray(functional(step_signal(n_lags, direction), dt=dt), dtype=np.float64)


def _magnitudes(magnitudes: Any) -> np.ndarray:
    if magnitudes is None:
        return np.geomspace(1e-3, 1e3, 13)
    values = host_float64("magnitudes", magnitudes, owner=_OWNER).ravel()
    if len(values) == 0 or (values <= 0).any():
        raise invalid("magnitudes", "positive numbers", values)
    return values


def _directions(directions: Any, n_inputs: int) -> np.ndarray:
    if directions is None:
        alone = np.concatenate([np.eye(n_inputs), -np.eye(n_inputs)])
        if n_inputs <= 4:
            signs = np.array(list(itertools.product([1.0, -1.0], repeat=n_inputs)))
        else:
            signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(16, n_inputs))
            signs = np.concatenate([np.ones((1, n_inputs)), signs, -signs])
        return np.unique(np.concatenate([alone, signs]), axis=0)
    values = np.atleast_2d(host_float64("directions", directions, owner=_OWNER))
    if values.shape[1] != n_inputs:
        raise invalid("directions", f"shape (direction, {n_inputs})", f"shape {values.shape}")
    norms = np.abs(values).max(axis=1, keepdims=True)
    if (norms == 0).any():
        raise invalid("directions", "directions other than zero", "a zero row")
    return values / norms
