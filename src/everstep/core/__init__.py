"""The sans-IO core: the deterministic loop, replay, and what follows from a journal. No clock, no randomness, no I/O."""
