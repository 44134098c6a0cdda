"""Zep: a temporal knowledge graph as agent memory (Rasmussen et al. 2025, arXiv 2501.13956).

Episodes stay as they are; entities and facts are read out of them; every fact has a window in the world's time and
versions in the store's time, and a contradicted fact is closed, never deleted. Communities sum up what belongs
together.

Notable choices:
- The scribe may be a rule system: contradictions then come from declared functional relations, never from likeness,
  and only between facts with the same subject and relation. (In graphiti candidates come from the whole group, and
  unrelated facts retire each other.)
- The store's time is a log of versions, so that "what did we believe on that date" is answered; graphiti overwrites
  `invalid_at` in place.
- Recall shows what is true now unless it is asked for another moment; node distance is the true distance up to the
  search depth; mentions sort the most mentioned first; MMR is greedy; label propagation always ends.
- Facts have a fourth list in the fusion, of eight times the weight: the structured match of question and fact by
  subject, attribute and sort of value (`match`). The searches alone rank chatter about the right person, or the right
  attribute of another one, before the fact asked for. `metadata["match"]` of a fact, 0 to 1, tells whether it is that
  one at all: above 0.7 it says what was asked of whom it was asked; a fact about another subject has about 0.
- The least cosine of a candidate is 0.3, not 0.6: MiniLM's scale is lower than that of the paper's embedder.
"""

from memspan.longterm.zep.organizer import Zep, ZepConfig
from memspan.longterm.zep.temporal import Closing, Window, closing_rule

__all__ = ["Closing", "Window", "Zep", "ZepConfig", "closing_rule"]
