"""
everstep keeps the state of multi-step work so that it survives anything.

    import everstep as es

Everything public is named here; nothing inside imports this module.
"""

from everstep.asking import Asked, Request, request
from everstep.children import ChildHandle, start
from everstep.client import Client, DeadLetter, Handle, Hindrance, HistoryEntry, UndeliveredSignal
from everstep.codec import Undecodable
from everstep.core.diff import Change
from everstep.core.progress import OpenStep, Progress
from everstep.core.snapshots import Checkpoint, Pointer, Snapshot
from everstep.databases import Database, database
from everstep.definitions import Call, Step, Workflow, step, workflow
from everstep.engine.engine import Engine
from everstep.engine.run import run
from everstep.errors import (
    CallAlreadyUsed,
    ContinuedAsNew,
    CorruptJournal,
    EngineClosed,
    EverstepError,
    Evicted,
    IllegalState,
    InvalidStoreURL,
    LeaseLost,
    NondeterminismError,
    PayloadKeyMissing,
    PayloadTooLarge,
    RemoteError,
    RequestError,
    RequestFailed,
    RequestRefused,
    RequestTimeout,
    RetryAfter,
    RunCancelled,
    RunConflict,
    RunDead,
    RunEnded,
    RunError,
    RunFailed,
    RunNotFound,
    RunPaused,
    RunTimeout,
    SchemaMismatch,
    StepError,
    StepFailed,
    StepOutcomeUnknown,
    StepTimeout,
    StoreError,
    StoreFull,
    StoreUnavailable,
    Unencodable,
    UsageError,
)
from everstep.generations import continue_as_new
from everstep.inside import Current, current, heartbeat, last_heartbeat, log, now, random, sleep, sleep_until, uuid4
from everstep.limits import Limits, QueueRecord
from everstep.many import gather, map  # noqa: A004  # es.map: the API's word
from everstep.milestones import Milestone, milestone
from everstep.patches import deprecate_patch, patched
from everstep.payloads import Compression, Encryption, Payloads
from everstep.pipelines import Pipeline, pipeline
from everstep.queues import Queue, queue
from everstep.records import Relaxed, RunRecord, Status, UndoRecord
from everstep.retry import Retry
from everstep.secret import Secret
from everstep.stores.pruning import Kept, Pruned
from everstep.talk import Signal, SignalMessage, State, condition, note, signal, state
from everstep.transactions import SQLiteRows, SQLiteTx, Transaction, transaction
from everstep.undo import Saga, saga

__version__ = "0.1.0"

__all__ = [
    "Asked",
    "Call",
    "CallAlreadyUsed",
    "Change",
    "Checkpoint",
    "ChildHandle",
    "Client",
    "Compression",
    "ContinuedAsNew",
    "CorruptJournal",
    "Current",
    "Database",
    "DeadLetter",
    "Encryption",
    "Engine",
    "EngineClosed",
    "EverstepError",
    "Evicted",
    "Handle",
    "Hindrance",
    "HistoryEntry",
    "IllegalState",
    "InvalidStoreURL",
    "Kept",
    "LeaseLost",
    "Limits",
    "Milestone",
    "NondeterminismError",
    "OpenStep",
    "PayloadKeyMissing",
    "PayloadTooLarge",
    "Payloads",
    "Pipeline",
    "Pointer",
    "Progress",
    "Pruned",
    "Relaxed",
    "Queue",
    "QueueRecord",
    "RemoteError",
    "Request",
    "RequestError",
    "RequestFailed",
    "RequestRefused",
    "RequestTimeout",
    "Retry",
    "RetryAfter",
    "RunCancelled",
    "RunConflict",
    "RunDead",
    "RunEnded",
    "RunError",
    "RunFailed",
    "RunNotFound",
    "RunPaused",
    "RunRecord",
    "RunTimeout",
    "SQLiteRows",
    "SQLiteTx",
    "Saga",
    "SchemaMismatch",
    "Secret",
    "Signal",
    "SignalMessage",
    "Snapshot",
    "State",
    "Status",
    "Step",
    "StepError",
    "StepFailed",
    "StepOutcomeUnknown",
    "StepTimeout",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "Transaction",
    "Undecodable",
    "UndoRecord",
    "UndeliveredSignal",
    "Unencodable",
    "UsageError",
    "Workflow",
    "__version__",
    "condition",
    "continue_as_new",
    "current",
    "database",
    "deprecate_patch",
    "gather",
    "heartbeat",
    "last_heartbeat",
    "log",
    "map",
    "milestone",
    "note",
    "now",
    "patched",
    "pipeline",
    "queue",
    "random",
    "request",
    "run",
    "saga",
    "signal",
    "sleep",
    "sleep_until",
    "start",
    "state",
    "step",
    "transaction",
    "uuid4",
    "workflow",
]
