"""Signals and requests from the command line, to runs that a worker drives in a process of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import everstep
from tests.cli.test_doing import a_worker

ORDER = '{"id": "7", "cents": 5}'


@pytest.fixture
def office(place: Path) -> Iterator[Path]:
    """A run that waits for somebody to talk to it, with a worker."""
    everstep("start", "app:office", "--id", "o", cwd=place)
    with a_worker(place, "app:office"):
        yield place


def test_a_run_answers_refuses_and_takes_a_signal(office: Path) -> None:
    """The whole conversation: exit codes tell how it went, stdout holds nothing but answers."""
    answered = everstep("ask", "o", "quote", ORDER, "--key", "q1", "--timeout", "30", cwd=office)
    again = everstep("ask", "o", "quote", "null", "--key", "q1", "--json", cwd=office)
    refused = everstep("ask", "o", "quote", '{"id": "7", "cents": 500}', cwd=office)
    failed = everstep("ask", "o", "quote", '{"id": "7", "cents": -1}', "--code", "app:app", cwd=office)
    shown = everstep("show", "o", cwd=office)
    sent = everstep("signal", "o", "approval", ORDER, "--code", "app", "--key", "s", "--json", cwd=office)
    outcome = everstep("watch", "o", cwd=office)

    assert (0, "10\n") == (answered.returncode, answered.stdout)
    assert (0, {"run_id": "o", "request": "quote", "answer": 10}) == (again.returncode, json.loads(again.stdout))
    assert (5, "") == (refused.returncode, refused.stdout)
    assert "refused request quote" in refused.stderr
    assert "\x1b" not in refused.stderr
    assert (1, "") == (failed.returncode, failed.stdout)
    assert "LookupError: nothing so cheap" in failed.stderr
    assert "Waiting for the signal approval. It answers requests: quote." in shown.stdout
    assert "quote (request q1)" in shown.stdout
    assert (0, {"run_id": "o", "signal": "approval", "key": "s"}) == (sent.returncode, json.loads(sent.stdout))
    assert 0 == outcome.returncode
    late = everstep("signal", "o", "approval", ORDER, cwd=office)
    assert (5, "") == (late.returncode, late.stdout)
    assert "run o is succeeded, so signal approval was not sent" in late.stderr
    assert 0 == everstep("signal", "o", "approval", ORDER, "--key", "s", cwd=office).returncode
    assert 5 == everstep("ask", "o", "quote", ORDER, cwd=office).returncode


def test_an_answer_that_does_not_come_in_time_is_exit_code_6(place: Path) -> None:
    """Nobody drives the run. The request stays."""
    everstep("start", "app:office", "--id", "o", cwd=place)

    done = everstep("ask", "o", "quote", ORDER, "--timeout", "0.1", "--key", "k", cwd=place)

    assert (6, "") == (done.returncode, done.stdout)
    assert "ask again with key='k'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["signal", "o", "approval", "{"], "the value is no JSON"),
        (["signal", "o", "approval", '{"a": 1, "a": 2}'], "is given twice"),
        (["signal", "o", "approval", '"\\ud800"'], "cannot be read"),
        (
            ["signal", "o", "approval", '{"id": 7}', "--code", "app"],
            "got int. Nothing was sent.\n  Correct the value.",
        ),
        (["signal", "o", "nothing", "1", "--code", "app"], "app has no signal nothing. Nothing was sent.\n  It has: approval."),
        (["ask", "o", "approval", "1", "--code", "app"], "app has no request approval. Nothing was sent.\n  It has: quote."),
        (["ask", "o", "a b", "1"], "request name 'a b' is not allowed"),
        (["signal", "o", "approval", "1", "--code", "nowhere"], "there is no module"),
    ],
)
def test_a_value_that_cannot_be_sent_is_refused_before_anything_is_sent(place: Path, arguments: list[str], said: str) -> None:
    everstep("start", "app:office", "--id", "o", cwd=place)

    done = everstep(*arguments, cwd=place)

    assert (2, "") == (done.returncode, done.stdout)
    assert said in done.stderr


@pytest.mark.parametrize("verb", [["signal", "nobody", "approval", "1"], ["ask", "nobody", "quote", "1"]])
def test_a_run_that_is_not_there_is_exit_code_4(place: Path, verb: list[str]) -> None:
    done = everstep(*verb, cwd=place)

    assert (4, "") == (done.returncode, done.stdout)
