"""One seeded store for the tests that only look; a copy of it for those that change something."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.cli.support import seed


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store and a program. Look, but do not change it."""
    directory = tmp_path_factory.mktemp("seeded")
    asyncio.run(seed(directory))
    return directory


@pytest.fixture
def place(seeded: Path, tmp_path: Path) -> Path:
    """A copy of it, to change at will."""
    return Path(shutil.copytree(seeded, tmp_path / "place"))
