"""The front: a kernel in, the best network of a width out, with its error and a bound beside it."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recollect._core._check import (
    invalid,
    require_choice,
    require_count,
    require_positive,
    wrong_type,
)
from recollect._core._functional import AbstractLinearFunctional
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.approximation._discrete import fit_discrete
from recollect.approximation._errors import measure_deviation
from recollect.approximation._estimated import fit_estimate
from recollect.approximation._grid import build_grid
from recollect.approximation._hankel import (
    HankelSpectrum,
    bound_largest_error,
    hankel_spectrum,
)
from recollect.approximation._l1 import (
    LeastDeviation,
    Modes,
    modes_of,
    refine_modes,
    reweighted_sections,
)
from recollect.approximation._l2 import (
    LeastSquares,
    Sections,
    project,
    refine_sections,
    section_basis,
    section_modes,
    sections_of,
    sum_of_sections,
)
from recollect.approximation._leveling import level_sections
from recollect.approximation._linf import fit_linf
from recollect.approximation._positive import refine_positive
from recollect.approximation._problem import NORMS, FitGrid, Poles, evaluate_sum
from recollect.approximation._samples import fit_samples
from recollect.approximation._state_space import (
    assemble,
    coordinates_from_modes,
    project_on_states,
    propagate,
    takenaka_malmquist,
)
from recollect.approximation._tangential import (
    evaluate_rank_one,
    rank_one_start,
    refine_rank_one,
    split_full,
)
from recollect.memory import KernelEstimate
from recollect.models import LinearRNN
from recollect.targets import SampledKernel, kernel_hints, kernel_quadrature

_WIDTH_CHAIN = 16
_N_STEPS_MAX = 20_000


@dataclasses.dataclass(frozen=True)
class ExponentialSum:
    """A kernel as a network of small width, with its error and what no width-m network can beat.

    Args:
        model: the network; in continuous time its states are orthonormal under white noise
            (input-normal), so no weight is large.
        rates: w_i, shape (width,), complex and closed under conjugation, Re > 0, in 1/time; in
            discrete time -log(z)/dt of the multipliers z, infinite for z = 0.
        amplitudes: a_i, shape (width, out, in): `ρ̂(t) = Σ_i a_i e^{-w_i t}` (+ constant); NaN
            where the sum has a repeated rate and no such form.
        constant: value at infinite lag, shape (out, in), zero unless asked for.
        errors: the error in `l1`, `l2` and `linf` on a grid the fit never saw (infinite where
            the kernel is not in the space).
        norm: the norm that was minimised.
        bound: a proved lower bound on the error of every network of this width in `norm`, or
            None where there is none.
        bounds: the same for each norm.
        dt: step in discrete time, None in continuous time.
        status: how the fit ended; `width_beyond_rank` when a smaller width says it all.
        stats: the width asked for, the Hankel singular values, seconds, what was counted.
        warnings: further remarks.
    """

    model: LinearRNN
    rates: np.ndarray
    amplitudes: np.ndarray
    constant: np.ndarray
    errors: Mapping[str, float]
    norm: str
    bound: float | None
    bounds: Mapping[str, float | None]
    dt: float | None
    status: Status
    stats: Mapping[str, Any]
    warnings: tuple[Status, ...] = ()

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return self.model.width

    @property
    def error(self) -> float:
        """The error in the norm that was minimised."""
        return self.errors[self.norm]

    @property
    def slowest_rate(self) -> float:
        """The smallest Re w: the distance from the stability boundary."""
        return float(np.min(self.rates.real))


@dataclasses.dataclass(frozen=True)
class WidthCurve:
    """The error against the width, in one norm.

    Args:
        widths: shape (k,), ascending.
        errors: the best errors found, shape (k,); never increasing.
        bounds: proved lower bounds, NaN where there is none, shape (k,).
        fits: the fit at each width.
        norm: the norm.
        status: `width_beyond_rank` if the largest widths add nothing in float64.
        stats: Hankel singular values and seconds.
    """

    widths: np.ndarray
    errors: np.ndarray
    bounds: np.ndarray
    fits: tuple[ExponentialSum, ...]
    norm: str
    status: Status
    stats: Mapping[str, Any]


# Rates, amplitudes (width, channel), and the sum as a function of lags.
_Candidate = tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]


class _Workbench:
    """One kernel with everything that its widths share, each part made when first needed."""

    def __init__(self, grid: FitGrid, *, norm: str, real: bool):
        self.grid, self.norm = grid, norm
        self.is_monotone = bool(grid.is_completely_monotone)
        self.wants_real = real
        self.real = real or self.is_monotone
        self.rows = np.sqrt(grid.weights)
        n_channels = grid.n_outputs * grid.n_inputs
        self.target = grid.values.reshape(-1, n_channels) * self.rows[:, None]
        self.check_rows = np.sqrt(grid.check_weights)
        self.check_target = grid.check_values.reshape(-1, n_channels) * self.check_rows[:, None]
        self.size = float(np.sqrt(np.sum(self.check_target**2)))
        self._least_squares: dict[int, LeastSquares] = {}
        self._least_deviations: dict[int, LeastDeviation] = {}
        self._leveled: dict[int, LeastSquares] = {}
        self._delivered: dict[int, ExponentialSum] = {}
        self._smallest_sups: dict[int, Poles] = {}

    @functools.cached_property
    def spectrum(self) -> HankelSpectrum:
        """Of the Hankel operator: L1 bounds, rank, starts."""
        return hankel_spectrum(self.grid)

    @functools.cached_property
    def weighted_spectrum(self) -> HankelSpectrum:
        """Of the operator whose Hilbert-Schmidt norm is the L2 norm: L2 bounds, starts."""
        return hankel_spectrum(self.grid, power=0.5)

    @property
    def n_copies(self) -> int:
        """Units per rate: with several inputs and outputs each rate needs a full residue."""
        return min(self.grid.n_outputs, self.grid.n_inputs)

    @functools.cached_property
    def rank(self) -> int:
        """The largest number of rates that float64 can tell apart."""
        return max(1, self.spectrum.usable_width(rtol=1e-14))

    def _check(self, sections: Sections, amplitudes: np.ndarray) -> float:
        basis, _ = section_basis(
            sections, self.grid.check_nodes, self.check_rows, derivatives=False
        )
        residual = self.check_target - basis @ amplitudes
        return float(np.sum(residual * residual))

    def starts(self, width: int) -> list[Sections]:
        """Sections to start from, the most promising ones first."""
        found: list[np.ndarray] = []
        for spectrum in (self.weighted_spectrum, self.spectrum):
            rates = spectrum.rates(width)
            if len(rates) == width:
                found.append(rates)
        before = self._least_squares.get(width - 1)
        if before is not None:
            rates = before.sections.rates()
            if self.real:
                found.append(_stretched(np.sort(rates.real), width))
            else:
                found.append(np.append(rates, self._extra_rate(rates)))
        two_before = self._least_squares.get(width - 2)
        if not self.real:
            found.extend(_finite_memory_rates(self.grid, width))
            if two_before is not None:
                pair = self._extra_pair(two_before, width)
                found.append(np.concatenate([two_before.sections.rates(), pair]))
        starts = []
        for rates in found:
            rates = _stabilised(rates, self.grid)
            if len(rates) == width:
                starts.append(sections_of(rates, real=self.real))
        return starts

    def _extra_rate(self, rates: np.ndarray) -> float:
        """The real rate whose addition lowers the L2 cost most."""
        candidates = np.geomspace(0.2, 40, 12) / self.grid.timescale
        return float(min(candidates, key=lambda w: self._quick(np.append(rates, w))))

    def _extra_pair(self, before: LeastSquares, width: int) -> np.ndarray:
        length = min(self.grid.effective_support, 8 * self.grid.timescale)
        decay = (1 + math.log(width + 1)) / length
        candidates = [decay + 1j * math.pi * k / length for k in np.arange(0.5, width + 2, 1.0)]
        best = min(
            candidates,
            key=lambda w: self._quick(np.concatenate([before.sections.rates(), [w, np.conj(w)]])),
        )
        return np.array([best, np.conj(best)])

    def _quick(self, rates: np.ndarray) -> float:
        sections = sections_of(rates, real=self.real)
        return project(sections, self.grid.nodes, self.rows, self.target, derivatives=False).cost

    def least_squares(self, width: int) -> LeastSquares:
        """The best L2 fit found at this width; wider fits are never worse."""
        if width in self._least_squares:
            return self._least_squares[width]
        before = None
        if width > 1 and width <= _WIDTH_CHAIN + 1:
            before = self.least_squares(width - 1)
        elif width > 1:
            # Beyond what the Hankel operators tell apart, starts are guesses.
            told = max(s.n_rates for s in (self.weighted_spectrum, self.spectrum))
            if 0 < told < width:
                before = self.least_squares(told)
        floor = (1e-16 * self.size) ** 2
        trials = []
        for sections in self.starts(width):
            trial = refine_sections(
                sections, self.grid.nodes, self.rows, self.target,
                n_iterations=25, rtol=1e-5, floor=floor,
            )  # fmt: skip
            trials.append(trial)
        trials.sort(key=lambda trial: trial.cost)
        finalists: list[LeastSquares] = []
        for trial in trials:
            if len(finalists) == 2 or (finalists and trial.cost > 4 * trials[0].cost):
                break
            if any(abs(trial.cost - other.cost) <= 1e-4 * other.cost for other in finalists):
                continue
            finalists.append(
                refine_sections(
                    trial.sections,
                    self.grid.nodes,
                    self.rows,
                    self.target,
                    n_iterations=100,
                    rtol=1e-8,
                    floor=floor,
                )
            )
        contenders = finalists if before is None else [before, *finalists]
        lowest = min(trial.cost for trial in finalists)
        if not self.is_monotone and lowest < (1e-6 * self.size) ** 2:
            # Here the modes cancel; only the orthonormal states tell the candidates apart.
            contenders = [*contenders, *trials, *self._unrefined(width)]
            best = min(contenders, key=lambda each: self._exact_check(each.sections))
        else:
            best = min(contenders, key=lambda each: self._check(each.sections, each.amplitudes))
        if (
            before is not None
            and before.cost <= (1e-11 * self.size) ** 2
            and self._exact_check(before.sections) <= (3e-15 * self.size) ** 2
        ):
            # Nothing is left to fit: more units could only carry rounding.
            best = before
        self._least_squares[width] = best
        return best

    def _unrefined(self, width: int) -> list[LeastSquares]:
        found = []
        for sections in self.starts(width)[:2]:
            at = project(sections, self.grid.nodes, self.rows, self.target, derivatives=False)
            found.append(LeastSquares(sections, at.amplitudes, at.cost, 0, False))
        return found

    def _exact_check(self, sections: Sections) -> float:
        """The squared L2 error on the check grid, by way of the orthonormal states."""
        A, b = takenaka_malmquist(sections.rates())
        c = project_on_states(A, b, self.grid.nodes, self.rows, self.target)
        residual = self.check_target - self.check_rows[:, None] * (
            propagate(A, b, self.grid.check_nodes) @ c
        )
        return float(np.sum(residual * residual))

    def bound(self, width: int) -> float | None:
        """A proved lower bound on the error of every network with `width` units."""
        return self.bounds(width)[self.norm]

    def bounds(self, width: int) -> dict[str, float | None]:
        """Lower bounds for every network of this width, complex rates included.

        L1 from σ_{m+1}, L2 from the tail of the weighted spectrum, Linf (where it is asked for)
        from weighted spectra cut at several lags.
        """
        s = self.spectrum.singular_values
        l1 = float(s[width] - 1e-14 * s[0]) if width < len(s) else 0.0
        l2 = self.weighted_spectrum.tail(width) - 1e-14 * self.weighted_spectrum.norm
        linf = bound_largest_error(self.cut_spectra, width) if self.norm == "linf" else None
        root = math.sqrt(self.grid.n_outputs)
        return {
            "l1": max(l1, 0.0) / root,
            "l2": max(l2, 0.0),
            "linf": None if linf is None else linf / root,
        }

    @functools.cached_property
    def cut_spectra(self) -> list[HankelSpectrum]:
        """Weighted spectra cut at lags between the kernel's own scale and its end."""
        end = self.grid.effective_support
        start = min(self.grid.timescale, end / 4)
        reaches = np.geomspace(start, end, 6)
        return [hankel_spectrum(self.grid, power=0.5, reach=float(r)) for r in reaches]

    def smallest_sup(self, width: int) -> Poles:
        """The Linf fit: certified for completely monotone kernels, the best found for others."""
        if width not in self._smallest_sups:
            if self.is_monotone and self.grid.n_outputs * self.grid.n_inputs == 1:
                found = fit_linf(self.grid, width, real=True)
            else:
                level = self.leveled(width)
                rates, flat = section_modes(level.sections, level.amplitudes)
                amplitudes = flat.reshape(-1, self.grid.n_outputs, self.grid.n_inputs)
                start = Poles(rates, amplitudes, error=level.cost)
                found = start
                if np.all(np.isfinite(amplitudes)):
                    found = fit_linf(self.grid, width, real=self.real, start=start)
                if not found.error < level.cost:
                    found = start
            self._smallest_sups[width] = found
        return self._smallest_sups[width]

    def leveled(self, width: int) -> LeastSquares:
        """The best Linf fit found at this width; wider fits are never worse."""
        if width in self._leveled:
            return self._leveled[width]
        before = None
        if width > 1 and width <= _WIDTH_CHAIN + 1:
            before = self.leveled(width - 1)
        starts = [self.least_squares(width).sections]
        rates = self.spectrum.rates(width)
        if len(rates) == width:
            starts.append(sections_of(_stabilised(rates, self.grid), real=self.real))
        if before is not None and before.sections.width == width - 1:
            known = before.sections.rates()
            extra = self._extra_rate(known)
            starts.append(sections_of(np.append(known, extra), real=self.real))
        trials = [level_sections(sections, self.grid) for sections in starts]
        best = min(trials, key=lambda trial: trial.cost)
        best = min(best, level_sections(best.sections, self.grid, n_steps=4), key=lambda t: t.cost)
        if before is not None and best.cost >= before.cost:
            best = before
        self._leveled[width] = best
        return best

    def least_deviation(self, width: int) -> LeastDeviation:
        """The best L1 fit of a scalar kernel found at this width; wider fits are never worse."""
        if width in self._least_deviations:
            return self._least_deviations[width]
        before = None
        if width > 1 and width <= _WIDTH_CHAIN + 1:
            before = self.least_deviation(width - 1)
        trials: list[tuple[float, Modes]] = []
        for sections in self._deviation_starts(width, before):
            trial = reweighted_sections(sections, self.grid, n_rounds=10, n_steps=3)
            rates, amplitudes = section_modes(trial.sections, trial.amplitudes)
            if np.all(np.isfinite(amplitudes)):
                trials.append((trial.cost, modes_of(rates, amplitudes[:, 0])))
        trials.sort(key=lambda item: item[0])
        best: LeastDeviation | None = None
        for cost, modes in trials[:2]:
            if cost > 1.5 * trials[0][0]:
                break
            refined = refine_modes(modes, self.grid)
            if best is None or refined.error < best.error:
                best = refined
        assert best is not None
        if before is not None and best.error >= before.error:
            best = before
        self._least_deviations[width] = best
        return best

    def _deviation_starts(self, width: int, before: LeastDeviation | None) -> list[Sections]:
        starts = []
        if self.is_monotone:
            rates = self.spectrum.positive_rates(width)
            if len(rates) == width:
                starts.append(sections_of(rates.astype(complex), real=True))
            if before is not None and len(before.modes.real_log_rates) == width - 1:
                known = np.sort(np.exp(before.modes.real_log_rates))
                starts.append(sections_of(_stretched(known, width), real=True))
            if starts:
                return starts
        starts.append(self.least_squares(width).sections)
        rates = self.spectrum.rates(width)
        if len(rates) == width:
            starts.append(sections_of(_stabilised(rates, self.grid), real=self.real))
        if before is not None and before.modes.width == width - 1:
            known = before.modes.rates()
            extra = self._extra_rate(known)
            starts.append(sections_of(np.append(known, extra), real=self.real))
        return starts

    def delivered(self, width: int, *, constant: np.ndarray) -> ExponentialSum:
        """The fit at `width` units as a network; never worse than a narrower one seen before."""
        if width in self._delivered:
            return self._delivered[width]
        fit = self._delivered_alone(width, constant)
        narrower = [f for w, f in self._delivered.items() if w < width and f.error < fit.error]
        if narrower:
            best = min(narrower, key=lambda f: f.error)
            fit = dataclasses.replace(
                best,
                bound=fit.bound,
                bounds=fit.bounds,
                status=self._narrower_status(best.width, width),
                stats={**best.stats, "width_requested": width},
            )
        self._delivered[width] = fit
        return fit

    def _narrower_status(self, found: int, width: int) -> Status:
        if found // self.n_copies >= self.rank or self._is_exhausted(found // self.n_copies):
            return Status(
                "width_beyond_rank",
                f"float64 tells {found} of {width} units apart for this kernel",
            )
        return Status(
            "no_minimiser",
            f"no sum of {width} was found that is better than the best one of {found}",
        )

    def _is_exhausted(self, n_rates: int) -> bool:
        """True if a fit of this many rates leaves nothing but rounding."""
        fit = self._least_squares.get(n_rates)
        return fit is not None and fit.cost <= (1e-11 * self.size) ** 2

    def _delivered_alone(self, width: int, constant: np.ndarray) -> ExponentialSum:
        began = time.perf_counter()
        n_rates = max(1, width // self.n_copies)
        shape = (-1, self.grid.n_outputs, self.grid.n_inputs)
        candidates: list[_Candidate] = []

        def offer(sections: Sections, amplitudes: np.ndarray) -> None:
            rates, flat = section_modes(sections, amplitudes)
            candidates.append(
                (rates, flat, lambda t: sum_of_sections(sections, amplitudes, t).reshape(shape))
            )

        if self.norm == "l1" and shape[1:] == (1, 1):
            modes = self.least_deviation(n_rates).modes
            candidates.append(
                (
                    modes.rates(),
                    modes.all_amplitudes()[:, None],
                    lambda t: modes.values(t).reshape(shape),
                )
            )
            if self.least_deviation(n_rates).error > 1e-6 * self.grid.norms["l1"]:
                return self._deliver(*candidates[0], width, constant, began)
        elif self.norm == "linf":
            poles = self.smallest_sup(n_rates)
            candidates.append(
                (
                    poles.rates,
                    poles.amplitudes.reshape(poles.width, -1),
                    lambda t: evaluate_sum(poles.rates, poles.amplitudes, t),
                )
            )
            results = [self._deliver(*each, width, constant, began) for each in candidates]
            if self.n_copies == 1 and results[0].error > 1e-9 * self.grid.norms["linf"]:
                return results[0]
        fit = self.least_squares(n_rates)
        offer(fit.sections, fit.amplitudes)
        if self.norm == "l1" and shape[1:] != (1, 1):
            reweighted = reweighted_sections(fit.sections, self.grid, n_rounds=30, n_steps=2)
            offer(reweighted.sections, reweighted.amplitudes)
        results = [self._deliver(*each, width, constant, began) for each in candidates]
        best = min(results, key=lambda result: result.error)
        if self.n_copies > 1:
            best = self._on_one_state(best, width, began)
        return best

    def _on_one_state(self, best: ExponentialSum, width: int, began: float) -> ExponentialSum:
        """The better of a fit with a copy of the state per channel and one that shares it."""
        starts = []
        n_units = min(width, self.spectrum.usable_width(rtol=1e-13))
        for spectrum in (self.weighted_spectrum, self.spectrum):
            for n in {width, n_units}:
                rates = spectrum.rates(n)
                if len(rates) == n:
                    starts.append(rank_one_start(_stabilised(rates, self.grid), self.grid))
        if best.width == width and np.all(np.isfinite(best.amplitudes)):
            starts.append(split_full(best.rates, best.amplitudes))
        for start in starts:
            if start.width not in (width, n_units):
                continue
            found = refine_rank_one(start, self.grid, norm=self.norm)
            try:
                model = LinearRNN(*found.state_space())
            except np.linalg.LinAlgError:
                continue
            rates, amplitudes = found.modes()
            deviation = measure_deviation(
                self.grid,
                lambda t, found=found: evaluate_rank_one(found, t),
                rates=rates,
                amplitudes=amplitudes,
            )
            if getattr(deviation, self.norm) < best.error:
                best = dataclasses.replace(
                    best,
                    model=model,
                    rates=rates,
                    amplitudes=amplitudes,
                    errors={name: float(getattr(deviation, name)) for name in NORMS},
                    status=Status()
                    if found.width == width
                    else Status(
                        "width_beyond_rank",
                        f"float64 tells {found.width} of {width} units apart for this kernel",
                    ),
                    stats={**best.stats, "seconds": time.perf_counter() - began},
                )
        return best

    def judged(
        self, rates: np.ndarray, flat: np.ndarray, width: int, constant: np.ndarray
    ) -> ExponentialSum:
        """A sum found elsewhere, as a network with its errors on the check grid."""
        modal = flat.reshape(-1, self.grid.n_outputs, self.grid.n_inputs)
        began = time.perf_counter()
        return self._deliver(
            rates, flat, lambda t: evaluate_sum(rates, modal, t), width, constant, began
        )

    def _deliver(
        self,
        rates: np.ndarray,
        flat: np.ndarray,
        by_modes: Callable[[np.ndarray], np.ndarray],
        width: int,
        constant: np.ndarray,
        began: float,
    ) -> ExponentialSum:
        grid = self.grid
        out, in_ = grid.n_outputs, grid.n_inputs
        modal = flat.reshape(-1, out, in_)
        A, b = takenaka_malmquist(rates)
        has_modes = bool(np.all(np.isfinite(modal)))
        tail = (rates, np.where(np.isfinite(modal), modal, 0.0))
        deviation = measure_deviation(grid, by_modes, rates=tail[0], amplitudes=tail[1])
        cancelled = math.inf
        coordinates = np.zeros((len(b), out * in_))
        if has_modes:
            coordinates, cancelled = coordinates_from_modes(A, b, rates, flat)
        if 1e-15 * cancelled > 1e-3 * deviation.l2:
            # The modes cancel: project on the orthonormal states instead of converting, the sum
            # and the kernel itself, and keep what is nearest in the norm asked for.
            by_value = by_modes(grid.nodes).reshape(len(grid.nodes), -1) * self.rows[:, None]
            states = propagate(A, b, grid.check_nodes)
            for wanted in (self.target,) if self.norm == "l2" else (by_value, self.target):
                projected = project_on_states(A, b, grid.nodes, self.rows, wanted)

                def by_states(lags: np.ndarray, c: np.ndarray = projected) -> np.ndarray:
                    at = states if lags is grid.check_nodes else propagate(A, b, lags)
                    return (at @ c).reshape(-1, out, in_)

                again = measure_deviation(grid, by_states, rates=tail[0], amplitudes=tail[1])
                if not has_modes or getattr(again, self.norm) <= getattr(deviation, self.norm):
                    coordinates, deviation, has_modes = projected, again, True
        model = LinearRNN(*assemble(A, b, coordinates, out, in_))
        status = Status()
        if model.width < width and width >= self.n_copies:
            status = self._narrower_status(model.width, width)
        errors = {name: float(getattr(deviation, name)) for name in NORMS}
        bounds = self.bounds(width)
        certificate = None
        if self.norm == "linf" and width // self.n_copies in self._smallest_sups:
            certificate = self._smallest_sups[width // self.n_copies].bound
            if self.wants_real and certificate is not None:
                bounds["linf"] = max(certificate, bounds["linf"] or 0.0)
        return ExponentialSum(
            model=model,
            rates=rates,
            amplitudes=np.where(np.isfinite(modal), modal, np.nan),
            constant=constant,
            errors=errors,
            norm=self.norm,
            bound=bounds[self.norm],
            bounds=bounds,
            dt=None,
            status=status,
            stats={
                "width_requested": width,
                "bound_real_rates": certificate,
                "singular_values": self.spectrum.singular_values,
                "kernel_norms": dict(grid.norms),
                "seconds": time.perf_counter() - began,
            },
        )


def _stretched(rates: np.ndarray, width: int) -> np.ndarray:
    """Rates of a smaller fit spread over `width` places, a little beyond both ends."""
    if len(rates) == 1:
        return rates[0] * np.geomspace(0.4, 2.5, width)
    old = np.linspace(0, 1, len(rates))
    new = np.linspace(-0.5 / width, 1 + 0.5 / width, width)
    logs = np.log(rates)
    inner = np.interp(new, old, logs)
    inner[0] = logs[0] + (logs[1] - logs[0]) * new[0] / (old[1] - old[0])
    inner[-1] = logs[-1] + (logs[-1] - logs[-2]) * (new[-1] - 1) / (old[-1] - old[-2])
    return np.exp(inner)


def _finite_memory_rates(grid: FitGrid, width: int) -> list[np.ndarray]:
    """Rates a ± iπ(2k+1)/(L+3σ) that suit a kernel of length L."""
    starts = []
    mass = np.cumsum(np.abs(grid.values).sum(axis=(1, 2)) * grid.weights)
    for fraction in (0.9, 0.995):
        length = float(grid.nodes[np.searchsorted(mass, fraction * mass[-1])])
        decay = (1 + math.log(width + 1)) / length
        k = np.arange(width // 2)
        upper = decay + 1j * math.pi * (2 * k + 1) / (1.2 * length)
        rates = np.concatenate([upper, upper.conj()])
        if width % 2:
            rates = np.append(rates, decay)
        starts.append(rates)
    return starts


def _stabilised(rates: np.ndarray, grid: FitGrid) -> np.ndarray:
    """Rates mirrored into Re > 0, off the boundary, in exact conjugate pairs."""
    rates = np.asarray(rates, dtype=complex)
    rates = rates[np.isfinite(rates)]
    last = float(grid.nodes[-1])
    real = np.maximum(np.abs(rates.real), np.maximum(1e-3 * np.abs(rates.imag), 0.1 / last))
    is_real = np.abs(rates.imag) <= 1e-10 * np.abs(rates)
    mirrored = real + 1j * np.where(is_real, 0.0, rates.imag)
    upper = mirrored[mirrored.imag > 0]
    return np.concatenate([mirrored[is_real], upper, upper.conj()])


@on_one_thread
@references("adamyan1971analytic", "golub1973differentiation")
def fit_exponential_sum(
    kernel_or_samples: Any,
    *,
    width: int | None = None,
    error: float | None = None,
    norm: str = "l2",
    poles: str = "complex",
    positive: bool = False,
    constant: bool = False,
    weights: str = "absolute",
    noise: Any = None,
    dt: float | None = None,
    max_width: int = 64,
) -> ExponentialSum:
    """Returns the best exponential sum of a width, as a network, with error and lower bound.

    `ρ̂(t) = Σ_i a_i e^{-w_i t} ≈ ρ(t)`, rates and amplitudes free: balanced truncation gives the
    start, variable projection the L2 optimum, Newton's method from the changes of sign the L1
    optimum, exchange or descent the Linf one.

    Args:
        kernel_or_samples: a linear functional (a target, a network), or a function of lags
            (lag,) -> (lag,) or (lag, out, in). In the unit of time of its lags. Or samples: a
            pair (lags, values), a `SampledKernel`, or a measured memory with `lags` and `memory`.
            Or a `KernelEstimate` with one output: then the likelihood of its data is maximised
            (`fit_estimate`), and `norm` names the distance to the posterior mean that is judged.
        width: number of exponentials (a conjugate pair counts as two). From samples or an
            estimate it may be left out together with `error`: the width that the noise allows
            is taken, and from samples without noise that whose error is 1e-8 of the largest.
        error: instead of `width`: the smallest width whose error in `norm` is at most this.
        norm: `"l1"` (the operator norm of the papers, and what the command line takes unless told
            otherwise), `"l2"` or `"linf"`: integrals over all lags; over samples the mean, the root
            mean square and the largest.
        poles: `"complex"` allows conjugate pairs, `"real"` does not.
        positive: allow positive amplitudes only (then rates are real).
        constant: allow a constant beside the decaying terms.
        weights: `"absolute"`, or `"relative"` to the size of the samples, or of a kernel that
            keeps its sign (over the lags where it exceeds 1e-8 of its peak; `errors` are then
            relative too: mean, root mean square and largest).
        noise: standard deviation of samples, one number or one per sample, if it is known.
        dt: fit the kernel integrals `K_j = ∫_{j dt}^{(j+1) dt} ρ` in discrete time instead; a
            functional that lives in discrete time, such as a pure delay, brings its own step.
        max_width: with `error`, give up beyond this width.

    Returns:
        The network with its errors in all norms, the lower bound and a status. A width beyond
        what float64 can tell apart comes back smaller, with status `width_beyond_rank`; an
        `error` out of reach comes back with status `precision_limit` or `not_converged`.

    Raises:
        ValueError: if the kernel does not decay, is not finite in `norm`, is complex, or the
            arguments contradict each other.
    """
    require_choice("norm", norm, NORMS)
    require_choice("poles", poles, ("complex", "real"))
    require_choice("weights", weights, ("absolute", "relative"))
    if width is not None and error is not None:
        raise invalid("width", "either width or error", "both")
    if width is not None:
        width = require_count("width", width)
    if error is not None:
        error = require_positive("error", error)
    max_width = require_count("max_width", max_width)
    real = poles == "real" or positive
    if isinstance(kernel_or_samples, KernelEstimate):
        if real or constant or weights == "relative" or noise is not None or dt is not None:
            raise invalid(
                "kernel_or_samples",
                "an estimate without poles, positive, constant, weights, noise or dt",
                "one of them",
                "the estimate brings its own noise and step",
            )
        return _from_estimate(
            kernel_or_samples, width=width, error=error, norm=norm, max_width=max_width
        )
    samples = _as_samples(kernel_or_samples)
    if samples is not None:
        lags, values, sigma = samples
        found = fit_samples(
            lags,
            values,
            width=width,
            error=error,
            norm=norm,
            real=real,
            positive=positive,
            constant=constant,
            weights=weights,
            noise=sigma if noise is None else noise,
            max_width=max_width,
        )
        return _from_samples(found, lags, values, norm=norm, weights=weights)
    if (width is None) == (error is None):
        raise invalid("width", "either width or error", "both" if width is not None else "neither")
    if weights == "relative":
        if dt is not None or getattr(kernel_or_samples, "dt", None) is not None:
            raise invalid("weights", "absolute in discrete time", "relative")
        source = _source(kernel_or_samples, norm=norm, constant=constant)
        return _relative(
            source,
            width=width,
            error=error,
            norm=norm,
            real=real,
            positive=positive,
            max_width=max_width,
        )
    step = getattr(kernel_or_samples, "dt", None) if dt is None else require_positive("dt", dt)
    if step is not None:
        if positive or constant:
            raise invalid("positive, constant", "neither in discrete time", "one of them")
        integrals = _kernel_integrals(kernel_or_samples, step, norm)
        return _discrete(
            integrals, step, width=width, error=error, norm=norm, real=real, max_width=max_width
        )
    source = _source(kernel_or_samples, norm=norm, constant=constant)
    bench = _Workbench(source.grid, norm=norm, real=real)
    if positive and not bench.is_monotone:
        return _positive(bench, source, width=width, error=error, max_width=max_width)
    if width is not None:
        return bench.delivered(width, constant=source.constant)
    assert error is not None
    return _by_error(bench, error, max_width, source.constant)


@on_one_thread
def fit_widths(
    kernel_or_samples: Any,
    widths: Sequence[int] = tuple(range(1, 17)),
    *,
    norm: str = "l2",
    poles: str = "complex",
) -> WidthCurve:
    """Returns the best fit at every width, and the error against the width.

    Args:
        kernel_or_samples: as in `fit_exponential_sum`.
        widths: the widths, in any order.
        norm: `"l1"`, `"l2"` or `"linf"`.
        poles: `"complex"` or `"real"`.

    Returns:
        The curve; the kernel is decomposed once for all widths.

    Raises:
        ValueError: as `fit_exponential_sum`.
    """
    require_choice("norm", norm, NORMS)
    require_choice("poles", poles, ("complex", "real"))
    ordered = sorted({require_count("widths", w) for w in widths})
    if not ordered:
        raise invalid("widths", "at least one width", "none")
    began = time.perf_counter()
    source = _source(kernel_or_samples, norm=norm, constant=False)
    bench = _Workbench(source.grid, norm=norm, real=poles == "real")
    fits = tuple(bench.delivered(width, constant=source.constant) for width in ordered)
    bounds = np.array([np.nan if f.bound is None else f.bound for f in fits])
    return WidthCurve(
        widths=np.array(ordered),
        errors=np.array([f.error for f in fits]),
        bounds=bounds,
        fits=fits,
        norm=norm,
        status=fits[-1].status,
        stats={
            "singular_values": bench.spectrum.singular_values,
            "seconds": time.perf_counter() - began,
        },
    )


def _by_error(
    bench: _Workbench, error: float, max_width: int, constant: np.ndarray
) -> ExponentialSum:
    """The smallest width that reaches the error; the bound rules out the first ones."""
    width = 1
    while width < max_width and (bench.bound(width) or 0.0) > error:
        width += 1
    best: ExponentialSum | None = None
    for m in range(width, max_width + 1):
        fit = bench.delivered(m, constant=constant)
        if best is None or fit.error < best.error:
            best = fit
        if fit.error <= error:
            return dataclasses.replace(fit, status=Status())
        if fit.status.code == "width_beyond_rank":
            break
    assert best is not None
    reached = f"the error wanted is {error:.3g}; {best.error:.3g} was reached at width {best.width}"
    code = "precision_limit" if best.width < max_width else "not_converged"
    return dataclasses.replace(best, status=Status(code, reached))


def _as_samples(given: Any) -> tuple[np.ndarray, np.ndarray, Any] | None:
    """Lags, values and standard deviations if `given` is a set of samples."""
    if isinstance(given, tuple) and len(given) == 2:
        return np.asarray(given[0]), np.asarray(given[1]), None
    if isinstance(given, SampledKernel):
        # What stands at lag zero where the table starts later is no sample.
        n_added = int(given.first_lag > 0)
        return given.lags[n_added:], given.values[n_added:], None
    if hasattr(given, "lags") and hasattr(given, "memory"):
        return np.asarray(given.lags), np.asarray(given.memory), None
    return None


def _from_samples(
    found: Poles, lags: np.ndarray, values: np.ndarray, *, norm: str, weights: str
) -> ExponentialSum:
    """A fit to samples as a network; its errors are those at the samples."""
    lags = np.asarray(lags, dtype=np.float64)
    out, in_ = found.amplitudes.shape[1:]
    measured = np.asarray(values, dtype=np.float64).reshape(len(lags), out, in_)
    limit = np.zeros((out, in_)) if found.constant is None else found.constant
    rates, amplitudes = found.rates, found.amplitudes
    if not found.width:
        # A network has at least one unit: an idle one, over before the first positive lag.
        rates = np.array([1 / max(float(np.min(lags[lags > 0])), 1e-300)], dtype=complex)
        amplitudes = np.zeros((1, out, in_), dtype=complex)
    residual = np.abs(measured - evaluate_sum(rates, amplitudes, lags) - limit).sum(axis=2)
    if weights == "relative":
        residual = residual / np.abs(measured).sum(axis=2)
    A, b = takenaka_malmquist(rates)
    coordinates, _ = coordinates_from_modes(A, b, rates, amplitudes.reshape(len(rates), -1))
    return ExponentialSum(
        model=LinearRNN(*assemble(A, b, coordinates, out, in_)),
        rates=rates,
        amplitudes=amplitudes,
        constant=limit,
        errors={
            "l1": float(residual.mean(axis=0).max()),
            "l2": float(np.sqrt(np.mean(residual**2))),
            "linf": float(residual.max()),
        },
        norm=norm,
        bound=None,
        bounds=dict.fromkeys(NORMS),
        dt=None,
        status=found.status,
        stats={**found.stats, "errors_are": f"{weights}, over the {len(lags)} samples"},
    )


# Where a kernel has fallen below this part of its peak, its relative error is nobody's concern.
_LEAST_RELATIVE = 1e-8
_MOST_RELATIVE_LAGS = 500


def _relative(source: _Source, *, norm: str, **options: Any) -> ExponentialSum:
    """A fit of the relative error, over the lags at which the kernel is worth dividing by.

    Fitted on nodes even in the quadrature's own order (graded to the start, logarithmic in a
    tail); errors are those on the check nodes, which the fit never saw.
    """
    grid = source.grid
    if grid.n_outputs * grid.n_inputs > 1:
        raise invalid("weights", "absolute for several channels", "relative")

    def worth(nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
        size = np.abs(values[:, 0, 0])
        small = np.flatnonzero(size < _LEAST_RELATIVE * size.max())
        n = int(small[0]) if len(small) else len(nodes)
        n = min(n, int(np.searchsorted(nodes, grid.effective_support, side="right")))
        return np.unique(np.linspace(0, n - 1, min(n, _MOST_RELATIVE_LAGS)).round().astype(int))

    seen, checked = worth(grid.nodes, grid.values), worth(grid.check_nodes, grid.check_values)
    values = grid.values[seen, 0, 0]
    crossings = np.flatnonzero(np.sign(values[1:]) * np.sign(values[:-1]) < 0)
    if len(crossings):
        raise invalid(
            "weights",
            "absolute for a kernel that changes sign",
            f"relative, with a zero at lag {grid.nodes[seen[crossings[0]]]:.3g}",
        )
    # The sum has no say about the constant: the kernel's own value at infinity is set apart.
    found = fit_samples(
        grid.nodes[seen], values, norm=norm, weights="relative", slow_rates=True, **options
    )
    fit = _from_samples(
        found,
        grid.check_nodes[checked],
        grid.check_values[checked],
        norm=norm,
        weights="relative",
    )
    last = float(grid.check_nodes[checked[-1]])
    told = f"relative, on {len(checked)} lags up to {last:.3g} that the fit did not see"
    return dataclasses.replace(
        fit, constant=source.constant, stats={**fit.stats, "errors_are": told}
    )


def _from_estimate(
    estimate: KernelEstimate,
    *,
    width: int | None,
    error: float | None,
    norm: str,
    max_width: int,
) -> ExponentialSum:
    """The network of an estimated kernel, by likelihood, as a sum."""
    n_outputs = estimate.kernel.shape[1]
    if n_outputs > 1:
        raise invalid(
            "kernel_or_samples",
            "an estimate with one output",
            f"{n_outputs} outputs",
            "call fit_estimate with output=0, 1, …: each output has noise of its own",
        )
    found = fit_estimate(estimate, min_width=width or 1, max_width=width or min(max_width, 16))
    bins = np.diff(estimate.edges)

    def errors_of(network: LinearRNN) -> dict[str, float]:
        averages = np.diff(np.asarray(network.step_response(estimate.edges)), axis=0)
        apart = averages / bins[:, None, None] - estimate.kernel
        return {
            "l1": float(bins @ np.abs(apart).sum(axis=(1, 2))),
            "l2": float(np.sqrt(bins @ np.sum(apart**2, axis=(1, 2)))),
            "linf": float(np.abs(apart).sum(axis=2).max()),
        }

    status = found.status
    if width is not None:
        chosen = min(width, len(found.networks))
        if chosen < width:
            status = Status("width_beyond_rank", f"the estimate holds {chosen} of {width} units")
    elif error is not None:
        reached = [errors_of(network)[norm] for network in found.networks]
        enough = [m for m, value in enumerate(reached, 1) if value <= error]
        chosen = enough[0] if enough else 1 + int(np.argmin(reached))
        if not enough:
            told = f"the error wanted is {error:.3g}; {min(reached):.3g} was reached"
            status = Status("not_converged", told)
    else:
        chosen = found.recommended
    network = found.networks[chosen - 1]
    errors = errors_of(network)
    rates, amplitudes = _modes_of_network(network)
    bounds: dict[str, float | None] = dict.fromkeys(NORMS)
    bounds["l1"] = min(float(found.bounds[chosen - 1]), errors["l1"])
    return ExponentialSum(
        model=network,
        rates=rates,
        amplitudes=amplitudes,
        constant=np.zeros(amplitudes.shape[1:]),
        errors=errors,
        norm=norm,
        bound=bounds[norm],
        bounds=bounds,
        dt=None,
        status=status,
        stats={
            "width_requested": width,
            "width_recommended": found.recommended,
            "noise": found.noise,
            "errors_are": "distances to the posterior mean, averaged over its lag bins",
        },
    )


def _modes_of_network(network: LinearRNN) -> tuple[np.ndarray, np.ndarray]:
    """Rates and residues of a network that can be diagonalised, NaN where it cannot."""
    A, B, C = (np.asarray(x, dtype=np.float64) for x in (network.A, network.B, network.C))
    values, vectors = np.linalg.eig(A)
    amplitudes = np.full((len(values), len(C), B.shape[1]), np.nan, dtype=complex)
    if np.linalg.cond(vectors) < 1e12:
        inputs = np.linalg.solve(vectors, B.astype(complex))
        amplitudes = np.einsum("ok,ki->koi", C @ vectors, inputs)
    return -values.astype(complex), amplitudes


def _kernel_integrals(functional: Any, step: float, norm: str) -> np.ndarray:
    """K_j up to where they no longer matter, shape (n, out, in)."""
    if not isinstance(functional, AbstractLinearFunctional):
        raise wrong_type(
            "kernel_or_samples",
            "a linear functional, for a fit in discrete time",
            type(functional).__name__,
        )
    own = getattr(functional, "dt", None)
    if own is not None:
        if not math.isclose(own, step):
            raise invalid("dt", f"the functional's own step {own:g}", step)
        quadrature = kernel_quadrature(functional, rtol=1e-13, norm=norm, reach=1.0)
        n = max(1, round(quadrature.support / step))
        return np.asarray(quadrature.values)[:n] * step
    quadrature = kernel_quadrature(functional, rtol=1e-11, norm=norm, reach=1.0)
    n = math.ceil(quadrature.support / step)
    if n > _N_STEPS_MAX:
        raise invalid(
            "dt",
            f"a memory of at most {_N_STEPS_MAX} steps",
            f"{n:.3g} steps of {step:g}",
            "fit in continuous time and discretise the network: that is exact",
        )
    steps = np.asarray(functional.step_response(step * np.arange(n + 1)), dtype=np.float64)
    return np.diff(steps, axis=0)


def _discrete(
    integrals: np.ndarray,
    step: float,
    *,
    width: int | None,
    error: float | None,
    norm: str,
    real: bool,
    max_width: int,
) -> ExponentialSum:
    """A network in discrete time for kernel integrals (n, out, in)."""
    if width is not None:
        return _discrete_at(integrals, step, width, norm, real)
    assert error is not None
    best: ExponentialSum | None = None
    for m in range(1, max_width + 1):
        fit = _discrete_at(integrals, step, m, norm, real)
        if best is None or fit.error < best.error:
            best = fit
        if fit.error <= error:
            return fit
        if fit.status.code == "width_beyond_rank":
            break
    assert best is not None
    message = f"the error wanted is {error:.3g}; {best.error:.3g} was reached at width {best.width}"
    code = "precision_limit" if best.width < max_width else "not_converged"
    return dataclasses.replace(best, status=Status(code, message))


def _discrete_at(
    integrals: np.ndarray, step: float, width: int, norm: str, real: bool
) -> ExponentialSum:
    began = time.perf_counter()
    found = fit_discrete(integrals, dt=step, width=width, norm=norm, real=real, ends=True)
    assert found.state_space is not None
    A, B, C = (np.asarray(x, dtype=np.float64) for x in found.state_space)
    # The fit's own sequence, run past the end until it has died out or four times as far.
    state, fitted = B, []
    for _ in range(4 * len(integrals) + 4 * width):
        fitted.append(C @ state)
        state = A @ state
    sequence = np.array(fitted)
    sequence[: len(integrals)] -= integrals
    rows = np.abs(sequence).sum(axis=2)
    errors = {
        "l1": float(rows.sum(axis=0).max()),
        "l2": float(np.sqrt(np.sum(sequence**2) / step)),
        "linf": float(rows.max() / step),
    }
    unit = {"l1": 1.0, "l2": 1 / math.sqrt(step), "linf": 1 / step}[norm]
    bound = None if found.bound is None else min(found.bound * unit, errors[norm])
    multipliers = np.asarray(found.rates, dtype=complex)
    rates = np.full(len(multipliers), np.inf, dtype=complex)
    rates[multipliers != 0] = -np.log(multipliers[multipliers != 0]) / step
    return ExponentialSum(
        model=LinearRNN(A, B, C, dt=step),
        rates=rates,
        amplitudes=found.amplitudes,
        constant=np.zeros(integrals.shape[1:]),
        errors=errors,
        norm=norm,
        bound=bound,
        bounds={name: bound if name == norm else None for name in NORMS},
        dt=step,
        status=found.status,
        stats={
            **found.stats,
            "width_requested": width,
            "multipliers": found.rates,
            "seconds": time.perf_counter() - began,
        },
    )


def _positive(
    bench: _Workbench,
    source: _Source,
    *,
    width: int | None,
    error: float | None,
    max_width: int,
) -> ExponentialSum:
    """Positive amplitudes for a kernel not known to be completely monotone."""
    grid = bench.grid
    if grid.n_outputs * grid.n_inputs > 1:
        raise invalid("positive", "a kernel with one input and one output", "several channels")
    # Weighted by the quadrature, a least-squares fit to the nodes is one to the kernel.
    root = np.sqrt(grid.weights)
    found = fit_samples(
        grid.nodes,
        grid.values[:, 0, 0],
        width=width if error is None else max_width,
        norm="l2",
        real=True,
        positive=True,
        noise=np.maximum(root.max() / root, 1e-12),
        slow_rates=True,
        max_width=max_width,
    )
    order = np.argsort(found.rates.real)
    rates, flat = found.rates[order], found.amplitudes[order].reshape(found.width, -1)
    fit = bench.judged(rates.astype(complex), flat.astype(complex), found.width, source.constant)
    refined, sizes = refine_positive(rates.real, flat.real[:, 0], grid, norm=bench.norm)
    again = bench.judged(
        refined.astype(complex), sizes[:, None].astype(complex), len(refined), source.constant
    )
    fit = min(fit, again, key=lambda each: each.error)
    if fit.status.is_ok and width is not None and fit.width < width:
        message = f"positive amplitudes leave {fit.width} of {width} units with any weight"
        fit = dataclasses.replace(fit, status=Status("no_minimiser", message))
    if error is not None and fit.error > error:
        message = f"the error wanted is {error:.3g}; {fit.error:.3g} was reached"
        fit = dataclasses.replace(fit, status=Status("not_converged", message))
    return fit


@dataclasses.dataclass(frozen=True)
class _Source:
    """A kernel as it is fitted: on its grids, its value at infinity set apart."""

    grid: FitGrid
    constant: np.ndarray


def _source(kernel: Any, *, norm: str, constant: bool) -> _Source:
    hints: Any = None
    if isinstance(kernel, AbstractLinearFunctional):
        hints = kernel_hints(kernel)
        functional = kernel

        def raw(lags: np.ndarray) -> np.ndarray:
            return np.asarray(functional.kernel(lags), dtype=np.float64)

    elif callable(kernel):
        shaped = _shaped(kernel)

        def raw(lags: np.ndarray) -> np.ndarray:
            return shaped(lags)

    else:
        raise wrong_type(
            "kernel_or_samples",
            "a linear functional or a function of lags",
            type(kernel).__name__,
        )
    probe = raw(np.array([0.0, 1.0]) if hints is None else np.array([0.0, hints.timescale]))
    limit = np.zeros(probe.shape[1:])
    if constant:
        scale = 1.0 if hints is None else hints.timescale
        limit = raw(np.array([1e30 * scale]))[0]
    if np.any(limit):
        inner = raw

        def raw(lags: np.ndarray) -> np.ndarray:
            return inner(lags) - limit

    is_monotone = getattr(kernel, "is_completely_monotone", None)
    grid = build_grid(
        raw,
        norm=norm,
        support=math.inf if hints is None else hints.support,
        breakpoints=() if hints is None else hints.breakpoints,
        timescale=1.0 if hints is None else hints.timescale,
        is_completely_monotone=is_monotone if isinstance(is_monotone, bool) else None,
    )
    return _Source(grid, limit)


def _shaped(function: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], np.ndarray]:
    """A user's function of lags, with values (lag, out, in)."""

    def kernel(lags: np.ndarray) -> np.ndarray:
        values = np.asarray(function(lags))
        if np.iscomplexobj(values):
            raise wrong_type("kernel_or_samples", "real values", f"complex dtype {values.dtype}")
        values = values.astype(np.float64)
        if values.ndim == 1 and len(values) == len(lags):
            return values[:, None, None]
        if values.ndim == 3 and len(values) == len(lags):
            return values
        raise invalid(
            "kernel_or_samples", "values of shape (lag,) or (lag, out, in)", f"shape {values.shape}"
        )

    return kernel
