"""What would be killed: see `examples/airports/crash.py`."""

NOT_HERE = "it needs the server of compose.yaml; what its workers do under kills, tests/engine and tests/processes show"
