"""What every test may ask for."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import hypothesis
import pytest

# The same examples on every machine: a red run can be repeated.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

# XLA's effort and its newest emitter: a third of the suite's time, spent on programs that then run
# for milliseconds. The second flag is XLA's own, and an unknown one ends the process.
_QUICKLY_COMPILED = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _QUICKLY_COMPILED += " --xla_cpu_use_fusion_emitters=false"

_MEASURED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the default suite quickly; `-m slow` compiles as users do, as any XLA_FLAGS set."""
    if "not slow" in config.option.markexpr:
        os.environ.setdefault("XLA_FLAGS", _QUICKLY_COMPILED)


@pytest.fixture(scope="session")
def measured_data() -> Path:
    """The folder of real measurements, kept beside the checkout and not part of the project."""
    if not (_MEASURED / "MANIFEST.md").exists():
        pytest.skip("the measured data sets (shared/data beside the checkout) are not here")
    return _MEASURED
