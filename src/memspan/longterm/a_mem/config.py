"""A-MEM's constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from memspan.core.errors import InputError

Evolution = Literal["auto", "off", "strengthen", "full"]


@dataclass(frozen=True, kw_only=True)
class AMemConfig:
    """A-MEM's constants; sources in brackets."""

    k_link: int = 5  # k, nearest notes that are looked at for links and evolution (the paper's code)
    most_links: int = 8  # links of a note that recall walks, the strongest first (ours)
    link_quantile: float = 0.95  # tau: a link is as like as this share of random pairs is not (ours)
    calibrate_from: int = 16  # notes from which tau is read off random pairs (ours)
    least_likeness: float = 0.45  # tau while there are fewer notes (ours)
    least_overlap: float = 0.1  # the same without vectors, as cosine of weighted terms (ours)
    keywords: int = 6  # K, keywords of a note by rules; the paper asks a model for at least 3 (ours)
    tags: int = 3  # G, tags of a note by rules (the paper's least number)
    context_turns: int = 2  # turns before a note from which its context sentence X is taken (ours)
    # Off with rules, full with a model; "strengthen" gives linked notes the shared keywords as tags (ours)
    evolution: Evolution = "auto"
    expand_from: int = 5  # best direct hits whose links recall walks; 0 walks none (ours)
    link_weight: float = 0.5  # what a link of likeness 1 adds to a linked note, in standard deviations (ours)
    link_gate: float = 1.0  # a linked note's own score must reach this, in standard deviations (ours)
    note_weight: float = 0.2  # what a note's score adds to its episode, per standard deviation (ours, set on LoCoMo)
    attempts: int = 3  # how often a model is asked before the rules decide (ours)

    def __post_init__(self) -> None:
        for name in ("k_link", "most_links", "keywords", "tags", "attempts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("context_turns", "expand_from", "link_weight", "note_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, but it is {getattr(self, name)}")
        if not 0 < self.link_quantile < 1:
            raise InputError(f"link_quantile must lie between 0 and 1, not be {self.link_quantile}")
        if self.calibrate_from < 4:
            raise InputError(f"calibrate_from must be at least 4, not {self.calibrate_from}")
        if self.evolution not in get_args(Evolution):
            raise InputError(f"evolution must be one of {', '.join(get_args(Evolution))}, not {self.evolution!r}")
