"""What remembers: recurrent and state-space models, their parameterisations and their files."""

from __future__ import annotations

from recollect.models._affine import AffineRNN
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
from recollect.models._record import load, save
from recollect.models._recurrence import linear_dense_states, linear_diagonal_states
from recollect.models._reparam import (
    Direct,
    DiscreteDirect,
    DiscreteInverseSquare,
    Exponential,
    InverseSquare,
    Relu,
    Softplus,
)

__all__ = [
    "AffineRNN",
    "DiagonalRNN",
    "Direct",
    "DiscreteDirect",
    "DiscreteInverseSquare",
    "Exponential",
    "InverseSquare",
    "LinearRNN",
    "Relu",
    "Softplus",
    "StabilityMargin",
    "linear_dense_states",
    "linear_diagonal_states",
    "load",
    "rediscretise",
    "reparameterise",
    "save",
    "stability_margin",
    "to_dense",
    "to_diagonal",
]
