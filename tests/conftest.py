"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

_MEASURED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def measured_data() -> Path:
    """The folder of real measurements, kept beside the checkout and not part of the project."""
    if not (_MEASURED / "MANIFEST.md").exists():
        pytest.skip("the measured data sets (shared/data beside the checkout) are not here")
    return _MEASURED
