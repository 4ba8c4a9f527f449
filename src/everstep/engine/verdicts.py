"""
Why a run is paused: what its journal says, whom it refuses, and what a log may say of it. Pure.

Code that cannot drive a run refuses it by its fingerprint, so that other code may go on with it and nothing tries for ever.
What is stored and cannot be trusted concerns everybody, so it is refused by none in particular and waits for a person.
"""

from __future__ import annotations

import msgspec

from everstep.errors import CorruptJournal, EverstepError, PayloadKeyMissing
from everstep.events import PauseRequested, RunPaused

Unreadable = msgspec.MsgspecError | CorruptJournal | PayloadKeyMissing
"""What reading something of a run's can come to."""


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The run is paused.

    Attributes:
        event: What the journal says.
        is_public: It says nothing of what users wrote, so it may be stored in clear and logged.
        is_expected: Somebody asked for it.
    """

    event: RunPaused
    is_public: bool = False
    is_expected: bool = False

    def said(self, run_id: str, *, is_discreet: bool) -> str:
        """What a log says."""
        return self.event.reason if self.is_public or not is_discreet else f"its journal says why: everstep show {run_id}"


def of_history(error: CorruptJournal | PayloadKeyMissing, fingerprint: str) -> Verdict:
    """What is stored of the run cannot be trusted, or (another worker may know more) not be read."""
    if isinstance(error, PayloadKeyMissing):
        return of_code(error, fingerprint)
    return Verdict(RunPaused(f"corrupt: {error}"), is_public=True)


def of_message(seq: int, error: Unreadable, fingerprint: str) -> Verdict:
    """A message of the inbox cannot be read."""
    if isinstance(error, PayloadKeyMissing):
        return of_code(error, fingerprint)
    return Verdict(RunPaused(f"corrupt: message {seq} of its inbox cannot be read: {error}"), is_public=True)


def of_code(error: Exception, fingerprint: str) -> Verdict:
    """This code, with the keys that it has, cannot drive the run; ``fingerprint`` is that of both."""
    reason = str(error) if isinstance(error, EverstepError) else f"{type(error).__name__}: {error}"
    return Verdict(RunPaused(reason, fingerprint), is_public=isinstance(error, PayloadKeyMissing))


def of_engine(error: Exception) -> Verdict:
    """The engine has a fault, or the code fails where nobody expects it."""
    return Verdict(RunPaused(f"the engine failed while driving it: {type(error).__name__}: {error}"))


def of_person(asked: PauseRequested) -> Verdict:
    """Somebody asked for it."""
    return Verdict(RunPaused(asked.reason, "", asked.actor), is_expected=True)
