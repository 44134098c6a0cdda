"""Readers: each layout, told from its content, with ids, times and sessions; bad files name file, place and reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memspan.core.errors import InputError
from memspan.longterm.memory import Memory
from memspan.longterm.readers import FORMATS, PARAGRAPH_CHARS, read_all, read_episodes


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def fails(match: str, *args: Any, **options: Any) -> None:
    with pytest.raises(InputError, match=match):
        read_all(*args, **options)


# --- documents -------------------------------------------------------------------------------------------------------


def test_text_paragraphs(write: Any) -> None:
    path = write("notes.txt", "First one,\nstill it.\n\n \n\nSecond.\n")
    episodes = read_all(path)
    assert [(e.id, e.text, e.session) for e in episodes] == [
        ("notes:1", "First one,\nstill it.", "notes.txt"),
        ("notes:2", "Second.", "notes.txt"),
    ]
    assert list(read_episodes(str(path))) == episodes


def test_text_drops_byte_order_mark_and_carriage_returns(write: Any) -> None:
    path = write("a.txt", b"\xef\xbb\xbfOne\r\ntwo.\r\n\r\nThree.\r\n")
    assert [e.text for e in read_all(path)] == ["One\ntwo.", "Three."]


def test_long_paragraph_is_split_at_sentence_ends(write: Any) -> None:
    sentences = [f"Sentence number {n} tells Mr. Vale of a thing that happened." for n in range(80)]
    episodes = read_all(write("a.txt", " ".join(sentences)))
    assert len(episodes) > 3
    assert all(len(e.text) <= PARAGRAPH_CHARS and e.text.endswith("happened.") for e in episodes)
    assert " ".join(e.text for e in episodes) == " ".join(sentences), "nothing is lost"
    assert min(len(e.text) for e in episodes) > 150, "no crumb at the end"


@pytest.mark.parametrize("text", ["x" * 200_500, "word " * 30_000, "ab\n" * 50_000])
def test_paragraph_without_sentences_loses_nothing(write: Any, text: str) -> None:
    episodes = read_all(write("a.txt", text))
    assert max(len(e.text) for e in episodes) <= PARAGRAPH_CHARS
    assert "".join("".join(e.text.split()) for e in episodes) == "".join(text.split())


def test_markdown_headings_code_and_front_matter(write: Any) -> None:
    path = write(
        "guide.md",
        "---\ntitle: T\n---\n# Guide\n\nHello.\n\nMore.\n\n## Install ##\n```sh\npip install x\n\n# no heading\n```\n"
        "After.\n\nOther\n=====\nBody.\n\n### Last\n",
    )
    assert [(e.text, e.metadata.get("heading")) for e in read_all(path)] == [
        ("---\ntitle: T\n---", None),
        ("# Guide\n\nHello.", "Guide"),
        ("More.", "Guide"),
        ("## Install ##\n\n```sh\npip install x\n\n# no heading\n```", "Guide > Install"),
        ("After.", "Guide > Install"),
        ("Other\n=====\n\nBody.", "Other"),
        ("### Last", "Other > Last"),
    ]


def test_markdown_code_block_stays_whole(write: Any) -> None:
    code = "~~~~\n" + "x = 1. \n\n" * 400 + "~~~\n~~~~"
    episodes = read_all(write("a.md", f"Before:\n{code}\nAfter"))
    assert [e.text for e in episodes] == ["Before:", code, "After"]
    assert read_all(write("open.md", "```\na\n\nb\n"))[0].text == "```\na\n\nb", "an open fence runs to the end"


# --- episodes --------------------------------------------------------------------------------------------------------


def test_jsonl_episodes(write: Any) -> None:
    path = write(
        "log.jsonl",
        lines(
            {
                "text": "Hi\u2028there",
                "speaker": "Ann",
                "at": "2024-05-01T18:00:00Z",
                "session": 7,
                "id": 3,
                "metadata": {"a": 1},
                "mood": "good",
            }
        )
        + "\n"
        + lines({"text": "Bare."}),
    )
    first, second = read_all(path)
    assert (first.text, first.speaker, first.session, first.id) == ("Hi\u2028there", "Ann", "7", "3")
    assert first.at == datetime(2024, 5, 1, 18, tzinfo=UTC)
    assert first.metadata == {"a": 1, "mood": "good"}
    assert (second.id, second.session, second.at, second.speaker, second.metadata) == ("log:2", None, None, None, {})


def test_jsonl_line_longer_than_the_buffer(write: Any) -> None:
    episodes = read_all(write("a.jsonl", lines({"text": "word " * 50_000}, {"text": "b"})))
    assert [len(e.text) for e in episodes] == [250_000, 1]


def test_json_list_and_json_lines_under_another_name(write: Any) -> None:
    values = [{"text": "a"}, {"text": "b"}]
    for path in (write("a.json", values), write("b.json", lines(*values)), write("export", lines(*values))):
        assert [e.text for e in read_all(path)] == ["a", "b"]


def test_same_input_gives_the_same_ids(write: Any) -> None:
    path = write("a.jsonl", lines({"text": "a"}, {"text": "b"}))
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        assert memory.add(read_all(path)) == memory.add(read_all(path)) == ["a:1", "a:2"]


# --- chats -----------------------------------------------------------------------------------------------------------

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "name": "Bot"}]


@pytest.mark.parametrize("content", [TALK, {"messages": TALK}, [{"messages": TALK}], [TALK]])
def test_one_chat(write: Any, content: Any) -> None:
    episodes = read_all(write("talk.json", content))
    assert [(e.id, e.text, e.speaker, e.session, e.metadata) for e in episodes] == [
        ("talk:1", "Hi", "user", "talk", {"role": "user"}),
        ("talk:2", "Hello", "Bot", "talk", {"role": "assistant"}),
    ]


def test_several_chats_with_times_and_names(write: Any) -> None:
    stamped = [{**TALK[0], "created_at": 1_714_586_400}, {**TALK[1], "at": "2024-05-01T18:00:01"}]
    chats = [{"messages": TALK, "at": "2024-04-01"}, {"id": "second", "messages": stamped}]
    for path in (write("t.json", chats), write("t.jsonl", lines(*chats))):
        episodes = read_all(path)
        assert [(e.id, e.session) for e in episodes] == [
            ("t:1:1", "t:1"),
            ("t:1:2", "t:1"),
            ("t:2:1", "second"),
            ("t:2:2", "second"),
        ]
        assert [e.at and e.at.isoformat()[:19] for e in episodes] == [
            "2024-04-01T00:00:00",
            "2024-04-01T00:00:00",
            "2024-05-01T18:00:00",
            "2024-05-01T18:00:01",
        ]


def test_chat_parts_and_messages_without_text(write: Any) -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "data:"}}, "so"]
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}
    reply = {"role": "tool", "content": "21 °C", "tool_call_id": "c"}
    episodes = read_all(write("t.json", [{"role": "user", "content": parts}, call, reply]))
    assert [(e.id, e.text) for e in episodes] == [("t:1", "Look:\nso"), ("t:3", "21 °C")]
    assert episodes[0].metadata == {"role": "user", "attachments": ["image_url"]}
    assert episodes[1].metadata == {"role": "tool", "tool_call_id": "c"}
    assert episodes.skipped == 1


# --- benchmarks ------------------------------------------------------------------------------------------------------


def locomo(sample: str = "conv-1", **more: Any) -> dict[str, Any]:
    turns = [
        {"speaker": "Ann", "dia_id": "D2:1", "text": "See", "blip_caption": "a red bike", "query": "bike"},
        {"speaker": "Ben", "dia_id": "D2:2", "text": ""},
    ]
    talk = {
        "speaker_a": "Ann",
        "session_10_date_time": "12:09 am on 13 September, 2023",
        "session_10": [{"speaker": "Ben", "dia_id": "D10:1", "text": "Late."}],
        "session_2_date_time": "1:56 pm on 8 May, 2023",
        "session_2": turns,
        **more,
    }
    return {"sample_id": sample, "conversation": talk, "qa": [{"question": "secret"}], "observation": {}}


def test_locomo(write: Any) -> None:
    episodes = read_all(write("l.json", [locomo()]))
    assert [(e.id, e.session, e.speaker, e.text) for e in episodes] == [
        ("D2:1", "conv-1/session_2", "Ann", "See"),
        ("D10:1", "conv-1/session_10", "Ben", "Late."),
    ]
    assert [e.at for e in episodes] == [
        datetime(2023, 5, 8, 13, 56, tzinfo=UTC),
        datetime(2023, 9, 13, 0, 9, tzinfo=UTC),
    ]
    assert episodes[0].metadata == {"caption": "a red bike"}
    assert episodes.skipped == 1
    assert [e.id for e in read_all(write("two.json", [locomo(), locomo("conv-2")]))] == [
        "conv-1/D2:1",
        "conv-1/D10:1",
        "conv-2/D2:1",
        "conv-2/D10:1",
    ]


def test_locomo_photo_without_words_is_kept(write: Any) -> None:
    photo = {"speaker": "Ann", "dia_id": "D3:1", "text": "", "blip_caption": "a kite"}
    episodes = read_all(write("l.json", [locomo(session_3=[photo])]))
    assert [(e.text, e.metadata, e.at) for e in episodes if e.id == "D3:1"] == [
        ("(photo)", {"caption": "a kite"}, None)
    ]


def haystack(question: str = "q1") -> dict[str, Any]:
    return {
        "question_id": question,
        "question": "secret?",
        "answer": "secret",
        "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/21 (Sun) 14:00"],
        "haystack_session_ids": ["s_a", "s_a"],
        "haystack_sessions": [[{"role": "user", "content": "One", "has_answer": True}], TALK],
    }


def test_longmemeval_never_shows_which_turn_has_the_answer(write: Any) -> None:
    episodes = read_all(write("m.json", [haystack()]))
    assert [(e.id, e.session) for e in episodes] == [
        ("s_a_1", "q1/s_a"),
        ("s_a#2_1", "q1/s_a#2"),
        ("s_a#2_2", "q1/s_a#2"),
    ]
    assert episodes[0].at == datetime(2023, 5, 20, 2, 21, tzinfo=UTC)
    assert episodes[0].metadata == {"role": "user"}
    assert "has_answer" not in repr(episodes) and "secret" not in repr(episodes)
    assert read_all(write("n.json", [haystack(), haystack("q2")]))[-1].id == "q2/s_a#2_2"


def test_beam(write: Any) -> None:
    def message(id: int, batch: int, anchor: str | None) -> dict[str, Any]:
        return {"id": id, "batch": batch, "turn": 0, "role": "user", "time_anchor": anchor, "content": f"m{id}"}

    messages = [message(0, 1, "March-15-2024"), message(1, 1, None), message(2, 2, None)]
    chat = {"chat_id": "100K-1", "topic": {}, "messages": messages}
    episodes = read_all(write("chats.jsonl", lines(chat)))
    assert [(e.id, e.session, e.at and e.at.date().isoformat()) for e in episodes] == [
        ("0", "100K-1/batch_1", "2024-03-15"),
        ("1", "100K-1/batch_1", "2024-03-15"),
        ("2", "100K-1/batch_2", None),
    ]
    both = read_all(write("both.jsonl", lines(chat, {**chat, "chat_id": "100K-3"})))
    assert both[0].id == "100K-1/0" and both[3].id == "100K-3/0"


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b" \n\n", r"a\.txt holds no text"),
        ("a.txt", b"good\nb\xe4d\n", r"a\.txt, line 2: not UTF-8"),
        ("a.txt", b"\x89PNG\0\0", r"a\.txt is a binary file"),
        ("a.txt", b"%PDF-1.7\n", r"a\.txt is a binary file"),
        ("a.txt", "x".encode("utf-16"), r"a\.txt is UTF-16"),
        ("a.json", "[]", r"a\.json holds no text"),
        ("a.json", '[{"text": "a"},\n {"text": }]', r"a\.json, line 2: not JSON \(Expecting value, column 11\)"),
        ("a.json", "[" * 100_000, r"a\.json, (\$: cannot be read|line 1: not JSON)"),
        ("a.json", '[{"text": "a", "n": NaN}]', r"a\.json, \$: cannot be read \(NaN is not JSON\)"),
        ("a.json", "3", r"a\.json, \$: .* must be an object, not a number"),
        ("a.json", '{"foo": 1, "bar": 2}', r"a\.json, \$: no layout that is known \(keys: foo, bar\)"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"text": "a"}\n7\n', r"a\.jsonl, line 2: an episode must be an object, not a number"),
        ("a.jsonl", '{"text": "a"}\n\n{"speaker": "b"}\n', r"a\.jsonl, line 3: no text"),
        ("a.jsonl", '{"text": 4}', r"a\.jsonl, line 1, text: text must be text, not a number"),
        ("a.jsonl", '{"text": "a", "at": "May 1st"}', r'a\.jsonl, line 1, at: "May 1st" is not a date'),
        ("a.jsonl", '{"text": "a", "at": 5}', r"a\.jsonl, line 1, at: 5 is not a date"),
        ("a.jsonl", '{"text": "a", "id": true}', r"a\.jsonl, line 1, id: id must be text, not true or false"),
        ("a.jsonl", '{"text": "a", "session": " "}', r"a\.jsonl, line 1, session: session is empty"),
        ("a.jsonl", '{"text": "a", "metadata": [1]}', r"line 1, metadata: metadata must be an object, not a list"),
        ("a.jsonl", '{"text": "a", "m": 1, "metadata": {"m": 2}}', r"line 1: m stands beside metadata and in it"),
        ("a.jsonl", '{"text": "\\ud800"}', r"a\.jsonl, line 1: holds half a surrogate pair"),
        ("a.jsonl", '{"text": " "}\n', r"a\.jsonl holds no text"),
        ("a.jsonl", '{"format": "memspan-export", "version": 1}\n', r"read it with: memspan import"),
        ("a.json", '[{"role": "user", "content": "a"}, {"content": "b"}]', r"a\.json, \$\[1\]: no role"),
        ("a.json", '{"messages": [{"role": "user", "content": 3}]}', r"\$\.messages\[0\]\.content: content must be"),
        ("a.json", '{"messages": {}}', r"\$\.messages: messages must be a list, not an object"),
    ],
)  # fmt: skip
def test_bad_file_is_one_clear_error(write: Any, name: str, content: Any, message: str) -> None:
    fails(message, write(name, content))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    fails("is a folder; name the files", tmp_path)
    fails(r"none\.txt does not exist", tmp_path / "none.txt")
    fails("no file to read", [])
    fails("is not a regular file", "/dev/null")
    fails("cannot read", "a\0b")


def test_duplicate_ids_name_both_places(write: Any) -> None:
    path = write("a.jsonl", lines({"text": "a", "id": "x"}, {"text": "b"}, {"text": "c", "id": "x"}))
    fails(r"a\.jsonl, line 3: the id 'x' is taken by .*a\.jsonl, line 1;", path)
    other = write("b.jsonl", lines({"text": "a", "id": "x"}))
    fails(r"a\.jsonl, line 1: the id 'x' is taken by .*b\.jsonl, line 1;", [other, path])


def test_files_of_the_same_name_are_told_apart(write: Any) -> None:
    same = [write("one/README.md", "First."), write("two/README.md", "Second.")]
    assert [(e.id, e.session) for e in read_all(same)] == [
        ("one/README.md:1", "one/README.md"),
        ("two/README.md:1", "two/README.md"),
    ]
    assert [e.id for e in read_all([same[0], write("one/README.txt", "Third.")])] == ["README.md:1", "README.txt:1"]
    fails("is named twice", [same[0], same[0]])


def test_a_bad_second_file_is_found_before_anything_is_returned(write: Any) -> None:
    good, bad = write("good.txt", "Fine."), write("bad.jsonl", '{"text": "a"}\n{')
    fails(r"bad\.jsonl, line 2", [good, bad])
    episodes = read_episodes([good, bad])
    assert next(episodes).text == "Fine.", "the lazy reader hands out what comes before"


def test_format_can_be_named(write: Any) -> None:
    path = write("a.log", '[2024-01-01] started\n\n{"x": 1}\n')
    assert len(read_all(path)) == 2, "an unknown name that does not look like JSON is text"
    fails(r"format 'yaml' is unknown; use one of text, markdown", path, format="yaml")
    assert read_all(write("b.json", [{"text": "a"}]), format="text")[0].text == '[{"text": "a"}]'
    assert read_all(write("c.txt", lines({"text": "a"})), format="jsonl")[0].text == "a"
    assert len(FORMATS) == 7


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("locomo", {}, r"\$\[0\]\.conversation: conversation must be an object, not null"),
        ("locomo", locomo(session_2=3), r"\$\[0\]\.conversation\.session_2: session_2 must be a list"),
        ("locomo", locomo(session_2=[{"speaker": "A"}]), r"session_2\[0\]\.text: text must be text, not null"),
        ("locomo", locomo(session_2=[{"text": "a"}]), r"session_2\[0\]: no dia_id"),
        ("locomo", locomo(session_2_date_time="May"), r'session_2_date_time: "May" is not a date like \'1:56 pm'),
        ("longmemeval", {}, r"\$\[0\]: no question_id"),
        ("longmemeval", {**haystack(), "haystack_dates": []}, r"differ in length: 2, 2, 0"),
        ("longmemeval", {**haystack(), "haystack_dates": ["x", "y"]}, r'haystack_dates\[0\]: "x" is not a date like'),
        ("beam", {"messages": []}, r"\$\[0\]: no chat_id"),
        ("beam", {"chat_id": 1, "messages": [{"role": "user"}]}, r"\$\[0\]\.messages\[0\]: no id"),
        ("beam", {"chat_id": 1, "messages": [{"id": 1, "time_anchor": "May-32-2024"}]}, r"messages\[0\]\.time_anchor"),
    ],
)
def test_damaged_benchmark_files(write: Any, name: str, entry: Any, message: str) -> None:
    fails(message, write("a.json", [entry]), format=name)
