"""
The static determinism lint behind ``everstep check``: source text in, findings out. Pure; nothing is imported or executed.

Workflow code is what stands in a function decorated with ``@es.workflow``, and in the plain functions of the same module that
it calls. A name is judged only if the module itself says what it is: a lint that guesses is switched off.

    check ── scopes (what a name means) ── names (which names break which rule) ── rules (the table)
      └───── walk (what is wrong with a function) ── ignores (comments)
"""

from everstep.lint.check import Report, check_source
from everstep.lint.rules import RULES, Finding, Level, Rule

__all__ = ["RULES", "Finding", "Level", "Report", "Rule", "check_source"]
