"""The organizer in a store: plans, analogies, versions, forgetting, tenants, bad input."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import Episode, InputError, Memory
from memspan.longterm.gitm import Gitm, GitmConfig
from tests.longterm.doubles import HashEmbedder, Recorded, day


def run(goal: str, *actions: object, success: bool = True, **more: object) -> Episode:
    at = more.pop("at", None)
    uid = more.pop("id", None)
    text = f"{goal}: {'reached' if success else 'failed'} {json.dumps(actions)} {json.dumps(more)} {uid}"
    return Episode(text, at=at, id=uid, metadata={"goal": goal, "actions": list(actions), "success": success, **more})  # type: ignore[arg-type]


@pytest.fixture
def memory():
    with Memory.open(":memory:", organizer="gitm", embedder=None) as memory:
        yield memory


def plan(memory: Memory, goal: str, **options: object) -> list[str] | None:
    hits = memory.recall(goal, k=1, kinds=["plan"], **options)  # type: ignore[arg-type]
    return [action["name"] for action in hits[0].metadata["actions"]] if hits else None


def test_a_run_is_recalled_as_a_plan_with_its_source(memory):
    memory.add(run("deploy the shop", "test", "build", "push", id="r1"))
    [hit] = memory.recall("How do I deploy shops?", kinds=["plan"])
    assert hit.text == "deploy shop: test; build; push" and hit.episodes == ["r1"]
    assert hit.why.startswith("reference plan of this goal; one run")
    assert (hit.kind, hit.metadata["analogy"]) == ("plan", False)


def test_ordinary_episodes_are_kept_as_with_plain(memory):
    memory.add(
        [Episode("I adopted a puppy.", "Ann", id="a1"), Episode("A note.", metadata={"goal": "none of ours"}, id="a2")]
    )
    assert memory.recall("puppy")[0].id == "a1"
    assert memory.stats()["records"] == {"episode": 2}
    assert memory.recall("adopt puppy", kinds=["plan"]) == []


def test_five_runs_become_one_plan(memory):
    for n, extra in enumerate(["x", "y", "", "z", ""]):
        memory.add(run("win", *filter(None, ["go", extra, "do"]), id=f"r{n}"))
        assert plan(memory, "win") == (["go", "x", "do"] if n < 4 else ["go", "do"])
    [hit] = memory.recall("win", kinds=["plan"])
    assert hit.episodes == ["r0", "r1", "r2", "r3", "r4"] and "what 2 of 5 runs share" in hit.why
    assert memory.maintain()["plans_live"] == 1 and memory.maintain()["plans_merged"] == 1
    assert memory.check() == []


def test_the_count_asked_for_is_filled_in(memory):
    memory.add(
        run("mine 3 logs", {"name": "approach", "object": "tree"}, {"name": "mine", "object": "log", "count": 3})
    )
    [hit] = memory.recall("mine 8 logs", kinds=["plan"])
    assert hit.metadata["actions"][-1] == {"name": "mine", "object": "log", "count": 8}
    assert hit.text == "mine logs: approach tree; mine 8 log"


def test_what_names_no_goal_has_no_plan(memory):
    memory.add(run("win", "go"))
    assert memory.recall("?!", kinds=["plan"]) == []
    assert memory.recall("the", kinds=["plan", "episode"], k=1)


def test_a_like_goal_gives_an_analogy(memory):
    act = [{"name": "explore", "object": "iron_ore"}, {"name": "mine", "object": "iron_ore"}]
    memory.add([run("mine iron_ore", *act), run("paint the house", "buy paint", "paint")])
    [hit] = memory.recall("mine 2 gold ore", kinds=["plan"])
    assert hit.text == "mine 2 gold ore: explore gold_ore; mine 2 gold_ore" and hit.metadata["analogy"]
    assert hit.why.startswith("analogy to 'mine iron ore'")
    assert memory.recall("mine coal", kinds=["plan"]) == []
    other_way = memory.recall("obtain iron ore", kinds=["plan"])[0]
    assert "reached otherwise" in other_way.why


def test_analogies_by_vectors():
    with Memory.open(
        ":memory:", organizer=Gitm(config=GitmConfig(least_overlap=1.0)), embedder=HashEmbedder()
    ) as memory:
        memory.add(run("mine iron_ore", {"name": "mine", "object": "iron_ore"}))
        [hit] = memory.recall("mine gold ore", kinds=["plan"])
        assert "cosine" in hit.why and hit.metadata["actions"] == [{"name": "mine", "object": "gold_ore"}]


def test_goals_are_listed_with_their_record(memory):
    memory.add([run("craft iron axe", "a"), run("craft iron axe", "b", success=False), run("craft boat", "c")])
    hits = memory.recall("iron tools", kinds=["goal"])
    assert [hit.id for hit in hits] == ["craft iron ax"] and hits[0].why == "reached 1 times, failed 1 times"
    assert len(memory.recall("craft iron axe", kinds=["plan", "goal", "episode"], k=10)) > 3


def test_a_plan_that_keeps_failing_is_retired_and_history_stays():
    now = [day(1)]
    with Memory.open(":memory:", organizer="gitm", embedder=None, now=lambda: now[0]) as memory:
        memory.add(run("win", "old", at=day(1)))
        for n in range(3):
            now[0] = day(10 + n)
            memory.add(run("win", "old", success=False, at=day(10 + n), n=n))
        assert plan(memory, "win") is None
        now[0] = day(20)
        memory.add(run("win", "new", at=day(20)))
        assert plan(memory, "win") == ["new"]
        assert plan(memory, "win", believed_at=day(11)) == ["old"]
        assert plan(memory, "win", believed_at=day(15)) is None
        assert plan(memory, "win", as_of=day(5)) is None
        assert memory.maintain()["plans_retired"] == 1


def test_forgetting_rebuilds_from_the_runs_that_are_left(memory):
    runs = [run("win", "go", *extra, "do", id=f"r{n}") for n, extra in enumerate(["s", "s", "", "", ""])]
    memory.add(runs)
    assert plan(memory, "win") == ["go", "s", "do"]
    report = memory.forget(["r0"])
    assert report.episodes == 1
    assert plan(memory, "win") == ["go", "s", "do"] and memory.recall("win", kinds=["plan"])[0].episodes == ["r1"]
    memory.forget(["r1"])
    assert plan(memory, "win") == ["go", "do"]
    kept = memory.store.connection.execute("SELECT text || data FROM record WHERE kind <> 'episode'").fetchall()
    assert len(kept) == 2 and not any('"name": "s"' in row[0] or "; s;" in row[0] for row in kept)
    memory.forget(["r2", "r3", "r4"])
    assert memory.stats()["records"] == {} and memory.recall("win", kinds=["plan", "goal"]) == []
    assert memory.check() == []


def test_forgetting_a_failure_brings_its_plan_back(memory):
    memory.add([run("win", "go"), *(run("win", "go", success=False, id=f"f{n}") for n in range(3))])
    assert plan(memory, "win") is None
    memory.forget("f1")
    assert plan(memory, "win") == ["go"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), st.booleans()), min_size=2, max_size=12), st.data())
def test_forgetting_is_as_if_it_had_never_been(told, data):
    gone = data.draw(st.integers(0, len(told) - 1))

    def filled(skip: int | None) -> tuple[object, ...]:
        with Memory.open(
            ":memory:", organizer=Gitm(config=GitmConfig(distil_after=3, retire_after=2)), embedder=None
        ) as m:
            for n, (letters, success) in enumerate(told):
                if n != skip:
                    m.add(run("win", *letters, success=success, id=f"r{n}"))
            if skip is None:
                m.forget(f"r{gone}")
            hits = m.recall("win", kinds=["plan"])
            assert m.check() == []
            return tuple((hit.text, hit.episodes, hit.why) for hit in hits)

    assert filled(None) == filled(gone)


def test_plans_survive_closing_and_move_with_export(tmp_path: Path):
    store, file = tmp_path / "a.db", tmp_path / "a.jsonl"
    with Memory.open(store, organizer="gitm", embedder=None) as memory:
        memory.add([run("win", "go", "x", "do", id="r0"), *(run("win", "go", "do", id=f"r{n}") for n in (1, 2, 3))])
    with Memory.open(store, organizer="gitm", embedder=None) as memory:
        assert plan(memory, "win") == ["go", "x", "do"]
        memory.add(run("win", "go", "do", id="r4"))
        assert plan(memory, "win") == ["go", "do"]
        memory.export(file)
    with Memory.open(tmp_path / "b.db", organizer="gitm", embedder=None) as other:
        other.add(Episode("shifts every id"))
        other.forget(everything=True)
        other.import_(file)
        assert plan(other, "win") == ["go", "do"]
        other.add(run("win", "go", "do", id="r5"))
        assert other.recall("win", kinds=["plan"])[0].metadata["successes"] == 1


def test_two_agents_share_a_file(tmp_path: Path):
    store = tmp_path / "a.db"
    with (
        Memory.open(store, organizer="gitm", embedder=None) as one,
        Memory.open(store, organizer="gitm", embedder=None) as two,
    ):
        for n in range(5):
            (one, two)[n % 2].add(run("win", "go", *(["x"] if n == 0 else []), "do", id=f"r{n}"))
        assert plan(one, "win") == plan(two, "win") == ["go", "do"]


def test_spaces_are_apart(memory):
    memory.add(run("win", "ours"))
    memory.add(run("win", "theirs"), space="b")
    assert plan(memory, "win") == ["ours"] and plan(memory, "win", space="b") == ["theirs"]
    memory.forget(space="b")
    assert plan(memory, "win") == ["ours"] and plan(memory, "win", space="b") is None


def test_filters_are_those_of_the_source_episodes(memory):
    memory.add(run("win", "go", at=day(5), knowledge="k1"))
    assert plan(memory, "win", metadata={"knowledge": "k1"}) == ["go"]
    assert plan(memory, "win", metadata={"knowledge": "k2"}) is None
    assert plan(memory, "win", after=day(6)) is None and plan(memory, "win", before=day(6)) == ["go"]


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"goal": "win", "actions": ["go"]}, "success must be true or false"),
        ({"goal": "win", "actions": ["go"], "success": 1}, "success must be true or false"),
        ({"goal": "win", "actions": "go", "success": True}, "actions must be a list"),
        ({"goal": "win", "actions": [None], "success": True}, "action 0"),
        ({"goal": "", "actions": ["go"], "success": True}, "names nothing"),
        ({"goal": 3, "actions": ["go"], "success": True}, "a goal is a text"),
        ({"goal": "win", "actions": ["go"], "success": True, "plan": 3}, "plan and knowledge must be text"),
    ],
)
def test_a_malformed_run_names_its_position_and_nothing_is_added(memory, metadata, message):
    with pytest.raises(InputError, match=f"episode 1 tells a run of a goal, but .*{message}"):
        memory.add([Episode("fine"), Episode("not fine", metadata=metadata)])
    assert memory.stats()["records"] == {}


def test_config_is_checked():
    for bad in ({"distil_after": 1}, {"retire_after": 0}, {"least_support": 0}):
        with pytest.raises(InputError, match="at least"):
            GitmConfig(**bad)


# --- a model that distils ---


class Holder:
    """A scribe object that holds a language model."""

    def __init__(self, model: Recorded) -> None:
        self.model = model


def with_model(*answers: object) -> tuple[Memory, Recorded]:
    model = Recorded(*answers)
    return Memory.open(":memory:", organizer=Gitm(Holder(model)), embedder=None), model  # type: ignore[arg-type]


LISTS = [("go", "x", "do"), ("go", "do"), ("go", "y", "do"), ("do",), ("go", "do")]


def test_a_models_summary_is_taken_when_a_run_proves_it():
    memory, model = with_model({"thought": "x was a detour", "steps": [0, 2]})
    with memory:
        memory.add([run("win", *actions, n=n) for n, actions in enumerate(LISTS)])
        [hit] = memory.recall("win", kinds=["plan"])
        assert hit.metadata["origin"] == "summary by a language model" and plan(memory, "win") == ["go", "do"]
    asked = model.prompts[0][1]["content"]
    assert 'goal "obtain win" 5 times' in asked and "0: go; 1: x; 2: do" in asked


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        {"steps": []},
        {"steps": [99]},
        {"steps": ["0"]},
        {"steps": [2, 0]},
        {"steps": [0, 1]},
        {"thought": ""},
    ],
)
def test_a_models_answer_that_is_no_plan_leaves_it_to_the_rules(answer):
    memory, model = with_model(answer)
    with memory:
        memory.add([run("win", *actions, n=n) for n, actions in enumerate(LISTS)])
        [hit] = memory.recall("win", kinds=["plan"])
        assert "the language model was of no use" in hit.metadata["origin"] and plan(memory, "win") == ["go", "do"]
    assert len(model.prompts) == 3


def test_without_a_model_nothing_heavy_is_loaded():
    import subprocess
    import sys

    code = (
        "import sys; from memspan import Memory, Episode\n"
        "with Memory.open(':memory:', organizer='gitm', embedder=None) as m:\n"
        "    run = {'goal': 'win', 'actions': ['go'], 'success': True}\n"
        "    m.add([Episode(f't{n}', metadata=run) for n in range(6)])\n"
        "print([name for name in ('torch', 'spacy', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_clock_is_the_stores():
    at = datetime(2024, 5, 1, tzinfo=UTC)
    with Memory.open(":memory:", organizer="gitm", embedder=None, now=lambda: at + timedelta(days=1)) as memory:
        memory.add(run("win", "go", at=at))
        [hit] = memory.recall("win", kinds=["plan"])
        assert (hit.valid_at, hit.recorded_at) == (at, at + timedelta(days=1))
