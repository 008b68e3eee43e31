"""Asking a functional: many probes at once, compiled where it can be, one by one where not."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_signal,
    wrong_type,
)
from recollect._core._functional import AbstractFunctional, AbstractRecurrent, as_functional
from recollect._core._precision import in_float64
from recollect._core._signals import impulse_signal, reversed_signal, step_signal
from recollect._core._types import Output, Signal
from recollect.models import CausalAttention, DiagonalRNN, LinearRNN, rediscretise

PROBES = ("step", "impulse", "reversed")

_LARGEST_CHUNK = 2**24
_FEWEST, _SHORT = 32, 1024
# Weights of a torch module below which one thread is faster.
_FEW_WEIGHTS = 1_000_000
# From here on the states of all samples are worth not keeping.
_LONG = 4096


class _TorchBox(AbstractFunctional):
    function: Callable[[Any], Any] = eqx.field(static=True)
    is_batch_first: bool = eqx.field(static=True)
    is_double: bool = eqx.field(static=True)
    is_small: bool = eqx.field(static=True)
    n_inputs: int = eqx.field(static=True)
    n_outputs: int = eqx.field(static=True)

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        require_signal("signal", signal, n_inputs=self.n_inputs)
        return self.respond(np.array(signal, dtype=np.float64)[None])[0]

    def respond(self, signals: np.ndarray) -> np.ndarray:
        """Returns the outputs, shape (probe, time, out), of many signals in one call."""
        import torch

        with torch.no_grad(), _one_torch_thread() if self.is_small else contextlib.nullcontext():
            values = torch.from_numpy(np.ascontiguousarray(signals))
            values = values if self.is_double else values.float()
            output = self.function(values if self.is_batch_first else values.transpose(0, 1))
            output = _first(output)
            output = output if self.is_batch_first else output.transpose(0, 1)
            array = output.double().cpu().numpy()
        if array.ndim == 2 and array.shape == signals.shape[:2]:
            array = array[:, :, None]
        expected = (*signals.shape[:2], self.n_outputs)
        if array.shape != expected:
            raise invalid(
                "function",
                f"an output of shape (batch, time, out) = {expected}",
                f"shape {array.shape}",
                "return the output at every step, not only the last; check n_outputs, batch_first",
            )
        return array


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    # Threads that share the cores with other programs wait for each other at every sample of a
    # small recurrence (measured: 113 s instead of 0.9 s); the program's setting comes back after.
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def from_torch(
    function: Any,
    *,
    n_inputs: int,
    n_outputs: int | None = None,
    batch_first: bool | None = None,
    precision: str = "float64",
) -> AbstractFunctional:
    """Returns a `torch.nn.Module` as a functional that is asked in batches, without gradients.

    A module is copied, put in evaluation mode and turned to `precision`: in 32 bits a memory is
    lost in rounding below 1e-7. Of a tuple (as recurrent layers return) the first entry counts.

    Args:
        function: a module, or a function of one tensor (batch, time, in) (to give a transformer
            layer its causal mask, say).
        n_inputs: number of input channels.
        n_outputs: number of output channels; found by asking if omitted.
        batch_first: whether the batch is the first axis. If omitted, what the module or a layer in
            it says, else True.
        precision: "float64" or "float32", of the tensors and of a module's weights.

    Returns:
        A functional evaluated on the host; it must start from the same state at every call.

    Raises:
        TypeError: if `function` is not callable.
        ValueError: if its output is not (batch, time, out).
    """
    import torch

    require_choice("precision", precision, ("float64", "float32"))
    n_inputs = require_count("n_inputs", n_inputs)
    if not callable(function):
        raise wrong_type("function", "a torch module or function", type(function).__name__)
    is_double, is_small = precision == "float64", False
    if isinstance(function, torch.nn.Module):
        function = copy.deepcopy(function).eval()
        function = function.double() if is_double else function.float()
        is_small = sum(weight.numel() for weight in function.parameters()) < _FEW_WEIGHTS
        if batch_first is None:
            said = [m.batch_first for m in function.modules() if hasattr(m, "batch_first")]
            batch_first = bool(said[0]) if said else True
    batch_first = True if batch_first is None else bool(batch_first)
    if n_outputs is None:
        zeros = torch.zeros(1, 2, n_inputs, dtype=torch.float64 if is_double else torch.float32)
        with torch.no_grad():
            try:
                output = function(zeros if batch_first else zeros.transpose(0, 1))
            except (RuntimeError, TypeError, ValueError) as error:
                raise invalid(
                    "function",
                    f"a function of a signal (batch, time, in) = {tuple(zeros.shape)}",
                    f"{type(error).__name__}: {' '.join(str(error).split())[:160]}",
                    "check n_inputs and batch_first; of a model of tokens, give what comes after "
                    "the embedding",
                ) from None
        shape = np.shape(_first(output))
        n_outputs = shape[-1] if len(shape) == 3 else 1
    return _TorchBox(
        function=function,
        is_batch_first=batch_first,
        is_double=is_double,
        is_small=is_small,
        n_inputs=n_inputs,
        n_outputs=require_count("n_outputs", n_outputs),
    )


def _first(output: Any) -> Any:
    while isinstance(output, (tuple, list)):
        output = output[0]
    return output


def require_functional(functional: Any) -> AbstractFunctional:
    """Returns what can be asked: a functional as it is, a callable of one input wrapped."""
    if isinstance(functional, AbstractFunctional):
        return functional
    if not callable(functional):
        raise wrong_type("functional", "a functional or a callable", type(functional).__name__)
    if type(functional).__module__.split(".")[0] == "torch" or hasattr(functional, "state_dict"):
        raise wrong_type(
            "functional",
            "a functional or a NumPy callable",
            f"a torch module {type(functional).__name__}",
            "wrap it with memory.from_torch(module, n_inputs=...)",
        )
    probe: Any = functional
    shape = np.shape(probe(np.zeros((2, 1))))
    return as_functional(functional, n_outputs=shape[1] if len(shape) == 2 else 1)


def probe_signal(
    probe: str, n_lags: int, direction: np.ndarray, *, n_settle: int = 0, n_before: int = 0
) -> np.ndarray:
    """Returns a probe after `n_settle` samples of silence, shape (time, in).

    "step": the direction held from lag 0; "impulse": held for one step; "reversed": held for
    `n_before` samples up to lag 0 and nothing after.
    """
    if probe == "step":
        signal = step_signal(n_lags, direction)
    elif probe == "impulse":
        signal = impulse_signal(n_lags, direction)
    else:
        signal = (
            reversed_signal(n_lags - 1, n_before, direction)
            if n_lags > 1
            else step_signal(n_before, direction)
        )
    return np.concatenate([np.zeros((n_settle, signal.shape[1])), signal])


def is_traceable(functional: AbstractFunctional, *, dt: float) -> bool:
    """Says whether JAX can trace a functional, that is compile it and differentiate it."""
    signal = jax.ShapeDtypeStruct((3, functional.n_inputs), np.float32)
    try:
        jax.eval_shape(lambda s: functional(s, dt=dt), signal)
    except Exception:  # whatever a host-only functional raises when it meets a tracer
        return False
    return True


def responses(
    functional: AbstractFunctional, signals: Any, *, dt: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (which probes, their outputs (probe, time, out)), in chunks that fit in memory.

    Args:
        functional: what is asked.
        signals: shape (probe, time, in).
        dt: step.
    """
    signals = np.asarray(signals, dtype=np.float64)
    n_probes = len(signals)
    batched = getattr(functional, "respond", None)
    compiled = batched is None and is_traceable(functional, dt=dt)
    if compiled:
        functional = stepped(functional, signals.shape[1], dt=dt)
    size = chunk_size(functional, signals.shape[1])
    if batched is None and not compiled:
        for place, signal in enumerate(signals):
            output = np.asarray(functional(signal, dt=dt), dtype=np.float64)
            yield slice(place, place + 1), output[None]
        return
    if compiled:
        # Few batch sizes, so that one compiled program serves many calls: compiling costs more
        # than a few short probes too many.
        size = min(size, max(_FEWEST if signals.shape[1] <= _SHORT else 1, _power_of_two(n_probes)))
    for start in range(0, n_probes, size):
        chunk = signals[start : start + size]
        n_asked = len(chunk)
        if compiled:
            chunk = np.concatenate([chunk, np.repeat(chunk[-1:], size - n_asked, axis=0)])
            outputs = in_float64(_respond)(functional, chunk, dt)[:n_asked]
        elif batched is not None:
            outputs = np.asarray(batched(chunk), dtype=np.float64)
        else:
            continue
        yield slice(start, start + n_asked), outputs


