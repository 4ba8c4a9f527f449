"""Where images are laid down: thousands of small files, which need no disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def images_directory() -> Iterator[Path]:
    """A directory in memory where there is one."""
    place = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="everstep-images-", dir=place) as directory:
        yield Path(directory) / "image"
