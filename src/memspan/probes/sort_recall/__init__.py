"""Sequence order recall (Pink et al., 2024, arXiv 2410.08133): which of two segments of a text came first.

Facts can be answered by who does not know when they were met. Pairs of segments are drawn from excerpts by their
distance, half of them shown in the right order; the answer is a label. What is asked about is any text of the user's
(`book`), or from Python any sequence (`build`). Whoever sits it decides what is measured: a model with the excerpt in
its context, `blind:` the same without, which is what the segments alone give away; `weights:` a model that learned the
excerpt or the book; `retrieval:` a model that is shown what a store finds for both segments; and a store, whose top
hits are compared by when they were added (`memory:plain`, which fails when it keeps no times: `undated:memory:plain`).

Notable choices. The last edge of the paper's bins is 0.8 of the excerpt, as in the official code, not as in its data's
README. Segments that occur twice have no place and are never drawn; headings are taken out; positions of excerpts and
of first segments are tested for uniformity. Labels are asked for both ways round and the log-probabilities added, since
small models like one label; how often they said A is kept. `scoring=continuation` needs no understanding of a question:
it compares log P(S1 S2 | context) with log P(S2 S1 | context). The official 13 wordings are four of our own. Excerpts
are never cut to fit, and neither is the question. White space in a text is one blank.
"""

from memspan.probes.sort_recall.exam import Order, SortRecall, SortRecallConfig, best_prompt, order
from memspan.probes.sort_recall.pairs import SortItem, build, paper_bins

__all__ = ["Order", "SortItem", "SortRecall", "SortRecallConfig", "best_prompt", "build", "order", "paper_bins"]
