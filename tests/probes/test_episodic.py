"""Made conversations: every answer is there and where it is said to be, nothing gives it away, lengths are kept."""

from __future__ import annotations

from datetime import timedelta

import pytest

from memspan.core.errors import InputError
from memspan.longterm.examined import StoreSubject
from memspan.probes.base import Item
from memspan.probes.episodic import TASKS, Episodic, conversation
from memspan.probes.episodic_words import ANSWERS, CHANGING, OPENERS, REPLIES, THINGS, TRAITS
from memspan.probes.grading import DECLINED, declines, list_f1, mentions, overlap, written_dates
from memspan.probes.run import run
from memspan.probes.subjects import Guesser, Oracle, Undated
from memspan.probes.turns import day

EXAM = Episodic()


def of(task: str, n: int = 12, length: int = 1_500, seed: int = 3) -> list[Item]:
    exam = Episodic(tasks=task, questions=6)
    return exam.items(n, length, seed, exam.estimate)


def told(item: Item) -> list[str]:
    turns = {turn.id: turn for turn in item.turns}
    return [turns[name].text for name in item.evidence]


@pytest.mark.parametrize("length", [300, 1_000, 20_000])
def test_lengths_are_kept(length):
    for item in EXAM.items(12, length, 0, EXAM.estimate):
        assert 0.9 * length <= item.group["tokens"] <= length
        assert item.group["tokens"] == EXAM.estimate(item.context)


def test_the_same_seed_makes_the_same_items_and_another_makes_others():
    assert EXAM.items(12, 800, 5, EXAM.estimate) == EXAM.items(12, 800, 5, EXAM.estimate)
    first, other = EXAM.items(24, 800, 5, EXAM.estimate), EXAM.items(24, 800, 6, EXAM.estimate)
    assert not {item.context for item in first} & {item.context for item in other}
    asked = [(item.group["conversation"], item.asked) for item in first]
    assert len(set(asked)) == len(asked)
    assert [item.group["task"] for item in first[:6]] == list(TASKS)


def test_questions_on_one_conversation_show_the_same():
    items = EXAM.items(24, 2_000, 0, EXAM.estimate)
    assert len({item.context for item in items}) == 2
    assert all(item.turns is items[0].turns for item in items[:12])


def test_values_stand_in_their_evidence_and_nowhere_else():
    for task in ("recall", "multi-hop"):
        for item in of(task):
            (value,) = item.answer["right"]
            assert [turn.id for turn in item.turns if mentions(turn.text, value)] == [item.evidence[-1]]


def test_no_small_talk_holds_a_value():
    idle = " ".join((*OPENERS, *THINGS, *REPLIES, *ANSWERS))
    values = [value for trait in (*TRAITS, *CHANGING) for value in trait.values]
    assert len(set(values)) == len(values)
    assert not [value for value in values if mentions(idle, value)]


def test_order_is_that_of_the_turns():
    for item in of("order"):
        first, second = told(item)
        assert item.evidence[0].split(":")[0] != item.evidence[1].split(":")[0]
        assert mentions(first, item.answer["right"][0].split(" ", 1)[1])
        assert mentions(second, item.answer["wrong"][0].split(" ", 1)[1])
        assert item.choices[0].earliest


def test_days_are_counted_back_from_the_turn():
    back = {"This morning": 0, "Yesterday": 1, "Two days ago": 2, "Three days ago": 3}
    for item in of("when"):
        turn = next(turn for turn in item.turns if turn.id == item.evidence[0])
        days = next(days for words, days in back.items() if turn.text.startswith(words))
        assert item.answer["right"][0] == day(turn.at - timedelta(days=days))


def test_updates_ask_for_now_and_for_then():
    items = of("update", n=24)
    assert {item.group["asks"] for item in items} == {"now", "then"}
    for item in items:
        (right,), (wrong,) = item.answer["right"], item.answer["wrong"]
        holding = [turn for turn in item.turns if mentions(turn.text, right)]
        other = [turn for turn in item.turns if mentions(turn.text, wrong)]
        assert len(holding) == len(other) == 1
        assert (holding[0].at > other[0].at) == (item.group["asks"] == "now")
        if item.as_of is not None:
            assert holding[0].at < item.as_of < other[0].at
            assert day(item.as_of) in item.asked


def test_what_is_declined_is_told_of_somebody_else_only():
    for item in of("abstention"):
        assert item.evidence == ()
        values = item.answer["wrong"]
        who = next(word for word in item.asked.replace("'s", "").replace("?", "").split()[1:] if word.istitle())
        telling = [turn for turn in item.turns if any(mentions(turn.text, value) for value in values)]
        assert telling
        for turn in telling:
            about = turn.speaker if turn.text.startswith(("I ", "My ")) else turn.text
            assert who not in about


