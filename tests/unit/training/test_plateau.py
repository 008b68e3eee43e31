"""The plateau detector on curves whose continuation is known: how often it is wrong, and how much."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
import scipy.signal

from recollect import targets, training


def draw_curve(rng, correlation=0.0):
    """Returns kind, curve, its continuation (30 times as long), and whether its fate is visible."""
    kind = str(rng.choice(["plateau", "floor", "slow_decay"]))
    n = int(10 ** rng.uniform(2.3, 4.3))
    noise = 0.0 if rng.random() < 0.25 else 10 ** rng.uniform(-6, -1)
    t = np.arange(30 * n + 1.0) / n
    is_visible = True
    if kind == "plateau":
        # Down onto the plateau, and off it as from a saddle; up to 7 % gone at the end.
        start, settle = rng.uniform(0, 3), rng.uniform(0.01, 0.08)
        grow, height = 10 ** rng.uniform(-1.3, -0.3), rng.uniform(0.2, 0.9)
        gone = 10 ** rng.uniform(-6, math.log10(0.07))
        escape = height / (1 + (height / gone - 1) * np.exp(np.minimum(-(t - 1) / grow, 600)))
        curve = 1 + start * np.exp(-t / settle) - escape
        # The fall over the half stands above the mean of a sixteenth and above the settling.
        seen = gone * (1 - math.exp(-0.5 / grow))
        n_free = max(n / 16 * (1 - correlation) / (1 + correlation), 1.0)
        is_visible = seen > 10 * noise / math.sqrt(n_free)
        is_visible &= gone > max(3 * start * math.exp(-0.5 / settle), 1e-11)
    elif kind == "floor":
        left = 10 ** rng.uniform(-6, math.log10(0.003))
        if rng.random() < 0.7:
            curve = 1 + left * np.exp(-(t - 1) / rng.uniform(0.04, 0.2))
        else:
            curve = 1 + left * ((t + 0.05) / 1.05) ** -rng.uniform(1.5, 4)
    else:
        left = 10 ** rng.uniform(math.log10(0.03), -0.1)
        if rng.random() < 0.5:
            curve = 1 - left + left * np.exp(-(t - 1) / 10 ** rng.uniform(-0.5, 0.7))
        else:
            curve = 1 - left + left * ((t + 0.02) / 1.02) ** -(10 ** rng.uniform(-1, 0.3))
    curve = curve * 10 ** rng.uniform(-3, 1)
    white = rng.standard_normal(n + 500) * math.sqrt(1 - correlation**2)
    coloured = np.asarray(scipy.signal.lfilter([1.0], [1.0, -correlation], white))[500:]
    seen = np.abs(curve[:n] * (1 + noise * coloured))
    return kind, seen, curve[n:], is_visible


def judge_many(n_curves, seed, correlation=0.0):
    """Returns counts of right, wrong and undecided verdicts, and remaining steps over the truth."""
    rng = np.random.default_rng(seed)
    counts, ratios, covered = collections.Counter(), [], []
    for _ in range(n_curves):
        kind, seen, later, is_visible = draw_curve(rng, correlation)
        n_remaining = int(len(seen) * 10 ** rng.uniform(-1, 1.4))
        found = training.judge_plateau(seen, n_remaining=n_remaining)
        gain = 1 - later[n_remaining] / later[0]
        truth = "wait" if gain > 0.02 else "stop" if gain < 0.005 else None
        if truth is not None:
            word = "right" if found.verdict == truth else "wrong"
            word = "undecided" if found.status.code == "undecided" else word
            counts[word if is_visible else f"hidden {word}"] += 1
        if kind == found.kind == "plateau":
            left = int(np.argmax(later < 0.9 * later[0]))
            ratios.append(found.remaining_steps / max(left, 1))
            low, high = found.remaining_range
            covered.append(low <= left <= high)
    return counts, np.array(ratios), np.mean(covered)


def check_rates(counts, ratios, coverage, wrong=0.02):
    # What the docstring states.
    decided = counts["right"] + counts["wrong"]
    assert counts["wrong"] < wrong * decided
    assert counts["undecided"] < 0.25 * (decided + counts["undecided"])
    assert np.mean((ratios > 0.5) & (ratios < 2)) > 0.85
    assert coverage > 0.8


def test_the_error_rate_is_as_stated():
    check_rates(*judge_many(500, 1))


@pytest.mark.slow
def test_the_error_rate_over_thousands_is_as_stated():
    check_rates(*judge_many(4000, 2))
    # Noise with a memory of 10 and of 100 losses.
    check_rates(*judge_many(1500, 3, 0.9), wrong=0.03)
    check_rates(*judge_many(1500, 4, 0.99), wrong=0.05)


def test_the_shapes_have_their_names():
    t = np.arange(2000) / 2000
    flow = {
        "plateau": 1 - 1e-3 * np.exp((t - 1) / 0.1),
        "slow_decay": 0.5 + 0.5 * (1 + 20 * t) ** -0.3,
        "floor": 1 + 1e-3 * np.exp(-(t - 1) / 0.2),
        "progress": np.exp(-2 * t),
        "flat": np.ones(2000),
    }
    found = {kind: training.judge_plateau(curve) for kind, curve in flow.items()}
    assert {kind: v.kind for kind, v in found.items()} == {kind: kind for kind in flow}
    assert [v.verdict for v in found.values()] == ["wait", "wait", "stop", "wait", "stop"]
    # Ten per cent below the end: ln(1 + 0.1/1e-3) growth times.
    wanted = 2000 * 0.1 * math.log1p(0.1 * (1 - 1e-3) / 1e-3)
    plateau = found["plateau"]
    assert plateau.remaining_steps == pytest.approx(wanted, rel=0.05)
    assert plateau.rate == pytest.approx(1 / 200, rel=0.05)
    assert plateau.fallen == pytest.approx(1e-3, rel=0.1)
    # Steps, not records, and only as many as one is willing to wait.
    thinned = training.judge_plateau(flow["plateau"], steps_per_loss=10, n_remaining=1000)
    assert thinned.remaining_steps == pytest.approx(10 * plateau.remaining_steps)
    assert (thinned.verdict, thinned.status.code) == ("stop", "stalled")
    assert str(thinned).startswith("plateau, about")
    assert found["flat"].status.code == "undecided"
    # Not even an escape promises anything below the floor that one knows.
    assert training.judge_plateau(flow["plateau"], floor=1.0).kind == "floor"


def test_noise_that_hides_the_answer_is_not_an_answer():
    rng = np.random.default_rng(0)
    found = training.judge_plateau(1 + 0.1 * rng.standard_normal(200))
    assert (found.verdict, found.kind, found.status.code) == ("wait", "early", "undecided")
    assert "hides a fall of" in found.status.message
    longer = training.judge_plateau(1 + 0.1 * rng.standard_normal(100_000))
    assert (longer.verdict, longer.kind) == ("stop", "flat")
    assert training.judge_plateau([]).kind == "early"


@pytest.mark.parametrize("delay", [8.0, 10.0, 12.0])
def test_a_real_plateau_announces_its_end(delay):
    # One unit waits on the plateau of a delayed memory (the gradient flow, from the exact loss).
    loss = training.exact_loss(targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=delay))
    path = training.solve_flow(loss, [1.0, 0.0], [1.0, 0.7], flow_time=1e4)

    def curve(times):
        theta = path.at(times)
        return np.asarray(loss(theta[:, :2], theta[:, 2:]))

    fine = np.geomspace(1e-2, min(path.flow_times[-1], 1e3), 5000)
    losses = curve(fine)
    end = fine[np.argmax(losses < 0.9 * losses[0])]
    for share in (0.8, 0.9):
        seen = curve(np.linspace(0, share * end, 1000))
        found = training.judge_plateau(seen, steps_per_loss=share * end / 1000)
        assert (found.kind, found.verdict) == ("plateau", "wait")
        left = fine[np.argmax((losses < 0.9 * seen[-1]) & (fine > share * end))] - share * end
        assert 0.5 * left < found.remaining_steps < 2 * left
        assert 0.7 * found.remaining_range[0] < left < found.remaining_range[1]


@pytest.mark.parametrize(
    ("losses", "options", "message"),
    [
        (-np.ones(50), {}, "losses"),
        (np.full(50, np.nan), {}, "losses"),
        (np.ones((5, 5)), {}, "losses"),
        (np.ones(50), {"n_remaining": -1}, "n_remaining"),
        (np.ones(50), {"steps_per_loss": 0}, "steps_per_loss"),
        (np.ones(50), {"drop": 0}, "drop"),
        (np.ones(50), {"floor": -1}, "floor"),
    ],
)
def test_what_is_no_curve_is_refused(losses, options, message):
    with pytest.raises(ValueError, match=message):
        training.judge_plateau(losses, **options)
