"""Paper B, Figure 1: exponential memory is stably approximated by linear networks, polynomial is not."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect._core._status import Status
from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import slope
from recollect.study.catalogue._perturbed_networks import crossing, draw_curve, mark_widths

# An error that counts: the kernels' own norms over t = 1..100 are 9.0 and 3.7.
_LEVEL = 0.5


def perturb(memory: str, width: int, n_radii: int, n_starts: int, n_steps: int) -> dict[str, Any]:
    """Returns E_m(β) of the network of one width, fitted to `0.9^t` or `(t+1)^-1.1` on t = 1..100."""
    from recollect import models, stability

    t = np.arange(1, 101)
    # Fixed rates a factor 2 apart: upward from the memory's own, or downward from 1 without end.
    if memory == "exponential":
        wanted, rates = 0.9**t, -np.log(0.9) * 2.0 ** np.arange(width)
    else:
        wanted, rates = (t + 1) ** -1.1, 2.0 ** -np.arange(width)
    amplitudes = _positive_fit(np.exp(-np.outer(t, rates)), wanted)
    misfit = np.exp(-np.outer(t, rates)) @ amplitudes - wanted
    network = models.DiagonalRNN(rates, np.ones((width, 1)), amplitudes[None, :])
    # The paper's 5e-4, doubled 20 times; width 14 breaks below its first.
    radii = 5e-4 * 2.0 ** np.arange(-6, 20)
    if n_radii < len(radii):
        radii = np.geomspace(5e-4, 0.512, n_radii)
    curve = stability.measure_perturbation_error(
        network, radii, norm="l1", n_starts=n_starts, n_steps=n_steps
    )
    return {
        "errors": curve.errors[0],
        "sampled": curve.sampled[0],
        "bounds": curve.bounds[0],
        "radii": radii,
        "radius": crossing(radii, curve.errors[0], _LEVEL),
        "misfit": float(np.abs(misfit).sum()),
        "slowest_rate": float(rates.min()),
        # Infinity is what is measured.
        "status": Status(),
    }


def _positive_fit(design: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    import scipy.optimize

    # A unit that has forgotten before the first lag could have any amplitude: nothing asks for one.
    asked = design[0] > 1e-6
    amplitudes = np.zeros(design.shape[1])
    amplitudes[asked] = scipy.optimize.nnls(design[:, asked], wanted, maxiter=1000)[0]
    return amplitudes


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has three widths, seven radii and fewer starts."""
    curves = ("errors", "sampled", "bounds", "radii")
    return Study(
        name="perturbation-curves",
        function=perturb,
        grid=product(
            memory=["exponential", "polynomial"],
            width=[2, 4, 8] if quick else [2, 4, 6, 8, 14],
            n_radii=[7 if quick else 26],
            n_starts=[4 if quick else 10],
            n_steps=[10 if quick else 30],
        ),
        dimensions=dict.fromkeys(curves, ("place",)),
        units={
            **dict.fromkeys(curves, "1"),
            "radius": "1",
            "misfit": "1",
            "slowest_rate": "1/step",
            "width": "1",
            "n_radii": "1",
            "n_starts": "1",
            "n_steps": "1",
        },
        figure="1",
        paper="B",
        claims=(
            Claim(
                "Exponential memory: the curves settle (radius at the largest width over that at half of "
                "it).",
                lambda r: _last_ratio(r, "exponential"),
                expected=1.0,
                tolerance=0.1,
                reason="faster units add (½)^m to the norms of 1/w; the curves come to rest as fast",
                relation="at_least",
            ),
            Claim(
                "Polynomial memory: the curves move left for ever (order of the radius in the slowest "
                "rate, which halves with every unit).",
                lambda r: _order(r),
                expected=1.0,
                tolerance=0.3,
                reason="beyond β = w_min the error is infinite: order 1 or more in the end; narrow networks "
                "break by their amplitudes first, which flattens the start",
                relation="at_least",
            ),
            Claim(
                "Wider networks approximate both better, or as well (largest growth of the misfit).",
                lambda r: float(
                    (r.misfit.squeeze().transpose("width", ...).diff("width")).values.max()
                ),
                expected=0.0,
                tolerance=1e-6,
                reason="the rates of a narrow network are among those of a wider one; the tolerance is the "
                "solver's",
                relation="at_most",
            ),
            Claim(
                "Sampled perturbations stay below the search, and the search below the proved bound "
                "(largest ratio of one to the next).",
                _order_of_curves,
                expected=1.0,
                tolerance=1e-6,
                reason="theorems; the tolerance is that of the quadrature",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: E_m(β) of both memories, and the radius against the width."""
    panels = figure.subplots(1, 3)
    for panel, memory in zip(panels, ("exponential", "polynomial"), strict=False):
        for width in results.width.values:
            of = results.sel(memory=memory, width=width).squeeze()
            line = draw_curve(panel, of, f"m = {width}")
            first = np.flatnonzero(~np.isfinite(of.errors.values))
            if len(first):
                panel.axvline(
                    of.radii.values[first[0]], color=line.get_color(), linewidth=0.6, linestyle="--"
                )
        panel.set(xlabel="β", title=f"{memory} memory", ylim=(1e-3, 1e4))
    panels[0].set_ylabel("E(β); dotted: sampled; dashed: infinite")
    panels[0].legend(frameon=False, fontsize="x-small")
    for memory in ("exponential", "polynomial"):
        of = results.sel(memory=memory).squeeze()
        panels[2].loglog(of.width, of.radius, marker="o", markersize=3, label=memory)
    panels[2].set(xlabel="width", ylabel=f"β at which the error is {_LEVEL}")
    mark_widths(panels[2], results.width.values)
    panels[2].legend(frameon=False, fontsize="x-small")


def _last_ratio(results: Any, memory: str) -> float:
    of = results.sel(memory=memory).squeeze()
    widths, radii = of.width.values, of.radius.values
    half = int(np.argmin(np.abs(widths - widths[-1] / 2)))
    return float(radii[-1] / radii[half])


def _order(results: Any) -> float:
    of = results.sel(memory="polynomial").squeeze()
    return slope(of.slowest_rate.values, of.radius.values)


def _order_of_curves(results: Any) -> float:
    sampled, errors, bounds = (results[n].values for n in ("sampled", "errors", "bounds"))
    finite = np.isfinite(errors)
    below = (sampled[finite] / errors[finite]).max()
    bounded = np.isfinite(bounds) & finite
    above = (errors[bounded] / bounds[bounded]).max()
    # Where the search is infinite the bound has to be.
    return float(np.max([below, above, np.isfinite(bounds[~finite]).sum()]))
