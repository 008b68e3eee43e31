"""The exact loss of a diagonal linear network, its gradient and its Hessian, without sampling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from recollect._core._check import host_float64, invalid, wrong_type
from recollect._core._functional import AbstractLinearFunctional
from recollect._core._references import references
from recollect._core._threads import on_one_thread
from recollect.models import DiagonalRNN, LinearRNN, to_diagonal
from recollect.targets import SumKernel, measure_norm

_EPS = float(np.finfo(float).eps)


class _Parts(NamedTuple):
    """`e(t) = Σ A_i e^{-W_i t} - R(t)`: network and exponential part of the target, concatenated."""

    amplitudes: np.ndarray
    rates: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ExactLoss:
    """What a diagonal linear network loses against a target, `J(a,w) = E|ŷ - y|²` in closed form.

    White noise: `J = ∫_0^∞ (Σ a_i e^{-w_i t} - ρ(t))² dt`. Coloured stationary input of spectral
    density S: `J = (1/2π) ∫ S(ω) |Σ a_i/(w_i+iω) - ρ̂(iω)|² dω`. Call it with amplitudes and rates
    of shape (..., width); leading dimensions are a batch.

    What the target has in common with the network, its exponentials, is subtracted before anything
    is squared: on a plateau, where the two agree, no digit is lost.

    Attributes:
        target: the functional ρ, one input and one output.
        norm_squared: `J(0)`, the loss of the network that answers zero.
        spectrum: S(ω) of the input, None for white noise.
    """

    target: AbstractLinearFunctional
    norm_squared: float
    spectrum: Callable[[np.ndarray], np.ndarray] | None
    _shared: _Parts
    _rest: AbstractLinearFunctional | None
    _rest_norm_squared: float
    _nodes: tuple[np.ndarray, np.ndarray, np.ndarray] | None

    def __call__(self, amplitudes: Any, rates: Any) -> Any:
        """Returns J, a float or an array of the batch's shape.

        Args:
            amplitudes: a, shape (..., width).
            rates: w > 0, shape (..., width), in 1/time.
        """
        a, w = _weights(amplitudes, rates)
        if self._nodes is not None:
            frequencies, weights, rest = self._nodes
            A, W = self._concatenated(a, w)
            error = np.sum(A[..., None] / (W[..., None] + 1j * frequencies), axis=-2) - rest
            return _plain(np.sum(weights * np.abs(error) ** 2, axis=-1))
        A, W = self._concatenated(a, w)
        return _plain(self._overlap(A, W) + self._rest_norm_squared)

    def difference(self, amplitudes: Any, rates: Any, other_amplitudes: Any, other_rates: Any):
        """Returns `J(a,w) - J(a',w')`, accurate where both are nearly equal.

        Args:
            amplitudes, rates: one network, shape (..., width).
            other_amplitudes, other_rates: the other, broadcast against it.
        """
        a, w = _weights(amplitudes, rates)
        b, v = _weights(other_amplitudes, other_rates)
        if self._nodes is not None:
            return _plain(np.asarray(self(a, w)) - np.asarray(self(b, v)))
        b, v = (
            np.broadcast_to(b, (*a.shape[:-1], b.shape[-1])),
            np.broadcast_to(v, (*a.shape[:-1], b.shape[-1])),
        )
        D, V = np.concatenate([a, -b], axis=-1), np.concatenate([w, v], axis=-1)
        moved = _quadratic(D, V)
        pull = self._mismatch(V, b, v, order=0)
        return _plain(moved + 2 * np.sum(D * pull, axis=-1))

    def gradient(self, amplitudes: Any, rates: Any) -> np.ndarray:
        """Returns `(∂J/∂a, ∂J/∂w)`, shape (..., 2 width)."""
        a, w = _weights(amplitudes, rates)
        g0, g1 = (self._mismatch(w, a, w, order=order) for order in (0, 1))
        return np.concatenate([2 * g0, 2 * a * g1], axis=-1)

    def hessian(self, amplitudes: Any, rates: Any) -> np.ndarray:
        """Returns the second derivatives in the order (a, w), shape (..., 2 width, 2 width)."""
        a, w = _weights(amplitudes, rates)
        return self._hessian(a, w, self._mismatch(w, a, w, order=1))

    def gradient_and_hessian(self, amplitudes: Any, rates: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns both, for the price of the Hessian."""
        a, w = _weights(amplitudes, rates)
        g0, g1 = (self._mismatch(w, a, w, order=order) for order in (0, 1))
        return np.concatenate([2 * g0, 2 * a * g1], axis=-1), self._hessian(a, w, g1)

    def rounding(self, amplitudes: Any, rates: Any) -> np.ndarray:
        """Returns the size of the gradient's rounding error, shape (...,)."""
        a, w = _weights(amplitudes, rates)
        A, W = self._concatenated(a, w)
        S = w[..., :, None] + W[..., None, :]
        terms = np.abs(A)[..., None, :] / np.abs(S)
        scale = np.sum(terms, -1) ** 2 + (a * np.sum(terms / np.abs(S), -1)) ** 2
        return 4 * _EPS * np.sqrt(np.sum(scale, axis=-1))

    @property
    def rest(self) -> AbstractLinearFunctional | None:
        """What the target has beside exponentials, R; None if nothing."""
        return self._rest

    def misfit(self, amplitudes: Any, rates: Any) -> Any:
        """Returns `‖ρ̂ - ρ̄‖²`, the distance to the target's exponentials: zero on a plateau."""
        a, w = _weights(amplitudes, rates)
        return _plain(_quadratic(*self._concatenated(a, w)))

    def _concatenated(self, a: np.ndarray, w: np.ndarray) -> _Parts:
        shape = (*a.shape[:-1], len(self._shared.rates))
        return _Parts(
            np.concatenate([a, np.broadcast_to(-self._shared.amplitudes, shape)], axis=-1),
            np.concatenate([w, np.broadcast_to(self._shared.rates, shape)], axis=-1),
        )

    def _overlap(self, A: np.ndarray, W: np.ndarray) -> np.ndarray:
        overlap = _quadratic(A, W)
        if self._rest is not None:
            overlap = overlap - 2 * np.sum(A * _laplace(self._rest, W, 0), axis=-1).real
        return overlap

    def _mismatch(self, s: np.ndarray, a: np.ndarray, w: np.ndarray, *, order: int) -> np.ndarray:
        """Returns a derivative in s of the transform of the error e of (a, w), at points s.

        White noise: `Σ A_i/(s+W_i) - R(s)`, whose zeros are the Aigrain-Williams equations.
        """
        A, W = self._concatenated(a, w)
        if self._nodes is not None:
            frequencies, weights, rest = self._nodes
            error = np.sum(A[..., None] / (W[..., None] + 1j * frequencies), axis=-2) - rest
            sign = (-1.0) ** order * math.factorial(order)
            probe = sign / (s[..., None] + 1j * frequencies) ** (order + 1)
            return np.sum(weights * (np.conj(error)[..., None, :] * probe).real, axis=-1)
        S = s[..., :, None] + W[..., None, :]
        sign = (-1.0) ** order * math.factorial(order)
        answer = sign * np.sum(A[..., None, :] / S ** (order + 1), axis=-1).real
        if self._rest is not None:
            answer = answer - _laplace(self._rest, s, order)
        return answer

    def _hessian(self, a: np.ndarray, w: np.ndarray, g1: np.ndarray) -> np.ndarray:
        m = a.shape[-1]
        g2 = self._mismatch(w, a, w, order=2)
        G = [self._gram(w, p, q) for p, q in ((0, 0), (0, 1), (1, 1))]
        H = np.empty((*a.shape[:-1], 2 * m, 2 * m))
        k = np.arange(m)
        H[..., :m, :m] = 2 * G[0]
        mixed = 2 * a[..., None, :] * G[1]
        mixed[..., k, k] += 2 * g1
        H[..., :m, m:] = mixed
        H[..., m:, :m] = np.swapaxes(mixed, -1, -2)
        H[..., m:, m:] = 2 * a[..., :, None] * a[..., None, :] * G[2]
        H[..., m + k, m + k] += 2 * a * g2
        return H

    def _gram(self, w: np.ndarray, p: int, q: int) -> np.ndarray:
        """Returns `∂_u^p ∂_v^q` of the overlap of `e^{-ut}` and `e^{-vt}` at all pairs of rates."""
        if self._nodes is not None:
            frequencies, weights, _ = self._nodes
            base = w[..., None] + 1j * frequencies
            left, right = ((-1.0) ** r / base ** (r + 1) for r in (p, q))
            return np.einsum("...kn,...ln,n->...kl", left, np.conj(right), weights).real
        S = w[..., :, None] + w[..., None, :]
        return (-1.0) ** (p + q) * math.factorial(p + q) / S ** (p + q + 1)


