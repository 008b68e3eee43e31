"""Every kernel against mpmath: Laplace transform and derivatives, step response, norms."""

from __future__ import annotations

import math

import jax
import mpmath
import numpy as np
import pytest
import scipy.optimize
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import recollect.targets as rt

mpmath.mp.dps = 18


def _bump(mu, sigma):
    return lambda t: mpmath.exp(-((t - mu) ** 2) / (2 * mpmath.mpf(sigma) ** 2))


# kernel, the same in mpmath, lags that split its integrals, end (None: infinite)
CASES = {
    "power 1.1": (
        rt.PowerLaw(exponent=1.1),
        lambda t: (1 + t) ** -mpmath.mpf(1.1),
        [1, 10, 100, 1e3, 1e4, 1e5, 1e7],
        None,
    ),
    "power 4.5": (
        rt.PowerLaw(exponent=4.5, scale=2, amplitude=-3),
        lambda t: -3 * (1 + t / 2) ** -mpmath.mpf(4.5),
        [1, 10, 100, 1e3, 1e4],
        None,
    ),
    "airy": (
        rt.Airy(scale=1.5, shift=4),
        lambda t: mpmath.airyai(1.5 * (t - 4)),
        [1, 2, 3, 4, 6, 9],
        15,
    ),
    "airy right": (rt.Airy(shift=-3), lambda t: mpmath.airyai(t + 3), [1, 2, 4], 12),
    "bump": (rt.Bump(delay=8), _bump(8, 1), [2, 5, 7, 8, 9, 11], 24),
    "bump left": (rt.Bump(delay=-1, width=0.5, height=2), lambda t: 2 * _bump(-1, 0.5)(t), [1], 6),
    "box": (rt.Box(9, 11, height=2), lambda t: mpmath.mpf(2) if 9 <= t < 11 else 0, [9], 11),
    "stretched": (
        rt.StretchedExponential(exponent=0.5, timescale=3),
        lambda t: mpmath.exp(-mpmath.sqrt(t / 3)),
        [0.01, 0.1, 1, 10, 100, 1e3, 4e3],
        None,
    ),
    "template": (
        rt.TemplateKernel(lambda u: 1 / np.cosh(u**2), delay=5.0, width=2.0),
        lambda t: 1 / mpmath.cosh(((t - 5) / 2) ** 2),
        [2, 5, 8],
        18,
    ),
    "expression": (
        rt.ExpressionKernel("exp(-t)*j0(2*t)+erfc(t)"),
        lambda t: mpmath.exp(-t) * mpmath.besselj(0, 2 * t) + mpmath.erfc(t),
        [1, 2, 4, 8, 16, 32],
        60,
    ),
}


def integrate(function, splits, end, extra=()):
    points = sorted({mpmath.mpf(0), *(mpmath.mpf(x) for x in (*splits, *extra))})
    if end is not None:
        points = [p for p in points if p < end]
    return mpmath.quad(function, [*points, mpmath.mpf(end) if end is not None else mpmath.inf])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("s", [1e-3, pytest.param(4.0, marks=pytest.mark.slow), 60.0, 0.5 + 2j])
def test_laplace_transform_and_derivatives(name, s):
    kernel, function, splits, end = CASES[name]
    near = [x / abs(s) for x in (0.01, 0.1, 1, 3, 10, 40)]
    for derivative in (0, 1, 2):
        point = mpmath.mpmathify(s)
        exact = complex(
            integrate(
                lambda t, n=derivative, p=point: (-t) ** n * mpmath.exp(-p * t) * function(t),
                splits,
                end,
                near,
            )
        )
        value = kernel.laplace(np.array([s]), derivative=derivative)
        assert value.shape == (1, 1, 1)
        assert np.iscomplexobj(value) == isinstance(s, complex)
        assert value[0, 0, 0] == pytest.approx(exact, rel=1e-10)


# An analytic kernel is integrated along a ray on which the wave decays.
TURNED = {
    "airy": (rt.Airy(scale=1.0, shift=3.0), lambda t: mpmath.airyai(t - 3), 6),
    "stretched": (
        rt.StretchedExponential(timescale=1.0, exponent=0.5),
        lambda t: mpmath.exp(-mpmath.sqrt(t)),
        4,
    ),
    "power": (rt.ExpressionKernel("(1+t)**-1.5"), lambda t: (1 + t) ** mpmath.mpf(-1.5), 4),
}


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("frequency", [30.0, 6e3, 1e6, 3e7])
def test_laplace_at_high_frequencies(name, frequency):
    kernel, function, part = TURNED[name]
    turn = mpmath.exp(-1j * mpmath.pi / part)
    for derivative in (0, 1, 2) if name != "power" else (0,):
        exact = mpmath.quad(
            lambda r, n=derivative: (
                turn
                * (-r * turn) ** n
                * function(r * turn)
                * mpmath.exp(-1j * frequency * r * turn)
            ),
            [x / mpmath.mpf(frequency) for x in (0, 0.01, 0.1, 1, 5, 20, 150)],
        )
        value = kernel.laplace(np.array([1j * frequency]), derivative=derivative)[0, 0, 0]
        whole = abs(kernel.laplace(np.array([1e-3]), derivative=derivative)[0, 0, 0])
        assert abs(value - complex(exact)) < 1e-13 * whole
        if derivative == 0:
            assert abs(value - complex(exact)) < 1e-6 * abs(value)


