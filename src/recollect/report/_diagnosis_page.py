"""A diagnosis as a terminal summary, a JSON file, a page and a model file."""

from __future__ import annotations

import html
import importlib.metadata
import importlib.resources
from pathlib import Path

import numpy as np

from recollect import models
from recollect._core._json import as_json
from recollect.diagnosis import Diagnosis, Measurements, Score
from recollect.diagnosis._outputs import whole_directory
from recollect.memory import LagInterval, MemoryLaw
from recollect.report import _diagnosis_figures as figures
from recollect.report._svg import svg


def write_diagnosis(
    diagnosis: Diagnosis, directory: str | Path, *, force: bool = False, table: str | None = None
) -> None:
    """Writes report.html, diagnosis.json, model.safetensors and model.json, all or nothing.

    Args:
        diagnosis: what to write.
        directory: where; it must not exist unless `force`, which replaces it atomically.
        force: replace an earlier result.
        table: CSV text of the data, written beside as data.csv (the embedded example).

    Raises:
        ValueError: if the directory cannot be written or replaced.
    """
    page, record = diagnosis_page(diagnosis), diagnosis_json(diagnosis)
    with whole_directory(Path(directory), force=force) as fresh:
        (fresh / "report.html").write_text(page, encoding="utf-8")
        (fresh / "diagnosis.json").write_text(record + "\n", encoding="utf-8")
        models.save(diagnosis.network, fresh / "model", unit=diagnosis.measurements.unit)
        if diagnosis.nonlinear is not None:
            model = diagnosis.nonlinear.model
            models.save(model, fresh / "nonlinear", unit=diagnosis.measurements.unit)
        if table is not None:
            (fresh / "data.csv").write_text(table, encoding="utf-8")


def diagnosis_json(diagnosis: Diagnosis) -> str:
    """Returns the diagnosis as one JSON object, indented.

    Args:
        diagnosis: from `diagnosis.diagnose`.
    """
    return as_json(diagnosis.record())


def diagnosis_summary(diagnosis: Diagnosis) -> str:
    """Returns the diagnosis in about ten lines.

    Args:
        diagnosis: from `diagnosis.diagnose`.
    """
    lines = [f"{label + ':' if label else '':<12}{text}" for label, text in _facts(diagnosis)]
    others = [warning for warning in diagnosis.warnings if warning != diagnosis.status]
    notes = [*others, *diagnosis.measurements.notes]
    lines += [f"{'note:':<12}{note}" for note in notes]
    return "\n".join(lines)


def diagnosis_page(diagnosis: Diagnosis) -> str:
    """Returns the diagnosis as one self-contained HTML page.

    Args:
        diagnosis: from `diagnosis.diagnose`.
    """
    data = diagnosis.measurements
    sections = [
        _section(
            "Memory",
            _memory_words(diagnosis),
            _figure(
                figures.draw_memory(diagnosis),
                "memory",
                "Estimated memory kernel with its uncertainty and the network's kernel",
                "What one unit of input does to the output, a lag later. Where the band holds zero, "
                "the data cannot tell the kernel from nothing.",
            ),
            _quantile_table(diagnosis),
        ),
        _section(
            "Width",
            _width_words(diagnosis),
            _figure(
                figures.draw_width(diagnosis),
                "width",
                "Kernel error and its lower bound against network width",
                "Distance between the estimated kernel and the best network found, and the proved "
                "limit (Hankel singular values) that no network of that width beats. Where the limit falls "
                "to its own noise, more units would fit noise.",
            ),
            _width_table(diagnosis),
        ),
        _section(
            "Network",
            _network_words(diagnosis),
            _figure(
                figures.draw_timescales(diagnosis),
                "timescales",
                "Time scales of the network's units",
                "Each unit forgets at its own time scale. The further right, the closer to the "
                "stability boundary, and the less the weights may move in training.",
            ),
            _loading(diagnosis),
        ),
        _section("Stability", *_stability_parts(diagnosis)),
        _section("Test", *_test_parts(diagnosis)),
        _section("What is left over", *_remainder_parts(diagnosis)),
        *([_section("Training", *_training_parts(diagnosis))] if diagnosis.forecast else []),
        _section(
            "Data",
            _paragraph(_data_words(diagnosis)),
            _figure(
                figures.draw_data(diagnosis),
                "data",
                "The measured signals",
                "The measured signals.",
            ),
        ),
    ]
    notes = "".join(map(note_box, (*diagnosis.warnings, *data.notes)))
    style = importlib.resources.files("recollect.report").joinpath("_page.css").read_text("utf-8")
    title = html.escape(f"How long does {', '.join(data.output_names)} remember?")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
