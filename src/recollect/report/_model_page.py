"""A measured model as one page: what it remembers, how close it is to the edge, layer by layer."""

from __future__ import annotations

import html
import importlib.metadata
import importlib.resources
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from recollect._core._files import write_whole
from recollect.diagnosis import LayerReport, ModelReport
from recollect.diagnosis._outputs import plan_file
from recollect.report import _svg
from recollect.report._diagnosis_page import note_box, number
from recollect.report._svg import FIRST, MUTED, svg


def write_model_page(report: ModelReport, path: str | Path, *, force: bool = False) -> None:
    """Writes the page, whole or not at all.

    Args:
        report: from `diagnosis.measure_model`.
        path: the file to write.
        force: replace it if it exists.

    Raises:
        ValueError: if the file exists and is not to be replaced, or cannot be written.
    """
    write_whole(plan_file(Path(path), force=force), model_page(report).encode())


def model_page(report: ModelReport) -> str:
    """Returns a measured model as one self-contained HTML page.

    Args:
        report: from `diagnosis.measure_model`.
    """
    whole = report.whole
    title = html.escape(f"What does {whole.name} remember?")
    style = importlib.resources.files("recollect.report").joinpath("_page.css").read_text("utf-8")
    facts = "".join(
        f"<tr><td>{html.escape(label)}</td><td class=words>{html.escape(words)}</td></tr>"
        for label, words in _facts(report)
    )
    gravest = () if report.status.is_ok else (report.status,)
    notes = "".join(map(note_box, (*gravest, *report.notes, *report.warnings)))
    drawn = svg(
        _draw_memory(report), "memory", "The memory function against the lag, largest value one"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}
.words, .words td {{ text-align: left; white-space: normal; }}</style></head><body>
<header><h1>{title}</h1>
<p class="muted">{whole.n_inputs} → {whole.n_outputs} channels, state of {whole.width}</p></header>
<main>
<div class="verdict">{_cards(report)}</div>
{notes}
<section><h2>Memory</h2><figure><div class="plot">{drawn}</div>
<figcaption>Memory function, \
{"a lower estimate" if whole.memory.is_lower_estimate else "exact"}; dashed: t50 and t95.</figcaption>
</figure></section>
<section><h2>Findings</h2><div class="scroll"><table><tbody>{facts}</tbody></table></div></section>
<section><h2>Layers</h2>{_layers(report)}</section>
</main>
<footer><p class="muted">Made by recollect {importlib.metadata.version("recollect")}.</p></footer>
</body></html>
"""


def _facts(report: ModelReport) -> list[tuple[str, str]]:
    facts = []
    for line in report.summary():
        label, colon, words = line.partition(": ")
        if colon and not line.startswith((" ", "layer", "note", "status", "model")):
            facts.append((label.strip(), words.strip()))
    return facts


def _cards(report: ModelReport) -> str:
    t50, _, t95 = report.whole.reach
    unit = report.unit
    layers = report.layers or (report.whole,)
    spectra = [layer.spectrum for layer in layers if layer.spectrum is not None]
    least = "" if report.whole.is_settled else "≥ "
    cards = [
        (f"{least}{number(t95)} {unit}", "memory: 95 % lies within"),
        (f"{least}{number(t50)} {unit}", "half of it lies within"),
    ]
    if report.unit_inputs is not None:
        least = "" if report.unit_inputs.is_settled else "≥ "
        lag = number(report.unit_inputs.reach[2])
        cards.append((f"{least}{lag} {unit}", "95 %, of inputs up to 1"))
    if spectra:
        cards.append((number(min(s.margin for s in spectra)), "per step from instability"))
    radii = [m.radius for m in (layer.margin for layer in layers) if m and m.status.is_ok]
    if radii:
        cards.append((number(min(radii), 2), "weights may move by"))
    return "".join(
        f"<div><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>" for v, k in cards
    )


def _layers(report: ModelReport) -> str:
    rows = "".join(
        _layer_row(place, layer) for place, layer in enumerate(report.layers or (report.whole,))
    )
    unit = html.escape(report.unit)
    head = (
        f"<tr><th>layer</th><th>t95 [{unit}]</th><th>slowest rate</th><th>to instability</th>"
        "<th>weights may move by</th><th>reparameterised</th></tr>"
    )
    note = (
        "Weights may move by so much before the layer's answer changes by its own size. Of linear layers "
        "this is proved; of others (marked ~) it is what a search found, and less may do it."
    )
    return (
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
        f'<p class="muted">{html.escape(note)}</p>'
    )


def _layer_row(place: int, layer: LayerReport) -> str:
    spectrum, margin = layer.spectrum, layer.margin
    least = "" if layer.is_settled else "≥ "
    cells = [f"{place}: {layer.name}", f"{least}{number(layer.reach[2])}"]
    cells += (
        ["–", "–"] if spectrum is None else [number(spectrum.slowest_rate), number(spectrum.margin)]
    )
    if margin is None or not margin.status.is_ok:
        cells += ["–" if margin is None else margin.status.message, "–"]
    else:
        cells.append(
            f"{'' if margin.is_bound else '~ '}{number(margin.radius, 2)} ({margin.parameterisation})"
        )
        cells.append(f"{number(margin.reparameterised, 2)} ({margin.cure})" if margin.cure else "–")
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _draw_memory(report: ModelReport) -> Figure:
    profile = report.whole.memory
    size = np.asarray(profile.memory).sum(axis=1)
    largest = size.max() if size.size and size.max() > 0 else 1.0
    with _svg.style():
        figure = _svg.figure(height=2.6)
        axis = figure.subplots()
        lags, shown = _svg.thin(profile.lags, np.where(size > 0, size / largest, np.nan))
        axis.semilogy(lags, shown, color=FIRST)
        seen = shown[np.isfinite(shown)]
        axis.set_ylim(max(1e-12, 0.3 * float(seen.min(initial=1.0))), 3)
        for place in (0, 2):
            lag = report.whole.reach[place]
            if np.isfinite(lag) and lag <= lags[-1]:
                axis.axvline(lag, color=MUTED, lw=0.8, ls="--")
        axis.set_xlabel(f"lag [{report.unit}]")
        axis.set_ylabel("memory, largest = 1")
    return figure
