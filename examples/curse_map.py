"""Draw where the curse of memory goes: from width to the distance from the stability boundary.

python examples/curse_map.py [--quick] [--out curse-map.svg]
"""

from __future__ import annotations

import argparse

from recollect import approximation, report


def main(quick: bool = False, out: str | None = None) -> approximation.CurseMap:
    """Prints the map as a table and draws it if `out` names a file."""
    exponents = (1.0, 0.5, 0.25) if quick else (1.0, 0.5, 0.25, 0.125, 0.0625)
    errors = (0.1,) if quick else (0.3, 0.1, 0.03, 0.01)
    curse = approximation.measure_curse_map(exponents, errors, max_width=32 if quick else 160)
    print("1/ω   ε      at least  found  suffices  equispaced  theorem   slowest rate")
    for i, exponent in enumerate(curse.exponents):
        for j, error in enumerate(curse.errors):
            print(
                f"{1 / exponent:<5g} {error:<6g} {curse.width_bound_below[i, j]:<9d} "
                f"{curse.width[i, j]:<6d} {curse.width_bound[i, j]:<9d} "
                f"1e{curse.log10_fixed_width[i, j]:<9.1f} 1e{curse.log10_theorem_width[i, j]:<7.1f} "
                f"{curse.slowest_rate[i, j]:.1e}"
            )
    if out:
        report.save_figure(report.draw_curse_map(curse), out)
    return curse


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three exponents, one error")
    parser.add_argument("--out", help="SVG file to write")
    arguments = parser.parse_args()
    main(arguments.quick, arguments.out)
