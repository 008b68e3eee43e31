"""Paper B, figures 11 and 12: random wide tanh networks and attention need not forget."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

_WIDTH = 128
_HEADS, _HEAD_WIDTH = 2, 8
_WINDOW = 64
_KINDS = ("tanh 0.5", "tanh 2", "attention", "penalised attention", "windowed attention")


def impulse(kind: str, horizon: int, seed: int) -> dict[str, Any]:
    """Returns the memory of an impulse, the largest over its size, at each lag."""
    from recollect import memory

    sizes = [1.0] if kind.startswith("tanh") else np.geomspace(0.1, 30, 12)
    profile = memory.measure_memory(
        _model(kind, seed),
        dt=1.0,
        horizon=float(horizon),
        probe="impulse",
        magnitudes=sizes,
        settle=100.0,
    )
    size = profile.memory.sum(axis=1)
    early, late = size[3 * horizon // 100 : horizon // 10], size[-horizon // 10 :]
    order = math.log10(late.max() / early.max()) if late.max() > 0 else -300.0
    return {"memory": size, "order": order, "window_kept": float(size[_WINDOW + 1 :].max())}


def _model(kind: str, seed: int) -> Any:
    from recollect import models
    from recollect._core._functional import as_functional

    rng = np.random.default_rng(seed)
    if kind.startswith("tanh"):
        gain = float(kind.split()[1])
        W = gain * rng.standard_normal((_WIDTH, _WIDTH)) / math.sqrt(_WIDTH)
        U = rng.standard_normal((_WIDTH, 1))
        C = rng.standard_normal((1, _WIDTH)) / math.sqrt(_WIDTH)
        return models.ElmanRNN(W, U, C, 0.1 * rng.standard_normal(_WIDTH))
    width = _HEADS * _HEAD_WIDTH
    # A channel that is always 1, as the biases of a trained layer are: silence still asks.
    query, key, value = rng.standard_normal((3, width, 2))
    layer = models.CausalAttention(
        query,
        key,
        value,
        rng.standard_normal((1, width)) / math.sqrt(width),
        np.full(_HEADS, 0.1 if kind.startswith("penalised") else 0.0),
        window=_WINDOW if kind.startswith("windowed") else None,
    )

    def attend(signal: np.ndarray) -> np.ndarray:
        return np.asarray(layer(np.concatenate([signal, np.ones_like(signal)], axis=1), dt=1.0))

    return as_functional(attend)


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` has three starts and 300 lags instead of twenty and 1000."""
    return Study(
        name="lasting-memory",
        function=impulse,
        grid=product(kind=list(_KINDS), horizon=[300 if quick else 1000]),
        seeds=3 if quick else 20,
        dimensions={"memory": ("lag",)},
        units={"memory": "1/step", "order": "1", "window_kept": "1/step", "horizon": "step"},
        figure="11 and 12",
        paper="B",
        claims=(
            Claim(
                "Random wide tanh networks of gain 0.5 forget (decades between a tenth of the window "
                "and its end, median).",
                lambda r: _order(r, "tanh 0.5"),
                expected=-6.0,
                tolerance=0.0,
                reason="the spectral radius is 0.5: below rounding long before the end",
                relation="at_most",
            ),
            Claim(
                "Of gain 2 they do not: two starts of the same chaotic network stay apart.",
                lambda r: _order(r, "tanh 2"),
                expected=0.0,
                tolerance=0.3,
                reason="both maxima are taken over tens of lags of a fluctuating difference",
            ),
            Claim(
                "Attention does not forget: what it holds of an impulse fades by less than a factor "
                "two, best size at each lag.",
                lambda r: _order(r, "attention"),
                expected=0.0,
                tolerance=0.3,
                reason="a key e^|qκ| times stronger outweighs all samples of silence until there are "
                "that many; with sizes to 30 that is beyond the window",
            ),
            Claim(
                "A penalty of 0.1 per sample of lag makes it forget: the score, linear in the lag, is "
                "overcome only by larger inputs.",
                lambda r: _order(r, "penalised attention"),
                expected=-2.0,
                tolerance=0.0,
                reason="0.1 per lag takes 20 or more off the score by the end of the window, which "
                "the largest sizes alone can pay for; two powers of ten of it are asked for",
                relation="at_most",
            ),
            Claim(
                "A window makes it forget exactly.",
                lambda r: float(r.sel(kind="windowed attention").window_kept.max()),
                expected=0.0,
                tolerance=1e-12,
                reason="rounding of the softmax",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: memory against lag for each kind, the median start and the range of all."""
    panels = figure.subplots(1, 2, sharey=True)
    for kind in _KINDS:
        panel = panels[0 if kind.startswith("tanh") else 1]
        curves = results.sel(kind=kind).memory.squeeze().transpose("seed", "lag").values
        curves = np.maximum(curves / curves.max(axis=1, keepdims=True), 1e-17)
        lags = np.arange(curves.shape[1]) + 0.5
        panel.loglog(lags, np.median(curves, axis=0), linewidth=1.2, label=kind)
        panel.fill_between(lags, curves.min(axis=0), curves.max(axis=0), alpha=0.15)
    for panel in panels:
        panel.set(xlabel="lag (steps)", ylim=(1e-17, 3))
        panel.legend(frameon=False, fontsize="x-small")
    panels[0].set_ylabel("memory of an impulse, largest = 1")


def _order(results: Any, kind: str) -> float:
    return float(np.median(results.sel(kind=kind).order.values))
