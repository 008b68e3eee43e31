"""Critical points of the exact loss: minimisers, and the affine spaces where units coincide."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.optimize

from recollect._core._check import host_float64, invalid, require_count, require_positive
from recollect._core._functional import AbstractLinearFunctional
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.approximation import fit_exponential_sum, predict_existence
from recollect.models import DiagonalRNN
from recollect.targets import kernel_quadrature
from recollect.training._loss import ExactLoss, exact_loss
from recollect.training._plateau_starts import stirling

_EPS = float(np.finfo(float).eps)


@dataclasses.dataclass(frozen=True)
class Minimiser:
    """The best sum of d real exponentials in least squares, with its certificate.

    Attributes:
        amplitudes: shape (width,).
        rates: increasing, shape (width,).
        loss: J there.
        residuals: shape (2, width): `L̂(w_i) - L(w_i)` and `L̂'(w_i) - L'(w_i)`, each over the
            size of the sum it is the difference of (Aigrain-Williams; zero at a critical point).
        curvature: eigenvalues of the Hessian, increasing, shape (2 width,).
        bend: B_i, second derivative in s of `L̂ - L` at w_i: it decides what happens when a unit
            is split, shape (width,).
        existence: whether theory promises a minimiser (`approximation.predict_existence`).
        status: `ok`, `no_minimiser` if rates ran together or away, `width_beyond_rank` if fewer
            units give the target exactly, `not_converged`.
    """

    amplitudes: np.ndarray
    rates: np.ndarray
    loss: float
    residuals: np.ndarray
    curvature: np.ndarray
    bend: np.ndarray
    existence: Status
    status: Status

    @property
    def width(self) -> int:
        """Number of exponentials."""
        return len(self.rates)


@on_one_thread
@references("li2021curse", "kammler1979least")
def find_minimiser(
    target: AbstractLinearFunctional | ExactLoss,
    width: int,
    *,
    n_starts: int = 8,
    key: int = 0,
) -> Minimiser:
    """Returns the best width-d point of the loss, certified by its Aigrain-Williams residuals.

    The least-squares fit of `approximation.fit_exponential_sum` with real rates and random starts
    are each descended over log-rates (the amplitudes solve a linear system) and finished by
    Newton's method on the exact gradient and Hessian; the lowest is returned.

    Args:
        target: a kernel with one input and output, or its `exact_loss`.
        width: d.
        n_starts: random starts beside the fit.
        key: seed of the starts.

    Returns:
        The point, its loss, residuals and curvature.

    Raises:
        ValueError: if the target is zero or its loss is not finite.

    Source: Li et al. 2021, definition D.2, equations (133)-(134), (144)-(145).
    """
    width = require_count("width", width)
    require_count("n_starts", n_starts, minimum=0)
    loss = _as_loss(target)
    if not loss.norm_squared > 0:
        raise invalid("target", "a kernel other than zero", "a norm of zero")
    kernel = loss.target
    existence = Status("undecided", "nothing is proved for coloured inputs")
    if loss.spectrum is None:
        existence = predict_existence(kernel, is_completely_monotone=_is_positive_sum(kernel))
    rng = np.random.default_rng(require_count("key", key, minimum=0))
    spread = (math.log(0.03), math.log(30))
    starts = [
        np.sort(rng.uniform(*spread, width) - math.log(_timescale(kernel))) for _ in range(n_starts)
    ]
    transform = _node_transform(loss)
    points = [
        _descend(loss, transform, start) for start in (*_fitted_start(kernel, width), *starts)
    ]
    _, w = min(points, key=lambda point: point[0])
    a, w = _newton(loss, _amplitudes(loss, w, _laplace(loss, w, 0)), w)
    return _certified(loss, a, w, existence)


def _certified(loss: ExactLoss, a: np.ndarray, w: np.ndarray, existence: Status) -> Minimiser:
    order = np.argsort(w)
    a, w = a[order], w[order]
    found = measure_residuals(loss, a, w)
    value = float(loss(a, w))
    curvature = np.linalg.eigvalsh(np.asarray(loss.hessian(a, w)))
    size = math.sqrt(loss.norm_squared)
    status = Status()
    gaps = np.diff(np.log(w))
    # Two rates on their way together carry large amplitudes that cancel.
    large = np.abs(a) / np.sqrt(2 * w) > 10 * size
    cancelling = (gaps < 0.03) & (a[:-1] * a[1:] < 0) & large[:-1] & large[1:]
    weak = np.abs(a) / np.sqrt(2 * w) < 1e-7 * size
    if cancelling.any() or np.min(gaps, initial=math.inf) < 1e-4:
        status = Status("no_minimiser", f"two rates ran together at {w[np.argmin(np.diff(w))]:.6g}")
    elif weak.any() or (value < 1e-20 * loss.norm_squared and curvature[0] < 1e-12 * curvature[-1]):
        status = Status("width_beyond_rank", "fewer exponentials give this loss")
    elif np.abs(found).max() > 1e-9:
        status = Status("not_converged", f"a residual of {np.abs(found).max():.1e} is left")
    return Minimiser(a, w, value, found, curvature, measure_bend(loss, a, w), existence, status)


@references("li2021curse", "kammler1979least")
def measure_residuals(loss: ExactLoss, amplitudes: Any, rates: Any) -> np.ndarray:
    """Returns the Aigrain-Williams residuals `L̂(w_i)-L(w_i)`, `L̂'(w_i)-L'(w_i)`, shape (2, width).

    Each is divided by the sum of the sizes of its terms: 1e-16 is rounding, 1 is nothing.

    Args:
        loss: from `training.exact_loss`.
        amplitudes: shape (width,).
        rates: shape (width,).

    Raises:
        ValueError: if shapes differ or a rate is not positive.
    """
    a, w = _point("measure_residuals", amplitudes, rates)
    rows = []
    for order in (0, 1):
        error = loss._mismatch(w, a, w, order=order)
        rows.append(error / (_term_sizes(loss, a, w, order) + 1e-300))
    return np.stack(rows)


@references("li2021curse")
def measure_bend(loss: ExactLoss, amplitudes: Any, rates: Any) -> np.ndarray:
    """Returns `B_k = Σ_i 2a_i/(w_i+w_k)³ - L''(w_k)`, the second derivative of `L̂ - L` at w_k.

    For one exponential it is the B of proposition D.1. A value below 1e-10 of its terms is
    returned as zero: where the fit is exact, B is zero and only rounding is left.

    Args:
        loss: from `training.exact_loss`.
        amplitudes: shape (width,).
        rates: shape (width,).

    Raises:
        ValueError: if shapes differ or a rate is not positive.
    """
    a, w = _point("measure_bend", amplitudes, rates)
    bend = loss._mismatch(w, a, w, order=2)
    return np.where(np.abs(bend) > 1e-10 * _term_sizes(loss, a, w, 2), bend, 0.0)


@dataclasses.dataclass(frozen=True)
class CriticalSpace:
    """Where several units of a wider network share the rates of a narrower critical point.

    `{w_k = ŵ_{j(k)}, Σ_{k in class j} a_k = â_j}`: every point of it is critical.

    Attributes:
        amplitudes: â_j of the narrow critical point, shape (d,).
        rates: ŵ_j, shape (d,).
        labels: j(k), shape (width,); every label occurs.
        bend: B_j, shape (d,).
    """

    amplitudes: np.ndarray
    rates: np.ndarray
    labels: np.ndarray
    bend: np.ndarray

    @property
    def width(self) -> int:
        """Units m."""
        return len(self.labels)

    @property
    def dimension(self) -> int:
        """m - d."""
        return self.width - len(self.rates)

    def point(self, free: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns amplitudes and rates of one point of the space.

        Args:
            free: amplitudes of all units but the last of each class, in order, shape
                (dimension,); equal shares if omitted.
        """
        a = np.empty(self.width)
        counts = np.bincount(self.labels, minlength=len(self.rates))
        if free is None:
            a[:] = (self.amplitudes / counts)[self.labels]
            return a, self.rates[self.labels]
        free = np.atleast_1d(host_float64("free", free, owner="CriticalSpace.point"))
        if free.shape != (self.dimension,):
            raise invalid("free", f"shape ({self.dimension},)", f"shape {free.shape}")
        used = 0
        for label, total in enumerate(self.amplitudes):
            units = np.flatnonzero(self.labels == label)
            a[units[:-1]] = free[used : used + len(units) - 1]
            a[units[-1]] = total - a[units[:-1]].sum()
            used += len(units) - 1
        return a, self.rates[self.labels]

    def directions(self) -> np.ndarray:
        """Returns orthonormal directions of the space in (a, w), shape (dimension, 2 width)."""
        rows = []
        for label in range(len(self.rates)):
            units = np.flatnonzero(self.labels == label)
            for n in range(1, len(units)):
                row = np.zeros(2 * self.width)
                row[units[:n]] = 1 / math.sqrt(n * (n + 1))
                row[units[n]] = -n / math.sqrt(n * (n + 1))
                rows.append(row)
        return np.array(rows).reshape(-1, 2 * self.width)


