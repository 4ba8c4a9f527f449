# type: ignore
# ruff: noqa: PGH003, B018
"""One mistake per line, each marked; the test blanks the two lines above and expects exactly these lines to be told."""

import asyncio
from datetime import datetime, timedelta

import everstep as es
from everstep.testing import crash_everywhere, load_journal, replay

delta = timedelta(days=1)


@es.step
async def charge(order_id: str, cents: int) -> str:
    return f"{order_id} {cents}"


@es.step(timeout=5)
def ship(order_id: str, *, express: bool = False) -> bytes:
    return order_id.encode()


@es.workflow
async def checkout(order_id: str, cents: int = 1) -> int:
    return cents


# --- arguments of a step ---


@es.workflow
async def arguments() -> None:
    await charge(42, 1)  # error
    await charge("42", "1999")  # error
    await charge("42")  # error
    await charge("42", 1, 2)  # error
    await charge("42", cent=1)  # error
    await charge(order_id="42", cents=None)  # error
    await ship("42", True)  # error
    await ship("42", express="yes")  # error
    await checkout(42)  # error
    await checkout("42", cents="1")  # error


# --- results ---


@es.workflow
async def results() -> None:
    number: int = await charge("42", 1)  # error
    text: str = await ship("42")  # error
    receipt: str = charge("42", 1)  # error
    wrong: str = await checkout("42")  # error
    first, second = await asyncio.gather(charge("42", 1), ship("42"))
    swapped: tuple[bytes, str] = await asyncio.gather(charge("42", 1), ship("42"))  # error
    second.encode()  # error
    (await charge("42", 1)).missing  # error
    task: asyncio.Task[int] = asyncio.create_task(charge("42", 1))  # error
    many: list[int] = await asyncio.gather(*[charge("42", 1)])  # error
    timed: bytes = await asyncio.wait_for(charge("42", 1), 5)  # error
    call: es.Call[int] = charge("42", 1)  # error
    mapped: list[int] = await es.map(ship, ["42"])  # error
    await es.map(ship, [42])  # error
    await es.map(charge, ["42"])  # error
    await es.map(ship, ["42"], limit="2")  # error
    both: tuple[bytes, str] = await es.gather(charge("42", 1), ship("42"))  # error
    await es.gather(ship)  # error
    print(number, text, receipt, wrong, first, swapped, task, many, timed, call, mapped, both)


@es.workflow
async def returns() -> int:
    return await charge("42", 1)  # error


# --- definitions ---


@es.step(retry="5")  # error
def bad_retry() -> None: ...


@es.step(retry=es.Retry(attempts="5"))  # error
def bad_attempts() -> None: ...


@es.step(retry=es.Retry(on=ValueError))  # error
def bad_on() -> None: ...


@es.step(retries=5)  # error
def bad_option() -> None: ...


@es.step(timeout="5 s")  # error
def bad_timeout() -> None: ...


@es.workflow  # error
def not_async() -> None: ...


@es.workflow(tags={"attempt": 1})  # error
async def bad_tags() -> None: ...


es.step("charge")  # error
es.Retry(5)  # error

# --- starting and waiting ---


async def starting() -> None:
    async with es.Engine("sqlite:///orders.db", workflows=[charge]):  # error
        pass
    async with es.Engine("sqlite:///orders.db", workflows=[checkout]) as engine:
        await engine.start(checkout(42))  # error
        await engine.start(checkout("42"), id=42)  # error
        await engine.start(checkout)  # error
        await engine.start(checkout("42"), tags={"n": 1})  # error
        await engine.start(checkout("42"), on_conflict="ignore")  # error
        handle = await engine.start(checkout("42"))
        text: str = await handle  # error
        also: str = await handle.result()  # error
        other: es.Handle[str] = handle  # error
        late: int = await handle.result(timeout="5")  # error
        at: datetime = await handle.status()  # error
        await handle.diff("1")  # error
        (await handle.progress()).steps  # error
        await engine.prune(30)  # error
        await engine.prune_segments("30d")  # error
    client = es.Client("sqlite:///orders.db")
    known: es.Handle[str] = client.handle("42", checkout)  # error
    print(text, also, other, late, at, known)


