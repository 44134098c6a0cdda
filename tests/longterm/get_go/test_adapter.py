"""The trained retriever, and names that are not written as in the bank."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest

from memspan.core.errors import InputError
from memspan.longterm.get_go import Curriculum, KnowledgeBank, QueryAdapter, RandomCodes, SmallWindowReasoner, TextCodes

SYLLABLES = "ba ke li mo nu pra sti tor va wex yo zan dri fel gu hip".split()


class WordVectors:
    """A direction for each word, so that a word with a typo is another word."""

    dim = 48

    def embed(self, texts):
        rows = [sum(self.word(word) for word in text.lower().split()) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)

    def word(self, word):
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.dim)


def made_names(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < count:
        words = ["".join(chance.choices(SYLLABLES, k=3)).title() for _ in range(2)]
        names["_".join(words)] = None
    return list(names)


def swapped(name: str, chance: random.Random) -> str:
    at = chance.randrange(len(name) - 1)
    return f"{name[:at]}{name[at + 1]}{name[at]}{name[at + 2 :]}".upper()


def bank_of(names: list[str], **codes) -> KnowledgeBank:
    bank = KnowledgeBank(64, encode=TextCodes(WordVectors(), 64, **codes))
    bank.load_triples((name, "located in", f"place {number}") for number, name in enumerate(names))
    return bank


def test_a_projection_keeps_meaning_and_is_fixed_by_its_seed():
    one, two = TextCodes(WordVectors(), 512, spelling=0), TextCodes(WordVectors(), 512, 1, spelling=0)
    near, far, other = one.encode(["New_York", "new  york city", "Oslo"]) @ one.encode(["New York"])[0]
    assert near == pytest.approx(1.0, abs=1e-5) and far > 0.6 and abs(other) < 0.4
    assert np.array_equal(one.encode(["Oslo"]), TextCodes(WordVectors(), 512, spelling=0).encode(["Oslo"]))
    assert not np.allclose(one.encode(["Oslo"]), two.encode(["Oslo"]))


def test_spelling_finds_names_with_a_typo_that_meaning_alone_does_not():
    names, chance = made_names(150), random.Random(1)
    asked = [swapped(name, chance) for name in names]
    shares = []
    for spelling in (0.0, 1.0):
        bank = bank_of(names, spelling=spelling, accept=-1.0)
        shares.append(np.mean([bank.resolve(a).name == name for a, name in zip(asked, names, strict=True)]))
    assert shares[1] > 0.75 and shares[1] > shares[0] + 0.3


def test_a_name_written_as_in_the_bank_is_never_taken_for_another():
    bank = bank_of(["Bala_Kemo", "Bala_Kemi"])
    for name in ("bala kemo", "BALA_KEMI"):
        named = bank.resolve(name)
        assert named.name.casefold() == name.casefold().replace(" ", "_") and (named.held, named.cosine) == (True, 1.0)


def test_a_name_that_nothing_is_near_is_found_in_no_key():
    bank = bank_of(["Bala_Kemo"])
    named = bank.resolve("Quixote Windmill")
    assert not named.held and named.cosine < 0.6
    assert bank.read(named.code, bank.code("located in", relation=True)) is None
    assert not KnowledgeBank(64, encode=bank.encoder).resolve("Ada").held


def test_an_adapter_without_training_changes_nothing():
    codes = RandomCodes(8).encode(["Ada", "Bo"])
    assert np.allclose(QueryAdapter(8)(codes), codes, atol=1e-6)


def test_training_undoes_a_distortion_on_names_it_was_not_shown():
    rng = np.random.default_rng(0)
    keys = RandomCodes(32).encode([f"name {i}" for i in range(600)])
    bent = rng.standard_normal((32, 32)).astype(np.float32) / 4 + np.eye(32, dtype=np.float32) / 2
    queries = keys @ bent
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    adapter = QueryAdapter(32)

    def right() -> float:
        return float(((adapter(queries[400:]) @ keys.T).argmax(1) == np.arange(400, 600)).mean())

    before = right()
    losses = adapter.fit(queries[:400], np.arange(400), keys, steps=300, decay=0.0, lr=1e-2)
    assert losses[-1] < losses[0] / 2 and right() > before + 0.2 and right() > 0.9
    again = QueryAdapter(32)
    again.fit(queries[:400], np.arange(400), keys, steps=300, decay=0.0, lr=1e-2)
    assert np.array_equal(adapter.change, again.change)


def test_an_adapter_is_saved_and_used_by_a_bank(tmp_path):
    adapter = QueryAdapter(64)
    adapter.change[:] = np.random.default_rng(0).standard_normal((64, 64)) / 16
    adapter.save(tmp_path / "a")
    loaded = QueryAdapter.load(tmp_path / "a")
    encoder = TextCodes(WordVectors(), 64, accept=-1.0)
    plain, adapted = KnowledgeBank(64, encode=encoder), KnowledgeBank(64, encode=encoder, adapter=loaded)
    for bank in (plain, adapted):
        bank.load_triples([("Bala_Kemo", "located in", "Oslo")])
    one, two = plain.resolve("Bala Kemoo"), adapted.resolve("Bala Kemoo")
    assert one.name == two.name and one.cosine != two.cosine and np.array_equal(one.code, two.code)


def test_what_an_adapter_learns_from_are_episodes_that_ended_right():
    names, chance = made_names(40), random.Random(2)
    bank = bank_of(names, accept=-1.0)
    reasoner = SmallWindowReasoner(d=64)
    reasoner.pretrain(Curriculum(tasks=("k-hop",)), budget_s=120, updates=300, seed=0)
    asked = [(swapped(name, chance), ["located in"], f"place {number}") for number, name in enumerate(names)]
    asked.append((names[0].lower(), ["located in"], "nowhere"))
    pairs = reasoner.successful_reads(bank, asked)
    assert len(pairs) >= 36 and all(
        names[int(wanted.split()[1])] == dict(pairs)[start] for start, _, wanted in asked[:-1] if start in dict(pairs)
    )
    found = reasoner.solve(bank, asked[0][0], ["Located_in"])
    assert found.value == "place 0" and found.names == {asked[0][0]: names[0]}


def test_bad_input(tmp_path):
    codes = np.zeros((2, 8), np.float32)
    adapter = QueryAdapter(8)
    for queries, right, keys, message in (
        (codes[:, :4], np.arange(2), codes, "must be"),
        (codes, np.arange(1), codes, "as many right keys"),
        (codes, np.array([0, 2]), codes, "a row of keys"),
    ):
        with pytest.raises(InputError, match=message):
            adapter.fit(queries, right, keys)
    with pytest.raises(InputError, match="16 dimensions and its adapter 8"):
        KnowledgeBank(16, adapter=adapter)
    with pytest.raises(InputError, match="cannot be read as a query adapter"):
        QueryAdapter.load(tmp_path / "missing")
    with pytest.raises(InputError, match="dim must be at least 1"):
        TextCodes(WordVectors(), 0)
    with pytest.raises(InputError, match="spelling"):
        TextCodes(WordVectors(), 8, spelling=-1)
