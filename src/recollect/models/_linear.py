"""The linear networks, dense and diagonal: recurrent models that are also memory kernels."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from recollect._core._check import (
    host_float64,
    invalid,
    is_tracer,
    require_choice,
    require_finite,
    require_positive,
    require_signal,
    wrong_type,
)
from recollect._core._discretise import AbstractDiscretisation, ZeroOrderHold
from recollect._core._functional import (
    AbstractLinearFunctional,
    AbstractRecurrent,
    AbstractReparam,
)
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._types import Array, KernelValues, Lags, Output, Signal, State
from recollect.models._namespace import as_weight, namespace
from recollect.models._recurrence import linear_dense_states, linear_diagonal_states
from recollect.models._reparam import Direct
from recollect.models._weights import equal_steps, extent, require_width

READINS = ("plain", "normalised")


@references("li2021curse")
class LinearRNN(AbstractLinearFunctional, AbstractRecurrent):
    """A linear recurrent network with a dense state matrix.

    Continuous (`dt=None`): `dh/dt = A h + B x`, `y = C h`, kernel `ρ(t) = C e^{At} B`.
    Discrete (`dt` a number): `h_{k+1} = A h_k + B x_k`, `y_k = C h_{k+1}`, so the kernel
    integrals are `K_j = C A^j B` and `kernel` is `K_j / dt` on `[j dt, (j+1) dt)`.

    Args:
        A: state matrix, shape (width, width), in 1/time (continuous) or per step (discrete).
        B: input matrix, shape (width, in).
        C: output matrix, shape (out, width).
        dt: step of a discrete network; `None` for a continuous one.
        discretisation: how a continuous network is stepped; exact zero-order hold by default.

    Raises:
        ValueError: if shapes do not fit, the width is zero, or a weight is not finite.
    """

    A: Array
    B: Array
    C: Array
    dt: float | None = eqx.field(static=True)
    discretisation: AbstractDiscretisation

    def __init__(
        self,
        A: Any,
        B: Any,
        C: Any,
        *,
        dt: float | None = None,
        discretisation: AbstractDiscretisation | None = None,
    ):
        self.A = as_weight(A)
        self.B = as_weight(B)
        self.C = as_weight(C)
        self.dt = None if dt is None else require_positive("dt", dt)
        self.discretisation = ZeroOrderHold() if discretisation is None else discretisation

    def __check_init__(self):
        _check_step(self.dt, self.discretisation)
        shape = _matrix("A", self.A)
        if shape[0] != shape[1]:
            raise invalid("A", "a square matrix (width, width)", f"shape {shape}")
        require_width(shape[0])
        _check_readin(self.B, self.C, shape[0])
        for name, array in (("A", self.A), ("B", self.B), ("C", self.C)):
            _real(name, array)
            require_finite(name, array)

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return extent(self.A, -1)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.B, -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return extent(self.C, -2)

    def __call__(self, signal: Signal, *, dt: float, form: str | None = None) -> Output:
        """Returns the output signal, shape (time, out)."""
        return self.states(signal, dt=dt, form=form) @ self.C.T

    def initial_state(self) -> State:
        """Returns the zero state, shape (width,)."""
        return namespace(self.A).zeros(self.width, dtype=self.A.dtype)

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after holding the input at `value` for one step."""
        transition, gain = dense_step(self, dt)
        return transition @ state + gain @ value

    def readout(self, state: State) -> Array:
        """Returns `C h`, shape (out,)."""
        return self.C @ state

    def states(self, signal: Signal, *, dt: float, form: str | None = None) -> State:
        """Returns the states after every sample, shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        transition, gain = dense_step(self, dt)
        signal = signal if namespace(signal) is jnp else np.asarray(signal)
        return linear_dense_states(transition, signal @ gain.T, form=form)

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns the memory kernel at `lags`, shape (lag, out, in); zero at negative lags."""
        lags = _lags(lags)
        if namespace(self, lags) is jnp:
            return _traced_kernel(self, lags)
        C = np.asarray(self.C)
        if self.dt is None:
            return C @ _exponential_action(self.A, self.B, lags)
        counts, _ = _split_lags(lags, self.dt)
        return C @ _power_action(self.A, self.B, counts) / self.dt

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns `∫_0^t ρ(s) ds` at `lags`, shape (lag, out, in); zero at negative lags."""
        lags = _lags(lags)
        if namespace(self, lags) is jnp:
            return _traced_step_response(self, lags)
        m, n_inputs, C = self.width, self.n_inputs, np.asarray(self.C)
        # With the input as further, constant states the integral is the exponential's own block.
        size = float(np.abs(self.B).max()) or 1.0
        corner = np.eye(n_inputs) if self.dt else np.zeros((n_inputs, n_inputs))
        block = np.block([[self.A, self.B / size], [np.zeros((n_inputs, m)), corner]])
        start = np.concatenate([np.zeros((m, n_inputs)), np.eye(n_inputs)])
        if self.dt is None:
            return size * (C @ _exponential_action(block, start, lags)[:, :m])
        counts, fraction = _split_lags(lags, self.dt)
        whole = size * (C @ _power_action(block, start, counts)[:, :m])
        part = C @ _power_action(self.A, self.B, counts)
        return whole + fraction[:, None, None] * part

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns `C (sI - A)^{-1} B` or its derivative in s, shape (point, out, in)."""
        s = _points(s, derivative)
        xp = namespace(self, s)
        A, B, C, eye = self.A, self.B, self.C, xp.eye(self.width)
        point = s[:, None, None]
        if self.dt is None:
            resolvent = point * eye - A
            value = xp.broadcast_to(B, (len(s), *np.shape(B)))
            for _ in range(derivative + 1):
                value = xp.linalg.solve(resolvent, value)
            return math.factorial(derivative) * (-1) ** derivative * (C @ value)
        q = xp.exp(-point * self.dt)
        resolvent = eye - A * q
        first = xp.linalg.solve(resolvent, xp.broadcast_to(B, (len(s), *np.shape(B))) + 0 * q)
        transfer = [C @ first]
        if derivative >= 1:
            second = xp.linalg.solve(resolvent, A @ first)
            transfer.append(-self.dt * q * (C @ second))
        if derivative >= 2:
            third = xp.linalg.solve(resolvent, A @ second)
            transfer.append(self.dt**2 * (q * (C @ second) + 2 * q * q * (C @ third)))
        return _held(transfer, s, self.dt, derivative, xp)


