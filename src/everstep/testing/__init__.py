"""What everstep offers to tests. Names are loaded when they are first used: not all of them need the same packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everstep.testing.store_suite import StoreSuite

__all__ = ["StoreSuite"]


def __getattr__(name: str) -> object:
    if name == "StoreSuite":
        from everstep.testing.store_suite import StoreSuite

        return StoreSuite
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
