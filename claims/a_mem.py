"""A-MEM: written notes find evidence that raw turns do not, and what they change can be seen and undone.

Part D runs on notes made here from a fixed seed, so that it runs anywhere. Where the environment variable MEMSPAN_DATA
names a folder with `locomo-dev/` (LoCoMo, CC BY-NC 4.0), A, B and C measure evidence recall on it, categories 1 to 4:
the facts that LoCoMo's authors had a language model extract from turns (`observation`) stand for what a model would
write as a note's context. The baseline is the reciprocal rank fusion of BM25 and MiniLM over raw turns. `note_weight`
was set on two of the conversations, so the part on episodes is no held-out test; no other constant was.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from memspan import Episode, Memory
from memspan.core.claims import Evidence, Part, at_least
from memspan.core.footprint import Footprint
from memspan.longterm.a_mem import AMem, AMemConfig
from memspan.longterm.passages import passages, term_hashes
from memspan.longterm.rerank import reciprocal_rank_fusion

TITLE = "Written notes find evidence that raw turns do not, and their changes can be undone"
EXPECTED = "partly"  # links add nothing to multi-hop questions where notes have a written context
SEEDS = (0, 1, 2)

# Thresholds, fixed before this file was first run, when one conversation had been looked at. (a) Notes
# with written context at least 1.12 times the fusion over raw turns. (b) Links, gated by the question, cost at most a
# point at the same number of results and gain on multi-hop questions; else they stay off by default. (c) Notes by rules
# are at most a point behind the fusion over raw turns. (d) Exactly: the index equals one that is built from the rows,
# undoing restores every search result to the bit, and what evolves are the true neighbours. Ours: with the organizer
# selected, recall of episodes loses at most a point.
ENRICHED = 1.12
LINKS_COST = -0.01
LINKS_GAIN_MULTI_HOP = 0.0001  # more than none
RULES = -0.01
EXACT = 1.0
EPISODES_COST = -0.01

K = 10


# --- (d): laws, on made-up notes -------------------------------------------------------------------------------------


class HashedWords:
    """An embedder of hashed words: texts with common words are near each other."""

    name, fingerprint, dim, max_tokens = "hashed words", "hashed-words-64", 64, None

    def embed(self, texts: list[str], *, progress: bool = False) -> NDArray[np.float32]:
        """[n, 64] unit vectors."""
        rows = np.full((len(texts), self.dim), 1e-3, np.float32)
        for row, text in zip(rows, texts, strict=True):
            np.add.at(row, term_hashes(text) % self.dim, 1)
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def footprint(self) -> Footprint:
        """Nothing to speak of."""
        return Footprint()


THINGS = "kiln glaze trail summit engine gearbox sonata violin harvest orchard keel rudder".split()
DOINGS = "repaired painted borrowed measured cleaned sold dreamt bought".split()


def life(count: int, seed: int) -> list[Episode]:
    """Turns about a dozen matters."""
    chance = random.Random(seed)
    turns = []
    for turn in range(count):
        matter = chance.randrange(0, len(THINGS), 2)
        one, other = chance.sample(THINGS[matter : matter + 2], 2)
        text = f"I {chance.choice(DOINGS)} the {one} near the {other}, note {chance.randrange(100)}."
        turns.append(Episode(text, speaker=chance.choice(["Ann", "Bo"]), session=f"s{turn // 8}", id=f"t{turn}"))
    return turns


def results(memory: Memory) -> list[list[tuple[str, float, str, str]]]:
    """Everything that searches for notes return, scores to the bit."""
    asked = [f"{doing} {thing}" for doing in DOINGS[:3] for thing in THINGS]
    return [[(h.id, h.score, h.text, h.why) for h in memory.recall(q, k=15, kinds=["note"])] for q in asked]


def consistent(memory: Memory) -> bool:
    """Whether every note's text, passages and vectors are what its attributes give."""
    run = memory.store.connection.execute
    embed = memory._embedding.embed
    for note in run("SELECT * FROM record WHERE kind = 'note'").fetchall():
        data = json.loads(note["data"])
        own = run("SELECT * FROM record WHERE kind = 'episode' AND uid = ?", (note["uid"],)).fetchone()
        parts = [f"{own['speaker']}: {own['text']}", data.get("context", "")]
        parts += [", ".join(data.get(name, [])) for name in ("keywords", "tags")]
        text = "\n".join(part for part in parts if part)
        rows = run(
            "SELECT p.start, p.stop, p.terms, v.data FROM passage p LEFT JOIN vector v ON v.passage = p.id"
            " WHERE p.record = ? ORDER BY p.id",
            (note["id"],),
        ).fetchall()
        wanted = passages(text)
        vectors = embed([text[part.start : part.stop] for part in wanted]).astype(np.float16)
        expected = [(p.start, p.stop, p.terms, v.tobytes()) for p, v in zip(wanted, vectors, strict=True)]
        if note["text"] != text or [tuple(row) for row in rows] != expected:
            return False
    return True