@pytest.mark.parametrize("name", CASES)
def test_step_response_and_kernel(name):
    kernel, function, splits, end = CASES[name]
    lags = np.array([0.0, 0.3, 2.0, 9.5, 20.0])
    values, steps = kernel.kernel(lags)[:, 0, 0], kernel.step_response(lags)[:, 0, 0]
    for t, value, step in zip(lags, values, steps, strict=True):
        assert value == pytest.approx(float(function(mpmath.mpf(t))), rel=1e-11, abs=1e-13)
        ends = [*splits, end] if end else splits
        exact = integrate(function, [x for x in ends if x < t], t) if t else 0
        assert step == pytest.approx(float(exact), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_norms(name):
    kernel, function, splits, end = CASES[name]
    if name in ("airy", "expression"):
        splits = [*splits, *np.linspace(0.25, end, 12)]
    # mpmath does not reach the end of t^-1.1.
    l1 = 10.0 if name == "power 1.1" else float(integrate(lambda t: abs(function(t)), splits, end))
    l2 = math.sqrt(float(integrate(lambda t: function(t) ** 2, splits, end)))
    # Sign changes inside a piece limit the oracle for the oscillating kernels in L1.
    oscillates = name in ("airy", "expression")
    assert rt.measure_norm(kernel, norm="l1") == pytest.approx(
        l1, rel=1e-3 if oscillates else 1e-10
    )
    assert rt.measure_norm(kernel, norm="l2") == pytest.approx(l2, rel=1e-10)
    dense = np.abs(kernel.kernel(np.linspace(0, 20, 200001))).max()
    assert rt.measure_norm(kernel, norm="linf") == pytest.approx(dense, rel=1e-8)


@pytest.mark.parametrize("rate", [1e-3, 1e-7, 1e-9, 1e-10])
def test_a_slow_exponential_beside_a_power_law_is_followed_to_its_end(rate):
    # (1+t)^-3/2 - e^(-wt) changes sign where (1+t)^3/2 = e^(wt): at 0 and far out, once.
    kernel = rt.PowerLaw(exponent=1.5, scale=1.0) - rt.exponential_sum([1.0], [rate])
    crossing = scipy.optimize.brentq(
        lambda x: x - 1.5 * math.log1p(x / rate), 3.0, 100.0, xtol=1e-14, rtol=1e-14
    )
    before = -math.expm1(-crossing) / rate - 2 * (1 - (1 + crossing / rate) ** -0.5)
    after = 2 * (1 + crossing / rate) ** -0.5 - math.exp(-crossing) / rate
    assert rt.measure_norm(kernel, norm="l1") == pytest.approx(before + after, rel=1e-10)


def test_l1_norm_of_airy_between_its_zeros():
    zeros = [float(6 + mpmath.airyaizero(k)) for k in (4, 3, 2, 1)]
    pieces = [z for z in zeros if z > 0]
    exact = integrate(lambda t: abs(mpmath.airyai(t - 6)), pieces, 26)
    measured = rt.measure_norm(rt.Airy(shift=6), norm="l1")
    assert measured == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize("s", [8.0, 8.5, 9.0, 12.0, 50.0, 1e3, 1e6])
def test_bump_far_beyond_its_delay(s):
    # z ≫ 1: the closed recurrence loses every digit here.
    kernel = rt.Bump(delay=8.0)
    for n in (0, 1, 2):
        exact = mpmath.quad(
            lambda t, n=n: (-t) ** n * mpmath.exp(-s * t - (t - 8) ** 2 / 2),
            [0, 0.1 / s, 1 / s, 3 / s, 10 / s, 40 / s, 100 / s, 1 + 100 / s, 24],
        )
        value = kernel.laplace([s], derivative=n)[0, 0, 0]
        assert value == pytest.approx(float(exact), rel=1e-11)


def test_airy_laplace_recursion():
    # L' = -(x²/s³+t_0)L + (xAi(z_0)+sAi'(z_0))/s³ links the orders, checked where it is stable.
    s, shift, x = 1.3, 4.0, np.array([0.2, 0.7, 1.5])
    kernel = rt.Airy(scale=s, shift=shift)
    ai = float(mpmath.airyai(-s * shift))
    slope = float(mpmath.airyai(-s * shift, derivative=1))
    zero, one, two = (kernel.laplace(x, derivative=n).ravel() for n in (0, 1, 2))
    first = -(x**2 / s**3 + shift) * zero + (x * ai + s * slope) / s**3
    second = -(2 * x / s**3) * zero - (x**2 / s**3 + shift) * one + ai / s**3
    np.testing.assert_allclose(one, first, rtol=1e-9)
    np.testing.assert_allclose(two, second, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    exponent=st.floats(0.2, 20),
    scale=st.floats(1e-3, 1e3),
    s=st.floats(1e-6, 1e6),
)
def test_power_law_scales_with_time(exponent, scale, s):
    unit = rt.PowerLaw(exponent=exponent).laplace([s * scale])[0, 0, 0]
    scaled = rt.PowerLaw(exponent=exponent, scale=scale).laplace([s])[0, 0, 0]
    assert scaled == pytest.approx(scale * unit, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(exponent=st.integers(1, 12), s=st.floats(1e-5, 500))
def test_power_law_is_the_exponential_integral(exponent, s):
    exact = float(mpmath.exp(s) * mpmath.expint(exponent, s))
    assert rt.PowerLaw(exponent=exponent).laplace([s])[0, 0, 0] == pytest.approx(exact, rel=1e-11)


@settings(max_examples=60, deadline=None)
@given(delay=st.floats(-5, 30), width=st.floats(0.1, 5), s=st.floats(1e-3, 50))
def test_bump_derivatives_are_consistent(delay, width, s):
    assume(s * delay < 600)  # beyond, e^{-s·delay} is below the smallest float
    kernel = rt.Bump(delay=delay, width=width)
    values = [kernel.laplace([s], derivative=n)[0, 0, 0] for n in (0, 1, 2)]
    assert values[0] > 0
    assert values[1] < 0
    assert values[2] > 0
    # Log-convexity of a Laplace transform (Cauchy-Schwarz).
    assert values[0] * values[2] >= values[1] ** 2 * (1 - 1e-10)
    # The recurrence, as an identity with each side at its own size.
    slope = s * width**2 - delay
    right = width**2 * values[0] + slope * values[1]
    size = width**2 * values[0] + abs(slope * values[1])
    assert abs(values[2] - right) <= 1e-9 * (size + values[2])


def test_call_is_the_exact_convolution():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((200, 1))
    for name, (kernel, *_) in CASES.items():
        dt = 0.21
        steps = kernel.step_response(dt * np.arange(201))[:, 0, 0]
        exact = np.convolve(np.diff(steps), signal[:, 0])[:200]
        np.testing.assert_allclose(kernel(signal, dt=dt)[:, 0], exact, atol=1e-12, err_msg=name)


def test_kernels_refuse_tracers_and_are_zero_before_time_zero():
    kernel = rt.PowerLaw(exponent=2)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(kernel.kernel)(np.ones(3))
    for name, (k, *_) in CASES.items():
        assert not k.kernel([-1.0, -0.1]).any(), name
        assert not k.step_response([-1.0, -0.1]).any(), name


def test_complete_monotonicity_is_known_where_it_holds():
    assert rt.PowerLaw(exponent=1.5).is_completely_monotone
    assert rt.StretchedExponential(exponent=0.5).is_completely_monotone
    assert not rt.StretchedExponential(exponent=1.5).is_completely_monotone
    assert not rt.Airy().is_completely_monotone
    both = rt.PowerLaw(exponent=1.5) + 2 * rt.StretchedExponential(exponent=0.5)
    assert both.is_completely_monotone
    assert (rt.PowerLaw(exponent=1.5) - rt.Bump(delay=3)).is_completely_monotone is None


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_norms_that_are_infinite_are_refused(norm):
    with pytest.raises(ValueError, match=f"finite in the {norm} norm"):
        rt.measure_norm(rt.PowerLaw(exponent=0.5), norm=norm)
    assert rt.measure_norm(rt.PowerLaw(exponent=0.5), norm="linf") == 1


def test_sums_add_everything():
    a, b = rt.Bump(delay=4), rt.Airy(shift=3)
    total = 2 * a - b * 0.5
    lags, s = np.linspace(0, 9, 19), np.array([0.1, 2.0])
    np.testing.assert_allclose(total.kernel(lags), 2 * a.kernel(lags) - 0.5 * b.kernel(lags))
    for n in (0, 1, 2):
        exact = 2 * a.laplace(s, derivative=n) - 0.5 * b.laplace(s, derivative=n)
        np.testing.assert_allclose(total.laplace(s, derivative=n), exact)
    network = rt.exponential_sum([1.0], [1.0])
    mixed = network + a if hasattr(network, "__add__") else a + network
    assert rt.measure_norm(mixed) == pytest.approx(1 + rt.measure_norm(a), rel=1e-10)
    assert len((total + mixed).terms) == 4


def test_memory_target_of_the_paper():
    # e^{-t} + bump: squared L2 norm in closed form, theory section 3.
    target = rt.SumKernel([rt.exponential_sum([1.0], [1.0]), rt.Bump(delay=8.0)])
    cross = float(mpmath.quad(lambda t: mpmath.exp(-t - (t - 8) ** 2 / 2), [0, 4, 8, 12, 24]))
    square = 0.5 + 2 * cross + rt.measure_norm(rt.Bump(delay=8.0), norm="l2") ** 2
    assert rt.measure_norm(target, norm="l2") == pytest.approx(math.sqrt(square), rel=1e-10)


def test_exponential_sums_of_every_kind():
    t = np.linspace(0, 6, 13)
    w = 1 + 2j
    a = 0.5 - 0.3j
    real = rt.exponential_sum([1, -2], [1.0, 0.5])
    np.testing.assert_allclose(
        real.kernel(t).ravel(), np.exp(-t) - 2 * np.exp(-0.5 * t), atol=1e-12
    )
    pair = rt.exponential_sum([a, a.conjugate()], [w, w.conjugate()])
    np.testing.assert_allclose(pair.kernel(t).ravel(), 2 * np.real(a * np.exp(-w * t)), atol=1e-12)
    repeated = rt.exponential_sum(
        [a, a.conjugate(), 3.0, 1.0], [w, w.conjugate(), 2.0, 2.0], powers=[2, 2, 0, 1]
    )
    exact = 2 * np.real(a * t**2 * np.exp(-w * t)) + (3 + t) * np.exp(-2 * t)
    np.testing.assert_allclose(repeated.kernel(t).ravel(), exact, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0], [-1.0]), "decaying"),
        (([1.0, 2.0], [1.0]), "one per rate"),
        (([1.0], [1 + 1j]), "conjugate"),
        (([1j], [1.0]), "real amplitude"),
        (([np.nan], [1.0]), "finite"),
    ],
)
def test_exponential_sum_refusals(arguments, words):
    with pytest.raises(ValueError, match=words):
        rt.exponential_sum(*arguments)


