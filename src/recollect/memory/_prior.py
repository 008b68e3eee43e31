"""The Gaussian-process prior on a memory kernel: a mixture that presupposes no single rate."""

from __future__ import annotations

import numpy as np

from recollect._core._references import references


@references("chen2012estimation")
def tuned_correlated(lags: np.ndarray, rate: float) -> np.ndarray:
    """Returns the first-order stable-spline covariance `e^{-rate max(s,t)}` at `lags`."""
    return np.exp(-rate * np.maximum.outer(lags, lags))


@references("chen2012estimation")
def stable_spline(lags: np.ndarray, rate: float) -> np.ndarray:
    """Returns the second-order stable-spline covariance at `lags`, with unit variance at lag 0.

    An integrated Wiener process in the warped time `e^{-rate t}`.
    """
    early = np.exp(-rate * np.minimum.outer(lags, lags))
    late = np.exp(-rate * np.maximum.outer(lags, lags))
    return 1.5 * early * late**2 - 0.5 * late**3


def windowed(lags: np.ndarray, centre: float, spread: float, correlation: float) -> np.ndarray:
    """Returns the covariance of a process that lives around the lag `centre` only.

    A Gaussian window in log lag of relative width `spread`, times a Matern-3/2 correlation of
    length `correlation`: this is what sees a delay.
    """
    window = np.exp(-0.5 * (np.log(np.maximum(lags, 1e-300) / centre) / spread) ** 2)
    distance = np.sqrt(3) * np.abs(np.subtract.outer(lags, lags)) / correlation
    return np.outer(window, window) * (1 + distance) * np.exp(-distance)


def mixture_components(edges: np.ndarray, *, n_per_decade: float = 3.0) -> np.ndarray:
    """Returns the covariances to be mixed, shape (component, p, p), on lag bins.

    Stable splines of first and second order over log-spaced decay rates, and windowed processes
    around log-spaced lags. A sum over rates behaves like a power law, a window like a delay.

    Args:
        edges: edges of the lag bins in steps, shape (p + 1,).
        n_per_decade: decay rates per factor ten.

    Returns:
        Positive semidefinite matrices at the bin centres.
    """
    edges = np.asarray(edges, dtype=np.float64)
    lags = 0.5 * (edges[:-1] + edges[1:])
    longest = max(edges[-1], 2.0)
    n_rates = max(3, int(np.ceil(n_per_decade * np.log10(longest / 0.5))) + 1)
    timescales = np.geomspace(0.5, longest, n_rates)
    components = [tuned_correlated(lags, 1 / timescale) for timescale in timescales]
    components += [stable_spline(lags, 0.5 / timescale) for timescale in timescales[1:]]
    if longest > 4:
        n_windows = max(2, int(np.ceil(np.log2(longest / 2))))
        for centre in np.geomspace(2.0, longest / np.sqrt(2), n_windows):
            components += [
                windowed(lags, centre, 0.35, max(fraction * centre, 0.7))
                for fraction in (0.03, 0.15)
            ]
    return np.stack(components)
