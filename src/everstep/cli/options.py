"""The options that verbs share, so that they are spelled and explained alike everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from everstep.cli.faults import NOT_FOUND, Refusal
from everstep.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

URL_VARIABLE = "EVERSTEP_URL"
DEFAULT_URL = "sqlite:///.everstep/state.db"
_STDIN_IDS_MAX = 1_000_000


def version_option(function: F) -> F:
    """``--version``, read from the installed package only when it is asked for."""
    option = click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Print the version and exit.",
    )
    return option(function)


def store_option(function: F) -> F:
    """``--store URL``, resolved: the verb's own, the group's, ``EVERSTEP_URL``, the default."""
    option = click.option(
        "--store",
        "url",
        metavar="URL",
        callback=_resolve_store,
        help=f"The store: sqlite:///file.db, or just a file. Default: {URL_VARIABLE}, else .everstep/state.db here.",
    )
    return option(function)


def json_option(function: F) -> F:
    """``--json`` of verbs that print one thing."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def yes_option(function: F) -> F:
    """``--yes`` of verbs that cannot be undone."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask. Needed where nobody can answer.")(function)


def timeout_option(function: F) -> F:
    """``--timeout`` of verbs that wait."""
    option = click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Give up waiting after so long (exit code 6). The run goes on.",
    )
    return option(function)


def run_argument(function: F) -> F:
    """``RUN``: the id of one run."""
    return click.argument("run", callback=_check_run)(function)


def could_exist(run_id: str) -> str:
    """Return the id, if a run may have it.

    Raises:
        Refusal: No run can: ids are ASCII, so the store need not be asked (and may not even be able to).
    """
    if run_id.isascii():
        return run_id
    raise Refusal(
        f"there is no run {run_id[:80]!a}: ids are ASCII. Nothing was changed. List what there is: everstep runs", NOT_FOUND
    )


def store_url(given: str | None) -> str:
    """The URL that was meant. A plain path means an SQLite file."""
    url = given or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    if "://" in url or url.startswith(("memory:", "sqlite:", "postgres")):
        return url
    return f"sqlite:///{Path(url).as_posix()}"


def read_ids(arguments: Sequence[str]) -> list[str]:
    """The run ids that were given; ``-`` stands for the lines of stdin. Each once, in order.

    Raises:
        UsageError: None was given.
    """
    ids = [run_id for argument in arguments for run_id in (_stdin_ids() if argument == "-" else (argument,))]
    if len(ids) > _STDIN_IDS_MAX:
        raise UsageError(f"more than {_STDIN_IDS_MAX:,} ids. Nothing was done. Give fewer at a time.")
    return list(dict.fromkeys(ids))


def _stdin_ids() -> Iterable[str]:
    # The first column, so that the lines of `everstep runs` do as well as those of `everstep runs -q`.
    return [cells[0] for line in sys.stdin if (cells := line.strip().split("\t")) and cells[0]]


def _check_run(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    del ctx, parameter
    return could_exist(value)


def _resolve_store(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str:
    del parameter
    outer = ctx.find_root().obj
    return store_url(value or (outer if isinstance(outer, str) else None))


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value:
        from everstep.cli.version import installed_version

        click.echo(f"everstep {installed_version()}")
        ctx.exit()
