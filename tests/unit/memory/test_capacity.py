"""Memory capacity: the closed form, the estimate, and what chance adds."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from recollect import models
from recollect.memory import measure_capacity, predict_capacity


def network(width=5, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((width, width))
    A *= 0.8 / np.abs(np.linalg.eigvals(A)).max()
    return models.LinearRNN(A, rng.standard_normal((width, 1)), np.ones((1, width)), dt=1.0)


def test_the_closed_form_equals_the_gram_matrix_in_fifty_digits():
    model = network()
    with mpmath.workdps(50):
        A, b = mpmath.matrix(model.A.tolist()), mpmath.matrix(model.B.tolist())
        gram, term, columns = mpmath.zeros(5), b, []
        for _ in range(1200):
            columns.append(term)
            gram += term * term.T
            term = A * term
        inverse = gram**-1
        expected = [float((c.T * inverse * c)[0]) for c in columns[:20]]
    found = predict_capacity(model, n_delays=20)
    np.testing.assert_allclose(found.per_delay, expected, rtol=0, atol=1e-10)


def test_all_delays_together_give_the_width():
    found = predict_capacity(network(6, 1), n_delays=400)
    assert found.total == pytest.approx(6, abs=1e-10)
    assert found.n_features == 6


def test_units_that_cannot_be_reached_add_nothing():
    model = models.LinearRNN(np.diag([0.5, 0.2]), [[1.0], [0.0]], [[1.0, 1.0]], dt=1.0)
    assert predict_capacity(model, n_delays=100).total == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n_samples", [200, 2000])
def test_the_estimate_is_unbiased_after_the_correction(n_samples):
    model = network()
    expected = predict_capacity(model, n_delays=40)
    found = [
        measure_capacity(model, n_delays=40, n_samples=n_samples + 200, key=k) for k in range(30)
    ]
    corrected = np.array([m.total for m in found])
    naive = np.array([m.uncorrected.sum() for m in found])
    stderr = corrected.std(ddof=1) / np.sqrt(len(found))
    assert abs(corrected.mean() - expected.total) < 4 * stderr + 0.01
    # The negative control: without the correction chance adds about p/n per delay.
    assert naive.mean() - expected.total > 0.5 * 35 * 5 / n_samples


def test_permuted_and_rescaled_states_remember_the_same():
    model = network()
    order, scale = np.random.default_rng(3).permutation(5), np.geomspace(1e-3, 1e3, 5)
    A = (model.A[np.ix_(order, order)] * scale[:, None]) / scale
    other = models.LinearRNN(A, model.B[order] * scale[:, None], model.C[:, order] / scale, dt=1.0)
    for measure in (predict_capacity, measure_capacity):
        np.testing.assert_allclose(
            measure(other, n_delays=8).per_delay, measure(model, n_delays=8).per_delay, atol=1e-8
        )


def test_a_state_without_memory_has_only_the_present():
    found = measure_capacity(lambda u: np.tanh(u), read="outputs", n_delays=6)
    assert found.per_delay[0] > 0.9
    assert abs(found.per_delay[1:]).max() < 5 * found.per_delay_stderr[1:].max()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="n_samples"):
        measure_capacity(network(), n_samples=32)
    with pytest.raises(ValueError, match="one input"):
        predict_capacity(models.LinearRNN([[0.5]], [[1.0, 1.0]], [[1.0]], dt=1.0))
    with pytest.raises(ValueError, match="stable"):
        predict_capacity(models.LinearRNN([[1.5]], [[1.0]], [[1.0]], dt=1.0))
    with pytest.raises(ValueError, match="dt"):
        predict_capacity(models.LinearRNN([[-1.5]], [[1.0]], [[1.0]]))
