"""Matplotlib figures as SVG that follows the page: its colours, its fonts, unique ids."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from recollect._core._files import write_whole

# Stand-ins that no figure uses otherwise; the page's style sheet gives each its real colour, so
# that one SVG serves light, dark and print.
_STAND_INS = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--grid",
    "#040404": "--first",
    "#050505": "--second",
    "#060606": "--third",
}
INK, MUTED, GRID, FIRST, SECOND, THIRD = _STAND_INS
MOST_POINTS = 2000

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "recollect",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "axes.formatter.useoffset": False,
}
# The real colours, for figures outside a page.
_PAPER = dict(
    zip(
        _STAND_INS,
        ("#1b1f24", "#57606a", "#d8dee4", "#0b5fad", "#c4500c", "#2a7d4f"),
        strict=True,
    )
)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draws inside this block take the page's style; the caller's settings come back after."""
    with mpl.rc_context(_STYLE):
        yield


def figure(width: float = 7.2, height: float = 2.9, **options) -> Figure:
    """Returns an empty figure, sized in inches, outside of pyplot's registry."""
    return Figure(figsize=(width, height), layout="constrained", **options)


def svg(drawn: Figure, name: str, description: str) -> str:
    """Returns a figure as an SVG element whose ids start with `name`."""
    text = _render(drawn)
    text = text[text.index("<svg") :]
    for stand_in, variable in _STAND_INS.items():
        text = text.replace(stand_in, f"var({variable})")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # The size comes from the page; the view box keeps the proportions.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def save_figure(drawn: Figure, path: str | Path) -> None:
    """Writes a figure as a stand-alone SVG file in its paper colours, all or nothing.

    Args:
        drawn: such as `report.draw_curse_map` returns.
        path: the file to write; an earlier one is replaced.
    """
    text = _render(drawn)
    for stand_in, colour in _PAPER.items():
        text = text.replace(stand_in, colour)
    write_whole(Path(path), text.encode())


def thin(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns columns with at most `MOST_POINTS` rows, keeping each bin's extremes of the last."""
    n = len(columns[0])
    if n <= MOST_POINTS:
        return columns
    n_bins = MOST_POINTS // 2
    edges = np.linspace(0, n, n_bins + 1).astype(int)
    guide = np.nan_to_num(columns[-1])
    keep = set()
    for start, stop in itertools.pairwise(edges):
        keep.add(start + int(np.argmin(guide[start:stop])))
        keep.add(start + int(np.argmax(guide[start:stop])))
    rows = np.array(sorted(keep))
    return tuple(column[rows] for column in columns)


def _render(drawn: Figure) -> str:
    buffer = io.StringIO()
    with style():
        drawn.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True
        )
    return buffer.getvalue()
