"""Few-shot memories (Orhan 2023, arXiv 2303.17557): what is kept of a text that was studied once to three times.

A subject studies a list of texts. *Recognition*: which of two texts was studied, the studied one or its foil, by which
is more familiar; chance is 50 %. *Recall*: from the first half of a studied text to its second half, scored by ROUGE-L.
*Retention*: both again after updates on other texts. Six kinds of sets differ in the foil, and in two of them the foil
is far likelier than what was studied, as long as nothing was.

    memspan probe few-shot-memories --subject bundled                        # fine-tunes a copy; minutes
    memspan probe few-shot-memories --subject memory:plain --option sets=all # the same exam for a store
    memspan probe few-shot-memories --option shots=0,1,3 --option updates=0,10,100 --option text=mine.txt --out DIR

`--length` is the tokens of the list that is studied, `--n` the texts of it that are asked about, by each test and at
each point; answers after no study at all (`shots=0`) are the floor.

Who can study (`memspan.probes.students.Student`): a local model, whose copy is fine-tuned; a store, which writes the
texts down, whose familiarity is the score of what it recalls and whose completion is the rest of it. Any other model,
one behind an endpoint or a context system, is shown the list as a context, and is asked in writing or by likelihood.

Notable choices. Sentences, other wordings and synonyms are made up here, by rule; no text of the paper's repository,
which has no licence, is used or needed. For a text of the user's, "paraphrase" exchanges every word that has a synonym
here, at least two, and "one_word" one of them; sentences without one are left out. A set's foils are new in every set
of pairs, and "sentences" and "random_words" pair texts of equal length, as mean loss favours one length or another.
The cue ends with a word, so that stores can be asked too. Recall is scored on what was to be recalled: with the cue on
both sides, as in the paper, the floor is far above 0 (`whole=True`). Generation is greedy. Padding is masked by place:
where the token for padding is the one for the end, masking by token would leave every end unlearned. One exposure is
as many steps as the list has batches, so that shots alone do not compare between lists; `steps` in the report does.
"""

from memspan.probes.few_shot_memories.exam import FewShotMemories, FewShotMemoriesConfig, Trial
from memspan.probes.few_shot_memories.rouge import rouge
from memspan.probes.few_shot_memories.sets import KINDS, Kind, Pair, make_set

__all__ = [
    "KINDS",
    "FewShotMemories",
    "FewShotMemoriesConfig",
    "Kind",
    "Pair",
    "Trial",
    "make_set",
    "rouge",
]
