"""The page of the reproduction, read as text and opened in a browser."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from recollect import Status
from recollect.report import (
    _reproduction_page,
    reproduction_page,
    save_figure,
    verdicts_json,
    write_reproduction,
)
from recollect.study import Claim, Study, _reproduce, product, reproduce


def parabola(slope):
    return {"y": np.linspace(-1, 1, 50) ** 2 * slope}


def build_study(*, quick):
    claims = (
        Claim("Steep <enough>.", lambda r: float(r.y.max()), 2.0, 0.1, "exact"),
        Claim(
            "Never negative.",
            lambda r: float(r.y.min()),
            1.0,
            0,
            "x",
            "at_least",
            refuted="it is 0",
        ),
        Claim("Unknowable.", lambda r: None, 0, 0, "x"),
    )
    return Study(
        "parabola", parabola, product(slope=[1.0, 2.0]), claims=claims, figure="a curve", paper="A"
    )


def draw(figure, results):
    axes = figure.subplots(1, 2)
    for ax in axes:
        ax.plot(results.y.values.T)
        ax.set(xlabel="x", ylabel="y")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    module = types.ModuleType("a_drawn_entry", "Paper A, Figure 5: steeper <is>\nhigher.\n\nMore.")
    module.build_study, module.draw = build_study, draw  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "a_drawn_entry", module)
        patch.setattr(_reproduce, "ENTRIES", {"parabola": "a_drawn_entry"})
        out = tmp_path_factory.mktemp("reproduction")
        found = reproduce(out=out, quick=True)
        write_reproduction(found, out)
    return found, (out / "index.html").read_text("utf-8")


def test_every_claim_has_a_row_with_its_verdict(done):
    _, page = done
    rows = re.findall(r'<tr class="(\w+)">', page)
    assert rows == ["disagrees", "undecided", "agrees"]
    assert "Steep &lt;enough&gt;." in page
    assert "it is 0" in page
    assert "2 trials" in page
    assert "<figcaption>parabola: steeper &lt;is&gt; higher.</figcaption>" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page), "the page must need nothing else"


def test_numbers_and_curves_of_a_figure_come_with_it(done):
    found, page = done
    links = dict(re.findall(r'download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', page))
    for name, file in (("parabola.csv", "data.csv"), ("parabola.nc", "data.nc")):
        assert base64.b64decode(links[name]) == (found[0].folder / file).read_bytes()


@pytest.mark.parametrize(
    ("paper", "figure", "title"),
    [
        ("A", "11", "Paper A, figure 11"),
        ("B", "7 and 8", "Paper B, figures 7 and 8"),
        ("B", "9 and the learning rates", "Paper B, figure 9 and the learning rates"),
        ("B", "appendix C", "Paper B, appendix C"),
        ("A", "Figure 1b", "Paper A, Figure 1b"),
        ("", "a curve", "A curve"),
        ("Doe 2030", "2", "Doe 2030, figure 2"),
    ],
)
def test_a_figure_is_called_what_it_is(paper, figure, title):
    study = Study("parabola", parabola, product(slope=[1.0]), figure=figure, paper=paper)
    assert _reproduction_page._title(study) == title


def test_the_verdicts_are_one_json_object(done):
    found, _ = done
    record = json.loads(verdicts_json(found))
    assert record["schema"] == "recollect.verdicts"
    assert [v["verdict"] for v in record["verdicts"]] == ["agrees", "disagrees", "undecided"]


def test_the_code_shown_draws_the_figure(done, tmp_path, monkeypatch):
    _, page = done
    match = re.search(r"<pre>(.*?)</pre>", page, re.S)
    assert match
    code = html.unescape(match[1])
    assert len(code.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "a_drawn_entry", sys.modules[__name__])
    monkeypatch.setattr(_reproduce, "ENTRIES", {"parabola": "a_drawn_entry"})
    exec(compile(code, "page", "exec"), {})
    assert (tmp_path / "parabola.svg").stat().st_size > 1000


@pytest.mark.parametrize("width", [1280, 375])
def test_a_browser_shows_every_figure_and_nothing_overflows(done, tmp_path, width):
    _, page = done
    assert measure_in_browser(page, width, tmp_path) == {"figures": 1, "drawn": 1, "overflow": 0}


def measure_in_browser(page, width, folder):
    """Returns how many figures the page has and shows, and by how many pixels it is too wide."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no headless chromium here")
    frame = folder / "frame.html"
    frame.write_text(
        f'<iframe width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
        """<pre id="found"></pre><script>onload = () => {
        const inner = document.querySelector("iframe").contentDocument;
        const figures = [...inner.querySelectorAll("figure svg")];
        const drawn = figures.filter(f => f.getBoundingClientRect().height > 100
            && f.querySelectorAll("path").length > 5 && f.querySelectorAll("text").length > 2);
        const root = inner.documentElement;
        document.getElementById("found").textContent = JSON.stringify({figures: figures.length,
            drawn: drawn.length, overflow: Math.max(0, root.scrollWidth - root.clientWidth)});
        };</script>""",
        encoding="utf-8",
    )
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync --dump-dom"
    finished = subprocess.run(
        [browser, *options.split(), f"--user-data-dir={folder / 'profile'}", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', finished.stdout)
    assert found, finished.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def test_the_page_of_nothing_is_a_page():
    assert reproduction_page(()).startswith("<!doctype html>")


def test_an_entry_without_figure_and_data_says_why(done):
    found, _ = done
    failed = dataclasses.replace(found[0], status=Status("failed", "a damaged <ledger>"))
    page = reproduction_page([failed])
    assert "a damaged &lt;ledger&gt;" in page
    assert "<figure>" not in page


def test_the_command_reads_and_judges_a_folder_once(done, tmp_path, monkeypatch, capsys):
    from recollect import cli

    monkeypatch.setitem(sys.modules, "a_drawn_entry", sys.modules[__name__])
    entries = {"parabola": "a_drawn_entry", "another": "a_drawn_entry"}
    monkeypatch.setattr(_reproduce, "ENTRIES", entries)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "ledger.sqlite").write_bytes(b"no ledger")
    arguments = ["reproduce", "parabola", "--out", str(tmp_path), "--json"]
    with warnings.catch_warnings(record=True) as raw:
        warnings.simplefilter("always")
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
    captured = capsys.readouterr()
    assert ended.value.code == 0
    assert not raw
    assert captured.err.count("another is left out") == 1
    # What is printed is what is written.
    assert json.loads(captured.out) == json.loads((tmp_path / "verdicts.json").read_text("utf-8"))
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--scheduler", "foo"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: scheduler: expected an address")


def test_a_figure_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    drawn = Figure()
    path = tmp_path / "figure.svg"
    save_figure(drawn, str(path))
    before = path.read_bytes()
    assert before.startswith(b"<?xml")

    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        save_figure(drawn, path)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.svg"]
    assert path.read_bytes() == before
