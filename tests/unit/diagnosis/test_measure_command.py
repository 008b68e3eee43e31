"""`recollect measure` and the report behind it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.signal import lfilter

from recollect import memory, models, targets
from recollect.cli import main
from recollect.diagnosis import _measure_command, measure_model, measure_spectrum

MODELS = """
import numpy as np
from recollect import models

rates = np.geomspace(0.02, 1, 6)
linear = models.DiagonalRNN(rates, rates[:, None], np.ones((1, 6)) / 6)


def made():
    return models.LinearRNN([[0.5]], [[1.0]], [[1.0]], dt=1.0)


def ahead(u):
    return np.concatenate([u[3:], np.zeros((3, 1))])


def mean(u):
    return np.cumsum(u, axis=0) / np.arange(1, len(u) + 1)[:, None]


class Halving:
    def __call__(self, u):
        return np.concatenate([u[:1], u[1:] + 0.5 * u[:-1]])


number = 3
weights = {"weight_hh": np.eye(3)}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "some_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "some_models"


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["measure", *arguments])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def test_a_linear_model_is_measured_exactly(module, capsys):
    code, out, err = call(capsys, f"{module}:linear", "--json")
    assert code == 0
    assert err == ""
    record = json.loads(out)
    assert (record["schema"], record["version"], record["unit"]) == (
        "recollect.measure",
        1,
        "steps",
    )
    spectrum = record["model"]["spectrum"]
    rates = np.geomspace(0.02, 1, 6)
    np.testing.assert_allclose(spectrum["timescales"], 1 / rates, rtol=1e-12)
    assert spectrum["margin"] == pytest.approx(-np.expm1(-0.02), rel=1e-12)
    assert spectrum["weight_margin"] == pytest.approx(0.02, rel=1e-6)
    assert spectrum["slowest_rate"] == pytest.approx(0.02, rel=1e-12)
    found = record["model"]["memory"]
    assert not found["is_lower_estimate"]
    kernel = (rates * np.exp(-rates * np.array(found["lags"])[:, None])).sum(axis=1) / 6
    np.testing.assert_allclose(np.array(found["values"])[:, 0], kernel, rtol=1e-10)
    assert found["law"] == "exponential"


def stacked():
    rates = np.geomspace(0.02, 1, 6)
    units = [
        models.DiagonalRNN(rates, rates[:, None], np.ones((1, 6)) / 6),
        models.DiagonalRNN(
            rates / 10, rates[:, None], np.ones((1, 6)), reparam=models.Exponential()
        ),
    ]
    return models.Stack([models.StateSpaceLayer(u, [[1.0]], activation="tanh") for u in units])


def test_a_stack_is_measured_layer_by_layer():
    report = measure_model(stacked(), horizon=120.0, trained_on=30.0, n_restarts=0)
    lines = report.summary()
    out = "\n".join(lines)
    assert len(lines) <= 14
    assert any(line.startswith("layer 1:") for line in lines)
    assert "trained on 30 steps, remembers" in out
    assert "untested" in out
    assert "no change of the trained rate weights makes it unstable (layer 1)" in out


def test_a_saved_model_wins_over_a_module(module, tmp_path, capsys):
    models.save(models.LinearRNN([[0.5]], [[1.0]], [[1.0]], dt=1.0), tmp_path / "net")
    for name in ("net", "net.json", "net.safetensors"):
        code, out, _ = call(capsys, name, "--horizon", "40")
        assert code == 0
        assert "LinearRNN" in out


def test_half_of_a_saved_model_is_named(module, tmp_path, capsys):
    models.save(models.LinearRNN([[0.5]], [[1.0]], [[1.0]], dt=1.0), tmp_path / "half")
    (tmp_path / "half.safetensors").unlink()
    code, _, err = call(capsys, "half", "--horizon", "40")
    assert code == 2
    assert "a saved model is a pair of files" in err


def test_a_saved_unit_is_shown_and_prints_do_not_mix_in(module, tmp_path, capsys):
    model = models.LinearRNN([[0.5]], [[1.0]], [[1.0]], dt=0.25)
    models.save(model, tmp_path / "timed", unit="hours")
    _, out, _ = call(capsys, "timed", "--json", "--horizon", "10")
    record = json.loads(out)
    assert record["unit"] == "hours"
    assert record["dt"] == 0.25
    (tmp_path / "loud.py").write_text("print('hello')\nfrom some_models import linear\n")
    _, out, err = call(capsys, "loud:linear", "--json", "--horizon", "10")
    assert json.loads(out)["unit"] == "steps"
    assert "hello" in err


