"""The papers' figures, one file each.

A file defines `build_study(*, quick) -> Study` and `draw(figure, results)`, which fills a matplotlib
figure from the study's results.
"""

ENTRIES: dict[str, str] = {}