def laws(count: int, seed: int) -> list[Part]:
    """Index, undo and neighbours after many evolutions."""
    turns = life(count, seed)
    config = AMemConfig(evolution="strengthen", calibrate_from=8)
    same = undone = 0
    tried = changed = true = 0
    with Memory.open(":memory:", organizer=AMem(config=config), embedder=HashedWords()) as memory:
        chance = random.Random(seed)
        for turn in turns:
            near = neighbours(memory)
            before = results(memory) if chance.random() < 0.1 else None
            known = {change.id for change in memory.changes()}
            memory.add(turn)
            fresh = [change for change in memory.changes() if change.id not in known]
            if fresh:
                changed += len(fresh)
                wanted = near(memory, str(turn.id))
                true += sum(change.record in wanted and change.cause == turn.id for change in fresh)
            if before is not None:
                tried += 1
                same += consistent(memory) and rebuilt_equal(memory)
                memory.forget(str(turn.id))
                undone += results(memory) == before
                memory.add(turn)
        # And one by one, the latest first: each attribute is what it was.
        for change in memory.changes()[-20:][::-1]:
            memory.undo(change.id)
            memory.embed_pending()
            tried += 1
            same += consistent(memory) and rebuilt_equal(memory)
            note = next(h for h in memory.recall(change.record, k=count, kinds=["note"]) if h.id == change.record)
            undone += note.metadata["tags"] == (change.old or [])
    share = {"the index is what the rows give": (same, tried), "undone to the bit": (undone, tried)}
    share["changed notes are true neighbours"] = (true, changed)
    return [
        Part(
            name=name,
            metric=f"share of {of} checks on {count} made-up notes",
            value=right / of if of else 0.0,
            threshold=at_least(EXACT),
        )
        for name, (right, of) in share.items()
    ]


def neighbours(memory: Memory) -> Callable[[Memory, str], set[str]]:
    """A naive search, made before a note is added, for the k_link nearest of the notes that are there."""
    run = memory.store.connection.execute
    texts = dict(run("SELECT uid, text FROM record WHERE kind = 'note'").fetchall())

    def nearest(memory: Memory, uid: str) -> set[str]:
        if not texts:
            return set()
        (new,) = run("SELECT text FROM record WHERE kind = 'note' AND uid = ?", (uid,)).fetchone()
        names = list(texts)
        rows = memory._embedding.embed([new, *texts.values()])
        cosines = rows[1:] @ rows[0]
        # Equals at the border, and what int8 cannot tell apart, count as near.
        border = np.sort(cosines)[::-1][min(len(names), AMemConfig().k_link) - 1]
        return {name for name, cosine in zip(names, cosines, strict=True) if cosine >= border - 0.005}

    return nearest


def rebuilt_equal(memory: Memory) -> bool:
    """Whether searches give the same with indexes that are read from the file anew."""
    held = results(memory)
    memory._indexes.clear()
    return results(memory) == held


# --- (a) to (c): evidence recall -------------------------------------------------------------------------------------


def observed(episodes: list[Episode], observation: dict) -> list[Episode]:  # type: ignore[type-arg]
    """Turns whose notes bring the facts that were extracted from them as their context."""
    said = defaultdict(list)
    for session in observation.values():
        for facts in session.values():
            for text, where in facts:
                for numbers in re.findall(r"D:?\s*(\d+):(\d+)", str(where)):
                    said[tuple(map(int, numbers))].append(text)
    told = []
    for episode in episodes:
        numbers = re.search(r"D(\d+):(\d+)$", str(episode.id))
        facts = said.get((int(numbers[1]), int(numbers[2])), []) if numbers else []
        note = {"context": " ".join(dict.fromkeys(facts))}
        told.append(replace(episode, metadata={**episode.metadata, "note": note}) if facts else episode)
    return told


def raw_turns(memory: Memory, question: str) -> dict[str, list[str]]:
    """The first turns by BM25 of each alone, by cosine, and by reciprocal rank fusion (constant 60) of both."""
    index = next(index for index in memory._indexes.values() if index.episodes)
    assert index.vectors is not None
    vector = memory._embedding.embed([question])[0]
    scores = {"BM25": index.bm25(term_hashes(question)), "MiniLM": index.vectors.cosines(vector)}
    ranked = {name: np.argsort(-index.best_passage(values), kind="stable").tolist() for name, values in scores.items()}
    ranked["RRF"] = [place for place, _ in reciprocal_rank_fusion(list(ranked.values()), 61)]
    uids = dict(memory.store.connection.execute("SELECT id, uid FROM record WHERE kind = 'episode'").fetchall())
    return {name: [uids[int(index.record_ids[place])] for place in row[:K]] for name, row in ranked.items()}


