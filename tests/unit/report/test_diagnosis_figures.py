"""What the figures of a diagnosis show, read off the curves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from recollect import models
from recollect.report import _diagnosis_figures


def test_a_network_equal_to_the_estimate_lies_on_its_curve():
    # Steps as long as the memory: a kernel drawn at bin ends would stand half a bin beside it.
    network = models.LinearRNN([[-0.7]], [[1.0]], [[1.0]])
    edges = np.array([0.0, 1.0, 2.0, 3.0, 5.0, 8.0])
    averages = np.diff(np.asarray(network.step_response(edges)), axis=0)
    averages /= np.diff(edges)[:, None, None]
    law = SimpleNamespace(t50=SimpleNamespace(value=1.0), t95=SimpleNamespace(value=np.inf))
    diagnosis: Any = SimpleNamespace(
        measurements=SimpleNamespace(input_names=("x",), output_names=("y",), unit="s"),
        kernel=SimpleNamespace(
            kernel=averages, kernel_stderr=0 * averages, lags=edges[:-1], edges=edges
        ),
        network=SimpleNamespace(network=network),
        width=1,
        laws=(law,),
    )
    axis = _diagnosis_figures.draw_memory(diagnosis).axes[0]
    estimate, fitted = axis.get_lines()[:2]
    np.testing.assert_allclose(fitted.get_xydata(), estimate.get_xydata(), rtol=1e-12)
    np.testing.assert_array_equal(estimate.get_xdata(), [0.5, 1.5, 2.5, 4.0, 6.5])
