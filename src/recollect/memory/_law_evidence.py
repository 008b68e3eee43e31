"""How strongly normal equations speak for one shape of memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.special
import scipy.stats

from recollect._core._references import references
from recollect.memory._law_families import Family

_N_STARTS = 6
_N_STEPS = 25
_DEGREES = 5.0


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Least squares in whitened coordinates: |target - root @ columns·amplitudes|² + floor.

    `columns` turns a family's parameters into its values on the lag grid, (draw, n_linear, lag);
    `guess` are values of the kernel there, `emphasis` their weights when starts are chosen, and
    `edges` the lags (one more than there are values) in steps.
    """

    columns: Callable[[Family, np.ndarray], np.ndarray]
    root: np.ndarray
    target: np.ndarray
    floor: float
    power: float
    n_samples: float
    edges: np.ndarray
    guess: np.ndarray
    emphasis: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fit:
    """One family fitted: weighted posterior draws, and the log evidence they average to."""

    family: Family
    log_evidence: float
    theta: np.ndarray
    squares: float
    draws: np.ndarray
    amplitudes: np.ndarray
    weights: np.ndarray
    effective_draws: float


def whiten(
    edges: np.ndarray,
    gram: np.ndarray,
    cross: np.ndarray,
    power: float,
    n_samples: float,
    guess: np.ndarray,
) -> Evidence:
    """Returns the whitened least-squares problem of FIR normal equations."""
    values, vectors = scipy.linalg.eigh(gram)
    seen = np.flatnonzero(np.greater(values, values[-1] * 1e-12))
    root = np.sqrt(values[seen])[:, None] * vectors[:, seen].T
    target = (vectors[:, seen].T @ cross) / np.sqrt(values[seen])
    floor = max(float(power) - float(target @ target), 0.0)
    widths = np.diff(edges)

    def averages(family: Family, theta: np.ndarray) -> np.ndarray:
        return np.diff(family.step(theta, edges), axis=-1) / widths

    return Evidence(
        averages,
        root,
        target,
        floor,
        float(power),
        float(n_samples),
        edges,
        guess,
        np.sqrt(widths),
    )


def fit_family(family: Family, evidence: Evidence, rng: np.random.Generator) -> Fit:
    """Returns the best point of a family (no draws yet): many starts, then Gauss-Newton."""
    if family.n_parameters == 0:
        theta = np.zeros((1, 0))
        squares, _, _, _ = _solve(family, theta, evidence)
        return _unsampled(family, theta[0], float(squares[0]))
    starts = _starts(family, evidence, rng)
    theta, squares = _polish(family, starts, evidence)
    best = int(np.argmin(squares))
    return _unsampled(family, theta[best], float(squares[best]))


def sample_family(
    fit: Fit, evidence: Evidence, variance: float, n_draws: int, rng: np.random.Generator
) -> Fit:
    """Returns the fit with its log evidence and weighted draws, by importance sampling.

    Amplitudes carry a g-prior whose expected output power is that of the data, and are
    integrated out exactly; the noise variance under 1/variance; shape parameters are flat in
    the family's coordinates. The proposal is a Student mixture around the best point.
    """
    family = fit.family
    log_ratio = 0.5 * math.log1p(evidence.power / variance)
    if family.n_parameters == 0:
        theta = np.zeros((n_draws, 0))
        log_density = np.zeros(n_draws)
    else:
        theta, log_density = _propose(fit, evidence, variance, n_draws, rng)
        for _ in range(2):
            log_weights = _log_posterior(family, theta, evidence, log_ratio) - log_density
            weights = _normalised(log_weights)
            if 1.0 / np.sum(weights**2) > 0.25 * n_draws:
                break
            theta, log_density = _repropose(theta, weights, family, n_draws, rng)
    log_weights = _log_posterior(family, theta, evidence, log_ratio) - log_density
    weights = _normalised(log_weights)
    log_evidence = float(scipy.special.logsumexp(log_weights) - math.log(n_draws))
    theta = np.clip(theta, family.low, family.high)
    _, amplitudes, factors, _ = _solve(family, theta, evidence)
    if family.n_linear:
        noise = math.sqrt(variance) * rng.standard_normal(amplitudes.shape)
        amplitudes += np.linalg.solve(factors.transpose(0, 2, 1), noise[..., None])[..., 0]
    return dataclasses.replace(
        fit,
        log_evidence=log_evidence,
        draws=theta,
        amplitudes=amplitudes,
        weights=weights,
        effective_draws=float(1.0 / np.sum(weights**2)),
    )


