"""
The child's end of ``everstep worker --supervise``: it shows that its event loop turns, and notices that its supervisor is gone.

Both go over one socket. The loop writes a byte every half second; a byte that cannot be written is left out, for a supervisor
that is stopped must not stop us. Its end closes when the supervisor dies, however it dies: then nobody would restart or stop
this worker any more, so it leaves in good order.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from everstep.cli.terminal import Terminal

PULSE_SECONDS = 0.5
HELLO = b"h"
"""The first byte: from now on the signal shows stacks."""
PULSE = b"."
"""The others: the loop turns."""


class Leash:
    """See the module. Put on before anything of the user's is imported, so that a hang there can be looked at too.

    Args:
        fd: Our end of the socket.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._socket.set_inheritable(False)  # Programs that steps start must not keep it open.
        self._pulse: asyncio.TimerHandle | None = None
        show_stacks_on_demand()
        self._send(HELLO)

    def pull(self, terminal: Terminal, drain: Callable[[], None]) -> None:
        """Give signs from now on, for as long as the process lives; drain if the supervisor is gone."""
        asyncio.get_running_loop().add_reader(self._socket, self._heard, terminal, drain)
        self._beat()

    def _beat(self) -> None:
        self._send(PULSE)
        self._pulse = asyncio.get_running_loop().call_later(PULSE_SECONDS, self._beat)

    def _send(self, sign: bytes) -> None:
        with suppress(OSError):
            self._socket.send(sign)

    def _heard(self, terminal: Terminal, drain: Callable[[], None]) -> None:
        """The supervisor never says anything, so this is its end."""
        with suppress(BlockingIOError, ConnectionError):
            if self._socket.recv(1):
                return
        asyncio.get_running_loop().remove_reader(self._socket)
        if self._pulse is not None:
            self._pulse.cancel()
        terminal.hint("the supervisor is gone: draining, and nobody will start this worker again")
        drain()


def show_stacks_on_demand() -> None:
    """Let the supervisor ask where a worker hangs. The answer goes to stderr, without the help of Python code."""
    if sys.platform != "win32":
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR2, all_threads=True)
