"""The command line. Heavy imports happen inside the verbs, so that `memspan --help` answers at once.

Exit codes: 0 done; 1 an error memspan expected; 2 unusable input or options; 3 over the byte budget; 4 the store cannot
be used; 5 another process holds the store; 6 a model or endpoint failed; 7 an optional package is missing; 8 a claim
that was said to hold does not; 130 interrupted (nothing that was acknowledged is lost).
"""

from memspan.cli.main import main

__all__ = ["main"]
