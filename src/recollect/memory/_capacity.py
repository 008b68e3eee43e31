"""Memory capacity: how well past inputs can be read off a state, delay by delay."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import scipy.linalg

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_nonnegative,
    require_positive,
    wrong_type,
)
from recollect._core._functional import AbstractFunctional, AbstractRecurrent
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.memory._probes import ask, require_functional
from recollect.models import DiagonalRNN, LinearRNN, rediscretise, to_dense


@dataclasses.dataclass(frozen=True)
class MemoryCapacity:
    """How much of a random input can be read linearly off the state, delay by delay.

    Attributes:
        total: sum over delays; at most the number of features for independent inputs.
        per_delay: squared correlation of input and readout at each delay, corrected for chance,
            shape (delay,); may fall slightly below zero where nothing is remembered.
        delays: in steps, shape (delay,).
        uncorrected: the same before the correction; the held-out score has none to make.
        per_delay_stderr: standard error of each, shape (delay,); zeros where exact.
        total_stderr: standard error of the total, delays taken as independent.
        n_features: independent directions of the state read from.
        status: `ok`, or why it cannot be had.
        stats: samples used and their split.
    """

    total: float
    per_delay: np.ndarray
    delays: np.ndarray
    uncorrected: np.ndarray
    per_delay_stderr: np.ndarray
    total_stderr: float
    n_features: int
    status: Status
    stats: dict[str, Any]


@on_one_thread
@references("jaeger2001short")
def measure_capacity(
    functional: Any,
    *,
    n_delays: int | None = None,
    n_samples: int = 4000,
    n_washout: int = 200,
    ridge: float = 0.0,
    score: str = "corrected",
    read: str = "states",
    dt: float = 1.0,
    series: Any = None,
    amplitude: float = 1.0,
    key: int = 0,
) -> MemoryCapacity:
    """Returns the linear memory capacity `MC = Σ_k r²(x_{t-k}, best linear readout of the state)`.

    A readout fitted and judged on the same n samples finds `p/n` of pure noise with p features:
    "corrected" takes that out (`1 - (1-r²)(n-1)/(n-p-1)`, without bias where nothing is
    remembered). "test" judges on the last fifth of the samples instead, held out, as reservoirpy does: squared
    correlations, which chance keeps above zero.

    Args:
        functional: a recurrent model, a functional, or a callable (time, 1) -> (time, out); one
            input.
        n_delays: longest delay + 1, from 0 on (default: twice the number of features).
        n_samples: length of the random input, uniform in ±amplitude.
        n_washout: samples at the start that are not used.
        ridge: penalty of the readout, added to the Gram matrix.
        score: "corrected", "training" (no correction) or "test".
        read: "states" of a recurrent model, or "outputs"; functionals without states: outputs.
        dt: step.
        series: the input itself, shape (time,), instead of a random one.
        amplitude: of the random input.
        key: of the random input.

    Returns:
        The capacity of each delay and in all.

    Raises:
        TypeError, ValueError: several inputs, or too few samples for the features.

    Assumptions: capacities add up to a number of features at most only if inputs are independent.
    """
    require_choice("score", score, ("corrected", "training", "test"))
    require_choice("read", read, ("states", "outputs"))
    dt = require_positive("dt", dt)
    ridge = require_nonnegative("ridge", ridge)
    functional = require_functional(functional)
    if functional.n_inputs != 1:
        raise invalid("functional", "one input", f"{functional.n_inputs} inputs")
    if series is None:
        n_samples = require_count("n_samples", n_samples, minimum=16)
        rng = np.random.default_rng(require_count("key", key, minimum=0))
        series = require_positive("amplitude", amplitude) * rng.uniform(-1, 1, n_samples)
    else:
        series = host_float64("series", series, owner="measure_capacity").ravel()
    n_washout = require_count("n_washout", n_washout, minimum=0)
    features = _features(functional, series[:, None], read, dt)
    if not np.isfinite(features).all():
        raise invalid("functional", "finite states", "NaN or infinity")
    n_asked = require_count("n_delays", n_delays or 2 * features.shape[1])
    first = max(n_washout, n_asked - 1)
    n_used = len(series) - first
    split = n_used if score != "test" else n_used - round(0.2 * len(series))
    if split < 2 * features.shape[1] + 8:
        raise invalid(
            "n_samples",
            f"at least {2 * features.shape[1] + 8} samples to fit {features.shape[1]} features",
            split,
            "lengthen the input",
        )
    targets = np.stack([series[first - k : len(series) - k] for k in range(n_asked)], axis=1)
    return _capacity(features[first:], targets, split, ridge, score)


@references("jaeger2001short")
def predict_capacity(
    model: LinearRNN | DiagonalRNN, *, n_delays: int | None = None, dt: float | None = None
) -> MemoryCapacity:
    """Returns the memory capacity of a linear network driven by white noise, in closed form.

    `MC_k = bᵀ(A^k)ᵀ P⁻¹ A^k b` with the Gram matrix `P = A P Aᵀ + b bᵀ`; all delays together give
    the rank of P: the width, if every unit can be reached.

    Args:
        model: a stable linear network with one input.
        n_delays: longest delay + 1 (default: four times the width).
        dt: step at which a continuous network is driven (needed for those).

    Returns:
        The capacity; `total` is the sum over the delays asked for.

    Raises:
        TypeError: if `model` is not a linear network.
        ValueError: several inputs, a continuous network without dt, or an unstable one.
    """
    if not isinstance(model, (LinearRNN, DiagonalRNN)):
        raise wrong_type("model", "a linear network", type(model).__name__)
    if model.dt is None and dt is None:
        raise invalid("dt", "the step of the input", None, "state dt for a continuous network")
    model = model if dt is None else rediscretise(model, dt)
    dense = model if isinstance(model, LinearRNN) else to_dense(model)
    A, b = np.asarray(dense.A, dtype=np.float64), np.asarray(dense.B, dtype=np.float64)
    if b.shape[1] != 1:
        raise invalid("model", "one input", f"{b.shape[1]} inputs")
    if np.abs(np.linalg.eigvals(A)).max() >= 1:
        raise invalid("model", "a stable network", "a multiplier of size 1 or more")
    n_delays = 4 * len(A) if n_delays is None else require_count("n_delays", n_delays)
    # The controllability matrix is factorised, not the Gram matrix, whose condition is its square.
    length, response, rows = max(n_delays, 4 * len(A)), b[:, 0], []
    while len(rows) < length or (
        np.abs(response).max() > 1e-17 * np.abs(rows[0]).max() and len(rows) < 200_000
    ):
        rows.append(response)
        response = A @ response
    reach = np.array(rows)
    left, sizes, _ = scipy.linalg.svd(reach, full_matrices=False)
    kept = sizes > len(reach) * np.finfo(np.float64).eps * sizes[0]
    per_delay = (left[:n_delays, kept] ** 2).sum(axis=1)
    return MemoryCapacity(
        total=float(per_delay.sum()),
        per_delay=per_delay,
        delays=np.arange(n_delays),
        uncorrected=per_delay,
        per_delay_stderr=np.zeros(n_delays),
        total_stderr=0.0,
        n_features=int(kept.sum()),
        status=Status(),
        stats={"n_terms": len(reach)},
    )


def _features(
    functional: AbstractFunctional, signal: np.ndarray, read: str, dt: float
) -> np.ndarray:
    if read == "outputs" or not isinstance(functional, AbstractRecurrent):
        return ask(functional, signal[None], dt=dt)[0]
    leaves = jax.tree.leaves(functional.states(signal, dt=dt))
    columns: list[np.ndarray] = []
    for leaf in leaves:
        values: Any = np.asarray(leaf).reshape(len(signal), -1)
        columns += [values.real, values.imag] if np.iscomplexobj(values) else [values]
    return np.concatenate(columns, axis=1).astype(np.float64)


def _capacity(
    features: np.ndarray, targets: np.ndarray, split: int, ridge: float, score: str
) -> MemoryCapacity:
    mean, offset = features[:split].mean(axis=0), targets[:split].mean(axis=0)
    centred, wanted = features - mean, targets - offset
    left, sizes, right = scipy.linalg.svd(centred[:split], full_matrices=False)
    kept = sizes > split * np.finfo(np.float64).eps * (sizes[0] if len(sizes) else 1.0)
    left, sizes, right = left[:, kept], sizes[kept], right[kept]
    n_features = int(kept.sum())
    weights = right.T @ ((sizes / (sizes**2 + ridge))[:, None] * (left.T @ wanted[:split]))
    judged = slice(0, split) if score != "test" else slice(split, None)
    uncorrected = _squared_correlation(centred[judged] @ weights, wanted[judged])
    n = len(wanted[judged])
    per_delay = uncorrected
    if score == "corrected":
        per_delay = 1 - (1 - uncorrected) * (n - 1) / (n - n_features - 1)
    # Large-sample variance of a squared correlation; where there is none, that of chance alone.
    rho = np.clip(per_delay, 0, 1)
    chance = 2.0 * (n_features if score != "test" else 1) / n**2
    stderr = np.sqrt(4 * rho * (1 - rho) ** 2 / n + chance)
    return MemoryCapacity(
        total=float(per_delay.sum()),
        per_delay=per_delay,
        delays=np.arange(targets.shape[1]),
        uncorrected=uncorrected,
        per_delay_stderr=stderr,
        total_stderr=float(np.sqrt((stderr**2).sum())),
        n_features=n_features,
        status=Status(),
        stats={"n_fitted": split, "n_judged": n, "score": score},
    )


def _squared_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = (a**2).sum(axis=0) * (b**2).sum(axis=0)
    product = (a * b).sum(axis=0) ** 2
    return np.divide(product, size, out=np.zeros_like(product), where=size > 0)
