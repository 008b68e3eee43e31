"""Which parameterisation a measured memory asks for, and how far its weights may move."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from recollect._core._check import require_positive, wrong_type
from recollect._core._functional import AbstractReparam
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.diagnosis._training import standardise
from recollect.memory import MemoryLaw
from recollect.models import (
    DiagonalRNN,
    Direct,
    Exponential,
    InverseSquare,
    LinearRNN,
    Softplus,
    reparameterise,
    to_dense,
    to_diagonal,
)
from recollect.stability import (
    bound_perturbation_error,
    bound_stable_radius,
    predict_gradient_scale,
)
from recollect.targets import measure_norm

READINS = ("plain", "normalised")

_NAMES = {
    "direct": "the rates themselves",
    "exponential": "the logarithms of the rates",
    "softplus": "the rates through softplus",
    "inverse_square": "the rates as 1/(av² + b)",
}
# Radii this close are one radius: the smaller gradient then decides.
_TIE = 1.25
# A direct network that may move this share of the best radius needs no cure.
_ENOUGH = 0.5


@dataclasses.dataclass(frozen=True)
class ParameterisationMargin:
    """How far the weights of the fitted network may move in one parameterisation.

    Attributes:
        radius: no change of the weights below it (each weight array by its Euclidean norm) changes
            the kernel by more than the stated share of its L1 norm; proved.
        unstable_from: radius from which on a rate may reach zero; infinite if none can.
        gradient_scale: `|f'(v)|/f(v)²` of the slowest unit.
        reparam: `direct`, `exponential`, `softplus` or `inverse_square`.
        readin: `plain` or `normalised`.
    """

    radius: float
    unstable_from: float
    gradient_scale: float
    reparam: str
    readin: str

    @property
    def words(self) -> str:
        """What is trained, in a few words."""
        return f"{self.reparam.replace('_', ' ')}, {self.readin}"

    def record(self) -> dict[str, Any]:
        """Returns the margin as a JSON object."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class ParameterisationAdvice:
    """What the law of a memory says about how to train for it.

    Attributes:
        recommended: the margin of the parameterisation to take; None where nothing is remembered or
            the network says nothing.
        direct: the margin of the plain, direct network.
        margins: all of them.
        radius_bound: no directly parameterised network, of any width, holds beyond this radius
            (Theorem 3.9), in 1/unit: the exponential order of the memory, 0 for power laws; NaN
            where the law is undecided.
        slowest_rate: of the fitted network, in 1/unit: its distance from the stability boundary.
        change: share of the kernel's L1 norm that counts as a change.
        law: of the memory.
        width: of the fitted network.
        unit: of time.
        status: `undecided` where the law is, or why there are no margins.
    """

    recommended: ParameterisationMargin | None
    direct: ParameterisationMargin | None
    margins: tuple[ParameterisationMargin, ...]
    radius_bound: float
    slowest_rate: float
    change: float
    law: str
    width: int
    unit: str
    status: Status = Status()

    def summary(self) -> list[str]:
        """Returns two plain sentences: what the memory forbids, and what to do."""
        return [self._finding(), self._remedy()]

    def record(self) -> dict[str, Any]:
        """Returns the advice as a JSON object (non-finite numbers are left to the caller)."""
        return {
            "law": self.law,
            "radius_bound": self.radius_bound,
            "slowest_rate": self.slowest_rate,
            "change": self.change,
            "width": self.width,
            "recommended": None if self.recommended is None else self.recommended.record(),
            "direct": None if self.direct is None else self.direct.record(),
            "parameterisations": [margin.record() for margin in self.margins],
            "advice": self.summary(),
            "status": self.status.record(),
        }

    def headline(self) -> str:
        """Returns the advice in one short line."""
        if self.law == "none" or self.recommended is None or self.direct is None:
            return self._remedy()
        if self.recommended is self.direct:
            return "train the rates themselves: no other parameterisation is safer here"
        far = (
            "the weights may then move"
            if self.direct.radius <= 0
            else f"the weights may then move {_number(self.recommended.radius / self.direct.radius)} "
            "times as far as the rates themselves"
        )
        return f"train {_NAMES[self.recommended.reparam]}{self._readin_words()}: {far}"

    def _readin_words(self) -> str:
        if self.recommended is None or self.recommended.readin != "normalised":
            return ""
        return " and multiply each unit's input by its rate"

    def _finding(self) -> str:
        if self.law == "none":
            return "nothing of the past input is remembered, so no weight can make it unstable"
        here = (
            ""
            if self.direct is None
            else f"; of the fitted one (width {self.width}, time in samples) the weights may move by "
            f"{_number(self.direct.radius)} before the kernel can change by {100 * self.change:.3g} %, "
            f"and {_number(self.direct.unstable_from)} can make it unstable"
        )
        if self.law in ("power", "stretched"):
            name = {"power": "a power law", "stretched": "a stretched exponential"}[self.law]
            return f"the memory is {name}: no directly trained network holds it stably, however wide{here}"
        if self.law in ("exponential", "delayed"):
            if self.radius_bound == math.inf:
                return f"the memory ends faster than any exponential: a directly trained network can hold it{here}"
            # Where the law names no rate, the fitted network's stands in.
            slowest = self.slowest_rate if math.isnan(self.radius_bound) else self.radius_bound
            rate = f"{_number(slowest)} per {self.unit.removesuffix('s') or self.unit}"
            return (
                f"the memory ends exponentially: a directly trained network can hold it while its rates "
                f"move by less than {rate}{here}"
            )
        return (
            "the law of the memory is undecided: were it a power law, no directly trained network would "
            f"hold it, however wide{here}"
        )

    def _remedy(self) -> str:
        if self.law == "none":
            return "a network without memory will do"
        best, direct = self.recommended, self.direct
        if best is None or direct is None:
            return f"how far the weights may move is not known ({self.status.message})"
        if best is direct:
            return "the direct parameterisation is as good as any here"
        times = best.radius / direct.radius if direct.radius > 0 else math.inf
        end = (
            "no change makes it unstable"
            if math.isinf(best.unstable_from)
            else f"only {_number(best.unstable_from)} can make it unstable"
        )
        far = f", {_number(times)} times as far" if times > 1.05 else ""
        return (
            f"train {_NAMES[best.reparam]}{self._readin_words()}: then the weights may move by "
            f"{_number(best.radius)}{far}, and {end}"
        )


