"""Text and vectors for measuring a store's speed: made here, alike on every machine, of any size. Needs numpy alone.

The words follow Zipf's law, as words of real text do: their commonest 120 are English, the others are built from
syllables. Vectors are random unit vectors drawn from a hash of the text. So speed and bytes can be measured, and
nothing about quality: no question here is better answered by one episode than by another.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEAD = (
    "the i to a and you it that is of in was for on my so we this have be with are at but they just what like do"
    " not me your if or all can one there about time from how get when out up know some good really now more people"
    " think would her had want them day work see then been go other could make well him new back here way even any"
    " need still where over our after right first year great love take many family much last week home friend"
    " things always life long never find made feel help weekend old kids next house music school trip place book"
    " dinner job dog garden party movie hiking city car summer photo"
).split()
VOCABULARY = 50_000
DIM = 384
SPEAKERS = ("Ann", "Ben", "Chloe", "David")
TURNS_PER_SESSION = 20
_START = datetime(2025, 1, 1, tzinfo=UTC)


def vocabulary() -> list[str]:
    """50,000 words, the commonest first."""
    onsets = "b br c ch d dr f fl g gr h j k l m n p pl qu r s sh st t th tr v w".split()
    syllables = ["".join(parts) for parts in itertools.product(onsets, "aeiou", ("", "n", "r", "st", "l"))]
    order = np.random.default_rng(7)
    words = dict.fromkeys(HEAD)
    while len(words) < VOCABULARY:
        count = 2 if len(words) < 4000 else 3
        words["".join(syllables[place] for place in order.integers(0, len(syllables), count))] = None
    return list(words)


def episodes(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` short turns (median 18 words) as dictionaries of `id`, `text`, `speaker`, `session` and `at` (ISO)."""
    random = np.random.default_rng(seed)
    words = vocabulary()
    lengths = np.clip(random.lognormal(np.log(18), 0.6, count), 3, 90).astype(int)
    drawn = _zipf(random, int(lengths.sum()))
    turns = []
    begin = 0
    for number, length in enumerate(lengths.tolist()):
        text = " ".join(words[rank] for rank in drawn[begin : begin + length].tolist())
        begin += length
        session = number // TURNS_PER_SESSION
        at = _START + timedelta(hours=8 * session, minutes=number % TURNS_PER_SESSION)
        pair = session % len(SPEAKERS)
        turns.append(
            {
                "id": f"t{number}",
                "text": text[0].upper() + text[1:] + ".",
                "speaker": SPEAKERS[(pair + number % 2) % len(SPEAKERS)],
                "session": f"s{session}",
                "at": at.isoformat(),
            }
        )
    return turns


def questions(turns: Sequence[dict[str, Any]], count: int, seed: int = 1) -> list[str]:
    """Questions that name a speaker and up to four words of one turn, rarer ones rather than "the"."""
    random = np.random.default_rng(seed)
    common = set(HEAD[:60])
    asked = []
    for place in random.integers(0, len(turns), count).tolist():
        turn = turns[place]
        said = [word for word in turn["text"].lower().rstrip(".").split() if word not in common] or ["dinner"]
        chosen = random.permutation(len(said))[:4]
        asked.append(f"What did {turn['speaker']} say about {' '.join(said[at] for at in sorted(chosen.tolist()))}?")
    return asked


def vectors(texts: Sequence[str], dim: int = DIM) -> NDArray[np.float32]:
    """[n, dim] random unit vectors, the same for the same text."""
    made = np.empty((len(texts), dim), np.float32)
    for row, text in enumerate(texts):
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        made[row] = np.random.Generator(np.random.SFC64(seed)).standard_normal(dim, np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def _zipf(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Ranks drawn by the Zipf-Mandelbrot law p(r) ~ 1 / (r + 2.7)."""
    weights = 1 / (np.arange(VOCABULARY) + 2.7)
    edges = np.cumsum(weights / weights.sum())
    return np.minimum(np.searchsorted(edges, random.random(count)), VOCABULARY - 1)
