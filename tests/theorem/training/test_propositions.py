"""Propositions C.1-C.3 over ladders of 1/ω: the loss stays, its gradient and Hessian fade.

The target is `ρ̄ + ρ_0(t - 1/ω)` and the start is on the plateau, so all that is left of the
gradient and of the Hessian's change comes from the template's Laplace transform at the rates:
its decay is e^{-c/ω} with c the slowest rate, for any template.
"""

from __future__ import annotations

import numpy as np
import pytest

from recollect import targets, training

SHORT = ([1.0, 0.5], [0.8, 2.0])
TEMPLATES = {
    "gauss": lambda mu: targets.Bump(delay=mu),
    "narrow gauss": lambda mu: targets.Bump(delay=mu, width=0.3, height=2.0),
    "box": lambda mu: targets.Box(mu - 0.5, mu + 0.5),
    "triangle": lambda mu: targets.TemplateKernel(
        lambda x: np.maximum(1 - np.abs(x), 0.0), delay=mu
    ),
    "wave": lambda mu: targets.TemplateKernel(lambda x: np.exp(-(x**2)) * np.cos(3 * x), delay=mu),
    "heavy right tail": lambda mu: targets.TemplateKernel(
        lambda x: np.where(x < 0, np.exp(-(x**2)), np.exp(-np.maximum(x, 0.0) / 2)), delay=mu
    ),
}
NAMES = [
    pytest.param(name, marks=pytest.mark.slow)
    if name in ("narrow gauss", "triangle", "wave", "heavy right tail")
    else name
    for name in TEMPLATES
]
LADDER = np.array([12.0, 16.0, 20.0, 24.0, 28.0])


def starts(n_idle):
    return training.draw_plateau_starts(*SHORT, width=4, n_starts=3, n_idle=n_idle, key=n_idle)


def losses(template):
    return [
        training.exact_loss(targets.exponential_sum(*SHORT) + TEMPLATES[template](mu))
        for mu in LADDER
    ]


def rate_and_power(sizes):
    """Fits log size = -c μ + p log μ + const."""
    design = np.stack([-LADDER, np.log(LADDER), np.ones(len(LADDER))], axis=1)
    c, p, _ = np.linalg.lstsq(design, np.log(sizes), rcond=None)[0]
    return float(c), float(p)


@pytest.mark.parametrize("template", NAMES)
def test_the_loss_on_the_plateau_is_bounded_below(template):
    ladder = losses(template)
    norm = targets.measure_norm(TEMPLATES[template](30.0), norm="l2") ** 2
    for start in starts(0) + starts(1):
        values = [loss(start.amplitudes, start.rates) for loss in ladder]
        # C.1: it tends to the template's own power.
        assert values[-1] == pytest.approx(norm, rel=1e-8)
        assert min(values) > 0.99 * norm


def test_the_limit_is_root_pi_for_the_papers_bump():
    loss = losses("gauss")[-1]
    (start,) = training.draw_plateau_starts(*SHORT, width=4, n_starts=1)
    assert loss(start.amplitudes, start.rates) == pytest.approx(np.sqrt(np.pi), rel=1e-12)


@pytest.mark.parametrize("n_idle", [0, 1])
@pytest.mark.parametrize("template", NAMES)
def test_the_gradient_fades_at_the_slowest_rate(template, n_idle):
    ladder = losses(template)
    for start in starts(n_idle):
        sizes = [np.linalg.norm(loss.gradient(start.amplitudes, start.rates)) for loss in ladder]
        c, power = rate_and_power(sizes)
        # C.2: L and L' carry e^{-cμ} and μ e^{-cμ}; an idle slow unit has no μ. The next rate adds
        # a relative e^{-(w_2-w_1)μ}, and L'/L is μ + O(1): the tolerance is that O(1)/μ.
        slowest = start.rates.min()
        assert c == pytest.approx(slowest, abs=0.02)
        assert -0.3 < power < 1.3


@pytest.mark.parametrize("n_idle", [0, 1])
@pytest.mark.parametrize("template", NAMES)
def test_the_hessian_fades_to_that_without_memory(template, n_idle):
    short = training.exact_loss(targets.exponential_sum(*SHORT))
    ladder = losses(template)
    for start in starts(n_idle):
        bare = short.hessian(start.amplitudes, start.rates)
        eigenvalues = np.linalg.eigvalsh(bare)
        # Without memory the plateau is the set of global minima: semidefinite, rank 2 m*.
        groups = len(np.unique(start.rates))
        assert eigenvalues[0] > -1e-12
        assert (eigenvalues > 1e-10 * eigenvalues[-1]).sum() <= len(start.rates) + groups
        changes, lowest = [], []
        for loss in ladder:
            full = loss.hessian(start.amplitudes, start.rates)
            # The change cancels in H: the template's own part, from the plateau's residual form.
            size = _hessian_change(loss, start)
            assert np.linalg.norm(full - bare - size, 2) < 1e-12 * eigenvalues[-1]
            changes.append(np.linalg.norm(size, 2))
            lowest.append(np.linalg.eigvalsh(full)[0])
        c, power = rate_and_power(changes)
        assert c == pytest.approx(start.rates.min(), abs=0.03)
        assert -0.3 < power < 2.3
        # Weyl: no eigenvalue moves further than the change.
        assert all(low >= -change - 1e-12 for low, change in zip(lowest, changes, strict=True))


