"""
How a schema gets from one version to the next while workers of both are at work. Pure: stores do what is planned here.

A migration is a pair. Its *pre* part only adds, so that workers of the version before do not notice it; workers of the new
version may begin as soon as it is there. Its *post* part takes away, fills in and tightens, and waits until no worker of the
version before is left. In between both share the schema:

    version     1 ────────────▶ 2, pre ────────────────▶ 2, done ────────────▶ 3, pre ─ …
    workers     1 only          1 and 2                  2 only                2 and 3
                        pre 2             post 2                     pre 3

So at most one migration is unfinished at a time, and before the next one begins it is finished. ``min_version`` stands in the
schema and says which code may use it, so that a release that is older than a migration knows what it has to know about it.
Code has to work with its own version of the schema before and after *post*.

A *stage* is one part of one migration. It is taken whole, in one transaction, or (PostgreSQL builds indexes beside work that
goes on only outside of transactions) in several steps that are counted in the schema: whoever comes next goes on there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from everstep.errors import SchemaMismatch

Phase: TypeAlias = Literal["pre", "done"]
Part: TypeAlias = Literal["pre", "post"]


class Index(Struct, frozen=True):
    """An index that PostgreSQL builds while others write. One that was left half built is dropped, and built anew.

    Attributes:
        name: Its name.
        create: The statement, with CONCURRENTLY.
        drop: The statement, with CONCURRENTLY.
    """

    name: str
    create: str
    drop: str


Action: TypeAlias = str | Index


class Migration(Struct, frozen=True):
    """One step from a version to the next.

    Attributes:
        number: The version that it leads to: 1, 2, 3, …
        title: What it does, in a sentence.
        pre: What only adds. New tables have names that begin with ``everstep_``.
        post: What must wait until no worker of the version before is left.
        is_shared: Workers of the version before may go on after ``pre``. Otherwise that waits for them, too.
    """

    number: int
    title: str
    pre: tuple[Action, ...]
    post: tuple[Action, ...] = ()
    is_shared: bool = True


class Stage(Struct, frozen=True):
    """One part of one migration."""

    migration: Migration
    part: Part

    @property
    def actions(self) -> tuple[Action, ...]:
        """What is to be done."""
        return self.migration.pre if self.part == "pre" else self.migration.post

    @property
    def min_version(self) -> int:
        """The oldest version whose workers may use the schema from the beginning of this stage on."""
        number = self.migration.number
        return number - 1 if self.part == "pre" and self.migration.is_shared else number

    @property
    def name(self) -> str:
        """``2 pre``: how it is called in the schema."""
        return f"{self.migration.number} {self.part}"


class SchemaState(Struct, frozen=True):
    """Where the schema of a store stands.

    Attributes:
        version: The migration whose ``pre`` was done last; 0 if there is nothing yet.
        phase: Whether its ``post`` is done, too.
        min_version: The oldest version of code that may use it.
        under_way: A stage that was begun and not ended, and how many of its actions are done: ``3 pre 2``.
        moved_to: Where its runs were moved, or are being moved; empty if they were not.
        is_moving: They are still on their way.
        is_filling: Runs are being moved here from elsewhere, and not all of them have arrived.
    """

    version: int = 0
    phase: Phase = "done"
    min_version: int = 0
    under_way: str = ""
    moved_to: str = ""
    is_moving: bool = False
    is_filling: bool = False

    def done_of(self, stage: Stage) -> int:
        """How many actions of a stage are done."""
        number, part, done = self.under_way.split() if self.under_way else ("", "", "0")
        return int(done) if f"{number} {part}" == stage.name else 0


class Old(Struct, frozen=True):
    """A worker that is alive and of a version that a stage has to wait for."""

    name: str
    schema_version: int


def plan(state: SchemaState, known: Sequence[Migration], *, finish: bool = False) -> list[Stage]:
    """What is to be done, in order. A stage that was begun is always ended.

    Args:
        state: Where the schema stands.
        known: All migrations, in order.
        finish: Also the ``post`` part of the newest. That of a store which is made anew is always done.
    """
    stages: list[Stage] = []
    version, is_done = state.version, state.phase == "done"
    for migration in known[state.version :]:
        if not is_done:
            stages.append(Stage(known[version - 1], "post"))
        stages.append(Stage(migration, "pre"))
        version, is_done = migration.number, False
    must_finish = finish or not state.version or state.under_way.startswith(f"{version} post ")
    if not is_done and 0 < version <= len(known) and must_finish:
        stages.append(Stage(known[version - 1], "post"))
    return stages


def after(stage: Stage) -> SchemaState:
    """Where the schema stands once a stage is done."""
    phase: Phase = "pre" if stage.part == "pre" else "done"
    return SchemaState(stage.migration.number, phase, stage.min_version)


def waits_for_workers(stage: Stage) -> bool:
    """Older workers have to be gone before this begins."""
    return stage.part == "post" or not stage.migration.is_shared


def refuse_unusable(state: SchemaState, known: int, where: str) -> None:
    """Return if code that knows migrations up to ``known`` may use a store that stands so. One that is behind may be migrated.

    Raises:
        SchemaMismatch: It may not.
    """
    if state.moved_to:
        raise _moved(state, where)
    if state.is_filling:
        raise SchemaMismatch(
            f"the store {where} is the target of a copy that has not come to its end. Nothing was read or written. Go on with "
            "the same command and --resume: everstep db copy SOURCE TARGET --resume"
        )
    refuse_newer(state, known, where)


def refuse_newer(state: SchemaState, known: int, where: str) -> None:
    """Return if code that knows migrations up to ``known`` understands what is there.

    Raises:
        SchemaMismatch: It does not.
    """
    is_next = state.version == known + 1 and state.phase == "pre"
    if state.min_version > known or (state.version > known and not is_next):
        raise SchemaMismatch(
            f"the store {where} has schema version {state.version} (for everstep that knows {state.min_version} or later), and "
            f"this everstep knows versions up to {known}. It was not touched. Upgrade everstep, or open the store with the "
            "version that wrote it."
        )


def refuse_behind(state: SchemaState, known: int, where: str) -> None:
    """Return if the schema is not older than the code.

    Raises:
        SchemaMismatch: It is.
    """
    if state.version < known:
        half = f" (the step {state.under_way.rpartition(' ')[0]} was begun)" if state.under_way else ""
        raise SchemaMismatch(
            f"the store {where} has schema version {state.version}{half}, and this everstep needs {known}. Nothing was read or "
            "written. Let the role that owns the tables bring it up to date, while workers go on: everstep db migrate --store "
            "postgresql://owner@…"
        )


class OldWorkers(SchemaMismatch):
    """A part of a migration has to wait for workers of the version before."""


def refuse_to_wait(stage: Stage, old: Sequence[Old], where: str) -> OldWorkers:
    """The error for a stage that has to wait for workers."""
    named = ", ".join(f"{each.name} (schema version {each.schema_version})" for each in old[:5])
    return OldWorkers(
        f"the store {where} cannot go on to step {stage.name} of its schema while older workers are alive: {named}. Nothing of "
        "that step was done. Stop them, or replace them by this version, and repeat: everstep db migrate --post (--force "
        "takes their runs from them)."
    )


def refuse_worker(where: str, known: int, min_version: int) -> SchemaMismatch:
    """The error for a worker that comes too late to a schema that has gone on."""
    return SchemaMismatch(
        f"the store {where} has gone on to schema version {min_version} since this process opened it, and this everstep knows "
        f"versions up to {known}. The worker was not enlisted and drives nothing. Restart it with the new version."
    )


def _moved(state: SchemaState, where: str) -> SchemaMismatch:
    if state.is_moving:
        return SchemaMismatch(
            f"the runs of the store {where} are being moved to {state.moved_to}. Nothing was read or written. Wait for the "
            "copy to end; if it was interrupted, everstep db copy SOURCE TARGET goes on with --resume, and stays here with "
            "--give-up."
        )
    return SchemaMismatch(
        f"the runs of the store {where} were moved to {state.moved_to}. Nothing was read or written. Open that store instead."
    )
