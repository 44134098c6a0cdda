"""`GroundedAnswerer`: answers from memory with citations that were checked, or declines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from memspan.core.errors import InputError
from memspan.core.footprint import Footprint
from memspan.longterm.knowledge_survey.answer import Answer, Claim
from memspan.longterm.knowledge_survey.config import KnowledgeSurveyConfig, Mode, Policy
from memspan.longterm.knowledge_survey.evidence import Evidence, fact_match, gather
from memspan.longterm.knowledge_survey.features import Sentence
from memspan.longterm.knowledge_survey.judge import ExtractiveJudge, Judge
from memspan.longterm.knowledge_survey.kinds import form_of, holds_form
from memspan.longterm.knowledge_survey.text import stems
from memspan.longterm.knowledge_survey.wording import beside, cited, evidence_text

if TYPE_CHECKING:
    from memspan.longterm.base import Recollection
    from memspan.longterm.memory import Memory
    from memspan.models.base import LanguageModel

EVIDENCE_SENTENCE = "evidence sentence"
STATED_FACT = "stated fact"
_AGREE = 3  # a fact answers only when a sentence of its source is among this many best


class GroundedAnswerer:
    """Answers questions from a memory.

    Args:
        memory: the store.
        model: a language model, a spec for `memspan.models.load_language_model`, or None: then the best evidence
            sentence is the answer.
        k: passages to retrieve.
        abstain_below: confidence under which no answer is given; None is the measured default, see `calibrate`.
        token_budget: most tokens of passages in the prompt; None is 1,500, or half the model's window if that is less.
        mode: "context": the model reads all passages in one prompt; "marginal": each passage proposes an answer, and
            the likeliest over all passages is given (RAG-Sequence; needs a model that tells likelihoods).
        policy: "drop" the model's unsupported statements, or "flag" them.
        max_new_tokens: most tokens the model may write.
        judge: says what supports what; None is the `ExtractiveJudge`.
        config: all constants; the arguments above replace its own.

    Raises:
        InputError: an option that cannot be.
        ModelError: the model cannot be loaded.

    Example:
        >>> from memspan.longterm.base import Episode
        >>> from memspan.longterm.memory import Memory
        >>> with Memory.open(":memory:", embedder=None) as memory:
        ...     _ = memory.add([Episode(text="I moved to Lisbon.", speaker="Ann", id="a1")])
        ...     answer = GroundedAnswerer(memory).ask("Where did Ann move?")
        >>> answer.text
        'Ann: “I moved to Lisbon.” [1]'
    """

    Config = KnowledgeSurveyConfig
    OPTIONS = frozenset(("k", "abstain_below", "token_budget", "mode", "policy", "max_new_tokens", "judge", "config"))

    def __init__(
        self,
        memory: Memory,
        model: LanguageModel | str | None = None,
        *,
        k: int | None = None,
        abstain_below: float | None = None,
        token_budget: int | None = None,
        mode: Mode | None = None,
        policy: Policy | None = None,
        max_new_tokens: int | None = None,
        judge: Judge | None = None,
        config: KnowledgeSurveyConfig | None = None,
    ) -> None:
        from dataclasses import replace

        given = {
            "k": k,
            "abstain_below": abstain_below,
            "token_budget": token_budget,
            "mode": mode,
            "policy": policy,
            "max_new_tokens": max_new_tokens,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.memory = memory
        self.config = replace(config or KnowledgeSurveyConfig(), **changes)
        self.judge = judge
        if isinstance(model, str):
            from memspan.models import load_language_model

            model = load_language_model(model)
        if model is None and mode == "marginal":
            raise InputError("marginal mode needs a language model")
        self.model = model

    def ask(self, question: str, **recall_options: Any) -> Answer:
        """Answer a question, or decline.

        Args:
            question: the question.
            recall_options: of `Memory.recall`: session, speaker, as_of, believed_at, after, before, deadline_ms,
                space, kinds, metadata, rerank.

        Raises:
            InputError: an empty question, or an option that cannot be.
        """
        evidence = self._gather(question, recall_options)
        if not evidence.sentences:
            return self._declined(evidence, "I do not know: nothing in memory bears on this.")
        if (stated := stated_fact(evidence, self.config.fact_match)) is not None:
            answer = self._fact(evidence, *stated)
            if answer.confidence >= self.config.abstain_below:
                return answer
        if evidence.confidence < self.config.abstain_below:
            return self._declined(evidence, "I do not know: what is in memory is too weak to answer this.")
        if self.model is not None:
            from memspan.longterm.knowledge_survey.marginal_reader import read_marginal
            from memspan.longterm.knowledge_survey.reader import read

            judge = self.judge or ExtractiveJudge(lambda term: evidence.idf.get(term, 1.0))
            way = read_marginal if self.config.mode == "marginal" else read
            reading = way(self.model, evidence, self.config, judge)
            if reading.claims:
                return Answer(
                    text=reading.text,
                    citations=reading.citations,
                    confidence=evidence.confidence,
                    reader=self.model.name,
                    claims=reading.claims,
                    recollections=evidence.hits,
                    conflicts=evidence.conflicts,
                    ledger=self._ledger(reading.context),
                )
            return self._sentence(evidence, reading.context)
        return self._sentence(evidence)

    def confidence(self, question: str, **recall_options: Any) -> float:
        """The estimated probability that the best evidence answers the question, 0 to 1."""
        return self._gather(question, recall_options).confidence

    def _gather(self, question: str, options: dict[str, Any]) -> Evidence:
        try:
            return gather(self.memory, question, self.config, options)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            unknown = str(error).rsplit("'", 2)[-2]
            raise InputError(f"ask has no option {unknown!r}; see Memory.recall and GroundedAnswerer") from None

    def _fact(self, evidence: Evidence, fact: Recollection, source: Sentence) -> Answer:
        """The fact and the words that it was read from, which may say more than it."""
        return Answer(
            text=f"{fact.text} {evidence_text(evidence.question, source)} [1]",
            citations=[cited(1, source, 1.0)],
            confidence=max(evidence.confidence, fact_match(fact)),
            reader=STATED_FACT,
            claims=[Claim(text=fact.text, support=1.0, citations=(1,))],
            recollections=[fact, *evidence.hits],
            conflicts=evidence.conflicts,
            ledger=self._ledger(None),
        )

    def _sentence(self, evidence: Evidence, context: Footprint | None = None) -> Answer:
        quoted = [evidence.sentences[0], *beside(evidence.sentences, self.config.together)]
        texts = [evidence_text(evidence.question, sentence) for sentence in quoted]
        return Answer(
            text=" ".join(f"{text} [{number}]" for number, text in enumerate(texts, 1)),
            citations=[cited(number, sentence, 1.0) for number, sentence in enumerate(quoted, 1)],
            confidence=evidence.confidence,
            reader=EVIDENCE_SENTENCE,
            claims=[Claim(text=text, support=1.0, citations=(number,)) for number, text in enumerate(texts, 1)],
            recollections=evidence.hits,
            conflicts=evidence.conflicts,
            ledger=self._ledger(context),
        )

    def _declined(self, evidence: Evidence, text: str) -> Answer:
        return Answer(
            text=text,
            abstained=True,
            confidence=evidence.confidence,
            reader=EVIDENCE_SENTENCE,
            recollections=evidence.hits,
            ledger=self._ledger(None),
        )

    def _ledger(self, context: Footprint | None) -> Footprint:
        total = self.memory.footprint()
        if self.model is not None:
            total += self.model.footprint()
        return total if context is None else total + context


def stated_fact(evidence: Evidence, least: float) -> tuple[Recollection, Sentence] | None:
    """The best fact that holds and says what was asked, with the sentence that states it.

    Its match must be at least `least`; where an organizer tells none, its subject and its relation must both be named
    in the question ("Where does *Ann* *live*": LIVES_IN). Questions for a time are left to the sentences, which carry
    their dates.
    """
    question = evidence.question
    if question.kind == "when":
        return None
    asked, form = stems(question.text), form_of(question.text)
    for fact in evidence.facts:
        if "match" in fact.metadata:
            if fact_match(fact) < least:
                continue
        else:
            subject, relation = (str(fact.metadata.get(key, "")) for key in ("subject", "relation"))
            named = stems(subject)
            if not named or not named <= asked or not (stems(relation.replace("_", " ")) - named) & asked:
                continue
        if (
            form not in ("open", "yes or no", "which", "why")
            and holds_form(form, question, fact.text, question.subject) < 0.4
        ):
            continue
        # What the words of the conversation do not support at all, the fact was read into.
        source = next((s for s in evidence.sentences[:_AGREE] if s.episode in fact.episodes[:1]), None)
        if source is not None:
            return fact, source
    return None


def calibrate(
    memory: Memory,
    answered: Sequence[str],
    unanswerable: Sequence[str],
    target_error: float = 0.2,
    *,
    answerer: Callable[[str], float] | None = None,
) -> float:
    """The least threshold at which at most `target_error` of the unanswerable questions would be answered.

    Args:
        memory: the store that the questions are about.
        answered: questions that it can answer; unanswerable: questions that it cannot.
        target_error: share of the unanswerable ones that may still be answered, 0 to 1.
        answerer: question -> confidence; None is `GroundedAnswerer(memory).confidence`.

    Returns:
        A value for `abstain_below`: of all that keep the target, the one that answers the most; a value above 1 is
        never returned, so a target that cannot be kept gives 1.

    Raises:
        InputError: a list is empty, or the target is no share.
    """
    if not answered or not unanswerable:
        raise InputError("calibrate needs questions of both kinds: answered and unanswerable")
    if not 0 <= target_error < 1:
        raise InputError(f"target_error must lie between 0 and 1, not {target_error!r}")
    confidence = answerer or GroundedAnswerer(memory).confidence
    known = sorted(confidence(question) for question in answered)
    wrong = sorted((confidence(question) for question in unanswerable), reverse=True)
    allowed = int(target_error * len(wrong))
    bar = wrong[allowed]  # this one and all below it must be declined
    above = next((value for value in known if value > bar), 1.0)
    return min(1.0, (bar + above) / 2)
