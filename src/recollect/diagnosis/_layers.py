"""What is inside a model, layer by layer: time scales, the stability boundary, memory, margins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._functional import (
    AbstractFunctional,
    AbstractLinearFunctional,
    AbstractRecurrent,
    as_functional,
)
from recollect._core._json import finite_or_null
from recollect._core._precision import in_float64
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.diagnosis._margins import PerturbationMargin, measure_margin
from recollect.memory import (
    MemoryLaw,
    MemoryMap,
    MemoryProfile,
    estimate_law,
    from_torch,
    measure_memory,
    measure_memory_map,
)
from recollect.models import (
    GRU,
    LSTM,
    AffineRNN,
    CausalAttention,
    DiagonalRNN,
    ElmanRNN,
    LinearRNN,
    Stack,
    StateSpaceLayer,
)

SCHEMA = "recollect.measure"
VERSION = 1

_LOG_LARGEST = math.log(float(np.finfo(np.float32).max))
_WIDEST_MATRIX = 512
_SHORTEST, _LONGEST = 64, 4096
_LONGEST_MAP = 256
_N_ANGLES = 128


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """How the state of a layer relaxes at rest.

    Attributes:
        multipliers: eigenvalues of one step, shape (unit,), largest modulus first.
        timescales: `-dt / log|multiplier|`, same order; inf where nothing is forgotten.
        margin: `1 - max |multiplier|`: distance to the stability boundary; negative if unstable.
        slowest_rate: `1 / ` largest time scale; negative if unstable.
        fastest_rate: of the layer's own rates where it has them, else from the multipliers.
        float32_room: decades between the fastest rate and the largest number of float32.
        overflow_time: time until the state of an unstable layer overflows float32; inf if stable.
        matrix_margin: spectral norm by which the matrix of one step may move before the layer at
            rest becomes unstable (complex stability radius); None where there is no matrix.
        weight_margin: change of the trained rate weights that reaches the boundary; inf for
            stable parameterisations, None where rates are not weights.
        weight_room: change of the trained rate weights at which a rate overflows float32.
    """

    multipliers: np.ndarray
    timescales: np.ndarray
    margin: float
    slowest_rate: float
    fastest_rate: float
    float32_room: float
    overflow_time: float
    matrix_margin: float | None
    weight_margin: float | None
    weight_room: float | None


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer, measured.

    Attributes:
        name: class of the layer and its place.
        n_inputs: input channels.
        n_outputs: output channels.
        width: size of the state, 0 without one.
        n_weights: number of weights, None if unknown.
        memory: its memory function.
        law: its law, None if the memory does not allow one.
        spectrum: relaxation at rest, None for what has no state.
        margin: how far its weights may move; None for a stack as a whole.
        status: `ok`, or why a part is missing.
    """

    name: str
    n_inputs: int
    n_outputs: int
    width: int
    n_weights: int | None
    memory: MemoryProfile
    law: MemoryLaw | None
    spectrum: Spectrum | None
    margin: PerturbationMargin | None
    status: Status

    @property
    def reach(self) -> tuple[float, float, float]:
        """t50, t90, t95: from the law where one is decided, else seen in the window."""
        if _grows(self.memory):
            return math.inf, math.inf, math.inf
        if self.law is not None and self.law.is_decided:
            return self.law.t50.value, self.law.t90.value, self.law.t95.value
        return self.memory.t50, self.memory.t90, self.memory.t95


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """A model and its layers, measured.

    Attributes:
        whole: the model from input to output.
        layers: its layers in order; empty if it is a single one.
        first_to_overflow: index of the layer whose fastest rate is closest to overflow in
            float32, None if no layer has rates.
        map: memory against start and lag, for models that are not time-homogeneous.
        trained_on: length of the training sequences, None if not given.
        dt: step.
        horizon: longest lag asked for.
        unit: unit of time.
        status: `ok`, or what stands in the way.
        warnings: what else deserves a word.
    """

    whole: LayerReport
    layers: tuple[LayerReport, ...]
    first_to_overflow: int | None
    map: MemoryMap | None
    trained_on: float | None
    dt: float
    horizon: float
    unit: str
    status: Status
    warnings: tuple[Status, ...] = ()

    def summary(self) -> list[str]:
        """Returns the report in about ten lines."""
        whole, unit = self.whole, self.unit
        weights = "" if whole.n_weights is None else f", {whole.n_weights} weights"
        state = f", state of {whole.width}" if whole.width else ""
        lines = [
            f"model:        {whole.name}, {whole.n_inputs} -> {whole.n_outputs} channels{state}{weights}",
            f"memory:       {_reach_words(whole, unit)}",
        ]
        if self.trained_on is not None:
            lines.append(f"training:     {self._training_words()}")
        if self.map is not None and not self.map.is_time_homogeneous:
            lines.append(
                f"homogeneity:  memory depends on when the input came (by {self.map.spread:.0%} of "
                "its largest); the largest over all is shown"
            )
        spectra = [(place, r.spectrum) for place, r in enumerate(self.layers or (whole,))]
        spectra = [(place, s) for place, s in spectra if s is not None]
        if spectra:
            place, least = min(spectra, key=lambda pair: pair[1].margin)
            times = np.concatenate([s.timescales for _, s in spectra])
            where = f" (layer {place})" if self.layers else ""
            lines += [
                f"time scales:  {_range(times)} {unit}",
                f"boundary:     {_boundary_words(least, unit)}{where}",
                f"margin:       {_margin_words(least)}{where}",
            ]
        if whole.margin is not None:
            lines.append(f"weights:      {whole.margin.words()}")
        if self.first_to_overflow is not None:
            first = (self.layers or (whole,))[self.first_to_overflow].spectrum
            assert first is not None
            where = f"layer {self.first_to_overflow}, " if self.layers else ""
            room = (
                ""
                if first.weight_room is None or math.isinf(first.weight_room)
                else f"; its trained weight may grow by {first.weight_room:.3g}"
            )
            lines.append(
                f"float32:      fastest rate {where}{first.fastest_rate:.3g} per {_one(unit)}, "
                f"{first.float32_room:.0f} decades below overflow{room}"
            )
        for place, layer in enumerate(self.layers):
            lines.append(f"layer {place}:      {layer.name}; {_reach_words(layer, unit)}")
            if layer.margin is not None:
                lines.append(f"{'':14}weights: {layer.margin.words()}")
        lines += [f"note:         {warning}" for warning in self.warnings]
        lines.append(f"status:       {self.status}")
        return lines

    def record(self) -> dict[str, Any]:
        """Returns the report as a JSON object (non-finite numbers are null)."""
        return finite_or_null(
            {
                "schema": SCHEMA,
                "version": VERSION,
                "unit": self.unit,
                "dt": self.dt,
                "horizon": self.horizon,
                "model": _record(self.whole, with_curve=True),
                "layers": [_record(layer, with_curve=False) for layer in self.layers],
                "first_to_overflow": self.first_to_overflow,
                "time_homogeneous": None if self.map is None else self.map.is_time_homogeneous,
                "trained_on": self.trained_on,
                "remembers_beyond_training": self.remembers_beyond_training,
                "status": self.status.record(),
                "warnings": [w.record() for w in self.warnings],
            }
        )

    @property
    def remembers_beyond_training(self) -> bool | None:
        """Whether t95 lies beyond the training length; None if either is unknown."""
        reach = self.whole.reach[2]
        if self.trained_on is None or math.isnan(reach):
            return None
        return reach > self.trained_on

    def _training_words(self) -> str:
        assert self.trained_on is not None
        reach = self.whole.reach[2]
        verdict = {
            True: "it remembers longer than it was ever shown: untested there",
            False: "its memory lies within what it was shown",
            None: "its memory has no end that can be compared",
        }[self.remembers_beyond_training]
        return (
            f"trained on {self.trained_on:g} {self.unit}, remembers {reach:.4g} {self.unit} (t95): "
            f"{verdict}"
        )


