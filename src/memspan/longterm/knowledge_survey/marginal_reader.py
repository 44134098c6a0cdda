"""Marginal access when answering: each passage proposes an answer, and the likeliest over all passages is given.

RAG-Sequence with thorough decoding (Lewis et al. 2020, section 2.5): every hypothesis y is scored under every passage,
p(y|x) = sum_z p(z|x) p(y|x,z). The retriever's p(z|x) is the softmax of the fitted scores of the passages' best
sentences, which are log-odds. What is chosen goes through the same attribution pass as any other answer of a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memspan.longterm.knowledge_survey.config import KnowledgeSurveyConfig
from memspan.longterm.knowledge_survey.evidence import Evidence
from memspan.longterm.knowledge_survey.judge import Judge
from memspan.longterm.knowledge_survey.marginal import answer_log_likelihoods, marginal_answer
from memspan.longterm.knowledge_survey.reader import Reading, attributed, context_footprint, passages, prompt_of

if TYPE_CHECKING:
    from memspan.models.base import LanguageModel


def read_marginal(model: LanguageModel, evidence: Evidence, config: KnowledgeSurveyConfig, judge: Judge) -> Reading:
    """Let the model answer from each passage alone, and keep what the passages support of the likeliest answer.

    Raises:
        UnsupportedModelError: the model gives no log-probabilities.
    """
    shown = passages(evidence, model, config)[: config.hypotheses]
    if not shown:
        return Reading()
    written = [
        model.generate(prompt_of(evidence.question, [passage]), max_new_tokens=config.max_new_tokens)
        for passage in shown
    ]
    read = {one.text: attributed(one.text, evidence, shown, config, judge) for one in written}
    held = [text for text, reading in read.items() if reading.claims]
    context = context_footprint(model, written)
    if not held:
        return Reading(context=context)
    scores = np.array([passage.sentences[0].score for passage in shown])
    log_p_z = (scores - np.logaddexp.reduce(scores)).tolist()
    lines = [passage.line for passage in shown]
    question = evidence.question.text
    log_p_y = answer_log_likelihoods(model, [question] * len(held), held, [lines] * len(held))
    best = read[held[marginal_answer(log_p_z, log_p_y.tolist())]]
    best.context = context
    return best
