"""
Start, ask and tell: everything a program does with runs that it does not drive.

A client reads and writes the store; it runs no workflow code and owns no run. What it starts is driven by whatever engine has
that workflow, in this process or another. An engine offers the same surface and only answers faster, because it sees its own
runs end.

    client       start, find, look after        handle    one run, from outside
    connection   what handles are made of       operated  what operators do to it
    starting     what a start asks for          outcomes  results, or the errors instead
    why          what a run waits for           views     what people are shown
"""

from everstep.client.client import Client
from everstep.client.connection import refuse_in_transaction
from everstep.client.handle import Handle
from everstep.client.outcomes import Ending
from everstep.client.starting import OnConflict, closing_if_refused, new_run
from everstep.client.views import DeadLetter, HistoryEntry, UndeliveredSignal
from everstep.client.why import Hindrance

__all__ = [
    "Client",
    "DeadLetter",
    "Ending",
    "Handle",
    "Hindrance",
    "HistoryEntry",
    "OnConflict",
    "UndeliveredSignal",
    "closing_if_refused",
    "new_run",
    "refuse_in_transaction",
]
