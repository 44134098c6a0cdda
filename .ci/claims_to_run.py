"""Print the working systems whose smoke claims are to run: those that changed, and a sixth of the rest, day by day."""

import subprocess
from datetime import UTC, datetime

from memspan.core.catalog import systems

SHARE = 6


def changed_files() -> str:
    """Names of the sources and experiments in the last commits, as far back as the clone goes."""
    log = ["git", "log", "--name-only", "--format=", "--max-count=30", "--", "src", "claims/*.py"]
    return subprocess.run(log, capture_output=True, text=True, check=False).stdout


def main() -> None:
    """One line of slugs."""
    files = changed_files()
    today = datetime.now(UTC).toordinal()
    chosen = []
    for number, info in enumerate(systems(status="working")):
        module = info.slug.replace("-", "_")
        if f"/{module}" in files or number % SHARE == today % SHARE:
            chosen.append(info.slug)
    print(" ".join(chosen))


if __name__ == "__main__":
    main()
