"""
Seal and open single values of one run: where they belong is authenticated, and compared when they are opened.

Nothing is decided here about what is a payload, who may read it, or what becomes of a run whose payloads are spoiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from everstep.errors import PayloadKeyMissing, Unencodable
from everstep.payloads import envelope
from everstep.payloads.compression import Compression, expand
from everstep.payloads.encryption import Cipher, Encryption, decrypt, encrypt
from everstep.payloads.envelope import GCM, GCM_ZLIB, LITERAL, SEALED, TEXT_HEAD, ZLIB, Envelope, parse, sole_item

MESSAGE: Final = 0
"""Stands for the version of what is not in the journal (yet): messages and rows of attempts."""
ANY_VERSION: Final = -1
_HEAD: Final = TEXT_HEAD.encode()


class Place(Struct, frozen=True):
    """Where a payload stands. ``fields``: as what it may have been sealed, if of its place only the run and this are known."""

    run_id: str
    version: int
    index: int
    field: str
    bound: tuple[Any, ...]
    fields: frozenset[str] = frozenset()

    def listed(self) -> list[Any]:
        """As it is authenticated."""
        return [self.run_id, self.version, self.index, self.field, *self.bound]

    def of(self, name: str) -> Place:
        """The place of one of several values."""
        return replace(self, bound=(*self.bound, name))

    def is_meant_by(self, where: Sequence[Any]) -> bool:
        """What says that it belongs to ``where`` may stand here."""
        if self.fields:
            return len(where) >= 4 and where[0] == self.run_id and where[3] in self.fields
        return list(where) == self.listed()


class Vault:
    """See the module.

    Args:
        run_id: The run.
        compression: See Payloads.
        encryption: See Payloads.
    """

    __slots__ = ("_ciphers", "_compression", "_encryption", "_run_id")

    def __init__(self, run_id: str, compression: Compression | None, encryption: Encryption | None) -> None:
        self._run_id = run_id
        self._compression = compression
        self._encryption = encryption
        self._ciphers: dict[tuple[str, str], Cipher] = {}

    @property
    def encrypts_all(self) -> bool:
        """Whether more is encrypted than secrets."""
        return self._encryption is not None and not self._encryption.only_secrets

    # --- sealing ----------------------------------------------------------------------------------------------------------

    def seal(self, data: bytes, place: Place) -> bytes | None:
        """JSON as it is stored, compressed and encrypted; None if it stays as it is."""
        packed = None if self._compression is None else self._compression.compress(data)
        if self.encrypts_all:
            scheme, data = (GCM, data) if packed is None else (GCM_ZLIB, packed)
            return msgspec.json.encode({SEALED: self._encrypted(scheme, data, place.listed())})
        return None if packed is None else msgspec.json.encode({SEALED: Envelope(ZLIB, packed).listed()})

    def seal_text(self, text: str, data: bytes, place: Place) -> str:
        """A text as it is stored: ``data`` sealed if anything is, else itself, in quotes if it looks sealed."""
        sealed = self.seal(data, place) if text else None
        if sealed is not None:
            return sealed.decode()
        return msgspec.json.encode({LITERAL: text}).decode() if text.startswith(TEXT_HEAD) else text

    def seal_secret(self, content: Any, place: Place, path: str) -> list[Any]:
        """What is stored of the content of a secret.

        Raises:
            Unencodable: There is no key.
        """
        return self._encrypted(GCM, msgspec.json.encode(content), [*place.listed(), path])

    def _encrypted(self, scheme: str, data: bytes, where: Sequence[Any]) -> list[Any]:
        keys = self._encryption
        if keys is None:
            raise no_key()
        check = keys.checks[keys.current]
        bound = envelope.bound(scheme, keys.current, check, where)
        cipher = self._cipher(keys, keys.current, self._run_id)
        return Envelope(scheme, encrypt(cipher, data, bound), keys.current, check, where).listed()

    # --- opening: all raise PayloadKeyMissing, and ValueError for what cannot be trusted ------------------------------------

    def open(self, stored: bytes, place: Place) -> bytes:
        """JSON as it was before ``seal``."""
        found = sole_item(msgspec.json.decode(stored)) if stored.startswith(_HEAD) else None
        if found is None or found[0] != SEALED:
            self._accept_plain()
            return stored
        sealed = parse(found[1])
        if sealed.key_id:
            data = self._decrypted(sealed, place)
            return expand(data) if sealed.scheme == GCM_ZLIB else data
        self._accept_plain()
        data = expand(sealed.data)
        msgspec.json.decode(data, type=Raw)  # Nobody vouches for it: at least it must be JSON, and no tower of brackets.
        return data

    def open_text(self, stored: str, place: Place, *, may_be_plain: bool = False) -> bytes | None:
        """The JSON that is sealed in a text; None if the text stands for itself."""
        if not stored.startswith(TEXT_HEAD):
            self._accept_plain(may_be_plain=may_be_plain or not stored)
            return None
        found = sole_item(msgspec.json.decode(stored))
        if found is not None and found[0] == LITERAL:
            self._accept_plain(may_be_plain=may_be_plain)
            return msgspec.json.encode(found[1])
        return self.open(stored.encode(), place)

    def open_secret(self, listed: object, place: Place, path: str) -> Any:
        """The content of a secret."""
        return msgspec.json.decode(self._decrypted(parse(listed), place, path))

    def _accept_plain(self, *, may_be_plain: bool = False) -> None:
        if not may_be_plain and self._encryption is not None and self._encryption.refuse_plain:
            raise ValueError("it is not encrypted, and refuse_plain is set")

    def _decrypted(self, sealed: Envelope, place: Place, *path: str) -> bytes:
        keys = self._encryption
        if keys is None or sealed.key_id not in keys.checks:
            raise self._missing(sealed.key_id, place, "which is not given here", "Give the key")
        if keys.checks[sealed.key_id] != sealed.check:
            raise self._missing(
                sealed.key_id, place, "and the key given here under this id is another one", "Give the right one"
            )
        end = len(sealed.where) - len(path)
        if not place.is_meant_by(sealed.where[:end]) or list(sealed.where[end:]) != list(path):
            raise ValueError(f"it belongs elsewhere ({msgspec.json.encode(list(sealed.where)).decode()[:200]})")
        return decrypt(self._cipher(keys, sealed.key_id, place.run_id), sealed.data, sealed.bound)

    def _missing(self, key_id: str, place: Place, why: str, remedy: str) -> PayloadKeyMissing:
        return PayloadKeyMissing(
            f"run {self._run_id}: {place.field} is encrypted with key {key_id}, {why}. Nothing was executed and nothing was "
            f"changed. {remedy}: es.Encryption(keys={{…}}); for the command line EVERSTEP_KEYS.",
            key_id=key_id,
        )

    def _cipher(self, keys: Encryption, key_id: str, run_id: str) -> Cipher:
        cipher = self._ciphers.get((key_id, run_id))
        if cipher is None:
            cipher = self._ciphers[key_id, run_id] = keys.cipher(key_id, run_id)
        return cipher


def no_key() -> Unencodable:
    """A secret, and nothing to encrypt it with."""
    return Unencodable(
        "a Secret can only be stored encrypted, and there is no key. Nothing was stored. Give the engine and its clients one: "
        "payloads=es.Payloads(encryption=es.Encryption(…))."
    )
