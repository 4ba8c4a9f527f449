"""Journals that somebody has altered who can write to the database, and knows how to seal an entry."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

from everstep.journal import GENESIS, Entry, seal_bytes

TRICKS: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 10**40, 1e308, "", "x", "\u2028", "\ud7ff", "0:0", "9:9", "~:1", [], {}, [[]], [{}]),
    *({"$type": "os.system", "value": "true"}, {"py/object": "os.system"}, {"lc": 1, "id": ["os", "system"]}, "builtins.eval"),
    *({"event": "RunCreated"}, {"event": "RunSucceeded", "result": 1}, {"event": "Nonsense"}),
)
ENOUGH = 400
"""Levels of nesting above what anything of ours writes, and below what Python's own parser refuses."""


def forged(entries: Sequence[Entry], chance: random.Random) -> list[Entry]:
    """The journal with something altered, and its chain sealed anew from there."""
    events = [json.loads(entry.events) for entry in entries]
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        _alter(events, chance)
    made: list[Entry] = []
    previous = GENESIS
    for entry, each in zip(entries, events, strict=False):
        data = json.dumps(each, separators=(",", ":")).encode()
        entry = seal_bytes(previous, entry.run_key, entry.version, entry.epoch, entry.at, entry.drained, data, keep_whole=True)
        made.append(entry)
        previous = entry.hash
    return made


def _alter(events: list[Any], chance: random.Random) -> None:
    place = chance.randrange(len(events))
    entry = _list(events[place])
    act = chance.randrange(7)
    if act == 0:
        events[place] = deepcopy(chance.choice(TRICKS))
    elif not entry or act > 4:
        _alter_within(events[place], chance)
    elif act == 1:
        del entry[chance.randrange(len(entry))]
    elif act == 2:
        entry.insert(chance.randrange(len(entry) + 1), deepcopy(chance.choice(entry)))
    elif act == 3:
        entry.append(deepcopy(chance.choice(_list(chance.choice(events)) or entry)))
    else:
        chance.shuffle(entry)


def _alter_within(value: Any, chance: random.Random) -> None:
    """Change one thing somewhere in a value, in place."""
    while places := _places(value):
        place = chance.choice(places)
        if not _places(value[place]) or chance.random() < 0.3:
            match chance.randrange(4):
                case 0:
                    del value[place]
                case 1:
                    value[place] = _deep(ENOUGH)
                case _:
                    value[place] = deepcopy(chance.choice(TRICKS))
            return
        value = value[place]


def _places(value: Any) -> list[Any]:
    """The keys or indexes of what has some."""
    return list(cast(dict[str, Any], value)) if isinstance(value, dict) else list(range(len(_list(value))))


def _list(value: Any) -> list[Any]:
    """The value, if it is a list."""
    return value if type(value) is list else []  # pyright: ignore[reportUnknownVariableType]  # JSON is anything


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value
