"""MemoryBank: what is used stays, what is not fades, and neither depends on how often one looks.

Every part runs on conversations made here from a seed, by full text alone. Where the environment variable MEMSPAN_DATA
names a folder with `locomo-dev/` (LoCoMo, CC BY-NC 4.0) or `memorybank-en/` (the paper's English bank, MIT), the replay
runs on the one and the dated questions and the erasure on the other too, with the bundled embedder.

The replay: sessions in the order of time, the store's clock with them, and never more than a quarter of what was said
so far awake. A third of the questions is asked on the way, each in a session after its evidence. What is used of the
turns that recall finds among those awake: the ones that hold the answer, as a reader who cites rightly would have it;
or all of the first six, as in the paper. The rest is asked at the end, some about turns that the earlier questions were
about (rehearsed), some about others. No policy wakes a dormant turn by its words, except in the row that says so.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from _memorybank_replay import (
    ALL,
    FIFO,
    FIFO_WAKING,
    IN_CONTEXT,
    LRU,
    OURS,
    POLICIES,
    RANDOM,
    SHIPPED,
    Asked,
    Talk,
    plan,
    replay,
)

from memspan import Episode, Memory
from memspan.core.claims import Evidence, Part, Series, at_least, at_most
from memspan.longterm.base import Scribe
from memspan.longterm.memorybank import MemoryBank, MemoryBankConfig
from memspan.longterm.retention import Retention
from memspan.longterm.scribe import load_scribe

TITLE = "What is used stays awake, what is not fades, reversibly and however often one looks"
EXPECTED = "partly"  # rehearsal keeps 1.2 to 1.4 times what the newest quarter keeps, not 1.5; the rest holds
SEEDS = (0, 1, 2)

# Thresholds, fixed before the first run. Set beforehand: the curve to 1e-9 and always rising in strength; the same set
# after 1 and after 1,000 openings; under a cap of 25 %, recall at 10 of rehearsed facts at least 1.5 times that of the
# newest quarter and of a random one (whether it beats the last used is said in any case); the named day
# among the first three for at least 0.97 of the questions that name one; no byte of a forgotten user.
EXACT = 1e-9
TIMES_FIFO = TIMES_RANDOM = 1.5
NOT_BEHIND_LRU = 0.0
HIT_AT_3 = 0.97
KS = (1, 3, 6)

START = datetime(2024, 1, 1, 18, tzinfo=UTC)


# --- 1, 2: the curve, and looking often ------------------------------------------------------------------------------


def curve(seed: int) -> list[Part]:
    """The curve against its formula, and whether strength always prolongs; the official code's form as the baseline."""
    chance = np.random.default_rng(seed)
    days, strength = chance.uniform(0, 60, 20_000), chance.integers(1, 20, 20_000)
    retention = Retention("exponential", 5.0)
    left = retention(days, strength)
    wrong = np.max(np.abs(left - np.exp(-days / (5 * strength))))
    stronger = retention(days, strength + 1)
    code, code_stronger = np.exp(-days / 5 * strength), np.exp(-days / 5 * (strength + 1))
    lawful = (left > 0) & (left <= 1) & (stronger > left) & (retention(days + 1, strength) < left)
    t = np.linspace(0, 60, 61)
    lines = {f"S = {s}": (t.tolist(), retention(t, s).tolist()) for s in (1, 2, 5, 10)}
    return [
        Part(
            name="the curve is exp(−t/(5S))",
            metric="largest difference over 20,000 random t and S",
            value=float(wrong),
            threshold=at_most(EXACT),
            series=Series(lines=lines, x_label="days since the last use", y_label="retention R", threshold=0.05),
        ),
        Part(
            name="strength prolongs, time fades",
            metric="share of random t and S at which R is in (0, 1], rises in S and falls in t",
            value=float(np.mean(lawful)),
            baseline_name="official code, exp(−t·S/5)",
            baseline=float(np.mean(code_stronger > code)),
            threshold=at_least(1.0),
        ),
    ]