def crude_evidence(fit: Fit, evidence: Evidence, variance: float) -> float:
    """Returns a log evidence without sampling: each shape parameter costs a fixed factor."""
    family = fit.family
    log_ratio = 0.5 * math.log1p(evidence.power / variance)
    shrink = evidence.power / (1.0 + evidence.power / variance)
    log_likelihood = -0.5 * evidence.n_samples * math.log(fit.squares + shrink)
    return log_likelihood - family.n_linear * log_ratio - 3.5 * family.n_parameters


@dataclasses.dataclass(frozen=True)
class Misfit:
    """How much structure a shape leaves in the residual.

    Args:
        probability: chance that a memory of this shape leaves as much.
        stretch: the Birge ratio `√(χ²/degrees of freedom)`, at least 1: by so much the shape's
            own intervals are too short if the excess is not chance.
        share: of the output power that the memory explains, what the structure would add.
    """

    probability: float
    stretch: float
    share: float


@references("birge1932calculation")
def measure_misfit(fit: Fit, evidence: Evidence, variance: float) -> Misfit:
    """Returns how much structure the best point of a family leaves.

    The residual is projected on hat functions over log-spaced lags, after the directions in
    which the family itself can move; under the family the projection is chi-squared.
    """
    residual, tangent = _residual(fit.family, fit.theta[None], evidence)
    hats = evidence.root @ _hats(evidence.edges)
    basis = _orthonormal(np.concatenate([tangent, hats], axis=1))
    n_tangent = _orthonormal(tangent).shape[1]
    n_free = basis.shape[1] - n_tangent
    if n_free < 1:
        return Misfit(1.0, 1.0, 0.0)
    left = float(np.sum((basis.T @ residual) ** 2)) / variance
    explained = max(evidence.power - fit.squares, 1e-300)
    return Misfit(
        float(scipy.stats.chi2.sf(left, n_free)),
        max(1.0, math.sqrt(left / n_free)),
        max(left - n_free, 0.0) * variance / explained,
    )


def _unsampled(family, theta, squares) -> Fit:
    empty = np.empty((0, family.n_linear))
    return Fit(family, -math.inf, theta, squares, theta[None][:0], empty, np.empty(0), 0.0)


def _columns(family: Family, theta: np.ndarray, evidence: Evidence) -> np.ndarray:
    """Returns the whitened columns, shape (draw, n_linear, rank)."""
    integrals = evidence.columns(family, theta)
    shape = integrals.shape
    flat = integrals.reshape(-1, shape[-1]) @ evidence.root.T
    return flat.reshape(shape[0], shape[1], -1)


def _solve(family: Family, theta: np.ndarray, evidence: Evidence):
    """Returns sums of squares, amplitudes, Cholesky factors and columns of every draw."""
    n_draws = len(theta)
    if family.n_linear == 0:
        squares = np.full(n_draws, evidence.power)
        nothing = np.zeros((n_draws, 0))
        return squares, nothing, nothing[..., None], np.zeros((n_draws, 0, len(evidence.target)))
    columns = _columns(family, theta, evidence)
    usable = np.isfinite(columns.sum(axis=(1, 2)))
    columns = np.where(usable[:, None, None], columns, 0.0)
    gram = columns @ columns.transpose(0, 2, 1)
    size = np.einsum("bii->bi", gram)
    jitter = 1e-12 * size.max(axis=1) + 1e-300
    gram = gram + jitter[:, None, None] * np.eye(family.n_linear)
    # columns without mass in the window get amplitude zero instead of a singular system
    factors = np.linalg.cholesky(gram)
    cross = columns @ evidence.target
    amplitudes = np.linalg.solve(gram, cross[..., None])[..., 0]
    residual = evidence.target - np.einsum("bl,blr->br", amplitudes, columns)
    squares = np.sum(residual**2, axis=1) + evidence.floor
    return np.where(usable, squares, np.inf), amplitudes, factors, columns


def _log_posterior(family, theta, evidence, log_ratio):
    squares, _, _, _ = _solve(family, np.clip(theta, family.low, family.high), evidence)
    shrink = evidence.power * math.exp(-2.0 * log_ratio)
    with np.errstate(divide="ignore"):
        fit = -0.5 * evidence.n_samples * np.log(squares + shrink)
    return fit - family.n_linear * log_ratio + family.log_prior(theta)


