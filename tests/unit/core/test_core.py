"""The foundation: black boxes, statuses, precision, discretisation, references."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import recollect as rc
from recollect import approximation, memory, models, targets
from recollect._core import _check, _references, _signals


def test_a_numpy_callable_becomes_a_functional():
    functional = rc.as_functional(lambda u: np.cumsum(u, axis=0)[:, 0])
    np.testing.assert_array_equal(functional(np.ones((4, 1)), dt=1.0)[:, 0], [1, 2, 3, 4])
    assert rc.as_functional(functional) is functional


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (np.ones(4), "signal\\[:, None\\]"),
        (np.ones((4, 2)), "1 input"),
        (np.ones((0, 1)), "sample"),
    ],
)
def test_signals_of_the_wrong_shape_are_explained(signal, words):
    with pytest.raises(ValueError, match=words):
        rc.as_functional(lambda u: u)(signal, dt=1.0)


def test_a_black_box_with_the_wrong_output_is_refused():
    with pytest.raises(ValueError, match="one output row per input row"):
        rc.as_functional(lambda u: u[:-1])(np.ones((4, 1)), dt=1.0)
    with pytest.raises(TypeError, match="callable"):
        rc.as_functional(3)


def test_every_status_has_a_remedy():
    for code in rc.Status.codes():
        status = rc.Status(code, "here")
        assert status.is_ok or status.remedy
        assert set(status.record()) == {"code", "message", "remedy"}
    with pytest.raises(ValueError, match="did you mean 'diverged'"):
        rc.Status("divergd")


def test_float64_is_entered_and_left():
    before = jnp.asarray(1.0).dtype
    doubled = rc.in_float64(jax.jit(lambda x: x + 1e-12))(np.float32([1.0]))
    assert doubled.dtype == np.float64
    assert doubled[0] > 1
    assert jnp.asarray(1.0).dtype == before


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
def test_float64_must_be_outermost(transform):
    with pytest.raises(RuntimeError, match="outermost"):
        transform(rc.in_float64(lambda x: x.sum()))(jnp.ones(3))


def test_a_tracer_is_refused_by_name():
    def traced(x):
        return _check.host_float64("kernel", x, owner="fit_exponential_sum").sum()

    with pytest.raises(TypeError, match=r"kernel.*fit_exponential_sum"):
        jax.jit(traced)(jnp.ones(2))


@pytest.mark.parametrize("value", ["four", np.array([1, np.nan]), [1, np.inf], np.array([None])])
def test_what_is_not_a_finite_number_is_refused(value):
    with pytest.raises((ValueError, TypeError), match="input"):
        _check.host_float64("input", value, owner="here")


@pytest.mark.parametrize("rate", [1e-12, 1e-6, 0.3, 40.0, 2 + 3j])
def test_zero_order_hold_against_quadrature(rate):
    dt = 0.7
    multiplier, gain = rc.ZeroOrderHold().diagonal(np.array([rate]), dt=dt)
    real, _ = scipy.integrate.quad(lambda t: np.exp(-rate * t).real, 0, dt, epsabs=1e-14)
    imag, _ = scipy.integrate.quad(lambda t: np.exp(-rate * t).imag, 0, dt, epsabs=1e-14)
    assert gain[0] == pytest.approx(real + 1j * imag if imag else real, rel=1e-12)
    assert multiplier[0] == pytest.approx(np.exp(-rate * dt), rel=1e-14)


def test_dense_and_diagonal_rules_agree():
    rates, B = np.array([0.2, 1.0, 5.0]), np.ones((3, 1))
    for rule in (rc.ZeroOrderHold(), rc.Euler()):
        A_step, B_step = rule.dense(-np.diag(rates), B, dt=0.3)
        multiplier, gain = rule.diagonal(rates, dt=0.3)
        np.testing.assert_allclose(A_step, np.diag(multiplier), atol=1e-14)
        np.testing.assert_allclose(B_step[:, 0], gain, rtol=1e-13)


def test_sources_are_cited():
    assert "li2021curse" in rc.cite(models.LinearRNN)
    assert "chen2012estimation" in rc.cite(memory.estimate_kernel)
    assert "adamyan1971analytic" in rc.cite(approximation.fit_exponential_sum)
    assert rc.cite(len) == ""


def test_every_cited_key_is_in_the_bibliography():
    entries = _references._entries()
    for room in (approximation, memory, models, targets):
        for name in room.__all__:
            for key in getattr(getattr(room, name), "__recollect_references__", ()):
                assert key in entries, f"{name} cites {key}"


def test_probe_signals():
    assert _signals.step_signal(3, (1.0, -2.0)).tolist() == [[1.0, -2.0]] * 3
    assert _signals.impulse_signal(3)[:, 0].tolist() == [1, 0, 0]
    assert _signals.reversed_signal(2, 2)[:, 0].tolist() == [1, 1, 0, 0]