@on_one_thread
@references("wang2024inverse", "wang2024stablessm")
def recommend_parameterisation(
    law: MemoryLaw,
    network: LinearRNN | DiagonalRNN,
    *,
    dt: float,
    unit: str = "steps",
    change: float = 0.1,
) -> ParameterisationAdvice:
    """Returns which parameterisation a memory asks for, with its radius in the fitted network.

    Theorem 3.9 turns the law into what direct parameterisation allows at any width
    (`stability.bound_stable_radius`). For the fitted network, signals standardised and time in
    samples, every parameterisation gets the radius within which a proved bound
    (`stability.bound_perturbation_error`, all weights moving) stays below `change` of the kernel's
    L1 norm. Of the parameterisations whose radii lie within a factor 1.25 of the largest, the one
    with the smallest gradient scale is recommended; the direct one if its radius is at least half
    of the largest and the memory ends exponentially.

    Args:
        law: of the memory, from `memory.estimate_law`.
        network: fitted to it, continuous; of several channels the one with the largest L2 norm is
            taken.
        dt: sampling step, in the network's unit of time.
        unit: name of the unit of time.
        change: share of the L1 norm.

    Returns:
        The advice. Frequencies of oscillating units are held: amplitudes enter by their modulus.

    Raises:
        TypeError, ValueError: for other networks or numbers out of range.
    """
    if not isinstance(law, MemoryLaw):
        raise wrong_type("law", "a MemoryLaw", type(law).__name__)
    if not isinstance(network, (LinearRNN, DiagonalRNN)) or network.dt is not None:
        raise wrong_type("network", "a continuous linear network", type(network).__name__)
    dt, change = require_positive("dt", dt), require_positive("change", change)
    rates = np.linalg.eigvals(_dense(network))
    advice = ParameterisationAdvice(
        recommended=None,
        direct=None,
        margins=(),
        radius_bound=bound_stable_radius(law),
        slowest_rate=float(-rates.real.max()),
        change=change,
        law=law.law,
        width=network.width,
        unit=unit,
    )
    if law.law == "none":
        return advice
    try:
        channel = standardise(to_dense(network), dt)
        units = _real_units(channel)
    except ValueError as error:
        words = f"no modes ({error})" if advice.slowest_rate > 0 else "it does not forget"
        if not np.any(network.kernel(np.array([0.0, dt]))):
            words = "its kernel is zero"
        status = Status("undecided", f"of the fitted network: {words}")
        return dataclasses.replace(advice, status=status)
    margins = _margins(units, change * float(measure_norm(channel, norm="l1")))
    direct = margins[0]
    best = max(m.radius for m in margins)
    close = [m for m in margins if m.radius * _TIE >= best]
    chosen = min(close, key=lambda m: (math.isfinite(m.unstable_from), m.gradient_scale))
    if law.law in ("exponential", "delayed") and direct.radius >= _ENOUGH * best:
        chosen = direct
    status = Status() if law.is_decided else Status("undecided", "the law is undecided")
    return dataclasses.replace(
        advice, recommended=chosen, direct=direct, margins=margins, status=status
    )


