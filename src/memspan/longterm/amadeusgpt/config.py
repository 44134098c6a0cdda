"""The constants of `amadeusgpt`."""

from __future__ import annotations

from dataclasses import dataclass

from memspan.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AmadeusGptConfig:
    """AmadeusGPT's constants; sources in brackets."""

    modules: int = 3  # programs and modules that a prompt loads (repository: the top 3)
    # Likeness of a request to a docstring that is loaded. The repository has 0.3 (0.7 in 2023) for OpenAI's embedders;
    # with the bundled one, talk about other things reaches 0.13 (ours).
    least_cosine: float = 0.15
    definition_bonus: float = 10.0  # standard deviations for episodes that define what the question names (ours)
    debug_tries: int = 2  # times a failed program is given back to the model with its error (repository)

    def __post_init__(self) -> None:
        if self.modules < 1 or self.debug_tries < 0:
            raise InputError("modules must be at least 1, debug_tries at least 0")
        if not -1 <= self.least_cosine <= 1 or self.definition_bonus < 0:
            raise InputError("least_cosine must lie between -1 and 1, definition_bonus must not be negative")
