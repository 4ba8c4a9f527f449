"""
The Compose file, as far as it can be held to its word without Docker: it is what its comments and the how-to say, and its
commands do what they should against a real server with its user, password and database.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from everstep.engine.engine import GRACE_SECONDS_DEFAULT
from tests.cli.support import SECONDS_MAX, command, environment, everstep
from tests.postgres_server import Server, missing

yaml: Any = pytest.importorskip("yaml", reason="needs pyyaml: pip install --group test")
pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "postgres" / "compose.yaml"
TEXT = FILE.read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
DATABASE: dict[str, Any] = SERVICES["postgres"]
WORKER: dict[str, Any] = SERVICES["worker"]
GIVEN: dict[str, str] = DATABASE["environment"]
URL: str = WORKER["environment"]["EVERSTEP_URL"]


def worker_command() -> list[str]:
    """What the container is, once its packages are there."""
    shell = shlex.split(WORKER["command"])
    assert ["sh", "-c"] == shell[:2]
    _, _, last = shell[2].rpartition("&& exec ")
    return shlex.split(last)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a server that is set up as the image does it."""
    if missing():
        pytest.skip(f"needs {missing()}: pip install --group test")
    server = Server()
    try:
        server.start()
        for statement in (
            f"CREATE ROLE {GIVEN['POSTGRES_USER']} SUPERUSER LOGIN PASSWORD '{GIVEN['POSTGRES_PASSWORD']}'",
            f"CREATE DATABASE {GIVEN['POSTGRES_DB']} OWNER {GIVEN['POSTGRES_USER']}",
        ):
            server.psql(statement)
        yield re.sub(r"@[^/]+/", f"@127.0.0.1:{server.port}/", URL)
    finally:
        server.remove()


def test_the_two_services_fit_each_other() -> None:
    """User, password, database and host of the URL are those of the server; the worker waits for it, and may drain."""
    parts = urlsplit(URL)

    assert (GIVEN["POSTGRES_USER"], GIVEN["POSTGRES_PASSWORD"]) == (parts.username, parts.password)
    assert ("postgres", f"/{GIVEN['POSTGRES_DB']}") == (parts.hostname, parts.path)
    assert {"postgres": {"condition": "service_healthy"}} == WORKER["depends_on"]
    assert float(WORKER["stop_grace_period"].removesuffix("s")) > 2 * GRACE_SECONDS_DEFAULT
    assert WORKER["deploy"]["replicas"] > 1
    assert ["127.0.0.1:5432:5432"] == DATABASE["ports"], "reachable from this machine only"
    told = urlsplit(str(re.findall(r"EVERSTEP_URL=(\S+)", TEXT)[0]))
    assert (parts.username, parts.password, 5432, parts.path) == (told.username, told.password, told.port, told.path)


def test_the_images_are_new_enough() -> None:
    """For the store, and for the package."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]

    assert 13 <= int(DATABASE["image"].removeprefix("postgres:"))
    assert DATABASE["volumes"] == ["data:/var/lib/postgresql"], "where images from 18 on keep their data"
    minor = int(re.findall(r"python:3\.(\d+)", WORKER["image"])[0])
    assert minor >= int(wanted.removeprefix(">=3."))
    assert "'everstep[postgres]'" in WORKER["command"]


def test_the_worker_of_the_file_does_its_work(url: str, tmp_path: Path) -> None:
    """The very command, and the commands that the file's comment shows; then it drains as Docker would have it do."""
    (mounted,) = WORKER["volumes"]
    source, target, mode = mounted.split(":")
    assert (WORKER["working_dir"], "ro") == (str(Path(target).parent), mode)
    shutil.copy(FILE.parent / source, tmp_path / Path(target).name)
    program, *arguments = worker_command()
    assert "everstep" == program
    worker = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment({"EVERSTEP_URL": url}), stderr=subprocess.PIPE, text=True
    )
    try:
        assert worker.stderr is not None
        assert "drives checkout" in worker.stderr.readline()
        shown = [shlex.split(line)[1:] for line in re.findall(r"^#     (everstep .*)$", TEXT, flags=re.MULTILINE)]
        assert ["workers", "start"] == [each[0] for each in shown]
        listed, started = (everstep(*each, cwd=tmp_path, env={"EVERSTEP_URL": url}) for each in shown)
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=SECONDS_MAX)
    finally:
        worker.kill()
        worker.wait()

    assert (0, 1) == (listed.returncode, len(listed.stdout.splitlines())), listed.stderr
    assert (0, '"order-42: receipt for 1999 cents"') == (started.returncode, started.stdout.strip()), started.stderr
    assert 0 == worker.returncode


def test_the_health_check_is_one(url: str) -> None:
    """PostgreSQL's own program, with the user and the database of the file."""
    program, *arguments = shlex.split(DATABASE["healthcheck"]["test"])
    parts = urlsplit(url)
    there = Server.program(program)
    assert there.exists()
    done = subprocess.run(
        [str(there), *arguments, "--host", "127.0.0.1", "--port", str(parts.port)], capture_output=True, text=True, check=False
    )

    assert (0, True) == (done.returncode, "accepting connections" in done.stdout), done.stderr
    assert arguments == ["--username", parts.username, "--dbname", parts.path[1:]]