@pytest.mark.parametrize("form", ["text", "likelihood"])
def test_an_oracle_is_always_right_and_a_guesser_is_by_chance(form):
    assert run(EXAM, Oracle(EXAM), n=48, lengths=(500, 2_000), form=form).score == 1
    guessed = run(EXAM, Guesser(EXAM), n=480, lengths=(1_000,), form=form)
    low, high = guessed.interval
    assert low < (5 / 4 + 1 / 2) / 6 < high
    for task in TASKS:
        places = {item.choices[0].right for item in of(task, n=48)}
        assert len(places) == (2 if task == "order" else 4)


def test_who_always_declines_is_right_only_where_there_is_nothing():
    class Declines(Oracle):
        def write(self, item):
            return "That is not mentioned."

    scores = {row["task"]: row["score"] for row in run(EXAM, Declines(EXAM), n=24, form="text").table()}
    assert scores == {task: float(task == "abstention") for task in TASKS}


@pytest.mark.parametrize(
    ("task", "said", "score"),
    [
        ("recall", "It is the {right}.", 1),
        ("recall", "not mentioned", 0),
        ("update", "{wrong}, and now {right}", 0),
        ("order", "{right} came before {wrong}", 1),
        ("order", "{wrong}, then {right}", 0),
        ("abstention", "I do not know.", 1),
        ("abstention", "{wrong}", 0),
    ],
)
def test_answers_are_marked(task, said, score):
    item = of(task, n=1)[0]
    right, wrong = (next(iter(item.answer[key]), "") for key in ("right", "wrong"))
    assert EXAM.grade(item, said.format(right=right, wrong=wrong)).score == score


def test_rules_of_marking():
    assert overlap("The red boats, and a house", "red boat") == pytest.approx((2 * (2 / 3) / (5 / 3), 2 / 3, 1.0))
    assert list_f1("a boat, two cats", ["boats", "cats", "dogs"]) == pytest.approx((1 + 2 / 3) / 3)
    assert not mentions("a boathouse", "boat")
    assert not mentions("anything", "")
    assert "1st of May" in written_dates(of("when", n=1)[0].asked_at.replace(month=5, day=1))
    for said in ("not mentioned", "I don't know.", "There is no information about it", "It was never said.", " "):
        assert declines(said)
    for said in ("Ann: “I do not know the way.” [1]", "Lisbon", "the unknown soldier", "a notary"):
        assert not declines(said)


def test_what_cannot_be_made_is_said():
    with pytest.raises(InputError, match="at least 300 tokens"):
        conversation(200)
    with pytest.raises(InputError, match="at least 300 tokens"):
        run(EXAM, Oracle(EXAM), lengths=(100,))
    for options in ({"tasks": "gossip"}, {"tasks": ()}, {"questions": 0}, {"options": 2}):
        with pytest.raises(InputError):
            Episodic(**options)
    with pytest.raises(InputError, match="fewer questions"):
        Episodic(questions=24).items(24, 2_000, 0, lambda text: 50 * len(text))


def test_a_conversation_that_ships():
    items = conversation(1_000, seed=4)
    assert len({item.context for item in items}) == 1
    assert {item.group["task"] for item in items} == set(TASKS)


# --- a store sits it -------------------------------------------------------------------------------------------------


def test_a_store_without_time_fails_what_asks_for_time():
    exam = Episodic(tasks=("order", "when"))
    scores = {}
    for dated in (True, False):
        for form in ("text", "likelihood"):
            subject = StoreSubject("plain", embedder=None)
            report = run(exam, subject if dated else Undated(subject), n=24, lengths=(1_000,), form=form)
            scores |= {(dated, form, row["task"]): row["score"] for row in report.table()}
    assert scores[True, "likelihood", "order"] >= 0.9
    assert min(scores[True, form, "when"] for form in ("text", "likelihood")) >= 0.8
    assert scores[False, "likelihood", "order"] <= 0.75
    assert max(scores[False, form, "when"] for form in ("text", "likelihood")) == 0


def test_a_store_reads_a_conversation_once_and_tells_what_it_recalls(monkeypatch):
    from memspan.longterm.memory import Memory

    added = []
    real = Memory.add
    monkeypatch.setattr(Memory, "add", lambda self, episodes: added.append(len(episodes)) or real(self, episodes))
    report = run(EXAM, StoreSubject("plain", embedder=None), n=24, lengths=(1_000,), form="text")
    assert len(added) == 2  # of 24 questions, 12 on each conversation
    assert report.score > 0.4
    recall = report.figures()["recall@10"]
    assert recall.n == 20  # what is to be declined has no evidence
    assert recall.low <= recall.value <= recall.high
    assert recall.value > 0.7
    assert report.bytes > 10_000
    assert report.to_json()["figures"]["recall@10"]["n"] == 20


def test_a_store_declines_in_both_forms_alike():
    subject = StoreSubject("plain", embedder=None)
    refused = []
    for item in of("abstention"):
        subject.read(item)
        weights, choice = subject.weigh(item.choices[0]), item.choices[0]
        assert choice.options[choice.declines] == f" {DECLINED}"
        refused.append(declines(subject.write(item)))
        if refused[-1]:
            assert max(weights) == weights[choice.declines]
    assert any(refused)
    subject.close()
