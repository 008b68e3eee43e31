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


class _Reduced:
    """The model in the coordinates in which the data of the gram matrix are white."""

    def __init__(self, equations: NormalEquations, components: np.ndarray, n_groups: int):
        values, vectors = np.linalg.eigh(equations.gram)
        kept = values > max(values[-1], 1e-300) * 1e-13
        self.root = vectors[:, kept] * np.sqrt(values[kept])
        self.data = (vectors[:, kept].T @ equations.cross) / np.sqrt(values[kept])
        self.n_kept = int(kept.sum())
        # At least one direction must be left for the noise.
        self.n_rest = max(equations.n_samples - self.n_kept, 0)
        self.rest = max(equations.power - float(self.data @ self.data), 0.0)
        self.log_jacobian = equations.log_jacobian
        self.components = components
        self.n_groups = n_groups
        self.p = components.shape[1]
        self.flat = components.reshape(len(components), -1)

    def covariance(self, weights: np.ndarray) -> np.ndarray:
        if self.n_groups == 1:
            return (weights[0] @ self.flat).reshape(self.p, self.p)
        # Lag-major order: index = lag * n_groups + group.
        prior = np.zeros((self.p, self.n_groups, self.p, self.n_groups))
        for g in range(self.n_groups):
            prior[:, g, :, g] = (weights[g] @ self.flat).reshape(self.p, self.p)
        q = self.p * self.n_groups
        return prior.reshape(q, q)

    def factor(self, weights: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
        prior = self.covariance(weights)
        inner = self.root.T @ (prior @ self.root)
        # Rounding of the product must not make it indefinite when the noise is very small.
        inner[np.diag_indices(self.n_kept)] += variance + 1e-14 * np.trace(inner)
        return prior, np.linalg.cholesky(inner)

    def negative(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        weights = np.exp(theta[:-1]).reshape(self.n_groups, -1)
        variance = float(np.exp(theta[-1]))
        _, lower = self.factor(weights, variance)
        inverse_root = scipy.linalg.solve_triangular(lower, np.eye(self.n_kept), lower=True)
        half = inverse_root @ self.root.T
        projected = inverse_root @ self.data
        solved = inverse_root.T @ projected
        value = 0.5 * (
            self.n_rest * theta[-1]
            + self.rest / variance
            + 2 * np.log(np.diag(lower)).sum()
            + projected @ projected
        )
        sensitivity = half.T @ half
        score = self.root @ solved
        q = sensitivity.reshape(self.p, self.n_groups, self.p, self.n_groups)
        u = score.reshape(self.p, self.n_groups)
        gradient = np.empty_like(theta)
        slopes = np.stack(
            [
                self.flat @ (q[:, g, :, g] - np.outer(u[:, g], u[:, g])).ravel()
                for g in range(self.n_groups)
            ]
        )
        gradient[:-1] = 0.5 * (weights * slopes).ravel()
        gradient[-1] = 0.5 * (
            self.n_rest
            - self.rest / variance
            + variance * ((inverse_root**2).sum() - solved @ solved)
        )
        return value, gradient


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
    prior, lower = reduced.factor(weights, variance)
    half = scipy.linalg.solve_triangular(lower, reduced.root.T @ prior, lower=True)
    mean = half.T @ scipy.linalg.solve_triangular(lower, reduced.data, lower=True)
    covariance = prior - half.T @ half
    log_evidence = (
        -float(best.fun) - 0.5 * equations.n_samples * np.log(2 * np.pi) + equations.log_jacobian
    )
    return Posterior(
        mean=mean,
        covariance=0.5 * (covariance + covariance.T),
        noise_variance=variance,
        weights=weights,
        log_evidence=log_evidence,
        n_iterations=int(best.nfev),
    )
