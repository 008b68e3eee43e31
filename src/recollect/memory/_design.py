"""Regression rows for lag bins, and their whitening."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from recollect.memory._evidence import NormalEquations
from recollect.memory._records import Record


class ExplicitRows:
    """One regression row per observed output sample; any spacing in time, any gaps.

    Row i of the design is `∫ x(t_i - s) ds` over each lag bin (in steps), exact for held inputs
    also between grid points. Before the record the input is taken to be `past`; what is wrong
    with that goes into the transient columns.

    Args:
        records: with standardised inputs.
        output: which output.
        past: standardised input before each record, shape (in,).
        timescales: of the transient exponentials in steps (empty: starts at rest).
    """

    def __init__(
        self,
        records: list[Record],
        output: int,
        past: np.ndarray,
        timescales: np.ndarray,
    ):
        self.records, self.past = records, past
        self.times: list[np.ndarray] = []
        values, gaps, nuisance = [], [], []
        n_record, q = len(records), len(timescales)
        for r, record in enumerate(records):
            seen = np.isfinite(record.outputs[:, output])
            times = record.times[seen]
            self.times.append(times)
            values.append(record.outputs[seen, output])
            gap = np.diff(times, prepend=np.nan)
            gaps.append(gap)
            block = np.zeros((len(times), 1 + n_record * q))
            block[:, 0] = 1.0
            block[:, 1 + r * q : 1 + (r + 1) * q] = np.exp(-times[:, None] / timescales)
            nuisance.append(block)
        self.values = np.concatenate(values)
        self.gaps = np.concatenate(gaps)
        self.nuisance = np.concatenate(nuisance)
        # Exponentials of neighbouring rates are nearly parallel: keep what float64 can tell apart.
        u, s, vt = np.linalg.svd(self.nuisance, full_matrices=False)
        kept = s > 1e-6 * s[0]
        self.basis, self.from_basis = u[:, kept], vt[kept].T / s[kept]

    def design(self, edges: np.ndarray) -> np.ndarray:
        """Returns the rows for the bins between `edges`, shape (row, p*in), lag-major."""
        blocks = []
        for record, times in zip(self.records, self.times, strict=True):
            n_time, n_inputs = record.inputs.shape
            block = np.empty((len(times), len(edges) - 1, n_inputs))
            at = times[:, None] - edges[None, :]
            whole = np.array_equal(at, np.rint(at))
            for i in range(n_inputs):
                total = np.concatenate([[0.0], np.cumsum(record.inputs[:, i])])
                if whole:
                    values = total[np.maximum(at, 0).astype(np.int64)]
                else:
                    values = np.interp(at, np.arange(n_time + 1.0), total)
                values += np.minimum(at, 0) * self.past[i]
                block[:, :, i] = values[:, :-1] - values[:, 1:]
            blocks.append(block.reshape(len(times), -1))
        return np.concatenate(blocks)

    def whitened(self, matrix: np.ndarray, correlation_steps: float) -> np.ndarray:
        """Returns rows whose Ornstein-Uhlenbeck noise has become white with unit variance."""
        if correlation_steps == 0:
            return matrix
        follow = np.isfinite(self.gaps)
        decay = np.where(follow, np.exp(-np.where(follow, self.gaps, 1.0) / correlation_steps), 0)
        scale = 1 / np.sqrt(-np.expm1(2 * np.log(np.maximum(decay, 1e-300))))
        shape = (-1,) + (1,) * (matrix.ndim - 1)
        result = matrix * scale.reshape(shape)
        result[1:] -= (decay * scale)[1:].reshape(shape) * matrix[:-1]
        return result

    def log_jacobian(self, correlation_steps: float) -> float:
        """Returns the log determinant of the whitening."""
        if correlation_steps == 0:
            return 0.0
        gaps = self.gaps[np.isfinite(self.gaps)]
        return float(-0.5 * np.log(-np.expm1(-2 * gaps / correlation_steps)).sum())

    def equations(self, design: np.ndarray, correlation_steps: float) -> NormalEquations:
        """Returns the normal equations with noise whitened and nuisance columns projected out."""
        q, r = scipy.linalg.qr(self.whitened(self.basis, correlation_steps), mode="economic")
        rows = self.whitened(design, correlation_steps)
        values = self.whitened(self.values, correlation_steps)
        rows = rows - q @ (q.T @ rows)
        values = values - q @ (q.T @ values)
        return NormalEquations(
            gram=rows.T @ rows,
            cross=rows.T @ values,
            power=float(values @ values),
            n_samples=len(values) - q.shape[1],
            log_jacobian=self.log_jacobian(correlation_steps)
            - float(np.log(np.abs(np.diag(r))).sum()),
        )

    def nuisance_fit(
        self, design: np.ndarray, mean: np.ndarray, correlation_steps: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns offset and transient amplitudes, how they depend on the kernel, and fitted rows.

        The second and third entries give the offset's own variance (per unit noise) and its
        slope in the kernel values.
        """
        q, r = scipy.linalg.qr(self.whitened(self.basis, correlation_steps), mode="economic")
        rows = self.whitened(design, correlation_steps)
        values = self.whitened(self.values, correlation_steps)
        solve = scipy.linalg.solve_triangular(r, q.T @ (values - rows @ mean))
        amplitudes = self.from_basis @ solve
        towards = scipy.linalg.solve_triangular(r, self.from_basis[0], trans="T")
        slope = -(rows.T @ (q @ towards))
        fitted = design @ mean + self.basis @ solve
        return amplitudes, np.asarray(towards @ towards), slope, fitted
