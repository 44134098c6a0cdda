"""Decoding under a JSON schema: at every step only tokens that can still lead to a fitting answer keep their logits.

The grammar is llguidance's (https://github.com/guidance-ai/llguidance). What is ours is the end: near the limit of
tokens a step is taken only when the answer can still be closed after it, so that an answer is whole at any limit that
holds the shortest one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError, MissingExtraError, ModelError, UnsupportedModelError
from memspan.models.schema import checked_schema, violation
from memspan.models.spec import LOCAL_EXTRA

_LARGEST = 10**15  # of numbers without a range of their own; all integers up to it are exact as floats
_LONGEST_CLOSING = 4096  # tokens; a schema whose shortest answer is longer is refused
# White space between tokens is fixed, since small models can go on with it for ever; \u escapes are left out, since
# they can write half a surrogate pair, which is no text.
_FORM = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": '"\\bfnrt',
}


class GrammarTokenizer:
    """A model's tokenizer as the grammar sees it; made once per model, in about a second.

    Args:
        tokenizer: a fast `transformers` tokenizer.
        ends: ids of the tokens that end an answer.

    Raises:
        MissingExtraError: llguidance is not installed.
        UnsupportedModelError: the tokenizer is of a kind that llguidance cannot read, or the model has no end token.
    """

    def __init__(self, tokenizer: Any, ends: list[int]) -> None:
        if find_spec("llguidance") is None:
            raise MissingExtraError("llguidance", LOCAL_EXTRA)
        from llguidance import LLTokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or not ends:
            raise UnsupportedModelError("answers by schema need a fast tokenizer and a token that ends an answer")
        try:
            self.tokens = LLTokenizer(backend.to_str(), eos_token=ends, slices=LLTokenizer.json_slices())
        except ValueError as error:
            raise UnsupportedModelError(f"answers by schema cannot be had with this tokenizer: {error}") from error
        self._preferred = self._single('"', "}", "]", "0", "null", "false", ", ", ",", ": ", ":")

    def _single(self, *texts: str) -> list[int]:
        coded = [self.tokens.tokenize_str(text) for text in texts]
        return [ids[0] for ids in coded if len(ids) == 1]

    def matcher(self, schema: Mapping[str, Any]) -> Any:
        """An `llguidance.LLMatcher` at the start of an answer.

        Raises:
            InputError: the schema cannot be made a grammar.
        """
        from llguidance import LLMatcher

        try:
            matcher = LLMatcher(
                self.tokens, LLMatcher.grammar_from_json_schema(schema_text(bounded(schema)), defaults=_FORM)
            )
        except ValueError as error:
            raise InputError(f"no grammar can be made of the schema: {error}") from error
        if matcher.is_error():
            raise InputError(f"no grammar can be made of the schema: {matcher.get_error()}")
        return matcher

    def closing(self, matcher: Any, limit: int) -> list[int] | None:
        """A short way from here to a whole answer, at most `limit` tokens; None when none was found.

        Strings, lists and objects are closed where that is allowed; it is not always the shortest way.
        """
        matcher = matcher.deep_copy()
        way: list[int] = []
        while not matcher.is_accepting():
            step = matcher.compute_ff_tokens() or [self._nearest(matcher)]
            way += step
            if len(way) > limit or not matcher.consume_tokens(step):
                return None
        return way

    def _nearest(self, matcher: Any) -> int:
        allowed = mask_of(matcher)
        for token in self._preferred:
            if allowed[token]:
                return token
        return int(allowed.argmax())


class SchemaConstraint:
    """A logits processor for one answer.

    Args:
        tokenizer: of the model that writes.
        schema: what the answer must fit; see `memspan.models.schema` for the keywords.
        prompt_tokens: length of the prompt.
        limit: most tokens of the answer, its end token not counted.
        draw: logits `[V]` -> token, as the model's own sampling would choose.

    Raises:
        InputError: the schema is unusable, or its shortest answer does not fit into the limit.
    """

    def __init__(
        self,
        tokenizer: GrammarTokenizer,
        schema: Mapping[str, Any],
        prompt_tokens: int,
        limit: int,
        draw: Callable[[Any], int],
    ) -> None:
        self._schema = checked_schema(schema)
        self._tokenizer, self._draw = tokenizer, draw
        self._matcher = tokenizer.matcher(self._schema)
        self._read, self._left = prompt_tokens, limit
        # No answer needs more to be closed than what names each of its parts once.
        self._reserve = len(tokenizer.tokens.tokenize_str(schema_text(schema)))
        shortest = tokenizer.closing(self._matcher, _LONGEST_CLOSING)
        if shortest is None or len(shortest) > limit:
            least = f"at least {len(shortest)}" if shortest else f"more than {_LONGEST_CLOSING}"
            raise InputError(f"an answer that fits the schema takes {least} tokens, and {limit} are allowed")
        self._way = shortest

    def __call__(self, ids: Any, scores: Any) -> Any:
        """`ids` `[1, T]`, `scores` `[1, V]` -> scores with minus infinity at every token that must not follow."""
        import torch

        for token in ids[0, self._read :].tolist():
            self._consume(token)
        self._read = ids.shape[1]
        allowed = np.zeros(scores.shape[-1], dtype=bool)
        mask = mask_of(self._matcher)[: len(allowed)]
        allowed[: len(mask)] = mask
        # Logits that are no numbers would let a forbidden token through.
        masked = scores.nan_to_num(nan=-1e30, neginf=-1e30).masked_fill(
            ~torch.from_numpy(allowed).to(scores.device), -torch.inf
        )
        if self._left > self._reserve or self._matcher.is_stopped():
            return masked
        return torch.full_like(masked, -torch.inf).index_fill_(
            1, torch.tensor([self._closable(masked)], device=scores.device), 0.0
        )

    def _closable(self, masked: Any) -> int:
        """The model's own choice where the answer can be closed after it, else the next step of the way known."""
        if self._left == self._reserve:
            self._way = self._tokenizer.closing(self._matcher, self._left) or []
        chosen = self._draw(masked[0])
        after = self._matcher.deep_copy()
        if after.consume_token(chosen):
            way = [] if after.is_stopped() else self._tokenizer.closing(after, self._left - 1)
            if way is not None:
                self._way = way
                return chosen
        if not self._way:
            return chosen
        token, *self._way = self._way
        return token

    def _consume(self, token: int) -> None:
        self._left -= 1
        if not self._matcher.is_stopped() and not self._matcher.consume_token(token):
            raise ModelError(f"the grammar of the answer failed: {self._matcher.get_error()}")

    def text(self, tokens: list[int]) -> str:
        """The answer that these tokens, the end token included, are.

        Raises:
            ModelError: it is not whole, or does not fit; neither is expected.
        """
        ends = set(self._tokenizer.tokens.eos_tokens)
        written = self._tokenizer.tokens.decode_bytes([token for token in tokens if token not in ends])
        try:
            text = str(written, "utf-8")
            problem = violation(json.loads(text), self._schema)
        except ValueError as error:
            problem = str(error)
        if problem:
            raise ModelError(
                f"the answer by schema is unusable: {problem}; raise max_new_tokens or simplify the schema"
            )
        return text


def mask_of(matcher: Any) -> NDArray[np.bool_]:
    """[vocabulary] which tokens may follow.

    Raises:
        ModelError: the grammar ran into one of its limits.
    """
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        raise ModelError(f"the grammar of the answer failed: {matcher.get_error()}")
    return np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little").astype(bool)


def bounded(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with a range for every number that has none: JSON allows 1e999, which no float can hold."""
    made = dict(schema)
    named = made.get("type", [])
    if not {"number", "integer"}.isdisjoint([named] if isinstance(named, str) else named):
        made = {"minimum": -_LARGEST, "maximum": _LARGEST} | made
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), Mapping):
            made[key] = bounded(made[key])
    if "properties" in made:
        made["properties"] = {name: bounded(part) for name, part in made["properties"].items()}
    if "anyOf" in made:
        made["anyOf"] = [bounded(part) for part in made["anyOf"]]
    return made


def schema_text(schema: Mapping[str, Any]) -> str:
    """The schema as JSON, in the order given: the answer's keys come in this order."""
    return json.dumps(schema)