@references("li2021curse")
def list_critical_spaces(minimiser: Minimiser, width: int) -> Iterator[CriticalSpace]:
    """Returns an iterator over the `d! S(m, d)` critical spaces that a width-d point induces.

    Args:
        minimiser: a nondegenerate critical point, from `find_minimiser`.
        width: m ≥ d.

    Raises:
        ValueError: if the width is below that of the minimiser.

    Source: Li et al. 2021, theorem D.1.
    """
    width = require_count("width", width)
    d = minimiser.width
    if width < d:
        raise invalid("width", f"at least the {d} units of the minimiser", width)
    for labels in itertools.product(range(d), repeat=width):
        if len(set(labels)) == d:
            yield CriticalSpace(
                minimiser.amplitudes, minimiser.rates, np.array(labels), minimiser.bend
            )


@dataclasses.dataclass(frozen=True)
class CriticalCounts:
    """How many critical spaces there are beside the global minima, in exact integers.

    Attributes:
        spaces: `d! S(m, d)` for d = 1 … m-1, that many at least.
        minima: m!, the relabellings of the global minimum.
        ratio_bound: `(m-1)/2 + [C(m,3) + 3 C(m,4)]/(m(m-1))`, which spaces/minima exceeds.
    """

    spaces: tuple[int, ...]
    minima: int
    ratio_bound: float

    @property
    def total(self) -> int:
        """All spaces together."""
        return sum(self.spaces)

    @property
    def ratio(self) -> float:
        """Spaces per global minimum."""
        return self.total / self.minima


