"""Paper B, figure 10: step, impulse and reversed probes of random stacks agree, and all decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

_WIDTH = 16
_TIMESCALE = 40.0
_PROBES = ("step", "impulse", "reversed")
_GATED = ("rnn", "gru", "lstm")
_HORIZON = {"rnn": 120, "gru": 120, "lstm": 120, "s4": 2000}


def probe(kind: str, n_layers: int, seed: int) -> dict[str, Any]:
    """Returns memory at 60 lags, relative to its largest, by three probes of unit size."""
    from recollect import memory

    model = _stack(kind, n_layers, seed)
    horizon = _HORIZON[kind]
    chosen = np.unique(np.linspace(0, horizon - 1, 60).round().astype(int))
    curves, rates, ends = [], [], []
    for name in _PROBES:
        found = memory.measure_memory(
            model,
            dt=1.0,
            horizon=float(horizon),
            magnitudes=[1.0],
            n_restarts=0,
            probe=name,
            settle=float(horizon),
        )
        size = found.memory.sum(axis=1)
        curves.append(size[chosen] / size.max())
        rates.append(_rate(found.lags, size))
        ends.append(size[-max(1, horizon // 24) :].max() / size.max())
    worst = memory.measure_memory(
        model, dt=1.0, horizon=float(horizon), n_restarts=0, settle=float(horizon)
    ).memory.sum(axis=1)
    return {
        "memory": np.array(curves),
        "rate": np.array(rates),
        "end": np.array(ends),
        "share_of_time": chosen / horizon,
        "end_over_sizes": worst[-max(1, horizon // 24) :].max() / worst.max(),
    }


def _stack(kind: str, n_layers: int, seed: int) -> Any:
    from recollect import models

    def key(layer: int) -> int:
        return 1000 * seed + layer

    layers: list[Any] = []
    for k in range(n_layers):
        n_inputs = 1 if k == 0 else _WIDTH
        rng = np.random.default_rng(key(k))
        if kind == "gru":
            layers.append(models.initialise_gru(_WIDTH, n_inputs=n_inputs, key=key(k)))
        elif kind == "lstm":
            layers.append(models.initialise_lstm(_WIDTH, n_inputs=n_inputs, key=key(k)))
        elif kind == "rnn":
            # As torch starts it: every weight uniform in ±1/√width.
            draw = lambda *shape, rng=rng: rng.uniform(-1, 1, shape) / np.sqrt(_WIDTH)  # noqa: E731
            layers.append(
                models.ElmanRNN(
                    draw(_WIDTH, _WIDTH), draw(_WIDTH, n_inputs), np.eye(_WIDTH), draw(_WIDTH)
                )
            )
        else:
            recurrence = models.initialise_s4d_lin(
                _WIDTH, timescale=_TIMESCALE, n_inputs=n_inputs, n_outputs=_WIDTH, key=key(k)
            )
            mix = rng.standard_normal((_WIDTH, _WIDTH)) / np.sqrt(_WIDTH)
            layers.append(models.StateSpaceLayer(recurrence, mix, activation="gelu"))
    return models.Stack(layers)


def _rate(lags: np.ndarray, size: np.ndarray) -> float:
    """Returns the exponential rate between 1e-2 and 1e-9 of the largest value."""
    envelope = np.maximum.accumulate(size[::-1])[::-1] / size.max()
    usable = (envelope < 1e-2) & (envelope > 1e-9)
    if usable.sum() < 3:
        return float("nan")
    return float(-np.polyfit(lags[usable], np.log(envelope[usable]), 1)[0])


def build_study(*, quick: bool) -> Study:
    """Returns the study: 20 random starts; `quick` has two, of one and two layers."""
    layers = [1, 2] if quick else [1, 2, 3, 4]
    return Study(
        name="memory-probes",
        function=probe,
        grid=product(kind=[*_GATED, "s4"], n_layers=layers),
        seeds=2 if quick else 20,
        dimensions={
            "memory": ("probe", "place"),
            "rate": ("probe",),
            "end": ("probe",),
            "share_of_time": ("place",),
        },
        units={
            "memory": "1",
            "rate": "1/step",
            "end": "1",
            "share_of_time": "1",
            "end_over_sizes": "1",
            "n_layers": "1",
        },
        figure="10",
        paper="B",
        claims=(
            Claim(
                "Random RNN, GRU and LSTM stacks have forgotten a step of size 1 after 120 steps, to "
                "about 1e-15 (log10 of what is left; the worst median over starts).",
                lambda r: _left(r, _GATED),
                expected=-15.0,
                tolerance=1.5,
                reason="the figure is read to about a decade and ends at float64's rounding, which "
                "depends on the size of the output",
                relation="at_most",
            ),
            Claim(
                "The three probes agree: their exponential rates, as a ratio to the step's "
                "(largest deviation of a median from 1).",
                _disagreement,
                expected=0.0,
                tolerance=0.15,
                reason="the probes share the slowest mode; over a finite window the faster ones, "
                "which they weigh differently, are worth a few per cent",
                relation="at_most",
            ),
            Claim(
                "State-space stacks decay exponentially over 2000 steps too (log10 of what is left, "
                "the worst median over starts).",
                lambda r: _left(r, ("s4",)),
                expected=-7.0,
                tolerance=1.0,
                reason=f"the slowest rate is 1/{2 * _TIMESCALE:g} per step: 2000 steps are 25 of its "
                "time constants, 1e-10.9; k layers multiply by 25^(k-1)/(k-1)!, up to 1e3.4 for four, "
                "and the last twenty-fourth of the window is looked at",
                relation="at_most",
            ),
            Claim(
                "The decay holds at every size of the step (log10 of what is left of the supremum "
                "over sizes 1e-3 to 1e3 in GRUs and LSTMs, the worst median).",
                lambda r: _left_over_sizes(r, ("gru", "lstm")),
                expected=-15.0,
                tolerance=1.5,
                reason="as for unit steps",
                relation="at_most",
                refuted="large steps saturate the gates, and a unit whose gate stays shut keeps its "
                "state: the memory function is a supremum over sizes, the figure shows one size",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: one row per kind, one panel per depth, median of each probe and its spread."""
    kinds = [*_GATED, "s4"]
    depths = [int(n) for n in results.n_layers.values]
    panels = figure.subplots(len(kinds), len(depths), sharey=True, squeeze=False)
    for row, kind in enumerate(kinds):
        for column, depth in enumerate(depths):
            panel = panels[row, column]
            of = results.sel(kind=kind, n_layers=depth)
            times = _HORIZON[kind] * _over_seeds(of.share_of_time).mean(axis=0)
            curves = _over_seeds(of.memory)
            # Below rounding there is nothing to draw.
            curves = np.where(curves > 1e-18, curves, np.nan)
            for place, name in enumerate(_PROBES):
                seen = np.isfinite(curves[:, place]).all(axis=0)
                own, shown = curves[:, place][:, seen], times[seen]
                panel.semilogy(shown, np.median(own, axis=0), linewidth=1.2, label=name)
                panel.fill_between(shown, own.min(axis=0), own.max(axis=0), alpha=0.15)
            panel.set_xlim(0, _HORIZON[kind])
            panel.set_ylim(1e-18, 3)
            panel.set_title(f"{kind}, {depth} layer{'s' * (depth > 1)}", fontsize="small")
    for panel in panels[-1]:
        panel.set_xlabel("lag (steps)")
    for panel in panels[:, 0]:
        panel.set_ylabel("memory")
    panels[0, 0].legend(frameon=False, fontsize="x-small")


