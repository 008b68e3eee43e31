"""Integration over lags: panels that follow a kernel from its start to the end of its tail."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recollect._core._check import invalid, require_choice, require_nonnegative, require_positive

_NORMS = ("l1", "l2", "linf")
_N_NODES = 16
_N_PANELS_MAX = 20_000
# Lags beyond this would overflow when squared or multiplied by a rate.
_LAG_MAX = 1e250


@functools.cache
def _legendre(n_nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    vandermonde = np.polynomial.legendre.legvander(nodes, n_nodes - 1)
    to_coefficients = (vandermonde * weights[:, None]).T * (np.arange(n_nodes) + 0.5)[:, None]
    return nodes, weights, to_coefficients


def legendre_series(values: np.ndarray) -> np.ndarray:
    """Returns the Legendre coefficients of values (panel, node, channel), shape (panel, order, channel)."""
    _, _, to_coefficients = _legendre(values.shape[1])
    return np.einsum("jn,pnc->pjc", to_coefficients, values)


@dataclasses.dataclass(frozen=True)
class Panels:
    """Consecutive intervals on which a function is a short Legendre series.

    Args:
        starts: left ends, shape (panel,).
        stops: right ends, shape (panel,).
        is_log: True where the series runs in the logarithm of the lag, shape (panel,).
    """

    starts: np.ndarray
    stops: np.ndarray
    is_log: np.ndarray

    def rule(self, n_nodes: int = _N_NODES) -> tuple[np.ndarray, np.ndarray]:
        """Returns Gauss-Legendre nodes and weights in lag, each of shape (panel, node)."""
        x, w, _ = _legendre(n_nodes)
        left, right = self._ends()
        half, middle = (right - left) / 2, (right + left) / 2
        nodes = middle[:, None] + half[:, None] * x
        weights = half[:, None] * w
        log = self.is_log
        nodes[log] = np.exp(nodes[log])
        weights[log] *= nodes[log]
        return nodes, weights

    def split(self, fraction: float = 0.5) -> Panels:
        """Returns every panel cut in two at `fraction` of its length in its own variable."""
        left, right = self._ends()
        cut = left + fraction * (right - left)
        cut = np.where(self.is_log, np.exp(np.where(self.is_log, cut, 0.0)), cut)
        order = np.argsort(np.concatenate([self.starts, cut]), kind="stable")
        return Panels(
            np.concatenate([self.starts, cut])[order],
            np.concatenate([cut, self.stops])[order],
            np.concatenate([self.is_log, self.is_log])[order],
        )

    def select(self, mask: np.ndarray) -> Panels:
        """Returns the panels where `mask` holds."""
        return Panels(self.starts[mask], self.stops[mask], self.is_log[mask])

    def join(self, other: Panels) -> Panels:
        """Returns both sets in the order of their left ends."""
        starts = np.concatenate([self.starts, other.starts])
        order = np.argsort(starts, kind="stable")
        return Panels(
            starts[order],
            np.concatenate([self.stops, other.stops])[order],
            np.concatenate([self.is_log, other.is_log])[order],
        )

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        left, right = self.starts.copy(), self.stops.copy()
        left[self.is_log] = np.log(left[self.is_log])
        right[self.is_log] = np.log(right[self.is_log])
        return left, right


@dataclasses.dataclass(frozen=True)
class Quadrature:
    """A function of lag on nodes that resolve it, and what lies beyond them.

    `∫_0^∞ f(t) dt ≈ Σ_k weights_k values_k`, to `rtol` of the norm named, up to `tail`.

    Args:
        nodes: lags, increasing, shape (node,), in the unit of time.
        weights: quadrature weights, shape (node,).
        values: the function at the nodes, shape (node, ...).
        tail: estimate of the norm of the function beyond the last panel, in the named norm.
        norm: `"l1"`, `"l2"` or `"linf"`.
        decay: `"compact"`, `"exponential"` (faster than every power) or `"algebraic"`.
        exponent: p where the tail falls like t^-p, infinite for the other decays.
        support: lag beyond which only `tail` is left; the nodes may reach further.
        total: the function in the named norm, as seen by the nodes.
        rtol: the relative tolerance asked for.
        panels: the panels behind the nodes.
        function: the function.
    """

    nodes: np.ndarray
    weights: np.ndarray
    values: np.ndarray
    tail: float
    norm: str
    decay: str
    exponent: float
    support: float
    total: float
    rtol: float
    panels: Panels = dataclasses.field(repr=False)
    function: Callable[[np.ndarray], Any] = dataclasses.field(repr=False)

    def denser(self) -> Quadrature:
        """Returns the same function on an independent grid with 2.5 times as many nodes.

        No node is shared: a fit that exploits gaps of the first grid is caught on this one.
        """
        panels = self.panels.split(0.5176)
        n_nodes = math.ceil(2.5 * len(self.nodes) / len(panels.starts))
        nodes, weights = (a.ravel() for a in panels.rule(n_nodes))
        values = _evaluate(self.function, nodes)
        return dataclasses.replace(self, nodes=nodes, weights=weights, values=values, panels=panels)

    def integral(self) -> np.ndarray:
        """Returns `∫ f` over the nodes, of the shape of one value."""
        return np.tensordot(self.weights, self.values, axes=(0, 0))


def adaptive_panels(
    function: Callable[[np.ndarray], Any],
    panels: Panels,
    *,
    rtol: float = 1e-10,
    norm: str = "l1",
    name: str = "kernel",
) -> tuple[Panels, np.ndarray]:
    """Returns panels on which `function` is resolved, and its values at their nodes.

    A panel is halved until the last Legendre coefficients of the function (not only of its
    integral) contribute less than `rtol` of its norm, component by component.

    Args:
        function: maps lags (node,) to an array (node, ...).
        panels: where to start.
        rtol: tolerance relative to the function in `norm`.
        norm: `"l1"`, `"l2"` or `"linf"`.
        name: what to call the function in an error.

    Returns:
        The panels and the values, shape (panel, node, ...).

    Raises:
        ValueError: if the function is not finite or cannot be resolved.
    """
    done: list[Panels] = []
    done_values: list[np.ndarray] = []
    total: Any = 0.0
    current = panels
    n_done = 0
    for depth in range(80):
        nodes, weights = current.rule()
        raw = _evaluate(function, nodes.ravel(), name)
        shape = raw.shape[1:]
        values = raw.reshape(*nodes.shape, -1)
        size = np.abs(values)
        if norm == "linf":
            here = size.max(axis=(0, 1))
            total = np.maximum(total, here)
        else:
            power = 1 if norm == "l1" else 2
            # Unresolved panels are counted once, when they are done; the first look sets the scale.
            here = np.einsum("pn,pnc->c", weights, size**power) ** (1 / power)
            total = np.maximum(total, here) if depth else here
        coefficients = legendre_series(values)
        last = np.abs(coefficients[:, -3:]).max(axis=1)
        length = (current.stops - current.starts)[:, None]
        if norm == "l1":
            error = last * length
        elif norm == "l2":
            error = last * np.sqrt(length)
        else:
            error = last
        miss = _miss_at_ends(function, current, coefficients)
        if norm == "l1":
            error = np.maximum(error, 0.01 * miss * length)
        elif norm == "l2":
            error = np.maximum(error, 0.1 * miss * np.sqrt(length))
        else:
            error = np.maximum(error, miss)
        # Rounding of the function itself bounds what splitting can gain.
        rounding = 3e-15 * size.max(axis=1)
        resolved = ((error <= 0.1 * rtol * total) | (np.maximum(last, miss) <= rounding)).all(
            axis=1
        )
        tiny = length[:, 0] <= 1e-15 * np.maximum(current.stops, 1e-300)
        resolved |= tiny
        done.append(current.select(resolved))
        done_values.append(values[resolved].reshape(int(resolved.sum()), _N_NODES, *shape))
        n_done += int(resolved.sum())
        current = current.select(~resolved)
        if not len(current.starts):
            break
        if n_done + 2 * len(current.starts) > _N_PANELS_MAX:
            raise invalid(
                name,
                "a function that varies slowly enough to be integrated",
                f"one still unresolved near lag {current.starts[0]:.4g} after {_N_PANELS_MAX} panels",
                "loosen rtol, cut the kernel at a horizon, or smooth it",
            )
        current = current.split()
    else:
        done.append(current)
        nodes, _ = current.rule()
        raw = _evaluate(function, nodes.ravel(), name)
        done_values.append(raw.reshape(*nodes.shape, *raw.shape[1:]))
    merged = Panels(
        np.concatenate([p.starts for p in done]),
        np.concatenate([p.stops for p in done]),
        np.concatenate([p.is_log for p in done]),
    )
    order = np.argsort(merged.starts, kind="stable")
    everything = np.concatenate(done_values)[order]
    return Panels(merged.starts[order], merged.stops[order], merged.is_log[order]), everything


def _miss_at_ends(
    function: Callable[[np.ndarray], Any], panels: Panels, coefficients: np.ndarray
) -> np.ndarray:
    """How far the series is off just inside both ends, where no node looks: a jump hides there."""
    n = len(panels.starts)
    inset = 1e-14
    ends = np.concatenate([panels.starts * (1 + inset), panels.stops * (1 - inset)])
    with np.errstate(all="ignore"):
        raw = np.asarray(function(ends))
    values = raw.reshape(2, n, -1)
    left = np.einsum("pjc,j->pc", coefficients, (-1.0) ** np.arange(coefficients.shape[1]))
    right = coefficients.sum(axis=1)
    miss = np.maximum(np.abs(values[0] - left), np.abs(values[1] - right))
    # An integrable singularity at an end is left to the grading.
    return np.where(np.isfinite(miss), miss, 0.0)


def panel_primitive(panels: Panels, values: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Returns `∫_{start}^{t} f` at `lags` from the Legendre series on consecutive panels.

    Args:
        panels: consecutive panels.
        values: the function at their nodes, shape (panel, node, ...).
        lags: where to stop, shape (lag,); clipped to the panels.

    Returns:
        Shape (lag, ...).
    """
    shape = values.shape[2:]
    nodes, _ = panels.rule()
    flat = values.reshape(*values.shape[:2], -1)
    jacobian = np.where(panels.is_log[:, None], nodes, 1.0)
    left, right = panels._ends()
    half = (right - left) / 2
    series = legendre_series(flat * jacobian[:, :, None])
    primitive = np.polynomial.legendre.legint(series, axis=1, lbnd=-1) * half[:, None, None]
    whole = primitive.sum(axis=1)
    before = np.concatenate([np.zeros((1, whole.shape[1])), np.cumsum(whole, axis=0)])[:-1]
    lags = np.clip(np.asarray(lags, np.float64), panels.starts[0], panels.stops[-1])
    index = np.clip(np.searchsorted(panels.starts, lags, side="right") - 1, 0, len(left) - 1)
    log = panels.is_log[index]
    variable = np.where(log, np.log(np.where(log, lags, 1.0)), lags)
    x = (variable - left[index]) / half[index] - 1
    basis = np.polynomial.legendre.legvander(np.clip(x, -1, 1), primitive.shape[1] - 1)
    result = before[index] + np.einsum("lj,ljc->lc", basis, primitive[index])
    return result.reshape(len(lags), *shape)


