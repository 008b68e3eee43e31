"""Discrete time: delays, exact sums, bounds, against dense linear algebra."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recollect._core._pole_fit import DiscretePoles, orthonormal_states
from recollect.approximation._discrete import fit_discrete
from recollect.models import LinearRNN


def response(fit, n):
    A, B, C = fit.state_space
    state, values = B, []
    for _ in range(n):
        values.append(C @ state)
        state = A @ state
    return np.array(values)


def measured(error, norm):
    size = np.abs(error).reshape(len(error), -1).sum(axis=1)
    if norm == "l1":
        return size.sum()
    return size.max() if norm == "linf" else np.sqrt(np.sum(error**2))


@pytest.mark.parametrize("n_steps", [0, 1, 7, 40])
def test_a_delay_gets_its_shift_register_at_one_more_than_its_steps(n_steps):
    values = np.zeros(3 * n_steps + 5)
    values[n_steps] = 2.5
    fit = fit_discrete(values, dt=0.1, width=n_steps + 1)
    A, B, C = fit.state_space
    model = LinearRNN(A, B, C, dt=0.1)
    assert model.width == n_steps + 1
    assert np.all(np.linalg.matrix_power(A, n_steps + 1) == 0)
    assert fit.error == 0
    assert fit.status.is_ok
    signal = np.random.default_rng(0).standard_normal((60, 1))
    delayed = np.concatenate([np.zeros((n_steps, 1)), signal])[:60]
    np.testing.assert_allclose(model(signal, dt=0.1), 2.5 * delayed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("width", [1, 4, 10, 15])
def test_no_smaller_network_helps_a_delay_and_the_status_says_so(width):
    values = np.zeros(50)
    values[15] = 1.0
    fit = fit_discrete(values, width=width, norm="l1")
    assert fit.status.code == "width_too_small"
    assert "16" in fit.status.message
    # Zero has error one: nothing is better in the operator norm, and we never answer worse.
    assert fit.error == pytest.approx(1.0, abs=1e-9)
    assert fit.bound == pytest.approx(1.0, abs=1e-9)


def test_a_wider_register_is_refused():
    fit = fit_discrete([1.0, -2.0, 0.5, 0.0, 0.0, 0.0], width=5)
    assert fit.status.code == "width_beyond_rank"
    assert len(fit.state_space[0]) == 3
    np.testing.assert_array_equal(response(fit, 6)[:, 0, 0], [1, -2, 0.5, 0, 0, 0])


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("n_samples", [40, 400])
def test_exact_sums_are_recovered_whether_or_not_they_have_ended(norm, n_samples):
    z = np.array([0.9, -0.4, 0.7 * np.exp(1j), 0.7 * np.exp(-1j)])
    a = np.array([1, 0.5, 0.3 + 0.1j, 0.3 - 0.1j])
    j = np.arange(n_samples)
    values = (z ** j[:, None] @ a).real
    fit = fit_discrete(values, width=4, norm=norm)
    np.testing.assert_allclose(response(fit, n_samples)[:, 0, 0], values, atol=1e-12)
    found = fit.rates[np.lexsort((fit.rates.imag, fit.rates.real.round(8)))]
    np.testing.assert_allclose(found, z[np.lexsort((z.imag, z.real))], atol=1e-8)
    at = np.lexsort((fit.rates.imag, fit.rates.real.round(8)))
    np.testing.assert_allclose(fit.amplitudes[at, 0, 0], a[np.lexsort((z.imag, z.real))], atol=1e-7)
    assert fit_discrete(values, width=6, norm=norm).status.code == "width_beyond_rank"


@pytest.mark.parametrize("seed", range(6))
def test_random_stable_systems_of_order_n_are_recovered_by_width_n(seed):
    rng = np.random.default_rng(seed)
    n = 2 + seed
    A = rng.standard_normal((n, n))
    A *= 0.85 / np.abs(np.linalg.eigvals(A)).max()
    B, C = rng.standard_normal((n, 1)), rng.standard_normal((3, n))
    values, state = [], B
    for _ in range(250):
        values.append(C @ state)
        state = A @ state
    values = np.array(values)
    for part in (values, np.transpose(values, (0, 2, 1))):
        fit = fit_discrete(part, width=n)
        assert np.abs(response(fit, 250) - part).max() < 1e-9 * np.abs(part).max()


def test_several_inputs_and_outputs_share_rates_with_one_copy_each():
    rng = np.random.default_rng(1)
    z = np.array([0.9, 0.5, -0.3])
    residues = rng.standard_normal((3, 2, 2))
    values = np.tensordot(z ** np.arange(200)[:, None], residues, axes=1)
    fit = fit_discrete(values, width=6)
    assert np.abs(response(fit, 200) - values).max() < 1e-10


SEQUENCES = {
    "power": (1.0 + np.arange(300)) ** -2.0,
    "bump": np.exp(-((np.arange(120) - 12) ** 2) / 18.0),
    "box": np.where(np.arange(80) < 10, 1.0, 0.0),
}
# Every sequence and every norm is in one of them.
QUICK = {("power", "l2"), ("bump", "linf"), ("box", "l1")}


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in itertools.product(SEQUENCES, ("l1", "l2", "linf"))
    ],
)
def test_bounds_hold_and_more_units_never_hurt(name, norm):
    values = SEQUENCES[name]
    before = np.inf
    for width in (1, 2, 4, 7):
        fit = fit_discrete(values, width=width, norm=norm, ends=True)
        padded = np.concatenate([values, np.zeros(4000)])
        error = measured(response(fit, len(padded))[:, 0, 0] - padded, norm)
        assert error == pytest.approx(fit.error, rel=1e-6, abs=1e-13)
        assert fit.bound <= fit.error * (1 + 1e-12)
        assert fit.error <= before * (1 + 1e-3)
        assert np.all(np.abs(fit.rates) < 1)
        before = fit.error


def test_minimising_a_norm_beats_minimising_another():
    values = np.exp(-((np.arange(120) - 12) ** 2) / 18.0)
    for norm in ("l1", "linf"):
        squares = fit_discrete(values, width=4)
        own = fit_discrete(values, width=4, norm=norm)
        assert own.error <= measured(response(squares, 120)[:, 0, 0] - values, norm) * (1 + 1e-9)


def test_real_multipliers_only_when_asked():
    values = np.exp(-0.1 * np.arange(150)) * np.cos(0.5 * np.arange(150))
    assert np.all(fit_discrete(values, width=4, real=True).rates.imag == 0)
    assert np.any(fit_discrete(values, width=4).rates.imag != 0)


@pytest.mark.parametrize(
    "z", [[0.5], [0.999999, -0.9], [0.3, 0.3, 0.3], [0.8 + 0.5j, 0.8 - 0.5j, 0.0, 0.0]]
)
def test_states_are_orthonormal_even_with_repeated_multipliers(z):
    A, b = orthonormal_states(DiscretePoles.of(z))
    np.testing.assert_allclose(A @ A.T + np.outer(b, b), np.eye(len(z)), atol=1e-12)
    np.testing.assert_allclose(np.poly(A), np.real(np.poly(z)), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"values": [0.0, 0.0], "width": 1}, ValueError, "values"),
        ({"values": [], "width": 1}, ValueError, "values"),
        ({"values": [1.0, np.inf], "width": 1}, ValueError, "values"),
        ({"values": [1.0, 1j], "width": 1}, TypeError, "values"),
        ({"values": [1.0, 0.5], "width": 0}, ValueError, "width"),
        ({"values": [1.0, 0.5], "width": 1, "norm": "l3"}, ValueError, "norm"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, word):
    with pytest.raises(error, match=word):
        fit_discrete(**arguments)
