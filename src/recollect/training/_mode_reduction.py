"""Fewer exponentials for many: the L2-best smaller set and lower bounds, in closed form.

A kernel of N known modes has all its inner products in closed form, so that nothing is sampled:
no lag grid, no truncation, and a cost that does not depend on how long the memory is.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.linalg
import scipy.optimize

from recollect._core._references import references

# How far beyond the rates of a kernel those of its approximation may go.
_BEYOND = (1e-2, 1e3)
_N_SWAPS = 6


@dataclasses.dataclass(frozen=True)
class Modes:
    """A real kernel `Σ_k a_k e^{-v_k t}`, both members of every conjugate pair listed.

    Discrete time is brought here by `v = (1 - z)/(1 + z)`: it maps the sequences `z^j` onto
    exponentials with the same inner products, if `a` is multiplied by `√2/(1 + z)`.

    Attributes:
        rates: v, shape (mode,), Re v > 0, closed under conjugation.
        residues: a, shape (mode, channel).
    """

    rates: np.ndarray
    residues: np.ndarray

    @property
    def width(self) -> int:
        """Number of exponentials."""
        return len(self.rates)


def close_conjugates(rates: np.ndarray, residues: np.ndarray) -> Modes:
    """Returns the modes of `Re Σ_k a_k e^{-v_k t}`, conjugates merged where they are listed."""
    rates = np.asarray(rates, dtype=complex)
    residues = np.asarray(residues, dtype=complex)
    both = np.concatenate([rates, rates.conj()])
    halves = np.concatenate([residues, residues.conj()]) / 2
    left = np.ones(len(both), dtype=bool)
    found, sums = [], []
    for k, rate in enumerate(both):
        if not left[k]:
            continue
        same = left & (np.abs(both - rate) <= 1e-13 * abs(rate))
        left &= ~same
        found.append(rate)
        sums.append(halves[same].sum(axis=0))
    kept = np.array([np.abs(a).max() > 0 for a in sums])
    if not kept.any():
        kept[0] = True
    rates, residues = np.array(found)[kept], np.array(sums)[kept]
    on_axis = np.abs(rates.imag) <= 1e-13 * np.abs(rates)
    rates[on_axis] = rates[on_axis].real
    residues[on_axis] = residues[on_axis].real
    upper = rates.imag > 0
    return Modes(
        np.concatenate([rates[on_axis], rates[upper], rates[upper].conj()]),
        np.concatenate([residues[on_axis], residues[upper], residues[upper].conj()]),
    )


def to_half_plane(multipliers: np.ndarray, residues: np.ndarray) -> Modes:
    """Returns modes with the inner products of the sequences `Σ_k a_k z_k^j`."""
    z = np.asarray(multipliers, dtype=complex)
    return Modes((1 - z) / (1 + z), residues * (math.sqrt(2) / (1 + z))[:, None])


def triangular_factor(rates: np.ndarray) -> np.ndarray:
    """Returns upper triangular L with `‖Σ_k c_k e^{-v_k t}‖² = ‖L c‖²`, to high relative accuracy.

    Row j holds the modes' coordinates on the j-th function of the orthonormal chain with the same
    rates, `√(2 Re v_j)/(v_k + v_j*) Π_{i<j} (v_k - v_i)/(v_k + v_i*)`: nothing is subtracted.
    """
    n = len(rates)
    factor = np.zeros((n, n), dtype=complex)
    through = np.ones(n, dtype=complex)
    for j in range(n):
        factor[j, j:] = math.sqrt(2 * rates[j].real) * (through / (rates + rates[j].conj()))[j:]
        through = through * (rates - rates[j]) / (rates + rates[j].conj())
    return factor


def _chain_order(rates: np.ndarray) -> np.ndarray:
    return np.argsort(-np.abs(rates), kind="stable")


def _observed_factor(factor: np.ndarray, residues: np.ndarray) -> np.ndarray:
    """Returns R with `‖R b‖² = Σ_channels ‖Σ_k a_k b_k e^{-v_k t}‖²`."""
    stacked = (factor[None] * residues.T[:, None, :]).reshape(-1, factor.shape[1])
    if len(stacked) <= factor.shape[1]:
        return stacked
    return np.asarray(np.linalg.qr(stacked, mode="r"))


def hankel_values(modes: Modes) -> np.ndarray:
    """Returns the Hankel singular values, descending: no width below m leaves less than σ_m."""
    order = _chain_order(modes.rates)
    factor = triangular_factor(modes.rates[order])
    observed = _observed_factor(factor, modes.residues[order])
    return np.linalg.svd(observed @ factor.T, compute_uv=False)


# --- the L2 problem -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Sections:
    """Real rates and second-order sections s² + as + b in logarithms: stable wherever they move."""

    log_rates: np.ndarray
    log_pairs: np.ndarray
    limits: tuple[float, float]

    @property
    def vector(self) -> np.ndarray:
        return np.concatenate([self.log_rates, self.log_pairs.ravel()])

    def moved(self, vector: np.ndarray) -> _Sections:
        k = len(self.log_rates)
        low, high = self.limits
        pairs = np.clip(vector[k:].reshape(-1, 2), [low, 2 * low], [high, 2 * high])
        return _Sections(np.clip(vector[:k], low, high), pairs, self.limits)

    def rates(self) -> np.ndarray:
        a, b = np.exp(self.log_pairs).T if len(self.log_pairs) else (np.zeros(0), np.zeros(0))
        gap = a * a / 4 - b
        large = a / 2 + np.sqrt(gap.astype(complex))
        small = np.where(gap > 0, b / np.where(gap > 0, large, 1), large.conj())
        pairs = np.stack([large, small], axis=1).ravel()
        return np.concatenate([np.exp(self.log_rates).astype(complex), pairs])


def _sections_of(rates: np.ndarray, limits: tuple[float, float]) -> _Sections:
    rates = np.asarray(rates, dtype=complex)
    is_real = np.abs(rates.imag) <= 1e-12 * np.abs(rates)
    singles = np.sort(rates[is_real].real)
    for k in range(1, len(singles)):
        singles[k] = max(singles[k], singles[k - 1] * (1 + 1e-4))
    upper = rates[~is_real & (rates.imag > 0)]
    n_pairs = len(singles) // 2
    left, right = singles[: 2 * n_pairs : 2], singles[1 : 2 * n_pairs : 2]
    a = np.concatenate([2 * upper.real, left + right])
    b = np.concatenate([np.abs(upper) ** 2, left * right])
    return _Sections(np.log(singles[2 * n_pairs :]), np.log(np.stack([a, b], axis=1)), limits)


class _Problem:
    """The squared L2 distance of a kernel from the span of some exponentials.

    Projecting `Σ a_k e^{-v_k t}` away from the rates w leaves an all-pass filter applied to
    `Σ a_k β(v_k) e^{-v_k t}`, `β(v) = Π_j (v - w_j)/(v + w_j*)`; all-pass filters keep norms, so
    the residual of variable projection is `R β(v)` with a fixed matrix R.
    """

    def __init__(self, modes: Modes):
        order = _chain_order(modes.rates)
        self.rates, self.residues = modes.rates[order], modes.residues[order]
        # A section that nothing pulls must not drift to where it is neither stable nor finite.
        speed = np.abs(self.rates)
        self.limits = (
            math.log(_BEYOND[0] * float(self.rates.real.min())),
            math.log(_BEYOND[1] * float(speed.max())),
        )
        factor = triangular_factor(self.rates)
        observed = _observed_factor(factor, self.residues)
        upper = self.rates.imag >= 0
        self.points = self.rates[upper]
        # β at a conjugate is the conjugate: real and imaginary parts at the upper points say all.
        partner = np.zeros((len(self.rates), len(self.points)))
        below = np.zeros_like(partner)
        for k, rate in enumerate(self.rates):
            j = int(np.argmin(np.abs(self.points - (rate if rate.imag >= 0 else rate.conj()))))
            partner[k, j] = 1.0
            below[k, j] = np.sign(rate.imag)
        whole = np.concatenate([observed @ partner, 1j * (observed @ below)], axis=1)
        stacked = np.concatenate([whole.real, whole.imag])
        self.weights = np.linalg.qr(stacked, mode="r")
        self.factor, self.observed = factor, observed

    @property
    def size(self) -> float:
        return float(np.linalg.norm(self.observed @ np.ones(len(self.rates))))

    def residual(self, sections: _Sections) -> np.ndarray:
        value = np.prod(self._factors(sections)[0], axis=0)
        return self.weights @ np.concatenate([value.real, value.imag])

    def distance(self, rates: np.ndarray) -> float:
        """Returns the distance of the kernel from the span of any rates."""
        value = np.ones(len(self.points), dtype=complex)
        for rate in rates:
            value = value * (self.points - rate) / (self.points + rate.conj())
        return float(np.linalg.norm(self.weights @ np.concatenate([value.real, value.imag])))

    def jacobian(self, sections: _Sections) -> np.ndarray:
        factors, slopes = self._factors(sections, slopes=True)
        n = len(factors)
        others = np.ones_like(factors)
        before, after = np.ones(len(self.points), complex), np.ones(len(self.points), complex)
        for i in range(n):
            others[i] *= before
            before = before * factors[i]
            others[n - 1 - i] *= after
            after = after * factors[n - 1 - i]
        k = len(sections.log_rates)
        columns = np.concatenate(
            [
                slopes[:k, 0] * others[:k],
                (slopes[k:] * others[k:, None]).reshape(-1, others.shape[1]),
            ]
        )
        return self.weights @ np.concatenate([columns.real, columns.imag], axis=1).T

    def _factors(self, sections: _Sections, *, slopes: bool = False):
        v = self.points
        w = np.exp(sections.log_rates)[:, None]
        a, b = (
            np.exp(sections.log_pairs).T[:, :, None] if len(sections.log_pairs) else (w[:0], w[:0])
        )
        pole = v * v + a * v + b
        factors = np.concatenate([(v - w) / (v + w), (v * v - a * v + b) / pole])
        if not slopes:
            return factors, factors
        single = -2 * v * w / (v + w) ** 2
        in_a, in_b = -2 * a * v * (v * v + b) / pole**2, 2 * a * b * v / pole**2
        return factors, np.concatenate(
            [np.stack([single, 0 * single], axis=1), np.stack([in_a, in_b], axis=1)]
        )

    def refine(self, rates: np.ndarray, *, n_evaluations: int = 200) -> tuple[np.ndarray, float]:
        """Returns the stationary rates reached from `rates`, and the distance they leave."""
        start = _sections_of(rates, self.limits)
        if len(self.weights) >= len(start.vector):
            with np.errstate(all="ignore"):
                found = scipy.optimize.least_squares(
                    lambda x: self.residual(start.moved(x)),
                    start.vector,
                    jac=lambda x: self.jacobian(start.moved(x)),  # pyright: ignore
                    method="lm",
                    max_nfev=n_evaluations,
                    xtol=1e-10,
                    ftol=1e-11,
                )
            moved = start.moved(found.x)
            best = moved.rates()
        else:
            best = start.rates()
        return best, self.distance(best)


@references("golub1973differentiation", "gugercin2008h2")
def reduce_modes(
    modes: Modes, width: int, *, n_swaps: int = _N_SWAPS
) -> tuple[np.ndarray, float, list[np.ndarray]]:
    """Returns the rates of the best `width` exponentials found for a kernel, and the L2 error left.

    And the rates of the other local optima met, the nearest first, which another norm may prefer.

    Starts from balanced truncation, from the modes that carry most and from those whose removal
    costs least; then single sections are moved to where the error is largest, while that helps.

    Args:
        modes: the kernel.
        width: number of exponentials, a conjugate pair counted as two.
        n_swaps: most moves tried.
    """
    problem = _Problem(modes)
    if width >= modes.width:
        return problem.rates, 0.0, []
    trials = [problem.refine(rates, n_evaluations=60) for rates in _starts(problem, width)]
    best, error = problem.refine(min(trials, key=lambda trial: trial[1])[0])
    # From the two best optima that differ: the second may have the better neighbours.
    ranked = sorted(trials, key=lambda trial: trial[1])
    others = [rates for rates, left in ranked if left > error * (1 + 1e-3)]
    for start in [best, *others[:1]]:
        here = problem.distance(start)
        for _ in range(n_swaps):
            again = [problem.refine(s, n_evaluations=40) for s in _swapped(problem, start)]
            if not again:
                break
            trials += again
            rates, left = problem.refine(min(again, key=lambda trial: trial[1])[0])
            if not left < here * (1 - 1e-6):
                break
            start, here = rates, left
        if here < error:
            best, error = start, here
    others, last = [], error
    for rates, left in sorted(trials, key=lambda trial: trial[1]):
        if left > last * (1 + 1e-3):
            others.append(rates)
            last = left
    return best, error, others


def _starts(problem: _Problem, width: int) -> list[np.ndarray]:
    found = [
        _balanced(problem, width),
        _dominant(problem, width),
        _cheapest(problem, width),
        _grown(problem, width),
    ]
    return [rates for rates in found if rates is not None and len(rates) == width]


def _balanced(problem: _Problem, width: int) -> np.ndarray | None:
    left, singular, right = scipy.linalg.svd(
        problem.observed @ problem.factor.T, check_finite=False
    )
    if width > len(singular) or singular[width - 1] <= 1e-15 * singular[0]:
        return None
    root = np.sqrt(singular[:width])
    read = (left[:, :width].conj().T @ problem.observed) / root[:, None]
    write = (problem.factor.T @ right[:width].conj().T) / root
    return _conjugate_set(np.linalg.eigvals(read @ (problem.rates[:, None] * write)), width)


def _conjugate_set(rates: np.ndarray, width: int) -> np.ndarray | None:
    rates = rates[np.isfinite(rates) & (np.abs(rates) > 0)]
    rates = np.maximum(np.abs(rates.real), 1e-6 * np.abs(rates)) + 1j * rates.imag
    is_real = np.abs(rates.imag) <= 1e-8 * np.abs(rates)
    upper = rates[~is_real & (rates.imag > 0)][: width // 2]
    singles = np.sort(rates[is_real].real)[: width - 2 * len(upper)]
    while len(singles) + 2 * len(upper) < width:
        scale = np.abs(rates).min() if len(rates) else 1.0
        singles = np.append(singles, scale * (1 + len(singles)))
    return np.concatenate([singles.astype(complex), upper, upper.conj()])


def _groups(problem: _Problem) -> list[np.ndarray]:
    """Returns indices of the modes, conjugate pairs together."""
    groups = []
    for k, rate in enumerate(problem.rates):
        if rate.imag > 0:
            groups.append(np.array([k, int(np.argmin(np.abs(problem.rates - rate.conj())))]))
        elif rate.imag == 0:
            groups.append(np.array([k]))
    return groups


def _filled(problem: _Problem, groups: list[np.ndarray], width: int) -> np.ndarray | None:
    """Returns the rates of the first groups that fit into `width` units."""
    chosen: list[int] = []
    for group in groups:
        if len(chosen) + len(group) <= width:
            chosen.extend(group.tolist())
    rates = problem.rates[chosen]
    if len(chosen) == width - 1:
        rates = np.append(rates, np.median(np.abs(problem.rates)) + 0j)
    return rates if len(rates) == width else None


def _dominant(problem: _Problem, width: int) -> np.ndarray | None:
    size = np.linalg.norm(problem.residues, axis=1) / np.sqrt(2 * problem.rates.real)
    groups = sorted(_groups(problem), key=lambda g: -float(size[g].max()))
    return _filled(problem, groups, width)


def _cheapest(problem: _Problem, width: int) -> np.ndarray | None:
    """Removes groups one at a time, each the one whose loss leaves least."""
    groups = _groups(problem)
    if len(groups) > 256:
        return None
    v = problem.points
    count = sum(len(g) for g in groups)
    ratios = [
        np.prod([(v - problem.rates[k]) / (v + problem.rates[k].conj()) for k in g], axis=0)
        for g in groups
    ]
    alive = list(range(len(groups)))
    while count > width:
        # β of the others: it vanishes at every kept mode, so only removed ones remain.
        values = np.ones((len(alive), len(v)), dtype=complex)
        for row, i in enumerate(alive):
            for j in alive:
                if j != i:
                    values[row] *= ratios[j]
        left = np.linalg.norm(
            problem.weights @ np.concatenate([values.real, values.imag], axis=1).T, axis=0
        )
        out = alive.pop(int(np.argmin(left)))
        count -= len(groups[out])
    return _filled(problem, [groups[i] for i in alive], width)


def _grown(problem: _Problem, width: int) -> np.ndarray | None:
    """Adds groups one at a time, each where it leaves least, and refines as it goes."""
    groups = _groups(problem)
    if len(groups) > 256:
        return None
    rates = np.zeros(0, dtype=complex)
    while len(rates) < width:
        fitting = [problem.rates[g] for g in groups if len(g) <= width - len(rates)]
        if not fitting:
            return _filled(problem, groups, width)
        left = [problem.distance(np.concatenate([rates, added])) for added in fitting]
        rates = np.concatenate([rates, fitting[int(np.argmin(left))]])
        if len(rates) < width:
            rates = problem.refine(rates, n_evaluations=12)[0]
    return rates


def _swapped(problem: _Problem, rates: np.ndarray) -> list[np.ndarray]:
    """Returns starts in which the least useful section stands where the error is largest."""
    uppers = [k for k, rate in enumerate(rates) if rate.imag > 0]
    if not uppers:
        return []

    def without(k: int) -> np.ndarray:
        partner = int(np.argmin(np.abs(rates - rates[k].conj())))
        return np.delete(rates, [k, partner])

    cost = {k: problem.distance(without(k)) for k in uppers}
    victims = sorted(uppers, key=lambda k: cost[k])[:3]
    starts = []
    for victim in victims:
        kept = without(victim)
        candidates = problem.points[problem.points.imag > 0]
        gain = [problem.distance(np.concatenate([kept, [c, c.conj()]])) for c in candidates]
        for k in np.argsort(gain)[:2]:
            c = candidates[k]
            starts.append(np.concatenate([kept, [c, c.conj()]]))
    return starts


def project_modes(modes: Modes, rates: np.ndarray) -> np.ndarray:
    """Returns the L2-best amplitudes at given rates, shape (width, channel); nothing cancels twice.

    Args:
        modes: the kernel.
        rates: distinct, closed under conjugation.
    """
    order = _chain_order(rates)
    w = rates[order]
    factor = triangular_factor(w)
    coordinates = np.zeros((len(w), modes.residues.shape[1]), dtype=complex)
    through = np.ones(modes.width, dtype=complex)
    for j, rate in enumerate(w):
        coordinates[j] = (math.sqrt(2 * rate.real) * through / (modes.rates + rate.conj())) @ (
            modes.residues
        )
        through = through * (modes.rates - rate) / (modes.rates + rate.conj())
    amplitudes = np.zeros_like(coordinates)
    amplitudes[order] = scipy.linalg.solve_triangular(factor, coordinates)
    # A real kernel: rounding must not leave a pair that is not conjugate.
    partner = np.array([int(np.argmin(np.abs(rates - rate.conj()))) for rate in rates])
    return 0.5 * (amplitudes + amplitudes[partner].conj())


# --- several inputs and several outputs on one state ---------------------------------------------


@dataclasses.dataclass(frozen=True)
class MatrixModes:
    """A real matrix kernel `Σ_k c_k e^{-v_k t} b_kᵀ`, conjugates listed.

    Attributes:
        rates: shape (mode,).
        inputs: b, shape (mode, in).
        outputs: c, shape (mode, out).
    """

    rates: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray

    @property
    def residues(self) -> np.ndarray:
        """c bᵀ, shape (mode, out * in)."""
        both = self.outputs[:, :, None] * self.inputs[:, None, :]
        return both.reshape(len(self.rates), -1)


def measure_modes(modes: Modes) -> float:
    """Returns the L2 norm of a sum of modes."""
    order = _chain_order(modes.rates)
    return float(np.linalg.norm(triangular_factor(modes.rates[order]) @ modes.residues[order]))


def measure_difference(first: Modes, second: Modes) -> float:
    """Returns the L2 distance of two sums of modes."""
    return measure_modes(
        Modes(
            np.concatenate([first.rates, second.rates]),
            np.concatenate([first.residues, -second.residues]),
        )
    )


@references("gugercin2008h2")
def reduce_matrix(modes: MatrixModes, width: int, *, n_rounds: int = 60) -> MatrixModes:
    """Returns fewer modes with one direction in and one out each: tangential interpolation.

    Starts from balanced truncation; each round interpolates at the mirror images of the rates
    along the directions found, the condition that an L2 optimum meets, and the best is kept.

    Args:
        modes: the kernel.
        width: number of modes.
        n_rounds: most rounds.
    """
    v = modes.rates
    whole = Modes(v, modes.residues)
    sums = 1 / (v[:, None] + v.conj())
    reach = _hermitian_root(sums * (modes.inputs @ modes.inputs.conj().T))
    seen = _hermitian_root((sums * (modes.outputs @ modes.outputs.conj().T)).conj())
    left, singular, right = scipy.linalg.svd(seen.conj().T @ reach)
    if width > len(singular) or singular[width - 1] <= 1e-14 * singular[0]:
        width = max(1, int(np.sum(singular > 1e-13 * singular[0])))
    root = np.sqrt(singular[:width])
    read = (seen @ left[:, :width] / root).conj().T
    write = reach @ right[:width].conj().T / root
    starts = [_diagonalised(read, write, modes), *_strongest(modes, width)]
    # From several starts: interpolation finds the optimum next to where it begins.
    found = [_interpolated(start, modes, whole, n_rounds) for start in starts]
    return min(found, key=lambda pair: pair[1])[0]


def _strongest(modes: MatrixModes, width: int) -> list[MatrixModes]:
    """Returns the modes that carry most, by their L2 norms and by their Hankel norms."""
    size = np.linalg.norm(modes.residues, axis=1)
    found = []
    for scale in (np.sqrt(modes.rates.real), modes.rates.real):
        chosen: list[int] = []
        for k in np.argsort(-size / scale, kind="stable"):
            same = np.abs(modes.rates - modes.rates[k].conj()) <= 1e-12 * np.abs(modes.rates[k])
            pair = [k] if modes.rates[k].imag == 0 else [k, *np.flatnonzero(same)[:1]]
            if k not in chosen and len(chosen) + len(pair) <= width:
                chosen += [int(index) for index in pair]
        if len(chosen) == width:
            found.append(
                MatrixModes(modes.rates[chosen], modes.inputs[chosen], modes.outputs[chosen])
            )
    return found


def _interpolated(
    current: MatrixModes, modes: MatrixModes, whole: Modes, n_rounds: int
) -> tuple[MatrixModes, float]:
    """Returns the best of the tangential interpolants met from a start, and what it leaves."""
    v = modes.rates
    best, error = current, measure_difference(whole, Modes(current.rates, current.residues))
    calm = 0
    for _ in range(n_rounds):
        gap = 1 / (v[:, None] + current.rates)
        write = gap * (modes.inputs @ current.inputs.T)
        read = (gap * (modes.outputs @ current.outputs.T)).T
        try:
            read = np.linalg.solve(read @ write, read)
            current = _diagonalised(read, write, modes)
        except np.linalg.LinAlgError:
            break
        left = measure_difference(whole, Modes(current.rates, current.residues))
        calm = 0 if left < error * (1 - 1e-4) else calm + 1
        if left < error:
            best, error = current, left
        if calm > 5 or not math.isfinite(left):
            break
    return best, error


def _diagonalised(read: np.ndarray, write: np.ndarray, modes: MatrixModes) -> MatrixModes:
    values, vectors = np.linalg.eig(read @ (modes.rates[:, None] * write))
    inputs = np.linalg.solve(vectors, read @ modes.inputs)
    outputs = (modes.outputs.T @ write @ vectors).T
    rates = np.maximum(np.abs(values.real), 1e-9 * np.abs(values)) + 1j * values.imag
    on_axis = np.abs(rates.imag) <= 1e-9 * np.abs(rates)
    kept = np.flatnonzero(on_axis | (rates.imag > 0))
    parts = []
    for k in kept:
        # A real mode's factors are real up to one phase, which the product does not see.
        b, c, w = inputs[k], outputs[k], rates[k]
        if on_axis[k]:
            pivot = b[np.argmax(np.abs(b))]
            phase = pivot / abs(pivot) if pivot != 0 else 1.0
            parts.append((complex(w.real), (b / phase).real + 0j, (c * phase).real + 0j))
        else:
            parts += [(w, b, c), (w.conj(), b.conj(), c.conj())]
    return MatrixModes(
        np.array([p[0] for p in parts]),
        np.array([p[1] for p in parts]),
        np.array([p[2] for p in parts]),
    )


# --- lower bounds -------------------------------------------------------------------------------


def bound_reduction(
    rates: np.ndarray, residues: np.ndarray, width: int, *, dt: float | None, n_outputs: int
) -> dict[str, float]:
    """Returns what no network of `width` units can be nearer than, in each norm.

    L1: σ_{m+1} of the Hankel operator (Adamjan, Arov, Krein). L2: the tail of the Hankel operator
    weighted by `1/√(πt)`, whose Hilbert-Schmidt norm is the L2 norm. Linf: the tail of the Hankel
    operators of `e^{-λt/2} ρ`, times λ, the largest over λ. In discrete time their analogues.

    Args:
        rates: of the kernel's modes, continuous; in discrete time the multipliers z.
        residues: `ρ = Σ a_k e^{-w_k t}`, or `K_j = Σ a_k z_k^j`; shape (mode, channel).
        width: number of units.
        dt: step, None in continuous time.
        n_outputs: number of outputs among the channels.
    """
    root = math.sqrt(n_outputs)
    unit = 1.0 if dt is None else dt
    if width >= len(rates):
        return {"l1": 0.0, "l2": 0.0, "linf": 0.0}

    def tail(values: np.ndarray, rounding: float) -> float:
        left = np.maximum(values[width:] - rounding * values[0], 0.0)
        return float(np.sqrt(np.sum(left**2)))

    def sums(k: np.ndarray) -> np.ndarray:
        return k[:, None] + k.conj() if dt is None else 1 - k[:, None] * k.conj()

    if dt is None:
        values = hankel_values(Modes(rates, residues))
    else:
        values = hankel_values(_bilinear(rates, residues))
    found = {"l1": max(float(values[width]) - 1e-12 * float(values[0]), 0.0) / root}
    found["l2"] = tail(_weighted_values(sums(rates), residues), 1e-7) / math.sqrt(unit)
    best = 0.0
    if dt is None:
        slowest = rates.real.min()
        for shift in np.geomspace(0.03 * slowest, 30 * np.abs(rates).max(), 24):
            values = hankel_values(Modes(rates + shift / 2, residues))
            best = max(best, shift * tail(values, 1e-12))
    else:
        slowest = -math.log(max(float(np.abs(rates).max()), 1e-300))
        for decay in np.geomspace(max(0.03 * slowest, 1e-12), 20.0, 24):
            values = hankel_values(_bilinear(rates * math.exp(-decay / 2), residues))
            best = max(best, -math.expm1(-decay) * tail(values, 1e-12))
    found["linf"] = best / root / unit
    return found


def _bilinear(multipliers: np.ndarray, residues: np.ndarray) -> Modes:
    # The map that keeps Hankel singular values rather than inner products.
    z = np.asarray(multipliers, dtype=complex)
    return Modes((1 - z) / (1 + z), residues * (2 / (1 + z) ** 2)[:, None])


def _weighted_values(sums: np.ndarray, residues: np.ndarray) -> np.ndarray:
    reach = _hermitian_root(1 / np.sqrt(sums))
    seen = (1 / np.sqrt(sums)).T * (residues.conj() @ residues.T)
    return np.linalg.svd(_hermitian_root(seen).conj().T @ reach, compute_uv=False)


def _hermitian_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = scipy.linalg.eigh((matrix + matrix.conj().T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0.0))
