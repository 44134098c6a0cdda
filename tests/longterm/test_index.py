"""An index that follows erasures and additions holds what one made anew holds, at every level of spilling."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import Episode, Memory
from memspan.longterm.index import PassageIndex
from memspan.longterm.indexed import COLUMNS, IN_RAM, POSTINGS
from memspan.longterm.passages import term_hashes
from memspan.longterm.spill import Spill
from tests.longterm.doubles import HashEmbedder
from tests.longterm.indexes import same_names

ACTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"), st.integers(1, 4), st.sampled_from([None, "s1", "s2", "s3"]), st.sampled_from([1, 200])
        ),
        st.tuples(st.just("forget"), st.integers(0, 10**6), st.none(), st.just(1)),
        st.tuples(st.just("look"), st.just(0), st.none(), st.just(0)),
    ),
    min_size=4,
    max_size=24,
)
NAMES = ("record_ids", "first", "role", "at", "is_question", "standing", "kind", "owner", "length")
WORDS = ("sun", "rain", "boat", "kiln", "garden", "tea", "always")


@pytest.mark.parametrize("level", [IN_RAM, POSTINGS, COLUMNS])
@given(ACTS)
@settings(max_examples=30, deadline=None)
def test_what_follows_equals_what_is_made_anew(level: int, acts: list[tuple[str, int, str | None, int]]):
    with Memory.open(":memory:", embedder=HashEmbedder(), organizer="plain") as memory:
        memory.add(Episode("The first sun of all.", id="first", session="s1"))
        here, made = ["first"], 0
        with memory.store.read(0, "default") as tx:
            index = PassageIndex(
                tx.space_id, episodes=True, spill=Spill(Path(tempfile.gettempdir())) if level else None, level=level
            )
            index.refresh(tx)
        for act, number, session, times in acts:
            if act == "add":
                batch = []
                for _ in range(number):
                    made += 1
                    said = f"{WORDS[made % 7]} {WORDS[made % 3]} and {WORDS[made % 5]}. " * times
                    batch.append(Episode(said, ("Ann", "Bo")[made % 2], session=session, id=f"e{made}"))
                here += memory.add(batch)
            elif act == "forget" and here:
                memory.forget(here.pop(number % len(here)))
            else:
                memory.embed_pending()
                with memory.store.read(0, "default") as tx:
                    index.refresh(tx)
        memory.embed_pending()
        with memory.store.read(0, "default") as tx:
            index.refresh(tx)
            anew = PassageIndex(tx.space_id, episodes=True)
            anew.refresh(tx)
        for name in (*NAMES, "passage_ids", "before", "after"):
            assert np.array_equal(getattr(index, name), getattr(anew, name)), name
        same_names(index, anew)
        terms = term_hashes("sun boat garden tea")
        assert np.array_equal(index.bm25(terms, (0.5, 0.25)), anew.bm25(terms, (0.5, 0.25)))
        assert index.vectors_missing == anew.vectors_missing == 0
        if index.vectors is not None and anew.vectors is not None:
            every = np.arange(len(anew.owner))
            assert np.array_equal(index.vectors.rows(every), anew.vectors.rows(every))
