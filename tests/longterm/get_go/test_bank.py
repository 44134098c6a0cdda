"""The bank: reads, NULL, sources, and the facts of a store."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from memspan import Episode, Memory
from memspan.core.errors import InputError
from memspan.longterm.get_go import KnowledgeBank, RandomCodes
from memspan.longterm.scribe.structured import StructuredScribe
from memspan.longterm.zep import Zep

TRIPLES = [("Ada", "employer", "Acme", "e1"), ("Acme", "located_in", "Oslo", "e2")]


def bank() -> KnowledgeBank:
    made = KnowledgeBank()
    assert made.load_triples(TRIPLES) == 2
    return made


def read(made: KnowledgeBank, subject: str, relation: str):
    return made.read(made.code(subject), made.code(relation, relation=True))


def test_a_read_names_its_value_key_and_source():
    found = read(bank(), "ADA", "Employer")
    assert (found.value, found.sources, found.key) == ("Acme", ("e1",), ("Ada", "employer"))
    assert found.cosine == pytest.approx(1.0, abs=1e-5)
    assert read(bank(), "acme", "located in").value == "Oslo"


def test_what_is_not_held_is_null():
    made = bank()
    assert read(made, "Oslo", "employer") is None and read(KnowledgeBankOf(TRIPLES[:1]), "Acme", "employer") is None
    assert made.remove("ada", "employer") == 1 and read(made, "Ada", "employer") is None
    assert made.read(np.zeros(16, np.float32), np.zeros(16, np.float32)) is None


def KnowledgeBankOf(triples):
    made = KnowledgeBank()
    made.load_triples(triples)
    return made


def test_what_was_written_last_is_followed_and_the_others_are_named():
    made = bank()
    made.write("Ada", "employer", "Bolt", "e3")
    found = read(made, "Ada", "employer")
    assert (found.value, found.sources, found.others) == ("Bolt", ("e3",), ("Acme",)) and len(made) == 3


def test_200_entities_are_told_apart_in_16_dimensions():
    triples = [(f"person {i}", "knows", f"person {(7 * i + 1) % 200}") for i in range(200)]
    made = KnowledgeBankOf(triples)
    assert all(read(made, s, r).value == o for s, r, o in triples)


def test_the_facts_of_a_store_that_hold_at_a_moment():
    scribe = StructuredScribe(["EMPLOYER"])
    with Memory.open(":memory:", organizer=Zep(scribe), embedder=None) as memory:
        for number, (year, company) in enumerate([(2020, "Acme"), (2023, "Bolt")]):
            fact = {"subject": "Ada", "relation": "EMPLOYER", "object": company}
            memory.add(Episode(f"Ada: {company}", at=datetime(year, 1, 1), id=f"e{number}", metadata={"facts": [fact]}))
        now, then = KnowledgeBank.from_memory(memory), KnowledgeBank.from_memory(memory, as_of="2021-05-01")
        assert (read(now, "Ada", "employer").value, read(now, "Ada", "employer").sources) == ("Bolt", ("e1",))
        assert read(then, "Ada", "employer").value == "Acme" and len(then) == 1
        assert len(KnowledgeBank.from_memory(memory, space="elsewhere")) == 0
        memory.forget("e1")
        assert read(KnowledgeBank.from_memory(memory), "Ada", "employer").value == "Acme"


def test_codes_depend_on_name_and_seed_alone():
    one, two = RandomCodes(8, 0), RandomCodes(8, 1)
    assert np.array_equal(one.encode(["Ada", "Bo"])[1], one.encode(["BO"])[0])
    assert not np.allclose(one.encode(["Ada"]), two.encode(["Ada"]))


def test_bad_input():
    made = bank()
    with pytest.raises(InputError, match="no relation 'boss'; relations: employer, located_in"):
        made.code("boss", relation=True)
    with pytest.raises(InputError, match="no entity 'Bo'"):
        made.code("Bo")
    with pytest.raises(InputError, match=r"triple 1 must be"):
        made.load_triples([("a", "b", "c"), ("a", "b")])
    with pytest.raises(InputError, match="triple 0 must be"):
        made.write("a", " ", "c")
    assert len(made) == 2
    with pytest.raises(InputError, match="16 dimensions and its encoder 8"):
        KnowledgeBank(16, encode=RandomCodes(8))
    with pytest.raises(InputError, match="theta"):
        KnowledgeBank(theta=2)
    with pytest.raises(InputError, match="shape"):
        made.read(np.zeros(3, np.float32), np.zeros(16, np.float32))
