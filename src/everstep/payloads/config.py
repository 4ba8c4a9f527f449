"""
What a program says about its payloads, and the file in which operators keep keys.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from everstep.errors import UsageError
from everstep.payloads.compression import Compression
from everstep.payloads.encryption import Encryption
from everstep.payloads.keeper import Keeper
from everstep.payloads.redaction import Redaction

KEYS_VARIABLE: Final = "EVERSTEP_KEYS"


class Payloads:
    """How payloads are stored. Give every engine and client of a store the same. Immutable; safe to share.

    Args:
        compression: Compress the larger ones; None for not at all.
        encryption: Encrypt them; None for not at all.
        redact: Names of fields whose values people are not to read, such as ``["password", "*_token"]``: cut out of errors,
            tracebacks, notes and reasons before these are stored, and masked where values are shown.

    Raises:
        UsageError: A pattern is none.
    """

    __slots__ = ("compression", "encryption", "redaction")

    def __init__(
        self, *, compression: Compression | None = None, encryption: Encryption | None = None, redact: Iterable[str] = ()
    ) -> None:
        self.compression = compression
        self.encryption = encryption
        self.redaction = Redaction(redact)

    def __repr__(self) -> str:
        return f"Payloads(compression={self.compression}, encryption={self.encryption}, redact={list(self.redaction.patterns)})"

    @classmethod
    def from_environment(cls) -> Payloads:
        """What the file says that ``EVERSTEP_KEYS`` names; nothing special without it. The command line uses this.

        The file is JSON: ``{"keys": {"2026-11": "<32 bytes in base64>"}, "current": "2026-11", "redact": ["password"]}``.
        Beside ``redact`` it may say ``only_secrets``, ``refuse_plain`` (true or false) and ``compress_min_bytes``.

        Raises:
            UsageError: The file cannot be read, or says something else.
        """
        path = os.environ.get(KEYS_VARIABLE, "")
        return _from_file(Path(path)) if path else cls()

    @property
    def fingerprint(self) -> str:
        """What tells apart who can read what; empty without keys."""
        return "" if self.encryption is None else f"+{self.encryption.fingerprint}"

    def keeper(self, run_id: str) -> Keeper:
        """What seals and opens the payloads of a run, as its code needs them."""
        return Keeper(run_id, self.compression, self.encryption, self.redaction)

    def viewer(self, run_id: str, *, lenient: bool = False) -> Keeper:
        """What opens them for people: secrets and redacted fields are shown as stars.

        Args:
            run_id: The run.
            lenient: Say so where a key is missing, instead of raising.
        """
        return Keeper(run_id, self.compression, self.encryption, self.redaction, is_view=True, is_lenient=lenient)


PLAIN: Final = Payloads()
"""Nothing special: payloads are stored as they are encoded, secrets are refused."""


class _File(Struct, forbid_unknown_fields=True):
    keys: dict[str, str] = {}
    current: str = ""
    redact: list[str] = []
    only_secrets: bool = False
    refuse_plain: bool = False
    compress_min_bytes: int | None = None


def _from_file(path: Path) -> Payloads:
    try:
        said = msgspec.json.decode(path.read_bytes(), type=_File)
        keys = {key_id: binascii.a2b_base64(text, strict_mode=True) for key_id, text in said.keys.items()}
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{KEYS_VARIABLE}: {path} cannot be read: {reason}. Nothing was opened.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        # The file holds keys: say which rule it breaks, never what it says.
        reason = str(error) if isinstance(error, msgspec.ValidationError) else "it is no JSON, or a key no base64"
        raise UsageError(f"{KEYS_VARIABLE}: {path} is no file of keys: {reason}. Nothing was opened.") from None
    encryption = None
    if keys:
        encryption = Encryption(keys, said.current, only_secrets=said.only_secrets, refuse_plain=said.refuse_plain)
    compression = None if said.compress_min_bytes is None else Compression(said.compress_min_bytes)
    return Payloads(compression=compression, encryption=encryption, redact=said.redact)
