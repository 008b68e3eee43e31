"""Where learning ends on a line of critical points, and where it passes: two units, any target.

python examples/landscape_of_two_units.py [TARGET] [--quick] [--out landscape.svg]
"""

from __future__ import annotations

import argparse

import numpy as np

from recollect import targets, training


def main(
    target: str = "exp(-t)+exp(-3*t)", quick: bool = False, out: str | None = None
) -> training.TwoUnitLine:
    """Prints the line's points with their kinds, the counts for wider networks, and draws."""
    kernel = targets.parse_kernel(target)
    loss = training.exact_loss(kernel)
    line = training.predict_two_unit_line(kernel)
    print(f"best single exponential of {target}: {line.amplitude:.6g} exp(-{line.rate:.6g} t)")
    print(f"B = {line.bend:.3g}: the stable points lie {line.stable} the segment 0 < a1 < ã\n")
    print("a1/ã    kind     gradient   eigenvalues")
    for share in (-0.5, 0.0, 0.3, 0.5) if quick else (-1.0, -0.5, -0.1, 0.0, 0.1, 0.3, 0.5):
        a = np.array([share, 1 - share]) * line.amplitude
        found = training.classify_point(loss, a, [line.rate] * 2)
        values = "  ".join(f"{v:9.2e}" for v in found.curvature)
        print(f"{share:<7g} {found.kind:<8} {found.gradient_norm:.1e}    {values}")
    print("\nunits   global minima   critical spaces, at least")
    for width in (2, 3, 5, 8):
        counts = training.count_critical_spaces(width)
        print(f"{width:<7d} {counts.minima:<15d} {counts.total}")
    if out:
        _draw(loss, line, out)
    return line


def _draw(loss: training.ExactLoss, line: training.TwoUnitLine, out: str) -> None:
    import matplotlib.pyplot as plt

    shares, gaps = np.linspace(-1, 2, 121), np.linspace(-0.75, 0.75, 121)
    values = training.measure_plane(
        loss,
        [0.0, line.amplitude],
        [line.rate] * 2,
        [
            [line.amplitude, -line.amplitude, 0.0, 0.0],
            [0.0, 0.0, line.rate, -line.rate],
        ],
        shares,
        gaps,
    )
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    levels = np.geomspace(max(np.nanmin(values), 1e-5), np.nanmax(values), 24)
    axes.contour(shares, gaps, values, levels=levels, linewidths=0.6)
    for share in (-0.5, 0.2, 0.5, 0.8, 1.5):
        path = training.solve_flow(
            loss,
            np.array([share, 1 - share]) * line.amplitude,
            line.rate * np.array([1.02, 0.98]),
        )
        a, w = path.weights[:, 0], path.weights[:, 2:]
        axes.plot(a / line.amplitude, (w[:, 0] - w[:, 1]) / (2 * line.rate), color="C3")
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set(xlabel="a₁/ã", ylabel="(w₁ - w₂)/2w̃")
    figure.savefig(out)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", default="exp(-t)+exp(-3*t)", help="kernel in t")
    parser.add_argument("--quick", action="store_true", help="fewer points")
    parser.add_argument("--out", help="SVG file to write")
    arguments = parser.parse_args()
    main(arguments.target, arguments.quick, arguments.out)
