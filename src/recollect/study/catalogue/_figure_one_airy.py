"""Paper A, Figure 1b: an Airy memory is learned with stops that grow with its length."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._training_curves import DIMENSIONS, UNITS, draw_curves, learn

SCALES = (1.0, 1.5, 2.0, 2.5)
_SHIFT = 3.0


def build_study(*, quick: bool, kernels: tuple[str, ...] | None = None) -> Study:
    """Returns the study; `quick` has fewer steps. `kernels` may be your own, short ones first."""
    kernels = tuple(f"airy({s:g}*(t-{_SHIFT:g}))" for s in SCALES) if kernels is None else kernels
    return Study(
        name="figure-1b",
        function=learn,
        grid=product(
            kernel=list(kernels),
            n_steps=[30_000 if quick else 200_000],
            n_starts=[2 if quick else 16],
        ),
        dimensions=DIMENSIONS,
        units=UNITS,
        figure="Figure 1b",
        paper="A",
        claims=(
            Claim(
                "The plateau grows with s: its median length rises from each s to the next by at "
                "least half (least ratio).",
                lambda r: float(np.min(_lengths(r)[1:] / _lengths(r)[:-1])),
                expected=1.5,
                tolerance=0.0,
                reason="a lower limit on a growth that is faster than linear in s",
                relation="at_least",
            ),
            Claim(
                "The longest plateau lasts ten times the shortest.",
                lambda r: float(_lengths(r)[-1] / _lengths(r)[0]),
                expected=10.0,
                tolerance=0.0,
                reason="a lower limit: 2.5 times the s, more than ten times the plateau",
                relation="at_least",
            ),
            Claim(
                "The longest plateau ends in every start.",
                lambda r: float(r.share_over.isel(kernel=-1).squeeze()),
                expected=1.0,
                tolerance=0.0,
                reason="counted",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: loss against steps, and plateau length against s."""
    left, right = figure.subplots(1, 2)
    of = results.squeeze(("n_steps", "n_starts"))
    for index, kernel in enumerate(_in_order(results)):
        draw_curves(left, of.sel(kernel=kernel), str(kernel), f"C{index}")
    left.set(xlabel="steps of gradient descent", ylabel="loss / power of the target")
    left.legend(frameon=False, fontsize="small")
    lengths = np.stack([of.sel(kernel=k).plateau.values for k in _in_order(results)])
    right.semilogy(range(len(lengths)), lengths, "o", color="C0", markersize=3, alpha=0.5)
    right.semilogy(range(len(lengths)), _lengths(results), color="C0")
    right.set_xticks(range(len(lengths)), [str(k) for k in _in_order(results)], fontsize="small")
    right.set(xlabel="target", ylabel="plateau length, steps")


def _in_order(results: Any) -> list[str]:
    return [str(kernel) for kernel in results.kernel.values]


def _lengths(results: Any) -> np.ndarray:
    of = results.squeeze(("n_steps", "n_starts"))
    return np.array([float(of.sel(kernel=k).typical) for k in _in_order(results)])