def stepped(functional: AbstractFunctional, n_time: int, *, dt: float) -> AbstractFunctional:
    """Returns a functional with its linear parts discretised, if it will run sample by sample."""
    if n_time <= _LONG or not isinstance(functional, AbstractRecurrent):
        return functional

    def is_linear(node: Any) -> bool:
        return isinstance(node, (LinearRNN, DiagonalRNN))

    def discrete(node: Any) -> Any:
        if not is_linear(node) or node.dt is not None:
            return node
        try:
            return rediscretise(node, dt)
        except ValueError:  # a step too long for its own rule: discretised at every sample
            return node

    return jax.tree.map(discrete, functional, is_leaf=is_linear)


def run(functional: Any, signal: Any, *, dt: float) -> Any:
    """Returns the output of a traced functional; a long recurrence keeps no states but the last."""
    if len(signal) <= _LONG or not isinstance(functional, AbstractRecurrent):
        return functional(signal, dt=dt)
    functional = jax.tree.map(jnp.asarray, functional)

    def body(state: Any, value: Any) -> Any:
        state = functional.step(state, value, dt=dt)
        return state, functional.readout(state)

    return jax.lax.scan(body, functional.initial_state(), signal)[1]


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def ask(functional: AbstractFunctional, signals: Any, *, dt: float) -> np.ndarray:
    """Returns the outputs of many signals of one length, shape (probe, time, out)."""
    return np.concatenate([outputs for _, outputs in responses(functional, signals, dt=dt)])


def chunk_size(functional: AbstractFunctional, n_time: int) -> int:
    """Returns how many probes are asked at once."""
    numbers = max(functional.n_inputs, functional.n_outputs)
    if isinstance(functional, AbstractRecurrent) and n_time <= _LONG:
        leaves = jax.tree.leaves(functional.initial_state())
        numbers = max(numbers, sum(np.size(leaf) for leaf in leaves))
    if isinstance(functional, CausalAttention) and functional.window is None:
        numbers = max(numbers, n_time)
    return max(1, _LARGEST_CHUNK // (n_time * max(1, numbers)))


@eqx.filter_jit
def _respond(functional: Any, signals: Any, dt: Any) -> Any:
    return jax.vmap(lambda signal: run(functional, signal, dt=dt))(signals)
