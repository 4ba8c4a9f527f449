"""
The power goes at every place of everything that the SQLite store writes, and the medium keeps any part of what was not synced.

Then the file holds, to the byte of every table, the state after the last verb that was acknowledged, or after the one that was
under way: nothing acknowledged is lost, nothing is there by half.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from everstep.journal import verify_chain
from everstep.stores.base import ClaimRequest, RunFilter
from everstep.stores.sqlite import SQLiteStore
from everstep.testing.scene import Clocks
from tests import evidence
from tests.powercuts.disk import images, watched
from tests.powercuts.lives import Life, NoFaults
from tests.powercuts.places import NOTHING, is_intact, lay_down, state_of
from tests.stores.test_differential import CODES, VERSIONS, WORKFLOWS

LOOKED_AT_CLOSELY = 0.02
"""Of the images: SQLite's own check of the file, and a store that opens it and goes on, take longer than all the rest."""


@pytest.mark.parametrize("seed", range(evidence.amount(4, 16)))
async def test_a_power_cut_leaves_the_state_after_a_verb_and_no_acknowledged_one_is_missing(
    tmp_path: Path, images_directory: Path, seed: int
) -> None:
    """Every operation of every verb, with the two extreme images and others by chance."""
    directory = tmp_path / "live"
    directory.mkdir()
    with watched(directory) as disk:
        life = Life(disk, NoFaults(), seed)
        await life.spend(steps=50)

    await check_images(life, images_directory, seed)


async def check_images(life: Life, directory: Path, seed: int) -> None:
    """Each image is one of the states that are allowed at its place, and some are shown to be whole and of use."""
    chance = random.Random(seed)
    for place, image in images(life.disk.ops, chance, each=2):
        path = lay_down(image, directory)
        found = state_of(path)
        assert found in life.allowed(place), f"power cut after operation {place}: {life.disk.ops[place - 1]}"
        evidence.note("images of a power cut under SQLite")
        if chance.random() < LOOKED_AT_CLOSELY and found != NOTHING:
            assert is_intact(path)
            await goes_on(path)


async def goes_on(path: Path) -> None:
    """A store that is opened on an image verifies every journal, and hands out what is due."""
    clocks = Clocks()
    clocks.advance(1_000_000)
    store = SQLiteStore(path, now=clocks.now, monotonic=clocks.monotonic)
    await store.open()
    try:
        for run in await store.list(RunFilter(limit=1000)):
            verify_chain(await store.load(run.run_key), run_key=run.run_key, run_id=run.run_id, head=run.hash)
        worker_key = await store.enlist("after", 15)
        code = " ".join(CODES)
        every = {(name, version): code for name in WORKFLOWS for version in VERSIONS}
        request = ClaimRequest(worker_key=worker_key, workflows=dict.fromkeys(WORKFLOWS, code), run_max=3, versions=every)
        for claimed in (await store.claim(request)).runs:
            run = claimed.run
            assert worker_key == run.worker_key
            verify_chain(claimed.entries, run_key=run.run_key, run_id=run.run_id, head=run.hash, previous=claimed.previous)
    finally:
        await store.close()
