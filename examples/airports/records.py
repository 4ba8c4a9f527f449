"""
One airport: what the file says, what we accept, what we load. Pure functions over values; everstep is not mentioned here.

A record is refused with a reason that a person can act on; nothing is guessed and nothing is dropped in silence. A record
that is accepted is put in order: metres, coordinates that name a cell, the time zone's offset from UTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

METRES_PER_FOOT = 0.3048
# The lowest airfield lies by the Dead Sea (-1,266 ft), the highest in Tibet (14,472 ft), with some room on both sides.
ELEVATION_FEET = (-1_400.0, 15_500.0)
# A fixed day, so that the same file always gives the same rows; offsets of most zones do change with the years.
MIDWINTER = datetime(2026, 1, 15, 12, tzinfo=UTC)
MIDSUMMER = datetime(2026, 7, 15, 12, tzinfo=UTC)
CELL_LENGTH = 5
_BASE32 = "0123456789bcdefghjkmnpqrstuvwxyz"


@dataclass(frozen=True)
class Airport:
    """An airport as it is loaded.

    Attributes:
        icao: ICAO location indicator, or the national code of a field that has none: four characters.
        iata: Three letters; None for most.
        name: Official name.
        city: Nearest town; None where nobody lives.
        region: State, province or the like; None where the country has none.
        country: ISO 3166-1 alpha-2.
        elevation_m: Metres above mean sea level, to the decimetre.
        latitude: Degrees north.
        longitude: Degrees east.
        cell: Geohash of five characters, about 5 km wide: neighbours share a prefix.
        timezone: IANA name.
        utc_offset_min: Minutes east of UTC in January 2026.
        summer_shift_min: How many minutes the offset differs in July 2026; 0 where clocks are left alone.
    """

    icao: str
    iata: str | None
    name: str
    city: str | None
    region: str | None
    country: str
    elevation_m: float
    latitude: float
    longitude: float
    cell: str
    timezone: str
    utc_offset_min: int
    summer_shift_min: int


@dataclass(frozen=True)
class Reject:
    """A record that is not loaded: its line in the file (from 2, line 1 is the header), its code and every reason."""

    line: int
    icao: str
    reasons: tuple[str, ...]


def faults(record: Mapping[str, str]) -> tuple[str, ...]:
    """Say everything that is wrong with a record, as ``field: reason``; empty if it can be loaded."""
    checks = {
        "icao": _pattern(record["icao"], r"[A-Z0-9]{4}", "four letters or digits"),
        "iata": _pattern(record["iata"], r"([A-Z]{3})?", "three letters or nothing"),
        "country": _pattern(record["country"], r"[A-Z]{2}", "two letters"),
        "name": _text(record["name"]),
        "elevation": _number(record["elevation"], *ELEVATION_FEET),
        "lat": _number(record["lat"], -90.0, 90.0),
        "lon": _number(record["lon"], -180.0, 180.0),
        "tz": "" if _zone(record["tz"]) else "not a known time zone",
    }
    return tuple(f"{field}: {reason}" for field, reason in checks.items() if reason)


def airport(record: Mapping[str, str]) -> Airport:
    """Put an accepted record in order.

    Raises:
        ValueError: The record has faults; ask ``faults`` first.
    """
    zone = _zone(record["tz"])
    if zone is None:
        raise ValueError(f"{record['icao']}: {record['tz']!r} is not a known time zone; check the record with faults() first")
    latitude, longitude = float(record["lat"]), float(record["lon"])
    winter, summer = _offset_min(zone, MIDWINTER), _offset_min(zone, MIDSUMMER)
    return Airport(
        icao=record["icao"],
        iata=record["iata"] or None,
        name=_tidy(record["name"]),
        city=_tidy(record["city"]) or None,
        region=_tidy(record["subd"]) or None,
        country=record["country"],
        elevation_m=round(float(record["elevation"]) * METRES_PER_FOOT, 1),
        latitude=latitude,
        longitude=longitude,
        cell=cell(latitude, longitude),
        timezone=record["tz"],
        utc_offset_min=winter,
        summer_shift_min=summer - winter,
    )


def cell(latitude: float, longitude: float, length: int = CELL_LENGTH) -> str:
    """Name the cell that a point lies in (geohash, G. Niemeyer 2008): halve the longitude, then the latitude, and so on."""
    south, north, west, east = -90.0, 90.0, -180.0, 180.0
    bits = 0
    for turn in range(length * 5):
        bits <<= 1
        if turn % 2 == 0:
            middle = (west + east) / 2
            west, east, bits = (middle, east, bits | 1) if longitude >= middle else (west, middle, bits)
        else:
            middle = (south + north) / 2
            south, north, bits = (middle, north, bits | 1) if latitude >= middle else (south, middle, bits)
    return "".join(_BASE32[bits >> shift & 31] for shift in range(5 * (length - 1), -1, -5))


def _pattern(text: str, pattern: str, wanted: str) -> str:
    return "" if re.fullmatch(pattern, text) else f"{text!r} is not {wanted}"


def _text(text: str) -> str:
    if not text.strip():
        return "is missing"
    # A question mark in a name is what is left of a letter that some earlier program could not write ("L?liang").
    return f"{text!r} lost a letter" if "?" in text or "\ufffd" in text else ""


def _number(text: str, low: float, high: float) -> str:
    try:
        number = float(text)
    except ValueError:
        return f"{text!r} is not a number"
    return "" if low <= number <= high else f"{text} lies outside {low:g} to {high:g}"


def _tidy(text: str) -> str:
    return " ".join(text.split())


@cache
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown; not a legal key; "" is a directory
        return None


def _offset_min(zone: ZoneInfo, moment: datetime) -> int:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None, "a ZoneInfo always knows its offset"
    return round(offset.total_seconds() / 60)
