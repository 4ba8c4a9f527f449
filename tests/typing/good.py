"""Programs as users write them: both checkers, in strict mode, find nothing, and results have exact types end to end."""

import asyncio
import os
import sqlite3
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, assert_type
from uuid import UUID

import everstep as es
from everstep.testing import CrashReport, Env, crash_everywhere, load_journal, replay, save_journal


@dataclass(frozen=True)
class Order:
    order_id: str
    cents: int


@es.step(retry=es.Retry(attempts=5, on=(OSError,), give_up_on=(FileNotFoundError,)), timeout=30)
async def charge(order_id: str, cents: int, *, currency: str = "EUR") -> str:
    return f"{es.current().idempotency_key} {order_id} {cents} {currency}"


@es.step
def ship(order_id: str, receipt: str) -> bytes:
    es.heartbeat({"order": order_id})
    last = es.last_heartbeat(dict[str, str])
    assert_type(last, dict[str, str] | None)
    return receipt.encode()


@es.step(at_most_once=True)
def pay(order: Order) -> None:
    raise es.RetryAfter(timedelta(seconds=5))


class Mail:
    @es.step
    @staticmethod
    def send(to: str) -> bool:
        return bool(to)

    @staticmethod
    @es.step(retry=3)
    async def fetch(count: int) -> list[str]:
        return ["mail"] * count


@es.workflow
async def audit(order: Order) -> dict[str, int]:
    return {order.order_id: order.cents}


@es.workflow(name="checkout", version="2", timeout=3600, max_recoveries=3, tags={"team": "shop"})
async def checkout(order: Order, note: str = "") -> tuple[str, bytes]:
    receipt = await charge(order.order_id, order.cents, currency="CHF")
    assert_type(receipt, str)
    shipped = await ship(order.order_id, receipt=receipt)
    assert_type(shipped, bytes)
    await pay(order)
    assert_type(await Mail.send("a@example.org"), bool)
    assert_type(await Mail.fetch(3), list[str])
    assert_type(await audit(order), dict[str, int])
    return receipt, shipped


async def _pack(order: Order) -> tuple[str, bytes]:
    receipt = await charge(order.order_id, order.cents)
    return receipt, await ship(order.order_id, receipt)


@es.workflow
async def fan_out(orders: list[Order]) -> int:
    both = await asyncio.gather(charge("1", 1), ship("1", "r"))
    assert_type(both, tuple[str, bytes])
    three = await asyncio.gather(charge("1", 1), ship("1", "r"), audit(orders[0]), return_exceptions=True)
    assert_type(three, tuple[str | BaseException, bytes | BaseException, dict[str, int] | BaseException])
    many = await asyncio.gather(*(charge(order.order_id, order.cents) for order in orders))
    assert_type(many, list[str])
    assert_type(await es.map(audit, orders, limit=10), list[dict[str, int]])
    assert_type(await es.map(lambda order: charge(order.order_id, order.cents), orders), list[str])
    assert_type(await es.map(_pack, orders), list[tuple[str, bytes]])
    assert_type(await es.gather(charge("1", 1), ship("1", "r")), tuple[str, bytes])
    four = await es.gather(charge("1", 1), audit(orders[0]), asyncio.sleep(1), es.map(audit, orders))
    assert_type(four, tuple[str, dict[str, int], None, list[dict[str, int]]])
    eight = await es.gather(Mail.send("a"), *[Mail.send("b")] * 7)
    assert_type(eight, tuple[bool, ...])
    seven = await es.gather(
        charge("1", 1), ship("1", "r"), Mail.send("a"), Mail.fetch(1), charge("1", 1), ship("1", "r"), Mail.send("a")
    )
    assert_type(seven, tuple[str, bytes, bool, list[str], str, bytes, bool])
    task = asyncio.create_task(charge("1", 1))
    assert_type(task, asyncio.Task[str])
    async with asyncio.TaskGroup() as group:
        member = group.create_task(ship("1", "r"))
        child = group.create_task(audit(orders[0]), name="audit")
    assert_type(member.result(), bytes)
    assert_type(child.result(), dict[str, int])
    assert_type(await asyncio.wait_for(charge("1", 1), 5), str)
    assert_type(await asyncio.shield(charge("1", 1)), str)
    for each in asyncio.as_completed([charge("1", 1), charge("2", 2)]):
        assert_type(await each, str)
    done, _ = await asyncio.wait([task])
    for finished in done:
        assert_type(finished.result(), str)
    return len(many)


