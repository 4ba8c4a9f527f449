"""
Where text goes: data to stdout, everything else to stderr; in ASCII where the encoding knows no more.

rich is used only if stdout is a terminal and rich is installed, and is imported only then: it costs as much as all the rest.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, TextIO

from everstep.cli.plain import SIGNS, to_ascii

if TYPE_CHECKING:
    from rich.console import Console


class Terminal:
    """Both output streams.

    Attributes:
        out_is_tty: Somebody looks at stdout.
        err_is_tty: Somebody looks at stderr: progress may be shown there.
        can_ask: Somebody can answer a question.
        has_unicode: stdout can show our signs.
    """

    def __init__(self, out: TextIO, err: TextIO, stdin: TextIO | None) -> None:
        self._out = out
        self._err = err
        self.out_is_tty = _is_tty(out)
        self.err_is_tty = _is_tty(err)
        self.can_ask = _is_tty(stdin) and self.err_is_tty
        self.has_unicode = _can_encode(out, SIGNS)
        self._err_has_unicode = _can_encode(err, SIGNS)
        self._progress_width = 0

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size((100, 24)).columns

    def data(self, text: str, *, end: str = "\n") -> None:
        """Print to stdout."""
        self._out.write((text if self.has_unicode else to_ascii(text)) + end)

    def flush(self) -> None:
        """Let a reader have what was printed so far."""
        self._out.flush()

    def hint(self, text: str) -> None:
        """Print to stderr."""
        self.clear_progress()
        self._err.write((text if self._err_has_unicode else to_ascii(text)) + "\n")
        self._err.flush()

    def progress(self, text: str) -> None:
        """Replace the progress line; nothing if stderr is no terminal."""
        if self.err_is_tty:
            shown = text if self._err_has_unicode else to_ascii(text)
            self._err.write(f"\r{shown:<{self._progress_width}}")
            self._err.flush()
            self._progress_width = len(shown)

    def clear_progress(self) -> None:
        """Take the progress line away."""
        if self._progress_width:
            self._err.write(f"\r{'':<{self._progress_width}}\r")
            self._progress_width = 0

    def rich_console(self) -> Console | None:
        """A console of rich, if there is one to use."""
        if not self.out_is_tty or not self.has_unicode or os.environ.get("TERM") == "dumb":
            return None
        try:
            from rich.console import Console
        except ImportError:
            return None
        return Console(
            file=self._out, markup=False, highlight=False, emoji=False, no_color=bool(os.environ.get("NO_COLOR")) or None
        )


def current_terminal() -> Terminal:
    """The streams as they are now."""
    return Terminal(sys.stdout, sys.stderr, sys.stdin)


def _is_tty(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True
