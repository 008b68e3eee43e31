"""Paper B, figures 5 and 6, on a task that can be had: what training does to a network's memory.

The paper measures sentiment models on film reviews. Here the sentiment is made: each word has a
valence of -1 or 1, and the mood after each word is the mean valence of the last `span` words.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recollect.study._claims import Claim
from recollect.study._grid import product
from recollect.study._study import Study

_WIDTH = 16
_N_WORDS = 64
_BATCH = 32
_SETTLE = 512.0


def train(kind: str, span: int, n_steps: int, horizon: int, seed: int) -> dict[str, Any]:
    """Returns the memory of a network before and after it learnt the mood over `span` words."""
    from recollect import memory, models

    start = {"gru": models.initialise_gru, "lstm": models.initialise_lstm}[kind]
    before = start(_WIDTH, n_outputs=1, key=seed)
    after, loss, variance = _trained(before, span, n_steps, seed)
    found = {}
    for name, model in (("before", before), ("after", after)):
        profile = memory.measure_memory(
            model,
            dt=1.0,
            horizon=float(horizon),
            settle=_SETTLE,
            magnitudes=[0.01, 0.1, 1.0],
            n_restarts=1,
        )
        found[f"memory_{name}"] = profile.memory[:, 0]
        found[f"t95_{name}"] = profile.t95
        found[f"tail_{name}"] = _tail(profile.lags, profile.memory[:, 0])
        found[f"margin_{name}"] = _margin(model)
    return {**found, "unexplained": loss / variance}


def _trained(model: Any, span: int, n_steps: int, seed: int) -> tuple[Any, float, float]:
    import jax
    import jax.numpy as jnp
    import optax

    rng = np.random.default_rng(seed)
    words = rng.choice([-1.0, 1.0], size=(n_steps + 4, _BATCH, _N_WORDS)).astype(np.float32)
    sums = np.cumsum(np.concatenate([np.zeros_like(words[..., :1]), words], axis=2), axis=2)
    early = np.maximum(np.arange(1, _N_WORDS + 1) - span, 0)
    mood = (sums[..., 1:] - sums[..., early]) / span
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), model)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.02, n_steps))
    )

    def misfit(model: Any, batch: Any) -> Any:
        said = jax.vmap(lambda w: model(w[:, None], dt=1.0)[:, 0])(batch[0])
        return jnp.mean((said - batch[1]) ** 2)

    def step(carry: Any, batch: Any) -> Any:
        model, state = carry
        loss, slopes = jax.value_and_grad(misfit)(model, batch)
        change, state = optimiser.update(slopes, state, model)
        return (optax.apply_updates(model, change), state), loss

    seen = (words[:n_steps], mood[:n_steps])
    (model, _), _ = jax.jit(lambda m: jax.lax.scan(step, (m, optimiser.init(m)), seen))(model)
    kept = (words[n_steps:].reshape(-1, _N_WORDS), mood[n_steps:].reshape(-1, _N_WORDS))
    loss = float(jax.jit(misfit)(model, kept))
    return jax.tree.map(lambda w: np.asarray(w, np.float64), model), loss, float(kept[1].var())


def _margin(model: Any) -> float:
    """Returns `1 - max |multiplier|` of one step where silence leads: negative if unstable."""
    import jax
    from jax.flatten_util import ravel_pytree

    from recollect._core._precision import in_float64

    def derivative(model: Any) -> Any:
        start, unravel = ravel_pytree(model.initial_state())

        def step(flat: Any) -> Any:
            return ravel_pytree(model.step(unravel(flat), np.zeros(1), dt=1.0))[0]

        # Newton's method: an unstable rest is not reached by waiting.
        def towards(_: int, flat: Any) -> Any:
            slope = jax.jacfwd(step)(flat) - np.eye(len(flat))
            return flat - jax.numpy.linalg.solve(slope, step(flat) - flat)

        rest = jax.lax.fori_loop(0, 64, lambda _, flat: step(flat), start)
        return jax.jacfwd(step)(jax.lax.fori_loop(0, 20, towards, rest))

    matrix = np.asarray(in_float64(jax.jit(derivative))(model))
    return float(1 - np.abs(np.linalg.eigvals(matrix)).max()) if np.isfinite(matrix).all() else 0.0


def _tail(lags: np.ndarray, size: np.ndarray) -> float:
    """Returns the correlation of lag and log memory between 1e-2 and 1e-10 of the largest."""
    envelope = np.maximum.accumulate(size[::-1])[::-1] / size.max()
    usable = (envelope < 1e-2) & (envelope > 1e-10)
    if usable.sum() < 4:
        return 0.0
    return float(np.corrcoef(lags[usable], np.log(envelope[usable]))[0, 1])


def build_study(*, quick: bool) -> Study:
    """Returns the study; `quick` trains two networks for 400 steps, in full forty for 1500."""
    return Study(
        name="trained-memory",
        function=train,
        grid=product(
            kind=["gru"] if quick else ["gru", "lstm"],
            span=[2, 32] if quick else [2, 8, 16, 32],
            n_steps=[400 if quick else 1500],
            horizon=[512 if quick else 2048],
        ),
        seeds=1 if quick else 5,
        dimensions={"memory_before": ("lag",), "memory_after": ("lag",)},
        units={
            "memory_before": "1/step",
            "memory_after": "1/step",
            "t95_before": "step",
            "t95_after": "step",
            "margin_before": "1/step",
            "margin_after": "1/step",
            "tail_before": "1",
            "tail_after": "1",
            "unexplained": "1",
            "span": "step",
            "n_steps": "1",
            "horizon": "step",
        },
        figure="5 and 6, on another task",
        paper="B",
        claims=(
            Claim(
                "The networks learn the task (share of the variance left, worst median).",
                lambda r: float(_median(r.unexplained).max()),
                expected=0.5,
                tolerance=0.0,
                reason="a network that explains less than half has not been trained; its memory says "
                "nothing about training",
                relation="at_most",
            ),
            Claim(
                "Memory follows the task: t95 of the longest span over that of the shortest.",
                lambda r: float(
                    (_median(r.t95_after).isel(span=-1) / _median(r.t95_after).isel(span=0)).min()
                ),
                expected=2.0,
                tolerance=0.0,
                reason="the spans differ by eight and more; a network may spread what it keeps",
                relation="at_least",
            ),
            Claim(
                "It is not cut where the task ends: t95 of the longest span over that span, worst kind.",
                lambda r: float((_median(r.t95_after).isel(span=-1) / r.span.isel(span=-1)).min()),
                expected=1.0,
                tolerance=0.0,
                reason="a sharp end needs many units; sixteen leave a tail, and nothing in the task "
                "punishes what is kept beyond the words of a training sequence",
                relation="at_least",
            ),
            Claim(
                "Remembering for longer moves the state at rest to the stability boundary: its margin at "
                "the longest span over that at the shortest, worst kind.",
                lambda r: float(
                    (
                        _median(r.margin_after).isel(span=-1) / _median(r.margin_after).isel(span=0)
                    ).max()
                ),
                expected=0.5,
                tolerance=0.0,
                reason="a slowest rate of 1/span is all the task needs; beyond the boundary the "
                "network moves by itself, which sequences of 64 words do not punish",
                relation="at_most",
            ),
            Claim(
                "Networks with a stable rest forget exponentially in the end (correlation of lag and "
                "log memory in the tail, median over those with a margin of a hundredth).",
                _stable_tail,
                expected=-0.9,
                tolerance=0.05,
                reason="an exponential with slowly settling oscillation correlates at -0.95 and beyond; "
                "a power law over the same lags at about -0.8",
                relation="at_most",
            ),
        ),
    )


def draw(figure: Any, results: Any) -> None:
    """Fills a figure: memory before and after training for each span, and t95 against the span."""
    kinds = list(results.kind.values)
    panels = figure.subplots(1, len(kinds) + 1)
    for panel, kind in zip(panels, kinds, strict=False):
        of = results.sel(kind=kind)
        start = _median(of.memory_before).isel(span=0).values.squeeze()
        lags = np.arange(len(start)) + 0.5
        panel.loglog(lags, _visible(start), color="gray", linewidth=1, label="untrained")
        for span in of.span.values:
            after = _median(of.memory_after.sel(span=span)).values.squeeze()
            panel.loglog(lags, _visible(after), linewidth=1.2, label=f"span {span}")
        panel.set(xlabel="lag (words)", ylim=(1e-10, 1), title=kind)
        panel.legend(frameon=False, fontsize="x-small")
        panel.axvline(_N_WORDS, color="gray", linewidth=0.8, linestyle=":")
    panels[0].set_ylabel("memory")
    for kind in kinds:
        of = results.sel(kind=kind)
        spans = of.span.values
        panels[-1].loglog(spans, _median(of.t95_after).values.squeeze(), marker="o", label=kind)
    panels[-1].loglog(spans, 0.95 * spans, color="gray", linewidth=0.8, label="the task's")
    panels[-1].axhline(_N_WORDS, color="gray", linewidth=0.8, linestyle=":")
    panels[-1].set_xticks(spans, [str(span) for span in spans])
    panels[-1].minorticks_off()
    panels[-1].set(xlabel="span (words)", ylabel="t95 (words)")
    panels[-1].legend(frameon=False, fontsize="x-small")


def _stable_tail(results: Any) -> float | None:
    tails = [
        tail
        for name in ("before", "after")
        for tail, margin in zip(
            results[f"tail_{name}"].values.ravel(),
            results[f"margin_{name}"].values.ravel(),
            strict=True,
        )
        if margin > 0.01
    ]
    return float(np.median(tails)) if tails else None


def _visible(size: np.ndarray) -> np.ndarray:
    return np.where(size > 0, size, math.nan)


def _median(values: Any) -> Any:
    return values.median("seed") if "seed" in values.dims else values
