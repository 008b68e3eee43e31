"""Kernels as text: what is recognised, what is refused, and that nothing else ever happens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recollect.targets as rt


def values(kernel, lags):
    return np.asarray(kernel.kernel(lags))[:, 0, 0]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("(1+t)**-1.5", "PowerLaw"),
        ("1/(1+0.1*t)**1.1", "PowerLaw"),
        ("2/(1+t)", "PowerLaw"),
        ("1/sqrt(1+t)", "PowerLaw"),
        ("exp(-2*t)", "DiagonalRNN"),
        ("exp(-t)+3*exp(-5*t)", "DiagonalRNN"),
        ("2*(exp(-t)-exp(-3*t))/7", "DiagonalRNN"),
        ("exp(-t)*cos(3*t)", "DiagonalRNN"),
        ("exp(-t)*sin(3*t+1)+exp(-2*t)", "DiagonalRNN"),
        ("exp(t)*exp(-2*t)", "DiagonalRNN"),
        ("exp(-t/2)**3", "DiagonalRNN"),
        ("0.9**t", "DiagonalRNN"),
        ("t*exp(-t)", "LinearRNN"),
        ("(1+t)**2*exp(-t)-exp(-t)/2", "LinearRNN"),
        ("t*exp(-t)*sin(2*t)", "LinearRNN"),
        ("exp(-(t-4)**2/2)", "Bump"),
        ("bump(t,4,0.5)", "Bump"),
        ("3*exp(-t**2+2*t)", "Bump"),
        ("exp(-t)+exp(-(t-4)**2/2)", "SumKernel"),
        ("(1+t)**-2-box(t,1,2)", "SumKernel"),
        ("airy(t-6)", "Airy"),
        ("4*airy(2*(t-3))", "Airy"),
        ("box(t,9,11)", "Box"),
        ("exp(-sqrt(t))", "StretchedExponential"),
        ("exp(-(t/2)**0.3)", "StretchedExponential"),
        ("erfc(t)", "ExpressionKernel"),
        ("(1+t**2)**-1", "ExpressionKernel"),
        ("exp(-t)*cos(t)**2", "ExpressionKernel"),
        ("max(0,1-t)", "ExpressionKernel"),
        ("exp(-t)/(1+t)", "ExpressionKernel"),
        ("exp(-abs(t-3))", "ExpressionKernel"),
    ],
)
def test_families_are_recognised_and_agree_with_the_text(text, kind):
    kernel = rt.parse_kernel(text)
    assert type(kernel).__name__ == kind
    direct = rt.ExpressionKernel(text)
    lags = np.linspace(0, 20, 401)
    scale = np.abs(values(direct, lags)).max()
    np.testing.assert_allclose(
        values(kernel, lags), values(direct, lags), rtol=1e-9, atol=1e-12 * scale
    )
    if text in ("2/(1+t)", "1/sqrt(1+t)"):
        return
    s = np.array([0.3, 2.0])
    for n in (0, 1, 2):
        np.testing.assert_allclose(
            np.asarray(kernel.laplace(s, derivative=n)),
            direct.laplace(s, derivative=n),
            rtol=1e-9,
            atol=1e-10 * scale,
        )


def test_recognition_tells_complete_monotonicity():
    assert rt.parse_kernel("(1+t)**-1.5").is_completely_monotone
    assert rt.parse_kernel("(1+t)**-1.5+2/(3+t)**4").is_completely_monotone
    assert not rt.parse_kernel("airy(t-6)").is_completely_monotone


@pytest.mark.parametrize(
    ("text", "norm", "exact"),
    [
        ("erfc(t)", "l1", 1 / np.sqrt(np.pi)),
        ("(1+t**2)**-1", "l1", np.pi / 2),
        ("max(0,1-t)", "l2", np.sqrt(1 / 3)),
        ("exp(-abs(t-3))", "l1", 2 - np.exp(-3)),
        ("heaviside(5-t)", "l1", 5.0),
        ("expn(2,t)", "l1", 0.5),
        ("exp(-t)*sin(t)", "linf", np.exp(-np.pi / 4) / np.sqrt(2)),
    ],
)
def test_norms_of_free_expressions(text, norm, exact):
    assert rt.measure_norm(rt.ExpressionKernel(text), norm=norm) == pytest.approx(exact, rel=1e-10)


def test_a_narrow_late_feature_is_seen():
    text = "(1+t)**-2+exp(-(t-300)**2/0.02)+0*t"
    norm = rt.measure_norm(rt.ExpressionKernel(text))
    assert norm == pytest.approx(1 + 0.1 * np.sqrt(2 * np.pi), rel=1e-9)


def test_parts_may_overflow_once_the_kernel_has_ended():
    kernel = rt.ExpressionKernel("cosh(t)*exp(-3*t)")
    assert values(kernel, np.array([1e4, 1e200])).tolist() == [0.0, 0.0]
    assert rt.measure_norm(kernel) == pytest.approx(0.5 * (1 / 2 + 1 / 4), rel=1e-10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("exp(-x)", "'x'; write t"),
        ("expp(-t)", "'expp'; did you mean 'exp'"),
        ("airi(t-6)", "did you mean 'airy'"),
        ("__import__('os')", "__import__"),
        ("os.system(1)", "os.system"),
        ("t.real", "t.real"),
        ("t[0]", r"t\[0\]"),
        ("[t]", "known words"),
        ("lambda t: t", "lambda"),
        ("1j*t", "complex number"),
        ("exp(-t)^2", r"'\^'; write \*\*"),
        ("t//2", "write / "),
        ("'a'", "'a'"),
        ("True", "True"),
        ("t<3", "t < 3"),
        ("exp", r"write exp\("),
        ("exp(-t,2)", "argument"),
        ("box(t,1)", "3 argument"),
        ("exp(-t", "does not parse"),
        ("t t", "does not parse"),
        ("e(-t)", r"write e\*\("),
        ("exp(x=t)", "keyword"),
        ("9**9**9**9", "inf"),
        ("1e999", "1.8e308"),
        ("exp(t)", "infinity"),
        ("2**t", "infinity"),
        ("1/t", "t = 0"),
        ("t**-0.5*exp(-t)", "t = 0"),
        ("log(t)", "t = 0"),
        ("sqrt(1-t)", "no real number"),
        ("(-1)**0.5*exp(-t)", "nan"),
        ("(" * 100 + "t" + ")" * 100, "nesting"),
        ("-" * 3000 + "t", "nesting|parse"),
        ("t+" * 3000 + "t", "characters"),
        ("+".join(["t"] * 900), "numbers, names"),
        ("exp(-t)\n+1", "one line"),
        ("exp(-t)\0", "one line"),
    ],
)
def test_refusals_name_the_word_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as error:
        rt.parse_kernel(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_anything_but_text_is_the_wrong_type():
    with pytest.raises(TypeError, match="text"):
        rt.parse_kernel(3)  # type: ignore[arg-type]


_WORDS = st.sampled_from(
    ["t", "1", "2.5", "-", "+", "*", "/", "**", "(", ")", ",", "exp", "airy", "box", "pi", "e",
     "0.1", "max", "sqrt", "gamma", "[", "]", ".", "if", "lambda", "x", "1e308", "9", " ", ":="]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(_WORDS, max_size=25).map("".join)))
def test_any_text_gives_a_kernel_or_a_value_error(text):
    message = ""
    try:
        kernel = rt.parse_kernel(text)
    except ValueError as error:
        message = str(error)
    else:
        assert np.isfinite(values(kernel, np.linspace(0, 5, 7))).all()
    assert "\n" not in message


_EXPRESSIONS = st.recursive(
    st.sampled_from(["t", "1", "0.5", "3", "(1+t)", "exp(-t)"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda p: f"({p[0]}{p[1]}{p[2]})"),
        st.tuples(inner, st.sampled_from(["2", "-1.5", "0.5", "t"])).map(
            lambda p: f"({p[0]})**{p[1]}"
        ),
        st.tuples(st.sampled_from(["exp", "sqrt", "sin", "abs", "airy", "erfc"]), inner).map(
            lambda p: f"{p[0]}(-{p[1]})"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(_EXPRESSIONS)
def test_recognised_kernels_equal_python(text):
    try:
        kernel = rt.parse_kernel(text)
    except ValueError:
        return
    import scipy.special as sp

    names = {
        "t": (t := np.linspace(0, 4, 9)),
        "exp": np.exp,
        "sqrt": np.sqrt,
        "sin": np.sin,
        "abs": np.abs,
        "airy": lambda x: sp.airy(x)[0],
        "erfc": sp.erfc,
        "__builtins__": {},
    }
    # Every number as a float, so that Python's integers do not enter.
    with np.errstate(all="ignore"):
        exact = np.broadcast_to(eval(text, names), t.shape).astype(float)
    scale = np.abs(exact).max() or 1.0
    np.testing.assert_allclose(values(kernel, t), exact, rtol=1e-7, atol=1e-8 * scale)


def refusal(text):
    try:
        rt.parse_kernel(text)
    except ValueError as error:
        return str(error)
    return ""


def test_every_function_that_is_listed_is_known():
    names = rt.expression_functions()
    assert {"exp", "cos"} <= set(names)
    assert not any("known words" in refusal(f"exp(-t)*{name}(1)") for name in names)
    assert "known words" in refusal("exp(-t)*secant(1)")