@references("li2021curse")
def count_critical_spaces(width: int, n_modes: int | None = None) -> CriticalCounts:
    """Returns the number of coincided critical spaces of a width-m loss, and of global minima.

    For a completely monotone target, or one with m exponentials of positive amplitude, every
    width d < m has a nondegenerate minimiser and induces `d! S(m, d)` spaces.

    Args:
        width: m.
        n_modes: number of exponentials of the target if it has fewer than m: only widths up to
            that one have nondegenerate minimisers.

    Raises:
        ValueError: if the width or number of modes is not positive.

    Source: Li et al. 2021, theorems D.1, D.2 and D.6.
    """
    m = require_count("width", width)
    last = m - 1
    if n_modes is not None:
        last = min(last, require_count("n_modes", n_modes))
    spaces = tuple(math.factorial(d) * stirling(m, d) for d in range(1, last + 1))
    bound = 0.0
    if m > 1:
        bound = (m - 1) / 2 + (math.comb(m, 3) + 3 * math.comb(m, 4)) / (m * (m - 1))
    return CriticalCounts(spaces, math.factorial(m), bound)


@dataclasses.dataclass(frozen=True)
class CriticalPoint:
    """What kind of point of the loss this is.

    Attributes:
        kind: `"regular"` (the gradient is not zero), `"minimum"` (strict, or an exact fit),
            `"saddle"`, `"stable"` (a degenerate local minimum: flat along its critical space,
            rising across it) or `"flat"` (semidefinite with more zero eigenvalues than the
            critical space explains).
        gradient_norm: over the size of the gradient's terms.
        inertia: numbers of negative, zero and positive eigenvalues of the Hessian.
        curvature: the eigenvalues, increasing.
        rank: of the Hessian.
        rank_bound: m + d, with d the number of distinct rates.
        escape_rate: -λ_min of a saddle: the growth rate of gradient flow off it; 0 otherwise.
    """

    kind: str
    gradient_norm: float
    inertia: tuple[int, int, int]
    curvature: np.ndarray
    rank: int
    rank_bound: int
    escape_rate: float


