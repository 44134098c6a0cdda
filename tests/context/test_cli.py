"""`memspan read`: what is refused before a model is loaded."""

from __future__ import annotations

import pytest

from memspan.cli.main import main


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
