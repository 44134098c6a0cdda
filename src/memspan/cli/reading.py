"""`memspan read`: a question answered from files of any length, inside a byte budget of context."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memspan.core.budget import Budget, format_bytes
from memspan.core.errors import InputError


def read_and_answer(options: argparse.Namespace) -> int:
    """Read the files, answer the question, and say what it took."""
    *files, question = options.files
    if not files and not options.resume:
        raise InputError('say what to read and what to ask: memspan read FILE… "question"')
    if not question.strip():
        raise InputError("the question is empty")
    if options.max_new_tokens < 1:
        raise InputError("--max-new-tokens must be at least 1")
    texts = [text_of(Path(name)) for name in files]
    budget = Budget.parse(options.budget)

    from memspan.cli.learning import settings
    from memspan.context.reader import open_reader
    from memspan.models import load_language_model

    model = load_language_model(options.model)
    begun = time.perf_counter()
    made = {"weights": options.weights, **settings(options)}
    with open_reader(options.system, model, budget=budget, frame=True, **made) as reader:
        if options.resume:
            reader.load(options.resume)
        for text in texts:
            reader.feed(text)
        if options.save:
            reader.save(options.save)
        kept = reader.slots() if options.slots else []
        answer = reader.ask(question, max_new_tokens=options.max_new_tokens)
        report: dict[str, Any] = {
            "answer": answer,
            "system": options.system,
            "tokens_read": reader.seen,
            "tokens_kept": reader.cache.tracks[0].n,
            "context_bytes": reader.footprint().total,
            "budget": budget.total,
            "seconds": round(time.perf_counter() - begun, 3),
        }
    if options.json:
        print(json.dumps({**report, "slots": [asdict(slot) for slot in kept]}, ensure_ascii=False, indent=2))
        return 0
    for slot in kept:
        print(f"{slot.position:>9,}  {slot.score:8.3f}  {slot.age:>4}  {slot.reason:<12}  {slot.text!r}")
    print(answer)
    if not options.quiet:
        print(
            f"memspan: {report['tokens_read']:,} tokens read, {report['tokens_kept']:,} kept in "
            f"{format_bytes(report['context_bytes'])} of {format_bytes(budget.total)}, {report['seconds']:.1f} s",
            file=sys.stderr,
        )
    return 0


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error
    if not text.strip():
        raise InputError(f"{path} is empty")
    return text
