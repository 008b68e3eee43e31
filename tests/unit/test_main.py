"""`python -m recollect`."""

from __future__ import annotations

import runpy
import sys

import pytest


def test_the_package_runs_as_the_command_does(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recollect", "--version"])
    monkeypatch.delitem(sys.modules, "recollect.__main__", raising=False)
    with pytest.raises(SystemExit) as done:
        runpy.run_module("recollect", run_name="__main__")
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("recollect ")
