"""
The pytest plugin: fixtures for tests of workflows. It is found by pytest wherever everstep is installed.

The fixture is a plain one, and what it gives opens itself at first use. So it works in asynchronous tests under any plugin that
runs them on asyncio, and in plain ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from everstep.testing.env import Env


@pytest.fixture
def everstep_env() -> Iterator[Env]:
    """An ``everstep.testing.Env`` of the test's own."""
    from everstep.testing.env import Env  # a pytest that uses no fixture of ours loads nothing of ours

    env = Env()
    yield env
    env.abandon()
