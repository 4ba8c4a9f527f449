"""Exceptions are data: describing one never fails, and rebuilding one never runs what was not declared."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.codec import ErrorRecord, codec_for, describe_error, rebuild_error
from everstep.errors import RemoteError, Unencodable


class Declined(Exception):
    pass


class Decorated(Exception):
    def __init__(self, order_id: str) -> None:
        super().__init__(f"order {order_id} declined")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


def caught(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as raised:  # noqa: BLE001
        return raised


def test_type_message_traceback_and_cause() -> None:
    record = describe_error(caught(Declined("no funds"), caught(KeyError("card"))))

    assert (f"{__name__}.Declined", "no funds") == (record.type, record.message)
    assert "raise error from cause" in record.traceback
    assert record.cause is not None
    assert ("KeyError", "'card'") == (record.cause.type, record.cause.message)


def test_the_traceback_can_be_left_out() -> None:
    assert "" == describe_error(caught(Declined("x")), traceback=False).traceback


def test_frames_of_everstep_are_dropped() -> None:
    with pytest.raises(Unencodable) as error:
        codec_for(int).encode("x")

    text = describe_error(error.value).traceback
    assert "test_failures.py" in text
    assert "everstep/codec" not in text.replace("tests/codec", "")


def test_a_str_that_raises() -> None:
    assert "<ValueError in its __str__>" == describe_error(Unprintable()).message


def test_a_chain_that_bites_its_tail() -> None:
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a

    record = describe_error(a)

    assert record.cause is not None
    assert record.cause.cause is None


def test_a_long_chain_is_cut() -> None:
    error: BaseException = ValueError("0")
    for number in range(50):
        error = caught(ValueError(str(number)), error)

    record: ErrorRecord | None = describe_error(error)
    count = 0
    while record is not None:
        record, count = record.cause, count + 1
    assert 8 == count


def test_the_context_counts_unless_suppressed() -> None:
    error = ValueError("second")
    error.__context__ = KeyError("first")

    assert describe_error(error).cause is not None
    error.__suppress_context__ = True
    assert describe_error(error).cause is None


@given(st.text(max_size=50), st.integers(1, 2000))
def test_any_text_is_bounded_and_storable(text: str, times: int) -> None:
    record = describe_error(ValueError(text * times))

    assert len(record.message.encode()) <= 8 * 1024
    assert record == msgspec.json.decode(msgspec.json.encode(record), type=ErrorRecord)


def test_a_deep_traceback_is_bounded() -> None:
    def dive(level: int) -> None:
        if not level:
            raise ValueError("bottom")
        wrapped(level)

    def wrapped(level: int) -> None:
        dive(level - 1)

    with pytest.raises(ValueError, match="bottom") as error:
        dive(200)

    text = describe_error(error.value).traceback
    assert len(text.encode()) <= 16 * 1024
    assert 'raise ValueError("bottom")' in text


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), KeyError(3), TimeoutError(), OSError("gone"), Declined("no")], ids=repr
)
def test_known_types_are_rebuilt(error: Exception) -> None:
    rebuilt = rebuild_error(describe_error(error), {f"{__name__}.Declined": Declined})

    assert type(error) is type(rebuilt)
    assert str(error) == str(rebuilt)


@pytest.mark.parametrize(
    "error",
    [Declined("no"), Decorated("42"), UnicodeDecodeError("utf-8", b"", 0, 1, "r"), KeyboardInterrupt(), SystemExit("x")],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_rebuilt_is_remote(error: BaseException) -> None:
    rebuilt = rebuild_error(describe_error(error), {f"{__name__}.Decorated": Decorated})

    assert isinstance(rebuilt, RemoteError)
    assert str(error) == rebuilt.message


def test_builtins_that_are_no_exceptions_are_never_called() -> None:
    for name in ("eval", "print", "int", "__import__", "os.system", "BaseException"):
        assert isinstance(rebuild_error(ErrorRecord(name, "1/0"), {}), RemoteError)


def test_causes_are_rebuilt() -> None:
    rebuilt = rebuild_error(describe_error(caught(ValueError("a"), KeyError("b"))), {})

    assert isinstance(rebuilt, ValueError)
    assert isinstance(rebuilt.__cause__, KeyError)