@on_one_thread
def measure_model(
    model: Any,
    *,
    dt: float = 1.0,
    horizon: float | None = None,
    n_inputs: int | None = None,
    trained_on: float | None = None,
    normalisation: str = "gain",
    largest_input: float = 1e3,
    n_restarts: int = 2,
    unit: str = "steps",
    progress: Callable[[str], None] = lambda _: None,
) -> ModelReport:
    """Returns what a model remembers and how close it is to the edge, in all and per layer.

    Memory of each layer is measured alone, from its own input to its own output. Time scales are
    those of the state at rest: eigenvalues of the derivative of one step at the state that silence
    leads to (exact for linear layers).

    Args:
        model: any functional, a NumPy callable (time, in) -> (time, out), or a torch module.
        dt: step.
        horizon: longest lag; ten times the slowest time scale if omitted, at least 64 steps and at
            most 4096.
        n_inputs: input channels of a callable or module that does not say.
        trained_on: length of the training sequences, in the unit of dt.
        normalisation: of the memory function, see `memory.measure_memory`.
        largest_input: largest step tried; gated networks may hold on for long to inputs much
            larger than any they will see.
        n_restarts: rounds of ascent in the search for the supremum.
        unit: name of the unit of time.
        progress: told what is being done.

    Returns:
        The report.

    Raises:
        TypeError, ValueError: as `memory.measure_memory`.
    """
    dt = require_positive("dt", dt)
    require_choice("normalisation", normalisation, ("gain", "bounded"))
    if horizon is not None and require_positive("horizon", horizon) < 4 * dt:
        raise invalid("horizon", f"at least four steps, {4 * dt:g}", horizon)
    if trained_on is not None:
        trained_on = require_positive("trained_on", trained_on)
    functional = _functional(model, n_inputs)
    dt = _own_step(functional, dt)
    parts = _parts(functional)
    progress("time scales")
    spectra = _spectra(parts, dt)
    longest = max((_longest(s, dt) for s in spectra if s is not None), default=0.0)
    if horizon is None:
        horizon = dt * float(np.clip(math.ceil(10 * longest / dt), _SHORTEST, _LONGEST))

    is_stack = len(parts) > 1

    def report(name: str, part: AbstractFunctional, spectrum: Spectrum | None) -> LayerReport:
        margin = None
        if not (is_stack and part is functional):
            progress(f"margin of {name}")
            margin = measure_margin(part, dt=dt)
        progress(f"memory of {name}")
        profile = measure_memory(
            part,
            dt=dt,
            horizon=horizon,
            normalisation=normalisation,
            n_restarts=n_restarts,
            magnitudes=largest_input * np.geomspace(1e-6, 1, 13),
        )
        return _layer_report(name, part, profile, spectrum, margin)

    whole_spectrum = None if is_stack else spectra[0]
    whole = report(_name(functional), functional, whole_spectrum)
    layers = tuple(
        report(_name(part), part, spectrum)
        for part, spectrum in zip(parts, spectra, strict=True)
        if is_stack
    )
    memory_map = None
    if isinstance(functional, CausalAttention) or not isinstance(
        functional, (AbstractRecurrent, AbstractLinearFunctional)
    ):
        progress("dependence on the start")
        memory_map = measure_memory_map(
            functional,
            dt=dt,
            horizon=min(horizon, _LONGEST_MAP * dt),
            n_starts=4,
            magnitudes=largest_input * np.geomspace(1e-6, 1, 7),
        )
        if not memory_map.is_time_homogeneous and whole.status.is_ok:
            whole = _over_all_starts(whole, functional, memory_map)
    rooms = [(s.float32_room, place) for place, s in enumerate(spectra) if s is not None]
    unstable = [s for s in spectra if s is not None and s.margin <= 0]
    status = whole.status
    if unstable and status.is_ok:
        when = min(s.overflow_time for s in unstable)
        end = f"; float32 overflows after {when:.3g} {unit}" if math.isfinite(when) else ""
        status = Status("diverged", f"a layer at rest is unstable{end}")
    return ModelReport(
        whole=whole,
        layers=layers,
        first_to_overflow=min(rooms)[1] if rooms else None,
        map=memory_map,
        trained_on=trained_on,
        dt=dt,
        horizon=horizon,
        unit=unit,
        status=status,
        warnings=whole.memory.warnings,
    )