wrong_result: str = es.run(checkout("42"))  # error
es.run(checkout)  # error

# --- inside ---


@es.workflow
async def inside() -> None:
    await es.sleep("5")  # error
    await es.sleep_until(5)  # error
    moment: float = es.now()  # error
    es.current().attempts  # error
    es.patched(7)  # error
    await es.deprecate_patch("x")  # error
    print(moment)


# --- transactions ---


@es.transaction
def debit(tx: es.SQLiteTx, account: str, cents: int) -> int:
    tx.execute("SELECT ?", object())  # error
    tx.commit()  # error
    return cents


@es.transaction  # error
def no_connection() -> int:
    return 1


@es.transaction(timeout="5")  # error
def bad_limit(tx: es.SQLiteTx) -> None: ...


@es.transaction(at_most_once=True)  # error
def bad_choice(tx: es.SQLiteTx) -> None: ...


@es.transaction(isolation="snapshot")  # error
def bad_isolation(tx: es.SQLiteTx) -> None: ...


orders = es.database("sqlite:///other.db")
es.database("sqlite:///other.db", driver="odbc")  # error


@orders.transaction
def reserve(tx: object, item: str) -> int:
    return len(item)


@orders.transaction  # error
def no_parameters() -> None: ...


@es.workflow
async def paying(tx: es.SQLiteTx) -> None:
    await reserve(5)  # error
    text: str = await reserve("hat")  # error
    print(text)
    await debit(tx, "ann", 100)  # error
    await debit("ann")  # error
    await debit("ann", "100")  # error
    left: str = await debit("ann", 100)  # error
    print(left)


# --- children ---


@es.workflow
async def parenting() -> None:
    es.start(charge("42", 1), on_parent_close="stop")  # error
    es.start(checkout("42"), cancellation="never")  # error
    es.start(checkout("42"), id=42)  # error
    es.start(checkout)  # error
    text: str = await es.start(checkout("42"))  # error
    child = es.start(checkout("42"))
    child.send(approval, "yes")  # error
    await child.cancel()  # error
    other: es.ChildHandle[str] = child  # error
    print(text, other)


# --- talking ---

approval = es.signal("approval", bool)
progress = es.state("progress", int)


@es.workflow
async def talking() -> None:
    answer: str = await approval.wait()  # error
    perhaps: bool = await approval.wait(timeout=5, default=None)  # error
    progress.set("half")  # error
    done: str = progress.get()  # error
    print(answer, perhaps, done)


quote = es.request("quote", str, int)


async def price(order_id: str) -> int:
    return len(order_id)


async def describe(order_id: str) -> str:
    return order_id


def check(order_id: int) -> None:
    del order_id


@es.workflow
async def answering() -> None:
    quote.handle(describe)  # error
    quote.handle(price, validate=check)  # error
    asked = await quote.next()
    asked.answer("a lot")  # error
    number: int = asked.value  # error
    print(number)


async def asking(handle: es.Handle[None]) -> None:
    await handle.ask(quote, 42)  # error
    text: str = await handle.ask(quote, "42")  # error
    await handle.ask(approval, True)  # error
    print(text)


async def starting_with_a_signal(engine: es.Engine) -> None:
    approval.message("yes")  # error
    await engine.start(talking(), send=approval)  # error
    await engine.start(talking(), send="yes")  # error


async def telling(handle: es.Handle[None]) -> None:
    await handle.send(approval, "yes")  # error
    await handle.send("approval", True)  # error


# --- testing ---

crash_everywhere(checkout, kill="process")  # error
crash_everywhere(checkout("42"), kill="hard")  # error
crash_everywhere(checkout("42"), drive=telling)  # error
crash_everywhere(checkout("42"), effects=len)  # error
crash_everywhere(checkout("42"), workflows=[charge])  # error
replay("run.ndjson", checkout)  # error
replay(load_journal("run.ndjson"), charge)  # error


