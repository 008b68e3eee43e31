"""What the evidence decides: lag bins, noise correlation, horizon."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import scipy.optimize

from recollect.memory._evidence import NormalEquations, Posterior, maximise_evidence
from recollect.memory._lag_grid import graded_edges
from recollect.memory._prior import mixture_components
from recollect.memory._rows import NuisanceFit

_COARSE = {"n_fine": 16, "n_per_octave": 8}
_DECAYS = (0.2, 0.5, 0.7, 0.85, 0.93, 0.97, 0.99)
_MAX_BINS = 700
# Log evidence (odds 50:1) that must be lost before a longer horizon is worth its freedom: the
# largest of a dozen candidates wins by a nat or two where nothing is to be seen.
_LOSS = 4.0


class RegressionData(Protocol):
    """Where normal equations come from: explicit rows or running sums."""

    n_inputs: int

    @property
    def n_rows(self) -> int: ...

    @property
    def typical_gap(self) -> float: ...

    def equations(self, edges: np.ndarray, correlation: float) -> NormalEquations: ...

    def nuisance_fit(
        self, edges: np.ndarray, mean: np.ndarray, correlation: float
    ) -> NuisanceFit: ...

    def score(self, edges: np.ndarray, mean: np.ndarray, correlation: float) -> np.ndarray: ...

    def skip(self, n_skipped: int) -> None: ...

    def sample(
        self, edges: np.ndarray, mean: np.ndarray, correlation: float
    ) -> tuple[np.ndarray, np.ndarray | None]: ...

    def head_residuals(
        self, edges: np.ndarray, mean: np.ndarray, correlation: float
    ) -> list[tuple[np.ndarray, np.ndarray]]: ...


@dataclasses.dataclass(frozen=True)
class Choice:
    """The model the evidence prefers for one output.

    Attributes:
        edges: of the lag bins, in steps.
        resolving: coarser edges that resolve the kernel over all lags allowed.
        correlation: e-folding time of the noise in steps (0 for white).
        evidence_gain: log evidence of correlated over white noise.
        is_saturated: False if more lags than were allowed would raise the evidence.
        n_evaluations: of the marginal likelihood.
    """

    edges: np.ndarray
    resolving: np.ndarray
    correlation: float
    evidence_gain: float
    is_saturated: bool
    n_evaluations: int


def scaled_components(
    edges: np.ndarray, equations: NormalEquations, n_inputs: int, longest: float | None = None
) -> np.ndarray:
    """Returns the mixture's covariances, each scaled to give the data's rows unit power."""
    return _scaled(mixture_components(edges, longest=longest), edges, equations, n_inputs)


def _scaled(
    components: np.ndarray, edges: np.ndarray, equations: NormalEquations, n_inputs: int
) -> np.ndarray:
    p = len(edges) - 1
    gram = equations.gram.reshape(p, n_inputs, p, n_inputs)
    mean_gram = np.trace(gram, axis1=1, axis2=3) / n_inputs
    power = components.reshape(len(components), -1) @ mean_gram.ravel() / equations.n_samples
    # A component that lives beyond the last bin has no power there, and gets no say.
    return components / np.maximum(power, 1e-6 * power.max())[:, None, None]


def posterior_of(
    data: RegressionData,
    edges: np.ndarray,
    correlation: float,
    *,
    longest: float | None = None,
    max_iterations: int = 60,
) -> Posterior:
    """Returns the posterior on the bins between `edges` at the best mixture weights."""
    equations = data.equations(edges, correlation)
    components = scaled_components(edges, equations, data.n_inputs, longest)
    return maximise_evidence(
        equations, components, n_groups=data.n_inputs, max_iterations=max_iterations
    )


def choose(
    data: RegressionData,
    longest: int,
    *,
    is_fixed: bool,
    noise: str,
    first: Choice | None = None,
) -> Choice:
    """Returns bins, noise correlation and horizon by evidence.

    Bins are refined where the residual still correlates with the input at single lags; the noise
    model is judged on bins that resolve the kernel, because unresolved structure looks like
    correlated noise and correlated noise looks like memory; the horizon is the shortest that
    loses no evidence. `first` is a choice on nearly the same data to start from.
    """
    search = _Search(data, longest)
    if first is None:
        edges = _resolving_edges(search, graded_edges(longest, **_COARSE))
    else:
        edges = np.union1d(graded_edges(longest, **_COARSE), first.resolving)
    correlation, gain = _noise_correlation(search, edges, noise, first)
    n, is_saturated = longest, is_fixed
    if not is_fixed:
        n = _sufficient_horizon(search, edges, correlation)
        is_saturated = n < longest
        # Twice the shortest sufficient horizon: a cut right behind what can be seen would hide
        # how uncertain the tail is, and costs nothing to avoid.
        n = min(2 * n, longest)
    fine = np.union1d(_cut(edges, n), graded_edges(n))
    return Choice(fine, edges, correlation, gain, is_saturated, search.n_evaluations)


class _Search:
    """Fits of one data set, each started where the last one ended if the problem is large."""

    def __init__(self, data: RegressionData, longest: int):
        self.data, self.longest, self.n_evaluations = data, longest, 0
        self.last: tuple[np.ndarray, np.ndarray, Posterior] | None = None
        self.mixture: tuple[np.ndarray, np.ndarray] | None = None

    def fit(
        self,
        edges: np.ndarray,
        correlation: float,
        *,
        n_bins: int | None = None,
        is_rough: bool = False,
    ) -> Posterior:
        """Returns the posterior on the first `n_bins` of the bins between `edges`.

        A rough fit of a large problem stops early: enough to see where structure is left or which
        of a few noise models is nearest.
        """
        equations = self.data.equations(edges, correlation)
        n_inputs = self.data.n_inputs
        is_large = (len(edges) - 1) * n_inputs > 250
        if is_large and self.last is not None and np.array_equal(self.last[0], edges):
            _, components, before = self.last
            start, limit = (before.weights, before.noise_variance), 8 if is_rough else 20
        else:
            if self.mixture is None or not np.array_equal(self.mixture[0], edges):
                self.mixture = (edges, mixture_components(edges, longest=self.longest))
            components = _scaled(self.mixture[1], edges, equations, n_inputs)
            start, limit = None, 20 if is_rough and is_large else 60
        if n_bins is not None:
            if self.last is not None and np.array_equal(self.last[0], edges):
                _, components, before = self.last
                start = (before.weights, before.noise_variance)
            q = n_bins * n_inputs
            equations = dataclasses.replace(
                equations, gram=equations.gram[:q, :q], cross=equations.cross[:q]
            )
            components = components[:, :n_bins, :n_bins]
        posterior = maximise_evidence(
            equations, components, n_groups=n_inputs, start=start, max_iterations=limit
        )
        self.n_evaluations += posterior.n_iterations
        if n_bins is None:
            self.last = (edges, components, posterior)
        return posterior


def _resolving_edges(search: _Search, edges: np.ndarray) -> np.ndarray:
    for _ in range(6):
        posterior = search.fit(edges, 0.0, is_rough=True)
        finer = _refined(edges, search.data.score(edges, posterior.mean, 0.0))
        if len(finer) == len(edges) or len(finer) * search.data.n_inputs > _MAX_BINS:
            break
        edges = finer
    return edges


def _noise_correlation(
    search: _Search, edges: np.ndarray, noise: str, first: Choice | None
) -> tuple[float, float]:
    if noise == "white":
        return 0.0, 0.0
    gap = search.data.typical_gap
    white = search.fit(edges, 0.0).log_evidence
    if first is not None and first.correlation > 0:
        times = [first.correlation / 2.5, first.correlation, first.correlation * 2.5]
    else:
        times = [-gap / np.log(decay) for decay in _DECAYS]
    evidence = [search.fit(edges, time, is_rough=True).log_evidence for time in times]
    best = int(np.argmax(evidence))
    gain = evidence[best] - white
    if noise == "auto" and gain < 2.0:
        return 0.0, gain
    low = times[best - 1] if best else times[0] / 3
    high = times[best + 1] if best + 1 < len(times) else times[-1] * 4
    found = scipy.optimize.minimize_scalar(
        lambda log_time: -search.fit(edges, float(np.exp(log_time))).log_evidence,
        bounds=(np.log(low), np.log(high)),
        method="bounded",
        options={"maxiter": 9, "xatol": 0.03},
    )
    return float(np.exp(found.x)), float(-found.fun) - white


def _sufficient_horizon(search: _Search, edges: np.ndarray, correlation: float) -> int:
    search.fit(edges, correlation)
    counts = [len(edges) - 1]
    while edges[counts[-1]] > 8:
        counts.append(int(np.searchsorted(edges, edges[counts[-1]] / 2)))
    evidence = [search.fit(edges, correlation, n_bins=count).log_evidence for count in counts]
    enough = [c for c, e in zip(counts, evidence, strict=True) if e > max(evidence) - _LOSS]
    return int(edges[min(enough)])


def _cut(edges: np.ndarray, n: int) -> np.ndarray:
    return np.union1d(edges[edges < n], [n])


def _refined(edges: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Returns bins split where the score stands out of its own noise at single lags."""
    spread = 1.4826 * np.median(np.abs(score), axis=0)
    height = (np.abs(score) / np.maximum(spread, 1e-300)).max(axis=1)
    widths = np.diff(edges)
    peak = np.maximum.reduceat(height, edges[:-1])
    flagged = (peak > 4.5) & (widths > 1)
    if not flagged.any():
        return edges
    # The strongest first, so that a limit on the number of bins keeps what matters.
    order = np.flatnonzero(flagged)[np.argsort(-peak[flagged])][:40]
    added = [edges]
    for b in order:
        step = max(1, int(widths[b]) // 6)
        added.append(np.arange(int(edges[b]), int(edges[b + 1]), step))
    return np.unique(np.concatenate(added))
