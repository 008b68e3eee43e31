"""The best network of a width for records from rest: least squares, compiled and refined."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg

from recollect._core._check import host_float64, invalid, require_count, require_positive
from recollect._core._convolution import causal_convolution
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.approximation._discrete import fit_discrete, orthonormal_realisation
from recollect.memory import estimate_kernel
from recollect.models import LinearRNN

# Share of the output's power that least squares may leave where there is no noise.
_NO_NOISE = 1e-10
_FEWEST_LAGS = 64


@dataclasses.dataclass(frozen=True)
class RecordFit:
    """A linear network fitted to records from rest, and what it took.

    Attributes:
        model: the network, in discrete time with the records' step and orthonormal states.
        error: root mean square of what its simulation leaves of the records.
        relative_error: the same over the root mean square of the outputs.
        is_noise_free: whether least squares left nothing of the outputs, so that the kernel was
            read off instead of estimated.
        n_steps: Gauss-Newton steps of the refinement.
        status: `not_converged` if these ran out.
        stats: seconds of each stage, lags, samples.
    """

    model: LinearRNN
    error: float
    relative_error: float
    is_noise_free: bool
    n_steps: int
    status: Status
    stats: dict[str, Any]


@on_one_thread
@references("golub1973differentiation")
def fit_records(
    inputs: Any,
    outputs: Any,
    *,
    dt: float,
    width: int,
    n_steps: int = 60,
    is_noise_free: bool | None = None,
) -> RecordFit:
    """Returns the linear network of a width whose simulation from rest is nearest to the records.

    The mean square error of a simulation from rest is a quadratic form in the kernel,
    `‖R K - d‖²`, made of the records once. Its minimum over all kernels, or (with noise) the
    kernel that `memory.estimate_kernel` believes, is compiled to poles; these are refined by
    variable projection on that form. Nothing is guessed and nothing is simulated again.

    Args:
        inputs: shape (time, 1) or (record, time, 1), or a list of records of any lengths.
        outputs: the same; row k at the end of step k. Inputs before a record are zero.
        dt: step of the records.
        width: units of the network.
        n_steps: most steps of the refinement.
        is_noise_free: False to estimate the kernel whatever least squares leaves, True to read it
            off; by default decided from the records.

    Returns:
        The network, its error on the records, and how it was found.

    Raises:
        ValueError: if records do not match, have gaps or several channels, or a signal is zero.
    """
    began = time.perf_counter()
    dt = require_positive("dt", dt)
    width = require_count("width", width)
    n_steps = require_count("n_steps", n_steps, minimum=0)
    xs, ys = _read("inputs", inputs), _read("outputs", outputs)
    if [len(x) for x in xs] != [len(y) for y in ys]:
        raise invalid("outputs", "records as long as the inputs", f"{[len(y) for y in ys]}"[:60])
    longest = max(len(x) for x in xs)
    if longest < 2:
        raise invalid("inputs", "a record", "one sample", "one sample shows no memory")
    power = sum(float(y @ y) for y in ys) / sum(len(y) for y in ys)
    if power == 0 or not any(x.any() for x in xs):
        name = "outputs" if power == 0 else "inputs"
        raise invalid(name, "a signal", "zeros only", "there is nothing to learn")
    found, has_no_noise, n_lags = None, False, 0
    if is_noise_free is not False:
        found, n_lags = _least_squares(xs, ys, power, must=bool(is_noise_free))
        has_no_noise = found is not None
    if found is None:
        estimate = estimate_kernel(
            [x[:, None] for x in xs], [y[:, None] for y in ys], dt=dt, initial_state="rest"
        )
        n = max(1, min(round(estimate.edges[-1] / dt), longest))
        bins = np.searchsorted(estimate.edges, dt * (np.arange(n) + 0.5)) - 1
        found, n_lags = estimate.kernel[bins, 0, 0] * dt, longest
    root, wanted = quadratic_form(xs, ys, n_lags)
    known = time.perf_counter()
    poles = fit_discrete(found, width=width, dt=dt, ends=False)
    start = DiscretePoles.of(poles.rates)
    compiled = time.perf_counter()
    refined, n_taken = refine_poles(start, root, wanted, n_iterations=n_steps)
    # Where only rounding is left, refining may lose digits.
    ends = [realise_poles(each, root, wanted) for each in (start, refined)]
    A, b, c = min(ends, key=lambda end: end[1])[0]
    # Simulated: the form has no digits below the square root of the rounding.
    kernel = (run_states(A, b, longest) @ c)[:, None, None]
    wrong = [causal_convolution(kernel, x[:, None])[:, 0] - y for x, y in zip(xs, ys, strict=True)]
    error = math.sqrt(sum(float(e @ e) for e in wrong) / sum(len(e) for e in wrong))
    status = poles.status
    if n_taken == n_steps and status.is_ok:
        status = Status("not_converged", f"after {n_steps} steps of the refinement")
    return RecordFit(
        model=LinearRNN(A, b[:, None], c[None], dt=dt),
        error=error,
        relative_error=error / math.sqrt(power),
        is_noise_free=has_no_noise,
        n_steps=n_taken,
        status=status,
        stats={
            "seconds_kernel": known - began,
            "seconds_compile": compiled - known,
            "seconds_refine": time.perf_counter() - compiled,
            "n_lags": n_lags,
            "n_samples": sum(len(x) for x in xs),
        },
    )


def _read(name: str, signals: Any) -> list[np.ndarray]:
    if not isinstance(signals, (list, tuple)):
        array = host_float64(name, signals, owner="fit_records")
        signals = [array] if array.ndim < 3 else list(array)
    records = [host_float64(name, each, owner="fit_records") for each in signals]
    for i, record in enumerate(records):
        if record.ndim > 2 or (record.ndim == 2 and record.shape[1] != 1) or not record.size:
            raise invalid(
                f"{name}[{i}]",
                "one channel, shape (time, 1)",
                f"shape {record.shape}",
                "training.warm_start takes several",
            )
    if not records:
        raise invalid(name, "at least one record", "none")
    return [record.reshape(-1) for record in records]


def _least_squares(
    xs: list[np.ndarray], ys: list[np.ndarray], power: float, *, must: bool
) -> tuple[np.ndarray | None, int]:
    """Returns the kernel that leaves nothing of the outputs, and the lags to fit on.

    As many lags as it takes for the kernel to have ended, and as many zeros after it; None where
    even a whole record leaves something.
    """
    longest = max(len(x) for x in xs)
    n_lags = _FEWEST_LAGS // 2
    while n_lags < longest:
        n_lags = min(2 * n_lags, longest)
        try:
            root, wanted = quadratic_form(xs, ys, n_lags)
        except np.linalg.LinAlgError:  # inputs that do not excite so many lags
            return None, longest
        kernel = scipy.linalg.solve_triangular(root, wanted)
        size = np.abs(kernel)
        has_ended = n_lags == longest or size[-n_lags // 5 :].max() < 1e-13 * size.max()
        is_exact = power - float(wanted @ wanted) < _NO_NOISE * power
        if has_ended and (is_exact or (must and n_lags == longest)):
            n_fit = min(2 * n_lags, longest)
            return np.concatenate([kernel, np.zeros(n_fit - n_lags)]), n_fit
    return None, longest


def quadratic_form(
    xs: list[np.ndarray], ys: list[np.ndarray], n_lags: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (R, d) with `‖R K - d‖²` the mean square error on the records, up to a constant.

    K ends after `n_lags`. An entry `Σ_k x_{k-j} x_{k-l}` follows from the one before it on its
    diagonal, so the records are read once.
    """
    n_samples = sum(len(x) for x in xs)
    backward = np.zeros((len(xs), n_lags))
    first, cross = np.zeros(n_lags), np.zeros(n_lags)
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        n = min(len(x), n_lags)
        backward[i, :n] = x[::-1][:n]
        size = scipy.fft.next_fast_len(2 * len(x), real=True)
        spectrum = np.fft.rfft(x, size)
        first[:n] += np.fft.irfft(np.abs(spectrum) ** 2, size)[:n]
        cross[:n] += np.fft.irfft(np.fft.rfft(y, size) * spectrum.conj(), size)[:n]
    ends = backward.T @ backward
    gram = np.empty((n_lags, n_lags))
    gram[0] = first
    gram[:, 0] = first
    for j in range(1, n_lags):
        gram[j, 1:] = gram[j - 1, :-1] - ends[j - 1, :-1]
    root = scipy.linalg.cholesky(gram / n_samples)
    return root, scipy.linalg.solve_triangular(root.T, cross / n_samples, lower=True)


