"""Past the plateau: time and steps to 1.1 x the best error a width allows, ours against descent.

    python -m benchmarks.stall [--quick] [--out FILE.json] [--budget SECONDS]

One row per target, input and width, written to FILE.json as it is done; run again, it goes on with
the rows that are missing. Times are wall times of one process, the learning rate's search left out;
a clock starts after compilation, which is printed apart. Descent on the paths is run on their exact
quadratic form, which takes the same steps as simulating every path at a small part of the cost
(`sim` is what those steps take simulated: their number times the measured time of one).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from recollect.approximation._discrete import fit_discrete
from recollect.study.catalogue import _stall_runs as runs

TARGETS = [f"bump {d}" for d in (2, 4, 8, 16, 32)] + [f"power {p}" for p in (1.1, 1.5, 2)]
INPUTS = ["white", "coloured"]
WIDTHS = [16, 32]
ADAM_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
GD_RATES = (3e-3, 1e-2, 3e-2, 0.1)
GRU_RATES = (3e-3, 1e-2, 3e-2)
METHODS = ["gradient descent", "direct", "softplus", "lru", "s4d", "gru"]
_SLACK = 1.1
_EASY = 0.1


def _ours(race: runs.Race, width: int) -> dict[str, Any]:
    first = runs.run_ours(race, width)
    began, again = time.process_time(), []
    while len(again) < 3:
        again.append(runs.run_ours(race, width))
    # One thread: what it would take with a core of its own.
    processor = (time.process_time() - began) / len(again)
    median = sorted(again, key=lambda run: run["seconds"])[1]
    start_up = max(0.0, first["seconds"] - median["seconds"])
    return median | {"start_up": start_up, "processor": processor}


def _competitor(race: runs.Race, width: int, method: str, **limits: Any) -> dict[str, Any] | None:
    if method == "gru":
        return runs.run_gru(race, width, rates=GRU_RATES, **limits)
    if method == "gradient descent":
        return runs.run_descent(
            race, width, "direct", optimiser="gradient_descent", rates=GD_RATES, **limits
        )
    return runs.run_descent(race, width, method, rates=ADAM_RATES, **limits)


def _thin(curve: list[Any]) -> list[Any]:
    keep = np.unique(np.geomspace(1, max(len(curve), 1), 40).astype(int)) - 1
    return [curve[i] for i in keep if i < len(curve)]


def _row(target: str, inputs: str, width: int, *, tune: float, budget: float, reach: float):
    race = runs.build_race(target, inputs)
    ours = _ours(race, width)
    # With a start that our own run never sees.
    other = fit_discrete(race.kernel, width=width, dt=race.dt, ends=False).rates
    best = runs.find_best(race, width, ours.pop("poles"), runs.DiscretePoles.of(other))
    bar = _SLACK * best
    row: dict[str, Any] = {
        "target": target,
        "inputs": inputs,
        "width": width,
        "n_time": race.n_time,
        "memory": race.memory,
        "best": best,
        "bar": bar,
        "ours": ours | {"is_reached": ours["error"] <= bar},
        "seconds_per_simulated_step": runs.time_simulation(race, width),
    }
    # The stated reach: enough time to be a hundred times slower in.
    limit = max(budget, min(reach * ours["seconds"], 60.0))
    for method in METHODS:
        found = _competitor(race, width, method, bar=bar, tune=tune, budget=limit)
        if found is not None:
            easy = [point for point in found["curve"] if point[2] <= max(_EASY, bar)]
            found["easy"] = easy[0] if easy else None
            found["curve"] = _thin(found["curve"])
        row[method] = found
    return row


def _simulated(row: dict[str, Any], *, factor: float) -> dict[str, Any]:
    """The best competitor of a row again, by `training.train_model` on the paths themselves."""
    from recollect import training

    race = runs.build_race(row["target"], row["inputs"])
    raced = [m for m in METHODS[1:-1] if row[m] is not None]
    method = min(raced, key=lambda m: (not row[m]["is_reached"], row[m]["error"]))
    lags = race.dt * np.arange(race.n_time)
    limit, began, curve = factor * row["ours"]["seconds"], [0.0], []

    def watch(progress: Any) -> bool:
        if not curve:
            began[0] = progress.seconds
        kernel = progress.model.kernel(lags)[:, 0, 0] * race.dt
        curve.append((progress.seconds - began[0], progress.step, race.error(kernel)))
        return curve[-1][2] <= row["bar"] or curve[-1][0] > limit

    training.train_model(
        runs.build_start(race, row["width"], method),
        race.signals[:, :, None],
        race.outputs[:, :, None],
        key=0,
        dt=race.dt,
        n_steps=10_000_000,
        learning_rate=row[method]["rate"],
        steps_per_call=100,
        precision="float32",
        callback=watch,
    )
    seconds, steps, error = curve[-1]
    return {
        "method": method,
        "seconds": seconds,
        "steps": steps,
        "error": error,
        "is_reached": error <= row["bar"],
        "curve": _thin(curve),
    }


def _cost(seconds: float, is_reached: bool) -> str:
    return f"{'' if is_reached else '>'}{seconds:.3g}"


def _print_row(row: dict[str, Any]) -> None:
    ours = row["ours"]
    print(
        f"\n{row['target']}, {row['inputs']}, width {row['width']}: {row['n_time']} steps a path, "
        f"best {row['best']:.3g}, bar {row['bar']:.3g}; one simulated step "
        f"{1e3 * row['seconds_per_simulated_step']:.2f} ms",
        flush=True,
    )
    print(
        f"  {'method':<17}{'wall s':>9}{'start-up':>9}{'steps':>9}{'error':>10}{'rate':>8}"
        f"{'to 0.1, s':>10}{'ratio':>9}{'sim s':>10}{'sim ratio':>10}"
    )
    print(
        f"  {'ours':<17}{_cost(ours['seconds'], ours['is_reached']):>9}{ours['start_up']:>9.2f}"
        f"{ours['steps']:>9}{ours['error']:>10.3g}"
    )
    for method in METHODS:
        found = row[method]
        if found is None:
            print(f"  {method:<17}absent: torch is not installed")
            continue
        done = found["is_reached"]
        easy = "-" if found["easy"] is None else f"{found['easy'][0]:.3g}"
        text = (
            f"  {method:<17}{_cost(found['seconds'], done):>9}{found['start_up']:>9.2f}"
            f"{found['steps']:>9}{found['error']:>10.3g}{found['rate']:>8.3g}{easy:>10}"
            f"{_cost(found['seconds'] / ours['seconds'], done):>9}"
        )
        if method != "gru":
            simulated = found["steps"] * row["seconds_per_simulated_step"]
            text += f"{_cost(simulated, done):>10}{_cost(simulated / ours['seconds'], done):>10}"
        print(text, flush=True)


def _slope(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _by_path() -> dict[str, Any]:
    lengths, seconds = [], []
    for n_memories in (4, 8, 16, 32, 64):
        race = runs.build_race("bump 8", "white", n_memories=n_memories)
        lengths.append(race.n_time)
        seconds.append(_ours(race, 16)["processor"])
    return {"lengths": lengths, "seconds": seconds, "slope": _slope(lengths, seconds)}


def _with_estimate() -> list[dict[str, Any]]:
    """Ours where it may not notice that the data are without noise."""
    found = []
    for delay in (4, 8, 16, 32):
        race = runs.build_race(f"bump {delay}", "white")
        began = time.process_time()
        run = runs.run_ours(race, 16, is_noise_free=False)
        run.pop("poles")
        found.append({"delay": delay} | run | {"processor": time.process_time() - began})
    return found


def _with_warm_start() -> list[dict[str, Any]]:
    """The general verb on the same records."""
    from recollect import models, training

    found = []
    for delay in (8, 16):
        race = runs.build_race(f"bump {delay}", "white")
        began = time.process_time()
        start = training.warm_start(
            models.DiagonalRNN,
            list(race.signals[:, :, None]),
            list(race.outputs[:, :, None]),
            dt=race.dt,
            width=16,
            initial_state="rest",
        )
        processor = time.process_time() - began
        steps = start.linear.step_response(race.dt * np.arange(race.n_time + 1))[:, 0, 0]
        error = race.error(np.diff(np.asarray(steps)))
        found.append({"delay": delay, "processor": processor, "error": error})
    return found


def _summarise(rows: dict[str, Any]) -> None:
    print("\nours against the delay, log-log slope of its processor time:")
    for inputs in INPUTS:
        for width in WIDTHS:
            found = [
                (float(row["target"].split()[1]), row["ours"]["processor"])
                for row in rows.values()
                if isinstance(row, dict)
                and row.get("inputs") == inputs
                and row["width"] == width
                and row["target"].startswith("bump")
            ]
            if len(found) > 1:
                delays, seconds = (list(part) for part in zip(*sorted(found), strict=True))
                print(
                    f"  {inputs}, width {width}: {_slope(delays, seconds):.2f}  "
                    + "  ".join(f"{d:g}: {s:.3g} s" for d, s in zip(delays, seconds, strict=True))
                )
    path = rows.get("path")
    if path:
        listed = zip(path["lengths"], path["seconds"], strict=True)
        print(
            f"ours against the length of the paths, the same (bump 8, white, width 16): {path['slope']:.2f}  "
            + "  ".join(f"{n}: {s:.3g} s" for n, s in listed)
        )
    for run in rows.get("estimate", []):
        print(
            f"ours by estimate_kernel throughout, bump {run['delay']}, white, width 16: "
            f"{run['processor']:.3g} s of processor, error {run['error']:.4g}"
        )
    for run in rows.get("warm_start", []):
        print(
            f"training.warm_start, bump {run['delay']}, white, width 16: "
            f"{run['processor']:.3g} s of processor, error {run['error']:.4g}"
        )
    found = rows.get("simulated")
    if found:
        print(
            f"the best of the others at delay 16 on simulated paths ({found['method']}): "
            f"{_cost(found['seconds'], found['is_reached'])} s, {found['steps']} steps, "
            f"error {found['error']:.3g}"
        )
    reach = rows.get("bump 16 white 16")
    if reach:
        others = [reach[m] for m in METHODS if reach[m] is not None]
        least = min(others, key=lambda run: run["seconds"])
        ratio = least["seconds"] / reach["ours"]["seconds"]
        print(f"delay 16, white, width 16: the nearest of the others is "
              f"{_cost(ratio, least['is_reached'])} x our time")  # fmt: skip


def _draw(rows: dict[str, Any], path: str) -> None:
    """Time against the delay, and the errors on the way at delay 16; white noise, width 16."""
    import matplotlib
    from matplotlib.figure import Figure

    names = ["ours", *METHODS]
    label = {"ours": "from the data"} | {m: f"Adam, {m} start" for m in METHODS[1:-1]}
    label |= {"gru": "Adam, torch GRU", "gradient descent": "gradient descent, direct start"}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stall"}):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for index, name in enumerate(names):
            colour, points = f"C{index}", []
            for row in rows.values():
                if isinstance(row, dict) and row.get("inputs") == "white" and row["width"] == 16:
                    kind, value = row["target"].split()
                    if kind == "bump" and row[name] is not None:
                        points.append((float(value), row[name]["seconds"], row[name]["is_reached"]))
            points.sort()
            delays, seconds, _ = zip(*points, strict=True)
            if name == "ours":
                left.loglog(delays, seconds, "-", color=colour)
            for delay, second, is_reached in points:
                marker, face = ("o", colour) if is_reached else ("^", "none")
                left.loglog([delay], [second], marker, color=colour, mfc=face)
            row = rows["bump 16 white 16"][name]
            if name == "ours":
                right.loglog([row["seconds"]], [row["error"]], "o", color=colour, label=label[name])
            elif row is not None:
                clock, _, error = zip(*row["curve"], strict=True)
                right.loglog(clock, error, "-", color=colour, linewidth=1.0, label=label[name])
        curve = rows.get("simulated", {}).get("curve")
        if curve:
            clock, _, error = zip(*curve[1:], strict=True)
            text = f"{label[rows['simulated']['method']]}, paths simulated"
            right.loglog(clock, error, ":", color="black", label=text)
        left.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
        left.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        left.plot([], [], "^", color="gray", mfc="none", label="not reached in this time")
        left.plot([], [], "o", color="gray", label="reached")
        left.legend(frameon=False, fontsize="x-small")
        left.set(xlabel="delay of the bump", ylabel="wall time, s", title="to 1.1 × the best error")
        right.axhline(rows["bump 16 white 16"]["bar"], color="gray", linewidth=0.8)
        right.set(xlabel="wall time, s", ylabel="error / output", title="delay 16")
        handles, labels = right.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="x-small"
        )
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Runs the rows that are missing and prints all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="delays 4 and 16, white, width 16")
    parser.add_argument("--out", default="", help="JSON file to write to and go on from")
    parser.add_argument("--figure", default="", help="SVG file to draw, after a full run")
    parser.add_argument("--budget", type=float, default=0.0, help="seconds for each competitor")
    arguments = parser.parse_args()
    # Everybody on one core. Read when the first JAX program is compiled.
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    targets = ["bump 4", "bump 16"] if arguments.quick else TARGETS
    inputs = ["white"] if arguments.quick else INPUTS
    widths = [16] if arguments.quick else WIDTHS
    budget = arguments.budget or (2.0 if arguments.quick else 3.0)
    path = Path(arguments.out) if arguments.out else None
    rows: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}

    def keep(name: str, value: Any) -> None:
        rows[name] = value
        if path:
            part = path.with_suffix(".part")
            part.write_text(json.dumps(rows))
            os.replace(part, path)

    began = time.perf_counter()
    # The reach first: a run that is cut short has it.
    order = sorted(targets, key=lambda target: target != "bump 16")
    for target in order:
        for kind in inputs:
            for width in widths:
                name = f"{target} {kind} {width}"
                if name not in rows:
                    is_reach = target == "bump 16" and not arguments.quick
                    row = _row(
                        target,
                        kind,
                        width,
                        tune=(0.6 if is_reach else 0.15) * budget,
                        budget=budget,
                        reach=110.0 if is_reach else 0.0,
                    )
                    keep(name, row)
                _print_row(rows[name])
    if "path" not in rows:
        keep("path", _by_path())
    if not arguments.quick:
        if "estimate" not in rows:
            keep("estimate", _with_estimate())
        if "warm_start" not in rows:
            keep("warm_start", _with_warm_start())
        if "simulated" not in rows:
            keep("simulated", _simulated(rows["bump 16 white 16"], factor=110.0))
    _summarise(rows)
    if arguments.figure:
        _draw(rows, arguments.figure)
    print(f"\nthis run took {time.perf_counter() - began:.0f} s, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
