"""How far may the weights move: a memory that direct weights lose, and the network that keeps it.

python examples/how_far_may_the_weights_move.py [--quick]
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from recollect import models, stability, targets


def network(width: int, reparam: models.Direct | models.Softplus, readin: str):
    """Returns a network near (1+t)^-3/2: its spectrum by the trapezoid rule in log s."""
    s = np.exp(np.linspace(-1.6 * math.sqrt(width), math.log(2 + 1.5 * math.sqrt(width)), width))
    amplitudes = np.log(s[1] / s[0]) * s**1.5 * np.exp(-s) / math.gamma(1.5)
    share = np.sqrt(amplitudes / (s if readin == "normalised" else 1.0))
    return models.DiagonalRNN(s, share[:, None], share[None], reparam=reparam, readin=readin)


def main(quick: bool = False) -> None:
    """Prints the verdict on three families, and the table of parameterisations of one network."""
    target = targets.PowerLaw(exponent=1.5, scale=1.0)
    widths = (4, 8, 16) if quick else (4, 8, 16, 32, 64)
    radii = np.concatenate([[0.0], np.geomspace(1e-6, 2, 8 if quick else 20)])
    families = (
        ("direct", models.Direct(), "plain"),
        ("softplus, normalised read-in", models.Softplus(), "normalised"),
        ("softplus", models.Softplus(), "plain"),
    )
    for name, reparam, readin in families[: 1 if quick else 3]:
        networks = [network(width, reparam, readin) for width in widths]
        curve = stability.measure_perturbation_error(
            networks, radii, target=target, n_starts=4 if quick else 8, n_steps=16
        )
        found = stability.estimate_stable_radius(curve)
        print(
            f"{name}: {found.verdict}, radii {', '.join(f'{r:.2g}' for r in found.radii)} "
            f"at widths {', '.join(map(str, widths))}; settles with probability "
            f"{found.probability:.2f}"
        )
    table = stability.measure_trade_off(
        network(4 if quick else 16, models.Direct(), "plain"),
        {"direct": models.Direct(), "softplus": models.Softplus()} if quick else None,
        n_steps=400 if quick else 4000,
        readins=("plain",) if quick else ("plain", "normalised"),
        n_starts=2 if quick else 8,
    )
    print("\n".join(table.summary()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="narrow networks, few radii")
    main(parser.parse_args().quick)
