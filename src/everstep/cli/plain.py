"""The signs that the command line uses, for terminals that know ASCII only. Values only, and nothing to import."""

from __future__ import annotations

_ASCII = str.maketrans(
    {
        "○": "o",
        "▶": ">",
        "◷": "~",
        "‖": "=",
        "↶": "<",
        "✓": "+",
        "⊘": "/",
        "✕": "x",
        "◆": "#",
        "…": "...",
        "·": "-",
        "→": "->",
        "×": "x",
    }
)
SIGNS = "".join(chr(code) for code in _ASCII)


def to_ascii(text: str) -> str:
    """The same text without our signs."""
    return text.translate(_ASCII)
