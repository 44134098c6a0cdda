"""LongIns (Gavin et al., 2024, arXiv 2406.17588): marking a paper of many answers, of which a few are wrong.

A needle leaves most of a context unread; here every group has to be read and judged, and the reply is the list of the
wrong numbers, scored by F1. GIST says one instruction at the beginning, LIST repeats it in every group, LIMT mixes
tasks. Papers are built from any questions of the user's (`pool`: JSON lines, or Super-NaturalInstructions), or from
twelve tasks of seven types that are made here (378 words are in the translation list).

Notable choices. The official way to falsify answers is not published: a wrong answer is one of the question's own, else
the answer to another question of its task, and never one that is right for the question as well. One answer in ten is
wrong, at least one; from 20 questions on up to one more or fewer, so that the number cannot be guessed. Strictly, the
last list of bare numbers in brackets counts; the official rule, by which every number in any brackets does, is beside
it as `loose`. In the likelihood form each stated answer is weighed against one alternative, with the paper up to there
in view, and as many are marked as are wrong: those with the smallest gaps. GIST and LIST of equal length hold different
numbers of questions; `pairs` makes these equal. The table of models in the paper is not reproduced here.
"""

from memspan.probes.longins.exam import (
    MODES,
    F1Result,
    LongIns,
    LongInsConfig,
    Pool,
    build,
    by_depth,
    marked,
    score,
    solvable,
)
from memspan.probes.longins.pools import QA, made_pool, pool_of, read_pool

__all__ = [
    "MODES",
    "QA",
    "F1Result",
    "LongIns",
    "LongInsConfig",
    "Pool",
    "build",
    "by_depth",
    "made_pool",
    "marked",
    "pool_of",
    "read_pool",
    "score",
    "solvable",
]
