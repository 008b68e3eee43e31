"""The memory of torch layers: a GRU, an LSTM, and a transformer layer with its causal mask."""

from __future__ import annotations

import numpy as np

from recollect import memory


def main(*, quick: bool = False) -> dict[str, float]:
    """Measures three torch layers; returns the t95 of each (nothing without torch)."""
    try:
        import torch
    except ModuleNotFoundError:
        print("torch is not installed: nothing to measure")
        return {}
    torch.manual_seed(0)
    width, horizon = (4, 40.0) if quick else (16, 120.0)
    found = {}
    for kind in (torch.nn.GRU, torch.nn.LSTM):
        layer = memory.from_torch(kind(1, width, batch_first=True), n_inputs=1)
        profile = memory.measure_memory(
            layer, dt=1.0, horizon=horizon, settle=horizon, magnitudes=np.geomspace(1e-3, 3, 9)
        )
        found[kind.__name__] = profile.t95
        print(f"{kind.__name__}: t95 {profile.t95:.3g} steps, {memory.estimate_law(profile).law}")

    block = torch.nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
    block = block.double().eval()

    def attend(values: torch.Tensor) -> torch.Tensor:
        mask = torch.nn.Transformer.generate_square_subsequent_mask(values.shape[1])
        return block(values, src_mask=mask.double())

    layer = memory.from_torch(attend, n_inputs=width)
    spread = memory.measure_memory_map(
        layer, dt=1.0, horizon=horizon, n_starts=3, magnitudes=[0.1, 1.0]
    )
    largest = spread.memory.max(axis=(0, 2))
    print(f"transformer: {largest[-1] / largest[1]:.2g} of its memory is left at lag {horizon:g}")
    print(f"  by when the input came it differs by {spread.spread:.0%}: not time-homogeneous")
    found["transformer"] = float(largest[-1] / largest[1])
    return found


if __name__ == "__main__":
    main()
