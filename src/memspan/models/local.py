"""Language models that run in this process, through transformers.

Weights are mapped from safetensors, not copied: with the dtype of the file they cost no memory of their own beyond the
pages that are used, and processes that run the same model share them. GGUF files are converted once (see `gguf.py`).
"""

from __future__ import annotations

import copy
import inspect
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memspan.core.errors import BudgetError, InputError, ModelError, UnsupportedModelError
from memspan.core.footprint import Footprint
from memspan.models.base import (
    Generation,
    Prompt,
    check_generation,
    checked_messages,
    checked_texts,
    cut_at_stop,
)
from memspan.models.gguf import converted, gguf_config
from memspan.models.hardware import has_native_bfloat16, torch_threads
from memspan.models.home import cache_home
from memspan.models.spec import fingerprint, quiet_transformers, require_local

if TYPE_CHECKING:
    from memspan.models.grammar import GrammarTokenizer

DTYPES = ("float32", "bfloat16", "int8")


class TransformersLanguageModel:
    """A causal language model from a directory or a GGUF file.

    Args:
        path: a directory with config.json, tokenizer and safetensors, or a GGUF file.
        name: the spec as messages show it.
        budget: bytes that the weights may take; None is no bound. Checked against the configuration before any weight
            is read. The context's and the activations' bytes come on top.
        dtype: "float32", "bfloat16" or "int8" (weights only, see `int8.py`; on the CPU). None chooses the first that
            fits the budget of float32 (only where the processor has no bfloat16 instructions), bfloat16 and int8.
        device: as PyTorch names it; "cpu" by default. Others ("cuda", "mps") are checked to be there and then used, but
            nothing was ever run on one: memspan is tested on the CPU only.
        threads: cores to use; None is half of what PyTorch is set to use. On two free cores the bundled model writes
            1.6 times as fast with both as with one, but the cores wait for each other after every operator: with
            another process busy, both together were ten times slower than one alone.
        seed: of sampling at a temperature above 0.

    Raises:
        BudgetError: the weights do not fit.
        MissingExtraError: torch, transformers or gguf is not installed.
        InputError: an unknown dtype, or a device that this machine does not have.
        UnsupportedModelError: transformers does not know the architecture, or the directory holds no safetensors.
        ModelError: the files cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        budget: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        seed: int = 0,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise InputError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
        if threads is not None and threads < 1:
            raise InputError(f"threads {threads} must be at least 1")
        require_local()
        import torch

        place = _checked_device(device or "cpu")
        self.name = name or str(path)
        self.threads = threads or max(1, torch.get_num_threads() // 2)
        self._seed, self._calls = seed, 0
        self._grammar: GrammarTokenizer | None = None
        self._lock = threading.Lock()  # transformers' generation keeps state on the model
        is_file = path.is_file()
        config = model_config(path)
        self.dtype = _choose_dtype(self.name, config, dtype, budget, on_cpu=place == "cpu")
        stored = "float32" if self.dtype == "float32" else "bfloat16"
        directory = converted(path, stored, config=config) if is_file else path
        if not any(directory.glob("*.safetensors")):
            raise UnsupportedModelError(f"{directory} holds no safetensors: save the model with save_pretrained")
        self.model, self.tokenizer = _load(directory, stored, place)
        if self.dtype == "int8":
            from memspan.models.int8 import to_int8

            to_int8(self.model)
        # Identity is the weights as given: a file's conversions to float32 and to bfloat16 are one model.
        self.fingerprint = fingerprint(path, family="lm")
        if is_file and not directory.is_relative_to(cache_home()):
            shutil.rmtree(directory, ignore_errors=True)  # the mapping outlives the name
        # transformers 5.24 renamed the argument and the output alike.
        parameters = inspect.signature(self.model.forward).parameters
        self._cache_word = "cache" if "cache" in parameters else "past_key_values"
        self.context_window: int | None = getattr(self.model.config, "max_position_embeddings", None)

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> Generation:
        """Continue the conversation, through the tokenizer's chat template when it has one.

        Without a template the messages' contents are read one after the other, a blank line between them. The answer
        is shortened where the context window ends; with a schema it is closed before, see `grammar.py`.
        """
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        check_generation(max_new_tokens, temperature, stop, schema)
        begun = time.perf_counter()
        ids = self._prompt_ids(prompt)
        room = max_new_tokens if self.context_window is None else self.context_window - len(ids)
        if room < 1:
            raise InputError(
                f"the prompt has {len(ids)} tokens, and the context window of {self.name} is {self.context_window}"
            )
        configure: Any = GenerationConfig
        settings = configure(
            max_new_tokens=min(max_new_tokens, room),
            do_sample=temperature > 0,
            temperature=temperature if temperature > 0 else None,
            top_k=0 if temperature > 0 else None,  # nothing is cut off: the temperature alone decides
            eos_token_id=self._ends(),
            pad_token_id=self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0,
        )
        words = [word for word in stop if word]
        constraint = None
        if schema is not None:
            constraint = self._constraint(schema, len(ids), min(max_new_tokens, room), temperature)

        def stopped(tokens: Any, scores: Any, **_: Any) -> Any:
            text = self.tokenizer.decode(tokens[0, len(ids) :], skip_special_tokens=True)
            return torch.tensor([any(word in text for word in words)], device=tokens.device)

        tokens = torch.tensor([ids], device=self.model.device)
        devices = [self.model.device] if self.model.device.type == "cuda" else []  # their seeds are set as well
        with self._lock, torch_threads(self.threads), torch.random.fork_rng(devices=devices), quiet_transformers():
            torch.manual_seed(self._seed + self._calls)
            self._calls += temperature > 0
            output = self.model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                generation_config=settings,
                logits_processor=LogitsProcessorList([] if constraint is None else [constraint]),
                stopping_criteria=StoppingCriteriaList([stopped] if words else []),
            )
        new = output[0, len(ids) :].tolist()
        if constraint is not None:
            text = constraint.text(new)
        else:
            text = cut_at_stop(str(self.tokenizer.decode(new, skip_special_tokens=True)), words)
        return Generation(text, len(ids), len(new), time.perf_counter() - begun)

    def _constraint(self, schema: Mapping[str, Any], prompt_tokens: int, limit: int, temperature: float) -> Any:
        from memspan.models.grammar import GrammarTokenizer, SchemaConstraint

        if self._grammar is None:
            self._grammar = GrammarTokenizer(self.tokenizer, self._ends())

        def draw(logits: Any) -> int:
            if temperature == 0:
                return int(logits.argmax())
            return int((logits.float() / temperature).softmax(-1).multinomial(1))

        return SchemaConstraint(self._grammar, schema, prompt_tokens, limit, draw)

    def loglik(self, prompt: str, options: Sequence[str]) -> list[float]:
        """For each option the summed log-probability of its tokens after `prompt`, one float per option.

        Prompt and option are tokenized together, as they would be read; a token that reaches over the boundary counts
        to the option. The prompt is read once. An empty option has log-probability 0.
        """
        import torch

        split = [self._split(prompt, option) for option in checked_texts(options)]
        for ids, _ in split:
            if self.context_window is not None and len(ids) > self.context_window:
                raise InputError(
                    f"prompt and option have {len(ids)} tokens, and the context window of {self.name} is "
                    f"{self.context_window}"
                )
        # Each option's last token before its own is read again with it: its output predicts the option's first.
        shared = min((start - 1 for _, start in split), default=0)
        with self._lock, torch_threads(self.threads), torch.inference_mode():
            cache = None
            if shared > 0 and len(split) > 1 and len({tuple(ids[:shared]) for ids, _ in split}) == 1:
                head = torch.tensor([split[0][0][:shared]], device=self.model.device)
                cache = self.model(head, use_cache=True, logits_to_keep=1)[self._cache_word]
            return [self._score(ids, start, cache, shared if cache is not None else 0) for ids, start in split]

    def loglik_along(self, text: str, places: Sequence[tuple[int, Sequence[str]]]) -> list[list[float]]:
        """`loglik` at several places of one text, which is read once.

        Args:
            places: how many characters of the text stand before the options, and the options; ascending.
        """
        import torch

        out = []
        cache, read = None, list[int]()
        with self._lock, torch_threads(self.threads), torch.inference_mode():
            for place, options in places:
                split = [self._split(text[:place], option) for option in checked_texts(options)]
                shared = min(start - 1 for _, start in split)
                heads = {tuple(ids[:shared]) for ids, _ in split}
                # Where an option changes how the text before it is cut into tokens, nothing that was read serves it.
                if len(heads) > 1 or shared < len(read) or split[0][0][: len(read)] != read:
                    out.append([self._score(ids, start, None, 0) for ids, start in split])
                    continue
                if shared > len(read):
                    new = torch.tensor([split[0][0][len(read) : shared]], device=self.model.device)
                    past: dict[str, Any] = {} if cache is None else {self._cache_word: cache}
                    cache = self.model(new, use_cache=True, logits_to_keep=1, **past)[self._cache_word]
                    read = split[0][0][:shared]
                out.append([self._score(ids, start, cache, len(read)) for ids, start in split])
        return out

    def count_tokens(self, text: str) -> int:
        """Tokens of the text alone, no special tokens."""
        return len(self._encode(text))

    def footprint(self) -> Footprint:
        """Bytes of the weights: parameters, shared ones once, and buffers."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        place = "ram" if self.model.device.type == "cpu" else "device"
        return Footprint.of("weights", place, sum(t.numel() * t.element_size() for t in tensors))

    def _score(self, ids: list[int], start: int, cache: Any, cached: int) -> float:
        import torch

        count = len(ids) - start
        if count == 0:
            return 0.0
        tokens = torch.tensor([ids[cached:]], device=self.model.device)
        past = {} if cache is None else {self._cache_word: copy.deepcopy(cache)}  # the forward pass appends to it
        logits = self.model(tokens, use_cache=bool(past), logits_to_keep=count + 1, **past).logits[0, :-1]
        logs = torch.log_softmax(logits.float(), dim=-1)
        target = torch.tensor(ids[start:], device=logs.device)
        return float(logs.gather(1, target[:, None]).double().sum())

    def _split(self, prompt: str, option: str) -> tuple[list[int], int]:
        """Tokens of prompt and option together, and the position of the first that holds a part of the option."""
        if getattr(self.tokenizer, "is_fast", False):
            encoded = self.tokenizer(prompt + option, add_special_tokens=False, return_offsets_mapping=True)
            ids = list(encoded["input_ids"])
            start = next((i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt)), len(ids))
        else:
            ids, start = self._encode(prompt + option), len(self._encode(prompt))
        if option and start == len(ids):
            raise InputError(f"the option {option!r} adds no token to the prompt")
        first = self.tokenizer.bos_token_id
        if first is None:
            first = self._ends()[0] if self._ends() else None
        if start == 0 or (ids and getattr(self.tokenizer, "add_bos_token", False)):
            if first is None:
                raise InputError("the prompt is empty, and the model has no token to begin a text with")
            ids, start = [first, *ids], start + 1
        return ids, start

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        messages = checked_messages(prompt)
        if not getattr(self.tokenizer, "chat_template", None):
            ids: list[int] = self.tokenizer("\n\n".join(m["content"] for m in messages))["input_ids"]
            if not ids:
                raise InputError("the prompt is empty")
            return ids
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:  # "roles must alternate", "system role not supported"
            raise InputError(f"the chat template of {self.name} refuses these messages: {error}") from error
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        clean = text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self.tokenizer(clean, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _ends(self) -> list[int]:
        """Tokens that end an answer, as the model's settings and the tokenizer name them."""
        named = self.model.generation_config.eos_token_id
        ends = list(named) if isinstance(named, list) else [named]
        return [token for token in dict.fromkeys([*ends, self.tokenizer.eos_token_id]) if token is not None]


def model_config(path: Path) -> Any:
    """The transformers configuration of a model directory or a GGUF file; no weight is read.

    Raises:
        ModelError: it cannot be read.
    """
    if path.is_file():
        return gguf_config(path)
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the configuration in {path} cannot be read: {error}") from error


def predicted_bytes(config: Any, dtype: str) -> int:
    """Bytes that a causal language model of this configuration takes, without a byte of it being allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    from memspan.models.int8 import int8_bytes

    auto: Any = AutoModelForCausalLM
    stored = torch.float32 if dtype == "float32" else torch.bfloat16
    try:
        with torch.device("meta"), quiet_transformers():
            model = auto.from_config(config, dtype=stored)
    except ValueError as error:
        raise UnsupportedModelError(f"{type(config).__name__} is no causal language model: {error}") from error
    model.tie_weights()
    if dtype == "int8":
        return int8_bytes(model)
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def _checked_device(device: str) -> str:
    """The device, when PyTorch knows it and this machine has it."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"device {device!r} is none that PyTorch knows: write cpu, cuda, cuda:1 or mps") from None
    if kind == "cpu":
        return "cpu"
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).splitlines()[0]
        raise InputError(
            f"device {device!r} cannot be used on this machine ({said}); leave it out for the CPU"
        ) from None
    return device


