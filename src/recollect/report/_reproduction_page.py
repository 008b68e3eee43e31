"""What the catalogue found, as one page: claims with verdicts, figures with their data and code."""

from __future__ import annotations

import base64
import html
import importlib.metadata
import importlib.resources
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from recollect._core._files import write_whole
from recollect._core._json import as_json
from recollect.report._diagnosis_page import note_box, number
from recollect.report._svg import figure, style, svg
from recollect.study import Reproduction, Study, Verdict, catalogue_entry, read_reproductions
from recollect.study._reproduce import verdict_record
from recollect.study.catalogue import QUICK_SECONDS

_LARGEST_EMBEDDED = 200_000  # bytes of data; more is linked
_DATA = {"csv": "numbers (CSV)", "nc": "curves too (NetCDF)"}
_PAPERS = {
    "A": "Li, Han, E, Li: On the curse of memory in recurrent neural networks (2021)",
    "B": "Wang, Li, Li: Inverse approximation theory for nonlinear recurrent neural networks (2024)",
    "C": "Cayci, Eryilmaz: Convergence of gradient descent for recurrent neural networks (2024)",
}


def write_reproduction(reproductions: Sequence[Reproduction], out: str | Path) -> Path:
    """Writes `index.html` beside the entries' folders, all or nothing, and returns its path.

    The page shows every entry the folder holds: those of earlier calls are read again.

    Args:
        reproductions: what `study.reproduce` returned.
        out: the folder it was given.
    """
    return write_page(read_reproductions(out, fresh=reproductions), out)


def write_page(held: Sequence[Reproduction], out: str | Path) -> Path:
    """Writes the page of the entries a folder holds, and returns its path."""
    path = Path(out) / "index.html"
    write_whole(path, reproduction_page(held).encode())
    return path


def verdicts_json(reproductions: Sequence[Reproduction]) -> str:
    """Returns the verdicts on all claims as one JSON object, indented.

    Args:
        reproductions: what `study.reproduce` or `study.read_reproductions` returned.
    """
    return as_json(verdict_record(reproductions))


def reproduction_page(reproductions: Sequence[Reproduction]) -> str:
    """Returns claims, verdicts and figures as one self-contained HTML page.

    Args:
        reproductions: what `study.reproduce` returned.
    """
    style_sheet = importlib.resources.files("recollect.report").joinpath("_page.css").read_text()
    title = "What three papers claim, and what was measured"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style_sheet}</style></head><body>
