"""The how-to on PostgreSQL is held to its word on PostgreSQL: its program runs there as printed, several at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from everstep.stores.urls import open_store

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "run-on-postgresql.md"


def test_the_program_runs_on_postgresql_as_printed(postgres_url: str, tmp_path: Path) -> None:
    """Three of them at once, and again: one of them drives the run, all have the result."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "orders.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", "orders.py"]
    environment = {**os.environ, "ORDERS_URL": postgres_url}

    started = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]

    assert [("order-42: receipt for 1999 cents\n", "")] * 3 == [each.communicate(timeout=60) for each in started]
    assert not (tmp_path / "orders.db").exists()


def test_the_program_that_moves_a_run_moves_it_to_postgresql(postgres_url: str, tmp_path: Path) -> None:
    page = PAGE.with_name("move-to-postgresql.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "move.py").write_text(program, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-W", "error", "move.py"],
        cwd=tmp_path,
        env={**os.environ, "TARGET": postgres_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ("charging order-42\nexit code 0\nreceipt for order-42\n", "") == (done.stdout, done.stderr)


async def test_the_sql_of_the_page_can_be_asked(postgres_url: str) -> None:
    """Column by column."""
    from everstep.stores.postgres import link
    from everstep.stores.postgres.address import Address

    store = open_store(postgres_url)
    await store.open()
    await store.close()
    connection = await link.connect(Address(postgres_url), is_pooled=True)
    schema = Address(postgres_url).schema
    statements = re.findall(r"^    (SELECT .*);$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)

    assert 4 == len(statements)
    for statement in statements:
        assert [] == await connection.fetch(statement.replace("everstep.", f"{schema}."))
    await connection.close()
