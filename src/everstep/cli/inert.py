"""
Make text that others wrote safe to print: it can neither move the cursor, nor turn the line around, nor show a password. Pure.

Run ids, step names, results and error messages come from users, and sometimes from people who wish to deceive the one who reads
a terminal. What is not visible by itself is shown as an escape (``\\x1b``, ``\\u202e``), so that nothing is hidden either.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

# user:password@ in any URL. The password may hold anything but white space; the last @ before the host ends it.
_PASSWORD_IN_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/?#@]*):[^\s/]*@")
_PASSWORD_IN_QUERY = re.compile(r"([?&\s](?:password|passwd|pwd|secret|token|sslpassword)=)[^\s&]+", re.IGNORECASE)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_FORMULA = tuple("=+-@")


def inert(text: str) -> str:
    """The text on one line, with everything that is not plainly visible escaped."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) if _is_active(character) else character for character in text)


def inert_lines(text: str) -> list[str]:
    """The lines of a longer text, each inert."""
    return [inert(line) for line in text.split("\n")]


def without_passwords(text: str) -> str:
    """The text with the password of every URL in it replaced by ``***``."""
    return _PASSWORD_IN_QUERY.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1:***@", text))


def tsv_cell(value: str) -> str:
    """A cell that stays one cell, and that no spreadsheet takes for a formula."""
    cell = inert(value)
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """JSON for people and programs alike: valid, and inert on a terminal."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators)
    if text.replace("\n", "").isprintable():
        return text  # The common case, and a list may hold a hundred thousand of them.
    # Inside JSON text an active character can only stand in a string, where an escape means the same. Newlines are our layout.
    return "".join(_json_escaped(c) if c != "\n" and _is_active(c) else c for c in text)


def _is_active(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _escaped(character: str) -> str:
    code = ord(character)
    return _SHORT.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
