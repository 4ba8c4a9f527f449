"""
The pytest plugin, in a pytest of its own.
"""

from __future__ import annotations

import pytest

pytest_plugins = "pytester"

HEAD = """
import asyncio
import time
import pytest
import everstep as es
from everstep.testing import Env

@es.step
async def double(n: int) -> int:
    return 2 * n

@es.workflow
async def work(n: int) -> int:
    await asyncio.sleep(0.01)
    return await double(n)

@es.workflow
async def impure() -> float:
    return time.time()
"""


INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"


def run(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    pytester.makeini(INI)
    pytester.makepyfile(HEAD + text)
    return pytester.runpytest("--strict-markers", *options)


def test_a_store_for_each_that_the_marker_names(pytester: pytest.Pytester) -> None:
    """By default a file of SQLite, and an empty one each time."""
    result = run(
        pytester,
        """
async def start(url):
    async with es.Engine(url) as engine:
        assert [] == await engine.list()
        assert 4 == await (await engine.start(work(2), id="one"))

@pytest.mark.everstep_stores("memory", "sqlite")
async def test_both(everstep_store):
    await start(everstep_store)

async def test_default(everstep_store):
    assert everstep_store.startswith("sqlite:///")
    await start(everstep_store)

@pytest.mark.everstep_stores("floppy")
def test_unknown(everstep_store):
    pass
""",
    )

    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*there is no store 'floppy' for tests; everstep_stores takes: memory, sqlite*"])


def test_the_env_is_made_as_the_marker_says(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.everstep_env(workflows=[work], strict=False)
async def test_lenient(everstep_env):
    assert 0 < await everstep_env.run(impure())

async def test_strict(everstep_env):
    await everstep_env.run(impure())
""",
    )

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*time.time() in workflow code reads the clock*"])


def test_what_the_test_does_not_hear_the_fixture_tells(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_deaf(everstep_env):
    with pytest.raises(es.RunFailed):
        await (await everstep_env.start(impure()))
""",
    )

    result.assert_outcomes(passed=1, errors=1)


def test_the_markers_are_told(pytester: pytest.Pytester) -> None:
    result = run(pytester, "", "--markers")

    result.stdout.fnmatch_lines(["*everstep_env(*", "*everstep_stores(*"])
