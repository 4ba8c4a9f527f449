"""
AES-256-GCM with key ids. Where a value stands is authenticated with it.

Every run has a key of its own, derived from the one that was given: 96 random bits of nonce are safe for 2^32 messages under
one key (NIST SP 800-38D, 8.3), and a busy store would use those up in days, a single run never. Each payload gets a fresh
nonce from the operating system.

A short check value (a keyed hash of nothing but the key) tells a wrong key from a forged payload. It says nothing about a
random key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import blake2b
from importlib import import_module
from typing import Any, Final, NoReturn, Protocol

from everstep.errors import UsageError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Cipher(Protocol):
    """AES-GCM of one run's key, as ``cryptography`` has it."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class Encryption:
    """Encrypt payloads. Needs ``pip install 'everstep[encryption]'``.

    To rotate: add the new key everywhere, then make it ``current`` everywhere. Keep an old key for as long as runs that it
    encrypted are kept; whoever destroys it destroys their contents.

    Args:
        keys: Keys of 32 random bytes (``secrets.token_bytes(32)``) by id. Ids are stored in clear.
        current: Id of the key that encrypts. All keys decrypt.
        only_secrets: Encrypt the values of type ``es.Secret`` and nothing else.
        refuse_plain: Refuse stored values that are not encrypted: whoever can write to the store could put them in place of
            encrypted ones. Give it once no run is left from before encryption.

    Raises:
        UsageError: A key has another length, an id other characters, ``current`` is missing, or ``cryptography`` is not
        installed.
    """

    __slots__ = ("__keys", "checks", "current", "only_secrets", "refuse_plain")

    def __init__(
        self, keys: Mapping[str, bytes], current: str, *, only_secrets: bool = False, refuse_plain: bool = False
    ) -> None:
        _check(keys, current)
        if only_secrets and refuse_plain:
            raise UsageError(
                "Encryption: only_secrets leaves values in clear, which refuse_plain refuses. Leave one of them out."
            )
        _aead()
        self.__keys = dict(keys)
        self.current = current
        self.only_secrets = only_secrets
        self.refuse_plain = refuse_plain
        self.checks = {key_id: _check_value(key) for key_id, key in keys.items()}

    def __repr__(self) -> str:
        return f"Encryption(keys={sorted(self.checks)}, current={self.current!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Encryption holds keys and is not pickled. Make it anew in the other process.")

    def cipher(self, key_id: str, run_id: str) -> Cipher:
        """The cipher of one run under one key."""
        key = blake2b(run_id.encode(), key=self.__keys[key_id], digest_size=KEY_BYTES, person=b"everstep run key").digest()
        made: Cipher = _aead().AESGCM(key)
        return made

    @property
    def fingerprint(self) -> str:
        """Tells one set of keys from another."""
        listed = " ".join(f"{key_id}:{check}" for key_id, check in sorted(self.checks.items()))
        return blake2b(listed.encode(), digest_size=4).hexdigest()


def encrypt(cipher: Cipher, data: bytes, bound: bytes) -> bytes:
    """Nonce and ciphertext."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, data, bound)


def decrypt(cipher: Cipher, data: bytes, bound: bytes) -> bytes:
    """What was encrypted.

    Raises:
        ValueError: It was altered, cut off, or belongs elsewhere.
    """
    try:
        return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], bound)
    except (import_module("cryptography.exceptions").InvalidTag, ValueError):
        raise ValueError("it was altered after it was encrypted") from None


def _check(keys: Mapping[str, bytes], current: str) -> None:
    for key_id, key in keys.items():
        if not _KEY_ID.fullmatch(key_id):
            raise UsageError(f"Encryption: the key id {key_id[:80]!a} is none. Use 1 to 64 letters, digits, dots, _ and -.")
        if type(key) is not bytes or len(key) != KEY_BYTES:
            # Without the key, or any part of it: this may end up in a log.
            raise UsageError(
                f"Encryption: key {key_id} is not {KEY_BYTES} bytes long. Make one: secrets.token_bytes({KEY_BYTES})."
            )
    if current not in keys:
        raise UsageError(f"Encryption: there is no key {current[:80]!a} among {sorted(keys)}. Name the one that is to encrypt.")


def _check_value(key: bytes) -> str:
    return blake2b(b"", key=key, digest_size=4, person=b"everstep check").hexdigest()


def _aead() -> Any:
    try:
        return import_module("cryptography.hazmat.primitives.ciphers.aead")
    except ImportError:
        raise UsageError(
            "encryption needs the package cryptography, which is not installed. Nothing was opened. "
            "Install it: pip install 'everstep[encryption]'"
        ) from None