# --- undoing ---


@es.step
def refund(receipt: str) -> None: ...


@es.workflow
async def undoing() -> None:
    async with es.saga() as saga:
        cents: int = await saga.do(charge("42", 1), undo=refund)  # error
        await saga.do(charge("42", 1))  # error
        await saga.do(charge, undo=refund)  # error
        await saga.do(charge("42", 1), undo=lambda receipt: receipt)  # error
        await saga.do(charge("42", 1), undo=lambda: refund("42"))  # error
        await saga.do(charge("42", 1), undo=None)  # error
        saga.undo(refund)  # error
        saga.undo("42")  # error
        print(cents)


# --- beginning again, pipelines, repair ---


@es.step
def shorten(text: str) -> str:
    return text[:1]


@es.step
def measure(text: str) -> int:
    return len(text)


es.pipeline("wrong", str, [shorten, measure])  # error
shortening = es.pipeline("right", str, [shorten, shorten])


@es.workflow
async def beginning_again(text: str) -> str:
    if text:
        es.continue_as_new(shorten)  # error
    async with es.milestone(1):  # error
        pass
    es.continue_as_new(beginning_again(1))  # error


@es.workflow(durability="lax")  # error
async def lax() -> None: ...


async def repairs(engine: es.Engine) -> None:
    total: int = await (await engine.start(shortening("a")))  # error
    print(total)
    shortening(1)  # error
    handle = await engine.start(shortening("a"))
    await handle.fork(at=1.5)  # error
    await handle.retry(reason=1)  # error
    await handle.pause(actor=None)  # error
    await engine.requeue(1)  # error
    es.run(shortening("a"), on_failed="ignore")  # error
    es.Relaxed(seconds="1")  # error


# --- payloads ---


@es.step
async def login(password: es.Secret[str]) -> es.Secret[bytes]:
    return es.Secret(password)  # error


@es.workflow
async def sealed(plain: str) -> None:
    await login(plain)  # error
    await login(es.Secret(5))  # error
    token: bytes = await login(es.Secret(plain))  # error
    text: str = (await login(es.Secret(plain))).reveal()  # error
    print(token, text)


es.Encryption({"2026-11": "text"}, "2026-11")  # error
es.Engine("sqlite:///orders.db", payloads=es.Compression())  # error
es.Payloads(redact="password", encryption=es.Compression())  # error


# --- what users take in their hands ---


async def looking(handle: es.Handle[int]) -> None:
    es.Client(5)  # error
    place: es.Checkpoint = (await handle.snapshot()).current_step  # error
    steps: tuple[es.Pointer, ...] = (await handle.snapshot()).checkpoints  # error
    left: list[es.UndoRecord] = (await handle.snapshot()).undo_left  # error
    open_steps: list[es.OpenStep] = (await handle.progress()).open_steps  # error
    changed: es.Change = await handle.diff(1)  # error
    entries: es.HistoryEntry = await handle.history()  # error
    seen: es.Snapshot = await handle.progress()  # error
    doing: es.Progress = await handle.snapshot()  # error
    run: es.RunRecord = await handle.status()  # error
    status: es.Status = "running"  # error
    lost: es.UndeliveredSignal = await handle.undelivered()  # error
    version: int = es.__version__  # error
    print(place, steps, left, open_steps, changed, entries, seen, doing, run, status, lost, version)


async def queueing(client: es.Client) -> None:
    line = es.queue("mail", concurrency="10")  # error
    other: es.Queue = es.Limits(concurrency=1)  # error
    paced = es.queue("mail", rate=100)  # error
    await client.start(charge("42", 1), queue="mail")  # error
    await client.start(charge("42", 1), queue=other, priority="high")  # error
    await client.set_queue(other, concurrency=5)  # error
    why: es.Hindrance = await client.handle("a").why()  # error
    queues: es.QueueRecord = await client.queues()  # error
    print(line, paced, why, queues)


