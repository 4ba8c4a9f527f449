"""
``everstep check``: is workflow code deterministic, as far as its text tells?

The text is read and never executed. What was found goes to stdout, one line each; how much was looked at, to stderr. A check
that found no workflow says so: it would pass for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from everstep.cli.faults import OK, REFUSED
from everstep.cli.inert import inert, json_text
from everstep.cli.options import json_option
from everstep.cli.sources import Source, find_sources
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import count
from everstep.errors import UsageError
from everstep.lint import Finding, Level, Report, check_source

Checked = tuple[Source, Report]


@click.command(name="check")
@click.argument("targets", nargs=-1, required=True, metavar="MODULE[:NAME]|FILE.py...")
@click.option("--hints", is_flag=True, help="Give advice too: what works, but might surprise.")
@json_option
def command(targets: Sequence[str], hints: bool, as_json: bool) -> int:
    """Find what would make workflow code differ on replay. Nothing is imported or executed. Exit code 5 if there are errors.

    A package stands for all its modules; MODULE:NAME for one workflow and what it calls. To silence a finding, say why on its
    line: # everstep: ignore[E05] the file never changes
    """
    checked = [(source, _check(source, hints=hints)) for source in find_sources(targets)]
    terminal = current_terminal()
    found = [(source, finding) for source, report in checked for finding in report.findings]
    if as_json:
        terminal.data(json_text([_json(*one) for one in found], ascii_only=not terminal.has_unicode))
    else:
        for source, finding in found:
            terminal.data(inert(_line(source, finding)))
    _summarise(terminal, checked)
    return REFUSED if any(finding.rule.level is Level.ERROR for _, finding in found) else OK


def _check(source: Source, *, hints: bool) -> Report:
    report = check_source(source.read(), attribute=source.attribute, hints=hints)
    if not report.has_attribute:
        raise UsageError(
            f"{source.path} has no {source.attribute[:60]}. Nothing was checked. Leave it out to check the whole module."
        )
    return report


def _line(source: Source, finding: Finding) -> str:
    where = f"{source.path.as_posix()}:{finding.line}:{finding.column}"
    return f"{where}: {finding.rule.id} {finding.what}. {finding.rule.instead}"


def _json(source: Source, finding: Finding) -> dict[str, Any]:
    return {
        "path": source.path.as_posix(),
        "line": finding.line,
        "column": finding.column,
        "id": finding.rule.id,
        "level": str(finding.rule.level),
        "what": finding.what,
        "instead": finding.rule.instead,
    }


def _summarise(terminal: Terminal, checked: Sequence[Checked]) -> None:
    levels = Counter(finding.rule.level for _, report in checked for finding in report.findings)
    workflows = sum(report.workflows for _, report in checked)
    steps = sum(report.steps for _, report in checked)
    terminal.hint(
        f"{count(len(checked), 'file')} · {count(workflows, 'workflow')} · {count(steps, 'step')} · "
        + " · ".join(count(levels[level], level) for level in Level if levels[level] or level is Level.ERROR)
    )
    if not workflows:
        terminal.hint("no workflow was found there: a function is one if it is decorated with @es.workflow")
