"""The recipes work when only their text is followed."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
# A block that imports one of these shows the other library's side of a comparison.
PEER = re.compile(r"^import (torch|qutip|pyvisco|pastas)$", re.M)
# Those that the tests with peers do not install.
ABSENT = {"pyvisco", "pastas"}


def run(page, wanted, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.S)
    assert blocks
    # The code stands in a module of its own, as it would in a reader's file.
    reader = types.ModuleType("a_readers_file")
    monkeypatch.setitem(sys.modules, "a_readers_file", reader)
    for block in blocks:
        # A block that begins with the name of a file is that file, and nothing else.
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block, "utf-8")
        if wanted(set(PEER.findall(block))):
            exec(compile(block, page, "exec"), reader.__dict__)


@pytest.mark.parametrize("page", ["choose.md", "coming-from.md", "concepts.md", "extending.md"])
def test_a_page_of_recipes_runs_from_top_to_bottom(page, monkeypatch, tmp_path):
    run(page, lambda peers: not peers, monkeypatch, tmp_path)


@pytest.mark.peers
def test_the_other_side_of_each_comparison_runs(monkeypatch, tmp_path):
    for peer in ("torch", "qutip"):
        pytest.importorskip(peer)
    run("coming-from.md", lambda peers: not peers & ABSENT, monkeypatch, tmp_path)
