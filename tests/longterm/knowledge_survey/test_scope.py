"""Questions for a fact, for an overview, and for advice."""

from __future__ import annotations

import pytest

from memspan.longterm.knowledge_survey.scope import scope_of


@pytest.mark.parametrize(
    ("question", "scope"),
    [
        ("Where did Ann plant the pear tree?", "fact"),
        ("Can you tell me where Ann planted the pear tree?", "fact"),
        ("Please remind me what the dentist said.", "fact"),
        ("What did Ann recommend against slugs?", "fact"),
        ("What is on Ann's shopping list?", "fact"),
        ("What time should I leave for the ferry?", "fact"),
        ("Please summarise what I told you about the garden.", "overview"),
        ("List the tools that I own.", "overview"),
        ("How many plants did I name across all our conversations?", "overview"),
        ("How has my plan for the greenhouse changed since March?", "overview"),
        ("Could you suggest a hedge that needs no cutting?", "request"),
        ("How should I prune the vine?", "request"),
        ("I want to sell the mower. Help me write the notice.", "request"),
        ("", "fact"),
    ],
)
def test_scope(question: str, scope: str) -> None:
    assert scope_of(question) == scope
