"""
The part of the conformance suite for stores that have transactions for users: P18, P33 and P34 of
``everstep.stores.base``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from everstep.records import RunRecord
from everstep.stores.base import Append, Fenced, Landed, Outcome, RolledBack, Slot, TransactingStore, transacting
from everstep.testing.scene import Scene
from everstep.testing.suite_base import SuiteBase


class TransactingSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_a_body_and_its_entry_are_one_commit(self, scene: Scene) -> None:
        """P18: both are there afterwards."""
        users = await Users.of(self, scene)
        before = await scene.run()

        assert Landed() == await users.put(1)
        assert before.version + 1 == (await scene.run()).version
        assert [1] == await users.numbers()

    async def test_a_body_that_returns_nothing_leaves_nothing(self, scene: Scene) -> None:
        """P18: neither its effect nor an entry."""
        users = await Users.of(self, scene)
        before = await scene.run()

        assert RolledBack() == await users.put(1, keep=False)
        assert before == await scene.run()
        assert [] == await users.numbers()

    async def test_a_body_that_raises_leaves_nothing(self, scene: Scene) -> None:
        """P18: and its error comes out."""
        users = await Users.of(self, scene)

        with pytest.raises(ZeroDivisionError):
            await users.put(1, error=ZeroDivisionError())
        assert [] == await users.numbers()

    async def test_a_body_that_is_cancelled_leaves_nothing(self, scene: Scene) -> None:
        """P18: and the store is free for others at once."""
        users = await Users.of(self, scene)
        task = asyncio.ensure_future(users.put(1, until=asyncio.Event()))
        await users.begun.wait()
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert [] == await users.numbers()

    async def test_a_body_is_not_begun_in_a_slot_of_somebody_else(self, scene: Scene) -> None:
        """P18: another epoch, another version, another worker: fenced."""
        users = await Users.of(self, scene)
        slot = users.slot(await scene.run())

        wrong = [replace(slot, epoch=slot.epoch - 1), replace(slot, version=slot.version + 1), replace(slot, worker_key=99)]
        assert [Fenced()] * 4 == [await users.put(1, slot=each) for each in [*wrong, replace(slot, run_key=slot.run_key + 7)]]
        assert not users.begun.is_set()

    async def test_an_entry_that_is_not_the_slots_takes_the_effect_with_it(self, scene: Scene) -> None:
        """P18: an entry of another epoch is fenced although the slot was the owner's."""
        users = await Users.of(self, scene)

        assert Fenced() == await users.put(1, epoch=7)
        assert [] == await users.numbers()

    async def test_a_body_whose_entry_has_landed_is_not_begun_again(self, scene: Scene) -> None:
        """P18: whoever lost the answer asks again with the entry, and is told that it is there."""
        users = await Users.of(self, scene)
        slot = users.slot(await scene.run())
        await users.put(1, slot=slot)
        doubtful = (await scene.run()).hash

        assert Landed() == await users.put(2, slot=replace(slot, doubtful=doubtful))
        assert [1] == await users.numbers()

    async def test_a_doubtful_entry_that_has_not_landed_lets_the_body_run_again(self, scene: Scene) -> None:
        """P18: nobody has written there."""
        users = await Users.of(self, scene)
        slot = users.slot(await scene.run())

        assert Landed() == await users.put(2, slot=replace(slot, doubtful=bytes(32)))
        assert [2] == await users.numbers()

    async def test_bodies_run_one_after_the_other_and_others_write_meanwhile_or_after(self, scene: Scene) -> None:
        """P18: no deadlock, and nobody is lost."""
        users = await Users.of(self, scene)
        gate = asyncio.Event()
        task = asyncio.ensure_future(users.put(1, until=gate))
        await users.begun.wait()
        writing = asyncio.ensure_future(scene.create("other"))
        await asyncio.sleep(0)
        gate.set()

        assert Landed() == await task
        assert "other" == (await writing).run_id

    async def test_a_body_that_ends_its_transaction_leaves_nothing(self, scene: Scene) -> None:
        """P33: what it committed would be there without an entry."""
        users = await Users.of(self, scene)
        before = await scene.run()

        with pytest.raises(Exception, match=r"may not|by itself"):
            await users.put(1, then=self.end_transaction)
        assert before == await scene.run()
        assert [] == await users.numbers()

    async def test_a_body_that_changes_what_is_everstep_s_leaves_nothing(self, scene: Scene) -> None:
        """P33: by accident; the role may have to have the right."""
        users = await Users.of(self, scene)
        before = await scene.run()

        with pytest.raises(Exception, match=r"everstep's own|no such table"):
            await users.put(1, then=self.trespass)
        assert before == await scene.run()
        assert [] == await users.numbers()

    async def test_an_error_of_a_bodys_own_did_not_give_way(self, scene: Scene) -> None:
        """P34: it would be run again and again."""
        users = await Users.of(self, scene)
        store = transacting(scene.store)

        with pytest.raises(ZeroDivisionError) as raised:
            await users.put(1, error=ZeroDivisionError())
        assert store is not None
        assert not store.gave_way(raised.value)


class Users:
    """A run that a worker owns, and transactions of users in its name."""

    def __init__(self, suite: TransactingSuite, scene: Scene, store: TransactingStore) -> None:
        self.begun = asyncio.Event()
        self._suite = suite
        self._scene = scene
        self._store = store

    @classmethod
    async def of(cls, suite: TransactingSuite, scene: Scene) -> Users:
        """Skips the test if the store has no such verb."""
        store = transacting(scene.store)
        if store is None:
            pytest.skip("the store has no transactions for users")
        users = cls(suite, scene, store)
        await scene.owned(await scene.worker())
        await users.numbers()  # A store may open what it needs, and make the table, at the first use.
        users.begun.clear()
        return users

    def slot(self, run: RunRecord) -> Slot:
        """The run's next entry."""
        return Slot(run_key=run.run_key, version=run.version + 1, epoch=run.epoch, worker_key=run.worker_key or 0)

    async def put(
        self,
        number: int,
        *,
        slot: Slot | None = None,
        keep: bool = True,
        error: Exception | None = None,
        until: asyncio.Event | None = None,
        then: Callable[[Any], Awaitable[None]] | None = None,
        **entry: Any,
    ) -> Outcome | RolledBack:
        """Put a number, in a transaction that ends as told."""
        run = await self._scene.run()

        async def body(tx: Any) -> Append | None:
            self.begun.set()
            await self._suite.put(tx, number)
            if then is not None:
                await then(tx)
            if until is not None:
                await until.wait()
            if error is not None:
                raise error
            return self._scene.append(run, **entry) if keep else None

        return await self._store.transact(slot or self.slot(run), body)

    async def numbers(self) -> list[int]:
        """The numbers that are there. Costs an entry."""
        run, found = await self._scene.run(), list[int]()

        async def body(tx: Any) -> Append | None:
            found.extend(await self._suite.numbers(tx))
            return self._scene.append(run)

        assert Landed() == await self._store.transact(self.slot(run), body)
        return found
