"""How wide, how long: what is guaranteed, what is certified for a start, and what is measured.

python examples/budget_for_a_guarantee.py [--quick]
"""

from __future__ import annotations

import argparse

from recollect import convergence


def main(quick: bool = False) -> None:
    """Prints the budget, then bound and risk of runs of growing width."""
    n_samples, horizon, nu, alpha = 8, 5, 0.5, 0.3
    n_steps = 100 if quick else 1000
    budget = convergence.predict_budget(
        0.01, n_samples=n_samples, horizon=horizon, nu_w=nu, nu_u=nu, alpha=alpha
    )
    print(f"a risk of 0.01 is guaranteed by {budget.width} units and {budget.n_steps} steps")
    target = convergence.draw_transport_target(3, nu_w=nu, nu_u=nu, alpha=alpha, seed=1)
    signals = convergence.draw_sequences(n_samples, horizon, 3, seed=0)
    values, _ = target(signals, n_points=1024, n_replicates=4)
    print("width  answer zero  certified  measured")
    for width in (64, 256) if quick else (64, 256, 1024, 4096):
        network = convergence.initialise_paired(width, 3, alpha=alpha, seed=1)
        options = {"n_steps": n_steps, "radius_w": nu, "radius_u": nu}
        bound = convergence.bound_risk_on_data(network, signals, values, **options)
        run = convergence.train_paired(
            network, signals, values, step_size=bound.step_size, **options
        )
        print(f"{width:5d}  {bound.initial_risk:11.4f}  {bound.bound:9.4f}  {run.best_risk:8.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="narrow networks, few steps")
    main(parser.parse_args().quick)
