"""`train_embedder`: from a user's files to an embedder of their own, and a word on whether it became better."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.llm_embedder.config import INSTRUCTIONS, LLMEmbedderConfig
from memspan.longterm.llm_embedder.data import DataTask, corpora, examples, has_speakers, ranks
from memspan.longterm.llm_embedder.encoder import LLMEmbedder, refuse_existing
from memspan.longterm.llm_embedder.reward import judge
from memspan.longterm.retriever import Example, HomogeneousBatches, TaskSet, fit_retriever
from memspan.models.hardware import has_native_bfloat16

if TYPE_CHECKING:
    from memspan.models.base import LanguageModel

CHECKPOINT, JUDGED = "training.safetensors", "rewards.json"
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training brought on queries that were held out.

    Attributes:
        directory: the saved embedder.
        queries: trained on; dropped: left out because the judge's rewards hardly differed.
        held_out: queries of the test, over `held_out_keys` keys.
        before, after: "mrr" (mean reciprocal rank of the right key) and "recall@10", of the held-out queries.
        gain: after minus before, in MRR; interval: its 95 % bootstrap interval, paired by query.
        losses: of every step.
    """

    directory: Path
    task: str
    queries: int
    dropped: int
    held_out: int
    held_out_keys: int
    before: dict[str, float]
    after: dict[str, float]
    gain: float
    interval: tuple[float, float]
    losses: tuple[float, ...]

    @property
    def helped(self) -> bool:
        """Whether the gain is above what chance explains."""
        return self.interval[0] > 0

    def verdict(self) -> str:
        """In one sentence."""
        span = f"MRR {self.gain:+.3f}, 95 % interval {self.interval[0]:+.3f} to {self.interval[1]:+.3f}"
        if self.helped:
            return f"training helped on the held-out part ({span})"
        if self.interval[1] < 0:
            return f"training made it worse on the held-out part ({span}): keep using the embedder you had"
        return f"no effect can be shown on the held-out part ({span}): keep using the embedder you had"

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types."""
        plain = asdict(self) | {"directory": str(self.directory), "helped": self.helped, "verdict": self.verdict()}
        plain["losses"] = [round(loss, 4) for loss in self.losses]
        return plain


def train_embedder(
    episodes: Sequence[Episode],
    directory: str | os.PathLike[str],
    *,
    task: DataTask | None = None,
    judged_by: LanguageModel | Callable[[], LanguageModel] | None = None,
    base: str | os.PathLike[str] = "bundled",
    config: LLMEmbedderConfig | None = None,
    resume: bool = False,
    limit: int = 600,
    progress: bool = False,
) -> Trained:
    """Train an embedder on what files say, save it, and measure it on a part that it has not seen.

    Ctrl-C keeps what was done in `<directory>.training/`; with `resume` training goes on from there.

    Args:
        episodes: as `memspan.longterm.readers.read_all` gives them.
        directory: where the embedder goes; nothing may be there.
        task: "memory" (questions about what was said) or "lrlm" (documents); None tells from whether turns have
            speakers.
        judged_by: the language model whose likelihoods are the reward, or what loads it; not needed for the losses
            "infonce" and "opl".
        base: the embedder to start from, "bundled" or a directory.
        config: settings; a batch that the data cannot fill is made smaller.
        resume: go on with an interrupted training with the same files and settings.
        limit: most queries to train on.
        progress: show bars also where stderr is no terminal.

    Raises:
        InputError: too little text, something at `directory`, no judge, or an interrupted training that does not fit.
        MissingExtraError: a package is missing.
    """
    config = config or LLMEmbedderConfig()
    target = Path(directory)
    refuse_existing(target)
    work = target.with_name(target.name + ".training")
    checkpoint, judged = work / CHECKPOINT, work / JUDGED
    if work.exists() and not resume:
        raise InputError(f"{work} holds an interrupted training: go on with resume, or remove it")
    if resume and not work.exists():
        raise InputError(f"there is no interrupted training in {work}")
    if config.judged and judged_by is None:
        raise InputError(f"the loss {config.loss!r} needs a judge; infonce and opl need none")
    chosen: DataTask = task or ("memory" if has_speakers(episodes) else "lrlm")
    kept, apart = corpora(episodes, chosen, limit=limit, seed=config.seed)
    plain = LLMEmbedder.load(base)
    told = {} if chosen in plain.instructions else {chosen: INSTRUCTIONS[chosen]}
    encoder = LLMEmbedder.load(base, instructions=told, tau=config.tau, max_tokens=config.max_tokens)
    # What it is compared with is the embedder as it is, without instructions that it has never seen.
    plain.instructions.setdefault(chosen, ("", ""))
    before = ranks(apart, plain, chosen)
    made = examples(kept, plain, chosen, keys=config.keys, seed=config.seed)
    total = len(made)
    if config.judged and judged_by is not None:
        rewards = _kept_rewards(judged, made)
        if rewards is None:
            lm = judged_by() if callable(judged_by) else judged_by
            rewards = [example.rewards or () for example in judge(lm, chosen, made, progress=progress)]
            _keep_rewards(judged, made, rewards)
        made = [replace(example, rewards=tuple(row)) for example, row in zip(made, rewards, strict=True)]
        made = informative(made, config.min_spread)
    batch = min(config.batch, len(made))
    if batch < 2:
        raise InputError(f"the judge tells keys apart for {len(made)} of {total} queries only: too few to train on")
    batches = HomogeneousBatches([TaskSet(chosen, made)], batch=batch, keys=config.keys, seed=config.seed)
    fitted = fit_retriever(
        encoder,
        batches,
        config.build_loss(),
        lr=config.lr,
        steps=config.steps,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        seed=config.seed,
        autocast=has_native_bfloat16(),
        checkpoint=checkpoint,
        every=25,
        progress=progress,
    )
    after = ranks(apart, encoder, chosen)
    gains = 1 / after - 1 / before
    draws = np.random.default_rng(config.seed).integers(0, len(gains), (_RESAMPLES, len(gains)))
    low, high = np.percentile(gains[draws].mean(axis=1), (2.5, 97.5))
    trained = Trained(
        directory=target,
        task=chosen,
        queries=len(made),
        dropped=total - len(made),
        held_out=len(apart.asked),
        held_out_keys=len(apart.keys),
        before=_scores(before),
        after=_scores(after),
        gain=float(gains.mean()),
        interval=(float(low), float(high)),
        losses=fitted.losses,
    )
    about = {key: value for key, value in trained.to_json().items() if key not in ("directory", "losses")}
    encoder.save(target, task=chosen, about=about | {"config": asdict(config)})
    for path in (checkpoint, judged):
        path.unlink(missing_ok=True)
    if not any(work.iterdir()):
        work.rmdir()
    return trained


def informative(judged: Sequence[Example], spread: float) -> list[Example]:
    """Those whose rewards differ by at least `spread`, and whose positive is no worse than the keys on average."""
    kept = []
    for example in judged:
        rewards = example.rewards or ()
        if max(rewards) - min(rewards) >= spread and rewards[0] >= sum(rewards) / len(rewards):
            kept.append(example)
    return kept


def _digest(made: Sequence[Example]) -> str:
    texts = [[e.query, e.answer, *e.positives, *e.negatives] for e in made]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _keep_rewards(path: Path, made: Sequence[Example], rewards: Sequence[Sequence[float]]) -> None:
    """Judging takes as long as training: an interrupted training does not judge again. No text is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({"examples": _digest(made), "rewards": rewards}), encoding="utf-8")
    part.replace(path)


def _kept_rewards(path: Path, made: Sequence[Example]) -> Sequence[Sequence[float]] | None:
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["examples"] != _digest(made):
        raise InputError(f"{path.parent} is of a training on other files or settings: remove it, or use those")
    rewards: list[list[float]] = content["rewards"]
    return rewards


def _scores(places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> dict[str, float]:
    return {"mrr": float((1 / places).mean()), "recall@10": float((places <= 10).mean())}
