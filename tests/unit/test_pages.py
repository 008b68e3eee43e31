"""The Python of every page runs, given what its reader has; every command it shows exists."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main

from recollect.cli import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Run from top to bottom elsewhere.
RECIPES = {"choose.md", "coming-from.md", "concepts.md", "extending.md"}
# What stands in a block that is not run: another machine, another library, a sketch.
NOT_HERE = re.compile(r"SSHCluster|dask_jobqueue|LocalCluster|from_torch|\(\.\.\.|dask\.dataframe")
# More than two seconds of one core.
LONG = {
    "approximation.md",
    "convergence.md",
    "curse-map.md",
    "getting-started.md",
    "nonlinear.md",
    "training.md",
}


def pages():
    for path in sorted(DOCS.glob("*.md")):
        if "```python" in path.read_text("utf-8") and path.name not in RECIPES:
            marks = [pytest.mark.slow] if path.name in LONG else []
            yield pytest.param(path, id=path.name, marks=marks)


def record(n_samples=400):
    inputs = np.random.default_rng(0).standard_normal((n_samples, 1))
    kernel = np.exp(-np.arange(60) / 6.0)
    outputs = np.convolve(inputs[:, 0], kernel)[:n_samples]
    noise = 0.2 * np.random.default_rng(1).standard_normal(n_samples)
    return inputs, (outputs + noise)[:, None]


def readers_things(page: str) -> dict[str, Any]:
    """Returns the names that a page takes for granted."""
    import jax

    from recollect import convergence, models, training

    inputs, outputs = record()
    things: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    linear = models.LinearRNN(np.diag([-0.1, -0.3]), np.ones((2, 1)), np.ones((1, 2)))
    if page == "memory.md":
        things["functional"] = linear
    elif page == "measure.md":
        things.update(model=models.initialise_from_timescales([1.0, 30.0], width=4, key=0))
        things["linear_model"] = models.LinearRNN(
            np.diag([0.9, 0.5]), np.ones((2, 1)), np.ones((1, 2)), dt=1.0
        )
    elif page == "convergence.md":
        target = convergence.draw_transport_target(4, nu_w=0.5, nu_u=0.5, alpha=0.5, seed=0)
        things["signals"] = convergence.draw_sequences(32, 8, 4, seed=0)
        things["targets"], _ = target(things["signals"], n_points=256, n_replicates=4)
    elif page == "nonlinear.md":
        from recollect.diagnosis import Measurements, diagnose

        things.update(jax=jax, training=training, dt=1.0, new_inputs=inputs)
        things["diagnosis"] = diagnose(Measurements(inputs, outputs, dt=1.0, unit="s"))
    elif page == "training.md":
        things["layer"] = models.initialise_from_timescales([1.0, 100.0], width=64, key=0)
    elif page == "targets.md":
        np.savetxt("relaxation.csv", [[0.0, 1.0], [1.0, 0.5]], delimiter=",")
    elif page == "models.md":
        models.save(linear, "model")
    elif page == "formats.md":
        from recollect.models import AffineRNN

        affine = AffineRNN(linear, input_offset=[0.0], output_offset=[1.0], start=[0.0, 0.0])
        models.save(affine, "model")
    return things


@pytest.mark.parametrize("page", list(pages()))
def test_the_python_of_a_page_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    reader = types.ModuleType("a_readers_page")
    monkeypatch.setitem(sys.modules, "a_readers_page", reader)
    reader.__dict__.update(readers_things(page.name))
    for block in blocks:
        if not NOT_HERE.search(block):
            exec(compile(block, page.name, "exec"), reader.__dict__)


def commands(text):
    blocks = re.findall(r"^```(?:sh|text)?\n(.*?)^```", text, re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    return [line for line in lines if line.startswith("recollect ")]


def undeclared(line):
    """Returns the first word of a command line that recollect does not know, or None."""
    command = typer.main.get_command(app)
    for word in shlex.split(line, comments=True)[1:]:
        if word in ("--", "…"):
            break
        if word.startswith("-"):
            known = {opt for option in command.params for opt in (*option.opts, "--help", "-h")}
            if word.partition("=")[0] not in known:
                return word
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return word
            command = command.commands[word]
    return None


@pytest.mark.parametrize(
    "path",
    [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))],
    ids=lambda path: path.name,
)
def test_every_command_on_a_page_exists(path):
    shown = commands(path.read_text("utf-8"))
    unknown = {line: word for line in shown if (word := undeclared(line)) is not None}
    assert not unknown


def test_a_command_that_does_not_exist_is_found():
    assert undeclared("recollect diagnos data.csv") == "diagnos"
    assert undeclared("recollect fit 'exp(-t)' --widht 2") == "--widht"
    assert len(commands((DOCS / "choose.md").read_text("utf-8"))) > 5