@dataclasses.dataclass(frozen=True)
class DiscretePoles:
    """Real multipliers tanh(x) and pairs sigmoid(r) e^{±iθ}, none outside the unit circle."""

    x: np.ndarray
    pairs: np.ndarray

    @staticmethod
    def of(multipliers: Any) -> DiscretePoles:
        """Returns the coordinates of multipliers that are closed under conjugation."""
        z = np.asarray(multipliers, complex)
        is_real = np.abs(z.imag) <= 1e-9
        upper = z[~is_real & (z.imag > 0)]
        radius = np.clip(np.abs(upper), 1e-9, 1 - 1e-12)
        x = np.arctanh(np.clip(z[is_real].real, -1 + 1e-12, 1 - 1e-12))
        pairs = np.stack([np.log(radius / (1 - radius)), np.angle(upper)], axis=1)
        return DiscretePoles(x, pairs)

    @property
    def vector(self) -> np.ndarray:
        """All coordinates, shape (width,)."""
        return np.concatenate([self.x, self.pairs.ravel()])

    def moved(self, vector: np.ndarray) -> DiscretePoles:
        """Returns the poles at other coordinates."""
        k = len(self.x)
        pairs = vector[k:].reshape(-1, 2).copy()
        pairs[:, 0] = np.clip(pairs[:, 0], -30, 28)
        pairs[:, 1] = np.clip(pairs[:, 1], 1e-9, math.pi - 1e-9)
        return DiscretePoles(np.clip(vector[:k], -14, 14), pairs)

    def basis(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the columns z^j, Re z^j, Im z^j, and how each moves with its coordinates.

        The slopes have shape (lag, coordinate, column of its own unit): a real unit has one of
        each, a pair two of each, listed as (r, θ) x (Re, Im).
        """
        j = np.arange(n)[:, None]
        z = np.tanh(self.x)
        single = z**j
        before = np.concatenate([np.zeros((1, len(z))), single[:-1]])
        radius, angle = 1 / (1 + np.exp(-self.pairs[:, 0])), self.pairs[:, 1]
        envelope = np.exp(j * np.log(radius))
        cos, sin = envelope * np.cos(j * angle), envelope * np.sin(j * angle)
        columns = np.concatenate([single, np.stack([cos, sin], 2).reshape(n, -1)], axis=1)
        by_radius = np.stack([cos, sin], axis=2) * (j * (1 - radius))[:, :, None]
        by_angle = np.stack([-j * sin, j * cos], axis=2)
        slopes = np.concatenate(
            [(j * before * (1 - z * z)), np.stack([by_radius, by_angle], 2).reshape(n, -1)], axis=1
        )
        return columns, slopes


def refine_poles(
    poles: DiscretePoles,
    root: np.ndarray,
    wanted: np.ndarray,
    *,
    n_iterations: int = 60,
    rtol: float = 1e-6,
) -> tuple[DiscretePoles, int]:
    """Returns poles and iterations of variable projection on `‖root K - wanted‖²`.

    Gauss-Newton with Kaufman's Jacobian in the poles alone; the amplitudes are solved for.
    """
    n = root.shape[1]
    k = len(poles.x)

    def solve(at: DiscretePoles) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        columns, slopes = at.basis(n)
        seen = root @ columns
        norms = np.linalg.norm(seen, axis=0)
        norms[norms == 0] = 1.0
        q, r = np.linalg.qr(seen / norms)
        residual = wanted - q @ (q.T @ wanted)
        residual -= q @ (q.T @ residual)
        amplitudes = np.linalg.lstsq(r, q.T @ wanted, rcond=1e-15)[0] / norms
        return residual, amplitudes, q, slopes

    residual, c, q, slopes = solve(poles)
    cost, damping, n_taken = float(residual @ residual), 1e-3, 0
    floor = (1e-15 * np.linalg.norm(wanted)) ** 2
    while n_taken < n_iterations:
        if cost <= floor:
            break
        n_taken += 1
        paired = slopes[:, k:].reshape(n, -1, 2, 2)
        moves = np.concatenate(
            [
                slopes[:, :k] * c[:k],
                np.einsum("npvc,pc->npv", paired, c[k:].reshape(-1, 2)).reshape(n, -1),
            ],
            axis=1,
        )
        moves = root @ moves
        jacobian = -(moves - q @ (q.T @ moves))
        scale = np.linalg.norm(jacobian, axis=0) + 1e-300
        _, singular, vt = np.linalg.svd(np.linalg.qr(jacobian / scale, mode="r"))
        along = vt @ ((jacobian / scale).T @ residual)
        before, accepted = cost, False
        for _ in range(10):
            step = -(vt.T @ (along / (singular**2 + damping))) / scale
            step *= min(1.0, 0.7 / max(float(np.abs(step).max()), 1e-300))
            trial = poles.moved(poles.vector + step)
            found = solve(trial)
            new = float(found[0] @ found[0])
            if math.isfinite(new) and new < cost:
                accepted = True
                break
            damping = max(damping * 6, 1e-13)
        if not accepted:
            break
        damping *= 0.15
        poles, cost = trial, new
        residual, c, q, slopes = found
        if before - cost <= rtol * before:
            break
    return poles, n_taken


def realise_poles(
    poles: DiscretePoles, root: np.ndarray, wanted: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float]:
    """Returns (A, b, c) and the cost of the best network with these poles.

    On orthonormal states: the amplitudes of nearly equal poles cancel to many digits.
    """
    upper = np.exp(1j * poles.pairs[:, 1]) / (1 + np.exp(-poles.pairs[:, 0]))
    A, b = orthonormal_realisation(np.concatenate([np.tanh(poles.x), upper, upper.conj()]))
    seen = root @ run_states(A, b, root.shape[1])
    c = np.linalg.lstsq(seen, wanted, rcond=1e-15)[0]
    c += np.linalg.lstsq(seen, wanted - seen @ c, rcond=1e-15)[0]
    rest = wanted - seen @ c
    return (A, b, c), float(rest @ rest)


def run_states(A: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """Returns the states after an impulse, `A^j b`, shape (lag, width)."""
    states = np.empty((n, len(b)))
    for j in range(n):
        states[j] = b
        b = A @ b
    return states
