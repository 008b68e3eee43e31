"""Several inputs and outputs on one state: every rate carries one direction in, one out."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
import scipy.optimize

from recollect._core._references import references
from recollect.approximation._problem import FitGrid, evaluate_sum

_MOST_ROWS = 6000


@dataclasses.dataclass(frozen=True)
class RankOneSum:
    """`Σ_i c_i e^{-w_i t} b_iᵀ`, one of each conjugate pair (the other doubles the real part).

    Args:
        rates: shape (mode,), complex, imaginary part at least zero.
        outputs: c_i, shape (mode, out), complex (real where the rate is).
        inputs: b_i, shape (mode, in).
    """

    rates: np.ndarray
    outputs: np.ndarray
    inputs: np.ndarray

    @property
    def is_pair(self) -> np.ndarray:
        """True where a mode stands for two conjugate units."""
        return self.rates.imag > 0

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.rates) + int(self.is_pair.sum())

    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all rates (width,) and residues (width, out, in), conjugates included."""
        residues = self.outputs[:, :, None] * self.inputs[:, None, :]
        pair = self.is_pair
        return (
            np.concatenate([self.rates, self.rates[pair].conj()]),
            np.concatenate([residues, residues[pair].conj()]),
        )

    def state_space(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns real (A, B, C) in input-normal form: white noise makes the states orthonormal.

        Raises:
            LinAlgError: if the modes are too nearly parallel for that.
        """
        blocks, rows, columns = [], [], []
        for w, c, b in zip(self.rates, self.outputs, self.inputs, strict=True):
            size = max(float(np.linalg.norm(b)), 1e-300)
            b, c = b / size, c * size
            if w.imag > 0:
                blocks.append([[-w.real, w.imag], [-w.imag, -w.real]])
                rows += [b.real, b.imag]
                columns += [2 * c.real, -2 * c.imag]
            else:
                blocks.append([[-w.real]])
                rows.append(b.real)
                columns.append(c.real)
        A = np.asarray(scipy.linalg.block_diag(*blocks), dtype=np.float64)
        B, C = np.array(rows), np.array(columns).T
        gram = np.asarray(scipy.linalg.solve_continuous_lyapunov(A, -B @ B.T))
        lower = np.linalg.cholesky(0.5 * (gram + gram.T))
        return (
            scipy.linalg.solve_triangular(lower, A @ lower, lower=True),
            scipy.linalg.solve_triangular(lower, B, lower=True),
            C @ lower,
        )


@references("golub1973differentiation", "gugercin2008h2")
def refine_rank_one(
    start: RankOneSum, grid: FitGrid, *, norm: str = "l2", n_rounds: int = 12
) -> RankOneSum:
    """Returns a locally best sum of rank-one modes: least squares in L2, reweighted otherwise.

    The L2 optimum meets the tangential interpolation conditions of H2-optimal reduction; here it
    is reached by Levenberg-Marquardt on all of (log Re w, Im w, c, b).

    Args:
        start: the sum to start from.
        grid: the kernel.
        norm: `"l1"`, `"l2"` or `"linf"`.
        n_rounds: reweightings, where the norm is not L2.
    """
    out, in_ = grid.n_outputs, grid.n_inputs
    thin = max(1, len(grid.nodes) * out * in_ // _MOST_ROWS)
    panel = np.arange(0, len(grid.nodes), thin)
    nodes, values = grid.nodes[panel], grid.values[panel]
    mass = np.add.reduceat(grid.weights, panel)
    if norm == "linf":
        nodes, values = np.append(0.0, nodes), np.concatenate([grid.kernel(np.zeros(1)), values])
        mass = np.append(mass[0], mass)
    pair = start.is_pair
    n = len(pair)

    def unpack(theta: np.ndarray) -> RankOneSum:
        parts = theta.reshape(n, 2 + 2 * (out + in_))
        w = np.exp(np.clip(parts[:, 0], -300, 300)) + 1j * np.where(pair, np.abs(parts[:, 1]), 0.0)
        z = parts[:, 2 : 2 + out + in_] + 1j * np.where(pair[:, None], parts[:, 2 + out + in_ :], 0)
        return RankOneSum(w, z[:, :out], z[:, out:])

    def pack(found: RankOneSum) -> np.ndarray:
        z = np.concatenate([found.outputs, found.inputs], axis=1)
        head = np.stack([np.log(found.rates.real), found.rates.imag], axis=1)
        return np.concatenate([head, z.real, z.imag], axis=1).ravel()

    free = np.ones((n, 2 + 2 * (out + in_)), dtype=bool)
    free[~pair, 1] = False
    free[~pair, 2 + out + in_ :] = False
    free = free.ravel()
    double = np.where(pair, 2.0, 1.0)

    def solve(theta: np.ndarray, rows: np.ndarray, n_steps: int) -> np.ndarray:
        def filled(some: np.ndarray) -> np.ndarray:
            whole = theta.copy()
            whole[free] = some
            return whole

        def residual(some: np.ndarray) -> np.ndarray:
            return (rows[:, None, None] * (value(unpack(filled(some))) - values)).ravel()

        def jacobian(some: np.ndarray) -> np.ndarray:
            found = unpack(filled(some))
            wave = np.exp(-np.multiply.outer(nodes, found.rates)) * double * rows[:, None]
            residue = found.outputs[:, :, None] * found.inputs[:, None, :]
            slope = -nodes[:, None] * wave
            full = np.zeros((n, 2 + 2 * (out + in_), len(nodes), out, in_))
            for i in range(n):
                along = slope[:, i, None, None] * residue[i]
                full[i, 0] = (found.rates[i].real * along).real
                full[i, 1] = (1j * along).real
                for o in range(out):
                    part = wave[:, i, None] * found.inputs[i]
                    full[i, 2 + o, :, o, :] = part.real
                    full[i, 2 + out + in_ + o, :, o, :] = -part.imag
                for k in range(in_):
                    part = wave[:, i, None] * found.outputs[i]
                    full[i, 2 + out + k, :, :, k] = part.real
                    full[i, 2 + 2 * out + in_ + k, :, :, k] = -part.imag
            return full.reshape(len(theta), -1)[free].T

        some = scipy.optimize.least_squares(
            residual,
            theta[free],
            jac=jacobian,  # pyright: ignore[reportArgumentType]
            max_nfev=n_steps,
            x_scale="jac",
            ftol=1e-10,
            xtol=1e-10,
        ).x
        return filled(some)

    def value(found: RankOneSum) -> np.ndarray:
        wave = np.exp(-np.multiply.outer(nodes, found.rates)) * double
        residue = found.outputs[:, :, None] * found.inputs[:, None, :]
        return np.tensordot(wave, residue, axes=1).real

    def measured(error: np.ndarray) -> float:
        row = np.abs(error).sum(axis=2)
        if norm == "l1":
            return float((mass @ row).max())
        return float(row.max()) if norm == "linf" else float(mass @ (error**2).sum(axis=(1, 2)))

    theta = solve(pack(start), np.sqrt(mass), 60)
    error = value(unpack(theta)) - values
    best, best_error = theta, measured(error)
    if norm == "l2":
        return unpack(best)
    weight = mass.copy()
    for _ in range(n_rounds):
        row = np.abs(error).sum(axis=(1, 2))
        if norm == "l1":
            typical = float(mass @ row) / float(mass[row > 0].sum())
            weight = mass / np.maximum(row, 1e-2 * typical)
        else:
            weight = weight * np.maximum(row / row.max(), 1e-6) ** 0.7
            weight = np.maximum(weight / weight.max(), 1e-12)
        theta = solve(theta, np.sqrt(weight), 6)
        error = value(unpack(theta)) - values
        if measured(error) < best_error:
            best, best_error = theta, measured(error)
    return unpack(best)


def rank_one_start(rates: np.ndarray, grid: FitGrid) -> RankOneSum:
    """Returns the sum whose residues are the nearest rank-one parts of the least-squares ones.

    Args:
        rates: shape (width,), Re > 0, closed under conjugation.
        grid: the kernel.
    """
    upper = rates[rates.imag >= 0]
    double = np.where(upper.imag > 0, 2.0, 1.0)
    wave = np.exp(-np.multiply.outer(grid.nodes, upper)) * double
    rows = np.sqrt(grid.weights)[:, None]
    pair = upper.imag > 0
    basis = np.concatenate([wave.real, -wave.imag[:, pair]], axis=1) * rows
    target = grid.values.reshape(len(grid.nodes), -1) * rows
    found = np.linalg.lstsq(basis, target, rcond=1e-12)[0]
    residues = found[: len(upper)].astype(complex)
    residues[pair] += 1j * found[len(upper) :]
    left, size, right = np.linalg.svd(residues.reshape(-1, grid.n_outputs, grid.n_inputs))
    root = np.sqrt(size[:, :1])
    return RankOneSum(upper.astype(complex), left[:, :, 0] * root, right[:, 0, :] * root)


def split_full(rates: np.ndarray, residues: np.ndarray) -> RankOneSum:
    """Returns a sum of full residues as rank-one modes: a rate comes once per direction."""
    upper = rates.imag >= 0
    left, size, right = np.linalg.svd(residues[upper], full_matrices=False)
    n_copies = size.shape[1]
    root = np.sqrt(size)
    outputs = (left * root[:, None, :]).transpose(0, 2, 1).reshape(-1, left.shape[1])
    inputs = (right * root[:, :, None]).reshape(-1, right.shape[2])
    return RankOneSum(np.repeat(rates[upper].astype(complex), n_copies), outputs, inputs)


def evaluate_rank_one(found: RankOneSum, lags: np.ndarray) -> np.ndarray:
    """Returns values at `lags`, shape (lag, out, in)."""
    return evaluate_sum(*found.modes(), lags)
