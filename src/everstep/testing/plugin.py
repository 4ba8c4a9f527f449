"""
The pytest plugin: fixtures for tests of workflows. It is found by pytest wherever everstep is installed.

    everstep_env      an Env of the test's own, on a clock that jumps; its options: @pytest.mark.everstep_env(strict=False)
    everstep_store    the URL of an empty store, for a real engine; which: @pytest.mark.everstep_stores("memory", "sqlite")

They are plain fixtures, and an Env opens itself at first use. So they work in asynchronous tests under any plugin that runs
them on asyncio, and in plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from everstep.testing.env import Env

STORES: Mapping[str, Callable[[Path], str]] = {
    "memory": lambda _: "memory://",
    "sqlite": lambda folder: f"sqlite:///{folder.as_posix()}/everstep.db",
}


def pytest_configure(config: pytest.Config) -> None:
    """Make our markers known, for those who allow no others."""
    config.addinivalue_line("markers", "everstep_env(workflows=(), strict=True): what the fixture everstep_env is made with")
    config.addinivalue_line("markers", f"everstep_stores(*names): a test for each of these stores: {', '.join(STORES)}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test for each store that its marker names."""
    marker = metafunc.definition.get_closest_marker("everstep_stores")
    if marker is not None and "everstep_store" in metafunc.fixturenames:
        metafunc.parametrize("everstep_store", marker.args, indirect=True)


@pytest.fixture
def everstep_env(request: pytest.FixtureRequest) -> Iterator[Env]:
    """An ``everstep.testing.Env`` of the test's own."""
    from everstep.testing.env import Env  # a pytest that uses no fixture of ours loads nothing of ours

    marker = request.node.get_closest_marker("everstep_env")
    env = Env(*marker.args, **marker.kwargs) if marker is not None else Env()
    yield env
    env.abandon()
    env.check()


@pytest.fixture
def everstep_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store: a file of SQLite, unless the test is marked otherwise. ``memory://`` is one engine's own."""
    name = getattr(request, "param", "sqlite")
    if name not in STORES:
        raise pytest.UsageError(f"there is no store {name!r} for tests; everstep_stores takes: {', '.join(STORES)}")
    return STORES[name](tmp_path)
