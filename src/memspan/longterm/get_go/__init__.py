"""A small-window reasoner trained by reward; its knowledge is in an external bank (Han et al. 2025, arXiv 2502.19402).

The paper is a position paper without code; this is the smallest system that follows it. A policy sees one token of a
question at a time and drives a machine: look up, advance, write, read, tally, answer, abstain. All symbols get fresh
random codes in every training episode, so that nothing about a world can be learnt and knowledge can only come from
the bank.

The tasks are built for this architecture. What is learnt on them shows that the architecture is feasible, not general
reasoning.

Notable choices:
- A question is a program of typed tokens, and the policy learns to run it. TALLY and ABSTAIN are operations of ours:
  without them, to count and to say that nothing is known would be built in rather than learnt.
- Each task has its own number of hops in the curriculum, so that a hard one holds none of the others back.
- Reward alone does not teach "count", "compare" and "return" in 570 updates (one seed), so they are no default.
- A count of k hops is a chain of k - 1 steps.
- A name is first compared as written (case, spacing and underscores aside), and only then by its code; the look-up
  itself is exact. `TextCodes` adds spelling to meaning, because an embedder tears a name with a typo into other tokens;
  the trained adapter W_q then has little left to do.
- Whoever writes the bank controls the answers: every read names its sources.
"""

from memspan.longterm.get_go.adapter import QueryAdapter
from memspan.longterm.get_go.bank import KnowledgeBank, Named, Read
from memspan.longterm.get_go.codes import Encoder, RandomCodes, TextCodes
from memspan.longterm.get_go.config import Curriculum, ReasonerConfig
from memspan.longterm.get_go.reasoner import SmallWindowReasoner, Solution, Step

__all__ = [
    "Curriculum",
    "Encoder",
    "KnowledgeBank",
    "Named",
    "QueryAdapter",
    "RandomCodes",
    "Read",
    "ReasonerConfig",
    "SmallWindowReasoner",
    "Solution",
    "Step",
    "TextCodes",
]
