"""`memspan train-embedder`: an embedder of one's own, from one's own files."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

from memspan.core.errors import InputError, MissingExtraError


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of `train-embedder`."""
    sub.add_argument("files", nargs="+", metavar="FILE", help="conversations or documents")
    sub.add_argument("--out", required=True, metavar="DIR", help="where the embedder goes; nothing may be there")
    sub.add_argument(
        "--task",
        choices=("memory", "lrlm"),
        help="memory: questions about what was said; lrlm: documents (default: told from the files)",
    )
    sub.add_argument(
        "--judge",
        default="bundled",
        metavar="SPEC",
        help="the language model whose likelihoods are the reward: bundled, a Hugging Face id, or a path",
    )
    sub.add_argument("--base", default="bundled", metavar="SPEC", help="embedder to start from (default: bundled)")
    sub.add_argument(
        "--loss",
        choices=("stable", "kl", "infonce", "opl"),
        default="stable",
        help="stabilised or plain distillation, InfoNCE, orthogonal projection; the last two need no judge",
    )
    sub.add_argument("--steps", type=int, default=150, metavar="N", help="training steps (default: 150)")
    sub.add_argument("--queries", type=int, default=600, metavar="N", help="most queries to train on (default: 600)")
    sub.add_argument("--seed", type=int, default=0, help="of every draw (default: 0)")
    sub.add_argument("--resume", action="store_true", help="go on with an interrupted training")


def train_embedder(options: argparse.Namespace) -> int:
    """`memspan train-embedder`."""
    from memspan.longterm.readers import read_all

    if options.queries < 16:
        raise InputError(f"--queries must be at least 16, not {options.queries}")
    if options.judge.startswith("openai:"):
        raise InputError("--judge needs a local model: rewards are likelihoods, which endpoints do not give")
    episodes = read_all([_input(name) for name in options.files], format=options.format)
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "pip install 'memspan[local]'")
    from memspan.longterm.llm_embedder import LLMEmbedderConfig
    from memspan.longterm.llm_embedder import train_embedder as train
    from memspan.models import load_language_model

    config = LLMEmbedderConfig(loss=options.loss, steps=options.steps, seed=options.seed)
    try:
        trained = train(
            episodes,
            options.out,
            task=options.task,
            judged_by=(lambda: load_language_model(options.judge)) if config.judged else None,
            base=options.base,
            config=config,
            resume=options.resume,
            limit=options.queries,
            progress=not options.quiet and sys.stderr.isatty(),
        )
    except KeyboardInterrupt:
        if Path(f"{options.out}.training").exists() and not options.quiet:
            print(f"memspan: kept in {options.out}.training; the same command with --resume goes on", file=sys.stderr)
        raise
    if options.json:
        print(json.dumps(trained.to_json(), ensure_ascii=False, indent=2))
        return 0
    print(
        f"task {trained.task}: trained on {trained.queries:,} queries ({trained.dropped:,} dropped: the judge's rewards"
        f" hardly differed), tested on {trained.held_out:,} held out, over {trained.held_out_keys:,} keys"
    )
    for name in ("mrr", "recall@10"):
        print(f"  {name:<9}  {trained.before[name]:.3f} before, {trained.after[name]:.3f} after")
    print(trained.verdict())
    print(f"saved in {trained.directory}; to use it: memspan remember --embedder {trained.directory} --store PATH FILE")
    return 0


def _input(name: str) -> Path:
    if name == "demo":
        from memspan.data import conversation_path

        return conversation_path()
    return Path(name)
