"""What the front accepts beside exact kernels in absolute norms."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import memory, targets
from recollect.approximation import fit_exponential_sum

HUMP = targets.parse_kernel("exp(-t)+0.3*exp(-(t-3)**2/2)")


def test_a_relative_fit_of_a_kernel_recovers_a_sum_and_counts_every_decade_alike():
    exact = fit_exponential_sum(
        targets.exponential_sum([1.0, 0.5], [1.0, 0.1]), width=2, weights="relative"
    )
    assert max(exact.errors.values()) < 1e-12
    kernel = targets.StretchedExponential(timescale=5.0, exponent=0.5)
    relative = fit_exponential_sum(kernel, width=4, weights="relative")
    absolute = fit_exponential_sum(kernel, width=4)
    lags = np.geomspace(1e-2, 1e3, 400)
    true = kernel.kernel(lags)[:, 0, 0]

    def largest(fit):
        return np.max(np.abs(fit.model.kernel(lags)[:, 0, 0] / true - 1))

    assert largest(relative) < 0.35 < largest(absolute)
    # errors are measured where the fit did not look, and say so
    assert largest(relative) <= relative.errors["linf"] * (1 + 1e-6)
    assert "relative" in relative.stats["errors_are"]


@pytest.mark.parametrize("options", [{"dt": 0.1}, {}])
def test_a_relative_fit_is_refused_where_it_means_nothing(options):
    kernel = targets.Airy(scale=1.0, shift=6.0) if not options else targets.PowerLaw(exponent=2.0)
    with pytest.raises(ValueError, match="weights"):
        fit_exponential_sum(kernel, width=2, weights="relative", **options)


def test_positive_amplitudes_are_fitted_in_the_norm_asked_for():
    fits = {norm: fit_exponential_sum(HUMP, width=3, norm=norm, positive=True) for norm in
            ("l1", "l2", "linf")}  # fmt: skip
    for norm, fit in fits.items():
        assert np.all(fit.amplitudes.real > 0)
        assert np.all(fit.rates.imag == 0)
        for other in fits.values():
            assert fit.errors[norm] <= other.errors[norm] * (1 + 1e-9)
    assert fits["l1"].errors["l1"] < 0.9 * fits["l2"].errors["l1"]
    assert fits["linf"].errors["linf"] < 0.8 * fits["l2"].errors["linf"]


def test_an_estimated_kernel_is_fitted_by_its_likelihood():
    rng = np.random.default_rng(3)
    model = targets.exponential_sum([1.0, 0.5], [0.5, 0.05])
    x = rng.standard_normal(1500)
    y = np.asarray(model(x[:, None], dt=1.0))[:, 0]
    y = y + 0.05 * y.std() * rng.standard_normal(len(y))
    estimate = memory.estimate_kernel(x, y, dt=1.0)
    fit = fit_exponential_sum(estimate, width=2, norm="l1")
    np.testing.assert_allclose(np.sort(fit.rates.real), [0.05, 0.5], rtol=0.1)
    assert fit.bound is not None
    assert fit.bound <= fit.error
    lags = np.linspace(0, 30, 50)
    modal = np.einsum("tk,koi->toi", np.exp(-np.outer(lags, fit.rates)), fit.amplitudes).real
    np.testing.assert_allclose(modal, fit.model.kernel(lags), atol=1e-9)
    with pytest.raises(ValueError, match="brings its own noise"):
        fit_exponential_sum(estimate, width=2, poles="real")


def test_a_table_that_starts_late_is_fitted_where_it_was_measured():
    lags = np.arange(5.0, 45.0)
    values = np.exp(-lags / 4) + 0.2 * np.exp(-lags / 12)
    fit = fit_exponential_sum(targets.SampledKernel(lags, values), width=2)
    np.testing.assert_allclose(np.sort(fit.rates.real), [1 / 12, 1 / 4], rtol=1e-6)
    assert "40 samples" in fit.stats["errors_are"]
