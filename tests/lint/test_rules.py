"""
Snippets, and what is found in them. ``# <- E01`` at the end of a line says what is to be found there, and nowhere else.

The snippets that hold no arrow are as important: a lint that cries wolf is switched off.
"""

import re
from textwrap import dedent

import pytest

from everstep.lint import RULES, Level, check_source

HEAD = """\
import asyncio, collections, contextlib, datetime, glob, hashlib, logging, os, random, secrets, socket, subprocess
import sys, threading, time, uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date
from pathlib import Path
import requests, httpx
import everstep as es
@es.step
async def charge(order: str) -> str: return order
@es.step
def is_valid(order: str) -> bool: return True
@es.workflow
async def child(order: str) -> str: return await charge(order)
"""


def found(source: str, *, hints: bool = True) -> list[tuple[int, str]]:
    return [(finding.line, finding.rule.id) for finding in check_source(source, hints=hints).findings]


def expected(source: str) -> list[tuple[int, str]]:
    return sorted(
        (number, rule)
        for number, line in enumerate(source.splitlines(), start=1)
        if (arrow := re.search(r"# <- ([EWH0-9 ]+)$", line))
        for rule in arrow[1].split()
    )


def in_workflow(body: str) -> str:
    lines = "".join(f"    {line}\n" for line in dedent(body).strip().splitlines())
    return f"{HEAD}@es.workflow\nasync def flow(order: str) -> None:\n{lines}"


