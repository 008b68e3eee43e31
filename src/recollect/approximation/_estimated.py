"""From an estimated kernel to a network: the width where the Hankel spectrum meets the noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg

from recollect._core._check import invalid, require_count
from recollect._core._least_squares import Point, descend, moved_columns, normal_root
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.approximation._l2 import (
    Sections,
    refine_sections,
    section_averages,
    sections_of,
)
from recollect.approximation._state_space import propagate, takenaka_malmquist
from recollect.memory import KernelEstimate
from recollect.models import LinearRNN

_N_DRAWS = 40
_MOST_HANKEL_NODES = 400


@dataclasses.dataclass(frozen=True)
class EstimatedWidths:
    """Networks of growing width for one output of an estimated kernel.

    Attributes:
        networks: one linear network per width, in input-normal form.
        widths: shape (point,).
        errors: L1 distance between the estimated kernel and the network's, shape (point,).
        bounds: no network of that width is closer to the estimated kernel (Hankel singular
            values), shape (point,).
        noise: what the Hankel norm of the estimation error stays below with probability 0.95.
        log_likelihoods: of the data under the networks up to the ceiling, up to a constant.
        recommended: the width that the data pay for (BIC), at most the number of singular values
            above the noise.
        reason: why, in one sentence.
        status: `noise_limited` where no singular value stands above the noise.
    """

    networks: tuple[LinearRNN, ...]
    widths: np.ndarray
    errors: np.ndarray
    bounds: np.ndarray
    noise: float
    log_likelihoods: np.ndarray
    recommended: int
    reason: str
    status: Status = Status()


@on_one_thread
@references("adamyan1971analytic", "golub1973differentiation")
def fit_estimate(
    estimate: KernelEstimate,
    *,
    output: int = 0,
    min_width: int = 1,
    max_width: int = 16,
    seed: int = 0,
) -> EstimatedWidths:
    """Returns the best network of every width for an estimated kernel, and the width to take.

    A network is started from the balanced truncation of the posterior mean and refined by
    variable projection on the likelihood of the data (the whitened normal equations), with the
    estimate's prior knowledge entering only through the start. Width m is worth having while
    σ_m of the kernel's Hankel operator exceeds that of the estimation error.

    Args:
        estimate: from `memory.estimate_kernel`.
        output: which output; inputs share one state.
        min_width: widths up to this are fitted even where the data pay for fewer units.
        max_width: largest width to try.
        seed: of the draws of the estimation error.

    Raises:
        ValueError: if there is no such output, or a width is not positive or above the largest.
    """
    require_count("min_width", min_width)
    require_count("max_width", max_width)
    if min_width > max_width:
        raise invalid("min_width", f"at most max_width = {max_width}", min_width)
    n_outputs = estimate.kernel.shape[1]
    if not 0 <= output < n_outputs:
        raise invalid("output", f"an index below {n_outputs}", output)
    mean = estimate.kernel[:, output, :]
    design = _Design(estimate, output)
    spectrum, generator = _hankel(estimate.edges, mean)
    noise = _hankel_noise(estimate, output, seed)
    above = int(np.sum(spectrum > noise))
    ceiling = min(max(above, 1), max_width)
    last = min(max(ceiling + 2, 8, min_width), max_width, len(spectrum))
    curve = _fit_mean(design, generator, last)
    errors = np.minimum.accumulate([design.distance(design.network(rates)) for rates in curve])
    likeliest: list[np.ndarray] = []
    costs: list[float] = []
    for width in range(1, min(ceiling + 2, last) + 1):
        starts = [
            design.sections(curve[width - 1]),
            *_grown(likeliest, design),
            design.spread(width),
        ]
        fitted, cost = min((design.refine(start) for start in starts), key=lambda pair: pair[1])
        likeliest.append(design.rates(fitted))
        costs.append(cost)
    # Each unit brings a rate and an amplitude per input: the price of BIC.
    price = (1 + design.n_inputs) * np.log(estimate.statistics.n_samples[output])
    recommended = 1 + int(np.argmin(np.array(costs) + price * np.arange(1, len(costs) + 1)))
    networks = [design.network(rates) for rates in (*likeliest, *curve[len(likeliest) :])]
    widths = np.arange(1, last + 1)
    return EstimatedWidths(
        networks=tuple(networks),
        widths=widths,
        errors=errors,
        bounds=np.append(spectrum, 0.0)[widths],
        noise=noise,
        log_likelihoods=-np.array(costs) / 2,
        recommended=recommended,
        reason=_reason(recommended, above, max_width),
        status=Status()
        if above
        else Status("noise_limited", "no part of the kernel stands above its uncertainty"),
    )


def _reason(recommended: int, above: int, max_width: int) -> str:
    if above == 0:
        return "nothing of the kernel stands above the uncertainty of its estimate"
    if above >= max_width and recommended == max_width:
        return "the largest width allowed; the kernel stands above the noise beyond it"
    if recommended == above:
        return "so many Hankel singular values of the kernel stand above the noise of its estimate"
    stands = "value of the kernel stands" if above == 1 else "values of the kernel stand"
    paid = "pay for" if recommended > above else "do not pay for more than"
    return (
        f"{above} Hankel singular {stands} above the noise of its estimate, "
        f"and the data {paid} {recommended}"
    )


def _fit_mean(design: _Design, generator: _Generator, last: int) -> list[np.ndarray]:
    """Returns the rates of the least-squares fits of widths 1 to `last` to the posterior mean."""
    nodes = (design.edges[1:] + design.edges[:-1]) / 2
    rows = np.sqrt(np.diff(design.edges))
    target = design.mean * rows[:, None]
    fits: list[np.ndarray] = []
    for width in range(1, last + 1):
        starts = _grown(fits, design)
        if width <= len(generator.transition):
            starts.insert(0, design.sections(generator.rates(width)))
        found = [
            refine_sections(s, nodes, rows, target, n_iterations=40, log_bounds=design.log_bounds)
            for s in starts
        ]
        fits.append(design.inside(min(found, key=lambda fit: fit.cost).sections.rates()))
    return fits


def _grown(fits: list[np.ndarray], design: _Design) -> list[Sections]:
    if not fits:
        return []
    known = fits[-1]
    low, high = np.exp(design.log_bounds)
    fills = (np.sqrt(low * known.real.min()), np.sqrt(high * known.real.max()))
    return [design.sections(np.append(known, fill)) for fill in fills]


class _Design:
    """The likelihood of one output's data under an exponential sum, by variable projection."""

    def __init__(self, estimate: KernelEstimate, output: int):
        statistics = estimate.statistics
        self.edges = estimate.edges
        self.mean = estimate.kernel[:, output, :]
        self.n_inputs = statistics.n_inputs
        # gram = rootᵀ root, cross = rootᵀ target: the likelihood is ‖root r - target‖² + constant.
        values, vectors = scipy.linalg.eigh(statistics.gram[output])
        kept = values > 1e-13 * values[-1]
        self.root = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
        self.target = vectors[:, kept].T @ statistics.cross[output] / np.sqrt(values[kept])
        self.by_input = self.root.reshape(len(self.root), -1, self.n_inputs)
        # Slower than the window seen, or faster than two steps, is invention.
        self.log_bounds = (-np.log(self.edges[-1]), np.log(2 / estimate.dt))

    def columns(self, rates: np.ndarray) -> np.ndarray:
        """Returns what the data show of orthonormal states with these rates, (row, in * width)."""
        A, b = takenaka_malmquist(rates)
        path = propagate(A, b, self.edges)
        basis = np.linalg.solve(A, np.diff(path, axis=0).T).T / np.diff(self.edges)[:, None]
        return np.einsum("qpi,pm->qim", self.by_input, basis).reshape(len(self.root), -1)

    def amplitudes(self, columns: np.ndarray) -> np.ndarray:
        """Returns the best amplitudes, shape (in * width,)."""
        return np.linalg.lstsq(columns, self.target, rcond=1e-12)[0]

    def refine(self, start: Sections) -> tuple[Sections, float]:
        """Returns the local maximum of the likelihood reached from `start`, and its cost."""
        low, high = self.log_bounds
        k, n_pairs = len(start.log_rates), len(start.log_pairs)
        lows = np.concatenate([np.full(k, low), np.tile([low - 1, 2 * low], n_pairs)])
        highs = np.concatenate([np.full(k, high), np.tile([high + 1, 2 * high], n_pairs)])

        def evaluate(vector: np.ndarray) -> Point:
            columns = self.columns(self.rates(start.moved(vector)))
            residual = self.target - columns @ self.amplitudes(columns)
            return Point(vector, float(residual @ residual), (columns, residual))

        def linearise(at: Point) -> tuple[np.ndarray, np.ndarray]:
            columns, residual = at.solution
            return normal_root(self.jacobian(start.moved(at.vector), columns), residual)

        end, _ = descend(
            evaluate(np.clip(start.vector, lows + 1e-6, highs - 1e-6)),
            evaluate,
            linearise,
            longest_step=1.5,
            n_steps=60,
            rtol=1e-8,
            patience=2,
            bounds=(lows, highs),
        )
        return start.moved(end.vector), end.cost

    def jacobian(self, sections: Sections, columns: np.ndarray) -> np.ndarray:
        """Returns the slope of the residual in the parameters of the sections (Kaufman's)."""
        basis, slopes = section_averages(sections, self.edges, np.exp(self.log_bounds[0]))
        seen = np.einsum("qpi,pm->qim", self.by_input, basis).reshape(len(self.root), -1)
        found = self.amplitudes(seen).reshape(self.n_inputs, -1).T
        moves = moved_columns(slopes, found, len(sections.log_rates))
        moves = self.root @ moves.reshape(self.root.shape[1], -1)
        q = np.linalg.qr(columns)[0]
        return -(moves - q @ (q.T @ moves))

    def inside(self, rates: np.ndarray) -> np.ndarray:
        """Returns rates moved inside the window: forgetting within it, slower than a step."""
        low, high = np.exp(self.log_bounds)
        return np.clip(np.abs(rates.real), 1.01 * low, high / 2) + 1j * np.imag(rates)

    def sections(self, rates: np.ndarray) -> Sections:
        """Returns sections of what the rates have beyond the slowest rate of the window."""
        low = np.exp(self.log_bounds[0])
        return sections_of(self.inside(rates) - low, real=False)

    def rates(self, sections: Sections) -> np.ndarray:
        """Returns the rates of sections: none is slower than the window."""
        return sections.rates() + np.exp(self.log_bounds[0])

    def spread(self, width: int) -> Sections:
        """Returns sections of log-spaced real rates."""
        low, high = np.exp(self.log_bounds)
        middle = np.array([np.sqrt(low * high)])
        return self.sections(np.geomspace(2 * low, high / 4, width) if width > 1 else middle)

    def network(self, rates: np.ndarray) -> LinearRNN:
        """Returns the network: input-normal for one input, output-normal for several."""
        A, b = takenaka_malmquist(rates)
        amplitudes = self.amplitudes(self.columns(rates)).reshape(self.n_inputs, -1).T
        if self.n_inputs == 1:
            return LinearRNN(A, b[:, None], amplitudes.T)
        return LinearRNN(A.T, amplitudes, b[None, :])

    def distance(self, network: LinearRNN) -> float:
        """Returns the L1 distance of the network's kernel, averaged over bins, to the estimate."""
        averages = np.diff(network.step_response(self.edges)[:, 0], axis=0)
        return float(np.abs(averages - self.mean * np.diff(self.edges)[:, None]).sum())


