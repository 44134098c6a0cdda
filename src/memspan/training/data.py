"""Texts as batches of tokens, any of which can be had by its number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memspan.core.errors import InputError

BYTES = 256  # tokens that bytes are; the next one ends a text


def tokens_of(texts: Iterable[str], tokenizer: Any = None, *, vocabulary: int | None = None) -> np.ndarray[Any, Any]:
    """All texts one after the other, each followed by the token that ends one; int32 [tokens].

    Args:
        texts: at least one that is not empty.
        tokenizer: of transformers; None takes bytes as tokens and 256 as the end.
        vocabulary: tokens that the model knows; checked for bytes.

    Raises:
        InputError: there is no text, or the model's vocabulary is too small for bytes.
    """
    encode: Callable[[str], list[int]]
    if tokenizer is None:
        if vocabulary is not None and vocabulary <= BYTES:
            raise InputError(f"without a tokenizer bytes are the tokens, and a vocabulary of {vocabulary} has no room")
        ends: int | None = BYTES

        def encode(text: str) -> list[int]:
            return list(text.encode())
    else:
        ends = tokenizer.eos_token_id

        def encode(text: str) -> list[int]:
            found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            return found

    pieces: list[int] = []
    for text in texts:
        if text.strip():
            pieces += encode(text)
            if ends is not None:
                pieces.append(ends)
    if not pieces:
        raise InputError("there is no text to train on: the files are empty")
    return np.array(pieces, dtype=np.int32)


class TokenBatches:
    """Batches of whole rows, drawn without replacement, in another order in every epoch.

    A batch depends on nothing but its number, so that a resumed training goes on where it was.

    Args:
        tokens: all tokens, [n].
        batch: rows of a batch.
        seq: tokens of a row; what is left over at the end is not used.
        seed: of the order.

    Raises:
        InputError: there are too few tokens for one row.
    """

    def __init__(self, tokens: np.ndarray[Any, Any], *, batch: int, seq: int, seed: int = 0) -> None:
        self.rows = len(tokens) // seq
        if self.rows == 0:
            raise InputError(f"{len(tokens)} tokens are too few for a row of {seq}: add text, or shorten the rows")
        self.batch, self.seq, self.seed = batch, seq, seed
        self._tokens = tokens[: self.rows * seq].reshape(self.rows, seq)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __call__(self, number: int) -> dict[str, Tensor]:
        """Batch `number`, from 0 on: `input_ids` and `labels`, int64 [batch, seq], the same tensor."""
        places = range(number * self.batch, (number + 1) * self.batch)
        rows = np.stack([self._tokens[self._row(place)] for place in places])
        ids = torch.from_numpy(rows.astype(np.int64))
        return {"input_ids": ids, "labels": ids}

    def _row(self, place: int) -> int:
        epoch, at = divmod(place, self.rows)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        return int(self._order[at])

    @property
    def fingerprint(self) -> str:
        """Of the tokens and of how they are drawn: 16 hex digits."""
        digest = hashlib.sha256(f"{self.batch} {self.seq} {self.seed}".encode())
        digest.update(np.ascontiguousarray(self._tokens).data)
        return digest.hexdigest()[:16]
