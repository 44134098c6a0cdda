"""Parallel prompt decoding (Chen et al., EMNLP 2025, arXiv 2405.18628): several tokens a pass from one model.

A few trained embeddings ("prompt tokens") behind the text make a frozen model guess the tokens after the next one. A
tree of such guesses is verified in the same pass that makes the next ones; how large it is depends on what a row costs
on this machine. Greedy decoding puts out what plain decoding does.

>>> from memspan.context import ppd
>>> decoder = ppd.fit(model, texts, steps=500)  # doctest: +SKIP
>>> decoder.tune(model)  # doctest: +SKIP
>>> model.generate(ids, custom_generate=decoder, max_new_tokens=128)  # doctest: +SKIP

Notable choices. The paper trains on dialogues and rolls the teacher out at one random place of each; here the model
first continues windows of the user's texts by itself, greedily, so that one pass over such a row is the teacher at
every place and many places are trained at once. Prompt tokens begin as tokens drawn by chance, not as the words "Next
i word". Ensembles of prompt tokens, which the paper drops at inference, are left out. Accuracies of deeper guesses are
measured where the guesses before them were in sight, so that their products are the chances of paths. The search
weighs the time of each state's own rows, not of the limit, chooses the number of nodes of every state, and may say that
plain decoding is fastest. When sampling, the paper's typical acceptance changes the distribution;
`acceptance="exact"` keeps it.
"""

from __future__ import annotations

from memspan.context.ppd.decoder import DecodingReport, ParallelPromptDecoder, fit
from memspan.context.ppd.prompts import PpdConfig, PromptTokens
from memspan.context.ppd.search import Plan, Tree, best_plan, tuned

__all__ = [
    "DecodingReport",
    "ParallelPromptDecoder",
    "Plan",
    "PpdConfig",
    "PromptTokens",
    "Tree",
    "best_plan",
    "fit",
    "tuned",
]
