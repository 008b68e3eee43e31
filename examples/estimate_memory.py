"""From a noisy record to a memory kernel with its uncertainty, and to the memory of any model."""

from __future__ import annotations

import numpy as np

from recollect import memory


def main(*, quick: bool = False) -> memory.KernelEstimate:
    """Estimates the kernel of a delayed, leaky system from its response to noise."""
    rng = np.random.default_rng(0)
    n_samples, dt = (1500 if quick else 10_000), 0.5
    inputs = rng.standard_normal(n_samples)
    clean, state = np.zeros(n_samples), 0.0
    for k in range(n_samples):
        state = 0.9 * state + 0.1 * (inputs[k - 20] if k >= 20 else 0.0)
        clean[k] = state
    outputs = 4.0 + clean + 0.1 * clean.std() * rng.standard_normal(n_samples)

    estimate = memory.estimate_kernel(inputs, outputs, dt=dt)
    peak = int(np.argmax(estimate.kernel[:, 0, 0]))
    print(f"explained variance {estimate.explained_variance[0]:.3f}, status {estimate.status}")
    print(
        f"strongest at lag {estimate.lags[peak]:g}: {estimate.kernel[peak, 0, 0]:.3f} "
        f"± {estimate.kernel_stderr[peak, 0, 0]:.3f}"
    )

    profile = memory.measure_memory(np.tanh, dt=dt, horizon=5.0)
    print(
        f"tanh remembers {profile.memory[0, 0] * dt:.2f} of now and {profile.memory[1, 0]:.2f} after"
    )
    return estimate


if __name__ == "__main__":
    main()
