"""
Mistakes that would break a promise, planted one at a time in a copy of the source. Each takes out one guard; the tests named
beside it must fail then. ``make mutants`` shows for each what kills it.

A mutant is found by its text, which must stand in its file exactly once. Whoever rewrites a guarded line writes its mutant
anew: that is the moment to ask whether the guard is still there.
"""

from __future__ import annotations

from msgspec import Struct

SQLITE = "tests/stores/test_suite.py::TestSQLiteStore"
MEMORY = "tests/stores/test_suite.py::TestMemoryStore"
POSTGRES = "tests/stores/test_postgres_suite.py::TestPostgresStore"
POWER = "tests/powercuts"


class Mutant(Struct, frozen=True):
    """One guard taken out.

    Attributes:
        name: What is wrong then.
        promise: Which promise it breaks (invariants of the design, promises of the store contract).
        file: Below ``src/everstep``.
        text: What stands there.
        instead: What the mutant has instead.
        killers: Tests of which at least one must fail, as pytest takes them.
    """

    name: str
    promise: str
    file: str
    text: str
    instead: str
    killers: tuple[str, ...]


MUTANTS: tuple[Mutant, ...] = (
    # --- the fence ------------------------------------------------------------------------------------------------------------
    Mutant(
        "a worker that lost its run can still write to it",
        "I2, P3",
        "stores/sqlite/write.py",
        "WHERE run_key = ?1 AND version = ?2 - 1 AND epoch = ?3 AND worker_key = ?8",
        "WHERE run_key = ?1 AND version = ?2 - 1 AND ?8 = ?8",
        (f"{SQLITE}::test_a_zombie_can_write_nothing_after_a_takeover",),
    ),
    Mutant(
        "an entry lands without the one before it",
        "I1, P3",
        "stores/sqlite/write.py",
        "WHERE run_key = ?1 AND version = ?2 - 1 AND epoch = ?3 AND worker_key = ?8",
        "WHERE run_key = ?1 AND epoch = ?3 AND worker_key = ?8",
        (f"{SQLITE}::test_an_entry_at_any_other_version_is_fenced",),
    ),
    Mutant(
        "the rules let a stale epoch through",
        "I2, P3",
        "stores/rules.py",
        "    return write.entry.epoch == run.epoch and write.entry.version == run.version + 1\n",
        "    return write.entry.version == run.version + 1\n",
        (f"{MEMORY}::test_an_entry_of_another_epoch_is_fenced",),
    ),
    Mutant(
        "the owner of a run changes without an entry",
        "I2, P7",
        "stores/sqlite/claim.py",
        "    entry = seal(run.hash, run.run_key, run.version + 1, run.epoch + 1, at, False, [event])\n"
        "    write.insert_unasked(tx, entry)\n",
        "    entry = seal(run.hash, run.run_key, run.version + 1, run.epoch + 1, at, False, [event])\n"
        "    tx.execute('SELECT last_insert_rowid()')\n",
        (f"{SQLITE}::test_a_claim_appends_an_entry_and_raises_the_epoch",),
    ),
    Mutant(
        "a claim leaves the epoch as it is",
        "I2, P8",
        "stores/sqlite/claim.py",
        "seal(run.hash, run.run_key, run.version + 1, run.epoch + 1, at, False, [event])",
        "seal(run.hash, run.run_key, run.version + 1, run.epoch, at, False, [event])",
        (f"{SQLITE}::test_a_claim_appends_an_entry_and_raises_the_epoch",),
    ),
    Mutant(
        "a dead worker renews its lease",
        "I2, P9",
        "stores/sqlite/workers.py",
        "UPDATE workers SET heartbeat = ? WHERE worker_key = ? AND gone = '' RETURNING",
        "UPDATE workers SET heartbeat = ? WHERE worker_key = ? RETURNING",
        (f"{SQLITE}::test_a_worker_that_retired_is_gone_and_costs_its_runs_no_death",),
    ),
    Mutant(
        "a worker is buried although it renewed after it was looked at",
        "I2, P9",
        "stores/sqlite/workers.py",
        "AND gone = '' AND (heartbeat = ?3 OR ?2 <> 'lease expired')",
        "AND gone = '' AND ?3 = ?3",
        ("tests/stores/test_sqlite_files.py::test_a_heartbeat_between_looking_and_claiming_saves_the_worker",),
    ),
    # --- what depends on an entry ---------------------------------------------------------------------------------------------
    Mutant(
        "side effects happen although their entry was fenced",
        "I13, P5",
        "stores/sqlite/write.py",
        "    if not landed:\n        return _answer(tx, write, now)\n    if write.entry.blobs:",
        "    if not landed and not (write.children or write.posts):\n        return _answer(tx, write, now)\n"
        "    if write.entry.blobs:",
        (f"{SQLITE}::test_a_fenced_write_has_no_effect_and_leaves_its_batch_alone",),
    ),
    Mutant(
        "a write without an entry is not fenced",
        "I2, P5",
        "stores/rules.py",
        "        return write.epoch == run.epoch\n",
        "        return True\n",
        (f"{MEMORY}::test_an_entry_of_another_epoch_is_fenced",),
    ),
    Mutant(
        "an entry that landed is not recognised when it is repeated",
        "B2, P4",
        "stores/sqlite/write.py",
        "    if _has(tx, write.entry, write.entry.run_key):\n        return Landed()\n",
        "",
        (f"{SQLITE}::test_repeating_an_entry_that_landed_changes_nothing",),
    ),
    # --- the inbox --------------------------------------------------------------------------------------------------------------
    Mutant(
        "a run parks over a message that it has not read",
        "I8, I11, P11",
        "stores/sqlite/write.py",
        '_INSERT_NEXT_IF_CONSUMED: Final = _INSERT_NEXT + " AND inbox_seq <= max(inbox_done, ?9)"',
        '_INSERT_NEXT_IF_CONSUMED: Final = _INSERT_NEXT + " AND ?9 = ?9"',
        (f"{SQLITE}::test_a_run_with_unread_messages_can_neither_park_nor_end",),
    ),
    Mutant(
        "a signal is taken twice although it has the same key",
        "I8, P10",
        "stores/sqlite/write.py",
        "ON CONFLICT(run_key, dedupe) WHERE dedupe <> '' DO NOTHING",
        "",
        (f"{SQLITE}::test_a_dedupe_key_is_accepted_once_per_run",),
    ),
    Mutant(
        "consuming a message forgets it, so that a late duplicate is taken again",
        "I8, P10",
        "stores/sqlite/write.py",
        '_CONSUME: Final = "UPDATE runs SET inbox_done = max(inbox_done, ?2) WHERE run_key = ?1"',
        '_CONSUME: Final = "DELETE FROM inbox WHERE run_key = ?1 AND seq <= ?2"',
        (f"{SQLITE}::test_a_reply_stays_on_its_message",),
    ),
    Mutant(
        "a message does not make a parked run due",
        "I11, P10",
        "stores/rules.py",
        "    return now if wake_at is None else min(wake_at, now)\n",
        "    return wake_at\n",
        (f"{MEMORY}::test_a_message_makes_a_parked_run_due",),
    ),
    Mutant(
        "what stood in the inbox is lost when a run continues as new",
        "I8, E3",
        "core/execution.py",
        "            left_over = self.program.left_over()\n",
        "            left_over = self.program.left_over()[:0]\n",
        ("tests/core/test_generations.py::test_signals_that_were_not_taken_are_there_again_in_order",),
    ),
    # --- time -------------------------------------------------------------------------------------------------------------------
    Mutant(
        "a timer fires by the clock of its worker, before its time",
        "I9, P12",
        "stores/rules.py",
        "    if isinstance(write, Append) and write.not_before is not None and write.not_before > now:\n        return TooEarly()\n",
        "",
        (f"{MEMORY}::test_an_entry_before_its_time_is_refused",),
    ),
    Mutant(
        "an entry does not say from when on it may land",
        "I9",
        "core/execution.py",
        "        not_before = self._due_of(inputs) if self.program.timers else None\n",
        "        not_before = None\n",
        ("tests/core/test_primitives.py::test_a_timer_that_fired_dates_its_entry",),
    ),
    # --- the engine -----------------------------------------------------------------------------------------------------------
    Mutant(
        "two entries of a run are in flight at once",
        "I1",
        "engine/driver.py",
        "        if self._slot.is_taken or self._leaving.is_over:\n            return\n        if self._unreadable is not None:",
        "        if self._leaving.is_over:\n            return\n        if self._unreadable is not None:",
        ("tests/engine/test_talk.py::test_signals_sent_before_the_run_is_claimed_wait_for_it",),
    ),
    Mutant(
        "a step begins before the entry that asks for it is durable",
        "I5, I18",
        "engine/driver.py",
        "        self._slot.is_taken = True\n        # Alone and with nothing else running,",
        "        self._slot.is_taken = True\n        self._underway.obey(activation.commands)\n        # Alone and with nothing else running,",
        ("tests/engine/test_durability.py::test_a_milestone_that_was_cut_off_is_done_again_under_the_same_keys",),
    ),
    Mutant(
        "an entry that lost its place is written at the next one",
        "I2",
        "stores/sqlite/write.py",
        "    if not landed:\n        return _answer(tx, write, now)\n    if write.entry.blobs:",
        "    run = None if landed or write.create is not None else read.run_by_key(tx.ask, write.entry.run_key)\n"
        "    if run is not None:\n"
        "        about = (run.run_key, run.version + 1, run.epoch, run.updated_at, write.entry.drained, write.entry.events)\n"
        "        insert_unasked(tx, seal_bytes(run.hash, *about))\n"
        "        tx.execute('UPDATE runs SET head = last_insert_rowid(), version = version + 1 WHERE run_key = ?', about[:1])\n"
        "        return _LANDED\n"
        "    if not landed:\n        return _answer(tx, write, now)\n    if write.entry.blobs:",
        (f"{SQLITE}::test_a_zombie_can_write_nothing_after_a_takeover",),
    ),
    Mutant(
        "a worker goes on with its runs although its lease is over",
        "I2, C1",
        "engine/driver.py",
        '        """Somebody else owns the run, or may: stop everything, write nothing."""\n        self._leaving.abandon()\n',
        '        """Somebody else owns the run, or may: stop everything, write nothing."""\n',
        ("tests/engine/test_ownership.py::test_a_zombies_append_is_fenced_and_its_tasks_are_stopped",),
    ),
    Mutant(
        "a commit whose answer was lost is taken for one that failed",
        "I1, B2",
        "engine/committer.py",
        '            except StoreUnavailable as error:\n                self.note_away("commit", error)\n',
        "            except StoreUnavailable as error:\n                return [Refused(str(error)) for _ in writes]\n",
        ("tests/engine/test_durability.py::test_a_flush_whose_answer_is_lost_does_nothing_twice",),
    ),
    # --- the core -------------------------------------------------------------------------------------------------------------
    Mutant(
        "a journal is believed without its hashes",
        "I1, I21",
        "journal.py",
        "        if entry.version != version or entry.run_key != run_key or entry.hash != expected or entry.at < at:\n",
        "        if entry.version != version or entry.run_key != run_key or entry.at < at:\n",
        ("tests/core/test_journal_chain.py::test_any_flipped_byte_of_any_field_is_found_and_named",),
    ),
    Mutant(
        "the newest entry of a journal may be missing",
        "I1, I21",
        "journal.py",
        "    if head is not None and previous != head:\n",
        "    if False and head is not None and previous != head:\n",
        ("tests/core/test_journal_chain.py::test_a_journal_cut_short_is_found_by_the_runs_head",),
    ),
    Mutant(
        "a cancel that meets a result is lost",
        "Cancel",
        "core/loop.py",
        '        """Remember to cancel the task at its next await."""\n        self._owed.append(debt)\n',
        '        """Remember to cancel the task at its next await."""\n',
        ("tests/core/test_cancellation.py::test_a_cancel_passed_on_to_a_task_that_ends_is_still_owed_to_who_waited_for_it",),
    ),
    Mutant(
        "a cancel takes away a result that is there",
        "I3",
        "core/loop.py",
        "        if self.done() or not self.is_answered:\n",
        "        if True or self.done() or not self.is_answered:\n",
        ("tests/core/test_cancellation.py::test_cleanup_under_a_timeout_is_not_cancelled_twice",),
    ),
    Mutant(
        "the code runs after each input of an entry, not after all of them",
        "I6",
        "core/program.py",
        "        for event in inputs:\n            self._apply(event)\n        if self._main is None:\n            self._begin()\n",
        "        for event in inputs:\n            self._apply(event)\n            if self._main is not None:\n                self._drain()\n"
        "        if self._main is None:\n            self._begin()\n",
        ("tests/core/test_cancellation.py::test_cleanup_under_a_timeout_is_not_cancelled_twice",),
    ),
    Mutant(
        "a cancel is applied together with the results of its entry",
        "Cancel",
        "core/program.py",
        "        self._drain()\n        if not self._was_told_to_stop and self.cancel_requested is not None:\n            self._stop()\n            self._drain()\n",
        "        if not self._was_told_to_stop and self.cancel_requested is not None:\n            self._stop()\n        self._drain()\n",
        ("tests/core/test_cancellation.py::test_a_cancel_that_comes_with_a_result_waits_for_the_next_await",),
    ),
    Mutant(
        "commands that the code no longer asks for are not noticed",
        "I6",
        "core/program.py",
        "        if self.divergence is None and self._expected:\n",
        "        if False and self.divergence is None and self._expected:\n",
        ("tests/core/test_mismatch.py::test_a_command_less",),
    ),
    Mutant(
        "a changed argument is not noticed",
        "I6, G2",
        "core/mismatch.py",
        "            return recorded.step == requested.step and recorded.digest == requested.digest\n",
        "            return recorded.step == requested.step\n",
        ("tests/core/test_mismatch.py::test_another_argument",),
    ),
    Mutant(
        "a changed length of a timer is not noticed",
        "I6, G2",
        "core/mismatch.py",
        "            return recorded.delay == requested.delay\n",
        "            return True\n",
        ("tests/core/test_mismatch.py::test_another_length_of_a_timer",),
    ),
    Mutant(
        "futures hash by where they lie in memory",
        "I6",
        "core/loop.py",
        "        self._hash = loop.next_hash()\n\n    def __hash__(self) -> int:\n        return self._hash\n\n\nclass HeldFuture",
        "        self._hash = id(self)\n\n    def __hash__(self) -> int:\n        return self._hash\n\n\nclass HeldFuture",
        ("tests/core/test_loop_rules.py::test_sets_of_tasks_and_futures_iterate_in_the_order_of_making",),
    ),
    Mutant(
        "a result that no longer fits its type is taken for the type's default",
        "H3",
        "core/program.py",
        "            operation.set_result(operation.definition.result.decode(result))\n        except Undecodable as error:\n",
        "            operation.set_result(operation.definition.result.decode(result))\n        except Undecodable as error:\n"
        "            operation.set_result(None)\n            return\n",
        ("tests/core/test_children.py::test_an_outcome_that_no_longer_fits_pauses_whether_or_not_anybody_awaits_it",),
    ),
    # --- steps ------------------------------------------------------------------------------------------------------------------
    Mutant(
        "an at-most-once step is executed again after a crash",
        "Step",
        "engine/steps.py",
        "        elif self._plan.may_have_begun and (self._definition.at_most_once or self._is_cut_off):\n",
        "        elif self._plan.may_have_begun and self._is_cut_off:\n",
        ("tests/engine/test_steps.py::test_an_at_most_once_step_is_not_executed_again_after_a_kill",),
    ),
    Mutant(
        "each attempt has an idempotency key of its own",
        "A2",
        "engine/steps.py",
        '        return f"{self._host.run_id}/{self._definition.name}/{self.key}"\n',
        '        return f"{self._host.run_id}/{self._definition.name}/{self.key}/{self._plan.attempt}"\n',
        ("tests/engine/test_steps.py::test_every_attempt_has_the_same_key_and_no_other_step_has_it",),
    ),
    Mutant(
        "attempts are counted anew after a crash",
        "Retry",
        "core/attempts.py",
        "        return FIRST if recoveries == scheduled_after else Plan(attempt=1 + recoveries - scheduled_after)\n",
        "        return FIRST\n",
        ("tests/engine/test_steps.py::test_an_attempt_lost_with_its_worker_counts",),
    ),
    Mutant(
        "the row of an attempt is not written before the wait",
        "Retry",
        "engine/steps.py",
        "        self._host.waits(self.record())\n",
        "",
        ("tests/engine/test_waiting.py::test_a_wait_for_a_retry_leaves_memory_and_keeps_its_count",),
    ),
    Mutant(
        "a step whose result cannot be stored is taken for one that did nothing",
        "H5, F2",
        "engine/steps.py",
        "            self._fail_for_good(error, maybe=True)\n        else:\n",
        "            self._fail_for_good(error)\n        else:\n",
        ("tests/engine/test_sagas.py::test_a_result_that_is_lost_leaves_an_effect",),
    ),
    Mutant(
        "the effect of a transaction is committed before its entry",
        "I4, P18",
        "stores/sqlite/user_tx.py",
        "                    return RolledBack() if append is None else _land(tx, append)\n",
        "                    tx.execute('COMMIT')\n                    tx.execute('BEGIN IMMEDIATE')\n"
        "                    return RolledBack() if append is None else _land(tx, append)\n",
        (f"{SQLITE}::test_an_entry_that_is_not_the_slots_takes_the_effect_with_it",),
    ),
    Mutant(
        "the body of a transaction runs again although its entry has landed",
        "I4, A4, P18",
        "stores/rules.py",
        "    if slot.doubtful and stored == slot.doubtful:\n        return Landed()\n",
        "",
        (f"{SQLITE}::test_a_body_whose_entry_has_landed_is_not_begun_again",),
    ),
    Mutant(
        "the body of a transaction runs in a slot that is somebody else's",
        "I4, P18",
        "stores/rules.py",
        "    if run is None or (run.version, run.epoch, run.worker_key) != (slot.version - 1, slot.epoch, slot.worker_key):\n",
        "    if run is None:\n",
        (f"{SQLITE}::test_a_body_is_not_begun_in_a_slot_of_somebody_else",),
    ),
    Mutant(
        "a transaction runs without the place of its entry",
        "I1, I4",
        "engine/slot.py",
        "                turn.set_result(None)\n                self.is_taken = True\n",
        "                turn.set_result(None)\n",
        ("tests/engine/test_transactions.py::test_several_transactions_of_one_run_take_turns",),
    ),
    # --- durability ---------------------------------------------------------------------------------------------------------------
    Mutant(
        "a commit is acknowledged before it is on the disk",
        "I10, P1",
        "stores/sqlite/connection.py",
        'ask("PRAGMA synchronous = full")',
        'ask("PRAGMA synchronous = normal")',
        (f"{POWER}/test_power_cuts.py::test_a_power_cut_leaves_the_state_after_a_verb_and_no_acknowledged_one_is_missing",),
    ),
    Mutant(
        "a relaxed run starts a child before what led to it is durable",
        "I10, I13",
        "core/holding.py",
        "    return not any(isinstance(command, BARRIERS) or _must_be_known(program, command) for command in commands)\n",
        "    return True\n",
        ("tests/core/test_holding.py::test_what_leaves_the_process_is_not_asked_for_before_all_is_durable",),
    ),
    Mutant(
        "a blob is believed without its hash",
        "I17, I21",
        "blobs.py",
        "    if len(data) != ref.size or blob_hash(run_key, data) != digest:\n",
        "    if len(data) != ref.size:\n",
        ("tests/core/test_blobs.py::test_a_blob_that_is_missing_or_altered_is_corruption",),
    ),
    # --- sagas ------------------------------------------------------------------------------------------------------------------
    Mutant(
        "a saga undoes in the order of doing",
        "I14, F1",
        "undo.py",
        "                if await self._is_undone(self._undos[-1]):\n                    self._undos.pop()\n",
        "                if await self._is_undone(self._undos[0]):\n                    self._undos.pop(0)\n",
        ("tests/core/test_sagas.py::test_when_step_k_fails_the_ones_before_it_are_undone_in_reverse",),
    ),
    Mutant(
        "a step whose outcome is unknown is not undone",
        "I14, F2",
        "undo.py",
        "        else:\n            self.is_maybe = True\n",
        "        else:\n            self._is_dropped = True\n",
        ("tests/core/test_sagas.py::test_what_failed_did_nothing_and_what_is_not_known_is_undone_as_maybe",),
    ),
    Mutant(
        "a cancel cuts the undoing short",
        "I14, F4",
        "core/undoing.py",
        "        held: HeldFuture[None] = HeldFuture(loop=self._program.loop)\n",
        "        held: Any = self._program.loop.create_future()\n",
        ("tests/core/test_sagas_stopped.py::test_a_cancel_during_the_undoing_does_not_skip_it_and_comes_at_the_next_await",),
    ),
    Mutant(
        "a saga that cannot undo lets its run fail as if nothing were left",
        "I14, F4",
        "core/undoing.py",
        "        self._program.ending = self._program.ending or RunDied(reason, left, describe_error(error))\n",
        "",
        ("tests/core/test_sagas_stuck.py::test_a_compensation_that_fails_for_good_ends_the_run_dead_with_what_is_left",),
    ),
    # --- ownership --------------------------------------------------------------------------------------------------------------
    Mutant(
        "a worker trusts its lease to the last moment",
        "C1, C6",
        "engine/leases.py",
        "TRUSTED_FRACTION = 0.8\n",
        "TRUSTED_FRACTION = 1.5\n",
        ("tests/engine/test_ownership.py::test_a_worker_that_cannot_renew_stops_its_bodies_before_its_lease_ends",),
    ),
    Mutant(
        "a run that kills its workers is never given up",
        "G1, P14",
        "stores/base.py",
        '    if deaths > max_recoveries and was_alone:\n        return "dead"\n',
        "",
        ("tests/engine/test_poison.py::test_a_run_that_kills_every_worker_is_given_up",),
    ),
    Mutant(
        "bystanders of a run that kills its workers are given up with it",
        "G1, P14",
        "stores/base.py",
        "    if deaths > max_recoveries and was_alone:\n",
        "    if deaths > max_recoveries:\n",
        (f"{MEMORY}::test_a_death_in_company_ends_no_run",),
    ),
    Mutant(
        "code that refused a run is given it again",
        "G2, P8",
        "stores/rules.py",
        "    return codes is not None and not {*codes.split()} <= {*refused_by.split()}\n",
        "    return codes is not None\n",
        (f"{MEMORY}::test_code_that_refused_a_run_is_never_given_it_again",),
    ),
    Mutant(
        "a run at rest takes signals",
        "I8, P10",
        "stores/sqlite/write.py",
        "    if status.is_at_rest:\n        return\n    now, seq = tx.now(), inbox_seq + 1\n",
        "    now, seq = tx.now(), inbox_seq + 1\n",
        (f"{SQLITE}::test_a_run_at_rest_accepts_no_message",),
    ),
    Mutant(
        "a run parks on PostgreSQL although a message has come",
        "I8, P11",
        "stores/postgres/fast.py",
        "           it.must = 'never' OR runs.inbox_seq <= greatest(runs.inbox_done, it.consumed)\n",
        "           true OR runs.inbox_seq <= greatest(runs.inbox_done, it.consumed)\n",
        (f"{POSTGRES}::test_a_run_with_unread_messages_can_neither_park_nor_end",),
    ),
    Mutant(
        "a worker that was asked to drain is given runs",
        "P38",
        "stores/sqlite/workers.py",
        "WHERE worker_key = ? AND gone = '' AND NOT draining",
        "WHERE worker_key = ? AND gone = ''",
        (f"{SQLITE}::test_a_worker_that_is_asked_to_drain_hears_of_it_and_is_given_nothing",),
    ),
    Mutant(
        "a worker does not hear that it is to drain",
        "P38",
        "engine/leases.py",
        "        if pulse is Pulse.DRAINING:\n            self._on_drain()\n",
        "",
        ("tests/engine/test_draining.py",),
    ),
    Mutant(
        "a child's id that belongs to another run is taken for the child",
        "I13, P13",
        "stores/rules.py",
        "    if isinstance(answer, Exists) and not is_child(run, child):\n",
        "    if False and isinstance(answer, Exists) and not is_child(run, child):\n",
        (f"{MEMORY}::test_a_child_whose_id_belongs_to_another_run_is_refused",),
    ),
)
