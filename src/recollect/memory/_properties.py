"""Is it causal, continuous, regular, time-homogeneous, bounded, linear? By asking."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from recollect._core._check import invalid, require_count, require_positive
from recollect._core._functional import AbstractFunctional, AbstractRecurrent
from recollect._core._references import references
from recollect._core._status import Status
from recollect._core._threads import on_one_thread
from recollect.memory._probes import ask, is_traceable, require_functional
from recollect.models import CausalAttention

_NAMES = ("repeatable", "causal", "time_homogeneous", "linear", "bounded", "regular", "continuous")
_MAGNITUDES = np.geomspace(1e-3, 1e3, 7)
_N_POINTS = 9
_N_REFINEMENTS = 12
_LONGEST_CHECK = 512


@dataclasses.dataclass(frozen=True)
class Property:
    """Whether a functional has one property, and what speaks for or against it.

    Attributes:
        holds: True (no violation found), False (counterexample found), None (cannot be judged).
        violation: the largest violation seen, relative to the size of the output.
        tolerance: what rounding may do.
        message: the evidence in one sentence.
        counterexample: signals (time, in) and what they show, None unless `holds` is False.
    """

    holds: bool | None
    violation: float
    tolerance: float
    message: str
    counterexample: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class FunctionalProperties:
    """The assumptions of the theory, tried on a functional one by one.

    `True` means that no counterexample was found, which is evidence and not a proof; `False` comes
    with its counterexample.

    Attributes:
        repeatable: the same output for the same input at every call.
        causal: no output depends on later inputs.
        time_homogeneous: a delayed input gives the delayed output, once the start has faded.
        linear: superposition holds, zero-input response apart.
        bounded: outputs stay below a multiple of the input's size, at all times and sizes.
        regular: inputs that are thin or long past leave nothing.
        continuous: no jump along random paths between inputs.
        look_ahead: longest time by which an output came before its cause, 0 if causal.
        status: `ok`, or why not all could be judged.
        stats: number of probes.
    """

    repeatable: Property
    causal: Property
    time_homogeneous: Property
    linear: Property
    bounded: Property
    regular: Property
    continuous: Property
    look_ahead: float
    status: Status
    stats: dict[str, Any]

    def summary(self) -> list[str]:
        """Returns one line per property."""
        words = {True: "yes", False: "no", None: "cannot say"}
        return [
            f"{name.replace('_', '-') + ':':<17}{words[found.holds]}; {found.message}"
            for name, found in ((name, getattr(self, name)) for name in _NAMES)
        ]

    def record(self) -> dict[str, Any]:
        """Returns the verdicts as a JSON object, without the counterexamples' signals."""
        found: dict[str, Any] = {}
        for name in _NAMES:
            own = getattr(self, name)
            found[name] = {
                "holds": own.holds,
                "violation": own.violation if math.isfinite(own.violation) else None,
                "tolerance": own.tolerance,
                "message": own.message,
            }
        return {**found, "look_ahead": self.look_ahead, "status": self.status.record()}


@on_one_thread
@references("wang2024inverse")
def measure_properties(
    functional: Any, *, dt: float, horizon: float, magnitude: float = 1.0, key: int = 0
) -> FunctionalProperties:
    """Returns which of the theory's assumptions a functional meets, each with its evidence.

    Repeatable: the same input before and after all others. Causal: inputs that agree up to a time
    and differ after it. Time-homogeneous: an input after a silence of one horizon, and the same
    later. Linear: `H(x+z)` and `H(2x)`, `H(0)` subtracted. Bounded: sizes from 1e-3 to 1e3, and
    growth in time. Regular: what is left a horizon after the input ended and, where the step can
    be refined, the answer to ever shorter pulses. Continuous: along paths between random inputs
    the steepest piece is cut into eight, again and again; a change that does not shrink is a jump.

    Args:
        functional: any functional, or a callable (time, 1) -> (time, out).
        dt: step of the probes.
        horizon: how long the functional is watched; at least the memory it claims.
        magnitude: size of the random inputs.
        key: of the random inputs.

    Returns:
        A property each; where the functional is not repeatable the others cannot be judged.

    Raises:
        TypeError: if `functional` cannot be called.
        ValueError: if there are fewer than four steps in the horizon.

    Assumptions: none of the functional; a property that fails only for inputs unlike the probes
    goes unnoticed.
    """
    functional = require_functional(functional)
    dt = require_positive("dt", dt)
    n = math.floor(require_positive("horizon", horizon) / dt * (1 + 1e-12))
    if n < 4:
        raise invalid("horizon", f"at least four steps, {4 * dt:g}", horizon)
    magnitude = require_positive("magnitude", magnitude)
    rng = np.random.default_rng(require_count("key", key, minimum=0))
    n_time, n_inputs = 2 * n, functional.n_inputs
    with np.errstate(all="ignore"):
        return _measure(functional, n, n_time, n_inputs, dt, magnitude, rng)