def automatic_dtypes(*, on_cpu: bool) -> list[str]:
    """The dtypes that are tried when none is asked for, the preferred first."""
    if not on_cpu:
        return ["bfloat16"]
    return ["bfloat16", "int8"] if has_native_bfloat16() else ["float32", "bfloat16", "int8"]


def _choose_dtype(name: str, config: Any, wanted: str | None, budget: int | None, *, on_cpu: bool) -> str:
    if wanted == "int8" and not on_cpu:
        raise InputError("dtype int8 runs on the CPU only; use bfloat16 on other devices")
    automatic = automatic_dtypes(on_cpu=on_cpu)
    candidates = [wanted] if wanted else automatic
    if budget is None:
        return candidates[0]
    needed = 0
    for dtype in candidates:
        needed = predicted_bytes(config, dtype)
        if needed <= budget:
            return dtype
    fitting = next((dtype for dtype in automatic if predicted_bytes(config, dtype) <= budget), None)
    advice = f"raise the budget to at least {needed:,} bytes or choose a smaller model"
    if fitting:
        advice = f"use dtype {fitting}, or leave dtype out"
    raise BudgetError(f"the weights of {name} in {candidates[-1]}", needed=needed, allowed=budget, advice=advice)


def _load(directory: Path, dtype: str, device: str) -> tuple[Any, Any]:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                directory, local_files_only=True, dtype=getattr(torch, dtype), use_safetensors=True
            )
            return model.to(torch.device(device)).eval(), tokenizer
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"the language model in {directory} cannot be loaded: {error}") from error