def test_a_function_without_arguments_makes_the_model(module, capsys):
    code, out, _ = call(capsys, f"{module}:made", "--horizon", "20")
    assert code == 0
    assert out.startswith("model:        LinearRNN, 1 -> 1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["some_models:nope"], "attribute of some_models"),
        (["no_such_module:x"], "module that can be imported"),
        (["plain"], "module:attribute"),
        (["some_models:number"], "a functional, a callable or a module"),
        (["some_models:weights"], "a function that builds it, loads them and returns it"),
        (["some_models:ahead"], "changes 3 steps before its input"),
        (["some_models:ahead", "--dt", "0.5"], "changes 3 steps (a time of 1.5) before its input"),
        (["some_models:linear", "--dt", "0"], "--dt"),
        (["some_models:linear", "--dt", "5 parsecs"], "did you mean 'sec'"),
        (["some_models:linear", "--dt", "5min", "--unit", "h"], "--unit: expected 'min'"),
        (["some_models:linear", "--settle", "-1"], "--settle"),
        (["some_models:linear", "--horizon", "-1"], "--horizon"),
        (["some_models:linear", "--normalisation", "x"], "normalisation"),
        (["."], "directory"),
    ],
)
def test_errors_are_one_line(module, capsys, arguments, words):
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


def test_a_model_that_is_not_time_homogeneous_says_so(module, capsys):
    code, out, _ = call(capsys, f"{module}:mean")
    assert code == 0
    assert "depends on when the input came" in out


def test_the_spectrum_of_a_nonlinear_layer_is_its_derivative_at_rest():
    rng = np.random.default_rng(0)
    W, U, b = 0.4 * rng.standard_normal((5, 5)), np.ones((5, 1)), rng.standard_normal(5)
    layer = models.ElmanRNN(W, U, np.ones((1, 5)), b)
    state = np.zeros(5)
    for _ in range(512):
        state = np.tanh(W @ state + b)
    expected = np.linalg.eigvals((1 - state**2)[:, None] * W)
    found = measure_spectrum(layer)
    np.testing.assert_allclose(
        np.sort(np.abs(found.multipliers)), np.sort(np.abs(expected)), rtol=1e-9
    )
    assert found.margin == pytest.approx(1 - np.abs(expected).max(), rel=1e-9)


def test_the_matrix_margin_is_the_distance_to_instability():
    """Of a normal matrix it is the distance of the spectrum from the circle; of others less."""
    normal = models.LinearRNN(np.diag([0.9, -0.5]), np.ones((2, 1)), np.ones((1, 2)), dt=1.0)
    assert measure_spectrum(normal).matrix_margin == pytest.approx(0.1, rel=1e-6)
    A = np.array([[0.5, 50.0], [0.0, 0.5]])
    skewed = models.LinearRNN(A, np.ones((2, 1)), np.ones((1, 2)), dt=1.0)
    margin = measure_spectrum(skewed).matrix_margin
    assert 0 < margin < 0.01
    left, sizes, right = np.linalg.svd(np.eye(2) - A)
    moved = A + 1.001 * sizes[-1] * np.outer(left[:, -1], right[-1])
    assert np.abs(np.linalg.eigvals(moved)).max() >= 1
    assert margin == pytest.approx(sizes[-1], rel=1e-6)


@pytest.mark.parametrize(
    ("reparam", "margin", "room"),
    [
        (models.Direct(), 0.1, float(np.finfo(np.float32).max)),
        (models.Exponential(), np.inf, np.log(float(np.finfo(np.float32).max)) - np.log(2.0)),
        (models.InverseSquare(), np.inf, np.inf),
    ],
)
def test_weights_may_move_as_far_as_the_parameterisation_allows(reparam, margin, room):
    rates = np.array([0.1, 0.4, 2.0]) if not np.isinf(room) else np.array([0.1, 0.4, 0.5])
    model = models.DiagonalRNN(rates, np.ones((3, 1)), np.ones((1, 3)), reparam=reparam)
    found = measure_spectrum(model)
    assert found.weight_margin == pytest.approx(margin, rel=1e-6)
    assert found.weight_room == pytest.approx(room, rel=1e-6)


