"""Whatever the text: an answer, soon, and no exception."""

import ast
import sysconfig
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.cli.demo_program import PROGRAM
from everstep.lint import Level, check_source

ROOT = Path(__file__).parents[2]
STDLIB = Path(sysconfig.get_path("stdlib"))
NAMES = st.sampled_from(["a", "b", "time", "es", "charge", "flow", "set", "open", "self", "C"])


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{}.{}".format, inner, NAMES),
        st.builds("{}({})".format, inner, inner),
        st.builds("({} | {})".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("[{} for {} in {} if {}]".format, inner, NAMES, inner, inner),
        st.builds("{{{}, *{}}}".format, inner, inner),
        st.builds("{{{}: {}}}".format, inner, inner),
        st.builds("(lambda {}={}: {})".format, NAMES, inner, inner),
        st.builds("({} := {})".format, NAMES, inner),
        st.builds("(await {})".format, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("(not {} and {} < {})".format, inner, inner, inner),
    )


EXPRESSIONS = st.recursive(st.one_of(NAMES, st.sampled_from(["1", "'x'", "None", "set()", "{1}"])), _grow, max_leaves=8)


def _indented(block: str) -> str:
    return block.replace("\n", "\n    ")


def _nest(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    block = st.lists(inner, min_size=1, max_size=3).map(lambda lines: _indented("\n".join(lines)))
    return st.one_of(
        st.builds("{}def {}({}={}):\n    {}".format, st.sampled_from(["", "async "]), NAMES, NAMES, EXPRESSIONS, block),
        st.builds("@{}\nasync def {}(self, *{}):\n    {}".format, EXPRESSIONS, NAMES, st.just("rest"), block),
        st.builds("class {}({}):\n    {}".format, NAMES, EXPRESSIONS, block),
        st.builds("for {} in {}:\n    {}".format, NAMES, EXPRESSIONS, block),
        st.builds("with {} as {}:\n    {}".format, EXPRESSIONS, NAMES, block),
        st.builds("try:\n    {}\nexcept {}:\n    {}".format, block, EXPRESSIONS, block),
        st.builds("if {}:\n    {}".format, EXPRESSIONS, block),
        st.builds("match {}:\n  case [{}, *_]:\n    {}".format, EXPRESSIONS, NAMES, block),
    )


STATEMENTS = st.recursive(
    st.one_of(
        EXPRESSIONS,
        st.builds("{} = {}".format, NAMES, EXPRESSIONS),
        st.builds("{}: {} = {}".format, NAMES, EXPRESSIONS, EXPRESSIONS),
        st.builds("{}.{} = {}".format, NAMES, NAMES, EXPRESSIONS),
        st.builds("{}, *{} = {}".format, NAMES, NAMES, EXPRESSIONS),
        st.builds("import {} as {}".format, NAMES, NAMES),
        st.builds("from {} import {}".format, NAMES, NAMES),
        st.builds("global {}".format, NAMES),
        st.builds("nonlocal {}".format, NAMES),
        st.builds("del {}".format, NAMES),
    ),
    _nest,
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STATEMENTS, max_size=4), st.lists(STATEMENTS, min_size=1, max_size=5))
def test_no_program_is_too_odd(module: list[str], body: list[str]) -> None:
    """Names that are bound by themselves, in circles, twice; everything is looked at as if it were workflow code."""
    flow = _indented("\n".join(body))
    source = "\n".join(["import everstep as es", *module, "@es.workflow", f"async def flow():\n    {flow}"])
    try:
        ast.parse(source)
    except SyntaxError:
        return

    report = check_source(source, hints=True)

    lines = source.count("\n") + 1
    assert all(1 <= finding.line <= finding.end_line <= lines and finding.column >= 1 for finding in report.findings)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.binary())
def test_no_text_is_too_odd(source: str | bytes) -> None:
    """What is no Python is one finding."""
    report = check_source(source, hints=True)

    assert all(finding.rule.id == "E00" for finding in report.findings)
    assert len(report.findings) <= 1


class _Workflows(ast.NodeTransformer):
    """Make a workflow of every function."""

    def _marked(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list = [ast.parse("es.workflow", mode="eval").body]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._marked(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._marked(node)


@pytest.mark.parametrize(
    "name", ["asyncio/base_events", "dataclasses", "enum", "inspect", "subprocess", "tarfile", "typing", "uuid", "zipfile"]
)
def test_real_programs_get_an_answer_soon(name: str) -> None:
    """The standard library, as it is and as if each of its functions were a workflow."""
    path = STDLIB / f"{name}.py"
    if not path.exists():
        pytest.skip("not in this Python")
    text = path.read_text(encoding="utf-8")
    transformed = ast.unparse(ast.fix_missing_locations(_Workflows().visit(ast.parse(text))))
    began = process_time()

    as_it_is, as_workflows = check_source(text, hints=True), check_source(f"import everstep as es\n{transformed}", hints=True)

    assert () == as_it_is.findings
    assert as_workflows.workflows > 10
    assert process_time() - began < 20


@pytest.mark.parametrize(
    "line", ["query = query.where(query)", "x = x if x else x", "x = f(x)(x)(x)", "x, y = y, x", "x = (x := x)"]
)
def test_what_defines_itself_is_not_followed_for_ever(line: str) -> None:
    """Each binding leads back to all bindings: without a memory that is exponential."""
    lines = "".join(f"    {line}\n" for _ in range(100))
    began = process_time()

    check_source(f"import everstep as es\n@es.workflow\nasync def flow(x):\n{lines}    return x\n")

    assert process_time() - began < 5


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("def (:\n", "this is not Python"),
        ("x = 1\n  y = 2", "this is not Python"),
        ("a\0b", "null bytes"),
        (b"# coding: klingon\n", "this is not"),
        (b"x = '\xff'", "this is not"),
        ("x = " + "+".join(["1"] * 100_000), "nested too deep"),
        ("x = " + "(" * 1000 + ")" * 1000, ""),
    ],
)
def test_what_is_no_python_is_one_finding(source: str | bytes, what: str) -> None:
    """An error: nothing in the file was looked at."""
    [finding] = check_source(source).findings

    assert "E00" == finding.rule.id
    assert what in finding.what
    assert finding.what.endswith("cannot be checked")


def test_windows_and_byte_order_marks_are_read() -> None:
    """Lines are counted as editors do."""
    source = b"\xef\xbb\xbfimport everstep as es, time\r\n@es.workflow\r\nasync def flow(): time.time()\r\n"

    assert [(3, "E01")] == [(finding.line, finding.rule.id) for finding in check_source(source).findings]


def test_our_own_examples_raise_no_false_alarm() -> None:
    """Nor does the program of the demo. Both do all that workflows should."""
    paths = sorted((ROOT / "examples").rglob("*.py"))
    reports = {path.name: check_source(path.read_bytes()) for path in paths} | {"the demo's": check_source(PROGRAM)}

    assert sum(report.workflows for report in reports.values()) >= 2
    assert {} == {
        name: [finding.what for finding in report.findings if finding.rule.level is Level.ERROR]
        for name, report in reports.items()
        if any(finding.rule.level is Level.ERROR for finding in report.findings)
    }


def test_the_lint_knows_nothing_of_the_rest_of_everstep() -> None:
    """It takes text and gives findings; it can be used without a store, an engine, or what they need."""
    sources = (ROOT / "src" / "everstep" / "lint").glob("*.py")
    imported = {
        node.module or ""
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    }

    assert {"everstep.lint"} == {".".join(name.split(".")[:2]) for name in imported if name.startswith("everstep")}
