"""The abstract memory kernel: exact convolution on the host, quadrature where no closed form is."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
import scipy.special

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_positive,
    require_signal,
    wrong_type,
)
from recollect._core._convolution import causal_convolution, kernel_integrals
from recollect._core._functional import AbstractLinearFunctional
from recollect._core._quadrature import (
    Panels,
    Quadrature,
    adaptive_panels,
    adaptive_quadrature,
    finite_panels,
    legendre_series,
    norm_of_nodes,
    panel_primitive,
)
from recollect._core._types import Array, KernelValues, Lags, Output, Signal

NORMS = ("l1", "l2", "linf")
_LAPLACE_RTOL = 1e-12


class AbstractKernel(AbstractLinearFunctional):
    """A linear functional given by its memory kernel, `y(t) = ∫_0^∞ ρ(s) x(t-s) ds`.

    Evaluated on the host in float64: it refuses JAX tracers. Inside JAX, use the nodes and
    weights of `kernel_quadrature`.

    Attributes:
        support: lag beyond which ρ is zero; may be infinite.
        breakpoints: lags at which ρ is not smooth, or has a narrow feature.
        timescale: a typical lag, where the kernel varies.
        is_completely_monotone: True if `(-1)^n ρ^{(n)} ≥ 0` for all n, False if not, None if
            it is not known.
    """

    support: eqx.AbstractVar[float]
    breakpoints: eqx.AbstractVar[tuple[float, ...]]
    timescale: eqx.AbstractVar[float]
    is_completely_monotone: eqx.AbstractVar[bool | None]

    @abc.abstractmethod
    def exact_norm(self, norm: str) -> float | None:
        """Returns the `"l1"`, `"l2"` or `"linf"` norm in closed form, None where there is none."""

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns `y_k = Σ_j K_j x_{k-j}` with the exact kernel integrals `K_j`, in float64."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        values = host_float64("signal", signal, owner=type(self).__name__)
        dt = require_positive("dt", dt)
        n_lags = len(values)
        if math.isfinite(self.support):
            n_lags = min(n_lags, math.ceil(self.support / dt) + 1)
        steps = self.step_response(dt * np.arange(n_lags + 1))
        return causal_convolution(kernel_integrals(np.asarray(steps)), values)

    def __add__(self, other: Any) -> AbstractKernel:
        if not isinstance(other, AbstractLinearFunctional):
            return NotImplemented
        return SumKernel((self, other), (1.0, 1.0))

    def __radd__(self, other: Any) -> AbstractKernel:
        if not isinstance(other, AbstractLinearFunctional):
            return NotImplemented
        return SumKernel((other, self), (1.0, 1.0))

    def __mul__(self, factor: Any) -> AbstractKernel:
        if isinstance(factor, bool) or not isinstance(factor, (int, float, np.number)):
            return NotImplemented
        return SumKernel((self,), (float(factor),))

    def __rmul__(self, factor: Any) -> AbstractKernel:
        return self * factor

    def __neg__(self) -> AbstractKernel:
        return self * -1.0

    def __sub__(self, other: Any) -> AbstractKernel:
        if not isinstance(other, AbstractLinearFunctional):
            return NotImplemented
        return SumKernel((self, other), (1.0, -1.0))


class SumKernel(AbstractKernel):
    """A weighted sum of kernels, `ρ = Σ_i weight_i ρ_i`; `+`, `-` and `*` make it.

    Args:
        terms: linear functionals of equal shape; sums among them are opened.
        weights: one number each, default ones.
    """

    terms: tuple[AbstractLinearFunctional, ...]
    weights: tuple[float, ...]

    def __init__(self, terms: Any, weights: Any = None):
        terms = tuple(terms)
        if not terms:
            raise invalid("terms", "at least one kernel", "none")
        weights = tuple(1.0 for _ in terms) if weights is None else tuple(weights)
        if len(weights) != len(terms):
            raise invalid("weights", f"{len(terms)} weights, one per term", len(weights))
        flat_terms: list[AbstractLinearFunctional] = []
        flat_weights: list[float] = []
        for term, weight in zip(terms, weights, strict=True):
            weight = require_number("weights", weight)
            if isinstance(term, SumKernel):
                flat_terms.extend(term.terms)
                flat_weights.extend(weight * w for w in term.weights)
            elif isinstance(term, AbstractLinearFunctional):
                flat_terms.append(term)
                flat_weights.append(weight)
            else:
                raise wrong_type("terms", "linear functionals", type(term).__name__)
        first = flat_terms[0]
        for term in flat_terms:
            if (term.n_inputs, term.n_outputs) != (first.n_inputs, first.n_outputs):
                raise invalid("terms", "kernels of equal shape (out, in)", "different ones")
            if getattr(term, "dt", None) is not None:
                raise invalid(
                    "terms",
                    "continuous-time kernels",
                    f"{type(term).__name__} in discrete time",
                    "add their outputs instead",
                )
        self.terms = tuple(flat_terms)
        self.weights = tuple(flat_weights)

    @property
    def n_inputs(self) -> int:
        return self.terms[0].n_inputs

    @property
    def n_outputs(self) -> int:
        return self.terms[0].n_outputs

    @property
    def support(self) -> float:
        return max(kernel_hints(term).support for term in self.terms)

    @property
    def breakpoints(self) -> tuple[float, ...]:
        hints = [kernel_hints(term) for term in self.terms]
        points = {b for h in hints for b in h.breakpoints}
        points.update(h.support for h in hints if math.isfinite(h.support))
        return tuple(sorted(points))

    @property
    def timescale(self) -> float:
        scales = sorted(kernel_hints(term).timescale for term in self.terms)
        return scales[len(scales) // 2]

    @property
    def is_completely_monotone(self) -> bool | None:
        known = [getattr(term, "is_completely_monotone", None) for term in self.terms]
        if len(self.terms) == 1 and self.weights[0] > 0:
            return known[0]
        return True if all(known) and min(self.weights) >= 0 else None

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns `Σ weight ρ_i` at `lags`, shape (lag, out, in)."""
        return on_lags(
            lags, "SumKernel", lambda t: self._sum([term.kernel(t) for term in self.terms])
        )

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns the sum of the step responses, shape (lag, out, in)."""
        return on_lags(
            lags, "SumKernel", lambda t: self._sum([term.step_response(t) for term in self.terms])
        )

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the sum of the Laplace transforms, shape (point, out, in)."""
        points = require_points(s, derivative, "SumKernel")
        return self._sum([term.laplace(points, derivative=derivative) for term in self.terms])

    def exact_norm(self, norm: str) -> float | None:
        """Returns a norm in closed form for one term; sums are measured by quadrature."""
        if len(self.terms) == 1 and isinstance(self.terms[0], AbstractKernel):
            exact = self.terms[0].exact_norm(norm)
            return None if exact is None else abs(self.weights[0]) * exact
        return None

    def _sum(self, values: list[Any]) -> np.ndarray:
        result = self.weights[0] * np.asarray(values[0])
        for weight, value in zip(self.weights[1:], values[1:], strict=True):
            result = result + weight * np.asarray(value)
        return result


