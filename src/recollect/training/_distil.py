"""Distil: a trained layer that is linear in time, as a smaller recurrence at a stated error."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from recollect._core._check import (
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._discretise import ZeroOrderHold
from recollect._core._functional import AbstractFunctional, AbstractReparam, as_functional
from recollect._core._precision import as_double
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.models import (
    DiagonalRNN,
    Exponential,
    LinearRNN,
    Stack,
    StateSpaceLayer,
    rediscretise,
    reparameterise,
    to_dense,
    to_diagonal,
)
from recollect.training._lag_refinement import (
    LagGrid,
    continuous_grid,
    discrete_grid,
    measure_by_output,
    refine_over_lags,
)
from recollect.training._mode_reduction import (
    MatrixModes,
    Modes,
    bound_reduction,
    close_conjugates,
    measure_difference,
    project_modes,
    reduce_matrix,
    reduce_modes,
    to_half_plane,
)
from recollect.training._sequence_reduction import (
    bound_sequence,
    hankel_part,
    multipliers_of,
)

_OWNER = "distil"
_NORMS = ("l1", "l2", "linf")
_MOST_STEPS = 1 << 18
_MOST_ROWS = 8192
# Largest slope of each activation; of the tanh form of gelu, 1.1289 at z = 1.41.
_SLOPES = {
    "linear": 1.0,
    "tanh": 1.0,
    "hardtanh": 1.0,
    "relu": 1.0,
    "sigmoid": 0.25,
    "gelu": 1.13,
}
_CANCELLED = 1e6
# Local optima in L2 from which another norm is refined.
_N_STARTS = 3


@dataclasses.dataclass(frozen=True)
class DistilledLayer:
    """A smaller layer, how far it is from the one it replaces, and how near anything could be.

    Attributes:
        model: of the kind that was given where there is one: a `StateSpaceLayer`, `DiagonalRNN`,
            `LinearRNN` or `Stack`; a `DiagonalRNN` for kernels and callables. Weights on the host.
        errors: distance of the kernels in `l1`, `l2` and `linf`, as in
            `approximation.fit_exponential_sum`: l1 is the largest over outputs and bounds the
            output's error per unit of the largest input. Of the worst layer of a stack.
        relative_error: the error in `norm` over the kernel's own norm.
        bounds: what no network of that many states (per separate channel) can be nearer than.
        output_bound: largest change of the layer's output, nonlinearity included, per unit of the
            largest input: `max_rows Σ |M| · slope · ‖ρ - ρ̂‖₁`; of a stack, None.
        norm: the norm that was minimised.
        width: states of the model.
        width_before: states of the layer given; lags for kernels.
        dt: step of the kernels, None in continuous time.
        parts: of a stack, each layer that was distilled.
        status: `precision_limit` where the modes cancel so much that float32 would lose the error
            stated, `not_converged` where the error wanted was out of reach.
        warnings: everything that deserves a word.
        stats: seconds, number of separate channels, norms of the kernel.
    """

    model: Any
    errors: Mapping[str, float]
    relative_error: float
    bounds: Mapping[str, float]
    output_bound: float | None
    norm: str
    width: int
    width_before: int
    dt: float | None
    parts: tuple[DistilledLayer, ...]
    status: Status
    warnings: tuple[Status, ...]
    stats: Mapping[str, Any]

    @property
    def error(self) -> float:
        """The error in the norm that was minimised."""
        return self.errors[self.norm]

    @property
    def bound(self) -> float:
        """The lower bound in the norm that was minimised."""
        return self.bounds[self.norm]


@on_one_thread
@references("adamyan1971analytic", "golub1973differentiation", "gugercin2008h2")
def distil(
    layer: Any,
    *,
    width: int | None = None,
    error: float | None = None,
    relative_error: float | None = None,
    norm: str = "l2",
    dt: float | None = None,
    n_inputs: int = 1,
    n_lags: int | None = None,
) -> DistilledLayer:
    """Returns a smaller recurrence for a layer that is linear in time, with error and lower bound.

    A layer's linear part is its memory kernel; what surrounds it (nonlinearity, mixing, skip,
    bias) stays as it is. Modes of a recurrence have their inner products in closed form, so its
    L2-best reduction costs no lags at all; L1 and Linf are refined over lags from there. Kernels
    given as arrays go through the Hankel matrix, applied by fast convolution: linear in the lags.

    Channels that share no state (an S4 layer with one system per channel, a depthwise convolution)
    are distilled separately, and `width` is that of each; channels on one state stay on one.

    Args:
        layer: a `StateSpaceLayer`, `DiagonalRNN`, `LinearRNN` or a `Stack` (each such layer in
            it); kernels of a long convolution, shape (channel, lag) for one per channel or
            (out, in, lag), weight j being that of the input j steps ago; or anything callable
            (time, in) -> (time, out) that is linear, asked with impulses over `n_lags` steps.
        width: states to keep (a conjugate pair counts as two), per separate channel.
        error: instead of `width`: the fewest states whose error in `norm` is at most this.
        relative_error: the same as a part of the kernel's own norm.
        norm: `"l1"` (gain from the largest input), `"l2"` (white noise) or `"linf"`.
        dt: step at which the layer is used. A continuous layer is distilled in continuous time
            without it, and then serves at every step; kernels have step 1 without it.
        n_inputs: of a callable that does not tell.
        n_lags: how many steps a callable is asked for.

    Returns:
        The smaller layer, ready for `models.save`, `models.stream` and `models.to_torch`.

    Raises:
        ValueError: if a recurrence is unstable, a callable is not linear in time, or not exactly
            one of width, error and relative_error is given.
        TypeError: if `layer` is none of these.
    """
    began = time.perf_counter()
    require_choice("norm", norm, _NORMS)
    given = [value for value in (width, error, relative_error) if value is not None]
    if len(given) != 1:
        raise invalid("width", "one of width, error, relative_error", f"{len(given)} of them")
    if width is not None:
        width = require_count("width", width)
    if error is not None:
        error = require_positive("error", error)
    if relative_error is not None:
        relative_error = require_positive("relative_error", relative_error)
    if dt is not None:
        dt = require_positive("dt", dt)
    wish = _Wish(width, error, relative_error, norm)
    if isinstance(layer, Stack):
        return _distil_stack(layer, wish, dt, began)
    if isinstance(layer, (StateSpaceLayer, DiagonalRNN, LinearRNN)):
        return _distil_recurrence(layer, wish, dt, began)
    if isinstance(layer, (np.ndarray, jax.Array, list, tuple)):
        sequence, is_separate = _as_sequence(layer)
    elif callable(layer):
        sequence, is_separate = _ask(layer, 1.0 if dt is None else dt, n_inputs, n_lags), False
    else:
        raise wrong_type("layer", "a linear layer, kernels or a callable", type(layer).__name__)
    return _distil_sequence(sequence, is_separate, wish, 1.0 if dt is None else dt, began)


@dataclasses.dataclass(frozen=True)
class _Wish:
    width: int | None
    error: float | None
    relative_error: float | None
    norm: str


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """One block after its reduction: rates (continuous, or of a step), and factors."""

    rates: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    errors: dict[str, float]
    by_output: np.ndarray
    status: Status = Status()


# --- recurrences --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Block:
    """Units, inputs and outputs that are connected; `rates` are -log z / dt in discrete time."""

    rates: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    at_inputs: np.ndarray
    at_outputs: np.ndarray
    dt: float | None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.at_outputs), len(self.at_inputs)

    def real_modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the kernel's modes (multipliers in discrete time) and residues, conjugates listed."""
        both = self.outputs[:, :, None] * self.inputs[:, None, :]
        points = self.rates if self.dt is None else np.exp(-self.rates * self.dt)
        found = close_conjugates(points, both.reshape(len(points), -1))
        return found.rates, found.residues