@es.workflow
async def inside() -> float:
    await es.sleep(5)
    await es.sleep(timedelta(days=30))
    await es.sleep_until(datetime(2030, 1, 1, tzinfo=UTC))
    assert_type(es.now(), datetime)
    assert_type(es.uuid4(), UUID)
    assert_type(es.current().deadline, datetime | None)
    es.log.info("done at %s", es.now())
    try:
        await charge("42", 1)
    except es.StepFailed as error:
        assert_type(error.step, str)
    if es.patched("louder"):
        es.log.info("now louder")
    es.deprecate_patch("quieter")
    assert_type(es.patched("louder"), bool)
    return es.random()


def pass_on(call: es.Call[str]) -> Awaitable[str]:
    return call


async def outside() -> None:
    assert_type(charge("42", 1), es.Call[str])
    assert_type(checkout(Order("42", 1)), es.Call[tuple[str, bytes]])
    assert_type(await charge("42", 1), str)
    assert_type(await pass_on(charge("42", 1)), str)
    async with es.Engine("sqlite:///orders.db", workflows=[checkout, fan_out, inside, audit]) as engine:
        handle = await engine.start(checkout(Order("42", 1)), id="order-42", tags={"tenant": "acme"}, timeout=60)
        assert_type(handle, es.Handle[tuple[str, bytes]])
        assert_type(await handle, tuple[str, bytes])
        assert_type(await handle.result(timeout=30), tuple[str, bytes])
        assert_type(await handle.status(), es.Status)
        assert_type(await handle.snapshot(3), es.Snapshot)
        assert_type(await handle.history(), list[es.HistoryEntry])
        assert_type([change.path for change in await handle.diff(1, 3)], list[tuple[str | int, ...]])
        assert_type(await handle.progress(), es.Progress)
        assert_type([step.due_at for step in (await handle.progress()).open_steps], list[datetime | None])
        assert_type(await handle.cancel("enough"), bool)
    async with es.Client("sqlite:///orders.db") as client:
        assert_type(client.handle("order-42", checkout), es.Handle[tuple[str, bytes]])
        assert_type(client.handle("order-42"), es.Handle[Any])
        assert_type(await client.get("order-42"), es.RunRecord)
        pruned = await client.prune(timedelta(days=30), statuses=["succeeded", es.Status.FAILED], dry_run=True)
        assert_type(pruned, es.Pruned)
        assert_type(pruned.kept.get(es.Kept.CHILD), int | None)
        assert_type(await client.prune_segments(timedelta(days=30), dry_run=True), es.Pruned)


def script() -> None:
    assert_type(es.run(checkout(Order("42", 1), note="gift"), id="order-42"), tuple[str, bytes])
    assert_type(es.run(inside(), timeout=5), float)


@es.transaction
def debit(tx: es.SQLiteTx, account: str, cents: int, *, note: str = "") -> int:
    found = tx.execute("UPDATE accounts SET cents = cents - ? WHERE name = ? RETURNING cents", (cents, account))
    assert_type(found.rowcount, int)
    for (left,) in found:
        return int(left)
    return tx.executemany("INSERT INTO notes VALUES (:note)", [{"note": note}]).rowcount


@es.transaction(name="credit", retry=es.Retry(attempts=3), timeout=2)
async def credit(tx: es.SQLiteTx, account: str, cents: int) -> str:
    tx.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, account)).fetchall()
    return account


class AsyncConnection(Protocol):
    """As drivers of PostgreSQL have them."""

    async def execute(self, statement: str, /, *values: object) -> str: ...


@es.transaction(isolation="serializable", retry=2)
async def settle(tx: AsyncConnection, account: str) -> str:
    return await tx.execute("UPDATE accounts SET settled = true WHERE name = $1", account)


orders = es.database("sqlite:///other.db", driver="sqlite3")


