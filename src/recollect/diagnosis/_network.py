"""From a linear network to one that starts where the record starts."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from recollect.models import AffineRNN, LinearRNN, rediscretise


def fit_operating_point(
    network: LinearRNN, inputs: np.ndarray, outputs: np.ndarray, *, dt: float, noise_std: np.ndarray
) -> AffineRNN:
    """Returns the network with offset and initial state fitted to a record.

    Least squares on the record. The initial state has the prior of the states visited under this
    input, so that modes the record says nothing about stay where they are expected to be.

    Args:
        network: the linear network.
        inputs: shape (time, in), without gaps.
        outputs: shape (time, out), NaN where not observed.
        dt: step of the data.
        noise_std: standard deviation of each output's noise, shape (out,).
    """
    stepped = rediscretise(network, dt)
    A, C = np.asarray(stepped.A), np.asarray(stepped.C)
    width, n_outputs = len(A), outputs.shape[1]
    centre = inputs.mean(axis=0)
    at_rest = AffineRNN(network, centre, np.zeros(n_outputs))
    states = np.asarray(at_rest.states(inputs, dt=dt))
    seen = np.isfinite(outputs)
    residual = outputs - states @ C.T
    free = _free_responses(A, C, len(inputs))
    design, target = [], []
    for o in range(n_outputs):
        constant = np.zeros((int(seen[:, o].sum()), n_outputs))
        constant[:, o] = 1.0
        scale = 1 / max(noise_std[o], 1e-12 * float(np.ptp(outputs[seen[:, o], o])))
        design.append(scale * np.concatenate([constant, free[seen[:, o], o]], axis=1))
        target.append(scale * residual[seen[:, o], o])
    visited = states.T @ states / len(states)
    visited += 1e-10 * max(np.trace(visited), 1e-300) / width * np.eye(width)
    whiten = np.linalg.inv(scipy.linalg.cholesky(visited, lower=True))
    penalty = np.concatenate([np.zeros((width, n_outputs)), whiten], axis=1)
    solution = np.linalg.lstsq(
        np.concatenate([*design, penalty]), np.concatenate([*target, np.zeros(width)]), rcond=None
    )[0]
    return AffineRNN(network, centre, solution[:n_outputs], solution[n_outputs:])


def _free_responses(A: np.ndarray, C: np.ndarray, n_samples: int) -> np.ndarray:
    # Row k: C A^{k+1}, what one unit of each initial state adds to the output after k+1 steps.
    responses = np.zeros((n_samples, *C.shape))
    row = C
    for k in range(n_samples):
        row = row @ A
        if np.abs(row).max() < 1e-14 * np.abs(C).max():
            break
        responses[k] = row
    return responses


def settle(network: AffineRNN, value: np.ndarray) -> AffineRNN:
    """Returns the network at rest under a constant input, shape (in,)."""
    linear = network.network
    forcing = np.asarray(linear.B) @ (np.asarray(value) - network.input_offset)
    state = np.linalg.lstsq(np.asarray(linear.A), -forcing, rcond=None)[0]
    return AffineRNN(linear, network.input_offset, network.output_offset, state)
