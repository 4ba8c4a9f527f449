"""
Whatever is measured runs in a process of its own, and answers when asked.

A contender is a module with ``opened(directory)``: an async context manager that yields its verbs by name. This side
starts ``python -m bench.serve MODULE DIRECTORY`` and exchanges one line of JSON per question, so that contenders can
take turns within one measurement, and none of them sees the memory, the loop or the page cache of another.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# The slowest single question of the full run (a hundred thousand starts) takes a fifth of this.
ANSWER_TIMEOUT_S = 120.0


class ContenderFailed(Exception):
    """A contender raised, died or fell silent; its row reports this and the others go on."""


class Contender:
    """A running child process that knows some verbs.

    Args:
        module: Its module, e.g. ``bench.floors``.
        directory: Where it keeps its files; created if missing, and may be shared by several.
        env: Variables on top of this process's own.

    """

    def __init__(self, module: str, directory: Path, env: Mapping[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.module = module
        self.directory = directory
        self._log = directory / f"{module}-{id(self):x}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.serve", module, str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env={**os.environ, **(env or {})},
            )

    def ask(self, verb: str, timeout: float = ANSWER_TIMEOUT_S, **arguments: Any) -> Any:
        """Have it do ``verb`` and return its answer; raises `ContenderFailed` if it does not."""
        self.tell(verb, **arguments)
        return self.answer(timeout)

    def tell(self, verb: str, **arguments: Any) -> None:
        """The first half of `ask`, for verbs that several contenders do at the same time."""
        assert self._process.stdin is not None
        # A contender that could not open has said so before it went: that is the answer to whatever is asked.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([verb, arguments]).encode() + b"\n")

    def answer(self, timeout: float = ANSWER_TIMEOUT_S) -> Any:
        """The second half of `ask`."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not ready:
            self.kill()
            raise ContenderFailed(f"{self.module}: no answer within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise ContenderFailed(f"{self.module} died; it last said: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderFailed(f"{self.module}: {answer['error']}")
        return answer["ok"]

    def kill(self) -> None:
        """SIGKILL: what a crash looks like to its store."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let it close what it holds and end; idempotent."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_TIMEOUT_S / 4)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process.stdout.close()

    def written_bytes(self) -> int:
        """Bytes that it has caused to be written to disk so far (Linux)."""
        lines = Path(f"/proc/{self._process.pid}/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["write_bytes"])

    def _last_words(self) -> str:
        said = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return said[-1][:200] if said else "nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
