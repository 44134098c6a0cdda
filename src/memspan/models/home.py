"""Where memspan keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """memspan's folder in the user's cache: under XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memspan"
