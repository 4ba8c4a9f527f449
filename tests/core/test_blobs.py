"""Large payloads stand beside the journal, and come back as they were or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

import everstep as es
from everstep.blobs import BLOB_BYTES_MIN, FIELDS, BadBlob, Blob, attach, blob_hash, detach, hashes_in
from everstep.errors import CorruptJournal
from everstep.events import (
    ChildStarted,
    ChildSucceeded,
    Event,
    NoteRecorded,
    RunContinued,
    RunCreated,
    RunSucceeded,
    SignalReceived,
    StatePublished,
    StepCompleted,
    StepOverridden,
    StepScheduled,
    TimerFired,
    encode_events,
)
from everstep.journal import GENESIS, Entry, decode_verified, seal
from everstep.journal_file import load_journal, save_journal
from everstep.payloads.table import TABLE, Kind
from tests.core.driver import Run, replayed

RUN_KEY = 7
GOLDEN = Path(__file__).parent / "golden" / "carrier.ndjson"


def large(letter: str = "x") -> Raw:
    return Raw(b'"' + letter.encode() * BLOB_BYTES_MIN + b'"')


def args(**members: Any) -> Raw:
    return Raw(msgspec.json.encode(members))


def events_with(value: Raw) -> list[Event]:
    """One event of every kind whose payload may stand elsewhere."""
    return [
        StepScheduled("0:1", "load", args(data=value, more=1), "d", "app.py:7"),
        StepCompleted("0:1", value, 2),
        ChildStarted("0:2", "r/0:2", "child", args(first=2, data=value), "d"),
        ChildSucceeded("0:2", value),
        SignalReceived("word", value, "key"),
        StatePublished("0:3", "stage", value, True),
        NoteRecorded("0:4", "why", value),
    ]


def sealed(events: list[Event]) -> Entry:
    return seal(GENESIS, RUN_KEY, 1, 1, 1, True, events)


def test_a_value_that_passes_through_a_run_is_stored_once() -> None:
    events = events_with(large())

    entry = sealed(events)

    assert [large()] == [Raw(blob.data) for blob in entry.blobs]
    assert len(entry.events) < 2500
    assert encode_events(events) == entry.whole()
    assert events == decode_verified(entry, "r") == entry.decoded()


def value_of(letter: str, count: int, extra: object) -> Raw:
    return Raw(msgspec.json.encode({"text": letter * count, "extra": extra}))


@given(
    st.lists(
        st.builds(
            value_of,
            st.sampled_from("abé"),
            st.sampled_from((0, 10, BLOB_BYTES_MIN - 30, BLOB_BYTES_MIN, 3 * BLOB_BYTES_MIN)),
            st.none() | st.text(max_size=3) | st.just({"$blobs": [["result", "", "00", 1]]}),
        ),
        max_size=4,
    )
)
def test_whatever_is_taken_out_comes_back(values: list[Raw]) -> None:
    whole = encode_events([event for value in values for event in events_with(value)])

    events, blobs = detach(whole, RUN_KEY)

    assert whole == attach(events, blobs, RUN_KEY)
    assert {blob.hash for blob in blobs} == set(hashes_in(events))
    assert all(len(blob.data) >= BLOB_BYTES_MIN for blob in blobs)


def test_small_values_and_what_is_read_without_a_journal_stay() -> None:
    created = RunCreated(run_id="r", workflow="w", code_version="1", args=args(data=large()), salt="00", python="3.11")
    entry = sealed([created, TimerFired("0:1"), StepCompleted("0:2", Raw(b'"small"')), RunSucceeded(large())])

    assert () == entry.blobs
    assert entry.events == entry.whole()


def test_each_argument_is_taken_out_by_itself() -> None:
    """So it is the same blob as the result that it was."""
    scheduled = StepScheduled("0:2", "join", args(one=large("a"), small=1, two=large("b")), "d")
    many = StepScheduled("0:3", "many", args(**{f"n{number}": "x" * 1000 for number in range(50)}), "d")

    entry = sealed([StepCompleted("0:1", large("a")), scheduled, many])

    expected = {blob_hash(RUN_KEY, bytes(data)) for data in (large("a"), large("b"), many.args)}
    assert expected == {blob.hash for blob in entry.blobs}
    assert [scheduled, many] == entry.decoded()[1:]


def test_equal_values_in_two_runs_have_different_hashes() -> None:
    """Nobody who reads hashes learns that two runs have something in common."""
    data = bytes(large())

    assert blob_hash(1, data) != blob_hash(2, data)


SEALED = sealed([StepCompleted("0:1", large())])
HASH = blob_hash(RUN_KEY, bytes(large()))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"blobs": ()}, "is missing"),
        ({"blobs": (Blob(HASH, bytes(large("y"))),)}, "was altered"),
        ({"blobs": (Blob(HASH, bytes(large()) + b" "),)}, "was altered"),
        ({"run_key": 8}, "was altered"),
        ({"events": SEALED.events.replace(HASH.hex().encode(), b"zz")}, "is no hash"),
        ({"events": SEALED.events.replace(b'["result"', b'["key"')}, "stands elsewhere"),
        ({"events": SEALED.events.replace(b'["result",""', b'["result","a"')}, ""),
    ],
)
def test_a_blob_that_is_missing_or_altered_is_corruption(fields: dict[str, Any], said: str) -> None:
    entry = replace(SEALED, **fields)

    with pytest.raises(CorruptJournal, match=f"run r: entry 1 cannot be read: .*{said}"):
        decode_verified(entry, "r")


def test_an_argument_that_is_not_there_is_corruption() -> None:
    entry = sealed([StepScheduled("0:1", "load", args(data=large()), "d")])

    with pytest.raises(BadBlob, match="no argument 'other'"):
        replace(entry, events=entry.events.replace(b'"args","data"', b'"args","other"')).whole()


def test_the_hash_of_an_entry_covers_its_blobs() -> None:
    """Through their hashes: another value makes another entry."""
    one, other = (sealed([StepCompleted("0:1", large(letter))]) for letter in "ab")

    assert one.hash != other.hash
    assert len(one.events) == len(other.events)


@es.step
def draw(letter: str) -> str:
    return letter * BLOB_BYTES_MIN


@es.step
def frame(picture: str, width: int) -> int:
    return len(picture) + width


picture = es.state("picture", str)


@es.workflow(name="carrier", version="golden")
async def carrier(letter: str) -> int:
    drawn = await draw(letter)
    picture.set(drawn)
    return await frame(drawn, 2)


def record() -> None:
    """Made the golden journal: ``python -c "from tests.core.test_blobs import record; record()"``. Never to be made again."""
    if not GOLDEN.exists():
        save_journal(GOLDEN, Run(carrier("x")).finish().check_replays().entries)


def test_a_golden_journal_with_blobs_is_read_and_replays() -> None:
    """Journals of earlier versions stay readable (L4)."""
    entries = load_journal(GOLDEN)

    assert [0, 1, 0] == [len(entry.blobs) for entry in entries], "result, state and argument are one"
    assert RunSucceeded(Raw(b"32770")) == replayed(carrier, entries).program.ending


def test_every_payload_may_stand_elsewhere_but_those_that_are_read_without_a_journal() -> None:
    """The table of payloads says which fields there are; a new one is either named here or on purpose not."""
    values = {(kind, field) for kind, rule in TABLE.items() for field, what in rule.fields.items() if what is Kind.VALUE}
    alone = {(RunCreated, "args"), (RunSucceeded, "result"), (RunContinued, "args"), (StepOverridden, "result")}

    together = {(RunContinued, "states")}
    assert (values - alone) | together == set(FIELDS.items())
    assert alone <= values
