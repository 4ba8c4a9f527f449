"""``everstep db``: look after a store as a whole."""

from __future__ import annotations

import click

from everstep.cli.db_check import command as check
from everstep.cli.db_copy import command as copy
from everstep.cli.db_migrate import command as migrate
from everstep.cli.db_status import command as status
from everstep.cli.prune import command as prune


@click.group(name="db")
def command() -> None:
    """Look after the store as a whole."""


for _each in (status, migrate, check, copy, prune):
    command.add_command(_each)
