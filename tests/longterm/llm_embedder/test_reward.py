"""The judge's reward: the mean log-likelihood of the answer's tokens, whatever stands beside it in a batch."""

import pytest
import torch

from memspan.core.errors import InputError
from memspan.longterm.llm_embedder import TEMPLATES, judge, lm_reward
from memspan.longterm.retriever import Example

KEYS = ["Ann: I bought the boat.", "The cat sold a dog.", "Bo: a dog and a lamp. " * 3]


def test_it_is_the_mean_over_the_answers_tokens(tiny_judge):
    found = lm_reward(tiny_judge, "memory", "What did Ann sell?", KEYS, "the boat .")
    prompts = [TEMPLATES["memory"].format(key=key, query="What did Ann sell?") for key in KEYS]
    expected = torch.tensor([tiny_judge.loglik(prompt, [" the boat ."])[0] / 3 for prompt in prompts])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    alone = torch.cat([lm_reward(tiny_judge, "memory", "What did Ann sell?", [key], "the boat .") for key in KEYS])
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=0)
    assert len(set(found.tolist())) == 3


def test_long_keys_and_queries_are_cut_and_examples_are_judged(tiny_judge):
    long = "boat and a lamp . " * 2000
    assert lm_reward(tiny_judge, "lrlm", long, [long, "cat"], "the dog").isfinite().all()
    row = Example(query="What did Ann buy?", positives=(KEYS[0],), negatives=(KEYS[1],), answer="the boat")
    (judged,) = judge(tiny_judge, "memory", [row])
    expected = lm_reward(tiny_judge, "memory", row.query, KEYS[:2], "the boat").tolist()
    assert judged.rewards == pytest.approx(expected, abs=1e-5) and judged.negatives == row.negatives


def test_any_model_that_weighs_text_will_do(counting):
    assert lm_reward(counting, "qa", "q", ["to lisbon", "none"], "to Lisbon").tolist() == [0.0, -2.0]
    assert counting.calls == 2
    assert lm_reward(counting, "icl", "q", [], "to Lisbon").shape == (0,)


def test_bad_input(counting):
    with pytest.raises(InputError, match="no template"):
        lm_reward(counting, "other", "q", ["k"], "a")
    with pytest.raises(InputError, match="answer is empty"):
        lm_reward(counting, "qa", "q", ["k"], " ")