def test_delay_shifts_exactly_and_only_on_its_step():
    signal = np.random.default_rng(1).standard_normal((30, 1))
    delay = rt.Delay(7, dt=0.5)
    output = delay(signal, dt=0.5)
    assert (output[:7] == 0).all()
    assert (output[7:] == signal[:-7]).all()
    with pytest.raises(ValueError, match="discrete time only"):
        delay(signal, dt=0.25)
    steps = delay.step_response(0.5 * np.arange(31))[:, 0, 0]
    np.testing.assert_allclose(np.diff(steps), np.eye(30)[7], atol=1e-12)
    np.testing.assert_allclose(delay.kernel(0.5 * np.arange(30)).ravel(), 2 * np.eye(30)[7])


def test_templates_must_fall_like_a_gaussian_on_the_left():
    rt.TemplateKernel(lambda u: np.exp(-(u**2)), delay=5)
    rt.TemplateKernel(lambda u: np.where(np.abs(u) < 1, 1 - np.abs(u), 0.0), delay=5)
    for bad in (lambda u: np.exp(-np.abs(u)), lambda u: 1 / (1 + u**2), np.ones_like):
        with pytest.raises(ValueError, match="left tail"):
            rt.TemplateKernel(bad, delay=5)
    with pytest.raises(ValueError, match="bounded"):
        rt.TemplateKernel(lambda u: 1 / u * 0 + np.inf, delay=5)


@pytest.mark.parametrize("delay", [4.0, 16.0])
def test_gaussian_template_is_the_bump(delay):
    template = rt.TemplateKernel(lambda u: np.exp(-0.5 * u**2), delay=delay)
    bump = rt.Bump(delay=delay)
    s = np.array([0.1, 1.0, 20.0])
    for n in (0, 1, 2):
        np.testing.assert_allclose(
            template.laplace(s, derivative=n), bump.laplace(s, derivative=n), rtol=1e-10
        )
    for norm in ("l1", "l2", "linf"):
        assert rt.measure_norm(template, norm=norm) == pytest.approx(
            rt.measure_norm(bump, norm=norm), rel=1e-10
        )
