"""``python -m everstep``: the command line, where the ``everstep`` script is not on PATH."""

from everstep.cli import main

main()
