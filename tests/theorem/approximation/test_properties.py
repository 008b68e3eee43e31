"""What every fit must satisfy, whatever the kernel and the norm."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import approximation, targets
from recollect.models import LinearRNN

_KERNELS = {
    "power": targets.PowerLaw(exponent=1.7),
    "heavy": targets.PowerLaw(exponent=1.2),
    "airy": targets.Airy(scale=1.0, shift=4.0),
    "bump": targets.Bump(delay=3.0, width=0.8),
    "box": targets.Box(0.5, 2.0),
    "stretched": targets.StretchedExponential(timescale=1.0, exponent=0.6),
}
_NORMS = ("l1", "l2", "linf")
_QUICK = {("power", "l1"), ("bump", "l2"), ("power", "linf"), ("heavy", "l2"), ("stretched", "l1")}


def _cases(names):
    """Every kernel in every norm; the long ones among them are slow."""
    return [
        pytest.param(name, norm, marks=() if (name, norm) in _QUICK else pytest.mark.slow)
        for name in names
        for norm in _NORMS
    ]


@pytest.mark.parametrize(("name", "norm"), _cases(["power", "airy", "bump"]))
def test_scaling_time_and_kernel_scales_the_answer(name, norm):
    scale_t, scale_y = 250.0, 3e-4
    kernel = _KERNELS[name]
    stretched = {
        "power": lambda: targets.PowerLaw(exponent=1.7, scale=scale_t),
        "airy": lambda: targets.Airy(scale=1 / scale_t, shift=4 * scale_t),
        "bump": lambda: targets.Bump(delay=3 * scale_t, width=0.8 * scale_t),
    }[name]()
    width = 4
    plain = approximation.fit_exponential_sum(kernel, width=width, norm=norm)
    other = approximation.fit_exponential_sum(scale_y * stretched, width=width, norm=norm)
    power = {"l1": 1.0, "l2": 0.5, "linf": 0.0}[norm]
    assert other.errors[norm] == pytest.approx(
        plain.errors[norm] * scale_y * scale_t**power, rel=2e-3
    )
    np.testing.assert_allclose(
        np.sort_complex(other.rates) * scale_t, np.sort_complex(plain.rates), rtol=3e-2
    )


@pytest.mark.parametrize(("name", "norm"), _cases(list(_KERNELS)))
def test_adding_a_width_never_worsens_and_never_beats_the_bound(name, norm):
    curve = approximation.fit_widths(_KERNELS[name], range(1, 9), norm=norm)
    # Judged on a grid the fit never saw: the last digits may wobble.
    assert np.all(curve.errors[1:] <= curve.errors[:-1] * (1 + 1e-6))
    for fit, bound in zip(curve.fits, curve.bounds, strict=True):
        assert np.all(fit.rates.real > 0)
        if np.isfinite(bound):
            assert fit.errors[norm] >= bound * (1 - 1e-6)
        kernel_norm = approximation_norm(fit, norm)
        assert fit.errors[norm] <= kernel_norm * (1 + 1e-6)  # never worse than answering zero


@pytest.mark.parametrize(
    ("delay", "norm"),
    [
        (2.0, "l2"),
        *(pytest.param(4.0, norm, marks=pytest.mark.slow) for norm in ("l1", "l2", "linf")),
    ],
)
def test_a_width_beyond_the_rank_is_as_good_as_the_widest_told_apart(delay, norm):
    kernel = targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=delay, width=1.0)
    narrow, wide = (approximation.fit_exponential_sum(kernel, width=m, norm=norm) for m in (20, 32))
    assert wide.errors[norm] <= narrow.errors[norm]
    assert wide.status.code == "width_beyond_rank"
    assert wide.width < 32


def approximation_norm(fit, norm):
    return float(fit.stats["kernel_norms"][norm])


@pytest.mark.parametrize("norm", ["l1", "l2", pytest.param("linf", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("amplitudes", "rates"),
    [
        pytest.param([1.0, 0.2, 0.05], [3.0, 0.5, 0.04], marks=pytest.mark.slow),
        ([1.0, -0.7], [1.0, 2.0]),
        ([0.5 - 0.5j, 0.5 + 0.5j, 0.4], [0.4 + 2j, 0.4 - 2j, 0.1]),
    ],
)
def test_exact_sums_are_recovered(amplitudes, rates, norm):
    kernel = targets.exponential_sum(amplitudes, rates)
    fit = approximation.fit_exponential_sum(kernel, width=len(rates), norm=norm)
    size = targets.measure_norm(kernel, norm=norm)
    assert fit.errors[norm] <= 1e-9 * size
    np.testing.assert_allclose(
        np.sort_complex(fit.rates.astype(complex)),
        np.sort_complex(np.array(rates, dtype=complex)),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(i, marks=pytest.mark.slow) for i in (0, 2, 3, 4, 5, 6, 7))]
)
def test_random_stable_systems_are_recovered_by_their_order(seed):
    rng = np.random.default_rng(seed)
    order = int(rng.integers(2, 7))
    A = rng.normal(size=(order, order))
    A -= (np.linalg.eigvals(A).real.max() + rng.uniform(0.2, 1.0)) * np.eye(order)
    system = LinearRNN(A, rng.normal(size=(order, 1)), rng.normal(size=(1, order)))
    fit = approximation.fit_exponential_sum(system, width=order, norm="l2")
    size = targets.measure_norm(system, norm="l2")
    assert fit.errors["l2"] <= 1e-7 * size
    wider = approximation.fit_exponential_sum(system, width=order + 3, norm="l2")
    assert wider.errors["l2"] <= 1e-7 * size
    assert np.all(wider.rates.real > 0)
    if wider.width < order + 3:
        assert wider.status.code == "width_beyond_rank"


def test_not_integrable_is_refused_in_l1_and_fitted_in_l2():
    kernel = targets.PowerLaw(exponent=0.8)
    with pytest.raises(ValueError, match=r"integrable|norm|finite"):
        approximation.fit_exponential_sum(kernel, width=4, norm="l1")
    fit = approximation.fit_exponential_sum(kernel, width=4, norm="l2")
    assert np.isfinite(fit.errors["l2"])
    assert not np.isfinite(fit.errors["l1"])


@pytest.mark.parametrize("norm", _NORMS)
def test_not_decaying_is_refused(norm):
    with pytest.raises(ValueError, match=r"expected"):
        approximation.fit_exponential_sum(
            lambda t: 1.0 + np.exp(-np.asarray(t)), width=2, norm=norm
        )


def test_growing_is_refused():
    with pytest.raises(ValueError, match=r"expected"):
        approximation.fit_exponential_sum(lambda t: np.exp(0.1 * np.asarray(t)), width=2)


def test_complex_kernels_are_refused():
    with pytest.raises((TypeError, ValueError), match=r"real|complex"):
        approximation.fit_exponential_sum(lambda t: np.exp((1j - 1) * np.asarray(t)), width=2)
