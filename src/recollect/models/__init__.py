"""What remembers: recurrent and state-space models, their parameterisations and their files."""

from __future__ import annotations

from recollect.models._activation import activate
from recollect.models._affine import AffineRNN
from recollect.models._attention import CausalAttention
from recollect.models._gated import GRU, LSTM, SelectiveRNN
from recollect.models._initialise import (
    initialise_elman,
    initialise_from_timescales,
    initialise_gru,
    initialise_lru_ring,
    initialise_lstm,
    initialise_residual,
    initialise_s4d_lin,
    initialise_symmetric,
)
from recollect.models._linear import (
    DiagonalRNN,
    LinearRNN,
    StabilityMargin,
    rediscretise,
    reparameterise,
    stability_margin,
    to_dense,
    to_diagonal,
)
from recollect.models._nonlinear import DiagonalNonlinearRNN, ElmanRNN, ResidualRNN
from recollect.models._record import load, read_unit, save
from recollect.models._recurrence import (
    choose_form,
    linear_dense_states,
    linear_diagonal_states,
    nonlinear_dense_states,
    nonlinear_diagonal_states,
    recur_checkpointed,
)
from recollect.models._reparam import (
    Direct,
    DiscreteDirect,
    DiscreteInverseSquare,
    Exponential,
    InverseSquare,
    Relu,
    Softplus,
)
from recollect.models._rescaled import Rescaled, fold_scales
from recollect.models._state_network import StateNetwork
from recollect.models._state_space import Stack, StateSpaceLayer
from recollect.models._stream import evaluate_checkpointed, stream
from recollect.models._torch import to_torch

__all__ = [
    "AffineRNN",
    "CausalAttention",
    "DiagonalNonlinearRNN",
    "DiagonalRNN",
    "Direct",
    "DiscreteDirect",
    "DiscreteInverseSquare",
    "ElmanRNN",
    "Exponential",
    "GRU",
    "InverseSquare",
    "LSTM",
    "LinearRNN",
    "Relu",
    "Rescaled",
    "ResidualRNN",
    "SelectiveRNN",
    "Softplus",
    "StabilityMargin",
    "Stack",
    "StateNetwork",
    "StateSpaceLayer",
    "activate",
    "choose_form",
    "evaluate_checkpointed",
    "fold_scales",
    "initialise_elman",
    "initialise_from_timescales",
    "initialise_gru",
    "initialise_lru_ring",
    "initialise_lstm",
    "initialise_residual",
    "initialise_s4d_lin",
    "initialise_symmetric",
    "linear_dense_states",
    "linear_diagonal_states",
    "load",
    "nonlinear_dense_states",
    "nonlinear_diagonal_states",
    "recur_checkpointed",
    "read_unit",
    "rediscretise",
    "reparameterise",
    "save",
    "stability_margin",
    "stream",
    "to_dense",
    "to_diagonal",
    "to_torch",
]
