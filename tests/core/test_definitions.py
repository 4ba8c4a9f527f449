"""A definition is checked where it is written: what cannot work later is refused there, and says what to do."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest

import everstep as es
from everstep.definitions import Registry, workflows_near
from everstep.errors import UsageError
from tests.core import steps


class Shop:
    def method(self, order_id: str) -> str:
        return order_id

    async def async_method(self, order_id: str) -> str:
        return order_id

    @classmethod
    def of_class(cls, order_id: str) -> str:
        return order_id

    @es.step
    @staticmethod
    def static(order_id: str) -> str:
        return order_id


def plain(order_id: str) -> str:
    return order_id


async def asynchronous(order_id: str) -> str:
    return order_id


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Callable_:  # noqa: N801
    def __call__(self) -> None: ...


REFUSED: list[tuple[Any, str]] = [
    (Shop.method, "its 'self' cannot be stored"),
    (Shop.async_method, "its 'self' cannot be stored"),
    (Shop().method, "must be a function"),
    (Shop.of_class, "must be a function"),
    (classmethod(cast(Any, plain)), "must be a function"),
    (generator, "is a generator"),
    (async_generator, "is a generator"),
    (Callable_(), "must be a function"),
    (print, "must be a function"),
    (lambda: None, "is not allowed"),
    (3, "must be a function"),
]


@pytest.mark.parametrize(("function", "words"), REFUSED)
def test_what_cannot_be_a_step(function: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        es.step(function)
    with pytest.raises(UsageError, match=words):
        es.workflow(function)


def test_a_static_method_may_be_a_step_above_and_below_its_decorator() -> None:
    assert "Shop.static" == Shop.static.name
    assert "x" == Shop.static.function("x")
    assert "plain" == es.step(staticmethod(plain)).name


def test_a_function_nested_in_a_method_is_a_function() -> None:
    class Here:
        def make(self) -> Any:
            @es.step
            def inner(self_: int) -> int:
                return self_

            return inner

    assert "inner" == Here().make().name


def test_a_plain_function_is_no_workflow() -> None:
    with pytest.raises(UsageError, match="Write it as 'async def'"):
        es.workflow(cast(Any, plain))


def test_at_most_once_and_a_retry_contradict_one_another() -> None:
    with pytest.raises(UsageError, match="contradict one another"):
        es.step(at_most_once=True, retry=3)(plain)
    with pytest.raises(UsageError, match="contradict one another"):
        es.step(at_most_once=True, retry=es.Retry(attempts=None))(plain)

    assert es.step(at_most_once=True, retry=1)(plain).at_most_once


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, "5", True])
def test_a_time_limit_is_a_positive_number(seconds: Any) -> None:
    for options in ({"timeout": seconds}, {"heartbeat_timeout": seconds}):
        with pytest.raises(UsageError, match="positive number of seconds"):
            es.step(**options)(plain)
    with pytest.raises(UsageError, match="positive number of seconds"):
        es.workflow(timeout=seconds)(asynchronous)


@pytest.mark.parametrize("retry", [0, -1, True, False, 2.5, "3", [], math.inf])
def test_a_retry_is_a_policy_or_a_positive_number(retry: Any) -> None:
    with pytest.raises(UsageError):
        es.step(retry=retry)(plain)


@pytest.mark.parametrize("count", [-1, 1.5, "3", None])
def test_recoveries_are_counted(count: Any) -> None:
    with pytest.raises(UsageError, match="max_recoveries"):
        es.workflow(max_recoveries=count)(asynchronous)


@pytest.mark.parametrize("name", ["", " ", "a b", "1st", "naïve", "x" * 201, "a/b", "a#b", "a\n", "\x1b[31m", 3])
def test_a_name_is_inert_everywhere(name: Any) -> None:
    with pytest.raises(UsageError, match=r"name .* is not allowed"):
        es.step(name=name)(plain)
    with pytest.raises(UsageError, match=r"name .* is not allowed"):
        es.workflow(name=name)(asynchronous)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="retries"):
        cast(Any, es.step)(retries=3)(plain)


def test_annotations_that_cannot_be_resolved_are_told_at_first_use() -> None:
    """Not at definition: they may name what is defined further down."""

    def later(order: Any) -> None: ...

    later.__annotations__["order"] = "Missing"
    defined = es.step(later)

    call = defined(1)
    with pytest.raises(Exception, match="Missing"):
        call.encoded()
    call.close()


def test_two_workflows_of_one_name_are_refused_and_one_twice_is_not() -> None:
    first = es.workflow(name="report")(asynchronous)
    second = es.workflow(name="report")(asynchronous)

    assert [first] == list(Registry([first, first]))
    with pytest.raises(UsageError, match="two workflows are named 'report'"):
        Registry([first, second])


def test_only_workflows_are_registered() -> None:
    with pytest.raises(UsageError, match="is no workflow"):
        Registry(cast(Any, [steps.charge]))


def test_a_registry_finds_by_name() -> None:
    registry = Registry([steps.child])

    assert registry.get("child") is steps.child
    assert registry.get("none") is None
    assert {"child": steps.child.fingerprint} == registry.fingerprints()
    assert {} == registry.versions()


def version_of(version: str | None, name: str = "report") -> es.Workflow[..., Any]:
    async def report() -> None: ...

    return es.workflow(name=name, version=version)(report)


def test_versions_of_one_name_stand_side_by_side_and_the_last_one_is_the_newest() -> None:
    plain, one, two = version_of(None), version_of("1"), version_of("2")
    registry = Registry([plain, one, two])

    assert [plain, one, two] == list(registry)
    assert registry.get("report") is two
    assert [plain, one, None] == [registry.find("report", version) for version in (None, "1", "3")]
    assert {("report", "1"): one.fingerprint, ("report", "2"): two.fingerprint} == registry.versions()
    with pytest.raises(UsageError, match=r"two workflows are named 'report'.*another version"):
        registry.add(version_of("2"))


@pytest.mark.parametrize("version", ["", "a b", "1/2", 2, "x" * 101])
def test_a_version_that_is_not_allowed_is_refused(version: Any) -> None:
    with pytest.raises(UsageError, match="workflow report: version"):
        version_of(version)


def test_the_workflows_of_a_module_are_found_from_one_of_them() -> None:
    assert [steps.child] == workflows_near(steps.child)


def test_defaults() -> None:
    step, workflow = es.step(plain), es.workflow(asynchronous)

    assert (1, None, None, False, False) == (
        step.retry.attempts,
        step.timeout,
        step.heartbeat_timeout,
        step.at_most_once,
        step.is_async,
    )
    assert (20, None, {}) == (workflow.max_recoveries, workflow.timeout, workflow.tags)
    assert ("<step plain>", "<workflow asynchronous>") == (repr(step), repr(workflow))


def test_a_definition_looks_like_its_function() -> None:
    import inspect

    assert inspect.signature(plain) == inspect.signature(es.step(plain))
    assert plain.__doc__ == es.step(plain).__doc__


# --- fingerprints ---------------------------------------------------------------------------------------------------------


def module_of(source: str) -> es.Workflow[..., Any]:
    """The workflow ``main`` of a module's source."""
    names: dict[str, Any] = {"es": es, "__name__": "shop"}
    exec(compile(source, "shop.py", "exec"), names)
    workflow: es.Workflow[..., Any] = names["main"]
    return workflow


BEFORE = """
def helper(): return {1, 2, 3, "a", "b"}
@es.workflow
async def main(order_id: str) -> str:
    return str("a" in {"x", "y", order_id}) + str(order_id in {"x", "y"})
"""


def test_the_fingerprint_ignores_comments_and_lines() -> None:
    assert module_of(BEFORE).fingerprint == module_of("# a comment\n\n\n" + BEFORE).fingerprint


@pytest.mark.parametrize("change", [('"y"})', '"z"})'), ("{1, 2, 3,", "{1, 2, 4,"), ("async def main", "async def main")])
def test_the_fingerprint_tells_other_code(change: tuple[str, str]) -> None:
    changed = BEFORE.replace(*change)

    assert (changed == BEFORE) == (module_of(BEFORE).fingerprint == module_of(changed).fingerprint)


def test_a_version_replaces_the_fingerprint() -> None:
    assert "2.1" == es.workflow(version="2.1")(asynchronous).code_version
    assert es.workflow(asynchronous).fingerprint == es.workflow(asynchronous).code_version
