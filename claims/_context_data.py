"""What the claims of `context` read: the bundled model, and text that was made here or a public-domain book."""

from __future__ import annotations

import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import torch

PEOPLE = "farmer captain teacher painter nurse baker judge sailor widow clerk miller doctor".split()
PLACES = "harbour market chapel forest station library garden bridge mill castle orchard tavern".split()
ACTS = "crossed the {b} {a}|waited near the {b} {a}|wrote a letter about the {b} {a}|sold a horse in the {b} {a}".split(
    "|"
)
WHEN = (
    "in the early morning|before the rain came|after a long winter|at the end of the week|while the bells rang".split(
        "|"
    )
)
THOUGHTS = (
    "Nobody had expected it, and few were pleased.",
    "It was said that the old road would soon be closed.",
    "The weather, as so often in that part of the country, changed within the hour.",
    "There was little to eat, but there was talk enough for everyone.",
    "For a while nothing was heard but the wind in the trees.",
)


@cache
def language_model() -> Any:
    """The bundled SmolLM2-135M-Instruct in float32."""
    from memspan.models import load_language_model

    return load_language_model("bundled", dtype="float32", threads=1)


def made_up(seed: int, sentences: int) -> str:
    """Plain narrative sentences without names or numbers."""
    chance = random.Random(seed)
    out = []
    for _ in range(sentences):
        act = chance.choice(ACTS).format(a=chance.choice(WHEN), b=chance.choice(PLACES))
        out.append(f"The {chance.choice(PEOPLE)} {act}. {chance.choice(THOUGHTS)}")
    return " ".join(out)


def text(count: int, seed: int, named: str = "lcet10.txt") -> tuple[torch.Tensor, str]:
    """Token ids [count] of running text, and what it is: a book below MEMSPAN_DATA, or made up here."""
    tokenizer = language_model().tokenizer
    folder = os.environ.get("MEMSPAN_DATA")
    book = Path(folder) / "books" / named if folder else None
    if book is not None and book.is_file():
        whole, name = book.read_text(encoding="utf-8", errors="replace"), book.name
        whole = whole[seed * 20_000 :]
    else:
        whole, name = made_up(seed, count // 15), "made-up text"
    ids = tokenizer(whole[: count * 8], add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids[:count]), name