def _blocks_of(network: DiagonalRNN) -> list[_Block]:
    rates = host_float64("rates", network.rates, owner=_OWNER, allow_complex=True).astype(complex)
    B = host_float64("B", network.B, owner=_OWNER, allow_complex=True).astype(complex)
    C = host_float64("C", network.C, owner=_OWNER, allow_complex=True).astype(complex)
    if not rates.real.min() > 0:
        raise invalid(
            "layer",
            "a recurrence that forgets",
            f"a rate with real part {rates.real.min():.3g}",
            "an unstable layer has no memory kernel to distil",
        )
    label_in, label_out = np.arange(B.shape[1]), B.shape[1] + np.arange(C.shape[0])
    reads, writes = np.abs(B) > 0, np.abs(C.T) > 0
    for _ in range(len(label_in) + len(label_out)):
        before = label_in.copy(), label_out.copy()
        for k in range(len(rates)):
            joined = np.concatenate([label_in[reads[k]], label_out[writes[k]]])
            if len(joined) > 1 and joined.min() != joined.max():
                label_in[np.isin(label_in, joined)] = joined.min()
                label_out[np.isin(label_out, joined)] = joined.min()
        if np.array_equal(before[0], label_in) and np.array_equal(before[1], label_out):
            break
    blocks = []
    for label in np.unique(np.concatenate([label_in, label_out])):
        at_in, at_out = np.flatnonzero(label_in == label), np.flatnonzero(label_out == label)
        used = reads[:, at_in].any(axis=1) & writes[:, at_out].any(axis=1)
        if used.any():
            blocks.append(
                _Block(
                    rates[used], B[used][:, at_in], C[at_out][:, used].T, at_in, at_out, network.dt
                )
            )
    if not blocks:
        raise invalid("layer", "a kernel with a memory", "zeros only")
    return blocks


