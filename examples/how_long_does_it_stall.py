"""How long gradient descent sits on the plateau before it notices a delayed response.

python examples/how_long_does_it_stall.py
"""

from __future__ import annotations

from recollect import targets, training


def main(*, quick: bool = False) -> dict[float, float]:
    """Returns the flow time of the stall for growing delays, and prints it beside what is proved."""
    start = [0.3, 0.7], [1.0, 1.0]
    print("delay  proved longer than   flow time    steps at 0.01   linear forecast")
    found = {}
    for delay in (4.0, 8.0, 12.0) if quick else (4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0):
        bump = targets.Bump(delay=delay, width=1.0, height=1.0)
        loss = training.exact_loss(targets.exponential_sum([1.0], [1.0]) + bump)
        hit = training.measure_hitting_time(loss, *start, delta=0.5, of="parameters")
        proved = training.bound_hitting_time(loss, *start, delta=0.5)
        linear = training.predict_linear_escape(loss, *start, delta=0.5)
        steps = training.predict_steps(hit.value, learning_rate=0.01)
        word = f"{linear.value:.3g}" if linear.is_valid else "outside its region"
        print(f"{delay:5g}  {proved:18.3g}  {hit.value:10.4g}  {steps:15.3g}   {word}")
        found[delay] = hit.value
    stuck = training.measure_hitting_time(loss, [0.5, 0.5], [1.0, 1.0], delta=0.5)
    print(f"two equal units: {stuck.reason}")
    return found


if __name__ == "__main__":
    main()
