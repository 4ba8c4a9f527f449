"""
The payloads of one run: sealed on their way into the store, opened and checked on their way back.

    in memory ──encode──▶ entry, message, attempt row ──decode──▶ in memory

With nothing asked for, encoding is msgspec's and one search for the mark; all else happens only where the mark is found.

What is opened must be what it claims to be: tied to this run, version and field, or (in a message about a child) to that child.
A key that is missing is the operator's matter, and another worker may have it: ``PayloadKeyMissing``. Anything that does not
verify under a key that is here was altered, moved or cut off: ``CorruptJournal``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn, cast

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from everstep.errors import CorruptJournal, PayloadKeyMissing
from everstep.events import (
    ChildFailed,
    ChildStarted,
    ChildSucceeded,
    Event,
    SignalReceived,
    StatePublished,
    decode_event,
    decode_events,
    encode_event,
    encode_events,
)
from everstep.ids import child_run_id
from everstep.payloads.compression import Compression
from everstep.payloads.encryption import Encryption
from everstep.payloads.envelope import TEXT_HEAD
from everstep.payloads.redaction import NOTHING, Redaction, redacted_error, spellings, without
from everstep.payloads.table import FORMS, FROM_CHILD, ROW_FIELDS, TABLE, Kind, Rule
from everstep.payloads.vault import ANY_VERSION, MESSAGE, Place, Vault, no_key
from everstep.payloads.walk import open_inside, seal_inside, texts_in
from everstep.records import AttemptRecord, ErrorRecord
from everstep.secret import HIDDEN, IN_MEMORY, MARK, holds_secret, masked

_MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
_encode: Final = msgspec.json.Encoder().encode
_NO_KEY: Final = b'"(encrypted with key '


class Keeper:
    """See the module. One per run; remembers what must not appear in its texts. Made by ``Payloads``.

    Args:
        run_id: The run.
        compression: See Payloads.
        encryption: See Payloads.
        redaction: See Payloads.
        is_view: Open for people: secrets are stars, and ``shown`` hides what is redacted.
        is_lenient: Say in place of a value that its key is missing.
    """

    __slots__ = (
        "_children",
        "_has_keys",
        "_hidden",
        "_is_lenient",
        "_is_plain",
        "_is_view",
        "_redaction",
        "_run_id",
        "_signals",
        "_vault",
    )

    def __init__(
        self,
        run_id: str,
        compression: Compression | None = None,
        encryption: Encryption | None = None,
        redaction: Redaction = NOTHING,
        *,
        is_view: bool = False,
        is_lenient: bool = False,
    ) -> None:
        self._run_id = run_id
        self._vault = Vault(run_id, compression, encryption)
        self._has_keys = encryption is not None
        self._redaction = redaction
        self._is_view = is_view
        self._is_lenient = is_lenient
        self._is_plain = compression is None and encryption is None and not redaction.patterns
        self._hidden: set[str] = set()
        self._children: dict[str, str] = {}
        self._signals: set[tuple[str, str]] = set()

    @property
    def is_discreet(self) -> bool:
        """What users wrote is not to be logged."""
        return not self._is_plain and (self._vault.encrypts_all or bool(self._redaction))

    # --- entries ----------------------------------------------------------------------------------------------------------

    def encode(self, events: Sequence[Event], version: int, clear: Sequence[Event] = ()) -> bytes:
        """The bytes of an entry.

        Args:
            events: In clear.
            version: Of the entry.
            clear: Those among them that hold nothing of a user's, to be stored as they are: everybody may read them.

        Raises:
            Unencodable: A secret, and no encryption.
        """
        if self._is_plain:
            data = _encode(events)
            if MARK not in data:
                return data
        return encode_events(
            [event if event in clear else self._sealed(event, version, index) for index, event in enumerate(events)]
        )

    def decode(self, data: bytes, version: int) -> list[Event]:
        """The events of an entry, in clear.

        Raises:
            msgspec.MsgspecError: The bytes are no list of known events.
            PayloadKeyMissing: One is encrypted with a key that is not here.
            CorruptJournal: One does not verify.
        """
        events = decode_events(data)
        if self._is_plain and MARK not in data:
            return events
        return [self._opened(event, version, index) for index, event in enumerate(events)]

    def decode_ending(self, data: bytes) -> Event:
        """The last event of an entry, whatever its version: how the run came to rest. Raises as ``decode``, and IndexError."""
        event = decode_events(data)[-1]
        return event if self._is_plain and MARK not in data else self._opened(event, ANY_VERSION, 0)

    # --- messages ---------------------------------------------------------------------------------------------------------

    def encode_message(self, event: Event) -> bytes:
        """The body of a message to the run. Raises as ``encode``."""
        if self._has_keys and isinstance(event, SignalReceived) and not event.id:
            # Without a name of its own, a copy of it in the inbox would be taken for a second one.
            event = replace(event, id=os.urandom(8).hex())
        return encode_event(self._sealed(event, MESSAGE, 0))

    def decode_message(self, data: bytes) -> Event:
        """The event that a message becomes. Raises as ``decode``, and CorruptJournal for a signal that was consumed before."""
        event = decode_event(data)
        if self._is_plain and MARK not in data:
            return event
        if isinstance(event, SignalReceived) and event.id and (event.name, event.id) in self._signals:
            self._corrupt(MESSAGE, f"signal {event.name}", "it was consumed before and stands in the inbox again")
        return self._opened(event, MESSAGE, 0)

    # --- rows of attempts -------------------------------------------------------------------------------------------------

    def seal_rows(self, rows: tuple[AttemptRecord, ...]) -> tuple[AttemptRecord, ...]:
        """Rows as they are stored. Raises as ``encode``."""
        return tuple(self._row(row, self._seal) for row in rows)

    def open_rows(self, rows: Iterable[AttemptRecord]) -> list[AttemptRecord]:
        """Rows in clear. Raises as ``decode``."""
        return [self._row(row, self._open) for row in rows]

    def _row(self, row: AttemptRecord, change: Callable[[bytes, Place], bytes]) -> AttemptRecord:
        for field in ROW_FIELDS:
            data: bytes | None = getattr(row, field)
            if data is not None and not (self._is_plain and MARK not in data):
                place = Place(self._run_id, MESSAGE, row.attempt, f"AttemptRecord.{field}", (row.key,))
                row = replace(row, **{field: change(data, place)})
        if self._is_lenient and row.error is not None and row.error.startswith(b'"'):
            told = ErrorRecord("everstep.errors.PayloadKeyMissing", msgspec.json.decode(row.error, type=str))
            row = replace(row, error=msgspec.json.encode(told))
        return row

    # --- witnesses: results of steps in databases of the user's -------------------------------------------------------------

    def seal_witness(self, key: str, data: bytes) -> bytes:
        """The result of a step as it is stored in the user's own database. Raises as ``encode``."""
        return data if self._is_plain and MARK not in data else self._seal(data, self._witness(key))

    def open_witness(self, key: str, data: bytes) -> bytes:
        """The opposite. Raises as ``decode``."""
        return data if self._is_plain and MARK not in data else self._open(data, self._witness(key))

    def _witness(self, key: str) -> Place:
        return Place(self._run_id, MESSAGE, 0, "everstep_witness.result", (key,))

    # --- what code and people see -----------------------------------------------------------------------------------------

    def check(self, data: bytes) -> bytes:
        """The same bytes, if they can be stored.

        Raises:
            Unencodable: A secret, and no encryption.
        """
        if not self._has_keys and holds_secret(data):
            raise no_key()
        return data

    def learn(self, events: Iterable[Event]) -> None:
        """Take note of what must not appear in texts, before these events are encoded: their steps may fail before that."""
        if self._is_plain:
            return
        for event in events:
            rule = TABLE.get(type(event))
            for field, kind in rule.fields.items() if rule is not None else ():
                if kind is Kind.VALUE:
                    self._learn(bytes(getattr(event, field)))

    def _learn(self, data: bytes) -> None:
        self._hide_fields(data)
        if holds_secret(data):
            seal_inside(msgspec.json.decode(data), lambda content, _: self._hide(texts_in(content)))

    def redacted(self, record: ErrorRecord) -> ErrorRecord:
        """A description of an error without what is to be kept out of it."""
        return redacted_error(record, self._redaction, self._hidden) if self._redaction or self._hidden else record

    def shown(self, wire: Any) -> Any:
        """A value as people see it: stars in the fields whose names say so."""
        return self._redaction.plain(wire)

    def logged(self, value: Any) -> Any:
        """A value as logs may have it: also without texts that are known to be hidden, wherever they stand in it."""
        return self._logged(self.shown(value)) if self._redaction or self._hidden else value

    def _logged(self, value: Any) -> Any:
        match value:
            case str():
                return self._redacted_text(value)
            case dict():
                return {name: self._logged(part) for name, part in cast(Mapping[Any, Any], value).items()}
            case list():
                return [self._logged(part) for part in cast(Sequence[Any], value)]
            case _:
                return value

    def shown_event(self, event: Event) -> Event:
        """The same of the payloads of an event."""
        rule = TABLE.get(type(event))
        if rule is None or not self._redaction:
            return event
        shown = self._redaction.mentioned if isinstance(event, StatePublished) and event.is_delta else self._redaction.value
        changed: dict[str, Any] = {}
        for field, kind in rule.fields.items():
            content = getattr(event, field)
            if kind is Kind.VALUE:
                changed[field] = Raw(shown(bytes(content)))
            elif kind is Kind.VALUES:
                changed[field] = {name: Raw(shown(bytes(part))) for name, part in content.items()}
        return replace(event, **changed)

    def _redacted_text(self, text: str) -> str:
        return without(self._redaction.text(text), self._hidden)

    def _hide(self, texts: Iterable[str]) -> None:
        self._hidden.update(spelling for text in texts for spelling in spellings(text))

    def _hide_fields(self, data: bytes) -> None:
        if self._redaction:
            self._hide(self._redaction.found(masked(data)))

    # --- sealing ----------------------------------------------------------------------------------------------------------

    def _sealed(self, event: Event, version: int, index: int) -> Event:
        self._remember(event)
        rule = TABLE.get(type(event))
        if rule is None:
            return event
        changed: dict[str, Any] = {}
        for field, kind in rule.fields.items():
            content, place = getattr(event, field), self._place(event, field, rule, version, index)
            changed[field] = self._sealed_field(content, kind, place, redacted=rule.redacted)
        return replace(event, **changed)

    def _sealed_field(self, content: Any, kind: Kind, place: Place, *, redacted: bool) -> Any:
        match kind:
            case Kind.VALUE:
                data = bytes(content)
                self._hide_fields(data)
                return Raw(self._seal(self._redaction.value(data) if redacted else data, place))
            case Kind.VALUES:
                return {
                    name: self._sealed_field(part, Kind.VALUE, place.of(name), redacted=redacted)
                    for name, part in content.items()
                }
            case Kind.ERROR:
                return content and self._sealed_error(self.redacted(content) if redacted else content, place)
            case Kind.WORD | Kind.TEXT:
                text = self._redacted_text(content) if redacted else content
                return self._vault.seal_text(text, msgspec.json.encode(text), place)

    def _sealed_error(self, record: ErrorRecord, place: Place) -> ErrorRecord:
        sealed = self._vault.seal(msgspec.json.encode(record), place)
        if sealed is not None:
            return ErrorRecord(record.type, sealed.decode())
        message = self._vault.seal_text(record.message, msgspec.json.encode(record.message), place)
        return replace(record, message=message, cause=record.cause and self._sealed_error(record.cause, place))

    def _seal(self, data: bytes, place: Place) -> bytes:
        """The stored form of a JSON value."""
        if MARK in data:

            def seal(content: Any, path: str) -> Any:
                self._hide(texts_in(content))
                return self._vault.seal_secret(content, place, path)

            data = msgspec.json.encode(seal_inside(msgspec.json.decode(data), seal))
        sealed = self._vault.seal(data, place)
        return data if sealed is None else sealed

    # --- opening ----------------------------------------------------------------------------------------------------------

    def _opened(self, event: Event, version: int, index: int) -> Event:
        rule = TABLE.get(type(event))
        if rule is not None:
            changed: dict[str, Any] = {}
            for field, kind in rule.fields.items():
                place = self._place(event, field, rule, version, index)
                changed[field] = self._opened_field(getattr(event, field), kind, place)
            event = replace(event, **changed)
            if self._is_lenient:
                event = _told(event, changed)
        self._remember(event)
        return event

    def _opened_field(self, stored: Any, kind: Kind, place: Place) -> Any:
        match kind:
            case Kind.VALUE:
                data = self._open(bytes(stored), place)
                self._hide_fields(data)
                return Raw(data)
            case Kind.VALUES:
                return {name: self._opened_field(part, Kind.VALUE, place.of(name)) for name, part in stored.items()}
            case Kind.ERROR:
                record = stored and self._opened_error(stored, place)
                return self.redacted(record) if record and self._is_view else record
            case Kind.WORD:
                is_hidden = self._is_view and stored.startswith(TEXT_HEAD)
                return "" if is_hidden else self._opened_text(stored, place)
            case Kind.TEXT:
                try:
                    text = self._opened_text(stored, place, may_be_plain=True)
                except PayloadKeyMissing as missing:
                    return _encrypted_with(missing)
                return self._redacted_text(text) if self._is_view else text

    def _open(self, stored: bytes, place: Place) -> bytes:
        """A JSON value in clear."""
        try:
            data = self._vault.open(stored, place)
            return self._open_inside(data, place) if MARK in data else data
        except PayloadKeyMissing as missing:
            if not self._is_lenient:
                raise
            return msgspec.json.encode(_encrypted_with(missing))
        except _MALFORMED as error:
            self._corrupt(place.version, place.field, str(error))

    def _open_inside(self, data: bytes, place: Place) -> bytes:
        def unseal(listed: Any, path: str) -> Any:
            if self._is_view:
                return HIDDEN
            content = self._vault.open_secret(listed, place, path)
            self._hide(texts_in(content))
            return {IN_MEMORY: content}

        return msgspec.json.encode(open_inside(msgspec.json.decode(data), unseal))

    def _opened_error(self, stored: ErrorRecord, place: Place) -> ErrorRecord:
        try:
            # A store says by itself that a child was given up, or cancelled without a word: no user wrote anything of that.
            data = self._vault.open_text(stored.message, place, may_be_plain=place.version == MESSAGE)
            if data is None or data.startswith(b'"'):
                message = stored.message if data is None else msgspec.json.decode(data, type=str)
                return replace(stored, message=message, cause=stored.cause and self._opened_error(stored.cause, place))
            record = msgspec.json.decode(data, type=ErrorRecord)
        except PayloadKeyMissing as missing:
            if not self._is_lenient:
                raise
            return ErrorRecord(stored.type, _encrypted_with(missing))
        except _MALFORMED as error:
            self._corrupt(place.version, place.field, str(error))
        if record.type != stored.type:
            self._corrupt(place.version, place.field, "the type of the error was altered")
        return record

    def _opened_text(self, stored: str, place: Place, *, may_be_plain: bool = False) -> str:
        try:
            data = self._vault.open_text(stored, place, may_be_plain=may_be_plain)
            return stored if data is None else msgspec.json.decode(data, type=str)
        except PayloadKeyMissing as missing:
            if not self._is_lenient:
                raise
            return _encrypted_with(missing)
        except _MALFORMED as error:
            self._corrupt(place.version, place.field, str(error))

    # --- places -----------------------------------------------------------------------------------------------------------

    def _place(self, event: Event, field: str, rule: Rule, version: int, index: int) -> Place:
        name = f"{type(event).__name__}.{field}"
        if version == ANY_VERSION:
            return Place(self._run_id, version, index, name, (), frozenset({name}))
        if version == MESSAGE and isinstance(event, ChildSucceeded | ChildFailed):
            # One that an earlier segment started, or (in a fork) the code that it shares its history with, has the usual id.
            child_id = self._children.get(event.key) or child_run_id(self._run_id, event.key)
            return Place(child_id, version, index, name, (), FROM_CHILD[type(event)])
        return Place(self._run_id, version, index, name, tuple(getattr(event, each) for each in rule.bound))

    def _remember(self, event: Event) -> None:
        if not self._has_keys:
            return
        if isinstance(event, ChildStarted):
            self._children[event.key] = event.run_id
        elif isinstance(event, SignalReceived) and event.id:
            self._signals.add((event.name, event.id))

    def _corrupt(self, version: int, what: str, why: str) -> NoReturn:
        where = f"entry {version}" if version > 0 else "its inbox, attempts or outcome"
        raise CorruptJournal(
            f"run {self._run_id}: {what} in {where} cannot be trusted: {why}. Nothing was executed; other runs are not "
            "concerned. Compare with a backup: everstep verify lists every damaged run.",
            run_id=self._run_id,
            version=max(version, 0),
        ) from ValueError(why)


def _told(event: Event, changed: Mapping[str, Any]) -> Event:
    """An event without what it says of the form of its value, if that only tells that a key is missing."""
    if not any(isinstance(value, Raw) and bytes(value).startswith(_NO_KEY) for value in changed.values()):
        return event
    return replace(event, **{form: False for form in FORMS if getattr(event, form, False)})


def _encrypted_with(missing: PayloadKeyMissing) -> str:
    return f"(encrypted with key {missing.key_id})"
