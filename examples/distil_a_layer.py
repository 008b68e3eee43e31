"""Distil: a trained state-space layer on half its states, and a long convolution on eight."""

from __future__ import annotations

import numpy as np

from recollect import models, training


def main(quick: bool = False) -> None:
    rng = np.random.default_rng(0)
    width = 16 if quick else 64
    start = models.StateSpaceLayer(
        models.initialise_s4d_lin(width, timescale=50.0, key=0),
        rng.standard_normal((1, 1)),
        activation="gelu",
    )
    # A task that needs memory: the mean of the last 20 inputs, through a nonlinearity.
    inputs = rng.standard_normal((4 if quick else 16, 200, 1))
    means = np.stack([np.convolve(x[:, 0], np.ones(20) / 20)[:200] for x in inputs])
    trained = training.train_model(
        start,
        inputs,
        np.maximum(means, 0)[:, :, None],
        dt=1.0,
        key=0,
        n_steps=20 if quick else 300,
        learning_rate=3e-3,
    )
    layer = trained.model
    signal = rng.standard_normal((500, 1))
    print(f"trained layer: error {trained.error:.3g} of the outputs' mean square")
    print("states  norm   error     bound     relative  output changes by")
    exact = np.asarray(layer(signal, dt=1.0))
    for norm in ("l2", "l1") if quick else ("l2", "l1", "linf"):
        small = training.distil(layer, width=width // 2, norm=norm, dt=1.0)
        changed = np.abs(np.asarray(small.model(signal, dt=1.0)) - exact).max()
        print(
            f"{small.width_before}->{small.width}  {norm:<5}  {small.error:.2e}  "
            f"{small.bound:.2e}  {small.relative_error:.2%}  {changed:.2e} "
            f"(at most {small.output_bound * np.abs(signal).max():.2e})"
        )

    found = training.distil(layer, relative_error=0.01, dt=1.0)
    print(f"1 % of the kernel's norm: {found.width} of {width} states")

    lag = np.arange(200 if quick else 2000)
    kernels = np.stack([(1 + lag / 5) ** -1.5, np.exp(-lag / 40) * np.cos(lag / 10)])
    conv = training.distil(kernels, width=8)
    print(
        f"2 kernels of {len(lag)} lags -> {conv.width} states, "
        f"{conv.relative_error:.2%} of their norm (at least "
        f"{conv.bound / conv.stats['kernel_norms']['l2']:.2%})"
    )
    step = models.stream(conv.model, dt=1.0)
    print("streamed:", np.array([step(np.array([x, x])) for x in (1.0, 0.0, 0.0)])[:, 0].round(4))


if __name__ == "__main__":
    main()
