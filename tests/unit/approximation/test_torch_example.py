"""The torch recurrence of the example, against the network it was made from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "torch_recurrence.py"


@pytest.mark.peers
def test_a_network_survives_torch_and_a_step_of_training_there():
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("torch_recurrence", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(quick=True) < 1e-12
