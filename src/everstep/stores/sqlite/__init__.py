"""A store in one SQLite file: no server, several processes of one machine, each commit on disk before it is acknowledged."""

from everstep.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