@orders.transaction
def reserve(tx: sqlite3.Connection, item: str, count: int = 1) -> int:
    return tx.execute("UPDATE stock SET count = count - ? WHERE item = ?", (count, item)).rowcount


@orders.transaction(retry=3)
def release(tx: sqlite3.Connection, item: str) -> None:
    tx.execute("DELETE FROM reserved WHERE item = ?", (item,))


@es.workflow
async def ordering() -> None:
    assert_type(await reserve("hat", count=2), int)
    assert_type(release("hat"), es.Call[None])
    assert_type(orders, es.Database)
    assert_type(await settle("ann"), str)
    await release("hat")


@es.workflow
async def paying() -> None:
    assert_type(await debit("ann", 100, note="rent"), int)
    assert_type(await credit("bob", cents=100), str)
    assert_type(await asyncio.gather(debit("ann", 1), credit("bob", 1)), tuple[int, str])
    assert_type(debit("ann", 1), es.Call[int])
    assert_type(debit.function(sqlite3.connect(":memory:"), "ann", 1), Any)


mail = es.queue("mail", concurrency=10, per_worker=2, per_key=1, rate=(100, 60), priority=True, dedupe=False)
assert_type(mail, es.Queue)
assert_type(mail.limits, es.Limits)


async def queueing(client: es.Client) -> None:
    call = checkout(Order("42", 1))
    handle = await client.start(call, queue=mail, key="cust-7", priority=-1, delay=5)
    assert_type(handle, es.Handle[tuple[str, bytes]])
    assert_type(await handle.why(), tuple[es.Hindrance, ...])
    assert_type(
        [(each.text, each.until, each.runs) for each in await handle.why()], list[tuple[str, datetime | None, tuple[str, ...]]]
    )
    assert_type(await client.queues(), list[es.QueueRecord])
    assert_type(await client.pause_queue(mail, "why", actor="ann"), es.QueueRecord)
    assert_type(await client.resume_queue("mail"), es.QueueRecord)
    assert_type((await client.set_queue(mail, es.Limits(concurrency=5))).limits, es.Limits)
    await client.start(checkout(Order("42", 1)), at=datetime.now().astimezone())
    es.Engine("memory://", [checkout], queues=[mail, "sms"])


@es.workflow
async def parenting(orders: list[Order]) -> bytes:
    child = es.start(audit(orders[0]), id="audit-1", tags={"a": "b"}, timeout=5, on_parent_close="wait", cancellation="abandon")
    assert_type(child, es.ChildHandle[dict[str, int]])
    assert_type(await child, dict[str, int])
    assert_type(child.run_id, str)
    await child.started()
    child.cancel("enough")
    child.send(approval, True, key="1")
    both = await es.gather(child, es.start(checkout(orders[0]), queue=mail, key="a", priority=1, delay=2))
    assert_type(both, tuple[dict[str, int], tuple[str, bytes]])
    return both[1][1]


approval = es.signal("approval", bool)
progress = es.state("progress", int)


@es.workflow
async def talking() -> bool | None:
    assert_type(await approval.wait(), bool)
    assert_type(progress.get(), int | None)
    async for answer in approval:
        assert_type(answer, bool)
        progress.set(1)
        es.note("answered", answer)
        break
    assert_type(await es.condition(lambda: True, timeout=5), bool)
    return await approval.wait(timeout=5, default=None)


quote = es.request("quote", Order, int)


@es.workflow
async def answering() -> None:
    async def price(order: Order) -> int:
        return len(await charge(order.order_id, order.cents))

    def check(order: Order) -> None:
        assert_type(quote.pending, int)
        assert order.cents

    quote.handle(price, validate=check)
    asked = await quote.next(timeout=5)
    assert_type(asked, es.Asked[Order, int])
    assert_type(asked.value, Order)
    async for another in quote:
        assert_type(another, es.Asked[Order, int])
        another.answer(3)
        another.refuse("no")


async def telling(handle: es.Handle[bool | None]) -> None:
    await handle.send(approval, True, key="1")
    assert_type(await handle.ask(quote, Order("42", 1), key="1", timeout=5), int)
    assert_type(approval.message(True, key="1"), es.SignalMessage)
    assert_type(await handle.undelivered(), list[es.UndeliveredSignal])


