"""The kernel estimate against dense regression, against itself in other units, and against truth."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from recollect.memory import estimate_kernel
from recollect.memory._evidence import NormalEquations, maximise_evidence
from recollect.memory._lag_grid import graded_edges
from recollect.memory._prior import mixture_components
from recollect.memory._records import Record
from recollect.memory._rows import ExplicitRows
from recollect.memory._sums import RunningSums, SummedRows


def simulate(n, kernel, *, seed=0, noise=0.1, offset=3.0, decay=0.0, before=3000, n_inputs=1):
    """Returns a record whose past reaches far behind its start, and the integrals K_j."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + before, n_inputs))
    integrals = kernel(np.arange(before, dtype=float))
    y = scipy.signal.fftconvolve(x[:, 0], integrals)[before : before + n]
    rough = scipy.signal.lfilter([np.sqrt(1 - decay**2)], [1, -decay], rng.standard_normal(n))
    return x[before:], y + noise * y.std() * rough + offset, integrals


def relative_error(estimate, integrals):
    edges = np.rint(estimate.edges / estimate.dt).astype(int)
    steps = np.repeat(estimate.kernel[:, 0, 0], np.diff(edges)) * estimate.dt
    truth = integrals[: len(steps)]
    return np.linalg.norm(steps - truth) / np.linalg.norm(integrals)


def decaying(lags):
    return np.exp(-lags / 10)


def delayed(lags):
    return np.exp(-((lags - 160) ** 2) / 200)


def power(lags):
    return (1 + lags / 5) ** -2.0


@pytest.mark.parametrize(("kernel", "limit"), [(decaying, 0.025), (delayed, 0.035), (power, 0.03)])
def test_kernel_is_found_without_a_guess(kernel, limit):
    x, y, integrals = simulate(2000, kernel)
    estimate = estimate_kernel(x, y, dt=1.0)
    assert relative_error(estimate, integrals) < limit
    assert abs(estimate.offset[0] - 3.0) < 4 * estimate.offset_stderr[0]
    assert 0.9 < estimate.noise.std[0] / (0.1 * np.std(y)) < 1.15
    assert estimate.noise.correlation_time[0] == 0.0


def test_normal_equations_equal_dense_generalised_least_squares():
    rng = np.random.default_rng(1)
    n, correlation = 120, 4.0
    x = rng.standard_normal((n, 2))
    times = np.sort(rng.choice(np.arange(1.0, n + 1), 90, replace=False))
    y = rng.standard_normal((90, 1))
    timescales = np.array([2.0, 9.0])
    edges = graded_edges(30, n_fine=6, n_per_octave=4)
    rows = ExplicitRows([Record(x, times, y, False, 0, 0)], 0, np.zeros(2), timescales)
    equations = rows.equations(edges, correlation)
    design = np.zeros((90, len(edges) - 1, 2))
    for r, t in enumerate(times.astype(int)):
        for b in range(len(edges) - 1):
            for lag in range(edges[b], edges[b + 1]):
                if t - 1 - lag >= 0:
                    design[r, b] += x[t - 1 - lag]
    design = design.reshape(90, -1)
    covariance = np.exp(-np.abs(np.subtract.outer(times, times)) / correlation)
    nuisance = np.column_stack([np.ones(90), np.exp(-times[:, None] / timescales)])
    inverse = np.linalg.inv(covariance)
    projector = inverse - inverse @ nuisance @ np.linalg.solve(
        nuisance.T @ inverse @ nuisance, nuisance.T @ inverse
    )
    np.testing.assert_allclose(equations.gram, design.T @ projector @ design, rtol=0, atol=1e-8)
    np.testing.assert_allclose(equations.cross, design.T @ projector @ y[:, 0], rtol=0, atol=1e-8)
    assert equations.power == pytest.approx(y[:, 0] @ projector @ y[:, 0], rel=1e-10)
    assert equations.n_samples == 87


def test_posterior_equals_dense_gaussian_process_regression():
    rng = np.random.default_rng(2)
    edges = graded_edges(40, n_fine=8, n_per_octave=4)
    components = mixture_components(edges)[::4]
    design = rng.standard_normal((200, len(edges) - 1))
    y = design @ np.exp(-edges[:-1] / 6) + 0.3 * rng.standard_normal(200)
    equations = NormalEquations(design.T @ design, design.T @ y, float(y @ y), 200)
    posterior = maximise_evidence(equations, components)
    prior = np.einsum("c,cab->ab", posterior.weights[0], components)
    total = design @ prior @ design.T + posterior.noise_variance * np.eye(200)
    gain = prior @ design.T @ np.linalg.inv(total)
    np.testing.assert_allclose(posterior.mean, gain @ y, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        posterior.covariance, prior - gain @ design @ prior, rtol=0, atol=1e-8
    )
    dense = -0.5 * (
        200 * np.log(2 * np.pi) + np.linalg.slogdet(total)[1] + y @ np.linalg.solve(total, y)
    )
    assert posterior.log_evidence == pytest.approx(dense, rel=1e-8)


