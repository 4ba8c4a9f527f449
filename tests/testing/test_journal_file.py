"""
A journal as a file: what is read is what was written, and nothing else is taken for a journal.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

import everstep as es
from everstep.errors import CorruptJournal, NondeterminismError, UsageError
from everstep.events import RunSucceeded
from everstep.journal import Entry
from everstep.journal_file import dump_journal, parse_journals
from everstep.testing import Env, load_journal, replay, save_journal
from tests.core.golden_runs import FOLDER, read

approval = es.signal("approval", str)


@es.step
async def charge(text: str) -> str:
    return text * 2


@es.workflow(name="talk")
async def talk(text: str) -> str:
    first = await charge(text)
    return first + await charge(await approval.wait())


@es.workflow(name="talk")
async def other_talk(text: str) -> str:
    return await charge(await approval.wait())


@pytest.fixture(scope="module")
def journal() -> list[Entry]:
    """With whatever a string may hold."""

    async def main() -> list[Entry]:
        async with Env() as env:
            handle = await env.start(talk("line\nbreak \u2028 \x00 é 😀"), id="talk-1")
            await handle.send(approval, "yes")
            await handle
            return await handle.journal()

    return asyncio.run(main())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "talk.ndjson"


def test_a_journal_is_read_as_it_was_written(journal: list[Entry], path: Path) -> None:
    save_journal(path, journal)
    save_journal(path, journal)

    assert journal == load_journal(path)
    assert isinstance(replay(load_journal(path), talk), RunSucceeded)
    with pytest.raises(NondeterminismError, match="step charge"):
        replay(load_journal(path), other_talk)


async def test_large_values_are_in_the_file_too(path: Path) -> None:
    async with Env() as env:
        handle = await env.start(talk("x" * 100_000), id="talk-1")
        await handle.send(approval, "yes")
        await handle
        journal = await handle.journal()

    save_journal(path, journal)

    assert any(entry.blobs for entry in journal)
    assert journal == load_journal(path)
    assert isinstance(replay(load_journal(path), talk), RunSucceeded)


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.json")))
def test_every_golden_journal_survives_a_file(name: str, path: Path) -> None:
    _, entries = read(name)
    save_journal(path, entries)

    assert entries == load_journal(path)


def test_each_entry_is_a_line_that_other_programs_read(journal: list[Entry], path: Path) -> None:
    save_journal(path, journal)
    head, *lines = map(json.loads, path.read_bytes().splitlines())

    assert {"journal": 1, "run_id": "talk-1", "run_key": journal[0].run_key} == head
    assert [entry.version for entry in journal] == [line["version"] for line in lines]
    assert "RunCreated" == lines[0]["events"][0]["event"]


def test_an_altered_file_is_refused(journal: list[Entry], path: Path) -> None:
    save_journal(path, journal)
    text = path.read_text(encoding="utf-8")

    for altered in (text.replace('"yes"', '"no!"'), text.replace('{"event":', '{"event": '), _without_line(text, 2)):
        assert altered != text
        path.write_text(altered, encoding="utf-8")
        with pytest.raises(CorruptJournal, match="talk-1"):
            load_journal(path)


def test_an_altered_journal_is_not_written(journal: list[Entry], path: Path) -> None:
    first, *rest = journal

    for entries in ([], rest, [changed(first, at=first.at + 1), *rest]):
        with pytest.raises(CorruptJournal):
            save_journal(path, entries)
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds 0 journals"),
        ("hello\n", "begins with no journal"),
        ('{"version":1}\n', "begins with no journal"),
        ('{"journal":1}\n', "1: no line of a journal"),
        ('{"journal":1,"run_id":"a","run_key":7}\n{"version":1}\n', "2: no line of a journal"),
        ('{"journal":1,"run_id":"a","run_key":7}\n\x00\n', "2: no line of a journal"),
        ('{"journal":2,"run_id":"a","run_key":7}\n', "a journal in format 2; this everstep reads 1"),
        ('{"journal":1,"run_id":"a","run_key":7}\n' * 2, "holds 2 journals"),
    ],
)
def test_what_is_no_journal_is_refused(text: str, told: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=told):
        load_journal(path)


def test_several_journals_may_follow_one_another(journal: list[Entry]) -> None:
    journals = [journal, read("order")[1]]
    lines = [line for journal in journals for line in dump_journal(journal)]

    assert journals == list(parse_journals(lines, "both"))


def _without_line(text: str, number: int) -> str:
    lines = text.split("\n")
    return "\n".join([*lines[: number - 1], *lines[number:]])
