"""One trainer for every model: what it learned, how, and whether to go on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from recollect import models
from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._functional import AbstractFunctional
from recollect._core._precision import is_top_level
from recollect._core._status import Status
from recollect.training._checkpoint import hash_arrays, read_checkpoint, write_checkpoint
from recollect.training._plateau import PlateauVerdict, judge_plateau
from recollect.training._train_records import Records, read_records
from recollect.training._train_step import (
    DIVERGED,
    Plan,
    advance,
    differentiate,
    draw,
    draw_batch,
    evaluate_loss,
    move,
    separate,
)
from recollect.training._train_units import mark_trained, rescale

_OPTIMISERS = ("adam", "momentum", "gradient_descent")
_PRECISIONS = ("float64", "float32")
_UNITS = ("normalised", "data")
_LONG_CURVE = 4096
_CHECKPOINT_SHARE = 0.05
_LINE_EVERY = 10.0


@dataclasses.dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands, as the callback sees it after each compiled call.

    Attributes:
        step: steps taken.
        loss: before the last step, mean square error in units of the outputs' mean square.
        model: the model so far, in the units of the data.
        timescales: `1 / Re w` of its linear recurrences, in the unit of time, longest first.
        plateau: what the losses so far say about going on.
        seconds: since the run (or its resumption) began.
    """

    step: int
    loss: float
    model: Any
    timescales: np.ndarray
    plateau: PlateauVerdict
    seconds: float


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model and how its training went.

    Attributes:
        model: with host weights, in the units of the data.
        losses: before each step, on its batch, in units of the outputs' mean square, (step,).
        error: the same over all records, of the model returned.
        plateau: what the losses say about going on, after the last step for as many steps again.
        status: `diverged` or `not_finite` with step and layer if it broke (the model is then the
            last sound one); `stalled`, `not_converged` or `undecided` if the plateau detector
            stopped it on a plateau, in a slow decay, or where it could not tell.
        stats: `n_steps`, `resumed_at`, `seconds`, `input_scale`, `output_scale`.
    """

    model: Any
    losses: np.ndarray
    error: float
    plateau: PlateauVerdict
    status: Status
    stats: dict[str, Any]


def train_model(
    model: AbstractFunctional,
    inputs: Any,
    outputs: Any,
    *,
    key: Any,
    dt: float,
    n_steps: int = 1000,
    optimiser: Any = "adam",
    learning_rate: Any = 1e-2,
    n_batch: int | None = None,
    window: int | None = None,
    washout: int = 0,
    weights: Any = None,
    units: str = "normalised",
    precision: str = "float64",
    steps_per_call: int = 50,
    is_patient: bool = True,
    target_error: float = 0.0,
    callback: Callable[[TrainingProgress], Any] | None = None,
    is_verbose: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    devices: int | Sequence[Any] | None = None,
) -> TrainedModel:
    """Returns the model trained on records, with its losses and a verdict on going on.

    Minimises `Σ w_t |ŷ_t - y_t|² / σ_y²` (a mean over records, times and outputs; σ_y the root
    mean square of each output), simulated from the model's own initial state. A run that was
    killed goes on from its checkpoint and ends, on the same machine, in the same bits.

    A step whose loss is not finite, or 1e6 times the first loss (or the outputs' power, if that
    is more), or whose gradient or update is not finite, is not taken: the run ends there.

    Args:
        model: where to start. Every floating-point weight is trained, but for offsets and scales
            of `Rescaled`, limits of a `StateNetwork` and a readout that is fixed.
        inputs: shape (time, in) or (record, time, in), or a list of records of any lengths.
        outputs: the same with out channels.
        key: a JAX random key or an integer seed; the batch of a step depends on key and step only.
        dt: sampling step, in the unit of time.
        n_steps: optimiser steps, those before a resumption included.
        optimiser: `"adam"`, `"momentum"` (0.9), `"gradient_descent"`, or an optax transformation
            (which brings its own learning rate). It sees a dictionary of real arrays by weight
            name; a complex weight has a last axis of real and imaginary part.
        learning_rate: a number or an optax schedule.
        n_batch: records (or windows) drawn per step; all records if omitted.
        window: train on stretches of that many samples, drawn from the records.
        washout: first samples of each record or window that do not count.
        weights: of the samples of a record or window, shape (time,); one if omitted.
        units: `"normalised"`: the given model acts on signals of unit mean square, and the one
            returned is rescaled to the data, so that scaling the data changes nothing else.
            `"data"`: the given model is in the units of the data already. Where a model has no
            weights that can take the scales, a `Rescaled` one is returned.
        precision: `"float64"` or `"float32"`.
        steps_per_call: steps per compiled call; callback, checkpoint and plateau detector run
            between calls.
        is_patient: False stops the run when the plateau detector (`judge_plateau`) says stop.
        target_error: stop when the loss before a call's last step is not above this.
        callback: called with a `TrainingProgress`; a true answer stops the run. A resumed run
            calls it first with the progress that it resumes from.
        is_verbose: write a line of progress to the standard error stream.
        checkpoint: directory to write to and, if it holds this run, to resume from. It is written
            after each call, or as often as costs a twentieth of the time.
        devices: JAX devices (or their number) over which the records of a batch are spread.

    Raises:
        ValueError: if records, shapes, counts or a choice cannot be used, if a record has one
            sample, if all outputs are zero, or if the checkpoint belongs to another run.
        TypeError: if the model is no functional, or one that cannot take the scales of the data.
        RuntimeError: under jit, vmap or grad.
    """
    if not is_top_level():
        raise RuntimeError("train_model must be the outermost call: outside jit, vmap and grad")
    if not isinstance(model, AbstractFunctional):
        raise wrong_type("model", "a model of recollect.models", type(model).__name__)
    dt = require_positive("dt", dt)
    n_steps = require_count("n_steps", n_steps)
    steps_per_call = require_count("steps_per_call", steps_per_call)
    require_choice("units", units, _UNITS)
    require_choice("precision", precision, _PRECISIONS)
    data = read_records(model, inputs, outputs, window, washout, weights)
    n_records = len(data.inputs)
    if n_batch is not None:
        n_batch = require_count("n_batch", n_batch)
        if window is None and n_batch > n_records:
            raise invalid("n_batch", f"at most the {n_records} records", n_batch)
    part, rate = _read_optimiser(optimiser, learning_rate)
    began = time.monotonic()
    was_wide = jax.config.jax_enable_x64
    with jax.enable_x64(precision == "float64"):
        run = _Run(
            model,
            data,
            dt=dt,
            key=_as_key(key),
            optimiser=part,
            rate=rate,
            n_batch=n_batch,
            units=units,
            precision=precision,
            steps_per_call=steps_per_call,
            devices=_as_devices(devices),
        )
        store = None
        if checkpoint is not None:
            fingerprint = run.fingerprint(
                dt=dt,
                n_batch=n_batch,
                units=units,
                precision=precision,
                steps_per_call=steps_per_call,
            )
            store = _Store(pathlib.Path(checkpoint), fingerprint)
            store.load(run)
        resumed_at = run.step
        line = _Line(n_steps) if is_verbose else None
        status, plateau = Status(), judge_plateau([])
        while True:
            if run.step:
                is_judged = _is_due(run.step, steps_per_call)
                if is_judged or run.step in (resumed_at, n_steps):
                    # At the end: whether as many steps again are worth it.
                    plateau = _judge(run.losses, (n_steps - run.step) or n_steps)
                elapsed = time.monotonic() - began
                if line is not None:
                    line.show(run, plateau, elapsed)
                if callback is not None:
                    current = run.model()
                    progress = TrainingProgress(
                        run.step,
                        float(run.losses[-1]),
                        current,
                        _timescales(current),
                        plateau,
                        elapsed,
                    )
                    with jax.enable_x64(was_wide):
                        wants_stop = callback(progress)
                    if wants_stop:
                        break
                if run.losses[-1] <= target_error:
                    break
                if not is_patient and is_judged and plateau.verdict == "stop":
                    status = _explain_stop(run.step, plateau)
                    break
            if run.step >= n_steps:
                break
            failure = run.advance(n_steps)
            if failure is not None:
                status = failure
                break
            if store is not None:
                store.save(run, is_due=False)
        if store is not None:
            store.save(run, is_due=True)
        if line is not None:
            line.end(run, plateau, time.monotonic() - began)
        return TrainedModel(
            model=run.model(),
            losses=run.losses.copy(),
            error=run.error(),
            plateau=plateau,
            status=status,
            stats={
                "n_steps": run.step,
                "resumed_at": resumed_at,
                "seconds": time.monotonic() - began,
                "input_scale": data.input_scale,
                "output_scale": data.output_scale,
            },
        )


def _as_key(key: Any) -> Any:
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return jax.random.key(require_count("key", key, minimum=0))
    try:
        data = jax.random.key_data(key)
    except (TypeError, ValueError, AttributeError):
        raise invalid("key", "a JAX random key or an integer seed", f"{key!r:.60}") from None
    return jax.random.wrap_key_data(data)


def _as_devices(devices: Any) -> list[Any] | None:
    if devices is None:
        return None
    if isinstance(devices, int):
        present = jax.devices()
        if require_count("devices", devices) > len(present):
            raise invalid("devices", f"at most the {len(present)} present", devices)
        return present[:devices]
    return list(devices)


@functools.cache
def _direction(optimiser: str) -> Any:
    import optax  # on first use: half a second that a diagnosis does not need

    return optax.with_extra_args_support(
        {
            "adam": optax.scale_by_adam,
            "momentum": lambda: optax.trace(decay=0.9),
            "gradient_descent": optax.identity,
        }[optimiser]()
    )


@functools.cache
def _with_extra_args(optimiser: Any) -> Any:
    import optax

    return optax.with_extra_args_support(optimiser)


def _read_optimiser(optimiser: Any, learning_rate: Any) -> tuple[dict[str, Any], float]:
    """Returns the optimiser's part of a plan, and the learning rate if it is a number."""
    if hasattr(optimiser, "init") and hasattr(optimiser, "update"):
        own = _with_extra_args(optimiser)
        return {"optimiser": own, "schedule": None, "is_scaled": False}, 0.0
    require_choice("optimiser", optimiser, _OPTIMISERS)
    part = {"optimiser": _direction(optimiser), "is_scaled": True}
    if callable(learning_rate):
        return {**part, "schedule": learning_rate}, 0.0
    return {**part, "schedule": None}, require_positive("learning_rate", learning_rate)


