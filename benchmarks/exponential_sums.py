"""Exponential sums: error and time against what users would pick instead, as ratios in one run.

    python -m benchmarks.exponential_sums [--quick] [--out FILE.json]

Each competitor gets the same kernel and returns rates and amplitudes; every answer is judged in L2 by
the same quadrature, which none has seen. Those whose amplitudes are not least-squares optimal get them
refitted, so that only their rates are judged. Peers that are not installed are named as absent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.interpolate
import scipy.optimize

from recollect import approximation, targets
from recollect.approximation._grid import build_grid

Rates = np.ndarray


def kernels() -> dict[str, Any]:
    """The kernels compared on: two power laws, an oscillation that ends, a bump."""
    return {
        "power 1.1": targets.PowerLaw(exponent=1.1),
        "power 2": targets.PowerLaw(exponent=2.0),
        "airy": targets.Airy(scale=1.0, shift=6.0),
        "bump at 4": targets.SumKernel(
            (targets.exponential_sum([1.0], [1.0]), targets.Bump(delay=4.0, width=1.0))
        ),
    }


class Judge:
    """The L2 error of rates with their best amplitudes, on one dense quadrature."""

    def __init__(self, kernel: Any):
        self.kernel = kernel
        grid = build_grid(
            kernel.kernel,
            norm="l2",
            support=kernel.support,
            breakpoints=kernel.breakpoints,
            timescale=kernel.timescale,
            is_completely_monotone=kernel.is_completely_monotone,
        )
        self.nodes, self.weights = grid.check_nodes, grid.check_weights
        self.values = grid.check_values[:, 0, 0]
        self.end = min(float(grid.effective_support), 2e3 * kernel.timescale)

    def error(self, rates: Rates) -> float:
        """Returns the error, infinite if a rate is unstable or none is left."""
        rates = np.asarray(rates, dtype=complex)
        rates = rates[np.isfinite(rates)]
        if len(rates) == 0 or np.any(rates.real <= 0):
            rates = rates[rates.real > 0]
            if len(rates) == 0:
                return math.inf
        root = np.sqrt(self.weights)
        upper = rates[rates.imag >= -1e-12 * np.abs(rates)]
        basis = np.exp(-np.multiply.outer(self.nodes, upper)) * root[:, None]
        columns = np.concatenate([basis.real, basis[:, np.abs(upper.imag) > 0].imag], axis=1)
        columns /= np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
        target = root * self.values
        q, r = np.linalg.qr(columns)
        keep = np.abs(np.diag(r)) > 1e-14
        residual = target - q[:, keep] @ (q[:, keep].T @ target)
        residual -= q[:, keep] @ (q[:, keep].T @ residual)
        return float(np.linalg.norm(residual))

    def samples(self, n: int) -> tuple[float, np.ndarray]:
        """Returns a step and n samples over the kernel's effective support."""
        step = self.end / (n - 1)
        return step, self.kernel.kernel(step * np.arange(n))[:, 0, 0]

    def transform(self, s: np.ndarray) -> np.ndarray:
        """Returns the Laplace transform at `s`."""
        return np.asarray(self.kernel.laplace(s))[:, 0, 0]


def fit_ours(judge: Judge, width: int) -> Rates:
    """`fit_exponential_sum` in L2."""
    return approximation.fit_exponential_sum(judge.kernel, width=width, norm="l2").rates


def fit_plain_varpro(judge: Judge, width: int) -> Rates:
    """Variable projection from log-spaced real rates with SciPy's least squares, no Jacobian."""
    root = np.sqrt(judge.weights)[::4]
    nodes, target = judge.nodes[::4], judge.values[::4] * np.sqrt(judge.weights)[::4]

    def residual(log_rates: np.ndarray) -> np.ndarray:
        basis = np.exp(-np.multiply.outer(nodes, np.exp(log_rates))) * root[:, None]
        return target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]

    start = np.log(np.geomspace(1.0 / judge.end, 10.0 / judge.kernel.timescale, width))
    return np.exp(scipy.optimize.least_squares(residual, start, max_nfev=60).x)


def fit_aaa(judge: Judge, width: int) -> Rates:
    """SciPy's AAA on the transform along the imaginary axis; its poles."""
    points = 1j * np.geomspace(1e-3 / judge.kernel.timescale, 1e3 / judge.kernel.timescale, 200)
    points = np.concatenate([points, points.conj()])
    found = scipy.interpolate.AAA(points, judge.transform(points), max_terms=width + 1)
    return -found.poles()


