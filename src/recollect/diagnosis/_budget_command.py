"""`recollect budget`: what guarantees a risk, and what a run that fits the machine measures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from recollect._core import _json
from recollect._core._check import (
    require_choice,
    require_count,
    require_nonnegative,
    require_positive,
    require_probability,
)

if TYPE_CHECKING:
    from recollect._core._status import Status
    from recollect.convergence import Budget, RiskBound

# What runs here within seconds: n·T·m numbers per step, and the certificate's passes over them.
_LARGEST_PRODUCT = 2**18
_LARGEST_WIDTH = 1024
_LARGEST_SAMPLES = 32
_LARGEST_HORIZON = 32
_LARGEST_STEPS = 1000
_N_INPUTS = 4


@dataclasses.dataclass(frozen=True)
class BudgetReport:
    """A guaranteed budget beside a run.

    Attributes:
        risk: what was asked for.
        n_samples: sequences asked for.
        horizon: samples in each.
        budget: width, steps and step size that guarantee the risk.
        run_width: width of the run.
        run_samples: its sequences.
        run_horizon: their length.
        run_steps: its steps.
        certificate: the bound for the run itself, from its own start and data.
        paper: the same with C's step size `1/(T√τ)`; its `paper_rate` is C's whole argument.
        measured: what the certificate bounds: the least risk of the run's steps, for `average`
            the risk of the averaged weights.
        ratio: certificate over measured.
        gain: α σ_1, the cutoff being 1.
    """

    risk: float
    n_samples: int
    horizon: int
    budget: Budget
    run_width: int
    run_samples: int
    run_horizon: int
    run_steps: int
    certificate: RiskBound
    paper: RiskBound
    measured: float
    ratio: float
    gain: float

    @property
    def status(self) -> Status:
        """The budget's status; the certificate's where the budget is in order."""
        return self.certificate.status if self.budget.status.is_ok else self.budget.status

    @property
    def guarantee_is_vacuous(self) -> bool:
        """True when the answer zero already leaves less than what was asked for, on the example."""
        return self.run_horizon == self.horizon and self.risk >= self.certificate.initial_risk

    @property
    def run_is_smaller(self) -> bool:
        """True when the run has fewer sequences, or shorter ones, than were asked for."""
        return (self.run_samples, self.run_horizon) != (self.n_samples, self.horizon)

    def summary(self) -> list[str]:
        """Returns one screen of text."""
        budget, bound = self.budget, self.certificate
        lines = [
            f"guarantee: risk at most {self.risk:g} on {self.n_samples} sequences of "
            f"{self.horizon} samples",
        ]
        if budget.width is None:
            lines.append(f"  none: {budget.status}")
        else:
            lines += [
                f"  width      {_count(budget.width)}",
                f"  steps      {_count(budget.n_steps)}",
                f"  step size  {budget.step_size:.3g}",
            ]
        side = "below" if self.gain < 1 else "above"
        lines += [
            f"  gain       {self.gain:.3g}, {side} the cutoff 1",
            f"run: width {self.run_width}, {self.run_samples} sequences of {self.run_horizon} "
            f"samples, {self.run_steps} steps of {bound.step_size:.3g}",
            f"  risk of the answer zero  {bound.initial_risk:.3g}",
            f"  measured                 {self.measured:.3g}",
            f"  bound for this run       {bound.bound:.3g}"
            + (" (vacuous)" if bound.is_vacuous else ""),
            f"  bound / measured         {self.ratio:.3g}",
            f"  with C's step and rate   {self.paper.paper_rate:.3g}"
            + ("" if self.paper.paper_rate < bound.initial_risk else " (vacuous)"),
        ]
        if self.run_is_smaller:
            lines.append(
                f"note: {self.n_samples} sequences of {self.horizon} samples would take too long "
                "here: the run and its bound are of a smaller problem"
            )
        if self.guarantee_is_vacuous:
            lines.append(
                f"note: the answer zero already leaves less than {self.risk:g} here; ask for less"
            )
        if not self.status.is_ok:
            lines.append(f"note: {self.status}")
        return lines

    def record(self) -> dict[str, Any]:
        """Returns the report as a JSON object."""
        bound = self.certificate
        found = {
            "schema": "recollect.budget",
            "version": 1,
            "unit": "1",
            "risk": self.risk,
            "samples": self.n_samples,
            "length": self.horizon,
            "width": self.budget.width,
            "steps": self.budget.n_steps if self.budget.width is not None else None,
            "learning_rate": self.budget.step_size,
            "bound": bound.bound,
            "measured": self.measured,
            "ratio": self.ratio,
            "vacuous": bound.is_vacuous,
            "guarantee_vacuous": self.guarantee_is_vacuous,
            "initial_risk": bound.initial_risk,
            "guaranteed_risk": self.budget.bound,
            "gain": self.gain,
            "run": {
                "width": self.run_width,
                "samples": self.run_samples,
                "length": self.run_horizon,
                "steps": self.run_steps,
                "learning_rate": bound.step_size,
                "paper_bound": self.paper.paper_rate,
                "paper_learning_rate": self.paper.step_size,
            },
            "status": self.status.record(),
        }
        return _json.finite_or_null(found)


def plan_budget(
    *,
    risk: float,
    n_samples: int,
    horizon: int,
    nu: float,
    alpha: float = 0.5,
    delta: float = 0.05,
    method: str = "projected",
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> BudgetReport:
    """Returns the guaranteed budget, and a run on a random target of the class at a size that fits.

    ν is shared evenly: `ν_w = ν_u = ν/√2`.
    """
    risk = require_positive("--risk", risk)
    n_samples = require_count("--samples", n_samples)
    horizon = require_count("--length", horizon)
    nu = require_positive("--nu", nu)
    alpha = require_nonnegative("--alpha", alpha)
    delta = require_probability("--delta", delta)
    require_choice("--method", method, ("projected", "average", "sgd", "plain"))
    from recollect import convergence

    share = nu / math.sqrt(2)
    progress("solving for the budget")
    budget = convergence.predict_budget(
        risk,
        n_samples=n_samples,
        horizon=horizon,
        nu_w=share,
        nu_u=share,
        alpha=alpha,
        method=method,
        delta=delta,
    )
    samples, length = min(n_samples, _LARGEST_SAMPLES), min(horizon, _LARGEST_HORIZON)
    room = min(_LARGEST_WIDTH, _LARGEST_PRODUCT // (samples * length))
    width = min(budget.width or room, 2 ** int(math.log2(room)))
    steps = min(budget.n_steps or _LARGEST_STEPS, _LARGEST_STEPS)
    target = convergence.draw_transport_target(
        _N_INPUTS, nu_w=share, nu_u=share, alpha=alpha, seed=seed
    )
    signals = convergence.draw_sequences(samples, length, _N_INPUTS, seed=seed)
    values, _ = target(signals, n_points=1024, n_replicates=4)
    network = convergence.initialise_paired(width, _N_INPUTS, alpha=alpha, seed=seed)
    radii: dict[str, Any] = {} if method == "plain" else {"radius_w": share, "radius_u": share}
    progress("bounding the run")
    certificate, paper = (
        convergence.bound_risk_on_data(
            network,
            signals,
            values,
            n_steps=steps,
            method=method,
            delta=delta,
            step_size=step_size,
            **radii,
        )
        for step_size in (None, "paper")
    )
    progress("running")
    run = convergence.train_paired(
        network,
        signals,
        values,
        n_steps=steps,
        step_size=certificate.step_size,
        method="projected" if method == "average" else method,
        seed=seed,
        **radii,
    )
    measured = float(run.average_risk[-1]) if method == "average" else run.best_risk
    return BudgetReport(
        risk,
        n_samples,
        horizon,
        budget,
        width,
        samples,
        length,
        steps,
        certificate,
        paper,
        measured,
        certificate.bound / measured if measured > 0 else math.inf,
        alpha,
    )


def as_json(report: BudgetReport) -> str:
    """Returns the report as JSON text."""
    return _json.as_json(report.record())


def _count(value: int) -> str:
    return str(value) if value < 10**9 else f"{value:.3g}"
