"""Every example runs, small, and is named on a page; the README's Python does what it says."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# More than five seconds of one core each.
LONG = (
    "how_far_may_the_weights_move",
    "memory_of_a_gru",
    "nonlinear_system",
    "which_parameterisation",
)
# Run, and its drawing read, beside the tests of what it draws.
ELSEWHERE = ("curse_map",)
EXAMPLES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else [])
    for path in sorted((ROOT / "examples").glob("*.py"))
    if path.stem not in ELSEWHERE
]


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_runs(path, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "quick" in inspect.signature(module.main).parameters
    module.main(quick=True)
    assert capsys.readouterr().out.strip(), "an example shows what it found"


def test_every_example_is_named_on_a_page():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    named = set(re.findall(r"examples/(\w+)\.py", text))
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} <= named


def test_the_readme_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    exec(compile(code, "README.md", "exec"), {})
    law, *_ = capsys.readouterr().out.split()
    assert law == "exponential"
