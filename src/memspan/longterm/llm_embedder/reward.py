"""The teacher: how much better a language model foretells the wanted answer when it has read a key.

r(k) = (1/|o|) Σ_t log p(o_t | k, q, o_<t), the mean over the tokens of the answer o alone, in nats. The mean, because
answers differ in length. The model only weighs text and writes none, so that a small one will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from memspan.core.errors import InputError
from memspan.longterm.retriever import Example
from memspan.models.base import LanguageModel, LocalLanguageModel
from memspan.models.hardware import torch_threads
from memspan.models.progress import progress_bar

KEY_TOKENS = 512  # a key is cut to this
ALL_TOKENS = 1024  # key, query and answer together; the query's beginning gives way
_BATCH_TOKENS, _BATCH_LOGITS = 4096, 512  # rows of the output layer: 100 MB in float32 for 50,000 words

# The authors' templates; what stands after the last gap is the answer's place.
TEMPLATES = {
    "memory": "Knowledge: {key}\nQuestion: {query}\nAnswer:",
    "qa": "Knowledge: {key}\nQuestion: {query}\nAnswer:",
    "icl": "{key}\n{query}\n",
    "chat": "{key}\nSpeaker 1: {query}\nSpeaker 2:",
    "lrlm": "{key} {query}",
    "tool": "Tool: {key}\nRequest: {query}\nName of the tool:",
}


@dataclass(frozen=True, slots=True)
class _Item:
    """Token ids of a prompt with its answer, and how many are the answer's."""

    ids: tuple[int, ...]
    answer: int


def lm_reward(
    lm: LanguageModel, task: str, query: str, keys: Sequence[str], answer: str, *, progress: bool = False
) -> Tensor:
    """[N] the reward of each key, in nats a token of the answer.

    Args:
        lm: the judge.
        task: one of `TEMPLATES`.
        query: what was asked, or the text so far.
        keys: what was found.
        answer: what should be said.
        progress: show a bar also where stderr is no terminal.

    Raises:
        InputError: an unknown task, or an answer without a token.
        UnsupportedModelError: the model gives no log-probabilities.
    """
    return _rewards(lm, task, [(query, key, answer) for key in keys], progress=progress)


def judge(lm: LanguageModel, task: str, examples: Sequence[Example], *, progress: bool = False) -> list[Example]:
    """The examples with rewards for all of their keys, from their answers."""
    asked = [(e.query, key, e.answer) for e in examples for key in (*e.positives, *e.negatives)]
    values = iter(_rewards(lm, task, asked, progress=progress).tolist())
    return [replace(e, rewards=tuple(islice(values, len(e.positives) + len(e.negatives)))) for e in examples]


def _rewards(lm: LanguageModel, task: str, asked: Sequence[tuple[str, str, str]], *, progress: bool) -> Tensor:
    if task not in TEMPLATES:
        raise InputError(f"task {task!r} has no template; those that have: {', '.join(TEMPLATES)}")
    if any(not answer.strip() for _, _, answer in asked):
        raise InputError("an answer is empty, so that there is nothing to foretell")
    template = TEMPLATES[task]
    with progress_bar("asking the judge", len(asked), force=progress) as advance:
        if not isinstance(lm, LocalLanguageModel):
            values = []
            for query, key, answer in asked:
                answer = " " + answer.strip()
                prompt = template.format(key=key, query=query)
                values.append(lm.loglik(prompt, [answer])[0] / max(1, lm.count_tokens(answer)))
                advance(1)
            return torch.tensor(values)
        items = [_item(lm.tokenizer, template, *row, limit=lm.context_window) for row in asked]
        out = torch.empty(len(items))
        # Of equal width when padded, those with answers of about equal length together: less of the output layer.
        order = sorted(range(len(items)), key=lambda i: (-_padded(len(items[i].ids)), -items[i].answer))
        start = 0
        with torch_threads(getattr(lm, "threads", None)), torch.inference_mode():
            while start < len(order):
                size = max(1, _BATCH_TOKENS // _padded(len(items[order[start]].ids)))
                longest = max(items[i].answer for i in order[start : start + size])
                batch = order[start : start + max(1, min(size, _BATCH_LOGITS // longest))]
                out[batch] = _score(lm.model, [items[i] for i in batch])
                advance(len(batch))
                start += len(batch)
    return out


def _item(tokenizer: Any, template: str, query: str, key: str, answer: str, *, limit: int | None) -> _Item:
    """Prompt and answer tokenized together, as they would be read; a token over the boundary is the answer's."""
    most = min(ALL_TOKENS, limit or ALL_TOKENS)
    answer = _cut(tokenizer, " " + answer.strip(), most // 4)
    key = _cut(tokenizer, key, min(KEY_TOKENS, most // 2))
    room = most - sum(len(_ids(tokenizer, text)) + 8 for text in (template, key, answer))  # 8: where pieces join
    prompt = template.format(key=key, query=_cut(tokenizer, query, max(1, room), end=True))
    if getattr(tokenizer, "is_fast", False):
        text = _clean(prompt + answer)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        said = sum(stop > len(prompt) for _, stop in encoded["offset_mapping"])
    else:
        ids = [*_ids(tokenizer, prompt), *_ids(tokenizer, answer)]
        said = len(_ids(tokenizer, answer))
    if not 0 < said < len(ids):
        raise InputError(f"the answer {answer!r} has no token, or nothing stands before it")
    return _Item(tuple(ids), said)


def _cut(tokenizer: Any, text: str, most: int, *, end: bool = False) -> str:
    """The text's first (or last) tokens, at most so many."""
    if len(text) <= most:  # a token has at least one character
        return text
    ids = _ids(tokenizer, text)
    if len(ids) <= most:
        return text
    cut: str = tokenizer.decode(ids[-most:] if end else ids[:most])
    return cut


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(_clean(text), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _clean(text: str) -> str:
    """Half of an emoji cut in two is legal in a Python string, and no tokenizer can encode it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _score(model: Any, items: Sequence[_Item]) -> Tensor:
    """[n] mean log-probability of each answer. Padded on the left, so that all answers end at one place."""
    width, longest = _padded(max(len(item.ids) for item in items)), max(item.answer for item in items)
    tokens = torch.tensor([[0] * (width - len(item.ids)) + list(item.ids) for item in items])
    starts = torch.tensor([width - len(item.ids) for item in items])
    mask = torch.arange(width) >= starts[:, None]
    positions = (torch.arange(width) - starts[:, None]).clamp(min=0)
    place = model.device
    logits = model(
        input_ids=tokens.to(place),
        attention_mask=mask.long().to(place),
        position_ids=positions.to(place),
        use_cache=False,
        logits_to_keep=longest + 1,
    ).logits[:, :-1]
    # Only the answers' tokens go through the softmax: padded answers would be twice as many.
    counted = torch.arange(longest) >= longest - torch.tensor([item.answer for item in items])[:, None]
    target = tokens[:, -longest:][counted].to(place)
    logs = torch.zeros(counted.shape)
    logs[counted] = -torch.nn.functional.cross_entropy(
        logits[counted.to(place)].float(), target, reduction="none"
    ).cpu()
    return logs.sum(1) / counted.sum(1)


def _padded(length: int) -> int:
    """Lengths go up in steps of 16: PyTorch keeps a kernel and its buffers for every shape ever seen."""
    return 16 * -(-length // 16)