@references("li2021curse")
def classify_point(
    loss: ExactLoss,
    amplitudes: Any,
    rates: Any,
    *,
    rtol: float = 1e-7,
    gradient_rtol: float = 1e-9,
) -> CriticalPoint:
    """Returns whether a point is critical, and if so a minimum, a saddle or degenerate but stable.

    Args:
        loss: from `training.exact_loss`.
        amplitudes: shape (width,).
        rates: shape (width,); equal ones are a coincided group.
        rtol: an eigenvalue below this fraction of the largest counts as zero. At the default a
            critical point found to 1e-14 has its zero eigenvalues two orders below.
        gradient_rtol: gradient over the size of its terms that counts as zero.

    Returns:
        The kind with the evidence.

    Raises:
        ValueError: if shapes differ, a rate is not positive or `rtol` is not.

    Assumptions: a semidefinite Hessian whose zero eigenvalues are just the m - d directions of
    the critical space means a local minimum (Morse-Bott); with more of them second order cannot
    tell, and the kind is `"flat"`.
    """
    a, w = _point("classify_point", amplitudes, rates)
    require_positive("rtol", rtol)
    m = len(w)
    gradient = np.asarray(loss.gradient(a, w))
    # Terms of the sums in the gradient, of which a zero gradient is the cancelled rest.
    sizes = 2 * np.concatenate([_term_sizes(loss, a, w, 0), np.abs(a) * _term_sizes(loss, a, w, 1)])
    relative = float(np.linalg.norm(gradient) / max(float(np.linalg.norm(sizes)), 1e-300))
    curvature = np.linalg.eigvalsh(np.asarray(loss.hessian(a, w)))
    small = rtol * np.abs(curvature).max()
    negative, positive = int((curvature < -small).sum()), int((curvature > small).sum())
    zero = 2 * m - negative - positive
    groups = len(np.unique(w))
    if relative > gradient_rtol:
        kind = "regular"
    elif negative:
        kind = "saddle"
    elif zero == 0 or float(loss(a, w)) <= 1e-14 * loss.norm_squared:
        kind = "minimum"
    else:
        kind = "stable" if zero == m - groups else "flat"
    return CriticalPoint(
        kind,
        relative,
        (negative, zero, positive),
        curvature,
        negative + positive,
        m + groups,
        float(-curvature[0]) if negative else 0.0,
    )


