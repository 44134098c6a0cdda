"""A random encoder of two layers in sentence-transformers' layout, a judge that counts words, and a conversation."""

import json
import math

import pytest
import torch

from memspan.core.footprint import Footprint
from memspan.longterm.base import Episode
from memspan.models import load_language_model

THINGS = "boat cat dog farm goat hill inn jar kite lamp map nest oven pipe quilt rug sofa tent urn vase".split()
DEEDS = [("bought", "buy"), ("painted", "paint"), ("sold", "sell"), ("repaired", "repair")]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The directory of an untrained BERT whose words are whole."""
    from transformers import BertConfig, BertModel

    folder = untrained(tmp_path_factory.mktemp("tiny"), BertConfig, BertModel, 32)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    return folder


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory):
    """An untrained language model over the same words, loaded."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = untrained(tmp_path_factory.mktemp("judge"), LlamaConfig, LlamaForCausalLM, 96)
    return load_language_model(folder, dtype="float32", threads=1)


def untrained(folder, config, model, positions):
    """Save a model of two layers with random weights, and its tokenizer."""
    shape = config(
        vocab_size=word_tokenizer(folder),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model(shape).save_pretrained(folder)
    return folder


def word_tokenizer(folder):
    """Save a tokenizer whose tokens are words; returns how many there are."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "did", "ann", "bo", "what", "i", "a", "an", "the", "?", ".", ":"]
    words += [*THINGS, *(form for pair in DEEDS for form in pair), "question", "said", "yesterday", "nice"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.model_max_length = 32
    fast.save_pretrained(folder)
    return len(words)


class CountingJudge:
    """Foretells an answer the better, the more of its words stand in the prompt."""

    name = fingerprint = "counting"
    context_window = None

    def __init__(self):
        self.calls = 0

    def generate(self, prompt, *, max_new_tokens, temperature=0.0, stop=(), schema=None):
        raise AssertionError("a judge writes nothing")

    def loglik(self, prompt, options):
        self.calls += 1
        words = set(prompt.lower().split())
        return [sum(0.0 if word in words else -2.0 for word in option.lower().split()) for option in options]

    def count_tokens(self, text):
        return len(text.split())

    def footprint(self):
        return Footprint()


@pytest.fixture
def counting():
    return CountingJudge()


@pytest.fixture(scope="session")
def talk():
    """Ten sessions in which Ann and Bo say what they did."""
    rows = []
    for i in range(120):
        done, _ = DEEDS[i % 4]
        thing = THINGS[(i * 7) % len(THINGS)]
        other = THINGS[(i * 3 + 5) % len(THINGS)]
        text = f"Nice. I {done} a {thing} and a {other} yesterday."
        rows.append(Episode(text, speaker=("Ann", "Bo")[i % 2], session=f"s{math.floor(i / 12)}", id=f"e{i}"))
    return rows
