"""The bank: knowledge as keys (subject, relation) and values (object, sources), read by the nearest key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memspan.core.errors import InputError
from memspan.core.footprint import Footprint
from memspan.longterm.clock import as_moment, to_micros
from memspan.longterm.get_go.adapter import QueryAdapter
from memspan.longterm.get_go.codes import Encoder, RandomCodes
from memspan.longterm.scribe.names import normalize_name
from memspan.models.base import Vectors

if TYPE_CHECKING:
    from datetime import date, datetime

    from memspan.longterm.memory import Memory

Triple = Sequence[str]
THETA = 0.95


@dataclass(frozen=True, slots=True)
class Read:
    """What a look-up found.

    Attributes:
        value: the object's name.
        sources: ids of the episodes (or other names) that it rests on.
        key: subject and relation of the key that was nearest.
        cosine: of the query and that key.
        others: further objects of the same key, which were not followed.
    """

    value: str
    sources: tuple[str, ...]
    key: tuple[str, str]
    cosine: float
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """What a name was taken for.

    Attributes:
        name: the held name; the name as asked where `held` is false.
        code: float32 [dim].
        held: whether the bank holds it; what does not is found in no key.
        cosine: of the asked name and the nearest held one; 1 for a name written as in the bank.
    """

    name: str
    code: Vectors
    held: bool
    cosine: float


class KnowledgeBank:
    """Knowledge outside the policy; the same policy reads any bank whose codes have its dimensions.

    Whoever writes the bank controls the answers, so every read names its sources.

    Args:
        dim: dimensions of a code.
        encode: gives names their codes; `RandomCodes(dim)` when left out.
        theta: least cosine of query and key; below it the answer is NULL (None).
        adapter: a trained query adapter for names that are not written as in the bank.

    Raises:
        InputError: dim and encoder or adapter disagree, or theta is not in -1..1.
    """

    def __init__(
        self,
        dim: int = 16,
        *,
        encode: Encoder | None = None,
        theta: float = THETA,
        adapter: QueryAdapter | None = None,
    ) -> None:
        self.encoder: Encoder = RandomCodes(dim) if encode is None else encode
        if self.encoder.dim != dim:
            raise InputError(f"the bank has {dim} dimensions and its encoder {self.encoder.dim}; make them equal")
        if not -1.0 <= theta <= 1.0:
            raise InputError(f"theta must lie between -1 and 1, not {theta}")
        if adapter is not None and adapter.dim != dim:
            raise InputError(f"the bank has {dim} dimensions and its adapter {adapter.dim}; make them equal")
        self.dim, self.theta, self.adapter = dim, theta, adapter
        self._shown: dict[str, str] = {}
        self._codes: dict[str, Vectors] = {}
        self._relations: dict[str, None] = {}
        self._entities: dict[str, None] = {}
        self._near: dict[bool, tuple[list[str], Vectors]] = {}
        self._values: dict[tuple[str, str], list[tuple[str, tuple[str, ...]]]] = {}
        self._keys: Vectors | None = None
        self._order: list[tuple[str, str]] = []

    @classmethod
    def from_memory(
        cls,
        memory: Memory,
        *,
        dim: int = 16,
        encode: Encoder | None = None,
        theta: float = THETA,
        adapter: QueryAdapter | None = None,
        space: str | None = None,
        as_of: datetime | date | str | None = None,
    ) -> KnowledgeBank:
        """The facts of a memory's store that hold at a moment (now when left out), with their source episodes.

        Of several objects of one subject and relation the one that began last is followed.
        """
        bank = cls(dim, encode=encode, theta=theta, adapter=adapter)
        moment = to_micros(as_moment(as_of, "as_of")) or memory._now()
        with memory.store.read(memory._now(), memory.space if space is None else space) as tx:
            rows = tx.execute(
                "SELECT r.id, f.relation, json_extract(s.data, '$.name') AS subject, json_extract(o.data, '$.name')"
                " AS object FROM fact f JOIN record r ON r.id = f.record JOIN record s ON s.id = f.subject"
                " JOIN record o ON o.id = f.object WHERE r.space = ? AND r.status = 'live'"
                " AND coalesce(r.valid_at, ?) <= ? AND coalesce(r.invalid_at, ? + 1) > ?"
                " ORDER BY coalesce(r.valid_at, 0), r.id",
                (tx.space_id, moment, moment, moment, moment),
            ).fetchall()
            sources: dict[int, list[str]] = {}
            for record, uid in tx.select(
                "SELECT c.record, e.uid FROM source c JOIN record e ON e.id = c.episode WHERE c.record IN ({ids})"
                " ORDER BY c.record, c.rank",
                [row["id"] for row in rows],
            ):
                sources.setdefault(record, []).append(uid)
        bank._add((row["subject"], row["relation"], row["object"], sources.get(row["id"], [])) for row in rows)
        return bank

    def __len__(self) -> int:
        return sum(map(len, self._values.values()))

    @property
    def relations(self) -> list[str]:
        """The relations that it holds, as written."""
        return [self._shown[key] for key in self._relations]

    def load_triples(self, triples: Iterable[Triple]) -> int:
        """Add (subject, relation, object) or (subject, relation, object, source) triples; returns how many.

        Raises:
            InputError: a triple has another number of parts, or an empty one; nothing is added.
        """
        checked = []
        for number, triple in enumerate(triples):
            if isinstance(triple, str) or len(triple) not in (3, 4) or not all(map(normalize_name, triple[:3])):
                raise InputError(
                    f"triple {number} must be (subject, relation, object) or with a source, not {triple!r}"
                )
            checked.append((triple[0], triple[1], triple[2], triple[3:]))
        return self._add(checked)

    def write(self, subject: str, relation: str, target: str, source: str = "") -> None:
        """Write one triple; it is followed before the ones with the same subject and relation.

        Raises:
            InputError: a part is empty.
        """
        self.load_triples([(subject, relation, target, *([source] if source else []))])

    def remove(self, subject: str, relation: str) -> int:
        """Take away all triples of a subject and a relation; returns how many that were."""
        gone = self._values.pop((normalize_name(subject), normalize_name(relation)), [])
        self._keys = None
        return len(gone)

    def read(self, subject: Vectors, relation: Vectors) -> Read | None:
        """The value of the nearest key, None (NULL) when none reaches theta.

        Args:
            subject, relation: float32 [dim].

        Raises:
            InputError: another number of dimensions.
        """
        for name, vector in (("subject", subject), ("relation", relation)):
            if np.shape(vector) != (self.dim,):
                raise InputError(f"the {name}'s code has shape {np.shape(vector)}; the bank's codes have [{self.dim}]")
        if self._keys is None:
            self._order = list(self._values)
            pairs = [np.concatenate([self._codes[s], self._codes[r]]) for s, r in self._order]
            self._keys = np.array(pairs, np.float32).reshape(len(pairs), 2 * self.dim) / np.sqrt(np.float32(2))
        query = np.concatenate([subject, relation])
        length = float(np.linalg.norm(query))
        if not self._order or length == 0.0:
            return None
        cosines = self._keys @ (query / length)
        best = int(cosines.argmax())
        if cosines[best] < self.theta:
            return None
        key = self._order[best]
        (value, sources), *others = reversed(self._values[key])
        shown = (self._shown[key[0]], self._shown[key[1]])
        return Read(self._shown[value], sources, shown, float(cosines[best]), tuple(self._shown[o] for o, _ in others))

    def resolve(self, name: str, *, relation: bool = False) -> Named:
        """The held name that is meant: written alike (`normalize_name`), else the nearest if the encoder accepts it.

        Raises:
            InputError: the bank does not hold the name, and its encoder gives meaning only to those that it holds.
        """
        return self.candidates(name, 1, relation=relation)[0]

    def candidates(self, name: str, count: int, *, relation: bool = False) -> list[Named]:
        """The `count` nearest held names, best first; one alone for a name written as in the bank, or for none near.

        Raises:
            InputError: as `resolve`.
        """
        key = normalize_name(name)
        if key in (self._relations if relation else self._entities):
            return [Named(self._shown[key], self._codes[key], True, 1.0)]
        if not self.encoder.open:
            kind = "relation" if relation else "entity"
            known = f"; relations: {', '.join(self.relations) or 'none'}" if relation else ""
            raise InputError(f"the bank holds no {kind} {name!r}{known}")
        asked: Vectors = self.encoder.encode([name])
        code: Vectors = (asked if self.adapter is None else self.adapter(asked))[0]
        names, codes = self.codes(relation=relation)
        cosines = codes @ code
        best = [int(place) for place in np.argsort(-cosines, kind="stable")[:count]]
        near = [place for place in best if cosines[place] >= self.encoder.accept]
        if not near:
            return [Named(name, code, False, float(cosines[best[0]]) if best else 0.0)]
        return [Named(names[place], codes[place], True, float(cosines[place])) for place in near]

    def codes(self, *, relation: bool = False) -> tuple[list[str], Vectors]:
        """The entities (or relations) that it holds, as written, and their codes [names, dim]."""
        if relation not in self._near:
            keys = list(self._relations if relation else self._entities)
            stacked = np.array([self._codes[key] for key in keys], np.float32).reshape(len(keys), self.dim)
            self._near[relation] = ([self._shown[key] for key in keys], stacked)
        return self._near[relation]

    def code(self, name: str, *, relation: bool = False) -> Vectors:
        """[dim] the code of the name that is meant; see `resolve`."""
        return self.resolve(name, relation=relation).code

    def footprint(self) -> Footprint:
        """Bytes of codes and keys in RAM."""
        keys = 0 if self._keys is None else self._keys.nbytes
        keys += sum(codes.nbytes for _, codes in self._near.values())
        return Footprint.of("store", "ram", keys + sum(code.nbytes for code in self._codes.values()))

    def _add(self, triples: Iterable[tuple[str, str, str, Sequence[str]]]) -> int:
        added = list(triples)
        fresh: dict[str, str] = {}
        for triple in added:
            for name in triple[:3]:
                key = normalize_name(name)
                if key not in self._codes:
                    fresh.setdefault(key, name)
        if fresh:
            self._codes |= dict(zip(fresh, self.encoder.encode(list(fresh.values())), strict=True))
            self._shown |= fresh
        for subject, relation, target, sources in added:
            s, r, o = map(normalize_name, (subject, relation, target))
            self._relations[r] = self._entities[s] = self._entities[o] = None
            self._values.setdefault((s, r), []).append((o, tuple(sources)))
        self._keys = None
        self._near.clear()
        return len(added)