@references("li2021curse")
def predict_inertia(space: CriticalSpace, amplitudes: Any) -> tuple[int, int, int]:
    """Returns the signs of the Hessian's eigenvalues at a point of a critical space, in closed form.

    The Hessian splits into that of the narrow minimiser (2d positive), the m - d directions of
    the space (zero), and for each class the moves of its rates with `Σ a_k δw_k = 0`, on which it
    is `2 B_j Σ a_k δw_k²`. With p units of the sign of â_j, q of the other and z of amplitude zero
    that form has p-1 directions of the sign of `B_j â_j`, q of the other, and z zeros. So a class
    of several units is stable for B_j â_j > 0 if no unit has the other sign, and for B_j â_j < 0
    if exactly one has the sign of â_j. Proposition D.1 is m = 2, d = 1; for general m and d the
    rule is ours.

    Args:
        space: from `list_critical_spaces`.
        amplitudes: of the units at the point, shape (width,).

    Returns:
        Numbers of negative, zero and positive eigenvalues.

    Raises:
        ValueError: if there is not one amplitude per unit.

    Source: generalises Li et al. 2021, proposition D.1.
    """
    a = np.atleast_1d(host_float64("amplitudes", amplitudes, owner="predict_inertia"))
    if a.shape != (space.width,):
        raise invalid("amplitudes", f"shape ({space.width},)", f"shape {a.shape}")
    d = len(space.rates)
    negative, zero, positive = 0, space.dimension, 2 * d
    for label, (total, bend) in enumerate(zip(space.amplitudes, space.bend, strict=True)):
        shares = a[space.labels == label] * np.sign(total)
        same, other = int((shares > 0).sum()), int((shares < 0).sum())
        zero += int((shares == 0).sum())
        if bend == 0:
            zero += same + other - 1
        elif bend * total > 0:
            positive, negative = positive + same - 1, negative + other
        else:
            positive, negative = positive + other, negative + same - 1
    return negative, zero, positive


@dataclasses.dataclass(frozen=True)
class TwoUnitLine:
    """The critical line of two units that share the best single exponential (proposition D.1).

    Attributes:
        amplitude: ã.
        rate: w̃.
        bend: B = ã/(4w̃³) - L''(w̃).
        stable: `"outside"` if the points with a_1 < 0 or a_1 > ã are stable and those between are
            saddles (B ã < 0), `"inside"` for the reverse.
        minimiser: the width-1 minimiser.
    """

    amplitude: float
    rate: float
    bend: float
    stable: str
    minimiser: Minimiser

    def matrix(self, first: float) -> np.ndarray:
        """Returns `M = a aᵀ/(4w̃³) + 2B diag(a)` at (first, ã - first), shape (2, 2)."""
        a = np.array([first, self.amplitude - first])
        return np.outer(a, a) / (4 * self.rate**3) + 2 * self.bend * np.diag(a)

    def determinant(self, first: float) -> float:
        """Returns `det M = 2B a_1 a_2 (2B + ã²/(4w̃³ ã))`, zero at a_1 = 0 and a_1 = ã only."""
        second = self.amplitude - first
        factor = 2 * self.bend + self.amplitude / (4 * self.rate**3)
        return float(2 * self.bend * first * second * factor)


@references("li2021curse")
def predict_two_unit_line(target: AbstractLinearFunctional | ExactLoss) -> TwoUnitLine:
    """Returns where on the line `a_1 + a_2 = ã, w_1 = w_2 = w̃` learning ends and where it passes.

    The line's points are critical. Which of them are stable depends on the sign of B alone: for
    B ã < 0 (two exponentials of positive amplitude, `(1+t)^-2`) those outside 0 < a_1 < ã.

    Args:
        target: a kernel, or its `exact_loss`.

    Raises:
        ValueError: if the loss is one for a coloured input.

    Source: Li et al. 2021, proposition D.1.
    """
    if isinstance(target, ExactLoss) and target.spectrum is not None:
        raise invalid(
            "target",
            "a loss for white noise",
            "a coloured one",
            "use list_critical_spaces and predict_inertia, which hold for every input",
        )
    best = find_minimiser(target, 1)
    bend = float(best.bend[0])
    return TwoUnitLine(
        float(best.amplitudes[0]),
        float(best.rates[0]),
        bend,
        "outside" if bend * float(best.amplitudes[0]) < 0 else "inside",
        best,
    )


