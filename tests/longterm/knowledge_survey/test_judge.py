"""Judges that are made from a function or an inference model."""

from __future__ import annotations

from typing import Any

import pytest

from memspan.core.errors import InputError, UnsupportedModelError
from memspan.longterm.knowledge_survey import CallableJudge, ExtractiveJudge, Judge, NLIJudge

PASSAGE = "It rained. The feast took place in 1994. Everybody came."


def alike(claim: str, text: str) -> float:
    """As a score by meaning: blind to the year."""
    return 0.9 if "feast" in text else 0.1


def test_the_function_chooses_the_span_and_numbers_must_match() -> None:
    judge = CallableJudge(alike)
    assert isinstance(judge, Judge)
    found = judge.support("The party was in 1994.", PASSAGE)
    assert found.value == 0.9
    assert PASSAGE[slice(*found.span)] == "The feast took place in 1994."
    assert judge.support("The party was in 1995.", PASSAGE).value == 0.0
    assert judge.support("The party was not in 1994.", PASSAGE).value == 0.0
    assert CallableJudge(alike, exact=False).support("The party was in 1995.", PASSAGE).value == 0.9
    assert judge.support(" ", PASSAGE).value == 0.0


def test_the_speaker_is_part_of_what_is_judged() -> None:
    seen: list[str] = []

    def score(claim: str, text: str) -> float:
        seen.append(text)
        return 1.0

    assert CallableJudge(score).support("Ann likes tea.", "I like tea.", "Ann").value == 1.0
    assert seen == ["Ann: I like tea."]


def test_no_share_is_refused() -> None:
    for value in (1.5, -0.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            CallableJudge(lambda claim, text, value=value: value).support("Tea.", "Tea.")


@pytest.mark.parametrize(
    "quote",
    [
        "The works of al-Maridini were printed in Latin.",
        "It consumes 4 kg of steam per kWh of power.",
        "They carried it through Yan'an to Ta'er Shi.",
        "The pre-Cambrian rocks are older.",
    ],
)
def test_a_quote_is_supported_by_its_own_passage_whatever_its_names_look_like(quote: str) -> None:
    judge = ExtractiveJudge()
    assert judge.support(quote, f"It rained. {quote} Everybody came.").value == 1.0
    assert judge.support(quote, "It rained. Everybody came.").value < 0.8
    assert judge.support(quote, f"It is not true: {quote.lower()}").value == 0.0


class Words:
    """A tokenizer of pairs that hands both texts on to the classifier."""

    def __call__(self, text: str, pair: str, **_: Any) -> Any:
        import torch

        class Read(dict[str, Any]):
            def to(self, device: Any) -> Read:
                return self

        ids = [sum(word.encode()) % 61 for word in f"{text} {pair}".split()]
        return Read(input_ids=torch.tensor([ids]))


@pytest.mark.parametrize("place", [0, 2])
def test_entailment_is_found_by_its_name(place: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = ["neutral", "contradiction"]
    names.insert(place, "ENTAILMENT")
    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        label2id={name: i for i, name in enumerate(names)},
        id2label=dict(enumerate(names)),
    )
    model = transformers.BertForSequenceClassification(config)
    found = NLIJudge(model, Words()).support("Ann likes tea.", "Ann likes tea.")
    with torch.inference_mode():
        expected = model(**Words()("Ann likes tea.", "Ann likes tea.")).logits[0].softmax(-1)[place]
    assert found.value == pytest.approx(float(expected))
    assert NLIJudge(model, Words()).support("Today Bob likes tea.", "Today Ann likes tea.").value == 0.0
    model.config.label2id = {"LABEL_0": 0}
    with pytest.raises(UnsupportedModelError, match="entailment"):
        NLIJudge(model, Words())
