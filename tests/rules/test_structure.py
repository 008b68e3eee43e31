"""The architecture's rules, read off the source."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import recollect

SOURCE = Path(recollect.__file__).parent
LAYERS = [
    {"_core"},
    {"models"},
    {"targets"},
    {"memory"},
    {"approximation"},
    {"training"},
    {"stability", "convergence"},
    {"diagnosis", "study"},
    {"report"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ROOMS = ("memory", "approximation", "training", "stability", "convergence")
PUBLIC = (*ROOMS, "targets", "models", "diagnosis", "study", "report")
# The catalogue draws the papers' figures: the one place where a study may know the report.
UPWARD = {("study", "report")}
# Private names that another room may use, each with its reason.
BORROWED = {
    "report": {
        "recollect.diagnosis._outputs.plan_file": "pages and tables are refused in the same words",
        "recollect.diagnosis._outputs.whole_directory": "a page is written with its diagnosis",
        "recollect.study._reproduce.verdict_record": "the page's JSON is the command's",
    }
}


def modules():
    return sorted(SOURCE.rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path, *, with_names: bool = False):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "recollect":
                yield from (f"recollect.{alias.name}" for alias in node.names)
            elif with_names:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    here = place(path)
    if here == "__init__":
        return
    in_catalogue = "catalogue" in path.parts
    for module in imports_of(path):
        parts = module.split(".")
        if parts[0] != "recollect" or len(parts) == 1:
            continue
        there = parts[1]
        assert there in RANK, f"{path.name} imports {module}, which has no layer"
        if there == here or (in_catalogue and (here, there) in UPWARD):
            continue
        assert RANK[there] < RANK[here], f"{here} must not import {there} ({path.name}: {module})"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_uses_only_public_names_of_other_rooms(path):
    here = place(path)
    if here == "cli":
        return  # parses and calls: the commands' own modules are private to it
    for module in imports_of(path, with_names=True):
        parts = module.split(".")
        if parts[0] != "recollect" or len(parts) < 3 or parts[1] in ("_core", here):
            continue
        private = any(part.startswith("_") for part in parts[2:])
        allowed = module in BORROWED.get(here, {})
        assert not private or allowed, f"{here}/{path.name} reaches into {module}"


def test_nothing_is_borrowed_that_nobody_uses():
    used = {
        (place(path), module) for path in modules() for module in imports_of(path, with_names=True)
    }
    assert {(here, module) for here, names in BORROWED.items() for module in names} <= used


def test_nothing_relative():
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_every_room_is_reached_from_the_top():
    assert set(recollect._ROOMS) == set(PUBLIC)


def public_names():
    for room in PUBLIC:
        module = importlib.import_module(f"recollect.{room}")
        for name in getattr(module, "__all__", ()):
            yield room, name, getattr(module, name)
    for name in recollect._HOME:
        yield "", name, getattr(recollect, name)


def test_one_public_path_per_name():
    homes: dict[int, set[str]] = {}
    labels = {}
    # `diagnose`, `load` and `save` are the library's verbs: also offered at the top, by design.
    doubled = {"diagnose", "load", "save"}
    for room, name, value in public_names():
        if inspect.isclass(value) or inspect.isfunction(value):
            homes.setdefault(id(value), set()).add(room)
            labels[id(value)] = name
    twice = {labels[k]: v for k, v in homes.items() if len(v) > 1 and labels[k] not in doubled}
    assert not twice


def test_public_names_are_documented():
    bare = [
        f"{room}.{name}"
        for room, name, value in public_names()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value)
    ]
    assert not bare


def refuses(function) -> bool:
    """Says whether the body of a function raises, or calls one of the checks that do."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = {ast.unparse(n.func).split(".")[-1] for n in ast.walk(tree) if isinstance(n, ast.Call)}
    checks = {"invalid", "wrong_type", "host_float64"}
    return any(name in checks or name.lstrip("_").startswith("require_") for name in calls) or any(
        isinstance(node, ast.Raise) for node in ast.walk(tree)
    )


def test_public_functions_say_what_they_take_and_what_they_refuse():
    silent = []
    for room, name, value in public_names():
        if not inspect.isfunction(value):
            continue
        function, text = inspect.unwrap(value), inspect.getdoc(value) or ""
        if inspect.signature(function).parameters and "Args:" not in text:
            silent.append(f"{room}.{name}: Args")
        if refuses(function) and "Raises:" not in text:
            silent.append(f"{room}.{name}: Raises")
    assert not silent


def test_public_functions_use_the_verbs_of_knowledge():
    forbidden = ("get_", "compute_", "calc_", "do_")
    for room, name, _ in public_names():
        assert not name.startswith(forbidden), f"{room}.{name}"
    for path in modules():
        assert path.stem.strip("_") not in {"utils", "helpers", "misc", "common", "manager"}, path


def functional_classes():
    import equinox as eqx

    found = []
    for path in modules():
        if place(path) in ("cli", "__init__"):
            continue
        dotted = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        try:
            module = importlib.import_module(dotted.removesuffix(".__init__"))
        except ImportError as error:
            if error.name and error.name.split(".")[0] in {
                "torch",
                "dask",
                "distributed",
                "pyarrow",
                "numba",
            }:
                continue
            raise
        found += [
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and issubclass(value, eqx.Module)
            and value.__module__.startswith("recollect")
        ]
    return list(dict.fromkeys(found))


def test_every_class_is_abstract_or_final():
    classes = functional_classes()
    assert classes
    for cls in classes:
        for base in cls.__mro__[1:]:
            if base.__module__.startswith("recollect"):
                assert inspect.isabstract(base) or base.__name__.startswith(
                    ("Abstract", "_Abstract")
                ), f"{cls.__name__} subclasses the concrete {base.__name__}"


def test_concrete_methods_are_never_overridden():
    for cls in functional_classes():
        for name, value in vars(cls).items():
            if name.startswith("__") and name != "__call__":
                continue
            if not (inspect.isfunction(value) or isinstance(value, property)):
                continue
            for base in cls.__mro__[1:]:
                if not base.__module__.startswith("recollect") or name not in vars(base):
                    continue
                inherited = vars(base)[name]
                function = inherited.fget if isinstance(inherited, property) else inherited
                if inspect.isfunction(function):
                    assert getattr(function, "__isabstractmethod__", False), (
                        f"{cls.__name__}.{name} overrides {base.__name__}.{name}"
                    )


def test_abstract_classes_carry_no_fields():
    import dataclasses

    for cls in functional_classes():
        if cls.__name__.startswith("Abstract"):
            # An AbstractVar demands a field of the concrete class; it stores nothing.
            stored = [f.name for f in dataclasses.fields(cls) if "AbstractVar" not in str(f.type)]
            assert not stored, f"{cls.__name__}: {stored}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["diagnose", "--help"],
        ["diagnose", "absent.csv", "-i", "a", "-o", "b"],
    ],
)
def test_the_command_line_answers_without_jax(arguments):
    program = (
        "import sys\nfrom recollect import cli\n"
        f"try: cli.main({arguments!r})\n"
        "except SystemExit: pass\n"
        "assert 'jax' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_library_does_not_import_jax():
    program = "import recollect, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_library_never_changes_global_flags():
    for path in modules():
        assert "jax.config.update" not in path.read_text("utf-8"), path