@references("li2021curse")
@on_one_thread
def exact_loss(
    target: AbstractLinearFunctional,
    *,
    spectrum: Callable[[np.ndarray], np.ndarray] | None = None,
) -> ExactLoss:
    """Returns the loss of diagonal linear networks against a target, with exact derivatives.

    White-noise input over an infinite horizon makes the mean square error an integral over the
    kernel (Itô isometry); a coloured stationary input weighs it by its spectrum.

    Args:
        target: a linear functional with one input and one output: any target, network or fit.
        spectrum: two-sided spectral density S(ω) of the input, a vectorised even function of the
            angular frequency; white noise (S = 1) if omitted. `ou_spectrum` makes one.

    Raises:
        TypeError: if `target` has no Laplace transform.
        ValueError: several inputs or outputs, or a target that is not square integrable.

    Assumptions: real rates w > 0. Source: Li et al. 2021, section 5, equation 17.
    """
    if not isinstance(target, AbstractLinearFunctional):
        raise wrong_type(
            "target",
            "a linear functional with a Laplace transform",
            type(target).__name__,
            "build it with recollect.targets, or from samples with targets.SampledKernel",
        )
    if (target.n_inputs, target.n_outputs) != (1, 1):
        raise invalid(
            "target",
            "one input and one output",
            f"{target.n_inputs} and {target.n_outputs}",
            "train one output at a time",
        )
    shared, rest = _split(target)
    norm = float(measure_norm(target, norm="l2"))
    rest_norm = 0.0 if rest is None else float(measure_norm(rest, norm="l2"))
    if spectrum is None:
        return ExactLoss(target, norm**2, None, shared, rest, rest_norm**2, None)
    if not callable(spectrum):
        raise wrong_type("spectrum", "a function of the angular frequency", repr(spectrum))
    nodes = _spectral_nodes(target, shared, rest, spectrum)
    loss = ExactLoss(target, 0.0, spectrum, shared, rest, rest_norm**2, nodes)
    nothing = np.zeros(1)
    return dataclasses.replace(loss, norm_squared=float(loss(nothing, nothing + 1.0)))


