"""The compiled steps of the trainer: one program per kind of run, whoever runs it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

# A loss this many times the first one (or the outputs' power) will not come back.
DIVERGED = 1e6


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a program is compiled for: everything about a run but its numbers.

    Attributes:
        names: of the trained weights, in the order of the model's leaves.
        is_complex: which of them are (they travel with a last axis of real and imaginary part).
        structure: of the trained weights in the model.
        rest: the model's other leaves that are no arrays, and their structure.
        optimiser: an optax transformation with extra arguments.
        schedule: learning rate at a step; None if `rate` is passed or the optimiser has its own.
        is_scaled: the optimiser gives a direction, to be multiplied with minus the learning rate.
        dt: sampling step.
        size: records or windows in a batch; None for all of them, undrawn.
        window: samples in a window; None for whole records.
        n_steps: steps per call.
        sharding: of a batch over devices; None on one.
    """

    names: tuple[str, ...]
    is_complex: tuple[bool, ...]
    structure: Any
    rest: tuple[tuple[Any, ...], Any]
    optimiser: Any
    schedule: Callable[[Any], Any] | None
    is_scaled: bool
    dt: float
    size: int | None
    window: int | None
    n_steps: int
    sharding: Any

    def combine(self, params: dict[str, Any], constants: Any) -> Any:
        """Returns the model with these weights."""
        leaves = [
            _join(params[name]) if is_complex else params[name]
            for name, is_complex in zip(self.names, self.is_complex, strict=True)
        ]
        leaves, structure = jax.tree.unflatten(self.structure, leaves), self.rest[1]
        return eqx.combine(leaves, constants, jax.tree.unflatten(structure, self.rest[0]))


def separate(model: Any, is_trained: Any) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Returns the trained weights by name, the constant arrays, and the model's part of a plan."""
    weights, other = eqx.partition(model, is_trained)
    constants, rest = eqx.partition(other, eqx.is_array)
    named, structure = jax.tree_util.tree_flatten_with_path(weights)
    leaves, rest_structure = jax.tree.flatten(rest)
    names = tuple(jax.tree_util.keystr(path).lstrip(".") for path, _ in named)
    params = {name: split(leaf) for name, (_, leaf) in zip(names, named, strict=True)}
    plan = {
        "names": names,
        "is_complex": tuple(np.iscomplexobj(leaf) for _, leaf in named),
        "structure": structure,
        "rest": (tuple(leaves), rest_structure),
    }
    return params, constants, plan


@functools.partial(jax.jit, static_argnames="plan")
def advance(
    plan: Plan,
    params: Any,
    state: Any,
    constants: Any,
    records: Any,
    key: Any,
    rate: Any,
    first: Any,
    last: Any,
    limit: Any,
) -> Any:
    """Takes the steps from `first` to `last`, at most `plan.n_steps`, as long as they are good.

    Returns:
        Weights and state after the last good step; per step its loss and whether it was good.
    """
    real = records[0].dtype

    def take(params: Any, state: Any, step: Any, limit: Any) -> Any:
        batch = draw(plan, records, key, step)
        loss, slope = jax.value_and_grad(loss_of, argnums=1)(plan, params, constants, batch)
        limit = jnp.where(step == 0, DIVERGED * jnp.maximum(loss, 1.0), limit)
        update, new_state = move(plan, slope, state, params, rate, step, loss, (constants, batch))
        new = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, update)
        is_good = jnp.isfinite(loss) & (loss <= limit)
        for leaf in jax.tree.leaves((slope, new)):
            is_good &= jnp.all(jnp.isfinite(leaf))
        keep = lambda a, b: jnp.where(is_good, a, b)  # noqa: E731
        params, state = jax.tree.map(keep, new, params), jax.tree.map(keep, new_state, state)
        return params, state, loss, limit, is_good

    def skip(params: Any, state: Any, step: Any, limit: Any) -> Any:
        return params, state, jnp.zeros((), real), limit, jnp.array(True)

    def one(carry: Any, step: Any) -> Any:
        params, state, limit, is_running = carry
        params, state, loss, limit, is_good = jax.lax.cond(
            is_running & (step < last), take, skip, params, state, step, limit
        )
        return (params, state, limit, is_running & is_good), (loss, is_good)

    steps = first + jnp.arange(plan.n_steps)
    start = (params, state, jnp.asarray(limit, real), jnp.array(True))
    (params, state, _, _), path = jax.lax.scan(one, start, steps)
    return (params, state), path


