"""
Which changes of its code a run has taken: the answers of ``es.patched``. Pure.

Code that begins again, after a retry or in a fork, keeps the answers of what it begins with. As long as it finds done what was
done by then, a change that it has no marker of is newer than that, and the answer is no: a yes would shift the keys of what
follows, and it would all be done a second time.

The first question decides for the whole run, so that two places of one change never disagree. Asked live, the answer is yes,
and a marker says so in the journal. Asked while the past is replayed, it is whatever the journal says: every marker in it is
known before the code runs, so a call that has moved to an earlier line gets the same answer.

A marker names no place and has no effect of its own. So it takes no ordinal from the commands around it, and one that no code
asks for any more is no difference: code from which the call was removed goes on with the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from everstep.events import Event, PatchApplied, RunContinued


class Patches:
    """See the module."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: dict[str, bool] = {}

    def learn(self, ids: Iterable[str]) -> None:
        """The journal has these markers."""
        self._answers.update(dict.fromkeys(ids, True))

    def ask(self, patch_id: str, *, is_past: bool) -> bool:
        """Whether the run takes the change; ``is_past``: what happens here has happened before."""
        return self._answers.setdefault(patch_id, not is_past)

    def is_decided(self, patch_id: str) -> bool:
        """Whether the code has asked before, or the journal says."""
        return patch_id in self._answers


def patches_by_segment(events: Iterable[Sequence[Event]]) -> list[set[str]]:
    """The markers in a verified journal, for each of its segments: none knows of the changes that another took."""
    segments: list[set[str]] = [set()]
    for entry in events:
        for event in entry:
            match event:
                case PatchApplied(id=patch_id):
                    segments[-1].add(patch_id)
                case RunContinued():
                    segments.append(set())
                case _:
                    pass
    return segments
