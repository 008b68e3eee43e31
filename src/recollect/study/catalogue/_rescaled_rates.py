"""Paper B, appendix C: rescaling the rates helps one memory and not the next; exponentials help both."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect._core._status import Status
from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import slope
from recollect.study.catalogue._perturbed_networks import mark_widths

_MEMORIES = {"rates 1/k": 1, "rates 1/k²": 2}
_MAPS = ("direct", "rescaled", "exponential")
_SHARES = np.linspace(0.05, 0.95, 19)


def perturb(memory: str, parameterisation: str, width: int) -> dict[str, Any]:
    """Returns how far the rates of `Σ k^-2 e^{-w_k t}` may move, and what that does to the kernel."""
    k = np.arange(1, width + 1)
    rates, amplitudes = k ** -float(_MEMORIES[memory]), k**-2.0
    scale = 1.0 / k if parameterisation == "rescaled" else np.ones(width)
    # The weight v gives w = v·scale, or e^v; a rate may not reach zero.
    limit = np.inf if parameterisation == "exponential" else float((rates / scale).min())
    radii = _SHARES if not np.isfinite(limit) else np.minimum(_SHARES, 1.0)
    lags = np.concatenate([[0.0], np.geomspace(1e-3, 50.0 / rates.min(), 600)])
    own = np.exp(-np.outer(lags, rates)) @ amplitudes
    errors = []
    for radius in radii:
        if radius >= limit:
            errors.append(np.inf)
            continue
        # All amplitudes are positive: the worst move slows every unit.
        slower = (
            rates * np.exp(-radius) if parameterisation == "exponential" else rates - radius * scale
        )
        errors.append(float(np.abs(np.exp(-np.outer(lags, slower)) @ amplitudes - own).max()))
    # Infinity is what is measured here.
    return {"limit": limit, "errors": np.array(errors), "radii": radii, "status": Status()}


def build_study(*, quick: bool) -> Study:
    """Returns the study; it is in closed form, and `quick` only leaves out widths."""
    return Study(
        name="rescaled-rates",
        function=perturb,
        grid=product(
            memory=list(_MEMORIES),
            parameterisation=list(_MAPS),
            width=[4, 8, 16, 32, 64] if quick else [4, 8, 16, 32, 64, 128, 256, 512],
        ),
        dimensions={"errors": ("place",), "radii": ("place",)},
        units={"limit": "1", "errors": "1", "radii": "1", "width": "1"},
        figure="appendix C",
        paper="B",
        claims=(
            Claim(
                "Directly trained, the radius of Σ k^-2 e^(-t/k) falls like 1/width (order).",
                lambda r: _order(r, "rates 1/k", "direct"),
                expected=-1.0,
                tolerance=1e-9,
                reason="closed form: the slowest rate",
            ),
            Claim(
                "Rates rescaled by 1/k leave it at 1, whatever the width (order).",
                lambda r: _order(r, "rates 1/k", "rescaled"),
                expected=0.0,
                tolerance=1e-9,
                reason="closed form",
            ),
            Claim(
                "The same rescaling does not save Σ k^-2 e^(-t/k²): its radius falls like 1/width (order).",
                lambda r: _order(r, "rates 1/k²", "rescaled"),
                expected=-1.0,
                tolerance=1e-9,
                reason="closed form",
            ),
            Claim(
                "In an exponential parameterisation no move of the rates makes either infinite.",
                lambda r: float(
                    np.isfinite(r.errors.sel(parameterisation="exponential").values).mean()
                ),
                expected=1.0,
                tolerance=0.0,
                reason="a count",
            ),
            Claim(
                "There its error settles as the network grows: the largest width's at β = 0.5 over that of "
                "half the width (the larger of the two memories).",
                _settles,
                expected=1.0,
                tolerance=0.02,
                reason="the units beyond width m add at most Σ_{k>m} k^-2 ≈ 1/m times the change of one "
                "unit, which is below 0.2 at β = 0.5: 0.6 % of the error 0.29 at m = 32",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: radius against width, and the error of the widest network against β."""
    panels = figure.subplots(1, 3)
    styles = {"direct": "o-", "rescaled": "s--", "exponential": "^:"}
    for place, memory in enumerate(_MEMORIES):
        for name, style in styles.items():
            of = results.sel(memory=memory, parameterisation=name).squeeze()
            if name != "exponential":
                label = f"{name}, {memory}"
                panels[0].loglog(
                    of.width, of.limit, style, color=f"C{place}", markersize=3, label=label
                )
            widest = of.isel(width=-1)
            shown = np.where(np.isfinite(widest.errors), widest.errors, np.nan)
            if np.isfinite(shown).any():
                panels[1 + place].plot(widest.radii, shown, style, markersize=3, label=name)
        panels[1 + place].set(xlabel="β", title=f"{memory}, width {int(results.width.max())}")
        panels[1 + place].set_xlim(0, 1)
        panels[1 + place].legend(frameon=False, fontsize="x-small")
    mark_widths(panels[0], results.width.values[::2])
    panels[0].set(xlabel="width", ylabel="radius from which the error is infinite")
    panels[0].legend(frameon=False, fontsize="x-small")
    panels[1].set_ylabel("largest change of the kernel")


def _order(results: Any, memory: str, parameterisation: str) -> float:
    of = results.sel(memory=memory, parameterisation=parameterisation).squeeze()
    return slope(of.width.values, of.limit.values)


def _settles(results: Any) -> float:
    of = results.sel(parameterisation="exponential").squeeze()
    place = int(np.argmin(np.abs(_SHARES - 0.5)))
    errors = of.errors.isel(place=place).transpose("memory", "width").values
    return float((errors[:, -1] / errors[:, -2]).max())
