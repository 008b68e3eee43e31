"""Does a family of networks hold its ground as it grows wider? The stable radius, extrapolated."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.special

from recollect._core._check import invalid, require_positive, wrong_type
from recollect._core._references import references
from recollect._core._status import Status
from recollect.stability._perturbation import StabilityCurve

# A radius that settles does so at once, like one of these powers of the width, or exponentially.
_POWERS = (0.5, 1.0, 1.5, 2.0, 3.0)
_DECAYS = (0.15, 0.3, 0.6, 1.2)
# A family that loses less than this per doubling is not told from one that settles.
_SLOWEST_DRIFT = 0.2
_FASTEST_DRIFT = 8.0


@dataclasses.dataclass(frozen=True)
class StableRadius:
    """Whether a family is stably approximating its target, and up to which radius.

    Attributes:
        value: of `stable` the limit of the radii over the width; else the radius of the widest.
        value_stderr: standard deviation of that limit (the models' spread included), or of the
            radius after one more doubling of the width.
        verdict: `stable` (the curves settle), `not stable` (they move left for ever) or `undecided`.
        radii: the radius of each network: where its error has risen by `rise`.
        slope: of log radius against log width, in the wider half of the family.
        slope_stderr: its standard error.
        status: `undecided` with the reason where it is.
        probability: that the family settles, given one of the laws compared.
        rise: the error that counted as broken.
        warnings: what else deserves a word.
    """

    value: float
    value_stderr: float
    verdict: str
    radii: np.ndarray
    slope: float
    slope_stderr: float
    status: Status
    probability: float = math.nan
    rise: float = math.nan
    warnings: tuple[Status, ...] = ()


@references("wang2024inverse")
def estimate_stable_radius(
    curve: StabilityCurve, *, rise: float | None = None, level: float = 0.95
) -> StableRadius:
    """Returns the verdict on a family of widths, from its curves E_m(β).

    Each network's radius is where its error has risen by `rise` above E_m(0), interpolated in the
    logarithms. A family whose radii go to zero has E(β) = limsup E_m(β) discontinuous at zero
    (Definition 3.5). Two kinds of law are compared by their evidence, the scatter unknown: log radius
    settles (a constant, plus a power of the width or an exponential of it), or falls for ever (like
    log m, losing at least 20 % per doubling, or like √m). What is extrapolated is a trend over the
    widths tried: evidence, not a proof.

    Args:
        curve: of at least three widths, from `measure_perturbation_error`.
        rise: error that counts as broken; by default a tenth of ‖H‖ in the curve's norm (a hundredth
            for mean squares).
        level: probability at which a verdict is given.

    Returns:
        The verdict; `undecided` where neither kind reaches `level`.

    Raises:
        ValueError: if there are fewer than three widths, or no default for `rise` is known.
    """
    if not isinstance(curve, StabilityCurve):
        raise wrong_type("curve", "a StabilityCurve", type(curve).__name__)
    if not 0.5 < level < 1:
        raise invalid("level", "a probability between 0.5 and 1", level)
    if len(np.unique(curve.widths)) < 3:
        raise invalid("curve", "at least three widths", len(np.unique(curve.widths)))
    rise = _default_rise(curve) if rise is None else require_positive("rise", rise)
    order = np.argsort(curve.widths, kind="stable")
    found = [broken_at(curve.radii, row, rise) for row in curve.errors]
    radii = np.array([radius for radius, _ in found])
    is_cut = np.array([cut for _, cut in found])
    warnings = _warnings(curve, rise, order)
    if np.isinf(radii).all():
        words = f"no network broke up to β = {curve.radii[-1]:.3g}: the radius is at least that"
        return StableRadius(
            value=float(curve.radii[-1]),
            value_stderr=math.inf,
            verdict="stable",
            radii=radii,
            slope=0.0,
            slope_stderr=math.inf,
            status=Status("ok", words),
            probability=1.0,
            rise=rise,
            warnings=warnings,
        )
    known = np.isfinite(radii) & ~is_cut & (radii > 0)
    usable = [i for i in order if known[i]]
    if len(np.unique(np.asarray(curve.widths)[usable])) < 3:
        words = "fewer than three networks broke within the radii tried: widen their range"
        widest = radii[order[-1]]
        return StableRadius(
            value=float(widest if np.isfinite(widest) else curve.radii[-1]),
            value_stderr=math.inf,
            verdict="undecided",
            radii=radii,
            slope=math.nan,
            slope_stderr=math.inf,
            status=Status("undecided", words),
            rise=rise,
            warnings=warnings,
        )
    m = np.asarray(curve.widths, float)[usable]
    y = np.log(radii[usable])
    floor = _resolution(curve, rise, usable)
    settles, moves = _compare(m, y, floor)
    weights = np.concatenate([settles[:, 0], moves[:, 0]])
    total = scipy.special.logsumexp(weights)
    probability = float(np.exp(scipy.special.logsumexp(settles[:, 0]) - total))
    slope, slope_stderr = _late_slope(m, y, floor)
    if not known.all():
        warnings += (
            Status("undecided", f"{int((~known).sum())} networks broke outside the radii tried"),
        )
    status = Status()
    if probability >= level:
        verdict = "stable"
        share = np.exp(settles[:, 0] - scipy.special.logsumexp(settles[:, 0]))
        limit = float(share @ settles[:, 1])
        spread = math.sqrt(float(share @ (settles[:, 2] ** 2 + (settles[:, 1] - limit) ** 2)))
        value = math.exp(limit)
    else:
        verdict = "not stable" if probability <= 1 - level else "undecided"
        value = float(radii[usable[-1]])
        spread = math.log(2) * slope_stderr
        if verdict == "undecided":
            words = (
                f"radii change like width^({slope:.2f} ± {slope_stderr:.2f}): "
                f"that they settle has probability {probability:.2f}"
            )
            status = Status("undecided", words)
    return StableRadius(
        value=value,
        value_stderr=value * spread,
        verdict=verdict,
        radii=radii,
        slope=slope,
        slope_stderr=slope_stderr,
        status=status,
        probability=probability,
        rise=rise,
        warnings=warnings,
    )


def _default_rise(curve: StabilityCurve) -> float:
    sizes = None if curve.sizes is None else np.asarray(curve.sizes, float)
    sizes = None if sizes is None else sizes[np.isfinite(sizes) & (sizes > 0)]
    if sizes is None or not len(sizes):
        raise invalid("rise", "an error that counts as broken", "none", "the curve knows no ‖H‖")
    return float((0.01 if curve.norm == "mse" else 0.1) * np.median(sizes))


def _warnings(curve: StabilityCurve, rise: float, order: np.ndarray) -> tuple[Status, ...]:
    found = []
    start = curve.errors[order[-1], 0]
    if curve.radii[0] > 0:
        found.append(Status("undecided", "β = 0 is not among the radii: E_m(0) is taken as zero"))
    elif not start <= rise:
        words = (
            f"the widest network's own error {start:.3g} exceeds the rise: H is not approximated"
        )
        found.append(Status("undecided", words))
    return tuple(found)


def broken_at(radii: np.ndarray, errors: np.ndarray, rise: float) -> tuple[float, bool]:
    """Returns the radius at which the error has risen by so much, and whether it is but a bound."""
    if not np.isfinite(errors[0]):
        return float(radii[0]), True
    risen = errors - errors[0] if radii[0] == 0 else errors
    over = np.flatnonzero(~(risen < rise))
    if not len(over):
        return math.inf, False
    k = int(over[0])
    if k == 0 or (radii[k - 1] <= 0 and k + 1 < len(radii)):
        return float(radii[k]), True
    if not np.isfinite(risen[k]):
        # It breaks by diverging: the middle of the step, in logarithms.
        return float(math.sqrt(radii[k] * radii[k - 1])), False
    low = max(risen[k - 1], 1e-6 * rise)
    share = math.log(rise / low) / math.log(risen[k] / low)
    return float(radii[k - 1] * (radii[k] / radii[k - 1]) ** share), False


def _resolution(curve: StabilityCurve, rise: float, usable: list[int]) -> float:
    """Returns the scatter that the spacing of the radii leaves, at least 1 %."""
    steps = np.diff(np.log(curve.radii[curve.radii > 0]))
    step = float(np.median(steps)) if len(steps) else 1.0
    # Between two finite errors the crossing is interpolated; where the second is infinite it is
    # anywhere between them.
    finite = np.where(np.isfinite(curve.errors[usable]), curve.errors[usable], 0.0).max(axis=1)
    starts = curve.errors[usable, 0] if curve.radii[0] == 0 else np.zeros(len(usable))
    is_abrupt = bool(np.any(finite - starts < rise))
    return max(0.01, (12**-0.5 if is_abrupt else 0.05) * step)


def _compare(m: np.ndarray, y: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns (log evidence, limit, its deviation) of every settling law and of every moving one."""
    x = m / m[0]
    columns = [None, *(x**-p for p in _POWERS), *(np.exp(-d * (m - m[0])) for d in _DECAYS)]
    kinds = [1, *[len(_POWERS)] * len(_POWERS), *[len(_DECAYS)] * len(_DECAYS)]
    settling = [
        _line(column, y[:, None], floor)[0] - np.array([math.log(3 * count), 0.0, 0.0])
        for column, count in zip(columns, kinds, strict=True)
    ]
    drifts = np.geomspace(_SLOWEST_DRIFT, _FASTEST_DRIFT, 25)
    # Drifts are per doubling of the width, for the root on average over the widths tried.
    shapes = [np.log2(x), np.sqrt(m) - math.sqrt(m[0])]
    shapes[1] = shapes[1] * (shapes[0][-1] / shapes[1][-1])
    straightened = [y + drift * shape for shape in shapes for drift in drifts]
    moving = _line(None, np.array(straightened).T, floor)
    moving[:, 0] -= math.log(len(straightened))
    return np.array(settling), moving


