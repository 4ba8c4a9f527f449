"""Runs whose payloads are sealed: driven, killed, resumed, rotated, spoiled. Real engines on virtual time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

import everstep as es
from everstep.events import NoteRecorded, RunCreated, RunPaused, StepFailed
from everstep.journal import GENESIS, Entry, entry_hash
from everstep.records import Status
from everstep.testing import replay
from tests.engine.support import World, kill, link, turns, until, worker_of
from tests.payloads.support import CANARY, NEW, OLD, encrypted, needs_cryptography, rotated, spoiled

needs_cryptography()

HOUR = 3600.0
PLAIN = es.Payloads()
ONLY_SECRETS = es.Payloads(encryption=es.Encryption({"2025": OLD}, "2025", only_secrets=True))
WRONG = es.Payloads(encryption=es.Encryption({"2025": NEW}, "2025"))
word = es.signal("word", str)
stage = es.state("stage", str)
calls: list[str] = []


@dataclass(frozen=True)
class Login:
    user: str
    password: es.Secret[str]


@es.step
async def echo(text: str) -> str:
    calls.append(text)
    return f"{text}!"


@es.step
async def fail(text: str) -> str:
    raise ValueError(f"no {text}")


@es.step(retry=3)
async def patient(text: str) -> str:
    if es.last_heartbeat(str) == text:
        return f"again {text}"
    es.heartbeat(text)
    raise OSError(f"not yet {text}")


@es.workflow
async def child(text: str) -> str:
    return await echo(text)


@es.workflow
async def failing_child(text: str) -> str:
    raise KeyError(text)


@es.workflow
async def everything(text: str) -> list[str]:
    stage.set(text)
    es.note("why", {"because": text})
    said = [await echo(text), await patient(text), await child(text)]
    for failing in (fail(text), failing_child(text)):
        try:
            await failing
        except (es.StepFailed, es.RunFailed) as error:
            said.append(repr(error.__cause__))
    said.append(await word.wait())
    return said


EXPECTED = ["x!", "again x", "x!", "ValueError('no x')", "KeyError('x')", "x"]


async def run_everything(world: World, payloads: es.Payloads, text: str = "x", run_id: str = "run-1") -> list[str]:
    engine = await world.engine(everything, payloads=payloads)
    handle = await engine.start(everything(text), id=run_id)
    await handle.send(word, text)
    return await handle.result()


# --- on ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payloads", [PLAIN, encrypted(), rotated(), ONLY_SECRETS], ids=repr)
async def test_a_run_does_the_same_with_payloads_sealed(world: World, payloads: es.Payloads) -> None:
    assert EXPECTED == await run_everything(world, payloads)

    client = es.Client(link(await world.engine()), payloads=payloads)
    assert EXPECTED == await client.handle("run-1", everything).result()
    assert EXPECTED == await client.handle("run-1").result()
    assert {"stage": "x"} == (await client.handle("run-1").snapshot()).payload
    history = [event for entry in await client.handle("run-1").history() for event in entry.events]
    assert [{"because": "x"}] == [msgspec.json.decode(e.value) for e in history if isinstance(e, NoteRecorded)]
    assert replay(await world.entries("run-1"), everything, payloads=payloads) is not None


async def test_nothing_that_users_wrote_is_in_the_store(world: World) -> None:
    await run_everything(world, encrypted(), CANARY)

    store: Any = world.store
    assert store._runs
    assert CANARY not in repr([everything_of(run) for run in store._runs.values()])


def everything_of(run: Any) -> list[Any]:
    return [run.record, run.entries, run.attempts, run.inbox]


async def test_a_killed_worker_is_followed_by_one_that_has_the_keys(world: World) -> None:
    """Not by one that lacks them: it pauses the run for others, which it may be due for at once."""
    engine = await world.engine(everything, payloads=encrypted())
    await engine.start(everything("x"), id="run-1")
    await turns()
    kill(engine)
    blind = await world.engine(everything, payloads=WRONG)
    with pytest.raises(es.RunPaused, match="key 2025, and the key given here under this id is another"):
        await blind.handle("run-1").result()
    assert Status.PAUSED is (await world.record("run-1")).status

    seeing = await world.engine(everything, payloads=encrypted())
    await seeing.handle("run-1").send(word, "x")
    assert EXPECTED == await seeing.handle("run-1", everything).result()
    [verdict] = [event for event in await world.events("run-1") if isinstance(event, RunPaused)]
    assert "key 2025" in verdict.reason, "everybody may read why"


async def test_a_worker_without_any_keys_does_not_feed_sealed_values_to_code(world: World) -> None:
    client = es.Client(link(world.unopened()), payloads=encrypted())
    await client.start(child("x"), id="run-1")
    calls.clear()

    engine = await world.engine(child)
    with pytest.raises(es.RunPaused, match="key 2025, which is not given"):
        await engine.handle("run-1").result()

    assert [] == calls
    with pytest.raises(es.PayloadKeyMissing):
        await engine.handle("run-1").snapshot()
    other = await world.engine(child, payloads=rotated())
    assert "x!" == await other.handle("run-1", child).result()


async def test_keys_may_be_introduced_and_rotated_in_the_middle_of_a_run(world: World) -> None:
    """Mixed journals replay: each value says how it was sealed."""

    @es.workflow
    async def long(text: str) -> str:
        for _ in range(3):
            await echo(text)
            await es.sleep(HOUR)
        return text

    engine = await world.engine(long)
    await engine.start(long(CANARY), id="run-1")
    for payloads in (encrypted(), rotated(), rotated()):
        await until(lambda now=engine: not worker_of(now).active)  # type: ignore[misc]
        kill(engine)
        engine = await world.engine(long, payloads=payloads)
        await asyncio.sleep(HOUR + 1)
    assert CANARY == await engine.handle("run-1", long).result()

    stored = b"".join(entry.events for entry in await world.entries("run-1"))
    assert all(part in stored for part in (CANARY.encode(), b'"2025"', b'"2026"'))


async def test_starting_again_compares_what_was_meant(world: World) -> None:
    """No two ciphertexts are alike."""
    first, second = await world.engine(child, payloads=encrypted()), es.Client(link(world.unopened()), payloads=rotated())
    await first.start(child("x"), id="run-1")

    assert "x!" == await (await second.start(child("x"), id="run-1"))
    with pytest.raises(es.RunConflict, match="'x' recorded, 'y' requested"):
        await second.start(child("y"), id="run-1")


async def test_a_result_too_is_only_for_who_has_the_key(world: World) -> None:
    await run_everything(world, rotated())
    blind = es.Client(link(world.unopened()), payloads=encrypted())

    with pytest.raises(es.PayloadKeyMissing, match="key 2026"):
        await blind.handle("run-1", everything).result()


# --- spoiled ----------------------------------------------------------------------------------------------------------------


async def parked(world: World, payloads: es.Payloads) -> None:
    @es.workflow(name="waiting")
    async def waiting(text: str) -> list[str]:
        return [await echo(text), await word.wait()]

    engine = await world.engine(waiting, payloads=payloads)
    await engine.start(waiting("x"), id="run-1")
    await until(lambda: not worker_of(engine).active)
    kill(engine)


def forge(world: World, change: Any) -> None:
    """Somebody who can write to the store changes an entry, and recomputes every hash."""
    store: Any = world.store
    run = store._runs[store._keys["run-1"]]
    forged: list[Entry] = []
    previous = GENESIS
    for entry in run.entries:
        events = spoiled(entry.events, change)
        digest = entry_hash(previous, entry.run_key, entry.version, entry.epoch, entry.at, entry.drained, events)
        forged.append(msgspec.structs.replace(entry, events=events, hash=digest))
        previous = digest
    run.entries[:] = forged
    run.record = msgspec.structs.replace(run.record, hash=previous)


async def test_a_forged_journal_with_good_hashes_is_quarantined(world: World) -> None:
    """M1. The hash chain is no signature; the authentication of payloads is one."""
    await parked(world, encrypted())
    calls.clear()

    def swap(wire: list[dict[str, Any]]) -> None:
        for event in wire:
            if event["event"] == "StepCompleted":
                event["key"] = "0:9"

    forge(world, swap)
    engine = await world.engine(*WAITING, payloads=encrypted())
    await engine.handle("run-1").send(word, "go")

    with pytest.raises(es.RunPaused, match=r"corrupt: .*StepCompleted.result in entry .* cannot be trusted"):
        await engine.handle("run-1").result()
    assert [] == calls


@es.workflow(name="waiting")
async def waiting_again(text: str) -> list[str]:
    return [await echo(text), await word.wait()]


WAITING = (waiting_again,)


async def test_a_signal_of_another_run_is_not_believed(world: World) -> None:
    await parked(world, encrypted())
    engine = await world.engine(*WAITING, payloads=encrypted())
    await engine.start(waiting_again("y"), id="run-2")
    await engine.handle("run-2").send(word, "for run-2")
    store: Any = world.store
    [message] = store._runs[store._keys["run-2"]].inbox[-1:]
    await store.post("run-1", msgspec.structs.replace(message, seq=0))

    with pytest.raises(es.RunPaused, match=r"corrupt: message 1 of its inbox .*belongs elsewhere"):
        await engine.handle("run-1").result()


async def test_a_signal_sealed_with_a_strange_key_waits_for_a_worker_that_has_it(world: World) -> None:
    await parked(world, encrypted())
    sender = es.Client(link(world.unopened()), payloads=rotated())
    await sender.handle("run-1").send(word, "go")
    engine = await world.engine(*WAITING, payloads=encrypted())
    with pytest.raises(es.RunPaused, match="key 2026"):
        await engine.handle("run-1").result()

    other = await world.engine(*WAITING, payloads=rotated())
    assert ["x!", "go"] == await other.handle("run-1", waiting_again).result()


# --- secrets ----------------------------------------------------------------------------------------------------------------


@es.step
async def login(who: Login) -> es.Secret[str]:
    return es.Secret(f"token of {who.user} with {who.password.reveal()}")


@es.step
async def use(token: es.Secret[str], text: str) -> int:
    if text == "fail":
        raise ValueError(f"refused {token.reveal()}")
    return len(token.reveal())


@es.workflow
async def careless(who: Login, text: str = "") -> int:
    return await use(await login(who), text)


SECRET = "hunter2-the-second"
LOGIN = Login("ann", es.Secret(SECRET))


@pytest.mark.parametrize("payloads", [ONLY_SECRETS, encrypted(), rotated()], ids=repr)
async def test_a_secret_passes_through_and_is_never_stored_in_clear(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(careless, payloads=payloads)

    assert len(f"token of ann with {SECRET}") == await (await engine.start(careless(LOGIN), id="run-1"))

    stored = repr(await world.entries("run-1"))
    assert SECRET not in stored
    assert ('"ann"' in stored) is (payloads is ONLY_SECRETS)
    assert "***" in repr((await engine.handle("run-1").snapshot()).payload)
    assert SECRET not in repr(await engine.handle("run-1").history())


async def test_a_secret_survives_a_crash(world: World) -> None:
    @es.workflow
    async def slow(who: Login) -> str:
        await es.sleep(HOUR)
        return who.password.reveal()[:6]

    engine = await world.engine(slow, payloads=ONLY_SECRETS)
    await engine.start(slow(LOGIN), id="run-1")
    await until(lambda: not worker_of(engine).active)
    kill(engine)
    again = await world.engine(slow, payloads=ONLY_SECRETS)

    assert "hunter" == await again.handle("run-1", slow).result()


async def test_a_secret_does_not_show_in_errors(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Not even where a step puts it into its message: what the run knows to be secret is cut out before it is recorded."""
    caplog.set_level(logging.DEBUG)
    engine = await world.engine(careless, payloads=ONLY_SECRETS)
    with pytest.raises(es.RunFailed) as caught:
        await (await engine.start(careless(LOGIN, "fail"), id="run-1"))

    assert "refused ***" in repr(caught.value.__cause__) + repr(caught.value.__cause__.__cause__)  # type: ignore[union-attr]
    assert SECRET not in f"{caught.value} {await world.entries('run-1')} {caplog.text}"


