"""
S8: a secret in every field that can hold one is in no byte of the database and its WAL, in no log, and on no screen.

Real SQLite, real processes of the command line. Tags and ids are in clear: the canary is not in those.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import everstep as es
from everstep.events import StepCompleted
from everstep.records import Status
from tests.cli.support import everstep
from tests.payloads.support import needs_cryptography

needs_cryptography()

KEY = b"K" * 32
# Two: one is a Secret, which not even a holder of the keys is shown.
CANARY, TOKEN = "canary-5b1c", "hunter2-9e77"
PAYLOADS = es.Payloads(encryption=es.Encryption({"2026-11": KEY}, "2026-11"), compression=es.Compression(64))
word = es.signal("word", str)
stage = es.state("stage", dict[str, str])


@dataclass(frozen=True)
class Order:
    text: str
    token: es.Secret[str]


@es.step(retry=es.Retry(attempts=2, delay=2.0))
async def beat(text: str) -> str:
    if es.current().attempt == 1:
        es.heartbeat({"at": text})
        raise OSError(f"not yet {text}")
    return text


@es.step
async def fail(text: str, token: es.Secret[str]) -> str:
    try:
        raise KeyError(text)
    except KeyError as error:
        raise ValueError(f"no {text} for {token.reveal()}") from error


@es.workflow
async def child(order: Order) -> list[str]:
    return [order.text] * 20


@es.workflow
async def failing_child(text: str) -> str:
    raise RuntimeError(text)


@es.workflow
async def everything(order: Order) -> list[str]:
    stage.set({"text": order.text})
    es.note("why", {"because": order.text})
    said = [await beat(order.text), *await child(order)]
    for failing in (fail(order.text, order.token), failing_child(order.text)):
        try:
            await failing
        except (es.StepFailed, es.RunFailed) as error:
            said.append(str(error))
    es.note("token", order.token)
    said.append(await word.wait())
    return said


@es.workflow
async def failing(order: Order) -> str:
    return await fail(order.text, order.token)


@es.workflow
async def patient(order: Order) -> str:
    await es.sleep(86_400)
    return order.text


@es.workflow(name="changed")
async def before(order: Order) -> str:
    await fail_never(order.text)
    await es.sleep(2)
    return ""


@es.workflow(name="changed")
async def after(order: Order) -> str:
    await fail_never(order.text + "!")
    return ""


@es.step
async def fail_never(text: str) -> str:
    return text


WORKFLOWS: list[es.Workflow[..., Any]] = [everything, failing, patient, child, failing_child]
LOOKS = (
    *(("show", run_id) for run_id in ("run-1", "run-2", "run-3", "run-4", "run-1/0:4")),
    *((*verb, "run-1") for verb in (("show", "--json"), ("state",), ("watch",), ("watch", "--jsonl"))),
    ("runs", "--json"),
    ("verify",),
)


async def fill(file: Path) -> None:
    url = f"sqlite:///{file}"
    order = Order(CANARY, es.Secret(TOKEN))
    async with es.Engine(url, workflows=[*WORKFLOWS, before], payloads=PAYLOADS) as engine:
        first = await engine.start(everything(order), id="run-1", tags={"tenant": "acme"})
        await first.send(word, CANARY)
        assert CANARY in repr(await first)
        with pytest.raises(es.RunFailed, match=CANARY):
            await (await engine.start(failing(order), id="run-2"))
        third = await engine.start(patient(order), id="run-3")
        await third.send(word, CANARY)
        await third.cancel(CANARY)
        await engine.wait_until_rest("run-3", 30)
        changed = await engine.start(before(order), id="run-4")
        while await changed.status() is not Status.WAITING:  # noqa: ASYNC110  # parked in its own time
            await asyncio.sleep(0.02)
        for suffix in ("", "-wal"):  # While they are in use: closing folds the WAL into the file.
            shutil.copy(f"{file}{suffix}", f"{file}-live{suffix}")
    async with es.Engine(url, workflows=[after], payloads=PAYLOADS) as engine:
        with pytest.raises(es.RunPaused, match="no longer matches"):
            await engine.handle("run-4").result()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of every kind, and everything that was logged meanwhile."""
    folder = tmp_path_factory.mktemp("canary")
    root = logging.getLogger()
    handler, level = logging.FileHandler(folder / "everything.log", encoding="utf-8"), root.level
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        asyncio.run(fill(folder / "state.db"))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
    return folder


def holds(data: bytes, word: str) -> bool:
    """In clear, or in base64 at any offset."""
    clear = word.encode()
    encoded = {base64.b64encode(b"x" * shift + clear)[4:-4] for shift in range(3)}
    return any(part in data for part in (clear, clear[::-1], *encoded))


@pytest.mark.parametrize("word", [CANARY, TOKEN])
def test_no_byte_of_the_database_holds_it(place: Path, word: str) -> None:
    files = [path for path in place.rglob("state.db*") if path.is_file()]

    assert {"state.db", "state.db-live", "state.db-live-wal"} <= {path.name for path in files}
    assert [] == [path.name for path in files if holds(path.read_bytes(), word)]


