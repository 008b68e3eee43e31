"""Regression on running sums: any number of samples, in one pass, at the cost of a few FFTs."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.fft
import scipy.linalg
import scipy.signal

from recollect.memory._evidence import NormalEquations
from recollect.memory._rows import NuisanceFit, lag_bin_rows, without_offset

# Rows at the start of a record from which a sample is drawn.
_N_SAMPLED = 20_000


@dataclasses.dataclass(frozen=True)
class _Window:
    """Some rows of a record, with the inputs that they remember.

    Args:
        start: number of the first row.
        origin: number of the first input; zeros precede it, or inputs beyond the longest lag.
        inputs: up to the last row, shape (time, in).
        extra: output, one and transients of the rows, shape (row, column).
    """

    start: int
    origin: int
    inputs: np.ndarray
    extra: np.ndarray


class RunningSums:
    """Lagged products of one record, and the few rows at which they are not Toeplitz.

    With zeros outside the record, `Σ_k z_k z_kᵀ` of the lag-bin rows z depends on lag differences
    only: box sums of autocorrelations give it for any bins. Rows beyond the end and pairs of rows
    with a missing output are subtracted one by one, which makes the sums exact. Memory grows with
    the number of gaps, by the longest lag each, and not with the length of the record.

    Args:
        n_lags: longest lag kept.
        timescales: of the transient exponentials in steps.
        n_inputs: number of inputs.
    """

    def __init__(self, n_lags: int, timescales: np.ndarray, n_inputs: int):
        self.n_lags, self.timescales, self.n_inputs = n_lags, timescales, n_inputs
        self.n_keep = n_lags + 2
        self.n_extra = 2 + len(timescales)
        self.auto = np.zeros((n_inputs, n_inputs, 2 * self.n_keep - 1))
        # Products of columns (output, one, transients) with the input at lags -1, 0, 1, …
        self.cross = np.zeros((self.n_extra, n_inputs, self.n_keep + 1))
        self.plain = np.zeros((self.n_extra, self.n_extra))
        self.shifted = np.zeros((self.n_extra, self.n_extra))
        self.n_time = 0
        self.tail = np.zeros((0, n_inputs))
        self.previous = np.zeros((1, self.n_extra))
        self.missing: list[np.ndarray] = []
        self.windows: list[_Window] = []
        self.n_skipped = 0
        self.sum = self.square = 0.0
        self._cached: tuple[np.ndarray, tuple[np.ndarray, ...]] | None = None

    def add(self, inputs: np.ndarray, output: np.ndarray) -> None:
        """Takes the next stretch: inputs (time, in), output (time,) with NaN where missing."""
        n, first = len(inputs), self.n_time
        absent = ~np.isfinite(output)
        extra = np.empty((n, self.n_extra))
        extra[:, 0] = np.where(absent, 0.0, output)
        extra[:, 1] = 1.0
        times = first + np.arange(1.0, n + 1)
        extra[:, 2:] = np.exp(-times[:, None] / self.timescales)
        joined = np.concatenate([self.tail, inputs])
        lead = len(self.tail)
        size = scipy.fft.next_fast_len(len(joined) + self.n_keep, real=True)
        spectra = [np.fft.rfft(joined[:, a], size) for a in range(self.n_inputs)]
        late = np.zeros(len(joined))
        centre = self.n_keep - 1
        for a in range(self.n_inputs):
            late[lead:] = inputs[:, a]
            spectrum = np.fft.rfft(late, size)
            for b in range(self.n_inputs):
                # x_a(t) x_b(t-d), d >= 0, over pairs whose later member is new.
                product = np.fft.irfft(spectrum * np.conj(spectra[b]), size)[: self.n_keep]
                self.auto[a, b, centre:] += product
                self.auto[b, a, :centre] += product[1:][::-1]
        for e in range(self.n_extra):
            late[lead:] = extra[:, e]
            spectrum = np.fft.rfft(late, size)
            for a in range(self.n_inputs):
                product = np.fft.irfft(spectrum * np.conj(spectra[a]), size)
                self.cross[e, a, 1:] += product[: self.n_keep]
        followed = np.concatenate([self.previous, extra[:-1]])
        self.cross[:, :, 0] += followed.T @ inputs
        self.plain += extra.T @ extra
        self.shifted += extra.T @ followed
        self._keep(first + np.flatnonzero(absent), joined, np.concatenate([self.previous, extra]))
        self.tail, self.previous = joined[-self.n_keep :].copy(), extra[-1:].copy()
        self.n_time += n
        self._cached = None

    def _keep(self, absent: np.ndarray, inputs: np.ndarray, extra: np.ndarray) -> None:
        # Pairs with a missing output are taken out again: their rows, and the first of a record.
        first, last = self.n_time, self.n_time + len(extra) - 1
        if self.missing and self.missing[-1][-1] == first - 1:
            absent_near = np.concatenate([[first - 1], absent])
        else:
            absent_near = absent
        wanted = np.unique(absent_near[:, None] + np.arange(-1, 2))
        wanted = np.union1d(wanted, np.arange(first, max(_N_SAMPLED, self.n_keep + 2)))
        wanted = wanted[(wanted >= max(first - 1, 0)) & (wanted < last)]
        for rows in np.split(wanted, np.flatnonzero(np.diff(wanted) > self.n_keep) + 1):
            if len(rows):
                start, stop, oldest = int(rows[0]), int(rows[-1]) + 1, last - len(inputs)
                origin = max(start - self.n_keep, oldest)
                kept = inputs[origin - oldest : stop - oldest]
                own = extra[start - first + 1 : stop - first + 1]
                self.windows.append(_Window(start, origin, kept.copy(), own.copy()))
        if len(absent):
            self.missing.append(absent)

    def _windows_of(self, numbers: np.ndarray):
        """Yields the windows that hold some of the rows, and which rows those are."""
        starts = np.array([window.start for window in self.windows])
        place = np.searchsorted(starts, numbers, side="right") - 1
        for k in np.unique(place[place >= 0]):
            window = self.windows[k]
            here = (place == k) & (numbers < window.start + len(window.extra))
            if here.any():
                yield window, here

    @property
    def absent(self) -> np.ndarray:
        """Row numbers without an output that is used."""
        listed = np.concatenate([*self.missing, np.arange(0)]).astype(np.int64)
        return np.union1d(listed, np.arange(min(self.n_skipped, self.n_time)))

    @property
    def n_rows(self) -> int:
        """Number of rows in use."""
        return self.n_time - len(self.absent)

    def rows(self, numbers: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Returns explicit rows (lag bins, output, one, transients) for some row numbers."""
        result = np.zeros((len(numbers), (len(edges) - 1) * self.n_inputs + self.n_extra))
        past = np.zeros(self.n_inputs)
        for window, here in self._windows_of(numbers):
            at = (numbers[here] - window.origin + 1).astype(np.float64)
            result[here, : -self.n_extra] = lag_bin_rows(window.inputs, at, edges, past)
            result[here, -self.n_extra :] = window.extra[numbers[here] - window.start]
        last = numbers == self.n_time - 1
        if last.any():
            result[last, : -self.n_extra] = self._beyond(edges, 0, 1)
            result[last, -self.n_extra :] = self.previous
        return result

    def combine(self, numbers: np.ndarray, edges: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Returns `rows(numbers, edges) @ direction` by a convolution, without the rows."""
        result = np.zeros(len(numbers))
        steps = np.repeat(
            direction[: -self.n_extra].reshape(-1, self.n_inputs), np.diff(edges), axis=0
        )
        seen = np.zeros(len(numbers), dtype=bool)
        for window, here in self._windows_of(numbers):
            at = numbers[here] - window.origin
            first = max(int(at.min()) - len(steps), 0)
            piece = window.inputs[first : int(at.max()) + 1]
            result[here] = window.extra[numbers[here] - window.start] @ direction[-self.n_extra :]
            for a in range(self.n_inputs):
                response = scipy.signal.fftconvolve(piece[:, a], steps[:, a])
                result[here] += response[at - first]
            seen |= here
        if not seen.all():
            result[~seen] = self.rows(numbers[~seen], edges) @ direction
        return result

    def _beyond(self, edges: np.ndarray, start: int, stop: int) -> np.ndarray:
        # Rows of lag bins at the end of the record and after it, where the input is zero.
        padded = np.concatenate([self.tail, np.zeros((stop, self.n_inputs))])
        at = len(self.tail) + np.arange(start, stop, dtype=np.float64)
        return lag_bin_rows(padded, at, edges, np.zeros(self.n_inputs))

    def products(self, edges: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns Σ z_k z_kᵀ and z_{k-1} z_{k-1}ᵀ and z_k z_{k-1}ᵀ over pairs, z zᵀ over starts."""
        if self._cached is not None and np.array_equal(self._cached[0], edges):
            return self._cached[1]
        p, n_in, n_e = len(edges) - 1, self.n_inputs, self.n_extra
        q = p * n_in
        plain, pair = np.zeros((q + n_e, q + n_e)), np.zeros((q + n_e, q + n_e))
        plain[:q, :q], pair[:q, :q] = self._boxes(edges, 0), self._boxes(edges, 1)
        for e in range(n_e):
            total = np.cumsum(np.concatenate([np.zeros((n_in, 1)), self.cross[e]], axis=1), axis=1)
            for shift, matrix, transpose in ((0, plain, False), (-1, pair, False), (1, pair, True)):
                sums = total[:, edges[1:] + 1 + shift] - total[:, edges[:-1] + 1 + shift]
                if transpose:
                    matrix[q + e, :q] = sums.T.ravel()
                else:
                    matrix[:q, q + e] = sums.T.ravel()
            plain[q + e, :q] = plain[:q, q + e]
        plain[q:, q:], pair[q:, q:] = self.plain, self.shifted
        beyond = self._beyond(edges, 0, int(edges[-1]) + 2)
        plain[:q, :q] -= beyond[1:].T @ beyond[1:]
        pair[:q, :q] -= beyond[1:].T @ beyond[:-1]
        # Lag sums also pair the first row after the end with the last output.
        pair[:q, q:] -= np.outer(beyond[1], self.previous)
        absent = self.absent
        numbers = np.union1d(absent, absent + 1)
        numbers = numbers[(numbers >= 1) & (numbers < self.n_time)]
        first, last = self.rows(np.array([0]), edges), self.rows(np.array([self.n_time - 1]), edges)
        now, before, start = plain - first.T @ first, plain - last.T @ last, np.zeros_like(plain)
        for block in np.array_split(numbers, max(1, len(numbers) // 4096)):
            if len(block):
                late, early = self.rows(block, edges), self.rows(block - 1, edges)
                now -= late.T @ late
                before -= early.T @ early
                pair -= late.T @ early
        starts = np.setdiff1d(np.union1d([0], absent + 1), absent)
        starts = starts[starts < self.n_time]
        for block in np.array_split(starts, max(1, len(starts) // 4096)):
            if len(block):
                rows = self.rows(block, edges)
                start += rows.T @ rows
        result = (now, before, pair, start, np.array([self.n_rows - len(starts)]))
        self._cached = (edges, result)
        return result

    def _boxes(self, edges: np.ndarray, shift: int) -> np.ndarray:
        """Returns Σ over lag boxes of Σ_k x_a(k-i) x_b(k-shift-j), lag-major."""
        p, n_in = len(edges) - 1, self.n_inputs
        result = np.empty((p, n_in, p, n_in))
        lags = np.arange(edges[-1])
        # Inclusive sums over the lag difference d = j + shift - i, from -(n_keep-1).
        for a in range(n_in):
            for b in range(n_in):
                total = np.concatenate([[0.0], np.cumsum(self.auto[a, b])])
                base = self.n_keep - 1 + lags + shift
                for i in range(p):
                    line = total[base - edges[i] + 1] - total[base - edges[i + 1] + 1]
                    result[i, a, :, b] = np.add.reduceat(line, edges[:-1])
        return result.reshape(p * n_in, p * n_in)

    def unwanted_score(self, edges: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Returns what rows after the end and absent rows add to the residual's correlations."""
        n_lags, n_in = int(edges[-1]), self.n_inputs
        result = np.zeros((n_lags, n_in))
        single = np.arange(n_lags + 1)
        absent = self.absent
        for block in np.array_split(absent, max(1, len(absent) // 256)):
            if len(block):
                residual = self.combine(block, edges, direction)
                lagged = self.rows(block, single)[:, : n_lags * n_in]
                result += (residual @ lagged).reshape(n_lags, n_in)
        after = self._beyond(edges, 1, n_lags + 1) @ direction[: -self.n_extra]
        for a in range(n_in):
            # Σ_k r(k) x(k-i) over the rows k behind the end.
            product = scipy.signal.fftconvolve(after, self.tail[::-1, a])
            result[: min(n_lags, len(product)), a] += _shift_to_lags(product, n_lags)
        return result

    def whitened(self, edges: np.ndarray, correlation: float) -> tuple[np.ndarray, float]:
        """Returns the gram matrix of whitened rows and the log determinant of the whitening."""
        now, before, pair, start, n_pairs = self.products(edges)
        if correlation == 0:
            return now + start, 0.0
        decay = np.exp(-1 / correlation)
        rest = -np.expm1(-2 / correlation)
        gram = (now - decay * (pair + pair.T) + decay**2 * before) / rest + start
        return gram, -0.5 * float(n_pairs[0]) * float(np.log(rest))


class SummedRows:
    """The regression of one output on running sums of its records.

    Args:
        sums: one per record.
    """

    def __init__(self, sums: list[RunningSums]):
        self.sums = sums
        self.n_inputs = sums[0].n_inputs

    @property
    def n_rows(self) -> int:
        """Number of rows in use."""
        return sum(s.n_rows for s in self.sums)

    @property
    def typical_gap(self) -> float:
        """One step: running sums are for regular samples."""
        return 1.0

    def skip(self, n_skipped: int) -> None:
        """Leaves out the first rows of every record."""
        for s in self.sums:
            s.n_skipped, s._cached = n_skipped, None

    def _projected(self, edges: np.ndarray, correlation: float):
        for s in self.sums:
            gram, log_scale = s.whitened(edges, correlation)
            q = len(gram) - s.n_extra
            kept = np.arange(q + 2)
            nuisance = gram[q + 2 :, q + 2 :]
            if nuisance.size == 0:
                yield s, gram, gram, log_scale, np.zeros((0, 0)), np.zeros((0, q + 2))
                continue
            now, _, _, start, _ = s.products(edges)
            values, vectors = np.linalg.eigh((now + start)[q + 2 :, q + 2 :])
            good = values > 1e-12 * max(values[-1], 1e-300)
            basis = vectors[:, good] / np.sqrt(values[good])
            lower = np.linalg.cholesky(basis.T @ nuisance @ basis)
            across = scipy.linalg.solve_triangular(
                lower, basis.T @ gram[q + 2 :, : q + 2], lower=True
            )
            rest = gram[np.ix_(kept, kept)] - across.T @ across
            back = basis @ scipy.linalg.solve_triangular(lower.T, across)
            yield s, gram, rest, log_scale - float(np.log(np.diag(lower)).sum()), basis, back

    def equations(self, edges: np.ndarray, correlation: float) -> NormalEquations:
        """Returns the normal equations with noise whitened and nuisance terms projected out."""
        total, log_jacobian, n_projected = 0.0, 0.0, 0
        for _, _, rest, log_scale, basis, _ in self._projected(edges, correlation):
            total = total + rest
            log_jacobian += log_scale
            n_projected += basis.shape[1]
        return without_offset(np.asarray(total), self.n_rows - n_projected, log_jacobian)

    def nuisance_fit(self, edges: np.ndarray, mean: np.ndarray, correlation: float) -> NuisanceFit:
        """Returns offset and transients for the kernel values `mean`."""
        parts = list(self._projected(edges, correlation))
        gram = np.sum([part[2] for part in parts], axis=0)
        own = gram[-1, -1]
        slope = -gram[-1, :-2] / own
        offset = gram[-1, -2] / own + slope @ mean
        direction = np.concatenate([-mean, [1.0, -offset]])
        n_transients = self.sums[0].n_extra - 2
        transients = np.zeros((len(parts), n_transients))
        residual, power, total = 0.0, 0.0, 0.0
        for k, (s, _, _, _, _, back) in enumerate(parts):
            transients[k] = back @ direction
            now, _, _, start, _ = s.products(edges)
            full = np.concatenate([direction, -transients[k]])
            residual += float(full @ (now + start) @ full)
            q = len(mean)
            power += float((now + start)[q, q])
            total += float((now + start)[q, q + 1])
        n = self.n_rows
        return NuisanceFit(
            offset=float(offset),
            offset_variance=float(1 / own),
            offset_slope=slope,
            transients=transients,
            residual_variance=max(residual, 0.0) / n,
            output_variance=power / n - (total / n) ** 2,
        )

    def head_residuals(
        self, edges: np.ndarray, mean: np.ndarray, correlation: float
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns times and residuals of the first rows of every record."""
        fit = self.nuisance_fit(edges, mean, correlation)
        heads = []
        for s, transient in zip(self.sums, fit.transients, strict=True):
            numbers = np.setdiff1d(np.arange(min(s.n_keep, s.n_time)), s.absent)
            direction = np.concatenate([-mean, [1.0, -fit.offset], -transient])
            heads.append((numbers + 1.0, s.combine(numbers, edges, direction)))
        return heads

    def sample(
        self, edges: np.ndarray, mean: np.ndarray, correlation: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns inputs and residuals (NaN where missing) of the start of the longest record."""
        fit = self.nuisance_fit(edges, mean, correlation)
        k = int(np.argmax([s.n_time for s in self.sums]))
        s = self.sums[k]
        n = min(len(s.windows[0].extra), _N_SAMPLED)
        direction = np.concatenate([-mean, [1.0, -fit.offset], -fit.transients[k]])
        residual = s.combine(np.arange(n), edges, direction)
        absent = s.absent
        residual[absent[absent < n]] = np.nan
        return s.windows[0].inputs[:n], residual

    def score(self, edges: np.ndarray, mean: np.ndarray, correlation: float) -> np.ndarray:
        """Returns the residual's correlation with the input at every lag, shape (lag, in)."""
        fit = self.nuisance_fit(edges, mean, correlation)
        n_lags = int(edges[-1])
        steps = np.repeat(mean.reshape(-1, self.n_inputs), np.diff(edges), axis=0)
        result = np.zeros((n_lags, self.n_inputs))
        for s, transient in zip(self.sums, fit.transients, strict=True):
            direction = np.concatenate([[1.0, -fit.offset], -transient])
            result += np.einsum("e,eal->la", direction, s.cross[:, :, 1 : n_lags + 1])
            centre = s.n_keep - 1
            for a in range(self.n_inputs):
                for b in range(self.n_inputs):
                    # Σ_j K_b(j) x_b(k-j) x_a(k-i): lag difference i - j of (b, a).
                    product = scipy.signal.fftconvolve(steps[:, b], s.auto[b, a])
                    result[:, a] -= product[centre : centre + n_lags]
            full = np.concatenate([-mean, direction])
            result -= s.unwanted_score(edges, full)
        return result


def _shift_to_lags(product: np.ndarray, n_lags: int) -> np.ndarray:
    # Row r after the end (r = 0, 1, …) meets tail sample s before it at lag r + s + 1.
    result = np.zeros(min(n_lags, len(product)))
    result[1:] = product[: len(result) - 1]
    return result