async def starting(engine: es.Engine) -> None:
    handle = await engine.start(talking(), id="t", send=[approval.message(True), approval.message(False)])
    assert_type(handle, es.Handle[bool | None])
    await engine.start(talking(), id="t", send=approval.message(True, key="1"))


async def outside_world(handle: es.Handle[bool | None]) -> None:
    await handle.send(approval, True)


@dataclass(frozen=True)
class Login:
    user: str
    password: es.Secret[str]


@es.step
async def login(who: Login, pin: es.Secret[int]) -> es.Secret[bytes]:
    assert_type(who.password.reveal(), str)
    assert_type(pin.reveal(), int)
    return es.Secret(who.password.reveal().encode())


token = es.signal("token", es.Secret[str])


@es.workflow
async def logging_in(who: Login) -> int:
    assert_type((await token.wait()).reveal(), str)
    return len((await login(who, es.Secret(1234))).reveal())


async def sealed(key: bytes) -> None:
    payloads = es.Payloads(
        compression=es.Compression(min_bytes=512),
        encryption=es.Encryption({"2026-11": key}, "2026-11", refuse_plain=True),
        redact=["password", "*_token"],
    )
    async with es.Engine("sqlite:///orders.db", workflows=[logging_in], payloads=payloads) as engine:
        handle = await engine.start(logging_in(Login("ann", es.Secret("x"))))
        await handle.send(token, es.Secret("y"))
        assert_type(await handle, int)
    async with es.Client("sqlite:///orders.db", payloads=es.Payloads.from_environment()):
        pass
    try:
        es.run(logging_in(Login("ann", es.Secret("x"))), payloads=payloads)
    except es.PayloadKeyMissing as missing:
        assert_type(missing.key_id, str)


def killed() -> None:
    order = Order("42", 1)
    assert_type(crash_everywhere(checkout(order), workflows=[audit], at_least_once=True), CrashReport)
    assert_type(crash_everywhere(lambda folder: checkout(Order(str(folder), 1)), effects=os.listdir), CrashReport)
    crash_everywhere(talking(), drive=outside_world, kill="process", depth=2, samples=10, seed=1)
    crash_everywhere(lambda _: talking(), drive=outside_world, only="before 5")


@es.step
def refund(receipt: str, cents: int = 0) -> None: ...


@es.workflow
async def undone(order: Order) -> tuple[str, bytes]:
    async with es.saga() as saga:
        assert_type(saga, es.Saga)
        receipt = await saga.do(charge(order.order_id, order.cents), undo=refund)
        assert_type(receipt, str)
        assert_type(await saga.do(charge(order.order_id, 1), undo=lambda paid: refund(paid, cents=1)), str)
        assert_type(await saga.do(charge(order.order_id, 1), undo=refund(order.order_id)), str)
        assert_type(await saga.do(audit(order), undo=lambda counts: refund(str(counts["total"]))), dict[str, int])
        saga.undo(refund(order.order_id))
        both = await asyncio.gather(saga.do(charge("1", 1), undo=refund), saga.do(ship("1", receipt), undo=refund("1")))
        assert_type(both, tuple[str, bytes])
    assert_type(es.current().maybe, bool)
    return both


async def tested(everstep_env: Env) -> None:
    async with Env([checkout], strict=False) as env:
        handle = await env.start(checkout(Order("42", 1)), id="order-42")
        assert_type(handle, es.Handle[tuple[str, bytes]])
        await env.skip(timedelta(days=1))
        await env.settle()
        assert_type(env.now(), datetime)
    assert_type(await everstep_env.run(inside()), float)
    everstep_env.check()


async def exported(handle: es.Handle[int], other: es.Handle[int]) -> None:
    save_journal("run.ndjson", await handle.journal())
    replay(load_journal("run.ndjson"), fan_out, shared=[await other.journal()])


@es.workflow(durability=es.Relaxed(seconds=2, steps=50))
async def counting(count: int, log: list[str]) -> list[str]:
    async with es.milestone("counted") as milestone:
        assert_type(milestone, es.Milestone)
        log.append(await charge("42", count))
    if count:
        es.continue_as_new(counting(count - 1, log))
    return log