def fit_qutip(judge: Judge, width: int, *, method: str) -> Rates:
    """QuTiP's Prony and ESPRIT on 801 samples."""
    from qutip.utilities import prony_methods

    step, samples = judge.samples(801 if method == "prony" else 401)
    _, parameters = prony_methods(method, samples.astype(complex), width)
    phases = np.array([p[1] for p in parameters], dtype=complex)
    return -np.log(phases) / step


def fit_era(judge: Judge, width: int) -> Rates:
    """pyMOR's eigensystem realisation on 400 samples."""
    from pymor.reductors.era import ERAReductor

    step, samples = judge.samples(400)
    reduced = ERAReductor(samples[:, None, None], sampling_time=1).reduce(width)
    return -np.log(reduced.poles().astype(complex)) / step


def fit_tf_irka(judge: Judge, width: int) -> Rates:
    """pyMOR's TF-IRKA on the exact transform."""
    from pymor.models.transfer_function import TransferFunction
    from pymor.reductors.h2 import TFIRKAReductor

    def value(s):
        return np.array([[judge.transform(np.array([complex(s)]))[0]]])

    def slope(s):
        point = np.array([complex(s)])
        return np.array([[np.asarray(judge.kernel.laplace(point, derivative=1))[0, 0, 0]]])

    start = np.geomspace(1.0 / judge.end, 10.0 / judge.kernel.timescale, width)
    model = TransferFunction(1, 1, value, slope)
    reduced = TFIRKAReductor(model).reduce(
        {"sigma": start.astype(complex), "b": np.ones((width, 1)), "c": np.ones((width, 1))}
    )
    return -reduced.poles()


def fit_vector(judge: Judge, width: int) -> Rates:
    """scikit-rf's vector fitting of the transform on the imaginary axis."""
    import skrf
    from skrf.vectorFitting import VectorFitting

    frequency = np.geomspace(1e-3, 1e3, 400) / judge.kernel.timescale / (2 * np.pi)
    values = judge.transform(2j * np.pi * frequency)
    network = skrf.Network(
        frequency=skrf.Frequency.from_f(frequency, unit="hz"), s=values[:, None, None], z0=50
    )
    fitting = VectorFitting(network)
    real = width % 2 + (width if judge.kernel.is_completely_monotone else 0) // 2 * 2
    fitting.vector_fit(
        n_poles_real=min(real, width), n_poles_cmplx=(width - min(real, width)) // 2,
        init_pole_spacing="log", fit_constant=False,
    )  # fmt: skip
    poles = np.asarray(fitting.poles)
    return -np.concatenate([poles, poles[poles.imag != 0].conj()])


COMPETITORS: dict[str, Callable[[Judge, int], Rates]] = {
    "recollect": fit_ours,
    "plain VarPro": fit_plain_varpro,
    "SciPy AAA": fit_aaa,
    "QuTiP prony": lambda judge, width: fit_qutip(judge, width, method="prony"),
    "QuTiP esprit": lambda judge, width: fit_qutip(judge, width, method="esprit"),
    "pyMOR ERA": fit_era,
    "pyMOR TF-IRKA": fit_tf_irka,
    "scikit-rf": fit_vector,
}