def _over_seeds(values: Any) -> np.ndarray:
    """Returns the values with seeds first, those of missing trials left out."""
    array = np.asarray(values.transpose("seed", ...).values, dtype=float)
    return array[np.isfinite(array).reshape(len(array), -1).all(axis=1)]


def _cells(results: Any, kinds: Any) -> Any:
    for kind in kinds:
        for depth in results.n_layers.values:
            of = results.sel(kind=kind, n_layers=depth)
            if len(_over_seeds(of.end)):
                yield of


def _left(results: Any, kinds: Any) -> float:
    return _worst(_over_seeds(of.end)[:, 0] for of in _cells(results, kinds))


def _left_over_sizes(results: Any, kinds: Any) -> float:
    return _worst(_over_seeds(of.end_over_sizes) for of in _cells(results, kinds))


def _worst(shares: Iterable[np.ndarray]) -> float:
    return float(np.max([np.median(np.log10(np.maximum(share, 1e-19))) for share in shares]))


def _disagreement(results: Any) -> float | None:
    worst = 0.0
    for of in _cells(results, [*_GATED, "s4"]):
        rates = _over_seeds(of.rate)
        if len(rates):
            ratio = np.median(rates[:, 1:] / rates[:, :1], axis=0)
            worst = float(np.maximum(worst, np.abs(ratio - 1).max()))
    return worst or None
