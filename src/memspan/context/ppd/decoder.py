"""`ParallelPromptDecoder`: guesses from prompt tokens, trees by state, and the honest account of what they bring."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from memspan.context import decoding, learning
from memspan.context.decoding import Accepted, DecodeState, TreeDraft
from memspan.context.family import Family
from memspan.context.passes import attached
from memspan.context.ppd.prompts import PpdConfig, PromptTokens, accuracies, own_text
from memspan.context.ppd.search import SIZES, Plan, Tree, best_plan, tuned
from memspan.context.reader import local_model, open_reader
from memspan.context.slots import TRACK_BYTES
from memspan.core.errors import InputError
from memspan.core.footprint import Footprint


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingReport:
    """What decoding has brought since the last `tune`.

    Attributes:
        passes, tokens: of all generations; the token that a prompt's own pass puts out is not counted.
        tokens_per_pass, rows_per_pass: measured.
        expected_tokens_per_pass: what the Markov chain of the trees foretold.
        expected_speedup: what trees and latency curve foretold; NaN without a curve.
        measured_speedup: tokens a second over 1 / t(1) of the curve; NaN without one.
        why: the choice in words.
    """

    passes: int
    tokens: int
    tokens_per_pass: float
    rows_per_pass: float
    expected_tokens_per_pass: float
    expected_speedup: float
    measured_speedup: float
    why: str


@dataclass(slots=True)
class _Tally:
    passes: int = 0
    tokens: int = 0
    rows: int = 0
    seconds: float = 0.0
    begun: float = field(default=0.0, repr=False)


class ParallelPromptDecoder:
    """A `Decoder` with trained prompt tokens; see the module.

    Attributes:
        prompts: the trained part; plan: its trees; accuracy, latency: what the plan rests on.
        clock: seconds; `time.process_time` does where other programs take the processor away.
    """

    def __init__(
        self,
        prompts: PromptTokens,
        *,
        held_out: torch.Tensor | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.prompts, self.config, self.clock = prompts, prompts.config, clock
        self._held_out = held_out
        self.accuracy: list[list[float]] | None = None
        self.latency: dict[int, float] | None = None
        self.plan: Plan = best_plan([[0.0]] * self.config.n, 1)
        self._tally = _Tally()
        self._family: Family | None = None

    def copy(self) -> ParallelPromptDecoder:
        """A decoder with the same prompt tokens and measurements, and a plan and a report of its own."""
        other = ParallelPromptDecoder(self.prompts, held_out=self._held_out, clock=self.clock)
        other.accuracy, other.latency, other.plan = self.accuracy, self.latency, self.plan
        return other

    # --- decoding ----------------------------------------------------------------------------------------------------

    def __call__(
        self, model: Any, input_ids: torch.Tensor, *, on_tokens: Callable[[list[int]], None] | None = None, **words: Any
    ) -> torch.Tensor:
        """See `memspan.context.decoding.decode`; called by `model.generate(…, custom_generate=decoder)`."""
        width = model.get_input_embeddings().weight.shape[1]
        if self.prompts.embeddings.shape[1] != width:
            raise InputError(
                f"the prompt tokens have {self.prompts.embeddings.shape[1]} dimensions and the model {width}: "
                "they were learned for another model"
            )
        if self._family is None or not self._family.still_of(model):
            self._family = Family(model) if attached(model) is None else None
        return decoding.decode(self, model, input_ids, on_tokens=on_tokens, family=self._family, **words)

    def draft(self, state: DecodeState) -> TreeDraft:
        """The tree of the state: the confirmed token, guesses, and prompt tokens behind some of them."""
        self._tally.begun = self.clock()
        guesses: list[list[int]] = state.notes.get("guesses", [])
        tree = self.plan.trees[len(guesses)].within(state.rows, state.depth)
        rows = {path: row for row, path in enumerate(tree.paths)}
        tokens = [int(state.ids[0, -1]), *(guesses[len(path) - 1][path[-1]] for path in tree.paths[1:])]
        parents = [-1, *(rows[path[:-1]] for path in tree.paths[1:])]
        chains: dict[int, list[int]] = {}
        which: list[int] = []
        for row, count in enumerate(tree.prompts):
            before = row
            for i in range(count):
                chains.setdefault(row, []).append(len(tokens))
                parents.append(before)
                before = len(tokens)
                tokens.append(-1)
                which.append(i)
        state.notes["chains"] = chains
        embeds = self.prompts.embeddings.detach()[which] if which else None
        return TreeDraft(tokens=tokens, parents=parents, embeds=embeds)

    def accept(self, state: DecodeState, logits: torch.Tensor) -> Accepted:
        """The model's own path, or, when sampling, the longest typical one."""
        if state.sample and self.config.acceptance == "typical":
            return decoding.typical(state, logits, threshold=self.config.threshold, factor=self.config.factor)
        return decoding.walk(state, logits)

    def passed(self, state: DecodeState, accepted: Accepted, logits: torch.Tensor) -> None:
        """Take the guesses behind the last accepted token."""
        assert state.draft is not None
        chain = state.notes["chains"].get(accepted.rows[-1], [])
        count = min(self.config.top, logits.shape[-1])
        state.notes["guesses"] = [logits[row].topk(count).indices.tolist() for row in chain]
        tally = self._tally
        tally.passes += 1
        tally.tokens += len(accepted.rows)
        tally.rows += len(state.draft.tokens)
        tally.seconds += self.clock() - tally.begun

    # --- tuning ------------------------------------------------------------------------------------------------------

    def tune(
        self,
        model: Any,
        texts: Any = None,
        *,
        tokenizer: Any = None,
        rows: int = 16,
        latency: Mapping[int, float] | None = None,
        sizes: Sequence[int] = SIZES,
        size: int | None = None,
        cache: int = 256,
        seed: int = 1,
    ) -> Plan:
        """Measure how often guesses are right and what rows cost here, and choose the trees.

        Args:
            texts: held-out texts, as `fit` takes them; None takes the rows that `fit` held out.
            rows: rows of the model's own text that accuracies are measured on.
            latency: seconds of a pass by its rows, in place of measuring it here.
            sizes: numbers of rows that are timed, and that trees are made for.
            size: take the trees of this size, whatever they promise.
            cache: tokens before the timed passes.

        Raises:
            InputError: no texts, and nothing was held out.
        """
        module, tokenizer = local_model(model, tokenizer)
        if texts is not None:
            stream = learning.token_stream(texts, tokenizer)
            held_out = own_text(module, stream.reshape(-1), rows, self.config, seed=seed)
        elif self._held_out is not None and len(self._held_out):
            held_out = self._held_out[:rows]
        else:
            raise InputError("there is nothing to measure on: give texts")
        self.accuracy = accuracies(self.prompts, module, held_out)
        if latency is None:
            latency = measure_latency(module, sizes, cache=cache, clock=self.clock)
        self.latency = dict(latency)
        return self.replan(sizes=sizes, size=size)

    def replan(self, *, sizes: Sequence[int] = SIZES, size: int | None = None) -> Plan:
        """Choose trees anew from what was measured; `size` as in `tune`.

        Raises:
            InputError: nothing was measured yet.
        """
        if self.accuracy is None or self.latency is None:
            raise InputError("nothing was measured yet: tune first")
        if size is None:
            self.plan = tuned(self.accuracy, self.latency, sizes)
        else:
            self.plan = best_plan(self.accuracy, size, self.latency)
        self._tally = _Tally()
        return self.plan

    def report(self) -> DecodingReport:
        """See `DecodingReport`."""
        tally, plan = self._tally, self.plan
        per_pass = tally.tokens / tally.passes if tally.passes else math.nan
        measured = math.nan
        if self.latency is not None and tally.seconds:
            measured = tally.tokens * self.latency[1] / tally.seconds
        if self.accuracy is None:
            why = "plain decoding: nothing was measured yet, see tune"
        elif plan.size == 1:
            why = "plain decoding: no tree promises to be faster here"
        else:
            why = (
                f"trees of at most {plan.size} rows: {plan.tokens:.2f} tokens a pass, {plan.speedup:.2f} times as fast"
            )
        return DecodingReport(
            passes=tally.passes,
            tokens=tally.tokens,
            tokens_per_pass=per_pass,
            rows_per_pass=tally.rows / tally.passes if tally.passes else math.nan,
            expected_tokens_per_pass=plan.tokens,
            expected_speedup=plan.speedup,
            measured_speedup=measured,
            why=why,
        )

    def footprint(self, model: Any) -> Footprint:
        """Bytes beyond plain decoding: the prompt tokens, and the slots of the largest tree but its first row."""
        family = Family(local_model(model)[0])
        rows = max(tree.rows for tree in self.plan.trees) - 1
        held = rows * family.slot_bytes(per_head=False, track=TRACK_BYTES)
        place = "ram" if family.device.type == "cpu" else "device"
        weights = self.prompts.embeddings.untyped_storage().nbytes()
        return Footprint.of("weights", place, weights) + Footprint.of("context", place, held)

    # --- on the disk -------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str], model: Any) -> None:
        """Write the prompt tokens, what was measured, and the plan; see `memspan.context.learning.save_learned`."""
        more: dict[str, Any] = {"accuracy": self.accuracy, "latency": self.latency, "plan": asdict(self.plan)}
        learning.save_learned(self.prompts, local_model(model)[0], directory, **more)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], model: Any) -> Self:
        """A decoder from a directory that `fit` or `save` wrote for this model.

        Raises:
            InputError: it is no such directory, or was learned for another model.
        """
        module = local_model(model)[0]
        said, tensors = learning.read_learned(PromptTokens.__name__, module, directory)
        prompts = PromptTokens(PpdConfig(**said["config"]))
        prompts.prepare(module)
        prompts.load_state_dict(tensors)
        decoder = cls(prompts)
        if said.get("plan"):
            plan = said["plan"]
            trees = tuple(
                Tree(tuple(tuple(path) for path in tree["paths"]), tuple(tree["prompts"])) for tree in plan["trees"]
            )
            decoder.plan = Plan(**{**plan, "trees": trees, "states": tuple(plan["states"])})
            decoder.accuracy = said["accuracy"]
            decoder.latency = None if said["latency"] is None else {int(k): v for k, v in said["latency"].items()}
        return decoder


