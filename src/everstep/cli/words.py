"""Numbers and instants as people read them. Pure: the present is an argument."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from everstep.records import Micros

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def duration(micros: Micros) -> str:
    """A length of time in the two units that matter: ``12 ms``, ``1.84s``, ``38s``, ``8m 04s``, ``3h 51m``, ``2d 03h``."""
    seconds = max(0, micros) / 1e6
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def clock(at: Micros, now: Micros) -> str:
    """An instant in the reader's own time zone; the date only where it is another day."""
    local, today = _local(at), _local(now)
    return local.strftime("%H:%M:%S" if local.date() == today.date() else "%Y-%m-%d %H:%M")


def micros(at: datetime) -> Micros:
    """An aware datetime as the store counts."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def iso(at: Micros) -> str:
    """An instant for programs: UTC, microseconds, ISO 8601."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def count(number: int, noun: str) -> str:
    """``1 run``, ``2,000 runs``, ``2 entries``."""
    plural = noun if number == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {plural}"


def size(number: int) -> str:
    """A number of bytes: ``512 B``, ``4.0 kB``, ``1.2 MB``."""
    value, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"


def shortened(text: str, chars_max: int) -> str:
    """The text, cut with an ellipsis where it is longer."""
    return text if len(text) <= chars_max else text[: max(0, chars_max - 1)] + "…"


def _local(at: Micros) -> datetime:
    try:
        return (_EPOCH + timedelta(microseconds=at)).astimezone()
    except (OverflowError, ValueError, OSError):  # Beyond what the platform's calendar knows.
        return _EPOCH + timedelta(microseconds=min(max(at, 0), 2**55))
