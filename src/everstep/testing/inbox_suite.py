"""
The part of the conformance suite about messages and their replies: P10, P11, P19 and P20 of ``everstep.stores.base``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from everstep.events import RunCancelled, RunDied, RunFailed, RunPaused, TimerFired, decode_event
from everstep.records import Message, RunRecord, Status, WorkerKey
from everstep.stores.base import Behind, Exists, Fenced, Landed, Post, Refused, Reply
from everstep.testing.scene import CODE, ERROR, SUCCESS, Scene, message, new_run
from everstep.testing.suite_base import SuiteBase


class InboxSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_messages_are_numbered_in_order(self, scene: Scene) -> None:
        """P10: the number is the order."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        for number in range(3):
            scene.clocks.advance(1)
            after = await scene.store.post("order-1", message(TimerFired(f"0:{number}")))
            assert after is not None
            assert number + 1 == after.inbox_seq

        ((run_key, messages),) = await scene.store.pull(worker)

        assert run.run_key == run_key
        assert [1, 2, 3] == [each.seq for each in messages]
        assert ["0:0", "0:1", "0:2"] == [_key(each) for each in messages]
        assert scene.store.now() == messages[-1].at

    async def test_a_dedupe_key_is_accepted_once_per_run(self, scene: Scene) -> None:
        """P10: also after the first one was consumed. Messages without a key are all accepted."""
        worker = await scene.worker()
        run, _ = await scene.owned(worker), await scene.create("order-2")
        await scene.store.post("order-1", message(TimerFired("0:1"), "once"))
        run = await scene.landed(scene.append(run, consumed=1))
        for event in (TimerFired("0:1"), TimerFired("0:2")):
            await scene.store.post("order-1", message(event, "once"))
            await scene.store.post("order-2", message(event))

        assert 1 == (await scene.run()).inbox_seq
        assert 2 == (await scene.run("order-2")).inbox_seq

    async def test_a_message_makes_a_parked_run_due(self, scene: Scene) -> None:
        """P10: and comes with the claim."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.commit(scene.append(run, status=Status.WAITING, release=True, wake_at=None))
        assert ([], None) == ((await scene.claim(worker)).runs, (await scene.claim(worker)).next_due_at)

        posted = await scene.store.post("order-1", message(TimerFired("0:1")))

        assert posted is not None
        assert (Status.WAITING, scene.store.now()) == (posted.status, posted.wake_at)
        assert ["0:1"] == [_key(each) for each in (await scene.claim_one(worker)).inbox]

    async def test_a_message_wakes_no_sooner_than_is_due_already(self, scene: Scene) -> None:
        """P10: a run keeps its place in the queue."""
        run = await scene.create()
        scene.clocks.advance(5)

        posted = await scene.store.post("order-1", message(TimerFired("0:1")))

        assert posted is not None
        assert run.wake_at == posted.wake_at

    async def test_a_message_does_not_wake_a_paused_run(self, scene: Scene) -> None:
        """P10: it waits in the inbox."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.commit(scene.append(run, RunPaused("by hand"), status=Status.PAUSED))

        posted = await scene.store.post("order-1", message(TimerFired("0:1")))

        assert posted is not None
        assert (1, None) == (posted.inbox_seq, posted.wake_at)
        assert [] == (await scene.claim(worker)).runs

    async def test_a_run_at_rest_accepts_no_message(self, scene: Scene) -> None:
        """P10: the answer shows that it rests."""
        run = await scene.owned(await scene.worker())
        rested = await scene.rest(run, SUCCESS, Status.SUCCEEDED)

        posted = await scene.store.post("order-1", message(TimerFired("0:1")))

        assert posted is not None
        assert (Status.SUCCEEDED, 0, rested.version) == (posted.status, posted.inbox_seq, posted.version)

    async def test_a_message_to_nobody_is_told(self, scene: Scene) -> None:
        """P10: None, if there is no such run."""
        assert await scene.store.post("nobody", message(TimerFired("0:1"))) is None

    async def test_a_message_of_an_entry_to_nobody_or_a_resting_run_is_dropped(self, scene: Scene) -> None:
        """P10: the entry lands nevertheless."""
        worker = await scene.worker()
        run, other = await scene.owned(worker), await scene.owned(worker, "order-2")
        await scene.rest(other, SUCCESS, Status.SUCCEEDED)
        posts = tuple(Post(run_id=run_id, message=message(TimerFired("0:1"))) for run_id in ("nobody", "order-2", "order-1"))

        run = await scene.landed(scene.append(run, posts=posts))

        assert 1 == run.inbox_seq
        assert 0 == (await scene.run("order-2")).inbox_seq

    async def test_pulling_consumes_nothing(self, scene: Scene) -> None:
        """P10: what an entry consumed is not pulled again."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        for key in ("0:1", "0:2"):
            await scene.store.post("order-1", message(TimerFired(key)))

        assert await scene.store.pull(worker) == await scene.store.pull(worker)

        run = await scene.landed(scene.append(run, consumed=1))
        assert [(run.run_key, ["0:2"])] == [(key, list(map(_key, each))) for key, each in await scene.store.pull(worker)]
        await scene.commit(scene.append(run, consumed=2))
        assert [] == await scene.store.pull(worker)

    async def test_a_run_with_unread_messages_can_neither_park_nor_end(self, scene: Scene) -> None:
        """P11: the wake-up would be lost."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.store.post("order-1", message(TimerFired("0:1")))
        before = await scene.run()

        for write in (
            scene.append(run, status=Status.WAITING, release=True),
            scene.append(run, status=Status.WAITING, release=True, wake_at=scene.store.now() + 1),
            scene.append(run, SUCCESS, status=Status.SUCCEEDED),
            scene.append(run, RunFailed(ERROR), status=Status.FAILED),
            scene.append(run, RunCancelled(), status=Status.CANCELLED),
            scene.keep(run, release=True),
        ):
            assert [Behind()] == await scene.commit(write)

        assert before == await scene.run()
        assert [Landed()] == await scene.commit(scene.append(run, status=Status.WAITING, release=True, consumed=1))

    async def test_consumption_is_remembered(self, scene: Scene) -> None:
        """P11: what an earlier entry consumed stays consumed."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.store.post("order-1", message(TimerFired("0:1")))
        run = await scene.landed(scene.append(run, consumed=1))

        assert [Landed()] == await scene.commit(scene.keep(run, release=True))

    async def test_unread_messages_do_not_hold_up_a_verdict_or_a_run_that_is_due_at_once(self, scene: Scene) -> None:
        """P11: whoever takes the run next finds them."""
        worker = await scene.worker()
        ways: tuple[dict[str, Any], ...] = (
            {"status": Status.PAUSED, "refused_by": CODE},
            {"status": Status.DEAD},
            {"status": Status.QUEUED, "release": True, "wake_at": scene.store.now()},
        )
        for number, fields in enumerate(ways):
            run = await scene.owned(worker, f"order-{number}")
            await scene.store.post(run.run_id, message(TimerFired("0:1")))

            assert [Landed()] == await scene.commit(scene.append(run, RunDied("worn"), **fields))

        assert ["0:1"] == [_key(each) for each in (await scene.claim_one(worker)).inbox]

    async def test_a_run_is_given_back_as_told(self, scene: Scene) -> None:
        """P11: with or without an entry."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        write = scene.append(run, status=Status.WAITING, release=True, wake_at=scene.store.now() + 5)
        assert (Status.WAITING, scene.store.now() + 5, None) == _parking(await scene.landed(write))
        scene.clocks.advance(1)

        run = (await scene.claim_one(worker)).run
        await scene.commit(scene.keep(run, release=True, status=Status.QUEUED, wake_at=scene.store.now()))

        assert (Status.QUEUED, scene.store.now(), None) == _parking(await scene.run())
        assert run.version == (await scene.run()).version
        assert [Fenced()] == await scene.commit(scene.append(run))

    @pytest.mark.parametrize("kind", ["append", "keep"])
    async def test_a_reply_stays_on_its_message(self, scene: Scene, kind: str) -> None:
        """P19: it can be read by whoever knows the key, after the run has ended too; only the first one counts."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        for key in ("a", "b", ""):
            await scene.store.post("order-1", message(TimerFired("0:1"), key))
        assert [None, None, None] == [each.reply for each in await scene.store.mail(run.run_key)]

        first, second = (Reply("a", b'"yes"'),), (Reply("a", b'"no"'), Reply("", b'"nobody"'), Reply("gone", b'"dropped"'))
        if kind == "append":
            run = await scene.landed(scene.append(run, replies=first, consumed=1))
            run = await scene.landed(scene.append(run, replies=second))
        else:
            assert [Landed()] == await scene.commit(scene.keep(run, replies=first, consumed=1))
            assert [Landed()] == await scene.commit(scene.keep(run, replies=second))
        assert 1 == (await scene.run()).inbox_done
        await scene.rest(replace(run, inbox_seq=3), SUCCESS, Status.SUCCEEDED)

        scene.store = await self.reopened(scene.store)
        assert [b'"yes"', None, None] == [each.reply for each in await scene.store.mail(run.run_key)]
        assert [(1, b'"yes"')] == [(each.seq, each.reply) for each in await scene.store.mail(run.run_key, 0, "a")]
        assert ["b", ""] == [each.dedupe for each in await scene.store.mail(run.run_key, 1)]
        assert [] == await scene.store.mail(run.run_key, 1, "a") == await scene.store.mail(run.run_key, 0, "gone")
        assert [] == await scene.store.mail(run.run_key + 1)

    async def test_a_write_that_does_not_land_replies_to_nobody(self, scene: Scene) -> None:
        """P19, P5: a zombie's answer is not heard."""
        worker, other = await scene.worker(), await scene.worker("host:2")
        run = await scene.owned(worker)
        await scene.store.post("order-1", message(TimerFired("0:1"), "a"))
        replies = (Reply("a", b'"yes"'),)

        for write in (
            scene.append(run, replies=replies, worker_key=other),
            scene.append(run, replies=replies, version=9),
            scene.keep(run, replies=replies, worker_key=other),
            scene.keep(run, replies=replies, release=True),
        ):
            assert Landed() not in await scene.commit(write)

        assert [None] == [each.reply for each in await scene.store.mail(run.run_key)]
        bad = await scene.commit(scene.append(run, replies=(Reply("a", b"\xff"),)))
        assert Refused in map(type, bad)

    async def test_whoever_waits_is_told_of_a_reply(self, scene: Scene) -> None:
        """P19: the asker need not poll."""
        run = await scene.owned(await scene.worker())
        await scene.store.post("order-1", message(TimerFired("0:1"), "a"))
        waiting = asyncio.ensure_future(scene.store.wait_for_work(None, 60))
        await asyncio.sleep(0)

        await scene.commit(scene.keep(run, replies=(Reply("a", b'"yes"'),), consumed=1))

        assert await waiting

    async def test_a_run_begins_with_the_messages_that_came_with_it(self, scene: Scene) -> None:
        """P20: each key once, in order; and not again when somebody creates it again."""
        messages = tuple(message(TimerFired(f"0:{number}"), key) for number, key in enumerate(("a", "", "a", "b")))
        run = await scene.create(messages=messages)
        assert (3, 0) == (run.inbox_seq, run.inbox_done)

        (answer,) = await scene.store.create([new_run(messages=(message(TimerFired("0:9"), "c"),))])
        await scene.store.post("order-1", message(TimerFired("0:9"), "b"))
        await scene.store.post("order-1", message(TimerFired("0:4")))

        assert isinstance(answer, Exists)
        claimed = await scene.claim_one(await scene.worker())
        assert [(1, "0:0"), (2, "0:1"), (3, "0:3"), (4, "0:4")] == [(each.seq, _key(each)) for each in claimed.inbox]

    async def test_a_first_entry_can_consume_the_messages_that_come_with_its_run(self, scene: Scene) -> None:
        """P20, P11: and may park or end only then."""
        worker = await scene.worker()
        messages = (message(TimerFired("0:1"), "a"), message(TimerFired("0:2")))
        behind = scene.first(worker, messages=messages, consumed=1, release=True, status=Status.WAITING)
        assert [Behind()] == await scene.commit(behind)
        assert await scene.store.get("order-1") is None

        write = scene.first(worker, messages=messages, consumed=2, release=True, status=Status.WAITING)
        run = await scene.landed(write)

        assert (2, 2, None) == (run.inbox_seq, run.inbox_done, run.wake_at)
        assert [Landed()] == await scene.commit(write)
        await scene.store.post("order-1", message(TimerFired("0:1"), "a"))
        assert 2 == (await scene.run()).inbox_seq

    async def test_an_ending_may_leave_what_it_has_seen(self, scene: Scene) -> None:
        """P11: the messages stay unconsumed; one that it has not seen holds it up."""
        run = await scene.owned(await scene.worker())
        for _ in range(2):
            await scene.store.post("order-1", message(TimerFired("0:1")))

        assert [Behind()] == await scene.commit(scene.append(run, SUCCESS, status=Status.SUCCEEDED, seen=1))
        assert [Behind()] == await scene.commit(scene.append(run, status=Status.WAITING, release=True, seen=2))
        ended = await scene.landed(scene.append(run, SUCCESS, status=Status.SUCCEEDED, consumed=1, seen=2))

        assert (2, 1) == (ended.inbox_seq, ended.inbox_done)


def _parking(run: RunRecord) -> tuple[Status, int | None, WorkerKey | None]:
    return run.status, run.wake_at, run.worker_key


def _key(received: Message) -> str:
    event = decode_event(received.event)
    assert isinstance(event, TimerFired)
    return event.key
