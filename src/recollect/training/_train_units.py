"""Models in the units of the data, and which of their numbers are weights."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from recollect import models
from recollect._core._check import wrong_type
from recollect._core._functional import AbstractRecurrent

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


def mark_trained(model: Any) -> Any:
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


def rescale(model: Any, read_in: np.ndarray, read_out: np.ndarray) -> Any:
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