def _starts(family: Family, evidence: Evidence, rng: np.random.Generator) -> np.ndarray:
    """Returns the points of a coarse search that explain the guessed kernel best."""
    # a delay is a narrow target: more points, most of them aimed
    n_points = (200 if family.delay is None else 600) * family.n_parameters
    n_starts = _N_STARTS if family.delay is None else 2 * _N_STARTS
    unit = scipy.stats.qmc.Sobol(family.n_parameters, rng=rng).random_base2(
        math.ceil(math.log2(n_points))
    )
    theta = family.low + unit * (family.high - family.low)
    if family.delay is not None:
        theta = _aim(family, theta, evidence, rng)
    columns = evidence.columns(family, theta) * evidence.emphasis
    usable = np.isfinite(columns).all(axis=(1, 2))
    theta, columns = theta[usable], columns[usable]
    gram = columns @ columns.transpose(0, 2, 1)
    jitter = 1e-10 * np.einsum("bii->bi", gram).max(axis=1) + 1e-300
    gram += jitter[:, None, None] * np.eye(family.n_linear)
    cross = columns @ (evidence.guess * evidence.emphasis)
    score = np.einsum("bl,bl->b", cross, np.linalg.solve(gram, cross[..., None])[..., 0])
    order = np.argsort(-score)
    near = order[: 8 * n_starts]
    squares, _, _, _ = _solve(family, theta[near], evidence)
    return theta[near[np.argsort(squares)[:n_starts]]]


def _aim(family, theta, evidence, rng):
    """Moves most delays to lags where the guessed kernel sets in or peaks."""
    size = np.abs(evidence.guess)
    mass = np.append(0.0, np.cumsum(size * np.diff(evidence.edges)))
    fractions = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7])
    middle = 0.5 * (evidence.edges[:-1] + evidence.edges[1:])
    inner = np.flatnonzero((size[1:-1] > size[:-2]) & (size[1:-1] >= size[2:])) + 1
    peaks = inner[np.argsort(-size[inner])][:4]
    marks = np.concatenate(
        [np.interp(fractions * mass[-1], mass, evidence.edges), middle[peaks], middle[peaks]]
    )
    n_aimed = 3 * len(theta) // 4
    delay = rng.choice(marks, n_aimed) * np.exp(0.05 * rng.standard_normal(n_aimed))
    low, high = family.low[family.delay], family.high[family.delay]
    aimed = theta.copy()
    aimed[:n_aimed, family.delay] = np.clip(np.log(np.maximum(delay, 1.0)), low, high)
    return aimed


def _residual(family, theta, evidence):
    """Returns the residual of one point, and the directions the family can move in."""
    _, amplitudes, _, columns = _solve(family, theta, evidence)
    residual = evidence.target - amplitudes[0] @ columns[0]
    tangent = [columns[0].T]
    if family.n_parameters:
        slopes = _slopes(family, theta, evidence)[0]
        tangent.append(np.einsum("l,dlr->rd", amplitudes[0], slopes))
    return residual, np.concatenate(tangent, axis=1)


def _slopes(family: Family, theta: np.ndarray, evidence: Evidence) -> np.ndarray:
    """Returns the derivative of the whitened columns, shape (draw, parameter, n_linear, rank)."""
    n_draws, n_parameters = theta.shape
    step = 1e-5
    moves = step * np.eye(n_parameters)
    both = np.concatenate([theta[:, None] + moves, theta[:, None] - moves], axis=1)
    columns = _columns(family, both.reshape(-1, n_parameters), evidence)
    columns = columns.reshape(n_draws, 2, n_parameters, family.n_linear, -1)
    return np.nan_to_num((columns[:, 0] - columns[:, 1]) / (2.0 * step))


def _polish(family: Family, theta: np.ndarray, evidence: Evidence):
    """Runs Levenberg-Marquardt with the amplitudes projected out, from every start at once."""
    squares, amplitudes, _, columns = _solve(family, theta, evidence)
    damping = np.full(len(theta), 1e-3)
    for _ in range(_N_STEPS):
        descent, gradient = _normal_step(family, theta, amplitudes, columns, evidence)
        scale = np.einsum("bii->bi", descent)
        scale = np.maximum(scale, 1e-12 * scale.max(axis=1, keepdims=True) + 1e-100)
        damped = descent + (damping[:, None] * scale)[..., None] * np.eye(family.n_parameters)
        move = np.linalg.solve(damped, gradient[..., None])[..., 0]
        trial = np.clip(theta + np.clip(move, -1.0, 1.0), family.low, family.high)
        tried = _solve(family, trial, evidence)
        better = tried[0] < squares
        gained = np.where(better, squares - tried[0], 0.0)
        theta = np.where(better[:, None], trial, theta)
        squares = np.where(better, tried[0], squares)
        amplitudes = np.where(better[:, None], tried[1], amplitudes)
        columns = np.where(better[:, None, None], tried[3], columns)
        damping = np.where(better, np.maximum(damping / 5.0, 1e-12), damping * 4.0)
        settled = (gained < 1e-7 * squares) & (better | (damping > 1e3))
        if settled.all():
            break
    return theta, squares


