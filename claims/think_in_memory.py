"""Think-in-Memory: conclusions as memory, the hash, maintenance that is provable, answers that stay the same.

Parts 3 and 4, the clustered vectors of part 2 and their names are made up here from a seed, so that they run anywhere.
Where the environment variable MEMSPAN_DATA names a folder with `locomo-dev/`, LoCoMo's observations (one-sentence facts
that a language model wrote of the turns, with speaker and gold turns) are the thoughts of parts 1 to 3, its questions
those of parts 1, 2 and 4.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from memspan import Episode, Memory
from memspan.core.claims import Evidence, Part, Series, at_least, at_most
from memspan.longterm.kept import KEPT
from memspan.longterm.lsh import LSHIndex, exact_search, quality
from memspan.longterm.rerank import reciprocal_rank_fusion
from memspan.longterm.think_in_memory import ThinkInMemory, ThinkInMemoryConfig
from memspan.longterm.think_in_memory.thoughts import head_key, tail_key

TITLE = "Stored conclusions find the evidence better than raw turns, stay tidy, and give the same answer twice"
EXPECTED = "partly"  # one part is a speed, which a busy machine or a threaded BLAS can miss
SEEDS = (0, 1, 2)

# Thresholds, fixed before the first run. Set beforehand: thoughts find 1.10 times as much evidence as turns by the same
# vectors, with at most 40 % of the words; the hash (centred, 32 buckets, 8 tables) finds 65 % of the exact first ten
# while reading at most 27 %, and beats every single table; on 100,000 clustered vectors it finds 90 % and is 3 times as
# fast as exact numpy; maintenance leaves no duplicate, forgets each superseded fact, touches nothing else and is idle
# the second time; a reworded question gets the same sources in 95 %. Ours: another question never gets a kept answer,
# and no kept answer outlives its source.
THOUGHTS_GAIN = 1.10
WORDS = 0.40
HASH_RECALL, HASH_READ = 0.65, 0.27
DOMINATED = 1.0
BIG_RECALL, BIG_SPEED = 0.90, 3.0
SAME_SOURCES = 0.95
NONE = 0.0
ALL = 1.0

# Changed after the first smoke runs, which are in no result; no threshold was moved. One probe in 512 buckets found
# 78 % of the large set's neighbours: now two in 256, chosen on seed 99. The last three of SEVERAL read as little as the
# smallest single table, which nothing could be compared with. At `merge_at` .9 four groups of the first conversation's
# observations were merged beside the injected ones: the default became .95, and the full run looks at the third one.
# The made-up conversation of part 4 got turns with courtesies, as chat has: without them plain recall kept its ten too.
BIG = {"smoke": 30_000, "full": 100_000}
BIG_FORM = (256, 8, 2)
SINGLE = (4, 8, 16, 32, 64)  # buckets of the paper's form: one table, not centred
SEVERAL = ((8, 8), (16, 4), (16, 8), (32, 4), (32, 8), (64, 4), (64, 8), (128, 8), (128, 4), (256, 8), (256, 4))


# --- 1: thoughts as memory -------------------------------------------------------------------------------------------


def observed(folder: Path, count: int) -> list[tuple[Any, list[Episode]]]:
    """LoCoMo conversations with their questions, the observations put on the turns that they are of."""
    from memspan.longterm.readers.questions import load

    raw = {entry["sample_id"]: entry for entry in json.loads((folder / "locomo.json").read_text(encoding="utf-8"))}
    found = []
    for conversation in load(folder)[0].conversations[:count]:
        ids = {str(episode.id).rpartition("/")[2]: str(episode.id) for episode in conversation.episodes}
        entry = next(raw[name] for name in raw if name in conversation.name or conversation.name in name)
        thoughts = defaultdict(list)
        for speakers in entry["observation"].values():
            for speaker, rows in speakers.items():
                for text, turns in rows:
                    named = re.findall(r"D\d+:\d+", " ".join(turns) if isinstance(turns, list) else turns)
                    known = [ids[turn] for turn in named if turn in ids]
                    if known:
                        thoughts[known[-1]].append({"head": speaker, "text": text, "sources": known[:-1]})
        episodes = [
            Episode(e.text, e.speaker, e.at, e.session, e.id, {**e.metadata, "thoughts": thoughts.get(str(e.id), [])})
            for e in conversation.episodes
        ]
        found.append((conversation, episodes))
    return found


def as_memory(conversations: list[tuple[Any, list[Episode]]], embedder: Any) -> tuple[list[Part], Any, Any]:
    """Evidence among the first ten by thoughts and by turns; also the vectors of thoughts and questions."""
    recall: dict[str, list[float]] = defaultdict(list)
    words = {"turns": 0, "thoughts": 0}
    vectors, asked = [], []
    for conversation, episodes in conversations:
        organizer = ThinkInMemory(config=ThinkInMemoryConfig(lexical_weight=0.0))
        with Memory.open(":memory:", organizer=organizer, embedder=embedder) as memory:
            memory.add(episodes)
            memory.embed_pending()
            rows = memory.store.connection.execute("SELECT text FROM record WHERE kind = 'thought' AND status = 'live'")
            texts = [row[0] for row in rows]
            questions = [q for q in conversation.questions if q.category != "adversarial"]
            table, queries = embedder.embed(texts), embedder.embed([q.text for q in questions])
            vectors.append(np.asarray(table, np.float32))
            asked.append(np.asarray(queries, np.float32))
            words["turns"] += sum(len(episode.text.split()) for episode in episodes)
            words["thoughts"] += sum(len(text.split()) for text in texts)
            memory.recall("warm", k=1)
            index = next(i for i in memory._indexes.values() if i.episodes)
            uids = dict(memory.store.connection.execute("SELECT id, uid FROM record WHERE kind = 'episode'").fetchall())
            for question, vector in zip(questions, asked[-1], strict=True):
                wanted = set(question.evidence)
                assert index.vectors is not None
                cosine = index.best_passage(index.vectors.cosines(vector))
                turns = [uids[int(index.record_ids[at])] for at in np.argsort(-cosine, kind="stable")[:50]]
                hits = memory.recall(question.text, k=50, kinds=["thought"])
                told = list(dict.fromkeys(uid for hit in hits for uid in hit.episodes))
                few = list(dict.fromkeys(uid for hit in hits[:10] for uid in hit.episodes))
                both = [uid for uid, _ in reciprocal_rank_fusion([turns, told], constant=60)]
                product = [hit.id for hit in memory.recall(question.text, k=10)]
                for name, found in (
                    ("turns, vectors", turns),
                    ("thoughts, vectors", few),
                    ("both, fused", both),
                    ("the product's recall of episodes", product),
                ):
                    recall[name].append(len(wanted & set(found[:10])) / len(wanted))
    means = {name: fmean(values) for name, values in recall.items()}
    parts = [
        Part(
            name="thoughts as memory",
            metric=f"evidence recall at 10, {len(recall['turns, vectors'])} LoCoMo questions of categories 1 to 4",
            value=means["thoughts, vectors"],
            baseline_name="turns by the same vectors",
            baseline=means["turns, vectors"],
            threshold=at_least(THOUGHTS_GAIN, of="ratio"),
            rows=[{"searched": name, "recall at 10": round(value, 3)} for name, value in means.items()],
            note="The thoughts are LoCoMo's observations. LoCoMo is CC BY-NC 4.0.",
        ),
        Part(
            name="thoughts are short",
            metric="words of the thoughts as a share of the turns' words",
            value=words["thoughts"] / words["turns"],
            threshold=at_most(WORDS),
        ),
    ]
    return parts, vectors, asked


# --- 2: the hash -----------------------------------------------------------------------------------------------------


def measured(label: str, tables: list[Any], queries: list[Any], seeds: range, threshold: bool) -> list[Part]:
    """Recall of the exact first ten against the share read, by form of the hash."""

    def curve(buckets: int, count: int, center: bool) -> tuple[float, float]:
        found = []
        for seed in seeds:
            for table, asked in zip(tables, queries, strict=True):
                index = LSHIndex(table.shape[1], buckets, count, center=center, seed=seed)
                index.add(table)
                found.append(quality(index, asked, table))
        return fmean(r for r, _ in found), fmean(s for _, s in found)

    single = {buckets: curve(buckets, 1, False) for buckets in SINGLE}
    several = {form: curve(*form, True) for form in SEVERAL}
    beaten = [any(r >= recall and s <= read for r, s in several.values()) for recall, read in single.values()]
    rows = [
        {"buckets": b, "tables": 1, "centred": "no", "recall": round(r, 3), "read": round(s, 3)}
        for b, (r, s) in single.items()
    ] + [
        {"buckets": b, "tables": n, "centred": "yes", "recall": round(r, 3), "read": round(s, 3)}
        for (b, n), (r, s) in several.items()
    ]
    ours = several[32, 8]
    parts = [
        Part(
            name=f"the hash, {label}: several tables against one",
            metric="share of single-table forms that a centred form with several tables beats in recall and reading",
            value=fmean(beaten),
            threshold=at_least(DOMINATED),
            rows=rows,
            series=Series(
                lines={
                    "one table, not centred": tuple(zip(*sorted((s, r) for r, s in single.values()), strict=True)),
                    "several, centred": tuple(zip(*sorted((s, r) for r, s in several.values()), strict=True)),
                },
                x_label="share of thoughts read",
                y_label="recall of the exact first ten",
            ),
        )
    ]
    if threshold:
        parts += [
            Part(
                name=f"the hash, {label}: recall",
                metric="recall of the exact first ten, 32 buckets, 8 tables, centred",
                value=ours[0],
                baseline_name="one table of 8 buckets, not centred (the paper's form)",
                baseline=single[8][0],
                threshold=at_least(HASH_RECALL),
            ),
            Part(
                name=f"the hash, {label}: reading",
                metric="share of thoughts read by it",
                value=ours[1],
                threshold=at_most(HASH_READ),
            ),
        ]
    return parts


def clustered(count: int, dim: int, groups: int, seed: int, near: float = 0.7) -> tuple[Any, Any]:
    """Unit vectors around cluster centres that share a direction, as sentences' do; and 200 questions near some.

    `near` is the mean cosine of two of a cluster, without the shared direction.
    """
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((groups, dim)).astype(np.float32) / np.sqrt(dim)
    shared = draw.standard_normal(dim).astype(np.float32) / np.sqrt(dim)

    def members(of: Any) -> Any:
        noise = draw.standard_normal((len(of), dim)).astype(np.float32) / np.float32(np.sqrt(dim))
        rows = (
            np.float32(np.sqrt(near)) * centres[of] + np.float32(np.sqrt(1 - near)) * noise + np.float32(0.5) * shared
        )
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return members(np.arange(count) % groups), members(draw.integers(0, groups, 200))


def big(count: int, seed: int) -> list[Part]:
    """Many vectors: recall, and CPU time against exact numpy."""
    table, queries = clustered(count, 384, count // 100, seed)
    index = LSHIndex(384, *BIG_FORM, seed=seed)
    for begin in range(0, count, 4096):
        index.add(table[begin : begin + 4096])
    if index.drifted:
        index.rehash(lambda places: table[places])
    index.candidates(queries[0])  # sorts
    begun = time.process_time()
    wanted = [exact_search(query, 10, table) for query in queries]
    exact = time.process_time() - begun
    begun = time.process_time()
    found = [index.search(query, 10, lambda places: table[places]) for query in queries]
    hashed = time.process_time() - begun
    return [
        Part(
            name="many clustered vectors: recall",
            metric=f"recall of the exact first ten, {count:,} vectors, buckets, tables and probes {BIG_FORM}",
            value=fmean(len(set(w) & set(f[0])) / 10 for w, f in zip(wanted, found, strict=True)),
            threshold=at_least(BIG_RECALL),
            note=f"reads {fmean(f[2] for f in found) / count:.3f} of them",
        ),
        Part(
            name="many clustered vectors: speed",
            metric="CPU time of exact numpy, in multiples of the hash's",
            value=exact / max(hashed, 1e-9),
            threshold=at_least(BIG_SPEED),
            note=f"{1000 * hashed / len(queries):.2f} ms a question against {1000 * exact / len(queries):.2f} ms",
        ),
    ]


# --- 3: maintenance --------------------------------------------------------------------------------------------------

NAMES = "Alda Bruno Celia Dario Edith Fabio Greta Hugo Irene Jonas Karin Lucas Marta Nelio Olga Pavel".split()
SURNAMES = "Abbot Becker Castro Dalton Ekman Ferrer Gomes Harper Ibsen Jansen".split()
LIKES = "chess cycling pottery sailing opera archery gardening baking astronomy fencing calligraphy climbing".split()
TOWNS = "Arles Bergen Cadiz Delft Evora Faro Ghent Haarlem Izmir Jena Kotor Lund Modena Narva Oviedo Parma".split()
CHATTER = (
    "Hi {person}, could you please tell {other} about {thing}?",
    "{person} said hi and could not tell what {other} is keeping.",
    "Please tell {person} that {thing} is at noon.",
)
START = datetime(2024, 1, 1, tzinfo=UTC)


def made_up(count: int, seed: int) -> list[dict[str, Any]]:
    """Given thoughts: people and what they like, each once."""
    people = [f"{name} {surname}" for name in NAMES for surname in SURNAMES]
    every = [(person, thing) for person in people for thing in LIKES]
    return [
        {"head": person, "rel": "LIKES", "tail": thing, "text": f"{person} likes {thing}."}
        for person, thing in random.Random(seed).sample(every, count)
    ]


def varied(text: str, chance: random.Random) -> str:
    """The same words in another case and spacing."""
    return "  ".join(text.upper().split()) if chance.random() < 0.5 else f" {text.lower()} ".replace(" ", "  ")


def maintained(label: str, thoughts: list[dict[str, Any]], embedder: Any, seed: int) -> list[Part]:
    """Inject duplicates, variants and superseding facts; look at everything before and after maintenance."""
    chance = random.Random(seed)
    tenth = len(thoughts) // 10
    injected = [dict(item) for item in chance.sample(thoughts, tenth)]
    for item in chance.sample(thoughts, tenth):
        changed = {key: varied(item[key], chance) for key in ("head", "text", "tail") if key in item}
        injected.append({**item, **changed})
    people = [f"{name} {surname}" for name in NAMES for surname in SURNAMES]
    movers = chance.sample(people, 50)
    homes = []
    for person in movers:
        old, new = chance.sample(TOWNS, 2)
        pair = [
            {"head": person, "rel": "LIVES_IN", "tail": town, "text": f"{person} lives in {town}.", "functional": True}
            for town in (old, new)
        ]
        homes.append(pair)
    old = [pair[0] for pair in homes]
    base = [*thoughts, *old]
    later = [*injected, *(pair[1] for pair in homes)]
    chance.shuffle(later)
    organizer = ThinkInMemory(config=ThinkInMemoryConfig(tidy_on_add=False))
    with Memory.open(":memory:", organizer=organizer, embedder=embedder) as memory:
        for number, item in enumerate([*base, *later]):
            at = START + timedelta(hours=number)
            memory.add(Episode(item["text"], at=at, metadata={"thoughts": [item]}))
        first = memory.maintain()
        state = everything(memory)
        second = memory.maintain()
        again = everything(memory)
        rows = [
            (row["status"], json.loads(row["data"]))
            for row in memory.store.connection.execute("SELECT status, data FROM record WHERE kind = 'thought'")
        ]
    triples = [(head_key(d["head"]), d["rel"], tail_key(d["tail"])) for status, d in rows if status == "live"]
    forgotten = {(head_key(d["head"]), tail_key(d["tail"])) for status, d in rows if status == "forgotten"}
    expected = {(head_key(item["head"]), tail_key(item["tail"])) for item in old}

    def key(item: dict[str, Any]) -> tuple[str, str]:
        return head_key(item["head"]), tail_key(item["tail"] if "tail" in item else item["text"])

    # A thought is untouched when it is shown alone, or merged with its own variants only.
    repeated = {key(item) for item in injected}
    touched = sum(
        len({tail_key(tail) for tail in d["tails"]}) > 1 or key(d) not in repeated
        for status, d in rows
        if status == "live" and "members" in d
    )
    return [
        Part(
            name=f"maintenance, {label}: duplicates",
            metric=f"active thoughts that repeat another's triple, {len(injected)} injected",
            value=float(len(triples) - len(set(triples))),
            threshold=at_most(NONE),
            note=f"first run: {first['merged']} merged, {first['forgotten']} forgotten",
        ),
        Part(
            name=f"maintenance, {label}: superseded facts",
            metric="share of 50 superseded facts that are forgotten",
            value=len(forgotten & expected) / len(expected),
            threshold=at_least(ALL),
        ),
        Part(
            name=f"maintenance, {label}: others",
            metric="other thoughts that were forgotten or merged with one of another wording",
            value=float(len(forgotten - expected) + touched),
            threshold=at_most(NONE),
        ),
        Part(
            name=f"maintenance, {label}: twice",
            metric="rows and counts that a second run changes",
            value=float(len(state ^ again) + second["merged"] + second["forgotten"] + second["restored"]),
            threshold=at_most(NONE),
        ),
    ]


def everything(memory: Memory) -> set[tuple[Any, ...]]:
    """All rows that maintenance could change."""
    run = memory.store.connection.execute
    tables = ("record", "source", "link", "version", "change")
    return {(table, *tuple(row)) for table in tables for row in run(f"SELECT * FROM {table}").fetchall()}


# --- 4: consistency --------------------------------------------------------------------------------------------------


def reworded(question: str) -> tuple[str, str]:
    """Two trivial rewordings."""
    bare = "  ".join(question.lower().rstrip("?! ").split())
    short = re.sub(r"^(What|Where|Who|When|How) is\b", r"\1's", question)
    return bare, f"Hi, could you please tell me: {short[0].lower()}{short[1:]}"


def consistent(label: str, episodes: list[Episode], questions: list[str], embedder: Any) -> list[Part]:
    """Sources of a question and of its rewordings, with kept answers and without."""
    options = {"abstain_below": 0.0}
    organizer = ThinkInMemory(config=ThinkInMemoryConfig(keep_answers=True))
    same: dict[str, list[bool]] = defaultdict(list)
    wrong = 0
    with (
        Memory.open(":memory:", organizer=organizer, embedder=embedder) as memory,
        Memory.open(":memory:", organizer="plain", embedder=embedder) as plain,
    ):
        memory.add(episodes)
        plain.add(episodes)
        for question in questions:
            first = [c.episode for c in memory.ask(question, **options).citations]
            plainly = [c.episode for c in plain.ask(question, **options).citations]
            ten = {hit.id for hit in plain.recall(question)}
            for other in reworded(question):
                same["kept"].append([c.episode for c in memory.ask(other, **options).citations] == first)
                same["asked anew"].append([c.episode for c in plain.ask(other, **options).citations] == plainly)
                same["plain recall"].append({hit.id for hit in plain.recall(other)} == ten)
        swaps = 0
        for question in questions:
            for pattern, other in (
                (r"^What\b", "Why"),
                (r"^Where\b", "When"),
                (r"\bdoes\b", "did"),
                (r"\bis\b", "was"),
            ):
                changed = re.sub(pattern, other, question, count=1)
                if changed not in questions and changed != question:
                    swaps += 1
                    wrong += memory.ask(changed, **options).reader == KEPT
                    break
    rates = {name: fmean(values) for name, values in same.items()}
    return [
        Part(
            name=f"consistency, {label}",
            metric=f"share of {len(same['kept'])} rewordings of {len(questions)} questions with the same sources",
            value=rates["kept"],
            baseline_name="plain recall, the same ten episodes",
            baseline=rates["plain recall"],
            threshold=at_least(SAME_SOURCES),
            note=f"without kept answers the cited sources are the same in {rates['asked anew']:.3f}",
        ),
        Part(
            name=f"consistency, {label}: other questions",
            metric=f"kept answers given to {swaps} questions with one telling word changed",
            value=float(wrong),
            threshold=at_most(NONE),
        ),
    ]


def outlived(seed: int) -> Part:
    """Kept answers whose source is forgotten, superseded by a thought, or overtaken by a later episode."""
    chance = random.Random(seed)
    people = chance.sample([f"{name} {surname}" for name in NAMES for surname in SURNAMES], 60)
    given_again = asked = 0
    organizer = ThinkInMemory(config=ThinkInMemoryConfig(keep_answers=True))
    with Memory.open(":memory:", organizer=organizer, embedder=None) as memory:

        def home(number: int, person: str, town: str, told: bool) -> Episode:
            text = f"{person} moved to {town} and lives there."
            item = {"head": person, "rel": "LIVES_IN", "tail": town, "functional": True}
            moment = START + timedelta(days=number)
            return Episode(text, at=moment, id=f"{person} {number}", metadata={"thoughts": [item] if told else []})

        memory.add(home(0, person, chance.choice(TOWNS[:8]), True) for person in people)
        questions = {person: f"Where does {person} live?" for person in people}
        for question in questions.values():
            memory.ask(question, abstain_below=0.0)
        held = [memory.ask(question, abstain_below=0.0).reader == KEPT for question in questions.values()]
        for number, (person, question) in enumerate(questions.items()):
            if not held[number]:
                continue
            if number % 3 == 0:
                memory.forget(f"{person} 0")
            else:
                memory.add(home(number, person, chance.choice(TOWNS[8:]), number % 3 == 1))
            asked += 1
            given_again += memory.ask(question, abstain_below=0.0).reader == KEPT
    return Part(
        name="kept answers that outlive their source",
        metric=f"of {asked} that were kept and then lost their ground",
        value=float(given_again) if asked else None,
        threshold=at_most(NONE) if asked else None,
        void="" if asked else "no answer was kept",
    )


def people_and_things(count: int, seed: int) -> tuple[list[Episode], list[str]]:
    """Made-up turns and a question on each."""
    chance = random.Random(seed)
    people = chance.sample([f"{name} {surname}" for name in NAMES for surname in SURNAMES], count)
    episodes, questions = [], []
    for number, person in enumerate(people):
        kind, thing, place = (
            chance.choice(("dog", "boat", "choir", "garden")),
            chance.choice(LIKES),
            chance.choice(TOWNS),
        )
        text, question = chance.choice(
            (
                (f"{person} keeps a {kind} in {place}.", f"Where does {person} keep the {kind}?"),
                (f"The favourite hobby of {person} is {thing}.", f"What is the favourite hobby of {person}?"),
                (f"{person} learned {thing} in {place}.", f"Where did {person} learn {thing}?"),
            )
        )
        chatter = chance.choice(CHATTER).format(person=person, other=chance.choice(people), thing=thing)
        for said in (text, chatter):
            episodes.append(Episode(said, at=START + timedelta(days=number), metadata={"thoughts": []}))
        questions.append(question)
    return episodes, questions


def claim(size: str, seed: int) -> Evidence:
    """All parts."""
    smoke = size == "smoke"
    parts = maintained("made-up people", made_up(200 if smoke else 600, seed), None, seed)
    parts += consistent("made-up people", *people_and_things(40 if smoke else 100, seed), None)
    parts.append(outlived(seed))
    table, queries = clustered(2000, 384, 100, seed)
    parts += measured(
        "made-up clusters", [table], [queries[:100]], range(5 * seed, 5 * seed + (2 if smoke else 5)), False
    )
    parts += big(BIG[size], seed)
    data = os.environ.get("MEMSPAN_DATA")
    if data and (Path(data) / "locomo-dev").exists():
        parts += on_locomo(Path(data) / "locomo-dev", smoke, seed)
    return Evidence(slug="think-in-memory", size=size, parts=parts)  # type: ignore[arg-type]


def on_locomo(folder: Path, smoke: bool, seed: int) -> list[Part]:
    """Parts 1 to 4 on LoCoMo's observations and questions."""
    from memspan.models import load_embedder

    embedder = load_embedder("bundled", cache=Path.home() / ".cache/memspan/benchmark-vectors.db", dtype="float32")
    conversations = observed(folder, 1 if smoke else 3)
    parts, vectors, queries = as_memory(conversations, embedder)
    parts += measured("LoCoMo's thoughts", vectors, queries, range(5 * seed, 5 * seed + (2 if smoke else 5)), True)
    conversation, episodes = conversations[-1]
    thoughts = [thought for episode in episodes for thought in episode.metadata["thoughts"]]
    alone = [{name: value for name, value in thought.items() if name != "sources"} for thought in thoughts]
    parts += maintained("LoCoMo's thoughts", alone, embedder, seed)
    questions = [q.text for q in conversation.questions if q.category != "adversarial"]
    chosen = random.Random(seed).sample(questions, 25 if smoke else 100)
    parts += consistent("LoCoMo, full text alone", episodes, chosen, None)
    return parts
