"""Linear networks: accuracy without eigenvectors, conversions, margins, other steps."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import recollect
from recollect import models


def _input_normal(rates: np.ndarray, seed: int = 0) -> models.LinearRNN:
    # The Takenaka-Malmquist state space: triangular, well conditioned, with useless eigenvectors.
    root = np.sqrt(2 * rates)
    A = -np.tril(np.outer(root, root), -1) - np.diag(rates)
    C = np.random.default_rng(seed).standard_normal((1, len(rates)))
    return models.LinearRNN(A, root[:, None], C)


def _exact(model: models.LinearRNN, lag: float) -> float:
    with mpmath.workdps(60):
        power = mpmath.expm(mpmath.matrix(model.A.tolist()) * lag)
        value = mpmath.matrix(model.C.tolist()) * power * mpmath.matrix(model.B.tolist())
        return float(value[0, 0])


@pytest.mark.parametrize("rates", [np.geomspace(1e-3, 1e1, 12), np.full(12, 1.0)])
def test_kernel_without_eigenvectors_against_mpmath(rates: np.ndarray):
    model = _input_normal(rates)
    lags = np.array([0.0, 0.013, 0.7, 3.9])
    size = np.abs(model.kernel(np.linspace(0, 4, 50))).max()
    for lag, value in zip(lags, model.kernel(lags)[:, 0, 0], strict=True):
        assert abs(value - _exact(model, lag)) < 1e-13 * size


def test_wide_and_stiff_kernel_is_the_slope_of_its_step_response():
    model = _input_normal(np.geomspace(1e-6, 1e2, 64))
    lags = np.geomspace(1e-3, 1e6, 40)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    width = 1e-3 * lags
    grid = (lags[:, None] + 0.5 * width[:, None] * (nodes + 1)).ravel()
    integral = 0.5 * width * (model.kernel(grid)[:, 0, 0].reshape(40, 40) @ weights)
    difference = (model.step_response(lags + width) - model.step_response(lags))[:, 0, 0]
    # Rounding scales with the integrated states, whose size is √Σ 2/w, not with their sum.
    size = np.linalg.norm(model.C) * np.sqrt(np.sum(2 / np.geomspace(1e-6, 1e2, 64)))
    np.testing.assert_allclose(difference, integral, rtol=0, atol=1e-13 * size)


def _oscillating(**options: object) -> models.DiagonalRNN:
    rates = np.array([1.0, 2.0, 0.3 + 1j, 0.3 - 1j])
    B = np.array([[1], [2], [1 + 1j], [1 - 1j]])
    C = np.array([[1, -1, 0.5j, -0.5j]])
    return models.DiagonalRNN(rates, B, C, **options)  # type: ignore[arg-type]


LAGS = np.linspace(0, 8, 33)
REPARAMS = [
    models.Direct(),
    models.Relu(),
    models.Exponential(),
    models.Softplus(),
    models.InverseSquare(scale=1.0, offset=0.25),
    models.DiscreteDirect(0.5),
    models.DiscreteInverseSquare(0.5, 1.0, 1.0 + 2.0**-20),
]


@pytest.mark.parametrize("reparam", REPARAMS, ids=lambda r: type(r).__name__)
def test_conversions_preserve_the_function(reparam: recollect.AbstractReparam):
    direct = _oscillating()
    converted = models.reparameterise(direct, reparam)
    np.testing.assert_allclose(converted.kernel(LAGS), direct.kernel(LAGS), rtol=0, atol=1e-12)
    dense = models.to_dense(converted)
    assert dense.width == 4
    np.testing.assert_allclose(dense.kernel(LAGS), direct.kernel(LAGS), rtol=0, atol=1e-12)
    back = models.to_diagonal(dense, reparam=reparam)
    np.testing.assert_allclose(back.kernel(LAGS), direct.kernel(LAGS), rtol=0, atol=1e-12)


def test_a_complex_unit_without_its_conjugate_becomes_two_real_ones():
    single = models.DiagonalRNN([0.3 + 1j], [[1 + 1j]], [[0.5j]])
    dense = models.to_dense(single)
    assert dense.width == 2
    np.testing.assert_allclose(dense.kernel(LAGS), single.kernel(LAGS), rtol=0, atol=1e-13)


def test_repeated_rates_are_refused_a_diagonal_form():
    jordan = models.LinearRNN([[-1.0, 1.0], [0.0, -1.0]], [[0.0], [1.0]], [[1.0, 0.0]])
    np.testing.assert_allclose(jordan.kernel(LAGS)[:, 0, 0], LAGS * np.exp(-LAGS), atol=1e-14)
    with pytest.raises(ValueError, match="diagonalisable"):
        models.to_diagonal(jordan)


@pytest.mark.parametrize("network", [_oscillating(), models.to_dense(_oscillating())])
def test_another_step_and_back(network: models.DiagonalRNN | models.LinearRNN):
    edges = np.arange(30) * 0.25
    exact = np.diff(network.step_response(edges), axis=0)
    slow = models.rediscretise(network, 0.25)
    np.testing.assert_allclose(0.25 * slow.kernel(edges[:-1]), exact, rtol=0, atol=1e-13)
    faster = models.rediscretise(models.rediscretise(network, 0.05), 0.25)
    np.testing.assert_allclose(0.25 * faster.kernel(edges[:-1]), exact, rtol=0, atol=1e-12)
    lifted = models.rediscretise(slow, None)
    np.testing.assert_allclose(lifted.kernel(LAGS), network.kernel(LAGS), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="rediscretise"):
        slow(np.zeros((5, 1)), dt=0.3)


def test_a_negative_multiplier_has_no_other_step():
    alternating = models.LinearRNN([[-0.5]], [[1.0]], [[1.0]], dt=1.0)
    with pytest.raises(ValueError, match="negative"):
        models.rediscretise(alternating, 0.5)


def test_margin_sees_both_ends():
    slow = models.stability_margin(models.LinearRNN([[0.1]], [[1.0]], [[1.0]]))
    assert slow.margin == pytest.approx(-0.1)
    assert slow.status.code == "diverged"
    assert slow.fast_end == np.inf
    fast = models.LinearRNN([[-3.0]], [[1.0]], [[1.0]], discretisation=recollect.Euler())
    assert models.stability_margin(fast).status.is_ok
    stepped = models.stability_margin(fast, dt=1.0)
    assert (stepped.fast_end, stepped.slow_end) == (pytest.approx(-1.0), np.inf)
    assert "fast end" in stepped.status.message
    exact = models.stability_margin(
        models.to_diagonal(models.LinearRNN([[-3.0]], [[1.0]], [[1.0]])), dt=1.0
    )
    assert exact.margin == pytest.approx(1 - np.exp(-3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[np.nan]], [[1.0]], [[1.0]]), "A: expected finite numbers"),
        ((np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0))), "width: expected at least one"),
        (([[-1.0, 0.0]], [[1.0]], [[1.0]]), "A: expected a square matrix"),
        (([[-1.0]], [[1.0], [2.0]], [[1.0]]), "B: expected shape"),
        (([[-1.0]], 1.0, [[1.0]]), "B: expected a matrix"),
        (([[-1.0]], [[1.0]], [[1.0, 2.0]]), "C: expected shape"),
        (([[-1.0]], [[1.0]], [[1.0]], {"dt": 0.0}), "dt: expected a positive"),
    ],
)
def test_impossible_networks_are_refused(arguments: tuple, message: str):
    options = arguments[3] if len(arguments) > 3 else {}
    with pytest.raises(ValueError, match=message):
        models.LinearRNN(*arguments[:3], **options)
