"""Families of networks that approximate a memory ever better, by a quadrature of its spectrum."""

from __future__ import annotations

import math

import numpy as np
import scipy.special

from recollect import models, targets

EXPONENT = 1.5


def target(shift=0.0):
    """(1+t)^-3/2, times e^{-shift·t}: polynomial memory, or exponential."""
    if not shift:
        return targets.PowerLaw(exponent=EXPONENT, scale=1.0)
    return targets.parse_kernel(f"exp(-{shift}*t)*(1+t)**-{EXPONENT}")


def quadrature(width, shift=0.0):
    """Rates and amplitudes of the trapezoid rule in log s of ∫ s^{p-1} e^{-s} e^{-s(1+t)}/Γ(p) ds."""
    low, high = -1.6 * math.sqrt(width), math.log(2 + 1.5 * math.sqrt(width))
    x = np.linspace(low, high, width)
    s = np.exp(x)
    amplitudes = (x[1] - x[0]) * s**EXPONENT * np.exp(-s) / scipy.special.gamma(EXPONENT)
    return s + shift, amplitudes


def network(width, *, shift=0.0, reparam=None, readin="plain"):
    """The network of that quadrature, its amplitudes shared evenly by what comes in and goes out."""
    rates, amplitudes = quadrature(width, shift)
    share = np.sqrt(amplitudes / (rates if readin == "normalised" else 1.0))
    return models.DiagonalRNN(rates, share[:, None], share[None], reparam=reparam, readin=readin)
