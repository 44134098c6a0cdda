"""MemoryBank: a companion's memory that fades and is strengthened (Zhong et al. 2023, arXiv 2305.10250).

Every episode has a strength S, 1 at first. What is left of it after t days without use is R = e^(−t/(c·S)), c = 5. A
use, in an answer of `ask` or told by `Memory.use`, adds 1 to S and sets t to 0. What has faded (R below 0.05) goes
dormant: recall no longer shows it. A dormant episode comes back for one question that quotes it, that has all its rare
words from it, or that names its day; and for good when it is used. Nothing is deleted until `maintain(prune=True)`,
which erases the dormant ones as `forget` does; `MemoryBank.dormant` lists them before. Metadata `{"pin": true}` keeps
an episode from fading.

Beside the episodes there are the paper's four texts: a summary of each day and one of all days (kind "summary"), an
insight of each speaker and day ("insight") and a portrait of each speaker ("portrait"). By rules a summary is made of
sentences that were said, an insight of the facts that the scribe reads, and a portrait of the facts that still hold; a
language model writes freely, and where it gives no usable answer the rules write and the record says so. They are
written when they are first asked for, by `recall` or `maintain`, each day once, and deleted when an episode they rest
on is forgotten, to be written anew from the rest. What is dormant stays in them: details fade before the gist. Nothing
here needs an embedder; portraits by rules need spaCy.

Notable choices:
- Time is the store's clock, and at least `awake` = 1,000 episodes stay awake however long nobody came by: the strongest
  and newest. So two idle months, or a chat of two years ago read today, leave no empty memory, and a small store
  forgets nothing; `awake=0` is the paper's rule. `stats` says how many have faded, whether or not there is room.
- The official code computes e^(−t·S/5), by which the stronger memory dies faster; here R rises with S.
- The official code tosses a coin at each load, so that survival depends on how often one looks. Here whether a memory
  is dormant is a function of time, strength and id alone; `forgetting="chance"` draws once for each id.
- Strength has a cap, and a second use within an hour adds nothing: a greeting does not become immortal. Only use
  counts, being a candidate does not.
- Time is measured in fractions of days; the code knows whole days.
- A time named in the question lends weight to what was said then (`dates="filter"`: shows only that, or nothing).

Left out: the paper's prompt with the last seven turns (`ask` builds its own), the tuning of SiliconFriend's models, and
ranking by retention.
"""

from memspan.longterm.memorybank.config import MemoryBankConfig
from memspan.longterm.memorybank.organizer import MemoryBank

__all__ = ["MemoryBank", "MemoryBankConfig"]
