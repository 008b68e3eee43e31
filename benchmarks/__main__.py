"""Runs every benchmark of this folder, each in its own process.

    python -m benchmarks [NAME ...] [--quick]

NAME is the name of a module of this folder; all of them by default. `--quick` is passed on to the
modules that know it.
"""

from __future__ import annotations

import argparse
import pkgutil
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def main() -> int:
    """Returns the number of benchmarks that failed."""
    names = sorted(
        module.name for module in pkgutil.iter_modules([str(_FOLDER)]) if module.name[0] != "_"
    )
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *names], help="which to run")
    parser.add_argument("--quick", action="store_true", help="small sizes, where offered")
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.names or names:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if arguments.quick and "--quick" in (_FOLDER / f"{name}.py").read_text("utf-8"):
            command.append("--quick")
        failed += subprocess.run(command, cwd=_FOLDER.parent, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
