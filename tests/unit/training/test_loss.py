"""The exact loss against integrals in forty digits, differences and autodiff."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from recollect import targets, training

A, W = np.array([0.3, 0.9, -0.4]), np.array([1.0, 1.0 + 1e-7, 0.5])


def bumped(delay):
    return targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=delay, width=1.0, height=1.0)


def integral(a, w, rho, edges):
    def square(t):
        return (
            sum(mp.mpf(x) * mp.e ** (-mp.mpf(v) * t) for x, v in zip(a, w, strict=True)) - rho(t)
        ) ** 2

    return mp.quad(square, edges)


def derivative(f, point, k, order=1):
    steps = [0] * len(point)
    steps[k] = order
    return mp.diff(lambda *z: f(z), tuple(point), tuple(steps), h=mp.mpf(10) ** -10)


CASES = {
    "bump": (bumped(4.0), lambda t: mp.e**-t + mp.e ** (-((t - 4) ** 2) / 2)),
    "airy": (targets.Airy(scale=1.0, shift=3.0), lambda t: mp.airyai(t - 3)),
    "power": (targets.PowerLaw(exponent=2.0, scale=1.0), lambda t: (1 + t) ** -2),
    "sum": (
        targets.exponential_sum([2.0, -1.0], [1.0, 3.0]),
        lambda t: 2 * mp.e**-t - mp.e ** (-3 * t),
    ),
}


@pytest.mark.parametrize(
    "name", ["bump", "sum", *(pytest.param(n, marks=pytest.mark.slow) for n in ("airy", "power"))]
)
def test_loss_and_derivatives_against_forty_digits(name):
    target, rho = CASES[name]
    loss = training.exact_loss(target)
    edges = [*range(0, 13, 2), 20, 40, 80, 200]
    edges += [10**k for k in range(3, 12)] if name == "power" else []
    edges = [*edges[:9], 60] if name == "airy" else edges
    with mp.workdps(30):

        def exact(z):
            return integral(z[:3], z[3:], rho, edges)

        theta = (*A, *W)
        assert loss(A, W) == pytest.approx(float(exact(theta)), rel=1e-10)
        gradient = loss.gradient(A, W)
        for k in (5,) if name == "airy" else (0, 3, 5):
            assert gradient[k] == pytest.approx(
                float(derivative(exact, theta, k)), rel=1e-10, abs=1e-11
            )


@pytest.mark.slow
def test_hessian_against_autodiff():
    loss = training.exact_loss(targets.exponential_sum([1.0, 0.5], [1.0, 3.0]))

    def J(theta):
        D = jnp.concatenate([theta[:3], jnp.array([-1.0, -0.5])])
        V = jnp.concatenate([theta[3:], jnp.array([1.0, 3.0])])
        return D @ (1 / (V[:, None] + V[None, :])) @ D

    with jax.enable_x64(True):
        theta = jnp.asarray(np.concatenate([A, W]))
        np.testing.assert_allclose(loss(A, W), J(theta), rtol=1e-12)
        np.testing.assert_allclose(loss.gradient(A, W), jax.grad(J)(theta), rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(
            loss.hessian(A, W), jax.hessian(J)(theta), rtol=1e-10, atol=1e-13
        )


def test_hessian_is_the_slope_of_the_gradient():
    loss = training.exact_loss(bumped(6.0))
    theta, step = np.concatenate([A, W]), 1e-5
    shifted = [theta + sign * step * np.eye(6) for sign in (1, -1)]
    up, down = (loss.gradient(s[:, :3], s[:, 3:]) for s in shifted)
    np.testing.assert_allclose(loss.hessian(A, W), (up - down) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("delay", [8.0, 20.0, 60.0])
def test_no_digit_is_lost_on_a_plateau(delay):
    # There the gradient is that of the bump alone: a_k never enters, and e^{sμ} erfc overflows.
    gradient = training.exact_loss(bumped(delay)).gradient([0.25, 0.75], [1.0, 1.0])
    with mp.workdps(60):

        def transform(s):
            return mp.quad(lambda t: mp.e ** (-s * t - (t - delay) ** 2 / 2), [0, delay, 2 * delay])

        expected = [-2 * transform(1), -2 * mp.mpf("0.25") * mp.diff(transform, 1, 1)]
    np.testing.assert_allclose(
        gradient[[0, 2]],
        [float(-e) if k else float(e) for k, e in enumerate(expected)] * np.array([1, -1]),
        rtol=1e-10,
    )


def test_a_difference_keeps_digits_that_a_subtraction_loses():
    loss = training.exact_loss(bumped(12.0))
    a, w = np.array([0.3, 0.7]), np.array([1.0, 1.0])
    moved = a + 1e-9 * np.array([1.0, -0.5])
    with mp.workdps(50):

        def exact(x):
            x = [mp.mpf(float(v)) for v in x]
            d = x[0] + x[1] - 1
            bump = mp.quad(lambda t: mp.e ** (-t - (t - 12) ** 2 / 2), [0, 12, 40])
            return d * d / 2 - 2 * d * bump

        expected = float(exact(moved) - exact(a))
    assert loss.difference(moved, w, a, w) == pytest.approx(expected, rel=1e-6)


def test_coloured_input_against_the_double_integral():
    c = 0.7
    loss = training.exact_loss(
        targets.exponential_sum([1.0], [1.0]), spectrum=training.ou_spectrum(rate=c)
    )
    amplitudes, rates = np.append(A, -1.0), np.append(W, 1.0)
    u, v = rates[:, None], rates[None, :]
    overlap = c / 2 * (u + v + 2 * c) / ((u + v) * (u + c) * (v + c))
    assert loss(A, W) == pytest.approx(amplitudes @ overlap @ amplitudes, rel=1e-10)
    theta, step = np.concatenate([A, W]), 1e-5
    shifted = [theta + sign * step * np.eye(6) for sign in (1, -1)]
    losses, slopes = ([f(s[:, :3], s[:, 3:]) for s in shifted] for f in (loss, loss.gradient))
    np.testing.assert_allclose(loss.gradient(A, W), (losses[0] - losses[1]) / (2 * step), atol=1e-8)
    np.testing.assert_allclose(loss.hessian(A, W), (slopes[0] - slopes[1]) / (2 * step), atol=1e-8)


def test_fast_colour_is_white():
    target = bumped(6.0)
    white = training.exact_loss(target)(A, W)
    errors = [
        abs(training.exact_loss(target, spectrum=training.ou_spectrum(rate=c))(A, W) - white)
        for c in (1e2, 1e3)
    ]
    # The correction is of first order in the correlation time: the kernel jumps at lag zero.
    assert errors[1] < 0.2 * errors[0] < 0.1


def test_batches_are_rows():
    loss = training.exact_loss(bumped(6.0))
    a, w = np.random.default_rng(0).uniform(0.2, 2, (2, 4, 5, 3))
    assert loss(a, w).shape == (4, 5)
    np.testing.assert_allclose(loss(a, w)[2, 3], loss(a[2, 3], w[2, 3]), rtol=1e-14)
    np.testing.assert_allclose(
        loss.gradient(a, w)[1, 1], loss.gradient(a[1, 1], w[1, 1]), rtol=1e-13
    )
    np.testing.assert_allclose(loss.hessian(a, w)[1, 1], loss.hessian(a[1, 1], w[1, 1]), rtol=1e-13)


@pytest.mark.parametrize(
    ("target", "values"),
    [
        (
            targets.exponential_sum([1.0, -0.4], [0.5, 2.0])
            + targets.Bump(delay=6.0, width=0.8, height=1.3),
            lambda t: (
                np.exp(-0.5 * t) - 0.4 * np.exp(-2 * t) + 1.3 * np.exp(-((t - 6) ** 2) / 1.28)
            ),
        ),
        (targets.Airy(scale=1.0, shift=3.0), lambda t: scipy.special.airy(t - 3)[0]),
    ],
)
def test_coloured_loss_is_the_variance_of_the_filtered_error(target, values):
    # E e² = 2v ∫ e(t) g(t) dt with g' = e - c g, for an input of covariance v exp(-c|τ|).
    c, v = 0.7, 0.9
    a, w = np.array([0.7, 0.2]), np.array([0.6, 1.1])

    def error(t):
        return a @ np.exp(-w * t) - values(t)

    found = scipy.integrate.solve_ivp(
        lambda t, y: [error(t) - c * y[0], 2 * v * error(t) * y[0]],
        (0, 60),
        [0.0, 0.0],
        method="DOP853",
        rtol=1e-11,
        atol=1e-13,
        max_step=0.5,
    )
    loss = training.exact_loss(target, spectrum=training.ou_spectrum(rate=c, variance=v))
    assert loss(a, w) == pytest.approx(found.y[1, -1], rel=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: training.exact_loss(np.tanh), TypeError, "Laplace transform"),  # type: ignore[arg-type]
        (
            lambda: training.exact_loss(targets.PowerLaw(exponent=0.4)),
            ValueError,
            "l2 norm",
        ),
        (lambda: training.exact_loss(bumped(3.0))([1.0], [-1.0]), ValueError, "positive rates"),
        (lambda: training.exact_loss(bumped(3.0))([1.0], [1.0, 2.0]), ValueError, "shape"),
        (lambda: training.exact_loss(bumped(3.0), spectrum=1.0), TypeError, "spectrum"),  # type: ignore[arg-type]
        (lambda: training.ou_spectrum(rate=0.0), ValueError, "rate"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
