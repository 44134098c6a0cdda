"""Training on files: questions from statements, nothing held out trained on, it stops, goes on, and says the truth."""

import json
import os
import signal

import numpy as np
import pytest

from memspan.cli import main
from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.llm_embedder import LLMEmbedder, LLMEmbedderConfig, Trained, train_embedder
from memspan.longterm.llm_embedder import train as training
from memspan.longterm.llm_embedder.data import corpora, examples, has_speakers, ranks
from memspan.longterm.llm_embedder.questions import asked_of
from memspan.longterm.llm_embedder.train import informative
from memspan.longterm.retriever import Example

CONFIG = LLMEmbedderConfig(steps=12, batch=8, keys=4, lr=1e-3)


def asked(text, name="Ann"):
    from memspan.longterm.llm_embedder.data import _pipeline
    from memspan.longterm.llm_embedder.questions import questions

    return [pair for sentence in _pipeline()(text).sents for pair in questions(sentence, name)]


@pytest.mark.real
def test_statements_become_questions():
    assert asked("I painted that sunrise in my garden last year.") == [
        ("What did Ann paint in their garden last year?", "that sunrise"),
        ("When did Ann paint that sunrise in their garden?", "last year"),
    ]
    assert ("Where did Ann move in May?", "to Lisbon") in asked("I moved to Lisbon in May.")
    assert asked("My dog's name is Biscuit.") == [("What is Ann's dog's name?", "Biscuit")]
    for none in ("I never sold a boat.", "Did I tell you?", "You bought a boat.", "I gave you a lamp.", "I like it."):
        assert asked(none) == [], none


def test_what_was_asked_is_about_the_one_who_answers():
    assert asked_of("Nice! What are you painting in your room?", "Ann") == "What is Ann painting in Ann's room?"
    for none in ("What is up?", "How are you?", "I like it.", "Is the weather fine over there today?"):
        assert asked_of(none, "Ann") is None


@pytest.mark.real
def test_no_session_is_on_both_sides(talk):
    kept, apart = corpora(talk, "memory", seed=1)
    assert not set(kept.keys) & set(apart.keys) or len(set(kept.keys)) < len(kept.keys)
    assert len(kept.keys) + len(apart.keys) == len(talk) and len(apart.keys) == 24
    for corpus in (kept, apart):
        for row in corpus.asked:
            assert row.answer.split()[-1] in corpus.keys[row.right]
    assert has_speakers(talk)


def test_documents_ask_for_the_passage_before(tiny):
    sentences = [f"The {a} stood by the old {b} in the morning." for a in "boat cat dog farm".split() for b in "abcdef"]
    paragraphs = [Episode(" ".join(sentences[i : i + 3]), session="book") for i in range(0, 24, 1)]
    kept, apart = corpora(paragraphs * 4, "lrlm", held_out=0.3)
    assert not has_speakers(paragraphs)
    for row in kept.asked:
        following = kept.keys[row.right + 1]
        assert row.barred == {row.right + 1} and following.startswith(row.query) and row.answer in following
    encoder = LLMEmbedder(tiny, instructions={"lrlm": ("", "")})
    made = examples(kept, encoder, "lrlm", keys=4)
    assert all(len(example.negatives) == 3 and example.positives[0] not in example.negatives for example in made)
    found = ranks(apart, encoder, "lrlm")
    assert len(found) == len(apart.asked) and found.min() >= 1 and found.max() <= len(apart.keys) - 1


@pytest.mark.real
def test_it_trains_saves_and_measures(tiny, talk, counting, tmp_path):
    trained = train_embedder(talk, tmp_path / "mine", judged_by=counting, base=tiny, config=CONFIG)
    assert trained.task == "memory" and len(trained.losses) == 12
    assert counting.calls == 4 * (trained.queries + trained.dropped)
    assert not (tmp_path / "mine.training").exists()
    plain, own = (
        LLMEmbedder.load(spec, instructions=told)
        for spec, told in ((tiny, {"memory": ("", "")}), (trained.directory, None))
    )
    _, apart = corpora(talk, "memory")
    for encoder, scores in ((plain, trained.before), (own, trained.after)):
        assert scores["mrr"] == pytest.approx((1 / ranks(apart, encoder, "memory")).mean(), abs=1e-6)
    about = json.loads((trained.directory / "llm_embedder.json").read_text())["about"]
    assert about["verdict"] == trained.verdict() and about["config"]["steps"] == 12
    with pytest.raises(InputError, match="is there already"):
        train_embedder(talk, tmp_path / "mine", judged_by=counting, base=tiny, config=CONFIG)


