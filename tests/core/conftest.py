"""What every test of the core leaves behind: nothing in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.driver import evict_all


@pytest.fixture(autouse=True)
def _nothing_left_in_memory() -> Iterator[None]:
    yield
    evict_all()