def require_number(argument: str, value: Any) -> float:
    """Returns `value` as a float if it is one finite number."""
    number = host_float64(argument, value, owner="a kernel")
    if number.ndim:
        raise wrong_type(argument, "one number", f"an array of shape {number.shape}")
    return float(number)


def on_lags(lags: Any, owner: str, function: Callable[[np.ndarray], np.ndarray]) -> KernelValues:
    """Returns `function` on host float64 lags, shape (lag, out, in), zero at negative lags."""
    t = np.atleast_1d(host_float64("lags", lags, owner=owner))
    if t.ndim != 1:
        raise invalid("lags", "shape (lag,)", f"shape {t.shape}")
    values = np.asarray(function(np.maximum(t, 0.0)), np.float64)
    if values.ndim == 1:
        values = as_scalar_kernel(values)
    return np.where((t < 0)[:, None, None], 0.0, values)


def require_points(s: Any, derivative: int, owner: str) -> Any:
    """Returns Laplace points as a host vector; checks the order of the derivative."""
    points = np.atleast_1d(host_float64("s", s, owner=owner, allow_complex=True))
    if points.ndim != 1:
        raise invalid("s", "shape (point,)", f"shape {points.shape}")
    if require_count("derivative", derivative, minimum=0) > 2:
        raise invalid("derivative", "0, 1 or 2", derivative)
    return points


def as_scalar_kernel(values: np.ndarray) -> KernelValues:
    """Returns values (lag,) in the shape (lag, 1, 1) of one input and one output."""
    return values[:, None, None]


