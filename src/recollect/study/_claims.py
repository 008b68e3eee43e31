"""What is expected of a study's results, and whether it was found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from recollect._core._check import require_choice, require_nonnegative, wrong_type
from recollect._core._json import finite_or_null
from recollect._core._status import Status

_RELATIONS = ("equal", "at_most", "at_least")


@dataclasses.dataclass(frozen=True)
class Claim:
    """Something a study's results should show, with the tolerance and why it is that.

    Args:
        text: the claim in one sentence.
        measure: returns the number to compare, from the results (`xarray.Dataset`): a number, a pair
            (number, standard error), or None if the results cannot say.
        expected: the number claimed.
        tolerance: absolute.
        reason: why this tolerance is the right one.
        relation: `equal` (within the tolerance), `at_most` or `at_least` (give or take it).
        refuted: why the results contradict a published claim, where they are known to: shown in
            place of the tolerance's reason when they do.
    """

    text: str
    measure: Callable[[Any], Any]
    expected: float
    tolerance: float
    reason: str
    relation: str = "equal"
    refuted: str = ""

    def __post_init__(self):
        if not callable(self.measure):
            raise wrong_type("measure", "a function of the results", repr(self.measure))
        require_choice("relation", self.relation, _RELATIONS)
        require_nonnegative("tolerance", self.tolerance)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a claim fared.

    Args:
        verdict: `agrees`, `disagrees` or `undecided`.
        measured: the number found, None if there is none.
        measured_stderr: its standard error, if the claim gives one.
        expected: the number claimed.
        tolerance: absolute.
        relation: `equal`, `at_most` or `at_least`.
        claim: the claim in words.
        reason: why this tolerance; for an undecided claim, why it is undecided; for a refuted one,
            what refutes it.
        figure: which figure it belongs to.
        paper: which paper that is from.
        seconds: computing time of the trials behind it.
        status: `failed` if the claim's function raised, with what it said.
    """

    verdict: str
    measured: float | None
    measured_stderr: float | None
    expected: float
    tolerance: float
    relation: str
    claim: str
    reason: str
    figure: str
    paper: str
    seconds: float
    status: Status = Status()

    def record(self) -> dict[str, Any]:
        """Returns the verdict as a JSON object."""
        return finite_or_null(dataclasses.asdict(self) | {"status": self.status.record()})


def weigh(
    claim: Claim, results: Any, *, figure: str, paper: str, seconds: float, gaps: str
) -> Verdict:
    """Returns the verdict on one claim; `gaps` says which trials are missing, if any are."""
    value: float | None = None
    stderr: float | None = None
    doubt, status = gaps, Status()
    if not gaps:
        try:
            value, stderr = _read(claim.measure(results))
        except Exception as error:  # decides nothing, and the other claims are still worth having
            doubt = f"{type(error).__name__}: {error}".splitlines()[0]
            status = Status("failed", doubt)
        if not doubt and (value is None or math.isnan(value)):
            value, doubt = None, "the results cannot say"
    if value is None:
        verdict = "undecided"
    elif stderr is not None and not 0 <= stderr < math.inf:
        verdict, doubt = "undecided", "its error is not known"
    else:
        verdict = _compare(claim, value, stderr or 0.0)
    if verdict == "undecided" and not doubt:
        doubt = "the tolerance lies within two standard errors"
    if verdict == "disagrees" and claim.refuted:
        doubt = claim.refuted
    return Verdict(
        verdict=verdict,
        measured=value,
        measured_stderr=stderr,
        expected=float(claim.expected),
        tolerance=float(claim.tolerance),
        relation=claim.relation,
        claim=claim.text,
        reason=doubt or claim.reason,
        figure=figure,
        paper=paper,
        seconds=seconds,
        status=status,
    )


def _read(found: Any) -> tuple[float | None, float | None]:
    if isinstance(found, tuple):
        value, stderr = found
        return float(value), float(stderr)
    return (None if found is None else float(found)), None


def _compare(claim: Claim, value: float, stderr: float) -> str:
    # How far outside the tolerance the value lies, negative inside.
    excess = {
        "equal": abs(value - claim.expected),
        "at_most": value - claim.expected,
        "at_least": claim.expected - value,
    }[claim.relation] - claim.tolerance
    if abs(excess) < 2 * stderr:
        return "undecided"
    return "agrees" if excess <= 0 else "disagrees"