def test_an_unstable_layer_is_named_with_its_overflow():
    model = models.LinearRNN([[1.1]], [[1.0]], [[1.0]], dt=1.0)
    report = measure_model(model, horizon=64.0)
    assert report.status.code == "diverged"
    time = report.whole.spectrum.overflow_time
    assert time == pytest.approx(np.log(float(np.finfo(np.float32).max)) / np.log(1.1), rel=1e-9)
    with np.errstate(over="ignore"):
        assert np.float32(1.1) ** np.float32(time + 1) == np.inf
    assert any("grows with the lag" in line for line in report.summary())
    assert (
        json.loads(json.dumps(report.record(), allow_nan=False))["model"]["memory"]["t95"] is None
    )


def test_permuted_units_have_the_same_report():
    rng = np.random.default_rng(4)
    model = models.initialise_gru(5, n_outputs=1, key=3)
    order = rng.permutation(5)
    rows = np.concatenate([order, 5 + order, 10 + order])
    other = models.GRU(
        model.input_weights[rows],
        model.state_weights[np.ix_(rows, order)],
        model.input_bias[rows],
        model.state_bias[rows],
        model.C[:, order],
    )
    first, second = (measure_spectrum(m) for m in (model, other))
    np.testing.assert_allclose(np.abs(first.multipliers), np.abs(second.multipliers), rtol=1e-10)
    assert first.matrix_margin == pytest.approx(second.matrix_margin, rel=1e-6)
    grids = [memory.measure_memory(m, dt=1.0, horizon=30.0, n_restarts=0) for m in (model, other)]
    np.testing.assert_allclose(grids[0].memory, grids[1].memory, atol=1e-13)


