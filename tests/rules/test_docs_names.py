"""Every name of recollect that a page of the documentation mentions is a public name."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
ROOMS = (
    "approximation",
    "convergence",
    "diagnosis",
    "memory",
    "models",
    "report",
    "stability",
    "study",
    "targets",
    "training",
)
# The dotted names of this page are keys of JSON objects, unless they begin with the package.
JSON_PAGES = {"formats.md"}
FILES = {"csv", "html", "json", "md", "nc", "npz", "png", "py", "safetensors", "sqlite", "svg"}
DOTTED = re.compile(rf"(?<![\w./-])((?:recollect|rc)\.)?({'|'.join(ROOMS)})\.([A-Za-z_]\w*)")


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)


def _inline(text: str) -> list[str]:
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return re.findall(r"`([^`\n]+)`", without_blocks)


def _is_public(room: str, name: str) -> bool:
    return name in importlib.import_module(f"recollect.{room}").__all__


def _imported(tree: ast.Module) -> list[tuple[str, str, str]]:
    """Returns (module, name, name here) of what a block imports from recollect."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "recollect":
            found += [(node.module or "", a.name, a.asname or a.name) for a in node.names]
    return found


def test_the_rooms_are_all_there():
    source = DOCS.parent / "src" / "recollect"
    rooms = {path.parent.name for path in source.glob("*/__init__.py")} - {"_core"}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("page", PAGES)
def test_inline_names_are_public(page):
    wrong = []
    for code in _inline((DOCS / page).read_text("utf-8")):
        for package, room, name in DOTTED.findall(code):
            if name in FILES or (page in JSON_PAGES and not package):
                continue
            if not _is_public(room, name):
                wrong.append(f"{room}.{name}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_names_in_python_blocks_are_public(page):
    wrong, rooms_here = [], set()
    for block in _blocks((DOCS / page).read_text("utf-8")):
        tree = ast.parse(block)
        for module, name, here in _imported(tree):
            home = importlib.import_module(module)
            if module == "recollect":
                rooms_here |= {here} & set(ROOMS)
            if name not in home.__all__ and name not in ROOMS:
                wrong.append(f"{module}.{name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                room = node.value.id
                if room in rooms_here and not _is_public(room, node.attr):
                    wrong.append(f"{room}.{node.attr}")
    assert not wrong
