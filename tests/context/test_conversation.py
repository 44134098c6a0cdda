"""A chat without end: turn by turn as read at once, interrupted, saved, and inside its bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

import memspan
from memspan.context.conversation import Conversation
from memspan.core.errors import InputError
from memspan.core.testing import tiny_llama

CHARACTERS = "\n :abcdefghijklmnopqrstuvwxyzAUN-?.0123456789,!BCDEFGHIJKLMOPQR"


class Letters:
    """A tokenizer whose tokens are characters; 63 ends an answer."""

    pad_token_id = None

    def __init__(self, template=False):
        self.chat_template = "a template" if template else None

    def __call__(self, text, add_special_tokens=True, verbose=True):
        parts = text.split("$")
        ids = []
        for i, part in enumerate(parts):
            ids += ([63] if i else []) + [CHARACTERS.index(letter) for letter in part]
        return {"input_ids": ids}

    def decode(self, ids, skip_special_tokens=False):
        return "".join(CHARACTERS[i] for i in ids if i < len(CHARACTERS))

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        said = "".join(f"{m['role'][0]}:{m['content']}$\n" for m in messages)
        return "a: be kind$\n" + said + "a:"


@pytest.fixture(scope="module")
def model():
    return tiny_llama(positions=512)


def opened(model, template=False, slug="full", **options):
    return memspan.context(slug, model, tokenizer=Letters(template), **options)


@pytest.mark.parametrize("template", [False, True])
def test_turn_by_turn_it_is_the_whole_chat_read_at_once(model, template):
    settings = {"max_new_tokens": 12, "eos_token_id": 63}
    with opened(model, template) as reader:
        talk = Conversation(reader)
        told = []
        turns = [talk.say(text, on_text=told.append, **settings) for text in ("hello", "who are you?", "bye")]
        read = [slot.token for slot in reader.slots()]
        assert talk.turns == 3
    assert all(turn.answer in "".join(told) for turn in turns)
    with opened(model, template) as reader:
        reader.feed(read[:-1])
        again = model(torch.tensor([read[-1:]])).logits[0, -1]
    with torch.no_grad():
        plain = model(torch.tensor([read])).logits[0, -1]
    assert torch.allclose(again, plain, atol=1e-4)
    said = Letters().decode(read)
    frame = "a: be kind\nu:hello\na:" if template else "User: hello\nAssistant:"
    assert said.startswith(Letters().decode(Letters()(frame)["input_ids"]))
    assert all(text in said for text in ("hello", "who are you?", "bye"))


def test_an_answer_that_begins_the_next_message_ends_before_it(model):
    words = Letters()("so it is\nUser: and then")["input_ids"]

    class Scripted:
        """Puts out what it was told to, whatever the model thinks."""

        def __init__(self):
            self.at = 0

        def __call__(self, ids, scores):
            scores[:] = float("-inf")
            scores[0, words[self.at]] = 0
            self.at += 1
            return scores

    told = []
    with opened(model) as reader:
        talk = Conversation(reader)
        turn = talk.say("why?", on_text=told.append, max_new_tokens=20, logits_processor=[Scripted()])
        talk.say("go on", max_new_tokens=1)
        read = Letters().decode([slot.token for slot in reader.slots()])
    assert turn.answer == "so it is" and "".join(told) == "so it is" and turn.ended == "end"
    assert "so it is\nUser: go on\nAssistant:" in read


def test_a_saved_chat_goes_on(model, tmp_path):
    settings = {"max_new_tokens": 8, "eos_token_id": None}
    with opened(model, True, "sirllm", slots=60, chunk=20) as reader:
        talk = Conversation(reader)
        talk.say("hello there", **settings)
        reader.save(tmp_path / "chat")
        went_on = talk.say("what now?", **settings)
    with opened(model, True, "sirllm", slots=60, chunk=20) as reader:
        reader.load(tmp_path / "chat")
        talk = Conversation(reader)
        assert talk.turns == 1
        assert talk.say("what now?", **settings) == went_on


def test_an_interrupted_answer_ends_and_the_chat_goes_on(model):
    passes = []

    def press(*_):
        passes.append(1)
        if len(passes) == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with opened(model, True) as reader:
        talk = Conversation(reader)
        hook = model.model.layers[1].register_forward_pre_hook(press)
        turn = talk.say("hello", max_new_tokens=40, eos_token_id=None)
        hook.remove()
        assert turn.ended == "interrupted" and turn.written == 5
        assert talk.say("still there?", max_new_tokens=5, eos_token_id=None).ended == "length"
        tokens = [slot.token for slot in reader.slots()]
        read = Letters().decode(tokens)
        assert read.index("hello") < read.index("still there?") and talk.turns == 2
        assert reader.seen == len(tokens)


def test_bytes_stay_where_they_are_however_long_the_chat_is(model):
    with opened(model, True, "sirllm", slots=80, chunk=20) as reader:
        talk = Conversation(reader)
        held = set()
        for i in range(12):
            talk.say(f"message {i}", max_new_tokens=20, eos_token_id=None)
            if i > 2:
                held.add(reader.footprint().total)
        assert len(held) == 1 and reader.seen > 400


def test_notes_are_shown_above_the_message(model):
    with opened(model) as reader:
        Conversation(reader).say("who?", notes=["one", "two"], max_new_tokens=1)
        read = Letters().decode([slot.token for slot in reader.slots()])
    assert "- one\n- two\n\nwho?" in read


def test_what_is_no_conversation_is_refused(model):
    with memspan.context("full", model) as reader, pytest.raises(InputError, match="tokenizer"):
        Conversation(reader)
    with opened(model) as reader, pytest.raises(InputError, match="empty"):
        Conversation(reader).say("  ")
    with opened(model) as reader:
        reader.feed([1, 2, 3])
        with pytest.raises(InputError, match="no conversation"):
            Conversation(reader)


# --- the command -----------------------------------------------------------------------------------------------------


def command(typed, *options):
    return subprocess.run(
        [sys.executable, "-m", "memspan", "chat", "--max-new-tokens", "12", *options],
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-new-tokens", "0"], "at least 1"),
        (["--recall", "-1"], "at least 0"),
        (["--budget", "much"], "much"),
    ],
)
def test_unusable_options_are_said(options, message):
    done = command("hello\n", *options)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.real
def test_a_chat_over_a_pipe_answers_counts_keeps_and_recalls(tmp_path):
    import json

    store, resume = str(tmp_path / "a.db"), str(tmp_path / "chat")
    options = ("--budget", "16MiB", "--store", store, "--organizer", "plain", "--resume", resume)
    first = command("My dog is called Biscuit.\n/bytes\n/slots\n/nowhere\n/help\n/quit\nnot read\n", *options)
    assert first.returncode == 0, first.stderr
    assert "turn 1:" in first.stderr and "of 16.00 MiB" in first.stderr and "turn 2:" not in first.stderr
    assert "context" in first.stdout and "Biscuit" in first.stdout and "/slots" in first.stdout
    assert "there is no /nowhere" in first.stderr
    again = command("Tell me about my dog Biscuit.\n", *options, "--json")
    assert again.returncode == 0, again.stderr
    (turn,) = map(json.loads, again.stdout.splitlines())
    assert turn["turn"] == 2 and turn["context_bytes"] <= 16 * 2**20
    assert "going on after turn 1" in again.stderr
    assert any("Biscuit" in hit["text"] for hit in turn["recalled"])