@on_one_thread
def measure_spectrum(layer: AbstractRecurrent, *, dt: float = 1.0, value: Any = None) -> Spectrum:
    """Returns how the state of a recurrent layer relaxes at rest, and how far that is from the edge.

    Args:
        layer: a recurrent model with a state of real numbers, or a linear one.
        dt: step.
        value: input held while it comes to rest, shape (in,); zero if omitted.

    Returns:
        Time scales and margins.

    Raises:
        TypeError: if `layer` has no state.
    """
    if not isinstance(layer, AbstractRecurrent):
        raise wrong_type("layer", "a recurrent model", type(layer).__name__)
    dt = require_positive("dt", dt)
    drive = np.zeros(layer.n_inputs) if value is None else np.asarray(value, dtype=np.float64)
    own = layer.recurrence if isinstance(layer, StateSpaceLayer) else layer
    own = own.network if isinstance(own, AffineRNN) else own
    rates: np.ndarray | None = None
    matrix: np.ndarray | None = None
    weight_margin = weight_room = None
    if isinstance(own, DiagonalRNN):
        ones = np.ones(own.width, dtype=np.complex128)
        multipliers = np.asarray(own.step(ones, np.zeros(own.n_inputs), dt=dt))
        rates = np.real(np.atleast_1d(own.rates)).astype(np.float64)
        weight_margin, weight_room = _weight_margins(own)
    else:
        matrix = _step_matrix(own, drive, dt)
        multipliers = np.linalg.eigvals(matrix)
    multipliers = multipliers[np.argsort(-np.abs(multipliers), kind="stable")]
    sizes = np.abs(multipliers)
    with np.errstate(divide="ignore"):
        decay = -np.log(sizes) / dt
        timescales = np.where(decay == 0, np.inf, 1 / decay)
    if isinstance(own, LinearRNN) and own.dt is None:
        rates = -np.real(np.linalg.eigvals(np.asarray(own.A, dtype=np.float64)))
    finite = (rates if rates is not None else decay)[
        np.isfinite(rates if rates is not None else decay)
    ]
    fastest = float(np.abs(finite).max(initial=0.0))
    growth = -float(decay[0])
    margin = float(1 - sizes[0]) if abs(decay[0] * dt) > 1e-4 else float(-np.expm1(-decay[0] * dt))
    return Spectrum(
        multipliers=multipliers,
        timescales=timescales,
        margin=margin,
        slowest_rate=float(decay[0]),
        fastest_rate=fastest,
        float32_room=(_LOG_LARGEST - math.log(fastest)) / math.log(10) if fastest > 0 else math.inf,
        overflow_time=_LOG_LARGEST / growth if growth > 0 else math.inf,
        matrix_margin=_matrix_margin(matrix) if matrix is not None else None,
        weight_margin=weight_margin,
        weight_room=weight_room,
    )