@references("li2021curse")
def measure_plane(
    loss: ExactLoss,
    amplitudes: Any,
    rates: Any,
    directions: Sequence[Any],
    x: Any,
    y: Any,
) -> np.ndarray:
    """Returns the loss on a plane through a point, shape (y, x); NaN where a rate is not positive.

    Args:
        loss: from `training.exact_loss`.
        amplitudes: of the origin, shape (width,).
        rates: of the origin, shape (width,).
        directions: two vectors in (a, w), shape (2 width,) each.
        x: coordinates along the first, shape (x,).
        y: coordinates along the second, shape (y,).

    Raises:
        ValueError: if shapes do not fit or a rate of the origin is not positive.
    """
    a, w = _point("measure_plane", amplitudes, rates)
    m = len(w)
    frame = np.stack([host_float64("directions", d, owner="measure_plane") for d in directions])
    if frame.shape != (2, 2 * m):
        raise invalid("directions", f"two of shape ({2 * m},)", f"shape {frame.shape}")
    steps = np.stack(np.meshgrid(np.asarray(x, float), np.asarray(y, float)), axis=-1) @ frame
    theta = np.concatenate([a, w]) + steps
    inside = (theta[..., m:] > 0).all(axis=-1)
    values = np.full(inside.shape, np.nan)
    values[inside] = np.asarray(loss(theta[inside][:, :m], theta[inside][:, m:]))
    return values


def _as_loss(target: AbstractLinearFunctional | ExactLoss) -> ExactLoss:
    return target if isinstance(target, ExactLoss) else exact_loss(target)


def _point(owner: str, amplitudes: Any, rates: Any) -> tuple[np.ndarray, np.ndarray]:
    a = np.atleast_1d(host_float64("amplitudes", amplitudes, owner=owner))
    w = np.atleast_1d(host_float64("rates", rates, owner=owner))
    if a.ndim != 1 or a.shape != w.shape:
        raise invalid("rates", f"shape {a.shape}, as the amplitudes", f"shape {w.shape}")
    if (w <= 0).any():
        raise invalid("rates", "positive rates", f"{w.min():g}")
    return a, w


def _laplace(loss: ExactLoss, points: np.ndarray, derivative: int) -> np.ndarray:
    """Returns the target's overlap with `e^{-wt}` in the input's spectrum: L(w) for white noise."""
    return -loss._mismatch(points, np.zeros_like(points), points, order=derivative)


def _term_sizes(loss: ExactLoss, a: np.ndarray, w: np.ndarray, order: int) -> np.ndarray:
    """Returns what the terms of the error's transform add up to without their signs."""
    own = np.abs(loss._gram(w, order, 0) * a).sum(axis=1)
    return own + np.abs(_laplace(loss, w, order))


def _is_positive_sum(target: AbstractLinearFunctional) -> bool | None:
    """True for a network of real rates and positive amplitudes, None where it is not known."""
    known = getattr(target, "is_completely_monotone", None)
    if known is not None or not isinstance(target, DiagonalRNN):
        return known
    amplitudes, rates = np.asarray(target.amplitudes), np.asarray(target.rates)
    return True if np.isrealobj(rates) and (amplitudes >= 0).all() else None


def _timescale(target: AbstractLinearFunctional) -> float:
    known = getattr(target, "timescale", None)
    if known is not None:
        return float(known)
    rates = getattr(target, "rates", None)
    if rates is None and hasattr(target, "A"):
        rates = np.linalg.eigvals(np.asarray(target.A))  # pyright: ignore[reportAttributeAccessIssue]
    if rates is None:
        return 1.0
    return float(1 / np.exp(np.mean(np.log(np.abs(rates)))))