def _normal_step(family, theta, amplitudes, columns, evidence):
    """Returns JᵀJ and Jᵀr of the residual with the amplitudes projected out (Kaufman)."""
    slopes = _slopes(family, theta, evidence)
    jacobian = np.einsum("bl,bdlr->bdr", amplitudes, slopes)
    residual = evidence.target - np.einsum("bl,blr->br", amplitudes, columns)
    basis = np.linalg.qr(columns.transpose(0, 2, 1))[0]
    inside = np.einsum("bdr,brl->bdl", jacobian, basis)
    jacobian = jacobian - np.einsum("bdl,brl->bdr", inside, basis)
    descent = jacobian @ jacobian.transpose(0, 2, 1)
    return descent, np.einsum("bdr,br->bd", jacobian, residual)


def _propose(fit, evidence, variance, n_draws, rng):
    family, theta = fit.family, fit.theta[None]
    _, amplitudes, _, columns = _solve(family, theta, evidence)
    descent, _ = _normal_step(family, theta, amplitudes, columns, evidence)
    width = family.high - family.low
    precision = descent[0] / variance + np.diag(12.0 / width**2)
    covariance = np.linalg.inv(precision)
    return _student(fit.theta, 1.3 * covariance, family, n_draws, rng)


def _repropose(theta, weights, family, n_draws, rng):
    center = weights @ theta
    apart = theta - center
    covariance = (weights[:, None] * apart).T @ apart
    covariance = 1.3 * covariance + np.diag((1e-5 * (family.high - family.low)) ** 2)
    return _student(center, covariance, family, n_draws, rng)


def _student(center, covariance, family, n_draws, rng):
    """Returns draws of a multivariate Student law, a tenth from the flat prior, and log density."""
    n_parameters = len(center)
    factor = np.linalg.cholesky(0.5 * (covariance + covariance.T))
    n_bits = max(math.ceil(math.log2(n_draws)), 1)
    unit = scipy.stats.qmc.Sobol(n_parameters, rng=rng).random_base2(n_bits)[:n_draws]
    normal = scipy.special.ndtri(np.clip(unit, 1e-9, 1 - 1e-9))
    stretch = np.sqrt(_DEGREES / rng.chisquare(_DEGREES, n_draws))
    theta = center + stretch[:, None] * (normal @ factor.T)
    n_flat = max(n_draws // 10, 1)
    flat = rng.choice(n_draws, n_flat, replace=False)
    theta[flat] = rng.uniform(family.low, family.high, (n_flat, n_parameters))
    apart = scipy.linalg.solve_triangular(factor, (theta - center).T, lower=True)
    log_student = (
        scipy.special.gammaln(0.5 * (_DEGREES + n_parameters))
        - scipy.special.gammaln(0.5 * _DEGREES)
        - 0.5 * n_parameters * math.log(_DEGREES * math.pi)
        - np.log(np.diag(factor)).sum()
        - 0.5 * (_DEGREES + n_parameters) * np.log1p(np.sum(apart**2, axis=0) / _DEGREES)
    )
    share = n_flat / n_draws
    log_flat = family.log_prior(theta)
    return theta, np.logaddexp(math.log1p(-share) + log_student, math.log(share) + log_flat)


def _normalised(log_weights):
    weights = np.exp(log_weights - np.max(log_weights))
    return weights / weights.sum()


def _hats(edges: np.ndarray) -> np.ndarray:
    """Returns piecewise linear bumps over knots that double every fourth knot."""
    last = edges[-1]
    knots = np.arange(4.0)
    if last > 5:
        knots = np.append(knots, np.geomspace(4, last, int(4 * math.log2(last / 4)) + 2).round())
    knots = np.unique(knots[knots <= last])
    lags = edges[:-1]
    return np.stack([np.interp(lags, knots, row) for row in np.eye(len(knots))], axis=1)


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    if columns.shape[1] == 0:
        return columns
    size = np.linalg.norm(columns, axis=0)
    columns = columns[:, size > 0] / size[size > 0]
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, values > 1e-8 * values[0]]
