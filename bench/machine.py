"""
What the figures were taken on: without it they mean nothing to the next reader.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = ("everstep", "apsw", "dbos", "dura", "msgspec")


def facts(directory: Path) -> dict[str, str]:
    import apsw

    versions = {name: version for name in PACKAGES if (version := _version(name))}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": f"{os.cpu_count()} × {_cpu()}",
        "load": f"{os.getloadavg()[0]:.1f} before the first row",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": file_system(directory),
        "sqlite": apsw.sqlite_lib_version(),
        **versions,
    }


def file_system(directory: Path) -> str:
    """The type of the file system that holds ``directory``, or ``unknown`` where /proc does not say."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    target = directory.resolve()
    entries = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    holding = [(point, kind) for point, kind in entries if target.is_relative_to(point)]
    return max(holding, key=lambda entry: len(entry[0]))[1] if holding else "unknown"


def _version(package: str) -> str:
    """Its version, and the Pythons it declares: a peer that runs on another one deserves the remark."""
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return ""
    return f"{about['Version']} (Python {about['Requires-Python']})"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
