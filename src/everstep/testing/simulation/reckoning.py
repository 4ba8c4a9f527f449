"""
The reckoning: what can only be asked once all is over. The invariants of a whole, and what each act wants to see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from everstep.core.execution import Execution
from everstep.definitions import Workflow
from everstep.errors import EverstepError
from everstep.events import SignalReceived, StepCompleted, StepScheduled, decode_event
from everstep.forks import shared_history
from everstep.journal import Entry
from everstep.payloads import PLAIN
from everstep.records import RunRecord
from everstep.testing.simulation.process import run_now

if TYPE_CHECKING:
    from everstep.testing.simulation.simulation import Simulation


def reckon(simulation: Simulation) -> Iterator[str]:
    """What is wrong."""
    yield from _of_runs(simulation)
    yield from _of_memory(simulation)
    for act in simulation.acts:
        for problem in act.check():
            yield f"act {type(act).__name__}: {problem}"


def _of_runs(simulation: Simulation) -> Iterator[str]:
    database = simulation.database
    runs = {run.run_id: run for run in database.all_runs()}
    for run_id in simulation.outside.starts:
        if run_id not in runs and run_id not in simulation.outside.facts.get("pruned", ()):
            yield f"I10: the start of {run_id} was acknowledged, and there is no such run"
    for run in runs.values():
        if run.run_key in database.tampered:
            continue
        yield from _of_steps(simulation, run)
        yield from _of_letters(simulation, run)
        yield from _of_replay(simulation, run)
        if run.worker_key is not None:
            yield f"I2: run {run.run_id} is {run.status} and belongs to worker {run.worker_key}"
        story = database.stories[run.run_key]
        for key, run_id in story.children:
            if run_id not in runs:
                yield f"I13: run {run.run_id} started {run_id} ({key}), and there is no such run"
        for key, count in story.heard.items():
            if count > 1:
                yield f"I13: run {run.run_id} was told {count} times how its child {key} ended"


def _of_steps(simulation: Simulation, run: RunRecord) -> Iterator[str]:
    """I5: what is recorded as done was done. (Transactions are looked at by the act that has them.)"""
    names: dict[str, str] = {}
    executed = simulation.outside.executed
    for entry in simulation.database.journal_of(run.run_key):
        for event in entry.decoded():
            if isinstance(event, StepScheduled):
                names[event.key] = event.step
            elif isinstance(event, StepCompleted):
                name = f"{run.run_id}/{names.get(event.key, '?')}/{event.key}"
                if not executed[name] and f"{run.run_id}/" not in simulation.outside.facts.get("silent", ()):
                    yield f"I5: {name} is recorded as completed, and was never executed"


def _of_letters(simulation: Simulation, run: RunRecord) -> Iterator[str]:
    """I8, I10: what was acknowledged is in the inbox, in the order in which one after the other was acknowledged."""
    inbox = [decode_event(each.event) for each in simulation.database.inbox_of(run.run_key)]
    there = [(event.name, event.id) for event in inbox if isinstance(event, SignalReceived)]
    for run_id, name, key in simulation.outside.sent:
        if run_id == run.run_id and there.count((name, key)) != 1:
            yield f"I8: signal {name} {key} to {run_id} was acknowledged, and is there {there.count((name, key))} times"


def _of_replay(simulation: Simulation, run: RunRecord) -> Iterator[str]:
    """I6: replayed from its first entry, the code asks for what is recorded, entry by entry."""
    database = simulation.database
    entries = database.journal_of(run.run_key)
    codes = [code for act in simulation.acts for number in (0, 1) for code in (*act.final_codes(number), *act.workflows)]
    codes += [code for each in simulation.engines for code in each.registry]
    error: EverstepError | None = None
    for code in {id(code): code for code in codes}.values():
        if code.name == run.workflow and run.pinned in ("", code.version):
            error = _refusal(simulation, run, code, entries)
            if error is None:
                return
    yield f"I6: run {run.run_id}: {error or f'no code of {run.workflow} is at hand'}"


def _refusal(
    simulation: Simulation, run: RunRecord, code: Workflow[..., Any], entries: Sequence[Entry]
) -> EverstepError | None:
    """Why this code cannot have made the journal."""
    execution = Execution(code, run.run_key, run.run_id)
    try:
        execution.replay(entries, run.hash, shared=_shared(simulation, run), thoroughly=True)
    except EverstepError as error:
        return error
    finally:
        execution.program.evict()
    return None


def _shared(simulation: Simulation, run: RunRecord) -> Any:
    return run_now(shared_history(simulation.database, run_now(simulation.database.get(run.run_id)), PLAIN.keeper))  # type: ignore[arg-type]


def _of_memory(simulation: Simulation) -> Iterator[str]:
    """I20: nothing is left in memory of what is over."""
    for role in simulation.roles:
        if role.engine is not None and role.process is not None and not role.process.is_dead:
            for what in role.engine.remains():
                yield f"I20: {role.process} still holds {what}"
