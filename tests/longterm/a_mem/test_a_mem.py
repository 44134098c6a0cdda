"""Notes in a store: links, changes and their undoing, forgetting, spaces, and what a model may decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import Episode, InputError, Memory
from memspan.longterm.a_mem import AMem, AMemConfig
from memspan.longterm.a_mem.notes import links_of, render
from memspan.longterm.changes import set_attribute
from memspan.longterm.rows import index_derived
from tests.longterm.a_mem.doubles import ModelOnly, Recorded
from tests.longterm.doubles import HashEmbedder

TALK = [
    Episode("I joined a pottery class in town.", "Ann", session="s1", id="a"),
    Episode("Which clay does the pottery class use?", "Bo", session="s1", id="b"),
    Episode("Red clay, and the kiln is huge.", "Ann", session="s1", id="c"),
    Episode("My boat needs a new rudder.", "Bo", session="s2", id="d"),
    Episode("The pottery kiln cracked my bowl.", "Ann", session="s3", id="e"),
]
LOOSE = AMemConfig(least_likeness=0.1, least_overlap=0.01)
EMBEDDERS = pytest.mark.parametrize("embedder", [None, HashEmbedder()], ids=["words", "vectors"])


def opened(embedder: Any = None, config: AMemConfig = LOOSE, scribe: Any = "rules", path: Any = ":memory:") -> Memory:
    return Memory.open(path, organizer=AMem(scribe, config), embedder=embedder)


def notes(memory: Memory, question: str = "pottery", k: int = 20) -> dict[str, Any]:
    return {hit.id: hit for hit in memory.recall(question, k=k, kinds=["note"])}


def everything(memory: Memory) -> list[Any]:
    asked = ["pottery class", "kiln", "the boat", "Who cracked a bowl?", "town"]
    return [[(h.id, h.score, h.text, h.why, h.metadata) for h in memory.recall(q, kinds=["note"])] for q in asked]


@EMBEDDERS
def test_every_episode_becomes_a_note_that_names_it(embedder: Any):
    with opened(embedder) as memory:
        memory.add(TALK)
        found = notes(memory)
        assert set(found) == {"a", "b", "c", "d", "e"} and found["a"].episodes == ["a"]
        assert {"pottery", "class", "joined", "town"} == set(found["a"].metadata["keywords"])
        assert found["b"].metadata["context"] == "Ann: I joined a pottery class in town." and found["b"].episodes == [
            "b",
            "a",
        ]
        assert found["d"].metadata["context"] == "" and "rudder" in found["d"].text
        assert memory.check() == [] and memory.stats()["a-mem"]["notes"] == 5


@EMBEDDERS
def test_links_are_symmetric_and_need_a_shared_keyword(embedder: Any):
    with opened(embedder) as memory:
        memory.add(TALK)
        links = {
            uid: {link["note"]: link["likeness"] for link in hit.metadata["links"]}
            for uid, hit in notes(memory).items()
        }
        assert links["d"] == {} and "a" in links["b"] and "a" in links["e"]
        assert all(links[other][uid] == likeness for uid, near in links.items() for other, likeness in near.items())
        assert all(uid not in near for uid, near in links.items())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)), max_size=60), st.integers(1, 4))
def test_walked_links_are_symmetric_and_capped(rows: list[tuple[int, int, int]], most: int):
    with opened() as memory, memory.store.write(0) as tx:
        made = [tx.add_record("note", str(n), "x") for n in range(10)]
        for one, other, weight in {(min(a, b), max(a, b)): (a, b, w) for a, b, w in rows if a != b}.values():
            tx.link(made[one], "SHARES_KEYWORD", made[other], weight / 10)
        walked = links_of(tx, made, most)
        assert all(len(near) <= most for near in walked.values())
        pairs = {(note, link.note) for note, near in walked.items() for link in near}
        assert pairs == {(other, note) for note, other in pairs}
        assert all(links_of(tx, [note], most)[note] == walked[note] for note in made)


def test_a_stronger_link_gives_its_place_back_when_it_is_forgotten():
    with opened(config=AMemConfig(least_overlap=0.01, most_links=1)) as memory:
        memory.add([Episode("the kiln of the potter, red", id="x"), Episode("a kiln for bread", id="y")])
        assert [link["note"] for link in notes(memory, "kiln")["x"].metadata["links"]] == ["y"]
        memory.add(Episode("the kiln of the potter", id="z"))
        assert [link["note"] for link in notes(memory, "kiln")["x"].metadata["links"]] == ["z"]
        memory.forget("z")
        assert [link["note"] for link in notes(memory, "kiln")["x"].metadata["links"]] == ["y"]


def test_the_nearest_notes_are_the_true_ones():
    words = ["kiln", "boat", "rudder", "clay", "class", "bowl"]
    chance = np.random.default_rng(0)
    embedder = HashEmbedder()
    turns = [
        Episode(" ".join(chance.choice(words, 4).tolist()) + f" x{'abcdefghij'[n % 10]}", id=f"t{n}") for n in range(40)
    ]
    with opened(embedder, AMemConfig(calibrate_from=4, link_quantile=0.5)) as memory:
        for turn in turns:
            before = {uid: hit.text for uid, hit in notes(memory, "kiln", 50).items()}
            memory.add(turn)
            hit = notes(memory, "kiln", 50)[turn.id or ""]
            made = memory.store.connection.execute(
                "SELECT d.uid, l.weight FROM link l JOIN record s ON s.id = l.src JOIN record d ON d.id = l.dst"
                " WHERE s.uid = ?",
                (turn.id,),
            ).fetchall()
            if not before:
                continue
            rows = embedder.embed([hit.text, *before.values()])
            cosines = dict(zip(before, (rows[1:] @ rows[0]).tolist(), strict=True))
            border = sorted(cosines.values())[::-1][:5][-1]
            assert all(cosines[uid] >= border - 0.005 and abs(cosines[uid] - weight) < 0.005 for uid, weight in made)
        assert memory.stats()["a-mem"]["links"] > 20


@EMBEDDERS
def test_linked_notes_compete_with_direct_ones_and_why_says_so(embedder: Any):
    config = AMemConfig(least_likeness=0.05, least_overlap=0.01, expand_from=1, link_weight=50.0, link_gate=-9.0)
    with opened(embedder, config) as memory:
        memory.add(TALK)
        hits = memory.recall("Who cracked a bowl?", k=2, kinds=["note"])
        assert len(hits) == 2 and any("linked from e" in hit.why for hit in hits)
        assert all(hit.why.startswith(("direct: ", "linked: ")) for hit in hits)
        memory.organizer.config = AMemConfig(expand_from=0)  # type: ignore[attr-defined]
        direct = memory.recall("Who cracked a bowl?", k=2, kinds=["note"])
        assert direct[0].id == "e" and not any("linked" in hit.why for hit in direct)


def test_episodes_gain_by_their_notes():
    note = {"context": "Ann owns a sailing vessel called Gull.", "tags": ["yachting"]}
    with opened() as memory:
        memory.add(
            [*TALK[:3], Episode("It cost a lot!", "Ann", id="v", metadata={"note": note}), Episode("No.", "Bo", id="w")]
        )
        [hit] = memory.recall("What about yachting?", k=1)
        assert hit.id == "v" and "its note" in hit.why
        assert notes(memory)["v"].metadata["by"] == "caller"


def test_filters_hold_for_notes():
    with opened() as memory:
        memory.add(TALK)
        assert {h.id for h in memory.recall("pottery", kinds=["note"], speaker="Bo")} == {"b", "d"}
        assert {h.id for h in memory.recall("pottery", kinds=["note"], session="s3")} == {"e"}
        assert memory.recall("pottery", kinds=["note"], believed_at="2001-01-01") == []
        assert memory.recall("pottery", kinds=["note"], session="nowhere") == []


# --- changes, and the way back ---

STRENGTHEN = AMemConfig(least_likeness=0.1, least_overlap=0.01, evolution="strengthen")


@EMBEDDERS
def test_a_linked_old_note_gains_shared_keywords_as_tags(embedder: Any):
    with opened(embedder, STRENGTHEN) as memory:
        memory.add(TALK[:1])
        assert memory.changes() == []
        before = everything(memory)
        memory.add(TALK[4])
        [change] = memory.changes()
        assert (change.record, change.field, change.old, change.new, change.cause) == (
            "a",
            "tags",
            None,
            ["pottery"],
            "e",
        )
        assert notes(memory)["a"].text.endswith("\npottery")
        memory.forget("e")
        assert memory.changes() == [] and everything(memory) == before


@settings(max_examples=15, deadline=None)
@given(st.data(), st.booleans())
def test_undoing_restores_every_search_to_the_bit(data: st.DataObject, vectors: bool):
    with opened(HashEmbedder() if vectors else None, STRENGTHEN) as memory:
        memory.add(TALK)
        before, known = everything(memory), memory.changes()
        with memory.store.write(0) as tx:
            for _ in range(data.draw(st.integers(1, 4))):
                note = tx.find("note", data.draw(st.sampled_from("abcde")))
                assert note is not None
                field = data.draw(st.sampled_from(["context", "keywords", "tags"]))
                word = data.draw(st.sampled_from(["kiln", "boat", "zebra"]))
                set_attribute(tx, note["id"], field, word if field == "context" else [word])
                render(tx, [note["id"]])
            index_derived(tx)
        changed = everything(memory)
        memory._indexes.clear()
        assert everything(memory) == changed
        for change in data.draw(st.permutations([c for c in memory.changes() if c not in known])):
            if change.id in {c.id for c in memory.changes()}:
                memory.undo(change.id)
        left = [c.id for c in memory.changes() if c not in known]
        for change_id in left[::-1]:
            memory.undo(change_id)
        assert everything(memory) == before and memory.check() == []
        assert memory.maintain()["notes_rendered"] == 0


@EMBEDDERS
def test_vectors_and_passages_come_with_the_note(embedder: Any):
    with opened(embedder, STRENGTHEN) as memory:
        memory.add(TALK)
        rows = memory.store.connection.execute(
            "SELECT r.text, p.start, p.stop, v.data FROM record r JOIN passage p ON p.record = r.id"
            " LEFT JOIN vector v ON v.passage = p.id WHERE r.kind = 'note'"
        ).fetchall()
        assert len(rows) == 5
        for text, start, stop, stored in rows:
            expected = None if embedder is None else embedder.embed([text[start:stop]]).astype(np.float16).tobytes()
            assert stored == expected


@EMBEDDERS
def test_what_is_forgotten_leaves_no_bytes(embedder: Any, tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(embedder, STRENGTHEN, path=path) as memory:
        memory.add([Episode(f"The marzipan zebra number {n} sleeps.", "Bo", session="s", id=f"z{n}") for n in range(4)])
        memory.add([Episode("Does it sleep well, and does it snore?", "Ann", session="s", id="q"), *TALK])
        assert "marzipan" in notes(memory)["q"].text
        report = memory.forget(speaker="Bo", session="s")
        assert report.derived == {"note": 4} and report.purged
        found = notes(memory, "sleep")
        assert set(found) == {"q", "a", "b", "c", "d", "e"} and found["q"].metadata["context"] == ""
        assert memory.check() == [] and memory.maintain()["notes_rendered"] == 0
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"marzipan" not in left and b"zebra" not in left


@EMBEDDERS
def test_notes_survive_closing_and_move_with_export(embedder: Any, tmp_path: Path):
    with opened(embedder, STRENGTHEN, path=tmp_path / "a.db") as memory:
        memory.add(TALK)
        memory.export(tmp_path / "out.jsonl")
        before = everything(memory)
    with opened(embedder, STRENGTHEN, path=tmp_path / "a.db") as memory:
        assert everything(memory) == before
        assert memory.add(TALK) == ["a", "b", "c", "d", "e"] and everything(memory) == before
        memory.add(Episode("The kiln is sold.", "Ann", id="f"))
        assert "f" in {link["note"] for link in notes(memory)["c"].metadata["links"]}
    with opened(embedder, STRENGTHEN) as other:
        other.import_(tmp_path / "out.jsonl")
        assert everything(other) == before


def test_spaces_do_not_see_each_other():
    with opened() as memory:
        memory.add(TALK, space="one")
        memory.add(Episode("The pottery class is full.", id="p"), space="two")
        [hit] = memory.recall("pottery", kinds=["note"], space="two")
        assert hit.id == "p" and hit.metadata["links"] == []
        assert memory.stats(space="two")["a-mem"]["notes"] == 1 and memory.stats()["records"] == {}


def test_the_same_in_one_batch_repeated_ids_and_equal_texts():
    with opened() as memory:
        memory.add([TALK[0], TALK[0], Episode("I joined a pottery class in town.", "Ann")])
        found = notes(memory)
        assert len(found) == 2
        assert [len(hit.metadata["links"]) for hit in found.values()] == [1, 1]


def test_an_embedder_that_comes_later_is_used():
    with opened(None, path=":memory:") as memory:
        memory.add(TALK[:3])
        memory._embedding = Memory.open(":memory:", embedder=HashEmbedder(), organizer="plain")._embedding.__class__(
            memory.store, HashEmbedder(), memory._now
        )
        memory.add(TALK[3:])
        assert "vectors" in notes(memory)["e"].why
        assert memory.stats()["embedded"] == memory.stats()["passages"]


def test_long_episodes_have_several_passages():
    long = " ".join(
        f"The {word} of clay is described here at length, and more." for word in ["kiln", "bowl", "wheel"] * 8
    )
    with opened(HashEmbedder()) as memory:
        memory.add([Episode(long, "Ann", id="l"), *TALK])
        assert notes(memory, "clay")["l"].text.startswith(f"Ann: {long}") and memory.check() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k_link": 0}, "k_link"),
        ({"link_quantile": 1.0}, "link_quantile"),
        ({"calibrate_from": 2}, "calibrate_from"),
        ({"note_weight": -1}, "note_weight"),
        ({"evolution": "wild"}, "evolution"),
    ],
)
def test_bad_config(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        AMemConfig(**options)


def test_bad_use():
    with pytest.raises(InputError, match="language model"):
        AMem(config=AMemConfig(evolution="full"))
    with opened() as memory:
        with pytest.raises(InputError, match="episode 1"):
            memory.add([TALK[0], Episode("x", metadata={"note": 3})])
        assert memory.stats()["records"] == {}
        assert memory.recall("pottery", kinds=["note"]) == []
        with pytest.raises(InputError, match="builds no"):
            memory.recall("pottery", kinds=["fact"])


# --- with a language model ---

WRITTEN = {"keywords": ["craft", "clay", "class"], "context": "About a hobby.", "tags": ["hobby", "chat", "news"]}
NO_CHANGE = {"connections": [], "tags": [], "updates": []}


def test_a_model_writes_attributes_links_and_changes():
    changed = {"note": 0, "context": "Ann's first craft.", "keywords": ["craft"], "tags": ["hobby", "start"]}
    model = Recorded(WRITTEN, {"connections": [0], "tags": ["sequel"], "updates": [changed]})
    with opened(HashEmbedder(), scribe=ModelOnly(model)) as memory:
        memory.add(TALK[0])
        before = everything(memory)
        memory.add(TALK[4])
        found = notes(memory)
        assert found["a"].metadata["context"] == "Ann's first craft." and found["e"].metadata["tags"] == ["sequel"]
        assert found["a"].metadata["links"][0]["kind"] == "SUGGESTED" and found["e"].episodes == ["e", "a"]
        assert {(c.field, c.cause) for c in memory.changes("a")} == {(f, "e") for f in ("context", "keywords", "tags")}
        assert (
            "0:\ncontent: Ann: I joined" in model.prompts[-1]
            and "a" not in model.prompts[-1].split("NEAR NOTES")[1].split()[:1]
        )
        assert memory.stats()["a-mem"]["notes_by"] == {"model": 2} and memory.stats()["a-mem"]["fallbacks"] == 0
        memory.forget("e")
        assert everything(memory) == before


def test_what_a_model_wrote_of_a_forgotten_note_is_written_anew(tmp_path: Path):
    leak = {"note": 0, "context": "Like the xylophone.", "keywords": ["craft"], "tags": ["music"]}
    model = Recorded(WRITTEN, NO_CHANGE, {"connections": [0, 1], "tags": ["xylophone"], "updates": [leak]})
    with opened(HashEmbedder(), scribe=ModelOnly(model), path=tmp_path / "a.db") as memory:
        memory.add([TALK[0], Episode("I play the xylophone.", "Ann", id="x")])
        memory.add(TALK[4])
        assert "Like the xylophone." in {hit.metadata["context"] for hit in notes(memory).values()}
        memory.forget("x")
        found = notes(memory)
        assert set(found) == {"a", "e"} and not any("ylophone" in hit.text for hit in found.values())
        assert found["e"].metadata["by"] == "rules" and memory.changes() == []
    assert b"ylophone" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        {"connections": [7], "tags": [], "updates": []},
        {"connections": ["0"], "tags": [], "updates": []},
        {"connections": [True], "tags": [], "updates": []},
        {"connections": 0, "tags": [], "updates": []},
        {"connections": [0], "tags": "hobby", "updates": []},
        {"connections": [0], "tags": [], "updates": [{"note": 0}]},
        {"connections": [0], "tags": [], "updates": [3]},
        {
            "connections": [],
            "tags": [],
            "updates": [{"note": 0, "context": "c", "keywords": ["k"], "tags": ["t"]}] * 2,
        },
    ],
)
def test_an_answer_that_cannot_be_used_leaves_it_to_the_rules(answer: object):
    model = Recorded(WRITTEN, answer)
    with opened(HashEmbedder(), scribe=ModelOnly(model)) as memory:
        memory.add(TALK[0])
        memory.add(TALK[4])
        assert memory.changes() == [] and memory.stats()["a-mem"]["fallbacks"] == 1
        assert [link["kind"] for link in notes(memory)["e"].metadata["links"]] == ["SHARES_KEYWORD"]
        assert sum(prompt.startswith("A new note") for prompt in model.prompts) == LOOSE.attempts


@pytest.mark.parametrize(
    "answer", ["?", {**WRITTEN, "keywords": "craft"}, {**WRITTEN, "context": ""}, {"keywords": ["a"]}]
)
def test_attributes_that_cannot_be_used_are_written_by_rules(answer: object):
    with opened(scribe=ModelOnly(Recorded(answer, NO_CHANGE))) as memory:
        memory.add(TALK[0])
        hit = notes(memory)["a"]
        assert hit.metadata["by"] == "rules" and "pottery" in hit.metadata["keywords"]
        assert memory.stats()["a-mem"]["fallbacks"] == 1
