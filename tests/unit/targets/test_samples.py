"""Sampled kernels: exact for the interpolant, from arrays and from files."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import recollect.targets as rt

LAGS = np.array([0.0, 0.3, 1.0, 2.5, 2.6, 7.0])
VALUES = np.array([1.0, -0.5, 0.7, 0.2, -0.1, 0.4])


def interpolant(t):
    return mpmath.mpf(float(np.interp(float(t), LAGS, VALUES)))


@pytest.mark.parametrize("s", [0.0, 1e-4, 0.7, 30.0, 1 + 2j])
@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_laplace_is_exact_for_the_interpolant(s, derivative):
    kernel = rt.SampledKernel(LAGS, VALUES)
    exact = 0
    for a, b, u, v in zip(LAGS[:-1], LAGS[1:], VALUES[:-1], VALUES[1:], strict=True):
        exact += mpmath.quad(
            lambda t, a=a, b=b, u=u, v=v: (
                (-t) ** derivative * mpmath.exp(-s * t) * (u + (v - u) * (t - a) / (b - a))
            ),
            [a, a + (b - a) / 8, b],
        )
    value = kernel.laplace([s], derivative=derivative)[0, 0, 0]
    assert value == pytest.approx(complex(exact), rel=1e-11)


def test_step_response_and_norms():
    kernel = rt.SampledKernel(LAGS, VALUES)
    dense = np.linspace(0, 7, 700001)
    values = np.interp(dense, LAGS, VALUES)
    assert kernel.step_response([7.0])[0, 0, 0] == pytest.approx(np.trapezoid(VALUES, LAGS))
    assert kernel.step_response([99.0]) == kernel.step_response([7.0])
    assert rt.measure_norm(kernel) == pytest.approx(np.trapezoid(np.abs(values), dense), rel=1e-8)
    square = np.trapezoid(values**2, dense)
    assert rt.measure_norm(kernel, norm="l2") == pytest.approx(np.sqrt(square), rel=1e-8)
    assert rt.measure_norm(kernel, norm="linf") == 1.0
    assert kernel.kernel([7.0])[0, 0, 0] == 0.4
    assert kernel.kernel([7.1])[0, 0, 0] == 0.0


def test_several_channels_and_a_late_first_lag():
    values = np.arange(24.0).reshape(4, 2, 3)
    kernel = rt.SampledKernel([1.0, 2.0, 3.0, 4.0], values)
    assert (kernel.n_outputs, kernel.n_inputs) == (2, 3)
    np.testing.assert_array_equal(kernel.kernel([0.0])[0], values[0])
    assert kernel(np.ones((9, 3)), dt=0.5).shape == (9, 2)
    assert kernel.laplace([0.0, 1.0], derivative=1).shape == (2, 2, 3)


def test_many_uneven_samples_converge_to_the_kernel():
    lags = np.concatenate([[0.0], np.geomspace(1e-3, 40, 4000)])
    sampled = rt.SampledKernel(lags, np.exp(-lags))
    for n in (0, 1, 2):
        exact = (-1) ** n * [1, 1, 2][n] / 1.5 ** (n + 1)
        assert sampled.laplace([0.5], derivative=n)[0, 0, 0] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("lags", "values", "words"),
    [
        ([0, 1, 1], [1, 2, 3], "increasing lags"),
        ([0, 2, 1], [1, 2, 3], "index 2"),
        ([-1, 0], [1, 2], "not below zero"),
        ([0, 1], [1, np.nan], "NaN"),
        ([0, 1, 2], [1, 2], "shape"),
        ([0], [1], "at least two"),
    ],
)
def test_bad_arrays(lags, values, words):
    with pytest.raises(ValueError, match=words):
        rt.SampledKernel(lags, values)


@pytest.mark.parametrize(
    "text",
    [
        "t,rho\n0,1\n1,0.5\n2,0.25\n",
        "0;1\n1;0.5\n2;0.25",
        "t;rho\n0,0;1,0\n1,0;0,5\n2,0;2,5e-1\n",
        "# a comment\n0\t1\n1\t0.5\n\n2\t0.25\n",
        "0 1\n1   0.5\n2 0.25\n",
        "\ufefft,rho\r\n0,1\r\n1,0.5\r\n2,0.25\r\n",
        "t,rho,\n0,1,\n1,0.5,\n2,0.25,\n",
    ],
)
def test_tables_are_read(tmp_path, text):
    path = tmp_path / "kernel.csv"
    path.write_text(text, encoding="utf-8")
    kernel = rt.read_kernel(path)
    np.testing.assert_array_equal(kernel.lags, [0, 1, 2])
    np.testing.assert_array_equal(kernel.values.ravel(), [1, 0.5, 0.25])


def test_columns_by_name(tmp_path):
    path = tmp_path / "kernel.csv"
    path.write_text("rho,noise,lag\n1,9,0\n0.5,9,1\n")
    kernel = rt.read_kernel(path, lag="lag", value="rho")
    np.testing.assert_array_equal(kernel.values.ravel(), [1, 0.5])
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        rt.read_kernel(path, lag="lag", value="nois")
    with pytest.raises(ValueError, match="different columns, got 'rho' for both"):
        rt.read_kernel(path, value="rho")


@pytest.mark.parametrize("delimiter", [",", " "])
def test_a_comment_above_the_numbers_names_the_columns(tmp_path, delimiter):
    path, table = tmp_path / "kernel.csv", np.array([[0, 9, 1], [1, 9, 0.5]])
    names = delimiter.join(["t", "noise", "rho"])
    np.savetxt(path, table, delimiter=delimiter, header=f"made by hand\n{names}")
    np.testing.assert_array_equal(rt.read_kernel(path, value="rho").values.ravel(), [1, 0.5])
    with pytest.raises(ValueError, match=r"got 3 \(t, noise, rho\)"):
        rt.read_kernel(path)
    np.savetxt(path, table, delimiter=delimiter, header="made by hand on a Monday")
    with pytest.raises(ValueError, match="got 3 without a header"):
        rt.read_kernel(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"t,rho\n0,1\n1,abc\n", "line 3: expected a finite number, got 'abc'"),
        (b"t,rho\n0,1\n1,\n", "line 3.*a gap"),
        (b"0,1\n1,nan\n", "line 2"),
        (b"0,1\n1\n", "line 2: expected at least 2 columns"),
        (b"0,1\n2,1\n1,1\n", "line 3: expected increasing"),
        (b"-1,1\n2,1\n", "not below zero"),
        (b"0,1\n", "at least two rows"),
        (b"\x89PNG\0\0\0", "binary"),
        (b"t,k1,k2\n0,1,2\n1,1,2\n", r"two columns.*got 3 \(t, k1, k2\).*--value NAME"),
        (b"0,1,2\n1,1,2\n", "two columns.*got 3 without a header"),
        (b"t,rho\n", "at least two rows"),
    ],
)
def test_bad_files_in_one_line(tmp_path, content, words):
    path = tmp_path / "kernel.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        rt.read_kernel(path)
    assert "\n" not in str(error.value)
    assert "Errno" not in str(error.value)


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(ValueError, match="a file that exists"):
        rt.read_kernel(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="directory"):
        rt.read_kernel(tmp_path)


def test_arrays_are_read(tmp_path):
    path = tmp_path / "kernel.npz"
    np.savez(path, t=[0, 1, 2], rho=np.array([1.0, 0.5, 0.25]), noise=[9, 9, 9])
    kernel = rt.read_kernel(path, lag="t", value="rho")
    np.testing.assert_array_equal(kernel.values.ravel(), [1, 0.5, 0.25])
    with pytest.raises(ValueError, match=r"two columns.*got 3 \(t, rho, noise\)"):
        rt.read_kernel(path)
    np.savez(path, t=[0, 1, 2], rho=np.array([1.0, 0.5, 0.25]))
    np.testing.assert_array_equal(rt.read_kernel(path).lags, [0, 1, 2])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([{}, {}, {}], dtype=object), "allow_pickle=False"),
        (np.array([1j, 1, 1]), "real numbers, got dtype complex128"),
        (np.ones((3, 2)), r"one-dimensional.*shape \(3, 2\)"),
        (np.array([1.0, np.nan, 1.0]), "finite"),
        (np.ones(2), "expected shape"),
    ],
)
def test_arrays_that_are_no_kernel_are_refused_in_one_line(tmp_path, values, words):
    path = tmp_path / "kernel.npz"
    np.savez(path, t=[0.0, 1.0, 2.0], rho=values)
    with pytest.raises(ValueError, match=words) as error:
        rt.read_kernel(path)
    assert "\n" not in str(error.value)
