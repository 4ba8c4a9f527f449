"""
Comments that silence a finding: ``# everstep: ignore[E05] the file never changes``, on a line of what was found.

A reason is required. Whoever reads the comment in a year must be able to tell whether it still holds; without one, or with an
id that no rule has, it silences nothing and is a finding itself.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from everstep.lint.rules import BAD_IGNORE, RULES, Finding

_COMMENT = re.compile(r"#\s*everstep:\s*ignore\b\s*(?:\[(?P<ids>[^\]]*)\])?(?P<reason>.*)", re.IGNORECASE)


@dataclass
class Ignores:
    """The ids that each line silences, and the comments that silence nothing."""

    by_line: dict[int, frozenset[str]] = field(default_factory=dict[int, frozenset[str]])
    bad: list[Finding] = field(default_factory=list[Finding])

    def cover(self, finding: Finding) -> bool:
        """Whether a comment on any line of the finding silences it."""
        return any(finding.rule.id in ids for line, ids in self.by_line.items() if finding.line <= line <= finding.end_line)


def read_ignores(source: str) -> Ignores:
    """Find the comments of a module."""
    ignores = Ignores()
    if "everstep" not in source:
        return ignores
    for line, column, text in _comments(source):
        found = _COMMENT.search(text)
        if found is None:
            continue
        ids = frozenset(part.strip().upper() for part in (found["ids"] or "").split(",") if part.strip())
        fault = _fault(ids, found["reason"], RULES)
        if fault:
            what = f"this ignore {fault}, so it {BAD_IGNORE.what}"
            ignores.bad.append(Finding(BAD_IGNORE, line, column + found.start() + 1, line, what))
        else:
            ignores.by_line[line] = ids
    return ignores


def _fault(ids: frozenset[str], reason: str, known: Mapping[str, object]) -> str:
    if not ids:
        return "names no rule"
    unknown = sorted(ids - set(known))
    if unknown:
        return f"names {unknown[0]}, which is no rule"
    return "" if re.search(r"\w", reason) else "gives no reason"


def _comments(source: str) -> Iterator[tuple[int, int, str]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield (*token.start, token.string)
    except (tokenize.TokenError, SyntaxError):
        return  # Python itself could read the module, so at most a comment is lost, and a finding shown too many.
