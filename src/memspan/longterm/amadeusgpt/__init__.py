"""AmadeusGPT."""

from memspan.longterm.amadeusgpt.organizer import AmadeusGpt

__all__ = ["AmadeusGpt"]
