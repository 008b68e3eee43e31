"""The verdict on a family: calibrated on synthetic curves, honest where it cannot tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recollect import stability
from recollect._core._status import Status

WIDTHS = np.array([4, 8, 16, 32, 64])
RADII = np.concatenate([[0.0], np.geomspace(1e-7, 10, 57)])


def curve(
    radii_lost, *, widths=WIDTHS, radii=RADII, start=0.0, sizes=1.0, norm="l1", infinite=True
):
    """E_m(β) = E_m(0) + 0.1 β/r below 2r, infinite beyond: a tenth is reached at β = r."""
    errors = []
    for lost in radii_lost:
        row = start + 0.1 * radii / lost
        errors.append(np.where(infinite & (radii > 2 * lost), np.inf, row))
    errors = np.array(errors)
    return stability.StabilityCurve(
        errors=errors,
        radii=radii,
        widths=np.asarray(widths),
        sampled=errors,
        bounds=np.full_like(errors, np.inf),
        norm=norm,
        ball="paper",
        of="all",
        status=Status(),
        stats={},
        sizes=None if sizes is None else np.full(len(errors), sizes),
    )


def draw(rng, kind, scatter, widths):
    m = np.asarray(widths, float)
    level = rng.normal(-3, 1)
    if kind == "settles":
        y = level + rng.normal(0, 1) * (m / m[0]) ** -rng.uniform(0.4, 2.5)
    elif kind == "power":
        y = level - rng.uniform(0.25, 2) * np.log2(m / m[0])
    else:
        y = level - rng.uniform(0.3, 1.5) * (np.sqrt(m) - math.sqrt(m[0]))
    return np.exp(y + scatter * rng.standard_normal(len(m)))


@pytest.mark.parametrize("widths", [WIDTHS, WIDTHS[:4]], ids=["five", "four"])
@pytest.mark.parametrize("scatter", [0.02, 0.1])
def test_verdicts_are_wrong_in_at_most_five_percent_of_synthetic_families(widths, scatter):
    rng = np.random.default_rng(len(widths))
    wrong = {"settles": "not stable", "power": "stable", "root": "stable"}
    right = {"settles": "stable", "power": "not stable", "root": "not stable"}
    n_each, n_wrong, n_right = 16, 0, 0
    for kind in wrong:
        for _ in range(n_each):
            lost = draw(rng, kind, scatter, widths)
            found = stability.estimate_stable_radius(curve(lost, widths=widths))
            n_wrong += found.verdict == wrong[kind]
            n_right += found.verdict == right[kind]
            assert found.status.code == ("undecided" if found.verdict == "undecided" else "ok")
    # The rest is undecided, not wrong.
    assert n_wrong <= 0.05 * 3 * n_each
    assert n_right >= 0.75 * 3 * n_each


def test_the_limit_of_a_settling_family_is_covered_by_its_interval():
    rng = np.random.default_rng(8)
    inside, n = 0, 0
    for _ in range(25):
        limit = math.exp(rng.normal(-3, 1))
        lost = limit * np.exp((WIDTHS / 4.0) ** -1.0 + 0.03 * rng.standard_normal(5))
        found = stability.estimate_stable_radius(curve(lost))
        if found.verdict == "stable":
            n += 1
            inside += abs(math.log(found.value / limit)) <= 2 * found.value_stderr / found.value
    assert n >= 18
    assert inside >= 0.85 * n


def test_radii_are_where_the_error_has_risen():
    lost = np.array([0.3, 0.2, 0.15, 0.14, 0.138])
    found = stability.estimate_stable_radius(curve(lost, start=0.01))
    assert found.radii == pytest.approx(lost, rel=1e-9)
    assert found.rise == pytest.approx(0.1)
    assert found.verdict == "stable"
    assert found.value == pytest.approx(0.138, rel=0.1)
    # Neither the grid of radii nor how far it goes changes the answer.
    other = np.concatenate([[0.0], np.geomspace(1e-4, 3, 23)])
    again = stability.estimate_stable_radius(curve(lost, start=0.01, radii=other))
    assert again.radii == pytest.approx(lost, rel=0.05)
    assert again.verdict == "stable"
    # Nor the order in which the networks come.
    shuffled = stability.estimate_stable_radius(
        curve(lost[::-1], start=0.01, widths=WIDTHS[::-1].copy())
    )
    assert shuffled.value == pytest.approx(found.value, rel=1e-9)


def test_the_default_rise_is_a_share_of_the_target():
    assert stability.estimate_stable_radius(curve([0.1] * 5, sizes=3.0)).rise == pytest.approx(0.3)
    squares = stability.estimate_stable_radius(curve([0.1] * 5, sizes=3.0, norm="mse"))
    assert squares.rise == pytest.approx(0.03)
    with pytest.raises(ValueError, match="rise"):
        stability.estimate_stable_radius(curve([0.1] * 5, sizes=None))


def test_divergence_counts_as_breaking():
    short = np.concatenate([[0.0], np.geomspace(1e-4, 10, 21)])
    errors = np.where(short > 0.05, np.inf, 0.001 * short)
    family = curve([1.0] * 5, radii=short)
    object.__setattr__(family, "errors", np.tile(errors, (5, 1)))
    found = stability.estimate_stable_radius(family)
    assert (found.radii > 0.02).all()
    assert (found.radii < 0.1).all()
    assert found.verdict == "stable"


def test_families_that_never_broke_or_broke_at_once():
    held = stability.estimate_stable_radius(curve([100.0] * 5))
    assert held.verdict == "stable"
    assert held.value == pytest.approx(10.0)
    assert "at least" in held.status.message
    at_once = stability.estimate_stable_radius(curve([1e-9] * 5))
    assert at_once.verdict == "undecided"
    assert "widen" in at_once.status.message
    unstable = curve([0.1] * 5)
    object.__setattr__(unstable, "errors", np.full_like(unstable.errors, np.inf))
    assert stability.estimate_stable_radius(unstable).verdict == "undecided"


def test_three_widths_and_noise_are_left_undecided():
    found = stability.estimate_stable_radius(curve([0.5, 0.2, 0.3], widths=[4, 8, 16]), level=0.95)
    assert found.verdict == "undecided"
    assert "probability" in found.status.message
    assert 0.05 < found.probability < 0.95
    with pytest.raises(ValueError, match="three widths"):
        stability.estimate_stable_radius(curve([0.5, 0.2], widths=[4, 8]))
    with pytest.raises(ValueError, match="level"):
        stability.estimate_stable_radius(curve([0.1] * 5), level=2)
    with pytest.raises(TypeError, match="StabilityCurve"):
        stability.estimate_stable_radius([0.1, 0.2])  # type: ignore[arg-type]


def test_a_family_that_does_not_approximate_says_so():
    found = stability.estimate_stable_radius(curve([0.1] * 5, start=0.5))
    assert any("not approximated" in w.message for w in found.warnings)
    found = stability.estimate_stable_radius(curve([0.1] * 5, radii=RADII[1:]))
    assert any("β = 0" in w.message for w in found.warnings)
