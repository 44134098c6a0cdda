"""LLM-Embedder: a retriever taught by how much a language model gains from what it finds (Zhang et al. 2023,
arXiv 2310.07554, ACL 2024).

The reward of a key is the mean log-likelihood of the wanted answer after key and query (`lm_reward`). A small encoder,
one for queries and keys and for every task, is trained on it by stabilised distillation: a chain of contrasts in the
order of the rewards, each weighted by its reward, over the keys of the whole batch (`StableDistill`). Batches are of
one task, so that no query is taught to tell its keys from those of another task. Instructions before queries and keys
tell the tasks apart; they are saved with the weights, and a store refuses vectors that were read with others.

`train_embedder` does it for a user's own files, with MiniLM as the encoder and SmolLM2-135M as the judge by default;
the directory it writes is an embedder's spec like any other: `Memory.open(embedder="DIR")`, `memspan remember
--embedder DIR`.

Notable choices: keys are sorted inside the loss, where the authors' loss silently expects them sorted; a text counts
once in a batch; instructions are labels of a word or two, not sentences; InfoNCE stands beside distillation with the
weight of the authors' mixed setting; τ is the one that MiniLM was trained with. The paper's tasks of a conversation's
next turn (chat), of worked examples (icl) and of tools have templates for the reward, and train through `TaskSet`s of
one's own; from files only questions to memory and the paper's long-range modelling (lrlm) are made.
"""

from memspan.longterm.llm_embedder.config import INSTRUCTIONS, LLMEmbedderConfig
from memspan.longterm.llm_embedder.encoder import LLMEmbedder
from memspan.longterm.llm_embedder.reward import TEMPLATES, judge, lm_reward
from memspan.longterm.llm_embedder.train import Trained, train_embedder

__all__ = [
    "INSTRUCTIONS",
    "TEMPLATES",
    "LLMEmbedder",
    "LLMEmbedderConfig",
    "Trained",
    "judge",
    "lm_reward",
    "train_embedder",
]
