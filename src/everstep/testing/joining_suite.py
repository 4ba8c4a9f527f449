"""
The part of the conformance suite for stores that write in transactions of callers: P35 of ``everstep.stores.base``.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from msgspec.structs import replace

from everstep.errors import UsageError
from everstep.events import TimerFired
from everstep.stores.base import Created, Exists, JoiningStore, joining
from everstep.testing.scene import Scene, message, new_run
from everstep.testing.suite_base import Caller, SuiteBase


class JoiningSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_what_is_written_in_a_callers_transaction_is_there_once_that_commits(self, scene: Scene) -> None:
        """P35: a run and a message, and neither before."""
        calling, waiting = self._calling(scene), await scene.create("waiting")
        async with calling as caller:
            store = joining(scene.store, caller.connection)
            (answer,) = await store.create_in(caller.connection, [new_run("new")])
            sent = await store.post_in(caller.connection, "waiting", message(TimerFired("0:1")))
            assert await scene.store.get("new") is None
            assert [] == await scene.store.mail(waiting.run_key)
            await caller.commit()

        assert isinstance(answer, Created)
        assert answer.run == await scene.run("new")
        assert sent == await scene.run("waiting")
        assert 1 == len(await scene.store.mail(waiting.run_key))

    async def test_what_is_written_in_a_callers_transaction_is_gone_with_it(self, scene: Scene) -> None:
        """P35: and its id is free."""
        calling, waiting = self._calling(scene), await scene.create("waiting")
        async with calling as caller:
            store = joining(scene.store, caller.connection)
            await store.create_in(caller.connection, [new_run("new")])
            await store.post_in(caller.connection, "waiting", message(TimerFired("0:1")))
            await caller.roll_back()

        assert waiting == await scene.run("waiting")
        assert "new" == (await scene.create("new")).run_id

    async def test_a_caller_sees_what_he_has_written_himself(self, scene: Scene) -> None:
        """P35, P6: the second start of a transaction is told of the first."""
        async with self._calling(scene) as caller:
            store = joining(scene.store, caller.connection)
            await store.create_in(caller.connection, [new_run("new")])
            (again,) = await store.create_in(caller.connection, [new_run("new")])
            nobody = await store.post_in(caller.connection, "nobody", message(TimerFired("0:1")))
            await caller.commit()

        assert isinstance(again, Exists)
        assert nobody is None

    async def test_what_is_refused_leaves_the_rest_of_a_callers_transaction(self, scene: Scene) -> None:
        """P35: nothing of it is there, and all that was written before is."""
        async with self._calling(scene) as caller:
            store = joining(scene.store, caller.connection)
            await store.create_in(caller.connection, [new_run("new")])
            with pytest.raises(UsageError):
                await _create_what_no_store_takes(store, caller.connection)
            await caller.commit()

        assert "new" == (await scene.run("new")).run_id
        assert await scene.store.get("bad") is None

    def _calling(self, scene: Scene) -> AbstractAsyncContextManager[Caller]:
        calling = self.calling(scene.store)
        if calling is None:
            pytest.skip("the store does not write in transactions of callers")
        return calling


async def _create_what_no_store_takes(store: JoiningStore, connection: Any) -> None:
    await store.create_in(connection, [new_run("good"), replace(new_run("bad"), created=b"\xff")])