@es.step
def clean(order: Order) -> Order:
    return order


@es.step
async def enrich(order: Order) -> Order:
    return order


cleaning = es.pipeline("cleaning", Order, [clean, enrich], durability="relaxed")


async def operators() -> None:
    async with es.Engine("memory://", workflows=[cleaning, counting]) as engine:
        handle = await engine.start(cleaning(Order("42", 1)))
        assert_type(handle, es.Handle[Order])
        await handle.pause("lunch", actor="ann")
        await handle.resume()
        await handle.retry(actor="ann")
        await handle.complete_step("clean", Order("42", 2), "seen", actor="ann")
        await handle.skip_step("clean", "not needed")
        await handle.discard("too old")
        fork = await handle.fork(at="clean", edit={"clean": Order("42", 3)}, id="again", reason="what if")
        assert_type(await fork.result(), Order)
        assert_type(await engine.dead(limit=10), list[es.DeadLetter])
        assert_type(list(await engine.requeue("run-1", reason="fixed")), list[str])
        assert_type(list(await engine.discard()), list[str])
        assert_type((await handle.snapshot()).relaxed, es.Relaxed | None)
    assert_type(es.run(cleaning(Order("42", 1)), on_failed="raise"), Order)


# --- what users take in their hands ---


async def looks(handle: es.Handle[int], error: es.RunFailed) -> None:
    snapshot = await handle.snapshot()
    assert_type(snapshot.current_step, es.Pointer)
    assert_type(snapshot.checkpoints, tuple[es.Checkpoint, ...])
    assert_type(snapshot.undo_left, tuple[es.UndoRecord, ...])
    assert_type((await handle.progress()).open_steps, tuple[es.OpenStep, ...])
    assert_type(await handle.diff(1), list[es.Change])
    assert_type((error.run_id, error.__cause__), tuple[str, BaseException | None])
    assert_type(es.__version__, str)


@es.workflow
async def looking_around() -> None:
    assert_type(es.current(), es.Current)
    assert_type(approval, es.Signal[bool])
    assert_type(progress, es.State[int])
    assert_type(quote, es.Request[Order, int])


def definitions(tx: es.SQLiteTx, paid: es.Transaction[[str, int], int]) -> None:
    made: es.Step[[str, str], bytes] = ship
    held: es.Workflow[[Order], dict[str, int]] = audit
    assert_type(paid("ann", 5), es.Call[int])
    staged: es.Pipeline[Order] = cleaning
    assert_type(tx.execute("SELECT 1"), es.SQLiteRows)
    print(made, held, staged)


def run_errors(error: es.RunError) -> str:
    match error:
        case es.RunConflict():
            return assert_type(error.differences, tuple[str, ...])[0]
        case es.RequestRefused():
            return assert_type(error.reason, str)
        case es.RequestFailed() | es.RequestTimeout() | es.RequestError():
            return assert_type(error.request, str) + error.key
        case es.RunCancelled() | es.RunDead() | es.RunPaused() | es.RunEnded() | es.RunTimeout() | es.RunNotFound():
            return assert_type(error.run_id, str)
        case es.IllegalState() | es.RunError():
            return error.run_id


def other_errors(error: es.EverstepError) -> int:
    match error:
        case es.StepFailed() | es.StepTimeout() | es.StepOutcomeUnknown() | es.StepError():
            return assert_type(error.attempt, int) + len(error.step) + error.maybe
        case es.NondeterminismError() | es.CorruptJournal():
            return assert_type(error.version, int)
        case es.PayloadTooLarge():
            return assert_type(error.size, int) + error.limit
        case es.Unencodable():
            return len(assert_type(error.path, str))
        case es.RemoteError():
            return len(assert_type(error.type_name, str))
        case es.StoreFull() | es.StoreUnavailable() | es.SchemaMismatch() | es.StoreError() | es.Undecodable():
            return 0
        case es.CallAlreadyUsed() | es.EngineClosed() | es.InvalidStoreURL() | es.UsageError() | es.EverstepError():
            return 1


def signals_of_the_engine(error: es.Evicted | es.LeaseLost | es.ContinuedAsNew) -> BaseException:
    return error
