"""Nonlinear systems: two cascaded tanks with overflow, and the forced Lorenz 96 system."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from recollect._core._check import (
    invalid,
    require_count,
    require_nonnegative,
    require_positive,
    require_signal,
)
from recollect._core._functional import AbstractFunctional
from recollect._core._precision import in_float64
from recollect._core._references import references
from recollect._core._types import Array, Output, Signal

_GRAVITY = 981.0  # cm/s²


def _integrate(
    field: Callable[[Array, Array], Array],
    project: Callable[[Array], Array],
    state: Array,
    signal: Array,
    *,
    dt: float,
    longest_step: float,
) -> Array:
    """Returns the states after every held input, by equal Runge-Kutta steps of fourth order."""
    n_steps = max(1, math.ceil(dt / longest_step - 1e-9))
    h = dt / n_steps

    def advance(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        y, x = carry
        k1 = field(y, x)
        k2 = field(y + 0.5 * h * k1, x)
        k3 = field(y + 0.5 * h * k2, x)
        k4 = field(y + h * k3, x)
        return project(y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)), x

    def sample(y: Array, x: Array) -> tuple[Array, Array]:
        y, _ = jax.lax.fori_loop(0, n_steps, advance, (y, x))
        return y, y

    return jax.lax.scan(sample, state, signal)[1]


@references("schoukens2016cascaded")
class TwoTanks(AbstractFunctional):
    """Two cascaded water tanks: pump voltage in, level sensor voltage of the lower tank out.

    A pump fills the upper tank, which drains into the lower one, which drains into the
    reservoir (Torricelli's law); a full upper tank spills, and part of the spill falls into the
    lower tank; a full lower tank stays full:

        S dh1/dt = g_p u - a √(2 g h1) - q_spill
        S dh2/dt = a √(2 g h1) + share · q_spill - a √(2 g h2)
        y = g_s h2

    with `q_spill = max(0, g_p u - a √(2 g h1))` where `h1 = height`, else zero. Both tanks start
    empty, so that no input gives no output. Time in seconds.

    Args:
        tank_area: S, cross-section of both tanks, cm².
        outlet_area: a, effective cross-section of both outlets, cm².
        height: level at which a tank is full, cm.
        pump_gain: g_p, cm³ s⁻¹ V⁻¹; negative voltages pump nothing.
        sensor_gain: g_s, V cm⁻¹.
        spill_share: share of the spill that falls into the lower tank, 0 to 1.
        longest_step: longest internal integration step, s.
    """

    tank_area: float
    outlet_area: float
    height: float
    pump_gain: float
    sensor_gain: float
    spill_share: float
    longest_step: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        tank_area: float = 50.0,
        outlet_area: float = 0.126,
        height: float = 20.0,
        pump_gain: float = 5.0,
        sensor_gain: float = 0.5,
        spill_share: float = 0.5,
        longest_step: float = 0.5,
    ):
        self.tank_area = require_positive("tank_area", tank_area)
        self.outlet_area = require_positive("outlet_area", outlet_area)
        self.height = require_positive("height", height)
        self.pump_gain = require_positive("pump_gain", pump_gain)
        self.sensor_gain = require_positive("sensor_gain", sensor_gain)
        self.spill_share = require_nonnegative("spill_share", spill_share)
        if self.spill_share > 1:
            raise invalid("spill_share", "a share from 0 to 1", spill_share)
        self.longest_step = require_positive("longest_step", longest_step)

    n_inputs = 1
    n_outputs = 1

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the sensor voltage, shape (time, 1), from two empty tanks."""
        require_signal("signal", signal, n_inputs=1)
        return self.sensor_gain * self.levels(signal, dt=dt)[:, 1:]

    def levels(self, signal: Signal, *, dt: float, initial_levels: Any = (0.0, 0.0)) -> Array:
        """Returns both levels in cm after every sample, shape (time, 2).

        Args:
            signal: pump voltage, shape (time, 1), or with a second column: a disturbance of the
                flow into the upper tank and a third: into the lower tank, cm³/s.
            dt: step, s.
            initial_levels: levels before the first sample, cm, shape (2,).
        """
        dt = require_positive("dt", dt)
        signal = jnp.asarray(signal, dtype=jnp.result_type(float))
        return self._levels(signal, jnp.asarray(initial_levels, dtype=signal.dtype), dt)

    # Left to itself a scan with a new closure is compiled anew at every call.
    @eqx.filter_jit
    def _levels(self, signal: Array, start: Array, dt: float) -> Array:
        inflow = self.pump_gain * jnp.maximum(signal[:, :1], 0.0)
        more = jnp.zeros((len(signal), 2), signal.dtype)
        more = more.at[:, : signal.shape[1] - 1].set(signal[:, 1:3])
        flows = jnp.concatenate([inflow, more], axis=1)

        def field(levels: Array, flow: Array) -> Array:
            drain = self.outlet_area * jnp.sqrt(2 * _GRAVITY * jnp.maximum(levels, 0.0))
            net = flow[0] + flow[1] - drain[0]
            spill = jnp.where(levels[0] >= self.height, jnp.maximum(net, 0.0), 0.0)
            lower = drain[0] + flow[2] + self.spill_share * spill - drain[1]
            return jnp.stack([net - spill, lower]) / self.tank_area

        def project(levels: Array) -> Array:
            return jnp.clip(levels, 0.0, self.height)

        return _integrate(field, project, start, flows, dt=dt, longest_step=self.longest_step)


@dataclasses.dataclass(frozen=True)
class TankRecord:
    """Simulated measurements of two cascaded tanks, for identification and for testing.

    Args:
        time: s, shape (time,).
        estimation_input: pump voltage, V, shape (time, 1).
        estimation_output: measured level, V, shape (time, 1).
        test_input: another pump voltage, V, shape (time, 1).
        test_output: measured level, V, shape (time, 1).
        dt: step, s.
        initial_levels: true levels before the first sample of either experiment, cm.
        noise_std: standard deviation of the sensor noise, V.
    """

    time: np.ndarray
    estimation_input: np.ndarray
    estimation_output: np.ndarray
    test_input: np.ndarray
    test_output: np.ndarray
    dt: float
    initial_levels: tuple[float, float]
    noise_std: float


@references("schoukens2016cascaded")
def simulate_two_tanks(
    *,
    n_samples: int = 1024,
    dt: float = 4.0,
    mean_voltage: float = 4.1,
    voltage_std: float = 1.8,
    bandwidth: float = 0.0144,
    noise_std: float = 0.03,
    flow_noise_std: float = 0.4,
    initial_levels: tuple[float, float] = (11.0, 9.0),
    seed: int = 0,
    tanks: TwoTanks | None = None,
) -> TankRecord:
    """Returns the embedded example: two experiments on cascaded tanks that sometimes overflow.

    The pump is driven by a random-phase multisine (all harmonics of the record up to
    `bandwidth`, clipped to 0-8 V); the test experiment has other phases. Flows are disturbed by
    white noise and the sensor adds more. Both experiments start from the same levels, which
    the user of the data does not know. The upper tank is full in about one sample of twelve.

    Args:
        n_samples: samples per experiment.
        dt: step, s.
        mean_voltage: mean of the pump voltage, V.
        voltage_std: its standard deviation, V.
        bandwidth: highest frequency of the multisine, Hz.
        noise_std: standard deviation of the sensor noise, V.
        flow_noise_std: standard deviation of the disturbance of each flow, cm³/s, held for dt.
        initial_levels: levels before the first sample, cm.
        seed: seed of phases and noise; equal seeds give equal records.
        tanks: the system, default `TwoTanks()`.

    Returns:
        A `TankRecord`, in V and s.

    Raises:
        ValueError: if a number is out of range.
    """
    n_samples = require_count("n_samples", n_samples, minimum=8)
    dt = require_positive("dt", dt)
    require_positive("bandwidth", bandwidth)
    require_nonnegative("noise_std", noise_std)
    require_nonnegative("flow_noise_std", flow_noise_std)
    tanks = TwoTanks() if tanks is None else tanks
    if len(initial_levels) != 2 or not all(0 <= v <= tanks.height for v in initial_levels):
        raise invalid("initial_levels", f"two levels from 0 to {tanks.height:g} cm", initial_levels)
    rng = np.random.default_rng(seed)
    simulate = in_float64(
        lambda drive: tanks.levels(drive, dt=dt, initial_levels=np.array(initial_levels))
    )
    columns = []
    for _ in range(2):
        voltage = mean_voltage + voltage_std * _multisine(n_samples, dt, bandwidth, rng)
        voltage = np.clip(voltage, 0.0, 8.0)
        flows = flow_noise_std * rng.standard_normal((n_samples, 2))
        levels = simulate(np.column_stack([voltage, flows]))
        output = tanks.sensor_gain * levels[:, 1] + noise_std * rng.standard_normal(n_samples)
        columns += [voltage[:, None], output[:, None]]
    return TankRecord(
        time=dt * np.arange(n_samples),
        estimation_input=columns[0],
        estimation_output=columns[1],
        test_input=columns[2],
        test_output=columns[3],
        dt=dt,
        initial_levels=(float(initial_levels[0]), float(initial_levels[1])),
        noise_std=float(noise_std),
    )


def _multisine(n_samples: int, dt: float, bandwidth: float, rng: np.random.Generator) -> np.ndarray:
    """Returns equal harmonics up to `bandwidth` with random phases: zero mean, unit variance."""
    n_lines = int(np.clip(bandwidth * n_samples * dt, 1, (n_samples - 1) // 2))
    spectrum = np.zeros(n_samples // 2 + 1, complex)
    spectrum[1 : n_lines + 1] = np.exp(2j * np.pi * rng.random(n_lines))
    wave = np.fft.irfft(spectrum, n_samples)
    return wave / wave.std()


@references("li2021curse")
class LorenzNinetySix(AbstractFunctional):
    """The forced two-scale Lorenz 96 system: forcing in, slow variables out.

        dy_k/dt   = -y_{k-1} (y_{k-2} - y_{k+1}) - y_k + x_t - (1/J) Σ_j z_{j,k}
        dz_{j,k}/dt = p [-z_{j+1,k} (z_{j+2,k} - z_{j-1,k}) - z_{j,k} + y_k]

    k = 1..n_slow, j = 1..n_fast, both cyclic. A forcing that is the same for every k keeps equal
    y_k equal and the system then is linear; therefore it starts from a fixed small pattern
    (damped away without input), or takes one forcing per slow variable. Dimensionless time.

    Args:
        n_slow: number of slow variables, at least 4.
        n_fast: fast variables per slow one, J, at least 4.
        speed: p, how much faster the fast variables are.
        has_common_forcing: True for one input channel that forces every slow variable, False
            for `n_slow` channels.
        perturbation: size of the start pattern.
        longest_step: longest internal integration step.
    """

    n_slow: int = eqx.field(static=True)
    n_fast: int = eqx.field(static=True)
    speed: float
    has_common_forcing: bool = eqx.field(static=True)
    perturbation: float
    longest_step: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        n_slow: int = 8,
        n_fast: int = 8,
        speed: float = 10.0,
        has_common_forcing: bool = True,
        perturbation: float = 0.01,
        longest_step: float = 0.01,
    ):
        self.n_slow = require_count("n_slow", n_slow, minimum=4)
        self.n_fast = require_count("n_fast", n_fast, minimum=4)
        self.speed = require_positive("speed", speed)
        self.has_common_forcing = bool(has_common_forcing)
        self.perturbation = require_nonnegative("perturbation", perturbation)
        self.longest_step = require_positive("longest_step", longest_step)

    @property
    def n_inputs(self) -> int:
        """One common forcing, or one per slow variable."""
        return 1 if self.has_common_forcing else self.n_slow

    @property
    def n_outputs(self) -> int:
        """One per slow variable."""
        return self.n_slow

    def __call__(self, signal: Signal, *, dt: float) -> Output:
        """Returns the slow variables after every sample, shape (time, n_slow)."""
        require_signal("signal", signal, n_inputs=self.n_inputs)
        dt = require_positive("dt", dt)
        return self._slow(jnp.asarray(signal, dtype=jnp.result_type(float)), dt)

    @eqx.filter_jit
    def _slow(self, signal: Array, dt: float) -> Array:
        pattern = jnp.cos(2 * jnp.pi * jnp.arange(self.n_slow) / self.n_slow)
        slow = (self.perturbation * pattern).astype(signal.dtype)
        start = jnp.concatenate([slow[None], jnp.zeros((self.n_fast, self.n_slow), signal.dtype)])

        def field(state: Array, forcing: Array) -> Array:
            return self.derivative(state, forcing)

        states = _integrate(
            field, lambda state: state, start, signal, dt=dt, longest_step=self.longest_step
        )
        return states[:, 0]

    def derivative(self, state: Array, forcing: Array) -> Array:
        """Returns the time derivative of (y; z_1; …; z_J), shape (1 + n_fast, n_slow)."""
        y, z = state[0], state[1:]
        advected = -jnp.roll(y, 1) * (jnp.roll(y, 2) - jnp.roll(y, -1))
        slow = advected - y + forcing - z.mean(axis=0)
        swirl = -jnp.roll(z, -1, axis=0) * (jnp.roll(z, -2, axis=0) - jnp.roll(z, 1, axis=0))
        fast = self.speed * (swirl - z + y)
        return jnp.concatenate([slow[None], fast])