@references("li2021curse", "wang2024stablessm")
class DiagonalRNN(AbstractLinearFunctional, AbstractRecurrent):
    """A linear recurrent network with independent units: an exponential sum that can be trained.

    Continuous (`dt=None`): `dh_i/dt = -w_i h_i + (B x)_i`, `y = Re C h`, kernel
    `ρ(t) = Re Σ_i a_i e^{-w_i t}` with `a_i = C_i B_i`. Discrete (`dt` a number):
    `h_{k+1} = e^{-w dt} h_k + B x_k`, `y_k = Re C h_{k+1}`, `K_j = Re C e^{-w dt j} B`.
    Complex rates are listed with their conjugates. The real part of a rate is trained through
    `reparam`, `Re w = f(v)`. With the normalised read-in each unit sees `Re w · B x` (discrete:
    `(1 - |e^{-w dt}|) B x`), so that a slow unit weighs no more than a fast one: moving its amplitude
    by β then costs β, not β/w.

    Args:
        rates: w, shape (width,), in 1/time; complex if the kernel oscillates.
        B: input matrix, shape (width, in), real or complex.
        C: output matrix, shape (out, width), real or complex.
        dt: step of a discrete network; `None` for a continuous one.
        reparam: map from the trained weight to the real part of the rate.
        discretisation: how a continuous network is stepped; exact zero-order hold by default.
        readin: `"plain"` or `"normalised"`: whether B is what the units see, or that over the rate.

    Raises:
        ValueError: if shapes do not fit, the width is zero, a weight is not finite, or `reparam`
            cannot reach a rate.
    """

    weights: Array
    frequencies: Array | None
    B: Array
    C: Array
    dt: float | None = eqx.field(static=True)
    reparam: AbstractReparam
    discretisation: AbstractDiscretisation
    readin: str = eqx.field(static=True)

    def __init__(
        self,
        rates: Any,
        B: Any,
        C: Any,
        *,
        dt: float | None = None,
        reparam: AbstractReparam | None = None,
        discretisation: AbstractDiscretisation | None = None,
        readin: str = "plain",
    ):
        rates = as_weight(rates)
        require_finite("rates", rates)
        xp = namespace(rates)
        self.reparam = Direct() if reparam is None else reparam
        self.weights = self.reparam.inverse(xp.real(rates))
        self.frequencies = xp.imag(rates) if xp.iscomplexobj(rates) else None
        self.B = as_weight(B)
        self.C = as_weight(C)
        self.dt = None if dt is None else require_positive("dt", dt)
        self.discretisation = ZeroOrderHold() if discretisation is None else discretisation
        self.readin = require_choice("readin", readin, READINS)

    def __check_init__(self):
        _check_step(self.dt, self.discretisation)
        require_choice("readin", self.readin, READINS)
        if not isinstance(self.reparam, AbstractReparam):
            raise wrong_type("reparam", "a reparameterisation", type(self.reparam).__name__)
        shape = np.shape(self.weights)
        if len(shape) != 1:
            raise invalid("rates", "shape (width,)", f"shape {shape}")
        require_width(shape[0])
        _real("weights", self.weights)
        require_finite("weights", self.weights)
        if self.frequencies is not None:
            if np.shape(self.frequencies) != shape:
                raise invalid(
                    "frequencies", f"shape {shape}", f"shape {np.shape(self.frequencies)}"
                )
            _real("frequencies", self.frequencies)
            require_finite("frequencies", self.frequencies)
        _check_readin(self.B, self.C, shape[0])
        require_finite("B", self.B)
        require_finite("C", self.C)

    @property
    def width(self) -> int:
        """Number of hidden units, each number of a conjugate pair counted."""
        return extent(self.weights, -1)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return extent(self.B, -1)

    @property
    def n_outputs(self) -> int:
        """Number of output channels."""
        return extent(self.C, -2)

    @property
    def rates(self) -> Array:
        """Decay rates w, shape (width,), complex if the kernel oscillates, in 1/time."""
        decay = self.reparam.forward(self.weights)
        return decay if self.frequencies is None else decay + 1j * self.frequencies

    @property
    def input_matrix(self) -> Array:
        """What the units see of the input, shape (width, in): B, or B times its normalisation."""
        if self.readin == "plain":
            return self.B
        return _normalisation(self.reparam.forward(self.weights), self.dt)[:, None] * self.B

    @property
    def amplitudes(self) -> Array:
        """Amplitudes `a_i = C_i B_i` (B as the units see it), shape (width, out, in)."""
        return self.C.T[:, :, None] * self.input_matrix[:, None, :]

    def __call__(self, signal: Signal, *, dt: float, form: str | None = None) -> Output:
        """Returns the output signal, shape (time, out)."""
        return _real_part(self.states(signal, dt=dt, form=form) @ self.C.T)

    def initial_state(self) -> State:
        """Returns the zero state, shape (width,)."""
        xp = namespace(self.weights, self.B)
        return xp.zeros(self.width, dtype=xp.result_type(self.rates, self.B))

    def step(self, state: State, value: Array, *, dt: float) -> State:
        """Returns the state after holding the input at `value` for one step."""
        multipliers, gain = _diagonal_step(self, dt)
        return multipliers * state + gain @ value

    def readout(self, state: State) -> Array:
        """Returns `Re C h`, shape (out,)."""
        return _real_part(self.C @ state)

    def states(self, signal: Signal, *, dt: float, form: str | None = None) -> State:
        """Returns the states after every sample, shape (time, width)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        multipliers, gain = _diagonal_step(self, dt)
        signal = signal if namespace(signal) is jnp else np.asarray(signal)
        return linear_diagonal_states(multipliers, signal @ gain.T, form=form)

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns the memory kernel at `lags`, shape (lag, out, in); zero at negative lags."""
        lags = _lags(lags)
        xp = namespace(self, lags)
        rates = self.rates
        if self.dt is None:
            decay = xp.exp(-xp.maximum(lags, 0.0)[:, None] * rates)
        else:
            counts, _ = _split_lags(lags, self.dt)
            decay = xp.exp(-(xp.maximum(counts, 0.0) * self.dt)[:, None] * rates) / self.dt
        return _sum_modes(xp.where(lags[:, None] < 0, 0.0, decay), self.amplitudes)

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns `∫_0^t ρ(s) ds` at `lags`, shape (lag, out, in); zero at negative lags."""
        lags = _lags(lags)
        xp = namespace(self, lags)
        rates = self.rates
        hold = ZeroOrderHold()
        if self.dt is None:
            growth = hold.diagonal(rates[None, :], dt=xp.maximum(lags, 0.0)[:, None])[1]
        else:
            counts, fraction = _split_lags(lags, self.dt)
            counts = xp.maximum(counts, 0.0)
            power, whole = hold.diagonal(rates[None, :], dt=(counts * self.dt)[:, None])
            one = hold.diagonal(rates[None, :], dt=self.dt)[1]
            growth = whole / one + fraction[:, None] * power
        return _sum_modes(xp.where(lags[:, None] < 0, 0.0, growth), self.amplitudes)

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns `Σ a_i / (s + w_i)` or its derivative in s, shape (point, out, in)."""
        s = _points(s, derivative)
        xp = namespace(self, s)
        amplitudes, rates = self.amplitudes, self.rates
        if not xp.iscomplexobj(rates) and not xp.iscomplexobj(amplitudes):
            return self._transform(s, rates, amplitudes, derivative, xp)
        # The real part of the kernel is the mean of the sum and of its conjugate.
        total = self._transform(s, rates, amplitudes, derivative, xp)
        total = total + self._transform(s, rates.conj(), amplitudes.conj(), derivative, xp)
        return 0.5 * (total if xp.iscomplexobj(s) else total.real)

    def _transform(self, s: Any, rates: Any, amplitudes: Any, derivative: int, xp: Any) -> Any:
        if self.dt is None:
            pole = (s[:, None] + rates) ** -(derivative + 1)
            sign = math.factorial(derivative) * (-1) ** derivative
            return sign * xp.einsum("sm,moi->soi", pole, amplitudes)
        q = xp.exp(-(s[:, None] + rates) * self.dt)
        pole = 1 / (1 - q)
        terms = [pole]
        if derivative >= 1:
            terms.append(-self.dt * q * pole**2)
        if derivative >= 2:
            terms.append(self.dt**2 * (q * pole**2 + 2 * q * q * pole**3))
        transfer = [xp.einsum("sm,moi->soi", term, amplitudes) for term in terms]
        return _held(transfer, s, self.dt, derivative, xp)


