"""Prony tables, arrays and other steps carry the same kernel."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from recollect.approximation._export import change_step, export_arrays, tabulate_prony
from recollect.approximation._linf import fit_minimax_sum
from recollect.approximation._problem import Poles, evaluate_sum
from recollect.approximation._samples import fit_samples
from recollect.models import LinearRNN

LAGS = np.geomspace(1e-3, 1e4, 80)


@pytest.fixture(scope="module")
def relaxation():
    values = 3.0 + 5 * np.exp(-LAGS / 0.1) + 2 * np.exp(-LAGS / 50)
    return fit_samples(LAGS, values, width=2, positive=True, constant=True, weights="relative")


def test_prony_table_holds_the_curve(relaxation):
    table = tabulate_prony(relaxation)
    np.testing.assert_allclose(table.timescales, [0.1, 50], rtol=1e-4)
    np.testing.assert_allclose(table.moduli, [5, 2], rtol=1e-4)
    assert table.equilibrium_modulus == pytest.approx(3, rel=1e-4)
    assert table.instantaneous_modulus == pytest.approx(10, rel=1e-4)
    assert table.relative_moduli.sum() < 1


def test_csv_can_be_read_back_to_every_digit(relaxation, tmp_path):
    table = tabulate_prony(relaxation)
    table.write(tmp_path / "prony.csv")
    text = (tmp_path / "prony.csv").read_text()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    equilibrium = float(comments[1].split("=")[1])
    rows = list(csv.DictReader(io.StringIO("\n".join(x for x in text.splitlines() if x[0] != "#"))))
    tau = np.array([float(row["tau"]) for row in rows])
    modulus = np.array([float(row["E"]) for row in rows])
    np.testing.assert_array_equal(tau, table.timescales)
    again = equilibrium + np.exp(-LAGS[:, None] / tau) @ modulus
    fitted = evaluate_sum(relaxation.rates, relaxation.amplitudes, LAGS)[:, 0, 0]
    np.testing.assert_allclose(again, fitted + relaxation.constant[0, 0], rtol=1e-12)


def test_finite_element_formats_follow_their_manuals(relaxation):
    table = tabulate_prony(relaxation)
    abaqus = table.text("abaqus").splitlines()
    assert abaqus[1] == "*VISCOELASTIC, TIME=PRONY"
    g, k, tau = (float(x) for x in abaqus[2].split(","))
    assert (g, k) == (pytest.approx(table.relative_moduli[0]), 0.0)
    assert tau == pytest.approx(table.timescales[0])
    many = tabulate_prony(fit_minimax_sum(lambda t: (1 + t) ** -1.0, width=5))
    ansys = many.text("ansys", material=3).splitlines()
    assert ansys[0] == "TB,PRONY,3,,5,SHEAR"
    assert [line.split(",")[1] for line in ansys[1:]] == ["1", "7"]
    assert len(ansys[1].split(",")) == 8
    with pytest.raises(ValueError, match="abaqus"):
        table.text("abacus")


@pytest.mark.parametrize(
    ("rates", "amplitudes", "constant", "word"),
    [
        ([1 + 1j, 1 - 1j], [1, 1], 0.0, "real rates"),
        ([1, 2], [1, -1], 0.0, "positive amplitudes"),
        ([1, 2], [1, 1], -0.1, "constant"),
    ],
)
def test_unphysical_materials_are_refused(rates, amplitudes, constant, word):
    fit = Poles(
        np.array(rates, dtype=complex),
        np.array(amplitudes, dtype=complex)[:, None, None],
        constant=np.array([[constant]]),
    )
    with pytest.raises(ValueError, match=word):
        tabulate_prony(fit)


def _network(seed, dt):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((4, 4))
    A -= (np.linalg.eigvals(A).real.max() + 0.3) * np.eye(4)
    B, C = rng.standard_normal((4, 2)), rng.standard_normal((3, 4))
    if dt is None:
        return LinearRNN(A, B, C)
    return change_step(LinearRNN(A, B, C), dt=dt)


@pytest.mark.parametrize("seed", range(3))
def test_another_step_keeps_the_integrals_of_the_kernel(seed):
    model = _network(seed, None)
    A, B, C = (np.asarray(x, dtype=np.float64) for x in (model.A, model.B, model.C))
    for dt in (0.05, 0.7):
        sampled = change_step(model, dt=dt)
        inverse = np.linalg.inv(A)
        for j in (0, 1, 9):
            # ∫ C e^{As} B over a step, by the antiderivative.
            left, right = scipy.linalg.expm(A * j * dt), scipy.linalg.expm(A * (j + 1) * dt)
            wanted = C @ inverse @ (right - left) @ B
            got = sampled.C @ np.linalg.matrix_power(sampled.A, j) @ sampled.B
            np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_there_and_back_gives_the_same_kernel():
    model = _network(1, None)
    lags = np.linspace(0, 5, 30)
    back = change_step(change_step(change_step(model, dt=0.1), dt=0.3), dt=None)
    np.testing.assert_allclose(back.kernel(lags), model.kernel(lags), atol=1e-4)


def test_a_delay_has_no_other_step():
    A = np.diag(np.ones(3), -1)
    register = LinearRNN(A, np.eye(4)[:, :1], np.eye(4)[3:], dt=1.0)
    with pytest.raises(ValueError, match="continuous"):
        change_step(register, dt=0.5)


def test_arrays_are_plain_and_complete(relaxation, tmp_path):
    arrays = export_arrays(relaxation)
    assert set(arrays) == {"rates", "amplitudes", "constant"}
    np.savez(tmp_path / "fit.npz", **arrays)
    assert np.load(tmp_path / "fit.npz")["rates"].shape == (2,)
    network = export_arrays(_network(0, 0.5))
    assert network["dt"] == 0.5
    assert network["A"].dtype == np.float64
    with pytest.raises(TypeError, match="fit"):
        export_arrays(3.0)


def test_the_example_writes_a_table(tmp_path):
    path = Path(__file__).parents[3] / "examples" / "prony_series.py"
    spec = importlib.util.spec_from_file_location("prony_series", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(table=str(tmp_path / "table.csv"), quick=True) < 0.05
    assert (tmp_path / "table.csv").read_text().startswith("# E_0")
