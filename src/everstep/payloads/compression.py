"""
Smaller payloads, and no bombs.

zlib, because it is part of Python: whoever reads a store, in ten years too, can expand it without having installed anything.
(zstd is quicker, but a payload is at most a few megabytes, and most are far below the size from which compressing pays at
all.)

Expanding stops at a limit that no payload of ours exceeds, before the memory is taken: 100 MB of zeros compress to 97 KB.
"""

from __future__ import annotations

import zlib
from typing import Final

from everstep.errors import UsageError

EXPANDED_BYTES_MAX: Final = 16 << 20
"""Far above the limit on values (2 MiB) and on described errors. What is larger is stored as it is."""
BYTES_MIN_DEFAULT: Final = 1024
LEVEL_DEFAULT: Final = 6
"""zlib's own: on JSON of 100 KB its output is a fifth smaller than that of level 1, for three times the time."""


class Compression:
    """Compress payloads that are large enough for it.

    Args:
        min_bytes: Smaller ones are left as they are: below about a kilobyte nothing is gained.
        level: 1 (quick) to 9 (small).
    """

    __slots__ = ("level", "min_bytes")

    def __init__(self, min_bytes: int = BYTES_MIN_DEFAULT, *, level: int = LEVEL_DEFAULT) -> None:
        if min_bytes < 0 or not 1 <= level <= 9:
            raise UsageError(f"Compression(min_bytes={min_bytes!r}, level={level!r}): give at least 0 bytes, and level 1 to 9.")
        self.min_bytes = min_bytes
        self.level = level

    def __repr__(self) -> str:
        return f"Compression(min_bytes={self.min_bytes}, level={self.level})"

    def compress(self, data: bytes) -> bytes | None:
        """Smaller bytes; None if that is not worth it."""
        if not self.min_bytes <= len(data) <= EXPANDED_BYTES_MAX:
            return None
        packed = zlib.compress(data, self.level)
        # A quarter less, or it does not outweigh base64.
        return packed if 4 * len(packed) < 3 * len(data) else None


def expand(packed: bytes) -> bytes:
    """What was compressed.

    Raises:
        ValueError: It is no such thing, is cut off, or would grow beyond the limit.
    """
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, EXPANDED_BYTES_MAX)
    except zlib.error as error:
        raise ValueError(f"it cannot be expanded ({error})") from None
    if not stream.eof and len(data) == EXPANDED_BYTES_MAX:
        data += stream.decompress(stream.unconsumed_tail, 1)
        if len(data) > EXPANDED_BYTES_MAX:
            raise ValueError(f"it expands to more than {EXPANDED_BYTES_MAX:,} bytes")
    if not stream.eof or stream.unused_data:
        raise ValueError("its end is missing, or something follows it")
    return data
