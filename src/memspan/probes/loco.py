"""LoCo (Saad-Falcon et al., ICML 2024, arXiv 2402.07440): retrieval of long documents, by nDCG@10.

The benchmark half of m2-bert-loco. For each question the documents of a collection are ranked. What answers the
question stands where an encoder that reads a document's beginning alone does not come:

- `late_key`: the question is a sentence of the document's last quarter, beyond the first 512 tokens;
- `late_paraphrase`: the same in other words and another order, so that exact words help little; of a user's text two
  words or more are exchanged and the order stays, which BM25 does not notice: it is as good as with the same words;
- `global`: the question names what the whole document is about, or, of a user's text, is the line before it.

    memspan probe loco --subject embedder:bundled --length 2k   # what a truncated encoder reads
    memspan probe loco --subject chunks:bundled --length 2k     # the best of a document's passages
    memspan probe loco --subject bm25 --length 2k
    memspan probe loco --subject memory:plain --option text=folder/of/books

`--length` is the tokens of a document, `--n` the questions. Subjects: `embedder:NAME` and `chunks:NAME` (any encoder,
one that `m2-bert-loco` trained too), `bm25`, `memory:ORGANIZER` (each document an episode), a local language model,
which reads one document after the other and ranks by how likely the question is after it, and a model behind an
endpoint, which is shown all documents at once and writes their numbers down.

Notable choices. Documents are made up here, or are a user's books (`text=`), or rows of LoCoV1 in its own fields
(`data=`, a folder with queries.jsonl and documents.jsonl); none are shipped. `split="train"` makes questions that share
no sentence with those of `split="test"`, and of a user's books other books, or the other half of the only one: the
published loader reads the test split under all three names, and a retriever trained with it has seen its own exam. A
document ends where the next sentence would pass the length. Ties are broken by place, which is by lot.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from memspan.core.errors import InputError
from memspan.probes.base import Choice, Count, Exam, Form, Grade, Item, Role, Said, Subject
from memspan.probes.retrievers import Retriever, ndcg
from memspan.probes.sentences import TABLES, made_up, read_sentences, reworded

Task = Literal["late_key", "late_paraphrase", "global"]
TASKS: tuple[Task, ...] = get_args(Task)
BEYOND = 512
"""Tokens that encoders commonly read."""
_LATE = 0.75  # share of a document before what is asked about
_CHARACTERS_A_TOKEN = 4.4  # of English
_OPTIONS = 4  # of the likelihood form
_SAID = 100  # numbers of a written ranking


@dataclass(frozen=True, kw_only=True)
class LocoConfig:
    """What is searched.

    Raises:
        InputError: a number or a name is not possible.
    """

    tasks: tuple[str, ...] = TASKS  # n questions take turns at them; of `data`, the names of its sets, "" for all
    documents: int = 40  # of each task's collection
    split: Literal["test", "train"] = "test"  # nothing of one is in the other
    text: str = ""  # a file, or a folder of .txt files, to take documents from; "" makes them up
    data: str = ""  # a folder with queries.jsonl and documents.jsonl in LoCoV1's fields

    def __post_init__(self) -> None:
        tasks = tuple(self.tasks.split(",")) if isinstance(self.tasks, str) else tuple(self.tasks)
        object.__setattr__(self, "tasks", tasks)
        unknown = [] if self.data else [task for task in tasks if task not in TASKS]
        if unknown or not tasks:
            raise InputError(f"{unknown[0] if unknown else tasks!r} is no task: choose of {', '.join(TASKS)}")
        if self.documents < 2:
            raise InputError(f"documents is {self.documents}: at least 2 are needed to choose from")
        if self.split not in ("test", "train"):
            raise InputError(f"split is {self.split!r}: choose test or train")
        if self.text and self.data:
            raise InputError("text and data are both given: one of them can be searched")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search(Item):
    """A question to a collection.

    Attributes:
        documents: of the collection; query: the bare question. The answer is the places of the right ones.
    """

    documents: tuple[str, ...]
    query: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A document and its question."""

    document: str
    query: str


