"""From the L2-best exponentials to the L1- or Linf-best: reweighted least squares over lags."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import scipy.optimize

from recollect._core._least_squares import Point, Projection, descend, project
from recollect._core._references import references

_MOST_ROWS = 8192
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)
_PANEL = 4.0
_LIFETIMES = 34.0


@dataclasses.dataclass(frozen=True)
class LagGrid:
    """Lags with the weights that turn sums over them into integrals (or into sums over steps).

    Attributes:
        lags: shape (lag,); whole numbers in discrete time.
        weights: shape (lag,).
    """

    lags: np.ndarray
    weights: np.ndarray

    def thinned(self, block: int, *, most: int = _MOST_ROWS) -> LagGrid:
        """Returns a part of the grid that is small enough to optimise on, in whole blocks."""
        n = len(self.lags)
        if n <= most:
            return self
        # The start, where kernels vary most, is kept whole.
        head = min(most // 4 // block * block, n)
        stride = -(-(n - head) // (most - head))
        at = np.arange(head, n)
        kept = (at - head) // block % stride == 0
        rows = np.concatenate([np.arange(head), at[kept]])
        weights = self.weights.copy()
        weights[head:] *= (n - head) / max(int(kept.sum()), 1)
        return LagGrid(self.lags[rows], weights[rows])


def continuous_grid(
    rates: np.ndarray, *, panel: float = _PANEL, lifetimes: float = _LIFETIMES, most: int = 4096
) -> LagGrid:
    """Returns Gauss panels fine enough for every mode that is still alive, up to the end of all.

    Where that takes more than `most` panels, the early half of them is kept whole, and of the
    rest evenly spread ones stand for their neighbours.

    Args:
        rates: of the modes.
        panel: length of a panel times the largest rate alive on it.
        lifetimes: after how many of its time constants a mode is over.
        most: panels.
    """
    order = np.argsort(-rates.real)
    ends = lifetimes / rates.real[order]
    fastest = np.maximum.accumulate(np.abs(rates)[order][::-1])[::-1]
    spans: list[tuple[float, float, float]] = []
    start = 0.0
    for end, rate in zip(ends, fastest, strict=True):
        # Doubling pieces, so that thinning spares what comes early.
        while end > start * (1 + 1e-9):
            stop = min(end, max(2 * start, start + 64 * panel / rate))
            spans.append((start, stop, max(1.0, float(np.ceil((stop - start) * rate / panel)))))
            start = stop
    counts = np.array([n for *_, n in spans])
    early = np.cumsum(counts) <= most / 2
    late = float(counts[~early].sum())
    share = min(1.0, (most - float(counts[early].sum())) / late) if late > 0 else 1.0
    lags, weights = [np.zeros(1)], [np.zeros(1)]
    for (start, stop, n), is_early in zip(spans, early, strict=True):
        n_kept = int(n) if is_early else int(max(min(n, 16), np.ceil(share * n)))
        width = (stop - start) / n
        first = start + (stop - start) * np.arange(n_kept) / n_kept
        lags.append((first[:, None] + width / 2 * (1 + _NODES)).ravel())
        weights.append(np.tile(width / 2 * _WEIGHTS * (n / n_kept), n_kept))
    # The first lag has no weight and counts for the largest error only.
    return LagGrid(np.concatenate(lags), np.concatenate(weights))


def discrete_grid(multipliers: np.ndarray, *, most: int) -> LagGrid:
    """Returns every step up to the end of all modes, or blocks of them where these are too many."""
    with np.errstate(divide="ignore"):
        slowest = float(np.min(-np.log(np.abs(multipliers))))
    n = int(min(np.ceil(_LIFETIMES / max(slowest, 1e-18)), 2.0**52)) + 1
    if n <= most:
        return LagGrid(np.arange(n, dtype=float), np.ones(n))
    head, block = most // 2, 64
    n_blocks = (most - head) // block
    starts = np.unique(np.geomspace(head, n, n_blocks + 1).round())
    lags = [np.arange(head, dtype=float)]
    weights = [np.ones(head)]
    for a, b in itertools.pairwise(starts):
        length = min(block, b - a)
        lags.append(a + np.arange(length))
        weights.append(np.full(int(length), (b - a) / length))
    return LagGrid(np.concatenate(lags), np.concatenate(weights))


@dataclasses.dataclass(frozen=True)
class _Waves:
    """Real rates, with a sign per step, and conjugate pairs, in coordinates without constraints."""

    log_rates: np.ndarray
    signs: np.ndarray
    pairs: np.ndarray
    slowest: float

    @staticmethod
    def of(rates: np.ndarray, *, is_discrete: bool, slowest: float) -> _Waves:
        turned = (
            np.abs(np.abs(rates.imag) - np.pi) < 1e-9 if is_discrete else np.zeros(len(rates), bool)
        )
        on_axis = (np.abs(rates.imag) <= 1e-12 * np.abs(rates)) | turned
        upper = rates[~on_axis & (rates.imag > 0)]
        return _Waves(
            np.log(np.maximum(rates[on_axis].real, 1e-300)),
            np.where(turned[on_axis], -1.0, 1.0),
            np.stack([np.log(upper.real), upper.imag], axis=1),
            math.log(max(slowest, 1e-300)),
        )

    @property
    def vector(self) -> np.ndarray:
        return np.concatenate([self.log_rates, self.pairs.ravel()])

    def moved(self, vector: np.ndarray) -> _Waves:
        k = len(self.log_rates)
        pairs = vector[k:].reshape(-1, 2).copy()
        pairs[:, 0] = np.maximum(pairs[:, 0], self.slowest)
        return _Waves(np.maximum(vector[:k], self.slowest), self.signs, pairs, self.slowest)

    def rates(self) -> np.ndarray:
        singles = np.exp(self.log_rates) + 1j * np.where(self.signs < 0, np.pi, 0.0)
        upper = np.exp(self.pairs[:, 0]) + 1j * self.pairs[:, 1]
        return np.concatenate([singles, upper, upper.conj()])

    def basis(self, lags: np.ndarray, *, slopes: bool):
        t = lags[:, None]
        decay = np.exp(self.log_rates)
        alternating = np.where(self.signs < 0, np.where(t % 2 == 0, 1.0, -1.0), 1.0)
        single = alternating * np.exp(-t * decay)
        real, imaginary = np.exp(self.pairs[:, 0]), self.pairs[:, 1]
        wave = np.exp(-t * (real + 1j * imaginary))
        matrix = np.concatenate([single, wave.real, wave.imag], axis=1)
        if not slopes:
            return matrix, None
        in_decay = np.stack([wave.real, wave.imag], axis=2) * (-(t * real))[:, :, None]
        in_frequency = np.stack([wave.imag, -wave.real], axis=2) * t[:, :, None]
        return matrix, (-(t * decay) * single, in_decay, in_frequency)

    def amplitudes(self, real: np.ndarray) -> np.ndarray:
        """Returns the complex amplitudes of `rates()` from those of the real basis."""
        k, n = len(self.log_rates), len(self.pairs)
        # A pair carries 2 Re(a e^{-wt}) = 2 Re a · Re e - 2 Im a · Im e.
        upper = 0.5 * (real[k : k + n] - 1j * real[k + n :])
        return np.concatenate([real[:k].astype(complex), upper, upper.conj()])


def _project(waves: _Waves, lags: np.ndarray, rows: np.ndarray, target: np.ndarray) -> Projection:
    return project(waves.basis(lags, slopes=False)[0] * rows[:, None], target * rows[:, None])


def _step_system(
    waves: _Waves, at: Projection, lags: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (R, Jᵀr) of variable projection, RᵀR = JᵀJ (Kaufman's Jacobian).

    By normal equations, channel by channel: J itself, lags times channels long, is never held.
    """
    slopes = waves.basis(lags, slopes=True)[1]
    assert slopes is not None
    in_single, in_decay, in_frequency = slopes
    k, n = len(waves.log_rates), len(waves.pairs)
    size = k + 2 * n
    gram, slope = np.zeros((size, size)), np.zeros(size)
    for channel in range(at.residual.shape[1]):
        c = at.amplitudes[:, channel]
        ab = np.stack([c[k : k + n], c[k + n :]], axis=1)
        moves = np.empty((len(rows), size))
        moves[:, :k] = in_single * c[:k]
        moves[:, k::2] = np.einsum("tpv,pv->tp", in_decay, ab)
        moves[:, k + 1 :: 2] = np.einsum("tpv,pv->tp", in_frequency, ab)
        moves *= rows[:, None]
        moves -= at.q @ (at.q.T @ moves)
        gram += moves.T @ moves
        slope -= moves.T @ at.residual[:, channel]
    scale = np.sqrt(np.diag(gram)) + 1e-300
    values, vectors = np.linalg.eigh(gram / scale / scale[:, None])
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T * scale, slope


