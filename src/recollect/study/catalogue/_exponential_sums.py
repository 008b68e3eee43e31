"""Paper A, section 4: kernels fitted by exponential sums, error against width."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

_EXACT = "exp(-t)+2*exp(-3*t)"
_LIGHT = ("exp(-t)+exp(-(t-4)**2/2)", "airy(t-6)")
_HEAVY = "(1+t)**-1.1"


def fit(kernel: str, width: int) -> dict[str, Any]:
    """Returns the L1 fit of one kernel at one width."""
    from recollect import approximation, targets

    found = approximation.fit_exponential_sum(targets.parse_kernel(kernel), width=width, norm="l1")
    return {
        "error": found.errors["l1"],
        "bound": found.bound,
        "slowest_rate": found.slowest_rate,
        "rates": np.sort_complex(found.rates),
        "status": found.status,
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` stops at width 8."""
    widths = [1, 2, 4, 8] if quick else [1, 2, 3, 4, 6, 8, 12, 16]
    return Study(
        name="exponential-sums",
        function=fit,
        grid=product(kernel=[_EXACT, "(1+t)**-2", _HEAVY, *_LIGHT], width=widths),
        dimensions={"rates": ("mode",)},
        units={"error": "1", "bound": "1", "width": "1", "slowest_rate": "1", "rates": "1"},
        figure="error against width",
        paper="A",
        claims=(
            Claim(
                "A sum of two exponentials is a network of width two (section 4.1).",
                lambda r: float(r.error.sel(kernel=_EXACT, width=2)),
                expected=0.0,
                tolerance=1e-12,
                reason="float64 rounding of a kernel of size 3",
            ),
            Claim(
                "Exponential sums are dense (Theorem 4.1): a wider network is never worse.",
                _largest_rise,
                expected=1.0,
                tolerance=1e-6,
                reason="ratio of neighbouring errors; below 1e-12 rounding decides and is left out",
                relation="at_most",
            ),
            Claim(
                "Kernels that decay exponentially are cheap (Theorem 4.2): from width 4 to 8 the "
                "error falls faster than width cubed.",
                lambda r: float(np.min([_order(r, kernel) for kernel in _LIGHT])),
                expected=3.0,
                tolerance=0.0,
                reason="a lower limit: smooth kernels converge geometrically, beyond every order",
                relation="at_least",
            ),
            Claim(
                "A power law with a heavy tail is not: there the error falls no faster than "
                "width to the power 1.5.",
                lambda r: _order(r, _HEAVY),
                expected=1.5,
                tolerance=0.0,
                reason="an upper limit between the two laws: measured orders are near 1 and above 3",
                relation="at_most",
            ),
            Claim(
                "No network beats the Hankel singular value (lower bound over error).",
                lambda r: float((r.bound / r.error).where(r.error > 1e-12).max()),
                expected=1.0,
                tolerance=1e-6,
                reason="a theorem; the tolerance is that of the error's quadrature",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure with error (line) and lower bound (dots) against width."""
    axes = figure.subplots()
    for kernel in results.kernel.values:
        of = results.sel(kernel=kernel)
        (line,) = axes.loglog(of.width, np.maximum(of.error, 1e-16), marker="o", label=str(kernel))
        axes.loglog(of.width, of.bound.where(of.bound > 1e-16), ":", color=line.get_color())
    axes.set_xticks(results.width.values, [str(width) for width in results.width.values])
    axes.minorticks_off()
    axes.set(xlabel="width", ylabel="L1 error (dotted: proved lower bound)")
    axes.legend(frameon=False, fontsize="small")


def _largest_rise(results: Any) -> float:
    error = np.maximum(results.error.values, 1e-12)
    return float((error[:, 1:] / error[:, :-1]).max())


def _order(results: Any, kernel: str) -> float:
    error = results.error.sel(kernel=kernel)
    return float(np.log2(error.sel(width=4) / error.sel(width=8)))
