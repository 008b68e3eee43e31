"""One trainer for every model: what it learned, how, and whether to go on."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
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
from recollect._core._functional import AbstractFunctional
from recollect._core._precision import is_top_level
from recollect._core._status import Status
from recollect.training._checkpoint import hash_arrays, read_checkpoint, write_checkpoint
from recollect.training._plateau import PlateauVerdict, judge_plateau

_OPTIMISERS = ("adam", "momentum", "gradient_descent")
_PRECISIONS = ("float64", "float32")
_UNITS = ("normalised", "data")
_DIVERGED = 1e6
_READ_IN_AND_OUT = {
    models.LinearRNN: ("B", "C"),
    models.DiagonalRNN: ("B", "C"),
    models.ResidualRNN: ("U", "C"),
    models.ElmanRNN: ("U", "C"),
    models.GRU: ("input_weights", "C"),
    models.LSTM: ("input_weights", "C"),
}


@dataclasses.dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands, as the callback sees it after each compiled call.

    Attributes:
        step: steps taken.
        loss: of the last step, mean square error in units of the outputs' mean square.
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
            last finite one), `not_converged` if the plateau detector stopped it.
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

    Args:
        model: where to start; every floating-point weight is trained.
        inputs: shape (time, in) or (record, time, in), or a list of records of any lengths.
        outputs: the same with out channels.
        key: a JAX random key or an integer seed; the batch of a step depends on key and step only.
        dt: sampling step, in the unit of time.
        n_steps: optimiser steps, those before a resumption included.
        optimiser: `"adam"`, `"momentum"`, `"gradient_descent"`, or an optax transformation (which
            brings its own learning rate).
        learning_rate: a number or an optax schedule.
        n_batch: records (or windows) drawn per step; all records if omitted.
        window: train on stretches of that many samples, drawn from the records.
        washout: first samples of each record or window that do not count.
        weights: of the samples of a record or window, shape (time,); one if omitted.
        units: `"normalised"`: the given model acts on signals of unit mean square, and the one
            returned is rescaled to the data, so that scaling the data changes nothing else.
            `"data"`: the given model is in the units of the data already.
        precision: `"float64"` or `"float32"`.
        steps_per_call: steps per compiled call; callback, checkpoint and plateau detector run
            between calls.
        is_patient: False stops the run when the plateau detector says stop.
        target_error: stop when the loss of a call's last step is below this.
        callback: called with a `TrainingProgress`; a true answer stops the run.
        is_verbose: write a line of progress to the standard error stream.
        checkpoint: directory to write to and, if it holds this run, to resume from.
        devices: JAX devices (or their number) over which the records of a batch are spread.

    Raises:
        ValueError: if records, shapes, counts or a choice cannot be used, if a record has one
            sample, if all outputs are zero, or if the checkpoint belongs to another run.
        TypeError: if the model is no functional, or its read-in and read-out cannot be rescaled.
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
    seconds = time.monotonic()
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
        directory = None if checkpoint is None else pathlib.Path(checkpoint)
        fingerprint = run.fingerprint(
            dt=dt,
            optimiser=optimiser if isinstance(optimiser, str) else "optax",
            learning_rate=learning_rate if isinstance(learning_rate, float) else "schedule",
            n_batch=n_batch,
            units=units,
            precision=precision,
            steps_per_call=steps_per_call,
        )
        resumed_at = 0
        if directory is not None:
            found = read_checkpoint(directory, fingerprint)
            if found is not None:
                resumed_at = run.restore(*found)
        status = Status()
        plateau = judge_plateau(run.losses)
        while run.step < n_steps:
            failure = run.advance(n_steps)
            if failure is not None:
                status = failure
                break
            if directory is not None:
                write_checkpoint(directory, run.step, run.tensors(), fingerprint)
            plateau = judge_plateau(run.losses, n_remaining=n_steps - run.step)
            elapsed = time.monotonic() - seconds
            if is_verbose:
                _show(run, n_steps, plateau, elapsed)
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
                if callback(progress):
                    break
            if run.losses[-1] <= target_error:
                break
            if not is_patient and plateau.verdict == "stop":
                status = Status("not_converged", f"stopped at step {run.step}: {plateau.kind}")
                break
        if is_verbose:
            print(file=sys.stderr)
        return TrainedModel(
            model=run.model(),
            losses=run.losses,
            error=run.error(),
            plateau=plateau,
            status=status,
            stats={
                "n_steps": run.step,
                "resumed_at": resumed_at,
                "seconds": time.monotonic() - seconds,
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

    if hasattr(optimiser, "init") and hasattr(optimiser, "update"):
        return optimiser
    require_choice("optimiser", optimiser, _OPTIMISERS)
    if not callable(learning_rate):
        learning_rate = require_positive("learning_rate", learning_rate)
    return {
        "adam": lambda: optax.adam(learning_rate),
        "momentum": lambda: optax.sgd(learning_rate, momentum=0.9),
        "gradient_descent": lambda: optax.sgd(learning_rate),
    }[optimiser]()


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
        weights, self._static = eqx.partition(_as_jax(model, real), eqx.is_inexact_array)
        named, self._structure = jax.tree_util.tree_flatten_with_path(weights)
        if not named:
            raise invalid("model", "at least one weight to train", "none")
        self.names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in named]
        self._is_complex = [jnp.iscomplexobj(leaf) for _, leaf in named]
        self.params = [_split(leaf) for _, leaf in named]
        self.state = optimiser.init(self.params)
        self.step, self.losses = 0, np.zeros(0)
        self._start = hash_arrays(*(np.asarray(p) for p in self.params))
        xs, ys = data.inputs / data.input_scale, data.outputs / data.output_scale
        counts = data.counts if data.window else data.counts * data.weights
        arrays = [xs, ys, counts]
        sharding = None
        replicated = SingleDeviceSharding(devices[0] if devices else jax.devices()[0])
        if devices and len(devices) > 1:
            mesh = Mesh(np.array(devices), ("record",))
            sharding = NamedSharding(mesh, PartitionSpec("record"))
            replicated = NamedSharding(mesh, PartitionSpec())
            if n_batch is not None and n_batch % len(devices):
                raise invalid("n_batch", f"a multiple of the {len(devices)} devices", n_batch)
            if n_batch is None and data.window is None:
                extra = -len(xs) % len(devices)  # empty records with no weight
                arrays = [np.pad(a, [(0, extra)] + [(0, 0)] * (a.ndim - 1)) for a in arrays]
        full = sharding if sharding and n_batch is None and data.window is None else replicated
        self._arrays = tuple(jax.device_put(a.astype(real), full) for a in arrays)
        self._place = lambda leaf, kind: jax.device_put(np.asarray(leaf, kind), replicated)
        self._restart([np.asarray(p) for p in self.params], jax.tree.leaves(self.state))
        lengths, weights_row = jnp.asarray(data.lengths), jnp.asarray(data.weights, real)
        n_records, window = len(data.inputs), data.window
        is_full = n_batch is None and window is None

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
            def one(carry: Any, step: Any) -> Any:
                params, state, is_running = carry
                loss, slope = jax.value_and_grad(loss_of)(params, draw(arrays, step))
                update, new_state = optimiser.update(slope, state, params)
                new = [p + u for p, u in zip(params, update, strict=True)]
                is_finite = jnp.isfinite(loss)
                for leaf in (*slope, *new):
                    is_finite &= jnp.all(jnp.isfinite(leaf))
                is_active = is_running & (step < last)
                is_good = is_finite & (loss <= limit)
                accept = is_active & is_good
                keep = lambda a, b: jnp.where(accept, a, b)  # noqa: E731
                params = jax.tree.map(keep, new, params)
                state = jax.tree.map(keep, new_state, state)
                return (params, state, is_running & (is_good | ~is_active)), (loss, is_good)

            steps = first + jnp.arange(steps_per_call)
            carry, path = jax.lax.scan(one, (params, state, jnp.array(True)), steps)
            return carry[:2], path

        self._draw, self._loss_of = draw, loss_of
        self._advance = jax.jit(advance)
        self._slope = jax.jit(jax.value_and_grad(loss_of))
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
            "state": str(jax.tree.structure(self.state)),
            **settings,
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns everything that a resumption needs."""
        found = {f"param.{i}": np.asarray(p) for i, p in enumerate(self.params)}
        for i, leaf in enumerate(jax.tree.leaves(self.state)):
            found[f"state.{i}"] = np.asarray(leaf)
        found["losses"] = self.losses
        return found

    def restore(self, step: int, tensors: dict[str, np.ndarray]) -> int:
        """Goes back to where `tensors` were written; returns the step."""
        self._restart(
            [tensors[f"param.{i}"] for i in range(len(self.params))],
            [tensors[f"state.{i}"] for i in range(len(jax.tree.leaves(self.state)))],
        )
        self.losses, self.step = np.array(tensors["losses"]), step
        return step

    def _restart(self, params: list[Any], state: list[Any]) -> None:
        # A fresh and a resumed run must hand the compiler the same program, and so arrays of the
        # same shapes, types and places.
        old, structure = jax.tree.flatten((self.params, self.state))
        new = [np.asarray(leaf) for leaf in (*params, *state)]
        assert [np.shape(a) for a in new] == [np.shape(a) for a in old]
        placed = [self._place(a, b.dtype) for a, b in zip(new, old, strict=True)]
        self.params, self.state = jax.tree.unflatten(structure, placed)

    def advance(self, n_steps: int) -> Status | None:
        """Takes up to `steps_per_call` steps; returns a status if one of them failed."""
        first = self.step
        limit = _DIVERGED * max(float(self.losses[0]), 1.0) if len(self.losses) else math.inf
        if not len(self.losses):
            # The first loss sets the limit, and has to be known before the first call.
            start = float(self._slope(self.params, self._draw(self._arrays, 0))[0])
            limit = _DIVERGED * max(start, 1.0)
        moved, (losses, is_good) = self._advance(
            self.params, self.state, self._arrays, first, n_steps, limit
        )
        n_taken = min(self._steps_per_call, n_steps - first)
        losses, is_good = np.asarray(losses, np.float64)[:n_taken], np.asarray(is_good)[:n_taken]
        self.params, self.state = moved
        failed = int(np.argmin(is_good)) if not is_good.all() else None
        n_good = n_taken if failed is None else failed
        self.losses = np.concatenate([self.losses, losses[:n_good]])
        self.step = first + n_good
        if failed is None:
            return None
        return self._explain(first + failed, float(losses[failed]))

    def _explain(self, step: int, loss: float) -> Status:
        """Says where the step after the last good one breaks."""
        batch = self._draw(self._arrays, step)
        where = self._first_broken_layer(batch)
        if where is None:
            slope = self._slope(self.params, batch)[1]
            broken = [
                name
                for name, leaf in zip(self.names, slope, strict=True)
                if not np.isfinite(np.asarray(leaf)).all()
            ]
            if broken:
                where = f"the gradient of {broken[0]}"
            else:
                sizes = [float(jnp.max(jnp.abs(leaf))) for leaf in slope]
                where = f"{self.names[int(np.argmax(sizes))]}, the weight of largest gradient"
        if math.isfinite(loss):
            return Status("diverged", f"the loss reached {loss:.3g} at step {step}, in {where}")
        return Status("not_finite", f"at step {step}, in {where}")

    def _first_broken_layer(self, batch: Any) -> str | None:
        network = self._combine(self.params)
        layers = network.layers if isinstance(network, models.Stack) else (network,)
        signal = batch[0]
        for i, layer in enumerate(layers):
            signal = jax.vmap(lambda s, layer=layer: layer(s, dt=self._dt))(signal)
            if not np.isfinite(np.asarray(signal)).all():
                name = type(layer).__name__
                return f"the output of layer {i} ({name})" if len(layers) > 1 else f"its {name}"
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
            jax.lax.complex(p[..., 0], p[..., 1]) if is_complex else p
            for p, is_complex in zip(params, self._is_complex, strict=True)
        ]
        return eqx.combine(jax.tree.unflatten(self._structure, leaves), self._static)


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
    """Returns the model `x -> read_out · model(read_in · x)`, by its own weights."""
    if isinstance(model, models.Stack):
        n_middle = np.ones(model.layers[0].n_outputs)
        if len(model.layers) == 1:
            return models.Stack([_rescale(model.layers[0], read_in, read_out)])
        first = _rescale(model.layers[0], read_in, n_middle)
        last = _rescale(model.layers[-1], np.ones(model.layers[-1].n_inputs), read_out)
        return models.Stack([first, *model.layers[1:-1], last])
    if np.all(read_in == 1) and np.all(read_out == 1):
        return model
    if isinstance(model, models.StateSpaceLayer) and not model.is_residual:
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
    names = _READ_IN_AND_OUT.get(type(model))
    if names is not None and getattr(model, names[1]) is not None:
        return eqx.tree_at(
            lambda m: tuple(getattr(m, name) for name in names),
            model,
            (getattr(model, names[0]) * read_in, getattr(model, names[1]) * read_out[:, None]),
        )
    raise wrong_type(
        "model",
        "linear read-in and read-out weights",
        f"a {type(model).__name__} without them",
        "scale the signals to unit mean square, or put a linear layer before and after",
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


def _show(run: _Run, n_steps: int, plateau: PlateauVerdict, elapsed: float) -> None:
    text = f"\r{run.step}/{n_steps} steps  loss {run.losses[-1]:.4g}  {elapsed:.0f} s"
    if plateau.kind not in ("progress", "early"):
        text += f"  {plateau.kind}: {plateau.verdict}"
        if math.isfinite(plateau.remaining_steps) and plateau.remaining_steps > 0:
            text += f", about {plateau.remaining_steps:.3g} steps"
    print(f"{text:<78}", end="", file=sys.stderr, flush=True)
