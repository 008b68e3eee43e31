"""Which parameterisation should a recurrent network be trained in, for the memory in these data?

python examples/which_parameterisation.py
"""

from __future__ import annotations

import numpy as np

from recollect import approximation, diagnosis, memory, models, stability, targets


def main(*, quick: bool = False) -> dict[str, diagnosis.ParameterisationAdvice]:
    """Returns the advice for a memory that ends exponentially and for one that does not."""
    n_samples = 2000 if quick else 8000
    kernels = {"e^(-t/5)": "exp(-t/5)", "(1+t)^-1.5": "(1+t)**-1.5"}
    found = {}
    for name, expression in kernels.items():
        rng = np.random.default_rng(0)
        inputs = rng.standard_normal((n_samples, 1))
        outputs = targets.parse_kernel(expression)(inputs, dt=1.0)
        outputs = outputs + 0.05 * outputs.std() * rng.standard_normal(outputs.shape)

        estimate = memory.estimate_kernel(inputs, outputs, dt=1.0)
        law = memory.estimate_law(estimate)
        fit = approximation.fit_estimate(estimate)
        network = fit.networks[fit.recommended - 1]
        advice = diagnosis.recommend_parameterisation(law, network, dt=1.0)

        print(f"memory {name}, measured: {law.law}; network of {network.width} units")
        for sentence in advice.summary():
            print(f"  {sentence}")
        print("  rates, read-in               radius   gradient scale")
        for margin in advice.margins:
            print(f"  {margin.words:26}{margin.radius:9.2g}{margin.gradient_scale:17.3g}")
        found[name] = advice

    # The cure, switched on: the same kernel, other weights.
    slow = models.DiagonalRNN([0.01, 0.1, 1.0], [[0.1], [0.3], [1.0]], [[0.1, 0.3, 1.0]])
    cured = models.reparameterise(slow, models.Exponential(), readin="normalised")
    for radius in (0.005, 0.02):
        before = stability.bound_perturbation_error(slow, radius)
        after = stability.bound_perturbation_error(cured, radius)
        print(
            f"every weight moved by {radius}: kernel moves by {before:.3g} at most, cured {after:.3g}"
        )
    return found


if __name__ == "__main__":
    main()
