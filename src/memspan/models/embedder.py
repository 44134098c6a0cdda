"""Embedders that run in this process, through transformers and without sentence-transformers.

A directory is read the way sentence-transformers reads it: the pooling of `modules.json` (mean, cls, max; mean where
there is no such file), the length limit and the lower-casing of `sentence_bert_config.json`, the default prompt of
`config_sentence_transformers.json`, or its prompts for documents and for queries. Vectors agree with that library's to
within float32 rounding.

How the speed comes about: texts are sorted by length, so that a batch carries hardly any padding; batches are handed
to `threads` workers that each compute on one core. The usual way, one batch over all cores, makes every operator wait
at a barrier for the slowest core, and when another process is busy a single question then takes 370 ms, not 5 ms.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from memspan.core.errors import InputError, ModelError, UnsupportedModelError
from memspan.core.footprint import Footprint
from memspan.models.base import Vectors, checked_texts
from memspan.models.hardware import has_native_bfloat16, torch_threads
from memspan.models.progress import progress_bar
from memspan.models.spec import fingerprint, quiet_transformers, require_local

POOLINGS = ("mean", "cls", "max")
DTYPES = ("auto", "float32", "bfloat16")
BATCH_TOKENS = 4096  # bounds the activations: about 60 MB per worker for MiniLM
_CAST_TOKENS = 128  # casting the weights to bfloat16 pays from about here on; a question stays in float32
# Padding to steps: a kernel and its buffers are kept for every shape ever seen, 150 kB and more each, without end.
_LENGTH_STEP = 16
_CHUNK = 4096  # texts tokenized at once: their token ids stay small, and sorting inside a chunk loses nothing
_CHARS_PER_TOKEN = 128  # far above any real text: what is cut before tokenizing would not have been read
_KEY_PROMPTS = ("document", "passage", "corpus")  # as sentence-transformers looks for them
_LEGACY_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


class TransformersEmbedder:
    """An encoder from a directory with config.json, tokenizer and safetensors.

    Args:
        directory: the model's files.
        name: the spec as messages show it.
        batch_size: most texts per forward pass; long texts make smaller batches by themselves.
        threads: cores to use; None is what PyTorch is set to use.
        dtype: "float32", "bfloat16" (matrix products in bfloat16, sums and norms in float32), or "auto": bfloat16
            where the processor has instructions for it (AMX, AVX512-BF16), else float32.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        UnsupportedModelError: the directory asks for a pooling or a module that is not mean, cls or max.
        ModelError: the files cannot be loaded.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str | None = None,
        batch_size: int = 64,
        threads: int | None = None,
        dtype: str = "auto",
    ) -> None:
        if batch_size < 1 or (threads is not None and threads < 1):
            raise InputError(f"batch_size {batch_size} and threads {threads} must be at least 1")
        if dtype not in DTYPES:
            raise InputError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
        require_local()
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        self.name = name or str(directory)
        self.batch_size = batch_size
        self.pooling = _pooling(directory)
        bert = _read_json(directory / "sentence_bert_config.json")
        prompts = _read_json(directory / "config_sentence_transformers.json")
        named = {key: str(text) for key, text in (prompts.get("prompts") or {}).items()}
        default = named.get(str(prompts.get("default_prompt_name")), "")
        self.prompt = default or next((named[key] for key in _KEY_PROMPTS if named.get(key)), "")
        self.query_prompt = default or named.get("query", "")
        self._lower = bool(bert.get("do_lower_case", False))
        try:
            with quiet_transformers():
                self._tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
                model = AutoModel.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise ModelError(f"the embedder in {directory} cannot be loaded: {error}") from error
        self.model: Any = model.eval()
        config = model.config
        limits = (self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
        self.max_tokens: int = int(bert.get("max_seq_length") or min(n for n in limits if n))
        self.dim = int(config.hidden_size)
        self.fingerprint = fingerprint(directory, family=f"embed-{self.pooling}")
        if self.prompt != self.query_prompt:  # what is put before a text makes other vectors of it
            read_as = json.dumps([self.prompt, self.query_prompt])
            self.fingerprint += f"-{hashlib.sha256(read_as.encode()).hexdigest()[:8]}"
        self.threads = threads or torch.get_num_threads()
        self.dtype = ("bfloat16" if has_native_bfloat16() else "float32") if dtype == "auto" else dtype
        self.pad = self._tokenizer.pad_token_id or 0
        self._encoder = getattr(self._tokenizer, "backend_tokenizer", None)
        if self._encoder is not None:  # padding is done per batch, after sorting
            self._encoder.no_padding()
            self._encoder.enable_truncation(self.max_tokens)

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> Vectors:
        """Embed texts into a float32 array `[len(texts), dim]` of unit rows, in the order given.

        An empty text gets the vector of the empty text; of a long one the first `max_tokens` tokens are read.
        """
        return self.embed_plain([self.prompt + text for text in checked_texts(texts)], progress=progress)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """The same for questions, which some embedders read with a prompt of their own."""
        return self.embed_plain([self.query_prompt + text for text in checked_texts(texts)])

    def embed_plain(self, checked: list[str], *, progress: bool = False) -> Vectors:
        """The same for texts that have their prompt already, or want none."""
        vectors = np.empty((len(checked), self.dim), dtype=np.float32)
        with progress_bar("embedding", len(checked), force=progress) as advance:
            for start in range(0, len(checked), _CHUNK):
                ids = self.token_ids(checked[start : start + _CHUNK])
                out = vectors[start : start + _CHUNK]
                batches = list(self._batches(ids))
                if len(batches) == 1:
                    with torch_threads(1):
                        self._fill(out, ids, batches[0])
                    advance(len(batches[0]))
                else:
                    self._fill_parallel(out, ids, batches, advance)
        return vectors

    def footprint(self) -> Footprint:
        """Bytes of the weights, parameters and buffers."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return Footprint.of("weights", "ram", sum(t.numel() * t.element_size() for t in tensors))

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """What the model reads of each text, no prompt before it."""
        limit = self.max_tokens * _CHARS_PER_TOKEN
        texts = [text[:limit] for text in texts]
        # A lone surrogate is legal in a Python string (half of an emoji cut in two), and no tokenizer can encode it.
        texts = [text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        if self._lower:
            texts = [text.lower() for text in texts]
        if self._encoder is not None:
            return [encoding.ids for encoding in self._encoder.encode_batch(texts)]
        ids: list[list[int]] = self._tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
        return ids

    def _batches(self, ids: list[list[int]]) -> Iterator[list[int]]:
        """Positions of texts of about equal length, the longest first: out of memory shows at once, not at the end."""
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        start = 0
        while start < len(order):
            longest = max(1, len(ids[order[start]]))
            size = max(1, min(self.batch_size, BATCH_TOKENS // longest))
            yield order[start : start + size]
            start += size

    def _fill_parallel(self, out: Vectors, ids: list[list[int]], batches: list[list[int]], advance: Any) -> None:
        import torch

        before = torch.get_num_threads()
        workers = min(self.threads, len(batches))
        pool = ThreadPoolExecutor(workers, "memspan-embed", initializer=lambda: torch.set_num_threads(1))
        try:
            futures = [pool.submit(self._fill, out, ids, batch) for batch in batches]
            for future, batch in zip(futures, batches, strict=True):
                future.result()
                advance(len(batch))
        finally:  # after Ctrl-C or an error: at most the batches under way are still computed
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)

    def _fill(self, out: Vectors, ids: list[list[int]], batch: list[int]) -> None:
        """Embed the texts at the positions `batch` into those rows of `out`."""
        import torch
        from torch.nn.functional import normalize

        lengths = np.array([len(ids[i]) for i in batch])
        width = min(self.max_tokens, _LENGTH_STEP * max(1, -(-int(lengths.max()) // _LENGTH_STEP)))
        tokens = np.full((len(batch), width), self.pad, dtype=np.int64)
        for row, i in enumerate(batch):
            tokens[row, : len(ids[i])] = ids[i]
        mask = torch.from_numpy(np.arange(tokens.shape[1]) < lengths[:, None])
        cast = self.dtype == "bfloat16" and tokens.size >= _CAST_TOKENS
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=cast):
            padded = bool(lengths.min() < tokens.shape[1])
            attention = mask.long() if padded else None
            hidden = self.model(input_ids=torch.from_numpy(tokens), attention_mask=attention).last_hidden_state.float()
        with torch.inference_mode():
            if self.pooling == "cls":
                pooled = hidden[:, 0]
            elif self.pooling == "max":
                pooled = hidden.masked_fill(~mask[..., None], -torch.inf).amax(1)
            else:
                pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            out[batch] = normalize(pooled, dim=1).numpy()


def _pooling(directory: Path) -> str:
    """The pooling that the directory's modules.json asks for; mean without one."""
    path = directory / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    pooling = "mean"
    for module in modules:
        kind = str(module["type"]).rsplit(".", 1)[-1]
        if kind == "Pooling":
            config = _read_json(directory / module["path"] / "config.json")
            modes = config.get("pooling_mode") or [m for k, m in _LEGACY_POOLINGS.items() if config.get(k)]
            wanted = [modes] if isinstance(modes, str) else list(modes)
            if len(wanted) != 1 or wanted[0] not in POOLINGS:
                raise UnsupportedModelError(
                    f"the embedder in {directory} pools by {wanted or 'an unknown rule'}; memspan knows "
                    f"{', '.join(POOLINGS)}"
                )
            pooling = wanted[0]
        elif kind not in ("Transformer", "Normalize"):
            raise UnsupportedModelError(
                f"the embedder in {directory} ends in a {kind} module; memspan runs Transformer, Pooling and Normalize"
            )
    return pooling


def _read_json(path: Path | os.PathLike[str]) -> dict[str, Any]:
    path = Path(path)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
