"""`memspan reason`: train a reasoner with a small window, and let it answer over triples or a memory's facts."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memspan.core.errors import InputError

if TYPE_CHECKING:
    from memspan.longterm.get_go import KnowledgeBank, Solution, Step
    from memspan.longterm.get_go.training import Trainer

POLICY = "policy.safetensors"
EXAMPLES = """\
examples:
  memspan reason train --out DIR --budget-seconds 120
  memspan reason solve --model DIR --triples facts.csv --start Ada --path employer,located_in
  memspan reason solve --model DIR --store agent.db --start Ann --path "employer,located_in,else:country"

A file of triples is .csv, .tsv or .jsonl, without a header: subject, relation, object, and a source (the line, where
there is none); in .jsonl a list, or an object with these keys. A step of a path is a relation; else:NAME is followed
only if the step before it found nothing.
"""


def add_options(sub: argparse.ArgumentParser) -> None:
    """The verb's options, besides the store's."""
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.epilog = EXAMPLES + (sub.epilog or "")
    sub.add_argument("action", choices=("train", "solve"))
    training = sub.add_argument_group("train")
    training.add_argument("--out", metavar="DIR", help="where the policy goes; one that is there is trained further")
    training.add_argument("--window", type=int, default=1, metavar="N", help="tokens in sight (default: 1)")
    training.add_argument("--dim", type=int, default=16, metavar="N", help="of codes; 64 with --embedder (default: 16)")
    training.add_argument("--hops", type=int, default=3, metavar="N", help="most hops that are trained (default: 3)")
    training.add_argument(
        "--budget-seconds", type=float, default=120.0, metavar="S", help="end after this time (default: 120)"
    )
    training.add_argument("--seed", type=int, default=0, help="of weights, worlds and choices (default: 0)")
    solving = sub.add_argument_group("solve")
    solving.add_argument("--model", metavar="DIR", help="what train wrote")
    solving.add_argument("--triples", metavar="FILE", help="knowledge as .csv, .tsv or .jsonl")
    solving.add_argument("--start", metavar="NAME", help="the entity that the question begins with")
    solving.add_argument("--path", metavar="R1,R2,…", help="relations to follow")
    solving.add_argument("--as-of", metavar="DATE", help="with --store: facts that held at this moment")
    solving.add_argument(
        "--embedder", default="none", metavar="SPEC", help="finds names that are written otherwise (default: none)"
    )


def reason(options: argparse.Namespace) -> int:
    """`memspan reason`."""
    return _train(options) if options.action == "train" else _solve(options)


def _train(options: argparse.Namespace) -> int:
    if not options.out:
        raise InputError("say where the policy goes: memspan reason train --out DIR")
    if not options.budget_seconds > 0:
        raise InputError(f"--budget-seconds must be above 0, not {options.budget_seconds:g}")
    from memspan.longterm.get_go import Curriculum, SmallWindowReasoner

    reasoner = SmallWindowReasoner(options.window, options.dim)
    curriculum = Curriculum(k_max=options.hops)
    folder = Path(options.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    interrupted = False
    try:
        reasoner.pretrain(
            curriculum,
            options.budget_seconds,
            seed=options.seed,
            checkpoint=folder / POLICY,
            progress=not options.quiet and sys.stderr.isatty(),
        )
    except KeyboardInterrupt:
        interrupted = True  # the checkpoint is written: the same command goes on from it
    trainer = reasoner.trainer
    assert trainer is not None
    right, hops = _right(trainer), dict(zip(curriculum.tasks, trainer.k, strict=True))
    if options.json:
        told = {"out": str(folder), "updates": trainer.updates, "interrupted": interrupted, "trained_hops": hops}
        print(json.dumps({**told, "right": right}, ensure_ascii=False, indent=2))
    else:
        print(f"{trainer.updates:,} updates{', interrupted' if interrupted else ''}; saved in {folder}")
        for task, share in right.items():
            print(f"  {task:<12} {share:.0%} right at {4 * options.hops} hops, {hops[task]} trained")
        if interrupted:
            print("the same command goes on from there", file=sys.stderr)
    return 130 if interrupted else 0


def _right(trainer: Trainer) -> dict[str, float]:
    """Each task's accuracy on 100 new questions four times as long as the longest that are trained."""
    import torch

    from memspan.longterm.get_go.training import greedy

    right = {}
    hops = torch.full((100,), 4 * trainer.curriculum.k_max)
    for task in trainer.curriculum.tasks:
        batch = trainer.worlds.draw(task, hops, torch.Generator().manual_seed(trainer.seed + 1))
        right[task] = float(greedy(trainer.policy, batch, trainer.config)[0].right.float().mean())
    return right