def looking(size: str, seed: int) -> list[Part]:
    """The same episodes are dormant after one opening and after many, by threshold and by chance."""
    openings = 50 if size == "smoke" else 1000
    said = [Episode(f"turn number {i}", at=START + timedelta(hours=3 * i), id=f"t{i}") for i in range(240)]
    now = START + timedelta(days=31)
    parts = []
    for forgetting in ("threshold", "chance"):
        config = MemoryBankConfig(awake=0, forgetting=forgetting, seed=seed)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bank.db"
            seen = set()
            for opening in range(openings):
                with Memory.open(path, organizer=MemoryBank(config=config), embedder=None, now=lambda: now) as memory:
                    if opening == 0:
                        memory.add(said)
                    seen.add(tuple(sorted(hit.id for hit in memory.organizer.dormant(memory))))
        chance = np.random.default_rng(seed)
        alive = np.ones(len(said), bool)
        days = np.array([(now - episode.at).days for episode in said if episode.at])
        sizes = []
        for _ in range(openings):  # the official rule, with the intended exponent: a coin for every turn at every load
            alive &= chance.random(len(said)) < np.exp(-days / 5)
            sizes.append(int(alive.sum()))
        parts.append(
            Part(
                name=f"forgetting by {forgetting} does not depend on looking",
                metric=f"different sets of dormant episodes over {openings:,} openings",
                value=float(len(seen)),
                baseline_name="official rule, a coin at each load",
                baseline=float(len(set(sizes))),
                threshold=at_most(1.0),
                note=f"of {len(said)} turns the official rule leaves {sizes[0]} after one load and {sizes[-1]} after "
                f"{openings:,}; here {len(said) - len(next(iter(seen)))} stay awake whatever is done",
            )
        )
    return parts


# --- 3: what forgetting keeps ----------------------------------------------------------------------------------------


def under_a_cap(label: str, talks: Sequence[Talk], seed: int, embedder: Any = None) -> list[Part]:
    """All policies on all conversations."""
    recalls: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in POLICIES}
    for number, talk in enumerate(talks):
        planned = plan(talk, random.Random(seed * 1000 + number))
        for name, policy in POLICIES.items():
            for total, part in zip(recalls[name], replay(talk, planned, policy, seed, embedder), strict=True):
                total += part
    rehearsed = {name: float(np.mean(found[0])) for name, found in recalls.items()}
    others = {name: float(np.mean(found[1])) for name, found in recalls.items()}
    count = len(recalls[OURS][0])
    rows = [
        {"awake": name, "rehearsed facts": round(rehearsed[name], 3), "other facts": round(others[name], 3)}
        for name in POLICIES
    ]
    cost = (
        f"Other facts: {others[OURS]:.3f} against {others[ALL]:.3f} with everything awake. Forgetting costs recall and "
        "buys size."
    )
    waking = (
        f"Dormant turns are not deleted: a question that has their rare words wakes them, whatever put them to sleep "
        f"({rehearsed[FIFO_WAKING]:.3f} when the newest stay awake)."
    )
    context = "As in the paper, whatever was in a context counts as used."
    parts = []
    for ours, rival, threshold, note in (
        (OURS, FIFO, at_least(TIMES_FIFO, of="ratio"), cost),
        (OURS, RANDOM, at_least(TIMES_RANDOM, of="ratio"), ""),
        (
            OURS,
            LRU,
            at_least(NOT_BEHIND_LRU, of="difference"),
            "The same curve with no gain in strength: only the time of the last use counts.",
        ),
        (IN_CONTEXT, FIFO, at_least(TIMES_FIFO, of="ratio"), context),
        (SHIPPED, FIFO, at_least(TIMES_FIFO, of="ratio"), waking),
    ):
        parts.append(
            Part(
                name=f"{label}, a quarter awake: {ours}, against {rival}",
                metric=f"recall at 10 over {count} questions about rehearsed turns",
                value=rehearsed[ours],
                baseline_name=rival,
                baseline=rehearsed[rival],
                threshold=threshold,
                note=note,
                rows=rows if (ours, rival) == (OURS, FIFO) else (),
            )
        )
    return parts


NAMES = "Ada Boris Celia Dario Edda Farid Greta Hugo Ines Jonas Karla Liam".split()
THINGS = "bicycle tent guitar kettle ladder lamp camera sledge canoe clock piano wheelbarrow".split()
COLOURS = "red blue green yellow grey violet orange white".split()
PLACES = "cellar attic garage shed kitchen hall balcony garden".split()
FILLER = "It rained all day here. / The train was late again. / Shall we talk tomorrow? / I had soup for lunch.".split(
    " / "
)


def made_up_talk(seed: int, sessions: int) -> Talk:
    """Facts of two parts each among small talk, five a session, with a question about either part."""
    chance = random.Random(seed)
    pairs = [(name, thing) for name in NAMES for thing in THINGS]
    chance.shuffle(pairs)
    made, asked = [], []
    for number in range(sessions):
        at = START + timedelta(days=7 * number)
        turns = []
        for name, thing in pairs[5 * number : 5 * number + 5]:
            colour, place, uid = chance.choice(COLOURS), chance.choice(PLACES), f"{name}-{thing}"
            turns.append((uid, f"{name} has a {colour} {thing} and keeps it in the {place}."))
            asked.append(Asked(f"What colour is the {thing} of {name}?", (uid,)))
            asked.append(Asked(f"Where does {name} keep the {thing}?", (uid,)))
        turns += [(f"small{number}-{i}", chance.choice(FILLER)) for i in range(10)]
        chance.shuffle(turns)
        made.append(
            [
                Episode(text, "Ann" if i % 2 else "Bo", at + timedelta(minutes=i), f"s{number}", uid)
                for i, (uid, text) in enumerate(turns)
            ]
        )
    return Talk(made, asked)


