"""What goes on in a simulation: some runs, the people who deal with them, and what must hold of both in the end."""
