"""
Record the store that every later version has to be able to open: its tables, and runs in flight.

    python -m tests.golden.record

Until the first release the schema changes in place, and whoever changes it runs this again. After the release the files are
never recorded anew: a change of the schema is then a migration.
"""

from __future__ import annotations

import asyncio
import io
import socket
import tempfile
from pathlib import Path
from typing import Any, cast

import apsw
import apsw.shell

import everstep as es
from everstep.records import Status
from everstep.stores.sqlite import schema
from tests.stores import moving_program as program

HERE = Path(__file__).parent
SQLITE = HERE / "store_v1.sql"
POSTGRES = HERE / "schema_v1_postgres.sql"
MARKS = "PRAGMA application_id = {}; PRAGMA user_version = {};\n"
"""A dump leaves these out."""


def postgres_schema() -> str:
    """All statements that make version 1 there."""
    from everstep.stores.postgres import schema as postgres

    return "\n".join(str(statement) for statement in postgres.MIGRATIONS[0].pre)


async def furnish(url: str) -> None:
    """Runs at rest, asleep, waiting for a signal and for a child, cut, forked, failed and queued; and a signal unread."""
    async with es.Engine(url, workflows=program.WORKFLOWS) as engine:
        await (await engine.start(program.roomy(), id="roomy")).result()
        await (await engine.handle("roomy").fork(id="roomy-fork")).result()
        await engine.start(program.broken(), id="broken")
        await program.until(engine, "broken", Status.FAILED)
        await engine.start(program.sleeper(86400), id="sleeper")
        await engine.start(program.parent(), id="parent")
        await engine.start(program.ticker(0), id="ticker")
        for run_id in ("sleeper", "parent", "parent/0:1", "ticker"):
            await program.until(engine, run_id, Status.WAITING)
    async with es.Client(url) as client:
        await client.start(program.ticker(3), id="queued")
        await client.handle("queued").send(program.go, "early")


def dump(path: Path) -> str:
    """A store as SQL."""
    connection = apsw.Connection(str(path))
    out = io.StringIO()
    cast(Any, apsw.shell.Shell(db=connection, stdout=out)).process_command(".dump")
    connection.close()
    statements = [line for line in out.getvalue().splitlines() if not line.startswith("--")]
    return MARKS.format(schema.APPLICATION_ID, 1) + "\n".join(statements) + "\n"


def main() -> None:
    """Record both. Nothing in them says where."""
    socket.gethostname = lambda: "golden"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        asyncio.run(furnish(f"sqlite:///{path}"))
        SQLITE.write_text(dump(path), encoding="utf-8")
    POSTGRES.write_text(postgres_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