def _distil_recurrence(layer: Any, wish: _Wish, dt: float | None, began: float) -> DistilledLayer:
    network = layer.recurrence if isinstance(layer, StateSpaceLayer) else layer
    network = as_double(network)
    readin = network.readin if isinstance(network, DiagonalRNN) else "plain"
    if readin != "plain":
        network = reparameterise(network, readin="plain")
    if network.dt is None and dt is None and not isinstance(network.discretisation, ZeroOrderHold):
        raise invalid("dt", "the step, for a network stepped by Euler's rule", None)
    if dt is not None:
        network = rediscretise(network, dt)
    if isinstance(network, LinearRNN):
        try:
            diagonal = to_diagonal(network)
        except ValueError:
            return _distil_dense(network, wish, began)
    else:
        diagonal = network
    blocks = _blocks_of(diagonal)
    fits = [_fit_block(block, wish, len(blocks)) for block in blocks]
    reparam = diagonal.reparam if isinstance(network, DiagonalRNN) else None
    found, warnings = _joined(
        fits, blocks, diagonal.n_inputs, diagonal.n_outputs, diagonal.dt, reparam
    )
    own = reparameterise(found, readin=readin) if readin != "plain" else found
    own = own if isinstance(network, DiagonalRNN) else to_dense(own)
    model = own
    if isinstance(layer, StateSpaceLayer):
        model = StateSpaceLayer(
            own,
            np.asarray(layer.mix),
            np.asarray(layer.skip),
            np.asarray(layer.bias),
            activation=layer.activation,
            is_residual=layer.is_residual,
        )
    sizes = [_norms(*block.real_modes(), block.shape, block.dt) for block in blocks]
    bounds = [
        bound_reduction(
            *block.real_modes(), max(len(fit.rates), 1), dt=block.dt, n_outputs=block.shape[0]
        )
        for block, fit in zip(blocks, fits, strict=True)
    ]
    return _result(
        model, found, fits, blocks, sizes, bounds, wish, warnings, layer, network.width, began
    )


def _distil_dense(network: LinearRNN, wish: _Wish, began: float) -> DistilledLayer:
    """A network with repeated rates has no modes: its kernel over steps is distilled."""
    if network.dt is None:
        raise invalid("dt", "the step, for a network with repeated or nearly repeated rates", None)
    size = float(np.abs(np.linalg.eigvals(np.asarray(network.A))).max())
    if not size < 1:
        raise invalid("layer", "a recurrence that forgets", f"a multiplier of size {size:.3g}")
    n_lags = math.ceil(40 / max(-math.log(max(size, 1e-300)), 1e-300)) + 2 * network.width
    if n_lags > _MOST_STEPS:
        raise invalid("layer", f"a memory of at most {_MOST_STEPS} steps", f"{n_lags:.3g} steps")
    sequence = np.asarray(network.kernel(network.dt * np.arange(n_lags))) * network.dt
    found = _distil_sequence(sequence, False, wish, network.dt, began)
    return dataclasses.replace(found, model=to_dense(found.model), width_before=network.width)


def _result(
    model: Any,
    found: DiagonalRNN,
    fits: list[_Fitted],
    blocks: list[Any],
    sizes: list[dict[str, float]],
    bounds: list[dict[str, float]],
    wish: _Wish,
    warnings: tuple[Status, ...],
    layer: Any,
    width_before: int,
    began: float,
) -> DistilledLayer:
    errors = _combined([fit.errors for fit in fits])
    size = _combined(sizes)
    lower = _combined(bounds)
    by_output = np.zeros(found.n_outputs)
    for block, fit in zip(blocks, fits, strict=True):
        by_output[block.at_outputs] = fit.by_output
    slope = 1.0
    mix = np.eye(found.n_outputs)
    if isinstance(layer, StateSpaceLayer):
        slope, mix = _SLOPES[layer.activation], np.abs(np.asarray(layer.mix, dtype=np.float64))
    notes = [fit.status for fit in fits if not fit.status.is_ok]
    everything = tuple(dict.fromkeys([*notes, *warnings]))
    return DistilledLayer(
        model=model,
        errors=errors,
        relative_error=errors[wish.norm] / size[wish.norm],
        bounds={name: min(lower[name], errors[name]) for name in _NORMS},
        output_bound=float((mix @ by_output).max() * slope),
        norm=wish.norm,
        width=found.width,
        width_before=width_before,
        dt=found.dt,
        parts=(),
        status=everything[0] if everything else Status(),
        warnings=everything,
        stats={
            "n_separate": len(fits),
            "kernel_norms": size,
            "seconds": time.perf_counter() - began,
        },
    )


def _combined(each: list[dict[str, float]]) -> dict[str, float]:
    """Norms of kernels that share neither inputs nor outputs."""
    return {
        "l1": max(e["l1"] for e in each),
        "l2": math.sqrt(sum(e["l2"] ** 2 for e in each)),
        "linf": max(e["linf"] for e in each),
    }


def _fit_block(block: _Block, wish: _Wish, n_blocks: int) -> _Fitted:
    if wish.width is not None:
        return _reduced(block, wish.width, wish.norm)
    points, residues = block.real_modes()
    size = _norms(points, residues, block.shape, block.dt)[wish.norm]
    wanted = wish.error if wish.error is not None else (wish.relative_error or 0.0) * size
    if wish.norm == "l2" and wish.error is not None:
        wanted /= math.sqrt(n_blocks)
    return _fewest(
        lambda m: _reduced(block, m, wish.norm),
        lambda m: bound_reduction(points, residues, m, dt=block.dt, n_outputs=block.shape[0])[
            wish.norm
        ],
        wanted,
        len(points),
        wish.norm,
    )


