"""One trainer for every model: what it learned, how, and whether to go on."""

from __future__ import annotations

import dataclasses
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
    host_float64,
    invalid,
    require_choice,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._functional import AbstractFunctional, AbstractRecurrent
from recollect._core._precision import is_top_level
from recollect._core._status import Status
from recollect.training._checkpoint import hash_arrays, read_checkpoint, write_checkpoint
from recollect.training._plateau import PlateauVerdict, judge_plateau

_OPTIMISERS = ("adam", "momentum", "gradient_descent")
_PRECISIONS = ("float64", "float32")
_UNITS = ("normalised", "data")
_DIVERGED = 1e6
# Weights that multiply the input alone, and the one that makes the output.
_READ_IN_AND_OUT = {
    models.LinearRNN: (("B",), "C"),
    models.DiagonalRNN: (("B",), "C"),
    models.ResidualRNN: (("U",), "C"),
    models.ElmanRNN: (("U",), "C"),
    models.GRU: (("input_weights",), "C"),
    models.LSTM: (("input_weights",), "C"),
    models.SelectiveRNN: (("B", "selection"), "C"),
    models.CausalAttention: (("query", "key", "value"), "C"),
}
# Numbers that say in which units or between which bounds a network works.
_CONSTANTS = {
    models.Rescaled: ("input_offset", "input_scale", "output_offset", "output_scale"),
    models.StateNetwork: ("lower", "upper"),
}
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
        plateau: what the losses say about going on.
        status: `diverged` or `not_finite` with step and layer if it broke (the model is then the
            last sound one), `not_converged` if the plateau detector stopped it.
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
    data = _read_records(model, inputs, outputs, window, washout, weights)
    n_records = len(data.inputs)
    if n_batch is not None:
        n_batch = require_count("n_batch", n_batch)
        if window is None and n_batch > n_records:
            raise invalid("n_batch", f"at most the {n_records} records", n_batch)
    began = time.monotonic()
    was_wide = jax.config.jax_enable_x64
    with jax.enable_x64(precision == "float64"):
        run = _Run(
            model,
            data,
            dt=dt,
            key=_as_key(key),
            optimiser=_build_optimiser(optimiser, learning_rate),
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
                plateau = _judge(run.losses, n_steps - run.step)
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
                if not is_patient and plateau.verdict == "stop":
                    status = Status("not_converged", f"stopped at step {run.step}: {plateau.kind}")
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


@dataclasses.dataclass(frozen=True)
class _Records:
    inputs: np.ndarray
    outputs: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    input_scale: np.ndarray
    output_scale: np.ndarray
    window: int | None
    washout: int
    weights: np.ndarray


def _read_records(
    model: Any, inputs: Any, outputs: Any, window: int | None, washout: int, weights: Any
) -> _Records:
    xs, ys = _as_list("inputs", inputs), _as_list("outputs", outputs)
    if len(xs) != len(ys):
        raise invalid("outputs", f"{len(xs)} records, as the inputs", f"{len(ys)} records")
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        where = f" in record {i}" if len(xs) > 1 else ""
        if x.shape[1] != model.n_inputs:
            raise invalid("inputs", f"{model.n_inputs} channel(s){where}", f"shape {x.shape}")
        if y.shape[1] != model.n_outputs:
            raise invalid("outputs", f"{model.n_outputs} channel(s){where}", f"shape {y.shape}")
        if len(x) != len(y):
            raise invalid(
                "outputs", f"as many samples as the inputs ({len(x)}){where}", f"{len(y)} samples"
            )
        if len(x) < 2:
            raise invalid(
                "inputs", f"at least two samples{where}", "1", "one sample shows no memory"
            )
    lengths = np.array([len(x) for x in xs])
    longest, shortest = int(lengths.max()), int(lengths.min())
    if window is not None:
        window = require_count("window", window, minimum=2)
        if window > shortest:
            raise invalid("window", f"at most the shortest record ({shortest})", window)
    span = window or longest
    washout = require_count("washout", washout, minimum=0)
    if washout >= (window or shortest):
        raise invalid("washout", f"fewer than {window or shortest} samples", washout)
    sample_weights = np.ones(span)
    if weights is not None:
        sample_weights = host_float64("weights", weights, owner="train_model")
        if sample_weights.shape != (span,):
            raise invalid("weights", f"shape ({span},)", f"shape {sample_weights.shape}")
        if sample_weights.min() < 0 or not sample_weights[washout:].any():
            raise invalid("weights", "numbers not below zero, one above", "none above zero")
    sample_weights = sample_weights * (np.arange(span) >= washout)
    input_scale = _rms(xs)
    if not input_scale.any():
        raise invalid("inputs", "a signal", "zeros only", "nothing can be learned from them")
    output_scale = _rms(ys)
    if not output_scale.any():
        raise invalid("outputs", "a signal", "zeros only", "there is nothing to learn")
    padded_x = np.zeros((len(xs), longest, xs[0].shape[1]))
    padded_y = np.zeros((len(ys), longest, ys[0].shape[1]))
    counts = np.zeros((len(xs), longest))
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        padded_x[i, : len(x)], padded_y[i, : len(y)], counts[i, : len(x)] = x, y, 1.0
    return _Records(
        padded_x,
        padded_y,
        counts,
        lengths,
        np.where(input_scale > 0, input_scale, 1.0),
        np.where(output_scale > 0, output_scale, 1.0),
        window,
        washout,
        sample_weights,
    )


def _as_list(name: str, signals: Any) -> list[np.ndarray]:
    if isinstance(signals, (list, tuple)):
        records = [
            host_float64(f"{name}[{i}]", r, owner="train_model") for i, r in enumerate(signals)
        ]
    else:
        array = host_float64(name, signals, owner="train_model")
        if array.ndim not in (2, 3):
            raise invalid(
                name,
                "shape (time, channel) or (record, time, channel)",
                f"shape {array.shape}",
                "use signal[:, None] for one channel" if array.ndim == 1 else "",
            )
        records = [array] if array.ndim == 2 else list(array)
    if not records:
        raise invalid(name, "at least one record", "none")
    for i, record in enumerate(records):
        if record.ndim != 2 or record.shape[0] == 0:
            raise invalid(f"{name}[{i}]", "shape (time, channel)", f"shape {record.shape}")
    return records


def _rms(records: list[np.ndarray]) -> np.ndarray:
    # Relative to the peak, so that no square leaves the range of float64.
    peak = np.max([np.abs(r).max(0) for r in records], axis=0)
    safe = np.where(peak > 0, peak, 1.0)
    total = sum(((r / safe) ** 2).sum(0) for r in records)
    return peak * np.sqrt(total / sum(len(r) for r in records))


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


def _build_optimiser(optimiser: Any, learning_rate: Any) -> Any:
    import optax  # on first use: half a second that a diagnosis does not need

    if not (hasattr(optimiser, "init") and hasattr(optimiser, "update")):
        require_choice("optimiser", optimiser, _OPTIMISERS)
        if not callable(learning_rate):
            learning_rate = require_positive("learning_rate", learning_rate)
        optimiser = {
            "adam": lambda: optax.adam(learning_rate),
            "momentum": lambda: optax.sgd(learning_rate, momentum=0.9),
            "gradient_descent": lambda: optax.sgd(learning_rate),
        }[optimiser]()
    return optax.with_extra_args_support(optimiser)


class _Run:
    """The state of a run: real parameter arrays, the optimiser's state, and the losses so far."""

    def __init__(
        self,
        model: Any,
        data: _Records,
        *,
        dt: float,
        key: Any,
        optimiser: Any,
        n_batch: int | None,
        units: str,
        precision: str,
        steps_per_call: int,
        devices: list[Any] | None,
    ):
        self.data, self.key, self.optimiser = data, key, optimiser
        real = np.dtype(precision)
        if units == "data":
            model = _rescale(model, data.input_scale, 1 / data.output_scale)
        # Refuses what cannot be rescaled before hours are spent on it.
        _rescale(model, 1 / data.input_scale, data.output_scale)
        model = _as_jax(model, real)
        weights, self._static = eqx.partition(model, _trainable(model))
        named, self._structure = jax.tree_util.tree_flatten_with_path(weights)
        if not named:
            raise invalid("model", "at least one weight to train", "none")
        self.names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in named]
        self._is_complex = [jnp.iscomplexobj(leaf) for _, leaf in named]
        self.params = {
            name: _split(leaf) for name, (_, leaf) in zip(self.names, named, strict=True)
        }
        self.state = optimiser.init(self.params)
        self.step, self._losses = 0, np.zeros(0)
        self._start = hash_arrays(*(np.asarray(leaf) for leaf in jax.tree.leaves(model)))
        n_records, window = len(data.inputs), data.window
        xs, ys = data.inputs / data.input_scale, data.outputs / data.output_scale
        counts = data.counts if data.window else data.counts * data.weights
        arrays = [xs, ys, counts]
        is_full = n_batch is None and window is None
        device = SingleDeviceSharding(devices[0] if devices else jax.devices()[0])
        sharding, everywhere, place = None, device, device
        if devices and len(devices) > 1:
            mesh = Mesh(np.array(devices), ("record",))
            sharding = NamedSharding(mesh, PartitionSpec("record"))
            everywhere = place = NamedSharding(mesh, PartitionSpec())
            size = n_records if n_batch is None else n_batch
            if is_full:
                extra = -n_records % len(devices)  # empty records with no weight
                arrays = [np.pad(a, [(0, extra)] + [(0, 0)] * (a.ndim - 1)) for a in arrays]
                place = sharding
            elif size % len(devices):
                raise invalid("n_batch", f"a multiple of the {len(devices)} devices", size)
        self._arrays = tuple(jax.device_put(a.astype(real), place) for a in arrays)
        self._everywhere = everywhere
        self._restart(*(jax.tree.leaves(tree) for tree in (self.params, self.state)))
        lengths, weights_row = jnp.asarray(data.lengths), jnp.asarray(data.weights, real)

        def draw(arrays: Any, step: Any) -> Any:
            if is_full:
                return arrays
            x, y, count = arrays
            place = jax.random.fold_in(key, step)
            size = n_records if n_batch is None else n_batch
            if window is None:
                chosen = jax.random.choice(place, n_records, (size,), replace=False)
                batch = x[chosen], y[chosen], count[chosen]
            else:
                # Long records are drawn as often as they have windows.
                ends = jnp.cumsum(lengths - window + 1)
                ticket = jax.random.randint(place, (size,), 0, ends[-1], ends.dtype)
                chosen = jnp.searchsorted(ends, ticket, side="right").astype(ends.dtype)
                begin = ticket - (ends[chosen] - (lengths[chosen] - window + 1))

                def cut(signal: Any, record: Any, first: Any) -> Any:
                    shape = (1, window, signal.shape[-1])
                    return jax.lax.dynamic_slice(signal, (record, first, record * 0), shape)[0]

                cut = jax.vmap(cut, in_axes=(None, 0, 0))
                batch = (
                    cut(x, chosen, begin),
                    cut(y, chosen, begin),
                    jnp.broadcast_to(weights_row, (size, window)),
                )
            if sharding is not None:
                batch = jax.lax.with_sharding_constraint(batch, sharding)
            return batch

        def loss_of(params: Any, batch: Any) -> Any:
            x, y, count = batch
            network = self._combine(params)
            predicted = jax.vmap(lambda signal: network(signal, dt=dt))(x)
            squares = jnp.mean((predicted - y) ** 2, axis=-1)
            # Padding may hold anything, even infinities, and must not reach the sum.
            return jnp.sum(jnp.where(count > 0, count * squares, 0.0)) / jnp.sum(count)

        def advance(params: Any, state: Any, arrays: Any, first: Any, last: Any, limit: Any) -> Any:
            def take(params: Any, state: Any, step: Any) -> Any:
                batch = draw(arrays, step)
                loss, slope = jax.value_and_grad(loss_of)(params, batch)
                update, new_state = optimiser.update(
                    slope,
                    state,
                    params,
                    value=loss,
                    grad=slope,
                    value_fn=lambda trial: loss_of(trial, batch),
                )
                new = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, update)
                is_good = jnp.isfinite(loss) & (loss <= limit)
                for leaf in jax.tree.leaves((slope, new)):
                    is_good &= jnp.all(jnp.isfinite(leaf))
                keep = lambda a, b: jnp.where(is_good, a, b)  # noqa: E731
                return (
                    jax.tree.map(keep, new, params),
                    jax.tree.map(keep, new_state, state),
                    loss,
                    is_good,
                )

            def skip(params: Any, state: Any, step: Any) -> Any:
                return params, state, jnp.zeros((), real), jnp.array(True)

            def one(carry: Any, step: Any) -> Any:
                params, state, is_running = carry
                params, state, loss, is_good = jax.lax.cond(
                    is_running & (step < last), take, skip, params, state, step
                )
                return (params, state, is_running & is_good), (loss, is_good)

            steps = first + jnp.arange(steps_per_call)
            carry, path = jax.lax.scan(one, (params, state, jnp.array(True)), steps)
            return carry[:2], path

        self._draw, self._loss_of = draw, loss_of
        self._advance = jax.jit(advance)
        self._slope = jax.jit(jax.value_and_grad(loss_of))
        self._loss_at = jax.jit(lambda params, arrays, step: loss_of(params, draw(arrays, step)))
        self._dt, self._steps_per_call = dt, steps_per_call

    def fingerprint(self, **settings: Any) -> dict[str, Any]:
        """Returns what must agree for a run to be the same run."""
        data = self.data
        return {
            "model": f"{type(self._combine(self.params)).__name__}: {', '.join(self.names)}",
            "start": self._start,
            "records": hash_arrays(data.inputs, data.outputs, data.lengths, data.weights),
            "window": data.window,
            "key": np.asarray(jax.random.key_data(self.key)).ravel().tolist(),
            "optimiser": self._describe_optimiser(),
            **settings,
        }

    def _describe_optimiser(self) -> str:
        # What it computes, constants included; the addresses of functions are chance.
        update = jax.make_jaxpr(
            lambda slope, state, params: self.optimiser.update(
                slope,
                state,
                params,
                value=jnp.zeros((), jax.tree.leaves(slope)[0].dtype),
                grad=slope,
                value_fn=lambda trial: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(trial)),
            )
        )(self.params, self.state, self.params)
        digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(update.jaxpr)).encode())
        for constant in update.consts:
            digest.update(np.asarray(constant).tobytes())
        return digest.hexdigest()

    @property
    def losses(self) -> np.ndarray:
        """The losses so far, before each step."""
        return self._losses[: self.step]

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns everything that a resumption needs."""
        found = {f"param.{i}": np.asarray(p) for i, p in enumerate(jax.tree.leaves(self.params))}
        for i, leaf in enumerate(jax.tree.leaves(self.state)):
            found[f"state.{i}"] = np.asarray(leaf)
        found["losses"] = self.losses
        return found

    def restore(self, step: int, tensors: dict[str, np.ndarray]) -> None:
        """Goes back to where `tensors` were written."""
        self._restart(
            *(
                [tensors[f"{name}.{i}"] for i in range(len(jax.tree.leaves(tree)))]
                for name, tree in (("param", self.params), ("state", self.state))
            )
        )
        self._losses, self.step = np.array(tensors["losses"]), step

    def _restart(self, params: list[Any], state: list[Any]) -> None:
        # A fresh and a resumed run must hand the compiler the same program, and so arrays of the
        # same shapes, types and places.
        old, structure = jax.tree.flatten((self.params, self.state))
        new = [
            jax.device_put(np.asarray(a, b.dtype).reshape(np.shape(b)), self._everywhere)
            for a, b in zip((*params, *state), old, strict=True)
        ]
        self.params, self.state = jax.tree.unflatten(structure, new)

    def advance(self, n_steps: int) -> Status | None:
        """Takes up to `steps_per_call` steps; returns a status if one of them failed."""
        first = self.step
        # The first loss sets the limit, and has to be known before the first call.
        start = float(self.losses[0]) if first else float(self._loss_at(self.params, self._arrays, 0))
        limit = _DIVERGED * max(start, 1.0) if math.isfinite(start) else math.inf
        moved, (losses, is_good) = self._advance(
            self.params, self.state, self._arrays, first, n_steps, limit
        )
        n_taken = min(self._steps_per_call, n_steps - first)
        losses, is_good = np.asarray(losses, np.float64)[:n_taken], np.asarray(is_good)[:n_taken]
        self.params, self.state = moved
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
        return self._explain(first + failed, float(losses[failed]), limit)

    def _explain(self, step: int, loss: float, limit: float) -> Status:
        """Says where the step after the last good one breaks."""
        batch = jax.jit(self._draw)(self._arrays, step)
        where = self._first_broken_layer(batch)
        if where is None:
            slope = self._slope(self.params, batch)[1]
            finite = {name: np.isfinite(np.asarray(leaf)).all() for name, leaf in slope.items()}
            broken = [name for name in self.names if not finite[name]]
            largest = max(self.names, key=lambda name: float(jnp.max(jnp.abs(slope[name]))))
            if broken:
                where = f"the gradient of {broken[0]}"
            elif loss > limit:
                where = f"{largest}, the weight of largest gradient"
            else:
                where = f"the update of {largest}"
        if math.isfinite(loss) and loss > limit:
            return Status("diverged", f"the loss reached {loss:.3g} at step {step}, in {where}")
        return Status("not_finite", f"at step {step}, in {where}")

    def _first_broken_layer(self, batch: Any) -> str | None:
        network = self._combine(self.params)
        signal = batch[0]
        if isinstance(network, models.Rescaled):
            signal = (signal - network.input_offset) / network.input_scale
            network = network.network
        layers = network.layers if isinstance(network, models.Stack) else (network,)
        for i, layer in enumerate(layers):
            signal = jax.vmap(lambda s, layer=layer: layer(s, dt=self._dt))(signal)
            broken = ~np.isfinite(np.asarray(signal)) & (np.asarray(batch[2]) > 0)[..., None]
            if broken.any():
                name = type(layer).__name__
                where = f" of layer {i} ({name})" if len(layers) > 1 else f" of the {name}"
                return f"the output{where} at sample {int(np.argmax(broken.any((0, 2))))}"
        return None

    def error(self) -> float:
        """Returns the loss over all records."""
        x, y, count = self._arrays
        if self.data.window:
            count = count * (jnp.arange(count.shape[1]) >= self.data.washout)
        return float(jax.jit(self._loss_of)(self.params, (x, y, count)))

    def model(self) -> Any:
        """Returns the model in the units of the data, its weights on the host."""
        network = jax.tree.map(
            lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf,
            self._combine(self.params),
        )
        return _rescale(network, 1 / self.data.input_scale, self.data.output_scale)

    def _combine(self, params: Any) -> Any:
        leaves = [
            jax.lax.complex(params[name][..., 0], params[name][..., 1])
            if is_complex
            else params[name]
            for name, is_complex in zip(self.names, self._is_complex, strict=True)
        ]
        return eqx.combine(jax.tree.unflatten(self._structure, leaves), self._static)


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


def _judge(losses: np.ndarray, n_remaining: int) -> PlateauVerdict:
    # A long curve is judged by means of neighbours: as good, and without end affordable.
    group = max(1, len(losses) // _LONG_CURVE)
    kept = losses[len(losses) % group :].reshape(-1, group).mean(1)
    return judge_plateau(kept, steps_per_loss=group, n_remaining=n_remaining)


def _trainable(model: Any) -> Any:
    """Returns which leaves are weights to train, in the model's own shape."""

    def is_trained(path: Any, leaf: Any) -> bool:
        if not eqx.is_inexact_array(leaf):
            return False
        here = model
        for entry in path:
            name = getattr(entry, "name", None)
            if name in _CONSTANTS.get(type(here), ()):
                return False
            if isinstance(here, models.DiagonalNonlinearRNN) and here.training == "fixed":
                return name != "C"
            here = getattr(here, name) if name is not None else here[entry.idx]
        return True

    return jax.tree_util.tree_map_with_path(is_trained, model)


