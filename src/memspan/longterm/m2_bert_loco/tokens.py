"""BERT's word pieces: the tokenizer of the bundled embedder, without its length limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memspan.core.errors import InputError, ModelError
from memspan.models.base import checked_texts
from memspan.models.spec import bundled_embedder, require_local


class WordPieces:
    """Texts to token ids, [CLS] first and [SEP] last, lower-cased as BERT-uncased wants.

    Args:
        path: a tokenizer.json; None is the bundled embedder's.

    Raises:
        MissingExtraError: the tokenizers package, or the bundled embedder, is not installed.
        ModelError: the file cannot be read, or lacks one of BERT's special tokens.
    """

    def __init__(self, path: Path | None = None) -> None:
        require_local()
        from tokenizers import Tokenizer

        path = path or bundled_embedder() / "tokenizer.json"
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises bare Exception
            raise ModelError(f"the tokenizer {path} cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        special = [self._tokenizer.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")]
        if None in special:
            raise ModelError(f"the tokenizer {path} lacks [PAD], [CLS], [SEP] or [MASK]")
        self.pad, self.cls, self.sep, self.mask = (int(token or 0) for token in special)
        self.size = int(self._tokenizer.get_vocab_size())

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, all of them."""
        checked = checked_texts(texts)
        # A lone surrogate is legal in a Python string, and no tokenizer can encode it.
        clean = [text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in checked]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(clean)]

    def batch(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids [B, L] and mask [B, L], padded at the end to the longest row."""
        if not rows or not all(rows):
            raise InputError("a batch needs at least one row, and each row at least one token")
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.pad, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return ids, torch.arange(longest) < torch.tensor([[len(row)] for row in rows])

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        self._tokenizer.save(str(path))