def largest_radius(error: Callable[[float], float], limit: float) -> float:
    """Returns the largest radius at which a non-decreasing error stays within a limit."""
    high = 1e-14
    while error(high) <= limit:
        high *= 4
        if high > 1e6:
            return math.inf
    if high == 1e-14:
        return 0.0
    low = high / 4
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if error(middle) <= limit else (low, middle)
    return low


def stable_maps(fastest: float) -> dict[str, AbstractReparam]:
    """Returns the stable maps from weights to rates, by name; all reach the fastest rate."""
    return {
        "exponential": Exponential(),
        "softplus": Softplus(),
        "inverse_square": InverseSquare(offset=min(0.5, 0.5 / fastest)),
    }


def _margins(units: DiagonalRNN, limit: float) -> tuple[ParameterisationMargin, ...]:
    rates = np.asarray(units.rates, float)
    fastest = float(rates.max())
    maps: dict[str, AbstractReparam] = {"direct": Direct(), **stable_maps(fastest)}
    found = []
    for readin in READINS:
        for name, reparam in maps.items():
            own = reparameterise(_balanced(units, readin), reparam)
            weight = np.asarray(own.weights)[np.argmin(rates)]
            found.append(
                ParameterisationMargin(
                    radius=largest_radius(lambda b, m=own: bound_perturbation_error(m, b), limit),
                    unstable_from=math.inf if reparam.is_stable else float(rates.min()),
                    gradient_scale=float(predict_gradient_scale(reparam, weight)),
                    reparam=name,
                    readin=readin,
                )
            )
    return tuple(found)


def _balanced(units: DiagonalRNN, readin: str) -> DiagonalRNN:
    """Returns the same kernel with B and C of one size, as the read-in sees them."""
    rates, amplitudes = np.asarray(units.rates), np.asarray(units.amplitudes)[:, 0, 0]
    weighed = amplitudes / rates if readin == "normalised" else amplitudes
    size = np.sqrt(np.abs(weighed))
    return DiagonalRNN(rates, size[:, None], (np.sign(weighed) * size)[None, :], readin=readin)


def _real_units(channel: LinearRNN) -> DiagonalRNN:
    """Returns units with the decay rates and, where they oscillate, the moduli of the amplitudes."""
    units = to_diagonal(channel)
    rates, amplitudes = np.real(np.asarray(units.rates)), np.asarray(units.amplitudes)[:, 0, 0]
    if np.iscomplexobj(amplitudes):
        amplitudes = np.abs(amplitudes)
    return DiagonalRNN(rates, amplitudes[:, None], np.ones((1, len(rates))))


def _dense(network: LinearRNN | DiagonalRNN) -> np.ndarray:
    if isinstance(network, LinearRNN):
        return np.asarray(network.A, np.float64)
    return -np.diag(np.atleast_1d(network.rates))


def _number(value: float, digits: int = 2) -> str:
    if not math.isfinite(value):
        return "any amount" if value == math.inf else "an unknown amount"
    if 1 <= value < 1e5:
        return f"{float(f'{value:.{digits}g}'):,.10g}"
    return f"{value:.{digits}g}"
