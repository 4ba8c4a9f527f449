"""Code that asks for something else than its journal recorded is told so at the call; nothing of it is done (G2)."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import everstep as es
from everstep.codec import Undecodable
from everstep.core.loop import REFUSALS_MAX
from everstep.definitions import Workflow
from everstep.errors import NondeterminismError
from everstep.events import CancelRequested, RunCreated, StepCompleted, StepScheduled
from everstep.journal import Entry
from tests.core.driver import Run, created, replayed, sealed
from tests.core.steps import add, charge, child, decline, note, ship

Code = Callable[[], Any]


def workflow_of(code: Code) -> Workflow[[], Any]:
    """A version of the workflow ``checkout``."""
    return es.workflow(name="checkout", version="1")(code)


def journal_of(code: Code, *, entries: int | None = None) -> list[Entry]:
    """What a version of the code records when every step is answered in turn."""
    run = Run(workflow_of(code)()).finish()
    run.evict()
    return run.entries[:entries]


def refusal(recorded: Code, deployed: Code, *, entries: int | None = None) -> NondeterminismError:
    """What replaying a journal with other code raises."""
    with pytest.raises(NondeterminismError) as caught:
        replayed(workflow_of(deployed), journal_of(recorded, entries=entries))
    return caught.value


def last_user_line(error: BaseException) -> str:
    """Source of the last frame that is not everstep's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
    return frames[-1].line or ""


async def original() -> str:
    receipt = await charge("42", 1999)
    await asyncio.sleep(60)
    return await ship(receipt)


# --- what is noticed ------------------------------------------------------------------------------------------------------


def test_another_argument() -> None:
    async def changed() -> str:
        receipt = await charge("42", 2499)
        await asyncio.sleep(60)
        return await ship(receipt)

    error = refusal(original, changed)

    lines = str(error).splitlines()
    assert "run run-1: the workflow code no longer matches its journal at entry 1." == lines[0]
    assert lines[1].startswith('  recorded:  step charge("order_id":"42","cents":1999)')
    assert lines[2].startswith('  requested: step charge("order_id":"42","cents":2499)')
    assert f"test_mismatch.py:{original.__code__.co_firstlineno + 1}" == lines[1].split()[-1]
    assert f"test_mismatch.py:{changed.__code__.co_firstlineno + 1}" == lines[2].split()[-1]
    assert "Nothing was executed and the journal is unchanged; the run is paused." in lines[3]
    assert 'receipt = await charge("42", 2499)' == last_user_line(error)


def test_another_step() -> None:
    async def changed() -> str:
        receipt = await note("42")
        return await ship(receipt)

    error = refusal(original, changed)

    assert 'receipt = await note("42")' == last_user_line(error)


def test_a_renamed_step() -> None:
    @es.step(name="bill")
    def renamed(order_id: str, cents: int) -> str:
        raise AssertionError("it is not executed")

    async def changed() -> str:
        return await renamed("42", 1999)

    assert "requested: step bill(" in str(refusal(original, changed))


def test_another_length_of_a_timer() -> None:
    async def changed() -> str:
        receipt = await charge("42", 1999)
        await asyncio.sleep(61)
        return await ship(receipt)

    error = refusal(original, changed)

    assert "recorded:  timer of 60 s" in str(error)
    assert "requested: timer of 61 s" in str(error)
    assert "await asyncio.sleep(61)" == last_user_line(error)


def test_a_timer_tells_its_line_as_a_step_does() -> None:
    async def changed() -> str:
        receipt = await charge("42", 1999)
        async with asyncio.timeout(61):
            return await ship(receipt)

    lines = str(refusal(original, changed)).splitlines()

    assert f"test_mismatch.py:{original.__code__.co_firstlineno + 2}" == lines[1].split()[-1]
    assert f"test_mismatch.py:{changed.__code__.co_firstlineno + 2}" == lines[2].split()[-1]


def test_reordered_awaits() -> None:
    async def changed() -> str:
        await asyncio.sleep(60)
        receipt = await charge("42", 1999)
        return await ship(receipt)

    error = refusal(original, changed)

    assert "recorded:  step charge(" in str(error)
    assert "requested: timer of 60 s" in str(error)
    assert "await asyncio.sleep(60)" == last_user_line(error)


