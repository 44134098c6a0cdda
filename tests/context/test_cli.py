"""`memspan read` and `train-context`: what is refused before a model is loaded, and settings of systems."""

from __future__ import annotations

import argparse
import json

import pytest

from memspan.cli.learning import settings
from memspan.cli.main import main
from memspan.core.errors import InputError
from tests.word_model import make_word_model


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["only a question"], "say what to read"),
        (["absent.txt", "--budget", "1MiB", "Who?"], "cannot be read as text"),
        (["absent.txt", " "], "the question is empty"),
    ],
)
def test_unusable_input_is_said(words, message, capsys):
    assert main(["read", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent", "FILE"], "no system is called 'absent'"),
        (["sirllm", "FILE"], "sirllm learns nothing"),
        (["get-go", "FILE"], "get-go learns nothing from texts"),
        (["sirllm", "absent.txt"], "cannot be read as text"),
    ],
)
def test_what_cannot_be_learned_is_said(words, message, capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on a mat.")
    words = [str(text) if word == "FILE" else word for word in words]
    assert main(["train-context", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_settings_are_read_as_python_reads_them():
    said = argparse.Namespace(option=["keep=3", "ends=(1, 2)", "score=gain", "first=True", "refresh=None"])
    assert settings(said) == {"keep": 3, "ends": (1, 2), "score": "gain", "first": True, "refresh": None}


@pytest.mark.parametrize("said", ["slots", "=3", "two words=1"])
def test_a_setting_without_name_or_value_is_refused(said):
    with pytest.raises(InputError, match="is not NAME=VALUE"):
        settings(argparse.Namespace(option=[said]))


def test_a_system_is_given_its_settings(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat and the dog saw a cat " * 12)
    folder = make_word_model(tmp_path / "model", window=64)
    words = ["--system", "xl3m", "--option", "segment=16", "--option", "overlap=4", "--option", "longest=12"]
    words += ["--option", "question=8", "--model", str(folder), "--max-new-tokens", "3", "--json"]
    assert main(["read", str(text), *words, "the dog saw"]) == 0
    assert json.loads(capsys.readouterr().out)["system"] == "xl3m"
    assert main(["read", str(text), *words, "--option", "keep=0", "the dog saw"]) == 2
    assert "keep is 0" in capsys.readouterr().err