def finite_panels(
    stop: float, *, breakpoints: Sequence[float] = (), timescale: float = 1.0, start: float = 0.0
) -> Panels:
    """Returns starting panels on [start, stop]: split at breakpoints, graded towards the start."""
    span = stop - start
    edges = {start, stop, *(b for b in breakpoints if start < b < stop)}
    edges.update(start + span * np.arange(1, 16) / 16)
    # Octaves from the kernel's own scale up, so that a short memory in a long window is seen.
    step = min(timescale, span / 16) / 16
    while step < span:
        edges.add(start + step)
        step *= 4
    return _linear_panels(edges)


def adaptive_quadrature(
    function: Callable[[np.ndarray], Any],
    *,
    norm: str = "l1",
    rtol: float = 1e-10,
    support: float = math.inf,
    breakpoints: Sequence[float] = (),
    timescale: float = 1.0,
    reach: float = 2.0,
    name: str = "kernel",
) -> Quadrature:
    """Returns a quadrature over all lags that resolves `function` and knows its tail.

    Panels are graded towards zero, split at the breakpoints, uniform over the support and, for
    algebraic tails, uniform in the logarithm of the lag out to where the tail is below
    tolerance. The decay is found by looking, octave by octave.

    Args:
        function: maps lags (lag,) to an array (lag, ...), finite for every lag from zero on.
        norm: `"l1"`, `"l2"` or `"linf"`: in which the function must be finite and resolved.
        rtol: tolerance relative to the function in `norm`.
        support: lag beyond which the function is known to be zero.
        breakpoints: lags at which it is not smooth or has a narrow feature.
        timescale: a typical lag, any order of magnitude.
        reach: the nodes go on to this multiple of the support, so that a fit on them is held
            down where the function has ended (not for algebraic tails).
        name: what to call the function in an error.

    Returns:
        The quadrature.

    Raises:
        ValueError: if the function is not finite somewhere, does not decay, is not integrable
            in the norm, or varies too fast to be resolved.
    """
    require_choice("norm", norm, _NORMS)
    rtol = require_positive("rtol", rtol)
    timescale = require_positive("timescale", timescale)
    require_nonnegative("reach", reach)
    breakpoints = tuple(sorted(float(b) for b in breakpoints if 0 < b < support))
    tail = _Tail.found(function, norm, rtol, float(support), breakpoints, timescale, name)
    edges = {0.0, tail.end}
    edges.update(b for b in breakpoints if b < tail.end)
    graded_end = tail.knee if tail.decay == "algebraic" else tail.end / 8
    edges.update(e for e in tail.graded if e < graded_end)
    if tail.decay == "algebraic":
        # Octave-like steps from the knee on; the panel itself runs in the logarithm.
        knee = min(tail.knee, tail.end / 4)
        edges.update(knee * np.arange(1, 5) / 4)
        n_log = max(2, math.ceil(math.log(tail.end / knee) / 1.5))
        edges.update(float(e) for e in np.geomspace(knee, tail.end, n_log + 1)[:-1])
        grid = _linear_panels(edges)
        grid = Panels(grid.starts, grid.stops, grid.starts >= knee * (1 - 1e-12))
    else:
        edges.update(tail.end * np.arange(1, 16) / 16)
        grid = _linear_panels(edges)
    panels, values = adaptive_panels(function, grid, rtol=rtol, norm=norm, name=name)
    nodes, weights = (a.ravel() for a in panels.rule())
    flat = values.reshape(len(nodes), *values.shape[2:])
    total = norm_of_nodes(flat, weights, norm)
    if tail.decay != "algebraic" and reach > 1:
        typical = float(np.median(panels.stops - panels.starts)) * 2
        n_more = int(np.clip(np.ceil((reach - 1) * tail.end / typical), 2, 32))
        beyond = np.linspace(tail.end, reach * tail.end, n_more + 1)
        extra = Panels(beyond[:-1], beyond[1:], np.zeros(n_more, bool))
        more, more_weights = (a.ravel() for a in extra.rule())
        panels = panels.join(extra)
        nodes, weights = np.concatenate([nodes, more]), np.concatenate([weights, more_weights])
        flat = np.concatenate([flat, _evaluate(function, more, name)])
    return Quadrature(
        nodes=nodes,
        weights=weights,
        values=flat,
        tail=tail.beyond,
        norm=norm,
        decay=tail.decay,
        exponent=tail.exponent,
        support=tail.end,
        total=total,
        rtol=rtol,
        panels=panels,
        function=function,
    )


