"""
python -m examples.payroll.demo: what a file of encrypted payloads tells, and a new key for the new year.

Needs pip install 'everstep[encryption]'.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import everstep as es
from examples.payroll.job import payday

OLD, NEW = os.urandom(32), os.urandom(32)
"""32 random bytes each, from wherever you keep such things."""


async def pay(folder: Path, encryption: es.Encryption | None, name: str, token: str, run_id: str) -> str:
    """Pay somebody with an engine that has these keys."""
    payloads = es.Payloads(encryption=encryption, redact=["cents"])
    async with es.Engine(f"sqlite:///{folder / 'payroll.db'}", workflows=[payday], payloads=payloads) as engine:
        handle = await engine.start(payday(str(folder / "book.txt"), name, 512_300, es.Secret(token)), id=run_id)
        return await handle.result()


async def read(folder: Path, encryption: es.Encryption | None, run_id: str) -> object:
    """What a program with these keys sees of the run's arguments; the redacted field is stars for everybody."""
    payloads = es.Payloads(encryption=encryption, redact=["cents"])
    async with es.Client(f"sqlite:///{folder / 'payroll.db'}", payloads=payloads) as client:
        try:
            arguments = (await client.handle(run_id).snapshot()).payload["arguments"]
            return {name: value for name, value in arguments.items() if name != "book"}
        except es.PayloadKeyMissing as error:
            return f"needs the key {error.key_id}"


def everything_in(folder: Path) -> bytes:
    """The file, with its log."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("payroll.db*")) if path.is_file())


async def main(folder: Path) -> None:
    """Two years, two keys."""
    last_year = es.Encryption({"2025": OLD}, current="2025")
    both = es.Encryption({"2025": OLD, "2026": NEW}, current="2026")
    print(await pay(folder, last_year, "Ada", "tok-first", "december"))
    print(await pay(folder, both, "Ada", "tok-second", "january"))
    try:
        await pay(folder, None, "Ada", "tok-third", "february")
    except es.Unencodable:
        print("without a key a Secret is refused")

    stored = everything_in(folder)
    for word in ('"Ada"', ":512300", '"tok-first"', '"december"', '"payday"'):  # as JSON has them; ciphertext has no quotes
        print(f"in the file: {word:12} {'yes' if word.encode() in stored else 'no'}")
    for run_id in ("december", "january"):
        print(f"{run_id}, with both keys: {await read(folder, both, run_id)}")
        print(f"{run_id}, with the old one: {await read(folder, last_year, run_id)}")


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
