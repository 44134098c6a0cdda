"""`memspan plan` and `memspan train`, from a configuration and from a model on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from memspan.cli import main  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from tests.word_model import make_word_model  # noqa: E402

WORDS = "the cat sat on a mat and saw the dog run "


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A config.json alone."""
    model: Any = tiny_llama(vocabulary=300)
    model.config.save_pretrained(tmp_path / "configuration")
    return tmp_path / "configuration" / "config.json"


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


RATES = ["--flops", "1e9", "--bandwidth", "1GB"]


def test_plan_prints_json(configuration: Path, capsys: pytest.CaptureFixture[str]):
    job = ["--model", str(configuration), "--batch", "2", "--seq", "32", "--savers", "checkpointing"]
    assert main(["plan", *job, *RATES, "--device-memory", "1GiB", "--json"]) == 0
    found = said(capsys)
    assert [one["savers"] for one in found["plans"]] == [[], ["checkpointing"]]
    for one in found["plans"]:
        assert sum(one["by_tier"].values()) == one["peak_bytes"] and one["fits"] is True
        assert one["seconds_per_step"] > 0


def test_plan_prints_a_table_and_what_would_do(configuration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    job = ["--model", str(configuration), "--savers", "none", "--seq", "32", "--explain"]
    assert main(["plan", *job, *RATES, "--device-memory", "1kB", "--plot", str(tmp_path / "bars.svg")]) == 0
    text = capsys.readouterr().out
    assert "none (AdamW)" in text and "would do" in text and "8.00 bytes for each that trains" in text
    assert (tmp_path / "bars.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "missing/config.json"], 2, "does not exist"),
        (["--model", "openai:http://x#y"], 2, "cannot be trained here"),
        (["--flops", "1e9"], 2, "--flops and --bandwidth go together"),
        (["--savers", "zep", *RATES], 2, "zep is no saver"),
        (["--savers", "napa-vq", *RATES], 2, "planned"),
        (["--savers", "coat:group", *RATES], 2, "coat:NAME=VALUE"),
        (["--savers", "none", "--most", "0", *RATES], 2, "most is 0"),
        (["--seq", "4096"], 2, "positions end at"),
        (["--attention", "nonsense", *RATES], 6, "nonsense"),
    ],
)
def test_plan_says_what_is_wrong(
    configuration: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["plan", "--model", str(configuration), "--seq", "32", *arguments]) == code
    assert message in capsys.readouterr().err


def test_pretraining_from_a_configuration(configuration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.txt").write_text(WORDS * 20)
    out = tmp_path / "run"
    job = ["--model", str(configuration), "--task", "pretrain", "--seq", "16", "--batch", "2"]
    train = ["train", *job, "--data", str(tmp_path / "text.txt"), "--out", str(out), "--lr", "0.01", "--json"]
    assert main([*train, "--steps", "4", "--savers", "none", "--warmup", "2"]) == 0
    report = said(capsys)
    assert report["peak_bytes"]["predicted"] == report["peak_bytes"]["measured"]
    assert report["savers"] == []
    assert {path.name for path in out.iterdir()} >= {"config.json", "metrics.jsonl", "ledger.png", "loss.png", "model"}
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "model")
    assert model.config.vocab_size == 300

    assert main(train) == 2  # the folder holds a run
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(out), "--steps", "6", "--json"]) == 0
    resumed = said(capsys)
    assert (resumed["resumed_at"], resumed["steps"]) == (4, 6)
    assert resumed["loss"]["first"] == report["loss"]["first"]


def test_savers_with_settings_are_planned_kept_and_resumed(
    configuration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    savers = "chunked-loss:tokens=8,coat:activations=False"
    assert main(["plan", "--model", str(configuration), "--seq", "16", "--savers", savers, *RATES, "--json"]) == 0
    found = {tuple(one["savers"]) for one in said(capsys)["plans"]}
    assert found == {(), *((one,) for one in savers.split(",")), tuple(savers.split(","))}
    (tmp_path / "text.txt").write_text(WORDS * 20)
    job = ["--model", str(configuration), "--task", "pretrain", "--seq", "16", "--data", str(tmp_path / "text.txt")]
    out = tmp_path / "run"
    assert main(["train", *job, "--out", str(out), "--steps", "2", "--savers", savers, "--json"]) == 0
    assert said(capsys)["savers"] == savers.split(",")
    assert json.loads((out / "config.json").read_text())["savers"] == savers
    assert main(["train", "--resume", "--out", str(out), "--steps", "3", "--json"]) == 0
    assert (report := said(capsys))["resumed_at"] == 2 and report["savers"] == savers.split(",")


def test_finetuning_a_model_within_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = make_word_model(tmp_path / "words", window=32)
    before = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": WORDS}) + "\n" for _ in range(30)))
    data = ["--data", str(tmp_path / "text.jsonl"), "--model", str(folder), "--batch", "16", "--seq", "32"]
    assert main(["plan", *data[2:], *RATES, "--json"]) == 0
    peaks = {tuple(one["savers"]): one["peak_bytes"] for one in said(capsys)["plans"]}
    budget = sorted(peaks.values())[1]
    train = ["train", *data, "--budget", str(budget), "--json", "--quiet"]

    assert main([*train, "--out", str(tmp_path / "plain"), "--savers", "none"]) == 3
    error = capsys.readouterr().err
    assert f"{peaks[()]:,}" in error and f"{budget:,}" in error
    assert not (tmp_path / "plain").exists()

    assert main([*train, "--out", str(tmp_path / "run"), "--steps", "8", "--lr", "0.01"]) == 0
    report = said(capsys)
    assert report["savers"] and report["peak_bytes"]["measured"] <= budget
    assert report["loss"]["last"] < report["loss"]["first"]
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    changed = zip(after.parameters(), before.parameters(), strict=True)
    assert any(not torch.equal(new, old) for new, old in changed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer("the cat")["input_ids"]

    assert main([*train, "--out", str(tmp_path / "small"), "--budget", "10kB"]) == 3
    assert "would do" in capsys.readouterr().err


def test_train_says_what_is_wrong(configuration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", "--resume", *out]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["train", "--model", str(configuration), *out]) == 2
    assert "--data" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert main(["train", "--model", str(configuration), "--data", str(tmp_path / "bad.jsonl"), *out]) == 2
    assert 'line 1 is no JSON object with "text"' in capsys.readouterr().err
