"""A model as a torch.nn.Module: the same outputs and the same gradients. Imported on demand."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from recollect._core._check import require_positive, wrong_type
from recollect.models import (
    _affine,
    _attention,
    _gated,
    _linear,
    _nonlinear,
    _reparam,
    _state_space,
)


def to_torch(model: Any, *, dt: float, dtype: Any = None) -> Any:
    """Returns a `torch.nn.Module` with the model's weights as parameters.

    It maps (..., time, in) to (..., time, out) for the given step. Continuous linear networks keep
    their continuous weights and are discretised, differentiably, at every call.

    Args:
        model: a model of `recollect.models`.
        dt: step of the signals it will see.
        dtype: torch type of the parameters; float64 if omitted.

    Returns:
        A module whose outputs and gradients are those of the model.

    Raises:
        ModuleNotFoundError: if torch is not installed.
        TypeError: if the model is not of `recollect.models`.
    """
    import torch

    dt = require_positive("dt", dt)
    dtype = torch.float64 if dtype is None else dtype
    forward = _FORWARD.get(type(model))
    if forward is None:
        raise wrong_type("model", "a model of recollect.models", type(model).__name__)
    return _module(torch, model, dt, dtype)


def _module(torch: Any, model: Any, dt: float, dtype: Any) -> Any:
    class Exported(torch.nn.Module):
        def __init__(self, node: Any):
            super().__init__()
            self.node = type(node).__name__
            self._source = node
            for name, value in vars(node).items():
                if isinstance(value, (np.ndarray, jax.Array)):
                    array = np.asarray(value)
                    wide = torch.from_numpy(array.copy())
                    kind = dtype.to_complex() if array.dtype.kind == "c" else dtype
                    self.register_parameter(name, torch.nn.Parameter(wide.to(kind)))
                elif type(value) in _FORWARD:
                    self.add_module(name, Exported(value))
                elif isinstance(value, tuple) and value and type(value[0]) in _FORWARD:
                    self.add_module(name, torch.nn.ModuleList([Exported(v) for v in value]))
                elif value is None:
                    setattr(self, name, None)

        def forward(self, signal: Any) -> Any:
            return _FORWARD[type(self._source)](torch, self, self._source, signal, dt)

    return Exported(model)


def _activate(torch: Any, name: str, z: Any) -> Any:
    functions = {
        "linear": lambda v: v,
        "tanh": torch.tanh,
        "hardtanh": lambda v: torch.clamp(v, -1.0, 1.0),
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "gelu": lambda v: torch.nn.functional.gelu(v, approximate="tanh"),
    }
    return functions[name](z)


def _rates(torch: Any, reparam: Any, v: Any) -> Any:
    if isinstance(reparam, _reparam.Direct):
        return v
    if isinstance(reparam, _reparam.Relu):
        return torch.relu(v)
    if isinstance(reparam, _reparam.Exponential):
        return torch.exp(v)
    if isinstance(reparam, _reparam.Softplus):
        return torch.nn.functional.softplus(v, threshold=1e9)
    if isinstance(reparam, _reparam.InverseSquare):
        return 1 / (reparam.scale * v * v + reparam.offset)
    if isinstance(reparam, _reparam.DiscreteDirect):
        return -torch.log(v) / reparam.dt
    if isinstance(reparam, _reparam.DiscreteInverseSquare):
        return -torch.log1p(-1 / (reparam.scale * v * v + reparam.offset)) / reparam.dt
    raise wrong_type("reparam", "a parameterisation of recollect.models", type(reparam).__name__)


def _hold(torch: Any, rule: Any, rates: Any, dt: Any) -> tuple[Any, Any]:
    if type(rule).__name__ == "Euler":
        return 1 - rates * dt, dt * torch.ones_like(rates)
    z = rates * dt
    is_small = abs(z) < 1e-5
    safe = torch.where(is_small, torch.ones_like(z), z)
    # torch has no complex expm1: e^z - 1 loses digits only where the series takes over.
    grown = -torch.expm1(-safe) if not safe.is_complex() else _expm1(torch, -safe) * -1
    return torch.exp(-z), dt * torch.where(is_small, 1 - z / 2 + z * z / 6, grown / safe)


def _expm1(torch: Any, z: Any) -> Any:
    growth, half = torch.expm1(z.real), torch.sin(z.imag / 2)
    real = growth * torch.cos(z.imag) - 2 * half * half
    return torch.complex(real, (growth + 1) * torch.sin(z.imag))


def _scan(torch: Any, step: Any, state: Any, signal: Any) -> Any:
    outputs = []
    for value in signal.unbind(-2):
        state = step(state, value)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs, dim=-2)


def _zero(torch: Any, like: Any, width: int) -> Any:
    return like.new_zeros((*like.shape[:-2], width))


def _linear_rnn(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    _linear.checked_step(source, dt)
    return _dense_states(torch, module, source, signal, dt) @ module.C.mT


def _dense_states(
    torch: Any, module: Any, source: Any, signal: Any, dt: float, start: Any = None
) -> Any:
    A, B = module.A, module.B
    if source.dt is None and type(source.discretisation).__name__ == "Euler":
        A, B = torch.eye(len(A), dtype=A.dtype) + dt * A, dt * B
    elif source.dt is None:
        m, n = B.shape
        block = torch.zeros((m + n, m + n), dtype=A.dtype)
        block = torch.cat([torch.cat([A, B], 1), block[m:]], 0)
        power = torch.linalg.matrix_exp(block * dt)
        A, B = power[:m, :m], power[:m, m:]
    drive = signal @ B.mT
    start = _zero(torch, drive, len(A)) if start is None else start
    return _scan(torch, lambda h, u: h @ A.mT + u, start, drive)


def _diagonal_rnn(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    _linear.checked_step(source, dt)
    rates = _rates(torch, source.reparam, module.weights)
    if module.frequencies is not None:
        rates = torch.complex(rates, module.frequencies)
    rule = source.discretisation if source.dt is None else None
    multipliers, gain = _hold(torch, rule, rates, dt)
    B = module.B
    if source.readin == "normalised":
        decay = rates.real if rates.is_complex() else rates
        B = (decay if source.dt is None else -torch.expm1(-decay * dt))[:, None] * B
    B = B if source.dt is not None else gain[:, None] * B
    kind = torch.promote_types(torch.promote_types(multipliers.dtype, B.dtype), signal.dtype)
    drive = signal.to(kind) @ B.to(kind).mT
    states = _scan(torch, lambda h, u: multipliers * h + u, _zero(torch, drive, len(B)), drive)
    kind = torch.promote_types(states.dtype, module.C.dtype)
    output = states.to(kind) @ module.C.to(kind).mT
    return output.real if output.is_complex() else output


def _affine_rnn(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    network = module.network
    start = module.start.expand((*signal.shape[:-2], -1))
    shifted = signal - module.input_offset
    states = _dense_states(torch, network, source.network, shifted, dt, start)
    return module.output_offset + states @ network.C.mT


def _dense_rnn(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    drive = signal @ module.U.mT + module.bias
    is_residual = isinstance(source, _nonlinear.ResidualRNN)

    def step(h: Any, u: Any) -> Any:
        new = _activate(torch, source.activation, h @ module.W.mT + u)
        return h + dt * new if is_residual else new

    return _scan(torch, step, _zero(torch, drive, len(module.W)), drive) @ module.C.mT


def _diagonal_nonlinear(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    drive = signal @ module.U.mT
    states = _scan(
        torch,
        lambda h, u: _activate(torch, source.activation, module.weights * h + u),
        _zero(torch, drive, len(module.weights)),
        drive,
    )
    C = module.C if source.training == "trained" else module.C.detach()
    return source.scale * (states @ C.mT)


def _gru(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    m = source.width
    drive = signal @ module.input_weights.mT + module.input_bias

    def step(h: Any, u: Any) -> Any:
        inner = h @ module.state_weights.mT + module.state_bias
        reset = torch.sigmoid(u[..., :m] + inner[..., :m])
        keep = torch.sigmoid(u[..., m : 2 * m] + inner[..., m : 2 * m])
        candidate = torch.tanh(u[..., 2 * m :] + reset * inner[..., 2 * m :])
        return (1 - keep) * candidate + keep * h

    states = _scan(torch, step, _zero(torch, drive, m), drive)
    return states if module.C is None else states @ module.C.mT


def _lstm(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    m = source.width
    drive = signal @ module.input_weights.mT + module.input_bias

    def step(state: Any, u: Any) -> Any:
        z = u + state[0] @ module.state_weights.mT + module.state_bias
        take, keep, new, out = z.split(m, dim=-1)
        cell = torch.sigmoid(keep) * state[1] + torch.sigmoid(take) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(cell), cell

    zero = _zero(torch, drive, m)
    states = _scan(torch, step, (zero, zero), drive)
    return states if module.C is None else states @ module.C.mT


def _selective(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    pace = signal @ module.selection.mT + module.selection_bias
    pace = dt * torch.nn.functional.softplus(pace, threshold=1e9)
    rates = _rates(torch, source.reparam, module.weights)
    multipliers, gain = _hold(torch, None, rates * pace, 1.0)
    drive = pace * gain * (signal @ module.B.mT)
    state, states = _zero(torch, drive, len(rates)), []
    for a, u in zip(multipliers.unbind(-2), drive.unbind(-2), strict=True):
        state = a * state + u
        states.append(state)
    return torch.stack(states, dim=-2) @ module.C.mT


def _layer(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    feature = module.recurrence(signal) + signal @ module.skip.mT
    output = _activate(torch, source.activation, feature) @ module.mix.mT + module.bias
    return output + signal if source.is_residual else output


def _stack(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    for layer in module.layers:
        signal = layer(signal)
    return signal


def _attention_forward(torch: Any, module: Any, source: Any, signal: Any, dt: float) -> Any:
    n_time = signal.shape[-2]
    before = 0 if source.window is None else source.window - 1
    padded = torch.nn.functional.pad(signal, (0, 0, before, 0))
    n_heads = len(module.slopes)

    def heads(weights: Any, rows: Any) -> Any:
        return (rows @ weights.mT).unflatten(-1, (n_heads, -1)).transpose(-2, -3)

    query, key, value = (
        heads(module.query, signal),
        heads(module.key, padded),
        heads(module.value, padded),
    )
    lag = (torch.arange(n_time)[:, None] + before) - torch.arange(n_time + before)[None, :]
    scores = query @ key.mT / math.sqrt(query.shape[-1]) - module.slopes[:, None, None] * lag
    seen = (lag >= 0) if source.window is None else (lag >= 0) & (lag <= before)
    weights = torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1)
    return (weights @ value).transpose(-2, -3).flatten(-2) @ module.C.mT


_FORWARD = {
    _linear.LinearRNN: _linear_rnn,
    _linear.DiagonalRNN: _diagonal_rnn,
    _affine.AffineRNN: _affine_rnn,
    _nonlinear.ResidualRNN: _dense_rnn,
    _nonlinear.ElmanRNN: _dense_rnn,
    _nonlinear.DiagonalNonlinearRNN: _diagonal_nonlinear,
    _gated.GRU: _gru,
    _gated.LSTM: _lstm,
    _gated.SelectiveRNN: _selective,
    _state_space.StateSpaceLayer: _layer,
    _state_space.Stack: _stack,
    _attention.CausalAttention: _attention_forward,
}