def _functional(model: Any, n_inputs: int | None) -> AbstractFunctional:
    if isinstance(model, AbstractFunctional):
        return model
    if n_inputs is not None:
        n_inputs = require_count("n_inputs", n_inputs)
    if hasattr(model, "state_dict") and hasattr(model, "parameters"):
        own = _recurrent_of_torch(model)
        if own is not None:
            return own
        # What the module says, or the first layer in it that says anything.
        parts = model.modules() if hasattr(model, "modules") else [model]
        names = ("input_size", "d_model", "embed_dim", "in_features", "in_channels")
        said = (getattr(part, name, None) for part in parts for name in names)
        if n_inputs is None:
            n_inputs = next((number for number in said if isinstance(number, int)), None)
        if n_inputs is None:
            raise invalid(
                "n_inputs",
                "the number of input channels, which the module does not say",
                None,
                "state n_inputs, in a shell --inputs",
            )
        return from_torch(model, n_inputs=n_inputs)
    if not callable(model):
        raise wrong_type("model", "a functional, a callable or a module", type(model).__name__)
    asked = n_inputs or 1
    answer: Any = model(np.zeros((2, asked)))
    shape = np.shape(answer)
    return as_functional(model, n_inputs=asked, n_outputs=shape[1] if len(shape) == 2 else 1)


