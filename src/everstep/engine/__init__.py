"""The only place that waits: it drives runs, executes steps, keeps leases and commits. Decisions are made in ``core``."""
