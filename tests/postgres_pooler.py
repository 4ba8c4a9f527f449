"""
A pooler in transaction mode, as PgBouncer is one, reduced to what makes it dangerous: each transaction may meet another server
connection than the one before, nothing that was set or prepared before is there, and nobody hears a NOTIFY.

It speaks just enough of the protocol for clients that wait for each answer: after Sync or Query it passes on what the server
says until that is ready again, and lends the connection to the next client unless a transaction is open. After Flush it passes
on the description of a statement.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self, TypeAlias

Pair: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
STARTUP, SSL, GSS, CANCEL = 196608, 80877103, 80877104, 80877102
KNOWN = {"user", "database", "client_encoding", "application_name", "datestyle", "timezone", "standard_conforming_strings"}
ENDS_OF_QUESTIONS = {b"S": b"Z", b"Q": b"Z", b"H": b"TnE"}
"""After these messages of a client, an answer that ends with one of those is due."""


class Pooler:
    """See the module.

    Attributes:
        port: Where it listens.
        transactions: How many it has passed on.
    """

    def __init__(self, server_socket: Path, size: int = 2) -> None:
        self._server_socket = server_socket
        self._size = size
        self._idle: asyncio.Queue[Pair] = asyncio.Queue()
        self._servers: list[Pair] = []
        self._clients: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self.port = 0
        self.transactions = 0

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for _, writer in self._servers:
            writer.close()
        await self._listener.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # This is the task's own end; streams complain of cancelled ones.
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        given = await self._greet(reader, writer)
        if given is None:
            return
        unknown = sorted(given.keys() - KNOWN)
        if unknown:
            text = f"SFATAL\0C08P01\0Munsupported startup parameter: {unknown[0]}\0\0"
            writer.write(message(b"E", text.encode()))
            return
        while len(self._servers) < self._size:
            await self._connect(given["user"], given["database"])
        settings = {"server_version": "18.0", "client_encoding": "UTF8", "server_encoding": "UTF8", "integer_datetimes": "on"}
        writer.write(message(b"R", struct.pack("!i", 0)))
        for name, value in settings.items():
            writer.write(message(b"S", f"{name}\0{value}\0".encode()))
        writer.write(message(b"K", struct.pack("!ii", 4_000_000, 1)) + message(b"Z", b"I"))
        await self._pass_on(reader, writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with AsyncExitStack() as stack:
            server: Pair | None = None
            while True:
                kind, body = await read_message(reader)
                if kind == b"X":
                    return
                if server is None:
                    server = await self._idle.get()
                    stack.callback(self._hang_up, server)
                server[1].write(message(kind, body))
                if kind in ENDS_OF_QUESTIONS and await self._answer(server, writer, ENDS_OF_QUESTIONS[kind]) == (b"Z", b"I"):
                    stack.pop_all()
                    self._idle.put_nowait(server)
                    server = None
                    self.transactions += 1

    async def _answer(self, server: Pair, writer: asyncio.StreamWriter, ends: bytes) -> tuple[bytes, bytes]:
        while True:
            kind, body = await read_message(server[0])
            writer.write(message(kind, body))
            if kind in ends:
                await writer.drain()
                return kind, body

    def _hang_up(self, server: Pair) -> None:
        """The client left in the middle of a transaction."""
        server[1].close()
        self._servers.remove(server)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, str] | None:
        while True:
            (size,) = struct.unpack("!i", await reader.readexactly(4))
            body = await reader.readexactly(size - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code in (SSL, GSS):
                writer.write(b"N")
            elif code == CANCEL:
                return None
            else:
                parts = body[4:].rstrip(b"\0").decode().split("\0")
                return dict(zip(parts[::2], parts[1::2], strict=True))

    async def _connect(self, user: str, database: str) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._server_socket))
        body = struct.pack("!i", STARTUP) + f"user\0{user}\0database\0{database}\0\0".encode()
        writer.write(struct.pack("!i", len(body) + 4) + body)
        while (await read_message(reader))[0] != b"Z":
            pass
        self._servers.append((reader, writer))
        self._idle.put_nowait((reader, writer))


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    (size,) = struct.unpack("!i", head[1:])
    return head[:1], await reader.readexactly(size - 4)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
