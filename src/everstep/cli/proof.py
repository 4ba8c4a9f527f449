"""
What ``everstep demo`` proves, from what is on disk after both processes are gone: the journal and the effects. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from everstep.cli.story import How, Story
from everstep.records import Status


class Evidence(Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        status: Of the run, from the store.
        story: From the journal, whose chain was verified.
        effects: Lines that the program printed, both processes together.
        killed_pid: The process that was killed.
        killed_is_gone: It ended by the signal, and does not exist any more.
        resumed_pid: The second process.
        exit_code: Of the second process.
        committed_before: Steps in the journal when the kill was sent.
    """

    status: Status
    story: Story
    effects: Sequence[str]
    killed_pid: int
    killed_is_gone: bool
    resumed_pid: int
    exit_code: int
    committed_before: Sequence[str]


def repeated(evidence: Evidence) -> int:
    """How many side effects happened more than once."""
    return sum(number - 1 for number in Counter(evidence.effects).values())


def failures(evidence: Evidence, *, steps: Sequence[str], order: str, killed_after: str) -> list[str]:
    """Everything that contradicts the claim; empty if it is proved."""
    story = evidence.story
    done = [operation.name for operation in story.work() if operation.how is How.DONE]
    wanted = [f"{step} {order}" for step in steps]
    expected_before = list(steps[: steps.index(killed_after) + 1])
    workers = [takeover.worker for takeover in story.takeovers]
    checks = {
        f"the run ended {evidence.status}": evidence.status is Status.SUCCEEDED,
        f"process {evidence.killed_pid} was not killed": evidence.killed_is_gone,
        f"process {evidence.resumed_pid} ended with exit code {evidence.exit_code}": evidence.exit_code == 0,
        f"steps in the journal: {done}": done == list(steps),
        f"committed before the kill: {list(evidence.committed_before)}": list(evidence.committed_before) == expected_before,
        f"side effects: {list(evidence.effects)}": list(evidence.effects) == wanted,
        f"the journal names these workers: {workers}": len(set(workers)) == 2 and len(story.recoveries()) == 1,
        "a step was recorded by a process that had not begun": _resumed_in_time(story, killed_after),
    }
    return [what for what, holds in checks.items() if not holds]


def _resumed_in_time(story: Story, killed_after: str) -> bool:
    """What was done before the kill was recorded before the takeover, and the rest after it."""
    resumed_at = next((takeover.at for takeover in story.recoveries()), None)
    if resumed_at is None:
        return False
    names = [operation.name for operation in story.work()]
    cut = names.index(killed_after) + 1 if killed_after in names else 0
    before, after = story.work()[:cut], story.work()[cut:]
    in_time = all(operation.ended_at is not None and operation.ended_at <= resumed_at for operation in before)
    return in_time and all(operation.ended_at is not None and operation.ended_at >= resumed_at for operation in after)
