"""From a fit to elsewhere: Prony tables, plain arrays, another step."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import numpy as np
import scipy.linalg

from recollect._core._check import invalid, require_choice, require_positive, wrong_type
from recollect.models import LinearRNN

_PRONY_FORMATS = ("csv", "abaqus", "ansys")


@dataclasses.dataclass(frozen=True)
class PronyTable:
    """A relaxation modulus `E(t) = E_∞ + Σ_i E_i e^{-t/τ_i}` as finite-element codes take it.

    Args:
        timescales: relaxation times τ_i, shape (term,), ascending, in the unit of the lags.
        moduli: E_i > 0, shape (term,), in the unit of the kernel.
        equilibrium_modulus: E_∞, not below zero.
    """

    timescales: np.ndarray
    moduli: np.ndarray
    equilibrium_modulus: float

    @property
    def instantaneous_modulus(self) -> float:
        """E_0 = E_∞ + Σ E_i."""
        return float(self.equilibrium_modulus + self.moduli.sum())

    @property
    def relative_moduli(self) -> np.ndarray:
        """g_i = E_i / E_0, shape (term,): their sum is at most one."""
        return self.moduli / self.instantaneous_modulus

    def text(self, format: str = "csv", *, material: int = 1) -> str:
        """Returns the table as text to paste.

        Args:
            format: "csv" (relaxation time, modulus, relative modulus), "abaqus" (data lines of
                `*VISCOELASTIC, TIME=PRONY`: g, k, tau) or "ansys" (`TB,PRONY` commands).
            material: material number of the ansys commands.
        """
        require_choice("format", format, _PRONY_FORMATS)
        rows = list(zip(self.timescales, self.moduli, self.relative_moduli, strict=True))
        if format == "csv":
            lines = [
                f"# E_0 = {self.instantaneous_modulus:.17g}",
                f"# E_inf = {self.equilibrium_modulus:.17g}",
                "tau,E,g",
                *(f"{tau:.17g},{e:.17g},{g:.17g}" for tau, e, g in rows),
            ]
        elif format == "abaqus":
            lines = [
                f"** instantaneous modulus {self.instantaneous_modulus:.9g}",
                "*VISCOELASTIC, TIME=PRONY",
                *(f"{g:.9g}, 0., {tau:.9g}" for tau, _, g in rows),
            ]
        else:
            lines = [f"TB,PRONY,{material},,{len(rows)},SHEAR"]
            constants = [f"{x:.9g}" for tau, _, g in rows for x in (g, tau)]
            # A TBDATA command takes six constants.
            lines += [
                f"TBDATA,{k + 1}," + ",".join(constants[k : k + 6])
                for k in range(0, len(constants), 6)
            ]
        return "\n".join(lines) + "\n"

    def write(self, path: str | os.PathLike[str], format: str = "csv") -> None:
        """Writes the table as text to `path`, replacing what was there."""
        text = self.text(format)
        with open(path, "w", encoding="ascii", newline="\n") as file:
            file.write(text)


def tabulate_prony(fit: Any) -> PronyTable:
    """Returns the Prony table of a fit with positive amplitudes.

    Args:
        fit: an exponential sum with one input and one output (from `fit_exponential_sum(...,
            positive=True)` or `fit_minimax_sum`).

    Raises:
        ValueError: if the fit has complex rates, amplitudes that are not positive or a negative
            constant: such a material would create energy.
    """
    rates, amplitudes = np.asarray(fit.rates), np.asarray(fit.amplitudes)
    if amplitudes.size != rates.size:
        raise invalid("fit", "one input and one output", f"amplitudes {amplitudes.shape}")
    amplitudes = amplitudes.ravel()
    remedy = "fit again with positive=True"
    if np.any(np.abs(np.imag(rates)) > 0):
        raise invalid("fit", "real rates", "complex ones", remedy)
    rates, amplitudes = np.real(rates), np.real(amplitudes)
    if not (np.all(np.isfinite(amplitudes)) and np.all(amplitudes > 0)):
        raise invalid("fit", "positive amplitudes", f"{float(np.min(amplitudes)):.3g}", remedy)
    constant = getattr(fit, "constant", None)
    constant = 0.0 if constant is None else float(np.asarray(constant).ravel()[0])
    if constant < 0:
        raise invalid("fit", "a constant not below zero", constant, remedy)
    order = np.argsort(-rates)
    return PronyTable(1 / rates[order], amplitudes[order], constant)


def export_arrays(fit: Any) -> dict[str, np.ndarray]:
    """Returns a fit as plain NumPy arrays, ready for `numpy.savez`.

    Args:
        fit: an exponential sum, or a linear network.

    Returns:
        `A` (width, width), `B` (width, in), `C` (out, width), and `dt` (NaN in continuous time)
        where there is a network; `rates` (width,), `amplitudes` (width, out, in) and `constant`
        (out, in) where there is a sum.

    Raises:
        TypeError: if the fit is neither.
    """
    found: dict[str, np.ndarray] = {}
    model = getattr(fit, "model", fit)
    if isinstance(model, LinearRNN):
        found["A"], found["B"], found["C"] = (
            np.array(x, dtype=np.float64) for x in (model.A, model.B, model.C)
        )
        found["dt"] = np.array(math.nan if model.dt is None else model.dt)
    for name in ("rates", "amplitudes", "constant"):
        value = getattr(fit, name, None)
        if value is not None:
            found[name] = np.array(value)
    if not found:
        raise wrong_type("fit", "an exponential sum or a linear network", type(fit).__name__)
    return found


def change_step(model: LinearRNN, *, dt: float | None) -> LinearRNN:
    """Returns the network with the same kernel at another step, or in continuous time.

    A continuous network is sampled by the exact zero-order hold. A discrete one goes through the
    continuous network it samples, `A = e^{G dt}`, `B = ∫_0^{dt} e^{Gs} ds B_c`; its kernel between
    the old samples is that network's.

    Args:
        model: a linear network.
        dt: the new step; None for continuous time.

    Raises:
        ValueError: if a multiplier of a discrete network is zero or negative: a delay, or a sign
            that changes at every step, has no continuous form.
    """
    if not isinstance(model, LinearRNN):
        raise wrong_type("model", "a LinearRNN", type(model).__name__)
    step = None if dt is None else require_positive("dt", dt)
    A, B, C = (np.array(x, dtype=np.float64) for x in (model.A, model.B, model.C))
    if model.dt is not None:
        A, B = _continuous(A, B, model.dt)
    if step is None:
        return LinearRNN(A, B, C)
    power = scipy.linalg.expm(_with_input(A, B) * step)
    m = len(A)
    return LinearRNN(power[:m, :m], power[:m, m:], C, dt=step)


def _with_input(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    n_inputs = B.shape[1]
    return np.block([[A, B], [np.zeros((n_inputs, len(A) + n_inputs))]])


def _continuous(A: np.ndarray, B: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    z = np.linalg.eigvals(A)
    bad = (np.abs(z) < 1e-9) | ((z.real < 0) & (np.abs(z.imag) <= 1e-9 * np.abs(z)))
    if bad.any():
        raise invalid(
            "model",
            "multipliers off zero and the negative axis",
            f"{int(bad.sum())} on them",
            "keep its own step: it has no continuous form",
        )
    generator = np.real(scipy.linalg.logm(A)) / dt
    drift = np.abs(scipy.linalg.expm(generator * dt) - A).max()
    if not drift <= 1e-8 * max(1.0, np.abs(A).max()):
        raise invalid("model", "a state matrix with a logarithm", f"one that misses by {drift:.1g}")
    m = len(A)
    integral = scipy.linalg.expm(np.block([[generator, np.eye(m)], [np.zeros((m, 2 * m))]]) * dt)[
        :m, m:
    ]
    return generator, np.linalg.solve(integral, B)
