"""
Names that come from outside: which are allowed, and how new ones are made.

A run id appears in SQL, URLs, file names, logs and terminals, so only characters that are inert in all of them are allowed;
everything else is refused before anything is stored. A derived id (a child's) contains ``/``, which a caller's id cannot, so
the two never meet.
"""

from __future__ import annotations

import os
import re
import time

from everstep.errors import UsageError

RUN_ID_CHARS_MAX = 200
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@=+-]*")
_VERSION = re.compile(r"[A-Za-z0-9_.:+-]{1,100}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:<>-]{0,199}")


def check_run_id(run_id: object) -> str:
    """Return the id if it is allowed.

    Raises:
        UsageError: It is not a string of 1 to 200 ASCII letters, digits and ``. _ : @ = + -``, beginning with a letter or
        digit.
    """
    if isinstance(run_id, str) and len(run_id) <= RUN_ID_CHARS_MAX and _RUN_ID.fullmatch(run_id):
        return run_id
    shown = ascii(run_id)[:80]
    raise UsageError(
        f"run id {shown} is not allowed. Nothing was stored. An id has 1 to {RUN_ID_CHARS_MAX} ASCII letters, digits and "
        ". _ : @ = + - and begins with a letter or a digit."
    )


def check_name(name: object, what: str) -> str:
    """Return the name of a step, workflow or queue if it is allowed, else raise UsageError."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise UsageError(f"{what} name {ascii(name)[:80]} is not allowed. Use letters, digits and _ . : - (at most 200).")


def check_version(version: object, workflow: str) -> str:
    """Return the version of a workflow if it is allowed, else raise UsageError."""
    if isinstance(version, str) and _VERSION.fullmatch(version):
        return version
    raise UsageError(
        f"workflow {workflow}: version {ascii(version)[:80]} is not allowed. Give 1 to 100 letters, digits and _ . : + -."
    )


def child_run_id(parent_run_id: str, key: str) -> str:
    """The id of the child that a command of the parent starts: the same on every replay."""
    return f"{parent_run_id}/{key}"


def request_dedupe(name: str, request_id: str) -> str:
    """The dedupe key of a request in its run's inbox."""
    return f"request:{name}:{request_id}"


def is_derived(run_id: str) -> bool:
    """Whether it is the id of a child that nobody gave an id: no caller's id contains a slash."""
    return "/" in run_id


def new_run_id() -> str:
    """A fresh id: 48 bits of milliseconds, then 80 random bits, so ids sort by their time (the layout of UUIDv7, RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{milliseconds:012x}{os.urandom(10).hex()}"