def _solve(options: argparse.Namespace) -> int:
    for name, what in (("model", "DIR"), ("start", "NAME"), ("path", "R1,R2")):
        if not getattr(options, name):
            raise InputError(f"solve needs --{name} {what}")
    if bool(options.triples) == bool(options.store):
        raise InputError("solve needs --triples FILE or --store PATH, one of them")
    from memspan.longterm.get_go import SmallWindowReasoner

    path = [_step(word) for word in options.path.split(",")]
    reasoner = SmallWindowReasoner.load(Path(options.model) / POLICY)
    found = reasoner.solve(_bank(options, reasoner.config.d), options.start, path)
    if options.json:
        told = {name: getattr(found, name) for name in ("value", "finished", "steps", "peak_window", "names", "trace")}
        print(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        _print(found)
    return 0


def _step(word: str) -> Step:
    from memspan.longterm.get_go import Step

    kind, colon, name = word.strip().partition(":")
    if colon and kind == "else":
        return Step(name.strip(), "else")
    if not word.strip():
        raise InputError("--path has an empty step; write relations with commas between them")
    return Step(word.strip())


def _bank(options: argparse.Namespace, dim: int) -> KnowledgeBank:
    from memspan.longterm.get_go import KnowledgeBank, TextCodes

    encode = None
    if options.embedder != "none":
        from memspan.models import load_embedder

        encode = TextCodes(load_embedder("bundled" if options.embedder == "auto" else options.embedder), dim)
    if options.store:
        from memspan.longterm.memory import Memory

        with Memory.open(options.store, organizer="plain", embedder=None, space=options.space, create=False) as memory:
            bank = KnowledgeBank.from_memory(memory, dim=dim, encode=encode, as_of=options.as_of)
        if not len(bank):
            raise InputError(
                f"space {options.space!r} of {options.store} holds no facts; an organizer such as zep does"
            )
        return bank
    bank = KnowledgeBank(dim, encode=encode)
    bank.load_triples(read_triples(Path(options.triples)))
    return bank


def read_triples(path: Path) -> list[list[str]]:
    """Rows of a file of triples: subject, relation, object, and the source, which is the line where none is named.

    Raises:
        InputError: the file cannot be read, ends otherwise, or a row of it is no triple; names the line.
    """
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".jsonl"):
        raise InputError(f"{path} must end in .csv, .tsv or .jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    rows = []
    if ending == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                rows.append((number, _json_row(path, number, line)))
    else:
        reader = csv.reader(text.splitlines(), delimiter="," if ending == ".csv" else "\t")
        rows = [(reader.line_num, row) for row in reader if row]
    made = []
    for number, row in rows:
        cells = [cell.strip() for cell in row]
        if len(cells) not in (3, 4) or not all(cells[:3]):
            raise InputError(f"{path}, line {number}: subject, relation, object and perhaps a source, not {row!r}")
        source = cells[3] if len(cells) == 4 else ""
        made.append([*cells[:3], source or f"{path.name}:{number}"])
    if not made:
        raise InputError(f"{path} holds no triples")
    return made


def _json_row(path: Path, number: int, line: str) -> list[str]:
    try:
        row = json.loads(line)
    except ValueError:
        raise InputError(f"{path}, line {number}: not JSON") from None
    if isinstance(row, dict):
        row = [row.get(key, "") for key in ("subject", "relation", "object", "source")]
    if not isinstance(row, list) or not all(isinstance(cell, str) for cell in row):
        raise InputError(f"{path}, line {number}: a triple is a list or an object of texts")
    return row


def _print(found: Solution) -> None:
    from memspan.cli.verbs import _table

    print("NULL: the knowledge does not hold what is needed" if found.value is None else found.value)
    if not found.finished:
        print("(the policy gave no answer in time; train it longer)")
    rows = [
        [
            item["op"],
            item.get("token", ""),
            (item["read"] or "NULL") if "read" in item else "",
            ", ".join(item.get("source", ())),
        ]
        for item in found.trace
    ]
    print("\n" + _table(["op", "token", "read", "source"], rows))
    for asked, held in found.names.items():
        print(f"{asked!r} was taken for {held!r}" if held else f"{asked!r} is near no name that is held")