def _hankel(edges: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, _Generator]:
    """Returns the singular values of the Hankel operator of binned values, and its generator."""
    nodes, weights = _hankel_nodes(edges)
    matrix = _hankel_matrix(edges, values, nodes, nodes, weights)
    left, singular, right = scipy.linalg.svd(matrix, full_matrices=False)
    rank = max(1, int(np.sum(singular > 1e-10 * singular[0])))
    shift = edges[1]
    moved = _hankel_matrix(edges, values, nodes + shift, nodes, weights)
    roots = np.sqrt(singular[:rank])
    transition = (left[:, :rank].T @ moved @ right[:rank].T) / roots[:, None] / roots
    return singular, _Generator(transition, shift)


@dataclasses.dataclass(frozen=True)
class _Generator:
    """The shift by one fine step on the dominant states; its logarithm generates the motion."""

    transition: np.ndarray
    step: float

    def rates(self, width: int) -> np.ndarray:
        """Returns the rates of the truncation to `width` states."""
        eigenvalues = np.linalg.eigvals(self.transition[:width, :width]).astype(complex)
        eigenvalues = np.where(np.abs(eigenvalues) < 1e-8, 1e-8, eigenvalues)
        rates = -np.log(eigenvalues) / self.step
        # A negative eigenvalue has no real logarithm and no partner: take its size.
        on_axis = (eigenvalues.imag == 0) & (eigenvalues.real < 0)
        return np.where(on_axis, np.abs(rates.real), rates)


