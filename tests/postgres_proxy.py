"""
A TCP proxy between a store and its server, for everything that a network does: it cuts a connection at any byte in either
direction (with a goodbye, or a reset), delivers late, refuses, and swallows without a word, as a partition does.

    store ── up ──▶ Proxy ──▶ server
          ◀─ down ──      ◀──

It runs in the loop of the test. What it holds back during a partition is delivered when that is over: a frozen write that
arrives late is what a fence is for.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Literal, Self, TypeAlias
from urllib.parse import urlsplit

Direction: TypeAlias = Literal["up", "down"]
DIRECTIONS: tuple[Direction, ...] = ("up", "down")
_RESET = struct.pack("ii", 1, 0)


class Link:
    """One connection through the proxy.

    Attributes:
        passed: Bytes that have gone through, by direction.
    """

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._ends = (client, server)
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}

    def end(self, *, reset: bool) -> None:
        """Hang up on both sides."""
        for writer in self._ends:
            if reset:
                with suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """See the module.

    Args:
        url: Of the store, as it would be without us.

    Attributes:
        url: Of the store, through us.
        links: All connections that were ever made, in order.
        cuts: How many connections were cut.
        delay_seconds: How much later everything arrives.
    """

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self.url = url
        self.links: list[Link] = []
        self.cuts = 0
        self.delay_seconds = 0.0
        self._cut: tuple[Direction, int, bool, Link | None] | None = None
        self._gates: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._is_refusing = False
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.heal()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        user, _, _ = self._server.netloc.rpartition("@")
        self.url = self._server._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what goes wrong ----------------------------------------------------------------------------------------------------

    def cut(self, direction: Direction, after: int, *, reset: bool = False, spare: Link | None = None) -> None:
        """Let so many more bytes go this way, then cut the connection on which the next one comes. Once.

        Args:
            direction: Which bytes are counted.
            after: How many.
            reset: By a reset; else by closing.
            spare: A connection that is not counted, and not cut.
        """
        self._cut = (direction, after, reset, spare)

    @property
    def is_armed(self) -> bool:
        """A cut is still to come."""
        return self._cut is not None

    def mend(self) -> bool:
        """Cut no more. Whether there was a cut that had not happened yet."""
        was_left, self._cut = self._cut is not None, None
        return was_left

    def cut_all(self, *, reset: bool = True) -> None:
        """Cut every connection that there is."""
        for link in self.links:
            link.end(reset=reset)

    def part(self, *directions: Direction) -> None:
        """Swallow everything that goes these ways; nobody is told."""
        for direction in directions or DIRECTIONS:
            self._gates[direction].clear()

    def heal(self) -> None:
        """Deliver again, what was held back first."""
        for gate in self._gates.values():
            gate.set()

    def refuse(self, *, refusing: bool = True) -> None:
        """Take no new connection (or take them again)."""
        self._is_refusing = refusing

    # --- passing on ---------------------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._is_refusing:
                writer.transport.abort()
                return
            assert self._server.hostname is not None
            server_reader, server = await asyncio.open_connection(self._server.hostname, self._server.port)
            link = Link(writer, server)
            self.links.append(link)
            await asyncio.gather(self._pump("up", reader, server, link), self._pump("down", server_reader, writer, link))
        except (OSError, asyncio.CancelledError):
            pass  # Streams complain of tasks that were cancelled; this is their end in any case.
        finally:
            self._tasks.discard(task)

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._gates[direction].wait()
                data, is_cut, reset = self._share(direction, data, link)
                link.passed[direction] += len(data)
                writer.write(data)
                await writer.drain()
                if is_cut:
                    self.cuts += 1
                    await asyncio.sleep(0)
                    link.end(reset=reset)
        writer.close()

    def _share(self, direction: Direction, data: bytes, link: Link) -> tuple[bytes, bool, bool]:
        """What of these bytes goes through, whether the connection is cut after that, and how."""
        if self._cut is None or self._cut[0] != direction or self._cut[3] is link:
            return data, False, False
        _, after, reset, spare = self._cut
        if after >= len(data):
            self._cut = (direction, after - len(data), reset, spare)
            return data, False, False
        self._cut = None
        return data[:after], True, reset
