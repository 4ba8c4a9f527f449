"""What everstep offers to tests. Names are loaded when they are first used: not all of them need the same packages."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everstep.journal_file import load_journal, save_journal
    from everstep.testing.crashes import CrashReport, Effects, crash_everywhere
    from everstep.testing.env import Env, run
    from everstep.testing.replaying import replay
    from everstep.testing.store_suite import StoreSuite
    from everstep.testing.virtual import Stuck

__all__ = [
    "Env",
    "run",
    "Stuck",
    "crash_everywhere",
    "CrashReport",
    "Effects",
    "replay",
    "load_journal",
    "save_journal",
    "StoreSuite",
]

_MODULES = {
    "Env": "testing.env",
    "run": "testing.env",
    "Stuck": "testing.virtual",
    "crash_everywhere": "testing.crashes",
    "CrashReport": "testing.crashes",
    "Effects": "testing.crashes",
    "replay": "testing.replaying",
    "load_journal": "journal_file",
    "save_journal": "journal_file",
    "StoreSuite": "testing.store_suite",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"everstep.{_MODULES[name]}"), name)
    return value