<header><h1>{title}</h1>{_sources(reproductions)}</header>
<main>
<div class="verdict">{_cards(reproductions)}</div>
{_contents(reproductions)}
<section><h2>Claims</h2>{_claims(reproductions)}</section>
{"".join(_entry(entry) for entry in reproductions)}
</main>
<footer><p class="muted">Made by {html.escape(_versions())}.</p></footer>
</body></html>
"""


def _sources(reproductions: Sequence[Reproduction]) -> str:
    used = sorted({entry.study.paper for entry in reproductions})
    lines = (f"{paper}: {_PAPERS[paper]}" for paper in used if paper in _PAPERS)
    return f'<p class="muted">{"<br>".join(map(html.escape, lines))}</p>'


def _cards(reproductions: Sequence[Reproduction]) -> str:
    verdicts = [verdict.verdict for entry in reproductions for verdict in entry.verdicts]
    cards = [
        (str(verdicts.count("agrees")), "claims agree"),
        (str(verdicts.count("disagrees")), "claims disagree"),
    ]
    cards.append((str(verdicts.count("undecided")), "undecided"))
    cards.append((_duration(sum(entry.seconds for entry in reproductions)), "of computing"))
    return "".join(f"<div><b>{value}</b><span>{words}</span></div>" for value, words in cards)


def _contents(reproductions: Sequence[Reproduction]) -> str:
    papers: dict[str, list[str]] = {}
    for entry in reproductions:
        link = f'<a href="#{entry.name}">{html.escape(_named(entry.study.figure))}</a>'
        papers.setdefault(entry.study.paper, []).append(link)
    lines = (f"{html.escape(paper)}: {', '.join(links)}" for paper, links in sorted(papers.items()))
    return f'<nav class="muted">{"<br>".join(lines)}</nav>'


def _claims(reproductions: Sequence[Reproduction]) -> str:
    # What a reader would not expect comes first.
    order = ("disagrees", "undecided", "agrees")
    found = [(entry, verdict) for entry in reproductions for verdict in entry.verdicts]
    found.sort(key=lambda pair: order.index(pair[1].verdict))
    rows = "".join(_claim_row(entry, verdict) for entry, verdict in found)
    head = "<tr><th>claim</th><th>paper</th><th>expected</th><th>measured</th><th>verdict</th></tr>"
    return f'<div class="scroll"><table class="claims"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _claim_row(entry: Reproduction, verdict: Verdict) -> str:
    relation = {"equal": "", "at_most": "≤ ", "at_least": "≥ "}[verdict.relation]
    tolerance = f" ± {number(verdict.tolerance, 2)}" if verdict.tolerance else ""
    measured = number(verdict.measured)
    if verdict.measured_stderr:
        measured += f" ± {number(verdict.measured_stderr, 2)}"
    place = f"{verdict.paper}, {_named(verdict.figure)}" if verdict.figure else verdict.paper
    return (
        f'<tr class="{verdict.verdict}"><td><a href="#{entry.name}">{html.escape(verdict.claim)}</a>'
        f'<br><span class="muted">{html.escape(verdict.reason)}</span></td>'
        f"<td>{html.escape(place)}</td>"
        f"<td>{relation}{number(verdict.expected)}{tolerance}</td>"
        f"<td>{measured}</td><td>{verdict.verdict}</td></tr>"
    )


def _entry(entry: Reproduction) -> str:
    study = entry.study
    n_seeds = len(study.seed_values)
    facts = (
        f"{study.n_trials} trials"
        + (f", seeds {study.seed_values[0]} to {study.seed_values[-1]}" if n_seeds > 1 else "")
        + (f", {entry.n_failed} failed" if entry.n_failed else "")
        + f", {_duration(entry.seconds)} of computing, {'quick' if entry.quick else 'full'} grid."
        + (f" Over the budget of {QUICK_SECONDS} s." if entry.is_over_budget else "")
    )
    return (
        f'<section id="{entry.name}"><h2>{html.escape(_title(study))}</h2>'
        f"{_drawn(entry)}"
        f'<p class="muted">{html.escape(facts)} {_data_link(entry)}</p>'
        f"<details><summary>The Python that makes it</summary><pre>{html.escape(_code(entry))}</pre>"
        "</details></section>"
    )


def _drawn(entry: Reproduction) -> str:
    trouble = "" if entry.status.is_ok else note_box(entry.status.message)
    if trouble and all(verdict.status.is_ok for verdict in entry.verdicts):
        return trouble  # it was not run or not drawn
    caption = "; ".join(verdict.claim.rstrip(".") for verdict in entry.verdicts)
    try:
        with style():
            drawn = figure(7.2, 4.2)
            entry.draw(drawn)
            plot = svg(drawn, entry.name, caption)
    except Exception as error:  # an interrupted study may hold too little to draw
        return trouble or note_box(f"the figure was not drawn: {type(error).__name__}: {error}")
    return (
        f'{trouble}<figure><div class="plot">{plot}</div>'
        f"<figcaption>{html.escape(_caption(entry))}</figcaption></figure>"
    )


def _caption(entry: Reproduction) -> str:
    # The first sentence of the entry's file, without the place that the heading names.
    sentence = " ".join((catalogue_entry(entry.name).__doc__ or "").split("\n\n")[0].split())
    sentence = re.sub(r"^Papers? [^:]*: ", "", sentence)
    return f"{entry.name}: {sentence[0].lower()}{sentence[1:]}" if sentence else entry.name


def _named(figure: str) -> str:
    # "11 and 12" are figures; "appendix C" is not.
    several = "s" if re.search(r"\d\D+\d", figure) else ""
    return f"figure{several} {figure}" if figure[:1].isdigit() else figure


def _title(study: Study) -> str:
    # A paper is A, B or C; an own entry may have none, or another name.
    place = f"Paper {study.paper}" if len(study.paper) == 1 else study.paper
    named = ", ".join(part for part in (place, _named(study.figure)) if part)
    return named[:1].upper() + named[1:]


def _data_link(entry: Reproduction) -> str:
    links = [
        _link(entry, suffix, words)
        for suffix, words in _DATA.items()
        if (entry.folder / f"data.{suffix}").exists()
    ]
    return f"Its data: {', '.join(links)}" if links else ""


def _link(entry: Reproduction, suffix: str, words: str) -> str:
    path = entry.folder / f"data.{suffix}"
    if path.stat().st_size > _LARGEST_EMBEDDED:
        return f'<a href="{entry.name}/{path.name}">{words}</a>'
    kind = "text/csv" if suffix == "csv" else "application/x-netcdf"
    content = base64.b64encode(path.read_bytes()).decode()
    name = f"{entry.name}.{suffix}"
    return f'<a download="{name}" href="data:{kind};base64,{content}">{words}</a>'


def _code(entry: Reproduction) -> str:
    name, quick = entry.name, entry.quick
    return f"""from matplotlib.figure import Figure
from recollect import study

entry = study.catalogue_entry("{name}")
sweep = entry.build_study(quick={quick})
study.run(sweep, "{name}.sqlite")
figure = Figure(figsize=(7.2, 4.2), layout="constrained")
entry.draw(figure, study.to_xarray("{name}.sqlite"))
figure.savefig("{name}.svg")
print(*study.judge(sweep, "{name}.sqlite"), sep="\\n")"""


def _versions() -> str:
    packages = ("recollect", "jax", "numpy", "scipy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([*versions, f"Python {platform.python_version()}", platform.machine()])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
