"""A transformers model that reads any length inside a byte budget.

>>> import memspan
>>> with memspan.context("sirllm", model, budget="64MiB") as reader:  # doctest: +SKIP
...     reader.feed(text)
...     print(reader.ask("Who was late?"))

The package can be called: `memspan.context(slug, model, ...)` is `memspan.context.reader.open_reader`. Importing it
pulls in no torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memspan.context.reader import Reader


class _CallableModule(ModuleType):
    def __call__(self, slug: str, model: Any, **options: Any) -> Reader:
        """See `memspan.context.reader.open_reader`."""
        from memspan.context.reader import open_reader

        return open_reader(slug, model, **options)


sys.modules[__name__].__class__ = _CallableModule
context = sys.modules[__name__]