def step_by_quadrature(
    kernel: AbstractKernel, values: Callable[[np.ndarray], np.ndarray], lags: Lags, *, name: str
) -> KernelValues:
    """Returns `∫_0^t ρ` of a scalar kernel without a closed form, shape (lag, 1, 1).

    By adaptive panels, to 1e-13 of `∫|ρ|` up to the last lag; `values` maps lags (lag,) to ρ (lag,).
    """

    def integrate(t: np.ndarray) -> np.ndarray:
        stop = min(float(t.max(initial=0.0)), kernel.support)
        if stop == 0:
            return np.zeros(len(t))
        start = finite_panels(stop, breakpoints=kernel.breakpoints, timescale=kernel.timescale)
        return panel_primitive(*adaptive_panels(values, start, rtol=1e-13, name=name), t)

    return on_lags(lags, type(kernel).__name__, integrate)


def laplace_by_quadrature(
    kernel: AbstractKernel,
    values: Callable[[np.ndarray], np.ndarray],
    s: Any,
    derivative: int,
    *,
    name: str,
) -> Array:
    """Returns `∫ (-t)^n e^{-st} ρ(t) dt` of a scalar kernel, shape (point, 1, 1).

    Accurate to 1e-12 of `∫ |t^n e^{-st} ρ|` where `e^{-st}` decays, point by point. Where it
    turns, the kernel alone is resolved and its series integrated against the wave in closed form,
    to 1e-12 of `∫ |t^n ρ|`. An algebraic tail beyond the last node is added from its power.
    """
    points = require_points(s, derivative, type(kernel).__name__)
    turns = np.abs(points.imag) > np.abs(points.real)
    turns &= np.abs(points.imag) * kernel.timescale > 1e-3
    found = np.empty(len(points), points.dtype)
    if turns.any():
        found[turns] = _transform_waves(kernel, values, points[turns], derivative, name)
    for index in np.flatnonzero(~turns):
        point = points[index]
        quadrature = _resolved(
            kernel,
            _weighed(values, point, derivative),
            timescale=min(kernel.timescale, 1 / abs(point)) if point else kernel.timescale,
            name=f"laplace of {name} at s = {point:.6g}" if derivative == 0 else name,
        )
        found[index] = quadrature.integral() + _algebraic_rest(quadrature, 1)
    return as_scalar_kernel(found)


