"""Write the generated parts of the documentation: the README's table of systems and one page for each working system.

    python docs/generate.py            # writes
    python docs/generate.py --check    # writes nothing, exits with 1 when something is stale

Sources: the catalogue, the systems' own docstrings and options, and the results of the last full run of the claims in
`claims/results/`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from pathlib import Path

from memspan.core.catalog import SystemInfo, load, options, systems
from memspan.core.claims import Result, load_results
from memspan.core.errors import InputError, MemspanError
from memspan.core.evidence import number

BEGIN, END = "<!-- systems:begin -->", "<!-- systems:end -->"
MARK = "<!-- Written by docs/generate.py; edit the system's file or the catalogue instead. -->"


def generated(root: Path) -> dict[Path, str | None]:
    """Every generated file with the text it should have; None for a page that should be gone."""
    results = {result.slug: result for result in load_results(root / "claims" / "results")}
    rows = [info for info in systems() if info.origin == "memspan"]
    readme = root / "README.md"
    wanted: dict[Path, str | None] = {readme: _between(readme, _table(rows, results))}
    pages = root / "docs" / "systems"
    for path in sorted(pages.glob("*.md")):
        if path.read_text(encoding="utf-8").startswith(MARK):
            wanted[path] = None
    for info in rows:
        if info.status == "working":
            wanted[pages / f"{info.slug}.md"] = _page(info, results.get(info.slug))
    return wanted


def _between(path: Path, text: str) -> str:
    """The file with the lines between the two markers replaced."""
    old = path.read_text(encoding="utf-8")
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise InputError(f"{path} needs the line {BEGIN} and, below it, the line {END}, once each")
    return f"{old[: old.index(BEGIN)]}{BEGIN}\n{text}\n{old[old.index(END) :]}"


def _table(rows: list[SystemInfo], results: dict[str, Result]) -> str:
    lines = ["| system | folder | what it does | status | its claim, measured here |", "|---|---|---|---|---|"]
    for info in rows:
        name = f"[{info.slug}](docs/systems/{info.slug}.md)" if info.status == "working" else info.slug
        cells = [name, info.folder, _cell(info.summary), info.status, _verdict(results.get(info.slug))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdict(result: Result | None) -> str:
    """The verdict with the number of the part that speaks for it, "" when the claim has not been run."""
    if result is None:
        return ""
    if result.verdict is None:
        return f"**{result.state}**"
    judged = next((part for part in result.parts if part.verdict == result.verdict), result.parts[0])
    text = f"**{result.verdict}**"
    if judged.part.value is not None:
        text += f": {number(judged.part.value)} {judged.part.metric} ({judged.part.threshold})"
    if len(result.parts) > 1:
        text += f"; {sum(part.verdict == 'holds' for part in result.parts)} of {len(result.parts)} parts hold"
    return _cell(text + ("; smoke run" if result.size == "smoke" else ""))


def _page(info: SystemInfo, result: Result | None) -> str:
    """A working system's page. The verdict stands first, whatever it is."""
    module = importlib.import_module(info.entry.partition(":")[0])
    load(info.slug)
    out = [MARK, "", f"# {info.slug}", "", f"*{info.title}* ([{info.source}]({info.url}))", ""]
    out += [f"Claim, measured here: {_verdict(result) or 'not run yet'}.", "", info.summary, ""]
    out += ["## What the paper claims", "", info.claim, ""]
    if result is not None:
        out += ["## What holds here", "", *_parts(result), ""]
    out += ["## The system", "", f"Interface: `{info.interface}`. Class: `{info.entry.replace(':', '.')}`.", ""]
    out += [inspect.cleandoc(module.__doc__ or ""), ""]
    settings = options(info.slug)
    if settings:
        out += ["## Options", "", "| name | type | default | meaning |", "|---|---|---|---|"]
        for option in settings:
            default = f"`{_cell(option.default)}`" if option.default else "required"
            out.append(f"| `{option.name}` | `{_cell(option.type)}` | {default} | {_cell(option.comment)} |")
        out.append("")
    return "\n".join(out).rstrip() + "\n"


def _parts(result: Result) -> list[str]:
    """The table of parts, then where and how long it ran."""
    lines = ["| statement | measured | value | baseline | threshold | verdict |", "|---|---|---|---|---|---|"]
    for judged in result.parts:
        part = judged.part
        baseline = f"{number(part.baseline)} ({part.baseline_name})" if part.baseline_name else "–"
        threshold = str(part.threshold or "–")
        cells = (part.name, part.metric, number(part.value), baseline, threshold, f"**{judged.verdict}**")
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    lines += ["", *(f"- {judged.part.name}: {judged.reason}." for judged in result.parts)]
    machine = result.machine
    lines += [
        "",
        f"{result.size.capitalize()} run of {result.date[:10]} with seeds {', '.join(map(str, result.seeds))} in "
        f"{number(round(result.seconds, 1))} s on {machine['cores']} cores of {machine['cpu']}; "
        f"again with `memspan claims {result.slug} --size {result.size}`.",
    ]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(arguments: list[str] | None = None) -> int:
    """Write or check; the exit code is 1 when `--check` finds something stale."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when something is stale")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the repository")
    given = parser.parse_args(arguments)
    try:
        wanted = generated(given.root)
    except (MemspanError, OSError) as error:
        print(f"docs/generate.py: {error}", file=sys.stderr)
        return 2
    stale = [path for path, text in wanted.items() if (path.read_text("utf-8") if path.exists() else None) != text]
    for path in stale:
        text = wanted[path]
        print(f"{'stale' if given.check else 'removed' if text is None else 'written'}: {path.relative_to(given.root)}")
        if given.check:
            continue
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and given.check:
        print("run: python docs/generate.py", file=sys.stderr)
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
