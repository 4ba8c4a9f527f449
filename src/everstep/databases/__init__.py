"""Transactions in other SQL databases than the store: their effect is there exactly once, thanks to a witness row."""

from everstep.databases.database import Database, DatabaseTransaction, database

__all__ = ["Database", "DatabaseTransaction", "database"]