@dataclasses.dataclass(frozen=True)
class StabilityMargin:
    """How far a linear network is from instability, at both ends.

    Continuous: `margin = min Re w`, in 1/time, and no fast end. Discrete: `margin = 1 - max |α|`
    over the multipliers of one step; modes with Re α ≥ 0 fail at the slow end (too little decay),
    modes with Re α < 0 at the fast end (a step too long). Negative means unstable.
    """

    margin: float
    slow_end: float
    fast_end: float
    time: str
    slowest_rate: float
    status: Status


def stability_margin(model: LinearRNN | DiagonalRNN, *, dt: float | None = None) -> StabilityMargin:
    """Returns the distance from instability, at the slow and the fast end.

    Args:
        model: a linear network.
        dt: judge a continuous network as it is stepped with its own rule at this step.

    Returns:
        A `StabilityMargin`; its status is `diverged` where the network is unstable.

    Raises:
        TypeError: if the model is no linear network.
        ValueError: if a weight is not finite.
    """
    _require_linear(model)
    model = model if dt is None else rediscretise(model, dt)
    if isinstance(model, DiagonalRNN):
        rates = np.atleast_1d(
            host_float64("rates", model.rates, owner="stability_margin", allow_complex=True)
        )
        multipliers = np.exp(-rates * (model.dt or 1.0))
    else:
        A = host_float64("A", model.A, owner="stability_margin")
        eigenvalues = np.linalg.eigvals(A)
        rates, multipliers = -eigenvalues, eigenvalues
        if model.dt is not None:
            with np.errstate(divide="ignore"):
                rates = -np.log(np.abs(eigenvalues)) / model.dt
    slowest = float(np.min(np.real(rates)))
    if model.dt is None:
        slow_end, fast_end, time = slowest, math.inf, "continuous"
    else:
        time = "discrete"
        if isinstance(model, DiagonalRNN):
            distance = -np.expm1(-np.real(rates) * model.dt)
        else:
            distance = 1 - np.abs(multipliers)
        is_slow = np.real(multipliers) >= 0
        slow_end = float(np.min(distance[is_slow], initial=math.inf))
        fast_end = float(np.min(distance[~is_slow], initial=math.inf))
    margin = min(slow_end, fast_end)
    status = Status()
    if margin <= 0:
        end = "slow" if slow_end <= fast_end else "fast"
        status = Status("diverged", f"the {end} end is {abs(margin):.3g} beyond the boundary")
    return StabilityMargin(margin, slow_end, fast_end, time, slowest, status)


