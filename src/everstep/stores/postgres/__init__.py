"""A store in a PostgreSQL database: many workers on many machines, which take over from one another by themselves."""

from everstep.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