class Loco(Exam):
    """Long documents, ranked for questions."""

    slug = "loco"
    Config = LocoConfig
    least = 700
    role: ClassVar[Role] = "retriever"

    def estimate(self, text: str) -> int:
        """Characters over 4.4."""
        return round(len(text) / _CHARACTERS_A_TOKEN)

    # --- items -------------------------------------------------------------------------------------------------------

    def items(self, n: int, length: int, seed: int, count: Count) -> list[Search]:
        """Questions to documents of the collection, as many of each task; never more than there are documents."""
        if self.config.data:
            return self._rows(n, length, seed)
        made: list[Search] = []
        tasks = self.config.tasks
        for place, task in enumerate(tasks):
            wanted = len(range(place, n, len(tasks)))
            if not wanted:
                continue
            if wanted > self.config.documents:
                raise InputError(f"{wanted} questions of {task} are more than its {self.config.documents} documents")
            every = self.collection(task, self.config.documents, length, seed, count)
            documents = tuple(one.document for one in every)
            for i in random.Random(f"{task} {length} {seed} asked").sample(range(len(every)), wanted):
                name = f"{task}-{self.config.split}-{length}-{seed}-{i}"
                made.append(_search(name, every[i].query, [i], documents, {"task": task, "length": length}))
        return made

    def collection(self, task: str, size: int, length: int, seed: int, count: Count) -> list[Asked]:
        """So many documents of at most `length` tokens, each with its question, which fits no other as well.

        With `split="train"` this is what a retriever may be trained on.

        Raises:
            InputError: the user's text has too few.
        """
        chance = random.Random(f"{task} {self.config.split} {length} {seed}")
        source = (
            self._books(task, length, chance, count) if self.config.text else self._made(task, length, chance, count)
        )
        found: list[Asked] = []
        for one in source:
            if not any(one.query in other.document or other.query in one.document for other in found):
                found.append(one)
            if len(found) == size:
                break
        if len(found) < size:
            raise InputError(
                f"the text has {len(found)} documents of {length:,} tokens for {task} in the {self.config.split} split,"
                f" and {size} are to be searched: give more text, or fewer documents (--option documents=N)"
            )
        return found

    def _made(self, task: str, length: int, chance: random.Random, count: Count) -> Iterator[Asked]:
        """Made-up documents; those of `global` have people, things and places of their own."""
        mine = self.config.split == "test"
        while True:
            tables: dict[str, Sequence[tuple[str, str]]] = dict(TABLES)
            if task == "global":
                tables |= {"who": chance.sample(TABLES["who"], 4), "what": chance.sample(TABLES["what"], 4)}
                tables["where"] = chance.sample(TABLES["where"], 3)
            source = (
                one for one in made_up(chance, tables) if (zlib.crc32(one.text.encode()) % 2 == 0) == mine
            )  # a sentence is of one split or the other, whatever the seed
            lines, late = _filled(source, length, count)
            if task == "global":
                people, things, places = ([pair[1] for pair in tables[name]] for name in ("who", "what", "where"))
                query = f"What was going on between {_listed(people)} over {_listed(things)}, at {_listed(places)}?"
            else:
                key = lines[chance.randrange(late, len(lines))]
                query = key.text if task == "late_key" else key.other
            yield Asked(" ".join(line.text for line in lines), query)

    def _books(self, task: str, length: int, chance: random.Random, count: Count) -> Iterator[Asked]:
        """Windows of a user's text, which do not overlap, in an order by lot."""
        test, train = _split(_files(self.config.text))
        known = {line for book in train for line in book}
        books = train if self.config.split == "train" else [[s for s in book if s not in known] for book in test]
        windows = []
        for book in books:
            lines = iter([_Line(text) for text in book])
            while True:
                try:
                    windows.append((next(lines), *_filled(lines, length, count)))
                except StopIteration:
                    break
        chance.shuffle(windows)
        for before, window, late in windows:
            document = " ".join(line.text for line in window)
            if task == "global":
                yield Asked(document, before.text)
                continue
            keys = [line.text for line in window[late:] if len(line.text.split()) >= 6]
            chance.shuffle(keys)
            if task == "late_paraphrase":
                keys = [other for key in keys if (other := reworded(key))]
            if keys:
                yield Asked(document, keys[0])

    def _rows(self, n: int, length: int, seed: int) -> list[Search]:
        """Rows of LoCoV1, documents as long as they are."""
        folder = Path(self.config.data).expanduser()
        queries, documents = _jsonl(folder / "queries.jsonl"), _jsonl(folder / "documents.jsonl")
        split = self.config.split
        try:
            queries = [row for row in queries if row.get("split", split) == split]
            names = sorted({str(row["dataset"]) for row in queries})
            wanted = names if self.config.tasks == TASKS or not any(self.config.tasks) else list(self.config.tasks)
            if missing := [name for name in wanted if name not in names]:
                raise InputError(f"{folder} has no set {missing[0]!r}; it has: {', '.join(names) or 'none'}")
            made = []
            for place, name in enumerate(wanted):
                held = [row for row in documents if row["dataset"] == name]
                places = {str(row["pid"]): i for i, row in enumerate(held)}
                texts = tuple(str(row["passage"]) for row in held)
                asked = [row for row in queries if row["dataset"] == name]
                random.Random(f"{name} {seed}").shuffle(asked)
                for row in islice(asked, len(range(place, n, len(wanted)))):
                    right = [places[str(pid)] for pid in row["answer_pids"]]
                    group = {"task": name, "length": length}
                    made.append(_search(f"{name}-{length}-{row['qid']}", str(row["query"]), right, texts, group))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{folder} holds no rows of LoCoV1, or names documents that are not there: {error}"
            ) from None
        if not made:
            raise InputError(f"{folder} has no query of the {split} split")
        return made

    # --- sitting and marking it --------------------------------------------------------------------------------------

    def sit(self, subject: Subject, items: Sequence[Item], form: Form) -> Iterator[tuple[Item, Said]]:
        """A retriever ranks a collection for all its questions at once; whoever is none reads all documents."""
        if not isinstance(subject, Retriever):
            yield from super().sit(subject, items, form)
            return
        searches = [item for item in items if isinstance(item, Search)]
        for _, group in groupby(searches, lambda one: (one.group["task"], one.group["length"])):
            asked = list(group)
            table = subject.rank([one.query for one in asked], asked[0].documents)
            for one, scores in zip(asked, table, strict=True):
                if form == "text":
                    order = sorted(range(len(scores)), key=lambda i, scores=scores: -scores[i])  # type: ignore[misc]
                    yield one, ", ".join(str(i + 1) for i in order[:_SAID])
                else:
                    yield one, [[scores[int(option) - 1] for option in choice.options] for choice in one.choices]

    def oracle(self, item: Item) -> str:
        """The right numbers."""
        return ", ".join(str(i + 1) for i in item.answer)

    def guess(self, item: Item, chance: random.Random) -> str:
        """All numbers by lot."""
        count = len(item.documents) if isinstance(item, Search) else 0
        return ", ".join(str(i + 1) for i in chance.sample(range(count), count))

    def grade(self, item: Item, text: str) -> Grade:
        """nDCG@10 of the numbers in the order written, each counted once; others beside it."""
        ranking = list(dict.fromkeys(int(number) - 1 for number in re.findall(r"\d+", text)))
        more = {f"ndcg{k}": ndcg(ranking, item.answer, k) for k in (1, 3, 5, 100)}
        return Grade(ndcg(ranking, item.answer), parsed=bool(ranking), more=more)


