"""
The filter language of every list: ``status:failed,dead workflow:checkout id:order-* since:1h``. Pure.

Keys are a closed list and values are only ever bound, so nothing that is typed here can become part of a query.
"""

from __future__ import annotations

import difflib
import re
import shlex
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from everstep.errors import UsageError
from everstep.ids import check_name
from everstep.records import Micros, Status

KEYS = ("status", "workflow", "id", "since", "queue", "key")
_RUN_ID_PART = re.compile(r"[A-Za-z0-9._:@=+/-]*")  # a child's id has slashes
_RUN_ID_CHARS_MAX = 2000  # so have theirs, so they are longer than what a caller may choose
_AGE = re.compile(r"(\d{1,9})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Filter(Struct, frozen=True, kw_only=True):
    """What was asked for.

    Attributes:
        statuses: Any of these; empty for all.
        workflow: Exactly this name; empty for all.
        id_prefix: Ids that begin so.
        id_exact: Only the id that is the prefix itself.
        created_from: Not older than this; None for any age.
        queue: Exactly this queue; empty for all.
        key: Exactly this key in its queue; empty for all.
    """

    statuses: tuple[Status, ...] = ()
    workflow: str = ""
    id_prefix: str = ""
    id_exact: bool = False
    created_from: Micros | None = None
    queue: str = ""
    key: str = ""

    def admits(self, run_id: str) -> bool:
        """What the store cannot decide: whether an id is exactly the one asked for."""
        return not self.id_exact or run_id == self.id_prefix


def parse_filter(text: str, now: Micros) -> Filter:
    """Read a filter.

    Args:
        text: Words ``key:value``; a word without a key is the beginning of a run id.
        now: What ``since:1h`` counts from.

    Raises:
        UsageError: An unknown key or a value that means nothing; says which are allowed.
    """
    given: dict[str, str] = {}
    for word in _words(text):
        key, value = _split(word)
        if key in given and key != "status":
            raise UsageError(f"filter: {key} is given twice. Nothing was listed. Give it once.")
        given[key] = f"{given[key]},{value}" if key in given else value
    prefix, exact = _run_id(given.get("id", "*"))
    return Filter(
        statuses=_statuses(given["status"]) if "status" in given else (),
        workflow=check_name(given["workflow"], "workflow") if "workflow" in given else "",
        id_prefix=prefix,
        id_exact=exact,
        created_from=_since(given["since"], now) if "since" in given else None,
        queue=check_name(given["queue"], "queue") if "queue" in given else "",
        key=given.get("key", ""),
    )


def parse_age(text: str, option: str) -> timedelta:
    """An age such as ``30d``.

    Args:
        text: What was typed.
        option: Where, for the error.

    Raises:
        UsageError: It is none.
    """
    age = _AGE.fullmatch(text)
    if age is None:
        raise UsageError(f"{option}: {ascii(text[:40])[1:-1]} is no age. Nothing was done. Write 90s, 15m, 2h, 30d or 4w.")
    return timedelta(seconds=int(age[1]) * _SECONDS[age[2]])


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"filter: {str(error).lower()}. Nothing was listed. Close the quotation mark.") from error


def _split(word: str) -> tuple[str, str]:
    key, colon, value = word.partition(":")
    if not colon:
        return "id", f"{word.removesuffix('*')}*"
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"filter: unknown key {key[:40]!a}. Nothing was listed.{meant} Allowed keys: {', '.join(KEYS)}.")
    if not value:
        raise UsageError(f"filter: {key}: has no value. Nothing was listed. Write {key}:something.")
    return key, value


def _statuses(value: str) -> tuple[Status, ...]:
    names = {status.value: status for status in Status}
    wanted = dict.fromkeys(value.split(","))
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise UsageError(f"filter: there is no status {unknown[0][:40]!a}. Nothing was listed. Allowed: {', '.join(names)}.")
    return tuple(names[name] for name in wanted)


def _run_id(value: str) -> tuple[str, bool]:
    prefix = value.removesuffix("*")
    if len(prefix) > _RUN_ID_CHARS_MAX or not _RUN_ID_PART.fullmatch(prefix):
        raise UsageError(
            f"filter: id:{ascii(value[:40])[1:-1]} is no run id. Nothing was listed. "
            "Write id:order-7, or id:order-* for all that begin so."
        )
    return prefix, prefix == value


def _since(value: str, now: Micros) -> Micros:
    age = _AGE.fullmatch(value)
    if age:
        return max(0, now - int(age[1]) * _SECONDS[age[2]] * 1_000_000)
    try:
        moment = datetime.fromisoformat(value)
        aware = moment.astimezone() if moment.tzinfo is None else moment
    except (ValueError, OverflowError):
        raise UsageError(
            f"filter: since:{ascii(value[:40])[1:-1]} is no time. Nothing was listed. "
            "Write since:90s, 15m, 2h, 7d, 4w or since:2031-05-17T09:00."
        ) from None
    return max(0, round((aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6))
