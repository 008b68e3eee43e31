"""A study from start to end: which width does each decay rate need?

Run it twice: the second run finds everything in the ledger. From a shell the same study is
`recollect study run examples/study_memory_and_width.py --workers 2`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from recollect.study import Claim, Study, judge, product, run, to_xarray


def fit(exponent: float, width: int) -> dict:
    """One trial: the L2 error of a power-law memory fitted by a network of some width."""
    from recollect import approximation, targets

    kernel = targets.PowerLaw(exponent=exponent, scale=1.0)
    found = approximation.fit_exponential_sum(kernel, width=width, norm="l2")
    return {"error": found.error, "slowest_rate": found.slowest_rate, "status": found.status}


study = Study(
    name="memory-and-width",
    function=fit,
    grid=product(exponent=[1.5, 2.0, 3.0], width=[1, 2, 4]),
    units={"error": "1", "slowest_rate": "1"},
    claims=[
        Claim(
            "The slower the decay, the closer the network is to the stability boundary.",
            measure=lambda r: float(
                (r.slowest_rate.sel(exponent=1.5) / r.slowest_rate.sel(exponent=3.0)).max()
            ),
            expected=1.0,
            tolerance=0.0,
            reason="a strict order: below one at every width",
            relation="at_most",
        )
    ],
)


def main(quick: bool = False) -> None:
    """Runs the study in a temporary folder and prints what it found."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "memory.sqlite"
        first = run(study, ledger, n_workers=0 if quick else 2)
        again = run(study, ledger)
        print(f"first run: {first.n_run} trials, second run: {again.n_run}")
        print(to_xarray(ledger).error.to_pandas())
        for verdict in judge(study, ledger):
            print(f"{verdict.verdict}: {verdict.claim} (measured {verdict.measured:.3g})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run in this process")
    main(parser.parse_args().quick)
