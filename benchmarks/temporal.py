"""Changed facts and `as of` questions: what `zep` answers from text by rules, with `plain` beside it.

    python benchmarks/temporal.py [--set development|held-out|both] [--json] [--show-misses]

The items are those of `temporal_set.py` (development) and `temporal_set_held_out.py` (held-out). The answer is the best
fact (zep) or the best turn (plain) of one recall at the asked moment; it is right when the expected value stands in it
and no wrong one does. No language model takes part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import temporal_set, temporal_set_held_out
from benchmarks.common import table
from benchmarks.temporal_items import TemporalItem, mentions
from memspan import Memory

BAR = 0.90
SETS = {"development": temporal_set.build, "held-out": temporal_set_held_out.build}


class Clock:
    """The store's time: that of the turn that is being added, then that of the question."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


def answer(item: TemporalItem, organizer: str, scribe: object, embedder: object) -> str:
    """The text of the best fact or turn."""
    clock = Clock()
    clock.now = item.asked_at
    with Memory.open(":memory:", organizer=organizer, scribe=scribe, embedder=embedder, now=clock) as memory:  # type: ignore[arg-type]
        for episode in item.episodes:
            clock.now = episode.at or item.asked_at
            memory.add(episode)
        clock.now = item.asked_at
        kinds = ["fact"] if organizer == "zep" else ["episode"]
        hits = memory.recall(item.question, k=1, kinds=kinds, as_of=item.as_of, believed_at=item.believed_at)
        return hits[0].text if hits else ""


def right(item: TemporalItem, text: str) -> bool:
    """The expected value stands in the answer, and no wrong one does."""
    return mentions(text, item.expected) and not any(mentions(text, value) for value in item.wrong)


def score(outcome: Sequence[tuple[TemporalItem, str]]) -> Iterator[dict[str, Any]]:
    """How many answers are right, by origin and kind of the item, and of all."""
    parts = {
        "templates": [o for o in outcome if o[0].id.startswith("template/")],
        "by hand": [o for o in outcome if o[0].id.startswith("written/")],
        **{f"kind {kind}": [o for o in outcome if o[0].kind == kind] for kind in sorted({o[0].kind for o in outcome})},
        "all": list(outcome),
    }
    for name, part in parts.items():
        hits = sum(right(item, text) for item, text in part)
        yield {"items": name, "right": hits, "of": len(part), "share": hits / len(part)}


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--set", choices=[*SETS, "both"], default="both", help="which items (default: both)")
    options.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options.add_argument("--show-misses", action="store_true", help="print every wrong answer")
    options.add_argument("--seed", type=int, default=0, help="of the templates")
    chosen = options.parse_args()
    from memspan.longterm.scribe import load_scribe
    from memspan.models import load_embedder

    scribe, embedder = load_scribe("rules"), load_embedder("bundled")
    rows = []
    for name in SETS if chosen.set == "both" else [chosen.set]:
        items = SETS[name](chosen.seed)
        for organizer in ("zep", "plain"):
            outcome = [(item, answer(item, organizer, scribe, embedder)) for item in items]
            rows += [{"set": name, "organizer": organizer, **row} for row in score(outcome)]
            if chosen.show_misses:
                for item, text in outcome:
                    if not right(item, text):
                        missed = f"{item.question} -> {text or 'nothing'} | expected {item.expected}"
                        print(f"{name}, {organizer}: {missed}", file=sys.stderr)
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return
    header = ["set", "organizer", "items", "right", "of", "share"]
    print(table(header, [[*(str(row[column]) for column in header[:-1]), f"{row['share']:.1%}"] for row in rows]))
    for row in rows:
        if row["organizer"] == "zep" and row["items"] == "all":
            met = "met" if row["share"] >= BAR else "NOT MET"
            print(f"bar, {row['set']}: zep at least {BAR:.0%} of all: {met}")


if __name__ == "__main__":
    main()
