"""
Workflows whose journals are kept as files, so that every later version of everstep is held to replay them.

    python -m tests.core.golden_runs record     # writes golden/*.json; only for a journal that is new
    python -m tests.core.golden_runs replay     # prints what the code asks for today, entry by entry

A golden journal is never recorded again to make a test pass: that would strand the runs of users.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import everstep as es
from everstep.core.execution import Held
from everstep.core.payloads import read_events
from everstep.core.reuse import Ledger
from everstep.events import (
    CancelRequested,
    ChildAccepted,
    ChildFailed,
    ChildRefused,
    DeadlinePassed,
    Event,
    PauseRequested,
    RequestFailed,
    RequestReceived,
    RunCreated,
    RunForked,
    RunPaused,
    RunUnpaused,
    SignalReceived,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    SuffixLost,
    encode_event,
)
from everstep.journal import Entry, seal
from everstep.records import ErrorRecord
from tests.core.driver import RUN_KEY, Run, commands_of, evict_all, made_again, replayed

FOLDER = Path(__file__).parent / "golden"


@es.step
def reserve(items: set[str], amounts: dict[str, int]) -> list[str]:
    return sorted(f"{item} {amounts.get(item, 1)}" for item in items)


@es.step
def decline(reason: str) -> None:
    raise ValueError(reason)


@es.step(at_most_once=True)
def pay(order_id: str, token: str) -> str:
    return f"paid {order_id}"


@es.step
def tell(text: str) -> str:
    return text


@es.workflow
async def parcel(number: int) -> str:
    return await tell(f"parcel {number}")


@es.workflow(version="golden")
async def order(order_id: str, items: set[str]) -> list[str]:
    """Most of what can be recorded, in one run."""
    log = await reserve(items, {"pear": 2, "apple": 3})
    try:
        await decline("no funds")
    except es.StepFailed as error:
        log.append(f"{error.__cause__!r}")
    try:
        await pay(order_id, str(es.uuid4()))
    except es.StepOutcomeUnknown as error:
        log.append(f"{error.step} unknown")
    parcels = await asyncio.gather(*(parcel(number) for number in range(3)), return_exceptions=True)
    log.extend(each if isinstance(each, str) else type(each).__name__ for each in parcels)
    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*{tell(f"{number}") for number in range(5)}, parcel(9))
    except TimeoutError:
        log.append(f"late at {es.now():%H:%M:%S}")
    async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
        tasks = {group.create_task(tell(name), name=name) for name in ("a", "b", "c")}
    log.extend(task.result() for task in tasks)
    log.extend([await each for each in asyncio.as_completed([tell("x"), tell("y")])])
    try:
        await es.sleep(86_400)
    except asyncio.CancelledError:
        log.append(await tell("cleaned up"))
    log.append(f"{es.random():.6f}")
    return log


@es.workflow(version="golden", timeout=60)
async def late() -> None:
    await asyncio.gather(tell("slow"), asyncio.sleep(3600))


@es.workflow(version="golden")
async def stopped() -> None:
    try:
        await parcel(1)
    finally:
        await tell("goodbye")


answer = es.signal("answer", str)
stage = es.state("stage", int)


@es.workflow(version="golden")
async def conversation() -> list[str]:
    stage.set(1)
    heard = [await answer.wait(), await answer.wait(timeout=60)]
    es.note("heard", heard)
    heard.append(await answer.wait(timeout=5, default="nothing"))
    stage.set(2)
    waiting = asyncio.create_task(_listen(heard))
    await es.condition(lambda: len(heard) == 4)
    await waiting
    return [*heard, await tell(f"{stage.get()}")]


async def _listen(heard: list[str]) -> None:
    async for each in answer:
        heard.append(each)
        return


stock = es.state("stock", dict[str, Any])


@es.workflow(version="golden")
async def stocktaking() -> int:
    """A state that is large enough to be recorded as what changed."""
    shelves: dict[str, Any] = {f"shelf {number}": {"count": number, "note": "as ordered, " * 5} for number in range(20)}
    log: list[str] = []
    for number in range(4):
        shelves[f"shelf {number}"]["count"] += 1
        log.append(await tell(f"counted {number}"))
        stock.set({**shelves, "log": log})
    stock.set({"log": log})
    return len(stock.get() or ())


@es.workflow(version="golden")
async def changed_twice() -> list[str]:
    log = ["new" if es.patched("first-change") else "old", await tell("one")]
    es.deprecate_patch("second-change")
    log.extend(await es.map(tell, ["two", "three"], limit=1))
    log.append("new" if es.patched("third-change") else "old")
    return [*log, *await es.gather(tell("four"), tell("five"))]


@es.step
def check(text: str) -> str:
    raise ValueError(text)


@es.workflow(version="golden")
async def serial(part: int) -> str:
    """Two segments; it fails, is retried with one step overridden, and goes on."""
    stage.set(part)
    first = await tell(f"part {part}")
    if part:
        es.continue_as_new(serial(part - 1))
    await parcel(part)
    await es.sleep(30)
    return f"{first} {await check(await answer.wait())} {es.random():.6f}"


@es.step
def unreserve(items: list[str]) -> None:
    pass


@es.workflow(version="golden")
async def trip() -> list[str]:
    """Everything that a saga records: stopped branches, an outcome that is not known, sagas in sagas, a child as an undo."""
    try:
        async with es.saga() as outer:
            await outer.do(reserve({"hotel"}, {}), undo=unreserve)
            async with es.saga() as inner:
                await inner.do(parcel(1), undo=lambda name: parcel(len(name)))
                inner.undo(tell("by hand"))
            await asyncio.gather(
                outer.do(pay("42", "a"), undo=tell("pay back")),
                outer.do(reserve({"car"}, {"car": 2}), undo=unreserve),
                decline("no car"),
            )
    except es.StepFailed as error:
        return [await tell(f"{error.step} failed")]
    return []


@es.workflow(version="golden")
async def stranded() -> None:
    async with es.saga() as saga:
        await saga.do(reserve({"hotel"}, {}), undo=unreserve)
        await saga.do(pay("42", "a"), undo=tell)


@es.step
def count(stock: dict[str, int]) -> dict[str, int]:
    return {**stock, f"item {len(stock) % 60}": 1}


@es.step
def audit(stock: dict[str, int]) -> dict[str, int]:
    return {**stock, "audited": sum(stock.values())}


inventory = es.pipeline("inventory", dict[str, int], [count, audit, count], version="golden")


@es.workflow(version="golden", durability=es.Relaxed(seconds=2, steps=10))
async def batch() -> str:
    """Written behind: three drains in one entry, taken over, and a milestone."""
    first = await tell("one")
    async with es.milestone("both"):
        await tell("two")
    await es.sleep(0.5)
    return f"{first} {es.now():%S}"


question = es.request("question", str, int)


@es.workflow(version="golden")
async def bureau() -> list[str]:
    """Takes questions one by one at first, and has a function answer them later."""
    heard: list[str] = []

    def check(text: str) -> None:
        if text in heard or text == "bad":
            raise ValueError(f"{text} again")

    async def reply(text: str) -> int:
        heard.append(text)
        if text == "boom":
            return text  # type: ignore[return-value]  # refused by everstep, so that no path of a machine is in the traceback
        return len(await tell(text))

    first = await question.next()
    try:
        await question.next(timeout=5)
    except TimeoutError:
        first.answer(question.pending)
    (await question.next()).refuse("not now")
    await es.sleep(10)
    question.handle(reply, validate=check)
    heard.append(await answer.wait())
    await es.condition(lambda: question.pending == 0)
    return sorted(heard)


@es.workflow(version="golden")
async def brood() -> list[str]:
    """Children in the background: talked to, stopped, waited for, refused."""
    kept = es.start(parcel(1), tags={"kind": "kept"}, timeout=60)
    named = es.start(parcel(2), id="parcel-2", on_parent_close="wait", cancellation="wait")
    left = es.start(parcel(3), on_parent_close="abandon", cancellation="abandon")
    await named.started()
    named.send(answer, "hello", key="key-1")
    left.cancel("not needed")
    log: list[str] = []
    for child in (kept, left, es.start(parcel(4), id="taken")):
        try:
            async with asyncio.timeout(60):
                log.append(await child)
        except (TimeoutError, es.RunCancelled, es.RunConflict) as error:
            log.append(type(error).__name__)
    es.start(parcel(5))
    return [*log, await kept]


class Line(msgspec.Struct, frozen=True):
    """One entry of a golden journal, for eyes: its events stand in the file exactly as they were hashed."""

    version: int
    epoch: int
    at: int
    drained: bool
    hash: str
    events: msgspec.Raw


class Golden(msgspec.Struct, frozen=True):
    """One golden journal."""

    workflow: str
    entries: list[Line]


WORKFLOWS: dict[str, es.Workflow[..., Any]] = {
    each.name: each
    for each in (
        order,
        late,
        stopped,
        conversation,
        stocktaking,
        changed_twice,
        serial,
        trip,
        stranded,
        inventory,
        batch,
        bureau,
        brood,
    )
}


def read(name: str) -> tuple[es.Workflow[..., Any], list[Entry]]:
    """The workflow and the journal of a golden run."""
    golden = msgspec.json.decode((FOLDER / f"{name}.json").read_bytes(), type=Golden)
    entries = [
        Entry(RUN_KEY, line.version, line.epoch, line.at, line.drained, bytes(line.events), bytes.fromhex(line.hash))
        for line in golden.entries
    ]
    return WORKFLOWS[golden.workflow], entries


def write(name: str, run: Run) -> None:
    """Keep a journal, unless there is one: an older one is never replaced."""
    if (FOLDER / f"{name}.json").exists():
        return
    lines = [Line(e.version, e.epoch, e.at, e.drained, e.hash.hex(), msgspec.Raw(e.events)) for e in run.entries]
    rows = ",\n".join(msgspec.json.encode(line).decode() for line in lines)
    (FOLDER / f"{name}.json").write_text(f'{{"workflow":"{run.workflow.name}","entries":[\n{rows}\n]}}\n', encoding="utf-8")


def record() -> None:
    """Make the golden journals."""
    run = Run(order("42", {"pear", "apple", "fig"}))
    run.begin()
    run.feed(run.done("reserve"))
    run.claim_after_death()
    run.feed(run.done("decline"))
    run.feed(StepOutcomeUnknown(run.key_of("pay")))
    first, second, third = run.open
    run.feed(ChildFailed(second, "failed", ErrorRecord("builtins.OSError", "lost")), ChildRefused(third, "the id is taken"))
    run.feed(run.answer(first))
    run.feed(*(run.answer(key) for key in list(run.open)[1:3]), seconds=1)
    run.feed(run.fired())
    pause(run)
    run.claim_after_death()
    run.feed(*(run.answer(key) for key in reversed(run.open)), seconds=2)
    x, y = run.open
    run.feed(run.answer(y))
    run.feed(run.answer(x))
    run.feed(CancelRequested("enough", "ops"))
    run.finish().check_replays()
    write("order", run)

    run = Run(late())
    run.begin()
    run.feed(DeadlinePassed(), seconds=60)
    write("late", run)

    run = Run(stopped())
    run.begin()
    run.feed(CancelRequested("enough"), seconds=5)
    run.finish().check_replays()
    write("stopped", run)

    run = Run(conversation())
    run.begin(SignalReceived("answer", msgspec.Raw(b'"early"')))
    run.feed(SignalReceived("answer", msgspec.Raw(b'"second"'), "key-1"), seconds=1)
    run.claim_after_death()
    run.feed(run.fired(), seconds=5)
    run.feed(SignalReceived("answer", msgspec.Raw(b'"fourth"')), SignalReceived("answer", msgspec.Raw(b'"unread"')))
    run.finish().check_replays()
    write("conversation", run)

    run = Run(stocktaking())
    run.begin()
    run.feed(run.done("tell"))
    run.feed(run.done("tell"))
    run.claim_after_death()
    run.finish().check_replays()
    write("stocktaking", run)

    run = Run(changed_twice())
    run.begin()
    run.feed(run.done("tell"))
    run.claim_after_death()
    run.finish().check_replays()
    write("changed_twice", run)
    run = Run(serial(1))
    run.begin(SignalReceived("answer", msgspec.Raw(b'"yes"')))
    run.feed(run.done("tell"), seconds=1)
    run.feed(PauseRequested("lunch", "ann"))
    unasked(run, RunPaused("lunch", actor="ann"))
    unasked(run, RunUnpaused("back", "ann"))
    run.claim_after_death()
    run.feed(run.done("tell"))
    run.feed(run.done("parcel"))
    run.feed(run.fired())
    run.feed(run.done("check"))
    run.retry(StepOverridden(failed_key(run.entries), msgspec.Raw(b'"seen"'), reason="by hand", actor="ann"))
    run.feed(seconds=5)
    run.feed(run.fired())
    run.check_replays()
    write("serial", run)

    run = Run(serial(1), run_id="run-1")
    run.fork("serial", read("serial")[1], edits={failed_key(read("serial")[1]): msgspec.Raw(b'"forged"')})
    run.finish().check_replays()
    write("fork", run)

    run = Run(inventory({f"item {number}": number for number in range(60)}))
    run.begin()
    run.feed(run.done("count"))
    run.claim_after_death()
    run.finish().check_replays()
    write("inventory", run)

    run = Run(batch())
    run.begin()
    for _ in range(2):
        run.now += 1_000_000
        made = run.execution.activate_or_hold([run.done("tell")], run.now)
        if not isinstance(made, Held):
            run.keep(made)
    run.claim_after_death()
    run.feed(SuffixLost(2, 10))
    run.finish()
    write("batch", run)

    run = Run(brood())
    run.begin()
    kept, named, left = run.open
    run.feed(ChildAccepted(named), seconds=1)
    run.claim_after_death()
    run.feed(run.fired(), seconds=1)
    run.feed(ChildFailed(left, "cancelled", ErrorRecord("everstep.errors.RunCancelled", "not needed")))
    *_, taken = run.open
    run.feed(ChildRefused(taken, "the id is taken"))
    run.feed(run.answer(kept))
    run.feed(run.answer(named))
    run.check_replays()
    write("brood", run)


def failed_key(entries: Sequence[Entry]) -> str:
    """Key of the step that failed."""
    return next(event.key for entry in entries for event in entry.decoded() if isinstance(event, StepFailed))


def unasked(run: Run, event: Event) -> None:
    """Somebody else's entry."""
    last = run.entries[-1]
    run.entries.append(seal(last.hash, RUN_KEY, last.version + 1, last.epoch + 1, run.now, False, [event]))
    run.waiting.append(run.waiting[-1])

    run = Run(bureau())
    run.begin(asked("first"))
    run.feed(run.fired(), seconds=5)
    run.feed(asked("second"), asked("bad"), asked("third"), seconds=1)
    run.claim_after_death()
    run.feed(run.fired(), seconds=10)
    run.feed(asked("fourth", judged=True), asked("boom", judged=True), SignalReceived("answer", msgspec.Raw(b'"enough"')))
    run.finish().check_replays()
    write("bureau", run)


