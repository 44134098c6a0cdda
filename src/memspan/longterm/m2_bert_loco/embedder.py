"""The encoder with its tokenizer: saved, loaded, as an `Embedder`, and as something that `fit_retriever` trains."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from memspan.core.errors import InputError, ModelError
from memspan.core.footprint import Footprint
from memspan.core.long_conv import LongConv
from memspan.longterm.m2_bert_loco.config import FORMAT, KIND, PADDING, M2Config, check_metadata
from memspan.longterm.m2_bert_loco.model import M2Encoder
from memspan.longterm.m2_bert_loco.tokens import WordPieces
from memspan.models.base import Vectors
from memspan.models.hardware import torch_threads
from memspan.models.progress import progress_bar
from memspan.models.spec import fingerprint

BATCH_TOKENS = 8192
"""Tokens of a forward pass, padding included; a longer text goes alone."""
TooLong = Literal["error", "cut"]


def save(
    model: M2Encoder,
    directory: str | os.PathLike[str],
    tokenizer: WordPieces | None = None,
    training: dict[str, Any] | None = None,
) -> Path:
    """Write model.safetensors, tokenizer.json and, last, config.json; each file is replaced in one step.

    Args:
        training: what the weights come from, kept in config.json and not looked at.
    """
    from safetensors.torch import save_file

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    said = {"kind": KIND, "format": FORMAT, "padding": PADDING, "pooling": "mean"}
    said |= {"encoder": dataclasses.asdict(model.config), "training": training or {}}
    writers: dict[str, Callable[[Path], Any]] = {
        "model.safetensors": lambda path: save_file(tensors, path),
        "tokenizer.json": (tokenizer or WordPieces()).save,
        "config.json": lambda path: path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8"),
    }
    for name, write in writers.items():
        draft = folder / f".{name}.part"
        write(draft)
        draft.replace(folder / name)
    return folder


def read_config(directory: str | os.PathLike[str]) -> M2Config:
    """The shape of a saved encoder. Raises as `load`."""
    path = Path(directory) / "config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        check_metadata(said if isinstance(said, dict) else {}, str(path))
        return M2Config(**said["encoder"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the encoder in {directory} cannot be loaded: {error}") from error


def load(directory: str | os.PathLike[str]) -> tuple[M2Encoder, WordPieces]:
    """The encoder, in evaluation mode, and its tokenizer.

    Raises:
        UnsupportedModelError: the directory is of another kind, a newer format, or another padding policy.
        ModelError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder, config = Path(directory), read_config(directory)
    try:
        with torch.random.fork_rng(devices=[]):
            model = M2Encoder(config)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the encoder in {folder} cannot be loaded: {error}") from error
    return model.eval(), WordPieces(folder / "tokenizer.json")


class M2Retriever(nn.Module):
    """The encoder as `memspan.longterm.retriever.fit_retriever` trains it.

    Args:
        encoder: trained in place.
        tokenizer: its word pieces.
        max_tokens: tokens read of a text in training, at most the encoder's `max_len`, which is the default.
    """

    def __init__(self, encoder: M2Encoder, tokenizer: WordPieces, max_tokens: int | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self._tokenizer = tokenizer
        self.max_tokens = min(max_tokens or encoder.config.max_len, encoder.config.max_len)

    def encode_texts(self, texts: Sequence[str], tasks: Sequence[str], side: str) -> Tensor:
        """[n, D] masked means; the task and the side do not matter."""
        rows = cut(self._tokenizer.ids(texts), self.max_tokens)
        ids, mask = self._tokenizer.batch(rows)
        device = self.encoder.positions.weight.device
        return self.encoder.embed(ids.to(device), mask.to(device))


def cut(rows: list[list[int]], most: int) -> list[list[int]]:
    """Each row's first tokens, its last one ([SEP]) kept."""
    return [row if len(row) <= most else [*row[: most - 1], row[-1]] for row in rows]


class M2Embedder:
    """A saved encoder as an `Embedder`: the masked mean of the tokens' vectors, scaled to length 1.

    Args:
        directory: what `save` wrote, or an encoder with its tokenizer.
        name: as messages show it.
        too_long: what happens with a text of more than `max_tokens` tokens: "error" raises an InputError, "cut" reads
            the first ones.
        threads: cores to use; None is what PyTorch is set to use.

    Raises:
        ModelError: as `load`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        name: str | None = None,
        too_long: TooLong = "error",
        threads: int | None = None,
    ) -> None:
        if too_long not in ("error", "cut"):
            raise InputError(f"too_long is {too_long!r}; it must be 'error' or 'cut'")
        self.model, self.tokenizer = load(directory)
        self.name = name or os.fspath(directory)
        self.fingerprint = fingerprint(Path(directory), family="embed-m2")
        self.too_long = too_long
        self.threads = threads

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.model.config.hidden

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text, [CLS] and [SEP] counted."""
        return self.model.config.max_len

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> Vectors:
        """Embed texts into float32 [len(texts), dim] of unit rows, in the order given.

        Raises:
            InputError: an element is no string, or, unless `too_long` is "cut", has too many tokens.
        """
        rows = self.tokenizer.ids(texts)
        longest = max(map(len, rows), default=0)
        if longest > self.max_tokens and self.too_long == "error":
            raise InputError(
                f"text {[len(row) for row in rows].index(longest)} has {longest:,} tokens and {self.name} reads"
                f" {self.max_tokens:,}: use too_long='cut', or a longer encoder (extend_length)"
            )
        return embed_rows(self.model, self.tokenizer, cut(rows, self.max_tokens), progress, self.threads)

    def footprint(self) -> Footprint:
        """Bytes of the weights and of the filters' spectra that are kept."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        kept = sum(module.kept_bytes for module in self.model.modules() if isinstance(module, LongConv))
        return Footprint.of("weights", "ram", sum(t.numel() * t.element_size() for t in tensors) + kept)


def embed_rows(
    model: M2Encoder, tokenizer: WordPieces, rows: list[list[int]], progress: bool = False, threads: int | None = None
) -> Vectors:
    """Unit vectors [n, D] of token rows, batched by length so that padding is small."""
    vectors = np.empty((len(rows), model.config.hidden), np.float32)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    with (
        torch_threads(threads),
        torch.inference_mode(),
        progress_bar("embedding", len(rows), force=progress) as advance,
    ):
        while order:
            size = max(1, BATCH_TOKENS // len(rows[order[0]]))
            places, order = order[:size], order[size:]
            ids, mask = tokenizer.batch([rows[i] for i in places])
            vectors[places] = nn.functional.normalize(model.embed(ids, mask).float(), dim=-1).numpy()
            advance(len(places))
    return vectors
