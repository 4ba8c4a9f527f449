"""Which children an engine knows without their being listed: those that the code names."""

from __future__ import annotations

import everstep as es
from everstep.definitions import with_children
from tests.core import golden_runs


@es.workflow
async def leaf() -> None: ...


@es.workflow
async def beside() -> None: ...


@es.workflow
async def recursive(depth: int) -> None:
    if depth:
        await recursive(depth - 1)
    await leaf()


async def helper() -> None:
    await leaf()


@es.workflow
async def through_a_helper() -> None:
    await helper()


@es.workflow
async def through_a_module() -> str:
    return await golden_runs.parcel(1)


@es.workflow
async def through_an_inner_function() -> None:
    async def inner() -> None:
        await leaf()

    await inner()


def test_children_are_found_by_the_names_in_the_code() -> None:
    """Directly, through plain functions, inner ones and modules; not what merely stands beside."""
    assert [recursive, leaf] == with_children([recursive])
    assert [through_a_helper, leaf] == with_children([through_a_helper])
    assert [through_an_inner_function, leaf] == with_children([through_an_inner_function])
    assert [through_a_module, golden_runs.parcel] == with_children([through_a_module])
    assert [beside] == with_children([beside])


def test_a_child_in_a_closure_is_found() -> None:
    """As workflows in tests are."""

    @es.workflow
    async def inner() -> None: ...

    @es.workflow
    async def outer() -> None:
        await inner()

    assert [outer, inner] == with_children([outer])