def _measure(
    functional: AbstractFunctional,
    n: int,
    n_time: int,
    n_inputs: int,
    dt: float,
    magnitude: float,
    rng: np.random.Generator,
) -> FunctionalProperties:
    x, z, other = magnitude * rng.uniform(-1, 1, (3, n_time, n_inputs))
    zero = np.zeros_like(x)
    cuts = sorted({max(1, n // 2), n, n + n // 2})
    changed = [np.concatenate([x[:cut], other[cut:]]) for cut in cuts]
    shift = max(1, n // 4)
    late = np.concatenate([zero[:n], x[:n]])
    later = np.concatenate([zero[: n + shift], x[: n - shift]])
    shifted = np.concatenate([zero[:shift], x[: n_time - shift]])
    past = np.concatenate([np.full_like(x[:n], magnitude), zero[:n]])
    held = [size * np.ones_like(x) for size in _MAGNITUDES]
    rough = [size * np.sign(x) for size in _MAGNITUDES]
    first = ask(functional, x[None], dt=dt)[0]
    signals = [zero, x, z, x + z, 2 * x, late, later, shifted, past, *changed, *held, *rough]
    outputs = ask(functional, np.array(signals), dt=dt)
    again = ask(functional, x[None], dt=dt)[0]
    n_probes = len(signals) + 2
    rest, of_x, of_z, of_sum, of_double, of_late, of_later, of_shifted, of_past = outputs[:9]
    of_changed = outputs[9 : 9 + len(cuts)]
    of_held = outputs[9 + len(cuts) : 9 + len(cuts) + len(held)]
    of_rough = outputs[9 + len(cuts) + len(held) :]
    scale = float(np.abs(of_x - rest).max() + 1e-3 * np.abs(rest).max()) or 1.0
    tolerance = (1e-9 if _is_double(first) else 1e-4) * max(
        1.0, float(np.abs(rest).max()) / scale if np.isfinite(scale) else 1.0
    )
    finite = np.isfinite(outputs[:9]).all() and np.isfinite(of_changed).all()
    repeatable = _repeatable(functional, x, first, again, tolerance, dt)
    bounded = _bounded(rest, of_held, of_rough, held, rough, n)
    if repeatable.holds is False or not finite:
        reason = "its output changes from call to call" if finite else "its output is not finite"
        code = "failed" if finite else "not_finite"
        unknown = Property(None, math.nan, tolerance, f"not judged: {reason}")
        if finite:
            bounded = unknown
        elif bounded.holds is not False:
            bounded = _unfinite(signals, outputs)
        return FunctionalProperties(
            repeatable, unknown, unknown, unknown, bounded, unknown, unknown, math.nan,
            Status(code, f"the functional cannot be judged: {reason}"), {"n_probes": n_probes},
        )  # fmt: skip
    causal, ahead = _causal(of_x, of_changed, x, changed, cuts, scale, tolerance, dt)
    homogeneous = _homogeneous(
        of_late, of_later, of_shifted, of_x, rest, n, shift, late, scale, tolerance, dt
    )
    linear = _linear(rest, of_x, of_z, of_sum, of_double, x, z, scale, tolerance)
    regular = _regular(functional, of_past - rest, past, n, magnitude, dt, tolerance)
    continuous, asked = _continuous(functional, x, z, dt)
    return FunctionalProperties(
        repeatable, causal, homogeneous, linear, bounded, regular, continuous, ahead * dt,
        Status(), {"n_probes": n_probes + asked},
    )  # fmt: skip


def require_sound(functional: AbstractFunctional, n_time: int, *, dt: float) -> None:
    """Raises if a functional is not repeatable or looks ahead; recurrent ones cannot."""
    if isinstance(functional, (AbstractRecurrent, CausalAttention)):
        return
    n_time = min(max(n_time, 4), _LONGEST_CHECK)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n_time, functional.n_inputs))
    cut = n_time // 2
    changed = np.concatenate([x[:cut], rng.uniform(-1, 1, x[cut:].shape)])
    with np.errstate(all="ignore"):
        first, of_changed, again = (
            ask(functional, signal[None], dt=dt)[0] for signal in (x, changed, x)
        )
        if not all(np.isfinite(y).all() for y in (first, of_changed, again)):
            return
        scale = float(np.abs(first).max()) or 1.0
        tolerance = 1e-9 if _is_double(first) else 1e-4
        found = _repeatable(functional, x, first, again, tolerance, dt)
        if found.holds is False:
            raise invalid(
                "functional",
                "the same output for the same input",
                f"a difference of {found.violation:.2g} of its size",
                found.message,
            )
        early = np.flatnonzero(np.abs(first - of_changed)[:cut].max(axis=1) > tolerance * scale)
    if len(early):
        ahead = cut - int(early[0])
        raise invalid(
            "functional",
            "a causal functional",
            f"one whose output changes {_steps(ahead, dt)} before its input does",
            "mask the future, or run it one way only",
        )


def _is_double(outputs: np.ndarray) -> bool:
    return not bool(np.array_equal(outputs, outputs.astype(np.float32).astype(np.float64)))


def _repeatable(
    functional: AbstractFunctional,
    x: np.ndarray,
    first: np.ndarray,
    again: np.ndarray,
    tolerance: float,
    dt: float,
) -> Property:
    finite = np.isfinite(first) & np.isfinite(again)
    if not np.array_equal(np.isfinite(first), np.isfinite(again)):
        gap = math.inf
    else:
        gap = float(np.abs(first - again)[finite].max(initial=0.0))
    size = float(np.abs(first)[finite].max(initial=0.0)) or 1.0
    violation = gap / size
    if violation <= tolerance:
        return Property(True, violation, tolerance, "the same input gave the same output")
    # Silence lets a state that was left over fade; randomness of its own stays.
    silence = np.zeros((4 * len(x), x.shape[1]))
    after_silence = []
    for _ in range(2):
        ask(functional, silence[None], dt=dt)
        after_silence.append(ask(functional, x[None], dt=dt)[0])
    left = float(np.nanmax(np.abs(after_silence[0] - after_silence[1]), initial=0.0)) / size
    if left <= max(tolerance, 1e-3 * violation):
        message = "a state is left over from the previous call: reset it at the start of each call"
    else:
        message = "it has randomness of its own (dropout, a sampler?) or a state that never fades"
    return Property(
        False, violation, tolerance, message, {"signal": x, "first": first, "again": again}
    )


def _causal(of_x, of_changed, x, changed, cuts, scale, tolerance, dt) -> tuple[Property, int]:
    ahead, worst, example = 0, 0.0, None
    for cut, output, signal in zip(cuts, of_changed, changed, strict=True):
        gap = np.abs(output - of_x)[:cut].max(axis=1) / scale
        worst = max(worst, float(gap.max()))
        early = np.flatnonzero(gap > tolerance)
        if len(early) and cut - early[0] > ahead:
            ahead = int(cut - early[0])
            example = {"signal": x, "changed": signal, "changed_from": cut, "seen_at": early[0]}
    if example is None:
        return Property(
            True, worst, tolerance, f"changes at {len(cuts)} times left all earlier outputs alone"
        ), 0
    message = f"an output changes {_steps(ahead, dt)} before its input does"
    return Property(False, worst, tolerance, message, example), ahead


def _steps(number: int, dt: float) -> str:
    steps = "1 step" if number == 1 else f"{number} steps"
    return steps if dt == 1 else f"{steps} (a time of {number * dt:g})"


def _homogeneous(
    of_late, of_later, of_shifted, of_x, rest, n, shift, late, scale, tolerance, dt
) -> Property:
    violation = float(np.abs(of_later[n + shift :] - of_late[n : 2 * n - shift]).max()) / scale
    at_once = float(np.abs(of_shifted[shift:] - of_x[: 2 * n - shift]).max()) / scale
    tolerance = max(tolerance, 1e-9)
    # What of the start is left after the silence may still move: it is not the input's effect.
    left = float(np.abs(rest[n + shift :] - rest[n : 2 * n - shift]).max()) / scale
    if violation <= tolerance + 3 * left:
        message = f"an input {shift * dt:g} later gave the output {shift * dt:g} later"
        if at_once > tolerance + violation:
            message += f"; from the first sample only after a start transient ({at_once:.2g})"
        if left > tolerance:
            message += f"; the start is still felt at the horizon ({left:.2g})"
        return Property(True, violation, tolerance, message)
    message = f"moving an input by {shift * dt:g} changes the output by {violation:.2g} of its size"
    return Property(
        False, violation, tolerance, message, {"signal": late[n:], "start": n, "shift": shift}
    )


def _linear(rest, of_x, of_z, of_sum, of_double, x, z, scale, tolerance) -> Property:
    added = np.abs((of_sum - rest) - (of_x - rest) - (of_z - rest)).max() / scale
    doubled = np.abs((of_double - rest) - 2 * (of_x - rest)).max() / scale
    violation = float(max(added, doubled))
    tolerance = max(10 * tolerance, 1e-8)
    if violation <= tolerance:
        return Property(
            True, violation, tolerance, "sums and doubles of inputs gave those of outputs"
        )
    what = "twice an input" if doubled >= added else "a sum of inputs"
    message = f"{what} is answered {violation:.2g} of its size away from linear"
    example = {"signal": x} if doubled >= added else {"signal": x, "other": z}
    return Property(False, violation, tolerance, message, example)


def _bounded(rest, of_held, of_rough, held, rough, n: int) -> Property:
    signals = [*held, *rough]
    moved = np.abs(np.concatenate([of_held, of_rough]) - rest).max(axis=2)
    finite = np.isfinite(moved).all(axis=1)
    if not finite.all() or not np.isfinite(rest).all():
        place = int(np.argmin(finite))
        message = f"not finite for an input of size {np.abs(signals[place]).max():g}"
        return Property(False, math.inf, 0.0, message, {"signal": signals[place]})
    sizes = np.concatenate([_MAGNITUDES, _MAGNITUDES])
    gain = moved / sizes[:, None]
    best = gain.max(axis=1)
    place = int(np.argmax(best))
    largest = float(best[place])
    if largest == 0:
        return Property(True, 0.0, 0.0, "the output never moved")
    # Growth in time: the running maximum in the last quarter against that up to half.
    running = np.maximum.accumulate(gain[place])
    half, end = float(running[n]), float(running[-1])
    order = math.log(end / half) / math.log(len(running) / (n + 1)) if half > 0 else math.inf
    if order > 0.8:
        message = f"the gain still grows like time^{order:.2g} at the horizon ({end:.3g})"
        return Property(False, order, 0.8, message, {"signal": signals[place]})
    for name, ends in (("large", (-1, -3)), ("small", (0, 2))):
        for family in (best[: len(_MAGNITUDES)], best[len(_MAGNITUDES) :]):
            outer, inner = family[ends[0]], family[ends[1]]
            if inner <= 0 or outer < 0.5 * largest:
                continue
            growth = math.log10(outer / inner) / 2.0
            if growth > 0.25:
                message = f"the gain grows like size^{growth:.2g} towards {name} inputs"
                chosen = held[ends[0]]
                return Property(False, growth, 0.25, message, {"signal": chosen})
    return Property(True, largest, math.inf, f"the largest gain found is {largest:.3g}")


def _unfinite(signals, outputs) -> Property:
    place = int(np.argmin(np.isfinite(outputs).all(axis=(1, 2))))
    when = int(np.argmin(np.isfinite(outputs[place]).all(axis=1)))
    message = (
        f"not finite from sample {when} on, for an input of size {np.abs(signals[place]).max():.2g}"
    )
    return Property(False, math.inf, 0.0, message, {"signal": signals[place], "seen_at": when})


def _regular(functional, moved, past, n, magnitude, dt, tolerance) -> Property:
    size = np.abs(moved).max(axis=1)
    largest = float(size.max()) or 1.0
    after = size[n:]
    quarter = max(1, len(after) // 4)
    left = float(after[-quarter:].max()) / largest
    early = float(after[:quarter].max()) / largest
    thin = _thin_pulses(functional, magnitude, dt)
    if thin is not None and thin > 0.5:
        message = "a pulse keeps its effect however short it is: the input acts at once"
        return Property(False, thin, 0.5, message, {"signal": past[:1]})
    if left <= max(1e-3, tolerance):
        return Property(True, left, 1e-3, f"{left:.2g} of the response is left at the horizon")
    if left < 0.7 * early:
        message = f"{left:.2g} of the response is left at the horizon and fades: watch for longer"
        return Property(None, left, 1e-3, message)
    message = f"{left:.2g} of the response stays after the input has ended"
    return Property(False, left, 1e-3, message, {"signal": past, "ended_at": n})


def _thin_pulses(functional: AbstractFunctional, magnitude: float, dt: float) -> float | None:
    """Returns what is left of the answer to a pulse 64 times shorter; None if dt changes nothing."""
    if not is_traceable(functional, dt=dt):
        return None
    pulse = np.zeros((1, 2, functional.n_inputs))
    pulse[0, 0] = magnitude
    sizes = []
    for step in (dt, dt / 64):
        try:
            moved = ask(functional, pulse, dt=step) - ask(functional, 0 * pulse, dt=step)
        except ValueError:  # a discrete model has one step only
            return None
        sizes.append(float(np.abs(moved[0, 0]).max()))
    if sizes[0] == 0 or math.isclose(sizes[0], sizes[1], rel_tol=1e-12):
        return None
    return sizes[1] / sizes[0]


def _continuous(functional, x, z, dt) -> tuple[Property, int]:
    starts = np.array([x, -x, -np.abs(x)])
    ends = np.array([z, x, np.abs(z)])
    low, high = np.zeros(len(starts)), np.ones(len(starts))
    changes, scale, asked = [], 1.0, 0
    points: np.ndarray = np.zeros(0)
    for round_ in range(_N_REFINEMENTS):
        shares = np.linspace(low, high, _N_POINTS, axis=1)
        points = starts[:, None] + shares[:, :, None, None] * (ends - starts)[:, None]
        flat = points.reshape(-1, *x.shape)
        outputs = ask(functional, flat, dt=dt).reshape(*shares.shape, len(x), -1)
        asked += len(flat)
        change = np.abs(np.diff(outputs, axis=1)).max(axis=(2, 3))
        steepest = change.argmax(axis=1)
        rows = np.arange(len(starts))
        changes.append(change[rows, steepest])
        low, high = shares[rows, steepest], shares[rows, steepest + 1]
        if round_ == 0:
            scale = float(np.ptp(outputs, axis=1).max()) or 1.0
    changes = np.array(changes)
    last, before = changes[-1], changes[-5]
    jumps = (last > 1e-6 * scale) & (last > 0.1 * before)
    width = 8.0**-_N_REFINEMENTS
    if not jumps.any():
        violation = float(last.max()) / scale
        message = f"changes shrink with the input's, down to {width:.0e} of a path"
        return Property(True, violation, 1e-6, message), asked
    place = int(np.argmax(np.where(jumps, last, -1.0)))
    violation = float(last[place]) / scale
    message = f"a jump of {violation:.2g} of its range between inputs {width:.0e} of a path apart"
    example = {
        name: starts[place] + share[place] * (ends - starts)[place]
        for name, share in (("signal", low), ("other", high))
    }
    return Property(False, violation, 1e-6, message, example), asked
