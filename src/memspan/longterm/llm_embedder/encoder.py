"""`LLMEmbedder`: a small text encoder that is trained, and saved as a directory that every embedder's option takes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize

from memspan.core.errors import InputError, ModelError
from memspan.longterm.llm_embedder.config import LLMEmbedderConfig
from memspan.longterm.retriever.fit import Side
from memspan.models.embedder import TransformersEmbedder
from memspan.models.spec import bundled_embedder, parse_spec

if TYPE_CHECKING:
    from memspan.models.base import Vectors

SHAPE_STEP = 16  # lengths are padded to steps: PyTorch keeps a kernel and its buffers for every shape ever seen
SAVED = "llm_embedder.json"
FORMAT = "memspan-llm-embedder-1"
_GROUP_TOKENS = 1024  # texts of about equal length together: hardly any padding, and products large enough to be fast
_COPIED = ("*.json", "*.txt", "*.model", "1_Pooling/config.json")

Instructions = Mapping[str, tuple[str, str]]
"""Of each task, what is put before a query and before a key."""


class LLMEmbedder(nn.Module):
    """One encoder for queries and keys of several tasks, told apart by instructions on both sides.

    Args:
        directory: an embedder's files, as `memspan.models.load_embedder` reads them, with mean or cls pooling.
        instructions: of each task; None is those that were saved with it, or no task at all.
        tau: temperature of the scores in training, saved with the weights.
        max_tokens: longest text in training, its instruction included; None is the embedder's own limit.
        dropout: in training.
        train_words: whether the table of words is trained too. It is half of MiniLM's weights, a step touches few of
            its rows, and the optimizer's pass over all of them takes a fifth of the step.
        train_layers: how many of the last layers are trained; None is all. Those below stay as they are, and no
            gradient is computed for them.

    Raises:
        InputError: instructions differ from those that the weights were trained with, or there are fewer layers.
        ModelError: the files cannot be loaded.
    """

    Config = LLMEmbedderConfig

    def __init__(
        self,
        directory: Path,
        *,
        instructions: Instructions | None = None,
        tau: float | None = None,
        max_tokens: int | None = 64,
        dropout: float = 0.0,
        train_words: bool = False,
        train_layers: int | None = None,
    ) -> None:
        super().__init__()
        self.directory = directory
        base = TransformersEmbedder(directory, dtype="float32")
        if base.pooling == "max":
            raise InputError(f"the embedder in {directory} pools by maximum; LLMEmbedder trains mean and cls pooling")
        saved = _saved(directory)
        known = {task: (pair[0], pair[1]) for task, pair in saved.get("instructions", {}).items()}
        given = {task: (pair[0], pair[1]) for task, pair in (instructions or {}).items()}
        for task in given.keys() & known.keys():
            if given[task] != known[task]:
                raise InputError(
                    f"{directory} was trained on task {task!r} with the instructions {known[task]}, not {given[task]}:"
                    " keys and queries must be read as they were in training"
                )
        self.instructions: dict[str, tuple[str, str]] = known | given
        self.tau = float(tau if tau is not None else saved.get("tau", 0.01))
        self.max_tokens = min(max_tokens or base.max_tokens, base.max_tokens)
        self.dim = base.dim
        self._base = base
        self.model: nn.Module = base.model
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        self.model.get_input_embeddings().requires_grad_(train_words)
        if train_layers is not None:
            self._freeze_below(train_layers)
        self._ids: dict[str, list[int]] = {}

    def _freeze_below(self, layers: int) -> None:
        stacks = [module for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        stack = max(stacks, key=len, default=nn.ModuleList())
        if not 1 <= layers <= len(stack):
            raise InputError(f"train_layers is {layers}; the embedder in {self.directory} has {len(stack)} layers")
        self.model.requires_grad_(False)
        for layer in list(stack)[-layers:]:
            layer.requires_grad_(True)

    @classmethod
    def load(cls, spec: str | os.PathLike[str] = "bundled", **options: Any) -> LLMEmbedder:
        """The embedder of a spec: `bundled`, or a directory, trained before or not."""
        parsed = parse_spec(spec)
        if parsed.kind == "bundled":
            return cls(bundled_embedder(), **options)
        if parsed.path is None or parsed.kind != "directory":
            raise InputError(f"{parsed.text} cannot be trained: name 'bundled' or a directory with an embedder's files")
        return cls(parsed.path, **options)

    def prefix(self, task: str, side: Side) -> str:
        """The instruction of a task and side.

        Raises:
            InputError: the encoder has no such task.
        """
        if task not in self.instructions:
            known = ", ".join(self.instructions) or "none"
            raise InputError(f"the embedder has no instructions for task {task!r}; its tasks: {known}")
        return self.instructions[task][side == "key"]

    def encode_texts(self, texts: Sequence[str], tasks: Sequence[str], side: Side) -> Tensor:
        """[n, D] unit vectors of texts, each with its task; gradients flow where they are wanted."""
        ids = self._token_ids([self.prefix(task, side) + text for text, task in zip(texts, tasks, strict=True)])
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        rows: list[Tensor] = []
        start = 0
        while start < len(order):
            size = max(1, _GROUP_TOKENS // max(1, len(ids[order[start]])))
            rows.append(self._forward([ids[i] for i in order[start : start + size]]))
            start += size
        if not rows:
            return torch.empty(0, self.dim)
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(rows)[back]

    def encode(self, texts: Sequence[str], task: str, side: Side) -> Vectors:
        """[n, D] float32 unit vectors, the way a saved embedder gives them (bfloat16 where the processor has it)."""
        self.eval()
        prefix = self.prefix(task, side)
        return self._base.embed_plain([prefix + text for text in texts])

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]
        if new:
            self._ids |= dict(zip(new, self._base.token_ids(new), strict=True))
        return [self._shortened(self._ids[text]) for text in texts]

    def _shortened(self, ids: list[int]) -> list[int]:
        return ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], ids[-1]]

    def _forward(self, ids: list[list[int]]) -> Tensor:
        lengths = torch.tensor([len(row) for row in ids])
        width = SHAPE_STEP * -(-int(lengths.max()) // SHAPE_STEP)
        width = min(width, max(self._base.max_tokens, int(lengths.max())))
        tokens = torch.tensor([row + [self._base.pad] * (width - len(row)) for row in ids])
        mask = torch.arange(width) < lengths[:, None]
        padded = bool(lengths.min() < width)
        # The fused attention's backward pass on the CPU takes longer than all the rest of a step.
        with sdpa_kernel(SDPBackend.MATH):
            hidden = self.model(input_ids=tokens, attention_mask=mask.long() if padded else None).last_hidden_state
        with torch.autocast("cpu", enabled=False):
            hidden = hidden.float()
            if self._base.pooling == "cls":
                return normalize(hidden[:, 0], dim=-1)
            return normalize((hidden * mask[..., None]).sum(1) / lengths[:, None], dim=-1)

    def save(self, directory: str | os.PathLike[str], *, task: str, about: Mapping[str, Any] | None = None) -> Path:
        """Write a directory in sentence-transformers' layout; `load_embedder` then reads with the task's instructions.

        Args:
            directory: must not exist, or be empty.
            task: whose instructions `Memory` and every other user of the directory reads by.
            about: what should be known of the training, as JSON types.

        Raises:
            InputError: there is something already.
        """
        target = Path(directory)
        refuse_existing(target)
        query, key = self.prefix(task, "query"), self.prefix(task, "key")
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for pattern in _COPIED:
            for source in self.directory.glob(pattern):
                if not source.name.endswith(".index.json"):
                    copy = part / source.relative_to(self.directory)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, copy)
        from safetensors.torch import save_file

        weights = {name: tensor.detach().clone().contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
        prompts = {"prompts": {"query": query, "document": key}, "default_prompt_name": None}
        kept = {"format": FORMAT, "instructions": self.instructions, "task": task, "tau": self.tau}
        _write(part / "config_sentence_transformers.json", prompts)
        _write(part / SAVED, kept | {"about": dict(about or {})})
        if target.exists():
            target.rmdir()
        part.replace(target)
        return target


def refuse_existing(target: Path) -> None:
    """Raise InputError where the directory holds something."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already: name a directory that does not exist, or is empty")


def _saved(directory: Path) -> dict[str, Any]:
    path = directory / SAVED
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{path} is of a form that this version does not know")
    prompts = json.loads((directory / "config_sentence_transformers.json").read_text(encoding="utf-8"))["prompts"]
    if [prompts.get("query"), prompts.get("document")] != list(content["instructions"][content["task"]]):
        raise ModelError(f"{directory}: the prompts are not the instructions that it was trained with; train it anew")
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