async def test_without_a_key_a_secret_is_refused_before_anything_is_stored(world: World) -> None:
    engine, client = await world.engine(careless), await world.client()
    for starter in (engine, client):
        with pytest.raises(es.Unencodable, match="only be stored encrypted"):
            await starter.start(careless(LOGIN), id="run-1")
    with pytest.raises(es.RunNotFound):
        await engine.handle("run-1").status()


async def test_a_secret_that_turns_up_without_a_key_never_reaches_the_store(world: World) -> None:
    """As a result it is the step's failure, because the effect has happened; elsewhere the run waits for a key."""

    @es.step
    async def make() -> es.Secret[str]:
        return es.Secret(SECRET)

    @es.workflow
    async def maker() -> str:
        return repr(await make())

    @es.workflow
    async def teller() -> str:
        es.note("token", es.Secret(SECRET))
        await echo("x")
        return "done"

    @es.step
    async def beats() -> str:
        es.heartbeat(es.Secret(SECRET))
        return "unreachable"

    @es.workflow
    async def beater() -> str:
        return await beats()

    engine = await world.engine(maker, teller, beater)
    with pytest.raises(es.RunFailed, match="only be stored encrypted"):
        await (await engine.start(maker(), id="maker"))
    with pytest.raises(es.RunFailed, match="only be stored encrypted"):
        await (await engine.start(beater(), id="beater"))
    with pytest.raises(es.Unencodable, match="only be stored encrypted"):
        await engine.start(teller(), id="teller")
    signal = es.signal("secret", es.Secret[str])
    with pytest.raises(es.Unencodable, match="only be stored encrypted"):
        await engine.handle("maker").send(signal, es.Secret(SECRET))
    store: Any = world.store
    assert SECRET not in repr([everything_of(run) for run in store._runs.values()])


