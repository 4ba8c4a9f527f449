"""
A client for the length of one command.

Verbs that only look at a store refuse one that is not there: making an empty database because of a typing error would hide the
error, and leave a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from everstep.cli.faults import STORE, Refusal
from everstep.client import Client
from everstep.errors import StoreUnavailable
from everstep.payloads import Keeper, Payloads
from everstep.records import RunRecord, WorkerKey, WorkerRecord


@asynccontextmanager
async def connected(url: str, *, create: bool = False) -> AsyncGenerator[Client]:
    """A client that is open, and closed at the end. It has the keys of the file that ``EVERSTEP_KEYS`` names.

    Args:
        url: The store.
        create: The command may create the store; otherwise it must be there.

    Raises:
        Refusal: There is no such store.
        StoreError: It cannot be used.
        InvalidStoreURL: The URL names none.
        UsageError: The file of keys cannot be read.
    """
    if not create:
        refuse_missing_file(url)
    async with Client(url, payloads=Payloads.from_environment()) as client:
        yield client


def reader_of(client: Client, run_id: str) -> Keeper:
    """What opens the payloads of a run for people: what is encrypted with a key that is not here is told to be so."""
    return client.payloads.viewer(run_id, lenient=True)


async def breathe() -> None:
    """Let Ctrl-C through: asyncio delivers it only where somebody waits, and a store may answer without ever waiting."""
    await asyncio.sleep(0)


async def worker_names(client: Client) -> Mapping[WorkerKey, WorkerRecord]:
    """The workers that are alive or still own runs, by key; empty if the store will not say now."""
    try:
        return {worker.worker_key: worker for worker in await client.workers()}
    except StoreUnavailable:
        return {}


def owner_name(run: RunRecord, workers: Mapping[WorkerKey, WorkerRecord]) -> str:
    """Who drives a run, if anybody living does."""
    owner = workers.get(run.worker_key) if run.worker_key is not None else None
    return owner.name if owner is not None and owner.alive else ""


def refuse_missing_file(url: str) -> None:
    """Return unless the URL names a file that is not there.

    Raises:
        Refusal: It does.
    """
    path = sqlite_file(url)
    try:
        missing = path is not None and not path.exists()
    except OSError:
        return  # Opening it will say what is wrong, in better words.
    if missing:
        raise Refusal(
            f"there is no store at {path}. Nothing was created. "
            "Start a run there first, or name another: --store URL or EVERSTEP_URL",
            STORE,
        )


def sqlite_file(url: str) -> Path | None:
    """The file that a URL names; None if it names something else, or nothing."""
    from urllib.parse import unquote

    scheme, _, path = url.partition(":///")
    return Path(unquote(path)) if scheme == "sqlite" and path else None
