"""
Virtual time on a loop that somebody else made: what waits for what.
"""

from __future__ import annotations

import asyncio
import threading
import unittest

import pytest

from everstep.errors import UsageError
from everstep.testing import Env, Stuck
from everstep.testing.virtual import VirtualTime, of, virtual_time


async def test_time_jumps_to_the_next_timer() -> None:
    with virtual_time() as virtual:
        await asyncio.sleep(3600)

    assert 3600 == pytest.approx(virtual.clock.seconds)


async def test_time_stands_still_for_threads() -> None:
    began, done = threading.Event(), threading.Event()

    def work() -> float:
        began.set()
        done.wait(5)
        return virtual.clock.seconds

    async def tick() -> None:
        await asyncio.to_thread(began.wait, 5)
        done.set()
        await asyncio.sleep(100)

    with virtual_time() as virtual:
        seconds, _ = await asyncio.gather(asyncio.to_thread(work), tick())

    assert 0 == seconds


async def test_sockets_get_a_moment() -> None:
    """A timeout of an hour must not ring while the other end is about to answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    with virtual_time() as virtual:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server, asyncio.timeout(3600):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert b"hello\n" == await reader.readline()
            writer.close()
            await writer.wait_closed()

    assert 0 == virtual.clock.seconds


async def test_settle_returns_when_only_time_could_help() -> None:
    seen: list[str] = []

    async def work() -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        seen.append("now")
        await asyncio.sleep(1)
        seen.append("later")

    with virtual_time() as virtual:
        task = asyncio.create_task(work())
        await virtual.settle()
        assert ["now"] == seen
        await task


def test_a_wait_for_nothing_is_stuck() -> None:
    async def main() -> None:
        with virtual_time():
            await asyncio.Event().wait()

    with pytest.raises(Stuck):
        asyncio.run(main())


async def test_it_is_taken_off_without_a_trace() -> None:
    loop = asyncio.get_running_loop()
    before = set(vars(loop))
    with virtual_time():
        assert of(loop) is not None

    assert of(loop) is None
    assert before == set(vars(loop))


async def test_a_loop_has_one_time_only() -> None:
    with virtual_time() as virtual, virtual_time() as same:
        assert virtual is same
        with pytest.raises(UsageError, match="already"):
            VirtualTime(asyncio.get_running_loop()).install()


class TestUnderUnittest(unittest.IsolatedAsyncioTestCase):
    """It needs no plugin."""

    async def test_an_hour(self) -> None:
        async with Env() as env:
            began_at = env.now()
            await asyncio.sleep(3600)
            assert 3600 == pytest.approx((env.now() - began_at).total_seconds())


async def test_what_falls_due_together_rings_together() -> None:
    """A thousand odd stretches end on the same tick as their sum, though floats of seconds would not add up."""
    with virtual_time() as virtual:
        sleeping = asyncio.ensure_future(asyncio.sleep(sum(odd(number) for number in range(1000)) / 1e6))
        for number in range(1000):
            assert not sleeping.done()
            await asyncio.sleep(odd(number) / 1e6)
        await virtual.settle()

        assert sleeping.done()
        assert sum(odd(number) for number in range(1000)) == virtual.clock.passed


def odd(number: int) -> int:
    """Microseconds: between one and ten hours."""
    return 3_600_000_001 + number * 32_400_007