def asked(text: str, *, judged: bool = False) -> RequestReceived:
    """Somebody asks, and was accepted."""
    return RequestReceived("question", msgspec.Raw(msgspec.json.encode(text)), f"key-{text}", judged)


def record_sagas() -> None:
    """Make the golden journals of sagas."""
    run = Run(trip())
    run.begin()
    run.feed(run.done("reserve"))
    run.feed(run.done("parcel"))
    run.feed(run.done("decline"))
    run.feed(StepOutcomeUnknown(run.key_of("pay")))
    run.feed(run.done("reserve"))
    run.feed(run.done("unreserve"), CancelRequested("enough"))
    run.claim_after_death()
    run.finish().check_replays()
    write("trip", run)

    run = Run(stranded())
    run.begin()
    run.feed(run.done("reserve"))
    run.feed(StepOutcomeUnknown(run.key_of("pay")))
    run.check_replays()
    write("stranded", run)
    run.retry(StepOverridden("0:2", msgspec.Raw(b'"receipt"'), actor="ann"), goes_on=True)
    run.finish().check_replays()
    write("stranded_retried", run)
    evict_all()


def pause(run: Run) -> None:
    """Other code refused it once."""
    last = run.entries[-1]
    events = [RunPaused("other code", "f00d")]
    run.entries.append(seal(last.hash, RUN_KEY, last.version + 1, last.epoch, run.now, False, events))
    run.waiting.append(run.waiting[-1])


