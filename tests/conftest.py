"""What tests of several folders share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import evidence
from tests.postgres_server import Server, missing
from tests.stores.postgres_roles import EngineRole

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A running server for the whole session."""
    if missing():
        pytest.skip(f"needs {missing()}: pip install --group test")
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def engine_role(postgres_server: Server) -> EngineRole:
    """Whom programs connect as."""
    return EngineRole(postgres_server)


@pytest.fixture
def postgres_url(postgres_server: Server) -> str:
    """The URL of a store that is not there yet: a schema of its own in the one database."""
    return postgres_server.url(query=f"?schema=test_{next(_numbers)}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--evidence", type=Path, metavar="FILE", help="write what was tried, and how often, to this file")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if evidence.counts:
        terminalreporter.section("what was tried, and stood")
        for line in evidence.lines():
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--evidence")
    if path is not None:
        evidence.write(path)
