"""Study files, as a user writes them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from recollect.study import Study, load_study


@pytest.fixture
def write_study(tmp_path):
    """Writes a study file and returns its path."""

    def write(body: str, name: str = "a_study.py") -> Path:
        path = tmp_path / name
        path.write_text("from recollect.study import *\n" + textwrap.dedent(body), "utf-8")
        return path

    return write


@pytest.fixture
def make_study(write_study):
    """Writes a study file and returns the study it defines."""

    def make(body: str, name: str = "a_study.py") -> Study:
        return load_study(write_study(body, name))

    return make
