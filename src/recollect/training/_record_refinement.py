"""Variable projection on records: the rates whose simulation is nearest to what was measured."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.signal

from recollect._core._least_squares import Point, descend, normal_root
from recollect._core._references import references

_PATIENCE = 3


@dataclasses.dataclass(frozen=True)
class Refined:
    """Rates and amplitudes of one output at a local minimum of its simulation error.

    Attributes:
        rates: shape (width,), complex, real ones first, conjugates listed.
        amplitudes: shape (width, in), complex; the kernel is `Re Σ a_i e^{-w_i t}`.
        offset: of the output, at inputs of zero.
        error: root mean square of what the simulation leaves.
        start_error: the same at the rates given, amplitudes and offset already the best.
        n_steps: steps accepted.
    """

    rates: np.ndarray
    amplitudes: np.ndarray
    offset: float
    error: float
    start_error: float
    n_steps: int


@dataclasses.dataclass(frozen=True)
class _Rates:
    """Real rates and pairs in logarithms of what must stay positive, kept within what is seen."""

    log_rates: np.ndarray
    pairs: np.ndarray
    limits: tuple[float, float]

    @staticmethod
    def of(rates: np.ndarray, limits: tuple[float, float]) -> _Rates:
        rates = np.asarray(rates, dtype=complex)
        on_axis = np.abs(rates.imag) <= 1e-9 * np.abs(rates)
        singles = np.sort(np.maximum(rates[on_axis].real, limits[0]))
        for k in range(1, len(singles)):
            singles[k] = max(singles[k], singles[k - 1] * (1 + 1e-3))
        upper = rates[~on_axis & (rates.imag > 0)]
        real = np.maximum(upper.real, limits[0])
        return _Rates(np.log(singles), np.stack([np.log(real), upper.imag], axis=1), limits)

    @property
    def vector(self) -> np.ndarray:
        return np.concatenate([self.log_rates, self.pairs.ravel()])

    def moved(self, vector: np.ndarray) -> _Rates:
        k = len(self.log_rates)
        low, high = math.log(self.limits[0]), math.log(self.limits[1])
        pairs = vector[k:].reshape(-1, 2).copy()
        pairs[:, 0] = np.clip(pairs[:, 0], low, high)
        pairs[:, 1] = np.clip(pairs[:, 1], 1e-3 * self.limits[0], math.pi / 2 * self.limits[1])
        return _Rates(np.clip(vector[:k], low, high), pairs, self.limits)

    @property
    def upper(self) -> np.ndarray:
        """One of each pair, after the real ones."""
        pairs = np.exp(self.pairs[:, 0]) + 1j * self.pairs[:, 1]
        return np.concatenate([np.exp(self.log_rates).astype(complex), pairs])

    @property
    def width(self) -> int:
        return len(self.log_rates) + 2 * len(self.pairs)


def _columns(rates: _Rates, x: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns what each rate holds of each input, and its derivative in the rate.

    Both (time, column): the real rates' columns, then real and imaginary parts of the pairs';
    within a rate, one column per input.
    """
    n_single = len(rates.log_rates)
    held, moved = [], []
    for i, w in enumerate(rates.upper):
        rate = w.real if i < n_single else w
        z = np.exp(-rate * dt)
        gain = -np.expm1(-rate * dt) / rate
        h = scipy.signal.lfilter([gain], [1.0, -z], x, axis=0)
        before = np.concatenate([np.zeros_like(h[:1]), h[:-1]])
        drive = -dt * z * before + (dt * z - gain) / rate * x
        slope = scipy.signal.lfilter([1.0], [1.0, -z], drive, axis=0)
        if i < n_single:
            held.append(h)
            moved.append(slope)
        else:
            held += [h.real, h.imag]
            moved += [slope.real, slope.imag]
    return np.concatenate(held, axis=1), np.concatenate(moved, axis=1)


def _free(rates: _Rates, n_time: int, dt: float) -> np.ndarray:
    """Returns the responses to an initial state, shape (time, width)."""
    n_single = len(rates.log_rates)
    wave = np.exp(-np.multiply.outer(dt * (1 + np.arange(n_time)), rates.upper))
    pairs = wave[:, n_single:]
    return np.concatenate([wave[:, :n_single].real, pairs.real, pairs.imag], axis=1)


