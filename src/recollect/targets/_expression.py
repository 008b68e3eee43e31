"""Kernels given as text in t: a whitelist of operators and functions, never `eval`."""

from __future__ import annotations

import ast
import functools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
import scipy.special

from recollect._core._check import did_you_mean, invalid, wrong_type
from recollect._core._functional import AbstractLinearFunctional
from recollect._core._types import Array, KernelValues, Lags
from recollect.targets._kernel import (
    AbstractKernel,
    SumKernel,
    laplace_by_quadrature,
    on_lags,
    step_by_quadrature,
)
from recollect.targets._shapes import (
    Airy,
    Box,
    Bump,
    PowerLaw,
    StretchedExponential,
    exponential_sum,
)

_N_CHARACTERS_MAX = 4000
_N_NODES_MAX = 600
_DEPTH_MAX = 60

# A node is ("number", x), ("t",), ("call", name, nodes) or an operator: ("+", a, b), ("-", a).
Node = tuple[Any, ...]


def _box(t: Any, start: Any, stop: Any) -> Any:
    return np.where((t >= start) & (t < stop), 1.0, 0.0)


def _bump(t: Any, delay: Any, width: Any = 1.0) -> Any:
    return np.exp(-0.5 * np.square((t - delay) / width))


def _airy(x: Any) -> Any:
    # SciPy has NaN far to the right, where the value is zero in float64.
    return np.where(x > 120, 0.0, scipy.special.airy(np.minimum(x, 120.0))[0])


def _safe_power(base: Any, exponent: Any) -> Any:
    return np.power(np.asarray(base, np.float64), np.asarray(exponent, np.float64))


# name: (function, least and most number of arguments)
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (np.abs, 1, 1),
    "acos": (np.arccos, 1, 1),
    "airy": (_airy, 1, 1),
    "arctan": (np.arctan, 1, 1),
    "asin": (np.arcsin, 1, 1),
    "atan": (np.arctan, 1, 1),
    "besselj": (scipy.special.jv, 2, 2),
    "besselk": (scipy.special.kv, 2, 2),
    "beta": (scipy.special.beta, 2, 2),
    "box": (_box, 3, 3),
    "bump": (_bump, 2, 3),
    "cbrt": (np.cbrt, 1, 1),
    "cos": (np.cos, 1, 1),
    "cosh": (np.cosh, 1, 1),
    "dawsn": (scipy.special.dawsn, 1, 1),
    "erf": (scipy.special.erf, 1, 1),
    "erfc": (scipy.special.erfc, 1, 1),
    "erfcx": (scipy.special.erfcx, 1, 1),
    "exp": (np.exp, 1, 1),
    "exp1": (scipy.special.exp1, 1, 1),
    "expm1": (np.expm1, 1, 1),
    "expn": (lambda n, x: scipy.special.expn(np.round(n).astype(int), x), 2, 2),
    "gamma": (scipy.special.gamma, 1, 1),
    "gammainc": (scipy.special.gammainc, 2, 2),
    "gammaincc": (scipy.special.gammaincc, 2, 2),
    "gammaln": (scipy.special.gammaln, 1, 1),
    "heaviside": (lambda x: np.where(x >= 0, 1.0, 0.0), 1, 1),
    "i0e": (scipy.special.i0e, 1, 1),
    "i1e": (scipy.special.i1e, 1, 1),
    "j0": (scipy.special.j0, 1, 1),
    "j1": (scipy.special.j1, 1, 1),
    "k0e": (scipy.special.k0e, 1, 1),
    "k1e": (scipy.special.k1e, 1, 1),
    "log": (np.log, 1, 1),
    "log10": (np.log10, 1, 1),
    "log1p": (np.log1p, 1, 1),
    "log2": (np.log2, 1, 1),
    "max": (lambda *x: functools.reduce(np.maximum, x), 2, 8),
    "min": (lambda *x: functools.reduce(np.minimum, x), 2, 8),
    "sign": (np.sign, 1, 1),
    "sin": (np.sin, 1, 1),
    "sinc": (np.sinc, 1, 1),
    "sinh": (np.sinh, 1, 1),
    "sqrt": (np.sqrt, 1, 1),
    "tan": (np.tan, 1, 1),
    "tanh": (np.tanh, 1, 1),
}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_FORBIDDEN = {
    ast.BitXor: ("'^'", "write ** for a power"),
    ast.FloorDiv: ("'//'", "write / for a quotient"),
    ast.Mod: ("'%'", "only + - * / ** are known"),
    ast.MatMult: ("'@'", "only + - * / ** are known"),
}


