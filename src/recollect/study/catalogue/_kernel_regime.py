"""What the entries on paper C share: one trained network of a random target of the class."""

from __future__ import annotations

from typing import Any

import numpy as np

N_INPUTS = 4


def sample_case(
    width: int, n_samples: int, horizon: int, alpha: float, nu: float, seed: int
) -> tuple[Any, Any, Any]:
    """Returns a paired network, sequences and the values of a random target on them.

    The target and the sequences depend on the seed only, not on the width.
    """
    from recollect import convergence

    target = convergence.draw_transport_target(N_INPUTS, nu_w=nu, nu_u=nu, alpha=alpha, seed=seed)
    signals = convergence.draw_sequences(n_samples, horizon, N_INPUTS, seed=seed)
    values, _ = target(signals, n_points=512, n_replicates=2)
    network = convergence.initialise_paired(width, N_INPUTS, alpha=alpha, seed=seed)
    return network, signals, values


def slope(x: Any, y: Any) -> float:
    """Returns the slope of log y against log x."""
    return float(np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)[0])


def typical(results: Any, *keep: str) -> Any:
    """Returns the geometric mean over everything but `keep`."""
    others = [dim for dim in results.dims if dim not in keep]
    return np.exp(np.log(results).mean(others))