def rediscretise(model: LinearRNN | DiagonalRNN, dt: float | None) -> LinearRNN | DiagonalRNN:
    """Returns the same network at another step: continuous to discrete, discrete to continuous.

    A continuous network is stepped by its own rule. A discrete one is first lifted to the
    continuous network whose exact zero-order hold it is.

    Args:
        model: a linear network.
        dt: the new step; `None` for continuous time.

    Returns:
        A network of the same class. Its kernel integrals at the new step are those of the
        continuous kernel.

    Raises:
        ValueError: if a discrete network has no real continuous counterpart (a multiplier that is
            zero or negative).
    """
    _require_linear(model)
    dt = None if dt is None else require_positive("dt", dt)
    if model.dt is not None and dt is not None and equal_steps(model.dt, dt):
        return model
    if isinstance(model, LinearRNN):
        if model.dt is not None:
            A, B = _lift(model, model.dt)
            model = LinearRNN(A, B, model.C)
        if dt is None:
            return model
        A, B = dense_step(model, dt)
        return LinearRNN(A, B, model.C, dt=dt)
    rates, B = model.rates, model.input_matrix
    if model.dt is not None:
        if not is_tracer(rates) and np.any(np.abs(np.imag(rates)) * model.dt > np.pi * (1 - 1e-9)):
            raise _no_counterpart("a multiplier on the negative axis")
        B = B / ZeroOrderHold().diagonal(rates, dt=model.dt)[1][:, None]
        if dt is None:
            return _with_readin(model, B, None)
        rule: AbstractDiscretisation = ZeroOrderHold()
    elif dt is None:
        return model
    else:
        rule = model.discretisation
    xp = namespace(model)
    multipliers, gain = rule.diagonal(rates, dt=dt)
    B = gain[:, None] * B
    if isinstance(rule, ZeroOrderHold):
        return _with_readin(model, B, dt)
    if xp is np:
        if np.any(multipliers == 0):
            raise _no_counterpart("a multiplier of zero")
        if np.iscomplexobj(multipliers) or np.any(multipliers < 0):
            multipliers = multipliers.astype(np.complex128)
    return DiagonalRNN(-xp.log(multipliers) / dt, B, model.C, dt=dt)


