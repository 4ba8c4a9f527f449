"""The payroll example: what is in the file, and who can read it."""

import asyncio
from pathlib import Path

import pytest

from examples.payroll.demo import main
from tests.payloads.support import needs_cryptography

needs_cryptography()


def test_the_file_tells_names_of_runs_and_nothing_that_was_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(main(tmp_path))

    assert capsys.readouterr().out.splitlines() == [
        "paid Ada, payslip of Ada",
        "paid Ada, payslip of Ada",
        "without a key a Secret is refused",
        'in the file: "Ada"        no',
        "in the file: :512300      no",
        'in the file: "tok-first"  no',
        'in the file: "december"   yes',
        'in the file: "payday"     yes',
        "december, with both keys: {'name': 'Ada', 'cents': '***', 'token': '***'}",
        "december, with the old one: {'name': 'Ada', 'cents': '***', 'token': '***'}",
        "january, with both keys: {'name': 'Ada', 'cents': '***', 'token': '***'}",
        "january, with the old one: needs the key 2026",
    ]
    assert 2 == len((tmp_path / "book.txt").read_text(encoding="utf-8").splitlines())