def parse_kernel(text: str) -> AbstractLinearFunctional:
    """Returns the kernel that a text such as `(1+t)**-1.5` or `exp(-t)+airy(t-6)` stands for.

    The text may use numbers, `t` (the lag), `pi`, `e`, the operators `+ - * / **`, parentheses
    and the functions of `expression_functions()`. Where the terms are of a known family
    (exponentials with powers, sines and cosines; power laws; Gaussian bumps; Airy; boxes;
    stretched exponentials) the exact kernel is returned, so that closed forms and complete
    monotonicity are used; anything else is an `ExpressionKernel`.

    Args:
        text: the expression.

    Returns:
        A linear functional with one input and one output; networks for exponential sums.

    Raises:
        ValueError: if a word is not on the list, the syntax is wrong, the text is too long or
            too deep, or the values are not finite real numbers. One line, naming the word.
    """
    whole = ExpressionKernel(text)
    try:
        found = _recognised(_parsed(whole.text))
    except (ValueError, OverflowError, ZeroDivisionError):
        return whole
    if found is None:
        return whole
    # Guard against a pattern read wrongly: both must give the same numbers.
    lags = np.concatenate([[0.0], whole.timescale * np.geomspace(1e-3, 30.0, 40)])
    exact, direct = np.asarray(found.kernel(lags)).ravel(), whole.kernel(lags).ravel()
    if np.allclose(exact, direct, rtol=1e-8, atol=1e-9 * np.abs(direct).max()):
        return found
    return whole


def expression_functions() -> tuple[str, ...]:
    """Returns the names of the functions that kernel expressions may use."""
    return tuple(_FUNCTIONS)


class ExpressionKernel(AbstractKernel):
    """The kernel given by an expression in t, evaluated in float64; `parse_kernel` knows more.

    Args:
        text: the expression, see `parse_kernel`.

    Raises:
        ValueError: as `parse_kernel`.
    """

    text: str = eqx.field(static=True)
    breakpoints: tuple[float, ...] = eqx.field(static=True)
    timescale: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise wrong_type("kernel", "an expression in t, as text", type(text).__name__)
        self.text = text.strip()
        tree = _parsed(self.text)
        self.breakpoints = _special_lags(tree)
        self.timescale, self.cutoff = _examined(tree, self.breakpoints)

    n_inputs = 1
    n_outputs = 1

    @property
    def support(self) -> float:
        return math.inf

    @property
    def is_completely_monotone(self) -> bool | None:
        return None

    def kernel(self, lags: Lags) -> KernelValues:
        """Returns the expression at `lags`, shape (lag, 1, 1)."""
        return on_lags(lags, "ExpressionKernel", self._values)

    def step_response(self, lags: Lags) -> KernelValues:
        """Returns `∫_0^t ρ` by adaptive quadrature, to 1e-13 of `∫|ρ|`, shape (lag, 1, 1)."""
        return step_by_quadrature(self, self._values, lags, name="kernel")

    def laplace(self, s: Any, *, derivative: int = 0) -> Array:
        """Returns the Laplace transform or a derivative, by adaptive quadrature to 1e-12."""
        return laplace_by_quadrature(self, self._values, s, derivative, name="kernel")

    def exact_norm(self, norm: str) -> float | None:
        """Returns None: nothing is known about the expression in closed form."""
        return None

    def _values(self, t: np.ndarray) -> np.ndarray:
        values = _evaluated(_parsed(self.text), np.minimum(t, self.cutoff))
        # Beyond the cutoff the parts overflow although the kernel has ended: it is zero there.
        values = np.where(t >= self.cutoff, 0.0, values)
        bad = ~np.isfinite(values)
        if bad.any():
            raise invalid("kernel", "a finite real number at every lag", _bad_value(values, t, bad))
        return values


