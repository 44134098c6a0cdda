"""Questions with answers and evidence beside their conversations, in LoCoMo's, BEAM's and LongMemEval's layouts.

The layout is told from the content, not from the name. Episodes come from the readers of episodes, which never look at
questions and answers; these are read here, for exams and benchmarks alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Never

from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.readers import read_all

LOCOMO_CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
BEAM_INDIRECT = ("summarization", "event_ordering", "instruction_following")
"""BEAM's abilities whose evidence points to many or to indirect messages: not meant for retrieval scoring."""
_RUBRIC = re.compile(r"^LLM response should \w+:\s*")
_DIALOGUE_ID = re.compile(r"D:?\s*(\d+):(\d+)")  # as evidence has it: "D8:6; D9:17", "D:11:26"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its evidence.

    Attributes:
        id: unique within its dataset.
        evidence: ids of the episodes that hold the answer, each once.
        sessions: sessions that hold the answer, where the dataset names those.
        audited: an audit found its gold answer or its citation wrong.
        answer: as the dataset gives it; "" where it gives none.
        parts: what a right answer holds, one by one, where the dataset says so.
        unanswerable: nothing in the conversation answers it, and it is to be declined.
        tempting: the wrong answer that the dataset names.
        asked_at: when it is asked, where the dataset says so.
    """

    id: str
    text: str
    category: str
    evidence: tuple[str, ...]
    sessions: tuple[str, ...] = ()
    audited: bool = False
    answer: str = ""
    parts: tuple[str, ...] = ()
    unanswerable: bool = False
    tempting: str = ""
    asked_at: datetime | None = None


@dataclass(slots=True)
class Conversation:
    """One conversation, which gets one index, and the questions about it."""

    name: str
    episodes: list[Episode]
    questions: list[Question] = field(default_factory=list)


@dataclass(slots=True)
class Dataset:
    """A set of conversations in one layout: "locomo", "beam" or "longmemeval"."""

    name: str
    layout: str
    conversations: list[Conversation]


def load(folder: Path, *, unanswerable: bool = False) -> list[Dataset]:
    """Every dataset in a folder or in the folders right below it.

    Args:
        folder: where to look; of a file that is named itself, the datasets of its folder that it is a part of.
        unanswerable: questions of BEAM and LongMemEval without an answer are wanted too; their evidence is empty.

    Raises:
        InputError: there is none, or a file is damaged.
    """
    if folder.is_file():
        return list(_checked(folder.parent, unanswerable, folder.name)) or _none(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not there; name a folder or file in LoCoMo's, BEAM's or LongMemEval's layout")
    found = []
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        found += _checked(place, unanswerable)
    return found or _none(folder)


def _none(place: Path) -> Never:
    raise InputError(f"no dataset in {place}: it needs LoCoMo's or LongMemEval's JSON, or BEAM's two JSONL files")


def _checked(folder: Path, unanswerable: bool, only: str | None = None) -> list[Dataset]:
    try:
        return list(_datasets(folder, unanswerable, only))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / (only or '')}: a question is not as its layout has it ({error!r})") from error


def _datasets(folder: Path, unanswerable: bool, only: str | None = None) -> Iterator[Dataset]:
    """Those of a folder; `only` those with this file."""
    name = folder.resolve().name
    chats, questions = folder / "chats.jsonl", folder / "questions.jsonl"
    if chats.is_file() and questions.is_file() and only in (None, chats.name, questions.name):
        yield Dataset(name, "beam", _beam(_conversations(chats, "beam"), _jsonl(questions), unanswerable))
    for path in sorted(folder.glob("*.json")):
        if only not in (None, path.name):
            continue
        with path.open(encoding="utf-8") as file:
            head = file.read(200_000)
        if '"conversation"' in head and '"session_1' in head:
            audit = folder / "audit_errors.json"
            errors = _json(audit) if audit.is_file() else []
            yield Dataset(name, "locomo", _locomo(_conversations(path, "locomo"), _json(path), errors))
        elif '"question_id"' in head and '"question_type"' in head and '"haystack_' in head:
            found = _longmemeval(_conversations(path, "longmemeval"), _json(path), unanswerable)
            yield Dataset(name, "longmemeval", found)


def _conversations(path: Path, layout: str) -> dict[str, Conversation]:
    """The episodes of a file by conversation, in the file's order; the readers put its name before each session."""
    found: dict[str, Conversation] = {}
    for episode in read_all(path, format=layout):
        name = str(episode.session).rpartition("/")[0]
        found.setdefault(name, Conversation(name, [])).episodes.append(episode)
    return found


def _json(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}; the file is damaged") from None
    return content if isinstance(content, list) else [content]


def _jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number}: {error.msg}; the file is damaged") from None
    return rows