def _as_jax(model: Any, real: np.dtype) -> Any:
    complex_type = np.result_type(real, np.complex64)

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, (np.ndarray, jax.Array)):
            kind = np.dtype(leaf.dtype).kind
            return jnp.asarray(np.asarray(leaf), {"f": real, "c": complex_type}.get(kind))
        return leaf

    return jax.tree.map(convert, model)


def _split(leaf: Any) -> Any:
    return jnp.stack([leaf.real, leaf.imag], axis=-1) if jnp.iscomplexobj(leaf) else leaf


def _rescale(model: Any, read_in: np.ndarray, read_out: np.ndarray) -> Any:
    """Returns the model `x -> read_out · model(read_in · x)`, by its own weights where it can."""
    if np.all(read_in == 1) and np.all(read_out == 1):
        return model
    if isinstance(model, models.Rescaled):
        changed = models.Rescaled(
            model.network,
            np.asarray(model.input_offset) / read_in,
            np.asarray(model.input_scale) / read_in,
            np.asarray(model.output_offset) * read_out,
            np.asarray(model.output_scale) * read_out,
        )
        is_plain = all(
            np.allclose(np.asarray(getattr(changed, name)), value, rtol=1e-14, atol=0.0)
            for name, value in (
                ("input_offset", 0.0),
                ("input_scale", 1.0),
                ("output_offset", 0.0),
                ("output_scale", 1.0),
            )
        )
        return changed.network if is_plain else changed
    folded = _fold(model, read_in, read_out)
    if folded is not None:
        return folded
    if isinstance(model, AbstractRecurrent):
        return models.Rescaled(model, None, 1 / read_in, None, read_out)
    raise wrong_type(
        "model",
        "a recurrent model, or one with linear read-in and read-out",
        f"a {type(model).__name__}",
        "scale the signals to unit mean square",
    )


