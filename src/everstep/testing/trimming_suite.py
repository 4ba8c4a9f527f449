"""
The part of the conformance suite about forgetting the closed segments of runs that go on: P36 of ``everstep.stores.base``.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec import Raw
from msgspec.structs import replace

from everstep.blobs import BLOB_BYTES_MIN
from everstep.errors import IllegalState
from everstep.events import RunContinued, StepCompleted, TimerFired
from everstep.journal import Entry, verify_chain
from everstep.records import RunRecord, Status
from everstep.stores.base import Fenced, Landed
from everstep.stores.pruning import Kept
from everstep.testing.scene import SUCCESS, Scene, new_run, step_completed
from everstep.testing.suite_base import SuiteBase

CUT = RunContinued(segment=1, args=Raw(b"[]"), salt="00", python="3.11")


def large(letter: str) -> StepCompleted:
    """A result that does not stay in its entry."""
    return StepCompleted("0:1", Raw(b'"' + letter.encode() * BLOB_BYTES_MIN + b'"'))


@dataclass
class LongRun:
    """A run with two closed segments: entry 5 begins the second, entry 8 the third, and the newest is entry 9."""

    run: RunRecord
    whole: list[Entry]

    @classmethod
    async def of(cls, scene: Scene) -> LongRun:
        """The worker host:1 owns it."""
        run = await scene.owned(await scene.worker())
        for event in (step_completed(), step_completed(), CUT, step_completed(), step_completed(), CUT, step_completed()):
            write = scene.append(run, event)
            run = await scene.landed(replace(write, begins_segment=event is CUT))
        return cls(run, await scene.store.load(run.run_key))


class TrimmingSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_a_trimmed_journal_is_its_first_entry_and_what_is_left(self, scene: Scene) -> None:
        """P36: it verifies from the anchor, also after opening again, and the run is as it was."""
        long = await LongRun.of(scene)

        gone = await scene.trim(long.run, 5)

        left = await scene.store.load(long.run.run_key)
        scene.store = await self.reopened(scene.store)
        expected = [long.whole[0], replace(long.whole[4], anchor=long.whole[3].hash), *long.whole[5:]]
        assert (3, expected) == (gone, left)
        assert left == await scene.store.load(long.run.run_key)
        verify_chain(left, run_key=long.run.run_key, run_id="order-1", head=long.run.hash)
        assert long.whole[0].events == (await scene.run()).created
        assert [1] == [entry.version for entry in await scene.store.load(long.run.run_key, 4)]
        assert [1, 5, 6] == [entry.version for entry in await scene.store.load(long.run.run_key, 6)]

    async def test_trimming_again_goes_on_where_it_ended_and_never_back(self, scene: Scene) -> None:
        """P36: safe to repeat."""
        long = await LongRun.of(scene)

        gone = [await scene.trim(long.run, before) for before in (5, 5, 3, 8, 5, 8)]

        assert [3, 0, 0, 3, 0, 0] == gone
        assert [1, 8, 9] == [entry.version for entry in await scene.store.load(long.run.run_key)]

    @pytest.mark.parametrize("before", [-1, 0, 1, 2, 9, 10, 99])
    async def test_nothing_of_the_newest_segment_goes(self, scene: Scene, before: int) -> None:
        """P36: nor the first entry, nor anything of a run that does not exist."""
        long = await LongRun.of(scene)

        assert 0 == await scene.trim(long.run, before)
        assert 0 == await scene.trim(replace(long.run, run_key=long.run.run_key + 1), before)
        assert long.whole == await scene.store.load(long.run.run_key)

    async def test_a_dry_trim_says_what_would_go_and_changes_nothing(self, scene: Scene) -> None:
        """P36."""
        long = await LongRun.of(scene)

        foreseen = [await scene.trim(long.run, before, dry_run=True) for before in (5, 8, 9)]

        assert [3, 6, 0] == foreseen
        assert long.whole == await scene.store.load(long.run.run_key)

    @pytest.mark.parametrize("before", [5, 8])
    async def test_whoever_drives_a_run_that_is_trimmed_notices_nothing(self, scene: Scene, before: int) -> None:
        """P36, P3, P4: its entries land, also one that is repeated; a zombie's do not."""
        long = await LongRun.of(scene)
        write = scene.append(long.run)
        await scene.trim(long.run, before)

        outcomes = [*await scene.commit(write), *await scene.commit(write), *await scene.commit(scene.append(long.run))]

        assert [Landed(), Landed(), Landed()] == outcomes
        assert [Fenced()] == await scene.commit(scene.append(long.run, TimerFired("0:9")))
        assert 10 == (await scene.run()).version

    @pytest.mark.parametrize("before", [5, 8])
    async def test_a_claim_of_a_trimmed_run_hands_out_the_newest_segment(self, scene: Scene, before: int) -> None:
        """P36, P16: with the hash of the entry before it."""
        long = await LongRun.of(scene)
        await scene.commit(scene.keep(long.run, release=True, wake_at=scene.store.now()))
        await scene.trim(long.run, before)

        claimed = await scene.claim_one(await scene.worker("host:2"))

        assert [8, 9, 10] == [entry.version for entry in claimed.entries]
        assert long.whole[6].hash == claimed.previous
        verify_chain(claimed.entries, run_key=long.run.run_key, run_id="order-1", previous=claimed.previous)

    async def test_a_missing_entry_is_no_trimmed_one(self, scene: Scene) -> None:
        """P36: the anchor belongs to one place of the journal."""
        long = await LongRun.of(scene)
        await scene.trim(long.run, 5)

        left = await scene.store.load(long.run.run_key)

        assert [b"", long.whole[3].hash, b"", b"", b"", b""] == [entry.anchor for entry in left]

    async def test_a_run_that_is_forked_is_not_trimmed(self, scene: Scene) -> None:
        """P36: its fork's history may lie in what would go."""
        long = await LongRun.of(scene)
        await scene.create("fork", forked_from=long.run.run_key, forked_at=4)

        assert Kept.FORK == await scene.trim(long.run, 5)
        assert Kept.FORK == await scene.trim(long.run, 5, dry_run=True)
        assert long.whole == await scene.store.load(long.run.run_key)

    async def test_a_fork_of_what_is_not_there_any_more_is_refused(self, scene: Scene) -> None:
        """P36: of a trimmed version, or of a run that was pruned at that moment. Nothing is created."""
        long = await LongRun.of(scene)
        await scene.trim(long.run, 5)
        for version in (2, 4):
            with pytest.raises(IllegalState, match=f"version {version} of the run that it forks has been pruned"):
                await scene.create("fork", forked_from=long.run.run_key, forked_at=version)

        await scene.create("begins-alike", forked_from=long.run.run_key, forked_at=1)
        await scene.create("fork", forked_from=long.run.run_key, forked_at=5)
        with pytest.raises(IllegalState, match="the run that it forks has been pruned"):
            await scene.store.create([new_run("other"), new_run("late", forked_from=987, forked_at=5)])

        assert [await scene.store.get(run_id) for run_id in ("other", "late")] == [None, None]

    async def test_blobs_go_with_the_last_entry_that_refers_to_them(self, scene: Scene) -> None:
        """P36, P22."""
        run = await scene.owned(await scene.worker())
        for event in (large("a"), large("b"), CUT, large("b"), large("c")):
            run = await scene.landed(replace(scene.append(run, event), begins_segment=event is CUT))

        await scene.trim(run, 5)
        left = await scene.store.load(run.run_key)
        run = await scene.landed(scene.append(run, large("a")))

        assert [0, 0, 1, 1] == [len(entry.blobs) for entry in left]
        assert [[large("b")], [large("c")]] == [entry.decoded() for entry in left[2:]]
        assert [large("a")] == (await scene.store.load(run.run_key))[-1].decoded(), "it is stored again"

    async def test_a_trimmed_run_is_pruned_whole(self, scene: Scene) -> None:
        """P21, P36: and a later run of its id knows of no anchor."""
        long = await LongRun.of(scene)
        await scene.trim(long.run, 5)
        await scene.rest(await scene.run(), SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)

        pruned = await scene.prune(scene.old())

        assert 1 == pruned.run_count
        assert [] == await scene.store.load(long.run.run_key)
        again = await LongRun.of(scene)
        assert [b""] * 9 == [entry.anchor for entry in again.whole]
