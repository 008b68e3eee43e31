"""What the trainer costs per step beside a loop of jitted optax steps, and beside a compiled scan.

python benchmarks/training_overhead.py
"""

from __future__ import annotations

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from recollect import models, training

N_STEPS, PER_CALL = 1000, 50
CASES = {
    "diagonal, width 8, one record of 100": (
        lambda: models.initialise_from_timescales((0.5, 5.0), width=8, key=0),
        1,
        100,
    ),
    "diagonal, width 16, 8 records of 500": (
        lambda: models.initialise_from_timescales((0.5, 5.0), width=16, key=0),
        8,
        500,
    ),
    "GRU, width 32, 8 records of 200": (
        lambda: models.initialise_gru(32, n_outputs=1, key=0),
        8,
        200,
    ),
}


def loops(model, x, y):
    """Returns a loop of jitted steps, and the same as one compiled scan, both without checks."""
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), model)
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    optimiser = optax.adam(1e-3)

    def step(weights, state):
        def loss(weights):
            network = eqx.combine(weights, static)
            return jnp.mean((jax.vmap(lambda s: network(s, dt=0.1))(x) - y) ** 2)

        value, slope = jax.value_and_grad(loss)(weights)
        update, state = optimiser.update(slope, state, weights)
        return optax.apply_updates(weights, update), state, value

    jitted = jax.jit(step)

    @jax.jit
    def scanned(weights, state):
        def one(carry, _):
            *carry, value = step(*carry)
            return tuple(carry), value

        return jax.lax.scan(one, (weights, state), length=PER_CALL)

    def plain():
        at, state, losses = weights, optimiser.init(weights), []
        for _ in range(N_STEPS):
            *_, value = (at, state, value) = jitted(at, state)
            losses.append(value)
        return np.asarray(jnp.stack(losses))

    def compiled():
        carry, losses = (weights, optimiser.init(weights)), []
        for _ in range(N_STEPS // PER_CALL):
            carry, values = scanned(*carry)
            losses.append(np.asarray(values))
        return np.concatenate(losses)

    return plain, compiled


def best_of(run, n_times=5):
    """Returns the least wall time per step, in microseconds, after a first call that compiles."""
    run()
    taken = []
    for _ in range(n_times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return 1e6 * min(taken) / N_STEPS


def main():
    """Prints microseconds per step and the two ratios."""
    print(f"{'':40}{'optax loop':>12}{'scan':>10}{'trainer':>10}  over loop, over scan")
    for name, (build, n_records, n_samples) in CASES.items():
        rng = np.random.default_rng(0)
        x = rng.standard_normal((n_records, n_samples, 1))
        x /= np.sqrt(np.mean(x**2))
        y = np.cumsum(x, axis=1)
        y /= np.sqrt(np.mean(y**2))
        with jax.enable_x64(True):
            plain, compiled = loops(build(), jnp.asarray(x), jnp.asarray(y))
            times = [best_of(plain), best_of(compiled)]
            wanted = plain()
        model = build()

        def trained(model=model, x=x, y=y):
            return training.train_model(
                model, x, y, key=0, dt=0.1, n_steps=N_STEPS, learning_rate=1e-3,
                steps_per_call=PER_CALL,
            )  # fmt: skip

        times.append(best_of(trained))
        gap = np.max(np.abs(trained().losses / wanted - 1)[:100])
        ratios = times[2] / times[0], times[2] / times[1]
        print(
            f"{name:40}{times[0]:10.0f}us{times[1]:8.0f}us{times[2]:8.0f}us"
            f"  {ratios[0]:.2f}, {ratios[1]:.2f}   (first 100 losses agree to {gap:.1e})"
        )


if __name__ == "__main__":
    main()
