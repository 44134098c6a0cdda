"""Print the working systems whose smoke claims are to run: those that changed last, and a share of the rest, by day."""

import subprocess
from datetime import UTC, datetime

from memspan.core.catalog import systems

SHARE = 6
MOST = 8  # a minute each at most, two at a time


def changed_files() -> str:
    """Names of the sources and experiments in the last commits, as far back as the clone goes."""
    log = ["git", "log", "--name-only", "--format=", "--max-count=30", "--", "src", "claims/*.py"]
    return subprocess.run(log, capture_output=True, text=True, check=False).stdout


def main() -> None:
    """One line of slugs: at least two of those that did not change."""
    files = changed_files().splitlines()
    today = datetime.now(UTC).toordinal()
    last: dict[str, int] = {}  # how long ago, in files
    turn = []
    for number, info in enumerate(systems(status="working")):
        module = info.slug.replace("-", "_")
        changed = next((place for place, file in enumerate(files) if f"/{module}" in file), None)
        if changed is not None:
            last[info.slug] = changed
        elif number % SHARE == today % SHARE:
            turn.append(info.slug)
    latest = sorted(last, key=last.__getitem__)[: MOST - min(2, len(turn))]
    print(" ".join([*latest, *turn[: MOST - len(latest)]]))


if __name__ == "__main__":
    main()
