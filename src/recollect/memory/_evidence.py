"""Marginal likelihood of a Gaussian linear model with a mixture of covariances."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
import scipy.optimize


@dataclasses.dataclass(frozen=True)
class NormalEquations:
    """What a linear regression keeps of its data, once whitened and freed of nuisance terms.

    Attributes:
        gram: `XᵀX`, shape (q, q).
        cross: `Xᵀy`, shape (q,).
        power: `yᵀy`.
        n_samples: rows less the nuisance directions projected out.
        log_jacobian: what whitening and projection add to the log likelihood.
    """

    gram: np.ndarray
    cross: np.ndarray
    power: float
    n_samples: int
    log_jacobian: float = 0.0


@dataclasses.dataclass(frozen=True)
class Posterior:
    """A Gaussian posterior with the hyperparameters that maximise the evidence.

    Attributes:
        mean: shape (q,).
        covariance: shape (q, q).
        noise_variance: of the whitened rows.
        weights: weight of each mixture component, shape (group, component).
        log_evidence: log marginal likelihood at the maximum.
        n_iterations: evaluations spent.
    """

    mean: np.ndarray
    covariance: np.ndarray
    noise_variance: float
    weights: np.ndarray
    log_evidence: float
    n_iterations: int


class _Mixture:
    """Covariances to be mixed, each kept on the block of lags where it lives.

    A positive semidefinite matrix is negligible wherever its diagonal is, so that most of a
    mixture over many time scales need not be read at every evaluation.
    """

    def __init__(self, components: np.ndarray, n_groups: int):
        self.n_groups, self.p = n_groups, components.shape[1]
        self.flat = components.reshape(len(components), -1)
        self.blocks: list[tuple[slice, np.ndarray]] = []
        if self.p > _FEWEST_BLOCKED:
            diagonals = np.einsum("cii->ci", components)
            for component, diagonal in zip(components, diagonals, strict=True):
                seen = np.flatnonzero(diagonal > 1e-24 * diagonal.max())
                span = slice(seen[0], seen[-1] + 1) if len(seen) else slice(0, 1)
                self.blocks.append((span, np.ascontiguousarray(component[span, span])))

    def _mixed(self, weights: np.ndarray) -> np.ndarray:
        if not self.blocks:
            return (weights @ self.flat).reshape(self.p, self.p)
        total = np.zeros((self.p, self.p))
        for weight, (span, block) in zip(weights, self.blocks, strict=True):
            total[span, span] += weight * block
        return total

    def covariance(self, weights: np.ndarray) -> np.ndarray:
        """Returns the mixture, lag-major, for weights (group, component)."""
        if self.n_groups == 1:
            return self._mixed(weights[0])
        # Lag-major order: index = lag * n_groups + group.
        prior = np.zeros((self.p, self.n_groups, self.p, self.n_groups))
        for g in range(self.n_groups):
            prior[:, g, :, g] = self._mixed(weights[g])
        q = self.p * self.n_groups
        return prior.reshape(q, q)

    def products(self, sensitivity: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Returns `tr(K_c S) - u·K_c u` of every component, shape (group, component)."""
        q = sensitivity.reshape(self.p, self.n_groups, self.p, self.n_groups)
        u = score.reshape(self.p, self.n_groups)
        found = np.empty((self.n_groups, len(self.flat)))
        for g in range(self.n_groups):
            own = q[:, g, :, g] - np.outer(u[:, g], u[:, g])
            if self.blocks:
                found[g] = [np.einsum("ij,ij->", block, own[at, at]) for at, block in self.blocks]
            else:
                found[g] = self.flat @ own.ravel()
        return found


