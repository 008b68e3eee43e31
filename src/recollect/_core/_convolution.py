"""The exact convolution of a held signal with a memory kernel."""

from __future__ import annotations

import numpy as np
import scipy.signal

from recollect._core._types import HostReal


def kernel_integrals(step_response: HostReal) -> HostReal:
    """Returns `K_j = ∫_{j dt}^{(j+1)dt} ρ(s) ds` from the step response at lags 0, dt, 2dt, …"""
    return np.diff(step_response, axis=0)


def causal_convolution(integrals: HostReal, signal: HostReal) -> HostReal:
    """Returns `y_k = Σ_{j=0}^{k} K_j x_{k-j}`, in float64 on the host.

    Args:
        integrals: kernel integrals, shape (lag, out, in).
        signal: input, shape (time, in).

    Returns:
        Output, shape (time, out).
    """
    n_time = len(signal)
    integrals = integrals[:n_time]
    output = np.zeros((n_time, integrals.shape[1]))
    for o in range(integrals.shape[1]):
        for i in range(integrals.shape[2]):
            output[:, o] += scipy.signal.oaconvolve(signal[:, i], integrals[:, o, i])[:n_time]
    return output