def _bad_value(values: np.ndarray, t: np.ndarray, bad: np.ndarray) -> str:
    at = int(np.flatnonzero(bad)[0])
    what = "no real number" if np.isnan(values[at]) else "infinity"
    return f"{what} at t = {t[at]:.4g}"


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Node:
    if not text:
        raise invalid("kernel", "an expression in t", "an empty text")
    if len(text) > _N_CHARACTERS_MAX:
        raise invalid(
            "kernel", f"at most {_N_CHARACTERS_MAX} characters", f"{len(text)}", "use a table"
        )
    if not text.isprintable():
        raise invalid("kernel", "one line of printable text", "control characters")
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > _DEPTH_MAX:
        raise _too_deep()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        product = re.search(r"(?<![\w.])\d+(?:\.\d*)?\s*[A-Za-z(]|\)\s*[\w(]", text)
        raise invalid(
            "kernel",
            "an expression in t",
            f"{_shortened(text)!r}, which does not parse{where}",
            "write every product with *, as in 2*t" if product else "",
        ) from None
    except (ValueError, MemoryError, RecursionError, OverflowError):
        raise invalid(
            "kernel", "an expression in t", f"{_shortened(text)!r}, which does not parse"
        ) from None
    counter = [0]
    try:
        return _folded(_node(tree.body, 0, counter))
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> ValueError:
    return invalid("kernel", f"at most {_DEPTH_MAX} levels of nesting", "more", "write it simpler")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _node(tree: ast.AST, depth: int, counter: list[int]) -> Node:
    counter[0] += 1
    if counter[0] > _N_NODES_MAX:
        raise invalid(
            "kernel", f"at most {_N_NODES_MAX} numbers, names and operators", "more", "use a table"
        )
    # Sums lean to the left, one level per term: long sums are no deep nesting.
    if depth > 10 * _DEPTH_MAX:
        raise _too_deep()
    if isinstance(tree, ast.Constant):
        return _number(tree.value)
    if isinstance(tree, ast.Name):
        return _name(tree.id)
    if isinstance(tree, ast.UnaryOp):
        if isinstance(tree.op, ast.USub):
            return ("neg", _node(tree.operand, depth + 1, counter))
        if isinstance(tree.op, ast.UAdd):
            return _node(tree.operand, depth + 1, counter)
        raise _not_allowed("'not' or '~'", "only + - * / ** are known")
    if isinstance(tree, ast.BinOp):
        kind = type(tree.op)
        if kind in _FORBIDDEN:
            raise _not_allowed(*_FORBIDDEN[kind])
        if kind not in _OPERATORS:
            raise _not_allowed("a bit operator", "only + - * / ** are known")
        left = _node(tree.left, depth + 1, counter)
        right = _node(tree.right, depth + 1, counter)
        return (_OPERATORS[kind], left, right)
    if isinstance(tree, ast.Call):
        return _call(tree, depth, counter)
    raise _not_allowed(_worded(tree), "only numbers, t, + - * / ** and functions are known")


def _number(value: Any) -> Node:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if isinstance(value, complex):
            raise _not_allowed(f"the complex number {value:g}", "kernels are real")
        raise _not_allowed(f"{_shortened(repr(value))}", "only numbers are known")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise invalid("kernel", "numbers below 1.8e308", "a larger one")
    return ("number", number)


