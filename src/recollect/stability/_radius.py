"""Does a family of networks hold its ground as it grows wider? The stable radius, extrapolated."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.stats

from recollect._core._check import invalid, require_positive, wrong_type
from recollect._core._references import references
from recollect._core._status import Status
from recollect.stability._perturbation import StabilityCurve


@dataclasses.dataclass(frozen=True)
class StableRadius:
    """Whether a family is stably approximating its target, and up to which radius.

    Attributes:
        value: radius at the largest width; for a family that holds, the smallest of its widths.
        value_stderr: standard error of its extrapolation by one doubling of the width.
        verdict: `stable` (the curves settle), `not stable` (they move left for ever) or `undecided`.
        radii: the radius of each network: where its error has risen by `rise`.
        slope: of log radius against log width.
        slope_stderr: its standard error.
        status: `undecided` with the reason where it is.
    """

    value: float
    value_stderr: float
    verdict: str
    radii: np.ndarray
    slope: float
    slope_stderr: float
    status: Status


@references("wang2024inverse")
def estimate_stable_radius(
    curve: StabilityCurve, *, rise: float | None = None, level: float = 0.95
) -> StableRadius:
    """Returns the verdict on a family of widths, from its curves E_m(β).

    Each network's radius is where its error has risen by `rise` above E_m(0), interpolated in the
    logarithms. Their trend over the width decides: a family whose radii fall like a power of the
    width has E(β) = limsup E_m(β) discontinuous at zero (Definition 3.5).

    Args:
        curve: of at least three widths, from `measure_perturbation_error`.
        rise: error that counts as broken; by default a tenth of the largest finite error.
        level: confidence at which the trend must differ from zero.

    Returns:
        `stable` if the slope's confidence interval contains 0 and excludes -1/4, `not stable` if it
        lies below -1/4 or the radii leave the range of β, `undecided` otherwise. What is
        extrapolated is a trend over the widths tried: evidence, not a proof.
    """
    if not isinstance(curve, StabilityCurve):
        raise wrong_type("curve", "a StabilityCurve", type(curve).__name__)
    if len(curve.widths) < 3:
        raise invalid("curve", "at least three widths", len(curve.widths))
    finite = curve.errors[np.isfinite(curve.errors)]
    rise = 0.1 * float(finite.max()) if rise is None else require_positive("rise", rise)
    radii = np.array([_crossing(curve.radii, row, rise) for row in curve.errors])
    known = np.isfinite(radii) & (radii > 0)
    if known.sum() < 3:
        words = "fewer than three networks broke within the radii tried"
        kind = "stable" if (~np.isfinite(radii)).all() else "undecided"
        status = Status() if kind == "stable" else Status("undecided", words)
        return StableRadius(
            float(curve.radii[-1]), math.inf, kind, radii, math.nan, math.inf, status
        )
    x, y = np.log(curve.widths[known]), np.log(radii[known])
    fit = scipy.stats.linregress(x, y)
    half = float(scipy.stats.t.ppf(0.5 + level / 2, max(len(x) - 2, 1)) * fit.stderr)
    slope = float(fit.slope)
    if slope + half < -0.25:
        verdict, status = "not stable", Status()
    elif (slope - half > -0.25 and slope + half >= 0) or slope - half > 0:
        verdict, status = "stable", Status()
    else:
        words = f"radii change like width^({slope:.2f} ± {half:.2f})"
        verdict, status = "undecided", Status("undecided", words)
    value = float(radii[known][-1]) if verdict != "stable" else float(radii[known].min())
    ahead = math.log(curve.widths[known][-1]) + math.log(2)
    spread = math.sqrt(fit.intercept_stderr**2 + (ahead * fit.stderr) ** 2)
    return StableRadius(value, value * spread, verdict, radii, slope, float(fit.stderr), status)


def _crossing(radii: np.ndarray, errors: np.ndarray, rise: float) -> float:
    """Returns the radius at which the error has risen by so much, infinite if it has not."""
    risen = errors - errors[0] if radii[0] == 0 else errors
    over = np.flatnonzero(risen >= rise)
    if not len(over):
        return math.inf
    k = int(over[0])
    if k == 0 or radii[k - 1] <= 0 or not np.isfinite(risen[k]) or risen[k - 1] <= 0:
        return float(radii[k])
    share = math.log(rise / risen[k - 1]) / math.log(risen[k] / risen[k - 1])
    return float(math.exp(np.interp(share, [0, 1], np.log(radii[k - 1 : k + 1]))))
