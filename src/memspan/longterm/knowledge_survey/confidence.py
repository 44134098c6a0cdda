"""What the confidence in an answer rests on: how the best sentence stands out, and what speaks against any answer.

A question whose answer was never told is mostly told apart by two things: that its words are not found together, and
that what it asks of one person was said by another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memspan.longterm.knowledge_survey.config import weighted
from memspan.longterm.knowledge_survey.features import LEANING, Sentence
from memspan.longterm.knowledge_survey.kinds import form_of
from memspan.longterm.knowledge_survey.scope import scope_of
from memspan.longterm.knowledge_survey.text import Question, stems

_PERSON = ("right", "wrong")  # the features that compare persons
_UNCHECKED = ("open", "which", "why")  # forms of answers that no rule can find in a sentence
_MOST_APART = 3.0  # nats
_NAMED = 0.7  # from which on a sentence is by the subject, or names them


def confidence_features(
    question: Question, sentences: Sequence[Sentence], selection: Mapping[str, float]
) -> dict[str, float]:
    """What the confidence in the best sentence is estimated from: its own features, and how it stands out.

    "share" is how much of all sentences' likelihood falls to its episode, "like_coverage" how much of the question is
    said there or in what it stands in, "said_share" the product of both: that one sentence is likelier than all others
    does not mean that it says what was asked. "lacking" is the mean absence of the question's content words, "empty"
    that none is there, "unsaid" how far they are absent where no question for the same is answered. "agreement" says
    how near its episode comes to the best of each signal: words, vectors, facts and retrieval. "of_another" is how much
    better something that another person said fits; see `_of_another`.

    In a chat with an assistant ("chat") long messages hold the words of any question for a detail, so that they tell
    little of whether the detail was told: "chat_open" marks questions for a fact of whose answer no form can be checked
    ("What did they say about it?"), see `scope`; "chat_right" and "chat_wrong" are "right" and "wrong" there.

    Args:
        question: as it was read.
        sentences: best first, with their scores.
        selection: the weights that the scores were made with.
    """
    if not sentences:
        return {}
    best = sentences[0]
    top = max(s.score for s in sentences)
    shares: dict[str, float] = {}
    for sentence in sentences:
        shares[sentence.episode] = shares.get(sentence.episode, 0.0) + float(np.exp(sentence.score - top))
    rival = next((s.score for s in sentences if s.episode != best.episode), best.score - 1)
    named = [stems(name) for name in question.names]
    plain = [term for term, weight in question.weights.items() if weight == 1 and not any(term in n for n in named)]
    lacking = [1 - best.found.get(term, 0.0) for term in plain]
    absent = sum(lacking) / len(lacking) if lacking else 0.0
    share = shares[best.episode] / sum(shares.values())
    said = sum(best.features[f"like_{name}"] for name in LEANING)
    return {
        **best.features,
        "share": share,
        "said_share": share * said,
        "like_coverage": said,
        "empty": float(bool(plain) and min(lacking) == 1),
        "lacking": absent,
        "unsaid": absent * (1 - best.features["same"]),
        "agreement": _agreement(best, sentences),
        "margin": min(2.0, best.score - rival),
        "of_another": _of_another(question, sentences, selection),
        "vectors": float("cosine" in best.features),
        **_in_chat(question, best),
    }


def _in_chat(question: Question, best: Sentence) -> dict[str, float]:
    if best.metadata.get("role") not in ("user", "assistant"):
        return {}
    bare = scope_of(question.text) == "fact" and form_of(question.text) in _UNCHECKED
    by = {f"chat_{name}": best.features[name] for name in _PERSON}
    return {"chat": 1.0, "chat_open": float(bare), **by}


def _agreement(best: Sentence, sentences: Sequence[Sentence]) -> float:
    """Mean, over the signals that say anything, of the best of its episode as a share of the best of all."""
    shares = []
    for names in (("like_own", "like_turn", "like_reply"), ("exchange",), ("match",), ("rank",)):
        values = [(s.episode == best.episode, sum(max(s.features.get(n, 0.0), 0.0) for n in names)) for s in sentences]
        most = max(value for _, value in values)
        if most > 0:
            shares.append(max(value for mine, value in values if mine) / most)
    return sum(shares) / len(shares) if shares else 0.0


def _of_another(question: Question, sentences: Sequence[Sentence], selection: Mapping[str, float]) -> float:
    """How much better the best of what others say of themselves fits than the best of, or about, the subject, in nats.

    Both are scored as if persons did not count. Positive where the thing asked for was said, but by somebody else; 0
    where the question is about no single speaker, or nobody else said anything.
    """
    if question.subject is None:
        return 0.0
    weights = {name: weight for name, weight in selection.items() if name in _PERSON}
    fit = [sentence.score - weighted(weights, sentence.features) for sentence in sentences]
    others = [value for value, s in zip(fit, sentences, strict=True) if s.features["wrong"] == 1]
    if not others:
        return 0.0
    own = [value for value, s in zip(fit, sentences, strict=True) if s.features["right"] >= _NAMED]
    return min(_MOST_APART, max(-_MOST_APART, max(others) - max(own, default=fit[-1])))
