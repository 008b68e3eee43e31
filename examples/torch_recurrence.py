"""A fitted memory as a PyTorch recurrence, trained there, and read back as a network."""

from __future__ import annotations

import numpy as np

from recollect import approximation, models, targets


def main(*, quick: bool = False) -> float:
    """Returns the largest difference between the network here and its copy in torch."""
    kernel = targets.PowerLaw(exponent=1.5, scale=4.0)
    width, n_time = (4, 64) if quick else (8, 512)
    fit = approximation.fit_exponential_sum(kernel, width=width, norm="l1")
    network = approximation.change_step(fit.model, dt=1.0)
    try:
        import torch
    except ModuleNotFoundError:
        print("torch is not installed: nothing to compare with")
        return 0.0

    class Recurrence(torch.nn.Module):
        """`h' = A h + B x`, `y = C h'`: the convention of `LinearRNN` in discrete time."""

        def __init__(self, arrays):
            super().__init__()
            for name in "ABC":
                value = torch.nn.Parameter(torch.tensor(arrays[name], dtype=torch.float64))
                self.register_parameter(name, value)

        def forward(self, signal):
            state, outputs = torch.zeros(len(self.A), dtype=torch.float64), []
            for sample in signal:
                state = self.A @ state + self.B @ sample
                outputs.append(self.C @ state)
            return torch.stack(outputs)

    layer = Recurrence(approximation.export_arrays(network))
    signal = np.random.default_rng(0).standard_normal((n_time, 1))
    with torch.no_grad():
        there = layer(torch.tensor(signal)).numpy()
    integrals = np.diff(kernel.step_response(np.arange(n_time + 1.0))[:, 0, 0])
    exact = np.convolve(signal[:, 0], integrals)[:n_time]
    print(f"width {width}: the torch layer is within {np.max(np.abs(there[:, 0] - exact)):.2g}")
    print(f"of the exact memory (bound: {fit.errors['l1'] * np.abs(signal).max():.2g})")

    # One step of training in torch, then back: parameters are plain arrays on both sides.
    loss = torch.mean((layer(torch.tensor(signal))[:, 0] - torch.tensor(exact)) ** 2)
    loss.backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter -= 1e-3 * parameter.grad
        there = layer(torch.tensor(signal)).numpy()
    back = models.LinearRNN(*(getattr(layer, n).detach().numpy() for n in "ABC"), dt=1.0)
    weights = back.kernel(np.arange(n_time))[:, 0, 0]
    here = np.convolve(signal[:, 0], weights)[:n_time]
    difference = float(np.max(np.abs(there[:, 0] - here)))
    print(f"after a step of training, read back: the same to {difference:.1g}")
    return difference


if __name__ == "__main__":
    main()
