"""Arguments of every verb, and how errors reach the user."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from memspan import __version__
from memspan.cli import (
    behave,
    chatting,
    fitting,
    indexing,
    learning,
    measuring,
    planning,
    probing,
    reading,
    reasoning,
    training,
    verbs,
)
from memspan.core.errors import MemspanError

EXIT_CODES = """\
exit codes: 0 done, 1 error, 2 unusable input, 3 over the budget, 4 store unusable, 5 store locked by another process,
6 model or endpoint failed, 7 optional package missing, 8 a claim said to hold does not, 130 interrupted"""


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(
        prog="memspan",
        description="Memory for AI systems: remember, recall, answer with citations, inside a byte budget.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"memspan {__version__}")
    commands = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str, run: verbs.Verb) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=EXIT_CODES)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON value instead of text")
        sub.add_argument("--quiet", action="store_true", help="no progress bars, no notes")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    def store(sub: argparse.ArgumentParser, *, required: bool = True) -> None:
        sub.add_argument("--store", metavar="PATH", required=required, help="the store's file (SQLite)")
        sub.add_argument(
            "--space", default="default", metavar="NAME", help="tenant inside the store (default: default)"
        )

    def embedding(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--embedder",
            default="auto",
            metavar="SPEC",
            help="auto (the bundled MiniLM if installed), none (full text alone), or a model spec",
        )
        sub.add_argument(
            "--index",
            default="auto",
            metavar="NAME",
            help="what finds the nearest vectors: auto (a vector index beside large stores), exact, or spann",
        )
        sub.add_argument(
            "--index-above", type=int, metavar="N", help="vectors of a space above which it is used (default: 50,000)"
        )

    def organizing(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--organizer",
            default="auto",
            metavar="NAME",
            help="plain, zep, … (default: zep if its scribe is installed)",
        )
        sub.add_argument("--scribe", default="rules", metavar="SPEC", help="rules (default), model, endpoint:URL#MODEL")

    def reading_files(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--format",
            choices=verbs.FORMATS,
            help="input format, when it cannot be told from the file",
        )

    def filters(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--session", action="append", default=[], help="only this session (repeatable)")
        sub.add_argument("--speaker", action="append", default=[], help="only this speaker (repeatable)")
        sub.add_argument("--after", metavar="DATE", help="only episodes from this moment on")
        sub.add_argument("--before", metavar="DATE", help="only episodes before this moment")
        sub.add_argument("--as-of", metavar="DATE", help="what was true at this moment")
        sub.add_argument("--believed-at", metavar="DATE", help="what the store believed at this moment")
        sub.add_argument(
            "--superseded", action="store_true", help="also versions of documents that newer ones replaced"
        )
        sub.add_argument("--deadline-ms", type=float, metavar="MS", help="leave stages out rather than take longer")

    ask = verb("ask", "read files, and answer a question from memory with citations", verbs.ask)
    ask.add_argument("question", nargs="?")
    ask.add_argument(
        "--read", nargs="+", default=[], metavar="FILE", help="files to read first ('demo' is the one that ships)"
    )
    store(ask, required=False)
    ask.add_argument(
        "--budget", default="1GiB", metavar="BYTES", help="RAM for store, models and context (default: 1GiB)"
    )
    ask.add_argument(
        "--model",
        default="auto",
        metavar="SPEC",
        help="auto, none, bundled, a Hugging Face id, a path, or openai:URL#MODEL",
    )
    ask.add_argument(
        "--mode",
        choices=("context", "marginal"),
        default="context",
        help="a model reads all passages at once (default), or each alone, and the likeliest answer over all is given",
    )
    ask.add_argument(
        "--context", metavar="SLUG", help="read through this context system, as sirllm; see memspan systems"
    )
    ask.add_argument("--context-budget", metavar="BYTES", help="bytes that the context system may hold")
    ask.add_argument("--k", type=int, default=8, help="passages to read (default: 8)")
    embedding(ask)
    organizing(ask)
    reading_files(ask)
    filters(ask)

    read = verb("read", "let a model read files longer than its window, and answer a question", reading.read_and_answer)
    read.add_argument("files", nargs="+", metavar="FILE", help="texts; the last word is the question")
    read.set_defaults(behind="files")
    read.add_argument("--budget", default="64MiB", metavar="BYTES", help="bytes of the context (default: 64MiB)")
    read.add_argument(
        "--system", default="sirllm", metavar="NAME", help="sirllm (default), lm-infinite, window, full, …"
    )
    read.add_argument("--weights", metavar="DIR", help="what train-context learned for this model")
    learning.add_option(read)
    read.add_argument("--model", default="bundled", metavar="SPEC", help="bundled, a Hugging Face id, or a path")
    read.add_argument("--save", metavar="PATH", help="keep what was read in this file")
    read.add_argument("--resume", metavar="PATH", help="go on from a file that --save wrote")
    read.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="of the answer (default: 128)")
    read.add_argument("--slots", action="store_true", help="list what is kept, and why")

    talk = verb("chat", "talk with a model without end, inside a byte budget", chatting.chat)
    chatting.add_options(talk)
    store(talk, required=False)
    embedding(talk)
    organizing(talk)

    remember = verb(
        "remember", "read files and folders into a store; a changed text file becomes a new version", verbs.remember
    )
    remember.add_argument("files", nargs="+", metavar="FILE", help="files, and folders of text and Markdown files")
    remember.add_argument(
        "--prune", action="store_true", help="withdraw documents of the folders whose files are gone; history stays"
    )
    remember.add_argument(
        "--moved", action="store_true", help="files of the same name in another place are the same documents"
    )
    store(remember)
    remember.add_argument(
        "--disk-budget",
        metavar="BYTES",
        help="disk that the space may take, from now on (such as 200MB; 0: no limit); what is worth least is evicted",
    )
    remember.add_argument(
        "--when-full", choices=("evict", "raise"), help="what to do when the space is full (default: as it was, evict)"
    )
    embedding(remember)
    organizing(remember)
    reading_files(remember)

    recall = verb("recall", "list what a store holds on a question, best first", verbs.recall)
    recall.add_argument("query")
    store(recall)
    recall.add_argument("--k", type=int, default=10, help="results (default: 10)")
    recall.add_argument(
        "--kind", action="append", default=[], help="episode (default), fact, entity, community (repeatable)"
    )
    recall.add_argument("--rerank", metavar="NAME", help="rrf, mmr, mentions, distance, cross")
    embedding(recall)
    organizing(recall)
    filters(recall)

    calibrate = verb(
        "calibrate", "measure on questions with known answers how far confidence can be trusted", measuring.calibrate
    )
    calibrate.add_argument(
        "questions",
        metavar="FILE",
        help='JSON lines: {"question", "answer" (null: there is none), "evidence", "as_of"}',
    )
    store(calibrate)
    calibrate.add_argument(
        "--coverage", type=float, metavar="SHARE", help="the threshold that still answers this share"
    )
    calibrate.add_argument(
        "--risk", type=float, metavar="SHARE", help="the threshold with at most this share of errors"
    )
    calibrate.add_argument("--plot", metavar="FILE", help="draw risk against coverage (PNG, SVG or PDF)")
    calibrate.add_argument("--model", default="none", metavar="SPEC", help="the language model (default: none)")
    embedding(calibrate)
    organizing(calibrate)

    summarize = verb("summarize", "sum up a text of any length; every sentence says where it stands", verbs.summarize)
    summarize.add_argument("file", metavar="FILE")
    summarize.add_argument("--words", type=int, default=300, metavar="N", help="words of the summary (default: 300)")
    summarize.add_argument(
        "--model",
        default="none",
        metavar="SPEC",
        help="none (default: the text's own sentences), bundled, a Hugging Face id, a path, or openai:URL#MODEL",
    )

    indexing.add_options(verb("index", "a vector index on disk: build, search, add, delete, verify", indexing.run))
    behaving = verb("behave", "find behaviours that you define in words in a table of keypoints", behave.behave)
    behave.add_options(behaving)
    store(behaving, required=False)

    reasoner = verb("reason", "train a small-window reasoner; answer over triples or a store's facts", reasoning.reason)
    reasoning.add_options(reasoner)
    store(reasoner, required=False)

    forget = verb("forget", "erase episodes and what was derived only from them", verbs.forget)
    forget.add_argument("ids", nargs="*", metavar="ID")
    store(forget)
    forget.add_argument("--session", help="a whole session")
    forget.add_argument("--document", metavar="ID", help="every version of a document")
    forget.add_argument("--speaker", help="all turns of a speaker")
    forget.add_argument("--before", metavar="DATE", help="everything said before this moment")
    forget.add_argument("--everything", action="store_true", help="the whole space")
    organizing(forget)

    export = verb("export", "write a whole store as JSON lines", verbs.export)
    export.add_argument("path")
    store(export)

    import_ = verb("import", "read a file that export wrote into a store", verbs.import_)
    import_.add_argument("path")
    store(import_)

    stats = verb("stats", "counts and bytes of a store, and whether it is sound", verbs.stats)
    store(stats)

    doctor = verb(
        "doctor", "check a store's file and its indexes against its rows; exit code 4 if unsound", measuring.doctor
    )
    store(doctor)
    doctor.add_argument("--repair", action="store_true", help="make indexes that are not sound anew from the rows")

    systems = verb("systems", "list the published systems, or show one: systems show SLUG", verbs.systems)
    systems.add_argument("show", nargs="*", metavar="show SLUG")
    systems.add_argument("--folder", help="only this folder")
    systems.add_argument("--status", help="only this status (working, planned)")

    train = verb(
        "train-embedder", "train an embedder on files of your own, and say whether it helped", training.train_embedder
    )
    training.add_options(train)
    reading_files(train)

    probing.add_options(verb("probe", "examine what a model or a store remembers", probing.probe))
    learning.add_options(
        verb("train-context", "train what a context system adds to a frozen model", learning.train_context)
    )

    planning.add_options(
        verb("plan", "predict the bytes of a training step, and which savers make it fit", planning.plan)
    )

    fitting.add_options(verb("train", "train a language model on texts, inside a byte budget", fitting.train))

    claims = verb("claims", "run the experiments behind the systems that work", verbs.claims)
    claims.add_argument("slugs", nargs="*", metavar="SLUG", help="systems (default: all that work)")
    claims.add_argument(
        "--size", choices=("smoke", "full"), default="smoke", help="smoke: under a minute each (default)"
    )
    claims.add_argument("--out", default="results/claims", metavar="DIR", help="where JSON and the page go")
    claims.add_argument("--claims-dir", default="claims", metavar="DIR", help="where the experiments are")
    claims.add_argument("--seed", type=int, help="only this seed (default: the ones the claim names)")
    return top


def _took(options: argparse.Namespace, rest: list[str]) -> bool:
    """Take words that stand behind the options, where the verb says what they are (`behind`).

    argparse takes one group of positionals, and gives up an optional one before it gets to words after an option.
    """
    name = getattr(options, "behind", None)
    if name is None or any(word.startswith("-") for word in rest):
        return False
    held = getattr(options, name)
    if isinstance(held, list):
        held += rest
    elif held is None and len(rest) == 1:
        setattr(options, name, rest[0])
    else:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest and not _took(options, rest):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        print("memspan: interrupted; what was acknowledged is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has what it wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemspanError as error:
        if options.debug:
            raise
        print(f"memspan: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