def _recurrent_of_torch(module: Any) -> AbstractFunctional | None:
    """Returns the same network in our classes, for what has one; None for other modules."""
    kind = type(module).__name__
    if type(module).__module__ != "torch.nn.modules.rnn" or kind not in ("RNN", "GRU", "LSTM"):
        return None
    activation = getattr(module, "nonlinearity", "tanh")
    if module.bidirectional or module.proj_size or activation not in ("tanh", "relu"):
        return None
    layers: list[AbstractRecurrent] = []
    for k in range(module.num_layers):

        def weight(name: str, place: int = k) -> np.ndarray:
            return getattr(module, f"{name}_l{place}").detach().cpu().numpy().astype(np.float64)

        read_in, mixing = weight("weight_ih"), weight("weight_hh")
        zero = np.zeros(len(mixing))
        biases = [weight("bias_ih"), weight("bias_hh")] if module.bias else [zero, zero]
        if kind == "RNN":
            bias = biases[0] + biases[1]
            eye = np.eye(len(mixing))
            layers.append(ElmanRNN(mixing, read_in, eye, bias, activation=activation))
        else:
            layers.append((GRU if kind == "GRU" else LSTM)(read_in, mixing, *biases))
    return layers[0] if len(layers) == 1 else Stack(layers)


def _own_step(functional: AbstractFunctional, dt: float) -> float:
    """Returns the step of a discrete network, which accepts no other; dt for all others."""
    nodes = jax.tree.leaves(functional, is_leaf=lambda n: isinstance(n, (LinearRNN, DiagonalRNN)))
    steps = {n.dt for n in nodes if isinstance(n, (LinearRNN, DiagonalRNN)) and n.dt is not None}
    return steps.pop() if len(steps) == 1 else dt


def _parts(functional: AbstractFunctional) -> list[AbstractFunctional]:
    return list(functional.layers) if isinstance(functional, Stack) else [functional]


def _spectra(parts: list[AbstractFunctional], dt: float) -> list[Spectrum | None]:
    """Returns the spectra; each layer rests under what the one before it outputs at rest."""
    found: list[Spectrum | None] = []
    value = np.zeros(parts[0].n_inputs)
    for part in parts:
        if not isinstance(part, AbstractRecurrent):
            found.append(None)
            continue
        found.append(measure_spectrum(part, dt=dt, value=value))
        silence = np.tile(value, (512, 1))
        resting = np.asarray(part(silence, dt=dt))[-1]
        value = np.where(np.isfinite(resting), resting, 0.0)
    return found


def _step_matrix(layer: AbstractRecurrent, drive: np.ndarray, dt: float) -> np.ndarray:
    return np.asarray(in_float64(_derivative)(layer, drive, dt))


@eqx.filter_jit
def _derivative(layer: AbstractRecurrent, drive: Any, dt: float) -> Any:
    layer = jax.tree.map(lambda leaf: jnp.asarray(leaf), layer)
    start, unravel = jax.flatten_util.ravel_pytree(layer.initial_state())

    def step(flat: Any) -> Any:
        return jax.flatten_util.ravel_pytree(layer.step(unravel(flat), drive, dt=dt))[0]

    # An unstable layer has no rest but where it starts.
    rest = jax.lax.fori_loop(0, 512, lambda _, state: step(state), start)
    rest = jnp.where(jnp.isfinite(rest).all() & (jnp.abs(rest).max() < 1e6), rest, start)
    return jax.jacfwd(step)(rest)