def _fewest(
    fit: Callable[[int], _Fitted],
    bound: Callable[[int], float],
    wanted: float,
    most: int,
    norm: str,
) -> _Fitted:
    """Returns the fit of the fewest units whose error is small enough; the bound skips the rest."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bound(middle) > wanted else (low, middle)
    width, step, best = max(1, high), 1, None
    while True:
        trial = fit(width)
        if best is None or trial.errors[norm] < best.errors[norm]:
            best = trial
        if trial.errors[norm] <= wanted:
            break
        if width >= most:
            told = f"the error wanted is {wanted:.3g}; {best.errors[norm]:.3g} was reached"
            return dataclasses.replace(best, status=Status("not_converged", told))
        low, width, step = width, min(most, width + step), 2 * step
    while width - low > 1:
        middle = (low + width) // 2
        trial = fit(middle)
        if trial.errors[norm] <= wanted:
            width, best = middle, trial
        else:
            low = middle
    return best


def _reduced(block: _Block, width: int, norm: str) -> _Fitted:
    """Returns a block on `width` units, with its errors as delivered."""
    points, _ = block.real_modes()
    if width >= len(points) and width >= len(block.rates):
        return _measured(block, block.rates, block.inputs, block.outputs)
    direction = _common_direction(block.inputs)
    if direction is not None:
        factors = block.outputs * (block.inputs @ direction)[:, None]
        rates, amplitudes = _single_state(block, factors, width, norm, block.shape[0])
        ones = np.ones(len(rates))
        return _measured(block, rates, ones[:, None] * direction, amplitudes)
    direction = _common_direction(block.outputs)
    if direction is not None:
        factors = block.inputs * (block.outputs @ direction)[:, None]
        rates, amplitudes = _single_state(block, factors, width, norm, 1)
        ones = np.ones(len(rates))
        return _measured(block, rates, amplitudes, ones[:, None] * direction)
    z = np.exp(-block.rates * (block.dt or 1.0))
    scale = np.ones(len(z)) if block.dt is None else math.sqrt(2) / (1 + z)
    rates = block.rates if block.dt is None else (1 - z) / (1 + z)
    whole = _closed_factors(rates, block.inputs, block.outputs * scale[:, None])
    small = reduce_matrix(whole, width)
    if block.dt is None:
        return _measured(block, small.rates, small.inputs, small.outputs)
    z = (1 - small.rates) / (1 + small.rates)
    back = small.outputs * ((1 + z) / math.sqrt(2))[:, None]
    return _measured(block, _rates_of(z, block.dt), small.inputs, back)


def _common_direction(factors: np.ndarray) -> np.ndarray | None:
    """Returns the real unit vector that all rows are multiples of, None if there is none."""
    size = np.linalg.norm(factors, axis=1, keepdims=True)
    rows = factors / np.where(size > 0, size, 1.0)
    _, singular, right = np.linalg.svd(np.concatenate([rows.real, rows.imag]), full_matrices=False)
    return right[0] if len(singular) == 1 or singular[1] <= 1e-12 * singular[0] else None


def _closed_factors(rates: np.ndarray, inputs: np.ndarray, outputs: np.ndarray) -> MatrixModes:
    """Returns modes of the real part; conjugates that are listed already are not doubled."""
    partner = [
        np.flatnonzero(
            (np.abs(rates - rate.conj()) <= 1e-12 * abs(rate))
            & np.array(
                [
                    np.allclose(
                        outer, np.outer(outputs[k], inputs[k]).conj(), rtol=1e-9, atol=1e-300
                    )
                    for outer in outputs[:, :, None] * inputs[:, None, :]
                ]
            )
        )
        for k, rate in enumerate(rates)
    ]
    alone = np.array([len(p) == 0 for p in partner])
    return MatrixModes(
        np.concatenate([rates[~alone], rates[alone], rates[alone].conj()]),
        np.concatenate([inputs[~alone], inputs[alone], inputs[alone].conj()]),
        np.concatenate([outputs[~alone], outputs[alone] / 2, outputs[alone].conj() / 2]),
    )


def _rates_of(multipliers: np.ndarray, dt: float) -> np.ndarray:
    z = np.where(np.abs(multipliers) < 1e-280, 1e-280, multipliers).astype(complex)
    return -np.log(z) / dt


def _single_state(
    block: _Block, factors: np.ndarray, width: int, norm: str, n_outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns rates and amplitudes (width, channel) of the best fit of one input or one output."""
    is_discrete = block.dt is not None
    points = np.exp(-block.rates * block.dt) if is_discrete else block.rates
    modes = close_conjugates(points, factors)
    flat = to_half_plane(modes.rates, modes.residues) if is_discrete else modes
    rates, _, others = reduce_modes(flat, width)
    amplitudes = project_modes(flat, rates)
    starts = [rates, *others[: _N_STARTS - 1]]
    if not is_discrete:
        if norm == "l2":
            return rates, amplitudes
        # The largest error lies between the nodes of a coarse grid.
        fine, most = (1.2, 4 * _MOST_ROWS) if norm == "linf" else (4.0, _MOST_ROWS)
        grid = continuous_grid(modes.rates, panel=fine, lifetimes=14.0, most=most // 6)
        wanted = evaluate_modes(modes.rates, modes.residues, grid.lags)
        slowest = 0.5 * float(modes.rates.real.min())
    else:
        starts = [_rates_of((1 - w) / (1 + w), 1.0) for w in starts]
        z = (1 - rates) / (1 + rates)
        amplitudes = amplitudes * ((1 + z) / math.sqrt(2))[:, None]
        rates = starts[0]
        if norm == "l2":
            return rates / (block.dt or 1.0), amplitudes
        most = 4 * _MOST_ROWS if norm == "linf" else _MOST_ROWS
        grid = discrete_grid(modes.rates, most=_MOST_STEPS).thinned(8, most=most)
        wanted = evaluate_modes(_rates_of(modes.rates, 1.0), modes.residues, grid.lags)
        slowest = -0.5 * math.log(float(np.abs(modes.rates).max()))
    best = rates, amplitudes
    for start in starts:
        refined = refine_over_lags(
            start,
            grid,
            wanted,
            norm=norm,
            is_discrete=is_discrete,
            n_outputs=n_outputs,
            slowest=slowest,
        )
        best = _nearer(best, refined, grid, wanted, norm, n_outputs)
    return best[0] / (block.dt or 1.0), best[1]


def _nearer(
    first: Any, second: Any, grid: LagGrid, wanted: np.ndarray, norm: str, n_outputs: int
) -> Any:
    def size(pair: Any) -> float:
        error = wanted - evaluate_modes(pair[0], pair[1], grid.lags)
        if norm == "l1":
            return float(measure_by_output(error, grid.weights, n_outputs).max())
        rows = np.abs(error).reshape(len(error), n_outputs, -1).sum(axis=2)
        return float(rows.max())

    return first if size(first) <= size(second) else second


def evaluate_modes(rates: np.ndarray, residues: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Returns `Re Σ a_k e^{-w_k t}` at `lags`, shape (lag, channel)."""
    out = np.empty((len(lags), residues.shape[1]))
    chunk = max(1, (1 << 21) // max(len(rates), residues.shape[1]))
    for k in range(0, len(lags), chunk):
        wave = np.exp(-np.multiply.outer(lags[k : k + chunk], rates))
        out[k : k + chunk] = wave.real @ residues.real - wave.imag @ residues.imag
    return out


def _norms(
    points: np.ndarray, residues: np.ndarray, shape: tuple[int, int], dt: float | None
) -> dict[str, float]:
    return _norms_by_output(points, residues, shape, dt)[0]


def _norms_by_output(
    points: np.ndarray, residues: np.ndarray, shape: tuple[int, int], dt: float | None
) -> tuple[dict[str, float], np.ndarray]:
    """Returns the norms of a sum of modes, L2 in closed form, and the L1 norm of each output."""
    if dt is None:
        grid = continuous_grid(points, panel=1.2, most=1 << 15)
        rates = points
        flat = Modes(points, residues)
    else:
        grid = discrete_grid(points, most=_MOST_STEPS)
        rates = _rates_of(points, 1.0)
        flat = to_half_plane(points, residues)
    unit = 1.0 if dt is None else dt
    sums, largest = np.zeros(shape[0]), 0.0
    chunk = max(64, (1 << 22) // max(len(points), residues.shape[1]))
    for k in range(0, len(grid.lags), chunk):
        part = evaluate_modes(rates, residues, grid.lags[k : k + chunk])
        rows = np.abs(part).reshape(-1, *shape).sum(axis=2)
        sums += grid.weights[k : k + chunk] @ rows
        largest = max(largest, float(rows.max()))
    nothing = Modes(flat.rates[:1], 0 * flat.residues[:1])
    return {
        "l1": float(sums.max()),
        "l2": measure_difference(flat, nothing) / math.sqrt(unit),
        "linf": largest / unit,
    }, sums


def _measured(block: _Block, rates: np.ndarray, inputs: np.ndarray, outputs: np.ndarray) -> _Fitted:
    """Returns the fit with the errors of what is delivered: those of the difference of modes."""
    points, residues = block.real_modes()
    own = outputs[:, :, None] * inputs[:, None, :]
    own = own.reshape(len(rates), -1)
    fitted = close_conjugates(rates if block.dt is None else np.exp(-rates * block.dt), own)
    errors, by_output = _norms_by_output(
        np.concatenate([points, fitted.rates]),
        np.concatenate([residues, -fitted.residues]),
        block.shape,
        block.dt,
    )
    status = Status()
    scale = np.abs(fitted.residues).sum(axis=0)
    start = np.abs(residues.sum(axis=0))
    total = float(
        scale.max()
        / max(
            np.abs(start).max(),
            _norms(points, residues, block.shape, block.dt)["linf"] * (block.dt or 1.0),
            1e-300,
        )
    )
    if total > _CANCELLED:
        status = Status(
            "precision_limit", f"amplitudes {total:.2g} times the kernel cancel in its modes"
        )
    return _Fitted(rates, inputs, outputs, errors, by_output, status)


def _joined(
    fits: list[_Fitted],
    blocks: list[Any],
    n_inputs: int,
    n_outputs: int,
    dt: float | None,
    reparam: AbstractReparam | None,
) -> tuple[DiagonalRNN, tuple[Status, ...]]:
    """Returns one network of all blocks, factors of one size."""
    width = sum(len(fit.rates) for fit in fits)
    rates = np.concatenate([fit.rates for fit in fits]).astype(complex)
    B, C = np.zeros((width, n_inputs), complex), np.zeros((n_outputs, width), complex)
    k = 0
    for fit, block in zip(fits, blocks, strict=True):
        rows = np.arange(k, k + len(fit.rates))
        size_in = np.linalg.norm(fit.inputs, axis=1)
        size_out = np.linalg.norm(fit.outputs, axis=1)
        known = (size_in > 0) & (size_out > 0)
        scale = np.sqrt(np.where(known, size_out / np.where(size_in > 0, size_in, 1.0), 1.0))
        B[np.ix_(rows, block.at_inputs)] = fit.inputs * scale[:, None]
        C[np.ix_(block.at_outputs, rows)] = (fit.outputs / scale[:, None]).T
        k += len(rows)
    warnings: tuple[Status, ...] = ()
    if not (rates.imag.any() or B.imag.any() or C.imag.any()):
        rates, B, C = rates.real, B.real, C.real
    if reparam is None:
        return DiagonalRNN(rates, B, C, dt=dt), warnings
    try:
        found = DiagonalRNN(rates, B, C, dt=dt, reparam=reparam)
    except ValueError:
        found = DiagonalRNN(rates, B, C, dt=dt, reparam=Exponential())
        told = f"{type(reparam).__name__} cannot reach these rates; Exponential is used"
        warnings = (Status("precision_limit", told),)
    return found, warnings


def _distil_stack(stack: Stack, wish: _Wish, dt: float | None, began: float) -> DistilledLayer:
    layers, parts = [], []
    for layer in stack.layers:
        if isinstance(layer, (StateSpaceLayer, DiagonalRNN, LinearRNN)):
            parts.append(_distil_recurrence(layer, wish, dt, time.perf_counter()))
            layers.append(parts[-1].model)
        else:
            layers.append(layer)
    if not parts:
        raise wrong_type("layer", "a stack with a linear recurrence", "a Stack without one")
    worst = max(parts, key=lambda part: part.relative_error)
    notes = tuple(dict.fromkeys(s for part in parts for s in part.warnings))
    return dataclasses.replace(
        worst,
        model=Stack(layers),
        output_bound=None,
        width=sum(part.width for part in parts),
        width_before=sum(part.width_before for part in parts),
        parts=tuple(parts),
        status=notes[0] if notes else Status(),
        warnings=notes,
        stats={"seconds": time.perf_counter() - began, "n_layers": len(parts)},
    )


# --- kernels and callables ----------------------------------------------------------------------


def _as_sequence(kernels: Any) -> tuple[np.ndarray, bool]:
    values = host_float64("layer", kernels, owner=_OWNER)
    if values.ndim == 1:
        values = values[None]
    if values.ndim not in (2, 3) or not values.size:
        raise invalid(
            "layer", "kernels of shape (channel, lag) or (out, in, lag)", f"shape {values.shape}"
        )
    if not values.any():
        raise invalid("layer", "a kernel with a memory", "zeros only")
    if values.ndim == 2:
        return values.T[:, :, None], True
    return values.transpose(2, 0, 1), False


def _ask(layer: Any, dt: float, n_inputs: int, n_lags: int | None) -> np.ndarray:
    """Returns the impulse responses of a callable, shape (lag, out, in), if it is linear."""
    if n_lags is None:
        raise invalid("n_lags", "how many steps to ask a callable for", None)
    n_lags = require_count("n_lags", n_lags)
    n_inputs = require_count("n_inputs", n_inputs)
    if not isinstance(layer, AbstractFunctional):
        trial = np.asarray(layer(np.zeros((2, n_inputs))))
        layer = as_functional(
            layer, n_inputs=n_inputs, n_outputs=trial.shape[1] if trial.ndim == 2 else 1
        )
    n_inputs = layer.n_inputs

    def answer(signal: np.ndarray) -> np.ndarray:
        return np.asarray(layer(signal, dt=dt), dtype=np.float64)

    responses = []
    for i in range(n_inputs):
        impulse = np.zeros((n_lags, n_inputs))
        impulse[0, i] = 1.0
        responses.append(answer(impulse))
    sequence = np.stack(responses, axis=2)
    if not np.isfinite(sequence).all():
        raise invalid("layer", "finite responses", "NaN or infinity")
    probe = np.random.default_rng(0).standard_normal((n_lags, n_inputs))
    spectrum = np.fft.rfft(sequence, 2 * n_lags, axis=0)
    drive = np.fft.rfft(probe, 2 * n_lags, axis=0)
    linear = np.fft.irfft(np.einsum("foi,fi->fo", spectrum, drive), 2 * n_lags, axis=0)[:n_lags]
    found = answer(probe)
    missed = float(np.abs(found - linear).max() / max(np.abs(found).max(), 1e-300))
    # Layers trained in float32 answer to seven digits.
    if not missed <= 1e-4:
        raise invalid(
            "layer",
            "a layer that is linear in time, without a bias",
            f"one whose answer to noise misses its convolution by {missed:.1%}",
            "distil its linear part alone",
        )
    if not sequence.any():
        raise invalid("layer", "a kernel with a memory", "zeros only")
    return sequence


@dataclasses.dataclass(frozen=True)
class _Channel:
    """A block of kernel values, zero past their end."""

    values: np.ndarray
    at_inputs: np.ndarray
    at_outputs: np.ndarray


def _channels_of(sequence: np.ndarray, is_separate: bool) -> list[_Channel]:
    n_outputs, n_inputs = sequence.shape[1:]
    if is_separate:
        return [
            _Channel(sequence[:, o : o + 1], np.array([o]), np.array([o]))
            for o in range(n_outputs)
            if sequence[:, o].any()
        ]
    used = np.abs(sequence).max(axis=0) > 0
    if n_outputs == n_inputs and not used[~np.eye(n_outputs, dtype=bool)].any():
        return _channels_of(np.einsum("noo->no", sequence)[:, :, None], True)
    return [_Channel(sequence, np.arange(n_inputs), np.arange(n_outputs))]


def _distil_sequence(
    sequence: np.ndarray, is_separate: bool, wish: _Wish, dt: float, began: float
) -> DistilledLayer:
    n_outputs = sequence.shape[1]
    n_inputs = n_outputs if is_separate else sequence.shape[2]
    channels = _channels_of(sequence, is_separate)
    fits, sizes, bounds = [], [], []
    for channel in channels:
        worker = _SequenceFit(channel.values, dt, wish.norm)
        size = worker.size
        if wish.width is not None:
            fit = worker.fit(wish.width)
        else:
            wanted = wish.error or (wish.relative_error or 0.0) * size[wish.norm]
            if wish.norm == "l2" and wish.error is not None:
                wanted /= math.sqrt(len(channels))
            fit = _fewest(
                worker.fit,
                lambda m, w=worker: w.bound(m)[wish.norm],
                wanted,
                max(1, len(channel.values) // 2),
                wish.norm,
            )
        fits.append(fit)
        sizes.append(size)
        bounds.append(worker.bound(len(fit.rates)))
    found, warnings = _joined(fits, channels, n_inputs, n_outputs, dt, Exponential())
    return _result(
        found, found, fits, channels, sizes, bounds, wish, warnings, None, len(sequence), began
    )


class _SequenceFit:
    """One sequence of kernel values with what its widths share."""

    def __init__(self, values: np.ndarray, dt: float, norm: str):
        size = np.abs(values).sum(axis=(1, 2))
        last = int(np.flatnonzero(size > 1e-15 * size.max())[-1]) + 1
        self.values, self.dt, self.norm = values[:last], dt, norm
        self.n, self.n_outputs, self.n_inputs = self.values.shape
        self._part: Any = None
        self._n_asked = 0

    @property
    def size(self) -> dict[str, float]:
        return _sequence_norms(self.values, self.dt)[0]

    def part(self, n_triplets: int) -> Any:
        if self._part is None or n_triplets > self._n_asked:
            self._part, self._n_asked = hankel_part(self.values, n_triplets), n_triplets
        return self._part

    def bound(self, width: int) -> dict[str, float]:
        return bound_sequence(self.values, width, dt=self.dt, part=self.part(width + 1))

    def fit(self, width: int) -> _Fitted:
        order = min(3 * width + 8, self.n * min(self.n_outputs, self.n_inputs))
        part = self.part(max(order, width + 1))
        if min(self.n_outputs, self.n_inputs) > 1:
            return self._matrix_fit(part, width, order)
        flat = self.values.reshape(self.n, -1)
        starts = []
        z = _in_pairs(multipliers_of(part, self.n_outputs, order))
        whole = _past_the_end(self.n)
        padded = np.zeros((len(whole.lags), flat.shape[1]))
        padded[: self.n] = flat
        rates = _rates_of(z, 1.0)
        if len(z) > width:
            amplitudes = _least_squares(rates, whole, padded)
            modes = close_conjugates(z, amplitudes)
            small, _, _ = reduce_modes(to_half_plane(modes.rates, modes.residues), width)
            starts.append(_rates_of((1 - small) / (1 + small), 1.0))
            direct = _in_pairs(multipliers_of(part, self.n_outputs, width))
            if len(direct) == width:
                starts.append(_rates_of(direct, 1.0))
        else:
            starts.append(rates)
        grid = whole.thinned(8)
        wanted = padded[np.searchsorted(whole.lags, grid.lags)]
        trials = []
        for start in starts:
            found = refine_over_lags(
                start, grid, wanted, norm="l2", is_discrete=True, slowest=0.5 / self.n
            )
            trials.append(self._judged(found[0], _least_squares(found[0], whole, padded)))
        best = min(trials, key=lambda fit: fit.errors["l2"])
        if self.norm != "l2":
            refined = refine_over_lags(
                best.rates * self.dt,
                grid,
                wanted,
                norm=self.norm,
                is_discrete=True,
                n_outputs=self.n_outputs,
                slowest=0.5 / self.n,
            )
            best = min((best, self._judged(*refined)), key=lambda fit: fit.errors[self.norm])
        return best

    def _judged(self, rates: np.ndarray, amplitudes: np.ndarray) -> _Fitted:
        ones = np.ones((len(rates), 1))
        if self.n_inputs == 1:
            return self._delivered(rates, ones, amplitudes)
        return self._delivered(rates, amplitudes, ones)

    def _delivered(self, rates: np.ndarray, inputs: np.ndarray, outputs: np.ndarray) -> _Fitted:
        residues = (outputs[:, :, None] * inputs[:, None, :]).reshape(len(rates), -1)
        grid = discrete_grid(np.exp(-rates), most=_MOST_STEPS)
        n_steps = max(self.n, len(grid.lags))
        if n_steps == self.n or grid.lags[-1] + 1 == len(grid.lags):
            grid = LagGrid(np.arange(n_steps, dtype=float), np.ones(n_steps))
        fitted = evaluate_modes(rates, residues, grid.lags)
        fitted = fitted.reshape(-1, self.n_outputs, self.n_inputs)
        seen = grid.lags < self.n
        fitted[seen] -= self.values[grid.lags[seen].astype(int)]
        errors, by_output = _sequence_norms(fitted, self.dt, grid.weights)
        return _Fitted(
            rates / self.dt, inputs.astype(complex), outputs.astype(complex), errors, by_output
        )

    def _matrix_fit(self, part: Any, width: int, order: int) -> _Fitted:
        order = min(order, int(np.sum(part.values > 1e-12 * part.values[0])))
        u, root = part.left[:, :order], np.sqrt(part.values[:order])
        p = self.n_outputs
        A = np.linalg.lstsq(u[:-p], u[p:], rcond=None)[0]
        A = A * root / root[:, None]
        C = u[:p] * root
        # B from the first block column of the Hankel matrix.
        first = self.values.reshape(self.n * p, -1)
        B = (u.T @ first) / root[:, None]
        z, vectors = np.linalg.eig(A)
        b, c = np.linalg.solve(vectors, B.astype(complex)), (C @ vectors).T
        outside = np.abs(z) >= 1
        z[outside] = (1 - 1e-9) / z[outside].conj()
        z = np.where(np.abs(z) < 1e-6, 1e-6, z)
        flat = MatrixModes((1 - z) / (1 + z), b, c * (math.sqrt(2) / (1 + z))[:, None])
        small = reduce_matrix(flat, width) if order > width else flat
        w = (1 - small.rates) / (1 + small.rates)
        back = small.outputs * ((1 + w) / math.sqrt(2))[:, None]
        return self._delivered(_rates_of(w, 1.0), small.inputs, back)


def _past_the_end(n: int) -> LagGrid:
    """Returns all lags of a sequence, as many zeros, and some far beyond: a tail is an error."""
    far = np.unique(np.geomspace(2 * n, 24 * n, 128).round())
    lags = np.concatenate([np.arange(2 * n, dtype=float), far[:-1]])
    return LagGrid(lags, np.concatenate([np.ones(2 * n), np.diff(far)]))


def _in_pairs(multipliers: np.ndarray) -> np.ndarray:
    upper = multipliers[multipliers.imag > 1e-12]
    singles = np.unique(multipliers[np.abs(multipliers.imag) <= 1e-12].real)
    return np.concatenate([singles.astype(complex), upper, upper.conj()])


def _least_squares(rates: np.ndarray, grid: LagGrid, target: np.ndarray) -> np.ndarray:
    """Returns the best amplitudes at fixed rates, shape (width, channel)."""
    upper = rates.imag >= 0
    wave = np.exp(-np.multiply.outer(grid.lags, rates[upper]))
    turned = np.abs(np.abs(rates[upper].imag) - np.pi) < 1e-12
    pair = (rates[upper].imag > 0) & ~turned
    basis = np.concatenate([wave.real, wave.imag[:, pair]], axis=1)
    root = np.sqrt(grid.weights)[:, None]
    basis = basis * root
    size = np.linalg.norm(basis, axis=0)
    size[size == 0] = 1.0
    found = np.linalg.lstsq(basis / size, target * root, rcond=1e-13)[0] / size[:, None]
    half = found[: len(wave[0])].astype(complex)
    half[pair] = 0.5 * (half[pair] - 1j * found[len(wave[0]) :])
    amplitudes = np.zeros((len(rates), target.shape[1]), complex)
    amplitudes[upper] = half
    for k in np.flatnonzero(~upper):
        amplitudes[k] = amplitudes[int(np.argmin(np.abs(rates - rates[k].conj())))].conj()
    return amplitudes


def _sequence_norms(
    values: np.ndarray, dt: float, weights: np.ndarray | None = None
) -> tuple[dict[str, float], np.ndarray]:
    weights = np.ones(len(values)) if weights is None else weights
    rows = np.abs(values).sum(axis=2)
    sums = weights @ rows
    return {
        "l1": float(sums.max()),
        "l2": float(np.sqrt(weights @ np.sum(values**2, axis=(1, 2)) / dt)),
        "linf": float(rows.max() / dt),
    }, sums
