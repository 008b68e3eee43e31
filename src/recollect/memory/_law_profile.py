"""The evidence a measured, noise-free memory holds about its law."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recollect._core._check import host_float64, invalid
from recollect.memory._law_evidence import Evidence
from recollect.memory._law_families import Family

_N_POINTS = 160
_N_INDEPENDENT = 40.0
_EPS = np.finfo(np.float64).eps


@dataclasses.dataclass(frozen=True)
class Profile:
    """A memory function on its lags, cut where rounding begins.

    Args:
        lags: lags above the floor, unit of `dt`, ascending.
        kernel: the memory with the signs it lost, as far as they can be told.
        envelope: the largest memory at this lag or later.
        dt: the smallest distance of two lags.
        window: the last lag given, whether above the floor or not.
        ends_abruptly: the memory falls from far above the floor to nothing within one lag.
    """

    lags: np.ndarray
    kernel: np.ndarray
    envelope: np.ndarray
    dt: float
    window: float
    ends_abruptly: bool


def read_profile(lags: Any, memory: Any) -> Profile:
    """Returns a memory function checked, cut at its rounding floor, with signs restored.

    Raises:
        ValueError: shapes that differ, fewer than 4 lags, lags that do not grow, negative memory.
    """
    lags = host_float64("lags", lags, owner="estimate_law")
    memory = host_float64("memory", memory, owner="estimate_law")
    memory = memory.reshape(len(memory), -1).sum(axis=1)
    if lags.ndim != 1 or len(lags) != len(memory):
        raise invalid("memory", f"one value per lag, {lags.shape}", memory.shape)
    if len(lags) < 4:
        raise invalid("lags", "at least 4 lags", len(lags))
    if lags[0] < 0 or np.any(np.diff(lags) <= 0):
        raise invalid("lags", "lags that start at 0 or later and grow", "others")
    if np.any(memory < 0):
        raise invalid("memory", "numbers not below zero", float(memory.min()))
    envelope = np.maximum.accumulate(memory[::-1])[::-1]
    # differences of responses of size sum(memory) are exact to so much
    floor = max(1e-13 * memory.max(), 16 * _EPS * memory.sum())
    n_seen = int(np.searchsorted(-envelope, -floor, side="right"))
    n_seen = max(n_seen, 2)
    kernel = _restore_signs(memory[:n_seen])
    dt = float(np.diff(lags).min())
    ends_abruptly = n_seen < len(lags) and envelope[n_seen - 1] > 1e6 * floor
    return Profile(
        lags[:n_seen], kernel, envelope[:n_seen], dt, float(lags[-1]), bool(ends_abruptly)
    )


def profile_evidence(
    profile: Profile, *, inexactness: float, first: int = 0, use_envelope: bool = False
) -> Evidence:
    """Returns a least-squares problem in the relative size of the memory.

    Every point counts relative to the envelope at its lag, so that the tail weighs as much as
    the start. Shapes whose relative difference stays below `inexactness` count as the same.

    Args:
        profile: the memory function.
        inexactness: relative difference that no one takes for evidence.
        first: index of the first lag used.
        use_envelope: fit the envelope instead of the kernel.
    """
    usable = _crests(profile, first) if use_envelope else np.arange(first, len(profile.lags))
    values = profile.envelope if use_envelope else profile.kernel
    chosen = usable[_thinned(profile.lags[usable])]
    times = profile.lags[chosen] / profile.dt
    size = profile.envelope[chosen]
    scale = np.sqrt(_N_INDEPENDENT / len(chosen)) / size

    def samples(family: Family, theta: np.ndarray) -> np.ndarray:
        return family.density(theta, times)

    target = values[chosen] * scale
    floor = _N_INDEPENDENT * inexactness**2
    return Evidence(
        samples,
        np.diag(scale),
        target,
        floor,
        float(target @ target) + floor,
        _N_INDEPENDENT,
        np.append(times, times[-1] + 1.0),
        values[chosen],
        scale,
    )


def is_concentrated(profile: Profile) -> bool:
    """Says whether nine tenths of the memory lie in an interval shorter than the delay to it."""
    early, late = quantile_lags(profile, (0.05, 0.95))
    return bool(early > late - early and early > 1.5 * profile.dt)


def quantile_lags(profile: Profile, fractions: tuple[float, ...], tail: float = 0.0) -> np.ndarray:
    """Returns lags by which fractions of the memory inside the window (plus a tail) are seen."""
    size = np.abs(profile.kernel)
    start = profile.lags[0] * size[0]
    steps = 0.5 * (size[1:] + size[:-1]) * np.diff(profile.lags)
    seen = np.concatenate([[0.0, start], start + np.cumsum(steps)])
    lags = np.concatenate([[0.0], profile.lags])
    wanted = np.asarray(fractions) * (seen[-1] + tail)
    found = np.interp(wanted, seen, lags)
    return np.where(wanted > seen[-1], np.inf, found)


def _crests(profile: Profile, first: int) -> np.ndarray:
    """Returns the lags at which the envelope is touched; of an oscillation, its crests only."""
    size = np.abs(profile.kernel)
    touched = np.flatnonzero(size >= profile.envelope)
    touched = touched[touched >= first]
    inner = touched[(touched > 0) & (touched < len(size) - 1)]
    crests = inner[(size[inner] > size[inner - 1]) & (size[inner] >= size[inner + 1])]
    return crests if len(crests) >= 4 else touched


def _thinned(lags: np.ndarray) -> np.ndarray:
    """Returns indices of at most so many lags: half evenly spread, half evenly in log lag."""
    n_lags = len(lags)
    if n_lags <= _N_POINTS:
        return np.arange(n_lags)
    even = np.linspace(0, n_lags - 1, _N_POINTS // 2).round().astype(int)
    positive = max(lags[0], lags[1] - lags[0])
    wanted = np.geomspace(positive, lags[-1], _N_POINTS // 2)
    graded = np.clip(np.searchsorted(lags, wanted), 0, n_lags - 1)
    return np.unique(np.concatenate([even, graded]))


def _restore_signs(memory: np.ndarray) -> np.ndarray:
    """Flips the sign at a cusp of |ρ|: where the continued line says ρ went through zero."""
    sign = np.ones(len(memory))
    for k in range(2, len(memory) - 1):
        is_dip = memory[k] <= memory[k - 1] and memory[k] <= memory[k + 1]
        if not is_dip:
            continue
        # the zero lies on either side of the smallest sample
        flips = []
        for start in (k, k + 1):
            piece = memory[max(k - 2, 0) : k + 3].copy()
            piece[start - max(k - 2, 0) :] *= -1
            flips.append((np.abs(np.diff(piece, n=2)).sum(), start))
        kept = np.abs(np.diff(memory[max(k - 2, 0) : k + 3], n=2)).sum()
        best, start = min(flips)
        if best < kept:
            sign[start:] *= -1
    return memory * sign
