"""Which everstep this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version of the installed package; of a source tree that is not installed, that it is one."""
    try:
        return version("everstep")
    except PackageNotFoundError:
        return "(not installed: a source tree)"
