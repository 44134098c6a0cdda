"""XL3M: what is chosen, what is read, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import memspan
from memspan.context.xl3m import Xl3m, sentence_ends
from memspan.core.errors import BudgetError, InputError
from memspan.core.testing import tiny_llama

SMALL = {"segment": 16, "overlap": 4, "longest": 8, "question": 6, "slots": 80, "chunk": 16}
GENERATE = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}


def ids(count, seed=0):
    return torch.randint(1, 64, (1, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def plain(model, tokens):
    with torch.no_grad():
        return model.generate(tokens, attention_mask=torch.ones_like(tokens), **GENERATE)


@pytest.mark.parametrize("given", ["in one", "text first", "piece by piece"])
def test_a_text_that_fits_is_read_as_the_plain_model_does(model, given):
    text, question = ids(30), ids(7, seed=1)
    whole = torch.cat((text, question), 1)
    with memspan.context("xl3m", model, **SMALL) as reader:
        asked = question
        if given == "in one":
            asked = whole
        elif given == "text first":
            reader.feed(text)
        else:
            for at in range(0, 30, 9):
                reader.feed(text[:, at : at + 9])
        out = model.generate(asked, attention_mask=torch.ones_like(asked), **GENERATE)
        assert reader.system.segments == []
    assert out[0, asked.shape[1] :].tolist() == plain(model, whole)[0, whole.shape[1] :].tolist()


def entropy(model, tokens, count):
    with torch.no_grad():
        logs = model(tokens).logits[0, -count:].log_softmax(-1)
    return float(-(logs.exp() * logs).sum(-1).mean())


@pytest.mark.parametrize("score", ["question", "answer", "gain"])
def test_the_pieces_that_make_the_model_certain_are_read_in_their_order(model, score):
    text, question = ids(200, seed=3), ids(6, seed=4)
    with memspan.context("xl3m", model, score=score, keep=2, **SMALL) as reader:
        reader.feed(text)
        out = model.generate(question, attention_mask=torch.ones_like(question), **GENERATE)
        segments = list(reader.system.segments)
    assert [(one.begin, one.end) for one in segments] == [(at, min(at + 16, 200)) for at in range(0, 193, 12)]
    for one in segments:
        together = torch.cat((text[:, one.begin : one.end], question), 1)
        if score == "gain":
            with torch.no_grad():
                logs = [model(x).logits[0, -6:-1].log_softmax(-1) for x in (together, question)]
            said = [float(each.gather(1, question[0, 1:, None]).mean()) for each in logs]
            expected = said[0] - said[1]
        else:
            count = 6 if score == "question" else 1
            expected = entropy(model, question, count) - entropy(model, together, count)
        assert one.score == pytest.approx(expected, abs=1e-4)
    best = sorted(segments, key=lambda one: -one.score)[:2]
    assert {one.begin for one in segments if one.kept} == {one.begin for one in best}
    places = sorted({at for one in best for at in range(one.begin, one.end)})
    spliced = torch.cat((text[:, places], question), 1)
    assert out[0, 6:].tolist() == plain(model, spliced)[0, spliced.shape[1] :].tolist()


def test_an_answer_is_weighed_as_behind_the_same_tokens(model):
    text, question, answer = ids(25), ids(5, seed=1), ids(4, seed=2)
    with memspan.context("xl3m", model, **SMALL) as reader:
        reader.feed(text)
        (nats,) = reader.score(question, [answer])
        assert reader.seen == 25
    with memspan.context("full", model) as reader:
        reader.feed(text)
        torch.testing.assert_close(nats, reader.score(question, [answer])[0], atol=1e-5, rtol=0)


def test_a_long_answer_chooses_anew(model):
    text, question = ids(300, seed=5), ids(6, seed=6)
    with memspan.context("xl3m", model, keep=1, refresh=3, **SMALL) as reader:
        reader.feed(text)
        weighed = []
        weigh = reader.system.certainties
        reader.system.certainties = lambda *given: weighed.append(given[2].shape[1]) or weigh(*given)
        out = model.generate(question, attention_mask=torch.ones_like(question), **GENERATE)
        assert weighed == [6, 6, 6]  # the question, then the latest tokens twice within 7 passes of one token
        assert reader.seen == 300 + 6 + 7
    assert out.shape[1] == 14


def test_what_is_kept_can_be_looked_at(model):
    with memspan.context("xl3m", model, keep=2, first=True, **SMALL) as reader:
        reader.feed(ids(120, seed=7))
        assert reader.slots() == []  # nothing is computed before a question
        question = ids(5, seed=8)
        model.generate(question, attention_mask=torch.ones_like(question), **GENERATE)
        assert reader.system.segments[0].kept
        reasons = [slot.reason for slot in reader.slots()]
        assert reasons[0] == "tokens 0-16"
        assert reasons[-1] == "question or answer"


def test_pieces_end_with_sentences_where_they_can(model):
    text = ids(100, seed=9) % 40 + 1
    text[0, [13, 27, 40]] = 63
    with memspan.context("xl3m", model, keep=1, ends=(63,), **SMALL) as reader:
        reader.feed(text)
        question = ids(5)
        model.generate(question, attention_mask=torch.ones_like(question), **GENERATE)
        assert [one.end for one in reader.system.segments][:2] == [14, 26]


def test_bytes_are_the_tokens_and_stay_in_the_budget(model):
    with memspan.context("xl3m", model, budget="40KiB", segment=16, overlap=4, longest=8, question=6) as reader:
        sizes = []
        for _ in range(4):
            reader.feed(ids(200))
            sizes.append(reader.footprint().total)
        assert {b - a for a, b in pairwise(sizes)} == {800}
        question = ids(6)
        model.generate(question, attention_mask=torch.ones_like(question), **GENERATE)
        assert reader.footprint().total <= 40 << 10
        with pytest.raises(InputError, match="1,280 fit"):
            reader.feed(ids(600))
        assert reader.seen == 800 + 6 + 7


def test_a_saved_text_answers_as_before(model, tmp_path):
    text, question = ids(150, seed=10), ids(6, seed=11)
    with memspan.context("xl3m", model, keep=2, **SMALL) as reader:
        reader.feed(text)
        reader.save(tmp_path / "text")
        before = model.generate(question, attention_mask=torch.ones_like(question), **GENERATE)
    with memspan.context("xl3m", model, keep=2, **SMALL) as reader:
        reader.load(tmp_path / "text")
        after = model.generate(question, attention_mask=torch.ones_like(question), **GENERATE)
    assert before.tolist() == after.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 16}, "below the segment"),
        ({"segment": 0}, "segment is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"score": "loudness"}, "choose one of question, answer, gain"),
        ({"order": "size"}, "choose time or score"),
        ({"question": 9}, "above longest"),
    ],
)
def test_unusable_options_are_said(options, message):
    with pytest.raises(InputError, match=message):
        Xl3m(**{**SMALL, **options})


def test_what_cannot_be_read_is_said(model):
    with memspan.context("xl3m", model, **SMALL) as reader:
        reader.feed(ids(100))
        with pytest.raises(InputError, match="the question has 9 tokens; at most 8"):
            model.generate(ids(9), attention_mask=torch.ones(1, 9), **GENERATE)
    with memspan.context("xl3m", model, **SMALL) as reader, pytest.raises(InputError, match="one row"):
        reader.feed(ids(6).expand(2, -1))
    with pytest.raises(BudgetError, match="raise the budget"), memspan.context("xl3m", model, budget="1KiB"):
        pass


def test_sentence_ends_are_found_in_a_vocabulary():
    class Words:
        def get_vocab(self):
            return {"a": 0, ".": 1, "line\n": 2, "?": 3, "b.c": 4}

        def convert_tokens_to_string(self, words):
            return "".join(words)

    assert sentence_ends(Words()) == (1, 2, 3)