def _weighed(
    values: Callable[[np.ndarray], np.ndarray], s: Any, derivative: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `(-t)^n e^{-st} ρ(t)` as a function of the lag."""
    return lambda t: np.asarray(values(t)) * ((-t) ** derivative * np.exp(-s * t))


def _resolved(
    kernel: AbstractKernel,
    integrand: Callable[[np.ndarray], np.ndarray],
    *,
    timescale: float,
    name: str,
) -> Quadrature:
    return adaptive_quadrature(
        integrand,
        rtol=_LAPLACE_RTOL,
        support=kernel.support,
        breakpoints=(*kernel.breakpoints, kernel.timescale),
        timescale=timescale,
        reach=1.0,
        name=name,
    )


def _transform_waves(
    kernel: AbstractKernel,
    values: Callable[[np.ndarray], np.ndarray],
    points: np.ndarray,
    derivative: int,
    name: str,
) -> np.ndarray:
    """Returns the transform where `|Im s| > |Re s|`, from the kernel's own Legendre series.

    `∫_{-1}^{1} P_k(x) e^{-zx} dx = 2 (-1)^k i_k(z)`, i_k the modified spherical Bessel function.
    """
    # A decay that all points share makes the integral end where the kernel alone would not.
    decay = max(float(points.real.min()), 0.0)
    points = points - decay
    integrand = _weighed(values, decay, derivative)
    panels = _resolved(
        kernel, integrand, timescale=kernel.timescale, name=f"laplace of {name}"
    ).panels
    edges = [panels.starts, panels.stops[-1:]]
    far = panels.select(panels.is_log)
    edges += [far.starts * (far.stops / far.starts) ** (k / 4) for k in (1, 2, 3)]
    lags = np.unique(np.concatenate(edges))
    panels, sampled = adaptive_panels(
        integrand,
        Panels(lags[:-1], lags[1:], np.zeros(len(lags) - 1, bool)),
        rtol=_LAPLACE_RTOL,
        name=name,
    )
    half = (panels.stops - panels.starts) / 2
    middle = (panels.stops + panels.starts) / 2
    coefficients = legendre_series(sampled[:, :, None])[:, :, 0] * half[:, None]
    orders = np.arange(coefficients.shape[1])
    coefficients *= 2 * (-1.0) ** orders
    end, last = panels.stops[-1], integrand(panels.stops[-1:])[0]
    answer = np.empty(len(points), complex)
    for index, point in enumerate(points):
        z = point * half
        # Below this only the mean over a panel is left, and high orders underflow.
        z = np.where(np.abs(z) < 1e-10, 1e-10 * point / abs(point), z)
        moments = _scaled_spherical_in(len(orders), z)
        # Scaled by e^{-|Re z|}, which the factor at the middle takes back.
        factor = np.exp(np.abs(z.real) - point * middle)
        answer[index] = np.einsum("p,pj,pj->", factor, moments, coefficients)
        answer[index] += last * np.exp(-point * end) / point
    return answer


def _scaled_spherical_in(n_orders: int, z: np.ndarray) -> np.ndarray:
    """Returns `e^{-|Re z|} i_k(z)` for k < n_orders, shape (point, order)."""
    k = np.arange(n_orders)
    near = np.where(np.abs(z) < 1e4, z, 1.0)[:, None]
    series = scipy.special.ive(k + 0.5, near) * np.sqrt(np.pi / (2 * near))
    far = np.where(np.abs(z) < 1e4, 1e4, z)[:, None]
    # The finite sum of integrating by parts; the library's series ends at 1e9.
    growing, falling = np.zeros((2, len(z), n_orders), complex)
    for j in range(n_orders):
        coefficients = [math.perm(order + j, 2 * j) / math.factorial(j) for order in k.tolist()]
        term = np.array(coefficients) * (0.5 / far) ** j
        growing += (-1.0) ** j * term
        falling += term
    size = np.abs(far.real)
    sums = np.exp(far - size) * growing - (-1.0) ** k * np.exp(-far - size) * falling
    return np.where(np.abs(z)[:, None] < 1e4, series, sums / (2 * far))


def _algebraic_rest(quadrature: Quadrature, power: int) -> Any:
    """`∫_T^∞ f^power` continued from the last node with the power law found."""
    if quadrature.decay != "algebraic":
        return 0.0
    last = quadrature.values[-1] ** power
    lag = quadrature.nodes[-1]
    # The last node is just inside the last panel's end.
    end = quadrature.support
    excess = power * quadrature.exponent - 1
    return last * (lag / end) ** (excess + 1) * end / excess


def kernel_quadrature(
    functional: AbstractLinearFunctional,
    *,
    rtol: float = 1e-10,
    norm: str = "l1",
    reach: float = 2.0,
) -> Quadrature:
    """Returns nodes, weights and kernel values that resolve a functional's memory kernel.

    `∫_0^∞ g(t) ρ(t) dt ≈ Σ_k weights_k g(nodes_k) values_k` for any g as smooth as the kernel;
    what lies beyond the nodes is at most `tail` in `norm` (an estimate, from the decay found).

    Args:
        functional: any linear functional; its kernel is evaluated on the host.
        rtol: tolerance relative to the kernel in `norm`.
        norm: `"l1"`, `"l2"` or `"linf"`.
        reach: the nodes go on to this multiple of the kernel's support (not for algebraic
            tails), so that a fit on them is held down where the kernel has ended.

    Returns:
        A `Quadrature`: `nodes` (node,), `weights` (node,), `values` (node, out, in), `tail`,
        `decay`, `exponent`, `support`. `.denser()` gives an independent grid 2.5 times as fine.

    Raises:
        ValueError: if the kernel does not decay, is not finite in the norm or not resolvable.
        TypeError: if the functional has no kernel.
    """
    if not isinstance(functional, AbstractLinearFunctional):
        raise wrong_type(
            "functional",
            "a linear functional with a memory kernel",
            type(functional).__name__,
            "measure its memory instead",
        )
    require_choice("norm", norm, NORMS)
    rtol = require_positive("rtol", rtol)
    hints = kernel_hints(functional)

    def function(t: np.ndarray) -> np.ndarray:
        return np.asarray(functional.kernel(t), np.float64)

    if hints.grid is not None:
        return _grid_quadrature(function, hints.grid, norm, rtol)
    if hints.dt is not None:
        return _discrete_quadrature(function, hints.dt, norm, rtol, reach)
    return adaptive_quadrature(
        function,
        norm=norm,
        rtol=rtol,
        support=hints.support,
        breakpoints=hints.breakpoints,
        timescale=hints.timescale,
        reach=reach,
        name=type(functional).__name__,
    )


def measure_norm(
    functional: AbstractLinearFunctional, *, norm: str = "l1", rtol: float = 1e-11
) -> float:
    """Returns a norm of the memory kernel; `"l1"` is the operator norm of the functional.

    `"l1"`: `max_o ∫ Σ_i |ρ_oi|`, `‖H‖` for inputs bounded by one; `"l2"`: `(∫ Σ_oi ρ_oi²)^½`;
    `"linf"`: `sup_t max_o Σ_i |ρ_oi(t)|`, the largest value of the memory function.

    Args:
        functional: any linear functional.
        norm: `"l1"`, `"l2"` or `"linf"`.
        rtol: relative tolerance where no closed form exists.

    Returns:
        The norm, in the kernel's unit times time, its square root, or nothing.

    Raises:
        ValueError: if the kernel is not finite in this norm.
    """
    require_choice("norm", norm, NORMS)
    if isinstance(functional, AbstractKernel):
        exact = functional.exact_norm(norm)
        if exact is not None:
            return float(exact)
    quadrature = kernel_quadrature(functional, rtol=rtol, norm=norm, reach=1.0)
    if norm == "l2":
        square = quadrature.weights @ (quadrature.values**2).sum(axis=(1, 2))
        return float(np.sqrt(square + np.sum(_algebraic_rest(quadrature, 2))))
    if norm == "linf":
        return _supremum(quadrature)
    return _absolute_integral(quadrature, rtol)


def _absolute_integral(quadrature: Quadrature, rtol: float) -> float:
    def magnitude(t: np.ndarray) -> np.ndarray:
        return np.abs(quadrature.function(t)).sum(axis=2)

    if len(quadrature.nodes) == len(quadrature.panels.starts):
        return float((quadrature.weights @ magnitude(quadrature.nodes)).max())
    if not (quadrature.values < 0).any() or not (quadrature.values > 0).any():
        total = quadrature.weights @ np.abs(quadrature.values).sum(axis=2)
    else:
        # Kinks where the kernel changes sign: the panels close in on them.
        panels, values = adaptive_panels(magnitude, quadrature.panels, rtol=0.1 * rtol)
        _, weights = panels.rule()
        total = np.einsum("pn,pno->o", weights, values)
    rest = _algebraic_rest(quadrature, 1)
    return float(np.max(total + (np.abs(rest).sum(axis=-1) if np.ndim(rest) else rest)))


def _supremum(quadrature: Quadrature) -> float:
    import scipy.optimize

    def height(t: Any) -> np.ndarray:
        return np.abs(quadrature.function(np.atleast_1d(t))).sum(axis=2).max(axis=1)

    if len(quadrature.nodes) == len(quadrature.panels.starts):
        return float(height(quadrature.nodes).max())
    edges = np.unique(np.concatenate([quadrature.panels.starts, quadrature.panels.stops]))
    inset = np.concatenate([edges, edges * (1 - 1e-15), quadrature.nodes])
    lags = np.unique(inset[inset >= 0])
    heights = height(lags)
    best = float(heights.max())
    peaks = np.flatnonzero(
        (heights[1:-1] >= heights[:-2])
        & (heights[1:-1] >= heights[2:])
        & (heights[1:-1] > 0.9 * best)
    )
    for index in peaks[np.argsort(heights[peaks + 1])[::-1][:20]]:
        low, high = lags[index], lags[index + 2]
        found = scipy.optimize.minimize_scalar(
            lambda t: -height(t)[0],
            bounds=(low, high),
            method="bounded",
            options={"xatol": 1e-10 * max(high - low, 1e-300)},
        )
        best = max(best, -float(found.fun))  # pyright: ignore[reportAttributeAccessIssue]
    return best


class KernelHints(eqx.Module):
    """Where a functional's kernel is worth looking at.

    Args:
        support: lag beyond which it is zero.
        breakpoints: lags where it is not smooth or has a narrow feature.
        timescale: a typical lag.
        dt: the step of a kernel that is constant on each step, None for a smooth one.
        grid: the lags of a kernel that is known on a fine grid only, None otherwise.
    """

    support: float
    breakpoints: tuple[float, ...]
    timescale: float
    dt: float | None = None
    grid: np.ndarray | None = None


def kernel_hints(functional: AbstractLinearFunctional) -> KernelHints:
    """Returns what a functional tells about its kernel: support, breakpoints, timescale, step.

    Args:
        functional: anything with a kernel; what it does not state is the widest there is, and its
            typical lag that of its rates.
    """
    step = getattr(functional, "dt", None)
    breakpoints = tuple(getattr(functional, "breakpoints", ()))
    support = float(getattr(functional, "support", math.inf))
    grid = getattr(functional, "grid", None)
    timescale = getattr(functional, "timescale", None)
    if timescale is None:
        timescale = _timescale_of(functional, step)
    return KernelHints(
        support=support,
        breakpoints=breakpoints,
        timescale=float(timescale),
        dt=None if step is None else float(step),
        grid=grid,
    )


def _timescale_of(functional: Any, step: float | None) -> float:
    matrix = getattr(functional, "A", None)
    rates = getattr(functional, "rates", None)
    if rates is None and matrix is not None and np.ndim(matrix) == 2:
        if step is None:
            rates = -np.linalg.eigvals(np.asarray(matrix, np.float64))
        else:
            return float(step)
    if rates is None or not np.size(rates):
        return 1.0 if step is None else float(step)
    size = np.abs(np.asarray(rates))
    size = size[size > 0]
    return float(1 / np.median(size)) if len(size) else 1.0


def _grid_quadrature(
    function: Callable[[np.ndarray], np.ndarray], grid: np.ndarray, norm: str, rtol: float
) -> Quadrature:
    panels = Panels(grid[:-1], grid[1:], np.zeros(len(grid) - 1, bool))
    weights = np.zeros(len(grid))
    weights[:-1] += np.diff(grid) / 2
    weights[1:] += np.diff(grid) / 2
    # The last sample belongs to the kernel although the kernel ends there.
    values = function(np.minimum(grid, np.nextafter(grid[-1], 0.0)))
    return _assembled(function, grid, weights, values, panels, norm, rtol, "compact", grid[-1])


def _discrete_quadrature(
    function: Callable[[np.ndarray], np.ndarray], dt: float, norm: str, rtol: float, reach: float
) -> Quadrature:
    n_lags = 64
    while True:
        lags = dt * (np.arange(n_lags) + 0.5)
        values = function(lags)
        size = np.abs(values).reshape(n_lags, -1).sum(axis=1)
        if not np.isfinite(size).all():
            raise invalid("kernel", "finite numbers at every lag", "one that grows without limit")
        running = np.maximum.accumulate(size[::-1])[::-1]
        peak = size.max()
        # Beyond three quarters of the window it must have come down by the tolerance.
        if running[3 * n_lags // 4] * n_lags <= 1e-2 * rtol * max(peak, 1e-300):
            break
        if n_lags >= 2**22:
            raise invalid(
                "kernel",
                "a kernel that decays to zero",
                f"still {running[3 * n_lags // 4]:.3g} after {n_lags} steps",
                "its slowest multiplier is too near the unit circle: cut it at a horizon",
            )
        n_lags *= 4
    above = np.flatnonzero(running * n_lags > 1e-2 * rtol * max(peak, 1e-300))
    end = int(above[-1]) + 1 if len(above) else 1
    n_kept = min(n_lags, math.ceil(max(reach, 1.0) * end) + 1)
    edges = dt * np.arange(n_kept + 1)
    panels = Panels(edges[:-1], edges[1:], np.zeros(n_kept, bool))
    weights = np.full(n_kept, dt)
    decay = "exponential" if size[end:].any() else "compact"
    return _assembled(
        function, lags[:n_kept], weights, values[:n_kept], panels, norm, rtol, decay, dt * end
    )


def _assembled(
    function: Any, nodes: Any, weights: Any, values: Any, panels: Any, norm: Any, rtol: Any,
    decay: str, support: float,
) -> Quadrature:  # fmt: skip
    total = norm_of_nodes(values, weights, norm)
    return Quadrature(
        nodes=nodes, weights=weights, values=values, tail=0.0, norm=norm, decay=decay,
        exponent=math.inf, support=float(support), total=total, rtol=rtol, panels=panels,
        function=function,
    )  # fmt: skip


__all__ = [
    "AbstractKernel",
    "KernelHints",
    "Lags",
    "SumKernel",
    "kernel_hints",
    "kernel_quadrature",
    "measure_norm",
]
