"""Names for get-go's claim: a graph of real or made-up names, and the ways in which they are written wrongly."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memspan.models.base import Embedder, Vectors

Steps = dict[str, dict[str, str]]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYLLABLES = "ba ke li mo nu pra sti tor va wex yo zan dri fel gu hip jor qua ren sul".split()
MADE_RELATIONS = "was_born_in works_at is_married_to graduated_from plays_for died_in owns created".split()


def graph(seed: int) -> tuple[str, Steps]:
    """Where the names come from, and the steps that have one object: subject -> relation -> object."""
    data = os.environ.get("MEMSPAN_DATA")
    folder = Path(data or "") / "temporal-facts" / "yago"
    if not data or not folder.is_dir():
        return "made-up names", _made(seed)
    entities, relations = (_numbered(folder / f"{kind}2id.txt") for kind in ("entity", "relation"))
    objects: dict[tuple[str, str], set[str]] = {}
    for part in ("train", "valid", "test"):
        for line in (folder / f"{part}.txt").read_text(encoding="utf-8").splitlines():
            subject, relation, target = line.split("\t")[:3]
            objects.setdefault((entities[subject], relations[relation]), set()).add(entities[target])
    steps: Steps = {}
    for (subject, relation), found in objects.items():
        if len(found) == 1:
            steps.setdefault(subject, {})[relation] = next(iter(found))
    return "YAGO11k", steps


def _numbered(path: Path) -> dict[str, str]:
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return {row[1]: row[0].strip().strip("<>") for row in rows}


def _made(seed: int) -> Steps:
    chance = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < 6000:
        words = ["".join(chance.choices(SYLLABLES, k=chance.choice((2, 3)))).title() for _ in range(2)]
        names["_".join(words)] = None
    known = list(names)
    return {name: {r: chance.choice(known) for r in chance.sample(MADE_RELATIONS, 3)} for name in known}


def paths(steps: Steps, starts: Sequence[str], shortest: int, longest: int, seed: int) -> list[tuple[str, list[str]]]:
    """A walk from each start, as long as one of that many hops was found in 30 tries."""
    chance = random.Random(seed)
    made = []
    for start in starts:
        for _ in range(30):
            here, path = start, list[str]()
            for _ in range(chance.randint(shortest, longest)):
                if here not in steps:
                    break
                relation = chance.choice(sorted(steps[here]))
                path.append(relation)
                here = steps[here][relation]
            else:
                made.append((start, path))
                break
    return made


def followed(steps: Steps, start: str, path: Sequence[str]) -> str:
    """Where a path ends."""
    for relation in path:
        start = steps[start][relation]
    return start


def perturbed(name: str, chance: random.Random) -> str:
    """Underscores as spaces, another case, and one typo: a letter left out, put in, replaced, or two swapped."""
    text = name.replace("_", " ")
    text = chance.choice([text, text.lower(), text.upper()])
    places = [at for at, letter in enumerate(text) if letter.isalpha()]
    if not places:
        return text
    at, kind = chance.choice(places), chance.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + chance.choice(LETTERS) + text[at:]
    if kind == 2:
        return text[:at] + chance.choice(LETTERS) + text[at + 1 :]
    return text[:at] + text[at + 1 : at + 2] + text[at] + text[at + 2 :]


class Once:
    """An embedder that embeds a text once."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.dim, self.held = embedder, embedder.dim, dict[str, Vectors]()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """As the embedder's."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self.held]
        if fresh:
            self.held |= dict(zip(fresh, self.embedder.embed(fresh), strict=True))
        return np.array([self.held[text] for text in texts], np.float32)
