"""What the benchmarks share: aligned tables, the line that names the machine, and byte counts of files."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned table: the first column to the left, all others to the right."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(lines[0]), rule, *(line(row) for row in lines[1:])])


def say(text: str = "") -> None:
    """Tell the person at the terminal how far the run is; results go to standard output, this does not."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Date, processor, memory and interpreter of this run."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    flags = info.read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    return {
        "date": date.today().isoformat(),
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cpu_features": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "cores": os.cpu_count(),
        "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_1min": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def machine_line(facts: dict[str, Any] | None = None) -> str:
    """The same in one line of words."""
    at = facts or machine()
    features = ", ".join(at["cpu_features"])
    return (
        f"{at['date']}; {at['cpu']} ({features}), {at['cores']} cores, {at['ram_bytes'] / 2**30:.0f} GiB RAM, "
        f"load {at['load_1min']}; Python {at['python']}, {at['system']}"
    )


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of these distributions; those that are absent are left out."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def disk_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size(nbytes: float) -> str:
    """Bytes for people: "512 B", "3.4 kB", "12.0 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 1000 or unit == "GB":
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    raise AssertionError


def positive(text: str) -> int:
    """A count on the command line; "10k" is 10,000."""
    value = int(float(text.lower().removesuffix("k")) * (1000 if text.lower().endswith("k") else 1))
    if value < 1:
        raise ValueError(text)
    return value
