from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from recollect import models, targets, training
from recollect._core._pole_fit import DiscretePoles, orthonormal_states, refine_poles, run_states


def records(kernel, lengths, *, dt=0.5, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    xs = [rng.standard_normal((n, 1)) for n in lengths]
    ys = [kernel(x, dt=dt) + noise * rng.standard_normal(x.shape) for x in xs]
    return xs, ys


def test_a_network_is_recovered_from_its_own_records():
    truth = models.DiagonalRNN(
        [0.1, 0.3 + 1.0j, 0.3 - 1.0j], np.ones((3, 1)), [[1.0, 0.5 - 1j, 0.5 + 1j]]
    )
    xs, ys = records(truth, [300, 200])
    found = training.fit_records(xs, ys, dt=0.5, width=3)
    assert found.is_noise_free
    assert found.relative_error < 1e-9
    impulse = np.eye(1, 400).T
    np.testing.assert_allclose(found.model(impulse, dt=0.5), truth(impulse, dt=0.5), atol=1e-9)


def test_its_error_is_that_of_the_simulation():
    kernel = targets.Bump(delay=6.0, width=1.0, height=1.0)
    xs, ys = records(kernel, [80, 50, 120])
    found = training.fit_records(xs, ys, dt=0.5, width=4)
    wrong = np.concatenate(
        [np.asarray(found.model(x, dt=0.5)) - y for x, y in zip(xs, ys, strict=True)]
    )
    assert found.error == pytest.approx(np.sqrt(np.mean(wrong**2)), rel=1e-9)
    size = np.sqrt(np.mean(np.concatenate(ys) ** 2))
    assert found.relative_error == pytest.approx(found.error / size, rel=1e-9)


def test_scaling_the_records_changes_the_error_only():
    xs, ys = records(targets.Bump(delay=6.0, width=1.0, height=1.0), [100, 100])
    plain = training.fit_records(xs, ys, dt=0.5, width=5)
    scaled = training.fit_records([1e3 * x for x in xs], [1e-4 * y for y in ys], dt=0.5, width=5)
    assert scaled.error == pytest.approx(1e-4 * plain.error, rel=1e-6)


def test_noise_is_noticed_and_stepped_around():
    kernel = targets.Bump(delay=6.0, width=1.0, height=1.0)
    xs, ys = records(kernel, [400] * 4, noise=0.1)
    found = training.fit_records(xs, ys, dt=0.5, width=8)
    assert not found.is_noise_free
    assert found.error == pytest.approx(0.1, rel=0.05)
    impulse = np.eye(1, 60).T
    deviation = np.asarray(found.model(impulse, dt=0.5)) - kernel(impulse, dt=0.5)
    assert np.sqrt(np.mean(deviation**2)) < 0.01


def test_the_refinement_ends_where_the_gradient_does():
    rng = np.random.default_rng(3)
    root = scipy.linalg.cholesky(np.eye(60) + 0.1 * scipy.linalg.toeplitz(0.8 ** np.arange(60)))
    wanted = root @ np.exp(-((np.arange(60) - 20) ** 2) / 30)
    start = DiscretePoles.of([0.9, 0.95 * np.exp(0.2j), 0.95 * np.exp(-0.2j)])
    poles, _ = refine_poles(start, root, wanted, n_iterations=200, rtol=0.0)

    def cost(vector):
        columns = poles.moved(vector).basis(60)
        seen = root @ columns
        return np.sum((wanted - seen @ np.linalg.lstsq(seen, wanted, rcond=None)[0]) ** 2)

    here = cost(poles.vector)
    for _ in range(20):
        step = 1e-4 * rng.standard_normal(3)
        assert cost(poles.vector + step) >= here * (1 - 1e-10)


def test_states_are_orthonormal_whatever_the_poles():
    z = 0.9 * np.exp(1j * np.array([0.4, 0.4 + 1e-9, 3.0]))
    poles = DiscretePoles.of([0.5, -0.3, 0.5 + 1e-12, *z, *z.conj()])
    A, b = orthonormal_states(poles)
    states = run_states(A, b, 600)
    np.testing.assert_allclose(states.T @ states, np.eye(9), atol=1e-13)
    columns = poles.basis(600)
    inside = states @ (states.T @ columns)
    np.testing.assert_allclose(inside, columns, atol=1e-12)


def test_slopes_of_the_basis():
    poles = DiscretePoles.of([0.7, 0.9 * np.exp(0.3j), 0.9 * np.exp(-0.3j)])
    slopes = poles.slopes(30)
    step = 1e-6
    for i, columns in ((0, [0]), (1, [1, 2]), (2, [1, 2])):
        shift = np.zeros(3)
        shift[i] = step
        up = poles.moved(poles.vector + shift).basis(30)
        down = poles.moved(poles.vector - shift).basis(30)
        at = [0] if i == 0 else [1 + 2 * (i - 1), 2 + 2 * (i - 1)]
        expected = (up - down)[:, columns] / (2 * step)
        np.testing.assert_allclose(slopes[:, at], expected, atol=1e-7)


@pytest.mark.parametrize(
    ("xs", "ys", "told"),
    [
        (np.ones((5, 2)), np.ones((5, 1)), "one channel"),
        (np.ones((5, 1)), np.ones((4, 1)), "as long as"),
        (np.ones((1, 1)), np.ones((1, 1)), "one sample"),
        (np.ones((9, 1)), np.zeros((9, 1)), "zeros only"),
        (np.zeros((9, 1)), np.ones((9, 1)), "zeros only"),
        ([], [], "at least one record"),
        (np.full((9, 1), np.nan), np.ones((9, 1)), "finite"),
    ],
)
def test_records_that_cannot_be_used_are_refused(xs, ys, told):
    with pytest.raises(ValueError, match=told):
        training.fit_records(xs, ys, dt=1.0, width=2)