def _fold(model: Any, read_in: np.ndarray, read_out: np.ndarray) -> Any | None:
    """Returns the rescaled model if read-in and read-out weights can take the scales."""
    if isinstance(model, models.Stack):
        first, last = model.layers[0], model.layers[-1]
        if len(model.layers) == 1:
            folded = [_fold(first, read_in, read_out)]
        else:
            first = _fold(first, read_in, np.ones(first.n_outputs))
            last = _fold(last, np.ones(last.n_inputs), read_out)
            folded = [first, *model.layers[1:-1], last]
        return None if any(layer is None for layer in folded) else models.Stack(folded)
    if isinstance(model, models.StateSpaceLayer):
        if model.is_residual:
            return None
        return eqx.tree_at(
            lambda m: (m.recurrence.B, m.skip, m.mix, m.bias),
            model,
            (
                model.recurrence.B * read_in,
                model.skip * read_in,
                model.mix * read_out[:, None],
                model.bias * read_out,
            ),
        )
    if type(model) not in _READ_IN_AND_OUT:
        return None
    names, last = _READ_IN_AND_OUT[type(model)]
    if getattr(model, last) is None:
        return None
    return eqx.tree_at(
        lambda m: (*(getattr(m, name) for name in names), getattr(m, last)),
        model,
        (
            *(getattr(model, name) * read_in for name in names),
            getattr(model, last) * read_out[:, None],
        ),
    )


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
