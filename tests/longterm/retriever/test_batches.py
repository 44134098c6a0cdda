"""Batches: one task each, every example once an epoch, the same for the same seed."""

import pytest

from memspan.core.errors import InputError
from memspan.longterm.retriever import Example, HomogeneousBatches, TaskSet, text_ids


def examples(name, count, negatives=3, rewards=None):
    return [
        Example(
            query=f"{name} {i}",
            positives=(f"{name} {i} right",),
            negatives=tuple(f"{name} {i} wrong {j}" for j in range(negatives)),
            rewards=rewards,
        )
        for i in range(count)
    ]


def test_a_batch_is_of_one_task_and_an_epoch_is_whole():
    batches = HomogeneousBatches([TaskSet("a", examples("a", 11)), TaskSet("b", examples("b", 9))], batch=4, keys=3)
    assert len(batches) == 2 + 2
    for epoch in range(3):
        drawn = [batches[epoch * 4 + i] for i in range(4)]
        assert all(len(set(batch.tasks)) == 1 for batch in drawn)
        queries = [query for batch in drawn for query in batch.queries]
        assert len(queries) == len(set(queries)) == 16
    assert [batch.queries for batch in batches] == [batches[i].queries for i in range(4)]
    mixed = HomogeneousBatches(
        [TaskSet("a", examples("a", 11)), TaskSet("b", examples("b", 9))], batch=4, keys=3, mixed=True
    )
    assert len(mixed) == 5 and any(len(set(batch.tasks)) == 2 for batch in mixed)


def test_any_step_in_any_order_is_the_same():
    sets = [TaskSet("a", examples("a", 20))]
    one, two = (HomogeneousBatches(sets, batch=4, seed=3) for _ in range(2))
    forwards = [one[i] for i in range(15)]
    assert [two[i].keys for i in reversed(range(15))] == [batch.keys for batch in reversed(forwards)]
    other = HomogeneousBatches(sets, batch=4, seed=4)
    assert [other[i].queries for i in range(5)] != [batch.queries for batch in forwards[:5]]


def test_keys_carry_their_rewards():
    rewards = (-1.0, -2.0, -0.5, -3.0)
    data = examples("a", 8, rewards=rewards)
    by_text = {}
    for example in data:
        by_text |= zip((*example.positives, *example.negatives), rewards, strict=True)
    for positive in ("first", "random", "teacher"):
        batch = HomogeneousBatches([TaskSet("a", data, positive)], batch=4, keys=6)[0]
        assert [[by_text[key] for key in row] for row in batch.keys] == batch.rewards.tolist()
        first = -0.5 if positive == "teacher" else -1.0
        assert batch.rewards[:, 0].tolist() == [first] * 4
    assert all(row[0] not in row[1:] for row in batch.keys)  # the teacher's choice is no negative any more


def test_few_negatives_are_repeated_and_random_positives_are_drawn():
    batch = HomogeneousBatches([TaskSet("a", examples("a", 4, negatives=2), negatives="first")], batch=4, keys=6)[0]
    assert [key[-1] for key in batch.keys[0]] == ["t", "0", "1", "0", "1", "0"]
    several = [Example(query=f"q{i}", positives=("x", "y"), negatives=("z",)) for i in range(16)]
    batch = HomogeneousBatches([TaskSet("a", several, "random")], batch=16, keys=2)[0]
    assert {row[0] for row in batch.keys} == {"x", "y"} and {row[1] for row in batch.keys} == {"z"}


def test_ids_tell_equal_texts():
    batch = HomogeneousBatches([TaskSet("a", examples("a", 4, negatives=1))], batch=2, keys=3)[0]
    ids = batch.ids()
    assert ids.shape == (2, 3) and len(set(ids.flatten().tolist())) == 4
    assert text_ids(["a"]).item() == text_ids(["b", "a"])[1].item()
    assert text_ids(["half an emoji \ud83d"]).shape == (1,)


def test_bad_input():
    with pytest.raises(InputError, match="fills a batch of 4"):
        HomogeneousBatches([TaskSet("a", examples("a", 3))], batch=4)
    with pytest.raises(InputError, match="no negative"):
        HomogeneousBatches([TaskSet("a", examples("a", 4, negatives=0))], batch=4)
    assert HomogeneousBatches([TaskSet("a", examples("a", 4, negatives=0))], batch=4, keys=1)[0].ids().shape == (4, 1)
    with pytest.raises(InputError, match="teacher"):
        HomogeneousBatches([TaskSet("a", examples("a", 4), "teacher")], batch=4)
    with pytest.raises(InputError, match="at least 1"):
        HomogeneousBatches([], batch=0)
    with pytest.raises(InputError, match="no positive"):
        Example(query="q", positives=())
    with pytest.raises(InputError, match="rewards"):
        Example(query="q", positives=("a",), rewards=(1.0, 2.0))
