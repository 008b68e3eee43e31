"""Honest baselines for free simulation: the mean, and the best ARX of equal size."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.signal

from recollect._core._status import Status


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a simulated signal matches a measured one.

    Attributes:
        rmse: root mean square error per sample, in the output's unit (all outputs pooled).
        nrmse: the same over the standard deviation of the measured signal.
        explained_variance: 1 - mean square error / variance.
        status: `diverged` when the simulation left every bound, `undecided` where the measured
            signal does not vary or was not observed: it explains no variance then.
    """

    rmse: float
    nrmse: float
    explained_variance: float
    status: Status = Status()

    def record(self) -> dict:
        return dataclasses.asdict(self) | {"status": self.status.record()}


def score(measured: np.ndarray, simulated: np.ndarray, *, record: np.ndarray) -> Score:
    """Returns the score on the samples that were observed.

    Args:
        measured: shape (time, out), NaN where not observed.
        simulated: shape (time, out).
        record: outputs of the record that was fitted, whose range tells an error from a divergence.
    """
    seen = np.isfinite(measured)
    if not seen.any():
        return Score(np.nan, np.nan, np.nan, Status("undecided", "nothing was observed"))
    error = simulated[seen] - measured[seen]
    largest = max(np.ptp(measured[seen]), np.nanmax(record) - np.nanmin(record))
    if not np.isfinite(error).all() or np.abs(error).max() > 1e6 * largest:
        return Score(np.inf, np.inf, -np.inf, Status("diverged", "the free simulation is unstable"))
    mse = float(np.mean(error**2))
    about_mean = [
        column[rows] - column[rows].mean()
        for column, rows in zip(measured.T, seen.T, strict=True)
        if rows.any()
    ]
    variance = float(np.mean(np.concatenate(about_mean) ** 2))
    if variance <= (1e-12 * np.abs(measured[seen]).max()) ** 2:
        word = Status("undecided", "the measured signal does not vary")
        return Score(np.sqrt(mse), np.nan, np.nan, word)
    return Score(np.sqrt(mse), np.sqrt(mse / variance), 1 - mse / variance)


@dataclasses.dataclass(frozen=True)
class ARX:
    """`y_k = Σ_j a_j y_{k-j} + Σ_j b_j x_{k-j} + offset`, one output."""

    past_outputs: np.ndarray
    past_inputs: np.ndarray
    offset: float

    def simulate(self, inputs: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Returns the free simulation, given the first measured outputs."""
        order = len(self.past_outputs)
        forced = np.full(len(inputs), self.offset)
        for channel, weights in enumerate(self.past_inputs.T):
            forced += scipy.signal.lfilter(weights, [1.0], inputs[:, channel])
        denominator = np.concatenate([[1.0], -self.past_outputs])
        state = scipy.signal.lfiltic([1.0], denominator, start[order - 1 :: -1] if order else [])
        tail, _ = scipy.signal.lfilter([1.0], denominator, forced[order:], zi=state)
        return np.concatenate([start[:order], tail])


def fit_arx(inputs: np.ndarray, outputs: np.ndarray, order: int) -> ARX | None:
    """Returns the ARX model with up to `order` past outputs and inputs that simulates best.

    None where the outputs have gaps (a one-step model needs neighbouring samples) or the record
    is too short.
    """
    if not np.isfinite(outputs).all() or not np.isfinite(inputs).all():
        return None
    best, least = None, np.inf
    for n in range(1, order + 1):
        n_unknowns = n * (1 + inputs.shape[1]) + 1
        if len(outputs) < 2 * n_unknowns + n:
            break
        rows = np.arange(n, len(outputs))
        lagged = [outputs[rows - j] for j in range(1, n + 1)]
        driven = [inputs[rows - j] for j in range(n)]
        design = np.concatenate([np.stack(lagged, 1), *driven, np.ones((len(rows), 1))], axis=1)
        weights = np.linalg.lstsq(design, outputs[n:], rcond=None)[0]
        model = ARX(weights[:n], weights[n:-1].reshape(n, -1), float(weights[-1]))
        with np.errstate(all="ignore"):
            mse = np.mean((model.simulate(inputs, outputs) - outputs) ** 2)
        if np.isfinite(mse) and mse < least:
            best, least = model, mse
    return best
