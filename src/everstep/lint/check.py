"""
Check one module: parse it, find the workflow code in it, look at each function of that, take away what comments silence.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from everstep.lint.ignores import read_ignores
from everstep.lint.rules import UNREADABLE, Finding, Level
from everstep.lint.scopes import Function, FunctionNode, Kind, Klass, Module, collect
from everstep.lint.walk import Place, check_function, helpers_of


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a module.

    Attributes:
        findings: In the order of the text.
        workflows: How many workflows it defines; those that were asked for, if some were.
        steps: How many steps.
        has_attribute: The attribute that was asked for is there.
    """

    findings: tuple[Finding, ...]
    workflows: int = 0
    steps: int = 0
    has_attribute: bool = True


def check_source(source: str | bytes, *, attribute: str = "", hints: bool = False) -> Report:
    """Check the text of a module. Nothing is raised, whatever the text.

    Args:
        source: The text; bytes are decoded as Python would.
        attribute: Check only this workflow or step (``Orders.checkout`` in a class) and what it calls. Another kind of
            name stands for the whole module.
        hints: Give advice too.
    """
    try:
        text = source if isinstance(source, str) else _decoded(source)
        return _report(text, attribute, hints=hints)
    except SyntaxError as error:
        line, column = max(error.lineno or 1, 1), max(error.offset or 1, 1)
        return _unreadable(f"this is not Python ({error.msg}), so the file", line, column)
    except (ValueError, LookupError) as error:  # null bytes; bytes that are no text
        return _unreadable(f"this is not text ({error}), so the file")
    except (RecursionError, MemoryError):
        return _unreadable("expressions are nested too deep, so the file")


def _decoded(source: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return io.IncrementalNewlineDecoder(None, translate=True).decode(source.decode(encoding))


def _unreadable(what: str, line: int = 1, column: int = 1) -> Report:
    return Report((Finding(UNREADABLE, line, column, line, f"{what} {UNREADABLE.what}"),))


def _report(text: str, attribute: str, *, hints: bool) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # An invalid escape is another tool's business.
        module = collect(ast.parse(text))
    everything = list(_each_once(module.functions()))
    has_attribute, roots = _asked_for(module, attribute, everything)
    # Parts of a chain of calls begin at the same place: one finding for it is enough.
    found = {
        (finding.line, finding.column, finding.rule.id): finding
        for place in _places(module, roots)
        for finding in check_function(module, place)
    }
    ignores = read_ignores(text)
    kept = [
        finding
        for finding in (*found.values(), *ignores.bad)
        if (hints or finding.rule.level is not Level.HINT) and not ignores.cover(finding)
    ]
    lines = text.split("\n")
    return Report(
        tuple(sorted((_in_characters(one, lines) for one in kept), key=lambda one: (one.line, one.column, one.rule.id))),
        workflows=sum(root.kind is Kind.WORKFLOW for root in roots),
        steps=sum(root.kind is Kind.STEP for root in roots),
        has_attribute=has_attribute,
    )


def _each_once(functions: Iterator[Function]) -> Iterator[Function]:
    """Steps and workflows. A function may be met as it is written and again as a call makes a step of it."""
    seen: set[Function] = set()
    for function in functions:
        if function.kind is not Kind.PLAIN and function not in seen:
            seen.add(function)
            yield function


def _asked_for(module: Module, attribute: str, everything: Sequence[Function]) -> tuple[bool, list[Function]]:
    if not attribute:
        return True, list(everything)
    scope = module.scope
    *owners, last = attribute.split(".")
    for owner in owners:
        meaning = module.meaning_of_name(owner, scope) if owner in scope.bindings else None
        if not isinstance(meaning, Klass):
            return owner in scope.bindings or bool(module.starred), list(everything)
        scope = meaning.scope
    meaning = module.meaning_of_name(last, scope) if last in scope.bindings else None
    if isinstance(meaning, Function) and meaning.kind is not Kind.PLAIN:
        return True, [meaning]
    return last in scope.bindings or bool(module.starred), list(everything)


def _places(module: Module, roots: Sequence[Function]) -> Iterator[Place]:
    """The functions to look at: what was asked for, and the helpers that workflow code reaches, each once."""
    todo = [Place(root.node, root.kind, root.node.name) for root in roots]
    seen: set[tuple[FunctionNode, bool]] = set()
    while todo:
        place = todo.pop(0)
        if (place.node, place.kind is Kind.STEP) in seen:
            continue
        seen.add((place.node, place.kind is Kind.STEP))
        yield place
        if place.kind is not Kind.STEP:
            todo += [Place(node, Kind.PLAIN, place.workflow) for node in helpers_of(module, place)]


def _in_characters(finding: Finding, lines: Sequence[str]) -> Finding:
    """The parser counts bytes of UTF-8; editors count characters."""
    if finding.rule.id in {"E00", "E21"} or finding.line > len(lines) or lines[finding.line - 1].isascii():
        return finding
    before = lines[finding.line - 1].encode("utf-8", "surrogatepass")[: finding.column - 1]
    column = len(before.decode("utf-8", "replace")) + 1
    return Finding(finding.rule, finding.line, column, finding.end_line, finding.what)
