"""One rule scribe for all tests of this folder: its pipeline takes seconds to load and keeps no state."""

from __future__ import annotations

import pytest

from memspan.core.errors import MissingExtraError
from memspan.longterm.scribe.rules import RuleScribe


@pytest.fixture(scope="session")
def scribe() -> RuleScribe:
    made = RuleScribe()
    try:
        made.nlp  # noqa: B018
    except MissingExtraError as error:
        pytest.skip(str(error))
    return made
