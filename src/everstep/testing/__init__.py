"""What everstep offers to tests. Names are loaded when they are first used: not all of them need the same packages."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everstep.testing.crashes import CrashReport, Effects, crash_everywhere
    from everstep.testing.env import Env, run
    from everstep.testing.replaying import replay
    from everstep.testing.store_suite import StoreSuite
    from everstep.testing.virtual import Stuck

__all__ = ["CrashReport", "Effects", "Env", "StoreSuite", "Stuck", "crash_everywhere", "replay", "run"]

_MODULES = {
    "CrashReport": "crashes",
    "Effects": "crashes",
    "crash_everywhere": "crashes",
    "Env": "env",
    "run": "env",
    "replay": "replaying",
    "StoreSuite": "store_suite",
    "Stuck": "virtual",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value