def locomo(folder: Path, size: str) -> list[Talk]:
    """LoCoMo's conversations, sessions in the order of time."""
    from memspan.longterm.readers.questions import load

    talks = []
    for conversation in load(folder)[0].conversations[: 1 if size == "smoke" else None]:
        by_session: dict[str, list[Episode]] = {}
        for episode in conversation.episodes:
            by_session.setdefault(str(episode.session), []).append(episode)
        ordered = sorted(by_session.values(), key=lambda turns: turns[0].at or START)
        questions = [Asked(question.text, question.evidence) for question in conversation.questions]
        talks.append(Talk(ordered, list(dict.fromkeys(questions))))
    return talks


# --- 4: dated questions ----------------------------------------------------------------------------------------------

Bank = dict[str, tuple[list[Episode], list[str]]]
"""User -> episodes and questions."""


def made_up_bank(seed: int) -> Bank:
    """Users who do the same few things on ten days; questions differ in the day alone, and some name another day."""
    chance = random.Random(seed)
    things = "painted a picture / read a novel / went swimming / cooked a curry / mended the fence / met a friend"
    bank: Bank = {}
    for name in NAMES[:6]:
        said, questions = [], []
        for number in range(10):
            at = START + timedelta(days=3 * number)
            for i, what in enumerate(chance.sample(things.split(" / "), 3)):
                text = f"Today I {what} and it took {chance.randint(2, 9)} hours, said {name}{number}{i}x."
                said.append(Episode(text, name, at + timedelta(minutes=i), f"d{number}", f"{name}-{number}-{i}"))
            named = at + timedelta(days=chance.random() < 0.1)
            questions.append(f"What did I do on {named:%B} {named.day}, and how many hours did it take?")
        bank[name] = (said, questions)
    return bank


def english_bank(folder: Path) -> Bank:
    """The paper's bank; stray spaces around names are taken off."""
    users = json.loads((folder / "memory_bank_en.json").read_text(encoding="utf-8"))
    bank: Bank = {}
    for key, content in users.items():
        name, said = " ".join(key.split()), []
        for day, exchanges in sorted(content["history"].items()):
            for number, exchange in enumerate(exchanges):
                at = datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC) + timedelta(minutes=number)
                for role, part in (("user", "query"), ("assistant", "response")):
                    if exchange[part].strip():
                        uid = f"{day}/{number}/{role}"
                        said.append(Episode(exchange[part], None, at, day, uid, {"role": role}))
        bank[name] = (said, [])
    for line in (folder / "probing_questions_en.jsonl").read_text(encoding="utf-8").splitlines():
        for key, questions in json.loads(line).items():
            bank[" ".join(key.split())][1].extend(questions)
    return bank


def dated(label: str, bank: Bank, embedder: Any = None) -> list[Part]:
    """Whether a question that names a day finds a turn of that day, or nothing when there is none."""
    from memspan.longterm.scribe.dates import find_times

    found: dict[str, list[tuple[bool, list[bool]]]] = {}
    modes = {
        "filter": MemoryBankConfig(dates="filter"),
        "bonus": MemoryBankConfig(),
        "none": MemoryBankConfig(date_bonus=0.0),
    }
    for mode, config in modes.items():
        found[mode] = []
        for said, questions in bank.values():
            last = max(episode.at for episode in said if episode.at)
            days = {episode.at.date() for episode in said if episode.at}
            organizer = MemoryBank(config=config)
            with Memory.open(":memory:", organizer=organizer, embedder=embedder, now=lambda end=last: end) as memory:
                if mode == "none":  # recall reads dates too, for every organizer
                    memory.ranking = replace(memory.ranking, time_bonus=0.0)
                memory.add(said)
                for question in questions:
                    spans = find_times(question, last, prefer="past")
                    if not spans or spans[0].precision != "day" or spans[0].start is None:
                        continue
                    day = spans[0].start.date()
                    top = [hit.valid_at.date() for hit in memory.recall(question, k=6) if hit.valid_at]
                    right = [day in top[:k] if day in days else not top for k in KS]
                    found[mode].append((day in days, right))
    rows = [
        {"dates": mode, **{f"hit at {k}": round(_mean(right[at] for _, right in hits), 3) for at, k in enumerate(KS)}}
        for mode, hits in found.items()
    ]
    there = {mode: [right[1] for known, right in hits if known] for mode, hits in found.items()}
    every = {mode: [right[1] for _, right in hits] for mode, hits in found.items()}
    return [
        Part(
            name=f"{label}: a question that names a day, shown only what is of that day",
            metric=f"share of {len(every['none'])} questions with a turn of the day among the first 3, or nothing when "
            "nothing is of that day",
            value=_mean(every["filter"]),
            baseline_name="dates not read",
            baseline=_mean(every["none"]),
            threshold=at_least(HIT_AT_3),
            rows=rows,
        ),
        Part(
            name=f"{label}: a question that names a day, by default",
            metric=f"share of {len(there['none'])} questions on days in the bank with a turn of it among the first 3",
            value=_mean(there["bonus"]),
            baseline_name="dates not read",
            baseline=_mean(there["none"]),
            threshold=at_least(HIT_AT_3),
            note="The bonus was set with LoCoMo and the paper's bank at hand.",
        ),
    ]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


