"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

# The same examples on every machine: a red run can be repeated.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

_MEASURED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def measured_data() -> Path:
    """The folder of real measurements, kept beside the checkout and not part of the project."""
    if not (_MEASURED / "MANIFEST.md").exists():
        pytest.skip("the measured data sets (shared/data beside the checkout) are not here")
    return _MEASURED