def _descend(
    waves: _Waves, lags: np.ndarray, rows: np.ndarray, target: np.ndarray, *, n_steps: int
) -> tuple[_Waves, Projection]:
    def evaluate(vector: np.ndarray) -> Point:
        trial = waves.moved(vector)
        found = _project(trial, lags, rows, target)
        return Point(trial.vector, float(np.sum(found.residual**2)), found)

    end, _ = descend(
        evaluate(waves.vector),
        evaluate,
        lambda at: _step_system(waves.moved(at.vector), at.solution, lags, rows),
        longest_step=0.5,
        n_steps=n_steps,
        rtol=1e-8,
    )
    return waves.moved(end.vector), end.solution


@references("golub1973differentiation")
def refine_over_lags(
    rates: np.ndarray,
    grid: LagGrid,
    target: np.ndarray,
    *,
    norm: str,
    is_discrete: bool,
    n_outputs: int = 1,
    slowest: float = 0.0,
    n_rounds: int = 24,
    n_steps: int = 3,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns rates and amplitudes (width, channel) of a local optimum in `norm`, from given rates.

    Args:
        rates: distinct, closed under conjugation; of one step in discrete time.
        grid: where the kernel is known.
        target: its values there, shape (lag, channel).
        norm: `"l1"`, `"l2"` or `"linf"`.
        is_discrete: lags are whole numbers.
        n_outputs: of the channels (out * in); the L1 norm is that of the worst output.
        slowest: no rate may become slower: a grid that ends sees nothing of what it leaves.
    """
    waves = _Waves.of(np.asarray(rates, dtype=complex), is_discrete=is_discrete, slowest=slowest)
    root = np.sqrt(grid.weights)
    lags = grid.lags
    if norm == "l2":
        waves, at = _descend(waves, lags, root, target, n_steps=40)
        return waves.rates(), waves.amplitudes(at.amplitudes)

    at = _project(waves, lags, root, target)
    if norm == "linf":
        waves, real = _level(waves, at.amplitudes, lags, target)
        return waves.rates(), waves.amplitudes(real)
    best, best_size = (waves, at.amplitudes), np.inf
    current, amplitudes = best
    share = np.ones(n_outputs)
    for turn in range(n_rounds):
        error = target - current.basis(lags, slopes=False)[0] @ amplitudes
        sums = measure_by_output(error, grid.weights, n_outputs)
        if sums.max() < best_size:
            best, best_size = (current, amplitudes), float(sums.max())
        if not sums.max() > 0:
            break
        # The worst output counts for more each time: the largest sum is what is to be lowered.
        share = share * np.sqrt(np.maximum(sums / sums.max(), 1e-2))
        share = share / share.max()
        scale = np.repeat(share, target.shape[1] // n_outputs)
        row = np.abs(error) @ scale
        # Least squares with weights 1/|e| is least deviations; the floor under |e| comes down.
        mean = float(grid.weights @ row**2) / float(grid.weights @ row)
        rows = root / np.sqrt(np.maximum(row, max(0.3 * 0.7**turn, 1e-3) * mean))
        current, at = _descend(current, lags, rows, target * scale, n_steps=n_steps)
        amplitudes = at.amplitudes / scale
    waves, real = best
    if target.shape[1] > 1:
        real = _least_deviations(waves, real, grid, target)
    return waves.rates(), waves.amplitudes(real)


def measure_by_output(error: np.ndarray, weights: np.ndarray, n_outputs: int) -> np.ndarray:
    """Returns the L1 norm of each output of values (lag, out * in), shape (out,)."""
    return (weights @ np.abs(error)).reshape(n_outputs, -1).sum(axis=1)


def _least_deviations(
    waves: _Waves, amplitudes: np.ndarray, grid: LagGrid, target: np.ndarray
) -> np.ndarray:
    """Returns the amplitudes of least absolute deviation at fixed rates, channel by channel."""
    matrix, _ = waves.basis(grid.lags, slopes=False)
    found = amplitudes.copy()
    for channel in range(target.shape[1]):
        best, best_size = amplitudes[:, channel], np.inf
        current = best
        for turn in range(12):
            error = np.abs(target[:, channel] - matrix @ current)
            value = float(grid.weights @ error)
            if value < best_size:
                best, best_size = current, value
            if not value > 0:
                break
            mean = float(grid.weights @ error**2) / value
            rows = np.sqrt(grid.weights / np.maximum(error, max(0.1 * 0.5**turn, 1e-4) * mean))
            q, r = np.linalg.qr(matrix * rows[:, None])
            current = np.linalg.lstsq(r, q.T @ (target[:, channel] * rows), rcond=1e-13)[0]
        found[:, channel] = best
    return found


_MOST_PEAKS = 300
_MOST_PROGRAMS = 40


def _level(
    waves: _Waves, amplitudes: np.ndarray, lags: np.ndarray, target: np.ndarray
) -> tuple[_Waves, np.ndarray]:
    """Lowers the largest errors together: linear programs in a region where slopes can be trusted."""
    k, n = len(waves.log_rates), len(waves.pairs)
    n_moves, n_channels = k + 2 * n, target.shape[1]
    matrix, slopes = waves.basis(lags, slopes=True)
    error = target - matrix @ amplitudes
    worst, reach = float(np.abs(error).max()), 0.3
    # Lags at which an earlier step made a new largest error.
    seen = np.zeros(error.shape, dtype=bool)
    for _ in range(_MOST_PROGRAMS):
        if reach < 1e-6 or worst <= 1e-15 * np.abs(target).max():
            break
        assert slopes is not None
        rows, columns = _peaks(error, seen)
        in_single, in_decay, in_frequency = (part[rows] for part in slopes)
        a = amplitudes[:, columns].T
        ab = np.stack([a[:, k : k + n], a[:, k + n :]], axis=2)
        moves = np.empty((len(rows), n_moves))
        moves[:, :k] = in_single * a[:, :k]
        moves[:, k::2] = np.einsum("tpv,tpv->tp", in_decay, ab)
        moves[:, k + 1 :: 2] = np.einsum("tpv,tpv->tp", in_frequency, ab)
        moves[:, k + 1 :: 2] *= np.exp(waves.pairs[:, 0])
        change = np.zeros((len(rows), n_channels, len(amplitudes)))
        change[np.arange(len(rows)), columns] = matrix[rows]
        along = np.concatenate([moves, change.reshape(len(rows), -1)], axis=1)
        size = np.abs(along).max(axis=0)
        size[size == 0] = 1.0
        size[:n_moves] = 1.0
        here = error[rows, columns] / worst
        ones = np.ones((len(rows), 1))
        scaled = along / size / worst
        cost = np.zeros(along.shape[1] + 1)
        cost[-1] = 1.0
        # In units of each column's largest value, no amplitude needs to move by many errors.
        limits = [(-reach, reach)] * n_moves
        limits += [(-10 * worst, 10 * worst)] * (len(cost) - 1 - n_moves) + [(0, None)]
        found = scipy.optimize.linprog(
            cost,
            A_ub=np.block([[-scaled, -ones], [scaled, -ones]]),
            b_ub=np.concatenate([-here, here]),
            bounds=limits,
            method="highs",
        )
        if found.x is None:
            break
        step = found.x[:-1] / size
        vector = step[:n_moves].copy()
        vector[k + 1 :: 2] *= np.exp(waves.pairs[:, 0])
        trial = waves.moved(waves.vector + vector)
        new = amplitudes + step[n_moves:].reshape(n_channels, -1).T
        new_matrix, new_slopes = trial.basis(lags, slopes=True)
        new_error = target - new_matrix @ new
        new_worst = float(np.abs(new_error).max())
        if not new_worst < worst:
            at = np.unravel_index(int(np.argmax(np.abs(new_error))), error.shape)
            is_new = not np.any((rows == at[0]) & (columns == at[1]))
            again = _peaks(new_error, np.zeros_like(seen))
            seen[again] = True
            reach *= 0.7 if is_new else 0.3
            continue
        gained = worst - new_worst
        promised = worst * max(1 - float(found.x[-1]), 1e-300)
        waves, amplitudes, matrix, slopes = trial, new, new_matrix, new_slopes
        error, worst = new_error, new_worst
        if gained > 0.5 * promised:
            reach = min(1.0, 2 * reach)
        elif gained < 0.1 * promised:
            reach *= 0.5
        if gained <= 1e-5 * worst and promised <= 1e-3 * worst:
            break
    return waves, amplitudes


def _peaks(error: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and channels of the largest errors: peaks, their neighbours, and those `seen`."""
    size = np.abs(error)
    padded = np.pad(size, ((1, 1), (0, 0)), constant_values=-1.0)
    is_peak = (size >= padded[:-2]) & (size >= padded[2:])
    rows, columns = np.nonzero(is_peak & (size > 0.3 * size.max()))
    order = np.argsort(-size[rows, columns], kind="stable")[:_MOST_PEAKS]
    chosen = np.zeros(error.shape, dtype=bool)
    for shift in (-1, 0, 1):
        chosen[np.clip(rows[order] + shift, 0, len(size) - 1), columns[order]] = True
    rows, columns = np.nonzero(chosen | seen)
    return rows, columns
