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


def mixture_components(
    edges: np.ndarray, *, longest: float | None = None, n_per_decade: int = 3
) -> np.ndarray:
    """Returns the covariances to be mixed, shape (component, p, p), on lag bins.

    Stable splines of first and second order over log-spaced decay rates, and windowed processes
    around log-spaced lags. A sum over rates behaves like a power law, a window like a delay.

    Args:
        edges: edges of the lag bins in steps, shape (p + 1,).
        longest: longest lag the prior speaks of, in steps (default: the last edge). The same
            value for several horizons makes their evidence comparable.
        n_per_decade: decay rates per factor ten.

    Returns:
        Positive semidefinite matrices at the bin centres.
    """
    edges = np.asarray(edges, dtype=np.float64)
    lags = 0.5 * (edges[:-1] + edges[1:])
    reach = max(float(edges[-1]) if longest is None else float(longest), 2.0)
    n_rates = max(2, int(np.ceil(n_per_decade * np.log10(reach / 0.5)))) + 1
    timescales = 0.5 * 10 ** (np.arange(n_rates) / n_per_decade)
    components = [tuned_correlated(lags, 1 / timescale) for timescale in timescales]
    components += [stable_spline(lags, 0.5 / timescale) for timescale in timescales[1:]]
    if reach > 4:
        for octave in range(1, int(np.ceil(np.log2(reach)))):
            centre = 2.0**octave
            components += [
                windowed(lags, centre, 0.35, max(fraction * centre, 0.7))
                for fraction in (0.03, 0.15)
            ]
    return np.stack(components)
