"""From the clauses of a turn to facts: declared relations first, named slots ("the budget is …"), then plain verbs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from memspan.longterm.base import EntityDraft, FactDraft
from memspan.longterm.clock import utc
from memspan.longterm.scribe import relations as table
from memspan.longterm.scribe import wording
from memspan.longterm.scribe.clauses import Clause, clauses
from memspan.longterm.scribe.dates import Prefer, TimeSpan, find_times
from memspan.longterm.scribe.names import Names, entity_label
from memspan.longterm.scribe.relations import RELATIONS, Effect
from memspan.longterm.scribe.statements import sentences
from memspan.longterm.scribe.told import OVER, StatementReader

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_CHILDHOOD = frozenset(("when", "as", "before", "after", "while", "until"))


class FactReader:
    """Reads the facts of one parsed turn.

    Args:
        doc: the turn, parsed by spaCy.
        at: when it was said.
        names: who is meant in it.
        functional: relations that hold for one object at a time beside the declared ones.
    """

    def __init__(self, doc: Doc, at: datetime | None, names: Names, functional: frozenset[str]) -> None:
        self.doc = doc
        self.at = None if at is None else utc(at)
        self.names = names
        self.functional = functional
        self.labels: dict[str, str] = {}
        self._spans: dict[Prefer, list[TimeSpan]] = {}
        self._sentences = [number for number, sentence in enumerate(sentences(doc)) for _ in sentence]

    def read(self) -> tuple[list[FactDraft], list[EntityDraft]]:
        """Facts in the order of the text, each once, and the entities named in them or in the text."""
        found: dict[tuple[str, str, str, bool], FactDraft] = {}
        told = StatementReader(self.doc, self.at, self.names, self.labels)
        stated = [replace(f, functional=f.functional or f.relation in self.functional) for f in told.read()]
        parsed = [f for clause in clauses(self.doc) for f in self.clause(clause, told.read_in)]
        # Where both readings speak of one relation, the statement's is the surer one.
        slots = {(f.subject, f.relation) for f in stated}
        held = {(f.subject, f.relation, f.object) for f in stated if not f.ends}
        parsed = [f for f in parsed if (f.subject, f.relation) not in slots or f.ends or not f.functional]
        parsed = [f for f in parsed if (f.subject, f.relation, f.object) not in held]
        named = {(f.subject, f.object) for f in parsed if f.ends}
        stated = [f for f in stated if f.relation != OVER or not self._ended(f, named)]
        for fact in (*self.kinship(), *stated, *parsed):
            if fact.subject and (fact.object or fact.ends) and fact.subject != fact.object:
                found.setdefault((fact.subject, fact.relation, fact.object, fact.ends), fact)
        facts = list(found.values())
        entities: dict[str, str] = {}
        for token in self.doc:
            if token.ent_iob_ == "B" and entity_label(token) != "THING" and token.pos_ == "PROPN":
                name = self.names.join(t for t in self.doc[token.i :] if t.i in self._entity(token))
                entities.setdefault(name, token.ent_type_)
        for fact in facts:
            entities.setdefault(fact.subject, self.labels.get(fact.subject, "THING"))
            if fact.object in self.labels:
                entities.setdefault(fact.object, self.labels[fact.object])
        return facts, [EntityDraft(name=name, label=label) for name, label in entities.items() if name]

    @staticmethod
    def _ended(over: FactDraft, named: set[tuple[str, str]]) -> bool:
        """Whether an ending with its relation says the same as one without."""
        return any(over.subject == subject and value and value in over.object for subject, value in named)

    def _entity(self, token: Token) -> range:
        end = token.i + 1
        while end < len(self.doc) and self.doc[end].ent_iob_ == "I" and self.doc[end].pos_ != "PART":
            end += 1
        return range(token.i, end)

    # --- building ---------------------------------------------------------------------------------------------------

    def label(self, name: str, token: Token, kind: str = "") -> str:
        """Remembers what kind of entity a name is, and gives the name back."""
        known = {"person": "PERSON", "place": "GPE", "org": "ORG", "school": "ORG"}
        person = token.lower_ in ("i", "we", "me", "you", "he", "she", "us") or name == self.names.speaker
        label = entity_label(token)
        if label == "THING":
            label = "PERSON" if person or token.lemma_.lower() in table.KIN else known.get(kind, "THING")
        if label != "THING" or token.pos_ in ("PROPN", "NOUN"):
            self.labels.setdefault(name, label)
        return name

    def subjects(self, clause: Clause) -> list[tuple[str, Token]]:
        """Who the clause is about, as far as that is certain."""
        found = [(self.names.person(t), t) for t in clause.subjects]
        return [(self.label(name, token), token) for name, token in found if name]

    def fact(
        self,
        clause: Clause,
        subject: str,
        relation: str,
        value: str,
        effect: Effect,
        *,
        said: str = "",
        dated: bool = True,
    ) -> Iterator[FactDraft]:
        """A fact of a declared relation with its time; nothing when the tense leaves open whether it holds."""
        declared = RELATIONS.get(relation)
        functional = relation in self.functional or (declared is not None and declared.functional)
        if clause.negated and not (effect == "state" and clause.tense == "present" and functional):
            return
        ends = effect == "end" or clause.ceased or clause.negated
        if effect == "end" and clause.ceased:
            return
        if functional and not ends and wording.beside(clause):
            # "Also works at" stands beside what is known: it must not retire it.
            declared, functional, relation = None, False, f"ALSO_{relation}"
        if clause.begun and effect == "state":
            effect = "change"
        when = self.ended(clause) if ends else self.valid(clause, effect) if dated else (self.at, None)
        if when is None:
            return
        if declared is None:
            words = relation.lower().replace("_", " ")
            text = f"{subject} {words} {said or value}" if not ends else f"{subject} no longer {words} {said or value}"
        else:
            # What has ended is told as what it was until then: that is true whenever it is read.
            told = declared.phrase if value and declared.ended and when[1] is not None else declared.ended
            pattern = (told if value else declared.bare) if ends else declared.phrase
            if not pattern:
                return  # an age or a price does not end without another one
            text = pattern.format(s=wording.opening(subject), o=said or value)
        yield FactDraft(
            subject=subject,
            relation=relation,
            object=value,
            text=wording.sentence(text + ("" if ends and declared is None else self.window(when, ends))),
            valid_at=when[0],
            invalid_at=when[1],
            ends=ends,
            functional=functional,
            reason=self.reason(clause),
        )

    def window(self, when: tuple[datetime | None, datetime | None], ends: bool) -> str:
        """What must be added to a sentence in the present that was not true when it was said."""
        if ends and when[1] is None:
            return ""
        if when[1] is not None:
            return f" (until {when[1]:%Y-%m-%d})"
        return f" (from {when[0]:%Y-%m-%d})" if when[0] and self.at and when[0] > self.at else ""

    def reason(self, clause: Clause) -> str:
        """The clause as it was written."""
        tokens = clause.tokens()
        first = min(tokens[0].i, *(s.left_edge.i for s in clause.subjects))
        return " ".join(self.doc[first : tokens[-1].i + 1].text.split())[:200]

    # --- time -------------------------------------------------------------------------------------------------------

    def spans(self, clause: Clause, prefer: Prefer | None = None) -> list[TimeSpan]:
        """The time expressions of a clause; of the whole sentence when it has no other clause."""
        if prefer is None:
            prefer = "past" if clause.tense in ("past", "perfect") else "nearest"
            prefer = "future" if clause.tense in ("future", "progressive") else prefer
        if prefer not in self._spans:
            self._spans[prefer] = find_times(self.doc.text, self.at, prefer=prefer)
        own = {t.i for t in clause.tokens()}
        found = []
        for span in self._spans[prefer]:
            inside = self.doc.char_span(span.offset, span.offset + len(span.text), alignment_mode="expand")
            if inside is not None and any(t.i in own for t in inside if t.dep_ not in ("punct", "prep")):
                found.append(span)
        return found

    def valid(self, clause: Clause, effect: Effect) -> tuple[datetime | None, datetime | None] | None:
        """`(valid_at, invalid_at)` of something that holds, None when the clause does not say that it does."""
        spans = self.spans(clause)
        point = next((s for s in spans if s.role == "at"), None)
        since = next((s for s in spans if s.role == "from"), None)
        until = next((s for s in spans if s.role == "until"), None)
        lasting = next((s for s in spans if s.role == "for"), None)
        end = until.end if until is not None else None
        start = since.start if since is not None else None
        if clause.tense == "future" or (clause.tense == "progressive" and effect == "change"):
            dated = point or since
            return None if dated is None else (dated.start, end)
        if effect == "change":
            if point is not None or since is not None:
                return (since or point).start, end  # type: ignore[union-attr]
            told_elsewhere = any(
                c.dep_ == "advcl" and any(m.lower_ in _CHILDHOOD for m in c.children) for c in clause.verb.children
            )
            vague = told_elsewhere or any(s.role == "until" for s in spans) or wording.vague_past(clause.tokens())
            return (None, end) if vague else (self.at, end)  # news: it holds by the time it is told
        if clause.tense == "past":
            if point is None and since is None and until is None:
                return None  # "I lived in Rome": whether it still holds is not said
            return start or (point.start if point else None), end or (point.end if point else None)
        if clause.tense == "perfect":
            if since is None and lasting is None:
                return None  # "I have lived in Rome" is about experience
            return start or (lasting.start if lasting else None), end
        if since is not None or lasting is not None:
            return start or (lasting.start if lasting else None), end
        return (
            point.start if point is not None and point.start and self.at and point.start > self.at else self.at
        ), end

    def ended(self, clause: Clause) -> tuple[datetime | None, datetime | None] | None:
        """`(valid_at, invalid_at)` of something that holds no longer."""
        spans = self.spans(clause)
        if clause.habit:
            until = next((s for s in spans if s.role in ("until", "at") and s.end), None)
            return None, until.end if until else None
        point = next((s for s in spans if s.role in ("at", "from") and s.start), None)
        until = next((s for s in spans if s.role == "until"), None)
        if clause.tense in ("future", "progressive"):
            return (None, point.start) if point else None
        return None, until.end if until else point.start if point else self.at

    # --- rules ------------------------------------------------------------------------------------------------------

    def clause(self, clause: Clause, read: set[int]) -> Iterator[FactDraft]:
        """The facts of one clause: the first rule that finds any; `read` are sentences that need no plain reading."""
        from memspan.longterm.scribe.slots import couple, slot_facts, status

        if any(t.text in "!?" for s in clause.subjects if s.i < clause.verb.i for t in self.doc[s.i : clause.verb.i]):
            return  # "Sure, Ann! Take …": a call and a command that the parse takes for one sentence
        subjects = self.subjects(clause)
        found = [f for subject, _ in subjects for f in self.declared(clause, subject)]
        found += self.dismissed(clause)
        found += self.home(clause)
        found += couple(self, clause, subjects)
        plainly = self._sentences[clause.verb.i] not in read
        if plainly:
            found += slot_facts(self, clause)
        found += status(self, clause)
        if not found and clause.verb.lemma_ in wording.WANTS:
            found = [f for subject, _ in subjects for f in self.wish(clause, subject)]
        if not found and clause.tense != "future" and plainly:
            found = [f for subject, token in subjects for f in self.plain(clause, subject, token)]
        yield from found

    def declared(self, clause: Clause, subject: str) -> Iterator[FactDraft]:
        """Relations of the table that a verb states."""
        lemma = clause.verb.lemma_.lower()
        seen: set[tuple[str, Effect]] = set()
        for trigger in table.TRIGGERS:
            if lemma not in trigger.lemmas or (trigger.passive and not clause.passive):
                continue
            if clause.passive and not trigger.passive and lemma not in ("marry", "engage", "divorce"):
                continue
            own = [o for o in clause.objects() if o.lemma_.lower() in trigger.noun]
            if (trigger.noun and not own) or (not trigger.noun and "" not in trigger.slot and clause.objects()):
                continue
            if (trigger.relation, trigger.effect) in seen:
                continue
            heads = self.slot(clause, trigger.slot)
            for head in heads:
                value = wording.fits(head, trigger.kind, self.names)
                if value is not None and value != subject:
                    seen.add((trigger.relation, trigger.effect))
                    said = self.names.thing(head, article=True) if trigger.kind == "role" else ""
                    self.label(value, head, trigger.kind) if value else None
                    yield from self.fact(clause, subject, trigger.relation, value, trigger.effect, said=said or "")
            if trigger.optional and not heads and (trigger.relation, "end") not in seen:
                particle = any(c.dep_ == "prt" for c in clause.verb.children)
                if lemma != "lay" or particle:
                    seen.add((trigger.relation, trigger.effect))
                    yield from self.fact(clause, subject, trigger.relation, "", trigger.effect)

    def home(self, clause: Clause) -> Iterator[FactDraft]:
        """ "My home is in Lisbon"."""
        if clause.verb.lower_ not in ("is", "'s", "’s"):
            return
        for noun in clause.subjects:
            owner = next((c for c in noun.children if c.dep_ == "poss"), None)
            name = self.names.person(owner) if owner is not None and noun.lemma_.lower() == "home" else None
            for head in clause.after("in") if name else []:
                value = wording.fits(head, "place", self.names)
                if name and value:
                    self.label(value, head, "place")
                    yield from self.fact(clause, self.label(name, noun, "person"), "LIVES_IN", value, "state")

    def dismissed(self, clause: Clause) -> Iterator[FactDraft]:
        """ "They laid me off": the end of a job told of the employer."""
        particle = any(c.dep_ == "prt" and c.lower_ == "off" for c in clause.verb.children)
        if clause.passive or not (clause.verb.lemma_ == "fire" or (clause.verb.lemma_ == "lay" and particle)):
            return
        for head in clause.objects():
            if head.lower_ in ("me", "him", "her") or head.ent_type_ == "PERSON":
                name = self.names.person(head)
                if name:
                    yield from self.fact(clause, self.label(name, head, "person"), "WORKS_AT", "", "end")

    def slot(self, clause: Clause, slots: Sequence[str]) -> list[Token]:
        """Heads that stand where a trigger wants its object."""
        heads: list[Token] = []
        for slot in slots:
            heads += clause.objects() if slot == "" else clause.complements() if slot == "=" else clause.after(slot)
        return heads

    def kinship(self) -> Iterator[FactDraft]:
        """ "My sister Clara": who a name belongs to, whatever the sentence goes on to say."""
        for noun, owner, name in self.names.kin:
            if not name or name == owner or any(c.lower_ in ("ex", "late", "former") for c in noun.children):
                continue
            relation = table.KIN[noun.lemma_.lower()][0]
            if "if" in {t.lower_ for t in noun.sent} or noun.sent.text.rstrip().endswith("?"):
                continue
            declared = RELATIONS.get(relation)
            self.labels.setdefault(name, "THING" if relation == "PET_OF" else "PERSON")
            self.labels.setdefault(owner, "PERSON")
            yield FactDraft(
                subject=name,
                relation=relation,
                object=owner,
                text=f"{name} is {owner}'s {noun.lemma_.lower()}.",
                valid_at=self.at,
                functional=declared is not None and declared.functional,
                reason=self.names.join(self.doc[noun.left_edge.i : noun.i + 1]) + f" {name}",
            )
            if relation == "PET_OF":
                yield FactDraft(
                    subject=owner,
                    relation=noun.lemma_.upper(),
                    object=name,
                    text=f"{owner}'s {noun.lemma_.lower()} is called {name}.",
                    valid_at=self.at,
                    reason=f"{noun.text} {name}",
                )

    def wish(self, clause: Clause, subject: str) -> Iterator[FactDraft]:
        """ "I want to visit Japan": a wish, never the thing wished for."""
        if clause.negated or clause.ceased or clause.tense not in ("present", "progressive"):
            return
        for child in clause.verb.children:
            if child.dep_ == "xcomp" and child.pos_ in ("VERB", "AUX"):
                tokens = [t for t in Clause(child, [], "present").tokens() if t.i > clause.verb.i]
                wanted = self.names.render(tokens[:14]) if tokens and tokens[0].lower_ == "to" else None
                if wanted and len(tokens) > 2 and not wording.leans(tokens):
                    relation, verb = wording.WANTS[clause.verb.lemma_]
                    yield FactDraft(
                        subject=subject,
                        relation=relation,
                        object=wanted.removeprefix("to "),
                        text=wording.sentence(f"{subject} {verb} {wanted}"),
                        valid_at=self.at,
                        reason=self.reason(clause),
                    )

    def activity(self, clause: Clause, subject: str) -> Iterator[FactDraft]:
        """ "I love hiking and swimming"."""
        verb = clause.verb
        if verb.lemma_ not in wording.TASTES or clause.tense != "present":
            return
        doing = [c for c in verb.children if c.dep_ == "xcomp" or (c.dep_ == "dobj" and c.tag_ == "VBG")]
        found = [t for c in doing if c.lower_.endswith("ing") for t in (c, *c.conjuncts)]
        for child in found:
            own = [
                t
                for t in Clause(child, [], "present").tokens()
                if t.dep_ != "aux" and not (t.dep_ == "cc" and t.head == child)
            ]
            cut = any(c.dep_ in ("ccomp", "xcomp") for c in child.children) or (
                len(own) == 1 and wording.is_weak(child)
            )
            value = None if cut or child.tag_ not in ("VBG", "NN") or wording.leans(own) else self.names.render(own[:8])
            if value:
                relation = wording.relation_name(clause, "")
                said = f"{subject} {wording.third_person(verb)}"
                for fact in self.fact(clause, subject, relation, value, "state", said=value):
                    yield fact if fact.ends else replace(fact, text=wording.sentence(f"{said} {value}"))

    def plain(self, clause: Clause, subject: str, token: Token) -> Iterator[FactDraft]:
        """Subject, verb and object as they stand; the verb is the relation."""
        verb = clause.verb
        if clause.negated or clause.passive or not wording.plain_verb(clause):
            return
        yield from self.activity(clause, subject)
        objects = [(o, "") for o in clause.objects()]
        if not objects:
            preps = [p for p in verb.children if p.dep_ == "prep" and p.i > verb.i and p.lower_ in wording.PREPOSITIONS]
            objects = [(o, p.lower_) for p in preps[:1] for o in p.children if o.dep_ == "pobj"]
            if not objects or verb.lemma_ in wording.TRANSITIVE_ONLY:
                return
        spans = self.spans(clause)
        timed = [(s.offset, s.offset + len(s.text)) for s in spans]
        for head, preposition in objects:
            if not wording.solid(head) or wording.pointed(head) or any(a <= head.idx < b for a, b in timed):
                continue
            value = self.names.thing(head)
            said = wording.retell(self.names, clause, subject, token, timed)
            if value is None or said is None or value.lower() in wording.EMPTY:
                continue
            relation = wording.relation_name(clause, preposition)
            article = self.names.thing(head, article=True) or value
            for fact in self.fact(clause, subject, relation, value, "change", said=article, dated=False):
                point = next((s for s in spans if s.start and s.role in ("at", "from")), None)
                self.label(value, head) if head.pos_ == "PROPN" else None
                if fact.ends:
                    yield fact
                    continue
                stays = clause.tense in ("present", "progressive")
                dated = point is not None and (not stays or clause.tense == "progressive")
                when = self.at if stays or wording.just(clause) else None
                if point is not None and dated:
                    when, said = point.start, f"{said} {point.phrase()}"
                text = wording.sentence(said)
                yield replace(fact, text=text, valid_at=when, invalid_at=None)
