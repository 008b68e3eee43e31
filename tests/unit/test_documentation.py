"""The recipes work when only their text is followed."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("page", ["choose.md", "extending.md"])
def test_a_page_of_recipes_runs_from_top_to_bottom(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.S)
    assert blocks
    # The code stands in a module of its own, as it would in a reader's file.
    reader = types.ModuleType("a_readers_file")
    monkeypatch.setitem(sys.modules, "a_readers_file", reader)
    for block in blocks:
        exec(compile(block, page, "exec"), reader.__dict__)
