"""
Other libraries doing the same work, with their own defaults and the API that their documentation shows.

All answer the same verbs, in seconds: ``steps`` (one run, one step after the other), ``runs`` (many at once), ``latency``
(one run of one step, again and again), ``interrupt`` (start runs and stay in the middle, to be killed) and ``resume``.
"""
