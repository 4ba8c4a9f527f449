"""What is sealed comes back as it was, stays where it belongs, and is found out when it was touched (S7, M1)."""

from __future__ import annotations

import sys
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from everstep.errors import CorruptJournal, PayloadKeyMissing, UsageError
from everstep.events import (
    ChildFailed,
    ChildStarted,
    ChildSucceeded,
    Event,
    RunCancelled,
    RunFailed,
    RunPaused,
    RunSucceeded,
    SignalReceived,
    StepCompleted,
    decode_event,
    decode_events,
)
from everstep.payloads import PLAIN, Compression, Encryption, Keeper, Payloads
from everstep.payloads.compression import EXPANDED_BYTES_MAX
from everstep.payloads.table import TABLE
from everstep.records import AttemptRecord
from everstep.stores.rules import outcome_message
from tests.payloads.support import (
    CANARY,
    ERROR,
    EVENTS,
    NEW,
    OLD,
    OTHER,
    PROSE,
    RUN,
    encrypted,
    flipped,
    needs_cryptography,
    rotated,
    spoiled,
    value,
)

needs_cryptography()

COMPRESSED = Payloads(compression=Compression())
ALL = [PLAIN, COMPRESSED, encrypted(), rotated(), encrypted(only_secrets=True), encrypted(refuse_plain=True)]
LOOK_ALIKES: list[Any] = [
    {"$sealed": ["gcm", "2025", "00", [], "AAAA"]},
    {"$sealed": ["zlib", "AAAA"]},
    {"$sealed:plain": 1},
    {"$sealed:plain": {"$sealed:plain": {"$sealed": []}}},
    {"deep": [{"$sealed:secret": "mine"}, {"$sealed": 1, "other": 2}]},
    {"$sealedish": {"$sealed": None}},
    "$sealed",
    ['{"$sealed":["zlib","x"]}'],
]


def keeper(payloads: Payloads, run_id: str = RUN) -> Keeper:
    return payloads.keeper(run_id)


# --- there and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payloads", ALL, ids=repr)
def test_every_event_comes_back_as_it_was(payloads: Payloads) -> None:
    stored = keeper(payloads).encode(EVENTS, 7)

    assert EVENTS == keeper(payloads).decode(stored, 7)
    assert [type(event) for event in EVENTS] == [type(event) for event in decode_events(stored)], "stores can read it"


@pytest.mark.parametrize("payloads", [encrypted(), rotated()], ids=repr)
def test_nothing_that_users_wrote_is_stored_in_clear(payloads: Payloads) -> None:
    assert {type(event) for event in EVENTS} >= set(TABLE), "the test knows every kind"

    stored = keeper(payloads).encode(EVENTS, 7)

    assert CANARY.encode() not in stored
    assert b"story" not in stored


def test_nothing_asked_for_changes_no_byte() -> None:
    assert msgspec.json.encode(EVENTS) == keeper(PLAIN).encode(EVENTS, 7)


def test_no_two_payloads_are_encrypted_alike() -> None:
    """A nonce that comes twice gives the key away."""
    same = keeper(encrypted())

    stored = {same.encode([RunSucceeded(value(CANARY))], 7) for _ in range(100)}

    assert 100 == len(stored)


@pytest.mark.parametrize("payloads", ALL[:5], ids=repr)
@pytest.mark.parametrize("look_alike", LOOK_ALIKES, ids=str)
def test_a_value_that_looks_sealed_comes_back_as_it_was(payloads: Payloads, look_alike: Any) -> None:
    text = look_alike if isinstance(look_alike, str) else msgspec.json.encode(look_alike).decode()
    events: list[Event] = [
        RunSucceeded(value(look_alike)),
        RunCancelled(text),
        RunFailed(msgspec.structs.replace(ERROR, message=text)),
    ]
    stored = keeper(payloads).encode(events, 3)

    assert events == keeper(payloads).decode(stored, 3)
    assert events[0] == keeper(payloads).decode_ending(stored[: stored.index(b',{"event":"RunCancelled"')] + b"]")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$sealed", "$sealed:plain", "$sealed:secret", "a"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(content=JSON)
def test_any_value_comes_back_as_it_was(content: Any) -> None:
    event = RunSucceeded(value(content))
    for payloads in ALL:
        assert [event] == keeper(payloads).decode(keeper(payloads).encode([event], 1), 1)