<header><h1>{title}</h1>
<p class="muted">{html.escape(", ".join(data.input_names))} → {html.escape(", ".join(data.output_names))}\
{f", from {html.escape(data.source)}" if data.source else ""}</p></header>
<main>
<div class="verdict">{_cards(diagnosis)}</div>
{notes}
{"".join(sections)}
</main>
<footer><p class="muted">Made by recollect {importlib.metadata.version("recollect")} in \
{diagnosis.seconds:.1f} s. The numbers are in diagnosis.json, the network in model.safetensors and \
model.json.</p></footer>
</body></html>
"""


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number as a person writes it: few digits, no needless exponent."""
    if value is None or not np.isfinite(value):
        return "∞" if value is not None and value == np.inf else "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:.{digits}g}"
        return f"{value:.0f}" if "e" in text else text
    return f"{value:.{digits}g}"


def note_box(what: object) -> str:
    """Returns something that deserves a word, such as a `Status`, as a box on a page."""
    return f'<div class="note">{html.escape(str(what))}</div>'


def _facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    data, law = diagnosis.measurements, diagnosis.laws[diagnosis.slowest_law]
    t50, t90, t95 = (_with_interval(law, name, data) for name in ("t50", "t90", "t95"))
    name = data.output_names[diagnosis.slowest_law]
    of, this = ("", "") if len(data.output_names) == 1 else (f"{name}, the longest: ", f"{name}: ")
    facts = [
        ("data", _data_words(diagnosis)),
        ("memory", f"{of}{_law_name(law.law)}; 95 % of it lies within {t95}"),
        ("", f"t50 = {t50}, t90 = {t90}"),
        (
            "linear",
            f"a linear map explains {_percent(float(np.mean(diagnosis.kernel.explained_variance)))} of the output",
        ),
        ("width", _width_fact(diagnosis)),
        (
            "network",
            f"slowest time scale {_lag(1 / diagnosis.rates.real.min(), data.unit)}, "
            f"{number(diagnosis.rates.real.min())} per {data.unit} from the stability boundary",
        ),
    ]
    if diagnosis.test is not None:
        test = diagnosis.test
        peers = ", ".join(
            f"{name} {number(s.rmse) if s.status.is_ok else s.status.message}"
            for name, s in test.baselines.items()
        )
        facts.append(
            (
                "test",
                f"RMSE {number(test.score.rmse)} ({_explained(test.score)}) "
                f"by free simulation of {test.record}; {peers}",
            )
        )
    sections = [diagnosis.remainder, diagnosis.nonlinear]
    for line in [line for section in sections if section for line in section.summary()]:
        label, colon, text = line.partition(": ")
        facts.append((label, text) if colon and " " not in label else ("", line.strip()))
    facts.append(("stability", this + diagnosis.stability.headline()))
    if diagnosis.forecast is not None:
        facts.append(("training", this + diagnosis.forecast.summary()[0]))
    facts.append(("verdict", str(diagnosis.status)))
    return facts


def _width_fact(diagnosis: Diagnosis) -> str:
    reason = diagnosis.widths[diagnosis.slowest_law].reason
    recommended = diagnosis.recommended_width
    names = diagnosis.measurements.output_names
    if len(names) > 1:
        shares = zip(names, diagnosis.widths, strict=True)
        parts = ", ".join(f"{curve.recommended} for {name}" for name, curve in shares)
        reason = f"{parts} (each output has units of its own)"
    if diagnosis.width == recommended:
        return f"{_units(recommended)}: {reason}"
    return f"{_units(diagnosis.width)} as asked, {recommended} recommended: {reason}"


def _units(width: int) -> str:
    return f"{width} unit{'' if width == 1 else 's'}"


