"""
A disk whose fsync takes ten milliseconds, made of a fast one.

A shim in C is loaded before the C library and sleeps in fsync and fdatasync. Doing the same in a Python VFS would need
the interpreter's lock to go to sleep and to wake up, which a real disk does not; and it would miss child processes.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

FSYNC_MS = 10

SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static void wait_for_platter(void) { struct timespec t = {0, %d * 1000000L}; nanosleep(&t, 0); }
int fsync(int fd) { int (*real)(int) = dlsym(RTLD_NEXT, "fsync"); wait_for_platter(); return real(fd); }
int fdatasync(int fd) { int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync"); wait_for_platter(); return real(fd); }
"""


class NoCompiler(Exception):
    """The shim has to be compiled, and there is no C compiler here."""


def environment(directory: Path) -> dict[str, str]:
    """Variables that slow down the disk for one process and its children (Linux)."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("the slow disk is simulated by a small C shim: install a C compiler to have this row")
    source, shim = directory / "slowdisk.c", directory / "slowdisk.so"
    source.write_text(SOURCE % FSYNC_MS)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(shim)}
