"""
The witness: a row in the user's own database that says that a step has had its effect there, written in the same transaction.

    BEGIN ─▶ is the row there? ── yes ─▶ its result is the step's; the body is not run
                  │ no
                  └▶ insert it, unfilled ─▶ body ─▶ fill in the result ─▶ COMMIT

The row is inserted first, so that a worker that woke up late and the one that took its place do not both run the body: the
second waits at the row, and finds it filled in. What the journal records comes afterwards, and may be lost with the worker: the
next execution finds the row.

The key names the run by what no other run ever has (``StepScope.run_token``), not by its id: an id that is used again never
sees the rows of the run that had it before.

This module does no I/O: ``exactly_once`` says what to do next, and a session does it, blocking or not.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from everstep.errors import EverstepError, UsageError

TABLE: Final = """
CREATE TABLE IF NOT EXISTS everstep_witness(
    run VARCHAR(64) NOT NULL,
    step VARCHAR(255) NOT NULL,
    result TEXT,
    run_id VARCHAR(255) NOT NULL,
    name VARCHAR(255) NOT NULL,
    at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (run, step)
)
"""
EXISTS: Final = "SELECT 1 FROM everstep_witness WHERE 1 = 0"
LOOK: Final = "SELECT result FROM everstep_witness WHERE run = :run AND step = :step"
INSERT: Final = "INSERT INTO everstep_witness(run, step, run_id, name) VALUES (:run, :step, :run_id, :name)"
FILL: Final = "UPDATE everstep_witness SET result = :result WHERE run = :run AND step = :step"

TRIES: Final = 5
"""How often to look again after somebody else's row was in the way, or an idle connection turned out to be dead."""


@dataclass(frozen=True, slots=True)
class Key:
    """Which execution of which step: the bindings of the statements above."""

    run: str
    step: str
    run_id: str
    name: str

    @property
    def row(self) -> dict[str, str]:
        """What names the row."""
        return {"run": self.run, "step": self.step}

    @property
    def whole(self) -> dict[str, str]:
        """What is inserted."""
        return {**self.row, "run_id": self.run_id, "name": self.name}


class Do(Enum):
    """What a session does by itself."""

    BEGIN = "begin"
    RUN_BODY = "run the body; its encoded result is the answer"
    CHECK = "raise if the transaction is no more, or nobody wants its result any more"
    COMMIT = "commit"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Ask:
    """A statement; the answer is its first row, or None."""

    statement: str
    bindings: dict[str, str]


Act: TypeAlias = Do | Ask


class Duplicate(EverstepError):
    """Raised into ``exactly_once`` at its INSERT: somebody else's row is there."""


def exactly_once(key: Key) -> Generator[Act, Any, str]:
    """What to do, one act after the other; returns the encoded result. Any other error ends it, and the transaction with it.

    Raises:
        UsageError: An earlier execution committed by itself, before its result was known.
    """
    for _ in range(TRIES):
        yield Do.BEGIN
        found = yield Ask(LOOK, key.row)
        if found is not None:
            yield Do.ROLL_BACK
            return _result_of(found, key)
        try:
            yield Ask(INSERT, key.whole)
        except Duplicate:
            yield Do.ROLL_BACK
            continue
        result: str = yield Do.RUN_BODY
        yield Do.CHECK
        yield Ask(FILL, {**key.row, "result": result})
        yield Do.COMMIT
        return result
    raise UsageError(
        f"the witness row of step {key.name} of run {key.run_id} was there and gone {TRIES} times. The body was not run. Look "
        "for what deletes rows of everstep_witness."
    )


def _result_of(row: Any, key: Key) -> str:
    (result,) = row
    if result is None:
        raise UsageError(
            f"step {key.name} of run {key.run_id} has committed by itself in an earlier execution, before its result was "
            "known. It was not run again: part of its effect is there. Take COMMIT out of its body, repair the data by hand, "
            f"and delete its row from everstep_witness (run {key.run}, step {key.step})."
        )
    return str(result)


def with_percents(statement: str) -> str:
    """The statement with the bindings written as psycopg wants them. Pure."""
    return re.sub(r":(\w+)", r"%(\1)s", statement)