def to_diagonal(
    model: LinearRNN | DiagonalRNN, *, reparam: AbstractReparam | None = None, rtol: float = 1e-9
) -> DiagonalRNN:
    """Returns the diagonal network with the same kernel.

    Args:
        model: a linear network.
        reparam: parameterisation of the result; direct by default.
        rtol: largest accepted difference of the transfer functions, relative to their maximum.

    Returns:
        A `DiagonalRNN` of the same width, real if all rates are real.

    Raises:
        ValueError: if the network is not diagonalisable to `rtol` (repeated or nearly repeated
            rates) or `reparam` cannot reach a rate.
    """
    _require_linear(model)
    if isinstance(model, DiagonalRNN):
        return model if reparam is None else reparameterise(model, reparam)
    A = host_float64("A", model.A, owner="to_diagonal")
    B = host_float64("B", model.B, owner="to_diagonal")
    C = host_float64("C", model.C, owner="to_diagonal")
    eigenvalues, vectors = np.linalg.eig(A)
    remedy = "keep the dense LinearRNN, which needs no eigenvectors"
    try:
        read_in, read_out = np.linalg.solve(vectors, B.astype(vectors.dtype)), C @ vectors
    except np.linalg.LinAlgError:
        raise invalid("model", "a diagonalisable network", "a repeated rate", remedy) from None
    with np.errstate(divide="ignore"):
        rates = (
            -eigenvalues if model.dt is None else -np.log(eigenvalues.astype(complex)) / model.dt
        )
    if not np.all(np.isfinite(rates)):
        raise invalid("model", "multipliers other than zero", "a multiplier of zero", remedy)
    if np.all(np.imag(rates) == 0):
        rates = np.real(rates)
    # Balanced factors keep B and C of one size, whatever scale eig chose for its vectors.
    size_in = np.linalg.norm(read_in, axis=1)
    size_out = np.linalg.norm(read_out, axis=0)
    scale = np.sqrt(
        np.where((size_in > 0) & (size_out > 0), size_out / np.where(size_in > 0, size_in, 1), 1)
    )
    diagonal = DiagonalRNN(
        rates,
        read_in * scale[:, None],
        read_out / scale,
        dt=model.dt,
        reparam=reparam,
        discretisation=model.discretisation,
    )
    error, size = _transfer_difference(model, diagonal, np.abs(rates))
    if not error <= rtol * size:
        raise invalid(
            "model",
            f"a network diagonalisable to {rtol:.0e}",
            f"a relative error of {error / size:.1e} (rates repeated or nearly so)",
            remedy,
        )
    return diagonal


def to_dense(model: LinearRNN | DiagonalRNN) -> LinearRNN:
    """Returns the real dense network with the same kernel.

    Conjugate pairs become two-by-two real blocks; a complex unit without its conjugate needs two
    real units.

    Args:
        model: a linear network, diagonal or dense.

    Raises:
        TypeError: if the model is no linear network.
        ValueError: if a weight is not finite.
    """
    _require_linear(model)
    if isinstance(model, LinearRNN):
        return model
    rates = host_float64("rates", model.rates, owner="to_dense", allow_complex=True)
    B = host_float64("B", model.input_matrix, owner="to_dense", allow_complex=True)
    C = host_float64("C", model.C, owner="to_dense", allow_complex=True)
    diagonal = -rates if model.dt is None else np.exp(-rates * model.dt)
    is_real = np.isreal(rates) & np.all(np.isreal(C.T[:, :, None] * B[:, None, :]), axis=(1, 2))
    units = _paired_units(rates, B, C, is_real)
    width = sum(1 if is_real[i] else 2 for i, _ in units)
    A = np.zeros((width, width))
    read_in, read_out = np.zeros((width, B.shape[1])), np.zeros((C.shape[0], width))
    k = 0
    for i, weight in units:
        if is_real[i]:
            # A real amplitude may be split over complex factors: turn the phase out of both.
            pivot = B[i, np.argmax(np.abs(B[i]))]
            phase = pivot / abs(pivot) if pivot != 0 else 1.0
            A[k, k] = diagonal[i].real
            read_in[k], read_out[:, k] = np.real(B[i] / phase), np.real(C[:, i] * phase)
            k += 1
        else:
            d = diagonal[i]
            A[k : k + 2, k : k + 2] = [[np.real(d), -np.imag(d)], [np.imag(d), np.real(d)]]
            read_in[k], read_in[k + 1] = np.real(B[i]), np.imag(B[i])
            read_out[:, k], read_out[:, k + 1] = (
                weight * np.real(C[:, i]),
                -weight * np.imag(C[:, i]),
            )
            k += 2
    return LinearRNN(A, read_in, read_out, dt=model.dt, discretisation=model.discretisation)