BODIES = {
    "clocks": """
        a = time.time()  # <- E01
        b = time.monotonic_ns()  # <- E01
        c = datetime.datetime.now(UTC)  # <- E01
        d = datetime.datetime.utcnow()  # <- E01
        e = date.today()  # <- E01
        f = time.localtime()  # <- E01
        g = sorted([1], key=lambda _: time.perf_counter())  # <- E01
        clock = time.time  # <- E01
        """,
    "clocks that do not tick": """
        a = es.now()
        b = datetime.datetime(2030, 1, 1, tzinfo=UTC) + datetime.timedelta(days=1)
        c = time.localtime(0)
        d = datetime.datetime.fromtimestamp(0, UTC)
        e = asyncio.get_running_loop().time()
        now = es.now().time()
        """,
    "randomness": """
        a = random.random()  # <- E02
        b = random.choice([1, 2])  # <- E02
        c = uuid.uuid4()  # <- E02
        d = uuid.uuid1().hex  # <- E02
        e = secrets.token_hex()  # <- E02
        f = os.urandom(8)  # <- E02
        g = random.Random()  # <- E02
        """,
    "randomness that repeats": """
        a = es.random()
        b = es.uuid4()
        seeded = random.Random(es.random())
        c = seeded.choice([1, 2])
        d = uuid.uuid5(uuid.NAMESPACE_DNS, order)
        e = uuid.UUID(order)
        f = secrets.compare_digest("a", order)
        """,
    "threads and processes": """
        threading.Thread(target=print).start()  # <- E03 W19
        with ThreadPoolExecutor() as pool:  # <- E03
            pool.submit(len, "")
        await asyncio.to_thread(len, "")  # <- E03
        await asyncio.get_running_loop().run_in_executor(None, len, "")  # <- E03
        subprocess.run(["ls"])  # <- E03
        await asyncio.create_subprocess_exec("ls")  # <- E03
        os.system("ls")  # <- E03
        """,
    "network": """
        requests.get("https://x")  # <- E04
        async with httpx.AsyncClient() as client:  # <- E04
            await client.get("https://x")
        socket.create_connection(("x", 1))  # <- E04
        try:
            await charge(order)
        except httpx.HTTPError:
            pass
        timeout = httpx.Timeout(5)
        """,
    "files": """
        with open("x") as file:  # <- E05
            text = file.read()
        Path("x").read_text()  # <- E05
        (Path("x") / "y").write_text("")  # <- E05
        path = Path("x")
        path.parent.mkdir()  # <- E05
        os.remove("x")  # <- E05
        os.path.exists("x")  # <- E05
        names = path.parent / os.path.join("a", "b")
        name = path.with_suffix(".txt").name
        """,
    "surroundings": """
        a = os.environ["HOME"]  # <- E06
        b = os.environ.get("HOME")  # <- E06
        c = os.getenv("HOME")  # <- E06
        d = os.getpid()  # <- E06
        e = sys.argv[1:]  # <- E06
        f = os.sep + os.linesep + sys.version
        """,
    "sleeping": """
        time.sleep(1)  # <- E07
        await asyncio.sleep(1)
        await es.sleep(1)
        """,
    "sets": """
        for x in {1, 2}: pass  # <- E08
        for x in set(order): pass  # <- E08
        for x in {c for c in order}: pass  # <- E08
        names = frozenset(order)
        a = [x for x in names]  # <- E08
        b = list(names | {"x"})  # <- E08
        c = ",".join(names)  # <- E08
        d = {x: 1 for x in names}  # <- E08
        first, *rest = names  # <- E08
        e = next(iter(names))  # <- E08
        await asyncio.gather(*names)  # <- E08
        typed: set[str] = es.current()
        for x in typed: pass  # <- E08
        f = set(order)
        g = f.pop()  # <- E08
        for number, x in enumerate(f): pass  # <- E08
        """,
    "sets in order": """
        names = set(order)
        for x in sorted(names): pass
        a = sorted(x for x in names)
        b = {x for x in names}
        c = "x" in names and len(names) and max(names) and any(x for x in names)
        d = sorted(list(names))
        names2 = set(order)
        names2 = sorted(names2)
        for x in names2: pass
        for x in {1: 2}: pass
        for x in dict.fromkeys(order): pass
        """,
    "sets of tasks": """
        tasks = {asyncio.create_task(charge(order)) for _ in range(3)}
        for task in tasks: task.cancel()
        done, pending = await asyncio.wait(tasks)
        for task in done: task.result()
        await asyncio.gather(*{charge(c) for c in order}, return_exceptions=True)
        more: set[asyncio.Task[str]] = set()
        for task in more: task.cancel()
        """,
    "directories": """
        for name in os.listdir("."): pass  # <- E09
        for name in glob.glob("*"): pass  # <- E09
        for path in Path(".").iterdir(): pass  # <- E09
        for path in Path(".").rglob("*"): pass  # <- E09
        """,
    "identities": """
        a = id(order)  # <- E10
        b = hash(order)  # <- E10
        c = hash(7)
        d = hashlib.sha256(order.encode()).hexdigest()
        """,
    "event loops": """
        asyncio.run(child(order))  # <- E12
        asyncio.get_event_loop().run_until_complete(child(order))  # <- E12
        es.run(child(order), id="x")  # <- E12
        loop = asyncio.get_running_loop()
        """,
    "what is never awaited": """
        charge(order)  # <- E13
        child(order)  # <- E13
        es.sleep(5)  # <- E13
        asyncio.sleep(5)  # <- E13
        await charge(order)
        call = charge(order)
        await call
        asyncio.create_task(charge(order))
        async with asyncio.TaskGroup() as group:
            group.create_task(charge(order))
        """,
    "calls as values": """
        if is_valid(order): pass  # <- E14
        while not is_valid(order): pass  # <- E14
        a = 1 if is_valid(order) else 2  # <- E14
        b = order and is_valid(order)
        if order and is_valid(order): pass  # <- E14
        c = is_valid(order) == True  # <- E14
        d = f"{charge(order)}"  # <- E14
        e = [x for x in order if is_valid(x)]  # <- E14
        for x in charge(order): pass  # <- E14
        assert is_valid(order)  # <- E14
        if await is_valid(order) and not await is_valid(order): pass
        f = [x for x in order if await is_valid(x)]
        g = await (charge(order) if order else child(order))
        if child is not None: pass
        """,
    "failures that are hidden": """
        try:
            await charge(order)
        except Exception:  # <- W15
            pass
        try:
            await charge(order)
        except:  # <- W15
            pass
        try:
            x = await asyncio.gather(charge(order), return_exceptions=True)
        except (ValueError, Exception) as error:  # <- W15
            es.log.info(error)
        try:
            async with asyncio.TaskGroup() as group:
                await charge(order)
        except* Exception:  # <- W15
            pass
        with contextlib.suppress(Exception):  # <- W15
            await charge(order)
        """,
    "failures that are not": """
        try:
            await charge(order)
        except Exception:
            await charge("undo")
            raise
        try:
            await charge(order)
        except es.StepFailed:
            pass
        except Exception:
            pass
        try:
            await charge(order)
        except Exception as error:
            if isinstance(error, es.StepFailed): pass
        try:
            await charge(order)
        except (es.StepFailed, TimeoutError):
            pass
        try:
            int(order)
        except Exception:
            pass
        """,
    "gather": """
        await asyncio.gather(charge(order), child(order))  # <- H16
        await asyncio.gather(*(charge(c) for c in order))  # <- H16
        await asyncio.gather(*map(charge, order))  # <- H16
        await asyncio.gather(charge(order), child(order), return_exceptions=True)
        await asyncio.gather(charge(order), asyncio.sleep(1))
        """,
    "printing": """
        print(order)  # <- W19
        logging.info("x")  # <- W19
        logging.getLogger("x").warning("y")  # <- W19
        es.log.info("x")
        level = logging.INFO
        """,
    "names that only look alike": """
        open, id, time, random, print, hash = (es.current(),) * 6
        open("x")
        id(order)
        time.time()
        random.random()
        print("x")
        hash("x")
        """,
    "annotations": """
        a: random.Random
        b: "time.time" = 1
        def inner(x: requests.Response) -> socket.socket: ...
        """,
    "nested functions": """
        count = 0
        def inner() -> None:
            nonlocal count
            count += 1
            time.time()  # <- E01
        inner()
        later = lambda: random.random()  # <- E02
        """,
    "a step's body called directly": """
        await charge.function(order)
        """,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_a_workflow_is_told_what_differs_on_replay(body: str) -> None:
    """Each line that has an arrow, by that rule; no other line."""
    source = in_workflow(body)

    assert expected(source) == found(source)


MODULES = {
    "a workflow that is a def": """
        @es.workflow  # the finding is on the def
        def flow() -> None: ...  # <- E17
        """,
    "the sync surface": """
        from everstep import sync
        @sync.workflow
        def flow() -> None: ...
        """,
    "options, and other names for everstep": """
        from everstep import workflow as durable, step as unit
        import everstep.definitions as definitions
        @durable(name="x")
        async def one() -> None: time.time()  # <- E01
        @definitions.workflow
        async def two() -> None: time.time()  # <- E01
        @unit(retry=3)
        def three() -> None: time.time()
        """,
    "everything from everstep": """
        from everstep import *
        @workflow
        async def one() -> None: time.time()  # <- E01
        """,
    "a decorator of somebody else": """
        import prefect
        @prefect.workflow
        async def one() -> None: time.time()
        """,
    "made by a call": """
        async def plain() -> None: time.time()  # <- E01
        durable = es.workflow(plain)
        """,
    "in a class, and in a function": """
        class Orders:
            @staticmethod
            @es.workflow
            async def flow() -> None: time.time()  # <- E01
        def make() -> object:
            @es.workflow
            async def flow() -> None: time.time()  # <- E01
            return flow
        """,
    "mutable defaults": """
        @es.workflow
        async def flow(a: list[int] = [], *, b: set[int] = set(), c: int = 1) -> None: ...  # <- E18 E18
        """,
    "helpers, however deep": """
        def unused() -> float: return time.time()
        def deep() -> float: return time.time()  # <- E01
        def helper() -> float: return deep()
        def key(x: str) -> float: return random.random()  # <- E02
        class Plan:
            def __init__(self) -> None: self.at = time.time()  # <- E01
            def next(self) -> float: return self.later()
            def later(self) -> float: return random.random()  # <- E02
        @es.workflow
        async def flow() -> None:
            helper()
            sorted("abc", key=key)
            Plan().next()
        """,
    "helpers of steps only": """
        def helper() -> float: return time.time()
        @es.step
        def one() -> float: return helper()
        @es.workflow
        async def flow() -> None: await one()
        """,
    "a step's body as a helper": """
        @es.step
        def one() -> float: return time.time()  # <- E01
        @es.workflow
        async def flow() -> None: one.function()
        """,
    "steps in steps": """
        @es.step
        async def one() -> str: return await charge("x")  # <- E20
        @es.step
        def two() -> str:
            charge("x")  # <- E20
            return charge.function("x")
        @es.step
        async def three(engine: es.Client) -> None:
            await asyncio.gather(charge("x"), child("x"))  # <- E20 E20
            await engine.start(child("x"), id="x")
            await es.sleep(1)
            await asyncio.sleep(es.now().second)
            time.time(), random.random(), open("x"), print("x")
        """,
    "state that outlives the run": """
        CACHE: dict[str, int] = {}
        seen = []
        count = 0
        approval = es.signal("approval", str)
        class Config: level = 1
        @es.workflow
        async def flow() -> None:
            global count  # <- E11
            count += 1
            CACHE["x"] = 1  # <- E11
            seen.append(1)  # <- E11
            Config.level = 2  # <- E11
            del CACHE["x"]  # <- E11
            mine: dict[str, int] = {}
            mine["x"] = CACHE["x"]
            mine.update(CACHE)
            approval.update("x")
        def make() -> object:
            outer = 0
            @es.workflow
            async def inner() -> None:
                nonlocal outer  # <- E11
                outer += 1
            return inner
        """,
    "objects of the module": """
        session = requests.Session()
        logger = logging.getLogger(__name__)
        shared = random.Random(7)
        folder = Path("x")
        @es.workflow
        async def flow(client: httpx.Client, path: Path, rng: random.Random) -> None:
            session.get("x")  # <- E04
            logger.info("x")  # <- W19
            shared.random()  # <- E02
            (folder / "y").read_bytes()  # <- E05
            client.get("x")  # <- E04
            path.unlink()  # <- E05
            rng.random()
        """,
    "a set as an argument": """
        @es.workflow
        async def flow(names: set[str], more: frozenset[str] | None, ids: list[str]) -> None:
            for x in names: pass  # <- E08
            for x in more: pass  # <- E08
            for x in ids: pass
        """,
    "silenced": """
        @es.workflow
        async def flow() -> None:
            time.time()  # everstep: ignore[E01] only shown, never compared
            a = (time.time(),  # <- E01
                 print("x"))  # everstep: ignore[W19, E06] once more does not matter
            time.time()  # everstep: ignore[E02] the wrong id  # <- E01
            text = "# everstep: ignore"
        """,
    "a call that is not awaited, of a plain coroutine": """
        async def pause() -> None: await es.sleep(1)
        @es.workflow
        async def flow() -> None:
            pause()  # <- E13
            await pause()
        """,
    "for checkers only": """
        from typing import TYPE_CHECKING
        @es.workflow
        async def flow() -> None:
            if TYPE_CHECKING: time.time()
        """,
    "no workflow at all": """
        def main() -> None: print(time.time(), random.random(), set(open("x")))
        """,
}


@pytest.mark.parametrize("text", MODULES.values(), ids=list(MODULES))
def test_a_module_is_read_as_it_is_meant(text: str) -> None:
    """Which functions are workflow code, and what their names mean."""
    source = HEAD + dedent(text)

    assert expected(source) == found(source)


@pytest.mark.parametrize(
    "comment", ["ignore[E01]", "ignore", "ignore[] why", "ignore[E99] why", "ignore because I say so", "ignore[E01] …"]
)
def test_an_ignore_without_a_rule_or_a_reason_does_not_count(comment: str) -> None:
    """Whoever reads it in a year must be able to tell whether it still holds."""
    source = in_workflow(f"time.time()  # everstep: {comment}")
    line = len(source.splitlines())

    assert [(line, "E01"), (line, "E21")] == found(source)


def test_hints_are_given_on_request_only() -> None:
    """They are advice; a check that always talks is not read."""
    source = in_workflow("await asyncio.gather(charge(order), child(order))")

    assert [] == found(source, hints=False)
    assert ["H16"] == [rule for _, rule in found(source)]


def test_one_workflow_can_be_asked_for() -> None:
    """With what it calls, and nothing else of the module."""
    source = HEAD + dedent("""
        def helper() -> None: time.time()
        class Orders:
            @staticmethod
            @es.workflow
            async def good() -> None: ...
        @es.workflow
        async def bad() -> None: helper()
        ENGINE = es.Engine(workflows=[bad])
        """)

    reports = {name: check_source(source, attribute=name) for name in ("Orders.good", "bad", "ENGINE", "nope", "Orders.nope")}

    assert {"Orders.good": 0, "bad": 1, "ENGINE": 1, "nope": 1, "Orders.nope": 1} == {
        name: len(report.findings) for name, report in reports.items()
    }
    assert ["nope", "Orders.nope"] == [name for name, report in reports.items() if not report.has_attribute]


def test_a_column_is_counted_in_characters() -> None:
    """Editors do so; the parser counts bytes."""
    [finding] = check_source(in_workflow('a = "é東", time.time()')).findings

    assert 4 + len('a = "é東", ') + 1 == finding.column


def test_every_rule_says_what_to_do_instead() -> None:
    """In a sentence, and in one line. Its level is the letter of its id."""
    assert all(rule.instead.endswith(".") and rule.instead[0].isupper() for rule in RULES.values())
    assert all(not rule.what.endswith(".") and "\n" not in rule.what + rule.instead for rule in RULES.values())
    assert {"E": Level.ERROR, "W": Level.WARNING, "H": Level.HINT} == {rule.id[0]: rule.level for rule in RULES.values()}


def test_every_rule_is_shown_here() -> None:
    """A rule without an example may never fire."""
    shown = {rule for text in (*BODIES.values(), *MODULES.values()) for _, rule in expected(text)}

    assert set(RULES) - {"E00", "E21"} == shown