def _name(name: str) -> Node:
    if name == "t":
        return ("t",)
    if name in _CONSTANTS:
        return ("number", _CONSTANTS[name])
    if name in _FUNCTIONS:
        raise invalid("kernel", f"arguments after {name}", "none", f"write {name}(...)")
    if name in ("x", "s", "tau", "lag", "T", "time"):
        raise _not_allowed(repr(name), "write t for the lag")
    raise _not_allowed(repr(_shortened(name)), did_you_mean(name, ["t", *_CONSTANTS, *_FUNCTIONS]))


def _call(tree: ast.Call, depth: int, counter: list[int]) -> Node:
    if not isinstance(tree.func, ast.Name):
        raise _not_allowed(_worded(tree.func), "write the function's bare name, as in exp(-t)")
    name = tree.func.id
    if name not in _FUNCTIONS:
        if name == "t" or name in _CONSTANTS:
            raise invalid("kernel", f"an operator after {name}", "a parenthesis", f"write {name}*(")
        raise _not_allowed(f"the function {_shortened(name)!r}", did_you_mean(name, _FUNCTIONS))
    if tree.keywords or any(isinstance(a, ast.Starred) for a in tree.args):
        raise _not_allowed("a keyword or starred argument", f"write {name}(...) with plain ones")
    _, least, most = _FUNCTIONS[name]
    if not least <= len(tree.args) <= most:
        count = f"{least}" if least == most else f"{least} to {most}"
        raise invalid("kernel", f"{count} argument(s) of {name}", f"{len(tree.args)}")
    return ("call", name, tuple(_node(a, depth + 1, counter) for a in tree.args))


def _worded(tree: ast.AST) -> str:
    try:
        return repr(_shortened(ast.unparse(tree)))
    except (RecursionError, ValueError):
        return type(tree).__name__.lower()


def _not_allowed(word: str, remedy: str) -> ValueError:
    return invalid("kernel", "an expression in t of known words", word, remedy)