def _fitted_start(target: AbstractLinearFunctional, width: int) -> list[np.ndarray]:
    fit = fit_exponential_sum(target, width=width, norm="l2", poles="real")
    rates = np.sort(np.asarray(fit.rates).real)
    if len(rates) == width and (rates > 0).all():
        return [np.log(rates)]
    # Beyond the kernel's rank there are fewer: spread the rest around them.
    scale = float(np.median(rates[rates > 0])) if (rates > 0).any() else 1.0
    return [np.log(scale) + np.linspace(-1.5, 1.5, width)]


def _node_transform(loss: ExactLoss) -> Callable[[np.ndarray, int], np.ndarray]:
    """Returns the target's transform, on fixed nodes where a closed form may be missing."""
    if loss.spectrum is not None or loss._rest is None:
        return lambda w, order: _laplace(loss, w, order)
    grid = kernel_quadrature(loss.target, rtol=1e-9, norm="l2", reach=1.0)
    nodes, mass = grid.nodes, grid.weights * grid.values[:, 0, 0]

    def transform(w: np.ndarray, order: int) -> np.ndarray:
        return np.exp(-np.multiply.outer(w, nodes)) @ (mass * (-nodes) ** order)

    probe = np.geomspace(0.03, 30, 5) / _timescale(loss.target)
    exact = _laplace(loss, probe, 0)
    # Nodes of a kernel that is constant on steps do not integrate what varies within one.
    if np.abs(transform(probe, 0) - exact).max() > 1e-7 * np.abs(exact).max():
        return lambda w, order: _laplace(loss, w, order)
    return transform


def _amplitudes(loss: ExactLoss, w: np.ndarray, values: np.ndarray) -> np.ndarray:
    gram = loss._gram(w, 0, 0)
    # The columns are scaled to unit norm: equal rates then show as equal columns.
    size = 1 / np.sqrt(np.diag(gram))
    scaled = gram * size[:, None] * size
    return np.linalg.lstsq(scaled, values * size, rcond=1e-13)[0] * size


def _descend(
    loss: ExactLoss, transform: Callable[[np.ndarray, int], np.ndarray], log_rates: np.ndarray
) -> tuple[float, np.ndarray]:
    """Returns the loss and the rates at a local minimum of variable projection."""
    low, high = log_rates.min() - 20, log_rates.max() + 20
    size = loss.norm_squared

    def reduced(v: np.ndarray) -> tuple[float, np.ndarray]:
        w = np.exp(np.clip(v, low, high))
        values = transform(w, 0)
        a = _amplitudes(loss, w, values)
        gram = loss._gram(w, 0, 0)
        value = float(1 + (a @ gram @ a - 2 * a @ values) / size)
        # The amplitudes are optimal: only the explicit dependence on the rates counts.
        error = loss._gram(w, 1, 0) @ a - transform(w, 1)
        return value, 2 * a * error * w / size

    found = scipy.optimize.minimize(
        reduced, log_rates, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 400}
    )
    w = np.exp(np.clip(found.x, low, high))
    return float(found.fun), w


def _newton(loss: ExactLoss, a: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    m = len(w)
    slope = np.asarray(loss.gradient(a, w))
    for _ in range(30):
        hessian = np.asarray(loss.hessian(a, w))
        scale = np.concatenate([np.sqrt(2 * w), w / np.maximum(np.abs(a), 1e-12) * np.sqrt(2 * w)])
        scaled = hessian * scale[:, None] * scale
        step = -scale * np.linalg.lstsq(scaled, scale * slope, rcond=1e-14)[0]
        moved_a, moved_w = a + step[:m], w + step[m:]
        if not np.isfinite(step).all() or (moved_w <= 0).any():
            break
        moved = np.asarray(loss.gradient(moved_a, moved_w))
        if np.linalg.norm(scale * moved) >= np.linalg.norm(scale * slope):
            break
        a, w, slope = moved_a, moved_w, moved
        if np.linalg.norm(scale * slope) < _EPS * loss.norm_squared:
            break
    return a, w