def _hankel_nodes(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Two operators share the lag axis, so half of it is enough for each.
    n = min(_MOST_HANKEL_NODES, 4 * len(edges))
    finest, last = edges[1], edges[-1]
    grid = finest * np.expm1(np.linspace(0, np.log1p(last / finest), n + 1))
    return (grid[1:] + grid[:-1]) / 2, np.diff(grid)


def _hankel_matrix(edges, values, rows, columns, weights) -> np.ndarray:
    lags = rows[:, None] + columns[None, :]
    root = np.sqrt(weights)
    blocks = [
        root[:, None] * _interpolate(edges, values[:, i], lags) * root
        for i in range(values.shape[1])
    ]
    return np.concatenate(blocks, axis=1)


def _interpolate(edges: np.ndarray, values: np.ndarray, lags: np.ndarray) -> np.ndarray:
    centres = (edges[1:] + edges[:-1]) / 2
    return np.interp(lags, [*centres, edges[-1]], [*values, 0.0], right=0.0)


def _hankel_noise(estimate: KernelEstimate, output: int, seed: int) -> float:
    """Returns what the Hankel norm of the estimation error stays below with probability 0.95."""
    covariance = estimate.covariance[output]
    values, vectors = scipy.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    rng = np.random.default_rng(seed)
    n_inputs = estimate.statistics.n_inputs
    nodes, weights = _hankel_nodes(estimate.edges)
    norms = []
    for _ in range(_N_DRAWS):
        draw = (root @ rng.standard_normal(len(values))).reshape(-1, n_inputs)
        matrix = _hankel_matrix(estimate.edges, draw, nodes, nodes, weights)
        norms.append(np.linalg.norm(matrix, 2))
    return float(np.quantile(norms, 0.95))
