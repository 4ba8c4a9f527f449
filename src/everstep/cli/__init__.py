"""
The command line. ``main`` is its entry point; every verb is a module of its own, imported when it is used.

Habits that all verbs share: data goes to stdout, hints and progress to stderr; a table on a terminal, untruncated TSV on a
pipe; what users wrote is shown inert; nothing ends in a traceback. Exit codes: ``faults``.

    main ── group (which verbs there are) ── one module per verb ── pure: story, sentence, rows, filters, words, inert
                                                      └── session (the store) · terminal (where text goes)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    from everstep.cli.run import run

    sys.exit(run(sys.argv[1:] if arguments is None else arguments))