class _Reduced:
    """The model in the coordinates in which the data of the gram matrix are white.

    `C = variance·I + RᵀPR` with `G = RRᵀ`. Where the gram matrix G is well conditioned,
    `M = variance·G⁻¹ + P` has the same information at an eighth of the cost.
    """

    def __init__(self, equations: NormalEquations, components: np.ndarray, n_groups: int):
        self.mixture = _Mixture(components, n_groups)
        self.n_groups = n_groups
        self.log_jacobian = equations.log_jacobian
        self.equations = equations
        self.inverse = _safe_inverse(equations.gram, equations.n_samples)
        if self.inverse is not None:
            self.log_determinant = self.inverse[1]
            self.plain = self.inverse[0] @ equations.cross
            self.n_kept = len(equations.cross)
            explained = float(self.plain @ equations.cross)
        else:
            values, vectors = np.linalg.eigh(equations.gram)
            kept = values > max(values[-1], 1e-300) * 1e-13
            self.root = vectors[:, kept] * np.sqrt(values[kept])
            self.data = (vectors[:, kept].T @ equations.cross) / np.sqrt(values[kept])
            self.n_kept = int(kept.sum())
            explained = float(self.data @ self.data)
        # At least one direction must be left for the noise.
        self.n_rest = max(equations.n_samples - self.n_kept, 0)
        self.rest = max(equations.power - explained, 0.0)

    def _factor(self, prior: np.ndarray, variance: float) -> np.ndarray:
        inner = self.root.T @ (prior @ self.root)
        # Rounding of the product must not make it indefinite when the noise is very small.
        inner[np.diag_indices(self.n_kept)] += variance + 1e-14 * np.trace(inner)
        return np.linalg.cholesky(inner)

    def _spread(self, prior: np.ndarray, variance: float) -> np.ndarray:
        assert self.inverse is not None
        trace = float(np.einsum("ij,ij->", prior, self.equations.gram))
        return prior + (variance + 1e-14 * trace) * self.inverse[0]

    def negative(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns the negative log evidence, up to a constant, and its gradient."""
        weights = np.exp(theta[:-1]).reshape(self.n_groups, -1)
        variance = float(np.exp(theta[-1]))
        prior = self.mixture.covariance(weights)
        terms = self._terms if self.inverse is None else self._plain_terms
        log_determinant, power, sensitivity, score, slope = terms(prior, variance)
        value = 0.5 * (self.n_rest * theta[-1] + self.rest / variance + log_determinant + power)
        gradient = np.empty_like(theta)
        slopes = self.mixture.products(sensitivity, score)
        gradient[:-1] = 0.5 * (weights * slopes).ravel()
        gradient[-1] = 0.5 * (self.n_rest - self.rest / variance + variance * slope)
        return value, gradient

    def _terms(self, prior: np.ndarray, variance: float):
        lower = self._factor(prior, variance)
        inverse_root = scipy.linalg.solve_triangular(lower, np.eye(self.n_kept), lower=True)
        half = inverse_root @ self.root.T
        projected = inverse_root @ self.data
        solved = inverse_root.T @ projected
        return (
            2 * float(np.log(np.diag(lower)).sum()),
            float(projected @ projected),
            half.T @ half,
            self.root @ solved,
            float((inverse_root**2).sum() - solved @ solved),
        )

    def _plain_terms(self, prior: np.ndarray, variance: float):
        assert self.inverse is not None
        inverse = self.inverse[0]
        sensitivity, log_determinant = _inverse_of(self._spread(prior, variance))
        score = sensitivity @ self.plain
        return (
            log_determinant + self.log_determinant,
            float(score @ self.plain),
            sensitivity,
            score,
            float(np.einsum("ij,ij->", inverse, sensitivity) - score @ (inverse @ score)),
        )

    def posterior(self, weights: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and covariance of the coefficients."""
        prior = self.mixture.covariance(weights)
        if self.inverse is not None:
            lower = np.linalg.cholesky(self._spread(prior, variance))
            half = scipy.linalg.solve_triangular(lower, prior, lower=True)
            seen = scipy.linalg.solve_triangular(lower, self.plain, lower=True)
        else:
            lower = self._factor(prior, variance)
            half = scipy.linalg.solve_triangular(lower, self.root.T @ prior, lower=True)
            seen = scipy.linalg.solve_triangular(lower, self.data, lower=True)
        covariance = prior - half.T @ half
        return half.T @ seen, 0.5 * (covariance + covariance.T)


# Below so many bins one product with all components at once is cheaper than many small ones.
_FEWEST_BLOCKED = 100
# Reciprocal condition (1-norm) of a gram matrix whose inverse keeps half of the digits.
_WELL_CONDITIONED = 1e-8


def _inverse_of(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns inverse and log determinant of a positive definite matrix."""
    lower, failed = scipy.linalg.lapack.dpotrf(matrix, lower=1, clean=1)
    if failed:
        raise np.linalg.LinAlgError("not positive definite")
    log_determinant = 2 * float(np.log(np.diag(lower)).sum())
    half, failed = scipy.linalg.lapack.dpotri(lower, lower=1, overwrite_c=1)
    inverse = half + half.T
    inverse[np.diag_indices(len(inverse))] *= 0.5
    return inverse, log_determinant


def _safe_inverse(gram: np.ndarray, n_samples: int) -> tuple[np.ndarray, float] | None:
    """Returns inverse and log determinant of a well-conditioned gram matrix, None otherwise."""
    if n_samples <= len(gram):
        return None
    try:
        inverse, log_determinant = _inverse_of(gram)
    except np.linalg.LinAlgError:
        return None
    size = np.abs(gram).sum(axis=0).max() * np.abs(inverse).sum(axis=0).max()
    return (inverse, log_determinant) if size * _WELL_CONDITIONED < 1 else None


def maximise_evidence(
    equations: NormalEquations,
    components: np.ndarray,
    *,
    n_groups: int = 1,
    start: tuple[np.ndarray, float] | None = None,
    max_iterations: int = 60,
    rtol: float = 1e-7,
) -> Posterior:
    """Returns the posterior under the mixture whose weights maximise the marginal likelihood.

    Args:
        equations: whitened normal equations in lag-major order (lag * n_groups + group).
        components: covariances to be mixed, shape (component, p, p), each scaled to order one.
        n_groups: number of inputs; each has weights of its own.
        start: weights (group, component) and noise variance to start from.
        max_iterations: limit of the optimiser.
        rtol: relative change of the log evidence at which it stops.

    Returns:
        Mean, covariance, weights, noise variance and log evidence.
    """
    reduced = _Reduced(equations, components, n_groups)
    n_components = len(components)
    per_sample = max(equations.power / max(equations.n_samples, 1), 1e-300)
    if start is None:
        weights = np.full((n_groups, n_components), 0.5 * per_sample / (n_groups * n_components))
        variance = 0.3 * per_sample
    else:
        weights, variance = start
    floor, ceiling = np.log(1e-12 * per_sample), np.log(1e4 * per_sample)
    theta = np.concatenate([np.log(np.maximum(weights, 1e-300)).ravel(), [np.log(variance)]])
    theta = np.clip(theta, floor, ceiling)
    best = scipy.optimize.minimize(
        reduced.negative,
        theta,
        jac=True,
        method="L-BFGS-B",
        bounds=[(floor, ceiling)] * len(theta),
        options={"maxiter": max_iterations, "ftol": rtol, "gtol": 1e-4, "maxcor": 20},
    )
    weights = np.exp(best.x[:-1]).reshape(n_groups, n_components)
    variance = float(np.exp(best.x[-1]))
    mean, covariance = reduced.posterior(weights, variance)
    log_evidence = (
        -float(best.fun) - 0.5 * equations.n_samples * np.log(2 * np.pi) + equations.log_jacobian
    )
    return Posterior(
        mean=mean,
        covariance=covariance,
        noise_variance=variance,
        weights=weights,
        log_evidence=log_evidence,
        n_iterations=int(best.nfev),
    )
