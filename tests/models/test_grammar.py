"""Answers by schema: whatever the model wants to say, and however little room there is, the answer fits."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from memspan.core.errors import InputError, MissingExtraError, UnsupportedModelError
from memspan.models import grammar, load_language_model
from memspan.models.schema import violation

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": r"^\S(.{0,20}\S)?$"},
        "age": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 150}, {"type": "null"}]},
        "likes": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "kind": {"enum": ["PERSON", "ORG"]},
        "happy": {"type": "boolean"},
    },
    "required": ["name", "age", "likes", "kind", "happy"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}}


@pytest.fixture(scope="module")
def babbler(tmp_path_factory):
    """A directory with a random Llama whose tokens are bytes and a few pairs of them; it can write anything."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("babbler")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [('"', "}"), ('"', ","), ("n", "a"), ("t", "r"), ("}", "]")]
    words = ["<s>", "</s>", *alphabet, *(a + b for a, b in pairs)]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(words) + 7,  # as in many models, wider than the tokenizer
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=400,
        bos_token_id=0,
        eos_token_id=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return load_language_model(folder, dtype="float32", seed=11)


@example(prompt="0", limit=200, temperature=30.0, schema=LIST)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12),
    limit=st.integers(80, 200),
    temperature=st.sampled_from([0.0, 1.0, 30.0]),
    schema=st.sampled_from([PERSON, LIST]),
)
def test_every_answer_parses_and_fits(babbler, prompt, limit, temperature, schema):
    answer = babbler.generate(prompt, max_new_tokens=limit, temperature=temperature, schema=schema)
    assert violation(json.loads(answer.text), schema) == ""
    assert answer.new_tokens <= limit


def test_numbers_without_a_range_get_one():
    assert grammar.bounded({"type": "number", "maximum": 3}) == {"type": "number", "minimum": -(10**15), "maximum": 3}
    inner = grammar.bounded({"anyOf": [{"type": ["integer", "null"]}], "properties": {"a": {"type": "string"}}})
    assert inner["anyOf"][0]["maximum"] == 10**15 and inner["properties"] == {"a": {"type": "string"}}


def test_the_least_room_that_is_said_is_enough(babbler):
    with pytest.raises(InputError, match=r"takes at least \d+ tokens, and 5 are allowed") as caught:
        babbler.generate("x", max_new_tokens=5, schema=PERSON)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert violation(json.loads(babbler.generate("x", max_new_tokens=least, schema=PERSON).text), PERSON) == ""
    with pytest.raises(InputError, match="at least"):
        babbler.generate("x", max_new_tokens=least - 1, schema=PERSON)


def test_the_context_window_is_a_limit_too(babbler):
    prompt = "x" * 300
    answer = babbler.generate(prompt, max_new_tokens=10_000, temperature=1.0, schema=PERSON)
    assert violation(json.loads(answer.text), PERSON) == "" and answer.new_tokens <= 100


def test_without_a_schema_the_same_model_babbles(babbler):
    with pytest.raises(ValueError):
        json.loads(babbler.generate("x", max_new_tokens=80, temperature=1.0).text)


@pytest.mark.parametrize("schema", [{"format": "date"}, {"type": "string", "pattern": "a(?=b)"}, {"enum": []}])
def test_schemas_without_a_grammar(babbler, schema):
    with pytest.raises(InputError, match="schema"):
        babbler.generate("x", max_new_tokens=100, schema=schema)


def test_a_schema_and_stop_exclude_each_other(babbler):
    with pytest.raises(InputError, match="stop"):
        babbler.generate("x", max_new_tokens=100, schema=PERSON, stop=["\n"])


def test_what_it_needs(babbler, monkeypatch):
    with pytest.raises(UnsupportedModelError, match="token that ends"):
        grammar.GrammarTokenizer(babbler.tokenizer, [])
    with pytest.raises(UnsupportedModelError, match="fast tokenizer"):
        grammar.GrammarTokenizer(object(), [1])
    monkeypatch.setattr(grammar, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="llguidance"):
        grammar.GrammarTokenizer(babbler.tokenizer, [1])


@pytest.mark.real
def test_bundled_model_writes_by_schema(language_model):
    schema = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^[A-Z][a-z]{1,20}$"}}}
    schema |= {"required": ["city"], "additionalProperties": False}
    answer = language_model.generate("What is the capital of France?", max_new_tokens=20, schema=schema)
    assert json.loads(answer.text) == {"city": "Paris"}