def _matrix_margin(matrix: np.ndarray) -> float | None:
    if len(matrix) > _WIDEST_MATRIX:
        return None
    if np.abs(np.linalg.eigvals(matrix)).max() >= 1:
        return 0.0
    identity = np.eye(len(matrix))

    def smallest(angle: float) -> float:
        return float(np.linalg.svd(np.exp(1j * angle) * identity - matrix, compute_uv=False)[-1])

    angles = np.linspace(0, math.pi, _N_ANGLES + 1)
    # The resolvent peaks beside eigenvalues, however narrowly.
    own = np.abs(np.angle(np.linalg.eigvals(matrix)))
    angles = np.unique(np.concatenate([angles, own]))
    values = np.array([smallest(a) for a in angles])
    place = int(values.argmin())
    low, high = angles[max(place - 1, 0)], angles[min(place + 1, len(angles) - 1)]
    for _ in range(40):
        first, second = low + 0.382 * (high - low), low + 0.618 * (high - low)
        if smallest(first) < smallest(second):
            high = second
        else:
            low = first
    return min(float(values.min()), smallest(0.5 * (low + high)))


def _weight_margins(model: DiagonalRNN) -> tuple[float, float]:
    weights = np.asarray(model.weights, dtype=np.float64)

    def rates(moved: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(model.reparam.forward(moved), dtype=np.float64)

    largest = float(np.finfo(np.float32).max)

    def first(is_over: Callable[[np.ndarray], np.ndarray]) -> float:
        moves = np.geomspace(1e-12, 1e39, 512)
        for before, after in zip(np.concatenate([[0.0], moves]), moves, strict=False):
            both = [rates(weights + sign * after) for sign in (1, -1)]
            if any(is_over(r).any() for r in both):
                low, high = before, after
                for _ in range(60):
                    middle = 0.5 * (low + high)
                    over = any(is_over(rates(weights + s * middle)).any() for s in (1, -1))
                    low, high = (low, middle) if over else (middle, high)
                return high
        return math.inf

    if (rates(weights) <= 0).any():
        margin = 0.0
    elif getattr(model.reparam, "is_stable", False):
        margin = math.inf
    else:
        margin = first(lambda r: r <= 0)
    return margin, first(lambda r: ~(np.abs(r) <= largest))


def _longest(spectrum: Spectrum, dt: float) -> float:
    times = spectrum.timescales
    times = times[np.isfinite(times) & (times > 0)]
    return float(times.max(initial=dt))


def _layer_report(
    name: str,
    part: AbstractFunctional,
    profile: MemoryProfile,
    spectrum: Spectrum | None,
    margin: PerturbationMargin | None,
) -> LayerReport:
    law, status = None, profile.status
    if status.is_ok and not _grows(profile) and profile.memory.any() and len(profile.lags) >= 4:
        try:
            law = estimate_law(profile, n_draws=64)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            status = Status("failed", f"no law could be fitted: {error}")
    width = 0
    if isinstance(part, AbstractRecurrent):
        width = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(part.initial_state()))
    arrays = [a for a in jax.tree.leaves(part) if isinstance(a, (np.ndarray, jax.Array))]
    return LayerReport(
        name=name,
        n_inputs=part.n_inputs,
        n_outputs=part.n_outputs,
        width=width,
        n_weights=sum(int(np.size(a)) for a in arrays) if arrays else None,
        memory=profile,
        law=law,
        spectrum=spectrum,
        margin=margin,
        status=status,
    )


def _over_all_starts(
    report: LayerReport, functional: AbstractFunctional, found: MemoryMap
) -> LayerReport:
    """Returns the report with the largest memory over when the input came."""
    profile = dataclasses.replace(
        report.memory,
        memory=found.memory.max(axis=0),
        lags=found.lags,
        directions=report.memory.directions[: len(found.lags)],
        magnitudes=report.memory.magnitudes[: len(found.lags)],
        convergence=None,
        warnings=(),
    )
    return _layer_report(report.name, functional, profile, report.spectrum, report.margin)