def _evaluated(node: Node, t: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.broadcast_to(np.asarray(_value(node, t), np.float64), np.shape(t))


def _value(node: Node, t: Any) -> Any:
    kind = node[0]
    if kind == "number":
        return np.float64(node[1])
    if kind == "t":
        return t
    if kind == "neg":
        return -_value(node[1], t)
    if kind == "call":
        return _FUNCTIONS[node[1]][0](*(_value(a, t) for a in node[2]))
    left, right = _value(node[1], t), _value(node[2], t)
    if kind == "+":
        return left + right
    if kind == "-":
        return left - right
    if kind == "*":
        return left * right
    if kind == "/":
        return left / right
    return _safe_power(left, right)


def _folded(node: Node) -> Node:
    """Returns the tree with every part free of t replaced by its number."""
    if node[0] in ("number", "t"):
        return node
    if node[0] == "call":
        parts = tuple(_folded(a) for a in node[2])
        folded: Node = ("call", node[1], parts)
    else:
        parts = tuple(_folded(a) for a in node[1:])
        folded = (node[0], *parts)
    if all(p[0] == "number" for p in parts):
        value = float(_evaluated(folded, np.zeros(1))[0])
        if not math.isfinite(value):
            raise invalid("kernel", "finite real constants", f"{_infix(folded)} = {value}")
        return ("number", value)
    return folded


def _infix(node: Node) -> str:
    if node[0] == "number":
        return f"{node[1]:g}"
    if node[0] == "t":
        return "t"
    if node[0] == "neg":
        return f"-{_infix(node[1])}"
    if node[0] == "call":
        return _shortened(f"{node[1]}({', '.join(_infix(a) for a in node[2])})")
    return _shortened(f"({_infix(node[1])}{node[0]}{_infix(node[2])})")


def _examined(tree: Node, hints: tuple[float, ...]) -> tuple[float, float]:
    """Returns the timescale and the lag beyond which the parts overflow; refuses bad values."""
    near = np.concatenate([[0.0], np.geomspace(1e-6, 1e6, 385)])
    around = [h * f for h in hints for f in (0.9, 0.99, 0.999, 1.0, 1.001, 1.01, 1.1)]
    lags = np.unique(np.concatenate([near, around, np.geomspace(1e6, 1e300, 590)]))
    values = _evaluated(tree, lags)
    size = np.abs(values)
    bad = ~np.isfinite(values)
    cutoff = math.inf
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        peak = size[:first].max(initial=0.0)
        # It has ended if it was nothing well before that, and not only at the very edge.
        late = size[:first][lags[:first] >= min(0.6 * lags[first], lags[max(first - 1, 0)])]
        vanishes = peak > 0 and late.max(initial=0.0) <= 1e-100 * peak
        ended = vanishes and lags[first] > max((0.0, *hints))
        if not ended:
            raise invalid(
                "kernel",
                "a finite real number at every lag",
                _bad_value(values, lags, bad),
                "a kernel is defined for all t ≥ 0 and decays",
            )
        cutoff = float(lags[first - 1])
        lags, size = lags[:first], size[:first]
    if not size.any():
        return 1.0, cutoff
    top = int(size.argmax())
    below = np.flatnonzero((size < size[top] / 2) & (lags > lags[top]))
    if not len(below):
        return 1.0, cutoff
    timescale = float(lags[below[0]])
    # A late, narrow feature does not make the kernel slow.
    return (timescale if top == 0 else min(timescale, max(1e-3 * timescale, 1.0))), cutoff


def _special_lags(node: Node) -> tuple[float, ...]:
    """Returns the lags at which a part that is affine in t changes sign: where things happen."""
    found: set[float] = set()

    def visit(part: Node) -> None:
        poly = _polynomial(part)
        if poly is not None and len(poly) == 2 and poly[1] != 0:
            root = -poly[0] / poly[1]
            if 0 < root < 1e100:
                found.add(float(root))
        if part[0] == "call":
            if part[1] == "box" and part[2][0] == ("t",):
                found.update(a[1] for a in part[2][1:] if a[0] == "number" and 0 < a[1] < 1e100)
            if part[1] == "bump" and part[2][0] == ("t",) and part[2][1][0] == "number":
                width = part[2][2][1] if len(part[2]) > 2 and part[2][2][0] == "number" else 1.0
                around = (part[2][1][1] + k * width for k in (-6, -2, 0, 2, 6))
                found.update(b for b in around if 0 < b < 1e100)
            for a in part[2]:
                visit(a)
        elif part[0] not in ("number", "t"):
            for a in part[1:]:
                visit(a)

    visit(node)
    return tuple(sorted(found)[:64])


def _polynomial(node: Node, *, degree: int = 8) -> list[float] | None:
    """Returns the coefficients, lowest first, if the node is a polynomial in t."""
    kind = node[0]
    if kind == "number":
        return [node[1]]
    if kind == "t":
        return [0.0, 1.0]
    if kind == "call":
        return None
    left = _polynomial(node[1])
    if left is None:
        return None
    if kind == "neg":
        return [-c for c in left]
    right = _polynomial(node[2])
    if right is None:
        return None
    with np.errstate(all="ignore"):
        if kind in "+-":
            n = max(len(left), len(right))
            padded = [c + [0.0] * (n - len(c)) for c in (left, right)]
            sign = 1.0 if kind == "+" else -1.0
            result = [a + sign * b for a, b in zip(*padded, strict=True)]
        elif kind == "*":
            result = np.convolve(left, right).tolist()
        elif kind == "/":
            if len(right) != 1 or right[0] == 0:
                return None
            result = [c / right[0] for c in left]
        else:
            if len(right) != 1 or right[0] not in range(degree + 1):
                return None
            result = [1.0]
            for _ in range(int(right[0])):
                result = np.convolve(result, left).tolist()
                if len(result) > degree + 1:
                    return None
    while len(result) > 1 and result[-1] == 0:
        result.pop()
    return result if len(result) <= degree + 1 and np.isfinite(result).all() else None


def _terms(node: Node, sign: float = 1.0) -> list[tuple[float, Node]]:
    if node[0] == "+":
        return _terms(node[1], sign) + _terms(node[2], sign)
    if node[0] == "-":
        return _terms(node[1], sign) + _terms(node[2], -sign)
    if node[0] == "neg":
        return _terms(node[1], -sign)
    if node[0] == "*":
        for one, other in ((node[1], node[2]), (node[2], node[1])):
            if one[0] == "number":
                return _terms(other, sign * one[1])
    if node[0] == "/" and node[2][0] == "number" and node[2][1] != 0:
        return _terms(node[1], sign / node[2][1])
    return [(sign, node)]


class _Factors:
    """One term as a product: constant, polynomial, exponential, oscillation, and the rest."""

    def __init__(self, coefficient: float, node: Node):
        self.coefficient = coefficient
        self.polynomial = [1.0]
        self.exponent = [0.0]
        self.waves: list[tuple[str, float, float]] = []
        self.powers: list[tuple[list[float], float]] = []
        self.rest: list[Node] = []
        self._take(node, 1.0)

    def _take(self, node: Node, power: float) -> None:
        kind = node[0]
        if kind == "number":
            self.coefficient *= node[1] ** power
        elif kind == "neg":
            self._take(node[1], power)
            self.coefficient *= (-1.0) ** power if power in (1.0, -1.0) else math.nan
        elif kind == "*":
            self._take(node[1], power)
            self._take(node[2], power)
        elif kind == "/":
            self._take(node[1], power)
            self._take(node[2], -power)
        elif kind == "**" and node[1][0] == "number" and node[1][1] > 0:
            exponent = _polynomial(node[2])
            if exponent is None:
                self.rest.append(("**", node, ("number", power)))
            else:
                self._grow(exponent, power * math.log(node[1][1]))
        elif kind == "**" and node[2][0] == "number":
            self._take_power(node[1], power * node[2][1])
        else:
            self._take_power(node, power)

    def _take_power(self, node: Node, power: float) -> None:
        poly = _polynomial(node)
        if poly is not None and power in range(1, 9):
            for _ in range(int(power)):
                self.polynomial = np.convolve(self.polynomial, poly).tolist()
            return
        if poly is not None and len(poly) == 2:
            self.powers.append((poly, power))
            return
        if node[0] == "call":
            name, arguments = node[1], node[2]
            inner = _polynomial(arguments[0])
            if name == "exp" and inner is not None:
                self._grow(inner, power)
                return
            if name == "sqrt" and inner is not None:
                self._take_power(arguments[0], power / 2)
                return
            if name in ("sin", "cos") and power == 1 and inner is not None and len(inner) == 2:
                self.waves.append((name, inner[1], inner[0]))
                return
        self.rest.append(node if power == 1 else ("**", node, ("number", power)))

    def _grow(self, exponent: list[float], factor: float) -> None:
        n = max(len(self.exponent), len(exponent))
        a = self.exponent + [0.0] * (n - len(self.exponent))
        b = exponent + [0.0] * (n - len(exponent))
        self.exponent = [x + factor * y for x, y in zip(a, b, strict=True)]
        while len(self.exponent) > 1 and self.exponent[-1] == 0:
            self.exponent.pop()


def _recognised(tree: Node) -> AbstractLinearFunctional | None:
    exponentials: dict[tuple[complex, int], complex] = {}
    kernels: list[AbstractLinearFunctional] = []
    for coefficient, node in _terms(tree):
        factors = _Factors(coefficient, node)
        if not math.isfinite(factors.coefficient):
            return None
        modes = _as_exponentials(factors)
        if modes is not None:
            for rate, power, amplitude in modes:
                key = (rate, power)
                exponentials[key] = exponentials.get(key, 0.0) + amplitude
            continue
        kernel = _as_kernel(factors)
        if kernel is None:
            return None
        kernels.append(kernel)
    modes = {key: a for key, a in exponentials.items() if a != 0}
    if modes:
        rates: Any = np.array([w for w, _ in modes])
        amplitudes: Any = np.array(list(modes.values()))
        if not rates.imag.any():
            rates, amplitudes = rates.real, amplitudes.real
        powers = np.array([p for _, p in modes])
        kernels.insert(0, exponential_sum(amplitudes, rates, powers=powers))
    if not kernels:
        return None
    return kernels[0] if len(kernels) == 1 else SumKernel(kernels)


def _as_exponentials(factors: _Factors) -> list[tuple[complex, int, complex]] | None:
    if factors.rest or factors.powers or len(factors.exponent) != 2 or len(factors.waves) > 1:
        return None
    rate = -factors.exponent[1]
    if rate <= 0:
        return None
    size = factors.coefficient * math.exp(factors.exponent[0])
    modes = []
    for power, c in enumerate(factors.polynomial):
        if c == 0:
            continue
        if not factors.waves:
            modes.append((complex(rate), power, complex(size * c)))
            continue
        name, frequency, phase = factors.waves[0]
        turn = np.exp(1j * phase) * (0.5 if name == "cos" else -0.5j)
        # cos(bt+φ) = (e^{i(bt+φ)} + conj)/2; the rate of e^{-wt+ibt} is w - ib.
        modes.append((complex(rate, -frequency), power, complex(size * c * turn)))
        modes.append((complex(rate, frequency), power, complex(size * c * turn).conjugate()))
    return modes


def _as_kernel(factors: _Factors) -> AbstractLinearFunctional | None:
    if len(factors.polynomial) > 1 or factors.waves:
        return None
    size = factors.coefficient * factors.polynomial[0]
    plain = factors.exponent == [0.0]
    if len(factors.exponent) == 3 and not factors.powers and not factors.rest:
        c0, c1, c2 = factors.exponent
        if c2 >= 0:
            return None
        variance = -0.5 / c2
        delay = c1 * variance
        height = size * math.exp(c0 + 0.5 * delay * c1)
        return Bump(delay=delay, width=math.sqrt(variance), height=height)
    if not plain:
        return None
    if len(factors.powers) == 1 and not factors.rest:
        (c0, c1), power = factors.powers[0]
        if power >= 0 or c0 <= 0 or c1 <= 0:
            return None
        return PowerLaw(exponent=-power, scale=c0 / c1, amplitude=size * c0**power)
    if len(factors.rest) != 1 or factors.powers or factors.rest[0][0] != "call":
        return None
    name, arguments = factors.rest[0][1], factors.rest[0][2]
    first = _polynomial(arguments[0])
    numbers = [a[1] for a in arguments[1:] if a[0] == "number"]
    if len(numbers) != len(arguments) - 1:
        return None
    if name == "airy" and first is not None and len(first) == 2 and first[1] > 0:
        return Airy(scale=first[1], shift=-first[0] / first[1], amplitude=size)
    if name == "box" and arguments[0] == ("t",) and max(0.0, numbers[0]) < numbers[1]:
        return Box(max(0.0, numbers[0]), numbers[1], height=size)
    if name == "bump" and first is not None and len(first) == 2:
        width = (numbers[1] if len(numbers) > 1 else 1.0) / abs(first[1])
        delay = (numbers[0] - first[0]) / first[1]
        return Bump(delay=delay, width=abs(width), height=size)
    if name == "exp":
        return _as_stretched(arguments[0], size)
    return None


def _as_stretched(node: Node, size: float) -> AbstractLinearFunctional | None:
    inner = _Factors(1.0, node)
    if inner.rest or inner.waves or inner.exponent != [0.0] or len(inner.polynomial) > 1:
        return None
    if len(inner.powers) != 1:
        return None
    (c0, c1), power = inner.powers[0]
    strength = -inner.coefficient * inner.polynomial[0]
    if c0 != 0 or c1 <= 0 or power <= 0 or strength <= 0:
        return None
    return StretchedExponential(
        exponent=power, timescale=strength ** (-1 / power) / c1, amplitude=size
    )
