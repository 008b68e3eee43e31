"""What is inside a model, layer by layer: time scales, the stability boundary, memory, margins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
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
    require_nonnegative,
    require_positive,
    wrong_type,
)
from recollect._core._files import WEIGHTS_ALONE
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
# How far, in lags and in values, a horizon is lengthened where the memory is searched or exact.
_LENGTHENED = 4
_LONGEST_SEARCHED, _LONGEST_EXACT, _MOST_VALUES = 1024, 2**16, 2**22
# Ends of the interval of t95 that still count as one number.
_ONE_NUMBER = 1.5
_N_SILENCE, _AT_REST = 512, 1e-4
_UNIT_SIZE = 1.0


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
    def is_settled(self) -> bool:
        """Whether a longer horizon would leave t95 as it is: otherwise `reach` is a lower bound."""
        return _is_settled(self.memory, self.law)

    @property
    def reach(self) -> tuple[float, float, float]:
        """t50, t90, t95: from the law where one is decided, else seen in the window."""
        if _grows(self.memory):
            return math.inf, math.inf, math.inf
        if self.is_settled and self.law is not None and self.law.is_decided:
            return self.law.t50.value, self.law.t90.value, self.law.t95.value
        return self.memory.t50, self.memory.t90, self.memory.t95


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """A model and its layers, measured.

    Attributes:
        whole: the model from input to output.
        unit_inputs: the same for inputs up to 1, the size of standardised ones; None where size
            does not matter or `largest_input` is no larger.
        layers: its layers in order; empty if it is a single one.
        first_to_overflow: index of the layer whose fastest rate is closest to overflow in
            float32, None if no layer has rates.
        map: memory against start and lag, for models that are not time-homogeneous.
        trained_on: length of the training sequences, None if not given.
        dt: step.
        horizon: longest lag probed.
        largest_input: largest size of the inputs that the supremum is taken over.
        settle: silence before the probes; 0: from the model's own start.
        time_to_rest: silence after which the model stands still; 0 if it starts at rest, inf if
            it moved for all of the silence watched.
        unit: unit of time.
        status: `ok`, or what stands in the way.
        warnings: what else deserves a word.
        notes: what was done unasked, in words.
    """

    whole: LayerReport
    unit_inputs: LayerReport | None
    layers: tuple[LayerReport, ...]
    first_to_overflow: int | None
    map: MemoryMap | None
    trained_on: float | None
    dt: float
    horizon: float
    largest_input: float
    settle: float
    time_to_rest: float
    unit: str
    status: Status
    warnings: tuple[Status, ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> list[str]:
        """Returns the report in about ten lines."""
        whole, unit = self.whole, self.unit
        weights = "" if whole.n_weights is None else f", {whole.n_weights} weights"
        state = f", state of {whole.width}" if whole.width else ""
        lines = [
            f"model:        {whole.name}, {whole.n_inputs} -> {whole.n_outputs} channels{state}{weights}",
            f"memory:       {_reach_words(whole, unit)}{self._sizes()}",
        ]
        if self.unit_inputs is not None:
            words = _reach_words(self.unit_inputs, unit)
            lines.append(f"unit inputs:  {words}; inputs up to {_UNIT_SIZE:g}")
        if self.trained_on is not None:
            lines.append(f"training:     {self._training_words()}")
        if self.map is not None and not self.map.is_time_homogeneous:
            lines.append(
                f"homogeneity:  memory depends on when the input came (by {self.map.spread:.0%} of "
                f"its largest); the largest over all is shown{self._rest_remedy()}"
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
        lines += [f"note:         {note}" for note in (*self.notes, *self.warnings)]
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
                "largest_input": self.largest_input,
                "settle": self.settle,
                "time_to_rest": self.time_to_rest,
                "model": _record(self.whole, with_curve=True),
                "unit_inputs": None
                if self.unit_inputs is None
                else _memory_record(self.unit_inputs, with_curve=False),
                "layers": [_record(layer, with_curve=False) for layer in self.layers],
                "first_to_overflow": self.first_to_overflow,
                "time_homogeneous": None if self.map is None else self.map.is_time_homogeneous,
                "trained_on": self.trained_on,
                "remembers_beyond_training": self.remembers_beyond_training,
                "status": self.status.record(),
                "warnings": [w.record() for w in self.warnings],
                "notes": list(self.notes),
            }
        )

    @property
    def remembers_beyond_training(self) -> bool | None:
        """Whether t95 lies beyond the training length; None if either is unknown."""
        reach = self.whole.reach[2]
        if self.trained_on is None or math.isnan(reach):
            return None
        if reach <= self.trained_on and not self.whole.is_settled:
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
        least = "" if self.whole.is_settled else "at least "
        return (
            f"trained on {self.trained_on:g} {self.unit}, remembers {least}{reach:.4g} {self.unit} "
            f"(t95): {verdict}"
        )

    def _sizes(self) -> str:
        if not self.whole.memory.is_lower_estimate:
            return ""
        return f"; inputs up to {self.largest_input:g} (--largest-input)"

    def _rest_remedy(self) -> str:
        if self.time_to_rest <= self.settle:
            return ""
        if math.isinf(self.time_to_rest):
            return "; it comes to no rest in silence (--settle, if a longer one would do)"
        return f"; it starts out of rest: --settle {self.time_to_rest:g}"


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
    settle: float | None = None,
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
        horizon: longest lag. If omitted, ten times the slowest time scale at rest, at least 64
            steps and at most 4096; where t95 is not settled by then, four times as long or more, if
            a coarse look finds it settled within 1024 steps (2^16 where the memory is exact).
        n_inputs: input channels of a callable or module that does not say.
        trained_on: length of the training sequences, in the unit of dt.
        normalisation: of the memory function, see `memory.measure_memory`.
        largest_input: largest step tried; gated networks may hold on for long to inputs much
            larger than any they will see. Where it exceeds 1, the memory of inputs up to 1 is told
            as well.
        settle: silence before the probes, for models that do not start at rest. If omitted, the
            time in which silence brings a model, or a layer alone, to rest: memory is a matter
            between input and output, not of the start. 0 for the memory from the start on.
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
    if settle is not None:
        settle = require_nonnegative("settle", settle)
    largest_input = require_positive("largest_input", largest_input)
    functional = _functional(model, n_inputs)
    dt = _own_step(functional, dt)
    parts = _parts(functional)
    progress("time scales")
    spectra = _spectra(parts, dt)
    time_to_rest = _time_to_rest(functional, dt)
    settles = settle is None
    settle = _silence(time_to_rest) if settle is None else settle
    is_given = horizon is not None
    if horizon is None:
        longest = max((_longest(s, dt) for s in spectra if s is not None), default=0.0)
        horizon = dt * float(np.clip(math.ceil(10 * longest / dt), _SHORTEST, _LONGEST))
    is_stack = len(parts) > 1
    unstable = [s for s in spectra if s is not None and s.margin <= 0]

    def report(
        part: AbstractFunctional,
        spectrum: Spectrum | None,
        *,
        horizon: float,
        silence: float,
        largest: float = largest_input,
        n_restarts: int = n_restarts,
    ) -> LayerReport:
        profile = measure_memory(
            part,
            dt=dt,
            horizon=horizon,
            normalisation=normalisation,
            n_restarts=n_restarts,
            magnitudes=_sizes(largest),
            settle=silence,
        )
        return _layer_report(part, profile, spectrum)

    def with_margin(layer: LayerReport, part: AbstractFunctional) -> LayerReport:
        progress(f"margin of {layer.name}")
        return dataclasses.replace(layer, margin=measure_margin(part, dt=dt))

    progress(f"memory of {_name(functional)}")
    whole_spectrum = None if is_stack else spectra[0]
    whole = report(functional, whole_spectrum, horizon=horizon, silence=settle)
    if not (is_given or unstable) and _is_open(whole):
        progress("longer horizons")
        # The grid of sizes alone says for the price of a few probes which horizon may do.
        for longer in _longer(whole, dt):
            try:
                look = report(
                    functional, whole_spectrum, horizon=longer, silence=settle, n_restarts=0
                )
            except Exception:  # whatever a model of limited length raises at a longer signal
                break
            if not _is_open(look):
                horizon, whole = longer, look
                if look.memory.is_lower_estimate:
                    progress(f"memory of {whole.name} up to lag {horizon:g}")
                    whole = report(functional, whole_spectrum, horizon=horizon, silence=settle)
                break
    layers = []
    for part, spectrum in zip(parts, spectra, strict=True) if is_stack else ():
        progress(f"memory of {_name(part)}")
        silence = _silence(_time_to_rest(part, dt)) if settles else settle
        layer = report(part, spectrum, horizon=horizon, silence=silence)
        layers.append(with_margin(layer, part))
    if not is_stack:
        whole = with_margin(whole, functional)
    unit_inputs = None
    if whole.memory.is_lower_estimate and largest_input > _UNIT_SIZE:
        progress("memory of unit inputs")
        unit_inputs = report(functional, None, horizon=horizon, silence=settle, largest=_UNIT_SIZE)
    memory_map = None
    if isinstance(functional, CausalAttention) or not isinstance(
        functional, (AbstractRecurrent, AbstractLinearFunctional)
    ):
        progress("dependence on the start")

        def map_of(largest: float, longest: float) -> MemoryMap:
            n_lags = int(longest / dt * (1 + 1e-12))
            return measure_memory_map(
                functional,
                dt=dt,
                horizon=n_lags * dt,
                starts=settle + dt * np.linspace(0, n_lags, 4).round(),
                magnitudes=_sizes(largest, 7),
            )

        longest = min(horizon, _LONGEST_MAP * dt)
        memory_map = map_of(largest_input, longest)
        if is_given and not memory_map.is_time_homogeneous and horizon > longest:
            longest = horizon
            memory_map = map_of(largest_input, longest)
        if not memory_map.is_time_homogeneous and whole.memory.status.is_ok:
            whole = _over_all_starts(whole, functional, memory_map)
            if unit_inputs is not None:
                unit_inputs = _over_all_starts(unit_inputs, functional, map_of(_UNIT_SIZE, longest))
    rooms = [(s.float32_room, place) for place, s in enumerate(spectra) if s is not None]
    status = whole.status
    if unstable and status.code in ("ok", "horizon_too_short"):
        when = min(s.overflow_time for s in unstable)
        end = f"; float32 overflows after {when:.3g} {unit}" if math.isfinite(when) else ""
        status = Status("diverged", f"a layer at rest is unstable{end}")
    return ModelReport(
        whole=whole,
        unit_inputs=unit_inputs,
        layers=tuple(layers),
        first_to_overflow=min(rooms)[1] if rooms else None,
        map=memory_map,
        trained_on=trained_on,
        dt=dt,
        horizon=horizon,
        largest_input=largest_input,
        settle=settle,
        time_to_rest=time_to_rest,
        unit=unit,
        status=status,
        warnings=whole.memory.warnings,
        notes=_notes_on_rest(time_to_rest, settle, dt, unit) if settles else (),
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
        remedy = WEIGHTS_ALONE if isinstance(model, Mapping) else ""
        kind = type(model).__name__
        raise wrong_type("model", "a functional, a callable or a module", kind, remedy)
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


def _sizes(largest: float, n_sizes: int = 13) -> np.ndarray:
    return largest * np.geomspace(1e-6, 1, n_sizes)


def _time_to_rest(functional: AbstractFunctional, dt: float) -> float:
    """Returns the silence after which the output stands still; 0 from the start on, inf if never."""
    if isinstance(functional, AbstractLinearFunctional):
        return 0.0
    try:
        with np.errstate(all="ignore"):
            output = np.asarray(functional(np.zeros((_N_SILENCE, functional.n_inputs)), dt=dt))
    except Exception:  # whatever a model of limited length raises: it is probed from its start
        return 0.0
    if not np.isfinite(output).all():
        return math.inf
    left = np.abs(output - output[-1]).max(axis=1)
    if left.max() <= 1e-9 * np.abs(output).max():
        return 0.0
    place = int(np.flatnonzero(left > _AT_REST * left.max())[-1]) + 1
    return place * dt if place <= _N_SILENCE // 2 else math.inf


def _silence(time_to_rest: float) -> float:
    return time_to_rest if math.isfinite(time_to_rest) else 0.0


def _notes_on_rest(time_to_rest: float, settle: float, dt: float, unit: str) -> tuple[str, ...]:
    if math.isinf(time_to_rest):
        watched = _N_SILENCE * dt
        return (f"in {watched:g} {unit} of silence it comes to no rest: probed from its start",)
    if settle > 0:
        return (f"it starts out of rest: probed after {settle:g} {unit} of silence (--settle)",)
    return ()


def _is_open(layer: LayerReport) -> bool:
    profile = layer.memory
    is_seen = profile.memory.any() and not _grows(profile)
    return profile.status.is_ok and not (is_seen and layer.is_settled)


def _longer(layer: LayerReport, dt: float) -> list[float]:
    """Returns the horizons worth trying beyond that of a layer's memory."""
    profile = layer.memory
    most = _LONGEST_SEARCHED if profile.is_lower_estimate else _LONGEST_EXACT
    most = min(most, _MOST_VALUES // (layer.n_inputs * layer.n_outputs))
    n_lags, found = _LENGTHENED * round(profile.lags[-1] / dt + 0.5), []
    while n_lags <= most:
        found.append(n_lags * dt)
        n_lags *= _LENGTHENED
    return found


def _is_settled(profile: MemoryProfile, law: MemoryLaw | None) -> bool:
    if _grows(profile) or not profile.memory.any() or not profile.status.is_ok:
        return True
    is_forgotten = math.isfinite(profile.horizon)
    if law is None:
        return is_forgotten
    if law.t95.upper > _ONE_NUMBER * max(law.t95.lower, profile.dt):
        return False
    return is_forgotten or law.t95.value <= 0.5 * profile.lags[-1]


def _layer_report(
    part: AbstractFunctional, profile: MemoryProfile, spectrum: Spectrum | None
) -> LayerReport:
    law, status = None, profile.status
    if status.is_ok and not _grows(profile) and profile.memory.any() and len(profile.lags) >= 4:
        try:
            law = estimate_law(profile, n_draws=64)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            status = Status("failed", f"no law could be fitted: {error}")
    if status.is_ok and not _is_settled(profile, law):
        end = f"not settled by lag {profile.lags[-1]:.4g}, t95 is at least {profile.t95:.3g}"
        status = Status("horizon_too_short", end)
    width = 0
    if isinstance(part, AbstractRecurrent):
        width = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(part.initial_state()))
    arrays = [a for a in jax.tree.leaves(part) if isinstance(a, (np.ndarray, jax.Array))]
    return LayerReport(
        name=_name(part),
        n_inputs=part.n_inputs,
        n_outputs=part.n_outputs,
        width=width,
        n_weights=sum(int(np.size(a)) for a in arrays) if arrays else None,
        memory=profile,
        law=law,
        spectrum=spectrum,
        margin=None,
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
    found_there = _layer_report(functional, profile, report.spectrum)
    return dataclasses.replace(found_there, margin=report.margin)


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
        return f"none: no output depends on the input up to lag {layer.memory.lags[-1]:.4g}"
    is_settled, least = layer.is_settled, "" if layer.is_settled else "≥ "
    spans = zip(("t50", "t90", "t95"), layer.reach, strict=True)
    reach = ", ".join(f"{name} {least}{lag:.3g}" for name, lag in spans)
    law = "no law" if layer.law is None else layer.law.law
    law = law if is_settled else f"{law} so far"
    estimate = "lower estimate" if layer.memory.is_lower_estimate else "exact"
    horizon = layer.memory.horizon
    if math.isinf(horizon):
        end = f"not forgotten by {layer.memory.lags[-1]:.4g}"
    elif is_settled and horizon >= layer.reach[2]:
        end = f"forgotten by {horizon:.4g}"
    else:
        end = f"below a thousandth of its largest from {horizon:.4g} on, with a long tail"
    return f"{reach} {unit}; {law}; {end} ({estimate})"


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


def _memory_record(layer: LayerReport, *, with_curve: bool) -> dict[str, Any]:
    t50, t90, t95 = layer.reach
    profile = layer.memory
    memory: dict[str, Any] = {
        "t50": t50,
        "t90": t90,
        "t95": t95,
        "is_settled": layer.is_settled,
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
    return memory


def _record(layer: LayerReport, *, with_curve: bool) -> dict[str, Any]:
    spectrum = layer.spectrum
    return {
        "name": layer.name,
        "n_inputs": layer.n_inputs,
        "n_outputs": layer.n_outputs,
        "width": layer.width,
        "n_weights": layer.n_weights,
        "memory": _memory_record(layer, with_curve=with_curve),
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