async def test_a_renewed_secret_neither_conflicts_nor_diverges(world: World) -> None:
    """It takes no part in what a run is compared by; all else does."""
    engine = await world.engine(careless, payloads=ONLY_SECRETS)
    await engine.start(careless(LOGIN), id="run-1")

    await (await engine.start(careless(Login("ann", es.Secret("renewed"))), id="run-1"))
    with pytest.raises(es.RunConflict) as caught:
        await engine.start(careless(Login("bob", LOGIN.password)), id="run-1")

    assert SECRET not in str(caught.value)


async def test_a_mismatch_does_not_show_a_secret(world: World) -> None:
    def version(text: str) -> es.Workflow[[Login], int]:
        @es.workflow(name="changing")
        async def changing(who: Login) -> int:
            await use(who.password, text)
            await es.sleep(HOUR)
            return 1

        return changing

    before = version("a")
    engine = await world.engine(before, payloads=ONLY_SECRETS)
    await engine.start(before(LOGIN), id="run-1")
    await until(lambda: not worker_of(engine).active)
    kill(engine)
    again = await world.engine(version("b"), payloads=ONLY_SECRETS)

    with pytest.raises(es.RunPaused, match="no longer matches") as caught:
        await again.handle("run-1").result()
    assert '"token":"***"' in str(caught.value)
    assert SECRET not in str(caught.value)