def ou_spectrum(*, rate: float, variance: float | None = None) -> Callable[[Any], np.ndarray]:
    """Returns the spectral density `2 v c/(c² + ω²)` of an Ornstein-Uhlenbeck input.

    Args:
        rate: c, the inverse of its correlation time.
        variance: v; by default c/2, so that S(0) = 1 and the input becomes white as c grows.

    Raises:
        ValueError: if the rate or variance is not positive.
    """
    if not rate > 0:
        raise invalid("rate", "a positive rate", rate)
    size = 1.0 if variance is None else 2 * variance / rate
    if not size > 0:
        raise invalid("variance", "a positive variance", variance)
    return lambda frequency: size / (1 + (np.asarray(frequency) / rate) ** 2)


def _weights(amplitudes: Any, rates: Any) -> tuple[np.ndarray, np.ndarray]:
    a = host_float64("amplitudes", amplitudes, owner="ExactLoss")
    w = host_float64("rates", rates, owner="ExactLoss")
    if a.ndim == 0 or a.shape != w.shape:
        a, w = _broadcast(a, w)
    if not (w > 0).all():
        raise invalid("rates", "positive rates", f"a smallest rate of {np.min(w):g}")
    return a, w


def _broadcast(a: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.ndim and w.ndim and a.shape[-1] == w.shape[-1]:
        a, w = np.broadcast_arrays(a, w)
        return a, w
    raise invalid("rates", f"the shape of amplitudes, {a.shape}", f"shape {w.shape}")


def _quadratic(A: np.ndarray, W: np.ndarray) -> np.ndarray:
    S = W[..., :, None] + W[..., None, :]
    return np.einsum("...i,...ij,...j->...", A, 1 / S, A).real


def _plain(value: np.ndarray) -> Any:
    return float(value) if np.ndim(value) == 0 else value


def _laplace(functional: AbstractLinearFunctional, s: np.ndarray, derivative: int) -> np.ndarray:
    values = functional.laplace(s.ravel(), derivative=derivative)[:, 0, 0]
    return np.asarray(values).reshape(s.shape)


def _split(
    target: AbstractLinearFunctional,
) -> tuple[_Parts, AbstractLinearFunctional | None]:
    """Returns the exponentials of the target, and what is left of it."""
    parts = [(1.0, target)]
    if isinstance(target, SumKernel):
        parts = list(zip(target.weights, target.terms, strict=True))
    amplitudes, rates, rest = [], [], []
    for weight, part in parts:
        found = _exponentials(part)
        if found is None:
            rest.append((weight, part))
        else:
            amplitudes.append(weight * found.amplitudes)
            rates.append(found.rates)
    shared = _Parts(np.concatenate([[], *amplitudes]), np.concatenate([[], *rates]))
    if not rest:
        return shared, None
    if len(rest) == 1 and rest[0][0] == 1.0:
        return shared, rest[0][1]
    weights, functionals = zip(*rest, strict=True)
    return shared, SumKernel(tuple(functionals), tuple(float(weight) for weight in weights))


def _exponentials(part: AbstractLinearFunctional) -> _Parts | None:
    if isinstance(part, LinearRNN):
        if part.dt is not None:
            return None
        try:
            part = to_diagonal(part)
        except ValueError:  # repeated rates: its transform is exact as it stands
            return None
    if not isinstance(part, DiagonalRNN) or part.dt is not None:
        return None
    amplitudes, rates = np.asarray(part.amplitudes)[:, 0, 0], np.asarray(part.rates)
    if not np.iscomplexobj(rates):
        return _Parts(np.real(amplitudes).astype(float), rates.astype(float))
    return _Parts(amplitudes, rates)


def _spectral_nodes(
    target: AbstractLinearFunctional,
    shared: _Parts,
    rest: AbstractLinearFunctional | None,
    spectrum: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns frequencies, weights `S/π` and the rest's transform on half of the axis.

    Panels are halved until the transform of the rest, which may turn quickly where the target is
    delayed, is a polynomial on each.
    """
    points, weights = np.polynomial.legendre.leggauss(12)
    scale = 1 / max(float(getattr(target, "timescale", 1.0)), 1e-12)
    if len(shared.rates):
        scale = float(np.max(np.abs(shared.rates)))
    edges = np.concatenate([[0.0], scale * np.geomspace(1e-5, 1e8, 40)])
    done: list[tuple[np.ndarray, np.ndarray]] = []
    todo = np.stack([edges[:-1], edges[1:]], axis=1)
    floor = None
    while len(todo):
        half = 0.5 * (todo[:, 1] - todo[:, 0])
        nodes = todo.mean(axis=1)[:, None] + half[:, None] * points
        density = np.asarray(spectrum(nodes), float)
        if density.shape != nodes.shape or not np.isfinite(density).all() or (density < 0).any():
            raise invalid("spectrum", "finite densities ≥ 0, one per frequency", "something else")
        wave = np.zeros(nodes.shape, complex) if rest is None else _laplace(rest, 1j * nodes, 0)
        probe = density * wave / (1 + nodes / scale)
        coefficients = np.abs(np.linalg.solve(_VANDERMONDE, probe.T))
        size = half * np.max(coefficients, axis=0)
        floor = np.max(size) if floor is None else max(floor, np.max(size))
        smooth = half * np.max(coefficients[-3:], axis=0) <= 1e-13 * max(floor, 1e-300)
        smooth |= half < 1e-9 * scale
        done.append((nodes[smooth].ravel(), (half[:, None] * weights * density)[smooth].ravel()))
        rough = todo[~smooth]
        middle = rough.mean(axis=1)
        todo = np.concatenate(
            [np.stack([rough[:, 0], middle], 1), np.stack([middle, rough[:, 1]], 1)]
        )
        if sum(len(n) for n, _ in done) + 12 * len(todo) > 200_000:
            raise invalid("target", "a transform that 200000 frequencies resolve", "a rougher one")
    frequencies = np.concatenate([n for n, _ in done])
    rest_wave = (
        np.zeros(len(frequencies), complex) if rest is None else _laplace(rest, 1j * frequencies, 0)
    )
    return frequencies, np.concatenate([w for _, w in done]) / np.pi, rest_wave


_VANDERMONDE = np.polynomial.legendre.legvander(np.polynomial.legendre.leggauss(12)[0], 11)
