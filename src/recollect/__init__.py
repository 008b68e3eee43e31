"""Recollect: how long a system remembers, what that costs in width, and what it costs in training.

The rooms answer one question each: `memory`, `approximation`, `training`, `stability`,
`convergence`. `diagnose` walks through them; `targets` and `models` hold what is asked about.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recollect import (
        approximation,
        convergence,
        diagnosis,
        memory,
        models,
        report,
        stability,
        study,
        targets,
        training,
    )
    from recollect._core._discretise import AbstractDiscretisation, Euler, ZeroOrderHold
    from recollect._core._functional import (
        AbstractFunctional,
        AbstractLinearFunctional,
        AbstractRecurrent,
        AbstractReparam,
        as_functional,
    )
    from recollect._core._precision import in_float64
    from recollect._core._references import cite
    from recollect._core._status import Status
    from recollect.diagnosis import diagnose
    from recollect.models import load, save

# Everything is imported on first use: `import recollect` and the command line stay light.
_HOME = {
    "AbstractDiscretisation": "recollect._core._discretise",
    "AbstractFunctional": "recollect._core._functional",
    "AbstractLinearFunctional": "recollect._core._functional",
    "AbstractRecurrent": "recollect._core._functional",
    "AbstractReparam": "recollect._core._functional",
    "Euler": "recollect._core._discretise",
    "Status": "recollect._core._status",
    "ZeroOrderHold": "recollect._core._discretise",
    "as_functional": "recollect._core._functional",
    "cite": "recollect._core._references",
    "diagnose": "recollect.diagnosis",
    "in_float64": "recollect._core._precision",
    "load": "recollect.models",
    "save": "recollect.models",
}
_ROOMS = (
    "approximation",
    "convergence",
    "diagnosis",
    "memory",
    "models",
    "report",
    "stability",
    "study",
    "targets",
    "training",
)

__version__ = importlib.metadata.version("recollect")
__all__ = [*_HOME, *_ROOMS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"recollect.{name}")
    raise AttributeError(f"module 'recollect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