class _Run:
    """The state of a run: real parameter arrays, the optimiser's state, and the losses so far."""

    def __init__(
        self,
        model: Any,
        data: Records,
        *,
        dt: float,
        key: Any,
        optimiser: dict[str, Any],
        rate: float,
        n_batch: int | None,
        units: str,
        precision: str,
        steps_per_call: int,
        devices: list[Any] | None,
    ):
        self.data, self._key, self._rate = data, key, rate
        real = np.dtype(precision)
        if units == "data":
            model = rescale(model, data.input_scale, 1 / data.output_scale)
        # Refuses what cannot be rescaled before hours are spent on it.
        rescale(model, 1 / data.input_scale, data.output_scale)
        model = _as_host(model, real)
        params, constants, part = separate(model, mark_trained(model))
        if not params:
            raise invalid("model", "at least one weight to train", "none")
        n_records, window = len(data.inputs), data.window
        is_full = n_batch is None and window is None
        size = n_records if n_batch is None else n_batch
        counts = data.counts if window else data.counts * data.weights
        signals = [data.inputs / data.input_scale, data.outputs / data.output_scale, counts]
        self._everywhere = SingleDeviceSharding(devices[0] if devices else jax.devices()[0])
        sharding, place = None, self._everywhere
        if devices and len(devices) > 1:
            mesh = Mesh(np.array(devices), ("record",))
            sharding = NamedSharding(mesh, PartitionSpec("record"))
            self._everywhere = place = NamedSharding(mesh, PartitionSpec())
            if is_full:
                extra = -n_records % len(devices)  # empty records with no weight
                signals = [np.pad(a, [(0, extra)] + [(0, 0)] * (a.ndim - 1)) for a in signals]
                place = sharding
            elif size % len(devices):
                raise invalid("n_batch", f"a multiple of the {len(devices)} devices", size)
        self._plan = Plan(
            **part,
            **optimiser,
            dt=dt,
            size=None if is_full else size,
            window=window,
            n_steps=steps_per_call,
            sharding=None if is_full else sharding,
        )
        self._records = (
            *(jax.device_put(a.astype(real), place) for a in signals),
            self._put(data.lengths),
            self._put(data.weights.astype(real)),
        )
        self._constants = jax.tree.map(self._put, constants)
        self.params = {name: self._put(leaf) for name, leaf in params.items()}
        self._state = self._plan.optimiser.init(self.params)
        self.step, self._losses = 0, np.zeros(0)
        self._start = hash_arrays(*jax.tree.leaves((params, constants)))
        self._restart(*(jax.tree.leaves(tree) for tree in (self.params, self._state)))

    def fingerprint(self, **settings: Any) -> dict[str, Any]:
        """Returns what must agree for a run to be the same run."""
        data = self.data
        return {
            "model": f"{type(self._host_network()).__name__}: {', '.join(self._plan.names)}",
            "start": self._start,
            "records": hash_arrays(data.inputs, data.outputs, data.lengths, data.weights),
            "window": data.window,
            "key": np.asarray(jax.random.key_data(self._key)).ravel().tolist(),
            "optimiser": self._describe_optimiser(),
            **settings,
        }

    def _describe_optimiser(self) -> str:
        # What it computes, constants included; the addresses of functions are chance.
        plan = self._plan
        batch = jax.eval_shape(functools.partial(draw, plan), *self._drawn(0)[1:])
        update = jax.make_jaxpr(
            lambda slope, state, params, step, *of: move(
                plan, slope, state, params, self._rate, step, jnp.zeros(()), of
            )
        )(self.params, self._state, self.params, 0, self._constants, batch)
        digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(update.jaxpr)).encode())
        return digest.hexdigest()

    @property
    def losses(self) -> np.ndarray:
        """The losses so far, before each step."""
        return self._losses[: self.step]

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns everything that a resumption needs."""
        found = {"losses": self.losses}
        for name, tree in (("param", self.params), ("state", self._state)):
            for i, leaf in enumerate(jax.tree.leaves(tree)):
                found[f"{name}.{i}"] = np.asarray(leaf)
        return found

    def restore(self, step: int, tensors: dict[str, np.ndarray]) -> None:
        """Goes back to where `tensors` were written."""
        self._restart(
            *(
                [tensors[f"{name}.{i}"] for i in range(len(jax.tree.leaves(tree)))]
                for name, tree in (("param", self.params), ("state", self._state))
            )
        )
        self._losses, self.step = np.array(tensors["losses"]), step

    def _restart(self, params: list[Any], state: list[Any]) -> None:
        # A fresh and a resumed run must hand the compiler the same program, and so arrays of the
        # same shapes, types and places.
        old, structure = jax.tree.flatten((self.params, self._state))
        new = [
            self._put(np.asarray(a, b.dtype).reshape(np.shape(b)))
            for a, b in zip((*params, *state), old, strict=True)
        ]
        self.params, self._state = jax.tree.unflatten(structure, new)

    def advance(self, n_steps: int) -> Status | None:
        """Takes up to `steps_per_call` steps; returns a status if one of them failed."""
        first = self.step
        moved, losses, is_good = self._take(first, n_steps)
        n_taken = min(self._plan.n_steps, n_steps - first)
        losses, is_good = losses[:n_taken], is_good[:n_taken]
        self.params, self._state = moved
        failed = int(np.argmin(is_good)) if not is_good.all() else None
        n_good = n_taken if failed is None else failed
        self.step = first + n_good
        if self.step > len(self._losses):
            more = np.zeros(max(self.step, 2 * len(self._losses)))
            more[:first] = self._losses[:first]
            self._losses = more
        self._losses[first : self.step] = losses[:n_good]
        if failed is None:
            return None
        return self._explain(first + failed, float(losses[failed]))

    def _take(self, first: int, last: int) -> tuple[Any, np.ndarray, np.ndarray]:
        moved, (losses, is_good) = advance(
            self._plan,
            self.params,
            self._state,
            self._constants,
            self._records,
            self._key,
            self._rate,
            first,
            last,
            self._limit(),
        )
        return moved, np.asarray(losses, np.float64), np.asarray(is_good)

    def _limit(self) -> float:
        return DIVERGED * max(float(self.losses[0]), 1.0) if self.step else math.inf

    def _drawn(self, step: int) -> tuple[Any, ...]:
        return self._plan, self._records, self._key, step

    def _put(self, array: Any) -> Any:
        return jax.device_put(array, self._everywhere)

    def _explain(self, step: int, loss: float) -> Status:
        """Says where the step after the last good one breaks."""
        batch = draw_batch(*self._drawn(step))
        is_over = math.isfinite(loss) and loss > self._limit()
        where = self._first_broken_layer(batch)
        if where is None:
            slope = differentiate(self._plan, self.params, self._constants, batch)[1]
            sizes = {name: float(np.max(np.abs(slope[name]))) for name in self._plan.names}
            broken = [name for name, size in sizes.items() if not math.isfinite(size)]
            largest = max(sizes, key=lambda name: sizes[name])
            if broken:
                where = f"the gradient of {broken[0]}"
            elif is_over:
                where = f"{largest}, the weight of largest gradient"
            else:
                where = f"the update of {largest}"
        if is_over:
            return Status("diverged", f"the loss reached {loss:.3g} at step {step}, in {where}")
        return Status("not_finite", f"at step {step}, in {where}")

    def _first_broken_layer(self, batch: Any) -> str | None:
        signal, _, count = (np.asarray(a) for a in batch)
        network = self._host_network()
        if isinstance(network, models.Rescaled):
            signal = (signal - network.input_offset) / network.input_scale
            network = network.network
        layers = network.layers if isinstance(network, models.Stack) else (network,)
        for i, layer in enumerate(layers):
            layer = jax.tree.map(lambda a: jnp.asarray(a) if eqx.is_array(a) else a, layer)
            signal = jax.vmap(lambda s, layer=layer: layer(s, dt=self._plan.dt))(signal)
            broken = ~np.isfinite(np.asarray(signal)) & (count > 0)[..., None]
            if broken.any():
                name = type(layer).__name__
                where = f" of layer {i} ({name})" if len(layers) > 1 else f" of the {name}"
                return f"the output{where} at sample {int(np.argmax(broken.any((0, 2))))}"
        return None

    def error(self) -> float:
        """Returns the loss over all records."""
        if self._plan.size is None:
            # The loss before one step more, by the program that is compiled already.
            return float(self._take(self.step, self.step + 1)[1][0])
        x, y, count = self._records[:3]
        if self.data.window:
            count = count * (jnp.arange(count.shape[1]) >= self.data.washout)
        return float(evaluate_loss(self._plan, self.params, self._constants, (x, y, count)))

    def model(self) -> Any:
        """Returns the model in the units of the data, its weights on the host."""
        return rescale(self._host_network(), 1 / self.data.input_scale, self.data.output_scale)

    def _host_network(self) -> Any:
        return self._plan.combine(*jax.tree.map(np.asarray, (self.params, self._constants)))


class _Store:
    """The checkpoint directory of a run."""

    def __init__(self, directory: pathlib.Path, fingerprint: dict[str, Any]):
        self._directory, self._fingerprint = directory, fingerprint
        self._saved_at, self._ended, self._cost = -1, -math.inf, 0.0

    def load(self, run: _Run) -> None:
        """Takes the run to where it was left, if it ever began."""
        found = read_checkpoint(self._directory, self._fingerprint)
        if found is not None:
            run.restore(*found)
            self._saved_at = run.step

    def save(self, run: _Run, *, is_due: bool) -> None:
        """Writes the run unless that is done, or would cost too much of the time."""
        began = time.monotonic()
        is_cheap = self._cost <= _CHECKPOINT_SHARE * (began - self._ended)
        if run.step == self._saved_at or not (is_due or is_cheap):
            return
        write_checkpoint(self._directory, run.step, run.tensors(), self._fingerprint)
        self._saved_at, self._ended = run.step, time.monotonic()
        self._cost = self._ended - began


def _explain_stop(step: int, plateau: PlateauVerdict) -> Status:
    if plateau.kind == "floor":
        return Status()
    message = plateau.status.message or plateau.kind
    return Status(plateau.status.code, f"stopped at step {step}: {message}")


def _is_due(step: int, steps_per_call: int) -> bool:
    # By the step alone, so that a resumed run stops where an uninterrupted one does; ever more
    # rarely, so that judging a long curve costs no more than a short one.
    n_calls = -(-step // steps_per_call)
    return math.floor(20 * math.log(n_calls)) != math.floor(20 * math.log(max(n_calls - 1, 0.5)))


def _judge(losses: np.ndarray, n_remaining: int) -> PlateauVerdict:
    # A long curve is judged by means of neighbours: as good, and without end affordable.
    group = max(1, len(losses) // _LONG_CURVE)
    kept = losses[len(losses) % group :].reshape(-1, group).mean(1)
    return judge_plateau(kept, steps_per_loss=group, n_remaining=n_remaining)


def _as_host(model: Any, real: np.dtype) -> Any:
    complex_type = np.result_type(real, np.complex64)

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, (np.ndarray, jax.Array)):
            kind = np.dtype(leaf.dtype).kind
            return np.asarray(leaf, {"f": real, "c": complex_type}.get(kind))
        return leaf

    return jax.tree.map(convert, model)


def _timescales(model: Any) -> np.ndarray:
    found: list[np.ndarray] = []
    linear = (models.LinearRNN, models.DiagonalRNN)
    for part in jax.tree.leaves(model, is_leaf=lambda m: isinstance(m, linear)):
        if isinstance(part, models.DiagonalRNN):
            rates = np.real(np.asarray(part.rates))
        elif isinstance(part, models.LinearRNN):
            eigenvalues = np.linalg.eigvals(np.asarray(part.A))
            with np.errstate(divide="ignore"):
                rates = (
                    -eigenvalues.real if part.dt is None else -np.log(np.abs(eigenvalues)) / part.dt
                )
        else:
            continue
        with np.errstate(divide="ignore"):
            found.append(np.where(rates > 0, 1 / rates, np.inf))
    return np.sort(np.concatenate(found))[::-1] if found else np.zeros(0)


class _Line:
    """One line of progress: rewritten on a terminal, now and then a new one elsewhere."""

    def __init__(self, n_steps: int):
        self._n_steps, self._shown = n_steps, -math.inf
        self._is_terminal = sys.stderr.isatty()

    def show(self, run: _Run, plateau: PlateauVerdict, elapsed: float) -> None:
        if self._is_terminal:
            print(
                f"\r{self._text(run, plateau, elapsed):<100}", end="", file=sys.stderr, flush=True
            )
        elif elapsed - self._shown >= _LINE_EVERY:
            self._shown = elapsed
            print(self._text(run, plateau, elapsed), file=sys.stderr, flush=True)

    def end(self, run: _Run, plateau: PlateauVerdict, elapsed: float) -> None:
        text = self._text(run, plateau, elapsed)
        print(f"\r{text:<100}" if self._is_terminal else text, file=sys.stderr, flush=True)

    def _text(self, run: _Run, plateau: PlateauVerdict, elapsed: float) -> str:
        loss = f"{run.losses[-1]:.4g}" if run.step else "unknown"
        return f"{run.step}/{self._n_steps} steps  loss {loss}  {elapsed:.0f} s  {plateau}"
