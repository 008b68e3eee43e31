"""Tangent kernels against brute-force Jacobians and closed forms; transport maps and their ν."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recollect import convergence as c
from recollect._core._precision import in_float64


def jacobian(network, signals):
    def outputs(w, u):
        h, found = jnp.zeros((len(signals), len(w))), []
        for t in range(signals.shape[1]):
            h = jnp.tanh(w * h + signals[:, t] @ u.T)
            found.append(h @ network.signs / math.sqrt(len(w)))
        return jnp.stack(found, axis=1).ravel()

    jw, ju = in_float64(jax.jit(jax.jacobian(outputs, argnums=(0, 1))))(network.weights, network.U)
    return np.concatenate([jw, ju.reshape(len(jw), -1)], axis=1)


def test_finite_width_is_the_gram_matrix_of_jacobians(monkeypatch):
    from recollect.convergence import _ntk

    network = c.initialise_paired(10, 2, alpha=0.6, seed=1)
    signals = c.draw_sequences(3, 4, 2, seed=2)
    expected = jacobian(network, signals)
    expected = expected @ expected.T
    found = c.measure_ntk(network, signals)
    np.testing.assert_allclose(found.ntk, expected, rtol=1e-12, atol=1e-14)
    assert found.least_eigenvalue == pytest.approx(found.eigenvalues[0], abs=1e-14)
    # Blocks of one unit, and a network whose halves differ.
    monkeypatch.setattr(_ntk, "_BLOCK_NUMBERS", 1)
    np.testing.assert_allclose(c.measure_ntk(network, signals).ntk, expected, rtol=1e-12)
    from dataclasses import replace

    other = replace(network, weights=network.weights + np.arange(10) / 20)
    expected = jacobian(other, signals)
    np.testing.assert_allclose(c.measure_ntk(other, signals).ntk, expected @ expected.T, rtol=1e-11)


def test_closed_forms_and_quasi_monte_carlo_agree():
    signals = c.draw_sequences(4, 3, 2, seed=3)
    exact = c.predict_ntk(signals, alpha=0.0, activation="erf")
    found = c.estimate_ntk(signals, alpha=0.0, activation="erf", n_points=2048)
    assert np.all(abs(found.ntk - exact.ntk) <= 6 * found.ntk_stderr + 1e-9)
    assert found.ntk_stderr.max() < 1e-2
    first = c.predict_ntk(signals[:, :1], alpha=0.7, activation="erf")
    found = c.estimate_ntk(signals[:, :1], alpha=0.7, activation="erf", n_points=2048)
    np.testing.assert_allclose(found.ntk, first.ntk, atol=1e-3)


def test_the_linear_kernel_is_exact_for_every_alpha():
    signals = c.draw_sequences(3, 4, 2, seed=4)
    exact = c.predict_ntk(signals, alpha=0.8, activation="linear").ntk
    # E over u ~ N(0, I) of a quadratic form is its trace: sum over unit vectors.
    total = 0.0
    for w in (0.8, -0.8):
        for u in np.eye(2):
            h, gw, gu = np.zeros(3), np.zeros(3), np.zeros((3, 2))
            rows_w, rows_u = [], []
            for t in range(4):
                gw, gu = h + w * gw, signals[:, t] + w * gu
                h = w * h + signals[:, t] @ u
                rows_w.append(gw)
                rows_u.append(gu)
            rw, ru = np.stack(rows_w, 1).ravel(), np.stack(rows_u, 1).reshape(-1, 2)
            total = total + np.outer(rw, rw) / 2 + ru @ ru.T / 4
    np.testing.assert_allclose(exact, total, rtol=1e-12)
    with pytest.raises(ValueError, match="use estimate_ntk"):
        c.predict_ntk(signals, alpha=0.5, activation="erf")


def test_the_linearised_risk_is_that_of_linear_descent():
    network = c.initialise_paired(12, 2, alpha=0.3, seed=0)
    signals = c.draw_sequences(3, 3, 2, seed=0)
    y = np.random.default_rng(0).standard_normal((3, 3))
    ntk = c.measure_ntk(network, signals)
    curve = c.predict_risk_curve(ntk, y, step_size=0.1, steps=[0, 1, 7])
    e, risks = -y.ravel(), []
    for _ in range(8):
        risks.append(e @ e / 3)
        e = e - 0.1 * 2 / 3 * ntk.ntk @ e
    np.testing.assert_allclose(curve, np.array(risks)[[0, 1, 7]], rtol=1e-12)


def test_a_run_follows_the_linearised_risk_only_while_its_units_hardly_move():
    network = c.initialise_paired(12, 2, alpha=0.3, seed=0)
    signals = c.draw_sequences(3, 3, 2, seed=0)
    ntk = c.measure_ntk(network, signals)

    def departure(size):
        y = size * np.random.default_rng(0).standard_normal((3, 3))
        curve = c.predict_risk_curve(ntk, y, step_size=0.1, steps=np.arange(31))
        run = c.train_paired(
            network, signals, y, n_steps=30, step_size=0.1, method="plain", dtype="float64"
        )
        return np.abs(run.risk / curve - 1).max()

    assert departure(1e-4) < 1e-4
    # Negative control: labels that move the units of a narrow network far.
    assert departure(10.0) > 0.1


def test_a_transport_target_is_its_expectation():
    target = c.draw_transport_target(2, nu_w=0.7, nu_u=1.2, alpha=0.4, seed=5)
    signals = c.draw_sequences(2, 3, 2, seed=5)
    mean, stderr = target(signals, n_points=2048)
    network = c.initialise_paired(40_000, 2, alpha=0.4, seed=9)
    v_w, v_u = target.comparator(network)
    assert abs(v_w).max() <= 0.7
    assert np.linalg.norm(v_u, axis=1).max() <= 1.2 * (1 + 1e-12)
    from recollect.convergence._ntk import unit_derivatives

    d_w, d_u, _ = unit_derivatives(network.activation, network.weights, network.U, signals)
    linear = (d_w * v_w + np.einsum("jtmd,md->jtm", d_u, v_u)) @ network.signs / 40_000
    np.testing.assert_allclose(linear, mean, atol=0.03)
    assert stderr.max() < 1e-3


def test_nu_of_a_target_of_known_size():
    # One output: the least map points along DH everywhere, so ν is known: y / E[|D_w| + ‖D_u‖].
    signals = c.draw_sequences(1, 1, 2, seed=6)
    u = np.random.default_rng(0).standard_normal((400_000, 2))
    expected = 0.5 / np.mean(1 - np.tanh(u @ signals[0, 0]) ** 2)
    found = c.estimate_nu(signals, [[0.5]], alpha=0.3, tolerance=1e-6)
    assert found.nu == pytest.approx(expected, rel=1e-2)
    assert found.nu_bound == pytest.approx(expected, rel=1e-2)


def test_nu_is_at_most_that_of_the_map_that_made_the_data():
    target = c.draw_transport_target(3, nu_w=0.8, nu_u=0.8, alpha=0.3, seed=7)
    signals = c.draw_sequences(4, 4, 3, seed=7)
    y, _ = target(signals)
    found = c.estimate_nu(signals, y, alpha=0.3, tolerance=0.02, n_features=512)
    assert found.status.is_ok, found.status
    assert found.nu_bound - 3 * found.nu_stderr <= 0.8
    assert found.nu_bound <= found.nu * 1.05
    assert found.residual <= 0.021 * np.sqrt(np.mean(y**2))
    double = c.estimate_nu(signals, 2 * y, alpha=0.3, tolerance=0.02, n_features=512)
    assert double.nu == pytest.approx(2 * found.nu, rel=0.05)
    assert c.estimate_nu(signals, 0 * y, alpha=0.3).nu == 0
