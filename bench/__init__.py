"""
What everstep costs, beside its floors and its peers, in one run on one disk.

Nothing here asserts a timing: a row reports, compares with its bar and says whether it was met. On a noisy machine only
ratios mean something, so whatever is compared runs in interleaved rounds and is reduced by medians.

Run it with ``python -m bench [names…] [--json FILE] [--quick]``; rows that need a peer that is not installed leave it out.
``python -m bench --calls`` measures nothing: it counts the Python calls of a step, the same on every machine.
"""
