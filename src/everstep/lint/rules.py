"""
The rules of ``everstep check``, as a table: what is wrong, and what to do instead.

The first letter of an id is its level: ``E`` breaks a run or its replay, ``W`` probably hides something, ``H`` is advice that
is given only on request. An id that was released is never used for anything else: it stands in people's comments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"
    HINT = "hint"


LEVELS: Mapping[str, Level] = {"E": Level.ERROR, "W": Level.WARNING, "H": Level.HINT}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        id: A letter for the level, two digits.
        what: What is wrong, to be put behind what was found: ``time.time() in workflow checkout`` + `` reads the clock``.
        instead: What to do, a sentence.
    """

    id: str
    what: str
    instead: str

    @property
    def level(self) -> Level:
        """How bad it is."""
        return LEVELS[self.id[0]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A place where a rule is broken.

    Attributes:
        rule: The rule.
        line: From 1.
        column: In characters, from 1.
        end_line: Where the expression ends: an ignore may stand there too.
        what: What was found there, and what is wrong with it.
    """

    rule: Rule
    line: int
    column: int
    end_line: int
    what: str


UNREADABLE = Rule("E00", "cannot be checked", "Correct it: nothing else in this file was looked at.")
CLOCK = Rule("E01", "reads the clock, which says something else on replay", "Use es.now().")
CHANCE = Rule("E02", "is random, and differs on replay", "Use es.random() or es.uuid4(), or random.Random(seed) made here.")
THREAD = Rule("E03", "leaves the workflow's loop for a thread or a process", "Do it in a step: a plain def runs in a thread.")
NETWORK = Rule("E04", "talks to another system", "Do it in a step: its result is recorded.")
FILE = Rule("E05", "touches the file system", "Do it in a step: its result is recorded.")
SURROUNDINGS = Rule("E06", "depends on the process it runs in", "Pass it as an argument of the workflow, or read it in a step.")
BLOCKING = Rule("E07", "blocks every run of this worker", "Use await es.sleep(...), which is durable.")
SET_ORDER = Rule("E08", "goes through a set, whose order differs between processes", "Go through sorted(...), or keep a list.")
LISTING = Rule("E09", "lists a directory, in any order", "List it in a step that returns sorted names.")
IDENTITY = Rule("E10", "differs between processes", "Use a key of your own, or hashlib.")
SHARED_STATE = Rule(
    "E11",
    "changes state that outlives the run, and again on each replay",
    "Keep it in a local variable, or change it in a step.",
)
LOOP = Rule("E12", "starts or seeks an event loop or engine of its own", "Await the call: the workflow's loop drives it.")
NOT_AWAITED = Rule(
    "E13", "is never awaited, so nothing happens", "Write await in front, or give it to asyncio.create_task(...)."
)
CONDITION = Rule("E14", "is used as a value, but it is a call that was not made yet", "Write await in front of it.")
SWALLOWED = Rule(
    "W15",
    "hides that a step failed, and errors of your own code as well",
    "Catch es.StepFailed, name the errors that you expect, or raise again.",
)
GATHER = Rule(
    "H16",
    "lets the other steps go on, unseen, when one fails",
    "Use es.gather, es.map or asyncio.TaskGroup, which cancel them, or return_exceptions=True.",
)
NOT_ASYNC = Rule("E17", "is a def, so it can wait for nothing", "Write async def.")
MUTABLE_DEFAULT = Rule("E18", "is one object for all runs and replays of this process", "Use None or a tuple as the default.")
PRINTS = Rule("W19", "says it again on every replay", "Use es.log, which says it once.")
STEP_IN_STEP = Rule(
    "E20", "is refused when it runs: a step is one recorded unit", "Call it from the workflow, or call its .function(...)."
)
BAD_IGNORE = Rule("E21", "does not count", "Write: # everstep: ignore[E05] and why.")

RULES: Mapping[str, Rule] = {
    rule.id: rule
    for rule in (
        UNREADABLE,
        CLOCK,
        CHANCE,
        THREAD,
        NETWORK,
        FILE,
        SURROUNDINGS,
        BLOCKING,
        SET_ORDER,
        LISTING,
        IDENTITY,
        SHARED_STATE,
        LOOP,
        NOT_AWAITED,
        CONDITION,
        SWALLOWED,
        GATHER,
        NOT_ASYNC,
        MUTABLE_DEFAULT,
        PRINTS,
        STEP_IN_STEP,
        BAD_IGNORE,
    )
}
