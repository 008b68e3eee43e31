"""The law of a memory: its shape, how sure that is, and how far back it reaches."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from recollect._core._check import (
    invalid,
    require_count,
    require_positive,
    require_probability,
    wrong_type,
)
from recollect._core._json import finite_or_null
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.memory import _law_evidence, _law_profile
from recollect.memory._law_families import Family, families

LAWS = ("none", "exponential", "power", "stretched", "delayed")

_FRACTIONS = (0.5, 0.9, 0.95)
_WORTH_SAMPLING = 20.0
_MISFIT = 1e-3
# Share of the explained power that structure may have before a shape counts as wrong: what is
# measured is never exactly linear, and enough samples would refuse every shape.
_IMMATERIAL = 0.02
# noise-free memories: relative differences that are no evidence, and that no shape may exceed
_SAME, _FOLLOWS = 1e-3, 0.03
_TAIL_ATTEMPTS = ((False, _SAME, _FOLLOWS), (True, 0.05, 0.3))


@dataclasses.dataclass(frozen=True)
class LagInterval:
    """A number with the interval that holds it with probability `level`.

    Args:
        value: the posterior median.
        lower: lower end of the interval.
        upper: upper end, possibly infinite.
        level: nominal probability.
    """

    value: float
    lower: float
    upper: float
    level: float

    def __float__(self) -> float:
        return self.value

    def record(self) -> dict[str, float | None]:
        """Returns the interval as a JSON object, `None` for what is not finite."""
        return finite_or_null(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class MemoryLaw:
    """The law of a memory, and the lags by which parts of it have been seen.

    Args:
        law: `none`, `exponential`, `power`, `stretched`, `delayed` or `undecided`.
        t50: lag by which half of `∫|ρ|` has been seen, in the unit of `dt`.
        t90: the same for nine tenths.
        t95: the same for nineteen twentieths.
        probabilities: posterior probability of each law.
        family: the likeliest shape within the laws, in words.
        parameters: its parameters, in the unit of `dt`.
        log_evidences: log evidence of every shape compared, the best being 0.
        misfit: probability of a residual as structured as the one the likeliest shape leaves.
        verdict: `record_too_short` where t95 exceeds half the record.
        status: whether the law was decided.
        warnings: what else deserves a word.
        channels: the law of each input, where there are several and none was named.
        stats: counts and times of the computation.
    """

    law: str
    t50: LagInterval
    t90: LagInterval
    t95: LagInterval
    probabilities: dict[str, float]
    family: str
    parameters: dict[str, LagInterval]
    log_evidences: dict[str, float]
    misfit: float
    verdict: Status = dataclasses.field(default_factory=Status)
    status: Status = dataclasses.field(default_factory=Status)
    warnings: tuple[Status, ...] = ()
    channels: tuple[MemoryLaw, ...] = ()
    stats: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def is_decided(self) -> bool:
        """True when one law holds almost all of the probability and fits the data."""
        return self.law != "undecided"


@on_one_thread
@references("kass1995bayes", "liangpaulo2008mixtures")
def estimate_law(
    memory: Any,
    *,
    record: float | None = None,
    output: int | None = None,
    input: int | None = None,
    level: float = 0.9,
    min_probability: float = 0.9,
    n_draws: int = 512,
    seed: int = 0,
) -> MemoryLaw:
    """Returns the law of a memory (none, exponential, power, ...) and how far back it reaches.

    Shapes compared (each with and without an extra coefficient at lag 0):
    one to three exponentials, a damped oscillation, a gamma response `t^(order-1) e^(-rate t)`
    (equal tanks in a row), and a decay, or a rise and decay, after a dead time shorter than the
    decay time (`exponential`: the law is that of the tail); `(1 + t/scale)^-exponent`
    (`power`); `exp(-(t/scale)^exponent)` (`stretched`); a decay, or a rise and decay, after a
    longer delay, a bump at a delay alone or after a decay (`delayed`); no response beyond the
    present step (`none`). Amplitudes carry a g-prior and are integrated out exactly, the noise variance
    too; shape parameters are integrated by importance sampling. A law is named when it holds
    `min_probability` and the residual of its likeliest shape is free of structure (chi-squared
    over hat functions of lag) or the structure is below 2 % of what the memory explains, in
    which case the evidence is tempered by the Birge ratio √(χ²/degrees of freedom); otherwise
    the answer is `undecided`. Intervals of `t50`, `t90`, `t95` are stretched by the same ratio
    where it exceeds 1.

    `t50`, `t90`, `t95` are the lags by which that fraction of `∫|ρ|` has been seen, averaged over
    all shapes in proportion to their probability, tails beyond the lag window included. If no
    shape fits they come from the kernel estimate alone, which sees nothing beyond its window.

    Args:
        memory: a `KernelEstimate`, or a noise-free `MemoryProfile` (`lags`, `memory`).
        record: length of the record the memory was estimated from, in the unit of `dt`. Left
            out: what the estimate covers.
        output: which output, needed if there are several.
        input: which input. With several and none named, every input gets its law, inputs are
            weighed by their standard deviation, and the law returned is that of the input whose
            memory is longest among those with a tenth of the whole or more.
        level: nominal probability of the intervals.
        min_probability: posterior probability a law needs to be named.
        n_draws: posterior draws per shape.
        seed: of the draws; the same seed gives the same answer.

    Returns:
        The law.

    Raises:
        TypeError: `memory` is neither an estimate nor a profile.
        ValueError: an output or input that does not exist, or options out of range.

    Assumptions: the kernel is one of these shapes or the answer is `undecided`; shapes much
    faster than a step are called `none`.
    """
    level = require_probability("level", level)
    min_probability = require_probability("min_probability", min_probability)
    n_draws = require_count("n_draws", n_draws, minimum=16)
    if record is not None:
        record = require_positive("record", record)
    options = dict(level=level, min_probability=min_probability, n_draws=n_draws, seed=seed)
    if hasattr(memory, "statistics"):
        return _law_of_estimate(memory, record, output, input, options)
    if hasattr(memory, "memory") and hasattr(memory, "lags"):
        profile = _law_profile.read_profile(memory.lags, memory.memory)
        return _law_of_profile(profile, record or profile.window, options)
    raise wrong_type(
        "memory",
        "a KernelEstimate or a MemoryProfile",
        type(memory).__name__,
        "call estimate_kernel or measure_memory first",
    )


def _law_of_estimate(estimate, record, output, input, options) -> MemoryLaw:
    statistics = estimate.statistics
    n_outputs, n_inputs = np.shape(estimate.kernel)[1:]
    output = _require_channel("output", output, n_outputs)
    if output is None:
        raise invalid(
            "output",
            f"one of 0 to {n_outputs - 1}",
            None,
            "every output is a functional of its own",
        )
    input = _require_channel("input", input, n_inputs)
    steps = np.asarray(statistics.edges, dtype=np.float64) / estimate.dt
    n_samples = float(statistics.n_samples[output])
    if record is None:
        record = n_samples * estimate.dt
    inputs = range(n_inputs) if input is None else (input,)
    laws, curves, scales = [], [], []
    for channel in inputs:
        gram, cross, power = _one_input(statistics, estimate.covariance, output, channel)
        evidence = _law_evidence.whiten(
            steps, gram, cross, power, n_samples, estimate.kernel[:, output, channel]
        )
        own = np.arange(channel, len(gram) * n_inputs, n_inputs)
        covariance = estimate.covariance[output][np.ix_(own, own)]
        seen, law = _law_of_statistics(
            evidence, covariance, dt=estimate.dt, record=record, **options
        )
        laws.append(law)
        curves.append(seen)
        scales.append(math.sqrt(max(statistics.gram[output][channel, channel], 0.0)))
    if len(laws) == 1:
        return laws[0]
    return _combine(laws, curves, scales, steps[-1], estimate.dt, record, options["level"])


def _combine(laws, curves, scales, n_lags, dt, record, level) -> MemoryLaw:
    """Returns the law of the whole memory: inputs weighed by how strongly they are driven."""
    weighed = [scale * seen for scale, seen in zip(scales, curves, strict=True)]
    total = np.sum(weighed, axis=0)
    t50, t90, t95 = (
        _interval(dt * row, level) for row in _quantile_lags(total, _dense_edges(n_lags))
    )
    mass = np.array([np.median(seen[:, -1]) for seen in weighed])
    with np.errstate(invalid="ignore"):
        counts = ~(mass < 0.1 * mass.max())
    longest = max((law for law, is_in in zip(laws, counts, strict=True) if is_in), key=_reach)
    index = laws.index(longest)
    return dataclasses.replace(
        longest,
        t50=t50,
        t90=t90,
        t95=t95,
        verdict=_verdict(t95, record),
        channels=tuple(laws),
        stats={**longest.stats, "longest_input": index},
    )


def _reach(law: MemoryLaw) -> float:
    return law.t95.value


def _require_channel(argument: str, value: int | None, n_channels: int) -> int | None:
    if value is None:
        return 0 if n_channels == 1 else None
    index = require_count(argument, value, minimum=0)
    if index >= n_channels:
        raise invalid(argument, f"one of 0 to {n_channels - 1}", value)
    return index


def _one_input(statistics, covariance, output: int, channel: int):
    """Returns the normal equations of one input, the others integrated out under their prior.

    The block inverse of the posterior covariance holds what is needed: given this input, the
    others have the covariance `S_oo - S_oi S_ii⁻¹ S_io`.
    """
    gram, cross = statistics.gram[output], statistics.cross[output]
    power, n_inputs = float(statistics.power[output]), statistics.n_inputs
    own = np.arange(channel, len(gram), n_inputs)
    other = np.setdiff1d(np.arange(len(gram)), own)
    if not len(other):
        return gram, cross, power
    spread = covariance[output]
    mixed = spread[np.ix_(own, other)]
    given = spread[np.ix_(other, other)] - mixed.T @ (
        np.linalg.pinv(spread[np.ix_(own, own)], rcond=1e-12, hermitian=True) @ mixed
    )
    coupling = gram[np.ix_(own, other)] @ given
    reduced = gram[np.ix_(own, own)] - coupling @ gram[np.ix_(other, own)]
    return (
        0.5 * (reduced + reduced.T),
        cross[own] - coupling @ cross[other],
        max(power - float(cross[other] @ given @ cross[other]), 0.0),
    )


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """All shapes fitted to one problem, with what each is worth."""

    fits: list[_law_evidence.Fit]
    log_evidences: np.ndarray
    weights: np.ndarray
    probabilities: dict[str, float]
    variance: float
    n_sampled: int

    @property
    def best(self) -> _law_evidence.Fit:
        return self.fits[int(np.argmax(self.weights))]

    @property
    def likeliest(self) -> str:
        return max(LAWS, key=lambda law: self.probabilities[law])


def _compare(shapes, evidence, n_draws: int, rng: np.random.Generator) -> _Comparison:
    fits = [_law_evidence.fit_family(shape, evidence, rng) for shape in shapes]
    variance = min(fit.squares for fit in fits) / evidence.n_samples
    crude = np.array([_law_evidence.crude_evidence(fit, evidence, variance) for fit in fits])
    worth = crude > crude.max() - _WORTH_SAMPLING
    fits = [
        _law_evidence.sample_family(fit, evidence, variance, n_draws, rng)
        if is_worth
        else dataclasses.replace(fit, log_evidence=estimate)
        for fit, is_worth, estimate in zip(fits, worth, crude, strict=True)
    ]
    return _weighed(fits, variance, worth, 1.0)


def _tempered(found: _Comparison, stretch: float) -> _Comparison:
    """Returns the comparison with evidence worth as much as the structure left allows."""
    return _weighed(found.fits, found.variance, found.weights > 0.0, stretch)


def _weighed(fits, variance: float, worth: np.ndarray, stretch: float) -> _Comparison:
    log_evidences = np.array([fit.log_evidence for fit in fits]) / stretch**2
    log_evidences = log_evidences - log_evidences.max()
    # laws are equally likely beforehand, and so are the shapes within one
    n_shapes = {law: sum(fit.family.law == law for fit in fits) for law in LAWS}
    weights = np.exp(log_evidences) / np.array([n_shapes[fit.family.law] for fit in fits])
    weights = np.where(worth, weights, 0.0)
    weights /= weights.sum()
    probabilities = {
        law: float(sum(w for w, fit in zip(weights, fits, strict=True) if fit.family.law == law))
        for law in LAWS
    }
    return _Comparison(fits, log_evidences, weights, probabilities, variance, int(worth.sum()))


def _law_of_statistics(
    evidence: _law_evidence.Evidence,
    covariance: np.ndarray | None,
    *,
    dt: float,
    record: float,
    level: float,
    min_probability: float,
    n_draws: int,
    seed: int,
) -> tuple[np.ndarray, MemoryLaw]:
    """Returns draws of the memory seen up to each dense edge, and the law of one kernel."""
    rng = np.random.default_rng(seed)
    shapes = families(evidence.edges[-1], max(record / dt, 2.0 * evidence.edges[-1]))
    found = _compare(shapes, evidence, n_draws, rng)
    misfit = _law_evidence.measure_misfit(found.best, evidence, found.variance)
    dense = _dense_edges(evidence.edges[-1])
    stretch = 1.0
    is_structured = misfit.probability < _MISFIT
    if is_structured and misfit.share > _IMMATERIAL:
        seen = _seen_of_posterior(evidence, covariance, dense, n_draws, rng)
        law, status = _law_without_shape(seen, dense, found.best, min_probability)
    else:
        if is_structured:
            found = _tempered(found, misfit.stretch)
        law, status = _law_by_probability(found, min_probability)
        seen = _seen_of_fits(found.fits, found.weights, dense, n_draws, rng)
        stretch = misfit.stretch
    t50, t90, t95 = (
        _stretched(_interval(dt * row, level), stretch) for row in _quantile_lags(seen, dense)
    )
    return seen, MemoryLaw(
        law=law,
        t50=t50,
        t90=t90,
        t95=t95,
        misfit=misfit.probability,
        verdict=_verdict(t95, record),
        status=status,
        warnings=_warnings(t95),
        **_account(found, dt, level),
    )


def _law_by_probability(found: _Comparison, min_probability: float) -> tuple[str, Status]:
    if found.probabilities[found.likeliest] >= min_probability:
        return found.likeliest, Status()
    close = sorted(LAWS, key=lambda law: -found.probabilities[law])[:2]
    told = " against ".join(f"{name} {found.probabilities[name]:.0%}" for name in close)
    return "undecided", Status("undecided", f"two laws explain the data: {told}")


def _law_without_shape(seen, dense, best, min_probability) -> tuple[str, Status]:
    """Returns `delayed` where the estimate itself says so, `undecided` otherwise."""
    early, late = _quantile_lags(seen, dense, (0.05, 0.95))
    if np.mean((early > late - early) & (early > 1.0)) >= min_probability:
        return "delayed", Status()
    return "undecided", Status(
        "undecided",
        f"no shape fits: the likeliest ({best.family.name}) leaves structure in the residual",
    )


def _account(found: _Comparison, dt: float, level: float) -> dict[str, Any]:
    return {
        "probabilities": found.probabilities,
        "family": found.best.family.name,
        "parameters": _parameters(found.best, dt, level),
        "log_evidences": {
            fit.family.name: float(value)
            for fit, value in zip(found.fits, found.log_evidences, strict=True)
        },
        "stats": {
            "n_shapes": len(found.fits),
            "n_sampled": found.n_sampled,
            "effective_draws": found.best.effective_draws,
            "noise": math.sqrt(found.variance),
        },
    }


def _law_of_profile(profile: _law_profile.Profile, record: float, options) -> MemoryLaw:
    """Returns the law of a noise-free memory over its window.

    First the whole kernel, then concentration about a delay, then the envelope of the tail: a
    shape must follow it to within a few per cent there, and the envelope must fall tenfold.
    """
    level, rng = options["level"], np.random.default_rng(options["seed"])
    lags, dt, envelope = profile.lags, profile.dt, profile.envelope
    if envelope[0] == 0.0 or (len(lags) <= 2 and envelope[1] <= 1e-12 * envelope[0]):
        return _law_of_no_memory(profile, level)
    n_lags = lags[-1] / dt
    shapes = [
        shape
        for shape in families(n_lags, 1e3 * n_lags)
        if shape.law != "none" and not shape.name.endswith(("and instant", "gamma"))
    ]
    evidence = _law_profile.profile_evidence(profile, inexactness=_SAME)
    found = _compare(shapes, evidence, options["n_draws"], rng)
    misfit = math.sqrt(max(found.variance - _SAME**2, 0.0))
    dense = _dense_edges(n_lags)
    if misfit < _FOLLOWS and not profile.ends_abruptly:
        law, status = _law_by_probability(found, options["min_probability"])
        seen = _seen_of_fits(found.fits, found.weights, dense, options["n_draws"], rng)
        spans = [_interval(dt * row, level) for row in _quantile_lags(seen, dense)]
    else:
        if _law_profile.is_concentrated(profile):
            law, status = "delayed", Status()
        elif profile.ends_abruptly:
            law, status = (
                "undecided",
                Status("undecided", f"the memory does not decay: it ends at lag {lags[-1]:.3g}"),
            )
        else:
            law, status, found = _law_of_tail(profile, shapes, found, options, rng)
        spans = _spans_of_profile(profile, level)
    t50, t90, t95 = spans
    return MemoryLaw(
        law=law,
        t50=t50,
        t90=t90,
        t95=t95,
        misfit=misfit,
        verdict=_verdict(t95, record),
        status=status,
        warnings=_warnings(t95),
        **_account(found, dt, level),
    )


def _law_of_no_memory(profile: _law_profile.Profile, level: float) -> MemoryLaw:
    reach = 0.0 if profile.envelope[0] == 0.0 else profile.dt
    t50, t90, t95 = (LagInterval(q * reach, 0.0, reach, level) for q in _FRACTIONS)
    return MemoryLaw(
        law="none",
        t50=t50,
        t90=t90,
        t95=t95,
        probabilities={law: float(law == "none") for law in LAWS},
        family="instant" if reach else "zero",
        parameters={},
        log_evidences={},
        misfit=0.0,
    )


def _law_of_tail(profile, shapes, whole, options, rng):
    decays = [shape for shape in shapes if shape.law != "delayed"]
    envelope = profile.envelope
    for reached in (1e-1, 1e-2, 1e-3):
        first = int(np.searchsorted(-envelope, -reached * envelope[0]))
        if len(envelope) - first < 12 or envelope[-1] > 0.1 * envelope[first]:
            break
        for use_envelope, same, follows in _TAIL_ATTEMPTS:
            evidence = _law_profile.profile_evidence(
                profile, inexactness=same, first=first, use_envelope=use_envelope
            )
            tails = [shape for shape in decays if not use_envelope or shape.n_linear == 1]
            found = _compare(tails, evidence, options["n_draws"], rng)
            if found.variance < follows**2 + same**2:
                law, status = _law_by_probability(found, options["min_probability"])
                return law, status, found
    if envelope[-1] > 0.1 * envelope[0]:
        message = "the memory has not fallen tenfold within its window"
    else:
        message = "no shape follows the memory over its window"
    return "undecided", Status("undecided", message), whole


def _spans_of_profile(profile, level) -> list[LagInterval]:
    """Returns quantile lags from the window, with the tail continued at its last slope."""
    envelope, lags = profile.envelope, profile.lags
    late = len(lags) - max(len(lags) // 3, 2)
    fall = math.log(envelope[late] / envelope[-1])
    span = lags[-1] - lags[late]
    tail = envelope[-1] * span / fall if fall > 1e-3 else math.inf
    if profile.ends_abruptly:
        tail = 0.0
    rows = [
        _law_profile.quantile_lags(profile, _FRACTIONS, extra) for extra in (tail, 0.0, 3.0 * tail)
    ]
    return [LagInterval(float(a), float(b), float(c), level) for a, b, c in zip(*rows, strict=True)]


def _verdict(t95: LagInterval, record: float) -> Status:
    if t95.value > 0.5 * record:
        return Status(
            "record_too_short",
            f"t95 = {t95.value:.3g} exceeds half the record of {record:.3g}",
        )
    if t95.upper > 0.5 * record:
        return Status(
            "ok", f"the upper end of t95, {t95.upper:.3g}, exceeds half the record of {record:.3g}"
        )
    return Status()


def _warnings(t95: LagInterval) -> tuple[Status, ...]:
    if math.isfinite(t95.value):
        return ()
    return (Status("not_integrable", "the memory decays like a power of lag of at most one"),)


def _parameters(fit: _law_evidence.Fit, dt: float, level: float) -> dict[str, LagInterval]:
    named = fit.family.read(fit.draws)
    units = {"rate": 1 / dt, "second_rate": 1 / dt, "third_rate": 1 / dt, "frequency": 1 / dt}
    units |= {"scale": dt, "delay": dt, "spread": dt}
    return {
        name: _interval(units.get(name, 1.0) * values, level, fit.weights)
        for name, values in named.items()
    }


def _interval(values: np.ndarray, level: float, weights: np.ndarray | None = None) -> LagInterval:
    tail = 0.5 * (1.0 - level)
    order = np.argsort(values)
    weights = np.full(len(values), 1.0 / len(values)) if weights is None else weights
    reached = np.cumsum(weights[order])
    reached = (reached - 0.5 * weights[order]) / reached[-1]
    spots = np.searchsorted(reached, [0.5, tail, 1.0 - tail])
    value, lower, upper = values[order][np.minimum(spots, len(values) - 1)]
    return LagInterval(float(value), float(lower), float(upper), level)


def _stretched(span: LagInterval, ratio: float) -> LagInterval:
    """Returns the interval with its ends `ratio` times as far from the value, in log lag."""
    if not (span.lower > 0.0 and math.isfinite(span.value)):
        return span
    lower = span.value * (span.lower / span.value) ** ratio
    return dataclasses.replace(
        span, lower=lower, upper=span.value * (span.upper / span.value) ** ratio
    )


def _dense_edges(n_lags: float) -> np.ndarray:
    """Returns edges fine enough for a delay inside the window and a tail far beyond it."""
    inside = np.arange(0.0, min(n_lags, 500.0) + 0.25, 0.5)
    middle = np.geomspace(1.0, max(n_lags, 2.0), 800)
    outside = np.geomspace(1e-4, 1e12, 1000)
    return np.unique(np.concatenate([inside, middle, outside]))


def _seen_of_fits(fits, weights, edges, n_draws, rng) -> np.ndarray:
    """Returns `∫|ρ|` up to each edge, for draws of all shapes as often as each is probable."""
    parts = []
    counts = rng.multinomial(n_draws, weights)
    for fit, count in zip(fits, counts, strict=True):
        if count:
            drawn = _systematic(fit.weights, count, rng)
            parts.append(_seen(fit.family, fit.draws[drawn], fit.amplitudes[drawn], edges))
    # channels are added draw by draw: no order may be shared between them
    return rng.permutation(np.concatenate(parts), axis=0)


def _systematic(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    spots = (rng.random() + np.arange(count)) / count
    return np.minimum(np.searchsorted(np.cumsum(weights), spots), len(weights) - 1)


def _seen(
    family: Family, theta: np.ndarray, amplitudes: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    if family.n_linear == 0:
        return np.zeros((len(theta), len(edges)))
    mass = np.einsum("bl,blt->bt", amplitudes, family.step(theta, edges))
    grown = np.cumsum(np.abs(np.diff(mass, axis=1)), axis=1)
    seen = np.concatenate([np.zeros((len(theta), 1)), grown], axis=1)
    if family.law == "power":
        # not integrable: whatever has been seen is a vanishing part
        seen[theta[:, 1] <= 1.0, -1] = np.inf
    return seen


def _seen_of_posterior(evidence, covariance, edges, n_draws, rng) -> np.ndarray:
    """Returns the same for draws of the kernel estimate itself, with the signs of its mean.

    Signs are held, and lags where the mean is within two standard deviations of zero are left
    out, because |noise| would add up to memory that is not there. Nothing beyond the lag window
    is seen.
    """
    width = np.diff(evidence.edges)
    signs = np.sign(evidence.guess)
    if covariance is not None:
        signs = signs * (evidence.guess**2 > 4.0 * np.diag(covariance))
    draws = np.broadcast_to(evidence.guess, (n_draws, len(width)))
    if covariance is not None:
        values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        draws = draws + rng.standard_normal(draws.shape) @ root.T
    grown = np.cumsum(draws * (signs * width), axis=1)
    grown = np.maximum.accumulate(np.maximum(grown, 0.0), axis=1)
    grown = np.concatenate([np.zeros((n_draws, 1)), grown], axis=1)
    return np.stack([np.interp(edges, evidence.edges, row) for row in grown])


def _quantile_lags(
    seen: np.ndarray, edges: np.ndarray, fractions: tuple[float, ...] = _FRACTIONS
) -> np.ndarray:
    """Returns the lags by which the fractions have been seen, shape (fraction, draw)."""
    lags = np.empty((len(fractions), len(seen)))
    for i, row in enumerate(seen):
        finite = math.isfinite(row[-1])
        lags[:, i] = np.interp(np.multiply(fractions, row[-1]), row, edges) if finite else np.inf
    lags[:, seen[:, -1] == 0.0] = 0.0
    return lags