# --- redaction --------------------------------------------------------------------------------------------------------------


@es.step
async def connect(password: str, host: str) -> str:
    raise ConnectionError(f"cannot log in to {host} as root with {password}, api_token=abc'def")


@es.workflow
async def connecting(host: str, settings: dict[str, str]) -> str:
    es.note("settings", settings)
    stage.set(settings["password"])
    try:
        return await connect(settings["password"], host)
    except es.StepFailed as error:
        return str(error.__cause__)


async def test_what_people_read_is_redacted_before_it_is_stored_and_what_code_reads_is_not(world: World) -> None:
    """S36. Live and on replay the code sees the same text."""
    payloads = es.Payloads(redact=["password", "*_token"])
    engine = await world.engine(connecting, payloads=payloads)

    said = await (await engine.start(connecting("db", {"password": "opensesame", "user": "root"}), id="run-1"))

    assert "cannot log in to db as root with ***, api_token=***" == said
    entries = await world.entries("run-1")
    stored = [event for entry in entries for event in entry.decoded()]
    assert [b'{"password":"***","user":"root"}'] == [bytes(e.value) for e in stored if isinstance(e, NoteRecorded)]
    [failed] = [event for event in stored if isinstance(event, StepFailed)]
    assert "opensesame" not in repr(failed)
    assert b'"settings":{"password":"opensesame","user":"root"}' in entries[0].events, "arguments come back exactly"
    assert replay(entries, connecting, payloads=payloads) is not None
    created = (await engine.handle("run-1").history())[0].events[0]
    assert isinstance(created, RunCreated)
    assert b'{"host":"db","settings":{"password":"***","user":"root"}}' == bytes(created.args), "people see stars"


