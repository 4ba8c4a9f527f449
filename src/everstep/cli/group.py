"""
Which verbs there are. A verb's module is imported when the verb is used, so that ``everstep --help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

from everstep.cli.options import version_option


class Verb(NamedTuple):
    """Where a verb is, what its line in the help says, and what the module calls it."""

    module: str
    help: str
    attribute: str = "command"


VERBS: Mapping[str, Verb] = {
    "demo": Verb("demo", "See a checkout be killed and resumed, in five seconds."),
    "runs": Verb("runs", "List runs, newest first."),
    "show": Verb("show", "Tell what one run did and what it is doing."),
    "watch": Verb("watch", "Follow a run to its end; the exit code is its outcome."),
    "state": Verb("state", "Print a run's state at any version, or what changed."),
    "start": Verb("start", "Start a run of a workflow."),
    "signal": Verb("signalling", "Send a signal to a run."),
    "ask": Verb("ask", "Send a request to a run and print its answer."),
    "cancel": Verb("cancel", "Ask runs to stop; they may clean up."),
    "pause": Verb("repair", "Let runs stop where they are.", "pause"),
    "resume": Verb("repair", "Let paused runs go on.", "resume"),
    "retry": Verb("repair", "Reopen failed or dead runs; what they finished is kept.", "retry"),
    "discard": Verb("repair", "Give failed, dead or paused runs up for good.", "discard"),
    "fork": Verb("fork", "Start a run that shares another's history up to a version."),
    "compare": Verb("compare", "Put two runs side by side."),
    "dead": Verb("dead", "List dead letters by cause; requeue or discard them."),
    "queues": Verb("queues", "List the queues; pause, resume or change one."),
    "worker": Verb("worker", "Drive runs until told to stop."),
    "workers": Verb("workers", "List the workers; ask one to leave."),
    "check": Verb("check", "Find what would make workflow code differ on replay."),
    "replay": Verb("replay", "Hold today's code to the journals of runs."),
    "verify": Verb("verify", "Check the hash chains of journals."),
    "db": Verb("db", "Look after the store: status, migrate, check, copy, prune."),
}
ALIASES: Mapping[str, str] = {"ls": "runs"}


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order in which they are told."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        del ctx
        verb = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if verb is None:
            return None
        command: Any = getattr(import_module(f"everstep.cli.{verb.module}"), verb.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs."""
        del ctx
        aliases = {name: f" (alias: {alias})" for alias, name in ALIASES.items()}
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.help + aliases.get(name, "")) for name, verb in VERBS.items()])


EPILOG = (
    "The store is --store, else EVERSTEP_URL, else .everstep/state.db in this directory. "
    "Exit codes: 0 done, 1 the run did not succeed, 2 usage, 3 store, 4 not found, 5 refused, 6 timed out, 130 interrupted."
)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@version_option
@click.option("--store", metavar="URL", help="The store of the verb that follows.")
@click.pass_context
def app(ctx: click.Context, store: str | None) -> None:
    """Durable execution for Python: look at runs, start and stop them, drive them."""
    ctx.obj = store
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