async def pruning(client: es.Client) -> None:
    kept: es.Kept = (await client.prune_segments(delta)).kept  # error
    gone: es.Pruned = await client.dead()  # error
    dead: es.DeadLetter = await client.dead()  # error
    print(kept, gone, dead)


@es.workflow
async def doing_things() -> None:
    where: es.Current = es.current  # error
    await es.condition(True)  # error
    es.note(5)  # error
    es.log.warn_about("it")  # error
    chance: int = es.random()  # error
    number: int = es.uuid4()  # error
    es.heartbeat(details=1, every=5)  # error
    last: str = es.last_heartbeat(dict[str, int])  # error
    es.saga("booking")  # error
    wrong: es.Saga = es.milestone("loaded")  # error
    scope: es.Milestone = es.saga()  # error
    es.signal(1, bool)  # error
    es.signal("go", 5)  # error
    es.state("half")  # error
    es.request("quote", str)  # error
    print(where, chance, number, last, wrong, scope)


def definitions(tx: es.SQLiteTx, asked: es.Asked[str, int]) -> None:
    made: es.Step[[int], str] = charge  # error
    held: es.Workflow[[str], str] = checkout  # error
    paid: es.Transaction[[str], int] = debit  # error
    staged: es.Pipeline[int] = shortening  # error
    heard: es.Signal[int] = approval  # error
    published: es.State[str] = progress  # error
    question: es.Request[int, int] = quote  # error
    letter: es.SignalMessage = approval  # error
    rows: es.SQLiteTx = tx.execute("SELECT 1")  # error
    result: es.SQLiteRows = tx  # error
    base: es.Database = "sqlite:///other.db"  # error
    asked.answer("much")  # error
    other: es.Asked[int, int] = asked  # error
    print(other, made, held, paid, staged, heard, published, question, letter, rows, result, base)


def errors_of_runs(error: es.RunError) -> None:
    error.runid  # error
    es.RunNotFound("gone")  # error
    es.RunFailed("it failed")  # error
    es.RunCancelled("stop")  # error
    es.RunDead("worn")  # error
    es.RunPaused("wait")  # error
    es.RunEnded("over")  # error
    es.RunTimeout("late")  # error
    es.IllegalState("no")  # error
    es.RunConflict("taken", run_id="a", differences="cents")  # error
    es.RequestError("no", run_id="a")  # error
    es.RequestRefused("no", run_id="a", request="quote", key="k")  # error
    es.RequestFailed("no", run_id="a", request="quote")  # error
    es.RequestTimeout("no", run_id="a", key="k")  # error


def other_errors(error: es.EverstepError, store: es.StoreError, usage: es.UsageError) -> None:
    error.run_id  # error
    store.run_id  # error
    usage.path  # error
    es.StepError("no", step=1)  # error
    es.StepFailed("no", attempt="1")  # error
    es.StepTimeout("no", seconds=5)  # error
    es.StepOutcomeUnknown("no", maybe="yes")  # error
    es.RetryAfter("5")  # error
    es.NondeterminismError("no", version="1")  # error
    es.CorruptJournal("no", run_id="a")  # error
    es.PayloadTooLarge("no", size=1)  # error
    es.PayloadKeyMissing("no")  # error
    es.Unencodable("no", path=1)  # error
    es.RemoteError("ValueError")  # error
    es.ContinuedAsNew("[]")  # error
    full: es.StoreFull = es.StoreUnavailable("away")  # error
    away: es.StoreUnavailable = es.SchemaMismatch("newer")  # error
    newer: es.SchemaMismatch = store  # error
    unread: es.Undecodable = error  # error
    used: es.CallAlreadyUsed = usage  # error
    wide: es.UsageError = error  # error
    about: es.StoreError = usage  # error
    whose: es.RunError = store  # error
    closed: es.EngineClosed = usage  # error
    lost: es.InvalidStoreURL = usage  # error
    one: es.EverstepError = es.Evicted()  # error
    two: es.EverstepError = es.LeaseLost()  # error
    print(wide, about, whose, full, away, newer, unread, used, closed, lost, one, two)
