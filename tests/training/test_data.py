"""Batches depend on nothing but their number."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from memspan.core.errors import InputError
from memspan.training import TokenBatches
from memspan.training.data import tokens_of


def test_every_row_comes_once_an_epoch():
    batches = TokenBatches(np.arange(43, dtype=np.int32), batch=2, seq=4, seed=3)  # ten rows, three tokens left over
    epoch = [row.tolist() for number in range(5) for row in batches(number)["input_ids"]]
    assert sorted(epoch) == np.arange(40).reshape(10, 4).tolist()
    second = [row.tolist() for number in range(5, 10) for row in batches(number)["input_ids"]]
    assert sorted(second) == sorted(epoch) and second != epoch


def test_a_batch_is_the_same_in_whatever_order_it_is_asked_for():
    tokens = np.arange(100, dtype=np.int32)
    batches = TokenBatches(tokens, batch=3, seq=7)
    forwards = [batches(number)["input_ids"].tolist() for number in range(20)]
    backwards = [batches(number)["input_ids"].tolist() for number in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert TokenBatches(tokens, batch=3, seq=7).fingerprint == batches.fingerprint
    assert TokenBatches(tokens, batch=3, seq=7, seed=1).fingerprint != batches.fingerprint


def test_labels_are_the_input():
    batch = TokenBatches(np.arange(8, dtype=np.int32), batch=1, seq=8)(0)
    assert batch["labels"] is batch["input_ids"]


def test_bytes_are_tokens_where_there_is_no_tokenizer():
    assert tokens_of(["hé", " "]).tolist() == [104, 195, 169, 256]
    with pytest.raises(InputError, match="a vocabulary of 256 has no room"):
        tokens_of(["a"], vocabulary=256)


def test_too_little_text_is_refused():
    with pytest.raises(InputError, match="no text to train on"):
        tokens_of(["", "\n"])
    with pytest.raises(InputError, match="3 tokens are too few for a row of 4"):
        TokenBatches(np.arange(3, dtype=np.int32), batch=1, seq=4)