def reparameterise(
    model: DiagonalRNN, reparam: AbstractReparam | None = None, *, readin: str | None = None
) -> DiagonalRNN:
    """Returns the same network trained through another map from weights to rates, or another read-in.

    Args:
        model: a diagonal network, such as one trained directly.
        reparam: the new parameterisation, stable ones needing positive rates; kept if omitted.
        readin: `"plain"` or `"normalised"`; kept if omitted.

    Returns:
        A network with the same kernel.

    Raises:
        ValueError: if `reparam` cannot reach one of the rates, or a rate is not positive where the
            read-in is to be normalised.
    """
    if not isinstance(model, DiagonalRNN):
        raise wrong_type(
            "model", "a DiagonalRNN", type(model).__name__, "convert it with models.to_diagonal"
        )
    reparam = model.reparam if reparam is None else reparam
    readin = model.readin if readin is None else require_choice("readin", readin, READINS)
    B = model.B
    if readin != model.readin:
        scale = _normalisation(model.reparam.forward(model.weights), model.dt)[:, None]
        if not is_tracer(scale) and not (np.asarray(scale) > 0).all():
            raise invalid("model", "positive rates", "others", "keep the plain read-in")
        B = B / scale if readin == "normalised" else B * scale
    return DiagonalRNN(
        model.rates,
        B,
        model.C,
        dt=model.dt,
        reparam=reparam,
        discretisation=model.discretisation,
        readin=readin,
    )


def _normalisation(decay: Any, dt: float | None) -> Any:
    return decay if dt is None else -namespace(decay).expm1(-decay * dt)


def _with_readin(model: DiagonalRNN, B: Any, dt: float | None) -> DiagonalRNN:
    if model.readin == "normalised":
        B = B / _normalisation(model.reparam.forward(model.weights), dt)[:, None]
    return DiagonalRNN(model.rates, B, model.C, dt=dt, reparam=model.reparam, readin=model.readin)


def _paired_units(
    rates: np.ndarray, B: np.ndarray, C: np.ndarray, is_real: np.ndarray
) -> list[tuple[int, float]]:
    # One unit stands for a conjugate pair with weight 2; a unit without its conjugate has weight 1.
    units: list[tuple[int, float]] = []
    free = [i for i in range(len(rates)) if not is_real[i]]
    amplitudes = C.T[:, :, None] * B[:, None, :]
    for i in range(len(rates)):
        if is_real[i]:
            units.append((i, 1.0))
        elif i in free:
            free.remove(i)
            weight = 1.0
            for j in free:
                if np.isclose(rates[j], np.conj(rates[i]), rtol=1e-13, atol=0) and np.allclose(
                    amplitudes[j], np.conj(amplitudes[i]), rtol=1e-13, atol=0
                ):
                    free.remove(j)
                    weight = 2.0
                    break
            units.append((i, weight))
    return units


def _transfer_difference(
    first: LinearRNN, second: DiagonalRNN, rates: np.ndarray
) -> tuple[float, float]:
    top = np.pi / first.dt if first.dt else 10 * max(float(rates.max()), 1e-300)
    bottom = max(0.1 * float(rates.min()), 1e-12 * top)
    s = 1j * np.geomspace(bottom, top, 60)
    exact = first.laplace(s)
    return float(np.abs(exact - second.laplace(s)).max()), float(np.abs(exact).max())


def _lift(model: LinearRNN, dt: float) -> tuple[np.ndarray, np.ndarray]:
    A = host_float64("A", model.A, owner="rediscretise")
    B = host_float64("B", model.B, owner="rediscretise")
    m = len(B)
    eigenvalues = np.linalg.eigvals(A)
    if np.any(
        (np.abs(np.imag(eigenvalues)) <= 1e-12 * np.abs(eigenvalues)) & (np.real(eigenvalues) <= 0)
    ):
        raise _no_counterpart("a multiplier that is zero or negative")
    generator = np.asarray(scipy.linalg.logm(A))
    if np.abs(np.imag(generator)).max() > 1e-9 * np.abs(generator).max():
        raise _no_counterpart("a state matrix without a real logarithm")
    generator = np.real(generator) / dt
    # B̄ = ∫_0^dt e^{As} ds B: the integral comes from one block exponential, singular A included.
    block = np.block([[generator, np.eye(m)], [np.zeros((m, 2 * m))]]) * dt
    hold = scipy.linalg.expm(block)[:m, m:]
    return generator, np.linalg.solve(hold, B)


def _no_counterpart(reason: str) -> ValueError:
    return invalid(
        "model",
        "a discrete network with a continuous counterpart",
        reason,
        "keep its own dt: it cannot be stepped at another one",
    )


def _require_linear(model: Any) -> None:
    if not isinstance(model, (LinearRNN, DiagonalRNN)):
        raise wrong_type("model", "a LinearRNN or DiagonalRNN", type(model).__name__)


def _check_step(dt: Any, discretisation: Any) -> None:
    if not isinstance(discretisation, AbstractDiscretisation):
        raise wrong_type(
            "discretisation", "ZeroOrderHold() or Euler()", type(discretisation).__name__
        )
    if dt is not None:
        require_positive("dt", dt)


def _matrix(name: str, array: Any) -> tuple[int, ...]:
    shape = np.shape(array)
    if len(shape) != 2:
        raise invalid(name, "a matrix", f"shape {shape}")
    return shape


