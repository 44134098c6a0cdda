"""Answers from memory: how many are right, cite a right turn, and are declined when there is nothing to say.

    python benchmarks/ask.py [--set shipped|written|both] [--model SPEC] [--embedder SPEC] [--organizer NAME] [--json]

Asks the 25 shipped questions, and the 36 of `ask_set.py`. An answer is right when it is given, holds the expected value
or an alias as whole words, and cites one of the turns that hold it. Of a question without an answer it is right to
decline. Each conversation is a memory of its own, asked a day after its last turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.ask_set import AskedConversation, conversations
from benchmarks.common import table
from benchmarks.temporal_items import mentions
from memspan import Memory
from memspan.data import conversation_path, questions
from memspan.longterm.readers import read_all

# Of the shipped set: right answers of those that can be answered, and refusals of those that cannot.
BAR_RIGHT, BAR_DECLINED = 17, 4


def shipped() -> list[AskedConversation]:
    """The conversation that ships with memspan, with its questions."""
    episodes = tuple(read_all([conversation_path()]))
    return [AskedConversation(name="shipped", episodes=episodes, questions=tuple(questions()))]


SETS = {"shipped": shipped, "written": conversations}


def ask_all(conversation: AskedConversation, model: Any, embedder: Any, organizer: str) -> Iterator[dict[str, Any]]:
    """Each question with what was answered and how that is judged."""
    asked_at = max(episode.at for episode in conversation.episodes if episode.at) + timedelta(days=1)
    with Memory.open(":memory:", organizer=organizer, embedder=embedder, now=lambda: asked_at) as memory:
        memory.add(conversation.episodes)
        for asked in conversation.questions:
            as_of = datetime.fromisoformat(f"{asked['as_of']}T12:00:00+00:00") if asked["as_of"] else None
            answer = memory.ask(asked["question"], as_of=as_of, model=model)
            values = [] if asked["answer"] is None else [asked["answer"], *asked["aliases"]]
            cited = [citation.episode for citation in answer.citations]
            yield {
                "id": asked["id"],
                "category": asked["category"],
                "question": asked["question"],
                "expected": asked["answer"],
                "text": answer.text,
                "cited": cited,
                "confidence": answer.confidence,
                "declined": answer.abstained,
                "value": not answer.abstained and any(mentions(answer.text, value) for value in values),
                "citation": not answer.abstained and not set(cited).isdisjoint(asked["evidence"]),
            }


def right(row: dict[str, Any]) -> bool:
    """Declined when there is no answer; else the right value with a right citation."""
    return bool(row["declined"] if row["expected"] is None else row["value"] and row["citation"])


def score(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the questions that can be answered and over those that cannot."""
    answerable = [row for row in rows if row["expected"] is not None]
    unanswerable = [row for row in rows if row["expected"] is None]
    return {
        "set": name,
        "answerable": len(answerable),
        "value": sum(row["value"] for row in answerable),
        "citation": sum(row["citation"] for row in answerable),
        "right": sum(right(row) for row in answerable),
        "declined_wrongly": sum(row["declined"] for row in answerable),
        "unanswerable": len(unanswerable),
        "declined": sum(row["declined"] for row in unanswerable),
    }


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--set", choices=[*SETS, "both"], default="both", help="which questions (default: both)")
    options.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options.add_argument("--show-misses", action="store_true", help="print every wrong answer to standard error")
    options.add_argument("--model", metavar="SPEC", help="the language model that writes the answers (default: none)")
    options.add_argument("--embedder", metavar="SPEC", default="bundled", help='"none" for full text alone')
    options.add_argument("--organizer", default="plain", help='"plain" or "zep" (default: plain)')
    chosen = options.parse_args()
    from memspan.models import load_embedder, load_language_model

    embedder = None if chosen.embedder == "none" else load_embedder(chosen.embedder)
    model = load_language_model(chosen.model) if chosen.model else None
    totals = []
    for name in SETS if chosen.set == "both" else [chosen.set]:
        talks = SETS[name]()
        rows = [row for talk in talks for row in ask_all(talk, model, embedder, chosen.organizer)]
        totals.append(score(name, rows))
        if chosen.show_misses:
            for row in rows:
                if not right(row):
                    cited = ", ".join(row["cited"]) or "nothing"
                    print(f"{row['id']} {row['question']} -> {row['text']!r}, cites {cited}", file=sys.stderr)
                    print(f"    expected {row['expected'] or 'to decline'}", file=sys.stderr)
    if chosen.json:
        print(json.dumps(totals, indent=2))
        return
    header = ["set", "value right", "citation right", "both right", "declined wrongly", "declined rightly"]
    print(table(header, [_line(total) for total in totals]))
    for total in totals:
        if total["set"] == "shipped":
            met = total["right"] >= BAR_RIGHT and total["declined"] >= BAR_DECLINED
            wanted = f"{BAR_RIGHT} of {total['answerable']} right, {BAR_DECLINED} of {total['unanswerable']} declined"
            print(f"bar, shipped: at least {wanted}: {'met' if met else 'NOT MET'}")


def _line(total: dict[str, Any]) -> list[str]:
    of_answerable = [
        f"{total[column]} of {total['answerable']}" for column in ("value", "citation", "right", "declined_wrongly")
    ]
    return [total["set"], *of_answerable, f"{total['declined']} of {total['unanswerable']}"]


if __name__ == "__main__":
    main()