def test_a_file_names_a_module_too(module, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(["measure", str(tmp_path / "some_models.py") + ":made"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("model:        LinearRNN")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_alone_are_answered_with_what_to_do(module, tmp_path, capsys, suffix):
    (tmp_path / f"trained{suffix}").write_bytes(b"weights")
    code, out, err = call(capsys, f"trained{suffix}")
    assert (code, out) == (2, "")
    assert "my_file.py:make" in err
    assert err.count("\n") == 1


def named(text, dt="1", unit=None):
    return _measure_command.read_named(text, dt=dt, unit=unit, settle=None)


def test_a_class_is_said_to_have_the_weights_of_its_start(module, capsys):
    _, out, _ = call(capsys, f"{module}:Halving", "--horizon", "8", "--largest-input", "1")
    assert "note:         some_models:Halving is a class" in out
    assert named(f"{module}:made").notes == ()


def test_a_step_may_carry_its_unit(module, tmp_path):
    def step(*arguments):
        found = named(*arguments)
        return found.dt, found.unit

    assert step(f"{module}:made") == (1.0, "steps")
    assert step(f"{module}:made", "0.5", "h") == (0.5, "h")
    assert step(f"{module}:made", "5min") == (5.0, "min")
    assert step(f"{module}:made", "5 min", "min") == (5.0, "min")
    # The rates of a saved model are in its own unit.
    models.save(models.LinearRNN([[-1.0]], [[1.0]], [[1.0]]), tmp_path / "hourly", unit="hours")
    assert step("hourly", "0.5") == (0.5, "hours")
    assert step("hourly", "15min") == (0.25, "hours")


def slow(u):
    return lfilter([1.0], [1.0, -0.99], u, axis=0)


def late(u):
    return np.concatenate([np.zeros((100, 1)), u])[: len(u)]


def test_a_horizon_grows_until_the_memory_is_settled():
    report = measure_model(slow, n_restarts=0, largest_input=1.0)
    assert report.status.is_ok
    assert report.whole.reach[2] == pytest.approx(np.log(0.05) / np.log(0.99), rel=5e-3)
    assert measure_model(late, n_restarts=0, largest_input=1.0).whole.reach[2] == pytest.approx(
        100, abs=1
    )
    integrating = models.LinearRNN([[-1e-3]], [[1.0]], [[1.0]])
    report = measure_model(integrating)
    assert report.status.is_ok
    assert report.whole.reach[2] == pytest.approx(1e3 * np.log(20), rel=1e-3)


@pytest.mark.parametrize("model", [slow, models.LinearRNN([[-1e-2]], [[1.0]], [[1.0]])])
def test_a_memory_cut_at_the_horizon_is_a_bound_and_says_so(model):
    options = dict(n_restarts=0, largest_input=1.0)
    report = measure_model(model, horizon=64.0, trained_on=200.0, **options)
    assert report.horizon == 64.0
    assert report.status.code == "horizon_too_short"
    assert "--horizon" in str(report.status)
    assert not report.whole.is_settled
    assert report.whole.reach[2] < 64.0
    assert "t95 ≥ 59." in "\n".join(report.summary())
    assert report.remembers_beyond_training is None
    assert report.record()["model"]["memory"]["is_settled"] is False
    longer = measure_model(model, horizon=1024.0, **options)
    assert longer.status.is_ok
    assert all(np.less(report.whole.reach, longer.whole.reach))


def test_what_is_forgotten_is_not_remembered_later():
    """A tail below a thousandth of the largest value may hold more than a twentieth of the whole."""
    words = "\n".join(measure_model(targets.PowerLaw(exponent=1.5), horizon=4096.0).summary())
    assert "t95 399" in words
    assert "forgotten by" not in words
    assert "below a thousandth of its largest from 99" in words


def holding(u):
    """Forgets at a rate that falls with the size of the input."""
    state, states = 0.0, []
    for (value,) in u:
        state += (np.tanh(value) - state) / (2 + min(abs(value), 30.0))
        states.append(state)
    return np.array(states)[:, None]


def test_the_memory_of_ordinary_inputs_stands_beside_the_supremum():
    report = measure_model(holding, horizon=160.0, n_restarts=0)
    assert report.unit_inputs is not None
    assert report.unit_inputs.reach[2] < 9 < report.whole.reach[2]
    words = report.summary()
    assert words[1].endswith("inputs up to 1000 (--largest-input)")
    assert words[2].startswith("unit inputs:  t50 ")
    record = report.record()
    assert record["largest_input"] == 1000.0
    assert record["unit_inputs"]["t95"] == report.unit_inputs.reach[2]
    small = measure_model(holding, horizon=16.0, n_restarts=0, largest_input=1.0)
    assert small.unit_inputs is None
    assert "inputs up to 1 (--largest-input)" in small.summary()[1]
    linear = measure_model(models.LinearRNN([[0.5]], [[1.0]], [[1.0]], dt=1.0), horizon=20.0)
    assert linear.unit_inputs is None
    assert "inputs up to" not in linear.summary()[1]


def excited(u):
    """Starts in saturation, where inputs do little."""
    state, outputs = 3.0, []
    for (value,) in u:
        state = 0.8 * state + value
        outputs.append(np.tanh(state))
    return np.array(outputs)[:, None]


def test_a_model_out_of_rest_is_given_time():
    options = dict(horizon=40.0, n_restarts=0, largest_input=1.0)
    rested = measure_model(excited, **options)
    assert rested.map.is_time_homogeneous
    assert rested.settle == rested.time_to_rest > 0
    assert any("steps of silence (--settle)" in note for note in rested.notes)
    started = measure_model(excited, settle=0.0, **options)
    assert not started.map.is_time_homogeneous
    words = "\n".join(started.summary())
    assert f"it starts out of rest: --settle {started.time_to_rest:g}" in words
    assert started.notes == ()
    given = measure_model(excited, settle=rested.settle, **options)
    assert given.whole.reach == rested.whole.reach


def test_a_model_of_limited_length_is_measured_within_it():
    def limited(u):
        if len(u) > 200:
            raise IndexError("position 200 is beyond the table of positions")
        return slow(u)

    report = measure_model(limited, n_restarts=0, largest_input=1.0)
    assert (report.horizon, report.settle) == (64.0, 0.0)
    assert report.status.code == "horizon_too_short"


def test_the_largest_memory_over_starts_is_shown_though_it_is_cut():
    def diluted(u):
        return slow(u) / (1 + np.arange(len(u)))[:, None]

    report = measure_model(diluted, horizon=300.0, n_restarts=0, largest_input=1.0)
    assert not report.map.is_time_homogeneous
    assert len(report.whole.memory.lags) == 300
    np.testing.assert_array_equal(report.whole.memory.memory, report.map.memory.max(axis=0))
    assert report.status.code == "horizon_too_short"


def test_a_model_that_never_rests_is_probed_from_its_start():
    def drifting(u):
        return np.cumsum(0.1 + 0.0 * u, axis=0) + u

    report = measure_model(drifting, horizon=40.0, n_restarts=0)
    assert (report.settle, report.time_to_rest) == (0.0, np.inf)
    assert any("comes to no rest" in note for note in report.notes)