def _remainder_parts(diagnosis: Diagnosis) -> list[str]:
    words = [line.removeprefix("remainder: ") for line in diagnosis.remainder.summary()]
    parts = [_paragraph(text[:1].upper() + text[1:] + ".") for text in words]
    found = diagnosis.nonlinear
    if found is None:
        return parts
    parts.append(_paragraph(" ".join(line.strip() for line in found.summary()) + "."))
    if found.test is not None:
        parts.append(
            _figure(
                figures.draw_nonlinear(diagnosis),
                "nonlinear",
                "Measured output and the two networks' free simulations",
                "Measured output, the linear network and the nonlinear one, by free simulation.",
            )
        )
    return parts


def _stability_parts(diagnosis: Diagnosis) -> list[str]:
    advice = diagnosis.stability
    parts = [_paragraph(line[:1].upper() + line[1:] + ".") for line in advice.summary()]
    if not advice.margins:
        return parts
    rows = "".join(
        f"<tr{' class=chosen' if m is advice.recommended else ''}><td>{html.escape(m.words)}</td>"
        f"<td>{number(m.radius, 2)}</td><td>{number(m.unstable_from, 2)}</td>"
        f"<td>{number(m.gradient_scale, 2)}</td></tr>"
        for m in advice.margins
    )
    share = _percent(advice.change).replace(".0", "")
    head = (
        f"<tr><th>rates, read-in</th><th>{share} radius</th><th>unstable from</th>"
        "<th>gradient scale</th></tr>"
    )
    note = (
        "Signals standardised, time in samples. No change of the weights below the radius, each array "
        f"by its Euclidean norm, changes the kernel by more than {share} of its L1 norm: a proved "
        "bound. The gradient scale is that of the slowest unit: the smaller, the larger the steps "
        "training may take. Frequencies of oscillating units are held."
    )
    return [*parts, _table(head, rows), f'<p class="muted">{html.escape(note)}</p>']


def _training_parts(diagnosis: Diagnosis) -> list[str]:
    assert diagnosis.forecast is not None
    lines = diagnosis.forecast.summary()
    return [_paragraph(line[:1].upper() + line[1:] + ".") for line in lines]


def _cards(diagnosis: Diagnosis) -> str:
    data, law = diagnosis.measurements, diagnosis.laws[diagnosis.slowest_law]
    test = diagnosis.test
    of = "" if len(data.output_names) == 1 else f" of {data.output_names[diagnosis.slowest_law]}"
    found = any(curve.status.code != "noise_limited" for curve in diagnosis.widths)
    cards = [
        (_lag(law.t95.value, data.unit), f"memory{of}: 95 % lies within")
        if found
        else ("none found", "memory above the noise"),
        (_law_name(law.law), f"law of the memory{of}"),
        (
            _percent(float(np.mean(diagnosis.kernel.explained_variance))),
            "of the output is a linear map of the input",
        ),
        (_units(diagnosis.recommended_width), "recurrent network recommended"),
    ]
    if test is not None:
        cards.append(
            (
                number(test.score.rmse),
                f"test RMSE ({_explained(test.score)})",
            )
        )
    return "".join(
        f"<div><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>" for v, k in cards
    )


def _data_words(diagnosis: Diagnosis) -> str:
    data = diagnosis.measurements
    observed = data.n_observed
    seen = "" if observed == len(data.inputs) else f", {observed} with outputs"
    start = f", from {data.origin[:10]}" if data.origin else ""
    return f"{len(data.inputs)} samples every {_lag(data.dt, data.unit)}{seen}{start}"


def _memory_words(diagnosis: Diagnosis) -> str:
    data = diagnosis.measurements
    parts = []
    for name, law in zip(data.output_names, diagnosis.laws, strict=True):
        chance = law.probabilities.get(law.law)
        sure = f" (probability {_percent(chance)})" if chance is not None else ""
        words = f"{name}: the memory is {_law_name(law.law)}{sure}."
        parts.append(_paragraph(words))
    return "".join(parts)


def _quantile_table(diagnosis: Diagnosis) -> str:
    data = diagnosis.measurements
    rows = ""
    for name, law in zip(data.output_names, diagnosis.laws, strict=True):
        for q in ("t50", "t90", "t95"):
            lag = getattr(law, q)
            rows += (
                f"<tr><td>{html.escape(name)}: {q[1:]} % of the memory</td>"
                f"<td>{number(lag.value)}</td><td>{_interval(lag, data)}</td></tr>"
            )
    head = f"<tr><th>within a lag of</th><th>[{html.escape(data.unit)}]</th><th>90 % interval</th></tr>"
    return _table(head, rows)


