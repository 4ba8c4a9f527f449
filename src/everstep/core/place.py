"""
Where in the user's source something was asked for. Shown, never compared.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import FrameType

from everstep.core.loop import DeterministicLoop

_DRAIN = DeterministicLoop.drain.__code__
_NOT_OF_USERS = tuple(f"{folder}{os.sep}" for folder in (Path(asyncio.__file__).parent, Path(__file__).parents[1]))


def user_line() -> str:
    """The line of user code that is running, without the frames of asyncio and everstep above it."""
    frame: FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_OF_USERS):
        if frame.f_code is _DRAIN:
            return ""  # A callback: nothing further down asked for it.
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}" if frame is not None else ""
