"""Grounded answers: statements from an explicit, replaceable memory, each with where it comes from, or no answer.

The system built from "Augmenting LLMs with Knowledge: A survey on hallucination prevention" (Andriopoulos and
Pouwelse, 2023, arXiv 2309.16459). The survey describes language models with a retriever and an external memory and
trains nothing itself; what is here is the smallest system that covers its ways of access over one store:

- in context (`GroundedAnswerer`): retrieve, answer, check every citation, abstain without evidence;
- marginal (`marginal`): p(y|x) = sum over documents of p(z|x) p(y|x,z), differentiable in the query encoder
  (RAG-Sequence, Lewis et al. 2020; REALM, Guu et al. 2020);
- by nearest hidden states (`knn_lm`): kNN-LM (Khandelwal et al. 2020), provenance for every token;
- documents with versions (`documents`): what the memory said at a date stays addressable; from files, from facts of
  an organizer, or from the caller's search engine (`sources`); files and folders that are read again (`files`);
- a confidence that is measured: risk against coverage, and the threshold for either (`risk`).

Changed from the literature: citations are not trusted to the model but checked by an extractive judge, and the best
evidence sentence answers when there is no model, or when the model's text is not supported.
"""

from memspan.longterm.knowledge_survey.answer import Answer, Citation, Claim
from memspan.longterm.knowledge_survey.answerer import GroundedAnswerer, calibrate
from memspan.longterm.knowledge_survey.config import KnowledgeSurveyConfig
from memspan.longterm.knowledge_survey.judge import CallableJudge, ExtractiveJudge, Judge, NLIJudge, Support
from memspan.longterm.knowledge_survey.risk import RiskCoverage, risk_coverage

__all__ = [
    "Answer",
    "CallableJudge",
    "Citation",
    "Claim",
    "ExtractiveJudge",
    "GroundedAnswerer",
    "Judge",
    "KnowledgeSurveyConfig",
    "NLIJudge",
    "RiskCoverage",
    "Support",
    "calibrate",
    "risk_coverage",
]