def _search(
    name: str, query: str, right: list[int], documents: tuple[str, ...], group: dict[str, str | int | float]
) -> Search:
    chance = random.Random(name)
    wrong = [i for i in range(len(documents)) if i not in right]
    options = [right[0], *chance.sample(wrong, min(len(wrong), _OPTIONS - 1))]
    chance.shuffle(options)
    pieces = tuple(f"[{i + 1}]\n{text}\n\n" for i, text in enumerate(documents))
    asked = f'"{query}"'
    return Search(
        id=name,
        context="".join(pieces),
        pieces=pieces,
        question=f"Which of the numbered texts above answers this, or holds it in other words?\n{asked}\nAnswer with "
        "the numbers of the ten that fit best, the best first, with commas between them.",
        answer=right,
        choices=(
            Choice(
                question=f"\nThe text that answers {asked} is number",
                options=tuple(f" {i + 1}" for i in options),
                right=options.index(right[0]),
            ),
        ),
        group={**group, "documents": len(documents)},
        new_tokens=60,
        documents=documents,
        query=query,
    )


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    other: str = ""


def _filled(source: Iterator[Any], length: int, count: Count) -> tuple[list[Any], int]:
    """The next lines of a source, up to a length, and the first of them that is late enough to be asked about.

    Raises:
        StopIteration: the source ends before the length is reached.
    """
    lines: list[Any] = []
    total, late = 0, 0
    while True:
        line = next(source)
        size = count(f" {line.text}")
        if total + size > length:
            return lines, late
        if total < max(BEYOND, _LATE * length):
            late = len(lines) + 1
        lines.append(line)
        total += size


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"the {name}" for name in names[:-1]) + f" and the {names[-1]}"


def _files(text: str) -> list[list[str]]:
    path = Path(text).expanduser()
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no .txt file")
    return [read_sentences(file) for file in files]


def _split(books: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Books for the test and for training: every other one, or the halves of the only one."""
    if len(books) > 1:
        return books[::2], books[1::2]
    half = len(books[0]) // 2
    return [books[0][half:]], [books[0][:half]]


def _jsonl(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON lines: {error}") from error