def test_the_dump_is_of_a_store_in_which_all_of_it_happened(place: Path) -> None:
    """Or the test above would prove nothing."""
    connection = sqlite3.connect(f"file:{place / 'state.db'}?mode=ro", uri=True)
    try:
        text = "".join(
            row[0] if isinstance(row[0], str) else row[0].decode() for row in connection.execute("SELECT events FROM journal")
        )
    finally:
        connection.close()
    kinds = {
        *("RunCreated", "StepScheduled", "StepCompleted", "StepFailed", "ChildStarted", "ChildSucceeded", "ChildFailed"),
        *("SignalReceived", "StatePublished", "NoteRecorded", "CancelRequested", "RunPaused", "RunCancelled", "RunFailed"),
        "RunSucceeded",
    }

    assert kinds <= {kind for kind in kinds if f'"event":"{kind}"' in text}
    assert "acme" in text, "tags are in clear"


@pytest.mark.parametrize("word", [CANARY, TOKEN])
def test_no_log_holds_it(place: Path, word: str) -> None:
    logged = (place / "everything.log").read_bytes()

    assert b"run run-4 is paused" in logged
    assert not holds(logged, word)
    assert KEY not in logged


def file_of_keys(folder: Path, **more: object) -> Path:
    path = folder / "keys.json"
    path.write_text(json.dumps({"keys": {"2026-11": base64.b64encode(KEY).decode()}, "current": "2026-11", **more}))
    return path


def seen(place: Path, env: Mapping[str, str] | None = None) -> str:
    """Everything that the command line shows of the store."""
    done = [everstep("--store", str(place / "state.db"), *look, cwd=place, env=env) for look in LOOKS]
    assert all(each.returncode in (0, 1) for each in done), [each.stderr for each in done]
    return "".join(each.stdout + each.stderr for each in done)


def test_without_keys_the_command_line_shows_neither_and_says_why(place: Path) -> None:
    shown = seen(place)

    assert "(encrypted with key 2026-11)" in shown
    assert "0 damaged" in shown
    assert not holds(shown.encode(), CANARY)
    assert not holds(shown.encode(), TOKEN)


def test_with_keys_the_command_line_shows_all_but_secrets(place: Path) -> None:
    keys = place / "keys.json"
    keys.write_text(
        json.dumps({"keys": {"2026-11": base64.b64encode(KEY).decode()}, "current": "2026-11", "redact": ["because"]})
    )

    shown = seen(place, {"EVERSTEP_KEYS": str(keys)})

    assert CANARY in shown
    assert '"because":"***"' in shown.replace(" ", "")
    assert "encrypted with key" not in shown
    assert not holds(shown.encode(), TOKEN)


@pytest.mark.parametrize(
    "content",
    ["", "{}x", '{"keys": {"a": "???"}, "current": "a"}', '{"keyz": {}}', '{"keys": {"a": "QUFB"}, "current": "a"}', None],
)
def test_a_bad_file_of_keys_is_told_without_what_is_in_it(place: Path, tmp_path: Path, content: str | None) -> None:
    keys = tmp_path / "keys.json"
    if content is not None:
        keys.write_text(content)

    done = everstep("--store", str(place / "state.db"), "show", "run-1", cwd=place, env={"EVERSTEP_KEYS": str(keys)})

    assert 2 == done.returncode, done.stderr
    assert "EVERSTEP_KEYS" in done.stderr or "Encryption" in done.stderr
    assert "QUFB" not in done.stderr
    assert "???" not in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_forged_payload_is_told_by_verify_to_who_has_the_keys(tmp_path: Path) -> None:
    """The chain of hashes is good: it was recomputed. Only the keys can tell."""
    from everstep.journal import GENESIS, entry_hash

    file = tmp_path / "state.db"
    async with es.Engine(f"sqlite:///{file}", workflows=[child], payloads=PAYLOADS) as engine:
        await (await engine.start(child(Order(CANARY, es.Secret(TOKEN))), id="run-1"))
        entries = await engine.handle("run-1").journal()
    assert not any(isinstance(event, StepCompleted) for entry in entries for event in entry.decoded())
    forged = entries[0].events.replace(b'["run-1",1,0,"RunCreated.args"', b'["run-2",1,0,"RunCreated.args"')
    assert forged != entries[0].events
    digests: list[bytes] = []
    for entry in entries:
        events = forged if entry.version == 1 else entry.events
        previous = digests[-1] if digests else GENESIS
        digests.append(entry_hash(previous, entry.run_key, entry.version, entry.epoch, entry.at, entry.drained, events))
    connection = sqlite3.connect(file)
    rows = [row[0] for row in connection.execute("SELECT id FROM journal ORDER BY id")]
    for row, entry, digest in zip(rows, entries, digests, strict=True):
        events = forged if entry.version == 1 else entry.events
        connection.execute("UPDATE journal SET events = ?, hash = ? WHERE id = ?", (events.decode(), digest, row))
    connection.execute("UPDATE runs SET hash = ?", (digests[-1],))
    connection.commit()
    connection.close()
    keys = file_of_keys(tmp_path)

    blind = everstep("--store", str(file), "verify", cwd=tmp_path)
    seeing = everstep("--store", str(file), "verify", cwd=tmp_path, env={"EVERSTEP_KEYS": str(keys)})

    assert (0, 5) == (blind.returncode, seeing.returncode), blind.stderr + seeing.stderr
    assert "belongs elsewhere" in seeing.stdout