def _check_readin(B: Any, C: Any, width: int) -> None:
    shape_in, shape_out = _matrix("B", B), _matrix("C", C)
    if shape_in[0] != width or shape_in[1] == 0:
        raise invalid("B", f"shape (width, in) = ({width}, in)", f"shape {shape_in}")
    if shape_out[1] != width or shape_out[0] == 0:
        raise invalid("C", f"shape (out, width) = (out, {width})", f"shape {shape_out}")


def _real(name: str, array: Any) -> None:
    kind = np.dtype(array.dtype).kind
    if kind != "f":
        raise wrong_type(name, "real floating-point numbers", f"dtype {array.dtype}")


def checked_step(model: LinearRNN | DiagonalRNN, dt: Any) -> Any:
    """Returns the step of a call; a discrete network accepts its own only."""
    if model.dt is None:
        return dt if is_tracer(dt) else require_positive("dt", dt)
    if is_tracer(dt) or not equal_steps(model.dt, require_positive("dt", dt)):
        raise invalid(
            "dt", f"the step {model.dt:g} of this discrete network", dt, "use models.rediscretise"
        )
    return model.dt


def dense_step(model: LinearRNN, dt: Any) -> tuple[Any, Any]:
    """Returns (Ā, B̄) of one step of `dt`."""
    dt = checked_step(model, dt)
    if model.dt is not None:
        return model.A, model.B
    return model.discretisation.dense(model.A, model.B, dt=dt)


def _diagonal_step(model: DiagonalRNN, dt: Any) -> tuple[Any, Any]:
    dt = checked_step(model, dt)
    rates = model.rates
    rule = ZeroOrderHold() if model.dt is not None else model.discretisation
    multipliers, gain = rule.diagonal(rates, dt=dt)
    if isinstance(rule, ZeroOrderHold) and getattr(model.reparam, "is_stable", False):
        multipliers = _inside_unit_disc(multipliers)
    B = model.input_matrix
    return multipliers, (B if model.dt is not None else gain[:, None] * B)


def _inside_unit_disc(multipliers: Any) -> Any:
    # e^{-w dt} rounds to 1 where w dt < eps/2: a stable rate must still forget.
    xp = namespace(multipliers)
    info = np.finfo(np.dtype(multipliers.dtype))
    if not xp.iscomplexobj(multipliers):
        return xp.minimum(multipliers, 1 - info.epsneg)
    size = xp.abs(multipliers)
    bound = 1 - 4 * info.epsneg
    return multipliers * xp.where(size > bound, bound / xp.maximum(size, bound), 1.0)


def _real_part(value: Any) -> Any:
    return value.real if np.iscomplexobj(value) else value


def _sum_modes(modes: Any, amplitudes: Any) -> Any:
    width, n_outputs, n_inputs = amplitudes.shape
    total = modes @ amplitudes.reshape(width, n_outputs * n_inputs)
    return _real_part(total).reshape(-1, n_outputs, n_inputs)


def _lags(lags: Any) -> Any:
    if not is_tracer(lags) and not isinstance(lags, jax.Array):
        lags = host_float64("lags", lags, owner="kernel")
    if np.ndim(lags) != 1:
        raise invalid("lags", "shape (lag,)", f"shape {np.shape(lags)}", "use np.atleast_1d(lags)")
    return lags


def _points(s: Any, derivative: Any) -> Any:
    if derivative not in (0, 1, 2):
        raise invalid("derivative", "0, 1 or 2", derivative)
    if not is_tracer(s) and not isinstance(s, jax.Array):
        s = host_float64("s", s, owner="laplace", allow_complex=True)
    if np.ndim(s) != 1:
        raise invalid("s", "shape (point,)", f"shape {np.shape(s)}", "use np.atleast_1d(s)")
    return s


def _split_lags(lags: Any, dt: float) -> tuple[Any, Any]:
    # A lag computed as j*dt may fall short of the j-th edge by rounding: it belongs to step j.
    xp = namespace(lags)
    ratio = lags / dt
    counts = xp.floor(ratio + 1e-9 + 1e-14 * abs(ratio))
    return counts, xp.maximum(ratio - counts, 0.0)


def _held(transfer: list[Any], s: Any, dt: float, derivative: int, xp: Any) -> Any:
    # The kernel is constant on each step, so its transform is the z-transform times ∫_0^1 e^{-s dt u} du.
    hold = [(-dt) ** n * _moment(n, s * dt, xp)[:, None, None] for n in range(derivative + 1)]
    if derivative == 0:
        return hold[0] * transfer[0]
    if derivative == 1:
        return hold[1] * transfer[0] + hold[0] * transfer[1]
    return hold[2] * transfer[0] + 2 * hold[1] * transfer[1] + hold[0] * transfer[2]


def _moment(n: int, z: Any, xp: Any) -> Any:
    # ∫_0^1 u^n e^{-zu} du: the recurrence cancels near zero, the series converges there.
    small = xp.abs(z) < 1.0
    safe = xp.where(small, 1.0, z)
    closed = -xp.expm1(-safe) / safe
    for k in range(1, n + 1):
        closed = (k * closed - xp.exp(-safe)) / safe
    near = xp.where(small, z, 0.0)
    series, term = 0.0, xp.ones_like(near)
    for k in range(20):
        series = series + term / (k + n + 1)
        term = -term * near / (k + 1)
    return xp.where(small, series, closed)


