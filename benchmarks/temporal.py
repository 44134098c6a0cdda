"""Changed facts and `as of` questions: what `zep` answers from text by rules, with `plain` beside it.

    python benchmarks/temporal.py [--json] [--show-misses]

The items are those of `temporal_set.py`. The answer is the best fact (zep) or the best turn (plain) of one recall at
the asked moment; it is right when the expected value stands in it and no wrong one does. No language model takes part.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.temporal_set import TemporalItem, build, mentions
from memspan import Memory

BAR = 0.90


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


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options.add_argument("--show-misses", action="store_true", help="print every wrong answer")
    options.add_argument("--seed", type=int, default=0, help="of the templates")
    chosen = options.parse_args()
    from memspan.longterm.scribe import load_scribe
    from memspan.models import load_embedder

    scribe, embedder, items = load_scribe("rules"), load_embedder("bundled"), build(chosen.seed)
    rows = []
    for organizer in ("zep", "plain"):
        outcome = [(item, answer(item, organizer, scribe, embedder)) for item in items]
        kinds = {
            "templates": [o for o in outcome if o[0].id.startswith("template/")],
            "by hand": [o for o in outcome if o[0].id.startswith("written/")],
            **{f"kind {kind}": [o for o in outcome if o[0].kind == kind] for kind in sorted({i.kind for i in items})},
            "all": outcome,
        }
        for name, part in kinds.items():
            hits = sum(right(item, text) for item, text in part)
            rows.append(
                {"organizer": organizer, "items": name, "right": hits, "of": len(part), "share": hits / len(part)}
            )
        if chosen.show_misses:
            for item, text in outcome:
                if not right(item, text):
                    print(f"{organizer}: {item.question} -> {text or 'nothing'} | expected {item.expected}")
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['organizer']:6} {row['items']:16} {row['right']:3} of {row['of']:3}  {row['share']:6.1%}")
    print(f"bar: zep at least {BAR:.0%} of all")


if __name__ == "__main__":
    main()