@pytest.mark.parametrize("payloads", ALL, ids=repr)
def test_the_row_of_a_step_comes_back_as_it_was(payloads: Payloads) -> None:
    rows = (
        AttemptRecord(run_key=1, key="0:1", attempt=2, details=msgspec.json.encode({"at": PROSE})),
        AttemptRecord(run_key=1, key="0:2", attempt=1, error=msgspec.json.encode(ERROR)),
    )

    stored = keeper(payloads).seal_rows(rows)

    assert list(rows) == keeper(payloads).open_rows(stored)
    if payloads in (ALL[2], ALL[3]):
        assert CANARY not in repr(stored)


# --- messages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payloads", ALL, ids=repr)
def test_a_signal_arrives_with_its_value(payloads: Payloads) -> None:
    stored = keeper(payloads).encode_message(SignalReceived("approval", value(PROSE), "click"))

    assert SignalReceived("approval", value(PROSE), "click") == keeper(payloads).decode_message(stored)


@pytest.mark.parametrize("ending", [RunSucceeded(value(PROSE)), RunFailed(ERROR), RunCancelled("no time"), RunCancelled("")])
@pytest.mark.parametrize("payloads", ALL, ids=repr)
def test_the_outcome_of_a_child_arrives_at_its_parent(payloads: Payloads, ending: Any) -> None:
    """The store passes it on and has no keys."""
    parent, child = keeper(payloads), keeper(payloads, f"{RUN}/0:4")
    parent.encode([ChildStarted("0:4", f"{RUN}/0:4", "ship", Raw(b"{}"), "d")], 2)

    message = outcome_message(decode_events(child.encode([ending], 9))[-1], "0:4", f"{RUN}/0:4", 9)

    assert message is not None
    match parent.decode_message(message.event):
        case ChildSucceeded(key="0:4", result=result):
            assert ending == RunSucceeded(result)
        case ChildFailed(key="0:4", status="failed", error=error):
            assert ending == RunFailed(error)
        case ChildFailed(key="0:4", status="cancelled", error=error):
            assert ending == RunCancelled(error.message)
        case other:
            raise AssertionError(other)


def test_the_outcome_of_another_child_is_not_taken_for_it() -> None:
    parent, stranger = keeper(encrypted()), keeper(encrypted(), f"{RUN}/0:9")
    parent.encode([ChildStarted("0:4", f"{RUN}/0:4", "ship", Raw(b"{}"), "d")], 2)

    message = outcome_message(decode_events(stranger.encode([RunSucceeded(value(1))], 9))[-1], "0:4", f"{RUN}/0:9", 9)

    assert message is not None
    with pytest.raises(CorruptJournal, match="belongs elsewhere"):
        parent.decode_message(message.event)


def test_a_signal_that_stands_in_the_inbox_twice_is_found_out() -> None:
    sent = keeper(encrypted()).encode_message(SignalReceived("approval", value(True)))
    reader = keeper(encrypted())
    first = reader.decode_message(sent)

    with pytest.raises(CorruptJournal, match="consumed before"):
        reader.decode_message(sent)
    again = keeper(encrypted())
    again.decode(reader.encode([first], 5), 5)
    with pytest.raises(CorruptJournal, match="consumed before"):
        again.decode_message(sent)


# --- somebody who can write to the store ------------------------------------------------------------------------------------


def sealed_in(wire: Any) -> Any:
    return wire[0]["result"]["$sealed"]


def test_a_payload_that_was_altered_is_found_out() -> None:
    stored = keeper(encrypted()).encode([StepCompleted("0:1", value(CANARY))], 7)

    def flip(wire: Any) -> None:
        sealed_in(wire)[-1] = flipped(sealed_in(wire)[-1])

    def cut(wire: Any) -> None:
        sealed_in(wire)[-1] = sealed_in(wire)[-1][:-4]

    def empty(wire: Any) -> None:
        sealed_in(wire)[-1] = ""

    def relabel(wire: Any) -> None:
        sealed_in(wire)[0] = "gcm+zlib"

    def unknown(wire: Any) -> None:
        sealed_in(wire)[0] = "rot13"

    for change in (flip, cut, empty, relabel, unknown):
        with pytest.raises(CorruptJournal, match="entry 7"):
            keeper(encrypted()).decode(spoiled(stored, change), 7)


