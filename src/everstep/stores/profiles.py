"""What workers say of themselves, as stores keep it; and what they are told when they renew."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from everstep.records import NO_PROFILE, Pulse, WorkerProfile

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(WorkerProfile)


def encode(profile: WorkerProfile) -> str:
    """As JSON."""
    return _encoder.encode(profile).decode()


def decode(text: str) -> WorkerProfile:
    """What was encoded, by another version of everstep perhaps: what cannot be read is left out, for it is for people only."""
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError:
        return NO_PROFILE


def pulse(renewed: Sequence[Sequence[object]]) -> Pulse:
    """What a worker is told, by the rows that were renewed: none, or one that says whether it is to drain."""
    if not renewed:
        return Pulse.GONE
    return Pulse.DRAINING if renewed[0][0] else Pulse.ALIVE
