"""Regression on explicit rows: any sampling of the outputs, any gaps, one row per sample."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg

from recollect.memory._evidence import NormalEquations
from recollect.memory._records import Record

# Fewer rows than this are whitened one by one, which keeps every digit.
_FEWEST_SUMMED = 4000


@dataclasses.dataclass(frozen=True)
class NuisanceFit:
    """Offset and transients once the kernel is known.

    Attributes:
        offset: constant term, in standardised units.
        offset_variance: its own variance per unit noise variance.
        offset_slope: how it moves with the kernel values, shape (p*in,).
        transients: amplitudes per record, shape (record, q).
        residual_variance: of the output less kernel, offset and transient.
        output_variance: of the output.
    """

    offset: float
    offset_variance: float
    offset_slope: np.ndarray
    transients: np.ndarray
    residual_variance: float
    output_variance: float


class ExplicitRows:
    """One regression row per observed output sample, record by record.

    Row i of the design is `∫ x(t_i - s) ds` over each lag bin (in steps), exact for held inputs
    also between grid points. Before the record the input is taken to be `past`; what is wrong
    with that goes into the transient columns.

    Args:
        records: with standardised inputs and outputs.
        output: which output.
        past: standardised input before each record, shape (in,).
        timescales: of the transient exponentials in steps (empty: starts at rest).
    """

    def __init__(
        self, records: list[Record], output: int, past: np.ndarray, timescales: np.ndarray
    ):
        self.n_inputs = records[0].inputs.shape[1]
        self.records, self.past = records, past
        self.output, self.timescales = output, timescales
        self.skip(0)

    def skip(self, n_skipped: int) -> None:
        """Leaves out the outputs of the first steps of every record, and takes all others."""
        self.times, self.values, self.bases, self.from_bases = [], [], [], []
        for record in self.records:
            seen = np.isfinite(record.outputs[:, self.output]) & (record.times > n_skipped)
            times = record.times[seen]
            self.times.append(times)
            self.values.append(record.outputs[seen, self.output])
            columns = np.exp(-times[:, None] / self.timescales[None, :])
            basis, from_basis = _independent(columns)
            self.bases.append(basis)
            self.from_bases.append(from_basis)
        self._edges: np.ndarray | None = None
        self._designs: list[np.ndarray] = []
        self._products: tuple[np.ndarray, list[tuple[np.ndarray, ...]]] | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows in use."""
        return sum(len(times) for times in self.times)

    @property
    def typical_gap(self) -> float:
        """Median time between neighbouring samples, in steps."""
        return float(np.median(np.concatenate([np.diff(t) for t in self.times])))

    def designs(self, edges: np.ndarray) -> list[np.ndarray]:
        """Returns per record the rows for the bins between `edges`, (row, p*in), lag-major."""
        if self._edges is not None and np.array_equal(self._edges, edges):
            return self._designs
        self._designs = [
            lag_bin_rows(record.inputs, times, edges, self.past)
            for record, times in zip(self.records, self.times, strict=True)
        ]
        self._edges = edges
        return self._designs

    def _whitened(self, edges: np.ndarray, correlation: float):
        for design, times, values, basis in zip(
            self.designs(edges), self.times, self.values, self.bases, strict=True
        ):
            if len(times) == 0:
                continue
            columns = np.concatenate([design, values[:, None], np.ones((len(times), 1))], axis=1)
            rows, log_scale = whiten(columns, times, correlation)
            if basis.shape[1]:
                q, r = np.linalg.qr(whiten(basis, times, correlation)[0])
                rest = rows - q @ (q.T @ rows)
                log_scale -= float(np.log(np.abs(np.diag(r))).sum())
                yield rest, log_scale, q, r, rows
            else:
                yield rows, log_scale, np.zeros((len(times), 0)), np.zeros((0, 0)), rows

    def equations(self, edges: np.ndarray, correlation: float) -> NormalEquations:
        """Returns the normal equations with noise whitened and nuisance terms projected out."""
        size = (len(edges) - 1) * self.n_inputs + 2
        gram, log_jacobian, n_projected = np.zeros((size, size)), 0.0, 0
        if self._is_even:
            for (now, pair, before, start), times in zip(
                self._even_products(edges), self.times, strict=True
            ):
                whitened, log_scale = _whitened_gram(now, pair, before, start, times, correlation)
                lower = np.linalg.cholesky(whitened[size:, size:])
                across = scipy.linalg.solve_triangular(lower, whitened[size:, :size], lower=True)
                gram += whitened[:size, :size] - across.T @ across
                log_jacobian += log_scale - float(np.log(np.diag(lower)).sum())
                n_projected += len(lower)
            return without_offset(gram, self.n_rows - n_projected, log_jacobian)
        for rest, log_scale, q, _, _ in self._whitened(edges, correlation):
            gram += rest.T @ rest
            log_jacobian += log_scale
            n_projected += q.shape[1]
        return without_offset(gram, self.n_rows - n_projected, log_jacobian)

    @property
    def _is_even(self) -> bool:
        """True where sums over rows serve every noise correlation: long records without gaps."""
        return all(
            len(times) >= _FEWEST_SUMMED and np.ptp(np.diff(times)) == 0 for times in self.times
        )

    def _even_products(self, edges: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """Returns Σ z_k z_kᵀ, z_k z_{k-1}ᵀ, z_{k-1} z_{k-1}ᵀ over pairs, and z zᵀ of the start."""
        if self._products is not None and np.array_equal(self._products[0], edges):
            return self._products[1]
        found = []
        for design, values, basis in zip(self.designs(edges), self.values, self.bases, strict=True):
            ones = np.ones((len(values), 1))
            rows = np.concatenate([design, values[:, None], ones, basis], axis=1)
            start, end = np.outer(rows[0], rows[0]), np.outer(rows[-1], rows[-1])
            now = rows[1:].T @ rows[1:]
            found.append((now, rows[1:].T @ rows[:-1], now + start - end, start))
        self._products = (edges, found)
        return found

    def nuisance_fit(self, edges: np.ndarray, mean: np.ndarray, correlation: float) -> NuisanceFit:
        """Returns offset and transients for the kernel values `mean`."""
        return self._fit(edges, mean, correlation)[0]

    def _fit(
        self, edges: np.ndarray, mean: np.ndarray, correlation: float
    ) -> tuple[NuisanceFit, list[np.ndarray]]:
        """Returns offset and transients, and the residuals of every record that has rows."""
        size = len(mean) + 2
        gram = np.zeros((size, size))
        parts = list(self._whitened(edges, correlation))
        for rest, *_ in parts:
            gram += rest.T @ rest
        own = gram[-1, -1]
        slope = -gram[-1, :-2] / own
        offset = gram[-1, -2] / own + slope @ mean
        direction = np.concatenate([-mean, [1.0, -offset]])
        transients = np.zeros((len(self.records), 0))
        solved = [
            scipy.linalg.solve_triangular(r, q.T @ (rows @ direction)) for _, _, q, r, rows in parts
        ]
        residuals, index = [], 0
        for k, (design, times, values, basis, from_basis) in enumerate(
            zip(
                self.designs(edges),
                self.times,
                self.values,
                self.bases,
                self.from_bases,
                strict=True,
            )
        ):
            if transients.shape[1] != len(from_basis):
                transients = np.zeros((len(self.records), len(from_basis)))
            if len(times) == 0:
                continue
            transients[k] = from_basis @ solved[index]
            residuals.append(values - design @ mean - offset - basis @ solved[index])
            index += 1
        everything = np.concatenate(self.values)
        fit = NuisanceFit(
            offset=float(offset),
            offset_variance=float(1 / own),
            offset_slope=slope,
            transients=transients,
            residual_variance=float(np.mean(np.concatenate(residuals) ** 2)),
            output_variance=float(everything.var()),
        )
        return fit, residuals

    def head_residuals(
        self, edges: np.ndarray, mean: np.ndarray, correlation: float
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns times and residuals of the first rows of every record."""
        _, residuals = self._fit(edges, mean, correlation)
        kept = [times for times in self.times if len(times)]
        return list(zip(kept, residuals, strict=True))

    def sample(
        self, edges: np.ndarray, mean: np.ndarray, correlation: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns inputs and, if regularly sampled, residuals (NaN where missing) of a record."""
        _, residuals = self._fit(edges, mean, correlation)
        kept = [k for k, times in enumerate(self.times) if len(times)]
        best = max(range(len(kept)), key=lambda i: len(self.times[kept[i]]))
        record, times = self.records[kept[best]], self.times[kept[best]]
        if not record.is_regular:
            return record.inputs, None
        residual = np.full(len(record.inputs), np.nan)
        residual[times.astype(int) - 1] = residuals[best]
        return record.inputs, residual

    def score(self, edges: np.ndarray, mean: np.ndarray, correlation: float) -> np.ndarray:
        """Returns the residual's correlation with the input at every lag, shape (lag, in).

        For finding structure finer than the bins; residuals go to the nearest grid time.
        """
        _, residuals = self._fit(edges, mean, correlation)
        n_lags = int(edges[-1])
        total = np.zeros((n_lags, self.n_inputs))
        kept = [(r, t) for r, t in zip(self.records, self.times, strict=True) if len(t)]
        for (record, times), residual in zip(kept, residuals, strict=True):
            grid = np.zeros(len(record.inputs))
            np.add.at(grid, np.clip(np.rint(times).astype(int) - 1, 0, len(grid) - 1), residual)
            n = 1 << int(np.ceil(np.log2(2 * len(grid))))
            spectrum = np.fft.rfft(grid, n)
            for i in range(self.n_inputs):
                product = np.fft.irfft(np.conj(np.fft.rfft(record.inputs[:, i], n)) * spectrum, n)
                m = min(n_lags, len(grid))
                total[:m, i] += product[:m]
        return total


def lag_bin_rows(
    inputs: np.ndarray, times: np.ndarray, edges: np.ndarray, past: np.ndarray
) -> np.ndarray:
    """Returns `∫ x(t - s) ds` over each lag bin at `times`, shape (row, p*in), lag-major."""
    n_time, n_inputs = inputs.shape
    block = np.empty((len(times), len(edges) - 1, n_inputs))
    whole = np.array_equal(times, np.rint(times))
    at = (times.astype(np.int64) if whole else times)[:, None] - edges[None, :]
    inside = np.maximum(at, 0)
    for i in range(n_inputs):
        total = np.concatenate([[0.0], np.cumsum(inputs[:, i])])
        values = total[inside] if whole else np.interp(inside, np.arange(n_time + 1.0), total)
        if past[i] != 0:
            values += np.minimum(at, 0) * past[i]
        np.subtract(values[:, :-1], values[:, 1:], out=block[:, :, i])
    return block.reshape(len(times), -1)


def whiten(columns: np.ndarray, times: np.ndarray, correlation: float) -> tuple[np.ndarray, float]:
    """Returns rows whose Ornstein-Uhlenbeck noise has become white, and the log determinant.

    The noise has unit stationary variance before and after.
    """
    if correlation == 0:
        return columns, 0.0
    gaps = np.diff(times)
    decay = np.exp(-gaps / correlation)
    scale = 1 / np.sqrt(-np.expm1(-2 * gaps / correlation))
    result = columns.copy()
    result[1:] = scale[:, None] * (columns[1:] - decay[:, None] * columns[:-1])
    return result, float(np.log(scale).sum())


def _whitened_gram(
    now: np.ndarray,
    pair: np.ndarray,
    before: np.ndarray,
    start: np.ndarray,
    times: np.ndarray,
    correlation: float,
) -> tuple[np.ndarray, float]:
    if correlation == 0:
        return now + start, 0.0
    gap = float(times[1] - times[0])
    decay, rest = np.exp(-gap / correlation), -np.expm1(-2 * gap / correlation)
    gram = (now - decay * (pair + pair.T) + decay**2 * before) / rest + start
    return gram, -0.5 * (len(times) - 1) * float(np.log(rest))


def without_offset(gram: np.ndarray, n_samples: int, log_jacobian: float) -> NormalEquations:
    """Returns normal equations from the gram matrix of (design, output, ones), ones projected."""
    own = gram[-1, -1]
    reduced = gram[:-1, :-1] - np.outer(gram[:-1, -1], gram[-1, :-1]) / own
    return NormalEquations(
        gram=0.5 * (reduced[:-1, :-1] + reduced[:-1, :-1].T),
        cross=reduced[:-1, -1],
        power=float(reduced[-1, -1]),
        n_samples=n_samples - 1,
        log_jacobian=log_jacobian - 0.5 * float(np.log(own)),
    )


def _independent(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Exponentials of neighbouring rates are nearly parallel: keep what can be told apart.
    if columns.shape[1] == 0 or len(columns) == 0:
        return np.zeros((len(columns), 0)), np.zeros((columns.shape[1], 0))
    u, s, vt = np.linalg.svd(columns, full_matrices=False)
    kept = s > 1e-6 * s[0]
    return u[:, kept], vt[kept].T / s[kept]