def _exponential_action(matrix: Any, start: Any, lags: Any) -> np.ndarray:
    """Returns `e^{M t} V` for each lag, shape (lag, m, in), without eigenvectors.

    Lags are split as `t = n h + r` with h a power of two: the remainder by its Taylor series, the
    binary digits of n by one matrix exponential each, so the error stays that of a few products.
    """
    matrix, start = np.asarray(matrix, np.float64), np.asarray(start, np.float64)
    positive = np.maximum(lags, 0.0)
    size = max(float(np.abs(matrix).sum(axis=0).max()), 1e-300)
    h = 2.0 ** (np.floor(np.log2(0.5 / size)))
    counts = np.floor(positive / h)
    remainder = positive - counts * h
    m, n_inputs = start.shape
    columns = np.broadcast_to(start[:, None, :], (m, len(lags), n_inputs)).copy()
    # ‖M r‖ ≤ 1/2, so fifteen terms leave 0.5^16/16! ≈ 1e-18.
    if np.any(remainder > 0):
        term = columns
        weights = remainder[None, :, None]
        for k in range(1, 16):
            term = np.tensordot(matrix, term, axes=1) * (weights / k)
            columns = columns + term
    columns = _apply_digits(columns, counts, lambda k: scipy.linalg.expm(matrix * (h * 2.0**k)))
    columns[:, lags < 0] = 0.0
    return columns.transpose(1, 0, 2)


def _power_action(matrix: Any, start: Any, counts: np.ndarray) -> np.ndarray:
    """Returns `A^n V` for each count, shape (count, m, in); zero for negative counts."""
    powers = [np.asarray(matrix, np.float64)]

    def power(k: int) -> np.ndarray:
        while len(powers) <= k:
            powers.append(powers[-1] @ powers[-1])
        return powers[k]

    start = np.asarray(start, np.float64)
    m, n_inputs = start.shape
    columns = np.broadcast_to(start[:, None, :], (m, len(counts), n_inputs)).copy()
    columns = _apply_digits(columns, np.maximum(counts, 0.0), power)
    columns[:, counts < 0] = 0.0
    return columns.transpose(1, 0, 2)


def _apply_digits(columns: np.ndarray, counts: np.ndarray, power: Any) -> np.ndarray:
    n_digits = int(np.log2(counts.max())) + 1 if counts.size and counts.max() >= 1 else 0
    for k in range(n_digits):
        is_set = np.floor(counts / 2.0**k) % 2 == 1
        if is_set.any():
            columns[:, is_set] = np.tensordot(power(k), columns[:, is_set], axes=1)
    return columns


def _traced_kernel(model: LinearRNN, lags: Any) -> Any:
    A, B, C = (jnp.asarray(x) for x in (model.A, model.B, model.C))
    lags = jnp.asarray(lags)
    if model.dt is None:
        powers = jax.vmap(lambda t: jax.scipy.linalg.expm(A * t))(jnp.maximum(lags, 0.0))
        values = C @ powers @ B
    else:
        counts, _ = _split_lags(lags, model.dt)
        values = C @ _traced_powers(A, jnp.maximum(counts, 0.0)) @ B / model.dt
    return jnp.where(lags[:, None, None] < 0, 0.0, values)


def _traced_step_response(model: LinearRNN, lags: Any) -> Any:
    A, B, C = (jnp.asarray(x) for x in (model.A, model.B, model.C))
    lags = jnp.asarray(lags)
    m, n_inputs = model.width, model.n_inputs
    corner = jnp.eye(n_inputs) if model.dt else jnp.zeros((n_inputs, n_inputs))
    block = jnp.block([[A, B], [jnp.zeros((n_inputs, m)), corner.astype(A.dtype)]])
    if model.dt is None:
        powers = jax.vmap(lambda t: jax.scipy.linalg.expm(block * t))(jnp.maximum(lags, 0.0))
        values = C @ powers[:, :m, m:]
    else:
        counts, fraction = _split_lags(lags, model.dt)
        counts = jnp.maximum(counts, 0.0)
        values = C @ _traced_powers(block, counts)[:, :m, m:]
        values = values + fraction[:, None, None] * (C @ _traced_powers(A, counts) @ B)
    return jnp.where(lags[:, None, None] < 0, 0.0, values)


def _traced_powers(matrix: Any, counts: Any) -> Any:
    def apply(carry: tuple[Any, Any, Any], _: None) -> tuple[Any, None]:
        result, square, rest = carry
        is_set = (rest % 2 == 1)[:, None, None]
        result = jnp.where(is_set, square @ result, result)
        return (result, square @ square, jnp.floor(rest / 2)), None

    eye = jnp.broadcast_to(jnp.eye(len(matrix), dtype=matrix.dtype), (len(counts), *matrix.shape))
    return jax.lax.scan(apply, (eye, matrix, counts), None, length=31)[0][0]
