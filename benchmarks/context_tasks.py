"""What the context systems are asked to do: predict a long text, remember planted facts, answer about a book.

A system is whatever opens a reader; the model is the same for all, and so are the bytes.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from context_questions import QUESTIONS, SHA256

from memspan.context.family import Family
from memspan.context.reader import Reader
from memspan.core.errors import InputError

BLOCK = 512  # tokens between two looks at the bytes
PLANTED_AT = 1024  # tokens of a prompt with a planted fact
ITEMS = (
    "velvet curtains|garlic|turpentine|a hammock|cinnamon|lampshades|marzipan|an accordion|vinegar|goggles|saffron|"
    "a wheelbarrow|licorice|mustard|a telescope|raspberries|candles|a kettle|walnuts|parsley"
).split("|")

Opener = Callable[[], AbstractContextManager[Reader]]


@dataclass(frozen=True, slots=True)
class Planted:
    """A prompt [T] that holds a fact, a question that leads to it, and the answer, as token ids."""

    prompt: list[int]
    question: list[int]
    answer: list[int]


class Text:
    """A book and its token ids.

    Attributes:
        path: the file; ids: its tokens; book: whether `context_questions` is about it.

    Raises:
        InputError: the file cannot be read as text, or is too short.
    """

    def __init__(self, path: Path, tokenizer: Any, needed: int) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        self.path, self._tokenizer = path, tokenizer
        self.book = hashlib.sha256(data).hexdigest() == SHA256
        self.ids = self.encode(data.decode("utf-8", errors="replace"))
        if len(self.ids) < needed:
            raise InputError(f"{path} has {len(self.ids):,} tokens and {needed:,} are needed: give a longer text")

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def planted(self, count: int, digits: bool, seed: int) -> list[Planted]:
        """Prompts of 1,024 tokens of the text, each with one fact in its first half."""
        chance = random.Random(seed)
        names = chance.sample(ITEMS, min(count, len(ITEMS)))
        out = []
        for i in range(count):
            item = f"{chance.randint(10_000, 99_999)}" if digits else names[i % len(names)]
            fact = f" The pass key is [{item}]." if digits else f" I want you to buy the GROCERY: [{item}]. OK."
            lead = "\nThe pass key is [" if digits else "\nThe GROCERY that I want you to buy is: ["
            said = self.encode(fact)
            begin = chance.randrange(len(self.ids) - PLANTED_AT)
            part = self.ids[begin : begin + PLANTED_AT - len(said)]
            at = chance.randint(PLANTED_AT // 20, PLANTED_AT * 2 // 5)
            out.append(Planted([*part[:at], *said, *part[at:]], self.encode(lead), self.encode(item)))
        return out


def predict(reader: Reader, ids: Sequence[int], window: int) -> dict[str, Any]:
    """Perplexity by how far the token stands from the start, in windows, and the most bytes that were held.

    The bands end at 1, 2, 4, 8 and 16 windows; a band that was not reached is None, and all are where the system reads
    nothing before it is asked.
    """
    nats: list[torch.Tensor] = []
    most = 0
    for at in range(0, len(ids), BLOCK):
        said = reader.feed(list(ids[at : at + BLOCK]), nll=True)
        if said is not None:
            nats.append(said[0].float())
        most = max(most, reader.footprint().total)
    whole = torch.cat(nats) if nats else torch.empty(0)
    bands: dict[int, float | None] = {}
    for times in (1, 2, 4, 8, 16):
        part = whole[window * times // 2 if times > 1 else 0 : window * times]
        part = part[~part.isnan()]
        reached = len(whole) >= window * times
        bands[times] = math.exp(float(part.mean())) if reached and len(part) else None
    return {"perplexity": bands, "bytes": most}


def recall(opener: Opener, rows: Sequence[Planted]) -> dict[str, float]:
    """Mean nats of a planted answer's tokens, and how many answers greedy decoding would have given whole."""
    nats, whole = [], 0
    for row in rows:
        with opener() as reader:
            for at in range(0, len(row.prompt), BLOCK):
                reader.feed(row.prompt[at : at + BLOCK])
            nats.append(float(reader.score(row.question, [row.answer])[0].mean()))
            with reader.fork():
                ids = torch.tensor([row.question], device=reader.family.device)
                out = reader.model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(row.answer), do_sample=False,
                    pad_token_id=0,
                )  # fmt: skip
            whole += out[0, len(row.question) :].tolist() == row.answer
    return {"nats": fmean(nats), "whole": whole / len(rows)}


def book_questions(reader: Reader, text: Text) -> float:
    """Share of the statements about the book whose right ending is the likeliest by mean nats; chance is .25."""
    right = 0
    for lead, *endings in QUESTIONS:
        question = text.encode("\n\n" + lead)
        nats = [float(said.mean()) for said in reader.score(question, endings)]
        right += min(range(len(nats)), key=nats.__getitem__) == 0
    return right / len(QUESTIONS)


def speed(reader: Reader, ids: Sequence[int], decoded: int = 16) -> dict[str, float]:
    """Tokens a CPU second behind what was read already: reading a block, and decoding one by one."""
    begun = time.process_time()
    reader.feed(list(ids))
    read = len(ids) / (time.process_time() - begun)
    one, many = (_writing(reader, ids[-1:], count) for count in (1, decoded + 1))
    return {"read": read, "decode": decoded / (many - one)}


def _writing(reader: Reader, ids: Sequence[int], count: int) -> float:
    """CPU seconds of `count` new tokens behind some ids; the reader stays where it was."""
    asked = torch.tensor([list(ids)], device=reader.family.device)
    with reader.fork():
        begun = time.process_time()
        reader.model.generate(
            asked, attention_mask=torch.ones_like(asked), max_new_tokens=count, min_new_tokens=count, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        return time.process_time() - begun


def examine(opener: Opener, text: Text, window: int, length: int, words: list[Planted], numbers: list[Planted]) -> Any:
    """Everything about one system."""
    with opener() as reader:
        result: dict[str, Any] = predict(reader, text.ids[:length], window)
        result["book"] = book_questions(reader, text) if text.book else None
        result["speed"] = speed(reader, text.ids[length : length + BLOCK])
    result["words"], result["numbers"] = recall(opener, words), recall(opener, numbers)
    return result


def transformers_cache(model: Any, ids: Sequence[int], decoded: int = 16) -> dict[str, Any]:
    """transformers' own DynamicCache over the same text: its bytes, and its speed behind it."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    passed = {Family(model).cache_word: cache, "use_cache": True}
    rows = torch.tensor([list(ids)])
    with torch.no_grad():
        for at in range(0, rows.shape[1] - BLOCK, BLOCK):
            model.base_model(rows[:, at : at + BLOCK], **passed)
        begun = time.process_time()
        model.base_model(rows[:, -BLOCK:], **passed)
        read = BLOCK / (time.process_time() - begun)
        begun = time.process_time()
        for at in range(decoded):
            model.base_model(rows[:, at : at + 1], **passed)
        decode = decoded / (time.process_time() - begun)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return {"bytes": held, "speed": {"read": read, "decode": decode}}
