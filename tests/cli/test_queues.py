"""``everstep queues``, and what the other verbs tell of queues."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from everstep.cli.faults import Refusal
from everstep.cli.filters import parse_filter
from everstep.cli.queues import changed, limits_text, queue_json, state_of, table_row, tsv_row
from everstep.client import Client
from everstep.definitions import workflow
from everstep.limits import Limits, QueueRecord
from everstep.queues import queue
from tests.cli.support import everstep

mail = queue("mail", concurrency=1, per_key=1)
FULL = QueueRecord(
    name="mail",
    declared=Limits(concurrency=10),
    changed=Limits(concurrency=50, rate=(100, 60)),
    changed_by="ann",
    changed_why="sale",
    is_paused=True,
    paused_by="bob",
    waiting_count=3,
    admitted_count=2,
)


@workflow
async def letter(what: str) -> str:
    return what


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["concurrency=50"], Limits(concurrency=50, per_key=1)),
        (["per_key=none", "per_worker=2"], Limits(per_worker=2)),
        (["rate=100/60"], Limits(per_key=1, rate=(100, 60.0))),
        (["rate=none"], Limits(per_key=1)),
    ],
)
def test_limits_are_typed_as_words(words: list[str], expected: Limits) -> None:
    """What is not named stays."""
    assert expected == changed(Limits(per_key=1), words)


@pytest.mark.parametrize("word", ["concurrency", "concurrency=many", "rate=5", "colour=3", "=", "rate=a/b"])
def test_what_is_no_limit_is_refused(word: str) -> None:
    with pytest.raises(Refusal, match="is no limit"):
        changed(Limits(), [word])


def test_a_queue_tells_what_was_set_and_what_code_says() -> None:
    """Both: a change that nobody remembers is a riddle."""
    assert "paused by bob, set by ann: sale (code: concurrency=10)" == state_of(FULL, 0)
    assert ("mail", "3", "2 of 50", "", "", "100/60") == table_row(FULL, 0)[:6]
    assert ("mail", "3", "2", "50", "", "", "100/60") == tsv_row(FULL, 0)[:7]
    assert {"concurrency": 10, "per_worker": None, "per_key": None, "rate": None} == queue_json(FULL)["declared"]
    assert "no limits" == limits_text(Limits())


def test_runs_are_filtered_by_queue_and_key() -> None:
    wanted = parse_filter("queue:mail key:cust-7", 0)

    assert ("mail", "cust-7") == (wanted.queue, wanted.key)


def test_a_queue_is_paused_and_changed_from_a_shell(tmp_path: Path) -> None:
    """And a run that waits there says so."""
    url = f"sqlite:///{tmp_path / 'state.db'}"

    async def start() -> None:
        async with Client(url) as client:
            await client.start(letter("a"), id="a", queue=mail, key="k")

    asyncio.run(start())

    paused = everstep("queues", "pause", "mail", "--reason", "down", "--store", url, cwd=tmp_path)
    set_to = everstep("queues", "set", "mail", "concurrency=5", "--json", "--store", url, cwd=tmp_path)
    shown = everstep("show", "a", "--json", "--store", url, cwd=tmp_path)
    wrong = everstep("queues", "stop", "mail", "--store", url, cwd=tmp_path)

    assert (0, ["mail", "1", "0", "1", "", "1"]) == (paused.returncode, paused.stdout.split("\t")[:6])
    [told] = json.loads(set_to.stdout)
    assert (5, 1, True) == (told["limits"]["concurrency"], told["declared"]["per_key"], told["is_paused"])
    waits = json.loads(shown.stdout)
    assert ["queue paused", "no worker"] == [each["kind"] for each in waits["waits_for"]]
    assert "(down)" in waits["doing"]
    assert 2 == wrong.returncode
