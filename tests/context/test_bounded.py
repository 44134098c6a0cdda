"""A language model whose context is bounded: what it writes, its bytes, and what it refuses."""

from __future__ import annotations

import pytest

from memspan.cli.main import main
from memspan.context.bounded import BoundedLanguageModel
from memspan.core.errors import BudgetError, InputError, UnsupportedModelError
from memspan.models import LanguageModel, load_language_model
from tests.word_model import make_word_model

TEXT = "the cat sat on a mat and saw the dog run and the cat saw a dog"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load_language_model(make_word_model(tmp_path_factory.mktemp("tiny"), window=64), dtype="float32")


def test_with_room_for_everything_it_writes_what_the_model_writes(plain):
    bounded = BoundedLanguageModel(plain, "window", "1MiB")
    assert isinstance(bounded, LanguageModel)
    said = bounded.generate(TEXT, max_new_tokens=5)
    assert said.text == plain.generate(TEXT, max_new_tokens=5).text
    assert said.context is not None
    assert 0 < said.context.total <= 1 << 20
    options = [" sat", " run and saw", ""]
    assert bounded.loglik(TEXT, options) == pytest.approx(plain.loglik(TEXT, options), abs=1e-4)
    assert bounded.loglik("", [" sat"]) == plain.loglik("", [" sat"])


def test_it_reads_beyond_the_window_of_the_model_inside_its_bytes(plain):
    with pytest.raises(InputError, match="context window"):
        plain.generate(" ".join([TEXT] * 9), max_new_tokens=4)
    bounded = BoundedLanguageModel(plain, "sirllm", "24KiB")
    assert bounded.context_window is None
    assert len(bounded.loglik(" ".join([TEXT] * 9), [" sat", " run"])) == 2
    said = bounded.generate(" ".join([TEXT] * 9), max_new_tokens=4)
    assert said.new_tokens == 4
    assert said.context.total <= 24 << 10
    assert plain.context_window == 64  # the model that was given is as it was
    assert not plain.model.base_model._forward_pre_hooks


def test_what_cannot_work_says_so_at_once(plain):
    with pytest.raises(BudgetError, match="raise the budget"):
        BoundedLanguageModel(plain, "window", "100B")
    with pytest.raises(InputError, match="did you mean"):
        BoundedLanguageModel(plain, "sirlm")
    remote = load_language_model("openai:http://127.0.0.1:9/v1#none")
    with pytest.raises(UnsupportedModelError, match="remote"):
        BoundedLanguageModel(remote, "window")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--context-budget", "1MiB"], "goes with --context"),
        (["--context", "sirllm", "--model", "none"], "goes with a language model"),
        (["--context", "sirl", "--model", "absent"], "did you mean sirllm"),
        (["--context", "sirllm", "--context-budget", "much", "--model", "absent"], "much"),
    ],
)
def test_ask_refuses_before_it_reads(words, message, capsys):
    assert main(["ask", "--read", "demo", *words, "Who?"]) == 2
    assert message in capsys.readouterr().err


def test_ask_reads_through_a_context_system(plain, tmp_path, capsys):
    folder = make_word_model(tmp_path / "model", window=512)
    words = ["--context", "window", "--context-budget", "96KiB", "--embedder", "none", "--organizer", "plain"]
    assert main(["ask", "--read", "demo", "--model", str(folder), *words, "--quiet", "Where does Tomas live?"]) == 0
    said = capsys.readouterr().out
    assert "context" in said