def _hessian_change(loss, start):
    """-2 times the diagonal blocks of L' and a L'' of the template (C.3)."""
    a, w = start.amplitudes, start.rates
    template = loss.target.terms[-1]
    first = template.laplace(w, derivative=1)[:, 0, 0].real
    second = template.laplace(w, derivative=2)[:, 0, 0].real
    zero = np.zeros((len(a), len(a)))
    return np.block([[zero, -2 * np.diag(first)], [-2 * np.diag(first), -2 * np.diag(a * second)]])


def test_the_split_gradient_has_the_factor_of_the_delay_and_the_idle_one_not():
    """Sharp orders: Θ(μ e^{-cμ}) for a split mode, Θ(e^{-cμ}) where the slowest unit is idle."""
    target = lambda mu: targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=mu)  # noqa: E731
    powers = []
    # The idle unit is slow enough for the used one's μ e^{-μ} to be 1e-3 of it.
    for a, w in (([0.3, 0.7], [1.0, 1.0]), ([1.0, 0.0], [1.0, 0.3])):
        sizes = [np.linalg.norm(training.exact_loss(target(mu)).gradient(a, w)) for mu in LADDER]
        c, power = rate_and_power(sizes)
        assert c == pytest.approx(min(w), abs=0.02)
        powers.append(power)
    assert powers[0] == pytest.approx(1.0, abs=0.35)
    assert powers[1] == pytest.approx(0.0, abs=0.1)


def test_the_smallest_eigenvalue_is_of_order_delay_squared_times_the_exponential():
    sizes = []
    for mu in LADDER:
        loss = training.exact_loss(targets.exponential_sum([1.0], [1.0]) + targets.Bump(delay=mu))
        lowest = np.linalg.eigvalsh(loss.hessian([0.3, 0.7], [1.0, 1.0]))[0]
        assert lowest < 0
        sizes.append(-lowest)
    c, power = rate_and_power(sizes)
    assert c == pytest.approx(1.0, abs=0.05)
    assert power == pytest.approx(2.0, abs=0.7)


def test_a_template_that_fades_leaves_no_loss():
    """Negative control of C.1: the template has to be the same one at every delay."""
    start = starts(0)[0]
    short = targets.exponential_sum(*SHORT)
    values = [
        training.exact_loss(short + targets.Bump(delay=mu, height=np.exp(-mu / 4)))(
            start.amplitudes, start.rates
        )
        for mu in LADDER
    ]
    c, power = rate_and_power(values)
    assert c == pytest.approx(0.5, abs=1e-3)
    assert power == pytest.approx(0.0, abs=1e-2)


def test_without_a_template_nothing_fades():
    """Negative control: off the plateau the gradient does not depend on the delay."""
    start = starts(0)[0]
    away = start.amplitudes + np.array([0.3, 0.0, 0.0, 0.0])
    sizes = [np.linalg.norm(loss.gradient(away, start.rates)) for loss in losses("gauss")]
    # What the template adds is the gradient of the plateau itself, e^{-0.8·12}·12 at most.
    assert np.ptp(sizes) < 1e-2 * sizes[0]
    assert sizes[0] > 0.1


def test_a_left_tail_that_is_not_sub_gaussian_sets_its_own_rate():
    """Negative control: a template e^{-0.3|x|} reaches back, and its own rate 0.3 wins."""
    a, w, r = [0.3, 0.7], [1.0, 1.0], 0.3
    with pytest.raises(ValueError, match="left tail"):
        targets.TemplateKernel(lambda x: np.exp(-r * np.abs(x)), delay=12.0)
    short = targets.exponential_sum([1.0], [1.0])
    bare = training.exact_loss(short).hessian(a, w)
    gradients, changes = [], []
    for mu in LADDER:
        template = targets.parse_kernel(f"exp(-{r}*abs(t-{mu}))")
        # ∫_0^∞ e^{-t} e^{-0.3|t-μ|} dt in closed form.
        exact = (np.exp(-r * mu) - np.exp(-mu)) / (1 - r) + np.exp(-mu) / (1 + r)
        assert template.laplace([1.0])[0, 0, 0].real == pytest.approx(exact, rel=1e-10)
        loss = training.exact_loss(short + template)
        gradients.append(np.linalg.norm(loss.gradient(a, w)))
        changes.append(np.linalg.norm(loss.hessian(a, w) - bare, 2))
    for sizes in (gradients, changes):
        c, power = rate_and_power(sizes)
        assert c == pytest.approx(r, abs=0.02)
        assert power == pytest.approx(0.0, abs=0.3)
