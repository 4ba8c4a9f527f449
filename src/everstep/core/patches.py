"""
Which changes of its code a run has taken: the answers of ``es.patched``. Pure.

The first question decides for the whole run, so that two places of one change never disagree. Asked live, the answer is yes,
and a marker says so in the journal. Asked while the past is replayed, it is whatever the journal says: every marker in it is
known before the code runs, so a call that has moved to an earlier line gets the same answer.

A marker names no place and has no effect of its own. So it takes no ordinal from the commands around it, and one that no code
asks for any more is no difference: code from which the call was removed goes on with the run.
"""

from __future__ import annotations

from collections.abc import Iterable

from everstep.events import PatchApplied
from everstep.journal import Entry, decode_verified

_MARK = b'"PatchApplied"'


class Patches:
    """See the module."""

    def __init__(self) -> None:
        self._answers: dict[str, bool] = {}

    def learn(self, ids: Iterable[str]) -> None:
        """The journal has these markers."""
        self._answers.update(dict.fromkeys(ids, True))

    def ask(self, patch_id: str, *, is_replaying: bool) -> bool:
        """Whether the run takes the change."""
        return self._answers.setdefault(patch_id, not is_replaying)

    def is_decided(self, patch_id: str) -> bool:
        """Whether the code has asked before, or the journal says."""
        return patch_id in self._answers


def patches_in(entries: Iterable[Entry], run_id: str) -> list[str]:
    """The markers in verified entries. Only entries that hold one, or look like it, are decoded."""
    marked = [entry for entry in entries if _MARK in entry.events]
    return [event.id for entry in marked for event in decode_verified(entry, run_id) if isinstance(event, PatchApplied)]
