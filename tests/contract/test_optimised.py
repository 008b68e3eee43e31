"""What holds of quickly compiled programs holds of those that users run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "contract/test_functionals.py",
        "unit/models/test_recurrence.py",
        "unit/stability/test_perturbation.py",
    ],
)
def test_the_default_tests_hold_when_compiled_as_for_users(file):
    command = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(TESTS / file)]
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "XLA_FLAGS": ""},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
