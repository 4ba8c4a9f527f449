"""
Deterministic simulation: the real engine, client and core, over processes, clocks, a network and faults that a seed decides on.

    seed ──▶ runs, people, misfortune
               │
    process ── link ──┐                     each process: an event loop and clocks of its own; it can be frozen, crashed
    process ── link ──┼──▶ store ──▶ auditor     after every operation: the invariants I1 … I22 of the design
    process ── link ──┘
"""