@dataclasses.dataclass(frozen=True)
class _Tail:
    decay: str
    exponent: float
    end: float
    beyond: float
    knee: float
    graded: tuple[float, ...]

    @staticmethod
    @np.errstate(over="ignore")
    def found(
        function: Callable[[np.ndarray], Any],
        norm: str,
        rtol: float,
        support: float,
        breakpoints: tuple[float, ...],
        timescale: float,
        name: str,
    ) -> _Tail:
        lags, size, octaves = _probe(function, support, breakpoints, timescale, name)
        total = _trapezoid_norm(lags, size, norm)
        if total == 0:
            end = support if math.isfinite(support) else 8 * timescale
            return _Tail("compact", math.inf, end, 0.0, end, ())
        graded = _graded_edges(lags, size, octaves, norm, rtol * total)
        peak = size.max()
        below = np.flatnonzero((size < peak / 2) & (lags > lags[size.argmax()]))
        knee = float(lags[below[0]]) if len(below) else timescale
        if math.isfinite(support):
            return _Tail("compact", math.inf, support, 0.0, knee, graded)
        exponent, drift = _algebraic_exponent(lags, size, octaves)
        if exponent is not None:
            _refuse_slow_tail(exponent, drift, norm, name)
            end, beyond = _algebraic_end(lags, size, exponent, norm, rtol * total)
            end = max(end, 8 * knee, *(2 * b for b in (0.0, *breakpoints)))
            return _Tail("algebraic", exponent, end, beyond, knee, graded)
        rest = _reverse_norm(lags, size, norm)
        index = int(np.flatnonzero(rest > 0.1 * rtol * total)[-1]) + 1
        index = min(index, len(lags) - 1)
        is_compact = not size[index:].any()
        end = float(lags[index])
        if rest[index] > rtol * total:
            raise _no_decay(name, f"still {size[index]:.3g} at lag {end:.3g}")
        return _Tail(
            "compact" if is_compact else "exponential",
            math.inf,
            end,
            float(rest[index]),
            knee,
            graded,
        )


