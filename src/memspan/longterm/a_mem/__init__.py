"""A-MEM: every episode becomes a note that finds its neighbours and may change them.

(Xu et al. 2025, arXiv 2502.12110, NeurIPS.) A note is m = {content c, time t, keywords K, tags G, context X, vector e,
links L}, with e over all text parts. `AMem` builds one per episode, links it to near notes, and with a language model
rewrites these in the light of the new one.

    with Memory.open("agent.db", organizer="a-mem") as memory:
        memory.add(Episode("I joined a pottery class", speaker="Ann", id="a1"))
        memory.recall("When did she start pottery?", kinds=["note"])[0].why    # direct, or linked, and from which note
        memory.changes(kind="note")                                            # what was changed, and by which episode

Notable choices:
- Ids everywhere. (In the public code neighbours are ranks that are used as positions, so that the first notes ever
  stored are rewritten, and links are numbers that match no note.) A model sees numbers from 0, which are checked.
- One document form: content, context, keywords and tags, in the index from the first moment and again whenever one of
  them changes, vector included, in the same transaction. (The public code indexes other parts after every 100 changes.)
- By rules: keywords are the terms with the highest TF-IDF by the store's own counts, tags the nearest of the keywords
  that several notes share, the context the sentence of the two turns before that shares most with the text. Two notes
  are linked when they share a keyword and are as like as 95 % of random pairs are not.
- Evolution is off with rules. `AMemConfig(evolution="strengthen")` gives a linked old note the shared keywords as tags,
  which are its own words. With a model context, keywords and tags of near notes may be rewritten; models under about a
  billion parameters make old notes worse: give these `evolution="off"`, or the rules.
- Every change of an old note is logged with the episode that caused it; `Memory.undo` takes it back. Forgetting an
  episode takes its changes back, and writes anew whatever a model or a rule wrote after seeing it.
- Linked notes get no places of their own: they gain on direct ones when they fit the question by themselves.
  Notes by rules gain from links on multi-hop questions; notes whose context was written in words of their own do not.
- Without an embedder likeness is that of weighted terms, and tags must stand in the text or its context.
- Identical texts become notes of their own, linked to each other.
"""

from memspan.longterm.a_mem.config import AMemConfig
from memspan.longterm.a_mem.organizer import AMem

__all__ = ["AMem", "AMemConfig"]