def test_a_payload_that_was_moved_is_found_out() -> None:
    """Swapped between steps of one entry, between fields, versions and runs: the ciphertext is genuine, the place is not."""
    stored = keeper(encrypted()).encode([StepCompleted("0:1", value(1)), StepCompleted("0:2", value(2))], 7)

    def swap(wire: Any) -> None:
        wire[0]["result"], wire[1]["result"] = wire[1]["result"], wire[0]["result"]

    def swap_keys(wire: Any) -> None:
        wire[0]["key"], wire[1]["key"] = wire[1]["key"], wire[0]["key"]

    def turn(wire: Any) -> None:
        wire.reverse()

    def become(wire: Any) -> None:
        wire[:] = [{"event": "RunSucceeded", "result": wire[0]["result"]}]

    def claim_place(wire: Any) -> None:
        swap(wire)
        for number, event in enumerate(wire):
            event["result"]["$sealed"][3] = [RUN, 7, number, "StepCompleted.result", event["key"]]

    for change in (swap, swap_keys, turn, become, claim_place):
        with pytest.raises(CorruptJournal):
            keeper(encrypted()).decode(spoiled(stored, change), 7)
    with pytest.raises(CorruptJournal):
        keeper(encrypted()).decode(stored, 8)
    with pytest.raises(CorruptJournal):
        keeper(encrypted(), "order-43").decode(stored, 7)


def test_an_altered_type_of_an_error_is_found_out() -> None:
    stored = keeper(encrypted()).encode([RunFailed(ERROR)], 7)

    with pytest.raises(CorruptJournal, match="type of the error"):
        keeper(encrypted()).decode(stored.replace(b"shop.Declined", b"shop.Accepted"), 7)


def test_a_row_of_another_attempt_or_step_is_found_out() -> None:
    row = AttemptRecord(run_key=1, key="0:1", attempt=2, details=b'"half"')
    [stored] = keeper(encrypted()).seal_rows((row,))

    for moved in (msgspec.structs.replace(stored, key="0:2"), msgspec.structs.replace(stored, attempt=3)):
        with pytest.raises(CorruptJournal, match="AttemptRecord"):
            keeper(encrypted()).open_rows([moved])


def test_a_payload_in_clear_is_taken_only_until_it_is_refused() -> None:
    """Otherwise whoever can write to the store replaces what is encrypted by what is not."""
    in_clear = keeper(PLAIN).encode([RunSucceeded(value(1))], 7)
    squeezed = keeper(Payloads(compression=Compression(0))).encode([RunSucceeded(value("x" * 100))], 7)
    quoted = keeper(PLAIN).encode([RunSucceeded(value({"$sealed": 1}))], 7)
    failed = keeper(PLAIN).encode([RunFailed(ERROR)], 7)

    assert [RunSucceeded(value(1))] == keeper(encrypted()).decode(in_clear, 7)
    for stored in (in_clear, squeezed, failed):
        with pytest.raises(CorruptJournal, match="not encrypted"):
            keeper(encrypted(refuse_plain=True)).decode(stored, 7)
    with pytest.raises(CorruptJournal, match="not encrypted"):
        keeper(encrypted(refuse_plain=True)).decode(quoted, 7)