@cache  # the same for every seed
def on_locomo(folder: Path, size: str) -> list[Part]:
    """Parts A, B and C."""
    from memspan.longterm.readers.questions import load
    from memspan.models import load_embedder

    embedder = load_embedder("bundled", cache=Path.home() / ".cache/memspan/benchmark-vectors.db", dtype="float32")
    conversations = load(folder)[0].conversations[: 1 if size == "smoke" else None]
    told = {entry["sample_id"]: entry for entry in json.loads((folder / "locomo.json").read_text(encoding="utf-8"))}
    found: dict[str, list[float]] = defaultdict(list)
    category: list[str] = []
    for conversation in conversations:
        asked = [question for question in conversation.questions if question.category != "adversarial"]
        category += [question.category for question in asked]
        lists: dict[str, list[list[str]]] = defaultdict(list)
        rich = observed(conversation.episodes, told[conversation.name]["observation"])
        for label, episodes in (("rules", conversation.episodes), ("written", rich)):
            with Memory.open(":memory:", organizer="a-mem", embedder=embedder) as memory:
                memory.add(episodes)
                for links in (0, AMemConfig.expand_from):
                    memory.organizer.config = AMemConfig(expand_from=links)
                    lists[f"notes, {label}" + ", links" * bool(links)] = [
                        [hit.episodes[0] for hit in memory.recall(q.text, k=K, kinds=["note"])] for q in asked
                    ]
                for links in (0, AMemConfig.expand_from):
                    memory.organizer.config = AMemConfig(expand_from=links)
                    lists[f"episodes, a-mem, {label}" + ", links" * bool(links)] = [
                        [hit.id for hit in memory.recall(q.text, k=K)] for q in asked
                    ]
        with Memory.open(":memory:", embedder=embedder, organizer="plain") as memory:
            memory.add(conversation.episodes)
            lists["episodes, plain"] = [[hit.id for hit in memory.recall(q.text, k=K)] for q in asked]
            for question in asked:
                for name, row in raw_turns(memory, question.text).items():
                    lists[f"{name}, raw turns"].append(row)
        for name, rows in lists.items():
            found[name] += [
                len(set(q.evidence) & set(row)) / len(set(q.evidence)) for q, row in zip(asked, rows, strict=True)
            ]
    groups = ("multi-hop", "temporal", "open-domain", "single-hop")

    def of(name: str, group: str) -> float:
        return fmean(value for value, kind in zip(found[name], category, strict=True) if kind == group)

    table = [
        {"ranking": name, "all": round(fmean(values), 3), **{group: round(of(name, group), 3) for group in groups}}
        for name, values in found.items()
    ]
    mean = {name: fmean(values) for name, values in found.items()}
    fusion = {"baseline_name": "RRF of BM25 and MiniLM over raw turns", "baseline": mean["RRF, raw turns"]}
    metric = f"evidence recall at {K}, {len(category)} questions of LoCoMo"
    parts = [
        Part(
            name="notes with written context",
            metric=metric,
            value=mean["notes, written"],
            threshold=at_least(ENRICHED, of="ratio"),
            rows=table,
            **fusion,  # type: ignore[arg-type]
        ),
        Part(
            name="notes by rules",
            metric=metric,
            value=mean["notes, rules"],
            threshold=at_least(RULES, of="difference"),
            **fusion,  # type: ignore[arg-type]
        ),
    ]
    for label in ("written", "rules"):
        without, walked = f"notes, {label}", f"notes, {label}, links"
        parts += [
            Part(
                name=f"links, {label} notes",
                metric=metric,
                value=mean[walked],
                baseline_name="the same notes without links",
                baseline=mean[without],
                threshold=at_least(LINKS_COST, of="difference"),
            ),
            Part(
                name=f"links, {label} notes, multi-hop",
                metric=f"evidence recall at {K}, multi-hop questions",
                value=of(walked, "multi-hop"),
                baseline_name="the same notes without links",
                baseline=of(without, "multi-hop"),
                threshold=at_least(LINKS_GAIN_MULTI_HOP, of="difference"),
            ),
        ]
    parts.append(
        Part(
            name="recall of episodes",
            metric=metric,
            value=mean["episodes, a-mem, rules, links"],
            baseline_name="plain",
            baseline=mean["episodes, plain"],
            threshold=at_least(EPISODES_COST, of="difference"),
            note=f"with written notes {mean['episodes, a-mem, written, links']:.4f}",
        )
    )
    return parts


def claim(size: str, seed: int) -> Evidence:
    """All parts; LoCoMo's are the same for every seed."""
    parts = []
    folder = os.environ.get("MEMSPAN_DATA")
    if folder and (Path(folder) / "locomo-dev").is_dir():
        parts += on_locomo(Path(folder) / "locomo-dev", size)
    parts += laws(60 if size == "smoke" else 120, seed)
    return Evidence(slug="a-mem", size=size, parts=parts)