class _Solver:
    def __init__(
        self,
        inputs: list[np.ndarray],
        outputs: list[np.ndarray],
        *,
        dt: float,
        is_at_rest: bool,
        has_offset: bool,
    ):
        self.inputs, self.outputs, self.dt = inputs, outputs, dt
        self.is_at_rest, self.has_offset = is_at_rest, has_offset
        self.n_inputs = inputs[0].shape[1]
        self.n_samples = sum(int(np.isfinite(y).sum()) for y in outputs)

    def triangle(self, rates: _Rates) -> np.ndarray:
        """Returns R of [held, 1, derivatives, output], initial states projected out."""
        total: np.ndarray | None = None
        for x, y in zip(self.inputs, self.outputs, strict=True):
            held, moved = _columns(rates, x, self.dt)
            seen = np.isfinite(y)
            parts = [held, np.ones((len(x), 1))] if self.has_offset else [held]
            block = np.concatenate([*parts, moved, np.nan_to_num(y)[:, None]], axis=1)[seen]
            if not self.is_at_rest:
                local = _free(rates, len(x), self.dt)[seen]
                size = np.linalg.norm(local, axis=0)
                q, r = np.linalg.qr(local / np.where(size > 0, size, 1.0))
                # Responses that are over before the first sample seen leave no direction.
                q = q[:, np.abs(np.diag(r)) > 1e-10]
                block = block - q @ (q.T @ block)
            stacked = block if total is None else np.concatenate([total, block])
            total = np.asarray(np.linalg.qr(stacked, mode="r"))
        assert total is not None
        return total

    def evaluate(self, rates: _Rates) -> Point:
        """Returns the cost at some rates, with real amplitudes, the offset last."""
        triangle = self.triangle(rates)
        n_held = rates.width * self.n_inputs
        k = n_held + (1 if self.has_offset else 0)
        head = triangle[:k, :k]
        size = np.linalg.norm(head, axis=0)
        size[size == 0] = 1.0
        found = np.linalg.lstsq(head / size, triangle[:k, -1], rcond=1e-12)[0] / size
        left = triangle[:k, -1] - head @ found
        residual = triangle[k:, -1]
        cost = float(residual @ residual + left @ left)
        return Point(rates.vector, cost, (rates, found, triangle[k:, k:-1], residual))

    def linearise(self, at: Point) -> tuple[np.ndarray, np.ndarray]:
        """Returns (R, Jᵀr) of variable projection, as `descend` wants them."""
        rates, found, slopes, residual = at.solution
        a = found[: rates.width * self.n_inputs].reshape(rates.width, self.n_inputs)
        parts = slopes.reshape(len(slopes), rates.width, self.n_inputs)
        n_single = len(rates.log_rates)
        columns = [math.exp(rates.log_rates[i]) * (parts[:, i] @ a[i]) for i in range(n_single)]
        for p, (log_real, _) in enumerate(rates.pairs):
            re, im = n_single + 2 * p, n_single + 2 * p + 1
            along = parts[:, re] @ a[re] + parts[:, im] @ a[im]
            across = parts[:, re] @ a[im] - parts[:, im] @ a[re]
            columns += [math.exp(log_real) * along, across]
        return normal_root(-np.stack(columns, axis=1), residual)


@references("golub1973differentiation")
def refine_on_records(
    rates: np.ndarray,
    inputs: list[np.ndarray],
    outputs: list[np.ndarray],
    *,
    dt: float,
    is_at_rest: bool,
    has_offset: bool,
    n_steps: int = 40,
) -> Refined:
    """Returns rates and amplitudes that minimise the error of the free simulation of one output.

    Amplitudes, offset and the initial state of every record are eliminated (variable projection);
    damped Gauss-Newton steps move the rates. Memory is that of one record.

    Args:
        rates: where to start, conjugates listed, in 1/time.
        inputs: records of shape (time, in).
        outputs: records of shape (time,), NaN where not observed.
        dt: step.
        is_at_rest: records start at rest.
        has_offset: the output has a constant.
        n_steps: most steps.
    """
    longest = dt * max(len(x) for x in inputs)
    start = _Rates.of(rates, (0.1 / longest, 2 / dt))
    solver = _Solver(inputs, outputs, dt=dt, is_at_rest=is_at_rest, has_offset=has_offset)
    first = solver.evaluate(start)
    end, n_taken = descend(
        first,
        lambda vector: solver.evaluate(start.moved(vector)),
        solver.linearise,
        longest_step=1.0,
        n_steps=n_steps,
        rtol=1e-6,
        floor=1e-26 * first.cost,
        patience=_PATIENCE,
    )
    current, found, *_ = end.solution
    n_single = len(current.log_rates)
    n_held = current.width * solver.n_inputs
    real = found[:n_held].reshape(current.width, solver.n_inputs)
    # α Re h + β Im h = Re((α - iβ) h), half of it for each of a pair.
    half = 0.5 * (real[n_single::2] - 1j * real[n_single + 1 :: 2])
    upper = current.upper
    count = max(solver.n_samples, 1)
    return Refined(
        rates=np.concatenate([upper, upper[n_single:].conj()]),
        amplitudes=np.concatenate([real[:n_single].astype(complex), half, half.conj()]),
        offset=float(found[-1]) if has_offset else 0.0,
        error=math.sqrt(end.cost / count),
        start_error=math.sqrt(first.cost / count),
        n_steps=n_taken,
    )
