"""The published measurements: linear network on the tanks, groundwater response at Noord-Brabant.

Nothing of the test halves enters an estimate or a choice.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.signal

from recollect.memory import estimate_kernel

pytestmark = pytest.mark.data


def compile_exponentials(estimate, width):
    """Fits real exponentials to the likelihood of the kernel; returns rates, amplitudes, misfit."""
    s = estimate.statistics
    values, vectors = np.linalg.eigh(s.gram[0])
    kept = values > 1e-12 * values[-1]
    root = vectors[:, kept] * np.sqrt(values[kept])
    data = (vectors[:, kept].T @ s.cross[0]) / np.sqrt(values[kept])
    floor = s.power[0] - data @ data

    def bins(rates):
        return (
            -np.diff(np.exp(-np.outer(s.edges, rates)), axis=0) / np.diff(s.edges)[:, None] / rates
        )

    def amplitudes(log_rates):
        matrix = root.T @ bins(np.exp(log_rates))
        return np.linalg.lstsq(matrix, data, rcond=1e-10)[0], matrix

    def misfit(log_rates):
        a, matrix = amplitudes(log_rates)
        return data - matrix @ a

    fits = []
    for seed in range(4):
        spread = np.random.default_rng(seed).uniform(0.5, 2.0, width)
        start = np.log(np.geomspace(4, 40, width) / estimate.horizon * spread)
        fits.append(scipy.optimize.least_squares(misfit, start, max_nfev=200))
    best = min(fits, key=lambda fit: fit.cost)
    return np.exp(best.x), amplitudes(best.x)[0], floor + 2 * best.cost


def test_cascaded_tanks_linear_network(measured_data):
    table = pd.read_csv(measured_data / "cascaded_tanks" / "dataBenchmark.csv")
    u, y, u_test, y_test = (table[c].to_numpy() for c in ("uEst", "yEst", "uVal", "yVal"))
    estimate = estimate_kernel(u, y, dt=4.0)
    n = estimate.statistics.n_samples[0]
    criteria, fits = [], []
    for width in (1, 2, 3, 4):
        rates, amplitudes, chi_square = compile_exponentials(estimate, width)
        criteria.append(n * np.log(chi_square / n) + 2 * width * np.log(n))
        fits.append((rates, amplitudes))
    rates, amplitudes = fits[int(np.argmin(criteria))]

    def simulate(x):
        decays = np.exp(-4.0 * rates)
        return sum(
            a / w * scipy.signal.lfilter([1 - d], [1, -d], x)
            for a, w, d in zip(amplitudes, rates, decays, strict=True)
        )

    # Both halves start from the same unknown state: found on the estimation half.
    times = 4.0 * np.arange(1, len(u) + 1)
    free = np.column_stack([np.ones(len(u)), np.exp(-times[:, None] * rates)])
    start = np.linalg.lstsq(free, y - simulate(u), rcond=1e-10)[0]
    rmse = np.sqrt(np.mean((y_test - simulate(u_test) - free @ start) ** 2))
    assert rmse <= 0.62


def groundwater(folder):
    read = lambda name: pd.read_csv(  # noqa: E731
        folder / "pastas_nb1" / f"{name}_nb1.csv", parse_dates=["date"], index_col="date"
    )
    head = read("head")["head"]
    inputs = pd.concat([read("rain")["rain"], read("evap")["evap"]], axis=1).loc[: head.index[-1]]
    times = (head.index - inputs.index[0]) / pd.Timedelta("1D") + 1
    return inputs.to_numpy(), head.to_numpy(), times.to_numpy(dtype=float)


def simulate_head(estimate, inputs, times):
    steps = np.repeat(estimate.kernel[:, 0], np.rint(np.diff(estimate.edges)).astype(int), axis=0)
    centre = inputs.mean(axis=0)
    level = estimate.offset[0] + centre @ steps.sum(axis=0)
    response = sum(
        scipy.signal.fftconvolve(inputs[:, i] - centre[i], steps[:, i])[: len(inputs)]
        for i in range(2)
    )
    return level + response[times.astype(int) - 1]


def explained(observed, simulated):
    return 1 - np.var(observed - simulated) / np.var(observed)


def test_groundwater_on_all_data(measured_data):
    inputs, head, times = groundwater(measured_data)
    estimate = estimate_kernel(inputs, head, dt=1.0, output_times=times)
    assert explained(head, simulate_head(estimate, inputs, times)) >= 0.933
    assert estimate.noise.correlation_time[0] > 10
    # Draws of the rain response give the interval of the lag by which 95 % has been seen.
    draws = np.random.default_rng(0).multivariate_normal(
        estimate.kernel[:, 0].ravel(), estimate.covariance[0], 400, check_valid="ignore"
    )
    mass = np.cumsum(np.abs(draws.reshape(400, -1, 2)[:, :, 0]) * np.diff(estimate.edges), axis=1)
    t95 = [np.interp(0.95 * row[-1], row, estimate.edges[1:]) for row in mass]
    low, high = np.quantile(t95, [0.05, 0.95])
    assert low <= 900
    assert high >= 300


def test_groundwater_foretells_the_last_quarter(measured_data):
    inputs, head, times = groundwater(measured_data)
    n = int(0.75 * len(head))
    before = int(times[n - 1])
    estimate = estimate_kernel(inputs[:before], head[:n], dt=1.0, output_times=times[:n])
    simulated = simulate_head(estimate, inputs, times)
    assert explained(head[n:], simulated[n:]) >= 0.92