def _width_words(diagnosis: Diagnosis) -> str:
    names = diagnosis.measurements.output_names
    return "".join(
        _paragraph(f"{name}: width {curve.recommended} is enough: {curve.reason}.")
        for name, curve in zip(names, diagnosis.widths, strict=True)
    )


def _width_table(diagnosis: Diagnosis) -> str:
    curve = diagnosis.widths[diagnosis.slowest_law]
    rows = "".join(
        f"<tr{' class=chosen' if m == curve.recommended else ''}>"
        f"<td>{m}</td><td>{number(e)}</td><td>{number(b)}</td></tr>"
        for m, e, b in zip(curve.widths, curve.errors, curve.bounds, strict=True)
    )
    name = html.escape(diagnosis.measurements.output_names[diagnosis.slowest_law])
    head = f"<tr><th>width, {name}</th><th>error (l1)</th><th>lower bound</th></tr>"
    return _table(head, rows)


def _network_words(diagnosis: Diagnosis) -> str:
    rate, unit = float(diagnosis.rates.real.min()), diagnosis.measurements.unit
    return _paragraph(
        f"A linear recurrent network of {_units(diagnosis.width)}. Its slowest unit forgets at "
        f"{number(rate)} per {unit} (time scale {_lag(1 / rate, unit)}): so far may a rate move in "
        "training before the network becomes unstable."
    )


def _loading(diagnosis: Diagnosis) -> str:
    code = (
        "import recollect as rc\n\n"
        'network = rc.load("model")    # model.safetensors and model.json\n'
        f"outputs = network(inputs, dt={diagnosis.measurements.dt!r})"
    )
    return f"<pre>{html.escape(code)}</pre>"


def _test_parts(diagnosis: Diagnosis) -> list[str]:
    test = diagnosis.test
    if test is None:
        return [_paragraph("Nothing was held out.")]
    rows = ""
    for name, s in {"network": test.score, **test.baselines}.items():
        explained = _percent(s.explained_variance) if s.status.is_ok else s.status.message
        rows += (
            f"<tr><td>{html.escape(name)}</td><td>{number(s.rmse)}</td><td>{number(s.nrmse)}</td>"
            f"<td>{html.escape(explained)}</td></tr>"
        )
    return [
        _paragraph(
            f"Free simulation of {test.record}: the network sees the inputs, never the measured outputs."
        ),
        _figure(
            figures.draw_test(diagnosis),
            "test",
            "Measured and simulated output on the test record",
            "Measured output and the network's free simulation.",
        ),
        _table("<tr><th>model</th><th>RMSE</th><th>RMSE / std</th><th>explained</th></tr>", rows),
    ]


def _law_name(law: str) -> str:
    return {
        "none": "none: the output does not depend on the past input",
        "power": "a power law",
        "stretched": "a stretched exponential",
        "delayed": "delayed, then decaying",
    }.get(law, law)


def _lag(value: float, unit: str) -> str:
    is_word = unit in ("step", "time unit") and value != 1
    return f"{number(value)} {unit}{'s' if is_word else ''}"


def _with_interval(law: MemoryLaw, name: str, data: Measurements) -> str:
    lag = getattr(law, name)
    return f"{_lag(lag.value, data.unit)} ({_interval(lag, data)})"


def _interval(lag: LagInterval, data: Measurements) -> str:
    # What is longer than the record was extrapolated: the number would say more than is known.
    beyond = lag.upper > data.dt * len(data.inputs)
    return f"{number(lag.lower)} to {'beyond the record' if beyond else number(lag.upper)}"


def _explained(score: Score) -> str:
    if score.explained_variance < 0:
        return "worse than a constant"
    return f"{_percent(score.explained_variance)} explained"


def _percent(share: float | None) -> str:
    return (
        "–"
        if share is None or not np.isfinite(share)
        else f"{100 * share:.1f} %".replace("-0.0 %", "0.0 %")
    )


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"


def _figure(drawn, name: str, description: str, caption: str) -> str:
    return f'<figure><div class="plot">{svg(drawn, name, description)}</div><figcaption>{html.escape(caption)}</figcaption></figure>'


def _table(head: str, rows: str) -> str:
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
