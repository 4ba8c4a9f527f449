"""The store of the tests of the command line, with runs of every kind."""

from tests.cli.conftest import place, seeded

__all__ = ["place", "seeded"]