def shared_by(entries: Sequence[Entry]) -> Ledger | None:
    """What a golden fork takes over from the golden journal that it names."""
    match entries[0].decoded() if entries else []:
        case [RunCreated() as created, RunForked() as fork, *_]:
            ledger = Ledger()
            for entry in read(fork.run_id)[1][: fork.version]:
                ledger.note_all(entry.decoded(), entry.at)
            ledger.adopt(fork, created, entries[0].at)
            return ledger
        case _:
            return None


def replay() -> list[str]:
    """Replay every golden journal, then make its commands anew; one line for each."""
    lines: list[str] = []
    for path in sorted(FOLDER.glob("*.json")):
        workflow, entries = read(path.stem)
        for place, (entry, events) in enumerate(zip(entries, read_events(entries, "run-1"), strict=True)):
            if entry.drained:
                execution = replayed(workflow, entries[:place], shared=shared_by(entries))
                execution.epoch = entry.epoch
                asked = commands_of(made_again(execution, events, entry.at).entry)
                lines += [f"{path.stem} {entry.version} {without_source(command)}" for command in asked]
                assert [without_source(c) for c in commands_of(entry)] == [without_source(c) for c in asked]
        replayed(workflow, entries, shared=shared_by(entries))
    evict_all()
    return lines


def without_source(command: Any) -> str:
    """A command as JSON; its line in the source, and the words of an error, are shown to people and never compared."""
    named = msgspec.structs.replace(command, source="") if hasattr(command, "source") else command
    if isinstance(named, RequestFailed):
        named = msgspec.structs.replace(named, error=ErrorRecord(named.error.type, ""))
    return encode_event(named).decode()


if __name__ == "__main__":
    if sys.argv[1:] == ["record"]:
        record()
        record_sagas()
    else:
        print("\n".join(replay()))
