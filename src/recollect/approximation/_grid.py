"""The quadrature a kernel is fitted on, and the one its fit is judged on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from recollect._core._check import invalid
from recollect._core._quadrature import Panels, adaptive_quadrature
from recollect.approximation._problem import FitGrid

_RTOL = {"l1": 1e-13, "l2": 1e-13, "linf": 1e-11}


def build_grid(
    kernel: Callable[[np.ndarray], np.ndarray],
    *,
    norm: str,
    support: float = math.inf,
    breakpoints: tuple[float, ...] = (),
    timescale: float = 1.0,
    is_completely_monotone: bool | None = None,
    rtol: float | None = None,
) -> FitGrid:
    """Returns the grids for `kernel`, a function lags (n,) -> (n, out, in).

    Beyond what resolves the kernel there are panels graded towards zero (fast rates), uniform
    ones over the support and as far again (oscillations), and geometric ones far past it (slow
    rates): an exponential sum must have nowhere to hide.

    Raises:
        ValueError: if the kernel is not finite, does not decay or is not in the space of `norm`.
    """
    quadrature = adaptive_quadrature(
        kernel,
        norm=norm,
        rtol=_RTOL[norm] if rtol is None else rtol,
        support=support,
        breakpoints=breakpoints,
        timescale=timescale,
        reach=1.0,
    )
    panels = quadrature.panels
    end = float(quadrature.support)
    size = np.abs(quadrature.values).reshape(len(quadrature.nodes), -1).sum(axis=1)
    if size.max() == 0:
        raise invalid("kernel", "a kernel with a memory", "one that is zero at every lag")
    l1_mass = np.cumsum(size * quadrature.weights)
    knee = float(quadrature.nodes[np.searchsorted(l1_mass, 0.5 * l1_mass[-1])])
    edges = {*panels.starts.tolist(), *panels.stops.tolist()}
    is_algebraic = quadrature.decay == "algebraic"
    core = _structure_end(panels, end, is_algebraic)
    if is_algebraic:
        below = np.flatnonzero(size < 0.5 * size.max())
        knee = float(quadrature.nodes[below[below > size.argmax()][0]])
    edges.update(knee * 2.0 ** np.arange(-5, 1))
    if not is_completely_monotone:
        edges.update((core * np.arange(1, 25) / 12).tolist())
    if is_algebraic:
        edges.update((core * 2.0 ** np.arange(1, 4)).tolist())
        last = max(end, 16 * core)
    else:
        last = 2 * max(end, core)
        edges.update((end * (1 + np.arange(9) / 8)).tolist())
        edges.update((last * 1.6 ** np.arange(1, 8)).tolist())
        last = last * 1.6**7
    log_start = core if is_algebraic else math.inf
    grid = _panels(edges, last, log_start)
    nodes, weights = (x.ravel() for x in grid.rule(12 if not is_algebraic else 14))
    check = grid.split(0.382).split(0.5176)
    check_nodes, check_weights = (x.ravel() for x in check.rule(10))
    values = np.asarray(kernel(nodes), dtype=np.float64)
    check_values = np.asarray(kernel(check_nodes), dtype=np.float64)
    # Same convention as targets.measure_norm: rows of outputs, summed over inputs.
    row = np.abs(check_values).sum(axis=2)
    norms = {
        "l1": float((check_weights @ row).max()),
        "l2": math.sqrt(float(check_weights @ np.sum(check_values**2, axis=(1, 2)))),
        "linf": float(max(row.max(), np.abs(values).sum(axis=2).max())),
    }
    tails = _tails(quadrature.decay, quadrature.exponent, last, kernel)
    for name, tail in tails.items():
        if not math.isfinite(tail):
            norms[name] = math.inf
    return FitGrid(
        kernel=kernel,
        nodes=nodes,
        weights=weights,
        values=values,
        check_nodes=check_nodes,
        check_weights=check_weights,
        check_values=check_values,
        check_edges=(check.starts, check.stops),
        support=float(support),
        effective_support=end,
        panels=grid,
        breakpoints=tuple(breakpoints),
        timescale=knee,
        is_completely_monotone=is_completely_monotone,
        norms=norms,
        tails=tails,
    )


def _structure_end(panels: Panels, end: float, is_algebraic: bool) -> float:
    """The lag up to which uniform panels are worth having."""
    if not is_algebraic:
        return end
    linear = ~panels.is_log
    return float(panels.stops[linear].max()) if linear.any() else end


def _panels(edges: set[float], last: float, log_start: float) -> Panels:
    grid = np.array(sorted(e for e in edges if 0 <= e <= last * (1 + 1e-12)))
    keep = np.concatenate([[True], np.diff(grid) > 1e-3 * grid[1:]])
    # A breakpoint's own edge must survive; near-duplicates come from the uniform rulers.
    grid = grid[keep | (np.diff(grid, append=np.inf) < 1e-12)]
    return Panels(grid[:-1], grid[1:], grid[:-1] >= log_start)


def _tails(decay: str, exponent: float, last: float, kernel: Callable) -> dict[str, float]:
    if decay != "algebraic":
        return {"l1": 0.0, "l2": 0.0, "linf": 0.0}
    size = float(np.abs(kernel(np.array([last]))).sum())
    return {
        "l1": size * last / (exponent - 1) if exponent > 1 else math.inf,
        "l2": size * math.sqrt(last / (2 * exponent - 1)) if exponent > 0.5 else math.inf,
        "linf": size,
    }
