"""Think-in-Memory: thoughts are stored instead of raw history, and kept tidy (Liu et al. 2023, arXiv 2311.08719).

A thought is a sentence with a relation triple. Stage 1 recalls thoughts for a question, stage 2 thinks after an answer:
insert new thoughts, forget those that newer ones override, merge those that say the same.

    with Memory.open("agent.db", organizer="think-in-memory") as memory:
        memory.recall("Which book does Ann like?", kinds=["thought"])
        memory.maintain()                          # forget and merge in every group
        memory.changes(kind="thought")             # what was merged or superseded; Memory.undo takes one back
        memory.stats()["think-in-memory"]          # the hash, its bucket sizes, its recall and what it reads

    ThinkInMemory(config=ThinkInMemoryConfig(index="lsh", n_buckets=512, keep_answers=True))

Notable choices:
- The paper has no public code; its method is taken from its text, and its b, d and thresholds are not known.
- Exact search is the default; the hash is opt-in, for stores of more than some 50,000 thoughts. It is centred and has 8
  tables; the paper's single table finds two fifths of the neighbours. A question whose buckets are empty reads
  everything. The claim compares with exact search in numpy; a large index here is sifted by sign bits before that.
- A group is all thoughts of one head in one relation, found by key. The paper forgets and merges within a hash bucket,
  where two wordings of one fact in different buckets stay forever.
- What is forgotten or merged is a function of the set of thoughts: the order of adding does not show (where times are
  told; else the order is the time), and maintenance twice is maintenance once.
- Nothing is deleted: a forgotten thought names what superseded it, a merged one what it went into, and both can be
  undone. Only forgetting an episode erases, and then also from every merged text.
- Of a relation with one tail at a time the newer thought wins; both stay when their times are equal. An assistant's
  statement never overrides a person's, and what was derived from an answer yields to both.
- `keep_answers` (off) keeps supported answers of `Memory.ask`: the same question, word for word but for case,
  punctuation and courtesies, gets the same answer and sources. It is answered anew when a source was forgotten or tells
  something that was superseded, when a later episode is among the first ten for it, and when it asks about a time that
  moves ("last week").
- The rules read a thought in about one turn of ten, so thoughts by rules add to episodes and do not replace them: what
  the best thoughts rest on ranks higher (`thought_bonus`). Bring thoughts of your own, or use a language model.
- Without an embedder, thoughts are found by full text, and merged only when their tails agree.
"""

from memspan.longterm.think_in_memory.config import ThinkInMemoryConfig
from memspan.longterm.think_in_memory.organizer import ThinkInMemory
from memspan.longterm.think_in_memory.thoughts import coverage

__all__ = ["ThinkInMemory", "ThinkInMemoryConfig", "coverage"]