@pytest.mark.parametrize("correlation", [0.0, 3.0])
@pytest.mark.parametrize("gaps", [False, True])
def test_running_sums_equal_explicit_rows(correlation, gaps):
    rng = np.random.default_rng(3)
    n, timescales = 500, np.array([1.0, 5.0, 30.0])
    x, y = rng.standard_normal((n, 2)), rng.standard_normal((n, 1))
    if gaps:
        y[[3, 100, 101, 400]] = np.nan
    record = Record(x, np.arange(1.0, n + 1), y, True, 0, 0)
    sums = RunningSums(60, timescales, 2)
    for first in range(0, n, 128):
        sums.add(x[first : first + 128], y[first : first + 128, 0])
    edges = graded_edges(60, n_fine=8, n_per_octave=6)
    explicit = ExplicitRows([record], 0, np.zeros(2), timescales)
    fast = SummedRows([sums])
    one, two = explicit.equations(edges, correlation), fast.equations(edges, correlation)
    # Across a gap, running sums start the noise anew; explicit rows let it decay.
    tolerance = 2e-2 if gaps and correlation else 1e-8
    scale = np.abs(one.gram).max()
    np.testing.assert_allclose(two.gram, one.gram, rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(two.cross, one.cross, rtol=0, atol=tolerance * scale)
    assert two.n_samples == one.n_samples
    if tolerance < 1e-4:
        assert two.power == pytest.approx(one.power, rel=1e-8)
        assert two.log_jacobian == pytest.approx(one.log_jacobian, abs=1e-6)
        mean = np.linalg.lstsq(one.gram, one.cross, rcond=1e-10)[0]
        np.testing.assert_allclose(
            fast.score(edges, mean, correlation),
            explicit.score(edges, mean, correlation),
            atol=1e-6,
        )


def test_chunks_change_nothing():
    x, y, _ = simulate(30_000, decaying, before=300)
    whole = estimate_kernel(x, y, dt=1.0, noise="white")
    cuts = [0, 17, 5000, 5001, 29_999, 30_000]
    chunks = ((x[a:b], y[a:b]) for a, b in itertools.pairwise(cuts))
    pieces = estimate_kernel(chunks, None, dt=1.0, noise="white")
    np.testing.assert_array_equal(pieces.edges, whole.edges)
    np.testing.assert_allclose(pieces.kernel, whole.kernel, rtol=0, atol=1e-10)
    short = estimate_kernel(iter([(x[:300], y[:300]), (x[300:900], y[300:900])]), None, dt=1.0)
    np.testing.assert_allclose(
        short.kernel, estimate_kernel(x[:900], y[:900], dt=1.0).kernel, rtol=0, atol=1e-12
    )


def test_units_scale_out():
    x, y, _ = simulate(600, decaying, before=300)
    plain = estimate_kernel(x, y, dt=1.0)
    scaled = estimate_kernel(1e3 * x, 1e-2 * y + 5, dt=0.25)
    factor = 1e-2 / 1e3 / 0.25
    np.testing.assert_allclose(scaled.kernel, factor * plain.kernel, rtol=1e-4, atol=1e-6 * factor)
    np.testing.assert_allclose(scaled.edges, plain.edges * 0.25)
    assert scaled.offset[0] == pytest.approx(1e-2 * plain.offset[0] + 5, rel=1e-4)


def test_statistics_are_the_likelihood_of_the_kernel():
    x, y, integrals = simulate(1000, decaying, before=300)
    estimate = estimate_kernel(x, y, dt=1.0, noise="white")
    s = estimate.statistics
    truth = np.add.reduceat(integrals[: int(s.edges[-1])], s.edges[:-1].astype(int)) / np.diff(
        s.edges
    )
    misfit = s.power[0] - 2 * s.cross[0] @ truth + truth @ s.gram[0] @ truth
    assert misfit / s.n_samples[0] == pytest.approx(1.0, abs=0.15)


def test_missing_rows_and_records_cost_little():
    x, y, integrals = simulate(2000, decaying)
    y[::7] = np.nan
    x[900:903] = np.nan
    estimate = estimate_kernel(x, y, dt=1.0)
    assert relative_error(estimate, integrals) < 0.03
    parts = estimate_kernel([x[:900], x[903:]], [y[:900], y[903:]], dt=1.0)
    np.testing.assert_allclose(parts.kernel, estimate.kernel, atol=1e-9)


def test_several_inputs_and_outputs():
    x, y, integrals = simulate(1500, decaying, n_inputs=2)
    two = np.column_stack([y, 2.0 * x[:, 1] + 0.1 * np.random.default_rng(0).standard_normal(1500)])
    estimate = estimate_kernel(x, two, dt=1.0)
    assert estimate.kernel.shape[1:] == (2, 2)
    assert relative_error(estimate, integrals) < 0.03
    assert estimate.kernel[0, 1, 1] == pytest.approx(2.0, abs=0.05)
    assert np.abs(estimate.kernel[:, 1, 0]).max() < 0.05


def test_transient_of_an_unknown_state_does_not_bias():
    rng = np.random.default_rng(4)
    n = 800
    x = rng.standard_normal(n)
    y = scipy.signal.lfilter([1.0], [1, -0.95], x) + 40 * 0.95 ** np.arange(n)
    y += 0.3 * rng.standard_normal(n)
    estimate = estimate_kernel(x, y, dt=1.0)
    assert relative_error(estimate, 0.95 ** np.arange(3000.0)) < 0.04


def test_irregular_outputs_with_correlated_noise():
    rng = np.random.default_rng(5)
    n = 4000
    x = rng.gamma(0.3, 1.0, n)
    clean = scipy.signal.lfilter([0.05], [1, -0.95], x)
    rough = scipy.signal.lfilter([np.sqrt(1 - 0.98**2)], [1, -0.98], rng.standard_normal(n))
    rows = np.sort(rng.choice(n, 500, replace=False))
    y = clean + 0.3 * clean.std() * rough + 20
    estimate = estimate_kernel(x, y[rows], dt=1.0, output_times=rows + 1.0)
    assert 20 < estimate.noise.correlation_time[0] < 120
    assert estimate.noise.log_evidence_gain[0] > 20
    assert relative_error(estimate, 0.05 * 0.95 ** np.arange(3000.0)) < 0.2


def test_weak_inputs_and_feedback_are_reported():
    rng = np.random.default_rng(6)
    step = np.repeat([0.0, 1.0], 300)
    y = scipy.signal.lfilter([0.1], [1, -0.9], step) + 0.01 * rng.standard_normal(600)
    assert estimate_kernel(step, y, dt=1.0).status.code == "input_not_exciting"
    wave = np.sin(0.3 * np.arange(600.0))
    y = scipy.signal.lfilter([0.1], [1, -0.9], wave) + 0.01 * rng.standard_normal(600)
    assert estimate_kernel(wave, y, dt=1.0).status.code == "input_not_exciting"
    x, y = np.zeros(3000), np.zeros(3000)
    drive, noise = rng.standard_normal((2, 3000))
    for k in range(1, 3000):
        x[k] = drive[k] - 0.5 * y[k - 1]
        y[k] = 0.8 * y[k - 1] + 0.4 * x[k] + 0.5 * (noise[k] + 0.3 * noise[k - 1])
    assert "feedback_suspected" in [w.code for w in estimate_kernel(x, y, dt=1.0).warnings]
    open_loop = simulate(2000, decaying)
    assert estimate_kernel(open_loop[0], open_loop[1], dt=1.0).warnings == ()


def test_bad_arguments_name_themselves():
    x, y, _ = simulate(100, decaying, before=100)
    with pytest.raises(ValueError, match="constant"):
        estimate_kernel(np.ones(100), y, dt=1.0)
    with pytest.raises(ValueError, match="constant"):
        estimate_kernel(x, np.ones(100), dt=1.0)
    with pytest.raises(ValueError, match="outputs"):
        estimate_kernel(x, y[:50], dt=1.0)
    with pytest.raises(ValueError, match="output_times"):
        estimate_kernel(x, y, dt=1.0, output_times=np.zeros(100))
    with pytest.raises(ValueError, match="not both"):
        estimate_kernel(x, y, dt=1.0, horizon=10.0, n_lags=3)
    with pytest.raises(ValueError, match="outputs"):
        estimate_kernel(x, None, dt=1.0)


@pytest.mark.slow
def test_intervals_cover():
    covered = []
    for seed in range(30):
        x, y, integrals = simulate(1000, decaying, seed=seed, before=300)
        e = estimate_kernel(x, y, dt=1.0)
        near = e.lags < 40
        edges = e.edges.astype(int)
        truth = np.add.reduceat(integrals[: edges[-1]], edges[:-1]) / np.diff(edges)
        inside = np.abs(e.kernel[:, 0, 0] - truth) < 1.645 * e.kernel_stderr[:, 0, 0]
        covered.append(inside[near].mean())
    assert 0.8 < np.mean(covered) < 0.99


@pytest.mark.slow
def test_a_million_samples_take_seconds():
    x, y, integrals = simulate(1_000_000, lambda lags: np.exp(-((lags - 900) ** 2) / 800))
    began = time.process_time()
    estimate = estimate_kernel(x, y, dt=1.0)
    assert time.process_time() - began < 10
    assert relative_error(estimate, integrals) < 0.03