def _probe(
    function: Callable[[np.ndarray], Any],
    support: float,
    breakpoints: tuple[float, ...],
    timescale: float,
    name: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Looks at the function octave by octave, until it has ended or the largest lag is reached."""
    last_hint = max((timescale, *breakpoints))
    lags = [np.zeros(1)]
    near = np.geomspace(1e-14, 0.5, 48)
    for b in breakpoints:
        lags.append(np.concatenate([b * (1 - near), [b], b * (1 + near)]))
    first, chunk = -100, 20
    all_lags = np.unique(np.concatenate(lags))
    all_lags = all_lags[all_lags <= support]
    all_size = _magnitude(function, all_lags, name)
    octave = first
    while True:
        exponents = np.arange(octave, octave + chunk)
        n_points = 64 if octave + chunk >= -8 and octave <= 24 else 16
        offsets = np.arange(n_points) / n_points
        fresh = (timescale * 2.0 ** (exponents[:, None] + offsets)).ravel()
        # A fixed rhythm would always meet an oscillation at the same phase.
        fresh *= 1 + 0.3 / n_points * np.cos(np.arange(len(fresh)) * 2.399963)
        fresh = np.sort(fresh[(fresh <= support) & (fresh < _LAG_MAX)])
        octave += chunk
        if len(fresh):
            with np.errstate(all="ignore"):
                raw = np.asarray(function(fresh))
            size = np.abs(raw.reshape(len(fresh), -1)).sum(axis=1)
            finite = np.isfinite(size)
            if not finite.all():
                bad = int(np.flatnonzero(~finite)[0])
                so_far = np.concatenate([all_size, size[:bad]])
                scale = so_far.max(initial=0.0)
                ended = bad > 0 and size[bad - 1] * fresh[bad - 1] <= 1e-30 * scale * timescale
                if not ended:
                    raise invalid(
                        name,
                        "finite numbers at every lag",
                        f"{size[bad]} at lag {fresh[bad]:.4g}",
                        "it grows without limit or is undefined there",
                    )
                fresh, size = fresh[:bad], size[:bad]
                octave = 10_000
            all_lags = np.concatenate([all_lags, fresh])
            all_size = np.concatenate([all_size, size])
        reached = timescale * 2.0 ** min(octave, 1000)
        if reached > min(support, _LAG_MAX) or octave >= 10_000:
            break
        recent = all_size[(all_lags > reached / 64) & (all_lags <= reached)]
        if (
            reached > 64 * last_hint
            and octave > 0
            and all_size.max() > 0
            and (recent * reached).max(initial=0.0)
            <= 1e-40 * (all_size * np.maximum(all_lags, 1e-300)).max()
        ):
            break
    order = np.argsort(all_lags, kind="stable")
    all_lags, all_size = all_lags[order], all_size[order]
    keep = np.concatenate([[True], np.diff(all_lags) > 0])
    all_lags, all_size = all_lags[keep], all_size[keep]
    with np.errstate(divide="ignore"):
        octaves = np.floor(np.log2(all_lags / timescale))
    return all_lags, all_size, octaves


def _algebraic_exponent(
    lags: np.ndarray, size: np.ndarray, octaves: np.ndarray
) -> tuple[float | None, float]:
    """Returns the exponent of the tail if it is a power of the lag, and its drift."""
    positive = (lags > 0) & (size > 1e-290)
    if not positive.any():
        return None, 0.0
    # A function that is zero after having been of some size has ended: that is no power law.
    if size[positive][-1] > 1e-200 and not positive[-1]:
        return None, 0.0
    which = octaves[positive].astype(int)
    index = np.unique(which)
    tops = np.array([np.argmax(np.where(which == k, size[positive], -1.0)) for k in index])
    envelope, places = size[positive][tops], lags[positive][tops]
    # Only the unbroken stretch at the end tells about the tail.
    gaps = np.flatnonzero(np.diff(index) != 1)
    start = gaps[-1] + 1 if len(gaps) else 0
    log_envelope, log_places = np.log(envelope[start:-1]), np.log(places[start:-1])
    if len(log_envelope) < 12:
        return None, 0.0
    slopes = -np.diff(log_envelope) / np.diff(log_places)
    late = slopes[-max(10, min(60, len(slopes) // 4)) :]
    # A logarithmic factor shows as a slope that still drifts between here and half-way out.
    middle = slopes[len(slopes) * 5 // 9 :][: len(late)]
    exponent, before = float(np.median(late)), float(np.median(middle))
    steady = abs(float(np.median(late[-4:])) - float(np.median(late[:4])))
    if steady > 0.02 * max(1.0, abs(exponent)):
        return None, 0.0
    return exponent, before - exponent


def _refuse_slow_tail(exponent: float, drift: float, norm: str, name: str) -> None:
    if exponent <= 1e-3:
        grows = "one that grows" if exponent < -0.02 else "one that stays at the same size"
        raise _no_decay(name, f"{grows} however long the lag")
    least = {"l1": 1.0, "l2": 0.5, "linf": 0.0}[norm]
    excess = exponent - least
    if excess <= 1e-6 or (excess < 0.01 and drift > 0.1 * excess):
        raise invalid(
            name,
            f"a kernel that is finite in the {norm} norm",
            f"one that falls like t^-{exponent:.4g}",
            f"{norm} needs a power above {least:g}: choose another norm or cut it at a horizon",
        )


def _no_decay(name: str, why: str) -> ValueError:
    return invalid(
        name, "a kernel that decays to zero", why, "subtract the constant or cut it at a horizon"
    )


def _algebraic_end(
    lags: np.ndarray, size: np.ndarray, exponent: float, norm: str, tolerance: float
) -> tuple[float, float]:
    positive = np.flatnonzero((size > 1e-290) & (lags > 0))
    anchor = positive[-32:] if len(positive) > 32 else positive
    # log C of C t^-p, as an envelope over the last octaves looked at.
    log_c = float(np.max(np.log(size[anchor]) + exponent * np.log(lags[anchor])))
    if norm == "l1":
        power, log_factor = exponent - 1, log_c - math.log(exponent - 1)
    elif norm == "l2":
        power, log_factor = exponent - 0.5, log_c - 0.5 * math.log(2 * exponent - 1)
    else:
        power, log_factor = exponent, log_c
    log_end = (log_factor - math.log(0.1 * tolerance)) / power
    end = math.exp(min(log_end, math.log(_LAG_MAX)))
    # A slow exponential on the way to the power law must have died before the law takes over.
    with np.errstate(divide="ignore", over="ignore"):
        law = np.exp(np.minimum(log_c - exponent * np.log(lags), 700.0))
    excess = _reverse_norm(lags, np.maximum(size - 1.1 * law, 0.0), norm)
    above = np.flatnonzero(excess > 0.1 * tolerance)
    if len(above):
        end = max(end, min(2 * float(lags[above[-1]]), _LAG_MAX))
    return end, math.exp(log_factor - power * math.log(end))


def _graded_edges(
    lags: np.ndarray, size: np.ndarray, octaves: np.ndarray, norm: str, tolerance: float
) -> tuple[float, ...]:
    edges = []
    positive = lags > 0
    for k in np.unique(octaves[positive])[::2]:
        inside = positive & (octaves >= k) & (octaves < k + 2)
        width = lags[inside].max()
        variation = np.ptp(size[inside]) * {"l1": width, "l2": math.sqrt(width), "linf": 1.0}[norm]
        if variation > tolerance:
            edges.append(float(lags[inside].min()))
    return tuple(edges)


def _reverse_norm(lags: np.ndarray, size: np.ndarray, norm: str) -> np.ndarray:
    """The norm of what lies beyond each lag looked at."""
    if norm == "linf":
        return np.maximum.accumulate(size[::-1])[::-1]
    power = 1 if norm == "l1" else 2
    f = size**power
    pieces = np.diff(lags) * np.maximum(f[1:], f[:-1])
    rest = np.concatenate([np.cumsum(pieces[::-1])[::-1], [0.0]])
    return rest if power == 1 else np.sqrt(rest)


def _trapezoid_norm(lags: np.ndarray, size: np.ndarray, norm: str) -> float:
    if norm == "linf":
        return float(size.max())
    power = 1 if norm == "l1" else 2
    return float(np.trapezoid(size**power, lags)) ** (1 / power)


def norm_of_nodes(values: np.ndarray, weights: np.ndarray, norm: str) -> float:
    """Returns a norm of values at the nodes of a rule, shape (node, ...), entries summed."""
    size = np.abs(values).reshape(len(weights), -1).sum(axis=1)
    if norm == "linf":
        return float(size.max(initial=0.0))
    power = 1 if norm == "l1" else 2
    return float(weights @ size**power) ** (1 / power)


def _linear_panels(edges: set[float]) -> Panels:
    grid = np.array(sorted(edges))
    # Edges that nearly coincide would make panels without room for their nodes.
    keep = np.concatenate([[True], np.diff(grid) > 4e-15 * grid[1:]])
    grid = grid[keep]
    return Panels(grid[:-1], grid[1:], np.zeros(len(grid) - 1, bool))


def _evaluate(
    function: Callable[[np.ndarray], Any], lags: np.ndarray, name: str = "kernel"
) -> np.ndarray:
    with np.errstate(all="ignore"):
        values = np.asarray(function(lags))
    if values.dtype.kind not in "fc":
        values = values.astype(np.float64)
    bad = ~np.isfinite(values.reshape(len(lags), -1)).all(axis=1)
    if bad.any():
        at = lags[int(np.flatnonzero(bad)[0])]
        raise invalid(name, "finite numbers at every lag", f"NaN or infinite at lag {at:.4g}")
    return values


def _magnitude(function: Callable[[np.ndarray], Any], lags: np.ndarray, name: str) -> np.ndarray:
    return np.abs(_evaluate(function, lags, name).reshape(len(lags), -1)).sum(axis=1)
