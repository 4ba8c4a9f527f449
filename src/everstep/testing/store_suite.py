"""
The conformance suite: whoever writes a store subclasses it and has every promise of ``everstep.stores.base`` checked.

    class TestMyStore(StoreSuite):
        async def make_store(self, clocks):
            return MyStore(now=clocks.now, monotonic=clocks.monotonic)

        async def kill_worker(self, store, worker_key):
            ...what happens to a worker when its process is killed

Needs pytest and pytest-asyncio. Time stands still unless a test lets it pass, and no test sleeps. After each test all journals
are verified.
"""

from __future__ import annotations

import pytest

from everstep.testing.entries_suite import EntriesSuite
from everstep.testing.family_suite import FamilySuite
from everstep.testing.inbox_suite import InboxSuite
from everstep.testing.joining_suite import JoiningSuite
from everstep.testing.operator_suite import OperatorSuite
from everstep.testing.ownership_suite import OwnershipSuite
from everstep.testing.pruning_suite import PruningSuite
from everstep.testing.queue_suite import QueueSuite
from everstep.testing.reading_suite import ReadingSuite
from everstep.testing.transacting_suite import TransactingSuite
from everstep.testing.trimming_suite import TrimmingSuite
from everstep.testing.waking_suite import WakingSuite
from everstep.testing.worker_suite import WorkerSuite


@pytest.mark.asyncio
class StoreSuite(
    EntriesSuite,
    OwnershipSuite,
    InboxSuite,
    WakingSuite,
    FamilySuite,
    ReadingSuite,
    TransactingSuite,
    JoiningSuite,
    OperatorSuite,
    PruningSuite,
    TrimmingSuite,
    QueueSuite,
    WorkerSuite,
):
    """Every promise, checked on one store."""