def test_a_step_instead_of_a_child_and_the_other_way_round() -> None:
    @es.workflow(name="ship")
    async def as_child(order_id: str) -> str:
        return order_id

    async def with_step() -> str:
        return await ship("42")

    async def with_child() -> str:
        return await as_child("42")

    assert "requested: child ship(" in str(refusal(with_step, with_child))
    assert "requested: step ship(" in str(refusal(with_child, with_step))


def test_another_argument_of_a_child() -> None:
    async def one() -> str:
        return await child("1")

    async def two() -> str:
        return await child("2")

    assert 'requested: child child("order_id":"2")' in str(refusal(one, two))


def test_a_command_more() -> None:
    async def changed() -> str:
        receipt, _ = await asyncio.gather(charge("42", 1999), note("new"))
        return receipt

    async def before() -> str:
        (receipt,) = await asyncio.gather(charge("42", 1999))
        return receipt

    error = refusal(before, changed)

    assert "recorded:  nothing" in str(error)
    assert 'requested: step note("text":"new")' in str(error)


def test_a_command_less() -> None:
    """Noticed at the end of the activation: no line asked for it, so none can be named."""

    async def changed() -> str:
        (receipt,) = await asyncio.gather(charge("42", 1999))
        return receipt

    async def before() -> str:
        receipt, _ = await asyncio.gather(charge("42", 1999), note("gone"))
        return receipt

    error = refusal(before, changed)

    assert 'recorded:  step note("text":"gone")' in str(error)
    assert "requested: nothing" in str(error)


def test_an_end_that_comes_too_early() -> None:
    async def changed() -> str:
        return await charge("42", 1999)

    error = refusal(original, changed)

    assert "at entry 2" in str(error)
    assert "recorded:  timer of 60 s" in str(error)
    assert "requested: the end of the run, with a result" in str(error)


def test_an_end_where_the_journal_only_waits() -> None:
    """No command is missing there: the run would have succeeded, on code that it never started on."""

    async def before() -> list[str]:
        return list(await asyncio.gather(note("a"), note("b")))

    async def changed() -> list[str]:
        tasks = [asyncio.create_task(each) for each in (note("a"), note("b"))]
        return [await tasks[0]]

    error = refusal(before, changed, entries=2)

    assert "recorded:  nothing" in str(error)
    assert "requested: the end of the run, with a result" in str(error)


def test_an_end_that_does_not_come() -> None:
    async def before() -> str:
        return await note("a")

    async def changed() -> str:
        text = await note("a")
        await asyncio.Event().wait()
        return text

    assert "recorded:  the end of the run, with a result" in str(refusal(before, changed))


def test_another_kind_of_end() -> None:
    async def before() -> str:
        return await note("a")

    async def changed() -> str:
        raise ValueError(await note("a"))

    assert "requested: the end of the run, failed with ValueError" in str(refusal(before, changed))


def test_a_cancellation_that_is_missing() -> None:
    async def before() -> str:
        async with asyncio.timeout(60):
            return await note("a")

    async def changed() -> str:
        limit = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        try:
            return await note("a")
        finally:
            del limit

    with pytest.raises(NondeterminismError):
        replayed(workflow_of(changed), journal_of(before))


def test_a_mismatch_in_a_child_task_and_in_a_cancel_is_told_as_well() -> None:
    async def before() -> None:
        await asyncio.gather(note("a"), asyncio.sleep(5))

    async def changed() -> None:
        await asyncio.gather(note("a"), asyncio.sleep(6))

    assert "requested: timer of 6 s" in str(refusal(before, changed))

    async def cancels() -> None:
        task = asyncio.create_task(asyncio.wait([asyncio.create_task(_await_note())]))
        await note("b")
        task.cancel()

    async def cancels_more() -> None:
        task = asyncio.create_task(_await_note())
        await note("b")
        task.cancel()

    with pytest.raises(NondeterminismError):
        replayed(workflow_of(cancels_more), journal_of(cancels))


async def _await_note() -> str:
    return await note("a")


# --- what is not a difference ---------------------------------------------------------------------------------------------


def test_comments_moved_lines_and_renamed_variables_change_nothing() -> None:
    async def moved() -> str:
        # A comment,

        # and more lines.
        proof = await charge(cents=1999, order_id="42")

        await es.sleep(60.0)
        return await ship(
            proof,
        )

    replayed(workflow_of(moved), journal_of(original))


