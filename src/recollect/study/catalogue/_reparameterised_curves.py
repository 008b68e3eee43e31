"""Paper B, Figure 4: exponential and softplus decay make polynomial memory stable, if the read-in allows."""

from __future__ import annotations

from typing import Any

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._perturbed_networks import (
    DIMENSIONS,
    SETTLED,
    UNITS,
    draw_curves,
    effort,
    growth,
    perturb_network,
    typical,
)

# what moves: parameterisation, read-in, weights
SETTINGS = {
    "direct, rates": ("direct", "plain", "rates"),
    "exponential, rates": ("exponential", "plain", "rates"),
    "softplus, rates": ("softplus", "plain", "rates"),
    "inverse square, rates": ("inverse square", "plain", "rates"),
    "exponential, all, plain": ("exponential", "plain", "all"),
    "exponential, all, normalised": ("exponential", "normalised", "all"),
}
_RADII = {"rates": (0.01, 2.0), "all": (1e-4, 0.5)}


def perturb(
    setting: str,
    width: int,
    n_radii: int,
    n_starts: int,
    n_steps: int,
    n_paths: int,
    horizon: float,
    dt: float,
    seed: int,
) -> dict[str, Any]:
    """Returns E_m(β) of a tanh network with independent decay that holds `(1+t)^-1.5`."""
    kind, readin, of = SETTINGS[setting]
    smallest, largest = _RADII[of]
    return perturb_network(
        kind=kind,
        activation="tanh",
        memory="polynomial",
        width=width,
        horizon=horizon,
        dt=dt,
        n_training=0,
        n_radii=n_radii,
        n_starts=n_starts,
        n_steps=n_steps,
        n_paths=n_paths,
        readin=readin,
        of=of,
        smallest=smallest,
        largest=largest,
        seed=seed,
    )


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has two widths and five radii."""
    names = [name for name in SETTINGS if not (quick and name.startswith("inverse"))]
    return Study(
        name="reparameterised-curves",
        function=perturb,
        grid=product(
            setting=names,
            width=[4, 16] if quick else [4, 8, 16, 64],
            **effort(quick=quick),
        ),
        dimensions=DIMENSIONS,
        units=UNITS,
        figure="4",
        paper="B",
        claims=(
            _claim("direct, rates", "at_most"),
            _claim("exponential, rates", "at_least"),
            _claim("softplus, rates", "at_least"),
            _claim(
                "exponential, all, plain",
                "at_least",
                refuted="the criterion is about rates: with the plain read-in the amplitude of the slowest "
                "unit is worth its time scale, and moves with every parameterisation",
            ),
            _claim("exponential, all, normalised", "at_least"),
            Claim(
                "Moving the rates alone, exponential decay holds further than direct decay at the largest "
                "width (ratio of the radii).",
                lambda r: float(
                    typical(r, "radius", setting="exponential, rates")[-1]
                    / typical(r, "radius", setting="direct, rates")[-1]
                ),
                expected=2.0,
                tolerance=0.0,
                reason="a lower limit: the ratio grows like the longest time scale",
                relation="at_least",
            ),
        ),
    )


def _claim(setting: str, relation: str, refuted: str = "") -> Claim:
    what = "move left" if relation == "at_most" else "settle"
    return Claim(
        f"{setting}: the curves {what} (radius of the widest network over that of the narrowest).",
        lambda r: growth(r, "radius", setting=setting),
        expected=SETTLED,
        tolerance=0.0,
        reason="as in Figure 2: a quarter is the search's own scatter",
        relation=relation,
        refuted=refuted,
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: one panel of curves per setting."""
    names = [str(name) for name in results.setting.values]
    columns = (len(names) + 1) // 2
    panels = figure.subplots(2, columns, sharey=True).ravel()
    for panel, name in zip(panels, names, strict=False):
        draw_curves(panel, results.sel(setting=name), name)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel in panels[::columns]:
        panel.set_ylabel("E(β) / power")
    panels[0].legend(frameon=False, fontsize="x-small")
