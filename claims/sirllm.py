"""SirLLM: at equal slots, keeping surprising tokens remembers a planted word that recency forgets.

Streams of running text for the bundled SmolLM2-135M-Instruct, fed in turns of 128 tokens into 256 slots. Early on a
sentence names a thing to buy; at the end the model is asked for it, and the figure is the mean surprisal (nats) of the
item's tokens. The oracle keeps the sentence and is otherwise recent. Digits are reported because the paper's score
fails on them. With MEMSPAN_DATA the text is `books/lcet10.txt`, else it is made up.
"""

from __future__ import annotations

import random
from statistics import fmean

import torch
from _context_data import language_model, text

import memspan
from memspan.context.base import ContextSystem
from memspan.context.baselines import Random, Window
from memspan.context.sirllm import SirLlm, word_starts
from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.core.testing import tiny_llama

TITLE = "A fixed cache that keeps surprising tokens remembers words that a window forgets"
EXPECTED = "partly"  # words are remembered as claimed; on a book it is less fluent than a window
SEEDS = (0,)

# Thresholds, fixed before the first run, from the card of the system: at least half of the gap between window and
# oracle is closed; at least 1 nat better than chance; in at least 90 % of streams with decay 0.7 the older of two
# statements goes first; bytes constant over 10,000 tokens (toy model); perplexity at most 1.1 times the window's.
CLOSED = 0.5
NATS = 1.0
OLDER_FIRST = 0.9
FLUENT = 1.1

SLOTS, TURN = 256, 128
ITEMS = (
    "velvet curtains|garlic|turpentine|a hammock|cinnamon|lampshades|marzipan|an accordion|vinegar|goggles|saffron|"
    "a wheelbarrow|licorice|mustard|a telescope|raspberries|candles|a kettle|walnuts|parsley|a trumpet|ginger|"
    "yarn|olives"
).split("|")


class Oracle(ContextSystem):
    """Keeps the statement, and the latest tokens."""

    as_slots = True
    span = (0, 0)

    def priority(self, track):
        """The statement above all."""
        pos = track.pos[:, :, : track.n]
        return pos.float() + 1e9 * ((pos >= self.span[0]) & (pos < self.span[1]))