def _name(part: AbstractFunctional) -> str:
    inner = getattr(part, "function", None)
    if inner is not None:
        return getattr(inner, "__name__", type(inner).__name__)
    return type(part).__name__


def _grows(profile: MemoryProfile) -> bool:
    return any(w.code == "diverged" for w in profile.warnings)


def _reach_words(layer: LayerReport, unit: str) -> str:
    if _grows(layer.memory):
        return "grows with the lag: no end"
    if not layer.memory.memory.any():
        return "none: the output does not depend on the input"
    t50, t90, t95 = layer.reach
    law = "no law" if layer.law is None else layer.law.law
    estimate = "lower estimate" if layer.memory.is_lower_estimate else "exact"
    horizon = layer.memory.horizon
    end = (
        f"not forgotten by {layer.memory.lags[-1]:.4g}"
        if math.isinf(horizon)
        else f"forgotten by {horizon:.4g}"
    )
    return f"t50 {t50:.3g}, t90 {t90:.3g}, t95 {t95:.3g} {unit}; {law}; {end} ({estimate})"


def _range(times: np.ndarray) -> str:
    times = np.sort(times[times > 0])
    if not len(times):
        return "none that fade, in"
    return f"{times[0]:.3g} to {times[-1]:.3g}" if len(times) > 1 else f"{times[0]:.3g}"


def _boundary_words(spectrum: Spectrum, unit: str) -> str:
    if spectrum.margin <= 0:
        return f"unstable: a multiplier of size {1 - spectrum.margin:.6g} per step"
    return (
        f"{spectrum.margin:.3g} per step from instability, slowest rate "
        f"{spectrum.slowest_rate:.3g} per {_one(unit)}"
    )


def _margin_words(spectrum: Spectrum) -> str:
    if spectrum.weight_margin is not None:
        if math.isinf(spectrum.weight_margin):
            return "no change of the trained rate weights makes it unstable"
        return f"the trained rate weights may move by {spectrum.weight_margin:.3g}"
    if spectrum.matrix_margin is None:
        return "not computed for a matrix this large"
    return f"the matrix of one step may move by {spectrum.matrix_margin:.3g} (spectral norm)"


def _one(unit: str) -> str:
    return unit.removesuffix("s") if len(unit) > 1 else unit


def _record(layer: LayerReport, *, with_curve: bool) -> dict[str, Any]:
    t50, t90, t95 = layer.reach
    profile = layer.memory
    memory: dict[str, Any] = {
        "t50": t50,
        "t90": t90,
        "t95": t95,
        "horizon": profile.horizon,
        "law": None if layer.law is None else layer.law.law,
        "family": None if layer.law is None else layer.law.family,
        "is_lower_estimate": profile.is_lower_estimate,
        "convergence": None if profile.convergence is None else profile.convergence,
        "status": profile.status.record(),
        "warnings": [w.record() for w in profile.warnings],
    }
    if with_curve:
        chosen = np.unique(np.linspace(0, len(profile.lags) - 1, 256).round().astype(int))
        memory["lags"] = profile.lags[chosen]
        memory["values"] = profile.memory[chosen]
    spectrum = layer.spectrum
    return {
        "name": layer.name,
        "n_inputs": layer.n_inputs,
        "n_outputs": layer.n_outputs,
        "width": layer.width,
        "n_weights": layer.n_weights,
        "memory": memory,
        "spectrum": None
        if spectrum is None
        else {
            "timescales": spectrum.timescales,
            "multipliers": [[m.real, m.imag] for m in spectrum.multipliers.astype(complex)],
            "margin": spectrum.margin,
            "slowest_rate": spectrum.slowest_rate,
            "fastest_rate": spectrum.fastest_rate,
            "float32_room_decades": spectrum.float32_room,
            "overflow_time": spectrum.overflow_time,
            "matrix_margin": spectrum.matrix_margin,
            "weight_margin": spectrum.weight_margin,
            "weight_room": spectrum.weight_room,
        },
        "margin": None if layer.margin is None else layer.margin.record(),
        "status": layer.status.record(),
    }