def _locomo(
    conversations: dict[str, Conversation], entries: list[dict[str, Any]], errors: list[dict[str, Any]]
) -> list[Conversation]:
    """Evidence that points at no turn is dropped, and so is a question that is left with none."""
    audited = {(error["sample_id"], error["qa_index"]) for error in errors}
    for entry in entries:
        sample = entry["sample_id"]
        conversation = conversations[sample]
        known = {}
        for episode in conversation.episodes:
            if numbers := _DIALOGUE_ID.search(str(episode.id).rpartition("/")[2]):
                known[numbers[1], numbers[2]] = str(episode.id)
        for number, qa in enumerate(entry["qa"]):
            pairs = [pair for text in qa["evidence"] for pair in _DIALOGUE_ID.findall(text)]
            pairs = [(str(int(session)), str(int(turn))) for session, turn in pairs]  # "D30:05" is D30:5
            evidence = tuple(dict.fromkeys(known[pair] for pair in pairs if pair in known))
            if evidence:
                category = LOCOMO_CATEGORIES[qa["category"]]
                question = Question(
                    id=f"{sample}/{number}",
                    text=qa["question"],
                    category=category,
                    evidence=evidence,
                    audited=(sample, number) in audited,
                    answer=str(qa.get("answer", "")),
                    unanswerable=category == "adversarial",
                    tempting=str(qa.get("adversarial_answer", "")),
                )
                conversation.questions.append(question)
    return list(conversations.values())


def _beam(conversations: dict[str, Conversation], rows: list[dict[str, Any]], unanswerable: bool) -> list[Conversation]:
    """Questions without evidence are left out, unless those are wanted that nothing answers (abstention)."""
    known = {
        name: {str(episode.id).rpartition("/")[2]: str(episode.id) for episode in conversation.episodes}
        for name, conversation in conversations.items()
    }
    for row in rows:
        chat = str(row["chat_id"])
        if chat not in conversations:
            raise InputError(f"question {row['qid']} is about chat {chat!r}, which is not there")
        ids = [str(message) for message in row["evidence"]]
        evidence = tuple(dict.fromkeys(known[chat][uid] for uid in ids if uid in known[chat]))
        if evidence or (unanswerable and row["ability"] == "abstention"):
            question = Question(
                id=str(row["qid"]),
                text=row["question"],
                category=row["ability"],
                evidence=evidence,
                answer=str(row.get("answer", "")),
                parts=tuple(_RUBRIC.sub("", part) for part in row.get("rubric", ())),
                unanswerable=row["ability"] == "abstention",
            )
            conversations[chat].questions.append(question)
    return list(conversations.values())


def _longmemeval(
    conversations: dict[str, Conversation], entries: list[dict[str, Any]], unanswerable: bool
) -> list[Conversation]:
    """One haystack, one conversation. Turn evidence is the `has_answer` turns of the answer sessions.

    A haystack has one question, or in some re-uses a list of `questions` with a list of answer sessions for each.
    """
    for entry in entries:
        name = str(entry["question_id"])
        conversation = conversations[name]
        there = {str(episode.id) for episode in conversation.episodes}
        prefix = f"{name}/" if len(entries) > 1 else ""
        marked: dict[str, list[str]] = {}
        for session, turns in zip(entry["haystack_session_ids"], entry["haystack_sessions"], strict=True):
            ids = [f"{prefix}{session}_{place}" for place, turn in enumerate(turns, 1) if turn.get("has_answer")]
            marked[session] = [uid for uid in ids if uid in there]
        several = "questions" in entry
        texts = entry["questions"] if several else [entry["question"]]
        wanted = entry["answer_session_ids"] if several else [entry["answer_session_ids"]]
        answers = entry.get("answers", [""] * len(texts)) if several else [entry.get("answer", "")]
        for number, (text, answer, session_ids) in enumerate(zip(texts, answers, wanted, strict=True)):
            held = [session for session in dict.fromkeys(session_ids) if session in marked]
            nothing = name.endswith("_abs")  # unanswerable by design
            if not (unanswerable if nothing else held):
                continue
            conversation.questions.append(
                Question(
                    id=f"{name}/{number}" if several else name,
                    text=text,
                    # Where one haystack has several questions, its type belongs to one of them only.
                    category="abstention" if nothing else "unlabelled" if several else entry["question_type"],
                    evidence=() if nothing else tuple(uid for session in held for uid in marked[session]),
                    sessions=() if nothing else tuple(f"{name}/{session}" for session in held),
                    answer=str(answer),
                    unanswerable=nothing,
                    asked_at=_moment(entry.get("question_date")),
                )
            )
    return list(conversations.values())


def _moment(written: Any) -> datetime | None:
    """Of "2023/05/20 (Sat) 02:21"."""
    numbers = [int(number) for number in re.findall(r"\d+", str(written or ""))]
    if len(numbers) < 3:
        return None
    year, month, day, hour, minute = [*numbers, 0, 0][:5]
    return datetime(year, month, day, hour, minute, tzinfo=UTC)
