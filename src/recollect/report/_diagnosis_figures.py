"""The figures of a diagnosis: data, memory, width, network, test."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from recollect.diagnosis import Diagnosis
from recollect.report import _svg
from recollect.report._svg import FIRST, INK, MUTED, SECOND, THIRD


def draw_data(diagnosis: Diagnosis) -> Figure:
    """Draws the measured inputs and outputs."""
    data = diagnosis.measurements
    channels = [*zip(data.input_names, data.inputs.T, strict=True)]
    channels += [*zip(data.output_names, data.outputs.T, strict=True)]
    shown = channels[:6]
    with _svg.style():
        figure = _svg.figure(height=0.4 + 1.15 * len(shown))
        axes = np.atleast_1d(figure.subplots(len(shown), 1, sharex=True))
        time = data.dt * np.arange(len(data.inputs))
        for i, (axis, (name, values)) in enumerate(zip(axes, shown, strict=True)):
            seen = np.isfinite(values)
            colour = FIRST if i < len(data.input_names) else SECOND
            if seen.mean() < 0.5:
                axis.plot(*_svg.thin(time[seen], values[seen]), ".", ms=2, color=colour)
            else:
                axis.plot(*_svg.thin(time[seen], values[seen]), color=colour, lw=0.9)
            axis.set_title(name)
        axes[-1].set_xlabel(f"time [{data.unit}]")
    return figure


def draw_memory(diagnosis: Diagnosis) -> Figure:
    """Draws the estimated kernel with its band, the network's kernel and the horizon."""
    data, kernel = diagnosis.measurements, diagnosis.kernel
    pairs = [(o, i) for o in range(kernel.kernel.shape[1]) for i in range(kernel.kernel.shape[2])][
        :6
    ]
    with _svg.style():
        figure = _svg.figure(height=0.5 + 2.2 * len(pairs))
        axes = np.atleast_1d(figure.subplots(len(pairs), 1, sharex=True))
        # What is estimated are averages over bins of lags: those of the network stand beside them.
        edges, values, errors = kernel.edges, kernel.kernel, kernel.kernel_stderr
        lags, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
        steps = np.asarray(diagnosis.network.network.step_response(edges))
        fitted = np.diff(steps, axis=0) / widths[:, None, None]
        for axis, (o, i) in zip(axes, pairs, strict=True):
            mean, band = values[:, o, i], 1.645 * errors[:, o, i]
            t, low, high, net, mid = _svg.thin(
                lags, mean - band, mean + band, fitted[:, o, i], mean
            )
            axis.fill_between(t, low, high, color=FIRST, alpha=0.25, lw=0, label="90 % band")
            axis.plot(t, mid, color=FIRST, label="estimated from the data")
            axis.plot(t, net, "--", color=SECOND, label=f"network of width {diagnosis.width}")
            axis.axhline(0, color=MUTED, lw=0.6)
            axis.set_title(f"{data.input_names[i]} → {data.output_names[o]}")
            axis.set_xlim(0, _shown_lags(diagnosis))
            _mark_horizon(axis, diagnosis.laws[o], edges[-1])
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
        axes[-1].set_xlabel(f"lag [{data.unit}]")
    return figure


