"""
Who may do what: the statements that give an engine just enough, and a reader less.

    python -m everstep.stores.postgres.roles --engine orders_engine --reader orders_reader | psql orders

    owner     made the tables, by opening the store once (``everstep runs --store postgresql://owner@…``); migrates them, and
              forgets old runs (``everstep db prune --store postgresql://owner@…``)
    engine    what programs connect as: it can start, drive and message runs, and can neither change nor delete an entry
    reader    what dashboards connect as: it sees which runs there are and how they stand, and no payload
    auditor   sees what runs did and published, too: arguments, results, states (sealed, if they are encrypted)

The roles have to exist (CREATE ROLE … LOGIN PASSWORD …). Safe to repeat; do so after an upgrade that made new tables.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Final

from everstep.errors import UsageError
from everstep.stores.postgres.address import SCHEMA_DEFAULT

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")

# A row of the inbox never changes but for the reply that it gets, and a run is never forgotten by who drives it.
_ENGINE: Final = """
GRANT USAGE ON SCHEMA everstep TO engine;
GRANT SELECT ON everstep.meta TO engine;
GRANT SELECT ON everstep.anchors TO engine;
GRANT USAGE ON everstep.run_keys, everstep.worker_keys TO engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON everstep.workers, everstep.attempts TO engine;
GRANT SELECT, INSERT, UPDATE ON everstep.runs, everstep.queues TO engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON everstep.admissions, everstep.passed TO engine;
GRANT SELECT, INSERT ON everstep.inbox, everstep.journal TO engine;
GRANT SELECT, INSERT ON everstep.blobs TO engine;
GRANT SELECT, INSERT, DELETE ON everstep.guards TO engine;
GRANT SELECT ON everstep.overview, everstep.history, everstep.states TO engine;
REVOKE UPDATE, DELETE, TRUNCATE ON everstep.journal, everstep.inbox, everstep.blobs FROM engine;
GRANT UPDATE (reply) ON everstep.inbox TO engine;
"""
_AUDITOR: Final = """
GRANT USAGE ON SCHEMA everstep TO auditor;
GRANT SELECT ON everstep.overview, everstep.history, everstep.states TO auditor;
"""
_READER: Final = """
GRANT USAGE ON SCHEMA everstep TO reader;
GRANT SELECT ON everstep.overview TO reader;
"""


def statements(schema: str = SCHEMA_DEFAULT, engine: str = "", reader: str = "", auditor: str = "") -> str:
    """The statements for a role that drives runs and two that look at them; an empty name leaves one out.

    Raises:
        UsageError: A name is none that needs no quotes (lower case letters, digits and underscores).
    """
    for name in (schema, engine or "_", reader or "_", auditor or "_"):
        if not _NAME.fullmatch(name):
            raise UsageError(f"{ascii(name)[:80]} is no plain name. Nothing was granted. Use lower case letters, digits and _.")
    given = [(_ENGINE, "engine", engine), (_READER, "reader", reader), (_AUDITOR, "auditor", auditor)]
    return "".join(
        re.sub(rf"\b{role}\b(?=;)", f'"{name}"', re.sub(r"\beverstep\b", f'"{schema}"', text))
        for text, role, name in given
        if name
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the statements."""
    parser = argparse.ArgumentParser(prog="python -m everstep.stores.postgres.roles", description="Print GRANT statements.")
    parser.add_argument("--schema", default=SCHEMA_DEFAULT)
    parser.add_argument("--engine", default="", metavar="ROLE", help="drives runs; cannot change what is recorded")
    parser.add_argument("--reader", default="", metavar="ROLE", help="sees runs without their payloads")
    parser.add_argument("--auditor", default="", metavar="ROLE", help="sees runs with their payloads")
    given = parser.parse_args(arguments)
    try:
        sys.stdout.write(statements(given.schema, given.engine, given.reader, given.auditor))
    except UsageError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
