"""SCM: a controller that decides whether old memory is needed, which of it, and whether a summary is enough.

(2023, arXiv 2304.13343; code: wbbeyourself/SCM4LLMs.) `Scm` is the memory stream. `SelfControlledMemory`
gives the prompt for a question, never longer than its budget, with the reason of every decision. `summarize_long`
sums up a text that is longer than any window.

    with Memory.open("agent.db", organizer="scm") as memory:
        scm = SelfControlledMemory(memory, budget=1000)
        context = scm.context("What did I say about the wallet?")   # .text .tokens .decisions
        scm.commit("What did I say about the wallet?", "It is green.")

Notable choices:
- Tokens are counted by the model's tokenizer; without a model they are estimated as words times 1.3, and every context
  says which.
- Turns are ranked by the ranking that all organizers share, plus 0.1 exp(-age / 50 turns). The released code ranks by
  cosine alone, the paper adds a recency of unknown form.
- The gate of the paper is used (the released code never calls its own): words that point back, or the best turn's
  cosine, or without an embedder its share of the question's words. With a language model it is asked, and the rules
  decide where it gives no answer.
- Resolution control starts only when not all turns fit, as in the code. By rules a turn answers when it has 0.3 of the
  question's words by rarity. A turn that is too long is cut to the sentences that bear on the question, and what was
  dropped comes back where room is left. The code's loop, which never ends when all turns are summaries already, cannot
  arise: every step is checked against the budget.
- A long turn's summary is its own sentences (centroid, no repetition), or a model's.
- What was used in an answer, or shown by the last context before a commit, counts as recent.
- On the released English dialogues (46 questions, MiniLM) the gold turn is among six .848 of the time, and prompts of
  300, 600 and 1,000 words cover .755, .834 and .865 of the answers' words. The six best turns in the order of time, cut
  at the budget, cover .566, .688 and .797; in the order of rank .762, .831 and .871: most of the gain is the order.
- Every sentence of an extracted summary of a document keeps its span; a written one has the span of its source.
"""

from memspan.longterm.scm.ask_answerable import Judge, ModelJudge, RuleJudge
from memspan.longterm.scm.controller import Context, Controller, Decision, Item
from memspan.longterm.scm.document import (
    LongSummary,
    ModelSummarizer,
    Piece,
    RuleSummarizer,
    Summarizer,
    Summary,
    summarize_long,
)
from memspan.longterm.scm.organizer import Scm, ScmConfig
from memspan.longterm.scm.sentences import estimated_tokens
from memspan.longterm.scm.stream import SelfControlledMemory

__all__ = [
    "Context",
    "Controller",
    "Decision",
    "Item",
    "Judge",
    "LongSummary",
    "ModelJudge",
    "ModelSummarizer",
    "Piece",
    "RuleJudge",
    "RuleSummarizer",
    "Scm",
    "ScmConfig",
    "SelfControlledMemory",
    "Summarizer",
    "Summary",
    "estimated_tokens",
    "summarize_long",
]