@functools.partial(jax.jit, static_argnames="plan")
def differentiate(plan: Plan, params: Any, constants: Any, batch: Any) -> Any:
    """Returns loss and gradient on a batch."""
    return jax.value_and_grad(loss_of, argnums=1)(plan, params, constants, batch)


@functools.partial(jax.jit, static_argnames="plan")
def evaluate_loss(plan: Plan, params: Any, constants: Any, batch: Any) -> Any:
    """Returns the loss on a batch."""
    return loss_of(plan, params, constants, batch)


@functools.partial(jax.jit, static_argnames="plan")
def draw_batch(plan: Plan, records: Any, key: Any, step: Any) -> Any:
    """Returns inputs, outputs and weights of a step's batch."""
    return draw(plan, records, key, step)


def draw(plan: Plan, records: Any, key: Any, step: Any) -> Any:
    """Returns inputs, outputs and weights of a step's batch, by key and step alone."""
    x, y, count, lengths, weights = records
    if plan.size is None:
        return x, y, count
    place = jax.random.fold_in(key, step)
    if plan.window is None:
        chosen = jax.random.choice(place, len(lengths), (plan.size,), replace=False)
        batch = x[chosen], y[chosen], count[chosen]
    else:
        # Long records are drawn as often as they have windows.
        ends = jnp.cumsum(lengths - plan.window + 1)
        ticket = jax.random.randint(place, (plan.size,), 0, ends[-1], ends.dtype)
        chosen = jnp.searchsorted(ends, ticket, side="right").astype(ends.dtype)
        begin = ticket - (ends[chosen] - (lengths[chosen] - plan.window + 1))

        def cut(signal: Any, record: Any, first: Any) -> Any:
            shape = (1, plan.window, signal.shape[-1])
            return jax.lax.dynamic_slice(signal, (record, first, record * 0), shape)[0]

        cut = jax.vmap(cut, in_axes=(None, 0, 0))
        counts = jnp.broadcast_to(weights, (plan.size, plan.window))
        batch = cut(x, chosen, begin), cut(y, chosen, begin), counts
    if plan.sharding is not None:
        batch = jax.lax.with_sharding_constraint(batch, plan.sharding)
    return batch


def loss_of(plan: Plan, params: Any, constants: Any, batch: Any) -> Any:
    """Returns the weighted mean square error on a batch."""
    x, y, count = batch
    network = plan.combine(params, constants)
    predicted = jax.vmap(lambda signal: network(signal, dt=plan.dt))(x)
    # Padding may hold anything, even infinities, and must not reach the sum.
    gap = jnp.where(count[..., None] > 0, predicted - y, 0.0)
    return jnp.sum(count * jnp.mean(gap**2, axis=-1)) / jnp.sum(count)


def move(
    plan: Plan, slope: Any, state: Any, params: Any, rate: Any, step: Any, loss: Any, of: Any
) -> Any:
    """Returns the optimiser's update and its new state."""
    update, state = plan.optimiser.update(
        slope,
        state,
        params,
        value=loss,
        grad=slope,
        value_fn=lambda trial: loss_of(plan, trial, *of),
    )
    if plan.is_scaled:
        rate = rate if plan.schedule is None else plan.schedule(step)
        update = jax.tree.map(lambda u: -jnp.asarray(rate, u.dtype) * u, update)
    return update, state


def split(leaf: Any) -> Any:
    """Returns a complex array as a real one with a last axis of length two, a real one as it is."""
    return np.stack([leaf.real, leaf.imag], axis=-1) if np.iscomplexobj(leaf) else leaf


def _join(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        kind = np.result_type(leaf.dtype, np.complex64)
        return np.ascontiguousarray(leaf).view(kind)[..., 0]
    return jax.lax.complex(leaf[..., 0], leaf[..., 1])