@pytest.mark.real
def test_interrupted_and_taken_up_it_ends_the_same(tiny, talk, counting, tmp_path, monkeypatch):
    whole = train_embedder(talk, tmp_path / "whole", judged_by=counting, base=tiny, config=CONFIG)
    fit = training.fit_retriever

    def interrupted(*args, **options):
        return fit(*args, **options, on_step=lambda n, _: n == 5 and os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(training, "fit_retriever", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_embedder(talk, tmp_path / "broken", judged_by=counting, base=tiny, config=CONFIG)
    monkeypatch.setattr(training, "fit_retriever", fit)
    assert not (tmp_path / "broken").exists()
    with pytest.raises(InputError, match="go on with resume"):
        train_embedder(talk, tmp_path / "broken", judged_by=counting, base=tiny, config=CONFIG)
    with pytest.raises(InputError, match="other files or settings"):
        train_embedder(talk[12:], tmp_path / "broken", judged_by=counting, base=tiny, config=CONFIG, resume=True)
    calls = counting.calls
    resumed = train_embedder(talk, tmp_path / "broken", judged_by=counting, base=tiny, config=CONFIG, resume=True)
    assert counting.calls == calls  # nothing is judged twice
    assert resumed.losses == whole.losses and resumed.after == whole.after
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    with pytest.raises(InputError, match="no interrupted training"):
        train_embedder(talk, tmp_path / "other", judged_by=counting, base=tiny, config=CONFIG, resume=True)


def result(gain, interval):
    return Trained(
        directory=None, task="memory", queries=1, dropped=0, held_out=1, held_out_keys=1, before={}, after={},
        gain=gain, interval=interval, losses=(),
    )  # fmt: skip


def test_the_verdict_is_what_the_interval_says():
    assert result(0.1, (0.02, 0.2)).helped and "helped" in result(0.1, (0.02, 0.2)).verdict()
    assert not result(0.1, (-0.01, 0.2)).helped and "no effect" in result(0.1, (-0.01, 0.2)).verdict()
    assert "worse" in result(-0.1, (-0.2, -0.01)).verdict()


def test_flat_and_wrong_rewards_teach_nothing():
    def example(*rewards):
        return Example(query="q", positives=("a",), negatives=("b", "c"), rewards=rewards)

    good, flat, wrong = example(-1.0, -2.0, -3.0), example(-1.0, -1.05, -1.0), example(-3.0, -1.0, -1.0)
    assert informative([good, flat, wrong], 0.1) == [good]


def test_bad_input(tiny, talk, counting, tmp_path):
    with pytest.raises(InputError, match="needs a judge"):
        train_embedder(talk, tmp_path / "a", base=tiny)
    for wrong in ({"loss": "other"}, {"keys": 1}, {"lr": 0.0}):
        with pytest.raises(InputError):
            LLMEmbedderConfig(**wrong)
    with pytest.raises(InputError, match="share"):
        corpora(talk, "lrlm", held_out=0)
    with pytest.raises(InputError, match="at least 16 and 8"):
        corpora(talk[:10], "lrlm")


@pytest.mark.real
def test_the_command_line(tiny, talk, tmp_path, capsys):
    chat = tmp_path / "talk.jsonl"
    rows = [{"text": e.text, "speaker": e.speaker, "session": e.session, "id": e.id} for e in talk]
    chat.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "mine"
    run = ["train-embedder", str(chat), "--out", str(out), "--base", str(tiny), "--loss", "infonce", "--steps", "3"]
    assert main([*run, "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "held out" in said and "mrr" in said and "on the held-out part" in said
    assert main([*run, "--quiet"]) == 2 and "is there already" in capsys.readouterr().err
    second = [*run[:3], str(tmp_path / "two"), *run[4:]]
    assert main([*second, "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["helped"] in (True, False) and len(report["losses"]) == 3
    store = str(tmp_path / "a.db")
    assert main(["remember", str(chat), "--store", store, "--embedder", str(out), "--organizer", "plain"]) == 0
    capsys.readouterr()
    assert main([*run[:3], str(tmp_path / "x"), "--judge", "openai:http://localhost:1/v1#m"]) == 2
    assert "endpoints" in capsys.readouterr().err
    assert np.isfinite(report["gain"])