# --- 5: erasure ------------------------------------------------------------------------------------------------------


def erased(label: str, bank: Bank) -> list[Part]:
    """Words of a user that no other one used, looked for in all files of the store after `forget` and after pruning."""
    users = list(bank)
    gone, rest = users[0], users[1:]
    said = [episode.text.lower() for episode in bank[gone][0]]
    parts = []
    for how in ("forget", "maintain(prune=True)"):
        others, _ = _content(bank, rest, how, gone)
        own = {part for part in {*said, *" ".join(said).split()} if part.encode() not in others}
        after, before = _content(bank, users, how, gone)
        parts.append(
            Part(
                name=f"{label}: erased by {how}",
                metric=f"of {len(own)} words and sentences of one user alone, found in the store's files",
                value=float(sum(part.encode() in after for part in own)),
                baseline_name="before",
                baseline=float(sum(part.encode() in before for part in own)),
                threshold=at_most(0.0),
            )
        )
    return parts


@cache
def _scribe() -> Scribe:
    """One for all stores, as it loads a parser."""
    return load_scribe("rules")


def _content(bank: Bank, users: Sequence[str], how: str, gone: str) -> tuple[bytes, bytes]:
    """All bytes of a store of these users after one is gone, and before, in lower case."""
    clock = [max(episode.at for user in users for episode in bank[user][0] if episode.at)]
    config = MemoryBankConfig(awake=0 if how.startswith("maintain") else 1000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.db"
        bank_of = MemoryBank(_scribe(), config)
        with Memory.open(path, organizer=bank_of, embedder=None, now=lambda: clock[0]) as memory:
            for user in users:
                memory.add(bank[user][0], space=user)
                memory.recall("what happened", kinds=["summary", "portrait"], space=user)
            before = b"".join(file.read_bytes() for file in Path(folder).iterdir())
            if how.startswith("maintain"):  # the others come back and use all they have, this one does not
                clock[0] += timedelta(days=60)
                for user in users:
                    if user != gone:
                        memory.use([str(episode.id) for episode in bank[user][0]], space=user)
                memory.maintain(prune=True)
            elif gone in users:
                memory.forget(space=gone)
            return b"".join(file.read_bytes() for file in Path(folder).iterdir()).lower(), before.lower()


# --- all -------------------------------------------------------------------------------------------------------------


def claim(size: str, seed: int) -> Evidence:
    """All parts."""
    parts = [*curve(seed), *looking(size, seed)]
    parts += under_a_cap("made-up talk", [made_up_talk(seed, 12 if size == "smoke" else 28)], seed)
    bank = made_up_bank(seed)
    parts += [*dated("made-up bank", bank), *erased("made-up bank", bank)]
    data = os.environ.get("MEMSPAN_DATA")
    if data:
        parts += on_real_data(Path(data), size, seed)
    return Evidence(slug="memorybank", size=size, parts=parts)  # type: ignore[arg-type]


def on_real_data(data: Path, size: str, seed: int) -> list[Part]:
    """What the folder has."""
    from memspan.models import load_embedder

    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as folder:
        embedder = load_embedder("bundled", cache=Path(folder) / "vectors.db")  # each turn is read once, not by policy
        if (data / "locomo-dev").exists():
            parts += under_a_cap("LoCoMo", locomo(data / "locomo-dev", size), seed, embedder)
        if (data / "memorybank-en").exists():
            bank = english_bank(data / "memorybank-en")
            few = dict(list(bank.items())[: 2 if size == "smoke" else 5])
            parts += [*dated("the paper's bank", bank, embedder), *erased("the paper's bank", few)]
    return parts