def test_a_new_parameter_with_a_default_strands_nothing() -> None:
    @es.step(name="charge")
    def charge_2(order_id: str, cents: int, currency: str = "EUR") -> str:
        raise AssertionError("it is not executed")

    async def changed() -> str:
        receipt = await charge_2("42", 1999)
        await asyncio.sleep(60)
        return await ship(receipt)

    replayed(workflow_of(changed), journal_of(original))


def test_a_new_parameter_of_the_workflow_with_a_default_strands_nothing() -> None:
    @es.workflow(name="shop")
    async def before(order_id: str) -> str:
        return await ship(order_id)

    @es.workflow(name="shop")
    async def after(order_id: str, express: bool = False) -> str:
        return await ship(order_id if not express else "express")

    replayed(after, Run(before("42")).finish().entries)


def order_of(*, with_currency: bool) -> type:
    """A type of arguments and results, before and after a field was added."""
    fields: list[Any] = [("order_id", str), ("items", list[str])]
    if with_currency:
        fields.append(("currency", str, dataclasses.field(default="EUR")))
    return dataclasses.make_dataclass("Order", fields)


def shop_of(order: Any, *more: Any) -> Workflow[..., Any]:
    """A workflow that passes such a value to a step and a child, and gets it back."""

    def price_(order: Any) -> Any:
        return order

    async def pack_(order: Any) -> Any:
        return order

    for function in (price_, pack_):
        function.__annotations__.update({"order": order, "return": order})
    price, pack = es.step(name="price")(price_), es.workflow(name="pack")(pack_)

    async def run() -> str:
        priced = await price(order("42", ["pear"], *more))
        packed = await pack(order("42", ["pear"], *more))
        return f"{priced} {packed}"

    return es.workflow(name="shop")(run)


def test_a_new_field_with_a_default_strands_nothing() -> None:
    """Neither in the arguments of a step or a child, nor in their results, however deep."""
    run = Run(shop_of(order_of(with_currency=False))()).finish()

    replayed(shop_of(order_of(with_currency=True)), run.entries)
    replayed(shop_of(order_of(with_currency=True), "EUR"), run.entries)


def test_a_new_field_with_another_value_than_its_default_is_a_difference() -> None:
    run = Run(shop_of(order_of(with_currency=False))()).finish()

    with pytest.raises(NondeterminismError, match=r'requested: step price\(.*"currency":"CHF"'):
        replayed(shop_of(order_of(with_currency=True), "CHF"), run.entries)


def test_an_edit_elsewhere_in_the_module_strands_nothing() -> None:
    """The fingerprint changes with every function of the module; the journal is compared with what the code asks for."""
    source = "import everstep as es\n@es.step\ndef a() -> int: return 1\n@es.workflow\nasync def w() -> int: return await a()\n"
    other = "@es.workflow\nasync def unrelated() -> int: return {n}\n"
    before, after = ({"__name__": "shop"} for _ in range(2))
    exec(source + other.format(n=1), before)  # two deployments of one module
    exec(source + other.format(n=2), after)

    run = Run(before["w"]()).finish()  # type: ignore[operator]

    assert before["w"].fingerprint != after["w"].fingerprint  # type: ignore[attr-defined]
    replayed(after["w"], run.entries)  # type: ignore[arg-type]


def test_the_order_of_tasks_is_not_compared() -> None:
    """Keys name the task; which of two ran first within an activation is nobody's contract."""

    async def before() -> list[str]:
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(note("a")), group.create_task(note("b"))]
        return [task.result() for task in made]

    async def changed() -> list[str]:
        async def second() -> str:
            return await note("b")

        async def first() -> str:
            await asyncio.sleep(0)
            return await note("a")

        async with asyncio.TaskGroup() as group:
            made = [group.create_task(first()), group.create_task(second())]
        return [task.result() for task in made]

    replayed(workflow_of(changed), journal_of(before, entries=1))


# --- what the code does about it ------------------------------------------------------------------------------------------


def test_code_that_swallows_the_mismatch_is_refused_all_the_same() -> None:
    went_on: list[str] = []

    async def changed() -> str:
        try:
            await charge("42", 2499)
        except Exception:  # noqa: BLE001
            went_on.append("swallowed")
        receipt = await charge("42", 1999)
        went_on.append("went on")
        return receipt

    error = refusal(original, changed)

    assert "requested: step charge(" in str(error)
    assert ["swallowed"] == went_on


def test_the_first_difference_is_the_one_that_is_told() -> None:
    async def changed() -> str:
        async with asyncio.timeout(5):
            return await note("x")

    assert "requested: timer of 5 s" in str(refusal(original, changed))


