"""Paper B, Figure 12: what attention remembers has no stable approximation by recurrent networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect._core._status import Status
from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study
from recollect.study.catalogue._perturbed_networks import (
    DIMENSIONS,
    LEVEL,
    SETTLED,
    UNITS,
    crossing,
    draw_curves,
    draw_paths,
    effort,
    growth,
    mark_widths,
    start_network,
    train_network,
    typical,
)

# Score lost per sample of lag: without one attention never forgets, with one it does so exponentially.
_SLOPES = {"attention": 0.0, "penalised attention": 0.1}


def perturb(
    teacher: str,
    width: int,
    n_training: int,
    n_radii: int,
    n_starts: int,
    n_steps: int,
    n_paths: int,
    horizon: float,
    dt: float,
    seed: int,
) -> dict[str, Any]:
    """Returns E_m(β) of a tanh student of one attention head, and its misfit on longer sequences."""
    from recollect import models, stability

    rng = np.random.default_rng(100 + seed)
    head = models.CausalAttention(
        0.5 * rng.standard_normal((4, 1)),
        0.5 * rng.standard_normal((4, 1)),
        np.abs(rng.standard_normal((4, 1))),
        np.full((1, 4), 0.25),
        [_SLOPES[teacher]],
    )

    def answers(paths: np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(head(path, dt=dt), float) for path in paths])

    slowest = 2.0 / width if teacher == "attention" else 0.45
    student = start_network("dense", "tanh", width, slowest, dt=dt, seed=seed)
    inputs, _ = draw_paths("exp(-t)", n_paths, horizon, dt=dt, seed=seed)
    student = train_network(
        student, inputs, answers(inputs), dt=dt, n_steps=n_training, batch=16, seed=seed
    )
    judged, _ = draw_paths("exp(-t)", n_paths, horizon, dt=dt, seed=seed + 1000)
    longer, _ = draw_paths("exp(-t)", max(n_paths // 2, 4), 4 * horizon, dt=dt, seed=seed + 2000)
    said = answers(longer)
    late = slice(longer.shape[1] // 2, None)
    student_said = np.stack([np.asarray(student(path, dt=dt)) for path in longer])
    radii = np.geomspace(1e-3, 0.5, n_radii)
    curve = stability.measure_perturbation_error(
        student,
        np.concatenate([[0.0], radii]),
        target=head,
        norm="mse",
        paths=judged,
        dt=dt,
        n_starts=n_starts,
        n_steps=n_steps,
        n_search_paths=16,
        key=seed,
    )
    power = float(np.mean(answers(judged) ** 2))
    errors = curve.errors[0] / power
    return {
        "errors": errors[1:],
        "sampled": curve.sampled[0][1:] / power,
        "radii": radii,
        "misfit": float(errors[0]),
        "misfit_later": float(
            np.mean((student_said - said)[:, late] ** 2) / np.mean(said[:, late] ** 2)
        ),
        "radius": crossing(radii, errors[1:] - errors[0], LEVEL),
        "rate": stability.measure_eigenvalue_bound(student),
        # Infinity is what is measured.
        "status": Status(),
    }


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has widths 4 and 16."""
    return Study(
        name="transformer-teacher",
        function=perturb,
        grid=product(
            teacher=list(_SLOPES),
            width=[4, 16] if quick else [4, 8, 16, 64],
            n_training=[0],
            **(effort(quick=quick, n_starts=3) | {"horizon": [64.0]}),
        ),
        dimensions=DIMENSIONS,
        units=UNITS | {"misfit_later": "1"},
        figure="12",
        paper="B",
        claims=(
            Claim(
                "Students of attention do not hold beyond the length they were fitted to: the widest's misfit "
                "in the second half of sequences four times as long, over the power.",
                lambda r: float(typical(r, "misfit_later", teacher="attention")[-1]),
                expected=0.05,
                tolerance=0.0,
                reason="a twentieth of the power is what a converging approximation would be below; the "
                "control's stays under it",
                relation="at_least",
            ),
            Claim(
                "Students of penalised attention, which forgets exponentially, do.",
                lambda r: float(typical(r, "misfit_later", teacher="penalised attention")[-1]),
                expected=0.05,
                tolerance=0.0,
                reason="what softmax adds to a linear memory at these sizes is a few per cent",
                relation="at_most",
            ),
            Claim(
                "Fitting attention, the curves move left (radius of the widest over that of the narrowest).",
                lambda r: growth(r, "radius", teacher="attention"),
                expected=SETTLED,
                tolerance=0.0,
                reason="as in Figure 2: more than the search's own scatter, a quarter",
                relation="at_most",
            ),
            Claim(
                "Fitting penalised attention, they settle.",
                lambda r: growth(r, "radius", teacher="penalised attention"),
                expected=SETTLED,
                tolerance=0.0,
                reason="as above",
                relation="at_least",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: curves of both teachers' students, and their misfits against the width."""
    panels = figure.subplots(1, 3)
    for panel, teacher in zip(panels, _SLOPES, strict=False):
        draw_curves(panel, results.sel(teacher=teacher), teacher)
        for name, style in (("misfit", "o-"), ("misfit_later", "s--")):
            values = typical(results, name, teacher=teacher)
            label = teacher.removesuffix(" attention") + (", 4x as long" if "later" in name else "")
            panels[2].loglog(results.width, values, style, markersize=3, label=label)
    panels[0].set_ylabel("E(β) / power; dotted: sampled")
    panels[0].legend(frameon=False, fontsize="x-small")
    panels[2].set(xlabel="width", ylabel="misfit / power")
    mark_widths(panels[2], results.width.values)
    panels[2].legend(frameon=False, fontsize="x-small")
