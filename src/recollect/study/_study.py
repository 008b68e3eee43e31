"""A study: a pure function, the grid it is tried on, and what is expected of the results."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recollect._core._check import did_you_mean, invalid, require_count, wrong_type
from recollect.study._claims import Claim
from recollect.study._grid import Grid, Parameters, canonical_text, canonical_value

_LARGEST_SEED = 2**31 - 1
_RANDOMNESS = ("key", "seed")
_LOADING: list[str] = []


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation of the study's function.

    Args:
        id: hash of function name, declared revision, canonical parameters and seed.
        parameters: keyword arguments of the function, defaults filled in.
        seed: what the trial's randomness comes from.
    """

    id: str
    parameters: Parameters
    seed: int


@dataclasses.dataclass(frozen=True)
class Study:
    """A pure function tried on a grid, with claims about the results.

    The function takes the grid's parameters by name and, if it wants randomness, `key` (a JAX
    key, `jax.random.key(seed)`) or `seed` (the whole number itself). It returns a mapping from
    names to numbers, words or arrays; a `recollect.Status` in it becomes the trial's status.
    Trials that differ in parameters only share their random numbers; fold a parameter into the key
    where that is not wanted.

    Args:
        name: of the study; letters, digits, `-` and `_`.
        function: the trial. Define it at the top level of a file so that other processes find it.
        grid: parameter sets, from `product`, `zipped`, `points`, `sampled`.
        revision: raise it when the function's meaning changes: earlier results are then kept,
            marked as superseded, and run again.
        seeds: how many seeds (0, 1, …), or the seeds themselves.
        compiled: parameters to be traced. The function is then JAX code: compiled once for each
            combination of the other parameters, and run trial by trial (the same program for every
            trial, so results do not depend on how trials are grouped).
        float64: whether a compiled function runs in 64 bits.
        dimensions: names of the dimensions of each array returned.
        units: unit of each parameter, number or array, `"1"` for pure numbers.
        claims: what is expected of the results.
        figure: which figure this reproduces, if any.
        paper: which paper that is from.

    Raises:
        ValueError, TypeError: naming the entry that cannot be used.
    """

    name: str
    function: Callable[..., Any]
    grid: Grid
    revision: int = 1
    seeds: int | Sequence[int] = 1
    compiled: tuple[str, ...] = ()
    float64: bool = False
    dimensions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    figure: str = ""
    paper: str = ""

    def __post_init__(self):
        if (
            not isinstance(self.name, str)
            or not self.name.replace("-", "").replace("_", "").isalnum()
        ):
            raise invalid("name", "letters, digits, '-' and '_'", repr(self.name))
        if not callable(self.function):
            raise wrong_type("function", "a function of the parameters", repr(self.function))
        if not isinstance(self.grid, Grid):
            raise wrong_type(
                "grid", "a grid", repr(self.grid), "build it with product(width=[1, 2])"
            )
        require_count("revision", self.revision)
        for place, claim in enumerate(self.claims):
            if not isinstance(claim, Claim):
                raise wrong_type(f"claims[{place}]", "a Claim", repr(claim))
        object.__setattr__(self, "claims", tuple(self.claims))
        object.__setattr__(self, "compiled", tuple(self.compiled))
        for name, dims in self.dimensions.items():
            if isinstance(dims, str) or not all(isinstance(dim, str) for dim in dims):
                raise wrong_type(f"dimensions[{name!r}]", "a tuple of names", repr(dims))
        self._check_seeds()
        self._check_names()

    @property
    def function_name(self) -> str:
        """The name under which the ledger files the function."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    @property
    def randomness(self) -> str:
        """The argument that carries randomness: `key`, `seed` or an empty string."""
        arguments = _arguments(self.function)
        return next((name for name in _RANDOMNESS if name in arguments), "")

    @property
    def seed_values(self) -> tuple[int, ...]:
        """The seeds tried at every grid point."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else tuple(self.seeds)

    @property
    def n_trials(self) -> int:
        """Number of grid points times number of seeds."""
        return len(self.grid) * len(self.seed_values)

    def trial(self, position: int) -> Trial:
        """Returns the trial at a position in `range(n_trials)`; seeds vary fastest."""
        seeds = self.seed_values
        place, which = divmod(position, len(seeds))
        parameters = {**self._defaults(), **self.grid.point(place)}
        identity = [self.function_name, self.revision, parameters, seeds[which]]
        digest = hashlib.sha256(canonical_text(identity).encode()).hexdigest()[:32]
        return Trial(digest, parameters, seeds[which])

    def trials(self) -> Iterator[Trial]:
        """Returns all trials in order, one at a time."""
        return (self.trial(position) for position in range(self.n_trials))

    def _check_seeds(self) -> None:
        if isinstance(self.seeds, bool) or not isinstance(self.seeds, (int, Sequence)):
            raise wrong_type("seeds", "a number of seeds or a list of seeds", repr(self.seeds))
        if isinstance(self.seeds, int):
            require_count("seeds", self.seeds)
        else:
            for place, seed in enumerate(self.seeds):
                if require_count(f"seeds[{place}]", seed, minimum=0) > _LARGEST_SEED:
                    raise invalid(f"seeds[{place}]", f"at most {_LARGEST_SEED}", seed)
            if len(set(self.seeds)) != len(self.seeds):
                raise invalid("seeds", "seeds that differ", list(self.seeds))
        if not self.randomness and self.seed_values != (0,):
            raise invalid(
                "seeds",
                f"1, because {self.function_name} takes neither key nor seed",
                self.seeds,
                "give the function a keyword argument `key` or `seed`",
            )

    def _check_names(self) -> None:
        arguments = _arguments(self.function)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
        known = [
            n for n, p in arguments.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        required = {n for n in known if arguments[n].default is inspect.Parameter.empty}
        required -= {self.randomness}
        checked: set[frozenset[str]] = set()
        # A product has the same names everywhere: one point stands for all of them.
        positions = (
            range(len(self.grid)) if self.grid.axes is None else range(min(1, len(self.grid)))
        )
        for position in positions:
            names = frozenset(self.grid.point(position))
            if names in checked:
                continue
            checked.add(names)
            for name in sorted(names & set(_RANDOMNESS)):
                raise invalid("grid", "no parameter called key or seed", repr(name), "use `seeds`")
            for name in sorted(names - set(known)):
                if not takes_any:
                    raise invalid(
                        "grid",
                        f"parameters of {self.function_name} ({', '.join(known) or 'none'})",
                        repr(name),
                        did_you_mean(name, known),
                    )
            for name in sorted(required - names):
                raise invalid(
                    "grid", f"a value for {name!r} at every point", f"none at point {position}"
                )
            for name in self.compiled:
                if name not in names and name not in self._defaults():
                    raise invalid(
                        "compiled", "parameters of the grid", repr(name), did_you_mean(name, known)
                    )

    def _defaults(self) -> Parameters:
        return {
            name: canonical_value(f"default of {name}", p.default)
            for name, p in _arguments(self.function).items()
            if p.default is not inspect.Parameter.empty and name not in _RANDOMNESS
        }


@functools.lru_cache(maxsize=16)
def _arguments(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def load_study(path: str | Path) -> Study:
    """Returns the study that a Python file defines.

    Args:
        path: a file that defines exactly one `Study`, or one called `study`.

    Raises:
        ValueError: if the file does not run or defines no study.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"study file: expected a Python file, got {str(path)!r}, which is not there"
        )
    module = execute_source(path.read_text("utf-8"), str(path.resolve()))
    studies = {k: v for k, v in vars(module).items() if isinstance(v, Study)}
    if "study" in studies:
        return studies["study"]
    if len({id(s) for s in studies.values()}) != 1:
        raise invalid(
            str(path), "one Study", sorted(studies) or "none", "call the one to run `study`"
        )
    return next(iter(studies.values()))


def execute_source(text: str, filename: str) -> types.ModuleType:
    """Returns the module made by running a study file; runs each text once per process."""
    name = "recollect_study_" + hashlib.sha256((filename + text).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = filename
    module.__dict__["__recollect_source__"] = text
    folder = str(Path(filename).parent)
    if folder not in sys.path and Path(folder).is_dir():
        sys.path.append(folder)
    sys.modules[name] = module
    _LOADING.append(filename)
    try:
        exec(compile(text, filename, "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise invalid(
            Path(filename).name, "a study file that runs", _blame(error, filename)
        ) from error
    finally:
        _LOADING.pop()
    return module


def is_loading() -> bool:
    """Says whether a study file is being executed, in which case nothing may be run."""
    return bool(_LOADING)


def _blame(error: Exception, filename: str) -> str:
    if isinstance(error, SyntaxError):
        return f"SyntaxError in line {error.lineno}: {error.msg}"
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__} in line {line}: {error}"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How another process makes the study's function: by import, or from the text of its file."""

    module: str
    name: str
    filename: str
    text: str
    randomness: str
    compiled: tuple[str, ...]
    float64: bool

    def function(self) -> Callable[..., Any]:
        """Returns the function."""
        module = importlib.import_module(self.module) if self.module else None
        owner: Any = module or execute_source(self.text, self.filename)
        for part in self.name.split("."):
            owner = getattr(owner, part)
        return owner


def write_recipe(study: Study) -> Recipe:
    """Returns how another process makes the study's function.

    Raises:
        ValueError: if the function cannot be found by name (a lambda, a nested function, a notebook cell).
    """
    function, name = study.function, study.function_name
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    filename, text = getattr(module, "__file__", None) or "", ""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if module is None or not filename or found is not function:
        raise invalid(
            "function",
            "a function defined at the top level of a file",
            name,
            "other processes must find it by name; move it there, or run in this process",
        )
    by_import = module.__name__
    if by_import == "__main__" or by_import.startswith("recollect_study_") or "." in filename[:1]:
        by_import = ""
    if by_import and not _imports_anew(module):
        by_import = ""
    if not by_import:
        # The text as it was run: the file may have been edited since.
        text = module.__dict__.get("__recollect_source__") or Path(filename).read_text("utf-8")
    return Recipe(by_import, name, filename, text, study.randomness, study.compiled, study.float64)


def _imports_anew(module: types.ModuleType) -> bool:
    try:
        spec = importlib.util.find_spec(module.__name__)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin == module.__file__