def test_a_bomb_does_not_go_off() -> None:
    """H2: 1 GB of zeros is 1 MB compressed."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    stored = msgspec.json.encode([{"event": "RunSucceeded", "result": {"$sealed": ["zlib", bomb]}}])

    with pytest.raises(CorruptJournal, match=f"more than {EXPANDED_BYTES_MAX:,} bytes"):
        keeper(PLAIN).decode(stored, 1)


def test_what_follows_a_compressed_value_or_is_missing_of_it_is_found_out() -> None:
    packed = zlib.compress(b'"x"')
    for spoilt in (packed[:-1], packed + b"y", b"", b"x"):
        stored = msgspec.json.encode([{"event": "RunSucceeded", "result": {"$sealed": ["zlib", spoilt]}}])
        with pytest.raises(CorruptJournal):
            keeper(PLAIN).decode(stored, 1)


def test_a_tower_of_brackets_does_not_fall_on_anybody() -> None:
    for tower in (b"[" * 100_000, b'{"$sealed:plain":' * 100_000, b'{"a":' * 900 + b'{"$sealed":1}' + b"}" * 900):
        packed = zlib.compress(tower)
        stored = msgspec.json.encode([{"event": "RunSucceeded", "result": {"$sealed": ["zlib", packed]}}])
        with pytest.raises(CorruptJournal):
            keeper(PLAIN).decode(stored, 1)


armed: list[str] = []


def watch(event: str, args: tuple[Any, ...]) -> None:
    if armed and event in {"import", "exec", "compile", "open", "os.system", "subprocess.Popen", "pickle.find_class"}:
        armed.append(f"{event} {args[:1]}")


sys.addaudithook(watch)  # cannot be removed; it is inert unless armed
WIRE = st.recursive(
    st.none()
    | st.integers(-3, 3)
    | st.text(max_size=4)
    | st.sampled_from(["gcm", "zlib", "2025", "os.system", "eJw=", "AAAA"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["$sealed", "$sealed:secret", "a"]), inner),
    max_leaves=12,
)


@given(content=WIRE)
def test_opening_whatever_is_stored_imports_nothing(content: Any) -> None:
    """S2: data that somebody forged is refused, or is data."""
    stored = msgspec.json.encode([{"event": "RunSucceeded", "result": content}])
    reader = keeper(encrypted())
    reader.encode([RunSucceeded(value(1))], 1)  # what it needs by itself has been imported
    armed[:] = ["armed"]
    try:
        reader.decode(stored, 1)
    except (CorruptJournal, PayloadKeyMissing):
        pass
    finally:
        seen, armed[:] = list(armed), []

    assert ["armed"] == seen


# --- keys -----------------------------------------------------------------------------------------------------------------


def test_old_keys_are_still_read_after_a_rotation() -> None:
    before = keeper(encrypted()).encode(EVENTS, 7)

    assert EVENTS == keeper(rotated()).decode(before, 7)
    assert b'"2026"' in keeper(rotated()).encode(EVENTS, 8)


def test_a_missing_key_is_named_and_a_wrong_one_too() -> None:
    stored = keeper(rotated()).encode([RunSucceeded(value(1))], 7)
    wrong = Payloads(encryption=Encryption({"2026": OTHER}, "2026"))

    for payloads, why in ((encrypted(), "not given"), (PLAIN, "not given"), (wrong, "another one")):
        with pytest.raises(PayloadKeyMissing, match=why) as caught:
            keeper(payloads).decode(stored, 7)
        assert "2026" == caught.value.key_id
        assert "Nothing was executed" in str(caught.value)


def test_a_reason_without_its_key_is_no_obstacle() -> None:
    """Only people read it; they are told what they lack."""
    stored = keeper(rotated()).encode([RunPaused("no funds", "f1"), RunCancelled("late")], 7)

    opened = keeper(encrypted()).decode(stored, 7)

    assert [RunPaused("(encrypted with key 2026)", "f1"), RunCancelled("(encrypted with key 2026)")] == opened


def test_a_lenient_view_says_what_it_cannot_show() -> None:
    stored = keeper(rotated()).encode(EVENTS, 7)

    opened = PLAIN.viewer(RUN, lenient=True).decode(stored, 7)

    assert StepCompleted("0:1", value("(encrypted with key 2026)")) == opened[4]
    assert "shop.Declined" == opened[6].error.type  # type: ignore[union-attr]
    assert CANARY not in repr(opened)
    with pytest.raises(PayloadKeyMissing):
        PLAIN.viewer(RUN).decode(stored, 7)


def test_keys_are_never_shown() -> None:
    """S35."""
    payloads = rotated()

    shown = f"{payloads!r} {payloads.encryption!r} {payloads.encryption} {payloads.fingerprint}"

    for key in (OLD, NEW):
        assert repr(key)[2:-1] not in shown
        assert key.hex() not in shown
    with pytest.raises(TypeError, match="not pickled"):
        payloads.encryption.__reduce__()
    with pytest.raises(UsageError) as caught:
        Encryption({"k": b"too short, but somebody's"}, "k")
    assert "somebody" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "current", "options"),
    [
        ({"k": b"short"}, "k", {}),
        ({"k": OLD}, "other", {}),
        ({"bad id": OLD}, "bad id", {}),
        ({"": OLD}, "", {}),
        ({}, "k", {}),
        ({"k": "0" * 32}, "k", {}),
        ({"k": OLD}, "k", {"only_secrets": True, "refuse_plain": True}),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys: Any, current: str, options: Any) -> None:
    with pytest.raises(UsageError, match="Encryption"):
        Encryption(keys, current, **options)


@pytest.mark.parametrize("options", [{"min_bytes": -1}, {"level": 0}, {"level": 10}])
def test_a_compression_that_makes_no_sense_is_refused(options: Any) -> None:
    with pytest.raises(UsageError, match="Compression"):
        Compression(**options)


def test_what_is_small_or_does_not_shrink_is_left_as_it_is() -> None:
    small, dense = RunSucceeded(value("x")), RunSucceeded(value(bytes(range(256)) * 8))

    assert b"$sealed" not in keeper(COMPRESSED).encode([small], 1)
    assert b"$sealed" in keeper(COMPRESSED).encode([dense], 1)
    assert 600 > len(keeper(COMPRESSED).encode([RunSucceeded(value(PROSE))], 1))


def test_message_of_unknown_kind_in_the_inbox_is_left_to_whoever_reads_it() -> None:
    """Events without payloads pass through."""
    stored = keeper(rotated()).encode_message(EVENTS[1])

    assert EVENTS[1] == decode_event(stored) == keeper(rotated()).decode_message(stored)
