"""Theorem 3.9: what is stably approximated by direct weights forgets exponentially; and the cure."""

from __future__ import annotations

import importlib.util
import math
import pathlib

import numpy as np
import pytest

from recollect import approximation, models, stability, targets
from recollect._core._functional import AbstractReparam

_FILE = pathlib.Path(__file__).with_name("families.py")
_SPEC = importlib.util.spec_from_file_location("stability_families", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
families = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(families)

WIDTHS = (4, 8, 16, 32, 64)


def error(network, target):
    return targets.measure_norm(targets.SumKernel((target, network), (1.0, -1.0)), rtol=1e-8)


def lost_at(network):
    """The radius from which the error is infinite, exactly: the slowest rate of direct weights."""
    low, high = 1e-12, 1e3
    for _ in range(200):
        middle = math.sqrt(low * high)
        if math.isinf(stability.bound_perturbation_error(network, middle, of="rates")):
            high = middle
        else:
            low = middle
    return high


def held_to(network, rise=0.2):
    """A radius up to which the error is proved to rise by no more."""
    low, high = 1e-14, 10.0
    for _ in range(200):
        middle = math.sqrt(low * high)
        if stability.bound_perturbation_error(network, middle) <= rise:
            low = middle
        else:
            high = middle
    return low


def test_direct_weights_lose_a_polynomial_memory_at_every_width():
    target = families.target()
    networks = [families.network(m) for m in WIDTHS]
    errors = np.array([error(n, target) for n in networks])
    radii = np.array([lost_at(n) for n in networks])
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 0.01
    # The mechanism: the radius is -max Re λ, and goes to zero with the error like ε^{1/ω}.
    bounds = [stability.measure_eigenvalue_bound(n) for n in networks]
    assert radii == pytest.approx(bounds, rel=1e-9)
    slope = np.polyfit(np.log(errors[1:]), np.log(radii[1:]), 1)[0]
    assert slope == pytest.approx(1 / (families.EXPONENT - 1), rel=0.15)
    assert radii[-1] < 1e-5


def test_control_direct_weights_hold_an_exponential_memory():
    target = families.target(shift=1.0)
    networks = [families.network(m, shift=1.0) for m in WIDTHS]
    errors = np.array([error(n, target) for n in networks])
    assert errors[-1] < 1e-3 * errors[0]
    held = np.array([held_to(n) for n in networks])
    lost = np.array([lost_at(n) for n in networks])
    # Between what is proved to hold and what is lost the radius stays, while the error falls 1000-fold.
    assert held[1:] == pytest.approx(held[-1], rel=0.05)
    assert held[-1] > 0.05
    assert lost[-1] == pytest.approx(1.0, rel=1e-3)
    slope = np.polyfit(np.log(errors), np.log(lost), 1)[0]
    assert abs(slope) < 0.1


@pytest.mark.parametrize(
    "reparam", [models.Exponential(), models.Softplus()], ids=lambda r: type(r).__name__
)
def test_a_stable_map_holds_it_with_the_normalised_read_in_only(reparam):
    normalised = [families.network(m, reparam=reparam, readin="normalised") for m in WIDTHS]
    assert error(normalised[-1], families.target()) < 0.01
    held = np.array([held_to(n) for n in normalised])
    uniform = np.array([stability.bound_normalised_error(n, held[-1]) for n in normalised])
    # It settles: the last doubling takes less than 1 %, while the slowest rate falls by forty.
    assert held[-2] / held[-1] < 1.01
    assert held[0] / held[-1] < 1.2
    assert normalised[-1].rates.min() < 0.03 * normalised[-2].rates.min()
    assert (uniform < 0.5).all()
    # Control: with the plain read-in the amplitude of the slowest unit costs β²/w_min.
    plain = [families.network(m, reparam=reparam) for m in WIDTHS]
    costs = []
    for network in plain:
        slowest = np.arange(network.width) == np.argmin(network.rates)
        moved = models.DiagonalRNN(
            network.rates, network.B + 0.1 * slowest[:, None], network.C + 0.1 * slowest
        )
        costs.append(error(moved, network))
    w_min = [n.rates.min() for n in plain]
    assert np.polyfit(np.log(w_min[1:]), np.log(costs[1:]), 1)[0] == pytest.approx(-1, abs=0.15)
    assert costs[-1] > 1000
    # Moving the rates alone costs at most g(β)‖ρ‖ at every width, whatever the read-in.
    rates_only = [stability.bound_perturbation_error(n, 0.1, of="rates") for n in plain]
    assert max(rates_only) <= 2 * math.expm1(0.1) * (1 + 1e-9)


class Fixed(AbstractReparam):
    """`w_k = v_k s_k`: a rescaling that does not move."""

    scales: np.ndarray

    def forward(self, weight):
        return weight * self.scales

    def inverse(self, rate):
        return rate / self.scales


@pytest.mark.parametrize("power", [1, 2])
def test_rescaling_by_the_unit_helps_one_family_and_not_the_next(power):
    # Appendix C: with rates v_k/k, Σk^-2 e^{-t/k} holds up to β = 1 and Σk^-2 e^{-t/k²} up to 1/m.
    for width in (2, 6):
        k = np.arange(1.0, width + 1)
        network = models.DiagonalRNN(k**-power, 1 / k[:, None], 1 / k[None], reparam=Fixed(1 / k))
        edge = 1.0 if power == 1 else 1 / width
        curve = stability.measure_perturbation_error(
            network, [0.5 * edge, 0.99 * edge, edge], of="rates", n_starts=4, n_steps=8
        )
        # Positive amplitudes: the worst is that every unit slows down by β.
        exact = [
            np.sum(k**-2 / (k**-power - b / k) - k ** (power - 2.0))
            for b in (0.5 * edge, 0.99 * edge)
        ]
        assert curve.errors[0, :2] == pytest.approx(exact, rel=1e-6)
        assert curve.errors[0, 2] == math.inf


CURVES = {
    "direct, exponential": ({"shift": 1.0}, "stable"),
    "direct, polynomial": ({}, "not stable"),
    "softplus normalised, polynomial": (
        {"reparam": models.Softplus(), "readin": "normalised"},
        "stable",
    ),
    "softplus plain, polynomial": ({"reparam": models.Softplus()}, "not stable"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_the_searched_curves_give_the_verdict_of_the_theorem(name):
    options, verdict = CURVES[name]
    networks = [families.network(m, **options) for m in WIDTHS]
    radii = np.concatenate([[0.0], np.geomspace(1e-6, 2.0, 20)])
    curve = stability.measure_perturbation_error(
        networks,
        radii,
        target=families.target(options.get("shift", 0.0)),
        n_starts=8,
        n_steps=16,
    )
    assert (curve.sampled <= curve.errors).all()
    assert (curve.errors <= curve.bounds * (1 + 1e-6) + 1e-9).all()
    found = stability.estimate_stable_radius(curve)
    assert found.verdict == verdict, (found.radii, found.probability)


@pytest.mark.slow
def test_best_networks_of_a_power_law_lose_their_ground_too():
    law = targets.PowerLaw(exponent=1.5, scale=1.0)
    slowest, errors = [], []
    for width in (2, 4, 6, 8, 10):
        fit = approximation.fit_exponential_sum(law, width=width, norm="l1")
        slowest.append(float(np.min(np.real(fit.rates))))
        errors.append(fit.error)
    assert (np.diff(slowest) < 0).all()
    slope = np.polyfit(np.log(errors), np.log(slowest), 1)[0]
    assert slope == pytest.approx(2.0, rel=0.25)
