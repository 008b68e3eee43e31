"""The map of the curse of memory in approximation: width against tail, with free and fixed rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recollect._core._check import invalid, require_count, require_positive
from recollect._core._references import references
from recollect._core._status import Status
from recollect.approximation._coneigenvalue import (
    ReducedSum,
    hankel_decomposition,
    reduce_from_decomposition,
)
from recollect.approximation._sinc import measure_power_law_error, power_law_sum
from recollect.approximation._theory import (
    bound_fixed_rate_width,
    bound_power_law_width,
    bound_sinc_width,
)


@dataclasses.dataclass(frozen=True)
class CurseMap:
    """Widths that `(1+t)^-(1+ω)` needs in L1, proved and measured, for each ω and error.

    All arrays but the first two have the shape (exponent, error).

    Args:
        exponents: ω, descending.
        errors: ε, the L1 errors allowed, descending; the kernel has norm 1/ω.
        width: *measured*: least width found with free rates (-1 beyond `max_width`).
        slowest_rate: *measured*: the slowest rate of that fit, in 1/time: its distance from the
            stability boundary (NaN beyond `max_width`).
        width_bound_below: *proved*: no network has fewer units (Hankel singular values).
        width_bound: *proved*: this many units with free rates suffice (sinc quadrature).
        log10_fixed_width: *proved for each spacing*: equispaced rates need at least this many,
            decimal logarithm.
        fixed_slowest_rate: the best spacing at that width, which is also the slowest rate.
        log10_theorem_width: *proved*: Theorem 4.2 asks for this many, decimal logarithm.
        status: `width_beyond_rank` if some width exceeds `max_width`.
        stats: error of each fit found.
    """

    exponents: np.ndarray
    errors: np.ndarray
    width: np.ndarray
    slowest_rate: np.ndarray
    width_bound_below: np.ndarray
    width_bound: np.ndarray
    log10_fixed_width: np.ndarray
    fixed_slowest_rate: np.ndarray
    log10_theorem_width: np.ndarray
    status: Status = dataclasses.field(default_factory=Status)
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Returns the map as a JSON object; numbers that are not finite become null."""
        record: dict[str, Any] = {"schema": "recollect.curse_map", "version": 1, "unit": "time"}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                record[field.name] = _plain(value)
        record["fit_error"] = _plain(self.stats["fit_error"])
        record["status"] = self.status.record()
        return record


@references("li2021curse", "adamyan1971analytic", "haut2012fast")
def measure_curse_map(
    exponents: Sequence[float] = (1.0, 0.5, 0.25, 0.125, 0.0625),
    errors: Sequence[float] = (0.3, 0.1, 0.03, 0.01),
    *,
    max_width: int = 160,
) -> CurseMap:
    """Returns how wide a network must be for power-law memories, by every count there is.

    For `ρ(t) = (1+t)^-(1+ω)` and an L1 error ε: the width found with free rates and the slowest
    rate of that fit; the least width any network needs and one that suffices; the least width
    that equispaced rates need; and the width in Theorem 4.2. With fixed rates the width grows
    exponentially in 1/ω; with free rates linearly, while the slowest rate falls exponentially: the
    curse moves from width to the distance from the stability boundary.

    Args:
        exponents: ω in (0, 1]; 1/32 is the smallest that float64 rates can carry.
        errors: ε > 0, absolute.
        max_width: where the search with free rates ends.

    Returns:
        The map.

    Raises:
        ValueError: if there is none, an exponent is not in [1/32, 1], or an error or the largest
            width is not positive.

    Source: the question is left open in Li et al. 2021, Section 4; the answer is ours.
    """
    exponents = tuple(sorted({require_positive("exponents", x) for x in exponents}, reverse=True))
    errors = tuple(sorted({require_positive("errors", x) for x in errors}, reverse=True))
    max_width = require_count("max_width", max_width)
    if not exponents or not errors:
        raise invalid("exponents", "at least one exponent and one error", "none")
    if exponents[0] > 1 or exponents[-1] < 1 / 32:
        raise invalid("exponents", "numbers from 1/32 to 1", exponents)
    shape = (len(exponents), len(errors))
    width = np.full(shape, -1)
    below, above = np.zeros(shape, int), np.zeros(shape, int)
    slowest, fit_error = np.full(shape, np.nan), np.full(shape, np.nan)
    fixed, fixed_rate, theorem = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for i, exponent in enumerate(exponents):
        enough = max(1, bound_sinc_width(errors[-1], exponent))
        fits = PowerLawFits(exponent, error=errors[-1], max_width=min(max_width, enough))
        for j, error in enumerate(errors):
            below[i, j] = fits.bound_width_below(error)
            above[i, j] = bound_sinc_width(error, exponent)
            narrow = bound_fixed_rate_width(error, exponent)
            fixed[i, j], fixed_rate[i, j] = narrow.log10_width, narrow.spacing
            theorem[i, j] = bound_power_law_width(error, exponent).log10_width
            found = fits.least_width(error)
            if found is not None:
                width[i, j] = found.width
                slowest[i, j] = found.rates[0] if found.width else np.inf
                fit_error[i, j] = fits.error(found.width)
    status = Status()
    if np.any(width < 0):
        status = Status(
            "width_beyond_rank", f"some errors need more than max_width = {max_width} units"
        )
    return CurseMap(
        np.array(exponents), np.array(errors), width, slowest, below, above, fixed, fixed_rate,
        theorem, status, {"fit_error": fit_error},
    )  # fmt: skip


class PowerLawFits:
    """Near-best exponential sums of every width for one power law, from one decomposition."""

    def __init__(self, exponent: float, *, error: float, max_width: int):
        self._exponent = exponent
        # What the long sum leaves out is far below the error asked for.
        self._rtol = 1e-3 * min(1.0, error * exponent)
        self._amplitudes, self._rates = power_law_sum(exponent + 1.0, rtol=self._rtol)
        self._values, self._vectors = hankel_decomposition(
            self._amplitudes, self._rates, n_values=min(max_width + 1, len(self._rates))
        )
        self._max_width = min(max_width, len(self._values) - 1)
        self._fits: dict[int, tuple[ReducedSum, float]] = {}

    def fit(self, width: int) -> ReducedSum:
        """Returns the fit of this width."""
        return self._at(width)[0]

    def error(self, width: int) -> float:
        """Returns its L1 distance to the power law."""
        return 1.0 / self._exponent if width == 0 else self._at(width)[1]

    def bound_width_below(self, error: float) -> int:
        """Returns the least m with `σ_{m+1} ≤ ε`, allowing for what the long sum leaves out."""
        left_out = self._rtol / self._exponent
        return int(np.count_nonzero(self._values - left_out > error))

    def least_width(self, error: float) -> ReducedSum | None:
        """Returns the narrowest fit found within the error, None if `max_width` is not enough."""
        if error >= 1.0 / self._exponent:
            return ReducedSum(np.empty(0), np.empty(0), self._values, float(self._values[0]))
        low, high = 0, self._max_width
        if self.error(high) > error:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.error(middle) > error else (low, middle)
        return self.fit(high)

    def _at(self, width: int) -> tuple[ReducedSum, float]:
        if width not in self._fits:
            fit = reduce_from_decomposition(
                self._amplitudes, self._rates, self._values, self._vectors, width
            )
            distance = measure_power_law_error(fit.amplitudes, fit.rates, self._exponent)
            self._fits[width] = (fit, distance)
        return self._fits[width]


def _plain(values: np.ndarray) -> Any:
    return [
        _plain(v) if isinstance(v, np.ndarray) else (v.item() if np.isfinite(v) else None)
        for v in values
    ]
