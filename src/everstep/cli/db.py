"""``everstep db``: look after a store as a whole."""

from __future__ import annotations

import click

from everstep.cli.prune import command as prune


@click.group(name="db")
def command() -> None:
    """Look after the store: forget old runs."""


command.add_command(prune)