def _line(column: np.ndarray | None, ys: np.ndarray, floor: float) -> np.ndarray:
    """Returns, per column of y = a + c·column + noise of unknown size: its evidence, a's mean and deviation."""
    n = len(ys)
    centre = ys.mean(axis=0)
    gap = ys - centre
    X = np.ones((n, 1)) if column is None else np.array([np.ones(n), column]).T
    D = np.diag([100.0, 4.0][: X.shape[1]])
    sigmas = np.geomspace(floor, max(1.0, 2 * floor), 16)
    prior = -np.log(sigmas)
    prior = prior - scipy.special.logsumexp(prior)
    logs, means, variances = [], [], []
    for sigma, log_prior in zip(sigmas, prior, strict=True):
        inverse = np.linalg.inv(X @ D @ X.T + sigma**2 * np.eye(n))
        half_log = 0.5 * np.linalg.slogdet(2 * math.pi * (X @ D @ X.T + sigma**2 * np.eye(n)))[1]
        logs.append(log_prior - half_log - 0.5 * np.einsum("iy,ij,jy->y", gap, inverse, gap))
        gain = D @ X.T @ inverse
        means.append(centre + (gain @ gap)[0])
        variances.append(max(float((D - gain @ X @ D)[0, 0]), 0.0))
    logs, means = np.array(logs), np.array(means)
    total = scipy.special.logsumexp(logs, axis=0)
    share = np.exp(logs - total)
    mean = (share * means).sum(axis=0)
    variance = (share * (np.array(variances)[:, None] + (means - mean) ** 2)).sum(axis=0)
    return np.array([total, mean, np.sqrt(variance)]).T


def _late_slope(m: np.ndarray, y: np.ndarray, floor: float) -> tuple[float, float]:
    n = max(3, math.ceil(len(m) / 2))
    x, y = np.log(m[-n:]), y[-n:]
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - slope * centred
    noise = max(math.sqrt(float(rest @ rest) / max(len(y) - 2, 1)), floor)
    return slope, noise / math.sqrt(float(centred @ centred))