def compare(widths: tuple[int, ...], *, names: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Returns one row per kernel, width and competitor: error and time, and both over ours."""
    rows = []
    _warm_up(names)
    for kernel_name, kernel in kernels().items():
        judge = Judge(kernel)
        for width in widths:
            ours: dict[str, float] = {}
            for name, fit in COMPETITORS.items():
                if names and name not in (*names, "recollect"):
                    continue
                row: dict[str, Any] = {"kernel": kernel_name, "width": width, "by": name}
                began = time.perf_counter()
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        error = judge.error(fit(judge, width))
                    row["seconds"] = time.perf_counter() - began
                    row["error"] = error
                except ImportError:
                    row["absent"] = True
                except Exception as failure:  # a peer may fail in any way
                    row["failed"] = f"{type(failure).__name__}: {failure}"[:80]
                if name == "recollect":
                    ours = {"error": row["error"], "seconds": row["seconds"]}
                if "error" in row:
                    row["error_ratio"] = row["error"] / ours["error"]
                    row["time_ratio"] = row["seconds"] / ours["seconds"]
                rows.append(row)
    return rows


def _warm_up(names: tuple[str, ...]) -> None:
    """Imports every competitor, so that no row pays for it."""
    judge = Judge(targets.PowerLaw(exponent=2.0))
    with contextlib.suppress(ImportError):
        from pymor.core.logger import set_log_levels

        set_log_levels({"pymor": "ERROR"})
    for name, fit in COMPETITORS.items():
        if not names or name in (*names, "recollect"):
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit(judge, 2)


def speed(quick: bool) -> list[dict[str, Any]]:
    """Returns the time of all widths 1..16 in one call, of m = 8 alone, and log-log slopes."""
    rows = []
    for name, kernel in kernels().items():
        row: dict[str, Any] = {"kernel": name}
        for label, run in (
            ("widths 1..16", lambda k=kernel: approximation.fit_widths(k, range(1, 17), norm="l2")),
            ("m = 8", lambda k=kernel: approximation.fit_exponential_sum(k, width=8, norm="l2")),
        ):
            times = []
            for _ in range(1 if quick else 3):
                began = time.perf_counter()
                run()
                times.append(time.perf_counter() - began)
            row[label] = min(times)
        widths, seconds = (2, 4, 8, 16), []
        for width in widths:
            began = time.perf_counter()
            approximation.fit_exponential_sum(kernel, width=width, norm="l2")
            seconds.append(time.perf_counter() - began)
        row["slope in m"] = float(np.polyfit(np.log(widths), np.log(seconds), 1)[0])
        rows.append(row)
    return rows


def sample_slope(quick: bool) -> dict[str, Any]:
    """Returns seconds and the log-log slope of the fit of samples against their number."""
    counts = (250, 500, 1000, 2000) if quick else (250, 500, 1000, 2000, 4000, 8000)
    rng = np.random.default_rng(0)
    seconds = []
    for n in counts:
        lags = np.linspace(0, 20, n)
        values = np.exp(-lags) + 0.5 * np.exp(-0.2 * lags) + 1e-3 * rng.normal(size=n)
        began = time.perf_counter()
        approximation.fit_exponential_sum((lags, values), width=4, norm="l2")
        seconds.append(time.perf_counter() - began)
    slope = float(np.polyfit(np.log(counts), np.log(seconds), 1)[0])
    return {"samples": counts, "seconds": seconds, "slope in samples": slope}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="widths 2 and 8 only")
    parser.add_argument("--out", help="write the rows as JSON")
    arguments = parser.parse_args()
    rows = compare((2, 8) if arguments.quick else (2, 4, 8, 16))
    print(
        f"{'kernel':12s} {'m':>3s} {'by':14s} {'L2 error':>11s} {'/ ours':>9s} {'time / ours':>12s}"
    )
    for row in rows:
        tail = row.get("failed") or ("absent" if row.get("absent") else "")
        if not tail:
            tail = f"{row['error']:11.4g} {row['error_ratio']:9.4g} {row['time_ratio']:12.3g}"
        print(f"{row['kernel']:12s} {row['width']:3d} {row['by']:14s} {tail}")
    print("\nmedian ratios to ours over all kernels and widths")
    for name in COMPETITORS:
        ratios = [r["error_ratio"] for r in rows if r["by"] == name and "error_ratio" in r]
        times = [r["time_ratio"] for r in rows if r["by"] == name and "time_ratio" in r]
        lost = sum(r["by"] == name and "failed" in r for r in rows)
        if ratios:
            print(
                f"{name:14s} error {np.median(ratios):9.4g}  time {np.median(times):8.3g}  failed {lost}"
            )
    fast = speed(arguments.quick)
    for row in fast:
        print(json.dumps(row))
    try:
        samples = sample_slope(arguments.quick)
        print(json.dumps(samples))
    except (TypeError, ValueError) as failure:
        samples = {"failed": str(failure)}
        print(json.dumps(samples))
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as stream:
            document = {
                "schema": "recollect.benchmark.exponential_sums", "version": 1, "unit": "s",
                "compared": rows, "speed": fast, "samples": samples,
            }  # fmt: skip
            json.dump(_plain(document), stream, indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


if __name__ == "__main__":
    main()