def fit(
    model: Any,
    texts: Any,
    *,
    steps: int = 500,
    out: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    rows: int = 128,
    config: PpdConfig | None = None,
    seed: int = 0,
    progress: bool = False,
    lr: float = 1e-2,
    **settings: Any,
) -> ParallelPromptDecoder:
    """Train prompt tokens for a model.

    The model first continues `rows` windows of the texts by itself; that and the training are kept in "<out>.training"
    and taken up again.

    Args:
        model: as `memspan.context` takes it.
        texts: a list of texts or of lists of token ids, or token ids [N], in the style that is to be decoded.
        out: directory for what is learned.
        lr: highest learning rate (official code).
        settings: further ones of `memspan.context.learning.fit`.

    Raises:
        InputError: see `memspan.context.learning.fit`.
    """
    module, tokenizer = local_model(model, tokenizer)
    config = config or PpdConfig()
    keep = None if out is None else Path(f"{Path(out)}.training") / "own.safetensors"
    stream = learning.token_stream(texts, tokenizer).reshape(-1)
    own = own_text(module, stream, rows, config, seed=seed, keep=keep, progress=progress)
    prompts = PromptTokens(config)
    settings = {"held_out": 0.125, "warmup": 0.0, **settings}
    learning.fit(prompts, module, own, steps=steps, out=out, lr=lr, seed=seed, progress=progress, **settings)
    held_out = int(len(own) * settings["held_out"])
    return ParallelPromptDecoder(prompts, held_out=own[len(own) - held_out :])


def measure_latency(
    model: Any,
    sizes: Sequence[int] = SIZES,
    *,
    cache: int = 256,
    repeats: int = 5,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Seconds of a pass by its number of rows, the median of `repeats` taken in turns, after `cache` tokens."""
    module = local_model(model)[0]
    taken: dict[int, list[float]] = {size: [] for size in sorted({1, *sizes})}
    chance = torch.Generator().manual_seed(seed)
    vocabulary = module.config.get_text_config().vocab_size
    with open_reader("full", module) as reader, torch.no_grad():
        reader.feed(torch.randint(vocabulary, (1, cache), generator=chance))
        for _ in range(repeats + 1):
            for size, times in taken.items():
                draft = TreeDraft(tokens=[1] * size, parents=[-1, *range(size - 1)])
                begun = clock()
                decoding.run_draft(reader, draft).argmax(-1).tolist()
                times.append(clock() - begun)
    return {size: statistics.median(times[1:]) for size, times in taken.items()}