# --- the log ----------------------------------------------------------------------------------------------------------------


async def test_the_log_does_not_tell_what_is_encrypted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    @es.step
    async def boom(text: str) -> str:
        raise RuntimeError(text)

    @es.workflow
    async def forgetful(text: str) -> str:
        task = asyncio.ensure_future(boom(text))
        await es.sleep(1)
        del task
        raise ValueError(text)

    caplog.set_level(logging.DEBUG)
    engine = await world.engine(forgetful, payloads=encrypted())
    with pytest.raises(es.RunFailed):
        await (await engine.start(forgetful(CANARY), id="run-1"))
    with pytest.raises(es.RunFailed):
        await engine.handle("run-1").result()

    assert CANARY not in caplog.text
    assert CANARY not in repr([record.__dict__ for record in caplog.records])


async def test_what_is_logged_beside_a_message_is_redacted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """By the names of fields, and wherever a text stands that is known to be hidden; in workflow code and in bodies."""

    @es.step
    async def connect_to(host: str, password: str) -> str:
        es.log.info("connecting", extra={"host": host, "password": password, "tried": [f"{host}?pass={password}"]})
        return host

    @es.workflow
    async def logging_in(host: str, settings: dict[str, str], key: es.Secret[str]) -> str:
        es.log.info("settings", extra={"settings": settings, "session_token": "t0ken", "attempts": 3, "key": key})
        return await connect_to(host, settings["password"])

    caplog.set_level(logging.DEBUG, "everstep.run")
    engine = await world.engine(logging_in, payloads=replace_redact(encrypted()))

    await (await engine.start(logging_in("db", {"password": "opensesame", "user": "root"}, es.Secret(CANARY)), id="run-1"))

    inside, body = [record.__dict__ for record in caplog.records if record.name == "everstep.run"]
    assert {"password": "***", "user": "root"} == inside["settings"]
    assert ("***", 3, "run-1") == (inside["session_token"], inside["attempts"], inside["run_id"])
    assert ("db", "***", ["db?pass=***"]) == (body["host"], body["password"], body["tried"])
    assert CANARY not in repr([inside, body])


def replace_redact(payloads: es.Payloads) -> es.Payloads:
    """The same with names that are redacted."""
    return es.Payloads(encryption=payloads.encryption, redact=["password", "*_token"])


async def test_the_reason_of_a_pause_is_for_who_has_the_key(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A mismatch shows arguments."""

    def version(suffix: str) -> es.Workflow[[str], str]:
        @es.workflow(name="changing")
        async def changing(text: str) -> str:
            await echo(text + suffix)
            await es.sleep(HOUR)
            return text

        return changing

    before = version("")
    engine = await world.engine(before, payloads=encrypted())
    await engine.start(before(CANARY), id="run-1")
    await until(lambda: not worker_of(engine).active)
    kill(engine)
    caplog.set_level(logging.DEBUG)
    again = await world.engine(version("!"), payloads=encrypted())
    with pytest.raises(es.RunPaused, match=CANARY):
        await again.handle("run-1").result()

    assert "run run-1 is paused" in caplog.text
    assert CANARY not in caplog.text
    assert CANARY.encode() not in b"".join(entry.events for entry in await world.entries("run-1"))
