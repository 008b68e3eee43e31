"""Paper B, Theorem 3.9 and appendix J: the slowest eigenvalue at rest bounds the stable radius."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from recollect import models, stability
from recollect._core._precision import in_float64
from recollect.study._claims import Claim
from recollect.study._grid import zipped
from recollect.study._study import Study
from recollect.study.catalogue._kernel_regime import slope
from recollect.study.catalogue._perturbed_networks import mark_widths, start_network

_DT = 0.05
_BEYOND = 0.05


def examine(kind: str, width: int, gain: float, seed: int) -> dict[str, Any]:
    """Returns the bound of a network at rest, its formula, and how its memory and its neighbours decay.

    `gain` scales the state weights of a GRU; tanh networks have rates down to 2/width.
    """
    if kind == "gru":
        network, matrix = _gru(width, gain, seed)
    else:
        network: Any = start_network("dense", "tanh", width, 2.0 / width, dt=_DT, seed=seed)
        network, matrix = _with_readout(network), np.asarray(network.W)
    bound = stability.measure_eigenvalue_bound(network)
    formula = float(-np.linalg.eigvals(matrix).real.max())
    moved = [_moved(network, factor * bound) for factor in (1 - _BEYOND, 1 + _BEYOND)]
    return {
        "bound": bound,
        "formula": formula,
        "memory_rate": -_growth(network, formula),
        "growth_within": _growth(moved[0], formula),
        "growth_beyond": _growth(moved[1], formula),
    }


def _gru(width: int, gain: float, seed: int) -> tuple[Any, np.ndarray]:
    drawn: Any = models.initialise_gru(width, n_inputs=1, n_outputs=1, key=seed)
    weights = gain * np.array(drawn.state_weights)
    biases = [np.array(drawn.input_bias), np.array(drawn.state_bias)]
    for bias in biases:
        # Appendix J: h = 0 is at rest where the candidate has no bias.
        bias[2 * width :] = 0
    network = models.GRU(drawn.input_weights, weights, biases[0], biases[1], drawn.C)
    reset, keep = (
        1 / (1 + np.exp(-(biases[0] + biases[1])[part]))
        for part in (slice(0, width), slice(width, 2 * width))
    )
    # The paper's z is the share that is renewed, torch's the one that is kept.
    return network, (1 - keep)[:, None] * (weights[2 * width :] * reset - np.eye(width))


def _with_readout(network: Any) -> Any:
    return eqx.tree_at(lambda m: m.C, network, np.ones((1, network.width)))


def _moved(network: Any, radius: float) -> Any:
    """Returns the network with its linear part at rest moved by β times the identity."""
    if isinstance(network, models.ResidualRNN):
        return eqx.tree_at(
            lambda m: m.W, network, np.asarray(network.W) + radius * np.eye(network.width)
        )
    width = network.width
    bias = np.asarray(network.input_bias) + np.asarray(network.state_bias)
    reset = 1 / (1 + np.exp(-bias[:width]))
    renew = 1 / (1 + np.exp(bias[width : 2 * width]))
    weights = np.array(network.state_weights)
    # Diag(renew) (U + δ) Diag(reset) moves by βI.
    weights[2 * width :] += np.diag(radius / (renew * reset))
    return eqx.tree_at(lambda m: m.state_weights, network, weights)


def _growth(network: Any, rate: float) -> float:
    """Returns the rate at which what is left of a tiny pulse grows, in 1/time, late in its life."""
    # At 5 % beyond the boundary a pulse takes long to outgrow the modes beside it.
    n_time = int(200 / (rate * _DT))
    answer = np.asarray(in_float64(jax.jit(_pulse, static_argnums=1))(network, n_time))
    block = max(1, n_time // 60)
    envelope = np.maximum.reduceat(np.abs(answer), np.arange(0, n_time, block))
    usable = (envelope > 1e-300) & (envelope < 1e-2)
    late = np.flatnonzero(usable)[int(0.6 * usable.sum()) :]
    if len(late) < 4:
        return math.nan
    return float(np.polyfit(_DT * block * late, np.log(envelope[late]), 1)[0])


def _pulse(network: Any, n_time: int) -> Any:
    """Returns the answer to a tiny pulse of the continuous form; of a GRU dh/dt = (1-z)(n-h)."""
    is_discrete = isinstance(network, models.GRU)

    def advance(state: Any, value: Any) -> Any:
        moved = network.step(state, value, dt=1.0 if is_discrete else _DT)
        state = state + _DT * (moved - state) if is_discrete else moved
        return state, network.readout(state)[0]

    signal = jnp.zeros((n_time, 1)).at[:3].set(1e-8)
    rest = jnp.zeros(network.width)
    return jax.lax.scan(advance, rest, signal)[1]


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has three widths, three gains and one seed."""
    widths = [4, 16, 64] if quick else [4, 8, 16, 32, 64, 128]
    gains = [0.5, 1.0, 1.4] if quick else [0.25, 0.5, 0.75, 1.0, 1.2, 1.4]
    return Study(
        name="eigenvalue-bound",
        function=examine,
        grid=zipped(
            kind=["tanh"] * len(widths) + ["gru"] * len(gains),
            width=[*widths, *([16] * len(gains))],
            gain=[1.0] * len(widths) + gains,
        ),
        seeds=1 if quick else 5,
        units=dict.fromkeys(
            ("bound", "formula", "memory_rate", "growth_within", "growth_beyond", "width", "gain"),
            "1",
        ),
        figure="Theorem 3.9",
        paper="B",
        claims=(
            Claim(
                "For a GRU the bound is that of Diag(σ(b_z))(U_h Diag(σ(b_r)) - I), the matrix of appendix J "
                "(largest difference), read as dh/dt = (1-z)(n-h).",
                lambda r: float(np.abs(_of(r, "gru", "bound") - _of(r, "gru", "formula")).max()),
                expected=0.0,
                tolerance=1e-9,
                reason="rounding of a derivative and an eigenvalue",
                relation="at_most",
            ),
            Claim(
                "The memory decays no slower than the bound says (least ratio of its rate to the bound).",
                lambda r: float(_over_bound(r, "memory_rate").min()),
                expected=1.0,
                tolerance=0.03,
                reason="Euler steps of 0.05 and a fit over a finite window, in which modes beside the slowest "
                "still count",
                relation="at_least",
            ),
            Claim(
                f"{100 * _BEYOND:.0f} % within the bound the moved network still forgets (largest growth, over "
                "the bound).",
                lambda r: float(_over_bound(r, "growth_within").max()),
                expected=0.0,
                tolerance=0.0,
                reason="a sign",
                relation="at_most",
            ),
            Claim(
                f"{100 * _BEYOND:.0f} % beyond it it does not: no radius beyond the bound is stable (least "
                "growth, over the bound).",
                lambda r: float(_over_bound(r, "growth_beyond").min()),
                expected=0.0,
                tolerance=0.0,
                reason="a sign",
                relation="at_least",
            ),
            Claim(
                "Networks that approximate (1+t)^-1.5 ever better, with rates down to 2/width, take their "
                "radius to zero as fast (order in the width).",
                lambda r: slope(_of(r, "tanh", "width"), _of(r, "tanh", "bound")),
                expected=-1.0,
                tolerance=0.05,
                reason="entries off the diagonal of a tenth of the slowest rate move it by a few per cent",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: bound and memory rate of tanh networks and GRUs, and what moving them does."""
    left, middle, right = figure.subplots(1, 3)
    for panel, kind, name in ((left, "tanh", "width"), (middle, "gru", "gain")):
        x = _of(results, kind, name)
        for value, style, color, label in (
            ("bound", "o-", "C0", "-max Re λ at rest"),
            ("memory_rate", "s--", "C1", "rate of the memory"),
        ):
            found = _of(results, kind, value)
            places = np.unique(x)
            typical = [np.median(found[x == place]) for place in places]
            panel.plot(places, typical, style, color=color, markersize=4, label=label)
            panel.plot(x, found, style[0], color=color, markersize=2, alpha=0.4)
        panel.set(xlabel=name, title=kind)
        panel.legend(frameon=False, fontsize="x-small")
        for value, share in (("growth_within", 1 - _BEYOND), ("growth_beyond", 1 + _BEYOND)):
            growth = _over_bound(results, value, kind)
            mark = {
                "marker": "o" if kind == "tanh" else "^",
                "color": "C0" if kind == "tanh" else "C2",
            }
            label = kind if value == "growth_within" else None
            right.plot(
                np.full(len(growth), share),
                growth,
                linestyle="none",
                label=label,
                fillstyle="none",
                **mark,
            )
    left.set(xscale="log", yscale="log", ylabel="rate")
    mark_widths(left, np.unique(_of(results, "tanh", "width")))
    middle.set(ylabel="rate per step")
    right.axhline(0, color="gray", linewidth=0.8)
    right.axvline(1, color="gray", linewidth=0.8)
    right.set(xlabel="move / bound", ylabel="growth of a pulse / bound")
    right.legend(frameon=False, fontsize="x-small")


def _over_bound(results: Any, name: str, *kinds: str) -> np.ndarray:
    """Returns a rate over the bound of its network: of the kinds named, or of both."""
    kinds = kinds or ("tanh", "gru")
    return np.concatenate([_of(results, k, name) / _of(results, k, "bound") for k in kinds])


def _of(results: Any, kind: str, name: str) -> np.ndarray:
    chosen = np.asarray(results["kind"].values) == kind
    values = results[name]
    if "seed" in values.dims:
        values = values.transpose("seed", ...)
        return np.median(values.values, axis=0)[chosen]
    return np.asarray(values.values)[chosen].ravel()
