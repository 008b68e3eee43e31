"""How a numerical computation ended, and what to do about it."""

from __future__ import annotations

import dataclasses

from recollect._core._check import require_choice

_REMEDIES = {
    "ok": "",
    "undecided": "take more samples, a longer record or less noise, or accept that the data cannot tell",
    "record_too_short": "record for at least twice the memory, or state a horizon you can afford",
    "horizon_too_short": "lengthen the horizon, or name the largest input that the model will meet: "
    "--horizon, --largest-input",
    "input_not_exciting": "drive the system with a broad-band input (noise, a random staircase)",
    "output_drifts": "take the trend out of the output, or give what causes it as an input",
    "feedback_suspected": "measure in open loop, or treat the estimate as descriptive only",
    "width_beyond_rank": "use the smaller width: more units cannot be told apart in float64",
    "width_too_small": "use the width named in the message: nothing smaller beats the answer zero",
    "precision_limit": "accept the error shown: it is the limit of float64 for this problem",
    "not_converged": "raise the iteration limit or loosen the tolerance",
    "no_minimiser": "constrain the rates, or accept the best point found",
    "not_integrable": "choose a norm in which the kernel is finite, or cut it at a horizon",
    "diverged": "lower the step size, or use a stable parameterisation",
    "stalled": "start from the data (training.warm_start), or wait for the steps estimated",
    "not_finite": "check the model's weights and the input's scale",
    "infinite": "none is needed: the quantity is infinite, for the reason given",
    "noise_limited": "take more or cleaner samples to see further",
    "vacuous": "read the measured value: the bound says nothing at this size",
    "failed": "read the message; the other trials went on",
}


@dataclasses.dataclass(frozen=True)
class Status:
    """How a computation ended: a code, a sentence about this case, and a remedy.

    Args:
        code: one of the closed list in `Status.codes()`.
        message: what happened here, in one sentence (may be empty when the code is `ok`).
    """

    code: str = "ok"
    message: str = ""

    def __post_init__(self):
        require_choice("code", self.code, _REMEDIES)

    @property
    def is_ok(self) -> bool:
        """True when the answer can be used as it stands."""
        return self.code == "ok"

    @property
    def remedy(self) -> str:
        """What to do about it, in one sentence."""
        return _REMEDIES[self.code]

    @staticmethod
    def codes() -> tuple[str, ...]:
        """All codes a computation can end with."""
        return tuple(_REMEDIES)

    def __str__(self) -> str:
        if self.is_ok:
            return "ok"
        text = self.code.replace("_", " ")
        if self.message:
            text += f": {self.message}"
        return f"{text} ({self.remedy})" if self.remedy else text

    def record(self) -> dict[str, str]:
        """Returns the status as a JSON object."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}