def draw_width(diagnosis: Diagnosis) -> Figure:
    """Draws the error and its proved lower bound against width, for the slowest output."""
    curve = diagnosis.widths[diagnosis.slowest_law]
    names = diagnosis.measurements.output_names
    with _svg.style():
        figure = _svg.figure(height=2.9)
        axis = figure.subplots()
        series = (
            (curve.errors, "o-", FIRST, "best fit found"),
            (curve.bounds, "v-", SECOND, "no network is closer than this"),
        )
        for values, marker, colour, label in series:
            shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
            if np.isfinite(shown).any():
                axis.semilogy(curve.widths, shown, marker, color=colour, ms=4, label=label)
        if curve.noise > 0:
            axis.axhline(curve.noise, color=THIRD, lw=1, ls=":", label="noise of that limit")
        low, high = axis.get_ylim()
        axis.set_ylim(low, high * (high / low) ** 0.15)  # room for the words
        _mark(axis, curve.recommended, f"recommended: {curve.recommended}", INK)
        if len(names) > 1:
            axis.set_title(names[diagnosis.slowest_law])
        axis.set_xlabel("width (hidden units)")
        axis.set_ylabel("kernel error, l1 norm")
        figure.legend(loc="outside upper right", ncols=3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def draw_timescales(diagnosis: Diagnosis) -> Figure:
    """Draws the time scales of the network's units against the record and the step."""
    data = diagnosis.measurements
    rates = np.atleast_1d(diagnosis.rates)
    with _svg.style():
        figure = _svg.figure(height=1.9)
        axis = figure.subplots()
        scales = 1 / np.maximum(rates.real, 1e-300)
        oscillates = np.abs(rates.imag) > 1e-9 * np.abs(rates)
        for chosen, marker, label in (
            (~oscillates, "o", "decaying"),
            (oscillates, "s", "oscillating"),
        ):
            if chosen.any():
                axis.semilogx(
                    scales[chosen],
                    np.zeros(chosen.sum()),
                    marker,
                    color=FIRST,
                    ms=7,
                    label=label,
                    alpha=0.7,
                )
        for where, label in ((data.dt, "step"), (data.dt * len(data.inputs), "record")):
            _mark(axis, where, label)
        axis.set_yticks([])
        axis.grid(visible=False, axis="y")
        axis.spines["left"].set_visible(False)
        low = min(data.dt, scales.min()) / 2
        axis.set_xlim(low, max(data.dt * len(data.inputs), scales.max()) * 3)
        axis.set_xlabel(f"time scale 1/rate [{data.unit}]   (→ the stability boundary)")
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def draw_nonlinear(diagnosis: Diagnosis) -> Figure:
    """Draws the held-out output against both networks' free simulations."""
    found = diagnosis.nonlinear
    assert found is not None
    assert found.simulated is not None
    return draw_test(diagnosis, nonlinear=found.simulated)


def draw_test(diagnosis: Diagnosis, *, nonlinear: np.ndarray | None = None) -> Figure:
    """Draws the held-out output against the network's free simulation."""
    data, test = diagnosis.measurements, diagnosis.test
    assert test is not None
    n_outputs = test.measured.shape[1]
    with _svg.style():
        figure = _svg.figure(height=0.5 + 2.2 * min(n_outputs, 4))
        axes = np.atleast_1d(figure.subplots(min(n_outputs, 4), 1, sharex=True))
        time = data.dt * np.arange(len(test.measured))
        for o, axis in enumerate(axes):
            seen = np.isfinite(test.measured[:, o])
            style = {"ls": "none", "marker": ".", "ms": 3} if seen.mean() < 0.5 else {"lw": 1.2}
            axis.plot(
                *_svg.thin(time[seen], test.measured[seen, o]), color=INK, label="measured", **style
            )
            axis.plot(
                *_svg.thin(time, test.simulated[:, o]),
                color=SECOND,
                label="network, free simulation" if nonlinear is None else "linear",
                lw=1.2,
            )
            if nonlinear is not None and len(nonlinear) == len(time):
                axis.plot(*_svg.thin(time, nonlinear[:, o]), color=FIRST, label="nonlinear", lw=1.2)
            axis.set_title(data.output_names[o])
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
        axes[-1].set_xlabel(f"time in the test record [{data.unit}]")
    return figure


def _shown_lags(diagnosis: Diagnosis) -> float:
    ends = [law.t95.value for law in diagnosis.laws if np.isfinite(law.t95.value)]
    last = float(diagnosis.kernel.lags[-1])
    return min(last, 1.6 * max(ends)) if ends and max(ends) > 0 else last


def _mark_horizon(axis, law, last: float) -> None:
    marks: dict[float, str] = {}
    for name in ("t50", "t95"):
        where = getattr(law, name).value
        if np.isfinite(where) and where <= last:
            marks[where] = f"{marks[where]}, {name}" if where in marks else name
    for where, names in marks.items():
        _mark(axis, where, names)


def _mark(axis, where: float, words: str, color: str = MUTED) -> None:
    axis.axvline(where, color=MUTED, lw=0.8, ls="--")
    axis.annotate(
        words,
        (where, 1.0),
        xytext=(4, -3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        color=color,
    )