@pytest.mark.parametrize("swallowed", [Exception, BaseException])
def test_code_that_swallows_it_in_an_endless_loop_does_not_hang_the_worker(swallowed: type[BaseException]) -> None:
    """Nothing suspends there: each await raises at once."""
    count = 0

    async def changed() -> str:
        nonlocal count
        while True:
            try:
                return await charge("42", 2499)
            except swallowed:
                count += 1

    refusal(original, changed)

    assert 1 <= count <= REFUSALS_MAX + 2


def test_the_mismatch_raised_by_replay_can_be_evicted_and_replayed_by_the_right_code() -> None:
    async def changed() -> str:
        return await note("x")

    refusal(original, changed)

    execution = replayed(workflow_of(original), journal_of(original))
    assert 4 == execution.version


# --- values that no longer fit --------------------------------------------------------------------------------------------


def shop(result: type, argument: type) -> Workflow[..., Any]:
    """A workflow of one step whose types are given."""

    def count_(order_id: str) -> Any: ...

    count_.__annotations__["return"] = result
    counted = es.step(name="count")(count_)

    async def run(order_id: Any) -> Any:
        return await counted("42")

    run.__annotations__["order_id"] = argument
    return es.workflow(name="shop")(run)


def test_a_result_that_no_longer_fits_its_type_pauses_on_replay() -> None:
    run = Run(shop(str, str)("42"), answers={"count": "many"}).finish()

    with pytest.raises(NondeterminismError) as caught:
        replayed(shop(int, str), run.entries)

    assert "the recorded result of count no longer fits its declared type" in str(caught.value)
    assert "Deploy code whose type can read it" in str(caught.value)


def test_a_result_that_no_longer_fits_its_type_pauses_live() -> None:
    """A step scheduled by old code finished; new code cannot read what it returned. Nothing may be sealed."""
    run = Run(shop(int, str)("42"))
    run.begin()

    with pytest.raises(NondeterminismError):
        run.feed(StepCompleted(run.key_of("count"), msgspec.Raw(b'"many"')))

    assert 1 == run.execution.version


def test_arguments_that_no_longer_fit_pause() -> None:
    run = Run(shop(str, str)("42"), answers={"count": "many"}).finish()

    with pytest.raises(Undecodable, match="order_id"):
        replayed(shop(str, int), run.entries)


# --- other Pythons --------------------------------------------------------------------------------------------------------


def test_a_mismatch_across_minor_versions_says_so() -> None:
    run = Run(workflow_of(original)())
    run.begin()
    event = msgspec.structs.replace(created(run), python="3.7")
    rest = run.entries[0].decoded()[1:]

    async def changed() -> str:
        return await note("x")

    with pytest.raises(NondeterminismError) as caught:
        replayed(workflow_of(changed), sealed([([event, *rest], True)]))

    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"The journal was recorded on Python 3.7 and this is {running}" in str(caught.value)


def test_on_the_same_minor_version_nothing_is_said_of_it() -> None:
    async def changed() -> str:
        return await note("x")

    assert "Python" not in str(refusal(original, changed))


# --- the error itself -----------------------------------------------------------------------------------------------------


def test_arguments_are_shown_cut_and_inert() -> None:
    """They come from outside, and the message goes to terminals."""

    async def before() -> str:
        return await note("\x1b[31m" + "x" * 1000)

    async def changed() -> str:
        return await note("\u202egnihtyreve")

    message = str(refusal(before, changed))

    assert "\x1b" not in message
    assert "\u202e" not in message
    assert len(message) < 1000


def test_the_mismatch_is_told_while_other_inputs_wait() -> None:
    """A cancel that was recorded does not hide it."""

    async def before() -> None:
        try:
            await note("a")
        except asyncio.CancelledError:
            await decline("b")

    async def changed() -> None:
        try:
            await note("a")
        except asyncio.CancelledError:
            await add(1)

    run = Run(workflow_of(before)())
    run.begin()
    run.feed(CancelRequested("enough"))

    with pytest.raises(NondeterminismError, match=r"requested: step add"):
        replayed(workflow_of(changed), run.entries)


def test_a_journal_starts_with_its_creation() -> None:
    run = Run(workflow_of(original)())
    [first, *_] = run.begin()

    assert isinstance(created(run), RunCreated)
    assert isinstance(first, StepScheduled)
    assert Path(__file__).name == first.source.partition(":")[0]
