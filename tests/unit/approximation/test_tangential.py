"""Several inputs and outputs that share one state."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from recollect.approximation import fit_exponential_sum
from recollect.approximation._tangential import RankOneSum, split_full

RATES = np.array([0.1, 0.3, 1.0, 2.5, 6.0])
RNG = np.random.default_rng(0)
OUTPUTS, INPUTS = RNG.standard_normal((5, 2)), RNG.standard_normal((5, 3))


def system(lags):
    return np.einsum("tk,ko,ki->toi", np.exp(-np.outer(lags, RATES)), OUTPUTS, INPUTS)


@pytest.mark.parametrize("norm", ["l1", "l2", pytest.param("linf", marks=pytest.mark.slow)])
def test_a_system_of_order_n_is_recovered_by_n_units(norm):
    fit = fit_exponential_sum(system, width=5, norm=norm)
    assert fit.width == 5
    assert fit.error < 1e-9
    np.testing.assert_allclose(np.sort(fit.rates.real), RATES, rtol=1e-6)
    lags = np.linspace(0, 30, 50)
    np.testing.assert_allclose(fit.model.kernel(lags), system(lags), atol=1e-9)


def test_units_beyond_the_order_are_not_added():
    fit = fit_exponential_sum(system, width=7)
    assert fit.width == 5
    assert fit.status.code == "width_beyond_rank"


def test_one_state_beats_a_copy_per_channel_and_respects_the_bound():
    # 0.327 is what two rates with a state per channel reach at best.
    fit = fit_exponential_sum(system, width=4)
    assert fit.bound is not None
    assert fit.bound <= fit.error < 0.2
    A, B, C = (np.asarray(x) for x in (fit.model.A, fit.model.B, fit.model.C))
    np.testing.assert_allclose(A + A.T + B @ B.T, 0, atol=1e-10)
    # the squared error in closed form: Gram matrices of the difference of the two systems
    joint_A = scipy.linalg.block_diag(-np.diag(RATES), A)
    joint_B = np.concatenate([INPUTS, B])
    joint_C = np.concatenate([OUTPUTS.T, -C], axis=1)
    gram = scipy.linalg.solve_continuous_lyapunov(joint_A, -joint_B @ joint_B.T)
    assert fit.errors["l2"] ** 2 == pytest.approx(np.trace(joint_C @ gram @ joint_C.T), rel=1e-8)


def test_splitting_full_residues_changes_nothing():
    rates = np.array([0.5, 1 + 2j, 1 - 2j])
    residues = RNG.standard_normal((3, 2, 2)) + 1j * RNG.standard_normal((3, 2, 2))
    residues[0], residues[2] = residues[0].real, residues[1].conj()
    split = split_full(rates, residues)
    assert isinstance(split, RankOneSum)
    assert split.width == 6
    lags = np.linspace(0, 5, 20)
    own_rates, own = split.modes()
    want = np.einsum("tk,koi->toi", np.exp(-np.outer(lags, rates)), residues)
    have = np.einsum("tk,koi->toi", np.exp(-np.outer(lags, own_rates)), own)
    np.testing.assert_allclose(have, want, atol=1e-12)