def streams(count: int, length: int, seed: int, digits: bool):
    """(ids of the stream, span of the statement, ids of the question, ids of the item)."""
    tokenizer = language_model().tokenizer

    def encode(words: str) -> torch.Tensor:
        return torch.tensor(tokenizer(words, add_special_tokens=False)["input_ids"])

    whole, _ = text(count * length, seed)
    chance = random.Random(seed)
    names = chance.sample(ITEMS, len(ITEMS))
    out = []
    for i in range(count):
        item = str(chance.randint(10_000, 99_999)) if digits else names[i % len(names)]
        statement = encode(
            f" The pass key is [{item}]." if digits else f" I want you to buy the GROCERY: [{item}]. OK."
        )
        question = encode("\nThe pass key is [" if digits else "\nThe GROCERY that I want you to buy is: [")
        at = chance.randint(length // 10, length * 2 // 5)
        part = whole[i * length : (i + 1) * length - len(statement)]
        ids = torch.cat((part[:at], statement, part[at:]))
        out.append((ids, (at, at + len(statement)), question, encode(item)))
    return out


def recalled(make, rows) -> list[float]:
    """Mean surprisal of the item's tokens, one figure a stream."""
    found = []
    for ids, span, question, item in rows:
        system = make()
        if isinstance(system, Oracle):
            system.span = span
        with memspan.context(system, language_model()) as reader:
            for at in range(0, len(ids), TURN):
                reader.feed(ids[at : at + TURN])
            reader.feed(question)
            found.append(float(reader.feed(item, nll=True).mean()))
    return found


def older_first(count: int, seed: int) -> float:
    """Share of toy streams in which, of two equally surprising statements, the older one loses its slots first."""
    good = 0
    for i in range(count):
        chance = torch.Generator().manual_seed(seed * 1_000 + i)
        model = tiny_llama(seed=i, positions=256)
        said = torch.randint(0, 64, (8,), generator=chance)
        with memspan.context(SirLlm(slots=64, chunk=16, guard=8, decay=0.7), model) as reader:
            for turn in range(24):
                ids = torch.randint(0, 64, (16,), generator=chance)
                if turn in (2, 5):
                    ids[4:12] = said
                reader.feed(ids)
                kept = {slot.position for slot in reader.slots()}
                first = len(kept & set(range(36, 44)))
                second = len(kept & set(range(84, 92)))
                if turn > 5 and first == 0:
                    good += second > 0
                    break
    return good / count


def constant_bytes() -> tuple[int, int]:
    """Bytes after 1,000 and after 10,000 tokens of a toy model."""
    held = []
    chance = torch.Generator().manual_seed(0)
    with memspan.context(SirLlm(slots=64, chunk=64, guard=8), tiny_llama(positions=256)) as reader:
        for _ in range(10):
            reader.feed(torch.randint(0, 64, (1_000,), generator=chance))
            held.append(reader.footprint().total)
    return held[0], held[-1]


def fluency(make, count: int, seed: int) -> float:
    """Perplexity of the second half of `count` tokens."""
    ids, _ = text(count, seed)
    with memspan.context(make(), language_model()) as reader:
        nll = torch.cat([reader.feed(ids[at : at + TURN], nll=True) for at in range(0, count, TURN)], 1)
    return float(nll[:, count // 2 :].nanmean().exp())


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    count, length = (24, 1_024) if size == "full" else (2, 512)
    starts = word_starts(language_model().tokenizer)
    base = {"slots": SLOTS, "chunk": TURN}
    makes = {
        "window": lambda: Window(**base),
        "random": lambda: Random(**base, seed=seed),
        "sirllm": lambda: SirLlm(**base),
        "whole words": lambda: SirLlm(**base, whole_words="max", word_starts=starts),
        "oracle": lambda: Oracle(**base),
    }
    if size == "smoke":
        del makes["whole words"]
    rows = streams(count, length, seed, digits=False)
    nats = {name: fmean(recalled(make, rows)) for name, make in makes.items()}
    table = [{"cache": name, "nats per item token": round(value, 3)} for name, value in nats.items()]
    gap = nats["window"] - nats["oracle"]
    small, large = constant_bytes()
    parts = [
        Part(
            name="words are remembered",
            metric=f"share of the gap from window to oracle closed, {count} streams of {length} tokens, {SLOTS} slots",
            value=(nats["window"] - nats["sirllm"]) / gap,
            threshold=at_least(CLOSED),
            rows=table,
        )
        if gap > 0.5
        else Part(name="words are remembered", metric="share of the gap closed", void="window and oracle are alike"),
        Part(
            name="better than chance",
            metric="nats per item token",
            value=nats["sirllm"],
            baseline_name="random slots",
            baseline=nats["random"],
            threshold=at_most(-NATS, of="difference"),
        ),
        Part(
            name="old ones fade first",
            metric="share of toy streams, decay 0.7",
            value=older_first(20 if size == "full" else 10, seed),
            threshold=at_least(OLDER_FIRST),
        ),
        Part(
            name="constant bytes",
            metric="bytes after 10,000 tokens, toy model",
            value=large,
            baseline_name="after 1,000",
            baseline=small,
            threshold=at_most(1.0, of="ratio"),
        ),
    ]
    if size == "full":
        numbers = streams(8, length, seed, digits=True)
        summed = lambda: SirLlm(**base, whole_words="sum", word_starts=starts)  # noqa: E731
        plain, whole = fmean(recalled(makes["sirllm"], numbers)), fmean(recalled(summed, numbers))
        parts += [
            Part(
                name="numbers need whole words",
                metric="nats per digit with whole_words='sum', 8 streams",
                value=whole,
                baseline_name="the paper's score",
                baseline=plain,
                threshold=at_most(1.0, of="ratio"),
            ),
            Part(
                name="fluency",
                metric="perplexity of tokens 2,048 to 4,096",
                value=fluency(makes["sirllm"], 4_096, seed),
                baseline_name="sinks and window",
                baseline=fluency(makes["window"], 4_096, seed),
                threshold=at_most(FLUENT, of="ratio"),
            ),
        ]
    return Evidence(slug="sirllm", size=size, parts=parts)
