"""What a worker says of itself, for people who look at the list of workers. Nothing is decided by it."""

from __future__ import annotations

import os
import platform
import socket

from everstep.definitions import Registry
from everstep.records import WorkerProfile


def own_name() -> str:
    """Host and process. Not unique: cloned containers may share both, and one process may have several engines."""
    return f"{socket.gethostname()}:{os.getpid()}"


def profile_of(registry: Registry, run_max: int, queues: tuple[str, ...] | None = None) -> WorkerProfile:
    """This process, and what it can drive now."""
    return WorkerProfile(
        host=socket.gethostname(),
        pid=os.getpid(),
        everstep=_installed_version(),
        python=platform.python_version(),
        workflows=tuple(sorted(((each.name, each.version or None, each.fingerprint) for each in registry), key=_by_name)),
        run_max=run_max,
        queues=queues,
    )


def _by_name(workflow: tuple[str, str | None, str]) -> tuple[str, str]:
    name, its_version, _ = workflow
    return name, its_version or ""


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # A tenth of the time that `import everstep` would take.

    try:
        return version("everstep")
    except PackageNotFoundError:
        return ""
